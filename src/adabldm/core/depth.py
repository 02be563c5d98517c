"""Pictures of more than 8 bits: which of their levels the model sees as black and as white."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Deep = NDArray[np.uint16]
HIGHEST = 65535
TAIL = 1e-4
"""Share of all pixels that may be darker than black, and brighter than white."""
DEFECT_TAIL = 0.02
"""The same of the defects' pixels, which may be few and the darkest or brightest of all."""
PART = 2**16
"""Pixels that are computed at a time."""


def in_parts(function: Callable[..., NDArray[Any]], *images: NDArray[Any]) -> NDArray[Any]:
    """What a function makes of images, from some of their pixels at a time, so that its own memory stays small.

    Args:
        function: takes an array Nx… of pixels of each image and returns one of N pixels; each pixel counts for itself.
        images: HxW or HxWxC, of one height and width.

    Returns:
        HxW or HxWxC, of the type and with the channels that the function returns.
    """
    size = images[0].shape[:2]
    pixels = [one.reshape(-1, *one.shape[2:]) for one in images]
    first = function(*(one[:PART] for one in pixels))
    result = np.empty((len(pixels[0]), *first.shape[1:]), first.dtype)
    result[:PART] = first
    for start in range(PART, len(result), PART):
        result[start : start + PART] = function(*(one[start : start + PART] for one in pixels))
    return result.reshape(*size, *first.shape[1:])


class Levels(NamedTuple):
    """Levels of a file of up to 16 bits and the 8 bits that models see.

    Attributes:
        low: level that is shown as 0; those below it too.
        high: level that is shown as 255; those above it too.
        step: all levels are multiples of it: 16 where 12 bits fill the upper ones of 16.
    """

    low: int
    high: int
    step: int = 1

    @property
    def grey_level(self) -> float:
        """Levels of the file for one of 8 bits."""
        return (self.high - self.low) / 255

    def shown(self, deep: Deep) -> NDArray[np.uint8]:
        """Levels as 8 bits."""
        return in_parts(self._shown, deep)

    def changed(self, deep: Deep, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> Deep:
        """The levels with a change of the 8 bits added; they stay exact where nothing changed.

        Args:
            deep: own levels.
            before: `shown(deep)`.
            after: the same, edited.
        """
        return in_parts(self._changed, deep, before, after)

    def _shown(self, deep: Deep) -> NDArray[np.uint8]:
        return np.clip(np.rint((deep.astype(np.float64) - self.low) / self.grey_level), 0, 255).astype(np.uint8)

    def _changed(self, deep: Deep, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> Deep:
        change = (after.astype(np.float64) - before) * self.grey_level
        levels = np.clip(np.clip(deep, self.low, self.high) + change, self.low, self.high)
        rounded = np.clip(np.rint(levels / self.step) * self.step, 0, HIGHEST // self.step * self.step)
        return np.where(after == before, deep, rounded).astype(np.uint16)


FULL = Levels(0, HIGHEST)


def check_levels(levels: Levels) -> Levels:
    """Levels from a file, if they can be.

    Raises:
        ValueError: they cannot.
    """
    if not (0 <= levels.low < levels.high <= HIGHEST and 1 <= levels.step <= HIGHEST):
        raise ValueError(f"{list(levels)} was given, expected black below white within 0 to {HIGHEST}, and a step")
    return levels


class LevelCounter:
    """Counts the levels of pictures; threads may add to it."""

    def __init__(self) -> None:
        self._all = np.zeros(HIGHEST + 1, np.int64)
        self._defects = np.zeros(HIGHEST + 1, np.int64)
        self._lock = threading.Lock()

    def add(self, deep: Deep, defect: NDArray[np.bool_] | None = None) -> None:
        """Count a picture, HxW or HxWx3, and once more the pixels of its defects."""
        levels = np.bincount(deep.ravel(), minlength=HIGHEST + 1)
        own: Any = 0 if defect is None else np.bincount(deep[defect].ravel(), minlength=HIGHEST + 1)
        with self._lock:
            self._all += levels
            self._defects += own

    def levels(self) -> Levels | None:
        """Nearly the darkest and nearly the brightest level of all, and of the defects; `None` without any picture."""
        if not self._all.any():
            return None
        low, high = _tails(self._all, TAIL)
        if self._defects.any():
            darkest, brightest = _tails(self._defects, DEFECT_TAIL)
            low, high = min(low, darkest), max(high, brightest)
        used = int(np.bitwise_or.reduce(np.flatnonzero(self._all)))
        return Levels(low, high, max(1, used & -used)) if low < high else FULL


def levels_of(*pictures: Deep) -> Levels:
    """The levels of pictures in hand, HxW or HxWx3 each."""
    counter = LevelCounter()
    for one in pictures:
        counter.add(one)
    return counter.levels() or FULL


def _tails(counts: NDArray[np.int64], share: float) -> tuple[int, int]:
    """The levels below and above which this share of the counted pixels lies."""
    total, below = int(counts.sum()), np.cumsum(counts)
    return int(np.searchsorted(below, share * total, "right")), int(np.searchsorted(below, (1 - share) * total, "left"))
