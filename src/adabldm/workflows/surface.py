"""Train the general base on many surfaces with rendered defects: the autoencoder, then all that diffuses.

Every stage goes on from its checkpoint, and a stage that is finished is skipped: the same command resumes a run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny

from adabldm.core.errors import InputError
from adabldm.core.events import Listener, Note, Task, Workload, ignore
from adabldm.core.images import Pixels, write_png
from adabldm.core.settings.surface import (
    SurfaceFiguresSettings,
    SurfaceRecipe,
    SurfaceSheetSettings,
    TrainSurfaceSettings,
)
from adabldm.data.claim import claim
from adabldm.models import general
from adabldm.models.clean_latents import new_control_branch
from adabldm.models.components import Components
from adabldm.models.devices import pick_device
from adabldm.models.store import base_folder, load_base, load_general, save_components
from adabldm.production.surface_drawings import comparison
from adabldm.rendering.render import DEFECTS
from adabldm.training.loop import finished_steps, train
from adabldm.training.surface_autoencoder import Figures, SurfaceAutoencoderObjective
from adabldm.training.surface_diffusion import SurfaceObjective, draw_shards, encode_shards
from adabldm.training.surface_windows import Pool, autoencoder_windows, read_pool, unseen_defect

RESOLUTION = 128
"""Side in px of the windows of `surface_figures` and `surface_sheet`."""


@dataclass(frozen=True)
class _Run:
    """What both stages of a run need.

    Attributes:
        components: the networks.
        pool: pictures to draw on.
        out: folder of the run.
        recipe: steps and sizes.
        device: where the networks are.
        workload: tasks of the whole training.
        listen: is told remarks and previews.
    """

    components: Components
    pool: Pool
    out: Path
    recipe: SurfaceRecipe
    device: torch.device
    workload: Workload
    listen: Listener


def train_surface(
    settings: TrainSurfaceSettings, listen: Listener = ignore, *, recipe: SurfaceRecipe | None = None
) -> Path:
    """Train the general base; resumes. Checkpoints, logs and previews stand beside the components.

    Args:
        settings: what is trained, and how.
        listen: is told remarks, the progress of both stages and the previews.
        recipe: takes the place of the settings' own.

    Returns:
        the base's folder.

    Raises:
        InputError: a folder is missing or empty, a checkpoint is damaged, or `out` belongs to something else.
    """
    recipe, out = recipe or settings.recipe(), settings.out
    device = pick_device(settings.device)
    components = Components(**general.new_components(recipe.seed))
    pool = read_pool(settings.materials, settings.folders)
    with claim(out, _decisive(settings, recipe), "train-surface") as held:
        listen = held.watched(listen)
        ready = str(out) if (out / "vae" / "config.json").is_file() else recipe.ready
        workload = Workload(_tasks(recipe, out, autoencoder=ready is None), listen)
        _train(_Run(components, pool, out, recipe, device, workload, listen), ready)
    return out


def _decisive(settings: TrainSurfaceSettings, recipe: SurfaceRecipe) -> dict[str, object]:
    """JSON values that a folder belongs to. More examples or steps may follow into the same one."""
    return {
        "materials": str(settings.materials.resolve()),
        "folders": [str(folder.resolve()) for folder in settings.folders],
        "resolution": recipe.resolution,
        "conditioning": recipe.conditioning,
        "seed": recipe.seed,
    }


def _train(run: _Run, ready: str | None) -> None:
    """Both stages, or the second one with an autoencoder that is ready; then the components are saved."""
    components, out = run.components, run.out
    if ready is None:
        _fit_autoencoder(run)
    else:
        run.listen(Note(f"autoencoder: taken from {ready}"))
        components.vae = ready_autoencoder(ready)
        save_components(components, out, only=("vae",))
    _fit_diffusion(run)
    for module in components.modules().values():
        module.cpu()
    save_components(components, out, only=("text_encoder", "tokenizer", "unet", "scheduler", "controlnet"), half=True)


def _tasks(recipe: SurfaceRecipe, out: Path, *, autoencoder: bool) -> list[Task]:
    """The stages; the steps in the folder's checkpoints count as done."""
    stages = {SurfaceObjective.name: (recipe.diffusion, 1.0)}
    if autoencoder:
        stages = {SurfaceAutoencoderObjective.name: (recipe.autoencoder, 0.4), **stages}
    return [
        Task(name, loop.steps, "step", cost * loop.batch_size, finished_steps(out, name, loop.steps))
        for name, (loop, cost) in stages.items()
    ]


