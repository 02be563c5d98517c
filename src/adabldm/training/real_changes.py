"""What real defects change: each is compared with its own picture, filled where the defect is."""

from __future__ import annotations

import numpy as np

from adabldm.core.changes import Change, Seen, measure, window_size
from adabldm.core.images import Mask, Pixels, resize_mask, resize_pixels
from adabldm.core.seeding import numpy_rng
from adabldm.core.windows import crop
from adabldm.training.fill import Filler

FILLS = 3
"""Fills of each defect: the one with the least change counts, because a bad fill adds to it."""


def real_change(filler: Filler, picture: Pixels, mask: Mask, others: Mask | None = None) -> Change:
    """What a real defect changes; arguments as in `filled_window`."""
    return measure(filled_window(filler, picture, mask, others))


def filled_window(filler: Filler, picture: Pixels, mask: Mask, others: Mask | None = None) -> Seen:
    """The window around a real defect, with and without it; the same for the same picture, mask and good pictures.

    Args:
        filler: with defect-free pictures.
        picture: of the defect, uint8 HxWx3.
        mask: where it is, bool HxW, not empty.
        others: all defects of the picture, which are filled too.
    """
    window, side = window_size(mask)
    every = mask if others is None else mask | others
    pixels = resize_pixels(crop(picture, window), (side, side))
    own, hidden = (resize_mask(crop(one, window), (side, side)) for one in (mask, every))
    rng = numpy_rng("real change", int(np.count_nonzero(mask)), window.top, window.left)
    fills = [filler.fill(picture, every, window, (pixels, hidden), rng) for _ in range(FILLS)]
    # other defects are nobody's change
    return min((Seen(np.where((hidden & ~own)[..., None], one, pixels), one, own) for one in fills), key=_amount)


def _amount(seen: Seen) -> float:
    return float(np.abs(seen.result.astype(np.float32) - seen.source)[seen.mask].mean())
