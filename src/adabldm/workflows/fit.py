"""Fit a run to the user's images: training pairs, domain stage, control stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from safetensors import SafetensorError
from torch import nn

from adabldm.data.folder import open_data_set
from adabldm.errors import InputError, OutputError
from adabldm.images import Pixels, atomic_file
from adabldm.models.components import (
    Components,
    check_autoencoder,
    encode_prompts,
    in_half,
    moved,
    new_controlnet,
    vae_factor,
)
from adabldm.models.store import RunCard, load_base, save_components, write_card, write_model_index
from adabldm.prompts import defect_prompt, good_prompt
from adabldm.sample import DataSet
from adabldm.seeding import derived_seed, numpy_rng
from adabldm.training.diffusion import Cache, DiffusionObjective, encode_examples
from adabldm.training.examples import Part, make_examples
from adabldm.training.loop import train
from adabldm.training.parts import foreground_method, read_data_set
from adabldm.training.presets import FitPreset, get_fit_preset
from adabldm.workflows.devices import pick_device
from adabldm.workflows.previews import base_preview, control_preview
from adabldm.workflows.sources import SceneMaker, check_foreground

LARGE_UNET = 100_000_000
"""Parameters above which the domain stage trains low-rank updates only, and training saves memory."""
SMALL_GPU = 16 * 2**30
"""Bytes of memory below which a large base is trained with as many windows at a time as make up 512² pixels."""
SETTINGS = "fit.json"


def fit(
    data: Path,
    out: Path,
    *,
    base: str = "tiny",
    preset: str | FitPreset = "quick",
    object_name: str | None = None,
    foreground: str = "auto",
    foreground_folder: Path | None = None,
    mask_threshold: int | None = None,
    shots: int | None = None,
    resume: bool = False,
    micro_batch: int | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
    quiet: bool = False,
) -> Path:
    """Fit one model for all defect types of the data set.

    A kill at any moment loses at most the steps since the last checkpoint: run the same command with `resume`.

    Args:
        data: folder in the MVTec AD layout; its training split is used.
        out: folder of the run; components, previews, logs and checkpoints go there.
        base: "tiny", a diffusers folder or a hub id.
        preset: "quick", "standard", "paper", or a `FitPreset`.
        object_name: what the images show; the folder's name if left out.
        foreground: "auto", "grabcut", "texture" or "folder".
        foreground_folder: of ready foreground masks, for "folder".
        mask_threshold: grey level above which a mask is defect, for masks that are not binary.
        shots: use at most so many defect images a type.
        resume: go on with an earlier fit of the same settings.
        micro_batch: windows that go through the networks at a time: fewer need less memory and more time, the result is
            the same but for rounding. None: the whole batch, or 512² pixels with a large base on a small GPU.
        device: "auto", "cpu", "cuda".
        say: takes remarks.
        quiet: no progress bars.

    Returns:
        the run's folder.

    Raises:
        InputError: bad data, base or settings, before anything is trained or written.
        OutputError: full disk; what is checkpointed stays, a rerun with `resume` goes on.
    """
    chosen = get_fit_preset(preset) if isinstance(preset, str) else preset
    _check_loops(chosen)
    if micro_batch is not None and micro_batch < 1:
        raise InputError(f"--micro-batch {micro_batch}: expected at least 1.")
    check_foreground(foreground, foreground_folder)
    where = pick_device(device)
    data_set = open_data_set(
        data, object_name=object_name, mask_threshold=mask_threshold, shots=shots, require_defects=True, split="train"
    )
    components = load_base(base)
    check_autoencoder(components.vae)
    resolution = chosen.resolution or _native_resolution(components)
    multiple = vae_factor(components.vae) * 2 ** (len(components.unet.config["block_out_channels"]) - 1)
    if resolution % multiple:
        raise InputError(f"--resolution {resolution}: expected a multiple of {multiple} for this base.")
    with torch.no_grad():  # refuses a caption that is too long
        encode_prompts(components, _captions(data_set))
    method = foreground_method(data_set, foreground)
    parts = read_data_set(data_set, method, folder=foreground_folder, mask_threshold=mask_threshold)
    record = {
        "data": str(data.resolve()),
        "object": data_set.object_name,
        "base": base,
        "foreground": method,
        "mask_threshold": mask_threshold,
        "shots": shots,
        "resolution": resolution,
        **json.loads(json.dumps(asdict(chosen))),
    }
    _claim(out, record, resume)
    for note in data_set.notes:
        say(f"note: {note}")
    say(f"{data_set.object_name}: {len(data_set.good)} defect-free images, {_counts(data_set)}; foreground: {method}")
    cache = _encode(components, parts, data_set.object_name, chosen, resolution, where, say)
    for module in components.modules().values():
        module.to(where)
    at_once = micro_batch or _micro_batch(components, resolution, where)
    _domain_stage(components, data_set, cache, chosen, at_once, out, quiet)
    components.controlnet = _new_controlnet(components, chosen.control.seed).to(where)
    maker = SceneMaker(data_set, method, folder=foreground_folder, mask_threshold=mask_threshold)
    card = RunCard(data_set.object_name, tuple(data_set.defects), base, resolution, method, chosen.name, record)
    _control_stage(components, cache, chosen, at_once, out, lambda: control_preview(components, card, maker), quiet)
    for module in components.modules().values():
        module.cpu()
    _save(components, out)
    write_model_index(components, out)
    write_card(out, card)
    say(f"the run is in {out}; next: adabldm generate {out} --data {data} --out … --count 100")
    return out


def _counts(data_set: DataSet) -> str:
    return ", ".join(f"{len(samples)} {defect}" for defect, samples in data_set.defects.items())


def _captions(data_set: DataSet) -> list[str]:
    name = data_set.object_name
    return [good_prompt(name), *(defect_prompt(name, defect) for defect in data_set.defects)]


def _check_loops(preset: FitPreset) -> None:
    for loop in (preset.domain, preset.control):
        for key in ("batch_size", "checkpoint_every", "preview_every"):
            if getattr(loop, key) < 1:
                option = f"--{key.replace('_', '-')}"
                raise InputError(f"{option} {getattr(loop, key)}: expected at least 1.")


def _new_controlnet(components: Components, seed: int) -> ControlNetModel:
    """The control branch, whose new layers are drawn from the fit's seed: the same in a resumed fit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "controlnet"))
        return new_controlnet(components)


