"""What is broken off at the edge of a part: the background behind it shows through."""

from __future__ import annotations

import cv2
import numpy as np

from adabldm.core.images import Mask, Pixels
from adabldm.rendering.fields import Canvas, smoothstep
from adabldm.rendering.light import from_linear, to_linear

BREAKING = frozenset({"chip", "hole"})
"""Types that take the part away where they reach over its edge."""
NEAR = 3
"""Distance in px at which a mask meets the background; the outline of a part is known no better."""


def reaches_edge(mask: Mask, foreground: Mask) -> bool:
    """Whether a mask meets the background along a good part of its outline, and not in a corner only.

    Args:
        mask: bool HxW, not empty.
        foreground: bool HxW, object pixels.
    """
    near = cv2.dilate((~foreground).astype(np.uint8), np.ones((2 * NEAR + 1,) * 2, np.uint8)) > 0
    border = mask & (cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) == 0)
    return bool(np.count_nonzero(border & near) >= 0.15 * np.count_nonzero(border))


def break_off(clean: Pixels, mask: Mask, foreground: Mask, rng: np.random.Generator) -> Pixels:
    """Take the part away inside a mask: behind a narrow fracture face the background goes on (Telea 2004, OpenCV).

    Args:
        clean: uint8 HxWx3.
        mask: bool HxW; nothing else changes.
        foreground: bool HxW, object pixels; some of the picture must be background.
        rng: Random generator.
    """
    hidden = cv2.dilate(foreground.astype(np.uint8), np.ones((2 * NEAR + 1,) * 2, np.uint8))
    behind = to_linear(np.asarray(cv2.inpaint(clean, hidden, 5, cv2.INPAINT_TELEA), np.uint8))
    canvas, surface = Canvas.over(*mask.shape), to_linear(clean)
    depth = -canvas.outline(foreground & ~mask)  # distance to what is left of the part
    gone = canvas.outline(mask)
    face = max(1.5, rng.uniform(0.06, 0.16) * float(gone.max())) * np.exp(0.35 * canvas.noise(rng, 4, 24))
    fresh = surface[mask & foreground].mean(0) * np.float32(rng.uniform(0.55, 0.85))
    rough = 1 + 0.1 * canvas.reduce(canvas.noise(rng, 16, 96, 0.8))[..., None]
    share = canvas.reduce(smoothstep((depth - face) / 1.5 + 0.5))[..., None]
    broken = (1 - share) * fresh * rough + share * behind
    cover = canvas.reduce(smoothstep(depth / 1.2 + 0.5))[..., None]
    drawn = from_linear(surface + cover * (broken - surface))
    return np.where((mask & (hidden > 0))[..., None], drawn, clean)
