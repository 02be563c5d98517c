"""Train a base model from nothing: autoencoder, then text encoder and UNet. This is how `tiny` was made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adabldm.data.folder import open_data_set
from adabldm.errors import InputError
from adabldm.images import resize_pixels
from adabldm.models import tiny
from adabldm.models.components import Components
from adabldm.models.store import save_components
from adabldm.seeding import numpy_rng
from adabldm.training.autoencoder import AutoencoderObjective, stack_windows
from adabldm.training.diffusion import DiffusionObjective, encode_examples
from adabldm.training.examples import Example, Mixture, Part, make_examples
from adabldm.training.loop import LoopSettings, train
from adabldm.training.parts import foreground_method, read_data_set
from adabldm.windows import crop, random_window, window_around
from adabldm.workflows.devices import pick_device
from adabldm.workflows.previews import base_preview

AUTOENCODER_LOOP = LoopSettings(2200, 16, 1e-3, ema=0.995, weight_decay=0.0, preview_every=200)
DIFFUSION_LOOP = LoopSettings(2800, 8, 5e-4, preview_every=400)


@dataclass(frozen=True)
class BaseSettings:
    """How a base is trained; the defaults are those of the shipped model.

    Attributes:
        autoencoder: of the first stage; crops of 64 px.
        diffusion: of the second stage.
        windows: windows for the autoencoder.
        examples: windows for the diffusion, encoded once.
        seed: of everything random.
    """

    autoencoder: LoopSettings = AUTOENCODER_LOOP
    diffusion: LoopSettings = DIFFUSION_LOOP
    windows: int = 6000
    examples: int = 7000
    seed: int = 0


def base_settings(
    autoencoder_steps: int | None, diffusion_steps: int | None, examples: int | None, seed: int
) -> BaseSettings:
    """The shipped recipe with some of its numbers changed; `None` keeps one.

    Raises:
        InputError: a number below 1.
    """
    given = {"--autoencoder-steps": autoencoder_steps, "--diffusion-steps": diffusion_steps, "--examples": examples}
    for option, value in given.items():
        if value is not None and value < 1:
            raise InputError(f"{option} {value}: expected at least 1.")
    usual = BaseSettings()
    return BaseSettings(
        replace(usual.autoencoder, steps=autoencoder_steps or usual.autoencoder.steps, seed=seed),
        replace(usual.diffusion, steps=diffusion_steps or usual.diffusion.steps, seed=seed),
        windows=usual.windows if autoencoder_steps is None else min(usual.windows, 40 * autoencoder_steps),
        examples=examples or usual.examples,
        seed=seed,
    )


def _cut_windows(parts: Sequence[Part], count: int, resolution: int, rng: np.random.Generator) -> Tensor:
    """Windows for the autoencoder: a third around defects, the others anywhere."""
    defective = [part for part in parts if part.mask is not None]
    cut = []
    for _ in range(count):
        if defective and rng.random() < 0.3:
            part = defective[int(rng.integers(len(defective)))]
            assert part.mask is not None
            window = window_around(part.mask, context=rng.uniform(1.2, 2.4), rng=rng)
        else:
            part = parts[int(rng.integers(len(parts)))]
            window = random_window(part.foreground.shape, rng)
        pixels = resize_pixels(crop(part.pixels, window), (resolution, resolution))
        cut.append(pixels[:, ::-1] if rng.random() < 0.5 else pixels)
    return stack_windows(cut)


def _scale_latents(components: Components, windows: Tensor) -> None:
    """Set the VAE's scaling factor so that latents have unit variance."""
    with torch.no_grad():
        latents = components.vae.encoder(windows[:256].to(components.device).float() / 127.5 - 1)
    components.vae.register_to_config(scaling_factor=round(1.0 / float(latents.std()), 4))