def _fit_autoencoder(run: _Run) -> None:
    """First stage: train the autoencoder, set its scaling and save it in `vae`, in 32 bits."""
    recipe, vae = run.recipe, run.components.vae
    if recipe.start is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            small: Any = load_base(recipe.start).vae
            general.grow_autoencoder(small, vae)
    vae = vae.to(run.device).to(memory_format=torch.channels_last)
    run.listen(Note(f"drawing {recipe.windows} windows"))
    cache = run.out / "cache" / "autoencoder-windows.npy"
    windows = autoencoder_windows(run.pool.training, recipe.seed, recipe.windows, recipe.resolution, cache)
    figures = Figures(run.pool, recipe.resolution, recipe.figures)
    log = run.out / "logs" / "autoencoder-figures.jsonl"
    objective = SurfaceAutoencoderObjective(vae, windows, figures, log=log)
    train(objective, recipe.autoencoder, run.out, workload=run.workload, listen=run.listen)
    run.components.vae = vae.to(memory_format=torch.contiguous_format)
    with torch.no_grad():
        latents = vae.encoder(windows[:256, :3].to(run.device).float() / 127.5 - 1)
    vae.register_to_config(scaling_factor=round(1.0 / float(latents.std()), 4))
    save_components(run.components, run.out, only=("vae",))


def _fit_diffusion(run: _Run) -> None:
    """Second stage: train text encoder, UNet and control branch together on rendered examples, encoded once."""
    recipe, components, training = run.recipe, run.components, run.pool.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        components.controlnet = new_control_branch(components, recipe.conditioning)
    if recipe.networks is not None:
        _start_from(components, recipe.networks)
    for module in components.modules().values():
        module.to(run.device)
    components.freeze()
    run.listen(Note(f"drawing {recipe.examples} examples"))
    cache = run.out / "cache"
    shards = draw_shards(training, cache / "examples", recipe.seed, recipe.examples, recipe.resolution)
    unseen = draw_shards(
        training,
        cache / "unseen",
        recipe.seed,
        recipe.unseen,
        recipe.resolution,
        lambda _, __, index, side: unseen_defect(run.pool, index, side),
    )
    run.listen(Note("encoding"))
    encoded, unseen_encoded = encode_shards(components, shards), encode_shards(components, unseen)
    for name in ("unet", "controlnet", "text_encoder"):
        components.modules()[name].requires_grad_(True)
    shown = [unseen_defect(run.pool, index, recipe.resolution) for index in range(recipe.shown)]
    objective = SurfaceObjective(
        components,
        encoded,
        unseen_encoded,
        draw=lambda: comparison(components, shown),
        log=run.out / "logs" / "diffusion-figures.jsonl",
    )
    train(objective, recipe.diffusion, run.out, workload=run.workload, listen=run.listen)


def _start_from(components: Components, model: str) -> None:
    """Copy the weights of text encoder, UNet and control branch of a general base.

    Raises:
        InputError: it has another architecture.
    """
    given = load_general(model).modules()
    for name in ("text_encoder", "unet", "controlnet"):
        try:
            components.modules()[name].load_state_dict(given[name].state_dict())
        except (RuntimeError, KeyError) as error:
            raise InputError(
                f"networks: {name} of {model} has another architecture; leave this setting out."
            ) from error


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


def surface_figures(settings: SurfaceFiguresSettings, listen: Listener = ignore) -> dict[str, float]:
    """PSNR in dB on unseen windows by set, and surviving contrast of rendered defects by type, of an autoencoder.

    Raises:
        InputError: a folder is missing, or the model has no autoencoder of the tiny kind.
    """
    del listen
    vae = ready_autoencoder(settings.model)
    figures = Figures(read_pool(settings.materials, settings.folders), RESOLUTION, settings.count)
    return figures.measure(vae.to(pick_device(settings.device)))


def surface_sheet(settings: SurfaceSheetSettings, listen: Listener = ignore) -> Path:
    """Write a contact sheet of `count` pictures of each of the ten types, and return its path.

    Without a model: a row a type, with surface, result and mask of each rendered example of the training surfaces.
    With one: for each `count` the five rows of `comparison`, a column a type, on unseen surfaces.

    Raises:
        InputError: a folder is missing, or the model cannot be loaded.
    """
    del listen
    pool = read_pool(settings.materials, settings.folders)
    sheet = _rendered_sheet(pool, settings) if settings.model is None else _drawn_sheet(pool, settings, settings.model)
    write_png(settings.out, sheet)
    return settings.out


def _drawn_sheet(pool: Pool, settings: SurfaceSheetSettings, model: str) -> Pixels:
    components = load_general(model)
    for module in components.modules().values():
        module.to(pick_device(settings.device))
    kinds = len(DEFECTS)
    examples = [unseen_defect(pool, index, RESOLUTION) for index in range(settings.count * kinds)]
    return np.vstack([comparison(components, examples[row * kinds :][:kinds]) for row in range(settings.count)])


def _rendered_sheet(pool: Pool, settings: SurfaceSheetSettings) -> Pixels:
    rows = []
    for row, defect in enumerate(DEFECTS):
        cells: list[Pixels] = []
        for index in range(settings.count):
            example = pool.training.example(settings.seed, row + len(DEFECTS) * index, RESOLUTION)
            assert example.defect == defect
            mask = np.repeat(example.mask[..., None], 3, axis=-1).astype(np.uint8) * 255
            cells += [example.clean, example.pixels, mask]
        rows.append(np.hstack([np.pad(cell, ((1, 1), (1, 1), (0, 0)), constant_values=255) for cell in cells]))
    return np.vstack(rows)
