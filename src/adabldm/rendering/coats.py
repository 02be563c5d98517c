"""Stains, corrosion and peeling: what lies on a surface in layers, or comes through it."""

from __future__ import annotations

import numpy as np

from adabldm.rendering.fields import Field, smoothstep
from adabldm.rendering.light import cast_shadow, luminance, shade
from adabldm.rendering.scene import Colour, Layers, Scene, apart, luminous


def stain(scene: Scene) -> Layers:
    """Dried or wet liquid: absorbs light by its thickness (Beer and Lambert); on dark surfaces a light residue."""
    canvas, rng = scene.canvas, scene.rng
    soft = rng.uniform(1.0, 3.0) if scene.chance(0.5) else rng.uniform(3.0, 9.0)
    film = scene.body(soft * canvas.unit)
    if scene.chance(0.35):  # a dried drop is thicker along its border
        breadth = rng.uniform(1.0, 2.2) * canvas.unit * np.exp(0.35 * canvas.noise(rng, 2, 16))
        ring = np.exp(-(((scene.depth - 1.5 * canvas.unit) / breadth) ** 2)) * film
        film = film * rng.uniform(0.35, 0.8) + rng.uniform(0.4, 0.9) * ring
    film = canvas.reduce(film * np.clip(1 + rng.uniform(0.15, 0.4) * canvas.noise(rng, 2, 16, 0.55), 0.3, 2.0))
    if scene.brightness < 0.06:
        residue = luminous(np.asarray(rng.uniform(0.85, 1.0, 3), np.float32), rng.uniform(0.25, 0.6))
        mottled = np.clip(1 + 0.4 * scene.noise(4, 48, 0.75), 0.1, 2.5)
        cover = 1 - np.exp(-film * mottled * np.float32(rng.uniform(0.25, 0.6) * scene.strength))
        return Layers(cover, np.asarray(residue * scene.grain(0.06) * scene.shading, np.float32))
    kind = rng.random()
    if kind < 0.45 or scene.grey:  # oil, soot, water
        absorbed = rng.uniform(0.5, 1.8) * np.array([0.92, 1.0, 1.12]) * rng.uniform(0.95, 1.05, 3)
    elif kind < 0.92:  # brown: coffee, rust water
        absorbed = rng.uniform(0.5, 1.2) * np.array([0.6, 1.0, 1.6]) * rng.uniform(0.9, 1.1, 3)
    else:  # ink
        absorbed = rng.uniform(0.7, 1.5) * rng.permutation([0.3, 1.0, 1.5])
    return Layers(gain=np.exp(-film[..., None] * (scene.strength * absorbed).astype(np.float32)))


_PALETTES = {
    "rust": ((0.40, 0.16, 0.05), (0.24, 0.08, 0.028), (0.09, 0.036, 0.02), (0.5, 0.24, 0.09)),
    "white": ((0.55, 0.55, 0.52), (0.42, 0.42, 0.41), (0.72, 0.72, 0.69), (0.3, 0.3, 0.3)),
}
"""Colours of rust and of the salts that light metals corrode to, in linear light."""


def _oxide(scene: Scene) -> Field:
    """Colours of a corroded surface: noise runs through a palette; linear light HxWx3."""
    rng = scene.rng
    colours = np.array(_PALETTES["white" if scene.chance(0.1) else "rust"], np.float32) * rng.uniform(
        0.85, 1.15, (4, 1)
    )
    at = np.clip(1.5 + 0.9 * scene.noise(4, 64, 0.72) + rng.uniform(-0.4, 0.4), 0, 2.999)
    index = at.astype(int)
    share = (at - index)[..., None]
    mixed = colours[index] * (1 - share) + colours[index + 1] * share
    mean: Colour = np.asarray(mixed.mean((0, 1)), np.float32)
    lit = mean * np.float32(scene.exposure)
    wanted = apart(scene, lit, 0.12) if scene.grey else lit
    return np.asarray(mixed * (float(luminance(wanted)) / max(float(luminance(mean)), 1e-3)), np.float32)


