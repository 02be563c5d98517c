"""Train a base model from nothing: autoencoder, then text encoder and UNet. This is how `tiny` was made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adabldm.core.events import Listener, Note, Task, Workload, ignore
from adabldm.core.images import resize_pixels
from adabldm.core.samples import DataSet
from adabldm.core.seeding import numpy_rng
from adabldm.core.settings import FieldProblem, SettingsError, TrainBaseSettings
from adabldm.core.settings.fit import LoopSettings, Mixture
from adabldm.core.windows import crop, random_window, window_around
from adabldm.data.claim import claim
from adabldm.data.content import content_digest
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import open_data_set
from adabldm.models import tiny
from adabldm.models.components import Components
from adabldm.models.devices import pick_device
from adabldm.models.store import save_components
from adabldm.production.previews import base_preview
from adabldm.training.autoencoder import AutoencoderObjective, stack_windows
from adabldm.training.diffusion import Cache, DiffusionObjective, DiffusionStage, encode_examples
from adabldm.training.examples import Example, SourceImage, TrainingImages, make_examples
from adabldm.training.loop import Preview, finished_steps, train
from adabldm.training.sources import foreground_method, read_data_set

AUTOENCODER_LOOP = LoopSettings(
    steps=2200, batch_size=16, learning_rate=1e-3, ema=0.995, weight_decay=0.0, preview_every=200
)
DIFFUSION_LOOP = LoopSettings(steps=2800, batch_size=8, learning_rate=5e-4, preview_every=400)
WINDOWS, EXAMPLES = 6000, 7000
"""Windows for the autoencoder, and for the diffusion: those of the shipped base."""
MIXTURE = Mixture(real=0.4, pasted=0.25)
AUTOENCODER, ENCODE, DIFFUSION = "autoencoder", "encode", "base"
"""Tasks; the two stages are named so in file names and random streams too."""
WINDOW_COST = {AUTOENCODER: 0.4, ENCODE: 0.3, DIFFUSION: 1.0}
"""Expected time of a training window in each task, relative to the diffusion."""


@dataclass(frozen=True)
class _Recipe:
    """Steps and sizes of a base.

    Attributes:
        autoencoder: first stage; crops of 64 px.
        diffusion: second stage.
        windows: windows for the autoencoder.
        examples: windows for the diffusion, encoded once.
        seed: seed of all random draws.
    """

    autoencoder: LoopSettings
    diffusion: LoopSettings
    windows: int
    examples: int
    seed: int


@dataclass(frozen=True)
class _Share:
    """The images of one data set and their share of the training windows."""

    images: TrainingImages
    share: float


@dataclass(frozen=True)
class _Training:
    """What both stages work with."""

    components: Components
    recipe: _Recipe
    folder: Path
    workload: Workload
    listen: Listener


def _recipe(settings: TrainBaseSettings) -> _Recipe:
    """The shipped base's recipe with the changes that were asked for."""
    steps = settings.autoencoder_steps
    return _Recipe(
        AUTOENCODER_LOOP.changed_where_given(steps=steps, seed=settings.seed),
        DIFFUSION_LOOP.changed_where_given(steps=settings.diffusion_steps, seed=settings.seed),
        windows=WINDOWS if steps is None else min(WINDOWS, 40 * steps),
        examples=settings.examples or EXAMPLES,
        seed=settings.seed,
    )


def train_base(settings: TrainBaseSettings, listen: Listener = ignore) -> Path:
    """Train a tiny base on one or more data sets; a folder's share goes by the square root of its images.

    Checkpoints, logs and previews stand beside the components; the same command goes on where a killed one stopped.

    Args:
        settings: what is trained, and how.
        listen: is told remarks, the progress of the whole training and the previews.

    Returns:
        the base's folder.

    Raises:
        InputError: a data set has problems, the names do not match, or the folder is another's.
    """
    recipe, out = _recipe(settings), settings.out
    device = pick_device(settings.device)
    sets = _open_sets(settings, listen)
    shares = _read_shares(sets)
    with claim(out, _record(settings, sets, recipe), "train-base") as held:
        listen = held.watched(listen)
        components = Components(**tiny.new_components(recipe.seed))
        for module in components.modules().values():
            module.to(device)
        workload = Workload(_tasks(recipe, sum(_counts(recipe.examples, shares)), out), listen)
        context = _Training(components, recipe, out, workload, listen)
        psnr = _train_autoencoder(context, shares)
        listen(Note(f"autoencoder: {psnr:.1f} dB on held-out windows"))
        _train_diffusion(context, _encode(context, shares))
        for module in components.modules().values():
            module.cpu()
        save_components(components, out, half=True)
    return out


def _tasks(recipe: _Recipe, windows: int, folder: Path) -> list[Task]:
    """All the work; the steps in the folder's checkpoints count as done."""

    def steps(name: str, loop: LoopSettings) -> Task:
        done = finished_steps(folder, name, loop.steps)
        return Task(name, loop.steps, "step", WINDOW_COST[name] * loop.batch_size, done)

    encoding = Task(ENCODE, windows, "window", WINDOW_COST[ENCODE])
    return [steps(AUTOENCODER, recipe.autoencoder), encoding, steps(DIFFUSION, recipe.diffusion)]


