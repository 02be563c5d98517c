"""The three presets (DESIGN section 1): what the paper says, what its released code does, and ours."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from adabldm.errors import InputError

RANGE = re.compile(r"^(-?[^-]+)-(-?[^-]+)$")
"""FIRST-END in a preset's changes; either may be negative."""
ADAPTATIONS = ("residual", "texture", "poisson", "finetune", "ridge", "none")


@dataclass(frozen=True)
class Finetuning:
    """Fine-tuning of a copy of the decoder on one image (AdaBLDM, online decoder adaptation).

    The loss is `outside` · L_i + `inside` · L_d, both squared errors, summed or averaged over all pixels.
    """

    steps: int = 200
    learning_rate: float = 1e-4
    outside: float = 1.0
    inside: float = 100.0
    reduction: Literal["sum", "mean"] = "sum"


@dataclass(frozen=True)
class Preset:
    """How one image is edited. Step ranges are 0-based and half-open: (first, end).

    Attributes:
        name: of the preset.
        steps: denoising steps in all.
        guided: steps with guidance; the others run the prompted half alone (arXiv 2404.07724). `None` = all.
        latent_stage: steps before which latents are blended with the background's.
        image_stage: steps after which the decoded picture is pasted onto the source and encoded again.
        renoise: noise level after pasting: that of the "next" timestep, or of the "same" one again.
        guidance: w in ε_u + w(ε_c − ε_u).
        adapt: how the decoder is adapted.
        spacing: of the timesteps: "trailing" begins at pure noise, "leading" is what Stable Diffusion's samplers do.
        latent_mask: "pooled" (dilated by `grow` latent pixels, then max-pooled) or "nearest" (nearest neighbour,
            then 5×5 dilation).
        grow: latent pixels by which a pooled mask grows.
        blend_background: the background of the latent stage is "noised" to t, or "clean" (the paper's box, literally).
        paste_source: the image stage decodes the "predicted" clean latents ẑ_0, or the "noisy" z_t (literally).
        final_blend: blend once more with the clean background after the last step.
        control_once: run the control branch once for both guidance halves, which read the same inputs.
        guide_trimap: the unguided half reads the trimap without its defect: guidance strengthens the defect itself.
        match_exposure: edit the window at the exposure of the real defect whose mask is used (`EditJob.exposure`).
        start: first step where the real defect is at hand (`EditJob.reference`): the steps before are replaced by
            noising the picture with that defect in it (SDEdit, arXiv 2108.01073); 0 begins from pure noise.
        area_start: the same for a defect that is an area (`reference.AREA`), if it is later than `start`: at the
            model's resolution a large window has no room for an area's fine texture, which fewer steps leave alone.
        strengths: a real defect to begin from is made so much stronger or fainter, by a factor drawn from this range,
            evenly by its logarithm: the few examples of a type show a few contrasts only.
        tones: the mean brightness of a broad one against its surroundings is multiplied by a factor drawn evenly from
            this range, its texture stays (`reference.compose`): the few examples show it in one light only.
        detail: share of the fine detail that the autoencoder loses of a real defect to begin from that is given back.
        fidelity: less detail is given back where the defect fidelity would fall below this, in dB; 0 = no limit.
        feather: in the end the change fades out across the mask's border: how far in and out, in px of the model's
            resolution (`putback.feather`); (0, 0) leaves the window as it was decoded.
        finest: thin defects in large windows are edited at twice the model's resolution, again and again until it
            would be more than this, in px; 0 keeps the model's resolution, as does a real defect to begin from.
        batch_size: images edited at once.
        finetuning: of the adaptation `finetune`.
    """

    name: str
    steps: int
    latent_stage: tuple[int, int]
    image_stage: tuple[int, int]
    guided: tuple[int, int] | None = None
    renoise: Literal["next", "same"] = "next"
    guidance: float = 9.0
    adapt: str = "finetune"
    spacing: Literal["trailing", "leading"] = "trailing"
    latent_mask: Literal["pooled", "nearest"] = "pooled"
    grow: int = 1
    blend_background: Literal["noised", "clean"] = "noised"
    paste_source: Literal["predicted", "noisy"] = "predicted"
    final_blend: bool = False
    control_once: bool = False
    guide_trimap: bool = False
    match_exposure: bool = False
    start: int = 0
    area_start: int = 0
    strengths: tuple[float, float] = (1.0, 1.0)
    tones: tuple[float, float] = (1.0, 1.0)
    detail: float = 1.0
    fidelity: float = 0.0
    feather: tuple[float, float] = (0.0, 0.0)
    finest: int = 0
    batch_size: int = 1
    finetuning: Finetuning = field(default_factory=Finetuning)


