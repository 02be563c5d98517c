"""Image files to arrays and back, and files that are written whole or not at all.

Arrays are uint8 RGB, HxWx3; masks are bool, HxW. Tensors are made in `adabldm.core.tensors`.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from adabldm.core.errors import EmptyMaskError, InputError, OutputError

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

TEMPORARY = ".adabldm-part-"
"""Beginning of the names of files that are being written."""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {".png": ("PNG", {"compress_level": 4})}
"""Formats of written images by suffix: Pillow's name and options."""
DEEP_LEVELS = 65535 / 255
"""Values of a 16-bit file for one of 8 bits."""
LOSSY = frozenset({".jpg", ".jpeg", ".webp"})
MOST_NUMBERS = 32
"""Most instances or classes that a mask of numbers may have."""
MASK_TOLERANCE = 12
"""Grey levels within this distance of 0 or of the mask's maximum count as binary (lossy compression)."""


@dataclass(frozen=True)
class Picture:
    """An image as it was read.

    Attributes:
        pixels: uint8 RGB, HxWx3: what models and measures work on.
        grey: the file has a single channel; results made from it are written with a single channel too.
        deep: own values of a grey file of 16 bits, uint16 HxW; `None` for all others.
    """

    pixels: Pixels
    grey: bool
    deep: NDArray[np.uint16] | None = None

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


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}: not a readable image (truncated or another format); replace or remove it."
        ) from error


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
        InputError: the file is missing, truncated or no image.
    """
    return as_picture(_open(path))


def as_picture(opened: Image.Image) -> Picture:
    """An image in memory as `read_picture` gives one from a file."""
    deep = np.asarray(opened).astype(np.uint16) if opened.mode.startswith("I;16") else None
    image = eight_bit(opened)
    grey = image.mode in {"1", "L", "LA"}
    return Picture(np.array(image.convert("RGB"), dtype=np.uint8), grey, deep)


def _mask_values(image: Image.Image) -> NDArray[np.int32]:
    """Grey levels of a mask, HxW.

    The brightest channel counts, so that a blue or red label counts as much as a white one. Where that is the same
    everywhere, the defect is in the alpha channel, or it is coloured on white.
    """
    if image.mode.startswith("I") and np.asarray(image).max(initial=0) <= 255:
        return np.asarray(image).astype(np.int32)  # 8-bit levels or labels in a 16-bit file
    image = eight_bit(image)
    if image.mode in {"1", "L"}:
        return np.asarray(image).astype(np.int32)
    if image.mode == "LA" or image.mode == "RGBA":
        colour, alpha = np.asarray(image)[..., :-1], np.asarray(image)[..., -1]
        if alpha.min() < alpha.max() and np.ptp(colour.max(axis=2)[alpha > 0]) <= MASK_TOLERANCE:
            return alpha.astype(np.int32)
    channels = np.asarray(image.convert("RGB")).astype(np.int32)
    brightest = channels.max(axis=2)
    if brightest.min() >= 255 - MASK_TOLERANCE:
        saturation = brightest - channels.min(axis=2)
        if saturation.max() > 2 * MASK_TOLERANCE:
            return np.asarray(saturation)
    return np.asarray(brightest)


def read_mask(path: Path, *, threshold: int | None = None, inverted: bool = False) -> Mask:
    """Read a defect mask as bool HxW: True where the defect is.

    Without `threshold`, files of 0 and one bright level are read, and these: numbers of instances or classes (few
    levels, each in flat areas: every number counts), and JPEG files with grey ringing (half of the brightest level).
    A mask with other grey levels is refused.

    Args:
        path: image file.
        threshold: grey level in 0…255 above which a pixel is defect.
        inverted: the defect is black on white.

    Raises:
        EmptyMaskError: no defect pixel.
        InputError: unreadable, or not binary.
    """
    image, lossy = _open(path), path.suffix.lower() in LOSSY
    usual = _two_levels(image, inverted) if threshold is None and not lossy else None
    if usual is not None:
        return usual
    values = _mask_values(image)
    if inverted:
        values = values.max(initial=0) - values
    if values.max(initial=0) == 0:
        raise EmptyMaskError(
            f"{path}: the mask is empty, expected at least one defect pixel; draw it or remove the pair."
        )
    if threshold is not None:
        mask = values > threshold
        if not mask.any():
            raise InputError(f"{path}: no mask value is above {threshold}; lower --mask-threshold.")
        return mask
    if not lossy and _are_numbers(values):
        return values > 0
    top = int(values.max())
    between = (values > MASK_TOLERANCE) & (values < top - MASK_TOLERANCE)
    if lossy and top > 127 and between.sum() < np.count_nonzero(values * 2 > top):
        return values * 2 > top
    if top > 1 and (top <= 2 * MASK_TOLERANCE or between.any()):
        raise InputError(
            f"{path}: the mask is not binary (grey levels between 0 and {top}), expected 0 and 255; "
            "convert it, or give --mask-threshold 127."
        )
    return values * 2 > top


def _two_levels(image: Image.Image, inverted: bool) -> Mask | None:
    """The mask of a one-channel image that has 0 and one other level, without further tests: most masks are such."""
    if image.mode not in {"1", "L"}:
        return None
    levels = [level for level, count in enumerate(image.histogram()) if count]
    if len(levels) != 2 or levels[0] != 0:
        return None
    return np.asarray(np.asarray(image) == 0 if inverted else np.asarray(image) != 0)


def read_labels(path: Path) -> NDArray[np.int32]:
    """Read an image of labels, HxW: 0, or the number of the defect that a pixel belongs to.

    Raises:
        InputError: unreadable, or not of a single channel.
    """
    values = np.asarray(_open(path))
    if values.ndim != 2:
        raise InputError(f"{path}: {values.ndim} dimensions, expected an image of labels with one channel; restore it.")
    return values.astype(np.int32)


def write_labels(path: Path, labels: NDArray[np.int32]) -> None:
    """Write labels from 0 to 65535, HxW, as a PNG of 8 bits if these are enough, else of 16."""
    write_png(path, labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16))


def _are_numbers(values: NDArray[np.int32]) -> bool:
    """Whether levels above 0 number instances or classes: few, and most pixels of each lie beside one of its own.

    What anti-aliasing or lossy compression leaves are scattered pixels of many levels. The background must be 0.
    """
    levels, counts = np.unique(values, return_counts=True)
    levels, counts = levels[levels > 0], counts[levels > 0]
    if values.min() > 0 or len(levels) > MOST_NUMBERS:
        return False
    beside = np.zeros(values.shape, np.bool_)
    across, down = values[:, 1:] == values[:, :-1], values[1:] == values[:-1]
    beside[:, 1:] |= across
    beside[:, :-1] |= across
    beside[1:] |= down
    beside[:-1] |= down
    flat = np.bincount(values[beside], minlength=int(levels.max()) + 1)[levels]
    return len(levels) == 1 or bool(((flat >= 0.8 * counts) & (counts >= 4)).all())


def looks_inverted(mask: Mask) -> bool:
    """Whether a mask has its defect in black: it covers most of the image, three corners and most of the border."""
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    corners = sum(int(mask[row, column]) for row in (0, -1) for column in (0, -1))
    return bool(0.5 < mask.mean() < 1 and border.mean() >= 0.75 and corners >= 3)


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file as `read_picture` would return it, decoding it fully."""
    image = _open(path)
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
