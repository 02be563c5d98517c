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
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from adabldm.core.depth import FULL, Deep, Levels, levels_of
from adabldm.core.errors import EmptyMaskError, InputError, OutputError

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

TEMPORARY = ".adabldm-part-"
"""Beginning of the names of files that are being written."""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {".png": ("PNG", {"compress_level": 4})}
"""Formats of written images by suffix: Pillow's name and options."""
LOSSY = frozenset({".jpg", ".jpeg", ".webp"})
ORIENTATION = 0x0112
"""EXIF's tag for how an image is turned."""
DEEP_COLOURS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
"""OpenCV's flags for BGR in the file's depth, as it is stored."""
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
        deep: own values of a file of more than 8 bits, uint16 HxW or RGB HxWx3; `None` for all others.
        levels: which of these are shown as black and as white.
        layered: own values of a file with transparent pixels, uint8 HxWx4 or HxWx2; `None` for all others.
    """

    pixels: Pixels
    grey: bool
    deep: Deep | None = None
    levels: Levels = FULL
    layered: NDArray[np.uint8] | None = None

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


def _open(path: Path) -> Image.Image:
    try:
        # By its handle: of a turned TIFF file without compression that it opens by name, Pillow 13 mixes up the sides.
        with path.open("rb") as file, Image.open(file) as image:
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


def read_picture(path: Path, levels: Levels | None = None) -> Picture:
    """Read an image file as 8-bit RGB, as a viewer shows it: turned by its EXIF data, transparent pixels on white.

    Files of more than 8 bits keep their own values beside it (`Picture.deep`).

    Args:
        path: the file.
        levels: of a file of more than 8 bits, which are shown as black and as white; nearly its own darkest and
            brightest if left out.

    Raises:
        InputError: the file is missing, truncated or no image.
    """
    opened = _open(path)
    try:
        colours = _deep_colours(path, opened)
        if colours is not None:
            return Picture.from_deep(colours, levels)
        return as_picture(opened, levels)
    except (OSError, ValueError, ImageCms.PyCMSError, cv2.error) as error:
        raise InputError(
            f"{path}: an image of mode {opened.mode} that cannot be read ({error}); convert it."
        ) from error


def as_picture(opened: Image.Image, levels: Levels | None = None) -> Picture:
    """An image in memory as `read_picture` gives one from a file."""
    deep = _deep_grey(opened)
    if deep is not None:
        return Picture.from_deep(deep, levels)
    image = eight_bit(opened)
    grey = image.mode in {"1", "L", "LA", "La"}
    if image.has_transparency_data:
        layered = np.array(image.convert("LA" if grey else "RGBA"), dtype=np.uint8)
        if layered[..., -1].max() > 0 and layered[..., -1].min() < 255:
            return Picture(_on_white(layered), grey, layered=layered)
        image = image.convert("L" if grey else "RGBA")  # all opaque, or a fourth channel that means nothing
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


def _deep_colours(path: Path, opened: Image.Image) -> Deep | None:
    """The levels of a colour image of 16 bits, HxWx3, which Pillow reads with 8; `None` for any other."""
    if opened.mode not in {"RGB", "RGBA"} or not _has_deep_colours(path):
        return None
    if opened.mode == "RGBA" and np.asarray(opened)[..., 3].min() < 255:
        return None  # transparent pixels are read with 8 bits
    values = cv2.imdecode(np.fromfile(path, np.uint8), DEEP_COLOURS)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        return None
    with path.open("rb") as file, Image.open(file) as image:
        turn = image.getexif().get(ORIENTATION, 1)
    return np.ascontiguousarray(_turned(values[..., ::-1].astype(np.uint16), turn))


def _has_deep_colours(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(26)
    if head.startswith(b"\x89PNG"):
        return head[24:26] in {b"\x10\x02", b"\x10\x06"}  # 16 bits; RGB or RGBA
    if head[:4] in {b"II*\0", b"MM\0*"}:
        with path.open("rb") as opened, Image.open(opened) as image:
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
    colours, alpha = layered[..., :-1].astype(np.float64), layered[..., -1:] / 255
    shown = np.rint(alpha * colours + (1 - alpha) * 255).astype(np.uint8)
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
    lossy = path.suffix.lower() in LOSSY
    return as_mask(_open(path), str(path), lossy=lossy, threshold=threshold, inverted=inverted)


def as_mask(
    image: Image.Image, name: str, *, lossy: bool = False, threshold: int | None = None, inverted: bool = False
) -> Mask:
    """A mask in memory as `read_mask` gives one from a file.

    Args:
        image: the mask.
        name: names it in errors.
        lossy: it was compressed as JPEG or WebP.
        threshold: see `read_mask`.
        inverted: see `read_mask`.

    Raises:
        EmptyMaskError: no defect pixel.
        InputError: not binary.
    """
    usual = _two_levels(image, inverted) if threshold is None and not lossy else None
    if usual is not None:
        return usual
    values = _mask_values(image)
    if inverted:
        values = values.max(initial=0) - values
    if values.max(initial=0) == 0:
        raise EmptyMaskError(
            f"{name}: the mask is empty, expected at least one defect pixel; draw it or remove the pair."
        )
    if threshold is not None:
        mask = values > threshold
        if not mask.any():
            raise InputError(f"{name}: no mask value is above {threshold}; lower --mask-threshold.")
        return mask
    if not lossy and _are_numbers(values):
        return values > 0
    top = int(values.max())
    between = (values > MASK_TOLERANCE) & (values < top - MASK_TOLERANCE)
    if lossy and top > 127 and between.sum() < np.count_nonzero(values * 2 > top):
        return values * 2 > top
    if top > 1 and (top <= 2 * MASK_TOLERANCE or between.any()):
        raise InputError(
            f"{name}: the mask is not binary (grey levels between 0 and {top}), expected 0 and 255; "
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
    """Write uint8 or uint16 HxW or HxWx3, or uint8 with alpha HxWx2 or HxWx4, whole or not at all.

    The name's suffix decides the format.

    Args:
        path: file whose suffix is one of `WRITTEN`.
        pixels: as above.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    _write(path, pixels, path.suffix)


def write_png(path: Path, pixels: NDArray[Any]) -> None:
    """Write what `write_image` takes as PNG under any name, whole or not at all."""
    _write(path, pixels, ".png")


def _write(path: Path, pixels: NDArray[Any], suffix: str) -> None:
    name, options = WRITTEN[suffix]
    with atomic_file(path) as file:
        if pixels.dtype == np.uint16 and pixels.ndim == 3:  # Pillow writes no colours of 16 bits
            done, encoded = cv2.imencode(suffix, np.ascontiguousarray(pixels[..., ::-1]))
            assert done
            file.write(encoded.tobytes())
        else:
            Image.fromarray(np.ascontiguousarray(pixels)).save(file, format=name, **options)


def write_mask(path: Path, mask: Mask) -> None:
    """Write a mask as a PNG of 0 and 255."""
    write_png(path, mask.astype(np.uint8) * 255)
