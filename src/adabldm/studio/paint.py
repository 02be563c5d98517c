"""The room Paint: its page and what the page asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import anyio
import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import Field

from adabldm.core.errors import InputError
from adabldm.core.images import write_image
from adabldm.core.prompts import defect_prompt
from adabldm.core.recent import Stamp
from adabldm.core.seeding import numpy_rng
from adabldm.core.settings.base import Settings
from adabldm.core.settings.edit import PRESETS
from adabldm.masks.procedural import draw_shape
from adabldm.service.api_edits import GONE, unless_gone
from adabldm.service.engine import EditResult
from adabldm.studio.keeping import KEPT
from adabldm.studio.library import UPLOADS
from adabldm.studio.orders import PaintOrder
from adabldm.studio.painting import Variant
from adabldm.studio.pictures import cut_detail, detail, digest, jpeg, jpeg_bytes, png, thumbnail
from adabldm.studio.state import Studio, read_upload
from adabldm.studio.words import as_json
from adabldm.studio.workspace import SAMPLES

PRESET_WORDS = {
    "fast": "fast: about a second",
    "paper": "paper: as published, minutes without a graphics card",
    "released": "released: as in the authors’ code, minutes without a graphics card",
}


class KeepOrder(Settings):
    """What is to be kept."""

    id: str = Field(description="Name of the variant.")
    folder: str = Field(KEPT, description="Name of the data set in the work folder.")


def paint_page(studio: Studio) -> dict[str, Any]:
    """What the page is delivered with."""
    workspace = studio.workspace
    samples = {"path": SAMPLES, "label": "Sample pictures that ship with AdaBLDM"}
    data = [vars(one) for one in workspace.data_sets()]
    return {
        "data": [*data, samples],
        "runs": [vars(one) for one in workspace.run_places()],
        "presets": [{"name": name, "label": PRESET_WORDS[name]} for name in PRESETS],
        "kept": KEPT,
    }


def paint_router(studio: Studio) -> APIRouter:
    """What the page asks for."""
    router = APIRouter(prefix="/studio/paint", include_in_schema=False)
    _add_pictures(router, studio)
    _add_shapes(router, studio)
    _add_results(router, studio)
    return router


def _add_pictures(router: APIRouter, studio: Studio) -> None:
    library = studio.library

    @router.get("/pictures")
    def pictures(data: str) -> dict[str, Any]:
        return {"names": list(library.good_pictures(data, again=True))}

    @router.get("/picture")
    def picture(data: str, name: str) -> Response:
        return png(library.picture(data, name).pixels)

    @router.get("/thumb")
    def thumb(data: str, name: str) -> Response:
        key = ("thumb", Stamp.of(library.path(data, name)))
        return jpeg(studio.thumbs.get(key, lambda: jpeg_bytes(thumbnail(library.picture(data, name).pixels, 144))))

    @router.post("/uploads")
    async def upload(request: Request) -> dict[str, Any]:
        picture = await read_upload(request, studio)
        pixels = picture.as_file(picture.pixels)
        name = f"{digest(pixels, 20)}.png"
        place = studio.workspace.work / UPLOADS / name
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            write_image(place, pixels)
        return {"data": UPLOADS, "name": name}

    @router.get("/run")
    def run(run: str) -> dict[str, Any]:
        card = studio.painter.card(run)
        prompts = {defect: defect_prompt(card.object_name, defect) for defect in card.defects}
        return {"object": card.object_name, "defects": list(card.defects), "prompts": prompts, "method": card.method}


def _add_shapes(router: APIRouter, studio: Studio) -> None:
    library = studio.library

    @router.get("/examples")
    def examples(data: str, defect: str) -> dict[str, Any]:
        found = library.examples(data, defect)
        return {
            "examples": [
                {
                    "number": one.number,
                    "version": one.version,
                    "name": one.instance.sample.image.name,
                    "pixels": int(one.shape.mask.sum()),
                }
                for one in found
            ],
            "others": [] if found else list(library.types(data)),
        }

    @router.get("/example")
    def example(data: str, defect: str, number: int, outlined: bool = False) -> Response:
        one = library.example(data, defect, number)

        def make() -> bytes:
            pixels, mask = one.instance.sample.picture().pixels, one.instance.defect.mask.read()
            return jpeg_bytes(detail(pixels, mask, 160, outlined=outlined))

        return jpeg(studio.thumbs.get(("example", one.version, outlined), make))

    @router.get("/example-mask")
    def example_mask(data: str, defect: str, number: int, around: bool = False) -> Response:
        count = len(library.examples(data, defect)) if around else 0  # those after the last one begin again
        one = library.example(data, defect, number % count if count else number)
        return png(one.shape.mask.astype(np.uint8) * 255)

    @router.get("/random-mask")
    def random_mask(kind: str, size: int, seed: int) -> Response:
        if not 1 <= size <= 4096:
            raise InputError(f"size: {size} px was given, expected 1 to 4096.")
        return png(draw_shape(kind, size, numpy_rng("studio", kind, seed)).mask.astype(np.uint8) * 255)


def _add_results(router: APIRouter, studio: Studio) -> None:
    painter = studio.painter

    @router.post("/edits", response_model=None)
    async def edits(request: Request, order: PaintOrder) -> Response | dict[str, Any]:
        begun = await anyio.to_thread.run_sync(painter.begin, order)
        try:
            if await unless_gone(request, _all(begun.futures)) is None:
                return Response(status_code=GONE)
        finally:
            begun.cancel()
        painted = await anyio.to_thread.run_sync(painter.finish, begun)
        return {"variants": [_shown(one) for one in painted.variants], "notes": painted.notes}

    @router.get("/results/{name}/patch.png")
    def patch(name: str) -> Response:
        variant = painter.variant(name)
        return png(variant.pixels[variant.area], lasting=True)

    @router.get("/results/{name}/whole.png")
    def whole(name: str) -> Response:
        variant = painter.variant(name)
        return png(variant.result, lasting=True)

    @router.get("/results/{name}/detail.jpg")
    def result_detail(name: str) -> Response:
        variant = painter.variant(name)
        return jpeg(jpeg_bytes(cut_detail(variant.pixels, variant.mask, variant.window, 256)), lasting=True)

    @router.post("/keep")
    def keep(order: KeepOrder) -> dict[str, Any]:
        folder, record = studio.keeper.keep(painter.variant(order.id), order.folder)
        return {"folder": str(folder), "index": record.index, "image": record.image}


async def _all(futures: Sequence[Future[EditResult]]) -> list[EditResult]:
    return await asyncio.gather(*(asyncio.wrap_future(one) for one in futures))


def _shown(variant: Variant) -> dict[str, Any]:
    rows, columns = variant.area
    address = f"/studio/paint/results/{variant.id}"
    return {
        "id": variant.id,
        "seed": variant.record.seed,
        "patch": f"{address}/patch.png",
        "detail": f"{address}/detail.jpg",
        "left": columns.start,
        "top": rows.start,
        "words": as_json(variant.words),
        "record": variant.record.plain(),
    }
