"""The picture without its defect, guessed: a control branch that reads clean latents needs one for every real defect.

The defect and what surrounds it closely are replaced by the part of a picture that goes on best where it ends: donors
are compared on a ring around it, and the difference at the border is carried inwards smoothly (a membrane, as in Pérez,
Gangnet and Blake, SIGGRAPH 2003). Where no donor goes on well, as between the lines of a circuit, the surroundings are
continued alone (Telea, Journal of Graphics Tools 2004, OpenCV's). Other donors are drawn at every call, so that a
branch cannot learn what a fill looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.images import Mask, Pixels, resize_pixels
from adabldm.core.windows import Window, crop

Floats = NDArray[np.float32]

DONORS = 24
"""Windows that are compared: half of them of good pictures, half of the same picture."""
BEST = 3
"""One of so many best ones is taken."""
GROW = (1 / 64, 1 / 20)
"""Range of the margin around the mask, as a share of the window's side: shadows and blur lie outside of masks."""
RING = 1 / 8
"""Width of the ring around it that donors are compared on, as a share of the window's side."""
COMPARED = 32
"""Side in px at which donors are compared."""
FITS = 14.0
"""Grey levels: a donor that deviates by more on the ring does not go on well."""
TELEA = 5.0
"""Radius in px of Telea's method."""


@dataclass(frozen=True)
class _Donor:
    """A window of a picture, turned by `turns` quarters and, from 4 on, mirrored."""

    picture: Pixels
    window: Window
    turns: int = 0

    def pixels(self, side: int) -> Pixels:
        """Its pixels, uint8 SxSx3 for a side S."""
        own = np.rot90(resize_pixels(crop(self.picture, self.window), (side, side)), self.turns % 4)
        return np.ascontiguousarray(own[:, ::-1] if self.turns >= 4 else own)


@dataclass(frozen=True)
class Filler:
    """Fills the defects of windows.

    Attributes:
        good: defect-free pictures, at least one.
    """

    good: Sequence[Pixels]

    def fill(
        self, picture: Pixels, mask: Mask, window: Window, seen: tuple[Pixels, Mask], rng: np.random.Generator
    ) -> Pixels:
        """A window of a picture without its defects.

        Args:
            picture: uint8 HxWx3.
            mask: all of its defects, bool HxW.
            window: the part that is seen.
            seen: that part at the model's resolution, uint8 RxRx3, and its defects, bool RxR.
            rng: chooses margin and donors.
        """
        pixels, shape = seen
        if not shape.any():
            return pixels
        side = len(shape)
        hidden = _grown(shape, max(1, round(side * rng.uniform(*GROW))))
        donors = [self._anywhere(window, rng) for _ in range(DONORS // 2)]
        donors += [found for _ in range(DONORS // 2) if (found := _shifted(picture, mask, window, rng)) is not None]
        ring = _grown(hidden, max(2, round(side * RING))) & ~hidden
        costs = [_cost(one.pixels(COMPARED), pixels, ring) for one in donors]
        order = np.argsort(costs, kind="stable")[:BEST]
        pick = int(order[int(rng.integers(len(order)))])
        if ring.any() and costs[pick] > FITS:
            pick = int(order[0])
        if ring.any() and costs[pick] > FITS:
            return np.asarray(cv2.inpaint(pixels, hidden.astype(np.uint8), TELEA, cv2.INPAINT_TELEA), dtype=np.uint8)
        donor = donors[pick].pixels(side).astype(np.float32)
        filled = donor + (continued(pixels - donor, ~hidden) if ring.any() else 0)
        soft = np.maximum(cv2.GaussianBlur(hidden.astype(np.float32), (0, 0), 1.0), hidden)[..., None]
        return np.asarray(np.clip(np.rint(pixels + soft * (filled - pixels)), 0, 255), dtype=np.uint8)

    def _anywhere(self, window: Window, rng: np.random.Generator) -> _Donor:
        """A window of a good picture: about where the defect is, or anywhere and turned over."""
        picture = self.good[int(rng.integers(len(self.good)))]
        if rng.random() < 0.5:
            reach = max(1, window.side // 8)
            down, right = (int(rng.integers(-reach, reach + 1)) for _ in range(2))
            return _Donor(picture, Window(window.top + down, window.left + right, window.side))
        top, left = (int(rng.integers(max(1, length - window.side + 1))) for length in picture.shape[:2])
        return _Donor(picture, Window(top, left, window.side), int(rng.integers(8)))


def _shifted(picture: Pixels, mask: Mask, window: Window, rng: np.random.Generator) -> _Donor | None:
    """The window moved within its own picture, so that no defect covers the place of one; `None` if one does."""
    height, width = mask.shape
    own = crop(mask, window)
    rows, columns = np.nonzero(own)
    # The defect may move to anywhere where it stays in the picture.
    low = rows.min() + window.top, columns.min() + window.left
    high = rows.max() + window.top, columns.max() + window.left
    down, right = (
        int(rng.integers(-max(0, int(start)), max(1, length - int(end))))
        for start, end, length in zip(low, high, (height, width), strict=True)
    )
    moved = Window(window.top + down, window.left + right, window.side)
    reach = max(1, window.side // 24)
    around = cv2.dilate(own.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)) > 0
    return None if (crop(mask, moved) & around).any() else _Donor(picture, moved)


def continued(values: Floats, known: Mask) -> Floats:
    """Values continued smoothly from where they are known, HxWxC: means of ever larger surroundings."""
    weight = known.astype(np.float32)
    return np.where(known[..., None], values, _pulled(values * weight[..., None], weight))


def _pulled(weighted: Floats, weight: Floats) -> Floats:
    """Weighted values, and where their weight is below 1 as much of those at half the size."""
    height, width = weight.shape
    if max(height, width) <= 2:
        mean = weighted.sum((0, 1)) / max(float(weight.sum()), 1e-6)
        return np.asarray(np.broadcast_to(mean, weighted.shape), dtype=np.float32)
    size = (max(1, width // 2), max(1, height // 2))
    below = cv2.resize(weighted, size, interpolation=cv2.INTER_AREA)
    cover = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(_pulled(below, cover), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(weighted + (1 - weight)[..., None] * coarse, dtype=np.float32)


def _cost(donor: Pixels, pixels: Pixels, ring: Mask) -> float:
    """Root of the mean squared difference on the ring, in grey levels; of the mean, which is corrected, a quarter."""
    weights = _small(ring.astype(np.float32))
    difference = donor.astype(np.float32) - _small(pixels.astype(np.float32))
    total = max(float(weights.sum()), 1e-6)
    mean = (difference * weights[..., None]).sum((0, 1)) / total
    deviation = ((difference - mean) ** 2 * weights[..., None]).sum((0, 1)) / total
    return float(np.sqrt((deviation + mean**2 / 16).mean()))


def _small(values: Floats) -> Floats:
    return np.asarray(cv2.resize(values, (COMPARED, COMPARED), interpolation=cv2.INTER_AREA), dtype=np.float32)


def _grown(mask: Mask, radius: int) -> Mask:
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), reach) > 0)
