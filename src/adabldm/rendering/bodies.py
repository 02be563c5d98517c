"""Contamination: fibres, particles and dust that lie on a surface and throw a soft shadow."""

from __future__ import annotations

import numpy as np

from adabldm.rendering.fields import Field, blob, smooth_path, smoothstep
from adabldm.rendering.light import Light, shade
from adabldm.rendering.scene import Colour, Layers, Scene, apart, random_colour


def _colour(scene: Scene) -> Colour:
    """Colour of a foreign body: often near black or white, always unlike the surface."""
    rng = scene.rng
    kind = rng.random()
    colour = random_colour(rng)
    if kind < 0.3:
        colour = np.full(3, rng.uniform(0.003, 0.04), np.float32)
    elif kind < 0.55:
        colour = np.full(3, rng.uniform(0.6, 0.95), np.float32)
    return apart(scene, colour, 0.3)


def _lying(scene: Scene, inside: Field, height: Field, lift: float) -> Layers:
    """A solid of `height` on the surface: lit by its normals, with a shadow that grows soft with `lift` (pixels)."""
    canvas, rng, light = scene.canvas, scene.rng, scene.light
    matt = Light(light.direction, max(light.ambient, 0.35), light.gloss, light.sharpness)
    gain, glint = shade(canvas, canvas.blur(height, 0.4), matt)
    reach = lift / max(light.slope, 0.5)
    moved = canvas.shifted(inside, (-light.across[0] * reach, -light.across[1] * reach))
    contact = canvas.blur(inside, 0.8 * canvas.unit)
    shadow = np.maximum(canvas.blur(moved, 0.35 + 0.35 * lift), 0.5 * contact)
    cover = canvas.reduce(inside)
    dark = 1 - canvas.reduce(np.clip(shadow, 0, 1)) * (1 - light.ambient) * rng.uniform(0.3, 0.95)
    factor = cover * np.clip(gain, 0.35, 1.7) + (1 - cover) * dark
    material = _colour(scene) * scene.grain(rng.uniform(0.02, 0.15))
    return Layers(cover, np.asarray(material, np.float32), np.asarray(factor, np.float32), glint * cover * 0.6)


def _fibre(scene: Scene) -> Layers:
    canvas, rng = scene.canvas, scene.rng
    drawn = np.zeros(canvas.shape, np.uint8)
    width = scene.thickness(0.7, 2.3)
    for _ in range(1 if scene.chance(0.75) else int(rng.integers(2, 4))):
        length, bend = scene.length(22, 130), rng.normal(0, 2.2)
        wiggle = rng.uniform(0.2, 1.6)
        points = smooth_path(rng, scene.near(0.1 * length), rng.uniform(0, 2 * np.pi), length, bend, wiggle)
        canvas.stroke(drawn, points, np.full(len(points), width * rng.uniform(0.7, 1.1)))
    inside = drawn > 0
    depth = np.maximum(canvas.distance(inside), 0)
    half = max(width / 2, 0.3)
    height = np.sqrt(np.clip(half**2 - np.clip(half - depth, 0, half) ** 2, 0, None))
    return _lying(scene, inside.astype(np.float32), np.asarray(height, np.float32), rng.uniform(0.6, 3.0) * canvas.unit)


def _particle(scene: Scene) -> Layers:
    canvas, rng = scene.canvas, scene.rng
    radius = scene.length(2.0, 11)
    kind = rng.random()
    own = blob(
        canvas, rng, scene.centre, radius,
        roughness=rng.uniform(0.03, 0.1) if kind < 0.4 else rng.uniform(0.15, 0.3), elongation=rng.uniform(1, 2.2),
    )  # fmt: skip
    depth = own.depth
    y, x = canvas.grid()
    if kind >= 0.4:  # a splinter: cut by straight edges
        for _ in range(int(rng.integers(3, 7))):
            turn = rng.uniform(0, 2 * np.pi)
            edge = (x - scene.centre[0]) * np.cos(turn) + (y - scene.centre[1]) * np.sin(turn)
            depth = np.minimum(depth, rng.uniform(0.35, 0.95) * radius - edge)
    dome = np.sqrt(np.clip(depth / radius, 0, 1)) * radius * rng.uniform(0.4, 0.9)
    if kind >= 0.7:
        dome = np.clip(depth, 0, rng.uniform(0.2, 0.6) * radius) + 0.05 * radius * canvas.noise(rng, 12, 48)
    inside = smoothstep(depth / 0.5 + 0.5)
    return _lying(scene, inside, np.asarray(dome, np.float32), rng.uniform(0.3, 1.0) * radius)


def _dust(scene: Scene) -> Layers:
    canvas, rng = scene.canvas, scene.rng
    depth: Field = np.full(canvas.shape, -1e3, np.float32)
    spread, typical = scene.length(6, 24), scene.length(0.9, 2.2)
    for _ in range(int(rng.integers(4, 16))):
        radius = max(0.6, typical * float(np.exp(rng.normal(0, 0.4))))
        own = blob(canvas, rng, scene.near(spread), radius, roughness=0.25, elongation=rng.uniform(1, 2.5))
        depth = np.maximum(depth, own.depth)
    height = np.sqrt(np.clip(depth, 0, None)) * typical**0.5
    return _lying(scene, smoothstep(depth / 0.5 + 0.5), np.asarray(height, np.float32), 0.7 * typical)


def contamination(scene: Scene) -> Layers:
    """A fibre (45 %), a particle (30 %) or a scatter of dust; in a given mask a body of its shape."""
    if scene.outline is not None:
        half = scene.half_breadth
        depth = np.clip(scene.outline, 0, half)
        dome = np.sqrt(np.clip(depth * (2 * half - depth), 0, None)) * scene.rng.uniform(0.4, 0.9)
        height = np.minimum(dome, 6 * scene.canvas.unit)
        if half > 4 * scene.canvas.unit:  # a lump and no thread: its top is uneven
            bumps = scene.canvas.noise(scene.rng, 6, 48, 0.75)
            height = height * (1 + scene.rng.uniform(0.1, 0.3) * bumps)
        return _lying(scene, smoothstep(scene.outline / 0.5 + 0.5), np.asarray(height, np.float32), 0.5 * half)
    kind = scene.rng.random()
    return _fibre(scene) if kind < 0.45 else _particle(scene) if kind < 0.75 else _dust(scene)
