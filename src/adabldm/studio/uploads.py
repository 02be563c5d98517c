"""Pictures that are sent to the studio: their size is checked before they are decoded."""

from __future__ import annotations

import io
import warnings

from fastapi import Request
from PIL import Image, ImageOps, UnidentifiedImageError

from adabldm.core.errors import InputError
from adabldm.core.images import Picture, as_picture

MOST_BYTES = 64 * 2**20
MOST_PIXELS = 50_000_000
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")


async def read_upload(request: Request) -> Picture:
    """The picture in the body of a request.

    Raises:
        InputError: it is too large, or no picture.
    """
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MOST_BYTES:
            raise InputError(f"picture: larger than {MOST_BYTES // 2**20} MB; send a smaller one.")
    return decode(bytes(content))


def decode(content: bytes) -> Picture:
    """A picture from the bytes of its file; raises as `read_upload`."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise InputError(
                    f"picture: {width} x {height} pixels, expected at most {MOST_PIXELS // 10**6} million; send a "
                    "smaller one or a part of it."
                )
            if min(width, height) < 16:
                raise InputError(f"picture: {width} x {height} pixels, expected at least 16 a side; send a larger one.")
            image.load()
            return as_picture(ImageOps.exif_transpose(image))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError("picture: not readable, expected a PNG, JPEG, BMP, TIFF or WebP; send another.") from error
