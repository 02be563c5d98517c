"""The local direction of a surface: of its grain, its grooves or its edges."""

from __future__ import annotations

import cv2
import numpy as np

from adabldm.core.images import Mask, Pixels
from adabldm.core.windows import bounding_box

COHERENCE = 0.1
"""Below this coherence, 0 for none and 1 for parallel lines, a surface has no direction."""
FLAT = 1e-3
"""Mean squared gradient at which a surface counts as flat; rounding alone gives less."""
GAP = 3
"""Pixels around a defect that belong to its own border."""


def local_direction(pixels: Pixels, mask: Mask) -> float | None:
    """The direction of the lines around a mask, in degrees from the x axis towards the y axis, in [-90, 90].

    It is the direction of least change by the structure tensor (Bigün & Granlund, 1987) of the grey levels, over the
    surroundings of the mask, which reach as far as half its longer side and at least 8 px; `None` where the gradients
    have no direction in common. Gradients longer than their mean are shortened to it, so that an edge does not outweigh
    the grain beside it.

    Args:
        pixels: the picture, uint8 HxWx3.
        mask: bool HxW, not empty; what lies in it is left out.
    """
    top, left, bottom, right = bounding_box(mask)
    reach = max(8, max(bottom - top, right - left) // 2) + GAP
    rows, columns = slice(max(0, top - reach), bottom + reach), slice(max(0, left - reach), right + reach)
    grey = cv2.GaussianBlur(pixels[rows, columns].mean(axis=2).astype(np.float32), (0, 0), 1.0)
    around = cv2.dilate(mask[rows, columns].astype(np.uint8), np.ones((2 * GAP + 1,) * 2, np.uint8)) == 0
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0)[around], cv2.Sobel(grey, cv2.CV_32F, 0, 1)[around]
    lengths = np.hypot(across, down)
    if float(np.square(lengths).sum()) <= FLAT * max(1, len(across)):
        return None
    kept = lengths.mean() / np.maximum(lengths, lengths.mean())
    across, down = across * kept, down * kept
    xx, yy, xy = (float((first * second).sum()) for first, second in ((across, across), (down, down), (across, down)))
    if np.hypot(xx - yy, 2 * xy) / (xx + yy) < COHERENCE:
        return None
    gradient = np.rad2deg(np.arctan2(2 * xy, xx - yy)) / 2
    return float(gradient - 90 if gradient > 0 else gradient + 90)


def main_axis(mask: Mask) -> float:
    """The direction in which a non-empty mask extends most, in degrees from the x axis towards the y axis."""
    rows, columns = np.nonzero(mask)
    if len(rows) < 2:
        return 0.0
    (xx, xy), (_, yy) = np.cov(np.stack([columns, rows]))
    return float(np.rad2deg(np.arctan2(2 * xy, xx - yy)) / 2)
