"""The room Fit and generate: jobs, their loss curves, previews and images. Jobs themselves are asked of `/v1/jobs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response

from adabldm.core.errors import InputError
from adabldm.core.images import is_image_file
from adabldm.core.recent import Stamp
from adabldm.core.settings import FIT_PRESETS
from adabldm.core.settings.edit import PRESETS
from adabldm.data.generated import MANIFEST
from adabldm.models.store import CARD
from adabldm.studio.state import Studio

FIT_WORDS = {
    "quick": "quick: some minutes on two cores",
    "standard": "standard: some hours on two cores",
    "published": "published: needs a graphics card",
}
MOST_IMAGES = 12
"""Finished images of a job that are shown."""


def making_page(studio: Studio) -> dict[str, Any]:
    """What the page is delivered with."""
    workspace = studio.workspace
    return {
        "data": [vars(one) for one in workspace.data_sets()],
        "runs": [vars(one) for one in workspace.run_places()],
        "work": str(workspace.work),
        "chosen": "" if workspace.data is None else str(workspace.data.expanduser().resolve()),
        "fitPresets": [{"name": name, "label": FIT_WORDS[name]} for name in FIT_PRESETS],
        "presets": list(PRESETS),
    }


def making_router(studio: Studio) -> APIRouter:
    """What the page asks for beside the jobs."""
    router = APIRouter(prefix="/studio/jobs", include_in_schema=False)

    @router.get("/name")
    def name(part: str, name: str) -> dict[str, Any]:
        if part not in {"runs", "generated", "evaluations"}:
            raise InputError("part: expected runs, generated or evaluations.")
        folder = studio.workspace.new_folder(part, name)
        return {"path": str(folder), "taken": folder.exists()}

    @router.get("/runs")
    def runs() -> dict[str, Any]:
        return {"runs": [vars(one) for one in studio.workspace.run_places()]}

    @router.get("/types")
    def types(data: str) -> dict[str, Any]:
        return {"types": list(studio.library.types(data))}

    @router.get("/events")
    def events(job: str, after: int = 0) -> dict[str, Any]:
        told = _told(studio.jobs.events(job, after), after)
        folder = studio.workspace.roots.resolve(_folder(studio, job))
        return {**told, "images": list(_there(folder, told["images"]))}

    @router.get("/preview")
    def preview(job: str, name: str) -> Response:
        folder = studio.workspace.roots.resolve(_folder(studio, job)) / "previews"
        path = studio.workspace.inside(folder, name)
        if not is_image_file(path) or not path.is_file():
            raise InputError(f"{name[:100]!r}: no preview of this job; load the page again.")
        return Response(path.read_bytes(), media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    @router.get("/outcome")
    def outcome(job: str) -> dict[str, Any]:
        folder = studio.workspace.roots.resolve(_folder(studio, job))
        return {
            "folder": str(folder),
            "run": studio.workspace.runs.name(folder) if (folder / CARD).is_file() else None,
            "images": (folder / MANIFEST).is_file(),
            "report": (folder / "evaluation.json").is_file(),
        }

    return router


def _folder(studio: Studio, job: str) -> Path:
    return studio.workspace.roots.first / studio.jobs.get(job).folder


def _there(folder: Path, records: list[dict[str, Any]]) -> Iterator[dict[str, int]]:
    """The finished images that are still there; the version is another where a folder was made anew."""
    for record in records:
        version = Stamp.of(folder / record["image"]).changed
        if version:
            yield {"index": record["index"], "version": version}


def _told(found: Any, after: int) -> dict[str, Any]:
    """New events, as short as the page needs them."""
    curve, previews, notes, images = [], [], [], []
    for number, event in found:
        after = number
        kind = event.get("event")
        if kind == "Progress" and "loss" in event.get("figures", {}):
            curve.append([event["task"], event["done"], event["figures"]["loss"]])
        elif kind == "PreviewWritten":
            previews.append({"name": Path(event["path"]).name, "task": event["task"], "step": event["step"]})
        elif kind == "Note":
            notes.append(event["text"])
        elif kind == "ImageFinished":
            images.append(event["record"])
    return {"last": after, "curve": curve, "previews": previews, "notes": notes, "images": images[-MOST_IMAGES:]}