def corrosion(scene: Scene) -> Layers:
    """Oxide that eats its way from many spots: thick and rough in them, a thin coloured film between."""
    canvas, rng = scene.canvas, scene.rng
    spots = canvas.noise(rng, 4, 96, 0.72)
    eaten = smoothstep((scene.depth / (0.6 * scene.half_breadth) + 0.9 * spots - rng.uniform(0.2, 0.7)) * 1.2)
    eaten = eaten * scene.body(1.5 * canvas.unit)
    film = scene.body(max(5.0 * canvas.unit, 0.8 * scene.half_breadth)) * (1 - eaten)  # rust that water has carried
    film = film * np.clip(0.8 + 0.5 * canvas.noise(rng, 6, 64, 0.7), 0.1, 2.0)
    carried = canvas.reduce(film)[..., None] * rng.uniform(0.4, 0.9) * scene.strength
    tint = np.exp(-carried * np.array([0.8, 1.0, 1.2] if scene.grey else [0.35, 0.9, 1.6]))
    cover = canvas.reduce(eaten * rng.uniform(0.8, 0.95))
    rough = eaten * (rng.uniform(0.15, 0.4) * canvas.noise(rng, 24, 96, 0.85) + rng.uniform(-0.8, 0.6))
    gain, glint = shade(canvas, canvas.blur(rough, 0.4), scene.light, reach=3 * canvas.unit)
    texture = 1 + 0.35 * (np.clip(scene.texture, 0.3, 1.8) - 1)  # of what is under the crust
    oxide = _oxide(scene) * scene.shading * texture
    return Layers(
        np.clip(cover, 0, 1), np.asarray(oxide, np.float32), np.asarray(gain[..., None] * tint, np.float32), 0.2 * glint
    )


def _ground(scene: Scene) -> Field:
    """What lies under a coating: primer, bare metal or plaster, with a fine grain; linear light HxWx3."""
    rng = scene.rng
    grey = rng.uniform(0.1, 0.6)
    tint = rng.choice([[1.0, 1.0, 1.0], [1.05, 1.0, 0.92], [1.15, 0.98, 0.8]])
    colour = apart(scene, np.asarray(grey * scene.exposure * np.asarray(tint), np.float32), 0.16 * scene.strength)
    slow = 1 + rng.uniform(0.04, 0.12) * scene.noise(2, 24, 0.7)[..., None]
    if scene.chance(0.5):  # brushed or drawn
        streaks = scene.canvas.reduce(scene.canvas.streaks(rng, scene.inside))[..., None]
        slow = slow * (1 + rng.uniform(0.04, 0.1) * streaks)
    kept = 1 + rng.uniform(0.05, 0.3) * (np.clip(scene.texture, 0.3, 2) - 1)  # on both sides of a coat's edge
    return np.asarray(colour * slow * scene.grain(rng.uniform(0.05, 0.14)) * kept * scene.shading, np.float32)


def peeling(scene: Scene) -> Layers:
    """Coating that has come off: its edge has a thickness, which throws a shadow on the ground or catches the light.

    A quarter is worn through instead, in spots and streaks.
    """
    canvas, rng, light = scene.canvas, scene.rng, scene.light
    if scene.chance(0.25):
        worn = (
            scene.depth / (0.5 * scene.half_breadth)
            + 0.5 * canvas.streaks(rng, scene.inside)
            + canvas.noise(rng, 6, 64, 0.7)
        )
        return Layers(
            canvas.reduce(scene.body(1.5) * np.clip(0.35 + 0.65 * smoothstep(0.5 * worn), 0, 1)), _ground(scene)
        )
    lifted = np.clip(0.8 + 1.1 * canvas.noise(rng, 3, 16), 0.0, 2.5) * canvas.unit  # flakes of it still stand up
    bare = smoothstep((scene.depth - lifted) / 1.2 + 0.5) * scene.body(1.2)
    thick = rng.uniform(1.0, 2.4) * canvas.unit * np.exp(0.3 * canvas.noise(rng, 4, 24))
    height = canvas.blur(thick * (1 - bare) + 0.7 * lifted * (1 - bare) * smoothstep(scene.depth / canvas.unit), 0.35)
    reach = float(3 * thick.mean())
    gain, glint = shade(canvas, height, light, cast_shadow(canvas, height, light, reach), reach)
    inside = canvas.reduce(scene.body(0.8))
    gain = 1 + inside * (np.clip(gain, 0.2, 1.8) - 1)
    return Layers(canvas.reduce(bare), _ground(scene), np.asarray(gain, np.float32), 0.5 * glint * inside)
