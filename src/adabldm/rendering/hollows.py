"""Pits, dents, holes and chips: what is missing from a surface or pressed into it."""

from __future__ import annotations

import numpy as np

from adabldm.rendering.fields import Field
from adabldm.rendering.light import cast_shadow, gradient, shade
from adabldm.rendering.scene import Layers, Scene, recessed

WALL_STEPS = 12
"""Outlines that the wall of a hole is drawn from."""


def dent(scene: Scene) -> Layers:
    """Shallow bowl with a rounded shoulder and a slight rim: light, glints and the texture's run change."""
    canvas, rng, radius = scene.canvas, scene.rng, scene.half_breadth
    level = scene.canvas.membrane(scene.inside)
    y, x = canvas.grid()
    turn = rng.uniform(0, 2 * np.pi)  # struck from one side: one wall is steeper
    rows, columns = np.nonzero(scene.inside)
    side = (x - columns.mean() / canvas.oversampling) * np.cos(turn) + (y - rows.mean() / canvas.oversampling) * np.sin(
        turn
    )
    level = np.clip(level * (1 + rng.uniform(0.0, 0.35) * side / radius), 0, 1.3)
    shoulder = rng.uniform(0.05, 0.25)
    bowl = level**2 / (level + shoulder)
    rim = rng.uniform(0.0, 0.06) * np.exp(-(((level - 0.06) / 0.05) ** 2)) * (level > 0)
    deep = radius * float(np.exp(rng.uniform(np.log(0.16), np.log(0.34)))) * scene.strength
    height = canvas.blur(deep * (rim - bowl), max(0.6, 0.04 * radius))
    gain, glint = shade(canvas, height, scene.light, reach=radius)
    floor = canvas.reduce(np.clip(level, 0, 1))
    gain = gain * (1 - min(0.5, rng.uniform(0.07, 0.16) * scene.strength**2) * floor)
    bend = rng.uniform(2.0, 5.0) * canvas.unit
    slope_x, slope_y = (np.asarray(bend * canvas.reduce(part), np.float32) for part in gradient(canvas, height))
    return Layers(gain=np.asarray(gain, np.float32), glint=scene.strength * glint, move=(slope_x, slope_y))


def pit(scene: Scene) -> Layers:
    """Small craters with steep walls: the wall on the lamp's side is in shadow, the opposite one lit; a dirty floor."""
    canvas, rng = scene.canvas, scene.rng
    wall = max(1.0, rng.uniform(0.5, 0.9) * min(scene.half_breadth, 9.0 * canvas.unit))
    deep = wall * rng.uniform(0.6, 1.1)
    rough = 1 + 0.1 * canvas.noise(rng, 12, 48, 0.7)
    height = canvas.blur(-deep * scene.body(wall) ** 0.7 * rough, 0.5)
    gain, glint = shade(canvas, height, scene.light, cast_shadow(canvas, height, scene.light, 2 * deep), 2 * wall)
    floor = canvas.reduce(scene.body(0.8 * wall))
    dirt = recessed(scene, 0.1, 0.5)
    cover = np.float32(min(1.0, rng.uniform(0.5, 0.9) * scene.strength)) * floor
    gain = gain * (1 - 0.3 * floor)
    return Layers(cover, np.asarray(dirt * scene.grain(0.12), np.float32), np.asarray(gain, np.float32), 0.5 * glint)


def hole(scene: Scene) -> Layers:
    """Opening through the part, seen a little from the side: on one side its wall is seen, lit as it faces the lamp."""
    canvas, rng, light, radius = scene.canvas, scene.rng, scene.light, scene.half_breadth
    turn = np.arctan2(-light.across[1], -light.across[0]) + rng.normal(0, 0.6)  # mostly the lit side
    side = np.array([np.cos(turn), np.sin(turn)])  # on which the wall is seen
    thick = radius * rng.uniform(0.3, 0.9)  # of the wall, as the camera sees it
    facing = 0.35 + 0.65 * max(0.0, -float(side @ light.across))
    rough = np.clip(1 + 0.12 * canvas.noise(rng, 16, 96, 0.8), 0.5, 1.5)
    behind, wall = scene.inside.astype(np.float32), np.zeros(canvas.shape, np.float32)
    for depth in np.arange(1, WALL_STEPS + 1) / WALL_STEPS:  # the rim's outline, deeper and deeper
        below = np.minimum(behind, canvas.shifted(scene.inside, -depth * thick * side, goes_on=True))
        wall += (behind - below) * np.float32(facing * (0.85 - 0.72 * depth))
        behind = below
    edge = 1 + 0.5 * np.exp(-((scene.depth / (0.7 * canvas.unit)) ** 2)) * (wall > 0)  # the rim is worn bright
    seen = canvas.reduce(wall * rough * edge)[..., None] * scene.tone
    dark = scene.tone * np.float32(rng.uniform(0.0, 0.04)) + np.float32(0.003)
    return Layers(canvas.reduce(scene.body(0.8)), np.asarray((dark + 0.9 * seen) * scene.shading, np.float32))


def _scoops(scene: Scene) -> Field:
    """Depth in pixels of a few shell-like hollows that meet in ridges, oversampled: how brittle materials break."""
    canvas, rng, radius = scene.canvas, scene.rng, scene.half_breadth
    y, x = canvas.grid()
    bend = 0.06 * radius
    y, x = y + bend * canvas.noise(rng, 4, 24), x + bend * canvas.noise(rng, 4, 24)
    rows, columns = np.nonzero(scene.depth > 0.25 * radius)
    deepest: Field = np.zeros(canvas.shape, np.float32)
    for pick in rng.integers(len(rows), size=int(rng.integers(2, 6))):
        away = np.hypot(x - columns[pick] / canvas.oversampling, y - rows[pick] / canvas.oversampling)
        deep, reach = radius * rng.uniform(0.3, 0.65), radius * rng.uniform(0.8, 1.5)
        deepest = np.maximum(deepest, deep * (1 - (away / reach) ** 2)).astype(np.float32)
    return deepest


def chip(scene: Scene) -> Layers:
    """Broken-out piece: within a sharp edge a fresh fracture surface of shell-like hollows, lit by their normals."""
    canvas, rng, light, radius = scene.canvas, scene.rng, scene.light, scene.half_breadth
    wall = max(1.0, rng.uniform(0.08, 0.2) * radius)
    deep = 0.1 * radius + _scoops(scene) + 0.012 * radius * canvas.noise(rng, 12, 96, 0.75)
    height = canvas.blur(-scene.body(wall) * deep, 0.4)
    gain, glint = shade(canvas, height, light, cast_shadow(canvas, height, light, 0.8 * radius), 0.8 * radius)
    lighter = scene.chance(0.8 if scene.brightness < 0.12 else 0.3 if scene.brightness < 0.4 else 0.1)
    share = np.float32(min(0.7, rng.uniform(0.1, 0.3) * scene.strength))
    fresh = scene.tone * (1 - share)
    if lighter:
        fresh = scene.tone + share * (0.15 + 0.5 * scene.brightness) * (0.9 - scene.tone)
    fresh = fresh + np.float32(rng.uniform(0.0, 0.4)) * (fresh.mean() - fresh)
    material = np.asarray(fresh * scene.grain(rng.uniform(0.05, 0.14)) * scene.shading, np.float32)
    cover = 0.9 * canvas.reduce(scene.body(1.0))
    return Layers(cover, material, np.clip(gain, 0.08, 2.0), 0.6 * glint * cover)
