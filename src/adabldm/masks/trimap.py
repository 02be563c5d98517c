"""The trimap: 0 background, 0.5 object, 1 defect (AdaBLDM, arXiv 2402.19330, trimap)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adabldm.core.errors import InputError
from adabldm.core.images import Mask

Trimap = NDArray[np.float32]

BACKGROUND, OBJECT, DEFECT = 0.0, 0.5, 1.0
LEVELS = (BACKGROUND, OBJECT, DEFECT)
TOLERANCE = 0.02
"""Largest distance from a level, also for uint8 images (127/255 and 128/255 are both the object)."""
OUTSIDE_SHARE = 0.5


def make_trimap(foreground: Mask, mask: Mask) -> Trimap:
    """Join the object's and the defect's pixels.

    Args:
        foreground: bool HxW, True on the object.
        mask: bool HxW, True on the defect; it wins over the background.

    Returns:
        float32 HxW of 0, 0.5 and 1.

    Raises:
        InputError: the sizes differ.
    """
    _check_same_size(foreground, mask)
    return np.where(mask, DEFECT, np.where(foreground, OBJECT, BACKGROUND)).astype(np.float32)


def check_trimap(trimap: NDArray[Any]) -> Trimap:
    """Check a trimap given by the user and bring it to exact levels.

    Args:
        trimap: HxW, float with 0, 0.5, 1, or whole numbers of any type with 0, 127 or 128, 255.

    Returns:
        float32 HxW of exactly 0, 0.5 and 1.

    Raises:
        InputError: not HxW, other values, or no defect pixel.
    """
    if trimap.ndim != 2:
        raise InputError(f"trimap has shape {trimap.shape}, expected height x width; give a single channel.")
    whole = trimap.dtype == np.uint8 or (trimap.dtype.kind in "iu" and trimap.max(initial=0) > 1)
    values = trimap.astype(np.float32) / (255.0 if whole else 1.0)
    exact = np.rint(values * 2) / 2
    wrong = ~np.isin(exact, LEVELS) | ~(np.abs(values - exact) <= TOLERANCE)
    if wrong.any():
        raise InputError(
            f"trimap has {np.count_nonzero(wrong)} pixels with other values (such as {trimap[wrong][0]}), expected "
            "0 background, 0.5 object, 1 defect (uint8: 0, 128, 255); save it without smoothing or lossy compression."
        )
    if not (exact == DEFECT).any():
        raise InputError("trimap has no defect pixel, expected at least one of value 1 (uint8: 255); draw the defect.")
    return np.asarray(exact, dtype=np.float32)


def check_defect_inside(foreground: Mask, mask: Mask) -> None:
    """Check that at least half of the defect's pixels lie on the object.

    Args:
        foreground: bool HxW.
        mask: bool HxW.

    Raises:
        InputError: the sizes differ, the mask is empty, or the defect lies outside the object.
    """
    _check_same_size(foreground, mask)
    area = int(np.count_nonzero(mask))
    if not area:
        raise InputError("the defect mask is empty, expected at least one pixel; draw the defect.")
    outside = int(np.count_nonzero(mask & ~foreground))
    if outside > OUTSIDE_SHARE * area:
        raise InputError(
            f"{outside} of the defect's {area} pixels lie outside the object, expected at most half; move the mask, "
            "or give a better foreground (method 'folder', or 'texture' where everything is object)."
        )


def mask_of(trimap: Trimap) -> Mask:
    """The defect's pixels of an exact trimap, bool HxW."""
    return np.asarray(trimap == DEFECT)


def trimap_tensor(trimap: Trimap) -> torch.Tensor:
    """An exact trimap as float32 tensor 1HW, for the control branch."""
    return torch.from_numpy(np.ascontiguousarray(trimap, dtype=np.float32))[None]


def _check_same_size(foreground: Mask, mask: Mask) -> None:
    if foreground.shape != mask.shape:
        have, want = (f"{array.shape[1]}x{array.shape[0]}" for array in (mask, foreground))
        raise InputError(f"the defect mask is {have} px, the foreground {want} px; make them equal.")
