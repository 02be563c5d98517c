"""Square windows of an image: the part that is diffused, at the model's resolution; see docs/method.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.images import Mask

CONTEXT = 2.0
"""Side of a window over the longer side of the defect in it."""
MIN_SIDE = 64
"""Smallest side of a window in source pixels: below it a defect is shown at more than its real detail."""


@dataclass(frozen=True)
class Window:
    """A square of `side` source pixels at (`top`, `left`); it may overhang the image, which is then reflected."""

    top: int
    left: int
    side: int

    def slices(self, size: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """(rows, columns) of the part inside an image of `size` (height, width): in the image, in the window."""
        inside, own = [], []
        for start, length in ((self.top, size[0]), (self.left, size[1])):
            low, high = max(start, 0), min(start + self.side, length)
            inside.append(slice(low, high))
            own.append(slice(low - start, high - start))
        return (inside[0], inside[1]), (own[0], own[1])


def crop(array: NDArray[Any], window: Window) -> NDArray[Any]:
    """Cut the window out of HxW or HxWxC; what overhangs the image is its reflection."""
    height, width = array.shape[:2]
    rows, columns = window.slices((height, width))[0]
    inside = array[rows, columns]
    bottom, right = window.top + window.side, window.left + window.side
    if inside.shape[0] == window.side and inside.shape[1] == window.side:
        return inside
    padded = cv2.copyMakeBorder(
        array.astype(np.uint8) if array.dtype == bool else array,
        max(0, -window.top), max(0, bottom - height), max(0, -window.left), max(0, right - width),
        cv2.BORDER_REFLECT_101,
    )  # fmt: skip
    top, left = max(0, window.top), max(0, window.left)
    result = padded[top : top + window.side, left : left + window.side]
    return np.asarray(result.astype(bool) if array.dtype == bool else result)


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the true pixels, ends exclusive; the mask must not be empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _start(low: int, high: int, side: int, length: int, shift: float) -> int:
    """Start of a window along one axis: around [low, high), moved by `shift` of its free play, inside if it can be."""
    if side >= length:
        return (length - side) // 2
    play = max(0.0, (side - (high - low)) / 2 - 2)
    start = round((low + high - side) / 2 + shift * play)
    return int(np.clip(start, 0, length - side))


def window_around(
    mask: Mask, *, context: float = CONTEXT, min_side: int = MIN_SIDE, rng: np.random.Generator | None = None
) -> Window:
    """The window around a defect mask: `context` times its longer side, within the image where that can be.

    Args:
        mask: bool HxW, not empty.
        context: window side over the longer side of the mask's bounding box.
        min_side: smallest side in pixels.
        rng: with it, the window is shifted at random so that the defect is not always in the middle.
    """
    top, left, bottom, right = bounding_box(mask)
    height, width = mask.shape
    longer = max(bottom - top, right - left)
    side = max(round(context * longer), min_side)
    side = max(min(side, height, width), min(longer + 8, max(height, width)))
    vertical, horizontal = rng.uniform(-0.8, 0.8, 2) if rng is not None else (0.0, 0.0)
    return Window(
        _start(top, bottom, side, height, vertical), _start(left, right, side, width, horizontal), side
    )  # fmt: skip


def random_window(size: tuple[int, int], rng: np.random.Generator, *, min_side: int = MIN_SIDE) -> Window:
    """A window anywhere in an image of `size` (height, width); its side is log-uniform up to the shorter side."""
    height, width = size
    longest = max(min(height, width), min_side)
    side = int(np.exp(rng.uniform(np.log(min_side), np.log(longest)))) if longest > min_side else longest
    starts = [
        int(rng.integers(0, length - side + 1)) if side <= length else (length - side) // 2
        for length in (height, width)
    ]
    return Window(starts[0], starts[1], side)
