"""Scores of one edit, from saved pixels alone.

Images are uint8 RGB, HxWx3; masks are bool, HxW, True where the defect is. A grey value is the mean of the channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.errors import EmptyMaskError, InputError
from adabldm.core.images import Mask, Pixels
from adabldm.core.windows import bounding_box

Area = tuple[slice, slice]
"""Rows and columns."""

BEST_PSNR = 100.0
"""dB; stands for equal pixels too, so that a score is always finite (one grey level everywhere is 48.1 dB)."""
REACH = 8
"""Pixels, Euclidean: how far the surroundings of a boundary or of a mask go."""
MARGIN = 24
"""Pixels around the mask's bounding box that are looked at; more than `REACH` and half of `TEXTURE_BOX` together."""
TEXTURE_BOX = 15
"""Side in pixels of the box blur that is taken off an image, so that its texture stays and its shading goes."""
MIN_STEP = 0.01
"""Grey levels: on flatter surroundings than this, the seam's two steps are raised to it."""
MIN_RING_CHANGE = 0.25
"""Grey levels: smallest change of the ring that edit strength divides by, so that an exact background is finite."""
MIN_TEXTURE = 1.0
"""Grey levels: smallest texture that the contrast divides by, so that a smooth surface is finite."""


@dataclass(frozen=True)
class Scores:
    """Scores of one result against its source.

    Attributes:
        background_psnr: dB outside the mask, at most `BEST_PSNR`.
        seam: step across the mask's boundary over the steps beside it; 1 = invisible.
        edit_strength: change inside the mask over the change around it.
        visible_change: mean absolute change inside the mask, in grey levels.
        contrast: the visible change over the deviation of the source's texture there.
    """

    background_psnr: float
    seam: float
    edit_strength: float
    visible_change: float
    contrast: float


def score(result: Pixels, source: Pixels, mask: Mask, changed: Area | None = None) -> Scores:
    """All scores of a result.

    Args:
        result: the edited image, uint8 HxWx3.
        source: the image before the edit, uint8 HxWx3.
        mask: the saved mask, bool HxW, not empty.
        changed: see `background_psnr`.

    Raises:
        EmptyMaskError: the mask is empty.
        InputError: the sizes differ.
    """
    psnr = background_psnr(result, source, mask, changed)
    area = _surroundings(mask)
    result, source, mask = result[area], source[area], mask[area]
    return Scores(
        background_psnr=psnr,
        seam=seam(result, mask),
        edit_strength=edit_strength(result, source, mask),
        visible_change=visible_change(result, source, mask),
        contrast=contrast(result, source, mask),
    )


def background_psnr(result: Pixels, source: Pixels, mask: Mask, changed: Area | None = None) -> float:
    """Peak signal-to-noise ratio outside the mask in dB, over all three channels, peak 255.

    It is capped at `BEST_PSNR`, which equal pixels (or no pixel outside the mask) get too. With `changed`, rows and
    columns beyond which the result is known to be the source, only these are compared: the value is the same, and
    its cost does not grow with the image.
    """
    _check_sizes(mask, result, source)
    area = changed or (slice(None), slice(None))
    squares = _squares(result[area], source[area], ~mask[area])
    return _psnr(squares, mask.size - int(np.count_nonzero(mask)))


def defect_fidelity(adapted: Pixels, unadapted: Pixels, mask: Mask) -> float:
    """Peak signal-to-noise ratio in dB inside the mask, of the adapted against the unadapted decoding; capped alike."""
    _check_sizes(mask, adapted, unadapted)
    area = _surroundings(mask)
    return _psnr(_squares(adapted[area], unadapted[area], mask[area]), int(np.count_nonzero(mask)))


def seam(result: Pixels, mask: Mask) -> float:
    """How far the mask's boundary stands out: 1 = like its surroundings, above = a visible edge.

    A pair is two 4-neighbours, its step the absolute difference of their grey values. A pair crosses when one of
    its pixels is in the mask and the other is not; the pixels of crossing pairs are the boundary pixels. The seam is
    the mean step of the crossing pairs over the mean step of the other pairs whose pixels both lie within `REACH`
    (Euclidean, inclusive) of a boundary pixel. Without a boundary it is 1.
    """
    _check_sizes(mask, result)
    area = _surroundings(mask)
    inside, grey = mask[area], _grey(result[area])
    boundary = _boundary(inside)
    if not boundary.any():
        return 1.0
    near = _distance(boundary) <= REACH
    crossing, beside = [], []
    for axis in (0, 1):
        step = np.abs(np.diff(grey, axis=axis))
        crosses = np.diff(inside, axis=axis)
        both_near = np.logical_and(*_neighbours(near, axis))
        crossing.append(step[crosses])
        beside.append(step[both_near & ~crosses])
    return _step_ratio(_mean(np.concatenate(crossing)), _mean(np.concatenate(beside)))


