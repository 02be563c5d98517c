"""Masks as polygons and as run lengths.

Two conventions are in use. Where a library tests the centre of each pixel (pycocotools), a polygon runs along the
pixels' edges. Where it draws the outline itself (OpenCV's `fillPoly`, Pillow), it runs through the centres of the
outermost pixels. In its own convention each gives exactly the mask.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.images import Mask

Ring = NDArray[np.int64]
"""Corners of a closed polygon as (x, y), int64 Nx2; the last one is not the first one again."""


def edge_polygon(mask: Mask) -> Ring:
    """A connected mask, bool HxW, as one polygon along the edges of its pixels.

    Corners are in px, with (0, 0) at the upper left corner of the first pixel. Holes are joined to the outline by
    bridges of no width.
    """
    doubled = mask.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    # Sub-pixels 2x and 2x + 1 of a pixel x lie at its left and right edge: x and x + 1.
    return _joined([_corners((ring + 1) // 2) for ring in _rings(doubled)])


def centre_polygon(mask: Mask) -> Ring:
    """A connected mask, bool HxW, as one polygon through the centres of its outermost pixels, at least 3 corners.

    Corners are whole pixels. Holes are joined to the outline by bridges, which count as defect.
    """
    ring = _joined([_corners(ring) for ring in _rings(mask.astype(np.uint8))])
    return ring if len(ring) >= 3 else np.resize(ring, (3, 2))


def with_area(ring: Ring) -> NDArray[np.float64]:
    """A ring of `centre_polygon` that encloses something: readers refuse polygons without area, as of lines of 1 px.

    Two corners within the first one's pixel are added to such a ring; what draws outlines draws the same pixels.
    """
    x, y = ring.T
    corners = ring.astype(np.float64)
    if np.dot(x, np.roll(y, -1)) != np.dot(y, np.roll(x, -1)):
        return corners
    return np.concatenate([corners, corners[0] + [[0.2, 0.0], [0.0, 0.2]]])


def run_lengths(mask: Mask) -> list[int]:
    """A mask, bool HxW, as COCO's uncompressed run lengths: column by column, first those of the background."""
    flat = mask.ravel(order="F").astype(np.int8)
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate(([0], ends, [flat.size]))).tolist()
    return [0, *lengths] if flat.size and flat[0] else lengths


def has_holes(mask: Mask) -> bool:
    """Whether background is enclosed by a mask, bool HxW."""
    padded = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    return int(cv2.connectedComponents(padded, connectivity=4)[0]) > 2


def _rings(image: NDArray[np.uint8]) -> list[Ring]:
    """The outline, then the outlines of the holes."""
    contours, _ = cv2.findContours(image, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [np.asarray(contour).reshape(-1, 2).astype(np.int64) for contour in contours]
    # The outline of a connected mask encloses the others.
    return sorted(rings, key=lambda ring: -int(np.prod(np.ptp(ring, axis=0) + 1)))


def _corners(ring: Ring) -> Ring:
    """A ring without repeated corners and without those on a straight line."""
    ring = ring[np.any(ring != np.roll(ring, 1, axis=0), axis=1)] if len(ring) > 1 else ring
    if len(ring) < 3:
        return ring
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    back = np.sum(before * after, axis=1) < 0
    return np.asarray(ring[turns | back])


def _joined(rings: list[Ring]) -> Ring:
    """One ring: each hole is reached from the nearest corner of what is joined so far, and left the same way."""
    whole = rings[0]
    for hole in rings[1:]:
        distances = np.abs(whole[:, None, :] - hole[None, :, :]).sum(axis=2)
        here, there = np.unravel_index(int(distances.argmin()), distances.shape)
        turned = np.roll(hole, -int(there), axis=0)
        whole = np.concatenate([whole[: here + 1], turned, turned[:1], whole[here:]])
    return whole
