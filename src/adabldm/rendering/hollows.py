"""Pits, dents, holes and chips: what is missing from a surface or pressed into it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from adabldm.rendering.fields import Field, Points, blob, smoothstep
from adabldm.rendering.light import cast_shadow, gradient, shade
from adabldm.rendering.scene import Layers, Scene


def _craters(scene: Scene) -> tuple[Field, float]:
    """Depth into one crater or many in pixels, oversampled, and their typical radius."""
    canvas, rng = scene.canvas, scene.rng
    if scene.outline is not None:
        return scene.outline, min(scene.half_breadth, 9.0 * canvas.unit)
    single = scene.chance(0.45)
    count = 1 if single else int(rng.integers(2, 12))
    spread = 0.0 if single else scene.length(6, 26)
    typical = scene.length(2.4, 9.0) if single else scene.length(1.3, 4.5)
    depth: Field = np.full(canvas.shape, -1e3, np.float32)
    for _ in range(count):
        radius = max(0.8, typical * float(np.exp(rng.normal(0, 0.0 if single else 0.45))))
        own = blob(
            canvas, rng, scene.near(spread), radius, roughness=rng.uniform(0.04, 0.28), elongation=rng.uniform(1, 1.9)
        )
        depth = np.maximum(depth, own.depth)
    return depth + np.minimum(0.12 * typical, 0.8) * canvas.noise(rng, 24, 96, 0.7), typical


def pit(scene: Scene) -> Layers:
    """One small crater or a cluster: steep walls shaded by their normals, a shadow, a dirty floor."""
    canvas, rng = scene.canvas, scene.rng
    depth, typical = _craters(scene)
    wall = max(0.7, typical * rng.uniform(0.35, 0.9))
    deep = wall * rng.uniform(0.5, 1.6)
    height = -deep * np.sqrt(smoothstep(depth / wall)) + 0.25 * rng.random() * np.exp(
        -((np.minimum(depth, 0) / 0.8) ** 2)
    )
    relief = canvas.blur(height, 0.35)
    gain, glint = shade(canvas, relief, scene.light, cast_shadow(canvas, relief, scene.light, 2 * deep))
    floor = canvas.reduce(smoothstep(depth / (0.6 * wall)))
    dirt = scene.tone() * rng.uniform(0.04, 0.6) * rng.uniform(0.85, 1.1, 3)
    cover = floor * rng.uniform(0.35, 0.95)
    gain = gain * (1 - rng.uniform(0.1, 0.5) * floor)
    return Layers(cover.astype(np.float32), (dirt * scene.grain(0.25)).astype(np.float32), gain, glint * 0.6)


def dent(scene: Scene) -> Layers:
    """Smooth hollow (or bump) without an edge: only the light, the glints and the run of the texture change."""
    canvas, rng = scene.canvas, scene.rng
    soft = 0.8 if scene.outline is None else max(0.8, 0.12 * scene.half_breadth)
    relief = canvas.blur(_hollow(scene) * (1 + 0.05 * canvas.noise(rng, 4, 16)), soft)
    gain, glint = shade(canvas, relief, scene.light)
    slope_x, slope_y = (canvas.reduce(part) for part in gradient(canvas, relief))
    bend = rng.uniform(0.0, 2.5) * canvas.unit
    hollow = canvas.reduce(np.clip(-relief, 0, None))
    darkest = (0.03, 0.14) if scene.outline is None else (0.12, 0.3)
    gain = gain * (1 - rng.uniform(*darkest) * hollow / max(float(hollow.max()), 1e-3))
    move = (np.asarray(bend * slope_x, np.float32), np.asarray(bend * slope_y, np.float32))
    return Layers(gain=np.asarray(gain, np.float32), glint=glint, move=move)


def _hollow(scene: Scene) -> NDArray[Any]:
    """Height of a dent in pixels, oversampled: below 0 a hollow, above a bump."""
    canvas, rng = scene.canvas, scene.rng
    if scene.outline is not None:  # a slope everywhere in the mask
        level = np.clip(scene.outline / scene.half_breadth, 0, 1)
        steep = float(np.exp(rng.uniform(np.log(0.15), np.log(0.42)))) * (1 + 0.3 * scene.attempt)
        return np.asarray(-steep * scene.half_breadth * level ** rng.uniform(0.7, 1.1))
    height: NDArray[Any] = np.zeros(canvas.shape, np.float32)
    count = 1 if scene.chance(0.75) else int(rng.integers(2, 4))
    sign = 1.0 if scene.chance(0.15) else -1.0
    for index in range(count):
        radius = scene.length(7, 30) * (1.0 if index == 0 else 0.7)
        own = blob(
            canvas,
            rng,
            scene.near(0.0 if index == 0 else 1.6 * radius),
            radius,
            roughness=rng.uniform(0.0, 0.14),
            elongation=float(np.exp(rng.uniform(0, 1.1))),
        )
        kind, steep = rng.random(), float(np.exp(rng.uniform(np.log(0.1), np.log(0.42)))) * (1 + 0.15 * scene.attempt)
        level = own.level
        if kind < 0.6:  # bowl
            profile = np.clip(1 - level**2, 0, None) ** 2
            amplitude = steep * radius / 1.54
        else:  # flat bottom with a bent wall
            wall = rng.uniform(0.3, 0.7)
            profile = smoothstep((1 - level) / wall)
            amplitude = steep * radius * wall / 1.5
        rim = rng.uniform(0, 0.2) * np.exp(-(((level - 1.05) / 0.16) ** 2)) if scene.chance(0.5) else 0.0
        height = height + sign * amplitude * (profile - rim)
    return height


def _hole_shape(scene: Scene, radius: float) -> Field:
    """Signed distance in pixels: a drilled hole, a slot, or a torn opening."""
    canvas, rng = scene.canvas, scene.rng
    if scene.outline is not None:
        return scene.outline
    kind = rng.random()
    if kind < 0.45:
        own = blob(canvas, rng, scene.centre, radius, roughness=rng.uniform(0, 0.03), elongation=rng.uniform(1, 1.25))
    elif kind < 0.6:
        own = blob(canvas, rng, scene.centre, radius, roughness=0.03, elongation=rng.uniform(1.8, 3.5))
    else:
        own = blob(canvas, rng, scene.centre, radius, roughness=rng.uniform(0.15, 0.4), elongation=rng.uniform(1, 2))
        return np.asarray(own.depth + rng.uniform(0.02, 0.07) * radius * canvas.noise(rng, 8, 64, 0.6), np.float32)
    return own.depth


def hole(scene: Scene) -> Layers:
    """Opening through the part: black or with what lies behind, its wall lit on the far side, a rim around it."""
    canvas, rng, light = scene.canvas, scene.rng, scene.light
    radius = scene.radius(3.5, 20)
    depth = canvas.distance(_hole_shape(scene, radius) > 0)
    inside = smoothstep(depth / 0.5 + 0.5)
    tilt = rng.uniform(0, 2 * np.pi)
    view = np.array([np.cos(tilt), np.sin(tilt)]) * rng.uniform(0.1, 0.45) * radius
    wall: NDArray[Any] = np.clip(inside - smoothstep(canvas.shifted(depth, view, -9.0) / 0.6 + 0.5), 0, 1)
    slope_x, slope_y = gradient(canvas, canvas.blur(np.clip(depth, -4, 8), 0.6))
    facing = np.clip(slope_x * light.across[0] + slope_y * light.across[1], -1, 1)  # the wall's normal points inwards
    wall_light = 0.12 + 0.75 * np.clip(facing, 0, 1) + 0.18 * (facing + 1) / 2
    behind = rng.uniform(0.0, 0.06) if scene.chance(0.8) else rng.uniform(0.05, 0.5)
    bottom = np.full(3, behind, np.float32) * rng.uniform(0.9, 1.1, 3) * (0.3 + 0.7 * scene.brightness())
    shadow = canvas.shifted(inside, (-light.across[0] * 0.3 * radius, -light.across[1] * 0.3 * radius))
    floor = canvas.reduce(0.4 + 0.6 * shadow)[..., None] * bottom
    wall_share = canvas.reduce(wall)[..., None]
    material = floor + wall_share * (scene.tone() * canvas.reduce(wall_light)[..., None] * scene.grain(0.12) - floor)
    rim_width = rng.uniform(0.8, 2.4) * canvas.unit
    raised = rng.uniform(-0.9, 0.8)
    outer = np.minimum(depth, 0.0)
    height = raised * rim_width * np.exp(-((outer / rim_width) ** 2)) * rng.uniform(0.3, 0.8)
    gain, glint = shade(canvas, canvas.blur(height, 0.4), light)
    cover = canvas.reduce(inside)
    gain = 1 + (gain - 1) * (1 - cover)
    return Layers(cover, np.asarray(material, np.float32), np.asarray(gain, np.float32), glint * (1 - cover))


def _chip_outline(scene: Scene, radius: float) -> Points:
    """Corners of a broken-out piece, uneven and partly concave."""
    rng = scene.rng
    count = int(rng.integers(5, 11))
    angle = 2 * np.pi * (np.arange(count) + rng.uniform(-0.4, 0.4, count)) / count
    far = radius * rng.uniform(0.5, 1.25, count)
    points = np.stack([far * np.cos(angle), far * np.sin(angle) * rng.uniform(0.45, 1)], 1)
    turn = rng.uniform(0, 2 * np.pi)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.asarray(points @ matrix + np.asarray(scene.centre))


def chip(scene: Scene) -> Layers:
    """Broken-out piece: facets of a fracture surface, each with its own normal, within a sharp edge."""
    canvas, rng, light = scene.canvas, scene.rng, scene.light
    radius = scene.radius(4.5, 26)
    if scene.outline is None:
        depth = canvas.distance(canvas.polygon(_chip_outline(scene, radius)))
        depth = depth + min(0.1 * radius, 1.6) * canvas.noise(rng, 8, 48, 0.6)
    else:
        depth = scene.outline
    y, x = canvas.grid()
    bottom: Field = np.asarray(rng.uniform(0.7, 1.6) * np.maximum(depth, 0), np.float32)
    for _ in range(int(rng.integers(3, 8))):
        turn, steep = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.8)
        place = scene.near(0.35 * radius)
        plane = (x - place[0]) * np.cos(turn) * steep + (y - place[1]) * np.sin(turn) * steep
        bottom = np.minimum(bottom, np.maximum(plane + rng.uniform(0.25, 0.6) * radius, 0.3)).astype(np.float32)
    ripple = np.float32(rng.uniform(0.0, 0.05) * radius) * canvas.noise(rng, 8, 48, 0.65)
    inside = smoothstep(depth / 0.5 + 0.5)
    height = canvas.blur(-(bottom + ripple) * inside, 0.3)
    shadow = cast_shadow(canvas, height, light, min(0.6 * radius, 9 * canvas.unit))
    gain, glint = shade(canvas, height, light, shadow)
    # The wall under the edge that faces away from the lamp is out of its light: this tells a hollow from a stone.
    away = canvas.shifted(inside, (-light.across[0] * 0.25 * radius, -light.across[1] * 0.25 * radius))
    occluded = np.clip(inside - canvas.blur(away * inside, 0.06 * radius), 0, 1)
    gain = gain * (1 - rng.uniform(0.3, 0.7) * canvas.reduce(occluded))
    tone = scene.tone()
    lighter = 0.55 if scene.outline is None else 0.2
    fresh = tone + rng.uniform(0.05, 0.4) * (1 - tone) if scene.chance(lighter) else tone * rng.uniform(0.3, 0.8)
    grey = float(fresh.mean())
    fresh = grey + rng.uniform(0.3, 1.0) * (fresh - grey)
    material = fresh * scene.grain(rng.uniform(0.04, 0.2))
    cover = canvas.reduce(inside)
    return Layers(cover, np.asarray(material, np.float32), np.clip(gain, 0.08, 2.2), glint * cover)
