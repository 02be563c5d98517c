"""Load and save base models and runs: diffusers folders of safetensors, read from disk, by name or from the hub.

A run is the diffusers folder of an `AdaBLDMPipeline` plus `adabldm.json`, which lists its files with their digests. A
run that ships with the package holds only what training changed; the rest is read from the base that `adabldm.json`
names, which ships too. A run may come from a stranger: nothing of it is read from outside its folder, or from the hub.

A run is replaced by writing a whole one into `.adabldm-next` in its folder, the card last; then each component is
renamed to its place. While that card is there, components are read from `.adabldm-next` first: a kill at any moment
leaves the earlier run or the new one.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.resources import files
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from adabldm.core.errors import InputError
from adabldm.core.images import atomic_file
from adabldm.core.records import RunCard, read_record, write_record
from adabldm.core.settings.problems import FieldProblem, SettingsError
from adabldm.models import eight_bit
from adabldm.models.checks import check_folder, check_schedule, check_size, check_weights, read_config
from adabldm.models.clean_latents import TRIMAP_AND_LATENTS, conditioning_channels, conditioning_of
from adabldm.models.components import Components, window_multiple
from adabldm.models.lora import merge_loras
from adabldm.models.quiet import quiet_libraries
from adabldm.models.single_file import NO_XL, Prediction, load_single_file, without_inpainting

HUB = "hf://"
"""Beginning of a hub id that may name a revision."""
SINGLE = frozenset({".safetensors", ".ckpt", ".pt", ".pth", ".bin"})
"""Suffixes of files that hold a whole base; all but the first are refused, because they may hold code."""
CARD = "adabldm.json"
"""File of a run's card; a folder without it is no finished run."""
RENDERING = "rendering"
"""`RunCard.method` of a run that has no networks."""
COMPONENT_NAMES = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "controlnet")
"""Fields of `Components`, and the subfolders that they are stored in."""
READ_SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".jinja"})
"""Of the files in a component's folder that libraries read."""
NEXT = ".adabldm-next"
"""Folder in a run's folder in which a new run is written, before it takes the place of the earlier one."""
LEVELS = frozenset({"beta_schedule", "trained_betas"})
"""Keys of a scheduler's config, one of which says the noise levels."""
MORE_THAN_PROMPT = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type",
                    "time_cond_proj_dim")  # fmt: skip
"""Keys of a UNet's config that ask for more than latents, a timestep and a prompt."""
OF_PROMPT = "text"
"""`addition_embed_type` that reads the prompt once more, as the base `general` does."""
BASE_NAMES = tuple(name for name in COMPONENT_NAMES if name != "controlnet")
"""Components that a base has."""


def shipped(name: str) -> Path | None:
    """Folder of a model or run that ships with the package, or `None`."""
    folder = Path(str(files("adabldm.models"))) / "shipped" / name
    return folder if 0 < len(name) < 100 and "/" not in name and not name.startswith(".") and folder.is_dir() else None


def shipped_runs() -> list[str]:
    """Names of the runs that ship with the package."""
    root = Path(str(files("adabldm.models"))) / "shipped"
    return sorted(path.parent.name for path in root.glob(f"*/{CARD}"))


def _load_component(folder: Path, name: str) -> Any:
    """One component from its folder; the class is read from its config where several are possible."""
    from adabldm.models import libraries

    place = str(folder)
    if name == "scheduler":
        if not LEVELS & read_config(folder / "scheduler_config.json").keys():
            raise ValueError("its config has no beta_schedule, which the noise levels of Stable Diffusion follow")
        scheduler = libraries.DDIMScheduler.from_pretrained(place, local_files_only=True)
        check_schedule(scheduler)
        return scheduler
    if name == "tokenizer":
        words = libraries.CLIPTokenizer.from_pretrained(place, local_files_only=True)
        if len(words) < 256:  # transformers makes an empty one where the files are missing
            raise ValueError("its vocabulary is missing")
        return words
    kinds: dict[str, Any] = {
        "text_encoder": libraries.CLIPTextModel,
        "unet": libraries.UNet2DConditionModel,
        "controlnet": libraries.ControlNetModel,
        "vae": libraries.AutoencoderKL,
    }
    kind = kinds[name]
    options: dict[str, Any] = {"low_cpu_mem_usage": False} if name in {"unet", "controlnet"} else {}
    if name == "vae" and read_config(folder / "config.json").get("_class_name") == "AutoencoderTiny":
        kind = libraries.AutoencoderTiny
    is_text = name == "text_encoder"
    if is_text:
        options["dtype"] = torch.float32  # else its config's, to which transformers rounds the weights

    def bare(values: dict[str, Any]) -> Any:
        """The network without its weights."""
        return kind(libraries.CLIPTextConfig.from_dict(values)) if is_text else kind.from_config(values)

    check_size(folder, bare)
    if (folder / eight_bit.FILE).is_file():
        module = bare(read_config(folder / "config.json"))
        eight_bit.load_eight_bit(module, folder)
    else:
        module, found = kind.from_pretrained(
            place,
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
            variant=_variant(folder),
            **options,
        )
        missing = sorted(found["missing_keys"])
        if missing:  # they would be random, without any error
            raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
    check_weights(module)
    return module


