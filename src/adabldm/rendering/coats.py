"""Stains, corrosion and peeling: what lies on a surface in layers, or comes through it."""

from __future__ import annotations

import numpy as np

from adabldm.rendering.fields import Field, blob, smoothstep
from adabldm.rendering.light import cast_shadow, luminance, shade
from adabldm.rendering.scene import Colour, Layers, Scene, apart, luminous, random_colour


def _patch(scene: Scene, radius: float, ragged: float, finest: float) -> Field:
    """Depth into an irregular patch in pixels at the oversampled grid, with islands and holes when `ragged`."""
    canvas, rng = scene.canvas, scene.rng
    if scene.outline is not None:
        return scene.outline
    own = blob(
        canvas, rng, scene.centre, radius, roughness=rng.uniform(0.1, 0.35), elongation=float(np.exp(rng.uniform(0, 1)))
    )
    depth = own.depth
    for _ in range(int(rng.integers(0, 3))):
        extra = blob(canvas, rng, scene.near(0.9 * radius), radius * rng.uniform(0.25, 0.7), roughness=0.25)
        depth = np.maximum(depth, extra.depth)
    noise = canvas.noise(rng, 128 * canvas.unit / max(radius, 4.0), finest, 0.68)
    return np.asarray(depth + ragged * radius * noise, np.float32)


def _film(scene: Scene) -> Field:
    """Thickness of a dried or wet liquid, HxW in about [0, 1.6]: even, or thicker at its border (a dried drop)."""
    canvas, rng = scene.canvas, scene.rng
    radius = scene.radius(6, 34)
    depth = _patch(scene, radius, rng.uniform(0.02, 0.16), 24)
    if scene.outline is None and scene.chance(0.3):  # splashes around
        for _ in range(int(rng.integers(2, 9))):
            drop = blob(canvas, rng, scene.near(1.3 * radius), scene.length(1.0, 3.5), roughness=0.1)
            depth = np.maximum(depth, drop.depth)
    soft = rng.uniform(0.6, 2.0) if scene.chance(0.6) else rng.uniform(2.0, 0.5 * radius + 2.0)
    if scene.outline is not None:
        soft = min(soft, 0.25 * radius)
    body = smoothstep(depth / (soft * canvas.unit))
    film = body * (0.7 + 0.3 * rng.random())
    if scene.chance(0.45):
        ring = np.exp(-(((depth - soft) / (rng.uniform(0.7, 2.0) * canvas.unit)) ** 2)) * body
        film = film * rng.uniform(0.2, 0.9) + rng.uniform(0.3, 0.9) * ring
    uneven = 1 + rng.uniform(0.12, 0.45) * canvas.noise(rng, 2, 24, 0.5)
    return canvas.reduce(film * np.clip(uneven, 0.2, 2.0))


def stain(scene: Scene) -> Layers:
    """Liquid or dirt: absorbs light by its thickness (Beer and Lambert); on dark surfaces a light residue instead."""
    rng = scene.rng
    film = _film(scene)[..., None]
    bright = scene.brightness()
    if scene.chance(0.85 if bright < 0.04 else 0.4 if bright < 0.12 else 0.12):
        colour = apart(scene, luminous(random_colour(rng), rng.uniform(0.3, 0.9)), 0.3)
        cover = 1 - np.exp(-film[..., 0] * rng.uniform(0.4, 1.6))
        return Layers(cover.astype(np.float32), np.asarray(colour * scene.grain(0.06), np.float32))
    kind = rng.random()
    if kind < 0.4 or scene.grey:  # oil, soot
        absorbed = rng.uniform(0.6, 2.2) * rng.uniform(0.9, 1.1, 3)
    elif kind < 0.7:  # brown: coffee, rust water
        absorbed = rng.uniform(0.5, 1.4) * np.array([0.55, 1.0, 1.7]) * rng.uniform(0.85, 1.15, 3)
    else:  # dye
        absorbed = rng.uniform(0.5, 1.4) * rng.uniform(0.1, 2.0, 3)
    return Layers(gain=np.asarray(np.exp(-film * absorbed), np.float32))


_PALETTES = {
    "rust": ((0.42, 0.16, 0.05), (0.25, 0.075, 0.025), (0.09, 0.035, 0.02), (0.55, 0.27, 0.09)),
    "verdigris": ((0.14, 0.42, 0.33), (0.07, 0.25, 0.2), (0.35, 0.6, 0.5), (0.1, 0.12, 0.08)),
    "oxide": ((0.62, 0.62, 0.6), (0.4, 0.4, 0.39), (0.8, 0.8, 0.77), (0.25, 0.25, 0.25)),
    "black": ((0.02, 0.02, 0.02), (0.06, 0.055, 0.05), (0.12, 0.1, 0.09), (0.03, 0.03, 0.035)),
}


