"""What the defect-free images of a data set look like, in a few numbers: does a run fit the images that it is given?

An image is described by colour, contrast, the energy of its texture at four scales, its direction, and how its middle
differs from its border. Images are compared as sets: a single one may be unusual, half of them are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.images import Pixels

One = TypeVar("One")

SIDE = 256
"""Longer side in px at which an image is described."""
TOLERANCES = (6.0, 3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.5, 6.0, 6.0, 4.0, 2.0, 2.0)
"""Smallest deviation of each number that counts as one: L, a and b, their deviations, four energies in dB, the
direction in dB, the darkest and brightest 5 % of L, and middle less border of L, a and b."""
KEPT = 24
"""Images of a fit that its card describes."""
COMPARED = 12
"""Images that are compared with them."""
FEWEST = 8
"""Images of a fit with fewer than this cannot tell what is usual."""
USUAL = 0.5
"""Least distance that counts as usual, in deviations: images of one object under one light are closer."""
MOST_DIFFERENCE = 1.5
"""Difference above which images show something else."""


def describe(pixels: Pixels) -> tuple[float, ...]:
    """The numbers of an image, uint8 HxWx3."""
    scale = SIDE / max(pixels.shape[:2])
    size = [max(8, round(scale * side)) for side in pixels.shape[1::-1]]
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    light = lab[..., 0]
    energies, finer = [], light
    for octave in range(4):
        coarser = cv2.GaussianBlur(light, (0, 0), 2.0**octave)
        energies.append(10 * np.log10(np.var(finer - coarser) + 0.01))
        finer = coarser
    across, down = (np.abs(np.diff(light, axis=axis)).mean() + 0.05 for axis in (1, 0))
    border = np.ones(light.shape, np.bool_)
    rows, columns = light.shape[0] // 6, light.shape[1] // 6
    border[rows : len(light) - rows, columns : light.shape[1] - columns] = False
    values = [
        *lab.mean((0, 1)),
        *lab.std((0, 1)),
        *energies,
        10 * np.log10(across / down),
        *np.percentile(light, [5, 95]),
        *(lab[~border].mean(0) - lab[border].mean(0)),
    ]
    return tuple(round(float(value), 2) for value in values)


def evenly(values: Sequence[One], count: int) -> Sequence[One]:
    """At most so many of the values, evenly chosen."""
    return [values[index * len(values) // count] for index in range(count)] if len(values) > count else values


def difference(known: Sequence[Sequence[float]], given: Sequence[Sequence[float]]) -> float | None:
    """How much farther given images are from known ones than these are from each other; about 0.6 for the same object.

    Args:
        known: descriptions of the images of a fit.
        given: those of the images to compare; their median counts.

    Returns:
        The difference, above `MOST_DIFFERENCE` for something else; `None` where too few are known, or none given.
    """
    if len(known) < FEWEST or not given:
        return None
    reference = np.asarray(known, np.float64)
    deviations = np.maximum(reference.std(0), TOLERANCES)
    between = _distances(reference, reference, deviations)
    np.fill_diagonal(between, np.inf)
    usual = max(float(np.quantile(between.min(1), 0.9)), USUAL)
    found = _distances(np.asarray(given, np.float64), reference, deviations).min(1)
    return round(float(np.median(found)) / usual, 2)


def _distances(
    first: NDArray[np.float64], second: NDArray[np.float64], deviations: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Root mean squares of the differences in deviations, a row for each of `first`."""
    steps = (first[:, None] - second[None]) / deviations
    return np.asarray(np.sqrt((steps**2).mean(2)))
