"""Masks in all the forms in which tools save them, as bool HxW: True where the defect is.

One set of rules serves files and what Python hands over. What could mean two things is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adabldm.core.depth import in_parts
from adabldm.core.errors import EmptyMaskError, InputError
from adabldm.core.images import Mask, channel_extremes
from adabldm.core.opening import open_image

Values = NDArray[np.int32]

LOSSY = frozenset({"JPEG", "MPO", "WEBP"})
"""Formats whose compression leaves grey levels around a shape."""
MOST_NUMBERS = 32
"""Most instances or classes that a mask of numbers may have."""
MASK_TOLERANCE = 12
"""Grey levels within this distance of 0 or of the mask's maximum count as binary (lossy compression)."""
BLOCK = 8
"""Side of the blocks that JPEG compresses on their own, in px."""


@dataclass(frozen=True)
class MaskRules:
    """How the levels of one mask are understood.

    Attributes:
        where: names it in messages.
        threshold: grey level in 0…255 above which a pixel is defect; `None` for binary masks and numbers.
        inverted: the defect is black on white.
        lossy: the levels went through a compression that leaves grey ringing.
        advice: how a threshold is given, from a grey level; `None` where none can be given.
    """

    where: str
    threshold: int | None = None
    inverted: bool = False
    lossy: bool = False
    advice: Callable[[int], str] | None = "give --mask-threshold {}".format


def read_labels(path: Path) -> NDArray[np.int32]:
    """Read an image of labels, HxW: 0, or the number of the defect that a pixel belongs to.

    Raises:
        InputError: unreadable, or not of a single channel.
    """
    values = np.asarray(open_image(path)[0])
    if values.ndim != 2:
        raise InputError(f"{path}: {values.ndim} dimensions, expected an image of labels with one channel; restore it.")
    return values.astype(np.int32)


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
    image, _ = open_image(path)
    return mask_of_image(image, MaskRules(str(path), threshold, inverted, image.format in LOSSY))


def mask_of_image(image: Image.Image, rules: MaskRules) -> Mask:
    """The mask in an image; raises as `read_mask`."""
    usual = _two_levels(image, rules.inverted) if rules.threshold is None and not rules.lossy else None
    return _decide(_levels(image, rules), rules) if usual is None else usual


def _two_levels(image: Image.Image, inverted: bool) -> Mask | None:
    """The mask of a one-channel image that has 0 and one other level, without further tests: most masks are such."""
    if image.mode not in {"1", "L"} or image.has_transparency_data:
        return None
    levels = [level for level, count in enumerate(image.histogram()) if count]
    if len(levels) != 2 or levels[0] != 0:
        return None
    return np.asarray(np.asarray(image) == 0 if inverted else np.asarray(image) != 0)


def mask_of_array(values: NDArray[Any], rules: MaskRules) -> Mask:
    """The mask in an array, HxW, HxWx3 or HxWx4, of any type; raises as `read_mask`."""
    if values.dtype == np.bool_ and values.ndim == 2:
        return _decide(values.astype(np.int32), rules)
    if values.dtype.kind in "uif" and values.ndim == 2:
        return _decide(_whole(values, rules), rules)
    if values.dtype == np.uint8 and values.ndim == 3 and values.shape[2] in {1, 3, 4}:
        return mask_of_image(Image.fromarray(values[..., 0] if values.shape[2] == 1 else values), rules)
    raise InputError(
        f"{rules.where} of type {values.dtype} and shape {values.shape}: expected numbers HxW, or uint8 HxWx3 or "
        "HxWx4; convert it."
    )


