"""Defect shapes: cut out of the real masks, drawn at random, rotated, scaled and flipped.

AdaBLDM (arXiv 2402.19330), training pairs: rotation 0-360 degrees, scale 0.85-1.15.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.errors import InputError
from adabldm.core.images import Mask
from adabldm.core.samples import Instance
from adabldm.core.settings.variation import Flips

Linear = tuple[tuple[float, float], tuple[float, float]]
IDENTITY: Linear = ((1.0, 0.0), (0.0, 1.0))
BORDERS = frozenset({"top", "bottom", "left", "right"})
_OPPOSITE = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}
SUPERSAMPLING = 4
"""A transformed mask is sampled this often per source pixel and axis, so that one-pixel scratches survive."""


@dataclass(frozen=True)
class DefectShape:
    """One defect's outline, with all its components, apart from any image.

    Attributes:
        mask: bool hxw, cropped to the bounding box, never empty.
        origin: (y, x) centre of the bounding box in its source image, each 0…1.
        borders: the borders of the source image that the mask touches; it is cut straight there.
        source: where it comes from (file name, or "procedural blob").
        image_size: (height, width) of the source image.
        instance: the real defect with its image, where the shape is one.
        linear: 2x2 matrix that turned (x, y) of the source image into (x, y) of `mask`, apart from the shift.
    """

    mask: Mask
    origin: tuple[float, float] = (0.5, 0.5)
    borders: frozenset[str] = frozenset()
    source: str = ""
    image_size: tuple[int, int] = (0, 0)
    instance: Instance | None = None
    linear: Linear = IDENTITY


def crop_to_content(mask: Mask) -> Mask:
    """The part of a non-empty mask inside its bounding box."""
    top, bottom, left, right = _bounds(mask)
    return mask[top:bottom, left:right].copy()


def _bounds(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def shape_from_mask(mask: Mask, source: str = "") -> DefectShape:
    """Cut the defect out of an image's mask.

    Args:
        mask: bool HxW, the whole image's defect mask.
        source: name for messages.

    Raises:
        InputError: the mask is empty.
    """
    if not mask.any():
        raise InputError(f"{source or 'mask'}: the mask is empty, expected at least one defect pixel.")
    height, width = mask.shape
    top, bottom, left, right = _bounds(mask)
    touched = {"top": top == 0, "bottom": bottom == height, "left": left == 0, "right": right == width}
    return DefectShape(
        mask=mask[top:bottom, left:right].copy(),
        origin=((top + bottom) / 2 / height, (left + right) / 2 / width),
        borders=frozenset(name for name, touches in touched.items() if touches),
        source=source,
        image_size=(height, width),
    )


@dataclass(frozen=True)
class MaskBank:
    """The real defects' shapes of one type."""

    shapes: tuple[DefectShape, ...]

    @classmethod
    def from_instances(cls, instances: Sequence[Instance]) -> MaskBank:
        """Read the masks of defects; each gives one shape.

        Raises:
            InputError: there are none, or masks cannot be read; all problems at once.
        """
        shapes: list[DefectShape] = []
        problems: list[str] = []
        for instance in instances:
            source = instance.defect.mask
            try:
                shapes.append(replace(shape_from_mask(source.read(), source.name), instance=instance))
            except InputError as error:
                problems.extend(error.problems)
        if problems:
            raise InputError(problems)
        if not shapes:
            raise InputError("no defect masks to draw shapes from, expected at least one defect image with its mask.")
        return cls(tuple(shapes))

    def draw(self, rng: np.random.Generator) -> DefectShape:
        """One of the shapes, each equally likely."""
        return self.shapes[int(rng.integers(len(self.shapes)))]


def transform(
    shape: DefectShape,
    rng: np.random.Generator,
    *,
    angles: tuple[float, float] = (0.0, 360.0),
    scale: tuple[float, float] = (0.85, 1.15),
    flips: Flips = "both",
) -> DefectShape:
    """A random variant of a shape.

    A shape that touches its image's border is not rotated, and a flip moves the border with it, so that the
    straight cut can stay at the image's border.

    Args:
        shape: the shape.
        rng: numpy generator; it is advanced by the same number of draws whatever the shape.
        angles: the angle is uniform in this range, in degrees.
        scale: the factor is uniform in this range, both ends positive.
        flips: mirror left-right ("horizontal"), top-bottom ("vertical") or both ways, each with probability one half.

    Raises:
        InputError: a scale is not positive or the range is reversed.
    """
    if not 0 < scale[0] <= scale[1]:
        raise InputError(f"scale is {scale}, expected (smallest, largest) with 0 < smallest <= largest.")
    angle, factor = float(rng.uniform(*angles)), float(rng.uniform(*scale))
    horizontal, vertical = (
        bool(value) and flips in ("both", way)
        for value, way in zip(rng.integers(2, size=2), ("horizontal", "vertical"), strict=True)
    )
    flipped = _flip(shape, horizontal=horizontal, vertical=vertical)
    return warped(flipped, 0.0 if shape.borders else angle, (factor, factor))


