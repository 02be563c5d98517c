"""Trains the autoencoder of the general base and measures it on unseen windows.

Loss: L1, weighted inside the masks of rendered defects, and Fourier magnitudes; figures: PSNR of each set of unseen
windows, and the contrast of rendered defects that survives.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adabldm.core.images import Pixels
from adabldm.core.precision import fast_half, mixed
from adabldm.core.tensors import to_pixels, to_tensor
from adabldm.rendering.render import Rendered
from adabldm.training.autoencoder import fourier_distance, stack_windows
from adabldm.training.loop import Preview
from adabldm.training.surface_windows import Pool, unseen_defects, unseen_windows

FOURIER_WEIGHT = 0.5
DEFECT_WEIGHT = 16.0
"""Weight of the error inside a defect's mask; 1 elsewhere."""
AROUND_DEFECT = 0.8
"""Share of the crops of a window with a defect that show it."""
LATENT_NOISE = 0.06
MEASURED_DEFECTS = ("scratch", "crack", "contamination", "pit", "chip", "dent", "stain")


@torch.no_grad()
def _reconstructed(vae: Any, images: Tensor) -> Tensor:
    """Windows through the autoencoder: uint8 BCHW to float BCHW, rounded to 0…255."""
    device = next(vae.parameters()).device
    parts = []
    for batch in torch.split(images, 8):
        decoded = vae.decoder(vae.encoder(batch.to(device).float() / 127.5 - 1))
        parts.append(((decoded.float() + 1) * 127.5).round().clamp(0, 255).cpu())
    return torch.cat(parts)


def mean_psnr(vae: Any, windows: Sequence[Pixels]) -> float:
    """Mean over the windows of the PSNR in dB after rounding to 8 bits."""
    images = stack_windows(list(windows))
    errors = (_reconstructed(vae, images) - images.float()).pow(2).mean(dim=(1, 2, 3)).clamp_min(1e-3)
    return float((10 * torch.log10(255.0**2 / errors)).mean())


def surviving_contrast(vae: Any, rendered: Sequence[Rendered]) -> float:
    """Share of a defect's contrast that the autoencoder keeps, mean over the examples.

    With d the change that a defect makes to a picture and d' the change that it makes to the reconstruction, the
    share is the regression coefficient <d', d> / <d, d> over the mask.
    """
    clean = stack_windows([example.clean for example in rendered])
    drawn = stack_windows([example.pixels for example in rendered])
    change = drawn.float() - clean.float()
    kept = _reconstructed(vae, drawn) - _reconstructed(vae, clean)
    inside = torch.from_numpy(np.stack([example.mask for example in rendered]))[:, None].float()
    shares = (kept * change * inside).sum((1, 2, 3)) / (change.pow(2) * inside).sum((1, 2, 3)).clamp_min(1.0)
    return float(shares.mean())


class Figures:
    """The fixed unseen windows of a pool and what an autoencoder makes of them.

    Args:
        pool: Pictures.
        side: Side of the windows in pixels.
        count: Windows of each set, and rendered defects of each type.
    """

    def __init__(self, pool: Pool, side: int = 128, count: int = 24) -> None:
        self.windows = {name: unseen_windows(own, name, count, side) for name, own in pool.unseen.items()}
        self.defects = {defect: unseen_defects(pool, defect, count, side) for defect in MEASURED_DEFECTS}

    def measure(self, vae: Any) -> dict[str, float]:
        """PSNR in dB by set and surviving contrast by defect type."""
        training = vae.training
        vae.eval()
        found = {f"PSNR {name}": round(mean_psnr(vae, own), 2) for name, own in self.windows.items()}
        found |= {f"contrast {name}": round(surviving_contrast(vae, own), 3) for name, own in self.defects.items()}
        vae.train(training)
        return found

    def shown(self) -> list[Pixels]:
        """A window of each set and a few rendered defects."""
        return [own[0] for own in self.windows.values()] + [own[-1].pixels for own in self.defects.values()]


