"""Crops of half the side around defects: as much learning for a quarter of the work."""

from __future__ import annotations

import torch
from torch import Tensor

Places = list[tuple[int, int]]


def crop_places(masks: Tensor, size: tuple[int, int], generator: torch.Generator) -> Places:
    """(top, left) at the latents' size of a crop around a random pixel of each mask, anywhere where a mask is empty.

    Args:
        masks: Bx1xHxW, 0 outside.
        size: (height, width) of the latents; a crop has half of both.
        generator: of three draws a mask.
    """
    (height, width), factor = size, masks.shape[-1] // size[1]
    side = height // 2
    draws = torch.rand((len(masks), 3), generator=generator)
    found: Places = []
    for index, mask in enumerate(masks):
        pixels = mask[0].nonzero()
        top, left = (draws[index, 1:] * (height - side + 1)).long().tolist()
        if len(pixels):
            row, column = (pixels[int(draws[index, 0] * len(pixels))] // factor).tolist()
            # The pixel lies anywhere in the crop but at its outer quarter.
            top = min(max(row - side // 4 - int(draws[index, 1] * (side // 2)), 0), height - side)
            left = min(max(column - side // 4 - int(draws[index, 2] * (side // 2)), 0), width - side)
        found.append((top, left))
    return found


def cropped(values: Tensor, places: Places, factor: int = 1) -> Tensor:
    """Crops of half the side of BxCxHxW, whose pixels are `factor` to one of the latents."""
    side = values.shape[-2] // 2
    parts = [
        one[:, factor * top : factor * top + side, factor * left : factor * left + side]
        for one, (top, left) in zip(values, places, strict=True)
    ]
    return torch.stack(parts)
