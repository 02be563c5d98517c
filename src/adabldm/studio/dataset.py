"""The room Data: what a data set holds, its problems with their pictures, and masks that are painted or corrected."""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
from fastapi import APIRouter, Response
from pydantic import Field

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, Pixels, read_picture, resize_mask
from adabldm.core.samples import MaskFile, MissingMask, Sample
from adabldm.core.settings.base import Settings
from adabldm.report.pictures import outline
from adabldm.studio.library import Listed
from adabldm.studio.masks import PLACES, save_mask
from adabldm.studio.orders import decode_mask
from adabldm.studio.pictures import fitted, jpeg, jpeg_bytes, png
from adabldm.studio.state import Studio
from adabldm.workflows.inspect import to_json

TILE = 240
LAYOUTS = {
    "mvtec": "MVTec AD", "btad": "BTAD", "visa": "VisA", "ksdd2": "KolektorSDD2", "coco": "COCO", "yolo": "YOLO",
    "voc": "Pascal VOC", "labelme": "LabelMe",
}  # fmt: skip
"""Layouts that have a name of their own; the others are plain folders."""
COLOURS = ((255, 64, 64), (40, 150, 255), (255, 170, 0), (60, 200, 90), (220, 90, 230), (0, 200, 200))
"""Of the outlines of the defect types, which take turns."""


class MaskOrder(Settings):
    """A painted mask."""

    data: str = Field(description="Data set.")
    name: str = Field(description="Picture in it.")
    defect: str = Field(min_length=1, max_length=60, description="Defect type.")
    mask: str = Field(description="PNG of the picture's size in base64, white where the defect is.")


def data_page(studio: Studio) -> dict[str, Any]:
    """What the page is delivered with."""
    chosen = studio.workspace.data
    return {
        "data": [vars(one) for one in studio.workspace.data_sets()],
        "chosen": str(chosen.resolve()) if chosen is not None else "",
    }


def data_router(studio: Studio) -> APIRouter:
    """What the page asks for."""
    router = APIRouter(prefix="/studio/data", include_in_schema=False)
    _add_lists(router, studio)
    _add_masks(router, studio)
    return router


def _add_lists(router: APIRouter, studio: Studio) -> None:
    @router.get("/pictures")
    def pictures(data: str) -> dict[str, Any]:
        found = studio.library.listed(data, again=True)
        return {
            "layout": found.layout,
            "title": LAYOUTS.get(found.layout, "folders of good and bad pictures"),
            "writable": found.layout in PLACES,
            "types": found.types,
            "pictures": [
                {"name": name, "split": one.split, "types": list(one.types), "missing": _lacks(one)}
                for name, one in found.samples.items()
            ],
        }

    @router.get("/inspect")
    def inspect(data: str) -> dict[str, Any]:
        found = studio.library.inspection(data, training=False)
        names = {str(one.image): name for name, one in studio.library.listed(data).samples.items()}
        masks = {
            str(defect.mask.path): name
            for name, one in studio.library.listed(data).samples.items()
            for defect in one.defects
            if isinstance(defect.mask, MaskFile)
        }
        problems = [{"text": text, "picture": _named(text, {**masks, **names})} for text in found.problems]
        root = str(found.data_set.root)
        return {
            **to_json(found),
            "problems": [{**one, "text": _without(root, one["text"])} for one in problems if one["text"]],
            "notes": [_without(root, text) for text in found.data_set.notes],
        }

    @router.get("/tile")
    def tile(data: str, name: str, side: int = TILE) -> Response:
        if not 16 <= side <= 2048:
            raise InputError(f"side: {side} px was given, expected 16 to 2048.")
        found = studio.library.listed(data)
        return jpeg(jpeg_bytes(_drawn(found, found.sample(name), side)))


def _add_masks(router: APIRouter, studio: Studio) -> None:
    saving = Lock()

    @router.get("/picture")
    def picture(data: str, name: str) -> Response:
        return png(read_picture(studio.library.listed(data).sample(name).image).pixels)

    @router.get("/mask")
    def mask(data: str, name: str, defect: str) -> Response:
        sample = studio.library.listed(data).sample(name)
        found = _mask(sample, defect)
        if found is None:
            return Response(status_code=204)
        return png(found.astype(np.uint8) * 255)

    @router.post("/mask")
    def save(order: MaskOrder) -> dict[str, Any]:
        with saving:  # what lies there decides where the mask goes
            found = studio.library.listed(order.data, again=True)
            sample = found.sample(order.name)
            drawn = decode_mask(order.mask, sample.picture().size)
            saved = save_mask(found, sample, order.defect.strip(), drawn)
            studio.library.forget(order.data)
        return {
            "name": saved.image.relative_to(found.root).as_posix(),
            "mask": saved.mask.relative_to(found.root).as_posix(),
            "moved": saved.moved,
            "replaced": None if saved.replaced is None else saved.replaced.relative_to(found.root).as_posix(),
        }


def _without(root: str, text: str) -> str:
    """A message without the path of the data set, which the page shows already."""
    own = text.removeprefix(f"{root}: ")
    return (own[:1].upper() + own[1:] if own != text else text).replace(f"{root}/", "")


def _lacks(sample: Sample) -> bool:
    return any(isinstance(one.mask, MissingMask) for one in sample.defects)


def _named(text: str, names: dict[str, str]) -> str | None:
    """The picture that a message begins with."""
    ends = [text.find(": "), text.rfind(": "), *(place for place, letter in enumerate(text) if letter == ":")]
    return next((names[text[:end]] for end in ends if end > 0 and text[:end] in names), None)


def _mask(sample: Sample, defect: str) -> Mask | None:
    """The readable masks of one type in one."""
    whole: Mask | None = None
    for one in sample.defects:
        if one.type != defect:
            continue
        try:
            found = one.mask.read()
        except InputError:
            continue
        whole = found if whole is None else whole | found if whole.shape == found.shape else whole
    return whole


def _drawn(found: Listed, sample: Sample, side: int) -> Pixels:
    """A picture with the outlines of its masks, as far as they can be read."""
    pixels = read_picture(sample.image).pixels
    small = fitted(pixels, side)
    for name in sample.types:
        mask = _mask(sample, name)
        if mask is not None and mask.shape == pixels.shape[:2]:
            place = found.types.index(name)
            shrunk = resize_mask(mask, (small.shape[0], small.shape[1]))
            small = outline(small, shrunk, COLOURS[place % len(COLOURS)])
    return small
