"""Image files to arrays and back, and files that are written whole or not at all.

Arrays are uint8 RGB, HxWx3; masks are bool, HxW. Tensors are made in `adabldm.core.tensors`.
"""

from __future__ import annotations

import errno
import io
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
from PIL import Image, ImageCms

from adabldm.core.depth import FULL, Deep, Levels, in_parts, levels_of
from adabldm.core.errors import InputError, OutputError
from adabldm.core.opening import open_header, open_image

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

TEMPORARY = ".adabldm-part-"
"""Beginning of the names of files that are being written."""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {"compress_level": 4}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
}
"""Formats of written images by suffix: Pillow's name and options."""
DEEP_COLOURS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
"""OpenCV's flags for BGR in the file's depth, as it is stored."""


@dataclass(frozen=True)
class Picture:
    """An image as it was read.

    Attributes:
        pixels: uint8 RGB, HxWx3: what models and measures work on.
        grey: the file has a single channel; results made from it are written with a single channel too.
        deep: own values of a file of more than 8 bits, uint16 HxW or RGB HxWx3; `None` for all others.
        levels: which of these are shown as black and as white.
        layered: own values of a file with transparent pixels, uint8 HxWx4 or HxWx2; `None` for all others.
        orientation: in the file's EXIF data, by which the pixels were turned; 1 where they were not.
    """

    pixels: Pixels
    grey: bool
    deep: Deep | None = None
    levels: Levels = FULL
    layered: NDArray[np.uint8] | None = None
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @classmethod
    def from_deep(cls, deep: Deep, levels: Levels | None = None) -> Picture:
        """A picture of up to 16 bits, HxW or RGB HxWx3; `levels_of` it if no levels are given."""
        levels = levels or levels_of(deep)
        shown = levels.shown(deep)
        grey = deep.ndim == 2
        return cls(np.repeat(shown[..., None], 3, axis=2) if grey else shown, grey, deep, levels)

    def shown_with(self, levels: Levels) -> Picture:
        """The picture with other levels as black and white; one of 8 bits as it is."""
        return self if self.deep is None else Picture.from_deep(self.deep, levels)

    def edited(self, pixels: Pixels) -> Picture:
        """The picture after an edit, whose file values follow its pixels; uint8 RGB HxWx3, of this picture's size."""
        own = self.as_file(pixels)
        return replace(
            self,
            pixels=pixels,
            deep=None if self.deep is None else own.astype(np.uint16),
            layered=None if self.layered is None else own.astype(np.uint8),
        )

    def as_file(self, edited: Pixels) -> NDArray[Any]:
        """Edited pixels in the form of this picture's file: its number of channels and its depth.

        A deep picture gets the change of the 8-bit pixels added to its own values, so that they stay exact where
        nothing changed; they are quantised here and nowhere else. Pixels that changed are opaque.

        Args:
            edited: uint8 RGB HxWx3, of this picture's size.

        Returns:
            uint8 HxW or HxWx3, with transparency HxWx2 or HxWx4; or uint16 HxW or HxWx3.
        """
        if self.deep is not None:
            here = np.s_[..., 0] if self.deep.ndim == 2 else np.s_[...]
            return self.levels.changed(self.deep, self.pixels[here], edited[here])
        if self.layered is not None:
            changed = (edited != self.pixels).any(axis=2)
            own = self.layered.copy()
            own[changed, :-1] = edited[changed][:, : own.shape[2] - 1]
            own[changed, -1] = 255
            return own
        return edited[..., 0] if self.grey else edited


def eight_bit(image: Image.Image) -> Image.Image:
    """Floating-point images, of 0 to 1 or of 0 to 255, become images of 8 bits; others pass.

    Raises:
        ValueError: levels beyond these; they would all become black or white.
    """
    if image.mode not in {"I", "F"}:
        return image
    values = np.asarray(image)
    low, high = (float(one) for one in (values.min(), values.max())) if values.size else (0.0, 0.0)
    if image.mode == "I" or not (low > -0.5 and high < 255.5):
        expected = "0 to 65535" if image.mode == "I" else "0 to 1, or 0 to 255"
        raise ValueError(f"its levels are {low:g} to {high:g}, expected {expected}")
    factor = 255.0 if high < 1.5 else 1.0  # resizing leaves values a little above 1

    def mapped(levels: NDArray[Any]) -> Pixels:
        return np.clip(np.rint(levels.astype(np.float64) * factor), 0, 255).astype(np.uint8)

    return Image.fromarray(in_parts(mapped, values))


def read_picture(path: Path, levels: Levels | None = None) -> Picture:
    """Read an image file as 8-bit RGB, as a viewer shows it: turned by its EXIF data, transparent pixels on white.

    Files of more than 8 bits keep their own values beside it (`Picture.deep`).

    Args:
        path: the file.
        levels: of a file of more than 8 bits, which are shown as black and as white; nearly its own darkest and
            brightest if left out.

    Raises:
        InputError: the file is missing, truncated, too large or no image.
    """
    opened, orientation = open_image(path)
    with _readable(opened, str(path)):
        colours = _deep_colours(path, opened, orientation)
        picture = _as_picture(opened, levels) if colours is None else Picture.from_deep(colours, levels)
        return replace(picture, orientation=orientation)


def as_picture(opened: Image.Image, what: str = "picture") -> Picture:
    """An image in memory as `read_picture` gives one from a file.

    Args:
        opened: the image.
        what: names it in messages.

    Raises:
        InputError: an image that has no colours to be seen, or levels beyond its range.
    """
    with _readable(opened, what):
        return _as_picture(opened)


@contextmanager
def _readable(opened: Image.Image, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ImageCms.PyCMSError, cv2.error) as error:
        raise InputError(
            f"{what}: an image of mode {opened.mode} that cannot be read ({error}); convert it."
        ) from error