def _open_sets(settings: TrainBaseSettings, listen: Listener) -> list[DataSet]:
    names: list[str | None] = [*settings.object] or [None] * len(settings.data)
    if len(names) != len(settings.data):
        problem = f"{len(names)} given for {len(settings.data)} folders, expected one for each, or none"
        raise SettingsError((FieldProblem("object", problem),))
    return [
        open_data_set(root, ReadOptions(object_name=name, split="train"), listen)
        for root, name in zip(settings.data, names, strict=True)
    ]


def _read_shares(sets: Sequence[DataSet]) -> list[_Share]:
    total = sum(len(data_set.good) ** 0.5 for data_set in sets)
    return [
        _Share(read_data_set(data_set, foreground_method(data_set, "auto")), len(data_set.good) ** 0.5 / total)
        for data_set in sets
    ]


def _record(settings: TrainBaseSettings, sets: Sequence[DataSet], recipe: _Recipe) -> dict[str, object]:
    """What decides the result, as JSON values."""
    return {
        "data": [str(root.resolve()) for root in settings.data],
        "content": [content_digest((*data_set.good, *data_set.defective)) for data_set in sets],
        "object": [data_set.object_name for data_set in sets],
        "autoencoder": recipe.autoencoder.plain(),
        "diffusion": recipe.diffusion.plain(),
        "examples": recipe.examples,
        "seed": recipe.seed,
    }


def _counts(total: int, shares: Sequence[_Share]) -> list[int]:
    """How many of `total` fall to each folder, at least one."""
    return [max(1, round(total * one.share)) for one in shares]


def _train_autoencoder(context: _Training, shares: Sequence[_Share]) -> float:
    """Train the autoencoder and return its PSNR in dB on windows of images that it did not see."""
    recipe, components = context.recipe, context.components
    training, held_out = [], []
    for index, (one, count) in enumerate(zip(shares, _counts(recipe.windows, shares), strict=True)):
        good = one.images.good
        sources = [*good, *chain.from_iterable(one.images.defects.values())]
        rng = numpy_rng(recipe.seed, "autoencoder windows", index)
        # Neighbouring names are often the same part under another light: hold out a run of them, not a sample.
        kept = good[: max(1, len(good) // 20)]
        training.append(_cut_windows(sources[len(kept) :], count, rng))
        held_out.append(_cut_windows(kept, max(4, round(48 * one.share)), rng))
    windows, shown = torch.cat(training), torch.cat(held_out)
    order = torch.randperm(len(shown), generator=torch.Generator().manual_seed(0))
    vae = components.vae.to(memory_format=torch.channels_last)
    objective = AutoencoderObjective(vae, windows, shown[order], crop=64)
    train(objective, recipe.autoencoder, context.folder, workload=context.workload, listen=context.listen)
    components.vae = vae.to(memory_format=torch.contiguous_format)
    _scale_latents(components, windows)
    psnr = objective.psnr()
    components.freeze()
    return psnr


def _cut_windows(sources: Sequence[SourceImage], count: int, rng: np.random.Generator) -> Tensor:
    """Windows for the autoencoder: a third around defects, the others anywhere."""
    defective = [(source, source.mask) for source in sources if source.mask is not None]
    cut = []
    for _ in range(count):
        if defective and rng.random() < 0.3:
            source, mask = defective[int(rng.integers(len(defective)))]
            window = window_around(mask, context=rng.uniform(1.2, 2.4), rng=rng)
        else:
            source = sources[int(rng.integers(len(sources)))]
            window = random_window(source.foreground.shape, rng)
        pixels = resize_pixels(crop(source.pixels, window), (tiny.RESOLUTION, tiny.RESOLUTION))
        cut.append(pixels[:, ::-1] if rng.random() < 0.5 else pixels)
    return stack_windows(cut)


def _scale_latents(components: Components, windows: Tensor) -> None:
    """Set the VAE's scaling factor so that latents have unit variance."""
    with torch.no_grad():
        latents = components.vae.encoder(windows[:256].to(components.device).float() / 127.5 - 1)
    components.vae.register_to_config(scaling_factor=round(1.0 / float(latents.std()), 4))


def _encode(context: _Training, shares: Sequence[_Share]) -> Cache:
    def examples() -> Iterator[Example]:
        for index, (one, count) in enumerate(zip(shares, _counts(context.recipe.examples, shares), strict=True)):
            rng = numpy_rng(context.recipe.seed, "base examples", index)
            yield from make_examples(one.images, count, tiny.RESOLUTION, rng, MIXTURE)

    context.workload.begin(ENCODE)
    return encode_examples(
        context.components, examples(), on_encoded=lambda windows: context.workload.advance(ENCODE, windows)
    )


def _train_diffusion(context: _Training, cache: Cache) -> None:
    components = context.components
    components.unet.requires_grad_(True)
    components.text_encoder.requires_grad_(True)
    shown = sorted(cache.prompts, key=lambda prompt: ("with" not in prompt, prompt))[:8]
    objective = DiffusionObjective(
        components,
        cache,
        DiffusionStage(DIFFUSION, train=("unet", "text_encoder")),
        preview=lambda: Preview(base_preview(components, shown)),
    )
    train(objective, context.recipe.diffusion, context.folder, workload=context.workload, listen=context.listen)
