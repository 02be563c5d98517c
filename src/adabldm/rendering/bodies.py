"""Contamination: fibres, particles and dust that lie on a surface and throw a soft shadow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adabldm.rendering.fields import smoothstep
from adabldm.rendering.light import shade
from adabldm.rendering.scene import Colour, Layers, Scene, apart

_COLOURS: NDArray[np.float32] = np.array(
    [
        (0.012, 0.012, 0.014),
        (0.03, 0.022, 0.016),
        (0.6, 0.59, 0.56),
        (0.45, 0.36, 0.25),
        (0.04, 0.06, 0.16),
        (0.3, 0.04, 0.03),
    ],
    np.float32,
)
"""Black, brown, white, straw, blue and red, in linear light: hair, lint, swarf, wood, textile fibres."""


def _colour(scene: Scene, *, lump: bool) -> Colour:
    """One of the colours, apart from the surface; a lump is not black, or it would pass for a hole."""
    picked = scene.rng.choice(
        len(_COLOURS), p=[0.0, 0.1, 0.4, 0.4, 0.05, 0.05] if lump else [0.3, 0.15, 0.3, 0.13, 0.07, 0.05]
    )
    return apart(scene, scene.exposure * _COLOURS[int(picked)] * np.float32(scene.rng.uniform(0.8, 1.2)), 0.25)


def contamination(scene: Scene) -> Layers:
    """A body of the outline's shape, without a strip away from the lamp that its shadow needs."""
    canvas, rng, light, half = scene.canvas, scene.rng, scene.light, scene.half_breadth
    lump = half > 3 * canvas.unit
    far = half * (0.45 if lump else 0.8)
    aside = (far * light.across[0], far * light.across[1])
    body = canvas.distance((canvas.shifted(scene.inside, aside, goes_on=True) > 0.5) & scene.inside)
    if not lump:  # a thread is thinner here and thicker there
        body = body - 0.15 * half * (1 + canvas.noise(rng, 3, 24))
    thick = max(0.5, float(body.max()))
    round_ = np.clip(body, 0, thick)
    height = np.sqrt(round_ * (2 * thick - round_)) * rng.uniform(0.5, 0.9)
    if lump:  # and no thread: it is uneven
        height = np.minimum(height, 5 * canvas.unit) * (1 + 0.2 * canvas.noise(rng, 8, 64, 0.7))
    gain, glint = shade(canvas, canvas.blur(height, 0.4), light)
    inside = canvas.reduce(smoothstep(body / 0.7 + 0.5) * scene.inside)
    shadow = canvas.reduce(scene.body(0.9 * half)) ** 0.7
    dark = 1 - np.float32(min(0.85, rng.uniform(0.45, 0.7) * scene.strength)) * shadow
    factor = inside * np.clip(gain, 0.3, 1.4) + (1 - inside) * dark
    material = _colour(scene, lump=lump) * scene.grain(rng.uniform(0.03, 0.12)) * scene.shading
    return Layers(inside, np.asarray(material, np.float32), np.asarray(factor, np.float32), 0.5 * glint * inside)
