"""Agreement of a synthetic defect's mask with the pixels that really changed.

Results and sources are uint8 RGB, HxWx3; masks are bool, HxW, True where the defect is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from adabldm.core.errors import EmptyMaskError, InputError
from adabldm.core.images import Mask, Pixels

LEVEL = 8
"""Grey levels, of the channel that differs most; a pixel that differs by more has changed.

The level is fixed, so that images can be compared and the mask has no part in it. It is the root mean square error of a
background that is just accepted (30 dB are 8.1 grey levels, `Limits.min_background_psnr`): what a decoder's rendering
of an unchanged surface may cost. An edit that is fainter than that counts as none.
"""
SPECK = 4
"""Pixels: smaller 8-connected pieces of change are the tail of the decoder's noise. An opening would do the same but
take hair-thin scratches too."""


@dataclass(frozen=True)
class MaskTruth:
    """Agreement between a mask and the pixels that changed, each 0…1; all are 0 where nothing changed.

    Attributes:
        iou: pixels that are in the mask and changed, over those that are or did either.
        precision: share of the changed pixels that the mask covers.
        recall: share of the mask that changed.
    """

    iou: float
    precision: float
    recall: float


def changed_pixels(result: Pixels, source: Pixels) -> Mask:
    """Where the result differs visibly from its source: by more than `LEVEL`, in pieces of at least `SPECK` pixels.

    Raises:
        InputError: the sizes differ.
    """
    if result.shape != source.shape:
        raise InputError(
            f"result has shape {result.shape}, its source {source.shape}; give the source that it was made from."
        )
    changed = cv2.absdiff(result, source).max(axis=2) > LEVEL
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(changed.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= SPECK
    return np.asarray(changed & large[pieces])


def mask_truth(result: Pixels, source: Pixels, mask: Mask) -> MaskTruth:
    """Compare the saved mask with the pixels that really changed.

    Args:
        result: the synthetic image, uint8 HxWx3.
        source: the image before the defect was put in, uint8 HxWx3.
        mask: the saved mask, bool HxW, not empty.

    Raises:
        EmptyMaskError: the mask is empty.
        InputError: the sizes differ.
    """
    if result.shape != (*mask.shape, 3):
        raise InputError(f"result has shape {result.shape}, its mask {mask.shape}; give a mask of the image's size.")
    if not mask.any():
        raise EmptyMaskError("the mask is empty, expected at least one defect pixel to compare with the changed ones.")
    changed = changed_pixels(result, source)
    both, either, moved, marked = (int(np.count_nonzero(a)) for a in (changed & mask, changed | mask, changed, mask))
    return MaskTruth(iou=both / either, precision=both / max(1, moved), recall=both / marked)
