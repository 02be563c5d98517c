"""Trains the small autoencoder of the tiny model: L1, Fourier magnitudes, and a patch critic near the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import torch
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from adabldm.core.tensors import to_pixels
from adabldm.training.loop import Preview

FOURIER_WEIGHT = 0.5
CRITIC_WEIGHT = 0.03
CRITIC_FROM = 0.6
"""Share of the training after which the critic joins: earlier it would only see blur."""
LATENT_NOISE = 0.1


def patch_critic(channels: int = 32) -> nn.Sequential:
    """A small PatchGAN critic: B3HW to B1(H/8)(W/8) logits."""
    layers: list[nn.Module] = []
    widths = [3, channels, channels * 2, channels * 3]
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))


def fourier_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference of the orthonormal Fourier magnitudes of two BCHW batches."""
    return F.l1_loss(torch.fft.rfft2(first, norm="ortho").abs(), torch.fft.rfft2(second, norm="ortho").abs())


class AutoencoderObjective:
    """Reconstruction of random crops of `windows`.

    Args:
        vae: an `AutoencoderTiny`.
        windows: uint8 Nx3xRxR.
        held_out: uint8 Mx3xRxR, shown in the preview and measured by `psnr`.
        crop: side of the crops in px, a multiple of the autoencoder's factor.
    """

    name = "autoencoder"

    def __init__(self, vae: AutoencoderTiny, windows: Tensor, held_out: Tensor, crop: int = 96) -> None:
        self.vae = vae
        self.device = next(vae.parameters()).device
        self.critic = patch_critic().to(self.device)
        self.modules: Mapping[str, nn.Module] = {"vae": vae, "critic": self.critic}
        self.windows, self.held_out, self.crop = windows, held_out, crop

    def _batch(self, size: int, generator: torch.Generator) -> Tensor:
        side = self.windows.shape[-1]
        picks = torch.randint(len(self.windows), (size,), generator=generator).tolist()
        places = torch.randint(side - self.crop + 1, (size, 2), generator=generator).tolist()
        crops = [
            self.windows[pick, :, top : top + self.crop, left : left + self.crop]
            for pick, (top, left) in zip(picks, places, strict=True)
        ]
        batch = (torch.stack(crops).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        batch = batch.to(self.device)
        return batch.flip(-1) if torch.rand((), generator=generator) < 0.5 else batch

    def losses(
        self, batch_size: int, progress: float, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """L1 + Fourier + critic, one addend; the critic learns from the same pass on detached pictures (hinge loss)."""
        images = self._batch(batch_size, generator)
        latents = self.vae.encoder(images)
        noise = torch.randn(latents.shape, generator=generator).to(self.device) * LATENT_NOISE
        decoded = self.vae.decoder(latents + noise)
        error = F.l1_loss(decoded, images)
        spread = F.relu(latents.abs() - 2.5).mean()
        total = error + FOURIER_WEIGHT * fourier_distance(decoded, images) + 0.1 * spread
        figures = {"l1": float(error.detach()), "latent_std": float(latents.detach().std())}
        if progress >= CRITIC_FROM:
            frozen = {key: value.detach() for key, value in self.critic.named_parameters()}
            fooled = functional_call(self.critic, frozen, (decoded,))
            real, fake = self.critic(images), self.critic(decoded.detach())
            judged = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
            total = total - CRITIC_WEIGHT * fooled.mean() + judged
            figures["critic"] = float(judged.detach())
        yield total, figures

    @torch.no_grad()
    def psnr(self) -> float:
        """Mean PSNR in dB over the held-out windows, after rounding to 8 bits."""
        scores = []
        for start in range(0, len(self.held_out), 16):
            images = self.held_out[start : start + 16].to(self.device)
            decoded = self.vae.decoder(self.vae.encoder(images.float() / 127.5 - 1))
            rounded = ((decoded + 1) * 127.5).round().clamp(0, 255)
            errors = (rounded - images.float()).pow(2).mean(dim=(1, 2, 3)).clamp_min(1e-3)
            scores.append(10 * torch.log10(255.0**2 / errors))
        return float(torch.cat(scores).mean())

    @torch.no_grad()
    def preview(self) -> Preview:
        """Held-out windows above their reconstructions."""
        images = self.held_out[:8].to(self.device).float() / 127.5 - 1
        decoded = self.vae.decoder(self.vae.encoder(images))
        rows = [np.hstack([to_pixels(image) for image in batch]) for batch in (images, decoded)]
        return Preview(np.vstack(rows))


def stack_windows(windows: list[NDArray[np.uint8]]) -> Tensor:
    """List of uint8 RxRx3 to one uint8 tensor Nx3xRxR."""
    return torch.from_numpy(np.stack(windows).transpose(0, 3, 1, 2).copy())