def _oxide(scene: Scene) -> Field:
    """Colours of a corroded surface: noise runs through a palette; linear light HxWx3."""
    rng = scene.rng
    names = ["rust", "verdigris", "oxide", "black"]
    name = str(rng.choice(names, p=[0.68, 0.06, 0.12, 0.14]))
    tint = 0.2 if name in {"rust", "verdigris"} else 0.05
    colours = np.array(_PALETTES[name], np.float32) * rng.uniform(1 - tint, 1 + tint, (4, 3))
    place = np.clip(1.5 + 0.95 * scene.noise(6, 64, 0.75) + rng.uniform(-0.5, 0.5), 0, 2.999)
    index = place.astype(int)
    share = (place - index)[..., None]
    mixed = colours[index] * (1 - share) + colours[index + 1] * share
    if scene.chance(0.25):
        other = scene.texture(rng, *scene.surface.shape[:2])
        mixed = mixed * (0.4 + 0.6 * other / max(float(other.mean()), 0.02))
    mean: Colour = np.asarray(mixed.mean((0, 1)), np.float32)
    wanted = apart(scene, mean, 0.18)
    return np.asarray(mixed * (float(luminance(wanted)) / max(float(luminance(mean)), 1e-3)), dtype=np.float32)


def corrosion(scene: Scene) -> Layers:
    """Ragged patch of oxide with a rough relief, loose islands around it and a discoloured halo."""
    canvas, rng = scene.canvas, scene.rng
    radius = scene.radius(6, 32)
    depth = _patch(scene, radius, rng.uniform(0.18, 0.5), 96)
    inside = smoothstep(depth / rng.uniform(0.8, 2.5) + 0.5)
    rough = canvas.noise(rng, 24, 96, 0.85) * rng.uniform(0.04, 0.3) + rng.uniform(-0.9, 0.9) * smoothstep(depth / 2.0)
    gain, glint = shade(canvas, canvas.blur(rough * inside, 0.4), scene.light)
    cover = canvas.reduce(inside) * np.clip(rng.uniform(0.7, 1.0) + 0.15 * scene.noise(4, 32), 0, 1)
    halo = canvas.reduce(smoothstep(canvas.blur(inside, rng.uniform(1.5, 4.0) * canvas.unit)))
    oxide = _oxide(scene)
    tint = np.asarray(oxide.mean((0, 1)) / max(float(oxide.mean()), 1e-3), np.float32)
    amount = rng.uniform(0.0, 0.6) * halo[..., None] * (1 - cover[..., None])
    light = gain[..., None] * (1 - amount * (1 - np.clip(0.75 * tint, 0, 1)))
    return Layers(cover.astype(np.float32), oxide, np.asarray(light, np.float32), glint * 0.3)


def _substrate(scene: Scene) -> Field:
    """What lies under a coating: a picture of another material, or an even one; linear light HxWx3."""
    rng = scene.rng
    if scene.chance(0.6):
        picture = scene.texture(rng, *scene.surface.shape[:2])
    else:
        colour = random_colour(rng)
        colour = luminous(colour + rng.uniform(0.3, 1.0) * (luminance(colour) - colour), rng.uniform(0.05, 0.8))
        # The form of the ground under a coat shows on both sides of its edge.
        form = (luminance(scene.surface) / max(scene.brightness(), 0.02))[..., None]
        kept = rng.uniform(0.1, 0.5)
        grain = scene.grain(rng.uniform(0.03, 0.12))
        picture = np.asarray(colour * grain * (1 + kept * (np.clip(form, 0.3, 2.0) - 1)), np.float32)
    mean: Colour = np.asarray(picture.mean((0, 1)), np.float32)
    wanted = apart(scene, mean, 0.2)
    return np.asarray(np.clip(picture * (wanted / np.maximum(mean, 1e-3)), 0, 1), dtype=np.float32)


def peeling(scene: Scene) -> Layers:
    """Coating that has come off in flakes, with a thickness, a lifted edge and a shadow; or is worn through."""
    canvas, rng, light = scene.canvas, scene.rng, scene.light
    radius = scene.radius(7, 34)
    substrate = _substrate(scene)
    if scene.outline is None and scene.chance(0.25):  # worn through: soft, in streaks
        depth = _patch(scene, radius, rng.uniform(0.3, 0.6), 64)
        streaks = canvas.noise(rng, 32, 64, 0.9)
        worn = smoothstep(depth / (0.5 * radius) + 0.2 + 0.35 * streaks)
        return Layers(canvas.reduce(worn) * np.float32(rng.uniform(0.5, 0.95)), substrate)
    depth = canvas.distance(_patch(scene, radius, rng.uniform(0.06, 0.2), 40) > 0)
    gone = smoothstep(depth / 0.4 + 0.5)
    thick = rng.uniform(0.4, 1.6) * canvas.unit
    curl = rng.uniform(0.0, 1.8) * np.exp(-((np.minimum(depth, 0) / (2.2 * canvas.unit)) ** 2))
    curl = curl * smoothstep(0.5 + 0.8 * canvas.noise(rng, 4, 12))
    height = canvas.blur((thick + curl) * (1 - gone), 0.3)
    gain, glint = shade(canvas, height, light, cast_shadow(canvas, height, light, 4 * canvas.unit))
    return Layers(canvas.reduce(gone), substrate, np.clip(gain, 0.15, 2.0), glint * 0.7)
