"""Masks that are black on white: one alone is told from a large defect by what its picture shows.

Colours and local contrast that defect-free pictures rarely have are unusual. A mask is inverted where its black part
shows much of them and its white part little; a large defect is unusual in its white part.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.images import Mask, Pixels

PICTURES = 24
"""Defect-free pictures: from half of them is learnt what is usual, on the others how much is unusual all the same."""
RARE = 0.98
"""Share of the pixels of defect-free pictures that count as usual."""
BLACK_SHARE = 0.1
"""Least share of the black part that is unusual."""
WHITE_SHARE = 0.2
"""Largest share of the white part that is unusual."""
RATIO = 2.0
"""Least ratio of the black part's share to that of the white part, and to that of a patch without a defect."""
PATCHES = 4
"""Patches along each side of a defect-free picture, of which the most unusual one is the measure."""
COLOURS, CONTRASTS = 16**3, 24


class Usual:
    """How rare colours and local contrasts are on defect-free pictures.

    Args:
        pictures: defect-free pictures, uint8 HxWx3, at least one.
    """

    def __init__(self, pictures: Iterable[Pixels]) -> None:
        every = list(pictures)
        learnt, judged = every[::2], every[1::2] or every
        colours, contrasts = np.zeros(COLOURS), np.zeros(16 * CONTRASTS)
        known = [_features(pixels) for pixels in learnt]
        for colour, contrast in known:
            colours += np.bincount(colour.ravel(), minlength=COLOURS)
            contrasts += np.bincount(contrast.ravel(), minlength=16 * CONTRASTS)
        self._tables = tuple(-np.log((counts + 1) / (counts + 1).sum()) for counts in (colours, contrasts))
        some = [self._rarity(one).ravel()[::7].copy() for one in known]  # a view would keep the whole
        self._limit = float(np.quantile(np.concatenate(some), RARE))
        self._typical = max(self._patches(pixels) for pixels in judged)

    def turns(self, pixels: Pixels, mask: Mask) -> bool:
        """Whether a mask is black on white, by its picture; all of its border must be white.

        Args:
            pixels: uint8 HxWx3.
            mask: bool HxW.
        """
        if not (mask[0].all() and mask[-1].all() and mask[:, 0].all() and mask[:, -1].all()) or mask.all():
            return False
        unusual = self._rarity(_features(pixels)) > self._limit
        black, white = float(unusual[~mask].mean()), float(unusual[mask].mean())
        return black >= max(BLACK_SHARE, RATIO * white, RATIO * self._typical) and white <= WHITE_SHARE

    def _patches(self, pixels: Pixels) -> float:
        """Largest share of a patch of a defect-free picture that is unusual."""
        unusual = self._rarity(_features(pixels)) > self._limit
        strips = [strip for rows in np.array_split(unusual, PATCHES) for strip in np.array_split(rows, PATCHES, axis=1)]
        return float(max(strip.mean() for strip in strips))

    def _rarity(self, features: tuple[NDArray[np.int32], NDArray[np.int32]]) -> NDArray[np.float64]:
        return np.asarray(self._tables[0][features[0]] + self._tables[1][features[1]])


def _features(pixels: Pixels) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Colour in 16 levels a channel, and brightness with local contrast, both as numbers of a bin."""
    levels = (pixels >> 4).astype(np.int32)
    brightness = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean = cv2.blur(brightness, (7, 7))
    deviation = np.sqrt(np.maximum(cv2.blur(brightness**2, (7, 7)) - mean**2, 0))
    contrast = np.clip((np.log2(deviation + 1) * 3).astype(np.int32), 0, CONTRASTS - 1)
    colour = (levels[..., 0] << 8) | (levels[..., 1] << 4) | levels[..., 2]
    return colour, np.asarray(contrast * 16 + (brightness.astype(np.int32) >> 4))
