"""What a defect changes in a picture, in a few numbers; and what real defects of a type change, as ranges.

A change is measured between a picture with the defect and the same picture without it. Of a made defect both are known;
below a real one the picture is filled (`adabldm.training.real_changes`). Both are measured in the same window around
the mask and at the same size, so that they compare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from adabldm.core.images import Mask, Pixels, resize_mask, resize_pixels
from adabldm.core.scores import contrast, seam, visible_change
from adabldm.core.windows import Window, crop, window_around

Floats = NDArray[np.float32]
Interval = tuple[float, float]
"""(smallest, largest)."""

SIDE = 192
"""Longest side in px of a window in which a change is measured; larger windows are shrunk to it."""
SMALLEST = 6.0
"""Grey levels by which a pixel changes visibly on a smooth surface, as in `adabldm.rendering.render`."""
TAILS = (2.0, 98.0)
"""Percentiles between which the colours of a defect's pixels lie."""
PRIOR = 3
"""A range has the weight of so many examples before any is seen."""
CONTRAST_DEVIATION = 0.35
"""Deviation of the logarithm of a contrast or step that is expected before any example: a factor of 1.4."""
TONE_DEVIATION = 6.0
"""The same of the mean change of brightness, in grey levels."""
COLOUR_PADDING = 3.0
"""CIELAB units by which the colours of real defects are widened, and three times as much with one example."""
STRANGE = 4.0
"""CIELAB units in a and b beyond the widened colours of real defects that count as another colour."""
REACHED = 1.64
"""Deviations that a range reaches: 95 % of a normal distribution lie above its lower end."""

Lab = Annotated[float, Field(ge=-512, le=512, allow_inf_nan=False)]
"""An a or b of CIELAB, or a change of it."""
Colour = tuple[Lab, Lab, Lab, Lab]
"""(smallest a, largest a, smallest b, largest b) of CIELAB."""


class Change(BaseModel):
    """What one defect changes."""

    model_config = ConfigDict(frozen=True, extra="allow")

    contrast: float = Field(ge=0, le=1e4, allow_inf_nan=False, description="As in `adabldm.core.scores`.")
    visible: float = Field(
        ge=0, le=255, allow_inf_nan=False, description="Mean change inside the mask, in grey levels."
    )
    tone: float = Field(ge=-255, le=255, allow_inf_nan=False, description="Mean change of brightness, in grey levels.")
    share: float = Field(ge=0, le=1, allow_inf_nan=False, description="Share of the mask that changed visibly.")
    edge: float = Field(
        ge=0, le=1e6, allow_inf_nan=False, description="Step across the boundary, as `seam` in `scores`."
    )
    turned: Colour = Field(description="Change of a and b in CIELAB that all but 2 % of the mask's pixels have.")
    shown: Colour = Field(description="The a and b themselves of the same pixels.")
    brightness: float | None = Field(
        None, ge=0, le=255, allow_inf_nan=False, description="Mean grey level inside the mask; none in old records."
    )


@dataclass(frozen=True)
class Seen:
    """A window around a defect, at the size at which changes are measured.

    Attributes:
        result: with the defect, uint8 SxSx3.
        source: without it.
        mask: where it is, bool SxS.
    """

    result: Pixels
    source: Pixels
    mask: Mask


def window_size(mask: Mask) -> tuple[Window, int]:
    """The window around a mask in which a change is measured, and the side in px that it is shrunk to."""
    window = window_around(mask)
    return window, min(SIDE, window.side)


def seen_at(result: Pixels, source: Pixels, mask: Mask) -> Seen:
    """The window around a defect.

    Args:
        result: the picture with it, uint8 HxWx3.
        source: the picture without it.
        mask: where it is, bool HxW, not empty.
    """
    window, side = window_size(mask)
    pictures = [resize_pixels(crop(one, window), (side, side)) for one in (result, source)]
    return Seen(pictures[0], pictures[1], resize_mask(crop(mask, window), (side, side)))


def measure(seen: Seen) -> Change:
    """The change in a window."""
    colours, before = (_colours(one, seen.mask) for one in (seen.result, seen.source))
    difference = seen.result.astype(np.float32) - seen.source
    inside = difference[seen.mask]
    return Change(
        contrast=round(contrast(seen.result, seen.source, seen.mask), 3),
        visible=round(visible_change(seen.result, seen.source, seen.mask), 3),
        tone=round(float(inside.mean()), 3),
        share=round(float((np.abs(inside).max(axis=1) >= visible_from(seen)).mean()), 4),
        edge=round(seam(seen.result, seen.mask), 3),
        turned=_tails(colours - before),
        shown=_tails(colours),
        brightness=round(float(seen.result[seen.mask].mean()), 3),
    )


def visible_from(seen: Seen) -> float:
    """Grey levels from which a pixel's change is visible: on a rough surface the deviation of its texture."""
    change = visible_change(seen.result, seen.source, seen.mask)
    return max(SMALLEST, change / max(contrast(seen.result, seen.source, seen.mask), 1e-6) if change else SMALLEST)


