"""What a component's folder must be before a library opens it, and its weights afterwards.

A folder may come from a stranger. Nothing in it may lead a library to another place, to a pickle, or to sizes that the
files do not hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

LARGEST_CONFIG = 4 * 2**20
"""Bytes of a JSON file that is read."""
LARGEST_NUMBER = 1_000_000
"""Of the numbers in a config: sizes, token ids, steps."""
MOST_LAYERS = 64
"""Of the numbers that count layers or blocks, and of lists with an entry for each."""
SMALL_MODEL = 2**28
"""Weights that are not worth a closer look before they are allocated."""
LARGEST_WEIGHT = 1000.0
"""Magnitude that no weight of a trained network reaches; those of Stable Diffusion stay below 100."""
PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"})
ELSEWHERE = frozenset({"adapter_config.json"})
"""Files that would lead a library to another model."""
PLACES = frozenset(
    {"vocab_file", "merges_file", "tokenizer_file", "spm_file", "added_tokens_file", "fast_tokenizer_files",
     "gguf_file", "auto_map", "quantization_config"}
)  # fmt: skip
"""Keys of configs that would lead a library to other files or to code."""
UNREAD = frozenset({"lambda_min_clipped"})
"""Keys that only other solvers read, for which diffusers writes an infinite number."""
DEPTHS = ("layers_per_block", "num_hidden_layers", "transformer_layers_per_block", "num_encoder_blocks",
          "num_decoder_blocks", "num_attention_heads", "attention_head_dim")  # fmt: skip
WIDTHS = ("block_out_channels", "encoder_block_out_channels", "decoder_block_out_channels", "hidden_size")


def check_folder(folder: Path, within: Path | None = None) -> None:
    """Refuse a component's folder that a library must not open.

    Args:
        folder: of the component.
        within: folder that no file may lead out of by a link; any if left out.

    Raises:
        ValueError: what is wrong, with the file.
    """
    if not folder.is_dir():
        raise ValueError("a file, expected a folder" if folder.exists() else "missing")
    inside = None if within is None else within.resolve()
    paths = sorted(folder.iterdir())
    for path in paths:
        if inside is not None and not path.resolve().is_relative_to(inside):
            raise ValueError(f"{path.name} is a link that leads out of the run")
        if not path.is_file() and not path.is_dir():
            raise ValueError(f"{path.name} is no file")
        if path.name in ELSEWHERE:
            raise ValueError(f"{path.name} leads to another model")
        if path.name.endswith(".index.json"):
            _check_index(path)
        elif path.name in {"config.json", "scheduler_config.json", "tokenizer_config.json"}:
            _check_config(path)
    suffixes = {path.suffix for path in paths}
    pickles = [path.name for path in paths if path.suffix in PICKLES]
    if pickles and ".safetensors" not in suffixes:
        raise ValueError(f"its weights are pickled in {pickles[0]}, which may hold code and is never read")


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object of at most `LARGEST_CONFIG` bytes.

    Raises:
        ValueError: it is none.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path.name} is no file")
    if path.stat().st_size > LARGEST_CONFIG:
        raise ValueError(f"{path.name} is larger than {LARGEST_CONFIG >> 20} MiB")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return values


def _check_index(path: Path) -> None:
    """The shards of an index lie beside it."""
    shards = read_config(path).get("weight_map")
    names = set(map(str, shards.values())) if isinstance(shards, dict) else {""}
    for name in sorted(names):
        if name != Path(name).name or not name.endswith(".safetensors") or not (path.parent / name).is_file():
            raise ValueError(f"{path.name} names {name!r}, expected a safetensors file beside it")


def _check_config(path: Path) -> None:
    """The values of a config stay within what networks of this kind have."""
    values = read_config(path)
    found = sorted(PLACES & {key for key, value in values.items() if value is not None})
    if found:
        raise ValueError(f"{path.name}: {found[0]} leads elsewhere; remove it")
    if path.name == "tokenizer_config.json":  # its numbers are token ids and a length that may stand for "any"
        return
    for key, value in _numbers(values):
        name = key.split(".")[0]
        if name in UNREAD:
            continue
        most = MOST_LAYERS * 16 if name in DEPTHS[-2:] else MOST_LAYERS if name in DEPTHS else LARGEST_NUMBER
        if not math.isfinite(value) or abs(value) > most:
            raise ValueError(f"{path.name}: {key} is {value}, expected at most {most}")
    for key in (*WIDTHS, *DEPTHS):
        if isinstance(entries := values.get(key), list) and len(entries) > MOST_LAYERS:
            raise ValueError(f"{path.name}: {key} has {len(entries)} entries, expected at most {MOST_LAYERS}")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """All numbers with the keys under which they stand."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


