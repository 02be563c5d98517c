"""What the rooms of a studio share."""

from __future__ import annotations

import io
from collections.abc import Hashable
from dataclasses import dataclass, field

import anyio
from fastapi import Request

from adabldm.core.errors import InputError
from adabldm.core.images import Picture, as_picture
from adabldm.core.settings import FieldProblem
from adabldm.service.jobs import JobQueue
from adabldm.service.uploads import TooLargeError, UploadLimits, read_image
from adabldm.studio.keeping import Keeper
from adabldm.studio.library import Library
from adabldm.studio.painting import Painter
from adabldm.studio.pictures import Cache
from adabldm.studio.workspace import Workspace

SMALLEST = 16
"""Shortest side in px of a picture that can be edited."""


@dataclass(frozen=True)
class Studio:
    """Everything that the pages work with."""

    workspace: Workspace
    library: Library
    painter: Painter
    keeper: Keeper
    jobs: JobQueue
    limits: UploadLimits
    decoding: anyio.CapacityLimiter
    thumbs: Cache[Hashable, bytes] = field(default_factory=lambda: Cache(6000))


async def read_upload(request: Request, studio: Studio) -> Picture:
    """The picture in the body of a request, which is checked before it is decoded.

    Raises:
        TooLargeError: too many bytes or pixels.
        InputError: no picture that can be edited.
    """
    content, limits = io.BytesIO(), studio.limits
    async for part in request.stream():
        content.write(part)
        if content.tell() > limits.bytes:
            raise TooLargeError([FieldProblem("picture", f"larger than {limits.bytes / 1e6:g} MB; send a smaller one")])
    image = await anyio.to_thread.run_sync(
        read_image, content.getvalue(), "picture", limits, limiter=studio.decoding
    )  # fmt: skip
    if min(image.size) < SMALLEST:
        raise InputError(
            f"picture: {image.width} x {image.height} pixels, expected at least {SMALLEST} a side; send a larger one."
        )
    return await anyio.to_thread.run_sync(as_picture, image)
