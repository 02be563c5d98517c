"""Where a defect goes: policies that put a shape on the object (AdaBLDM, arXiv 2402.19330, training pairs)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.errors import InputError
from adabldm.core.images import Mask
from adabldm.core.settings.common import Placement
from adabldm.core.windows import bounding_box
from adabldm.masks.bank import DefectShape, warped

POLICIES: tuple[str, ...] = get_args(Placement)
JITTER = 0.05
"""Policy "real" moves the defect by up to this share of the image's height and width."""
BORDERED = frozenset({"auto", "anywhere", "like-real"})
"""Policies that put a shape which touched its image's border at that border again."""
OBJECT_SHARE = 0.5
"""At least this share of a mask's pixels must lie on the object where a policy clips it."""


class PlacementError(InputError):
    """The mask does not fit on the object."""


class Placed(NamedTuple):
    """A shape at its place.

    Attributes:
        shape: as it was placed, whole.
        mask: its pixels, bool HxW; without what was cut off at the object or at the image's borders.
        corner: (top, left) of the whole shape in the image; outside it where the shape sticks out.
    """

    shape: DefectShape
    mask: Mask
    corner: tuple[int, int]

    @classmethod
    def uncut(cls, shape: DefectShape, mask: Mask) -> Placed:
        """A shape that lies in the image with all of its pixels."""
        (top, left, _, _), (above, before, _, _) = bounding_box(mask), bounding_box(shape.mask)
        return cls(shape, mask, (top - above, left - before))

    @property
    def middle(self) -> tuple[float, float]:
        """(x, y) of the middle of the whole shape's bounding box, as an index of pixels."""
        top, left, bottom, right = bounding_box(self.shape.mask)
        return self.corner[1] + (left + right - 1) / 2, self.corner[0] + (top + bottom - 1) / 2


def place(
    shape: DefectShape,
    foreground: Mask,
    rng: np.random.Generator,
    *,
    policy: str = "auto",
    tries: int = 50,
    taken: Mask | None = None,
) -> Mask:
    """Put a shape on the object.

    Args:
        shape: the defect.
        foreground: bool HxW, True on the object.
        rng: numpy generator.
        policy: "inside": uniform over the positions where the whole mask lies on the object. "overlap": uniform over
            those where at least half of it does; the rest is cut off. "real": where the real defect was, relative
            to the image, moved by up to 5 % of the image's size; cut off at the object. "anywhere": a shape that
            touched its image's border is put at the same border, shifted along it at random (in the corner, if it
            touched two neighbouring borders; stretched to the image's full size between two opposite ones); any
            other shape goes "inside". "auto" and "like-real" mean the same here; see `masks.surroundings`.
        tries: how many random positions "real" and the border rule try.
        taken: bool HxW, pixels that no part of the mask may cover; `None` without any.

    Returns:
        bool HxW, never empty.

    Raises:
        InputError: unknown policy.
        PlacementError: nothing fits.
    """
    return _put(shape, (foreground, taken), rng, policy=policy, tries=tries)[0]


def _put(
    shape: DefectShape, room: tuple[Mask, Mask | None], rng: np.random.Generator, *, policy: str, tries: int = 50
) -> tuple[Mask, tuple[int, int]]:
    """`place`, and the corner of the whole shape; `room` is the object, and the pixels that are taken."""
    foreground, taken = room
    if policy not in POLICIES:
        raise InputError(f"placement policy is {policy!r}, expected one of {', '.join(POLICIES)}.")
    if policy not in {"inside", "overlap"}:
        shape = spanning(shape, _size(foreground))
    if policy == "real":
        return _first_on_object(shape, room, lambda: _real_corner(shape, foreground.shape, rng), tries)
    if policy in BORDERED and shape.borders:
        if any(side > most for side, most in zip(shape.mask.shape, foreground.shape, strict=True)):
            raise _too_large(shape, foreground)
        return _first_on_object(shape, room, lambda: _border_corner(shape, foreground.shape, rng), tries)
    return _anywhere(shape, foreground, rng, clipped=policy == "overlap", taken=taken)


def place_from_bank(
    draw: Callable[[], DefectShape],
    foreground: Mask,
    rng: np.random.Generator,
    *,
    policy: str = "auto",
    redraws: int = 10,
    taken: Mask | None = None,
) -> Placed:
    """`place` with another shape from `draw` when one does not fit, up to `redraws` times in all.

    Returns:
        The shape that fitted, as it was placed, with its mask.

    Raises:
        PlacementError: none of the shapes fitted; the last one's message.
    """
    for attempt in range(redraws):
        shape = draw()
        if policy not in {"inside", "overlap"}:
            shape = spanning(shape, _size(foreground))
        try:
            return Placed(shape, *_put(shape, (foreground, taken), rng, policy=policy))
        except PlacementError as error:
            if attempt + 1 == redraws:
                raise PlacementError(f"none of {redraws} defect shapes fits; the last one: {error}") from error
    raise InputError(f"redraws is {redraws}, expected at least 1.")


def valid_corners(foreground: Mask, mask: Mask, needed: int) -> NDArray[np.intp]:
    """Nx2 (top, left) positions inside the image where at least `needed` of the mask's pixels lie on the object."""
    if mask.shape[0] > foreground.shape[0] or mask.shape[1] > foreground.shape[1]:
        return np.zeros((0, 2), dtype=np.intp)
    counts = cv2.matchTemplate(foreground.astype(np.float32), mask.astype(np.float32), cv2.TM_CCORR)
    return np.argwhere(counts > needed - 0.5)


