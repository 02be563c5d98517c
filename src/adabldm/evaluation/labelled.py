"""The value that detectors learn from and are tested on."""

from __future__ import annotations

from dataclasses import dataclass

from adabldm.images import Mask, Pixels


@dataclass(frozen=True)
class Labelled:
    """One image with its truth.

    Attributes:
        pixels: uint8 RGB, HxWx3.
        mask: bool HxW, True where the defect is; `None` for a defect-free image.
        defect: defect type; `None` for a defect-free image.
        source: the image before the defect was put in, uint8 HxWx3, where it is known (synthetic images).
        synthetic: the defect was made, not photographed.
    """

    pixels: Pixels
    mask: Mask | None = None
    defect: str | None = None
    source: Pixels | None = None
    synthetic: bool = False
