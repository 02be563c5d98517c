"""Where a defect of each type is: its outline, as a bool array on the oversampled grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from adabldm.rendering.fields import Field, Points, blob, broken_path, smooth_path
from adabldm.rendering.scene import Place

Inside = NDArray[np.bool_]


def _scratch(place: Place) -> Inside:
    """One long line, a few of similar direction, or a bundle of hairlines; each runs out at both ends."""
    rng, drawn = place.rng, place.empty()
    heading, bend = rng.uniform(0, np.pi), float(rng.choice([0.05, 0.2, 0.5])) * rng.normal()
    length, width = place.length(40, 115), place.thickness(0.9, 1.7)
    count, spread, turn = 1, 0.0, 0.0
    kind = rng.random()
    if kind > 0.8:
        count, spread, turn = int(rng.integers(4, 11)), place.length(4, 12), 0.06
    elif kind > 0.55:
        count, spread, turn = int(rng.integers(2, 4)), 0.15 * length, rng.uniform(0.05, 0.4)
    for _ in range(count):
        own = length * (rng.uniform(0.5, 1.0) if count > 1 else 1.0)
        points = smooth_path(rng, place.near(spread), heading + turn * rng.normal(), own, bend, 0.05)
        share = np.linspace(0, 1, len(points))
        taper = np.clip(np.minimum(share, 1 - share) / rng.uniform(0.05, 0.4), 0.3, 1)
        place.canvas.stroke(drawn, points, width * rng.uniform(0.7, 1.0) * taper)
    return drawn > 0


def _fracture(place: Place, drawn: NDArray[np.uint8], start: Points, end: Points, width: float, level: int = 0) -> None:
    """Draw a fracture line and, along it, branches that leave it forwards and are thinner."""
    rng = place.rng
    points = broken_path(rng, start, end, rng.uniform(0.1, 0.22))
    share = np.linspace(0, 1, len(points))
    taper = np.clip(1.08 - share, 0.2, 1) if level else np.clip(np.sin(np.pi * (0.1 + 0.85 * share)), 0.3, 1) ** 0.6
    place.canvas.stroke(drawn, points, np.maximum(width * taper * np.exp(rng.normal(0, 0.2, len(points))), 0.5))
    if level >= 2:
        return
    length = float(np.hypot(*(end - start)))
    for _ in range(int(rng.poisson(1.3 if level == 0 else 0.7))):
        at = int(rng.integers(len(points) // 6, max(len(points) // 6 + 1, len(points) - 2)))
        ahead = points[min(at + 3, len(points) - 1)] - points[max(at - 3, 0)]
        angle = np.arctan2(ahead[1], ahead[0]) + rng.choice([-1, 1]) * rng.uniform(0.35, 1.0)
        tip = points[at] + length * rng.uniform(0.15, 0.5) * np.array([np.cos(angle), np.sin(angle)])
        _fracture(place, drawn, points[at], tip, width * rng.uniform(0.5, 0.8), level + 1)


def _crack(place: Place) -> Inside:
    """A branching fracture line."""
    heading, length, drawn = place.rng.uniform(0, 2 * np.pi), place.length(35, 110), place.empty()
    arm = length / 2 * np.array([np.cos(heading), np.sin(heading)])
    middle = np.asarray(place.centre)
    _fracture(place, drawn, middle - arm, middle + arm, place.thickness(0.8, 1.7))
    return drawn > 0


def _scatter(place: Place, count: int, spread: float, radius: tuple[float, float], roughness: float) -> Inside:
    """Blobs around the centre, the first of them in it."""
    depth: Field = np.full(place.canvas.shape, -1.0, np.float32)
    for index in range(count):
        size = max(1.0, place.length(*radius))
        centre = place.centre if index == 0 else place.near(spread)
        stretch = place.rng.uniform(1, 1.7)
        own = blob(place.canvas, place.rng, centre, size, roughness=roughness, elongation=stretch)
        depth = np.maximum(depth, own)
    return np.asarray(depth > 0)


def _pit(place: Place) -> Inside:
    """One small crater or a cluster."""
    rough = place.rng.uniform(0.04, 0.16)
    if place.rng.random() < 0.4:
        return _scatter(place, 1, 0.0, (3.5, 8.0), rough)
    return _scatter(place, int(place.rng.integers(3, 12)), place.length(8, 22), (1.2, 4.0), rough)


def _round(place: Place, radius: tuple[float, float], roughness: float, elongation: float) -> Inside:
    stretch = float(np.exp(place.rng.uniform(0, np.log(elongation))))
    size = place.length(*radius)
    own = blob(place.canvas, place.rng, place.centre, size, roughness=roughness, elongation=stretch)
    return np.asarray(own > 0)


def _dent(place: Place) -> Inside:
    return _round(place, (12, 30), place.rng.uniform(0.02, 0.1), 2.0)


def _hole(place: Place) -> Inside:
    """A drilled hole, or a torn opening."""
    if place.rng.random() < 0.6:
        return _round(place, (5, 18), 0.015, 1.2)
    return _round(place, (6, 18), place.rng.uniform(0.1, 0.25), 1.8)


def _chip(place: Place) -> Inside:
    """A broken-out piece: a polygon whose sides are uneven, partly concave."""
    rng, radius = place.rng, place.length(7, 24)
    count = int(rng.integers(6, 12))
    angle = 2 * np.pi * (np.arange(count) + rng.uniform(-0.35, 0.35, count)) / count
    far = radius * rng.uniform(0.6, 1.2, count)
    flat, turn = rng.uniform(0.5, 1), rng.uniform(0, 2 * np.pi)
    corners = np.stack([far * np.cos(angle), flat * far * np.sin(angle)], 1)
    corners = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    sides = [
        broken_path(rng, start, end, 0.09)[:-1] for start, end in zip(corners, np.roll(corners, -1, 0), strict=True)
    ]
    return place.canvas.polygon(np.concatenate(sides) + np.asarray(place.centre))


def _patch(
    place: Place, radius: tuple[float, float], ragged: float, finest: float, rough: tuple[float, float] = (0.08, 0.25)
) -> Inside:
    """An irregular patch; with islands and bays where it is `ragged`, far from a disc where it is `rough`."""
    canvas, rng, size = place.canvas, place.rng, place.length(*radius)
    stretch = float(np.exp(rng.uniform(0, 0.8)))
    depth = blob(canvas, rng, place.centre, size, roughness=rng.uniform(*rough), elongation=stretch)
    for _ in range(int(rng.integers(0, 3))):
        more = blob(canvas, rng, place.near(0.8 * size), size * rng.uniform(0.3, 0.7), roughness=0.8 * rough[1])
        depth = np.maximum(depth, more)
    noise = canvas.noise(rng, 128 * canvas.unit / max(size, 4.0), finest, 0.62)
    return np.asarray(depth + ragged * size * noise > 0)


def _stain(place: Place) -> Inside:
    return _patch(place, (8, 30), place.rng.uniform(0.02, 0.08), 16, (0.04, 0.14))


def _corrosion(place: Place) -> Inside:
    return _patch(place, (9, 30), place.rng.uniform(0.12, 0.3), 64)


def _peeling(place: Place) -> Inside:
    return _patch(place, (9, 30), place.rng.uniform(0.06, 0.16), 48)


def _contamination(place: Place) -> Inside:
    """A fibre, a particle or a scatter of dust; the shadow of each included."""
    rng, kind = place.rng, place.rng.random()
    if kind > 0.75:
        return _scatter(place, int(rng.integers(5, 16)), place.length(8, 24), (1.0, 2.6), 0.2)
    if kind > 0.5:
        return _round(place, (3, 9), rng.uniform(0.08, 0.22), 1.8)
    length, drawn = place.length(45, 130), place.empty()
    points = smooth_path(
        rng, place.centre, rng.uniform(0, 2 * np.pi), length, 2.2 * rng.normal(), rng.uniform(0.5, 2.2)
    )
    place.canvas.stroke(drawn, points, np.full(len(points), place.thickness(1.6, 2.8)))
    return drawn > 0


OUTLINES: Mapping[str, Callable[[Place], Inside]] = MappingProxyType(
    {
        "scratch": _scratch,
        "crack": _crack,
        "pit": _pit,
        "dent": _dent,
        "hole": _hole,
        "chip": _chip,
        "stain": _stain,
        "corrosion": _corrosion,
        "contamination": _contamination,
        "peeling": _peeling,
    }
)
