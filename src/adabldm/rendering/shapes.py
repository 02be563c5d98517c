"""Masks with the shapes that the renderer gives its types: branching cracks, scattered pits, ragged corrosion."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import cv2
import numpy as np

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, resize_mask
from adabldm.masks.bank import DefectShape, crop_to_content
from adabldm.rendering.fields import Canvas, blob
from adabldm.rendering.render import DEFECTS, render

SIDE = 128
"""Side in px of the picture that a shape is drawn on."""
SHARES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "scratch": (0.15, 0.6),
        "crack": (0.15, 0.6),
        "pit": (0.03, 0.2),
        "dent": (0.08, 0.3),
        "hole": (0.05, 0.2),
        "chip": (0.06, 0.25),
        "stain": (0.1, 0.4),
        "corrosion": (0.1, 0.4),
        "contamination": (0.05, 0.35),
        "peeling": (0.1, 0.4),
    }
)
"""Range of a shape's longer side over the object's shorter side, by type; sizes are drawn log-uniformly."""


def own_shape(defect: str, room: int, rng: np.random.Generator) -> DefectShape:
    """Draw a shape of a type.

    Args:
        defect: one of `DEFECTS`.
        room: shorter side of the object's bounding box in px.
        rng: numpy generator.

    Raises:
        InputError: unknown type.
    """
    if defect not in SHARES:
        raise InputError(f"defect type is {defect!r}, expected one of {', '.join(DEFECTS)}.")
    low, high = np.log(SHARES[defect])
    wanted = max(4.0, room * float(np.exp(rng.uniform(low, high))))
    content = crop_to_content(_drawn(defect, rng))
    scale = wanted / max(content.shape)
    size = max(1, round(content.shape[0] * scale)), max(1, round(content.shape[1] * scale))
    mask = crop_to_content(resize_mask(content, size) if scale <= 1 else _enlarged(content, size, scale))
    return DefectShape(mask, source=f"rendered {defect}", image_size=(mask.shape[0], mask.shape[1]))


def _drawn(defect: str, rng: np.random.Generator) -> Mask:
    """A shape of a type on an empty picture. A dent's is its whole outline, not what the light happens to show."""
    if defect == "dent":
        canvas = Canvas.over(SIDE, SIDE)
        own = blob(
            canvas, rng, (SIDE / 2, SIDE / 2), SIDE / 4,
            roughness=rng.uniform(0.0, 0.1), elongation=float(np.exp(rng.uniform(0, 0.8))),
        )  # fmt: skip
        return canvas.reduce(own.depth > 0) >= 0.5
    return render(np.full((SIDE, SIDE, 3), 128, np.uint8), defect, rng).mask


def _enlarged(mask: Mask, size: tuple[int, int], scale: float) -> Mask:
    """A mask at a larger size (height, width), with smooth outlines; every piece of it stays."""
    pad = 2
    wide = np.pad(mask, pad).astype(np.float32)
    shape = (round(wide.shape[1] * size[1] / mask.shape[1]), round(wide.shape[0] * size[0] / mask.shape[0]))
    smooth = cv2.GaussianBlur(cv2.resize(wide, shape, interpolation=cv2.INTER_LINEAR), (0, 0), 0.45 * scale)
    return np.asarray(smooth >= 0.35)
