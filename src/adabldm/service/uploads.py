"""Pictures that clients send: limits are checked before anything is decoded."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps

from adabldm.core.errors import EmptyMaskError, InputError
from adabldm.core.images import Mask
from adabldm.core.mask_files import LOSSY, MaskRules, mask_of_image
from adabldm.core.settings import FieldProblem, SettingsError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
"""Formats that are read: those of data sets; all others are left alone, so that their decoders cannot be reached."""


class TooLargeError(SettingsError):
    """An upload of too many bytes or pixels."""


@dataclass(frozen=True)
class UploadLimits:
    """What an upload may cost.

    Attributes:
        bytes: of a whole request.
        megapixels: of a picture.
    """

    bytes: int
    megapixels: float


def read_image(data: bytes, field: str, limits: UploadLimits) -> Image.Image:
    """Decode an uploaded picture, upright as its camera says.

    Args:
        data: the file.
        field: names it in errors.
        limits: are checked on the file's header.

    Raises:
        TooLargeError: too many pixels; nothing was decoded.
        SettingsError: no picture of a format that is read, or a damaged one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image, field, limits)
                image.load()
                upright = ImageOps.exif_transpose(image)
                upright.format = image.format
                return upright
    except TooLargeError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(field, limits) from error
    except Exception as error:  # decoders raise nearly everything on bytes that were made to hurt them
        problem = f"not a readable picture, expected {', '.join(FORMATS)}; send another file"
        raise SettingsError([FieldProblem(field, problem)]) from error


def read_mask(data: bytes, field: str, limits: UploadLimits) -> Mask:
    """Decode an uploaded mask, bool HxW; raises as `read_image`, and a `SettingsError` if it is empty or not binary."""
    image = read_image(data, field, limits)
    try:
        return mask_of_image(image, MaskRules(field, lossy=image.format in LOSSY, advice=None))
    except (EmptyMaskError, InputError) as error:
        message = str(error).removeprefix(f"{field}: ").rstrip(".")
        raise SettingsError([FieldProblem(field, message)]) from error


def from_base64(text: str, field: str) -> bytes:
    """The bytes of a base64 text; a `data:` address of a browser does, too.

    Raises:
        SettingsError: it is none.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SettingsError([FieldProblem(field, "not base64, expected the bytes of a picture in it")]) from error


def _check_size(image: Image.Image, field: str, limits: UploadLimits) -> None:
    if image.width * image.height > limits.megapixels * 1e6:
        raise _too_many_pixels(field, limits, f"{image.width} x {image.height} pixels were sent")


def _too_many_pixels(field: str, limits: UploadLimits, given: str = "too many pixels were sent") -> TooLargeError:
    message = f"{given}, expected at most {limits.megapixels:g} million; send a part of the picture"
    return TooLargeError([FieldProblem(field, message)])