def extent(mask: Mask) -> float:
    """Largest distance between two pixels of a non-empty mask, plus 1, in px: turning does not change it."""
    points = np.argwhere(mask).astype(np.int32)
    hull = cv2.convexHull(points)[:, 0].astype(np.float64)
    return float(np.hypot(*np.moveaxis(hull[:, None] - hull[None], -1, 0)).max()) + 1


def warped(shape: DefectShape, angle: float, scale: tuple[float, float]) -> DefectShape:
    """The shape with its mask put through `warp_mask`, which see."""
    mask = warp_mask(shape.mask, angle, scale)
    return replace(shape, mask=mask, linear=_then(shape.linear, _turn(angle, scale)))


def _turn(angle: float, scale: tuple[float, float]) -> NDArray[np.float64]:
    """2x2 matrix on (x, y): scale by (y, x) factors, then rotate by `angle` degrees."""
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return np.array([[cos * scale[1], sin * scale[0]], [-sin * scale[1], cos * scale[0]]])


def _then(first: Linear, second: NDArray[np.float64]) -> Linear:
    (a, b), (c, d) = (second @ np.array(first)).tolist()
    return (a, b), (c, d)


def _flip(shape: DefectShape, *, horizontal: bool, vertical: bool) -> DefectShape:
    """Mirror the mask; borders, and the origin of a shape that touches any, are mirrored with it."""
    mask, (y, x), borders = shape.mask, shape.origin, shape.borders
    if horizontal:
        mask, x = mask[:, ::-1], 1 - x if borders else x
        borders = frozenset(_OPPOSITE[name] if name in {"left", "right"} else name for name in borders)
    if vertical:
        mask, y = mask[::-1], 1 - y if borders else y
        borders = frozenset(_OPPOSITE[name] if name in {"top", "bottom"} else name for name in borders)
    linear = _then(shape.linear, np.diag([-1.0 if horizontal else 1.0, -1.0 if vertical else 1.0]))
    return replace(shape, mask=mask, origin=(y, x), borders=borders, linear=linear)


def warp_mask(mask: Mask, angle: float, scale: tuple[float, float]) -> Mask:
    """Scale a non-empty mask by (y, x) factors, then rotate it by `angle` degrees; cropped, never empty.

    A pixel is set if half of it is covered. Where no pixel nearby is full, on a thin line, 40 % of the best coverage
    nearby is enough, so that a scratch one pixel wide stays connected.
    """
    height, width = mask.shape
    matrix = _turn(angle, scale)
    out_width, out_height = np.ceil(np.abs(matrix) @ (width, height) - 1e-6).astype(int)
    if angle:
        out_width, out_height = out_width + 2, out_height + 2
    samples = math.ceil(SUPERSAMPLING / min(1.0, *scale))
    coverage = _coverage(mask, matrix, (max(1, int(out_height)), max(1, int(out_width))), samples)
    nearby = cv2.dilate(coverage, np.ones((3, 3), np.uint8))
    threshold = np.where(nearby < 0.9, 0.4 * nearby, 0.5)
    return crop_to_content(np.asarray((coverage > 0) & (coverage >= threshold)))


def _coverage(mask: Mask, matrix: NDArray[np.float64], size: tuple[int, int], samples: int) -> NDArray[np.float32]:
    """How much of each output pixel the transformed mask covers, 0…1, from samples x samples points in it.

    The mask's centre is mapped to the output's centre.
    """
    height, width = size
    factor = max(1, min(samples, 16000 // max(size)))  # OpenCV warps at most 32767 px
    source_centre = np.array([mask.shape[1] - 1, mask.shape[0] - 1]) / 2
    target_centre = np.array([width * factor - 1, height * factor - 1]) / 2
    inverse = np.linalg.inv(matrix * factor)
    offset = source_centre - inverse @ target_centre
    fine = cv2.warpAffine(
        mask.astype(np.float32),
        np.column_stack([inverse, offset]),
        (width * factor, height * factor),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )
    return np.asarray(cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA), dtype=np.float32)
