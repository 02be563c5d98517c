"""Image files to arrays and back, and files that are written whole or not at all.

Arrays are uint8 RGB, HxWx3; masks are bool, HxW. Tensors are made in `adabldm.core.tensors`.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adabldm.core.errors import OutputError
from adabldm.core.opening import open_image

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

TEMPORARY = ".adabldm-part-"
"""Beginning of the names of files that are being written."""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {".png": ("PNG", {"compress_level": 4})}
"""Formats of written images by suffix: Pillow's name and options."""
DEEP_LEVELS = 65535 / 255
"""Values of a 16-bit file for one of 8 bits."""


@dataclass(frozen=True)
class Picture:
    """An image as it was read.

    Attributes:
        pixels: uint8 RGB, HxWx3: what models and measures work on.
        grey: the file has a single channel; results made from it are written with a single channel too.
        deep: own values of a grey file of 16 bits, uint16 HxW; `None` for all others.
        orientation: in the file's EXIF data, by which the pixels were turned; 1 where they were not.
    """

    pixels: Pixels
    grey: bool
    deep: NDArray[np.uint16] | None = None
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def as_file(self, edited: Pixels) -> NDArray[Any]:
        """Edited pixels in the form of this picture's file: its number of channels and its depth.

        A deep picture gets the change of the 8-bit pixels added to its own values, so that they stay exact where
        nothing changed; they are quantised here and nowhere else.

        Args:
            edited: uint8 RGB HxWx3, of this picture's size.

        Returns:
            uint8 HxWx3 or HxW, or uint16 HxW.
        """
        if self.deep is not None:
            change = (edited[..., 0].astype(np.float64) - self.pixels[..., 0]) * DEEP_LEVELS
            return np.clip(np.rint(self.deep + change), 0, 65535).astype(np.uint16)
        return edited[..., 0] if self.grey else edited


def eight_bit(image: Image.Image) -> Image.Image:
    """16-bit and float images are mapped from their full range to 8 bits; others pass."""
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.float64) / 257.0
    elif image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        values = values * 255.0 if values.size and values.max() <= 1.0 else values
    else:
        return image
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def read_picture(path: Path) -> Picture:
    """Read an image file: 1-channel, 16-bit, palette and RGBA files come out as 8-bit RGB (alpha is dropped).

    Grey files of 16 bits keep their own values beside it (`Picture.deep`).

    Raises:
        InputError: the file is missing, truncated, too large or no image.
    """
    image, orientation = open_image(path)
    return replace(as_picture(image), orientation=orientation)


def as_picture(opened: Image.Image) -> Picture:
    """An image in memory as `read_picture` gives one from a file."""
    deep = np.asarray(opened).astype(np.uint16) if opened.mode.startswith("I;16") else None
    image = eight_bit(opened)
    grey = image.mode in {"1", "L", "LA"}
    return Picture(np.array(image.convert("RGB"), dtype=np.uint8), grey, deep)


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file as `read_picture` would return it, decoding it fully."""
    image, _ = open_image(path)
    return image.height, image.width


def is_image_file(path: Path) -> bool:
    """Whether the name has a suffix of the formats that are read."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def resize_pixels(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize HxW or HxWxC to (height, width): area averaging when shrinking, cubic when growing."""
    height, width = size
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinking = height * width < pixels.shape[0] * pixels.shape[1]
    interpolation = cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=interpolation))


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Resize a mask so that no defect is lost: when shrinking, a pixel is set if 30 % of its area is, or if
    a thin line that passes through it would else break; when growing, the nearest pixel counts."""
    height, width = size
    smaller = min(height, mask.shape[0]), min(width, mask.shape[1])
    if mask.shape != smaller:
        mask = _shrink_mask(mask, smaller)
    if mask.shape == size:
        return mask
    return np.asarray(cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0)


def _shrink_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    area = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    square, wide = np.ones((3, 3), np.uint8), np.ones((5, 5), np.uint8)
    solid = area >= 0.3
    kept = solid | ((area > 0) & (cv2.dilate(solid.astype(np.uint8), square) == 0))
    # A pixel that the defect touches and that has two pieces within two pixels bridges them.
    count, labels = cv2.connectedComponents(kept.astype(np.uint8))
    highest = cv2.dilate(labels.astype(np.float32), wide)
    lowest = count - cv2.dilate(np.where(kept, count - labels, 0).astype(np.float32), wide)
    bridge = (area > 0) & (lowest < highest)
    return np.asarray(kept | bridge)


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Write a file that appears under `path` whole or not at all, also when the disk is full or the process dies.

    Args:
        path: the file.
        durable: wait until it is on the disk, so that it also survives a power failure.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def write_error(path: Path, error: OSError) -> OutputError:
    """The error of a file that could not be written; its way out fits the cause."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        advice = "free some space or choose another --out"
    elif error.errno in {errno.ENOENT, errno.ESTALE}:
        advice = "its folder vanished meanwhile; restore it or choose another --out"
    elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        advice = "allow writing there or choose another --out"
    else:
        advice = "check the disk or choose another --out"
    return OutputError(
        f"{path}: could not be written ({error.strerror or error}); {advice}, then run the same command again: it goes "
        "on where it stopped."
    )


def write_image(path: Path, pixels: NDArray[Any]) -> None:
    """Write uint8 HxWx3 or HxW, or uint16 HxW, whole or not at all; the name's suffix decides the format.

    Args:
        path: file whose suffix is one of `WRITTEN`.
        pixels: as above.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    _write(path, pixels, path.suffix)


def write_png(path: Path, pixels: NDArray[Any]) -> None:
    """Write uint8 HxWx3 or HxW, or uint16 HxW, as PNG under any name, whole or not at all."""
    _write(path, pixels, ".png")


def _write(path: Path, pixels: NDArray[Any], suffix: str) -> None:
    name, options = WRITTEN[suffix]
    with atomic_file(path) as file:
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, format=name, **options)


def write_mask(path: Path, mask: Mask) -> None:
    """Write a mask as a PNG of 0 and 255."""
    write_png(path, mask.astype(np.uint8) * 255)
