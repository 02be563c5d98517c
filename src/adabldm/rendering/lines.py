"""Scratches and cracks: grooves with raised edges, and dark branching fractures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adabldm.rendering.fields import Field, Points, broken_path, smooth_path, smoothstep
from adabldm.rendering.light import shade
from adabldm.rendering.scene import Colour, Layers, Scene

BROAD = 3.0
"""Half-breadth of a given mask, in px of a picture of 128 px, from which one line does not fill it."""


def _tapered(scene: Scene, count: int, width: float, sharp: float) -> NDArray[np.float64]:
    """Widths along a line that runs out at both ends, with pressure that varies and, at times, lifts off."""
    share = np.linspace(0, 1, count)
    ends = np.minimum(share / max(scene.rng.uniform(0.02, sharp), 1e-3), 1)
    ends = np.minimum(ends, (1 - share) / max(scene.rng.uniform(0.02, sharp), 1e-3))
    knots = max(3, count // 5)
    pressure = np.interp(share, np.linspace(0, 1, knots), np.exp(scene.rng.normal(0, 0.22, knots)))
    if scene.chance(0.25):
        lifted = np.interp(share, np.linspace(0, 1, knots), scene.rng.normal(0.75, 0.6, knots))
        pressure = pressure * np.clip(lifted, 0, 1)
    return np.asarray(width * np.clip(ends, 0, 1) ** 0.6 * pressure)


def _scratch_paths(scene: Scene) -> list[tuple[Points, NDArray[np.float64]]]:
    """One long scratch, a few of similar direction, or a bundle of hairlines: (points, widths) each."""
    kind = scene.rng.random()
    heading, bend = scene.rng.uniform(0, np.pi), float(scene.rng.choice([0.05, 0.25, 0.8])) * scene.rng.normal()
    length, width = scene.length(22, 130), scene.thickness(0.6, 2.2)
    if kind < 0.55:
        count, spread, turn = 1, 0.0, 0.0
    elif kind < 0.8:
        count, spread, turn = int(scene.rng.integers(2, 5)), 0.2 * length, scene.rng.uniform(0.05, 0.5)
    else:
        count, spread, turn = int(scene.rng.integers(5, 16)), scene.length(5, 16), 0.07
        width = scene.thickness(0.5, 1.1)
    paths = []
    for _ in range(count):
        own = length * (scene.rng.uniform(0.5, 1.05) if count > 1 else 1.0)
        start = scene.near(spread)
        points = smooth_path(scene.rng, start, heading + scene.rng.normal(0, turn + 1e-9), own, bend, 0.08)
        paths.append((points, _tapered(scene, len(points), width * scene.rng.uniform(0.6, 1.2), 0.45)))
    return paths


def _bared(scene: Scene) -> Colour:
    """Colour at the bottom of a scratch: brighter on dark surfaces and most often on metal, else darker."""
    tone, bright = scene.tone(), scene.brightness()
    lighter = scene.chance(0.9 if bright < 0.08 else 0.65 if bright < 0.4 else 0.3)
    if lighter:
        white = scene.rng.uniform(0.75, 1.0)
        return np.asarray(tone + scene.rng.uniform(0.25, 0.85) * (white - tone), dtype=np.float32)
    return np.asarray(tone * scene.rng.uniform(0.08, 0.5), dtype=np.float32)


def _scratched(scene: Scene) -> NDArray[np.bool_]:
    """Where a scratch is, oversampled."""
    if scene.outline is not None:
        return np.asarray(scene.outline > 0)
    drawn = np.zeros(scene.canvas.shape, np.uint8)
    for points, widths in _scratch_paths(scene):
        scene.canvas.stroke(drawn, points, widths)
    return np.asarray(drawn > 0)


def _abrasion(scene: Scene, inside: NDArray[np.bool_]) -> Layers:
    """A mask too broad for one scratch is filled with many, side by side along its longer axis."""
    canvas, rng = scene.canvas, scene.rng
    streaks = canvas.streaks(rng, inside)
    depth = canvas.distance(inside)
    body = smoothstep(depth / max(0.5, 0.25 * canvas.unit) + 0.5)
    gain, glint = shade(canvas, canvas.blur(0.5 * streaks * body, 0.3), scene.light)
    cover = canvas.reduce(body * np.clip(0.55 + 0.3 * streaks, 0.12, 1.0))
    relief = rng.uniform(0.4, 0.9)
    return Layers(
        cover, _bared(scene), np.asarray(1 + relief * (gain - 1), np.float32), np.asarray(glint * relief, np.float32)
    )


def scratch(scene: Scene) -> Layers:
    """Groove with raised edges: its flanks are shaded by their normals, its bottom shows bared material."""
    canvas, rng = scene.canvas, scene.rng
    inside = _scratched(scene)
    depth = canvas.distance(inside)
    if scene.half_breadth > BROAD * canvas.unit:
        return _abrasion(scene, inside)
    steep, burr = rng.uniform(0.4, 1.5), rng.uniform(0.0, 0.4)
    edge = max(0.5, rng.uniform(0.4, 0.8) * canvas.unit)
    height = -steep * np.clip(depth, 0, 2.5 * canvas.unit) + burr * edge * np.exp(-((np.minimum(depth, 0) / edge) ** 2))
    gain, glint = shade(canvas, canvas.blur(height, 0.3), scene.light)
    strength = float(rng.uniform(0.45, 1.0)) * (0.72 + 0.28 * np.tanh(scene.noise(4, 24)))
    cover = canvas.reduce(inside) * strength.astype(np.float32)
    relief = rng.uniform(0.3, 1.0)
    return Layers(
        cover, _bared(scene), np.asarray(1 + relief * (gain - 1), np.float32), np.asarray(glint * relief, np.float32)
    )


def _fracture(scene: Scene, drawn: NDArray[np.uint8], start: Points, end: Points, width: float, level: int = 0) -> None:
    """Draw a fracture line and, along it, branches that leave it forwards and are thinner."""
    rng = scene.rng
    points = broken_path(rng, start, end, rng.uniform(0.1, 0.24))
    share = np.linspace(0, 1, len(points))
    taper = (
        np.clip(1.08 - share, 0.05, 1) ** 0.7 if level else np.clip(np.sin(np.pi * (0.06 + 0.9 * share)), 0.1, 1) ** 0.6
    )
    widths = width * taper * np.exp(rng.normal(0, 0.28, len(points)))
    scene.canvas.stroke(drawn, points, np.maximum(widths, 0.28))
    if level >= 2:
        return
    length = float(np.hypot(*(end - start)))
    for _ in range(int(rng.poisson(1.3 if level == 0 else 0.7))):
        place = int(rng.integers(len(points) // 6, max(len(points) // 6 + 1, len(points) - 2)))
        ahead = points[min(place + 3, len(points) - 1)] - points[max(place - 3, 0)]
        angle = np.arctan2(ahead[1], ahead[0]) + rng.choice([-1, 1]) * rng.uniform(0.35, 1.1)
        reach = length * rng.uniform(0.15, 0.5)
        tip = points[place] + reach * np.array([np.cos(angle), np.sin(angle)])
        _fracture(scene, drawn, points[place], tip, width * rng.uniform(0.45, 0.8), level + 1)


def _crazing(scene: Scene, drawn: NDArray[np.uint8], width: float) -> None:
    """Net of cracks: the borders of a Voronoi partition with moved borders, within a blob."""
    canvas, rng = scene.canvas, scene.rng
    reach, count = scene.length(14, 36), int(rng.integers(6, 18))
    y, x = canvas.grid()
    bend = 0.06 * reach
    y = y + bend * canvas.noise(rng, 6, 24)
    x = x + bend * canvas.noise(rng, 6, 24)
    seeds = np.asarray(scene.centre) + rng.uniform(-1.2 * reach, 1.2 * reach, (count, 2))
    far = np.stack([np.hypot(x - seed[0], y - seed[1]) for seed in seeds])
    nearest = np.partition(far, 1, axis=0)
    fade = np.hypot(x - scene.centre[0], y - scene.centre[1]) / reach + 0.15 * canvas.noise(rng, 3, 8)
    local = width * np.clip(1.25 - fade, 0, 1) ** 0.5
    drawn[(nearest[1] - nearest[0] < local) & (fade < 1.0)] = 255


def _fractured(scene: Scene) -> tuple[NDArray[np.bool_], Field | float]:
    """Where a crack is, oversampled, and the factor of the light around it, HxW."""
    canvas, rng = scene.canvas, scene.rng
    drawn = np.zeros(canvas.shape, np.uint8)
    if scene.outline is None:
        width = scene.thickness(0.6, 2.4)
        if scene.chance(0.15):
            _crazing(scene, drawn, scene.thickness(0.6, 1.4))
        else:
            heading, length = rng.uniform(0, 2 * np.pi), scene.length(22, 120)
            arm = length / 2 * np.array([np.cos(heading), np.sin(heading)])
            middle = np.asarray(scene.centre)
            _fracture(scene, drawn, middle - arm, middle + arm, width)
        return drawn > 0, 1.0
    inside = np.asarray(scene.outline > 0)
    if scene.half_breadth <= BROAD * canvas.unit:
        return inside, 1.0
    # A broad mask is crushed: a net of cracks in a darker field.
    reach = scene.half_breadth
    y, x = canvas.grid()
    bend = 0.1 * reach
    y, x = y + bend * canvas.noise(rng, 6, 24), x + bend * canvas.noise(rng, 6, 24)
    rows, columns = np.nonzero(inside)
    count = int(np.clip(len(rows) / canvas.oversampling**2 / (7.0 * canvas.unit) ** 2, 6, 60))
    picks = rng.integers(len(rows), size=count)
    seeds = np.stack([columns[picks], rows[picks]], 1) / canvas.oversampling
    far = np.stack([np.hypot(x - seed[0], y - seed[1]) for seed in seeds])
    nearest = np.partition(far, 1, axis=0)
    net = inside & (nearest[1] - nearest[0] < scene.thickness(0.8, 1.8))
    body = canvas.reduce(smoothstep(scene.outline / 0.5 + 0.5))
    return net, np.asarray(1 - rng.uniform(0.25, 0.5) * body, np.float32)


def crack(scene: Scene) -> Layers:
    """Dark fracture with branches, or a net of them; one of its lips may catch the light."""
    canvas, rng = scene.canvas, scene.rng
    inside, crushed = _fractured(scene)
    depth = canvas.distance(inside)
    lip = rng.uniform(0, 0.35) * np.exp(-((np.minimum(depth, 0) / (0.8 * canvas.unit)) ** 2))
    height = np.where(inside, -rng.uniform(0.8, 2.0) * np.clip(depth, 0, 1.2), lip)
    step = rng.uniform(0.0, 0.5) if scene.chance(0.3) else 0.0
    if step:
        height = height + step * smoothstep(
            canvas.shifted(inside, (1.5 * scene.light.across[0], 1.5 * scene.light.across[1]))
        )
    gain, glint = shade(canvas, canvas.blur(height, 0.35), scene.light)
    dark = scene.tone() * rng.uniform(0.0, 0.14) * rng.uniform(0.8, 1.1, 3)
    strength = float(rng.uniform(0.7, 1.0)) * (0.85 + 0.15 * np.tanh(scene.noise(4, 24)))
    cover = np.clip(1.1 * canvas.reduce(inside), 0, 1) * strength
    relief = rng.uniform(0.2, 0.8)
    light: Field = np.asarray((1 + relief * (gain - 1)) * crushed, np.float32)
    return Layers(
        cover.astype(np.float32), dark.astype(np.float32), light, np.asarray(glint * relief * 0.5, np.float32)
    )
