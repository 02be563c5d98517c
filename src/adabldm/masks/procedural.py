"""Defect shapes drawn at random, for types without enough real masks (AdaBLDM, arXiv 2402.19330, trimap)."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.errors import InputError
from adabldm.core.settings.common import Recipe
from adabldm.masks.bank import DefectShape, crop_to_content

Points = NDArray[np.float64]
_SUBPIXEL_BITS = 4
ANY = (Recipe(kind="blob"), Recipe(kind="scratch"), Recipe(kind="polygon"))
"""For a type of which nothing is known."""


def draw_shape(kind: str, size_px: int, rng: np.random.Generator) -> DefectShape:
    """Draw a random defect shape.

    Args:
        kind: "blob" (smooth, like a stain), "scratch" (curved line, 1 to 4 px wide) or "polygon" (chipped, corners).
        size_px: longer side of the bounding box in pixels, at least 1.
        rng: numpy generator.

    Raises:
        InputError: unknown kind, or a size below 1.
    """
    if kind not in _KINDS:
        raise InputError(f"defect shape kind is {kind!r}, expected one of {', '.join(_KINDS)}.")
    if size_px < 1:
        raise InputError(f"defect shape size is {size_px} px, expected at least 1.")
    mask = crop_to_content(_KINDS[kind](size_px, rng) > 0)
    return DefectShape(mask, source=f"procedural {kind}", image_size=(mask.shape[0], mask.shape[1]))


def _blob(size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Radius 1 + a short random Fourier series in the angle, stretched and turned."""
    angle = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    order = np.arange(2, 7)
    phase, strength = rng.uniform(0, 2 * np.pi, order.size), rng.normal(0, 0.3, order.size) / order
    radius = np.maximum(1 + (strength * np.cos(angle[:, None] * order + phase)).sum(1), 0.2)
    return _filled(_polar(angle, radius, rng), size)


def _polygon(size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Five to ten corners at uneven angles and distances."""
    count = int(rng.integers(5, 11))
    angle = 2 * np.pi * (np.arange(count) + rng.uniform(-0.35, 0.35, count)) / count
    return _filled(_polar(angle, rng.uniform(0.5, 1.0, count), rng), size)


def _scratch(size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A line whose direction drifts slowly, at a random angle."""
    width = min(int(rng.integers(1, 5)), max(1, size // 4))
    turns = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.12, 24))
    points = _fitted(np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1), 0), size - width)
    canvas = np.zeros((size + 8, size + 8), np.uint8)
    return np.asarray(cv2.polylines(canvas, [_fixed_point(points + 3)], False, 1, width, cv2.LINE_8, _SUBPIXEL_BITS))


def _polar(angle: NDArray[np.float64], radius: NDArray[np.float64], rng: np.random.Generator) -> Points:
    """Outline points, squeezed by up to 2 along one axis and turned at random."""
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle) * rng.uniform(0.5, 1)], 1)
    turn = rng.uniform(0, 2 * np.pi)
    return np.asarray(points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]))


def _fitted(points: Points, extent: float) -> Points:
    """Points moved and scaled so that their bounding box starts at 0 and its longer side is `extent`."""
    points = points - points.min(0)
    return np.asarray(points * (extent / points.max()))


def _filled(points: Points, size: int) -> NDArray[np.uint8]:
    canvas = np.zeros((size, size), np.uint8)
    return np.asarray(cv2.fillPoly(canvas, [_fixed_point(_fitted(points, size - 1))], 1, cv2.LINE_8, _SUBPIXEL_BITS))


def _fixed_point(points: Points) -> NDArray[np.int32]:
    return np.asarray(np.rint(points * 2**_SUBPIXEL_BITS), dtype=np.int32)


_KINDS: dict[str, Callable[[int, np.random.Generator], NDArray[np.uint8]]] = {
    "blob": _blob,
    "scratch": _scratch,
    "polygon": _polygon,
}
