"""Scratches and cracks: grooves that bare the material, and dark fractures."""

from __future__ import annotations

import numpy as np

from adabldm.rendering.fields import Field, smoothstep
from adabldm.rendering.light import shade
from adabldm.rendering.scene import Colour, Layers, Scene, recessed

BROAD = 3.0
"""Half-breadth in px of a picture of 128 px from which one line does not fill an outline."""


def _bared(scene: Scene) -> Colour:
    """Colour at the bottom of a scratch: nearly white or, on bright surfaces, nearly black."""
    bright = scene.brightness
    if scene.chance(0.95 if bright < 0.12 else 0.75 if bright < 0.45 else 0.15):
        white = scene.rng.uniform(0.75, 1.0)
        return np.asarray(scene.tone + scene.rng.uniform(0.35, 0.8) * (white - scene.tone), dtype=np.float32)
    return np.asarray(scene.tone * scene.rng.uniform(0.1, 0.4), dtype=np.float32)


def scratch(scene: Scene) -> Layers:
    """Groove: its flanks are shaded by their normals, its bottom shows bared material where it was pressed hard.

    A broad outline is scuffed: many fine scratches lie side by side along its longer axis.
    """
    canvas, rng = scene.canvas, scene.rng
    broad = scene.half_breadth > BROAD * canvas.unit
    if broad:
        lines = canvas.streaks(rng, scene.inside)
        height = 0.4 * lines * scene.body(2.0 * canvas.unit)
        pressed = np.clip(0.45 + 0.3 * lines, 0.1, 1.0) * scene.body(3.0 * canvas.unit)
    else:
        height = -rng.uniform(0.5, 1.2) * np.clip(scene.depth, 0, 2.0 * canvas.unit)
        pressed = scene.body(1.0) * (0.75 + 0.25 * np.tanh(canvas.noise(rng, 3, 16)))
    gain, glint = shade(canvas, canvas.blur(height, 0.3), scene.light)
    cover = canvas.reduce(pressed) * np.float32(min(1.0, rng.uniform(0.75, 1.0) * scene.strength))
    relief = np.float32(rng.uniform(0.4, 0.9))
    return Layers(cover, _bared(scene), 1 + relief * (gain - 1), relief * glint)


def _net(scene: Scene) -> Field:
    """Lines of a broad outline that is crushed, oversampled: the borders of a Voronoi partition with moved borders."""
    canvas, rng = scene.canvas, scene.rng
    y, x = canvas.grid()
    bend = 0.1 * scene.half_breadth
    y, x = y + bend * canvas.noise(rng, 6, 24), x + bend * canvas.noise(rng, 6, 24)
    rows, columns = np.nonzero(scene.inside)
    count = int(np.clip(len(rows) / canvas.oversampling**2 / (7.0 * canvas.unit) ** 2, 6, 60))
    picks = rng.integers(len(rows), size=count)
    seeds = np.stack([columns[picks], rows[picks]], 1) / canvas.oversampling
    far = np.stack([np.hypot(x - seed[0], y - seed[1]) for seed in seeds])
    nearest = np.partition(far, 1, axis=0)
    return smoothstep(1.5 - (nearest[1] - nearest[0]) / (rng.uniform(0.8, 1.6) * canvas.unit))


def crack(scene: Scene) -> Layers:
    """Dark fracture, one of whose lips catches the light; a broad outline holds a net of them in a darker field."""
    canvas, rng = scene.canvas, scene.rng
    broad = scene.half_breadth > BROAD * canvas.unit
    dark = _net(scene) * scene.inside if broad else scene.body(0.9)
    gain, glint = shade(canvas, canvas.blur(-rng.uniform(0.5, 1.0) * dark, 0.4), scene.light)
    around = 1 - rng.uniform(0.25, 0.45) * canvas.reduce(scene.body(3 * canvas.unit)) if broad else 1.0
    cover = canvas.reduce(dark) * np.float32(min(1.0, rng.uniform(0.85, 1.0) * scene.strength))
    return Layers(
        cover, recessed(scene, 0.02, 0.12), np.asarray((1 + 0.5 * (gain - 1)) * around, np.float32), 0.3 * glint
    )