def train_base(
    roots: Sequence[Path],
    out: Path,
    settings: BaseSettings | None = None,
    *,
    object_names: Sequence[str] = (),
    device: str = "auto",
    say: Callable[[str], None] = print,
    quiet: bool = False,
) -> Path:
    """Train a tiny base on one or more data sets; a folder's share goes by the square root of its images; resumes.

    Args:
        roots: data sets in the MVTec AD layout; only their training splits are used.
        out: folder of the base; checkpoints, logs and previews stand beside the components.
        settings: steps and sizes.
        object_names: what each data set shows; the folders' names if empty.
        device: "auto", "cpu", "cuda".
        say: takes the remarks.
        quiet: no progress bars.

    Raises:
        InputError: a data set has problems, or the names do not match.
    """
    settings = settings or BaseSettings()
    where = pick_device(device)
    names: list[str | None] = [*object_names] or [None] * len(roots)
    if len(names) != len(roots):
        raise InputError(f"{len(object_names)} object names for {len(roots)} folders; give one for each, or none.")
    sets = [open_data_set(root, object_name=name, split="train") for root, name in zip(roots, names, strict=True)]
    loaded = [read_data_set(data_set, foreground_method(data_set, "auto")) for data_set in sets]
    total = sum(len(data_set.good) ** 0.5 for data_set in sets)
    shares = [len(data_set.good) ** 0.5 / total for data_set in sets]
    components = Components(**tiny.new_components(settings.seed))
    for module in components.modules().values():
        module.to(where)
    psnr = _fit_autoencoder(components, loaded, shares, settings, out, quiet)
    say(f"autoencoder: {psnr:.1f} dB on held-out windows")
    components.freeze()
    examples: list[Example] = []
    mixture = Mixture(real=0.4, pasted=0.25)
    for index, (data_set, (good, defects), share) in enumerate(zip(sets, loaded, shares, strict=True)):
        rng = numpy_rng(settings.seed, "base examples", index)
        count = round(settings.examples * share)
        examples += make_examples(good, defects, data_set.object_name, count, tiny.RESOLUTION, rng, mixture)
    say(f"encoding {len(examples)} windows")
    cache = encode_examples(components, examples)
    components.unet.requires_grad_(True)
    components.text_encoder.requires_grad_(True)
    shown = sorted(cache.prompts, key=lambda prompt: ("with" not in prompt, prompt))[:8]
    objective = DiffusionObjective(
        "base", components, cache, train=("unet", "text_encoder"), preview=lambda: base_preview(components, shown)
    )
    train(objective, settings.diffusion, out, quiet=quiet)
    for module in components.modules().values():
        module.cpu()
    save_components(components, out, half=True)
    return out


def _fit_autoencoder(
    components: Components,
    loaded: Sequence[tuple[list[Part], dict[str, list[Part]]]],
    shares: Sequence[float],
    settings: BaseSettings,
    out: Path,
    quiet: bool,
) -> float:
    """Train the autoencoder and return its PSNR in dB on windows of images that it did not see."""
    training, held_out = [], []
    for index, ((good, defects), share) in enumerate(zip(loaded, shares, strict=True)):
        parts = [*good, *(part for kind in defects.values() for part in kind)]
        rng = numpy_rng(settings.seed, "autoencoder windows", index)
        # Neighbouring names are often the same part under another light: hold out a run of them, not a sample.
        kept = good[: max(1, len(good) // 20)]
        training.append(_cut_windows(parts[len(kept) :], round(settings.windows * share), tiny.RESOLUTION, rng))
        held_out.append(_cut_windows(kept, max(4, round(48 * share)), tiny.RESOLUTION, rng))
    shown = torch.cat(held_out)
    order = torch.randperm(len(shown), generator=torch.Generator().manual_seed(0))
    vae = components.vae.to(memory_format=torch.channels_last)
    objective = AutoencoderObjective(vae, torch.cat(training), shown[order], crop=64)
    train(objective, settings.autoencoder, out, quiet=quiet)
    components.vae = vae.to(memory_format=torch.contiguous_format)
    _scale_latents(components, torch.cat(training))
    return objective.psnr()
