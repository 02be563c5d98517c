"""Masks of what an edit really changed."""

from __future__ import annotations

import cv2
import numpy as np

from adabldm.core.images import Mask, Pixels

SHARE = 0.3
"""A pixel counts as changed from this share of the largest change in its mask, which is taken without outliers."""
LEAST = 3.0
"""And from this change in grey levels, mean over the channels: below is noise."""
SMALLEST = 0.05
"""A refined mask that keeps less than this share of the target mask is not believed; the target mask stays."""


def changed_mask(result: Pixels, source: Pixels, mask: Mask) -> Mask:
    """The part of a target mask that an edit changed visibly, without holes and specks; never empty.

    Args:
        result: the edited picture, uint8 HxWx3.
        source: the picture before the edit.
        mask: the target mask, bool HxW, not empty.
    """
    change = np.abs(result.astype(np.int16) - source).mean(axis=2).astype(np.float32)
    change = cv2.GaussianBlur(change, (0, 0), 0.8)
    strongest = float(np.quantile(change[mask], 0.98))
    seen = (change >= max(LEAST, SHARE * strongest)) & mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    closed = cv2.morphologyEx(np.pad(seen, 2).astype(np.uint8), cv2.MORPH_CLOSE, disc)[2:-2, 2:-2]
    outlines, _ = cv2.findContours(np.ascontiguousarray(closed), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max((cv2.contourArea(one) for one in outlines), default=0.0)
    kept = [one for one in outlines if cv2.contourArea(one) >= SMALLEST * largest]
    filled = cv2.drawContours(np.zeros_like(closed), kept, -1, 1, cv2.FILLED) > 0
    refined = np.asarray(filled & mask)
    return refined if np.count_nonzero(refined) >= SMALLEST * np.count_nonzero(mask) else mask
