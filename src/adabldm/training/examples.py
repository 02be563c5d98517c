"""Training examples: windows of real defects, of pasted defects and of good parts, each with trimap and prompt.

Source: AdaBLDM (arXiv 2402.19330), training pairs: a defect is cut out, rotated by 0-360 degrees, scaled by
0.85-1.15 and put on a defect-free image inside the object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.images import Mask, Pixels, resize_mask, resize_pixels
from adabldm.core.prompts import defect_prompt, good_prompt
from adabldm.core.settings.fit import Mixture
from adabldm.core.windows import bounding_box, crop, random_window, window_around
from adabldm.masks.trimap import Trimap, make_trimap
from adabldm.training.fill import Filler

MARGIN = 6
"""Pixels around a defect that are cut out with it: pasting measures its surroundings there."""


@dataclass(frozen=True)
class SourceImage:
    """A training image as seen from one of its defects; an image with several defects gives one view for each.

    Attributes:
        pixels: uint8 RGB, HxWx3.
        foreground: object pixels, bool HxW; all defects belong to the object.
        defect: type of this view's defect; `None` for a defect-free image.
        mask: pixels of this view's defect, bool HxW; `None` for a defect-free image.
        every: pixels of all defects of the image, bool HxW, shared by its views; `None` if there is no other one.
        regions: where defects may be, by type, bool HxW; "" is for all types without one of their own.
        clean: the same picture without its defects, uint8 HxWx3, where it is known: of pasted and rendered defects.
    """

    pixels: Pixels
    foreground: Mask
    defect: str | None = None
    mask: Mask | None = None
    every: Mask | None = None
    regions: Mapping[str, Mask] = field(default_factory=dict)
    clean: Pixels | None = None

    def region(self, defect: str | None) -> Mask | None:
        """Object pixels where a defect of a type may be; `None` where nothing is said."""
        region = self.regions.get(defect or "", self.regions.get(""))
        return None if region is None else region & self.foreground


@dataclass(frozen=True)
class Example:
    """One training window.

    Attributes:
        pixels: uint8 RxRx3.
        trimap: float32 RxR in {0, 0.5, 1}.
        prompt: its caption.
        clean: the window without its defects, uint8 RxRx3; `None` where the control branch does not read it.
    """

    pixels: Pixels
    trimap: Trimap
    prompt: str
    clean: Pixels | None = None


@dataclass(frozen=True)
class _Patch:
    """A defect that was cut out: its surroundings, its own mask, and the pixels of all defects, where others are."""

    pixels: Pixels
    mask: Mask
    every: Mask | None


def _touches_border(mask: Mask) -> bool:
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def _turned(patch: _Patch, angle: float, scale: float) -> _Patch:
    """Rotate by `angle` degrees and scale a patch about its centre, on a canvas that holds it."""
    height, width = patch.mask.shape
    side = int(np.ceil(np.hypot(height, width) * scale)) + 4
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    matrix[:, 2] += (side / 2 - width / 2, side / 2 - height / 2)

    def turned(mask: Mask) -> Mask:
        return np.asarray(cv2.warpAffine(mask.astype(np.float32), matrix, (side, side), flags=cv2.INTER_LINEAR) >= 0.4)

    reflected = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REFLECT_101}
    pixels = cv2.warpAffine(patch.pixels, matrix, (side, side), **reflected)
    return _Patch(pixels, turned(patch.mask), None if patch.every is None else turned(patch.every))


def paste_defect(
    source: SourceImage, target: SourceImage, rng: np.random.Generator, *, soft: bool = True, tries: int = 20
) -> SourceImage | None:
    """Cut the defect out of `source`, rotate and scale it, and put it on the object in the defect-free `target`.

    A defect that touches the border of its image is not rotated and keeps its distance to that border.

    Returns:
        the composite with its mask, or `None` when no try finds a place.
    """
    assert source.mask is not None
    top, left, bottom, right = bounding_box(source.mask)
    height, width = target.foreground.shape
    anchored = _touches_border(source.mask)
    cut = np.s_[max(top - MARGIN, 0) : bottom + MARGIN, max(left - MARGIN, 0) : right + MARGIN]
    patch = _Patch(source.pixels[cut], source.mask[cut], None if source.every is None else source.every[cut])
    if not anchored:
        patch = _turned(patch, rng.uniform(0, 360), rng.uniform(0.85, 1.15))
    if not patch.mask.any():
        return None
    box = bounding_box(patch.mask)
    if box[2] - box[0] > height or box[3] - box[1] > width:
        return None
    fixed = (-1, -1)
    if anchored:
        rows, columns = source.mask.shape
        fixed = _anchor(top, bottom, rows, height), _anchor(left, right, columns, width)
    region = target.region(source.defect)
    room, places = target.foreground if region is None else region, None if region is None else np.argwhere(region)
    if places is not None and not len(places):
        return None

    def start(axis: int, length: int) -> int:
        side = box[axis + 2] - box[axis]
        if fixed[axis] >= 0:
            return fixed[axis]
        return int(rng.integers(0, length - side + 1)) if middle is None else int(middle[axis]) - side // 2

    for _ in range(tries):
        middle = None if places is None else places[int(rng.integers(len(places)))]
        y, x = start(0, height), start(1, width)
        pixels, mask = _put(target, patch, y - box[0], x - box[1], soft)
        if (mask & room).sum() >= 0.95 * patch.mask.sum():
            return SourceImage(pixels, target.foreground, source.defect, mask, clean=target.pixels)
    return None


def _anchor(low: int, high: int, own: int, length: int) -> int:
    """Start along one axis of a defect that touches its image's border there; -1 if it may start anywhere.

    Args:
        low: its start in its own image.
        high: its end, exclusive.
        own: length of its own image.
        length: length of the target image.
    """
    if low <= 1:
        return low
    return length - (own - low) if high >= own - 1 else -1


def _put(target: SourceImage, patch: _Patch, y: int, x: int, soft: bool) -> tuple[Pixels, Mask]:
    """Paste the defect of a patch, its top left corner at (y, x) of the target, clipped to it: pixels and mask."""
    height, width = target.foreground.shape
    rows = slice(max(y, 0), min(y + patch.mask.shape[0], height))
    columns = slice(max(x, 0), min(x + patch.mask.shape[1], width))
    own = np.s_[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    full = np.zeros((height, width), bool)
    full[rows, columns] = patch.mask[own]
    result = target.pixels.copy()
    here = result[rows, columns].astype(np.float32)
    defect, shape = patch.pixels[own].astype(np.float32), patch.mask[own]
    alpha = shape.astype(np.float32)
    if soft and shape.any() and not shape.all():
        ring = (cv2.dilate(shape.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0) & ~shape
        if patch.every is not None:
            ring &= ~patch.every[own]
        if ring.any():
            defect = defect + np.median(here[ring], axis=0) - np.median(defect[ring], axis=0)
        alpha = np.maximum(cv2.GaussianBlur(alpha, (3, 3), 0.7), alpha * 0.9)
    result[rows, columns] = np.clip(here + alpha[..., None] * (defect - here), 0, 255).round().astype(np.uint8)
    return result, full


def make_example(
    source: SourceImage,
    object_name: str,
    resolution: int,
    rng: np.random.Generator,
    *,
    flips: bool = True,
    filler: Filler | None = None,
) -> Example:
    """A random window of an image at the model's resolution, around its defect if it has one.

    Other defects that the window shows are defect in the trimap too: they are no good surroundings.

    Args:
        source: the image.
        object_name: what it shows.
        resolution: side of the window in px.
        rng: source of all random draws.
        flips: mirror the window at random.
        filler: guesses the window without its defects, for control branches that read it.
    """
    if source.mask is not None and source.defect is not None:
        window = window_around(source.mask, context=rng.uniform(1.5, 2.6), rng=rng)
        mask = source.mask if source.every is None else source.mask | source.every
        prompt = defect_prompt(object_name, source.defect)
    else:
        window = random_window(source.foreground.shape, rng)
        mask, prompt = np.zeros_like(source.foreground), good_prompt(object_name)
    size = (resolution, resolution)
    pixels, shape = resize_pixels(crop(source.pixels, window), size), resize_mask(crop(mask, window), size)
    trimap = make_trimap(resize_mask(crop(source.foreground, window), size), shape)
    arrays: list[NDArray[Any]] = [pixels, trimap]
    if filler is not None and source.clean is not None:
        arrays.append(resize_pixels(crop(source.clean, window), size))
    elif filler is not None:
        arrays.append(filler.fill(source.pixels, mask, window, (pixels, shape), rng))
    gain = rng.uniform(0.88, 1.12)
    arrays = [one if one is trimap else np.clip(one * gain, 0, 255).round().astype(np.uint8) for one in arrays]
    if flips and rng.random() < 0.5:
        arrays = [one[:, ::-1] for one in arrays]
    if flips and rng.random() < 0.5:
        arrays = [one[::-1] for one in arrays]
    pixels, trimap, *clean = map(np.ascontiguousarray, arrays)
    return Example(pixels, trimap, prompt, *clean)


@dataclass(frozen=True)
class TrainingImages:
    """The training images of a data set, in memory.

    Attributes:
        object_name: what the images show.
        good: defect-free images, at least one.
        defects: views of the defective images by defect type.
    """

    object_name: str
    good: Sequence[SourceImage]
    defects: Mapping[str, Sequence[SourceImage]]


def make_examples(
    images: TrainingImages,
    count: int,
    resolution: int,
    rng: np.random.Generator,
    mixture: Mixture,
    *,
    clean: bool = False,
) -> Iterator[Example]:
    """`count` windows of real, pasted and no defects in the shares of `mixture`; defect types take turns.

    With `clean` they have the windows without their defects, too.
    """
    types = sorted(images.defects)
    filler = Filler([one.pixels for one in images.good]) if clean else None
    for index in range(count):
        chosen = images.good[int(rng.integers(len(images.good)))]
        kind = rng.random()
        if types and kind < mixture.real + mixture.pasted:
            sources = images.defects[types[index % len(types)]]
            source = sources[int(rng.integers(len(sources)))]
            pasted = paste_defect(source, chosen, rng, soft=mixture.soft) if kind >= mixture.real else None
            chosen = pasted or source
        yield make_example(chosen, images.object_name, resolution, rng, flips=mixture.flips, filler=filler)
