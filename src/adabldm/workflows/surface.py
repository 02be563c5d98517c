"""Train the general base on many surfaces with rendered defects: the autoencoder, then the UNet with its control branch.

Every stage goes on from its checkpoint, and a stage that is finished is skipped: the same command resumes a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adabldm.models import general
from adabldm.models.components import Components
from adabldm.models.store import load_base
from adabldm.training.loop import LoopSettings, train
from adabldm.training.surface_autoencoder import Figures, SurfaceAutoencoderObjective
from adabldm.training.surface_windows import Pool, autoencoder_windows, read_pool
from adabldm.workflows.devices import pick_device

RESOLUTION = 128
AUTOENCODER_LOOP = LoopSettings(
    7000, 12, 1e-3, ema=0.998, weight_decay=0.0, checkpoint_every=250, preview_every=1000
)


@dataclass(frozen=True)
class SurfaceSettings:
    """How the general base is trained.

    Attributes:
        autoencoder: Loop of the first stage; crops of 64 px.
        windows: Number of windows that the autoencoder is trained on.
        start: Base whose autoencoder the first stage grows from; None starts from random weights.
        figures: Unseen windows of each set and unseen defects of each type that are measured at every preview.
        seed: Seed of all random draws.
    """

    autoencoder: LoopSettings = AUTOENCODER_LOOP
    windows: int = 8000
    start: str | None = "tiny"
    figures: int = 12
    seed: int = 0


def train_surface(
    materials: Path,
    folders: Sequence[Path],
    out: Path,
    settings: SurfaceSettings | None = None,
    *,
    device: str = "auto",
    say: Callable[[str], None] = print,
    quiet: bool = False,
) -> Path:
    """Train the general base; resumes.

    Args:
        materials: Folder of tileable pictures of materials.
        folders: Folders of pictures of defect-free parts (training splits only).
        out: Folder of the base; checkpoints, logs and previews stand beside the components.
        settings: Steps and sizes.
        device: "auto", "cpu", "cuda".
        say: Takes the remarks.
        quiet: No progress bars.

    Raises:
        InputError: a folder is missing or empty, or a checkpoint is damaged.
    """
    settings = settings or SurfaceSettings()
    pool = read_pool(materials, folders)
    components = Components(**general.new_components(settings.seed))
    fit_autoencoder(components, pool, out, settings, device=device, say=say, quiet=quiet)
    return out


def fit_autoencoder(
    components: Components,
    pool: Pool,
    out: Path,
    settings: SurfaceSettings,
    *,
    device: str,
    say: Callable[[str], None],
    quiet: bool,
) -> None:
    """First stage: train `components.vae`, set its scaling and save it in `out`."""
    vae: Any = components.vae
    if settings.start is not None:
        small: Any = load_base(settings.start).vae
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            general.grow_autoencoder(small, vae)
    vae = vae.to(pick_device(device)).to(memory_format=torch.channels_last)
    say(f"drawing {settings.windows} windows")
    cache = out / "cache" / "autoencoder-windows.npy"
    windows = autoencoder_windows(pool.training, settings.seed, settings.windows, RESOLUTION, cache)
    figures = Figures(pool, RESOLUTION, settings.figures)
    objective = SurfaceAutoencoderObjective(vae, windows, figures, log=out / "logs" / "autoencoder-figures.jsonl")
    train(objective, settings.autoencoder, out, quiet=quiet)
    components.vae = vae.to(memory_format=torch.contiguous_format)
    with torch.no_grad():
        latents = vae.encoder(windows[:256, :3].to(components.device).float() / 127.5 - 1)
    vae.register_to_config(scaling_factor=round(1.0 / float(latents.std()), 4))
