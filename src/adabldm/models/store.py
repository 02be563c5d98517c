"""Load and save base models and runs: diffusers folders of safetensors, read from disk, by name or from the hub.

A run is the diffusers folder of an `AdaBLDMPipeline` plus `adabldm.json`. A run that ships with the package holds
only what training changed; the rest is read from the base that `adabldm.json` names.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from adabldm.core.errors import InputError
from adabldm.core.images import atomic_file
from adabldm.core.records import RunCard, read_record, write_record
from adabldm.models.clean_latents import CONDITIONINGS, TRIMAP, conditioning_of
from adabldm.models.components import Components

CARD = "adabldm.json"
"""File of a run's card; a folder without it is no finished run."""
RENDERING = "rendering"
"""`RunCard.method` of a run that has no networks."""
COMPONENT_NAMES = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "controlnet")
"""Fields of `Components`, and the subfolders that they are stored in."""
BASE_NAMES = tuple(name for name in COMPONENT_NAMES if name != "controlnet")
"""Components that a base has."""


def shipped(name: str) -> Path | None:
    """Folder of a model or run that ships with the package, or `None`."""
    folder = Path(str(files("adabldm.models"))) / "shipped" / name
    return folder if name and "/" not in name and not name.startswith(".") and folder.is_dir() else None


def shipped_runs() -> list[str]:
    """Names of the runs that ship with the package."""
    root = Path(str(files("adabldm.models"))) / "shipped"
    return sorted(path.parent.name for path in root.glob(f"*/{CARD}"))


def _load_component(folder: Path, name: str) -> Any:
    """One component from its subfolder; the class is read from its config where several are possible."""
    place = str(folder / name)
    if name == "scheduler":
        return DDIMScheduler.from_pretrained(place)
    if name == "tokenizer":
        words = CLIPTokenizer.from_pretrained(place)
        if len(words) < 256:  # transformers makes an empty one where the files are missing
            raise ValueError("its vocabulary is missing")
        return words
    kinds: dict[str, Any] = {
        "text_encoder": CLIPTextModel,
        "unet": UNet2DConditionModel,
        "controlnet": ControlNetModel,
        "vae": AutoencoderKL,
    }
    options: dict[str, Any] = {"low_cpu_mem_usage": False} if name in {"unet", "controlnet"} else {}
    if name == "vae":
        config = json.loads((folder / name / "config.json").read_text())
        kinds["vae"] = AutoencoderTiny if config.get("_class_name") == "AutoencoderTiny" else AutoencoderKL
    module, found = kinds[name].from_pretrained(place, use_safetensors=True, output_loading_info=True, **options)
    missing = sorted(found["missing_keys"])
    if missing:  # they would be random, without any error
        raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
    return module


def _load_components(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    loaded = {}
    for name in names:
        try:
            loaded[name] = _load_component(folder, name)
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise InputError(
                f"{folder / name}: not a loadable {name} ({reason}); it is damaged or of another kind, "
                "copy it again or use another folder."
            ) from error
        if isinstance(loaded[name], torch.nn.Module):
            loaded[name].float().eval()
    return loaded


def base_folder(base: str) -> Path:
    """Where a base model lies: `tiny`, a diffusers folder, or a hub id, which is fetched.

    Raises:
        InputError: it is none of them, or the hub cannot be reached.
    """
    found = shipped(base)
    if found is not None:
        return found
    folder = Path(base).expanduser()
    if folder.is_dir():
        return folder
    if base.count("/") != 1 or base.startswith((".", "/", "~")):
        raise InputError(f"--base {base}: no such folder; give a diffusers folder, a hub id (owner/name) or 'tiny'.")
    from huggingface_hub import snapshot_download

    try:
        patterns = [*(f"{name}/*" for name in BASE_NAMES), "model_index.json"]
        ignored = ["*.bin", "*.ckpt", "*.msgpack", "*fp16*", "*non_ema*"]
        return Path(snapshot_download(base, allow_patterns=patterns, ignore_patterns=ignored))
    except Exception as error:
        reason = type(error).__name__
        raise InputError(
            f"--base {base}: neither a folder here nor a model that could be fetched from the hub ({reason}); "
            "check the name and the network, or use 'tiny'."
        ) from error


def load_base(base: str) -> Components:
    """Load a base model of the Stable Diffusion 1.x/2.x kind without a control branch.

    Raises:
        InputError: it cannot be found, lacks a component, or a component is damaged.
    """
    folder = base_folder(base)
    missing = [name for name in BASE_NAMES if not (folder / name).is_dir()]
    if missing:
        raise InputError(
            f"--base {base}: {folder} lacks {', '.join(missing)}; expected a diffusers folder of the "
            "Stable Diffusion 1.x/2.x kind."
        )
    components = Components(**_load_components(folder, BASE_NAMES))
    _check_fit(components, folder)
    return components


def _check_fit(components: Components, folder: Path, conditionings: tuple[str, ...] = (TRIMAP,)) -> None:
    unet: Any = components.unet.config
    vae: Any = components.vae.config
    width = components.text_encoder.config.hidden_size
    problems = []
    if unet["in_channels"] != vae["latent_channels"]:
        problems.append(f"the UNet reads {unet['in_channels']} channels but the VAE makes {vae['latent_channels']}")
    if unet["cross_attention_dim"] != width:
        problems.append(f"the UNet reads text of width {unet['cross_attention_dim']} but the encoder makes {width}")
    vocabulary = components.text_encoder.config.vocab_size
    if len(components.tokenizer) > vocabulary:
        problems.append(f"the tokenizer has {len(components.tokenizer)} tokens but the encoder reads {vocabulary}")
    if components.controlnet is not None:
        control: Any = components.controlnet.config
        for key in ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block"):
            if control[key] != unet[key]:
                problems.append(f"the control branch has {key} {control[key]} but the UNet {unet[key]}")
        if conditioning_of(components) not in conditionings:
            problems.append(f"the control branch reads {control['conditioning_channels']} channels, a trimap has 1")
    if problems:
        raise InputError(f"{folder}: {'; '.join(problems)}; use a matching set of components.")


def load_general(model: str) -> Components:
    """Load a general base with its own control branch, by name or folder.

    Raises:
        InputError: as `load_base`, or it has no control branch.
    """
    folder = base_folder(model)
    missing = [name for name in COMPONENT_NAMES if not (folder / name).is_dir()]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}; give the folder that `adabldm train-surface` made.")
    components = Components(**_load_components(folder, COMPONENT_NAMES))
    _check_fit(components, folder, CONDITIONINGS)
    return components