def _as_picture(opened: Image.Image, levels: Levels | None = None) -> Picture:
    deep = _deep_grey(opened)
    if deep is not None:
        return Picture.from_deep(deep, levels)
    image = eight_bit(opened)
    grey = image.mode in {"1", "L", "LA", "La"}
    if image.has_transparency_data:
        layered = np.array(image.convert("LA" if grey else "RGBA"), dtype=np.uint8)
        if layered[..., -1].max() > 0 and layered[..., -1].min() < 255:
            return Picture(_on_white(layered), grey, layered=layered)
        image = image.convert("LA" if grey else "RGBA")  # all opaque, or a fourth channel that means nothing
    if image.mode == "CMYK":
        image = _from_ink(image)
    return Picture(np.array(image.convert("RGB"), dtype=np.uint8), grey)


def _deep_grey(image: Image.Image) -> Deep | None:
    """The levels of a grey image of 16 bits; `None` for any other."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode == "I":
        values = np.asarray(image)
        if values.size and values.min() >= 0 and values.max() <= np.iinfo(np.uint16).max:
            return values.astype(np.uint16)
    return None


def _deep_colours(path: Path, opened: Image.Image, orientation: int) -> Deep | None:
    """The levels of a colour image of 16 bits, HxWx3, which Pillow reads with 8; `None` for any other."""
    if opened.mode not in {"RGB", "RGBA"} or not _has_deep_colours(path):
        return None
    if opened.mode == "RGBA" and np.asarray(opened)[..., 3].min() < 255:
        return None  # transparent pixels are read with 8 bits
    values = cv2.imdecode(np.fromfile(path, np.uint8), DEEP_COLOURS)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        return None
    return np.ascontiguousarray(_turned(values[..., ::-1].astype(np.uint16), orientation))


def _has_deep_colours(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(26)
    if head.startswith(b"\x89PNG"):
        return head[24:26] in {b"\x10\x02", b"\x10\x06"}  # 16 bits; RGB or RGBA
    if head[:4] in {b"II*\0", b"MM\0*"}:
        with open_header(path) as image:
            bits = getattr(image, "tag_v2", {}).get(258, ())
        return isinstance(bits, tuple) and set(bits) == {16}
    return False


def _turned(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """HxWx… turned as EXIF's orientation asks for."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    rows, columns = orientation in {3, 4, 7, 8}, orientation in {2, 3, 6, 7}
    return values[:: -1 if rows else 1, :: -1 if columns else 1]


def _on_white(layered: NDArray[np.uint8]) -> Pixels:
    def over(pixels: NDArray[np.uint8]) -> Pixels:
        colours, alpha = pixels[..., :-1].astype(np.float64), pixels[..., -1:] / 255
        return np.rint(alpha * colours + (1 - alpha) * 255).astype(np.uint8)

    shown = in_parts(over, layered)
    return np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown


def _from_ink(image: Image.Image) -> Image.Image:
    """CMYK as RGB by the file's own colour profile, if it has one."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        turned = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError):
        return image
    return image if turned is None else turned


def write_labels(path: Path, labels: NDArray[np.int32]) -> None:
    """Write labels from 0 to 65535, HxW, with 8 bits if these are enough, else 16; the suffix decides the format."""
    write_image(path, label_values(labels))


def label_values(labels: NDArray[np.int32]) -> NDArray[Any]:
    """Labels as they stand in a file: in 8 bits if these are enough, else in 16."""
    return labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file as `read_picture` would return it, decoding it fully."""
    image, _ = open_image(path)
    return image.height, image.width


def is_image_file(path: Path) -> bool:
    """Whether the name has a suffix of the formats that are read."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def channel_extremes(pixels: Pixels) -> tuple[Pixels, Pixels]:
    """Brightest and darkest channel of each pixel, uint8 HxW; many times as fast as NumPy's along the last axis.

    Args:
        pixels: uint8 HxWx3, or with more channels, of which the first three count.
    """
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)


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


def write_image(path: Path, pixels: NDArray[Any], *, durable: bool = True) -> None:
    """Write uint8 or uint16 HxW or HxWx3, or uint8 with alpha HxWx2 or HxWx4, whole or not at all.

    The name's suffix decides the format.

    Args:
        path: file whose suffix is one of `WRITTEN`.
        pixels: as above.
        durable: see `atomic_file`.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    _write(path, pixels, path.suffix, durable=durable)


def write_png(path: Path, pixels: NDArray[Any]) -> None:
    """Write what `write_image` takes as PNG under any name, whole or not at all."""
    _write(path, pixels, ".png")


def _write(path: Path, pixels: NDArray[Any], suffix: str, *, durable: bool = True) -> None:
    content = image_bytes(pixels, suffix)
    with atomic_file(path, durable=durable) as file:
        file.write(content)


def image_bytes(pixels: NDArray[Any], suffix: str = ".png") -> bytes:
    """The bytes of the file that `write_image` writes."""
    name, options = WRITTEN[suffix]
    if pixels.dtype == np.uint16 and pixels.ndim == 3:  # Pillow writes no colours of 16 bits
        done, encoded = cv2.imencode(suffix, np.ascontiguousarray(pixels[..., ::-1]))
        assert done
        return bytes(encoded.tobytes())
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format=name, **options)
    return file.getvalue()


def write_mask(path: Path, mask: Mask) -> None:
    """Write a mask as a PNG of 0 and 255."""
    write_png(path, mask_values(mask))


def mask_values(mask: Mask) -> Pixels:
    """A mask as it stands in a file: 0 and 255."""
    return np.asarray(mask.astype(np.uint8) * 255)
