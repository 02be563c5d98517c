"""Training images at the detector's size, and the random crops of them that make a batch.

Images are never stretched: those that are too large shrink in proportion, those smaller than a crop are continued
by reflection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, Pixels, resize_mask, resize_pixels
from adabldm.evaluation.labelled import Labelled

CONTRAST = 0.2
"""Contrast of a crop is multiplied by a random factor of at most so much above or below 1."""
BRIGHTNESS = 0.1
"""Brightness of a crop is moved by at most so much, as a share of the scaling's deviation."""
LEAST_DEVIATION = 8.0
"""Grey levels: `standardise` takes an image with less contrast as flat, not as noise to be blown up."""

Scaling = Callable[[Pixels], tuple[float, float]]
"""From an image's pixels to the (mean, deviation) in grey levels that bring them to the network's range."""


def full_range(pixels: Pixels) -> tuple[float, float]:
    """Scaling to [-1, 1], whatever the image: what networks with ImageNet weights expect."""
    del pixels
    return 127.5, 127.5


def standardise(pixels: Pixels) -> tuple[float, float]:
    """Scaling to mean 0 and deviation 1 over all pixels and channels of the image; its colours stay apart."""
    return float(pixels.mean()), max(float(pixels.std()), LEAST_DEVIATION)


@dataclass(frozen=True)
class Frame:
    """A training image at the detector's size.

    Attributes:
        pixels: uint8 HxWx3.
        scaling: (mean, deviation) of the whole image in grey levels, so that a crop looks as in prediction.
        mask: bool HxW with at least one defect pixel; `None` for a defect-free image.
        source: the image before the defect was put in, uint8 HxWx3, where it is known.
        synthetic: the defect was made, not photographed.
    """

    pixels: Pixels
    scaling: tuple[float, float]
    mask: Mask | None = None
    source: Pixels | None = None
    synthetic: bool = False


@dataclass(frozen=True)
class Frames:
    """The training set of a detector.

    Attributes:
        good: defect-free images.
        defects: images with a defect.
    """

    good: tuple[Frame, ...]
    defects: tuple[Frame, ...]

    @property
    def pairs(self) -> tuple[Frame, ...]:
        """Images with a defect whose source is known."""
        return tuple(frame for frame in self.defects if frame.source is not None)


@dataclass(frozen=True)
class Batch:
    """Crops on the CPU.

    Attributes:
        images: float32 Bx3xSxS in the scaling's range.
        masks: float32 Bx1xSxS, 1 where the defect is, else 0.
        clean: float32 Bx3xSxS: the images without their defects where the source is known, else the images.
    """

    images: Tensor
    masks: Tensor
    clean: Tensor


def prepare(
    images: Sequence[Labelled], *, name: str, side: int, scaling: Scaling, needs_defects: bool = True
) -> Frames:
    """Check and shrink a training set.

    Args:
        images: the training set.
        name: name of the detector, for messages.
        side: longest side in px.
        scaling: of the detector.
        needs_defects: a set without defect images is refused; else they are neither needed nor used.

    Raises:
        InputError: no defect-free or no defect image, a mask or source of another size, or a mask without a defect.
    """
    used = [image for image in images if needs_defects or not image.marks]
    problems = [problem for index, image in enumerate(used) for problem in _problems(index, image)]
    if all(image.marks for image in used):
        problems.append(f"detector {name}: no defect-free images to learn from; add some (without marks).")
    if needs_defects and not any(image.marks for image in used):
        problems.append(f"detector {name}: no defect images to learn from; add some with masks, or use patchcore.")
    if problems:
        raise InputError(problems)
    frames = [_frame(image, side, scaling) for image in used]
    return Frames(
        good=tuple(frame for frame in frames if frame.mask is None),
        defects=tuple(frame for frame in frames if frame.mask is not None),
    )


def _problems(index: int, image: Labelled) -> list[str]:
    size = image.pixels.shape[:2]
    arrays: list[tuple[str, NDArray[Any]]] = [("mask", mask) for mask in image.of_type()]
    arrays += [] if image.source is None else [("source", image.source)]
    problems = [
        f"training image {index}: its {what} is {array.shape[0]} x {array.shape[1]} px (height x width), "
        f"expected {size[0]} x {size[1]} px as the image; give both at one size."
        for what, array in arrays
        if array.shape[:2] != size
    ]
    if image.marks and not any(mask.any() for mask in image.of_type()):
        problems.append(f"training image {index}: its mask is empty; leave the image out, or give no marks if good.")
    return problems