def paste_mask(mask: Mask, corner: tuple[int, int], size: tuple[int, int]) -> Mask:
    """A bool mask of `size` (height, width) with `mask` at `corner` (top, left), cut off at the image's borders."""
    (top, left), (height, width) = corner, size
    out = np.zeros(size, dtype=np.bool_)
    bottom, right = min(height, top + mask.shape[0]), min(width, left + mask.shape[1])
    if bottom > max(0, top) and right > max(0, left):
        out[max(0, top) : bottom, max(0, left) : right] = mask[
            max(0, -top) : bottom - top, max(0, -left) : right - left
        ]
    return out


def _anywhere(
    shape: DefectShape, foreground: Mask, rng: np.random.Generator, *, clipped: bool, taken: Mask | None = None
) -> tuple[Mask, tuple[int, int]]:
    """Mask and corner, uniform over all valid places; `clipped` lets the mask stick out of object and image."""
    height, width = shape.mask.shape
    area = int(np.count_nonzero(shape.mask))
    padding = ((height, height), (width, width)) if clipped else ((0, 0), (0, 0))
    needed = int(np.ceil(OBJECT_SHARE * area)) if clipped else area
    corners = valid_corners(np.pad(foreground, padding), shape.mask, needed)
    if taken is not None and len(corners):
        covered = cv2.matchTemplate(
            np.pad(taken, padding).astype(np.float32), shape.mask.astype(np.float32), cv2.TM_CCORR
        )
        corners = corners[covered[corners[:, 0], corners[:, 1]] < 0.5]
    if not len(corners):
        raise _too_large(shape, foreground)
    top, left = corners[int(rng.integers(len(corners)))]
    corner = int(top) - padding[0][0], int(left) - padding[1][0]
    return paste_mask(shape.mask, corner, _size(foreground)) & foreground, corner


def _first_on_object(
    shape: DefectShape, room: tuple[Mask, Mask | None], corner: Callable[[], tuple[int, int]], tries: int
) -> tuple[Mask, tuple[int, int]]:
    """The mask at the first random corner that leaves at least half of it on the object, cut off there; the corner.

    Args:
        shape: the defect.
        room: the object, and the pixels that are taken.
        corner: draws a corner.
        tries: how many corners are tried.
    """
    foreground, taken = room
    for _ in range(tries):
        found = corner()
        mask = paste_mask(shape.mask, found, _size(foreground)) & foreground
        if taken is not None and (mask & taken).any():
            continue
        if np.count_nonzero(mask) >= OBJECT_SHARE * np.count_nonzero(shape.mask):
            return mask, found
    raise _too_large(shape, foreground)


def _border_corner(shape: DefectShape, size: tuple[int, ...], rng: np.random.Generator) -> tuple[int, int]:
    """(top, left) at the shape's borders; uniform along an axis where it touches none."""
    free = [int(rng.integers(room - side + 1)) for side, room in zip(shape.mask.shape, size, strict=True)]
    return _at_borders(shape, size, free)


def _real_corner(shape: DefectShape, size: tuple[int, ...], rng: np.random.Generator) -> tuple[int, int]:
    """(top, left) near the real defect's relative place, at the border where it touched one."""
    jitter = rng.uniform(-JITTER, JITTER, 2)
    centres = [(where + move) * room for where, move, room in zip(shape.origin, jitter, size, strict=True)]
    return _at_borders(shape, size, [round(at - side / 2) for at, side in zip(centres, shape.mask.shape, strict=True)])


def _at_borders(shape: DefectShape, size: tuple[int, ...], corner: list[int]) -> tuple[int, int]:
    for axis, (low, high) in enumerate((("top", "bottom"), ("left", "right"))):
        if low in shape.borders:
            corner[axis] = 0
        elif high in shape.borders:
            corner[axis] = size[axis] - shape.mask.shape[axis]
    return corner[0], corner[1]


def spanning(shape: DefectShape, size: tuple[int, int]) -> DefectShape:
    """Stretch the shape to an image's full height or width between two opposite borders that it touched both."""
    height, width = (
        room if ends <= shape.borders else side
        for ends, side, room in zip(({"top", "bottom"}, {"left", "right"}), shape.mask.shape, size, strict=True)
    )
    if (height, width) == shape.mask.shape:
        return shape
    shape = warped(shape, 0.0, (height / shape.mask.shape[0], width / shape.mask.shape[1]))
    exact = cv2.resize(shape.mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)  # a cropped row
    return replace(shape, mask=exact > 0)


def _size(mask: Mask) -> tuple[int, int]:
    return mask.shape[0], mask.shape[1]


def _too_large(shape: DefectShape, foreground: Mask) -> PlacementError:
    (height, width), (image_height, image_width) = shape.mask.shape, foreground.shape
    rows, columns = (np.flatnonzero(foreground.any(axis)) for axis in (1, 0))
    room = f"{np.ptp(columns) + 1}x{np.ptp(rows) + 1} px" if rows.size else "empty"
    return PlacementError(
        f"mask of {width}x{height} px ({shape.source or 'unnamed'}) is too large for the object ({room}, in an "
        f"image of {image_width}x{image_height} px); use larger images, a smaller scale, or placement 'overlap'."
    )
