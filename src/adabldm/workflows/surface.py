"""Train the general base on many surfaces with rendered defects: the autoencoder, then all that diffuses.

Every stage goes on from its checkpoint, and a stage that is finished is skipped: the same command resumes a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny

from adabldm.errors import InputError
from adabldm.models import general
from adabldm.models.components import Components
from adabldm.models.conditioning import CONDITIONINGS, TRIMAP_AND_LATENTS, new_control_branch
from adabldm.models.store import base_folder, load_base, save_components
from adabldm.training.loop import LoopSettings, train
from adabldm.training.surface_autoencoder import Figures, SurfaceAutoencoderObjective
from adabldm.training.surface_diffusion import SurfaceObjective, draw_shards, encode_shards
from adabldm.training.surface_windows import (
    Pool,
    autoencoder_windows,
    read_pool,
    unseen_defect,
)
from adabldm.workflows.devices import pick_device
from adabldm.workflows.surface_pictures import comparison

RESOLUTION = 128
AUTOENCODER_LOOP = LoopSettings(7000, 12, 1e-3, ema=0.998, weight_decay=0.0, checkpoint_every=250, preview_every=1000)
DIFFUSION_LOOP = LoopSettings(12000, 8, 4e-4, ema=0.999, warmup=200, checkpoint_every=200, preview_every=500)


@dataclass(frozen=True)
class SurfaceSettings:
    """How the general base is trained.

    Attributes:
        autoencoder: Loop of the first stage; crops of 64 px.
        diffusion: Loop of the second stage: text encoder, UNet and control branch together.
        windows: Number of windows that the autoencoder is trained on.
        examples: Number of rendered examples of the second stage; raising it for a resumed run adds examples.
        conditioning: What the control branch reads, see `models.conditioning`.
        start: Base whose autoencoder the first stage grows from; None starts from random weights.
        ready: Base whose autoencoder is taken as it is, so that there is no first stage.
        resolution: Side of all windows in pixels, a multiple of 16, at least 64.
        figures: Unseen windows of each set and unseen defects of each type that are measured at every preview.
        unseen: Rendered examples on unseen surfaces on which the second stage's loss is measured at every preview.
        shown: Examples that the second stage's previews draw.
        seed: Seed of all random draws.
    """

    autoencoder: LoopSettings = AUTOENCODER_LOOP
    diffusion: LoopSettings = DIFFUSION_LOOP
    windows: int = 8000
    examples: int = 10000
    conditioning: str = TRIMAP_AND_LATENTS
    start: str | None = "tiny"
    ready: str | None = None
    resolution: int = RESOLUTION
    figures: int = 12
    unseen: int = 80
    shown: int = 10
    seed: int = 0


def surface_settings(
    *,
    autoencoder_steps: int | None = None,
    diffusion_steps: int | None = None,
    windows: int | None = None,
    examples: int | None = None,
    conditioning: str | None = None,
    ready: str | None = None,
    seed: int | None = None,
) -> SurfaceSettings:
    """The usual recipe with some of its values changed; `None` keeps one.

    Raises:
        InputError: a number below 1, a negative seed or an unknown conditioning.
    """
    given = {
        "--autoencoder-steps": autoencoder_steps,
        "--diffusion-steps": diffusion_steps,
        "--windows": windows,
        "--examples": examples,
    }
    problems = [
        f"{option} {value}: expected at least 1." for option, value in given.items() if value is not None and value < 1
    ]
    if conditioning is not None and conditioning not in CONDITIONINGS:
        problems.append(f"--conditioning {conditioning}: expected one of {', '.join(CONDITIONINGS)}.")
    if seed is not None and seed < 0:
        problems.append(f"--seed {seed}: expected 0 or more.")
    if problems:
        raise InputError(problems)
    usual = SurfaceSettings()
    seed = usual.seed if seed is None else seed
    return SurfaceSettings(
        replace(usual.autoencoder, steps=autoencoder_steps or usual.autoencoder.steps, seed=seed),
        replace(usual.diffusion, steps=diffusion_steps or usual.diffusion.steps, seed=seed),
        windows=windows or usual.windows,
        examples=examples or usual.examples,
        conditioning=conditioning or usual.conditioning,
        ready=ready,
        seed=seed,
    )


@dataclass(frozen=True)
class Run:
    """What both stages of a run need.

    Attributes:
        components: The networks.
        pool: Pictures to draw on.
        out: Folder of the run.
        settings: Steps and sizes.
        device: Where the networks are.
        say: Takes the remarks.
        quiet: No progress bars.
    """

    components: Components
    pool: Pool
    out: Path
    settings: SurfaceSettings
    device: torch.device
    say: Callable[[str], None]
    quiet: bool


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
    components = Components(**general.new_components(settings.seed))
    run = Run(components, read_pool(materials, folders), out, settings, pick_device(device), say, quiet)
    ready = out if (out / "vae" / "config.json").is_file() else settings.ready
    if ready is None:
        fit_autoencoder(run)
    else:
        say(f"autoencoder: taken from {ready}")
        components.vae = ready_autoencoder(str(ready))
        save_components(components, out, only=("vae",))
    fit_diffusion(run)
    for module in components.modules().values():
        module.cpu()
    save_components(components, out, only=("text_encoder", "tokenizer", "unet", "scheduler", "controlnet"), half=True)
    return out


def fit_autoencoder(run: Run) -> None:
    """First stage: train the autoencoder, set its scaling and save it in `vae`, in 32 bits."""
    settings, vae = run.settings, run.components.vae
    if settings.start is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            small: Any = load_base(settings.start).vae
            general.grow_autoencoder(small, vae)
    vae = vae.to(run.device).to(memory_format=torch.channels_last)
    run.say(f"drawing {settings.windows} windows")
    cache = run.out / "cache" / "autoencoder-windows.npy"
    windows = autoencoder_windows(run.pool.training, settings.seed, settings.windows, settings.resolution, cache)
    figures = Figures(run.pool, settings.resolution, settings.figures)
    log = run.out / "logs" / "autoencoder-figures.jsonl"
    objective = SurfaceAutoencoderObjective(vae, windows, figures, log=log)
    train(objective, settings.autoencoder, run.out, quiet=run.quiet)
    run.components.vae = vae.to(memory_format=torch.contiguous_format)
    with torch.no_grad():
        latents = vae.encoder(windows[:256, :3].to(run.device).float() / 127.5 - 1)
    vae.register_to_config(scaling_factor=round(1.0 / float(latents.std()), 4))
    save_components(run.components, run.out, only=("vae",))


def fit_diffusion(run: Run) -> None:
    """Second stage: train text encoder, UNet and control branch together on rendered examples, encoded once."""
    settings, components = run.settings, run.components
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        components.controlnet = new_control_branch(components, settings.conditioning)
    for module in components.modules().values():
        module.to(run.device)
    components.freeze()
    run.say(f"drawing {settings.examples} examples")
    folder = run.out / "cache" / "examples"
    shards = draw_shards(run.pool.training, folder, settings.seed, settings.examples, settings.resolution)
    unseen = draw_shards(
        run.pool.training,
        run.out / "cache" / "unseen",
        settings.seed,
        settings.unseen,
        settings.resolution,
        lambda _, __, index, side: unseen_defect(run.pool, index, side),
    )
    run.say("encoding")
    cache, unseen_cache = encode_shards(components, shards), encode_shards(components, unseen)
    for name in ("unet", "controlnet", "text_encoder"):
        components.modules()[name].requires_grad_(True)
    shown = [unseen_defect(run.pool, index, settings.resolution) for index in range(settings.shown)]
    objective = SurfaceObjective(
        components,
        cache,
        unseen_cache,
        draw=lambda: comparison(components, shown),
        log=run.out / "logs" / "diffusion-figures.jsonl",
    )
    train(objective, settings.diffusion, run.out, quiet=run.quiet)


def ready_autoencoder(model: str) -> AutoencoderTiny:
    """The autoencoder of a base (a shipped name or a folder with at least `vae`), in 32 bits.

    Raises:
        InputError: there is none, or it is not of the tiny kind.
    """
    folder = base_folder(model)
    try:
        kind = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder / 'vae'}: no readable autoencoder; give the folder of a base.") from error
    if kind != "AutoencoderTiny":
        raise InputError(f"{folder / 'vae'} is an {kind}, expected an AutoencoderTiny.")
    vae: AutoencoderTiny = AutoencoderTiny.from_pretrained(str(folder / "vae"), use_safetensors=True)
    return vae.float().eval()


def surface_figures(
    model: str, materials: Path, folders: Sequence[Path], *, count: int = 24, device: str = "auto"
) -> dict[str, float]:
    """PSNR in dB on unseen windows by set, and surviving contrast of rendered defects by type, of an autoencoder.

    Args:
        model: A base (a shipped name or a folder), or a folder that holds at least `vae`.
        materials: Folder of tileable pictures of materials, as in training.
        folders: Folders of pictures, as in training: the same pictures are held out.
        count: Windows of each set, and defects of each type.
        device: "auto", "cpu", "cuda".

    Raises:
        InputError: a folder is missing, or the model has no autoencoder of the tiny kind.
    """
    vae = ready_autoencoder(model)
    return Figures(read_pool(materials, folders), RESOLUTION, count).measure(vae.to(pick_device(device)))