def _save(components: Components, out: Path) -> None:
    try:
        save_components(components, out)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"{out}: the run could not be written ({error}); free some space, then run the same command again with "
            "--resume."
        ) from error


def _native_resolution(components: Components) -> int:
    size: Any = components.unet.config["sample_size"]
    return int(size) * vae_factor(components.vae)


def _claim(out: Path, record: dict[str, Any], resume: bool) -> None:
    """Start a run's folder, or check that it is the one to go on with."""
    place = out / SETTINGS
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file, expected a folder; choose another name.")
    leftovers = [path for path in (out, out / "checkpoints", out / "previews") for path in path.glob(".part-*")]
    if place.exists():
        if not resume:
            raise InputError(
                f"--out {out}: holds a fit already; add --resume to go on with it, or choose another --out."
            )
        try:
            before, record = _flat(json.loads(place.read_text(encoding="utf-8"))), _flat(record)
        except (ValueError, AttributeError) as error:
            raise InputError(f"{place}: damaged; choose another --out.") from error
        changed = [key for key in sorted({*before, *record}) if before.get(key) != record.get(key)]
        if changed:
            text = "; ".join(f"{key} was {before.get(key)!r}, is now {record.get(key)!r}" for key in changed[:4])
            raise InputError(f"--out {out}: made with other settings ({text}); use the same ones, or another --out.")
    elif out.exists() and set(out.iterdir()) - set(leftovers):
        raise InputError(f"--out {out}: not empty and not made by fit; choose another --out.")
    for path in leftovers:
        path.unlink()
    if place.exists():
        return
    with atomic_file(place) as file:
        file.write((json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat.update(
            {f"{key}.{name}": own for name, own in _flat(value).items()} if isinstance(value, dict) else {key: value}
        )
    return flat


def _encode(
    components: Components,
    parts: tuple[list[Part], dict[str, list[Part]]],
    object_name: str,
    preset: FitPreset,
    resolution: int,
    device: Any,
    say: Callable[[str], None],
) -> Cache:
    good, defects = parts
    rng = numpy_rng(preset.control.seed, "examples")
    say(f"cutting and encoding {preset.examples} training windows of {resolution} px")
    examples = make_examples(good, defects, object_name, preset.examples, resolution, rng, preset.mixture)
    components.freeze()
    components.vae.to(device)
    return encode_examples(components, examples)


def _domain_stage(
    components: Components,
    data_set: DataSet,
    cache: Cache,
    preset: FitPreset,
    micro_batch: int | None,
    out: Path,
    quiet: bool,
) -> None:
    """Stage one: the UNet learns the object and its defects from captions; afterwards it is frozen."""
    mode = preset.domain_mode
    if mode == "none":
        return
    if mode == "auto":
        mode = "lora" if _is_large(components) else "full"
    if mode == "lora":
        from peft import LoraConfig

        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        rank = preset.lora_rank
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(preset.domain.seed, "lora"))
            components.unet.add_adapter(
                LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights="gaussian")
            )
    else:
        components.unet.requires_grad_(True)
    if _is_large(components):
        components.unet.enable_gradient_checkpointing()
    captions = _captions(data_set)
    objective = DiffusionObjective(
        "domain",
        components,
        cache,
        train=("unet",),
        micro_batch=micro_batch,
        preview=lambda: base_preview(components, captions[:8]),
    )
    train(objective, preset.domain, out, quiet=quiet)
    if mode == "lora":
        components.unet.fuse_lora()
        components.unet.unload_lora()
    components.freeze()


