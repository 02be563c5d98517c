"""Surfaces to draw on: windows of tileable materials and of pictures, and procedural ones; uint8 RxRx3."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.images import Pixels, resize_pixels
from adabldm.core.windows import crop, random_window
from adabldm.rendering.fields import Field, fractal, smoothstep

FRAME = 6
"""Width in pixels of the border of a material picture that is cut off."""
WHITE = 248
"""Level from which a pixel may belong to the margin of a preview."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def to_bytes(values: NDArray[Any]) -> Pixels:
    """Values of 0…255 to uint8, rounded and clipped."""
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


def grey(values: Field) -> Field:
    """HxWx3 with its luma in every channel."""
    return np.asarray(np.repeat((values @ _LUMA)[..., None], 3, axis=-1), dtype=np.float32)


def _doubled(tile: NDArray[Any], axis: int) -> NDArray[Any]:
    """The tile followed by its mirror image along an axis, unless its two ends fit together as they are."""
    steps = np.abs(np.diff(tile.astype(np.float32), axis=axis)).mean()
    ends = np.abs(tile.take(0, axis).astype(np.float32) - tile.take(-1, axis)).mean()
    return tile if ends <= 1.5 * steps + 1.0 else np.concatenate([tile, np.flip(tile, axis)], axis)


def without_margin(tile: Pixels) -> Pixels:
    """A preview without the white margins of a material that is no square, and without its frame there.

    A picture that is white altogether is left as it is.
    """
    shown = np.any(tile < WHITE, axis=-1)[FRAME:-FRAME, FRAME:-FRAME]
    rows, columns = (np.flatnonzero(shown.mean(axis) > 0.1) + FRAME for axis in (1, 0))
    if len(rows) == 0 or (len(rows), len(columns)) == shown.shape:
        return tile
    return np.ascontiguousarray(tile[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def material_window(
    tile: Pixels, side: int, rng: np.random.Generator, scale: tuple[float, float] = (0.6, 2.6)
) -> Pixels:
    """A turned, scaled and mirrored window of a material.

    The picture is repeated explicitly, because the wrapped borders of OpenCV 5 smear; along an axis where its ends do
    not fit together, every other copy is mirrored. It loses its outermost pixels first: in the ambientCG previews they
    fade into a background.

    Args:
        tile: uint8 HxWx3.
        side: Side of the window in pixels.
        rng: Random generator.
        scale: Range of the magnification, log-uniform.
    """
    inner = tile[FRAME:-FRAME, FRAME:-FRAME] if min(tile.shape[:2]) > 8 * FRAME else tile
    inner = _doubled(_doubled(inner, 0), 1)
    factor = float(np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1])))) * side / 128
    turn = float(rng.uniform(0, 360)) if rng.random() < 0.5 else 90.0 * int(rng.integers(4))
    if factor < 1:
        inner = cv2.GaussianBlur(inner, (0, 0), max(0.45 / factor - 0.2, 0.3), borderType=cv2.BORDER_REFLECT_101)
    reach = side * 1.5 / factor
    copies = int(np.ceil(2 * reach / min(inner.shape[:2]))) + 2
    wide = np.tile(inner, (copies, copies, 1))
    start = rng.uniform(reach, reach + min(inner.shape[:2]), 2)
    matrix = cv2.getRotationMatrix2D((float(start[0]), float(start[1])), turn, factor)
    matrix[:, 2] += (side / 2 - start[0], side / 2 - start[1])
    window = cv2.warpAffine(wide, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return np.ascontiguousarray(window[:, ::-1] if rng.random() < 0.5 else window)


def recolour(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Another colour, contrast, brightness, light fall-off, sharpness and noise for a picture, each at random."""
    values = pixels.astype(np.float32)
    height, width = pixels.shape[:2]
    kind = rng.random()
    if kind < 0.3:
        values = grey(values)
    elif kind < 0.42:
        values = values[..., rng.permutation(3)]
    elif kind < 0.6:
        values = values * rng.uniform(0.7, 1.2, 3).astype(np.float32)
    mean = values.mean((0, 1), keepdims=True)
    if rng.random() < 0.6:
        values = mean + (values - mean) * np.float32(np.exp(rng.uniform(np.log(0.3), np.log(1.4))))
    if rng.random() < 0.5:
        values = values * np.float32(np.clip(rng.uniform(25, 225) / max(float(mean.mean()), 8.0), 0.4, 3.0))
    if rng.random() < 0.3:
        fall = rng.uniform(-0.35, 0.35, 2)
        y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
        values = values * (1 + fall[0] * y + fall[1] * x)[..., None].astype(np.float32)
    if rng.random() < 0.2:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.4, 1.4) * width / 128)
    if rng.random() < 0.3:
        values = values + rng.normal(0, rng.uniform(1, 6), (height, width, 1)).astype(np.float32)
    return to_bytes(values)


def plain(rng: np.random.Generator, side: int) -> Pixels:
    """An almost even surface: brushed, fine-grained, cloudy or smooth, with a light gradient."""
    base = rng.uniform(20, 235) * (np.ones(3) if rng.random() < 0.5 else rng.uniform(0.55, 1.1, 3))
    kind = rng.random()
    if kind < 0.35:  # brushed
        noise = cv2.blur(rng.standard_normal((side, 3 * side)).astype(np.float32), (int(rng.integers(8, side)), 1))
        turn = cv2.getRotationMatrix2D((1.5 * side, side / 2), float(rng.choice([0, 90, rng.uniform(0, 180)])), 1.0)
        turn[:, 2] -= (side, 0)
        noise = cv2.warpAffine(noise, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    elif kind < 0.7:  # grain
        noise = cv2.GaussianBlur(rng.standard_normal((side, side)).astype(np.float32), (0, 0), rng.uniform(0.4, 1.6))
    else:
        noise = fractal(rng, (side, side), 2, 16)
    noise = noise / (float(noise.std()) + 1e-6) * rng.uniform(0.0, 0.08)
    slow = fractal(rng, (side, side), 1, 2) * rng.uniform(0, 0.12)
    return to_bytes(base * (1 + noise + slow)[..., None])


def dead_leaves(rng: np.random.Generator, side: int) -> Pixels:
    """Overlapping discs, ellipses and polygons of random colours (Lee, Mumford and Huang, 2001)."""
    values = np.empty((side, side, 3), np.float32)
    values[:] = rng.uniform(0, 255, 3)
    coloured = rng.random() < 0.6
    for _ in range(int(rng.integers(15, 140))):
        radius = 1.5 / max(rng.random() ** 0.6, 1.5 / (0.5 * side))
        colour = rng.uniform(0, 255, 3) if coloured else np.full(3, rng.uniform(0, 255))
        centre, angle = rng.uniform(0, side, 2), rng.uniform(0, 360)
        place = (int(centre[0] * 16), int(centre[1] * 16))
        if rng.random() < 0.6:
            axes = (int(radius * 16), int(radius * rng.uniform(0.15, 1) * 16))
            cv2.ellipse(values, place, axes, angle, 0, 360, colour.tolist(), -1, cv2.LINE_AA, 4)
        else:
            corner = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
            points = centre + radius * np.stack([np.cos(corner), np.sin(corner)], 1)
            cv2.fillPoly(values, [np.rint(points * 16).astype(np.int32)], colour.tolist(), cv2.LINE_AA, 4)
    if rng.random() < 0.5:
        values = values * (1 + rng.uniform(0.02, 0.15) * fractal(rng, (side, side), 8, 64, 0.8))[..., None]
    return to_bytes(values)


def grating(rng: np.random.Generator, side: int) -> Pixels:
    """Stripes, a grid or a weave of two colours: waves of one or two directions, soft or hard."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    wave = np.zeros((side, side), np.float32)
    turn = rng.uniform(0, np.pi)
    for index in range(int(rng.integers(1, 3))):
        angle, period = turn + index * np.pi / 2, float(np.exp(rng.uniform(np.log(3.5), np.log(40))))
        wave += np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period + rng.uniform(0, 6.3))
    wave += rng.uniform(0, 0.5) * fractal(rng, (side, side), 4, 32)
    share = smoothstep(0.5 + wave * np.exp(rng.uniform(-1.2, 1.5)))[..., None]
    first, second = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    if rng.random() < 0.5:
        first, second = np.full(3, first[0]), np.full(3, second[0])
    return to_bytes(first * share + second * (1 - share))


def band_noise(rng: np.random.Generator, side: int) -> Pixels:
    """Random noise of a band of frequencies: cloudy, cellular or veined, in one hue or several."""
    low = float(np.exp(rng.uniform(np.log(1.5), np.log(24))))
    fields = [fractal(rng, (side, side), low, low * 2.0 ** rng.uniform(0, 4), rng.uniform(0.4, 1.0)) for _ in range(2)]
    first = np.abs(fields[0]) - 0.8 if rng.random() < 0.3 else fields[0]
    base = rng.uniform(40, 215, 3) if rng.random() < 0.6 else np.full(3, rng.uniform(40, 215))
    tints = rng.normal(0, 1, (2, 3)) if rng.random() < 0.5 else np.ones((2, 3))
    strength = rng.uniform(6, 60)
    return to_bytes(base + strength * (first[..., None] * tints[0] + 0.5 * fields[1][..., None] * tints[1]))


def procedural(rng: np.random.Generator, side: int) -> Pixels:
    """One of the procedural surfaces."""
    makers = (plain, dead_leaves, grating, band_noise)
    return makers[int(rng.choice(4, p=[0.35, 0.3, 0.15, 0.2]))](rng, side)


def picture_window(pixels: Pixels, side: int, rng: np.random.Generator, *, min_side: int = 64) -> Pixels:
    """A random square window of a picture, resized and mirrored."""
    window = random_window(pixels.shape[:2], rng, min_side=min_side)
    cut = resize_pixels(crop(pixels, window), (side, side))
    cut = cut[:, ::-1] if rng.random() < 0.5 else cut
    cut = cut[::-1] if rng.random() < 0.5 else cut
    return np.ascontiguousarray(cut, dtype=np.uint8)


def with_edge(first: Pixels, second: Pixels, rng: np.random.Generator) -> Pixels:
    """Two surfaces that meet along a slightly wavy line: the edge of a part or of a coat of paint."""
    side = first.shape[0]
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    turn = rng.uniform(0, 2 * np.pi)
    line = x * np.cos(turn) + y * np.sin(turn) + rng.uniform(0.0, 0.1) * fractal(rng, (side, side), 2, 4)
    share = smoothstep((line + rng.uniform(0.3, 0.8)) / 0.04)[..., None]
    return to_bytes(first * share + second * np.float32(rng.uniform(0.2, 1.0)) * (1 - share))
