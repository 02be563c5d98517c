"""Training examples: windows of real defects, of pasted defects and of good parts, each with trimap and prompt.

Source: AdaBLDM (arXiv 2402.19330), training pairs: a defect is cut out, rotated by 0-360 degrees, scaled by
0.85-1.15 and put on a defect-free image inside the object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.images import Mask, Pixels, resize_mask, resize_pixels
from adabldm.prompts import defect_prompt, good_prompt
from adabldm.trimap.trimap import make_trimap
from adabldm.windows import bounding_box, crop, random_window, window_around

Trimap = NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """One image with what is known of it: `defect` and `mask` are `None` for a defect-free one."""

    pixels: Pixels
    foreground: Mask
    defect: str | None = None
    mask: Mask | None = None


@dataclass(frozen=True)
class Example:
    """One training window: uint8 RxRx3, float32 RxR in {0, 0.5, 1}, and its caption."""

    pixels: Pixels
    trimap: Trimap
    prompt: str


@dataclass(frozen=True)
class Mixture:
    """What training windows show.

    Attributes:
        real: share with a real defect.
        pasted: share with a pasted defect; the rest is defect-free.
        soft: pasted defects take over the brightness of the place (and a feathered edge); else they are pasted hard.
        flips: windows are mirrored at random.
    """

    real: float = 0.45
    pasted: float = 0.3
    soft: bool = True
    flips: bool = True


def _touches_border(mask: Mask) -> bool:
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def _turned(pixels: Pixels, mask: Mask, angle: float, scale: float) -> tuple[Pixels, Mask]:
    """Rotate by `angle` degrees and scale an image and its mask about their centre, on a canvas that holds them."""
    height, width = mask.shape
    side = int(np.ceil(np.hypot(height, width) * scale)) + 4
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    matrix[:, 2] += (side / 2 - width / 2, side / 2 - height / 2)
    turned = cv2.warpAffine(pixels, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    shape = cv2.warpAffine(mask.astype(np.float32), matrix, (side, side), flags=cv2.INTER_LINEAR)
    return turned, shape >= 0.4


def paste_defect(
    source: Part, target: Part, rng: np.random.Generator, *, soft: bool = True, tries: int = 20
) -> Part | None:
    """Cut the defect out of `source`, rotate and scale it, and put it on the object in `target`.

    A defect that touches the border of its image is not rotated and keeps its distance to that border.

    Returns:
        the composite with its mask, or `None` when no try finds a place.
    """
    assert source.mask is not None
    top, left, bottom, right = bounding_box(source.mask)
    height, width = target.foreground.shape
    anchored = _touches_border(source.mask)
    low_y, low_x = max(top - 6, 0), max(left - 6, 0)
    cut = np.s_[low_y : bottom + 6, low_x : right + 6]
    pixels, mask = source.pixels[cut], source.mask[cut]
    if not anchored:
        pixels, mask = _turned(pixels, mask, rng.uniform(0, 360), rng.uniform(0.85, 1.15))
    if not mask.any():
        return None
    box = bounding_box(mask)
    if box[2] - box[0] > height or box[3] - box[1] > width:
        return None
    for _ in range(tries):
        if anchored:
            y = top if top <= 1 else height - (source.mask.shape[0] - top) if bottom >= source.mask.shape[0] - 1 else -1
            x = (
                left
                if left <= 1
                else width - (source.mask.shape[1] - left)
                if right >= source.mask.shape[1] - 1
                else -1
            )
            y = y if y >= 0 else int(rng.integers(0, height - (box[2] - box[0]) + 1))
            x = x if x >= 0 else int(rng.integers(0, width - (box[3] - box[1]) + 1))
        else:
            y = int(rng.integers(0, height - (box[2] - box[0]) + 1))
            x = int(rng.integers(0, width - (box[3] - box[1]) + 1))
        placed = _put(target, pixels, mask, y - box[0], x - box[1], soft)
        if placed.mask is not None and (placed.mask & target.foreground).sum() >= 0.95 * mask.sum():
            return Part(placed.pixels, target.foreground, source.defect, placed.mask)
    return None


def _put(target: Part, pixels: Pixels, mask: Mask, y: int, x: int, soft: bool) -> Part:
    """Paste `pixels` where `mask` is, its top left corner at (y, x) of the target, clipped to it."""
    height, width = target.foreground.shape
    rows, columns = slice(max(y, 0), min(y + mask.shape[0], height)), slice(max(x, 0), min(x + mask.shape[1], width))
    own = np.s_[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    full = np.zeros((height, width), bool)
    full[rows, columns] = mask[own]
    result = target.pixels.copy()
    here = result[rows, columns].astype(np.float32)
    patch, shape = pixels[own].astype(np.float32), mask[own]
    alpha = shape.astype(np.float32)
    if soft and shape.any() and not shape.all():
        ring = (cv2.dilate(shape.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0) & ~shape
        if ring.any():
            patch = patch + np.median(here[ring], axis=0) - np.median(patch[ring], axis=0)
        alpha = np.maximum(cv2.GaussianBlur(alpha, (3, 3), 0.7), alpha * 0.9)
    result[rows, columns] = np.clip(here + alpha[..., None] * (patch - here), 0, 255).round().astype(np.uint8)
    return Part(result, target.foreground, None, full)


def make_example(
    part: Part, object_name: str, resolution: int, rng: np.random.Generator, *, flips: bool = True
) -> Example:
    """A random window of a part at the model's resolution, around its defect if it has one."""
    if part.mask is not None and part.defect is not None:
        window = window_around(part.mask, context=rng.uniform(1.5, 2.6), rng=rng)
        mask, prompt = part.mask, defect_prompt(object_name, part.defect)
    else:
        window = random_window(part.foreground.shape, rng)
        mask, prompt = np.zeros_like(part.foreground), good_prompt(object_name)
    size = (resolution, resolution)
    pixels = resize_pixels(crop(part.pixels, window), size)
    trimap = make_trimap(resize_mask(crop(part.foreground, window), size), resize_mask(crop(mask, window), size))
    gain = rng.uniform(0.88, 1.12)
    pixels = np.clip(pixels * gain, 0, 255).round().astype(np.uint8)
    if flips and rng.random() < 0.5:
        pixels, trimap = pixels[:, ::-1], trimap[:, ::-1]
    if flips and rng.random() < 0.5:
        pixels, trimap = pixels[::-1], trimap[::-1]
    return Example(np.ascontiguousarray(pixels), np.ascontiguousarray(trimap), prompt)


def make_examples(
    good: Sequence[Part],
    defects: Mapping[str, Sequence[Part]],
    object_name: str,
    count: int,
    resolution: int,
    rng: np.random.Generator,
    mixture: Mixture | None = None,
) -> list[Example]:
    """`count` windows, defect types taking turns, real and pasted defects and good parts in the shares of `mixture`."""
    shares = mixture or Mixture()
    types = sorted(defects)
    examples = []
    for index in range(count):
        part = good[int(rng.integers(len(good)))]
        kind = rng.random()
        if types and kind < shares.real + shares.pasted:
            sources = defects[types[index % len(types)]]
            source = sources[int(rng.integers(len(sources)))]
            pasted = paste_defect(source, part, rng, soft=shares.soft) if kind >= shares.real else None
            part = pasted or source
        examples.append(make_example(part, object_name, resolution, rng, flips=shares.flips))
    return examples
