"""Routes of edits and runs."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import anyio
import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from PIL import Image

from adabldm.core.records import RunCard
from adabldm.core.settings import EditSettings
from adabldm.models.store import read_card
from adabldm.service.answers import EditAnswer, RunAnswer, errors, field_error
from adabldm.service.bodies import edit_body, read_edit
from adabldm.service.engine import EditRequest, EditResult
from adabldm.service.uploads import UploadLimits, read_image, read_mask

Result = TypeVar("Result")

router = APIRouter(tags=["edits"])
PNG = "image/png"
LOOK = 0.1
"""Seconds between two looks whether the client is still there."""
GONE = 499
"""Status of requests whose client went away; nobody reads it."""


@router.post(
    "/v1/edits",
    response_model=EditAnswer,
    responses={
        200: {"content": {PNG: {"schema": {"type": "string", "format": "binary"}}}, "description": "The picture."},
        **errors(400, 415, 422, 503, 507),
    },
    openapi_extra=edit_body(),
)
async def edit(request: Request) -> Response:
    """Edit a defect into a picture.

    The answer is JSON, or the picture itself if the client accepts `image/png` only.
    """
    service = request.app.state.service
    values, pictures = await read_edit(request)
    settings = EditSettings.create(values)
    wanted = await anyio.to_thread.run_sync(
        _decode, pictures, settings, service.limits, limiter=service.decoding
    )  # fmt: skip
    result = await unless_gone(request, service.engine.edit_async(wanted))
    if result is None:
        return Response(status_code=GONE)
    if _accepted(request) == {PNG}:
        return Response(await anyio.to_thread.run_sync(png, result.pixels), media_type=PNG)
    return Response(await anyio.to_thread.run_sync(_as_json, result), media_type="application/json")


def _decode(pictures: Mapping[str, bytes], settings: EditSettings, limits: UploadLimits) -> EditRequest:
    """The request with its pictures decoded.

    Raises:
        SettingsError: a picture is missing, too large, or none.
    """
    for name in [] if "image" in pictures else ["image"]:
        raise field_error(name, "missing, expected the picture that is edited; give it")
    if ("mask" in pictures) == ("trimap" in pictures):
        raise field_error("mask", "expected either a mask or a trimap; give one of them")
    if ("reference_image" in pictures) != ("reference_mask" in pictures):
        raise field_error("reference_mask", "expected both the picture and the mask of the example; give both")
    image = read_image(pictures["image"], "image", limits)
    mask = read_mask(pictures["mask"], "mask", limits) if "mask" in pictures else None
    trimap = read_image(pictures["trimap"], "trimap", limits) if "trimap" in pictures else None
    reference = None
    if "reference_image" in pictures:
        reference = (
            read_image(pictures["reference_image"], "reference_image", limits),
            read_mask(pictures["reference_mask"], "reference_mask", limits),
        )
    return EditRequest(image, settings, mask, trimap, reference)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """The result of work; a client that goes away cancels it, and there is none."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=LOOK))[0]:
            if await request.is_disconnected():
                return None
        return task.result()
    finally:
        if not task.done():
            task.cancel()


def png(pixels: NDArray[Any]) -> bytes:
    """Pixels as the bytes of a PNG file, compressed little: the time counts more on the way to a client."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _as_json(result: EditResult) -> bytes:
    mask = png(result.mask.astype(np.uint8) * 255)
    answer = EditAnswer(
        image=base64.b64encode(png(result.pixels)).decode(),
        mask=base64.b64encode(mask).decode(),
        record=result.record,
        rejection=result.rejection,
    )
    return answer.model_dump_json(by_alias=True).encode()


def _accepted(request: Request) -> set[str]:
    kinds = request.headers.get("accept", "").split(",")
    return {kind.partition(";")[0].strip().lower() for kind in kinds}


@router.get("/v1/runs", responses=errors())
def runs(request: Request) -> list[RunAnswer]:
    """All runs that are offered: those that ship, those that were named, and those in the folders."""
    return [_run(name, card) for name, card in request.app.state.service.runs.cards().items()]


@router.get("/v1/runs/{run_id:path}", responses=errors(404, 422))
def run(request: Request, run_id: str) -> RunAnswer:
    """One run: defect types, resolution, card."""
    return _run(run_id, read_card(request.app.state.service.runs.find(run_id)))


def _run(name: str, card: RunCard) -> RunAnswer:
    own = card.model_copy(update={"seen_good": None, "seen_defects": None})  # twelve letters for each image
    return RunAnswer(
        id=name, object_name=card.object_name, defects=card.defects, resolution=card.resolution, card=own
    )  # fmt: skip
