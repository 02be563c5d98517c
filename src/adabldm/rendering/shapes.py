"""Masks with the shapes that the renderer gives its types: branching cracks, scattered pits, ragged corrosion."""

from __future__ import annotations

import cv2
import numpy as np

from adabldm.core.errors import InputError
from adabldm.core.images import Mask
from adabldm.masks.bank import DefectShape, crop_to_content
from adabldm.rendering.fields import Canvas
from adabldm.rendering.outlines import OUTLINES
from adabldm.rendering.scene import Place

VIEWS = (0.25, 0.8)
"""Range of the side of the picture that a shape is drawn on, over the object's shorter side; drawn log-uniformly. A
shape takes a tenth to all of that side, by its type."""
SIDES = (48, 512)
"""Smallest and largest side in px of that picture; a larger shape is enlarged."""

WHOLE_TRIES = 6
"""Drawings of a shape until one does not run out of its picture, which would cut it off straight."""


def own_shape(defect: str, room: int, rng: np.random.Generator) -> DefectShape:
    """Draw a shape of a type.

    Args:
        defect: one of `OUTLINES`.
        room: shorter side of the object's bounding box in px.
        rng: numpy generator.

    Raises:
        InputError: unknown type.
    """
    if defect not in OUTLINES:
        raise InputError(f"defect type is {defect!r}, expected one of {', '.join(OUTLINES)}.")
    low, high = np.log(VIEWS)
    wanted = max(float(SIDES[0]), room * float(np.exp(rng.uniform(low, high))))
    side = min(SIDES[1], round(wanted))
    content, scale = crop_to_content(_drawn(defect, side, rng)), wanted / side
    size = max(1, round(content.shape[0] * scale)), max(1, round(content.shape[1] * scale))
    mask = crop_to_content(_enlarged(content, size, scale)) if scale > 1.01 else content
    return DefectShape(mask, source=f"rendered {defect}", image_size=(mask.shape[0], mask.shape[1]))


def _drawn(defect: str, side: int, rng: np.random.Generator) -> Mask:
    """A shape of a type on a square of `side` px; lines keep the pixels that they cover to a third."""
    canvas = Canvas.over(side, side)
    for _ in range(WHOLE_TRIES):
        mask = np.asarray(canvas.reduce(OUTLINES[defect](Place(canvas, rng, (side / 2, side / 2)))) >= 0.34)
        if not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()):
            break
    return mask


def _enlarged(mask: Mask, size: tuple[int, int], scale: float) -> Mask:
    """A mask at a larger size (height, width), with smooth outlines; every piece of it stays."""
    pad = 2
    wide = np.pad(mask, pad).astype(np.float32)
    shape = (round(wide.shape[1] * size[1] / mask.shape[1]), round(wide.shape[0] * size[0] / mask.shape[0]))
    smooth = cv2.GaussianBlur(cv2.resize(wide, shape, interpolation=cv2.INTER_LINEAR), (0, 0), 0.45 * scale)
    return np.asarray(smooth >= 0.35)