def _control_stage(
    components: Components,
    cache: Cache,
    preset: FitPreset,
    micro_batch: int | None,
    out: Path,
    preview: Callable[[], Pixels],
    quiet: bool,
) -> None:
    """Stage two: the control branch learns to read the trimap."""
    assert components.controlnet is not None
    components.controlnet.requires_grad_(True)
    frozen: list[nn.Module] = []
    idle: list[nn.Module] = []
    device = components.device
    if _is_large(components):
        components.unet.enable_gradient_checkpointing()
        components.controlnet.enable_gradient_checkpointing()
        idle = [components.vae, components.text_encoder]  # latents and embeddings are computed once
        if device.type == "cuda":  # where autocast computes in bfloat16 anyway
            frozen = [components.unet, *idle]

    def draw() -> Pixels:
        with moved(idle, device):
            return preview()

    objective = DiffusionObjective(
        "control",
        components,
        cache,
        train=("controlnet",),
        control=True,
        mask_weight=preset.mask_weight,
        micro_batch=micro_batch,
        preview=draw,
    )
    with in_half(frozen), moved(idle, "cpu"):
        train(objective, preset.control, out, quiet=quiet)
    components.freeze()


def _is_large(components: Components) -> bool:
    size: int = sum(parameter.numel() for parameter in components.unet.parameters())
    return size > LARGE_UNET


def _micro_batch(components: Components, resolution: int, device: torch.device) -> int | None:
    """How many windows a step takes at a time where memory is short; None: all of them."""
    if device.type != "cuda" or not _is_large(components):
        return None
    memory = torch.cuda.get_device_properties(device).total_memory
    return max(1, 512**2 // resolution**2) if memory < SMALL_GPU else None
