"""Weights of a network in 8 bits: half the size of 16 bits, read back as floating point.

Each row of a weight (all that one output channel reads) is stored as integers from -127 to 127 and one scale, so that
its largest weight is exact; biases and norms stay in 16 bits. Rounding errors are at most 0.4 % of a row's largest
weight. The general base and the run `hazelnut` ship in this form; pictures change by three grey levels at most.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FILE = "weights-8bit.safetensors"
SCALE = ".scale"
_LEVELS = 127


def save_eight_bit(module: nn.Module, folder: Path) -> None:
    """Write a network's weights to `FILE` in a folder that holds its config."""
    stored: dict[str, Tensor] = {}
    for name, values in module.state_dict().items():
        values = values.detach().cpu()
        if not values.is_floating_point() or values.ndim < 2:
            stored[name] = (values.half() if values.is_floating_point() else values).contiguous()
            continue
        rows = values.float().flatten(1)
        scale = (rows.abs().amax(1) / _LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        stored[name] = (rows / scale[:, None]).round().to(torch.int8).reshape(values.shape).contiguous()
        stored[name + SCALE] = scale
    save_file(stored, folder / FILE)
    (folder / FILE).chmod(0o644)  # safetensors writes for the owner alone


def load_eight_bit(module: nn.Module, folder: Path) -> None:
    """Read the weights of `FILE` into a network, in 32 bits.

    Raises:
        ValueError: weights are missing, unknown or of another shape, or stored in another way.
    """
    stored = load_file(folder / FILE)
    scales = {name.removesuffix(SCALE): stored.pop(name) for name in list(stored) if name.endswith(SCALE)}
    wrong = sorted(name for name, values in stored.items() if (values.dtype == torch.int8) != (name in scales))
    if wrong or not scales.keys() <= stored.keys():
        raise ValueError(f"{FILE}: a scale is missing or superfluous, such as that of {[*wrong, *scales][0]}")
    for name, scale in scales.items():
        values = stored[name].float()
        if scale.shape != values.shape[:1]:
            raise ValueError(f"{FILE}: the scale of {name} has another shape than its weights")
        stored[name] = (values.flatten(1) * scale.float()[:, None]).reshape(values.shape)
    try:
        module.load_state_dict(stored)
    except RuntimeError as error:
        raise ValueError(f"{FILE}: {' '.join(str(error).split())[:160]}") from error