PRESETS = {
    "fast": Preset(
        "fast",
        steps=6,
        latent_stage=(1, 6),
        image_stage=(4, 5),
        guided=(1, 3),
        guidance=2.5,
        adapt="poisson",
        final_blend=True,
        guide_trimap=True,
        match_exposure=True,
        start=3,
        area_start=5,
        strengths=(0.5, 1.8),
        tones=(-1.0, 1.0),
        detail=0.8,
        fidelity=26.0,
        feather=(4.0, 3.0),
        finest=256,
        batch_size=8,
    ),
    "paper": Preset("paper", steps=85, latent_stage=(50, 80), image_stage=(80, 85)),
    "released": Preset(
        "released",
        steps=50,
        latent_stage=(26, 46),
        image_stage=(45, 50),
        renoise="same",
        spacing="leading",
        latent_mask="nearest",
        finetuning=Finetuning(outside=100.0, inside=1.0, reduction="mean"),
    ),
}


def get_preset(preset: str | Preset, **changes: Any) -> Preset:
    """A preset, by name or the user's own, with some of its values changed; changes of `None` are left out.

    A name may bring changes itself, as "fast,start=3,guided=1-3": a range is first-end, half-open, and the preset
    carries the whole text as its name.

    Raises:
        InputError: unknown preset or value.
    """
    chosen = _named(preset) if isinstance(preset, str) else preset
    chosen = replace(chosen, **{key: value for key, value in changes.items() if value is not None})
    if chosen.adapt not in ADAPTATIONS:
        raise InputError(f"--adapt {chosen.adapt}: unknown, expected one of {', '.join(ADAPTATIONS)}.")
    if not 1.0 <= chosen.guidance <= 50.0:
        raise InputError(f"--guidance {chosen.guidance}: expected a number from 1 (none) to 50.")
    if not 0.0 < chosen.strengths[0] <= chosen.strengths[1]:
        raise InputError(f"--preset {chosen.name}: strengths {chosen.strengths}, expected two rising factors above 0.")
    if not -2.0 <= chosen.tones[0] <= chosen.tones[1] <= 2.0:
        raise InputError(f"--preset {chosen.name}: tones {chosen.tones}, expected two rising factors from -2 to 2.")
    if not 0.0 <= chosen.detail <= 1.0:
        raise InputError(f"--preset {chosen.name}: detail {chosen.detail}, expected a share from 0 to 1.")
    if not chosen.fidelity >= 0.0:
        raise InputError(f"--preset {chosen.name}: fidelity {chosen.fidelity}, expected at least 0 dB.")
    if min(chosen.feather) < 0:
        raise InputError(f"--preset {chosen.name}: feather {chosen.feather}, expected two widths of at least 0 px.")
    for key, first in (("start", chosen.start), ("area_start", chosen.area_start)):
        if not 0 <= first < chosen.steps:
            raise InputError(
                f"--preset {chosen.name}: {key} {first} of {chosen.steps} steps, expected one within them."
            )
    return chosen


def _named(text: str) -> Preset:
    """The preset of a name with its changes."""
    name, *changes = text.split(",")
    if name not in PRESETS:
        raise InputError(f"--preset {text}: unknown, expected one of {', '.join(PRESETS)}.")
    plain = asdict(PRESETS[name])
    plain = {key: value for key, value in plain.items() if key not in {"name", "finetuning"}}
    given: dict[str, Any] = {}
    for change in changes:
        key, _, value = change.partition("=")
        if key not in plain:
            raise InputError(f"--preset {text}: {key!r} is none of its values, expected {', '.join(plain)}.")
        given[key] = _value(text, key, value)
    chosen = replace(PRESETS[name], name=text, **given)
    ranges = [chosen.latent_stage, chosen.image_stage, *([chosen.guided] if chosen.guided else [])]
    fits = all(0 <= first <= end <= chosen.steps for first, end in ranges)
    if not fits or chosen.batch_size < 1 or min(chosen.grow, chosen.finest) < 0:
        raise InputError(f"--preset {text}: expected steps of at least 1 with all ranges within them.")
    return chosen


def _value(text: str, key: str, value: str) -> Any:
    """What is written behind `key=`, in the type of that value."""
    kind = {field.name: str(field.type) for field in fields(Preset)}[key]
    choices = re.findall(r"['\"](\w+)['\"]", kind)
    try:
        if choices:
            return choices[choices.index(value)]
        if "tuple" in kind:
            number = float if "float" in kind else int
            ((first, end),) = RANGE.findall(value)  # ValueError unless it is a range, and one
            return number(first), number(end)
        if kind == "bool":
            return {"true": True, "false": False}[value.lower()]
        return {"int": int, "float": float, "str": str}[kind](value)
    except (ValueError, KeyError) as error:
        wanted = " or ".join(choices) or ("FIRST-END" if "tuple" in kind else kind)
        raise InputError(f"--preset {text}: {key}={value}, expected {wanted}.") from error