class SurfaceAutoencoderObjective:
    """Reconstruction of random crops, mirrored and transposed.

    Args:
        vae: an `AutoencoderTiny`.
        windows: uint8 Nx4xRxR: colours, and the mask of a defect as 0 and 1.
        figures: Unseen windows, measured at every preview.
        crop: Side of the crops in pixels, a multiple of the autoencoder's factor.
        log: File (.jsonl) that the figures of every preview are added to.
    """

    name = "surface-autoencoder"

    def __init__(self, vae: Any, windows: Tensor, figures: Figures, *, crop: int = 64, log: Path | None = None) -> None:
        self.vae, self.windows, self.figures, self.crop, self.log = vae, windows, figures, crop, log
        self.device = next(vae.parameters()).device
        self.half = fast_half(self.device)
        self.modules: Mapping[str, nn.Module] = {"vae": vae}
        self.progress = 0.0

    def _place(self, pick: int, generator: torch.Generator) -> tuple[int, int]:
        """(top, left) of a crop: anywhere, or mostly around a random pixel of the window's defect if it has one."""
        room = self.windows.shape[-1] - self.crop
        top, left = torch.randint(room + 1, (2,), generator=generator).tolist()
        share, where = torch.rand(2, generator=generator).tolist()
        if share < AROUND_DEFECT:
            rows, columns = np.nonzero(self.windows[pick, 3].numpy())
            if len(rows):
                middle = int(where * len(rows))
                top, left = (
                    int(np.clip(place - self.crop // 2 + (offset - room // 2) // 2, 0, room))
                    for place, offset in ((rows[middle], top), (columns[middle], left))
                )
        return top, left

    def _batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        picks = torch.randint(len(self.windows), (size,), generator=generator).tolist()
        crops = []
        for pick in picks:
            top, left = self._place(pick, generator)
            crops.append(self.windows[pick, :, top : top + self.crop, left : left + self.crop])
        batch = torch.stack(crops)
        turned = torch.rand(3, generator=generator) < 0.5
        batch = batch.flip(-1) if turned[0] else batch
        batch = batch.flip(-2) if turned[1] else batch
        batch = (batch.transpose(-1, -2) if turned[2] else batch).to(self.device).float()
        images = (batch[:, :3] / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        return images, 1 + (DEFECT_WEIGHT - 1) * batch[:, 3:]

    def losses(
        self, batch_size: int, progress: float, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Weighted L1 and Fourier magnitudes; latents beyond 2.5 are pulled back."""
        self.progress = progress
        images, weight = self._batch(batch_size, generator)
        with mixed(self.device, enabled=self.half, cache=False):
            latents = self.vae.encoder(images).float()
            noise = torch.randn(latents.shape, generator=generator).to(self.device) * LATENT_NOISE
            decoded = self.vae.decoder(latents + noise).float()
        with mixed(self.device, enabled=False):
            error = ((decoded - images).abs() * weight).mean()
            spread = F.relu(latents.abs() - 2.5).mean()
            total = error + FOURIER_WEIGHT * fourier_distance(decoded, images) + 0.1 * spread
        yield total, {"l1": float(error.detach()), "latent_std": float(latents.detach().std())}

    def preview(self) -> Preview:
        """Unseen windows above their reconstructions; the figures go to the log."""
        found = self.figures.measure(self.vae)
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            entry = {"time": time.strftime("%H:%M:%S", time.gmtime()), "progress": round(self.progress, 4), **found}
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        shown = self.figures.shown()
        with torch.no_grad():
            images = torch.stack([to_tensor(pixels) for pixels in shown]).to(self.device)
            decoded = self.vae.decoder(self.vae.encoder(images))
        return Preview(np.vstack([np.hstack(shown), np.hstack([to_pixels(image) for image in decoded])]))
