"""Settings files of versions without a schema number, as those of today."""

from __future__ import annotations

from typing import Any

PLAN = (
    "steps", "latent_stage", "image_stage", "spacing", "renoise", "latent_mask", "grow", "blend_background",
    "paste_source", "final_blend",
)  # fmt: skip
LOOK = ("start", "area_start", "strengths", "tones", "detail", "fidelity")
UNKNOWN = frozenset({"preset.name"})
"""Settings that an old file may not tell, by dotted names: they decide no pixel."""
LATER_LIMITS = {
    "min_changed": 0.0, "min_on_object": 0.0, "min_filled": 0.0, "max_fainter": None, "max_softer": None,
    "max_strange": None,
}  # fmt: skip
"""Limits that were added later, with what a file that lacks them stands for."""
LATER = {"split": "test", **{f"limits.{name}": value for name, value in LATER_LIMITS.items()}}
"""Settings that were added later, by dotted names, with what a file that lacks them stands for."""
RENAMED_FITS = {"paper": "published"}


def upgrade_settings(command: str, values: dict[str, Any]) -> dict[str, Any]:
    """The settings of an old folder by the names of today.

    Args:
        command: that the folder is claimed for; old files do not name their own.
        values: of the old file.
    """
    upgraded = {"generate": _generate, "fit": _fit}.get(command, dict)(values)
    return {"schema": 0, "command": command, **upgraded}


def _generate(old: dict[str, Any]) -> dict[str, Any]:
    if "latent_stage" not in old or not isinstance(old.get("prompts"), dict) or not isinstance(old.get("preset"), str):
        return dict(old)
    moved = {*PLAN, *LOOK, "guided", "guidance", "control_once", "guide_trimap", "match_exposure", "feather", "finest"}
    kept = {key: value for key, value in old.items() if key not in {*moved, "preset", "adapt", "finetuning"}}
    return {
        **kept,
        "types": list(old["prompts"]),
        "preset": {
            # A name with changes in it, such as "fast,grow=2", is written in another way now.
            **({} if "," in old["preset"] else {"name": old["preset"]}),
            "plan": {key: old[key] for key in PLAN if key in old},
            "guidance": {
                "scale": old.get("guidance"),
                "steps": old.get("guided"),
                "control_once": old.get("control_once", False),
                "trimap": old.get("guide_trimap", False),
            },
            "look": {key: old[key] for key in LOOK if key in old} if old.get("start") else None,
            "put_back": {key: old[key] for key in ("match_exposure", "feather", "finest") if key in old},
            "adaptation": _adaptation(old),
        },
    }


def _adaptation(old: dict[str, Any]) -> dict[str, Any]:
    more: dict[str, Any] = {
        "finetune": old.get("finetuning", {}),
        "poisson": {"grow": 2, "reach": 1.5},
        "ridge": {"inside": 1.0, "damping": 1e-3},
    }
    method = str(old.get("adapt"))
    return {"method": method, **more.get(method, {})}


def _fit(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "name": RENAMED_FITS.get(str(old.get("name")), old.get("name"))}