def _frame(image: Labelled, side: int, scaling: Scaling) -> Frame:
    size = shrink_size(image.pixels.shape[:2], side)
    pixels = resize_pixels(image.pixels, size)
    return Frame(
        pixels,
        scaling(pixels),
        None if image.mask is None else resize_mask(image.mask, size),
        None if image.source is None else resize_pixels(image.source, size),
        image.synthetic,
    )


def shrink_size(size: tuple[int, ...], side: int) -> tuple[int, int]:
    """(height, width) in the same proportion with a longer side of at most `side`; smaller sizes stay."""
    height, width = size
    factor = min(1.0, side / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def pad_to(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Continue HxW or HxWxC by reflection at the bottom and right to at least (height, width)."""
    missing = [(0, max(0, target - length)) for target, length in zip(size, array.shape, strict=False)]
    return np.pad(array, missing + [(0, 0)] * (array.ndim - 2), mode="reflect")


def scaled(pixels: NDArray[Any], mean: float, deviation: float) -> NDArray[np.float32]:
    """HxWx3 grey levels to float32 3xHxW in the scaling's range."""
    return np.ascontiguousarray(((pixels.astype(np.float32) - mean) / deviation).transpose(2, 0, 1))


def draw_batch(
    good: Sequence[Frame], defects: Sequence[Frame], size: int, crop: int, rng: np.random.Generator
) -> Batch:
    """Draw a batch: half of it around a random pixel of a random defect, half random crops of good images.

    Real and synthetic defects have equal chances, however many there are of each, so that many synthetic images do
    not crowd out the few real ones; without `defects` all crops are of good images.

    Args:
        good: defect-free images.
        defects: images with a defect.
        size: crops in the batch.
        crop: side of a crop in px.
        rng: source of all random draws.
    """
    kinds = [[frame for frame in defects if frame.synthetic == synthetic] for synthetic in (False, True)]
    kinds = [frames for frames in kinds if frames]

    def pool(index: int) -> Sequence[Frame]:
        return kinds[int(rng.integers(len(kinds)))] if kinds and index % 2 == 0 else good

    crops = [_draw_crop(pool(index), crop, rng) for index in range(size)]
    images, masks, clean = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*crops, strict=True))
    return Batch(images, masks, clean)


def _draw_crop(
    frames: Sequence[Frame], crop: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Image, mask and clean image of a random crop of a random frame, turned, mirrored and jittered alike."""
    frame = frames[int(rng.integers(len(frames)))]
    top, left = _corner(frame, crop, rng)
    mask = np.zeros(frame.pixels.shape[:2], np.bool_) if frame.mask is None else frame.mask
    source = frame.pixels if frame.source is None else frame.source
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    mean, deviation = frame.scaling
    deviation = deviation / rng.uniform(1 - CONTRAST, 1 + CONTRAST)
    mean = mean + deviation * rng.uniform(-BRIGHTNESS, BRIGHTNESS)

    def cut(array: NDArray[Any]) -> NDArray[Any]:
        piece = pad_to(array[top : top + crop, left : left + crop], (crop, crop))
        piece = np.rot90(piece, turns)
        return piece[:, ::-1] if mirrored else piece

    image, clean = scaled(cut(frame.pixels), mean, deviation), scaled(cut(source), mean, deviation)
    return image, cut(mask)[None].astype(np.float32), clean


def _corner(frame: Frame, crop: int, rng: np.random.Generator) -> tuple[int, int]:
    """Top left corner of a crop; in an image with a defect, one of its pixels lies anywhere in the crop.

    Were that pixel always in the middle, a network could learn the place instead of the defect.
    """
    height, width = frame.pixels.shape[:2]
    highest, leftmost = max(0, height - crop), max(0, width - crop)
    if frame.mask is None:
        return int(rng.integers(highest + 1)), int(rng.integers(leftmost + 1))
    rows, columns = np.nonzero(frame.mask)
    pick = int(rng.integers(len(rows)))
    top, left = rows[pick] - rng.integers(crop), columns[pick] - rng.integers(crop)
    return int(np.clip(top, 0, highest)), int(np.clip(left, 0, leftmost))
