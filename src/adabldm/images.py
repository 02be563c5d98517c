"""The one place where pixels change form: files to arrays, arrays to tensors, and back.

Arrays are uint8 RGB, HxWx3; masks are bool, HxW; tensors are float32 CHW (or BCHW) in [-1, 1].
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from adabldm.errors import EmptyMaskError, InputError, OutputError

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MASK_TOLERANCE = 12
"""Grey levels within this distance of 0 or of the mask's maximum count as binary (lossy compression)."""


@dataclass(frozen=True)
class Picture:
    """An image as it was read.

    Attributes:
        pixels: uint8 RGB, HxWx3.
        grey: the file has a single channel; results made from it are written with a single channel too.
    """

    pixels: Pixels
    grey: bool

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


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

    Raises:
        InputError: the file is missing, truncated or no image.
    """
    image = eight_bit(_open(path))
    grey = image.mode in {"1", "L", "LA"}
    return Picture(np.array(image.convert("RGB"), dtype=np.uint8), grey)


def _mask_values(image: Image.Image) -> NDArray[np.int32]:
    """Grey levels of a mask, HxW: the brightest channel, so that a blue or red label counts as much as a white one."""
    if image.mode.startswith("I") and np.asarray(image).max(initial=0) <= 255:
        return np.asarray(image).astype(np.int32)  # 8-bit levels or labels in a 16-bit file
    image = eight_bit(image)
    if image.mode in {"1", "L"}:
        return np.asarray(image).astype(np.int32)
    return np.asarray(np.asarray(image.convert("RGB")).max(axis=2), dtype=np.int32)


def read_mask(path: Path, *, threshold: int | None = None) -> Mask:
    """Read a defect mask as bool HxW: True where the defect is.

    A mask whose brightest value is 1 (label image) is accepted. With `threshold` (grey level in 0…255), values
    above it are defect; without it, a mask with grey levels between is refused.

    Raises:
        EmptyMaskError: no defect pixel.
        InputError: unreadable, or not binary.
    """
    values = _mask_values(_open(path))
    if values.max(initial=0) == 0:
        raise EmptyMaskError(
            f"{path}: the mask is empty, expected at least one defect pixel; draw it or remove the pair."
        )
    if threshold is not None:
        mask = values > threshold
        if not mask.any():
            raise InputError(f"{path}: no mask value is above {threshold}; lower --mask-threshold.")
        return mask
    top = int(values.max())
    between = (values > MASK_TOLERANCE) & (values < top - MASK_TOLERANCE)
    if top > 1 and (top <= 2 * MASK_TOLERANCE or between.any()):
        raise InputError(
            f"{path}: the mask is not binary (grey levels between 0 and {top}), expected 0 and 255; "
            "convert it, or give --mask-threshold 127."
        )
    return values * 2 > top


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file as `read_picture` would return it, decoding it fully."""
    image = _open(path)
    return image.height, image.width


def is_image_file(path: Path) -> bool:
    """Whether the name has a suffix of the formats that are read."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def to_tensor(pixels: Pixels) -> torch.Tensor:
    """uint8 HxWx3 to float32 CHW in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float().div(127.5).sub(1.0)


def to_pixels(image: torch.Tensor) -> Pixels:
    """Float CHW in [-1, 1] to uint8 HxWx3 (rounded, clipped)."""
    values = image.detach().float().cpu().add(1.0).mul(127.5).round().clamp(0, 255)
    return np.ascontiguousarray(values.to(torch.uint8).permute(1, 2, 0).numpy())


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
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears under `path` whole or not at all, also when the disk is full or the process dies.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".part-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise OutputError(
            f"{path}: could not be written ({error.strerror or error}); free some space or choose another --out, "
            "then run the same command again: it goes on where it stopped."
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def write_png(path: Path, pixels: NDArray[Any], *, grey: bool = False) -> None:
    """Write uint8 HxWx3 (or HxW) as PNG, whole or not at all; `grey` keeps the first channel only."""
    if grey and pixels.ndim == 3:
        pixels = pixels[..., 0]
    with atomic_file(path) as file:
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG", compress_level=4)


def write_mask(path: Path, mask: Mask) -> None:
    """Write a mask as a PNG of 0 and 255."""
    write_png(path, mask.astype(np.uint8) * 255)
