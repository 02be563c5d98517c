"""Masks at latent size, forward noising, and blending; all tensors are batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from adabldm.core.tensors import to_device
from adabldm.editing.stage_plan import CLEAN

SOFT_GROW = 3
SOFT_SIGMA = 1.5


def dilate(mask: Tensor, radius: int) -> Tensor:
    """Grow B1HW in {0, 1} by a square of 2·radius + 1 pixels."""
    grown: Tensor = F.max_pool2d(mask, 2 * radius + 1, stride=1, padding=radius) if radius > 0 else mask
    return grown


def latent_mask(mask: Tensor, factor: int, *, how: str = "pooled", grow: int = 1) -> Tensor:
    """M_z: the defect mask at latent size, B1HW to B1(H/f)(W/f), both in {0, 1}.

    Args:
        mask: M, sides multiples of `factor`.
        factor: image pixels per latent pixel.
        how: "pooled": dilated by `grow`·factor pixels, then max-pooled, so that a thin scratch survives (paper);
            "nearest": nearest neighbour, then 5×5 dilation (released code), which may lose a thin scratch.
        grow: latent pixels by which a pooled mask grows.
    """
    if how == "nearest":
        return dilate(F.interpolate(mask, scale_factor=1 / factor, mode="nearest"), 2)
    pooled: Tensor = F.max_pool2d(dilate(mask, grow * factor), factor)
    return pooled


def soft_mask(mask: Tensor) -> Tensor:
    """B1HW in {0, 1} to [0, 1]: 1 on the mask, falling to 0 over some pixels around it."""
    grown = dilate(mask, SOFT_GROW)
    offsets = torch.arange(-4, 5, device=mask.device, dtype=mask.dtype)
    weights = torch.exp(-0.5 * (offsets / SOFT_SIGMA) ** 2)
    weights = weights / weights.sum()
    padded = F.pad(grown, (4, 4, 4, 4), mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
    soft: Tensor = torch.maximum(blurred, mask).clamp(0, 1)
    return soft


def draw_noise(like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise in the shape of `like`, each sample from its own CPU generator."""
    noise = [torch.randn(like.shape[1:], generator=generator) for generator in generators]
    return to_device(torch.stack(noise), like.device, like.dtype)


def noised(latents: Tensor, timestep: int, alphas_cumprod: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """q(z_0, t) = √ᾱ_t z_0 + √(1 − ᾱ_t) ε; latents themselves for `CLEAN`, which draws no noise."""
    if timestep == CLEAN:
        return latents
    alpha = float(alphas_cumprod[timestep])
    noisy: Tensor = latents * alpha**0.5 + draw_noise(latents, generators) * (1 - alpha) ** 0.5
    return noisy


def blend(inside: Tensor, outside: Tensor, mask: Tensor) -> Tensor:
    """M ⊙ inside + (1 − M) ⊙ outside: of latents with M_z, of pictures with M."""
    return mask * inside + (1 - mask) * outside
