"""What the autoencoder makes of the pictures that are edited."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adabldm.models.components import decode_latents, encode_images


class Source:
    """Pictures before their edit, in the autoencoder; everything is computed when it is first asked for.

    `functools.cached_property` would let threads that edit side by side wait for each other before Python 3.12.

    Args:
        vae: the shared autoencoder.
        image: x_OK, BCHW in [-1, 1].
        latents: E(x_OK), where they are known.
    """

    def __init__(self, vae: nn.Module, image: Tensor, latents: Tensor | None = None) -> None:
        self.vae, self.image = vae, image
        self._latents = latents
        self._restored: Tensor | None = None

    @property
    def latents(self) -> Tensor:
        """E(x_OK), scaled latents, BCHW."""
        if self._latents is None:
            with torch.no_grad():
                self._latents = encode_images(self.vae, self.image)
        return self._latents

    @property
    def restored(self) -> Tensor:
        """D(E(x_OK)): what the autoencoder keeps of the pictures, BCHW."""
        if self._restored is None:
            with torch.no_grad():
                self._restored = decode_latents(self.vae, self.latents)
        return self._restored
