"""Image files that anybody may have made are opened here and nowhere else.

Only the formats of `FORMATS` are tried, whatever a file is called: others of Pillow's start programs of their own.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import (
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from adabldm.core.errors import InputError

PLUGINS = (BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
"""They register the formats."""
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP")
MOST_PIXELS = 178_956_970
"""Larger images are refused. It is where Pillow stops by itself."""
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What EXIF's orientation asks for."""

# Pillow warns of large images, which `MOST_PIXELS` limits, and of odd metadata, which change no pixel.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@contextmanager
def open_header(path: Path) -> Iterator[Image.Image]:
    """An image whose pixels are not decoded yet: its size, mode and EXIF data.

    Raises:
        InputError: the file is missing, no regular file, too large, or no image of a format that is read; also where
            the caller meets damage that only decoding shows.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path}: neither a file nor a link to one, expected an image; remove it.")
        # By its handle: of a turned TIFF file without compression that it opens by name, Pillow 13 mixes up the sides.
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                _refuse_size(path, image.width * image.height)
            yield image
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path.") from error
    except Image.DecompressionBombError as error:
        found = next((int(word.lstrip("(")) for word in str(error).split() if word.lstrip("(").isdigit()), 0)
        _refuse_size(path, found)
    except MemoryError as error:
        raise InputError(f"{path}: too large for this machine's memory; make it smaller.") from error
    except Exception as error:  # a decoder that meets damage raises whatever it stumbles over, also TypeError
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, UnidentifiedImageError):
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); check its permissions and the disk."
            ) from error
        raise InputError(
            f"{path}: not a readable image (truncated or another format); replace or remove it."
        ) from error


def open_image(path: Path) -> tuple[Image.Image, int]:
    """A decoded image as a viewer shows it, and the orientation (1 to 8) in its EXIF data, by which it was turned.

    Raises:
        InputError: as `open_header`, or pixels that are not finite.
    """
    with open_header(path) as image:
        orientation = orientation_of(image)
        image.load()
        left = orientation_of(image)  # TIFF files are turned while they are decoded
        shown = image.transpose(TURNS[left]) if left in TURNS else image.copy()
        shown.format = image.format
    if not is_finite(shown):
        raise InputError(f"{path}: holds pixels that are not finite numbers; replace them, or remove the image.")
    return shown, orientation


def is_file(path: Path) -> bool:
    """Whether there is such a file; not so for a name that no file can have, as documents of others may hold."""
    try:
        return path.is_file()
    except (OSError, RuntimeError):  # a name that is too long, or links in a circle
        return False


def read_orientation(path: Path) -> int:
    """The orientation in a file's EXIF data, 1 to 8; raises as `open_header`."""
    with open_header(path) as image:
        return orientation_of(image)


def orientation_of(image: Image.Image) -> int:
    """The orientation in an image's EXIF data, from 1 (as it lies in the file) to 8."""
    found = image.getexif().get(ORIENTATION, 1)
    return found if found in TURNS else 1


def is_finite(image: Image.Image) -> bool:
    """Whether all pixels are finite numbers."""
    return image.mode != "F" or bool(np.isfinite(np.asarray(image)).all())


def _refuse_size(path: Path, found: int) -> NoReturn:
    raise InputError(
        f"{path}: too large ({found:,} pixels), expected at most {MOST_PIXELS:,}; make it smaller or cut it into parts."
    )
