"""The value that detectors learn from and are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from adabldm.core.images import Mask, Pixels
from adabldm.core.samples import Sample


@dataclass(frozen=True)
class Mark:
    """One defect of an image: its type and where it is, bool HxW."""

    type: str
    mask: Mask


@dataclass(frozen=True)
class Labelled:
    """One image with its truth.

    Attributes:
        pixels: uint8 RGB, HxWx3.
        marks: its defects, of one or several types; none for a defect-free image.
        source: the image before the defect was put in, uint8 HxWx3, where it is known (synthetic images).
        synthetic: the defect was made, not photographed.
    """

    pixels: Pixels
    marks: tuple[Mark, ...] = ()
    source: Pixels | None = None
    synthetic: bool = False

    @classmethod
    def read(cls, sample: Sample, *, synthetic: bool = False) -> Labelled:
        """An image of a data set.

        Raises:
            InputError: the image or a mask cannot be read.
        """
        marks = tuple(Mark(defect.type, defect.mask.read()) for defect in sample.defects)
        return cls(sample.picture().pixels, marks, synthetic=synthetic)

    @cached_property
    def mask(self) -> Mask | None:
        """All defects in one mask, bool HxW; `None` for a defect-free image."""
        return union([mark.mask for mark in self.marks])

    def has(self, defect: str | None = None) -> bool:
        """Whether it shows a defect, or one of a type."""
        return any(defect in (None, mark.type) for mark in self.marks)

    def of_type(self, defect: str | None = None) -> list[Mask]:
        """The masks of all its defects, or of those of one type."""
        return [mark.mask for mark in self.marks if defect in (None, mark.type)]

    def truth(self, defect: str) -> tuple[Mask, Mask | None]:
        """What a detector of one defect type should find, and what counts for neither side.

        Returns:
            (where a defect of the type is, where there are defects of other types alone), bool HxW each; the second is
            `None` where no pixel of another type is.
        """
        wanted = union(self.of_type(defect))
        wanted = np.zeros(self.pixels.shape[:2], np.bool_) if wanted is None else wanted
        others = union([mark.mask for mark in self.marks if mark.type != defect])
        return wanted, None if others is None else others & ~wanted


def union(masks: Sequence[Mask]) -> Mask | None:
    """All masks in one; `None` without any."""
    if len(masks) < 2:
        return masks[0] if masks else None
    return np.asarray(np.logical_or.reduce(masks))
