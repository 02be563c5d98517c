"""Where to compute, and in which precision."""

from __future__ import annotations

import torch

from adabldm.editing.presets import Preset
from adabldm.errors import InputError
from adabldm.precision import computes_half

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str = "auto") -> torch.device:
    """The first GPU for "auto", where there is one; else the CPU.

    Raises:
        InputError: unknown device, or one that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available here; use cpu, or leave it out.") from error
    return device


def generate_dtype(name: str, device: torch.device, preset: Preset) -> torch.dtype:
    """The precision of that name; "auto" is bfloat16 where the device computes in it, and single elsewhere.

    The presets that fine-tune the decoder stay in single precision, as published.

    Raises:
        InputError: it is neither "auto" nor one of `DTYPES`.
    """
    if name == "auto":
        return torch.bfloat16 if computes_half(device) and preset.adapt != "finetune" else torch.float32
    return pick_dtype(name)


def pick_dtype(name: str) -> torch.dtype:
    """The precision of that name.

    Raises:
        InputError: it is none of `DTYPES`.
    """
    if name not in DTYPES:
        raise InputError(f"--dtype {name}: unknown, expected one of {', '.join(DTYPES)}.")
    return DTYPES[name]
