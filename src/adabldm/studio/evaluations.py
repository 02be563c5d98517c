"""The room Evaluate: tables and pictures of evaluations, and what is needed to start one."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response

from adabldm.core.errors import InputError
from adabldm.core.images import read_picture
from adabldm.core.records import EvaluationReport, read_record
from adabldm.report.evaluation import SAME_SCENES, recoloured, tables
from adabldm.service.roots import ForbiddenError
from adabldm.studio.pictures import SHORT, png
from adabldm.studio.state import Studio
from adabldm.studio.workspace import REPORT

SHEETS = {
    "conditions.png": SAME_SCENES,
    "detections.png": "Real test images, and what the first detector marks after training on each condition",
}
DETECTORS = {"unet": "U-Net", "destseg": "DeSTSeg", "patchcore": "PatchCore"}
"""Detectors as their authors write them."""
DARK = ((29, 33, 37), (231, 234, 238))
"""Colours of a card and its text in the dark theme, as in `studio.css`."""
NEEDED = ("monai", "torchmetrics", "sklearn")
"""Packages of an evaluation, which are optional."""


def evaluate_page(studio: Studio) -> dict[str, Any]:
    """What the page is delivered with."""
    workspace = studio.workspace
    return {
        "evaluations": [vars(one) for one in workspace.evaluations()],
        "data": [vars(one) for one in workspace.data_sets()],
        "runs": [vars(one) for one in workspace.run_places()],
        "folders": [vars(one) for one in workspace.generated()],
        "chosen": "" if workspace.data is None else str(workspace.data.expanduser().resolve()),
        "able": all(find_spec(name) is not None for name in NEEDED),
    }


def _readable(title: str) -> str:
    """The title of a table, with the detector that it begins with as its authors write it."""
    detector, colon, rest = title.partition(":")
    return f"{DETECTORS.get(detector, detector)}{colon}{rest}"


def evaluate_router(studio: Studio) -> APIRouter:
    """What the page asks for."""
    router = APIRouter(prefix="/studio/evaluate", include_in_schema=False)

    def place(folder: str) -> Path:
        root = studio.workspace.resolve(folder)
        if not (root / REPORT).is_file():
            raise InputError(f"{folder}: no {REPORT} in it, expected the folder of an evaluation; choose another.")
        for name in (REPORT, *SHEETS):
            if not studio.workspace.roots.allows(root / name):
                raise ForbiddenError(
                    f"{folder}: its {name} is a link that leads out of the folders that the studio may use; remove it."
                )
        return root

    @router.get("/list")
    def evaluations() -> dict[str, Any]:
        return {"evaluations": [vars(one) for one in studio.workspace.evaluations()]}

    @router.get("/report")
    def report(folder: str) -> dict[str, Any]:
        root = place(folder)
        found = read_record(root / REPORT, EvaluationReport)
        return {
            "data": found.data,
            "types": list(found.types),
            "test_images": found.test_images,
            "settings": found.settings.model_dump(mode="json"),
            "tables": [{**asdict(table), "title": _readable(table.title)} for table in tables(found)],
            "sheets": [{"name": name, "title": title} for name, title in SHEETS.items() if (root / name).is_file()],
        }

    @router.get("/sheet")
    def sheet(folder: str, name: str, dark: bool = False) -> Response:
        if name not in SHEETS:
            raise InputError(f"{name[:100]!r}: expected one of {', '.join(SHEETS)}.")
        path = place(folder) / name
        if dark:
            return png(recoloured(read_picture(path).pixels, *DARK))
        return Response(path.read_bytes(), media_type="image/png", headers={"Cache-Control": SHORT})

    return router