def _levels(image: Image.Image, rules: MaskRules) -> Values:
    """Levels of a mask, HxW: grey levels, or numbers of instances or classes.

    The brightest channel counts, so that a blue or red label counts as much as a white one. Where that is the same
    everywhere, the defect is in the alpha channel, or it is coloured on white.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return _whole(np.asarray(image), rules)
    if image.mode in {"1", "L"} and "transparency" not in image.info:
        return np.asarray(image).astype(np.int32)
    if image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        alpha = np.asarray(image)[..., 3].astype(np.int32)
        if alpha.min(initial=255) < alpha.max(initial=0) and _is_in_alpha(np.asarray(image), alpha, rules):
            return alpha
    ends = channel_extremes(np.asarray(image.convert("RGB")))
    brightest, darkest = (one.astype(np.int32) for one in ends)
    if brightest.min(initial=255) > (127 if rules.lossy else 255 - MASK_TOLERANCE):
        saturation = brightest - darkest
        if saturation.max(initial=0) > (64 if rules.lossy else 2 * MASK_TOLERANCE):
            return np.asarray(saturation)
    return np.asarray(brightest)


def _is_in_alpha(pixels: NDArray[np.uint8], alpha: Values, rules: MaskRules) -> bool:
    """Whether the shape is in the alpha channel, because all that can be seen has one colour.

    Raises:
        InputError: colours and alpha both vary, and what is transparent is not black, so that the shape may be in
            either.
    """
    brightest = channel_extremes(pixels)[0]
    if np.ptp(brightest[alpha > 0]) <= MASK_TOLERANCE:
        return True
    if brightest[alpha == 0].max(initial=0) > MASK_TOLERANCE:
        raise InputError(
            f"{rules.where}: both its colours and its transparency vary, so that the defect may be in either; save it "
            "without transparency, white on black."
        )
    return False


def _whole(values: NDArray[Any], rules: MaskRules) -> Values:
    """Numbers of any type as whole levels; what is between 0 and 1 is spread over 0…255."""
    if not np.isfinite(values).all():
        raise InputError(f"{rules.where}: holds values that are not finite numbers, expected 0 and 255; convert it.")
    if values.min(initial=0) < 0:
        raise InputError(f"{rules.where}: holds negative values, expected 0 and 255; convert it.")
    broken = values.dtype.kind == "f" and not np.array_equal(values, np.rint(values))
    factor = 255.0 if broken and values.max() <= 1 else 1.0

    def whole(some: NDArray[Any]) -> Values:
        return np.minimum(np.rint(some.astype(np.float64) * factor), 2**31 - 1).astype(np.int32)

    return in_parts(whole, values)


def _decide(values: Values, rules: MaskRules) -> Mask:
    """The defect's pixels by their levels; see `read_mask`."""
    where, numbers = rules.where, values
    if values.max(initial=0) > 255:  # more than 8 bits
        values = in_parts(lambda some: np.clip(np.rint(some / 257), 0, 255).astype(np.int32), values)
    if rules.inverted:
        numbers = values = values.max(initial=0) - values
    if numbers.max(initial=0) == 0:
        raise EmptyMaskError(
            f"{where}: the mask is empty, expected at least one defect pixel; draw it or remove the pair."
        )
    if rules.threshold is not None:
        mask = values > rules.threshold
        if not mask.any():
            raise InputError(f"{where}: no mask value is above {rules.threshold}; lower --mask-threshold.")
        return np.asarray(mask)
    if not rules.lossy and _are_numbers(numbers):
        return np.asarray(numbers > 0)
    top = int(values.max())
    between = (values > MASK_TOLERANCE) & (values < top - MASK_TOLERANCE)
    faint = _has_faint_areas(values, rules.lossy)
    if not faint and rules.lossy and top > 127 and between.sum() < np.count_nonzero(values * 2 > top):
        return np.asarray(values * 2 > top)
    if faint or (top > 1 and (top <= 2 * MASK_TOLERANCE or between.any())):
        middle = (int(values.min()) + top) // 2
        raise InputError(
            f"{where}: the mask is not binary (grey levels between {values.min()} and {top}), expected 0 and 255; "
            f"convert it{'' if rules.advice is None else f', or {rules.advice(middle)}'}."
        )
    return np.asarray(values * 2 > top)


def _has_faint_areas(values: Values, lossy: bool) -> bool:
    """Whether there are flat areas that are neither background nor as bright as the rest, such as a second label.

    Compression leaves scattered levels around a shape, but none that stay the same over most of a block.
    """
    low, top, usual = int(values.min()), int(values.max()), int(np.median(values))
    low = usual if usual <= MASK_TOLERANCE else low  # a background that is not quite black
    if lossy:
        window = np.ones((BLOCK - 1, BLOCK - 1), np.uint8)
        levels = values.astype(np.uint8)
        least, most = (one(levels, window).astype(np.int16) for one in (cv2.erode, cv2.dilate))
        return bool(((most - least <= BLOCK) & (least > low + 3) & (2 * most <= top)).any())
    square = np.ones((3, 3), np.uint8)
    for level in np.unique(values[(values > low) & (values <= MASK_TOLERANCE)]):
        area = (values == level).astype(np.uint8)
        if 2 * np.count_nonzero(cv2.morphologyEx(area, cv2.MORPH_OPEN, square)) >= np.count_nonzero(area):
            return True
    return False


def _are_numbers(values: Values) -> bool:
    """Whether levels above 0 number instances or classes: few, and most pixels of each lie beside one of its own.

    What anti-aliasing or lossy compression leaves are scattered pixels of many levels. The background must be 0.
    """
    levels = _levels_in(values)
    if levels[0] != 0 or len(levels) > MOST_NUMBERS + 1:
        return False
    if len(levels) == 2:
        return True
    places = in_parts(lambda some: np.asarray(np.searchsorted(levels, some), np.uint8), values)
    counts = np.bincount(places.ravel())
    beside = np.zeros(values.shape, np.bool_)
    across, down = values[:, 1:] == values[:, :-1], values[1:] == values[:-1]
    beside[:, 1:] |= across
    beside[:, :-1] |= across
    beside[1:] |= down
    beside[:-1] |= down
    flat = np.bincount(places[beside], minlength=len(levels))[1:]
    counts = counts[1:]
    return bool(((flat >= 0.8 * counts) & (counts >= 4)).all())


def _levels_in(values: Values) -> NDArray[np.int64]:
    """All levels in ascending order; counted where that is possible, as sorting is slow."""
    low, high = int(values.min()), int(values.max())
    if high - low >= 2**16:
        ordered = np.sort(values, axis=None)
        return np.asarray(ordered[np.append(True, ordered[1:] != ordered[:-1])], np.int64)
    return np.flatnonzero(np.bincount((values - low).ravel())) + low


def looks_inverted(mask: Mask) -> bool:
    """Whether a mask has its defect in black: it covers most of the image, three corners and most of the border."""
    return bool(0.5 < np.count_nonzero(mask) / mask.size < 1 and is_frame(mask))


def is_frame(mask: Mask) -> bool:
    """Whether a mask covers three corners and three quarters of its border, as no defect does but a background."""
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    corners = sum(int(mask[row, column]) for row in (0, -1) for column in (0, -1))
    return bool(border.mean() >= 0.75 and corners >= 3)
