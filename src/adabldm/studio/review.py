"""The room Review: a generated folder as a wall of details, and decisions on its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import Field

from adabldm.core.errors import InputError
from adabldm.core.images import read_picture
from adabldm.core.mask_files import read_mask
from adabldm.core.recent import Stamp
from adabldm.core.records import Decision, ImageRecord
from adabldm.core.settings.base import Settings
from adabldm.core.windows import Window, window_around
from adabldm.data.decisions import DECISIONS, append_decisions, read_decisions
from adabldm.data.generated import MANIFEST, read_manifest
from adabldm.service.roots import check_records
from adabldm.studio.pictures import Cache, cut_detail, jpeg, jpeg_bytes, with_outline
from adabldm.studio.state import Studio
from adabldm.studio.words import as_json, verdicts

TILE, LARGE = 176, 512
"""Sides in px of the details on the wall and beside it."""
COLUMNS = ("seam", "contrast", "visible_change", "edit_strength", "background_psnr")
"""Scores that the wall can be sorted by."""


class DecideOrder(Settings):
    """What was decided."""

    folder: str = Field(description="The generated folder.")
    indices: tuple[int, ...] = Field(min_length=1, max_length=100_000, description="Numbers of the images.")
    decision: Literal["keep", "reject", "undecided"] = Field(description="The decision on all of them.")
    note: str | None = Field(None, description="Remark of a former decision that counts again.")
    rule: str | None = Field(None, description="Rule of a former decision that counts again.")


class Walls:
    """Generated folders that were read, each again only after it changed.

    Args:
        studio: whose folders they are.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._manifests: Cache[Stamp, dict[int, ImageRecord]] = Cache(4)

    def root(self, folder: str) -> Path:
        """A generated folder.

        Raises:
            InputError: outside the studio's folders, or nothing was generated there.
        """
        path = self.studio.workspace.resolve(folder)
        if not (path / MANIFEST).is_file():
            raise InputError(f"{folder}: no {MANIFEST} in it, expected a folder of generated images; choose another.")
        check_records(self.studio.workspace.roots, path)
        return path

    def records(self, folder: str) -> dict[int, ImageRecord]:
        """The images by number; raises `InputError`."""
        root = self.root(folder)
        return self._manifests.get(Stamp.of(root / MANIFEST), lambda: read_manifest(root))

    def record(self, folder: str, index: int) -> ImageRecord:
        """One image.

        Raises:
            InputError: there is no such one.
        """
        found = self.records(folder).get(index)
        if found is None:
            raise InputError(f"image {index}: not in {folder}; load the page again.")
        return found

    def files(self, folder: str, record: ImageRecord) -> tuple[Path, Path]:
        """Image and mask, below the folder also if there are links in it."""
        root = self.root(folder)
        return self.studio.workspace.inside(root, record.image), self.studio.workspace.inside(root, record.mask)

    def detail(self, folder: str, index: int, side: int, *, outlined: bool) -> bytes:
        """The window around the defect as a JPEG."""
        record = self.record(folder, index)
        image, mask_file = self.files(folder, record)
        pixels = read_picture(image).pixels
        if record.window is not None and not outlined:
            top, left, length = record.window
            return jpeg_bytes(cut_detail(pixels, pixels[..., 0] > 0, Window(top, left, length), side))
        mask = read_mask(mask_file)
        window = Window(*record.window) if record.window is not None else window_around(mask)
        return jpeg_bytes(cut_detail(pixels, mask, window, side, outlined=outlined))

    def source(self, folder: str, index: int, data: str, side: int) -> bytes | None:
        """The same window of the source, if that is in a data set."""
        record = self.record(folder, index)
        root = self.root(folder)
        inside = root / record.source
        own = inside if inside.is_file() else self.studio.library.path(data, record.source) if data else inside
        if not own.is_file() or not own.resolve().is_relative_to(root if own == inside else self._data(data)):
            return None
        pixels = read_picture(own).pixels
        mask = read_mask(self.files(folder, record)[1])
        if mask.shape != pixels.shape[:2]:
            return None
        window = Window(*record.window) if record.window is not None else window_around(mask)
        return jpeg_bytes(cut_detail(pixels, mask, window, side))

    def _data(self, data: str) -> Path:
        return self.studio.library.root(data)


def review_page(studio: Studio) -> dict[str, Any]:
    """What the page is delivered with."""
    workspace = studio.workspace
    return {
        "folders": [vars(one) for one in workspace.generated()],
        "data": [vars(one) for one in workspace.data_sets()],
        "chosen": str(workspace.folder.resolve()) if workspace.folder is not None else "",
    }


def review_router(studio: Studio) -> APIRouter:
    """What the page asks for."""
    router = APIRouter(prefix="/studio/review", include_in_schema=False)
    walls = Walls(studio)
    _add_wall(router, walls)
    _add_pictures(router, walls)
    return router


def _add_wall(router: APIRouter, walls: Walls) -> None:
    @router.get("/folder")
    def folder(folder: str) -> dict[str, Any]:
        root = walls.root(folder)
        records, decisions = walls.records(folder), read_decisions(root)
        types = sorted({record.defect for record in records.values()})
        places = {name: place for place, name in enumerate(types)}
        return {
            "version": Stamp.of(root / MANIFEST).changed,
            "types": types,
            "index": list(records),
            "type": [places[record.defect] for record in records.values()],
            "accepted": [record.accepted is not False for record in records.values()],
            "decision": [decisions[index].decision if index in decisions else "" for index in records],
            "scores": {name: [getattr(record, name) for record in records.values()] for name in COLUMNS},
        }

    @router.get("/record")
    def record(folder: str, index: int) -> dict[str, Any]:
        found = walls.record(folder, index)
        decision = read_decisions(walls.root(folder)).get(index)
        return {
            "words": as_json(verdicts(found.scores)),
            "record": found.plain(),
            "decision": None if decision is None else decision.plain(),
        }

    @router.post("/decide")
    def decide(order: DecideOrder) -> dict[str, Any]:
        root, known = walls.root(order.folder), walls.records(order.folder)
        unknown = [index for index in order.indices if index not in known]
        if unknown:
            raise InputError(f"image {unknown[0]}: not in {order.folder}; load the page again.")
        what = order.model_dump(include={"decision", "note", "rule"})
        before = append_decisions(root, [Decision(index=index, **what) for index in order.indices]).before
        former = [before[index].plain() if index in before else None for index in order.indices]
        return {"file": str(root / DECISIONS), "decided": len(order.indices), "before": former}


def _add_pictures(router: APIRouter, walls: Walls) -> None:
    thumbs = walls.studio.thumbs

    @router.get("/tile")
    def tile(folder: str, index: int, version: int = 0) -> Response:
        key = ("tile", str(walls.root(folder)), index, version)
        content = thumbs.get(key, lambda: walls.detail(folder, index, TILE, outlined=False))
        return jpeg(content, lasting=version > 0)

    @router.get("/detail")
    def detail(folder: str, index: int, outlined: bool = False) -> Response:
        return jpeg(walls.detail(folder, index, LARGE, outlined=outlined))

    @router.get("/source")
    def source(folder: str, index: int, data: str = "") -> Response:
        content = walls.source(folder, index, data, LARGE)
        return Response(status_code=404) if content is None else jpeg(content)

    @router.get("/whole")
    def whole(folder: str, index: int) -> Response:
        image, mask = walls.files(folder, walls.record(folder, index))
        return jpeg(jpeg_bytes(with_outline(read_picture(image).pixels, read_mask(mask), 1200)))