def edit_strength(result: Pixels, source: Pixels, mask: Mask) -> float:
    """Mean absolute change inside the mask over that in the ring around it.

    The ring holds the pixels outside the mask within `REACH` (Euclidean, inclusive) of it. Its change counts as
    `MIN_RING_CHANGE` at least, also where there is no ring.
    """
    _check_sizes(mask, result, source)
    area = _surroundings(mask)
    ring = _around(mask[area]) & ~mask[area]
    around = _mean_change(result[area], source[area], ring)
    return visible_change(result, source, mask) / max(around, MIN_RING_CHANGE)


def visible_change(result: Pixels, source: Pixels, mask: Mask) -> float:
    """Mean absolute change inside the mask over all three channels, in grey levels (0…255)."""
    _check_sizes(mask, result, source)
    area = _surroundings(mask)
    return _mean_change(result[area], source[area], mask[area])


def contrast(result: Pixels, source: Pixels, mask: Mask) -> float:
    """The visible change over the source's texture, so that a rough surface asks for a stronger defect.

    Texture is the standard deviation of the source's grey values less their 15x15 box blur, over the mask and the
    pixels within `REACH` of it; `MIN_TEXTURE` at least.
    """
    _check_sizes(mask, result, source)
    area = _surroundings(mask)
    grey = _grey(source[area])
    detail = grey - cv2.blur(grey, (TEXTURE_BOX, TEXTURE_BOX))
    texture = float(detail[_around(mask[area])].std())
    return visible_change(result, source, mask) / max(texture, MIN_TEXTURE)


def _check_sizes(mask: Mask, *images: Pixels) -> None:
    wrong = [image.shape for image in images if image.shape != (*mask.shape, 3)]
    if wrong:
        raise InputError(f"image has shape {wrong[0]}, its mask {mask.shape}; give images of the mask's size, HxWx3.")
    kinds = [image.dtype for image in images if image.dtype != np.uint8]
    if kinds:  # the score of a NaN is no score
        raise InputError(f"image of {kinds[0]}, expected uint8; round finite values to 0…255 first.")


def _surroundings(mask: Mask) -> tuple[slice, slice]:
    """Rows and columns of the mask's bounding box with `MARGIN`: no score of the defect depends on more."""
    if not mask.any():
        raise EmptyMaskError("the mask is empty, expected at least one defect pixel to score.")
    top, left, bottom, right = bounding_box(mask)
    return slice(max(0, top - MARGIN), bottom + MARGIN), slice(max(0, left - MARGIN), right + MARGIN)


def _squares(first: Pixels, second: Pixels, where: Mask) -> float:
    """Sum of the squared differences; exact, because they are whole numbers."""
    return float(cv2.norm(first, second, cv2.NORM_L2SQR, where.astype(np.uint8)))


def _psnr(squares: float, count: int) -> float:
    """In dB, of so many pixels of three channels."""
    return min(BEST_PSNR, 10 * math.log10(255**2 * 3 * count / squares)) if squares else BEST_PSNR


def _mean_change(first: Pixels, second: Pixels, where: Mask) -> float:
    total = cv2.norm(first, second, cv2.NORM_L1, where.astype(np.uint8))
    return float(total) / max(1, 3 * int(np.count_nonzero(where)))


def _grey(pixels: Pixels) -> NDArray[np.float64]:
    return np.asarray(pixels.mean(axis=2, dtype=np.float64))


def _boundary(inside: Mask) -> Mask:
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return np.asarray(cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_GRADIENT, cross) > 0)


def _distance(zone: Mask) -> NDArray[np.float32]:
    """Euclidean distance in pixels to the nearest true pixel of a non-empty zone."""
    return np.asarray(cv2.distanceTransform((~zone).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))


def _around(inside: Mask) -> Mask:
    return np.asarray(_distance(inside) <= REACH)


def _neighbours(array: Mask, axis: int) -> tuple[Mask, Mask]:
    """The first and the second pixel of every pair along an axis."""
    return (array[:-1], array[1:]) if axis == 0 else (array[:, :-1], array[:, 1:])


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else 0.0


def _step_ratio(across: float, beside: float) -> float:
    if beside < MIN_STEP:
        across, beside = max(across, MIN_STEP), MIN_STEP
    return across / beside