def _variant(folder: Path) -> str | None:
    """The variant of the weights in a folder that holds no plain ones, such as fp16."""
    stems = [path.name.removesuffix(".safetensors") for path in folder.glob("*.safetensors")]
    variants = {stem.partition(".")[2].partition("-")[0] for stem in stems}  # of model.fp16-00001-of-00002
    return None if not variants or "" in variants else min(variants, key=lambda one: (one == "non_ema", one != "fp16"))


def _load_components(places: Mapping[str, Path], within: Path | None = None) -> dict[str, Any]:
    """Components from their folders; `within` is the folder that no file may lead out of, such as a run's."""
    loaded = {}
    for name, place in places.items():
        try:
            with quiet_libraries():
                check_folder(place, within)
                loaded[name] = _load_component(place, name)
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise InputError(
                f"{place}: not a loadable {name} ({reason}); it is damaged or of another kind, "
                "copy it again or use another folder."
            ) from error
        if isinstance(loaded[name], torch.nn.Module):
            loaded[name].float().eval()
    return loaded


def _below(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Folders of components."""
    return {name: folder / name for name in names}


def base_folder(base: str) -> Path:
    """Where a base model lies: `tiny`, a diffusers folder, or a hub id, which is fetched.

    A hub id may name a revision: hf://owner/name@REVISION.

    Raises:
        InputError: it is none of them, or the hub cannot be reached.
    """
    found = shipped(base)
    if found is not None:
        return found
    folder = Path(base).expanduser()
    if folder.is_dir():
        return folder
    name, _, revision = base.removeprefix(HUB).partition("@")
    if name.count("/") != 1 or base.startswith((".", "/", "~")):
        raise InputError(f"--base {base}: no such folder; give a diffusers folder, a hub id (owner/name) or 'tiny'.")
    from huggingface_hub import snapshot_download

    try:
        patterns = [*(f"{part}/*" for part in COMPONENT_NAMES), "model_index.json"]
        fetch = partial(snapshot_download, name, revision=revision or None, allow_patterns=patterns)
        ignored = ["*.bin", "*.ckpt", "*.msgpack", "*non_ema*"]
        folder = Path(fetch(ignore_patterns=[*ignored, "*fp16*"]))
        plain = any((folder / "unet").glob("*.safetensors"))
        return folder if plain else Path(fetch(ignore_patterns=ignored))
    except Exception as error:
        reason, wanted = type(error).__name__, f"{name} --revision {revision}" if revision else name
        raise InputError(
            f"--base {base}: neither a folder here nor a model that could be fetched from the hub ({reason}); check "
            f"the name and the network, or fetch it elsewhere (`hf download {wanted} --local-dir DIR`) and give --base "
            "DIR, or use 'tiny'."
        ) from error


def pinned(base: str) -> str:
    """A base with the revision that was fetched: hf://owner/name@COMMIT; other bases as they are named."""
    if not base.startswith(HUB):
        return base
    return f"{base.partition('@')[0]}@{base_folder(base).name}"


def load_base(base: str, loras: Sequence[str] = (), prediction: Prediction | None = None) -> Components:
    """Load a base model of the Stable Diffusion 1.x/2.x kind, with its control branch if that reads clean latents.

    Any other control branch in its folder is left where it is.

    Args:
        base: `tiny`, a diffusers folder, a hub id or a single safetensors file.
        loras: files that are merged, see `merge_loras`.
        prediction: what a single file predicts, if it does not tell.

    Raises:
        InputError: it cannot be found, lacks a component, or a component is damaged.
    """
    path = Path(base).expanduser()
    single = path.suffix in SINGLE and _is_file(path)
    if prediction is not None and not single:
        problem = f"{prediction} was given, but {base} is no single file and says it itself; leave it out"
        raise SettingsError((FieldProblem("prediction", problem),))
    components = Components(**load_single_file(path, prediction)) if single else _load_base_folder(base)
    config: Any = components.unet.config
    if config["in_channels"] == 2 * config["out_channels"] + 1:
        components.unet = without_inpainting(components.unet, components.vae)
    merge_loras(components, loras)
    _check_fit(components, path)
    return components


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _load_base_folder(base: str) -> Components:
    folder = base_folder(base)
    missing = [name for name in BASE_NAMES if not (folder / name).is_dir()]
    if missing:
        raise InputError(
            f"--base {base}: {folder} lacks {', '.join(missing)}; expected a diffusers folder of the "
            "Stable Diffusion 1.x/2.x kind."
        )
    if _is_xl(folder):
        raise InputError(f"--base {base}: a base {NO_XL}")
    components = Components(**_load_components(_below(folder, BASE_NAMES)))
    config = folder / "controlnet" / "config.json"
    channels = conditioning_channels(components, TRIMAP_AND_LATENTS)
    if config.is_file() and read_config(config).get("conditioning_channels") == channels:
        components.controlnet = _load_components(_below(folder, ["controlnet"]))["controlnet"]
    return components


def _is_xl(folder: Path) -> bool:
    """Whether a base is one of Stable Diffusion XL, which is said before its gigabytes are read."""
    try:
        return read_config(folder / "unet" / "config.json").get("addition_embed_type") == "text_time"
    except (OSError, ValueError):  # the loader says what is wrong with it
        return False


def _check_fit(components: Components, folder: Path) -> None:
    unet: Any = components.unet.config
    vae: Any = components.vae.config
    width = components.text_encoder.config.hidden_size
    problems = []
    more = [key for key in MORE_THAN_PROMPT if unet.get(key) not in {None, OF_PROMPT}]
    if more:
        problems.append(f"the UNet reads more than a prompt ({', '.join(more)})")
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
        if conditioning_of(components) is None:
            both = conditioning_channels(components, TRIMAP_AND_LATENTS)
            problems.append(
                f"the control branch reads {control['conditioning_channels']} channels, expected 1 of a trimap or "
                f"{both} of trimap and latents"
            )
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
    components = Components(**_load_components(_below(folder, COMPONENT_NAMES)))
    _check_fit(components, folder)
    return components


def find_run(run: str | Path) -> Path:
    """Folder of a run, given as a path or by the name of one that ships.

    Raises:
        InputError: there is no such run, or its fit did not finish.
    """
    if not isinstance(run, str | Path):
        raise InputError(f"run {run!r}: expected the folder of a fit, or the name of a run that ships.")
    folder = Path(run).expanduser()
    with suppress(OSError):  # a name that is too long for a file
        if (_front(folder) / CARD).is_file():
            return folder
    found = shipped(str(run))
    if found is not None and (found / CARD).is_file():
        return found
    known = ", ".join(shipped_runs()) or "none"
    if _is_folder(folder):
        raise InputError(
            f"{run}: no finished run (it lacks {CARD}); go on with `adabldm fit … --out {quote(str(run))} --resume`, "
            "or end the fit with what it has by --finish."
        )
    raise InputError(f"{run}: no such run; give the folder that `adabldm fit` made, or one that ships: {known}.")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def _front(folder: Path) -> Path:
    """Where the present card of a run's folder stands: in `NEXT` while a new run takes its place."""
    return folder / NEXT if (folder / NEXT / CARD).is_file() else folder


def _place(folder: Path, name: str) -> Path:
    """Folder of a component of a run."""
    front = _front(folder) / name
    return front if front.exists() else folder / name


def read_card(folder: Path) -> RunCard:
    """Read `adabldm.json` of a run.

    Raises:
        InputError: it is damaged.
    """
    path = _front(folder) / CARD
    try:
        return read_record(path, RunCard)
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ").rstrip(".")
        raise InputError(f"{path}: damaged or of another version ({reason}); fit the run again.") from error


def load_run(run: str | Path) -> tuple[Components, RunCard]:
    """Load a run with its control branch.

    Components that are not its own are read from its base, if that ships with the package.

    Raises:
        InputError: as `find_run`, the run has no networks, or one is missing, changed, damaged or does not fit.
    """
    folder = find_run(run)
    card = read_card(folder)
    if card.method == RENDERING:
        raise InputError(f"{run}: this run renders its defects and has no networks; give a run that was fitted.")
    own = _own_components(folder, card)
    within = None if folder == shipped(folder.name) else folder  # an installer may link a package's files
    loaded = _load_components({name: _place(folder, name) for name in own}, within)
    missing = [name for name in COMPONENT_NAMES if name not in loaded]
    if missing:
        base = shipped(card.base)
        if base is None:
            raise InputError(
                f"{folder}: the run has no {', '.join(missing)} of its own and names the base {card.base!r}; only "
                "bases that ship with this package are read for a run; get the whole run."
            )
        loaded.update(_load_components(_below(base, missing)))
    components = Components(**loaded)
    _check_fit(components, folder)
    multiple = window_multiple(components)
    if card.resolution % multiple:
        raise InputError(
            f"{folder / CARD}: resolution is {card.resolution}, expected a multiple of {multiple} for these networks; "
            "restore the card or fit the run again."
        )
    return components, card


def _own_components(folder: Path, card: RunCard) -> list[str]:
    """Names of the components that a run owns; all their files are there and unchanged.

    A card from before there were digests does not list them: such a run has all components, or, as those that shipped,
    the control branch alone.
    """
    there = [name for name in COMPONENT_NAMES if _place(folder, name).is_dir()]
    listed = {path.partition("/")[0] for path in card.files or {}}
    own = [name for name in COMPONENT_NAMES if name in listed]
    if card.files is None:
        own = there if there == ["controlnet"] else list(COMPONENT_NAMES)
    lacking = [name for name in own if name not in there]
    if lacking or "controlnet" not in own:
        raise InputError(
            f"{folder}: the run has no {', '.join(lacking or ['controlnet'])} folder; copy the whole run again, or "
            f"finish it with `adabldm fit … --out {quote(str(folder))} --resume`."
        )
    unlisted = [name for name in there if name not in own]
    if unlisted:
        raise InputError(f"{folder / unlisted[0]}: not listed in the run's {CARD}; remove it.")
    if card.files is not None:
        _check_files(folder, card.files)
    return own


def _check_files(folder: Path, listed: Mapping[str, str]) -> None:
    """Refuse a run of which a file is missing, changed, or added where a library would read it."""
    way_out = f"copy the run again, or make it again with `adabldm fit … --out {quote(str(folder))} --resume`."
    for path, expected in listed.items():
        name, _, file = path.partition("/")
        place = _place(folder, name) / file
        if not place.is_file():
            raise InputError(f"{place}: missing, though the run's {CARD} lists it; {way_out}")
        if _file_digest(place) != expected:
            raise InputError(f"{place}: changed since the run was written ({CARD} has another SHA-256); {way_out}")
    for name in {path.partition("/")[0] for path in listed}:
        for place in _place(folder, name).iterdir():
            if f"{name}/{place.name}" not in listed and place.suffix in READ_SUFFIXES:
                raise InputError(f"{place}: not listed in the run's {CARD}; remove it.")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def save_run(components: Components, folder: Path, card: RunCard) -> None:
    """Write a run into a folder, in place of an earlier one; a kill at any moment leaves one of them, whole.

    Raises:
        OSError: full disk or missing permission.
    """
    finish_saving(folder)
    fresh = folder / NEXT
    save_components(components, fresh)
    write_model_index(components, fresh)
    for path in fresh.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    write_card(fresh, card)  # from now on this is the run
    finish_saving(folder)


def finish_saving(folder: Path) -> None:
    """Bring a new run that is whole to its place in its folder, and remove one that is not."""
    fresh = folder / NEXT
    if (fresh / CARD).is_file():
        for name in COMPONENT_NAMES:
            if (fresh / name).is_dir():
                _remove(fresh / "old")
                with suppress(FileNotFoundError):
                    (folder / name).rename(fresh / "old")
                (fresh / name).rename(folder / name)
        for file in ("model_index.json", CARD):
            with suppress(FileNotFoundError):
                (fresh / file).replace(folder / file)
    _remove(fresh)


def _remove(path: Path) -> None:
    """Remove a folder or what stands in its place; a link itself, not what it leads to."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def write_card(folder: Path, card: RunCard) -> RunCard:
    """Write `adabldm.json` with the digests of the components' files that are there.

    It is written last, so that a folder with it is a finished run.
    """
    found = {
        f"{name}/{path.name}": _file_digest(path)
        for name in COMPONENT_NAMES
        for path in sorted((folder / name).glob("*"))
        if path.is_file() and path.suffix in READ_SUFFIXES
    }
    written = card.model_copy(update={"files": found})
    write_record(folder / CARD, written)
    return written


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