def find_run(run: str | Path) -> Path:
    """Folder of a run, given as a path or by the name of one that ships.

    Raises:
        InputError: there is no such run, or its fit did not finish.
    """
    folder = Path(run).expanduser()
    if (folder / CARD).is_file():
        return folder
    found = shipped(str(run))
    if found is not None and (found / CARD).is_file():
        return found
    known = ", ".join(shipped_runs()) or "none"
    if folder.is_dir():
        raise InputError(
            f"{run}: no finished run (it lacks {CARD}); finish it with `adabldm fit … --out {run} --resume`."
        )
    raise InputError(f"{run}: no such run; give the folder that `adabldm fit` made, or one that ships: {known}.")


def read_card(folder: Path) -> RunCard:
    """Read `adabldm.json` of a run.

    Raises:
        InputError: it is damaged.
    """
    path = folder / CARD
    try:
        return read_record(path, RunCard)
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ").rstrip(".")
        raise InputError(f"{path}: damaged or of another version ({reason}); fit the run again.") from error


def load_run(run: str | Path) -> tuple[Components, RunCard]:
    """Load a run with its control branch; components that it does not hold are read from its base.

    Raises:
        InputError: as `find_run`, the run has no networks, or one is missing, damaged or does not fit.
    """
    folder = find_run(run)
    card = read_card(folder)
    if card.method == RENDERING:
        raise InputError(f"{run}: this run renders its defects and has no networks; give a run that was fitted.")
    loaded = _load_components(folder, [name for name in COMPONENT_NAMES if (folder / name).is_dir()])
    missing = [name for name in COMPONENT_NAMES if name not in loaded]
    if "controlnet" in missing:
        raise InputError(f"{folder}: the run has no controlnet folder; finish it with `adabldm fit … --resume`.")
    if missing:
        loaded.update(_load_components(base_folder(card.base), missing))
    components = Components(**loaded)
    _check_fit(components, folder)
    return components, card


def save_components(
    components: Components, folder: Path, *, only: Sequence[str] = COMPONENT_NAMES, half: bool = False
) -> None:
    """Save components as a diffusers folder (safetensors); `half` stores the networks in 16 bits."""
    for name in only:
        component: Any = getattr(components, name)
        if component is None:
            continue
        if half and isinstance(component, torch.nn.Module):
            component = copy.deepcopy(component).half()
        component.save_pretrained(str(folder / name))
        for path in (folder / name).iterdir():
            path.chmod(0o644)  # safetensors writes for the owner alone


def write_card(folder: Path, card: RunCard) -> None:
    """Write `adabldm.json`; it is written last, so that a folder with it is a finished run."""
    write_record(folder / CARD, card)


def write_model_index(components: Components, folder: Path) -> None:
    """Write diffusers' `model_index.json`, so that `DiffusionPipeline` tools know the folder."""
    index: dict[str, Any] = {"_class_name": "AdaBLDMPipeline"}
    for name in COMPONENT_NAMES:
        component: Any = getattr(components, name)
        if component is not None:
            library = "transformers" if name in {"text_encoder", "tokenizer"} else "diffusers"
            index[name] = [library, "CLIPTokenizer" if name == "tokenizer" else type(component).__name__]
    with atomic_file(folder / "model_index.json") as file:
        file.write((json.dumps(index, indent=2) + "\n").encode())


def digest(components: Components) -> str:
    """Twelve hex digits of SHA-256 over all weights: the `model` of a manifest."""
    total = hashlib.sha256()
    for name, module in sorted(components.modules().items()):
        for key, value in sorted(module.state_dict().items()):
            total.update(f"{name}.{key}{tuple(value.shape)}".encode())
            total.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return total.hexdigest()[:12]
