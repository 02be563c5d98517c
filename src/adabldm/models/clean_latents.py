"""What a control branch reads: the trimap alone (AdaBLDM), or the trimap and the latents of the clean picture.

The named option `conditioning` is one of `CONDITIONINGS`. "trimap" is the published way. "trimap+latents" shows the
branch the surface that the defect shall lie on, so that it need not guess it from the noised latents; the trimap is
then folded to the latents' size, one channel for each of its pixels under a latent pixel. Both are plain diffusers
`ControlNetModel`s; which one a branch is follows from the number of channels that it reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adabldm.core.errors import InputError
from adabldm.models.components import Components, check_autoencoder, new_controlnet, vae_factor

if TYPE_CHECKING:
    from adabldm.models.libraries import ControlNetModel

TRIMAP = "trimap"
TRIMAP_AND_LATENTS = "trimap+latents"
CONDITIONINGS = (TRIMAP, TRIMAP_AND_LATENTS)
_WIDTH = 96


def conditioning_channels(components: Components, conditioning: str) -> int:
    """Number of channels that a control branch reads.

    Raises:
        InputError: unknown conditioning.
    """
    if conditioning not in CONDITIONINGS:
        raise InputError(f"conditioning is {conditioning!r}, expected one of {', '.join(CONDITIONINGS)}.")
    config: Any = components.vae.config
    return 1 if conditioning == TRIMAP else vae_factor(components.vae) ** 2 + int(config["latent_channels"])


def conditioning_of(components: Components) -> str | None:
    """The conditioning of the components' control branch; `None` where it reads something else."""
    assert components.controlnet is not None
    config: Any = components.controlnet.config
    channels = int(config["conditioning_channels"])
    matching = [name for name in CONDITIONINGS if channels == conditioning_channels(components, name)]
    return matching[0] if matching else None


def reads_latents(components: Components) -> bool:
    """Whether the components have a control branch that reads the clean picture beside the trimap."""
    return components.controlnet is not None and conditioning_of(components) == TRIMAP_AND_LATENTS


def condition(components: Components, trimaps: Tensor, clean: Tensor | None) -> Tensor:
    """The control branch's input.

    Args:
        components: With a control branch.
        trimaps: B1HW in {0, 0.5, 1} at image size.
        clean: scaled latents of the clean pictures, BxCx(H/f)x(W/f); not read, and not needed, with "trimap".

    Returns:
        B1HW, or Bx(f² + C)x(H/f)x(W/f).
    """
    if not reads_latents(components):
        return trimaps
    assert clean is not None, "this control branch reads the clean latents"
    return torch.cat([F.pixel_unshuffle(trimaps, vae_factor(components.vae)), clean], dim=1)


def new_control_branch(components: Components, conditioning: str) -> ControlNetModel:
    """A control branch for a conditioning: a copy of the UNet's encoder with zero convolutions (arXiv 2302.05543).

    Raises:
        InputError: unknown conditioning, or see `check_autoencoder`.
    """
    if conditioning == TRIMAP:
        return new_controlnet(components)
    channels = conditioning_channels(components, conditioning)
    from adabldm.models.libraries import ControlNetModel

    check_autoencoder(components.vae)
    branch = ControlNetModel.from_unet(
        components.unet, conditioning_embedding_out_channels=(_WIDTH,), conditioning_channels=channels
    )
    embedding: Any = branch.controlnet_cond_embedding
    with torch.no_grad():  # not zero: the zero convolutions at the branch's outputs are enough
        for layer in (embedding.conv_in, embedding.conv_out):
            layer.weight.normal_(0.0, 1.4 / layer.weight[0].numel() ** 0.5)
            layer.bias.zero_()
    return branch