def _colours(pixels: Pixels, mask: Mask) -> Floats:
    """The a and b of a mask's pixels in CIELAB, Nx2; means over 3x3 pixels, for a single pixel's colour is noise."""
    lab = cv2.cvtColor(cv2.blur(pixels, (3, 3)).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return np.asarray(lab[mask][:, 1:], dtype=np.float32)


def _tails(values: Floats) -> Colour:
    low, high = np.percentile(values, TAILS, axis=0)
    a, b = ((round(float(low[axis]), 2), round(float(high[axis]), 2)) for axis in (0, 1))
    return (*a, *b)


@dataclass(frozen=True)
class Expected:
    """What real defects of a type change, widened by a prior where examples are few.

    A number is normal around the examples' mean (contrast, visible change and step by their logarithm). Its variance is
    that of the examples and of `PRIOR` others of the deviations above: (Σ(x - m)² + PRIOR · s₀²) / (n + PRIOR - 1),
    times 1 + 1/n because the mean is known from n examples alone.

    Attributes:
        examples: at least one.
    """

    examples: Sequence[Change]

    def contrast(self) -> tuple[float, float]:
        """(mean, deviation) of the logarithm of the contrast."""
        return self._normal([_logarithm(one.contrast) for one in self.examples], CONTRAST_DEVIATION)

    def tone(self) -> tuple[float, float]:
        """(mean, deviation) of the mean change of brightness in grey levels."""
        return self._normal([one.tone for one in self.examples], TONE_DEVIATION)

    def fainter(self, change: Change) -> float:
        """Deviations of the logarithm by which the visible change is below the mean of the real ones."""
        return self._below([one.visible for one in self.examples], change.visible)

    def softer(self, change: Change) -> float:
        """Deviations of the logarithm by which the step across the boundary is below the mean of the real ones."""
        return self._below([one.edge for one in self.examples], change.edge)

    def strange(self, seen: Seen) -> float:
        """Share of a mask whose colour no real defect has, and which changed as no real defect's does."""
        padding = COLOUR_PADDING * (1 + 2 / len(self.examples))
        colours, before = (_colours(one, seen.mask) for one in (seen.result, seen.source))
        known = [_box([getattr(one, name) for one in self.examples], padding) for name in ("turned", "shown")]
        away = np.minimum(_outside(colours - before, known[0]), _outside(colours, known[1]))
        return float((away > STRANGE).mean())

    def strengths(self, own: Change) -> Interval:
        """Range of the factor by which the contrast of one of the examples may be changed.

        At most by one deviation of its type, and never beyond `REACHED` deviations from the type's mean, nor to a mean
        brightness beyond as many deviations from that of the type.
        """
        mean, deviation = self.contrast()
        at = _logarithm(own.contrast)
        low, high = _within(mean - REACHED * deviation - at, mean + REACHED * deviation - at, deviation)
        darkest, brightest = self._as_bright(own)
        return max(low, darkest), min(high, brightest)

    def tones(self, own: Change) -> Interval:
        """Range of the factor by which the mean change of brightness of one of the examples may be changed.

        What comes out lies within `REACHED` deviations of the type's mean, and so does its mean brightness: where all
        real ones are as bright as one another, as bare copper, none is made that is half as bright. The factor lies
        within -1 to 1.5.
        """
        mean, deviation = self.tone()
        if abs(own.tone) < 1:  # a factor of nearly nothing
            return 1.0, 1.0
        ends = sorted((mean + side * REACHED * deviation) / own.tone for side in (-1, 1))
        low, high = min(1.0, max(ends[0], -1.0)), max(1.0, min(ends[1], 1.5))
        darkest, brightest = self._as_bright(own)
        return max(low, darkest), min(high, brightest)

    def _as_bright(self, own: Change) -> Interval:
        """Factors of the mean change of an example at which its brightness is still one of the type's; around 1."""
        known = [one.brightness for one in self.examples if one.brightness is not None]
        if own.brightness is None or abs(own.tone) < 1 or len(known) < len(self.examples):
            return -math.inf, math.inf
        mean, deviation = self._normal(known, TONE_DEVIATION)
        ends = sorted(1 + (mean + side * REACHED * deviation - own.brightness) / own.tone for side in (-1, 1))
        return min(1.0, ends[0]), max(1.0, ends[1])

    def _below(self, known: Sequence[float], value: float) -> float:
        mean, deviation = self._normal([_logarithm(one) for one in known], CONTRAST_DEVIATION)
        return (mean - _logarithm(value)) / deviation

    def _normal(self, values: Sequence[float], usual: float) -> tuple[float, float]:
        count = len(values)
        mean = sum(values) / count
        squares = sum((one - mean) ** 2 for one in values) + PRIOR * usual**2
        return mean, math.sqrt(squares / (count + PRIOR - 1) * (1 + 1 / count))


def _logarithm(value: float) -> float:
    return math.log(max(value, 0.05))


def _within(low: float, high: float, most: float) -> Interval:
    """Factors from logarithms; 1 is always among them, because the real defect is one."""
    return math.exp(min(0.0, max(low, -most))), math.exp(max(0.0, min(high, most)))


def _box(colours: Sequence[Colour], padding: float) -> Colour:
    """What holds all of them, wider by a padding."""
    low_a, high_a, low_b, high_b = (np.array([one[place] for one in colours]) for place in range(4))
    return (
        float(low_a.min() - padding), float(high_a.max() + padding),
        float(low_b.min() - padding), float(high_b.max() + padding),
    )  # fmt: skip


def _outside(values: Floats, box: Colour) -> Floats:
    """Distance of a and b, Nx2, from a box; 0 inside."""
    low, high = np.array([box[0], box[2]], np.float32), np.array([box[1], box[3]], np.float32)
    beyond = np.maximum(np.maximum(low - values, values - high), 0)
    return np.asarray(np.hypot(beyond[:, 0], beyond[:, 1]), dtype=np.float32)