def check_size(folder: Path, make: Callable[[dict[str, Any]], nn.Module]) -> None:
    """Refuse a config that describes more weights than the files hold, before memory is taken for them.

    Args:
        folder: of the component, checked by `check_folder`.
        make: a network from its config.

    Raises:
        ValueError: it describes more.
    """
    config = read_config(folder / "config.json")
    if _rough_size(config) < SMALL_MODEL:
        return
    with torch.device("meta"):
        described = sum(parameter.numel() for parameter in make(config).parameters())
    held = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            held += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    if described > held:
        raise ValueError(f"config.json describes {described} weights, but its files hold {held}")


def _rough_size(config: dict[str, Any]) -> int:
    """More weights than the network of a config has, from its sizes alone."""
    found = [(key.split(".")[0], int(value)) for key, value in _numbers(config)]
    width = max((value for key, value in found if key in WIDTHS), default=1)
    blocks = sum(key in WIDTHS for key, _ in found)
    layers = 2 * max((value for key, value in found if key in DEPTHS[:5]), default=1) + 3
    long, longest = sorted([1, 1, *(value for key, value in found if key not in (*WIDTHS, *DEPTHS))])[-2:]
    return 64 * width**2 * blocks * layers + 9 * width * longest * layers + 9 * long * longest


def check_weights(module: nn.Module) -> None:
    """Refuse weights that are not those of a trained network.

    Raises:
        ValueError: a tensor that holds numbers that are not finite or far too large.
    """
    for name, values in module.state_dict().items():
        if values.is_floating_point() and values.numel():
            low, high = torch.aminmax(values)
            peak = max(-float(low), float(high))
            if not math.isfinite(peak) or math.isnan(float(low)):
                raise ValueError(f"tensor {name} holds numbers that are not finite")
            if peak > LARGEST_WEIGHT:
                raise ValueError(f"tensor {name} holds weights up to {peak:.3g}, expected at most {LARGEST_WEIGHT:.0f}")


def check_schedule(scheduler: Any) -> None:
    """Refuse noise levels that no diffusion model was trained with.

    Raises:
        ValueError: they are not finite, leave [0, 1], or do not fall.
    """
    alphas = scheduler.alphas_cumprod.double()
    sound = bool(torch.isfinite(alphas).all()) and bool(((alphas >= 0) & (alphas <= 1)).all())
    if not sound or len(alphas) < 2 or not bool((alphas.diff() <= 0).all()) or float(alphas[0]) <= 0.5:
        config = {key: scheduler.config[key] for key in ("beta_start", "beta_end", "num_train_timesteps")}
        raise ValueError(f"its noise levels do not fall from 1 to 0 ({config})")
    kind = scheduler.config["prediction_type"]
    if kind not in {"epsilon", "v_prediction", "sample"}:
        raise ValueError(f"prediction_type is {kind!r}, expected epsilon, v_prediction or sample")
    if kind == "epsilon" and float(alphas[-1]) == 0:
        raise ValueError("its last noise level is pure noise, from which a UNet that predicts noise learns nothing")
