"""Does it help to adapt the base's decoder to the user's good images before a fit?

    python benchmarks/decoder_adaptation.py DATA [DATA …] [--base general] [--steps 0 50 100 200] [--fold 1/2]

The decoder is trained on windows of the defect-free training images of a fold (L1 and Fourier magnitudes, as the base's
autoencoder was), and measured on what the fold holds out: PSNR of whole defect-free windows, and of the pixels inside
the masks of real defects, which a fit sees and an edit has to draw. Test images are not opened.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from adabldm.core.samples import DataSet
from adabldm.core.seeding import numpy_rng, torch_generator
from adabldm.core.settings.fit import Mixture
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import open_data_set
from adabldm.masks.trimap import DEFECT
from adabldm.models.store import load_base
from adabldm.training.autoencoder import fourier_distance, stack_windows
from adabldm.training.examples import Example, make_examples
from adabldm.training.sources import foreground_method, read_data_set
from adabldm.training.surface_autoencoder import FOURIER_WEIGHT

RESOLUTION = 128
BATCH = 8
LEARNING_RATE = 2e-4
WINDOWS, MEASURED = 200, 48


def windows(data_set: DataSet, count: int, share: float) -> list[Example]:
    """Windows of a data set, that share of them around real defects."""
    images = read_data_set(data_set, foreground_method(data_set, "auto"))
    mixture = Mixture(real=share, pasted=0.0)
    return list(make_examples(images, count, RESOLUTION, numpy_rng("decoder", count), mixture))


@torch.no_grad()
def psnr(vae: Any, examples: list[Example], *, inside: bool) -> float:
    """PSNR in dB over all pixels of some windows, or over those inside their defects."""
    images = stack_windows([one.pixels for one in examples]).float()
    masks = torch.from_numpy(np.stack([one.trimap == DEFECT for one in examples]))[:, None]
    where = masks.expand_as(images) if inside else torch.ones_like(images, dtype=torch.bool)
    decoded = torch.cat([vae.decoder(vae.encoder(part / 127.5 - 1)) for part in torch.split(images, BATCH)])
    errors = ((decoded + 1) * 127.5).round().clamp(0, 255) - images
    return float(10 * torch.log10(255.0**2 / errors[where].square().mean()))


def adapt(vae: Any, good: torch.Tensor, first: int, end: int, optimizer: torch.optim.Optimizer) -> None:
    """Some steps of training on random mirrored windows."""
    for step in range(first, end):
        generator = torch_generator("decoder", step)
        batch = good[torch.randint(len(good), (BATCH,), generator=generator)]
        batch = batch.flip(-1) if torch.rand((), generator=generator) < 0.5 else batch
        with torch.no_grad():
            latents = vae.encoder(batch)
        decoded = vae.decoder(latents)
        loss = F.l1_loss(decoded, batch) + FOURIER_WEIGHT * fourier_distance(decoded, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def study(data: Path, base: str, steps: list[int], fold: str) -> None:
    """Print a line for each number of steps."""
    data_set = open_data_set(data, ReadOptions(fold=fold))
    held = DataSet(data_set.root, data_set.object_name, data_set.test_good, data_set.test_defective)
    good = stack_windows([one.pixels for one in windows(data_set, WINDOWS, 0.0)]).float() / 127.5 - 1
    unseen_good, unseen_defects = windows(held, MEASURED, 0.0), windows(held, MEASURED, 1.0)
    vae: Any = load_base(base).vae
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=LEARNING_RATE)
    done, seconds = 0, 0.0
    for end in sorted(steps):
        began = time.process_time()
        adapt(vae, good, done, end, optimizer)
        done, seconds = end, seconds + time.process_time() - began
        print(
            f"{data.name}: {end} steps, {seconds:.0f} s of processor time, held-out good windows "
            f"{psnr(vae, unseen_good, inside=False):.2f} dB, inside held-out defects "
            f"{psnr(vae, unseen_defects, inside=True):.2f} dB",
            flush=True,
        )


def main() -> None:
    """Study each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--base", default="general")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 50, 100, 200])
    parser.add_argument("--fold", default="1/2")
    given = parser.parse_args()
    for data in given.data:
        study(data, given.base, given.steps, given.fold)


if __name__ == "__main__":
    main()
