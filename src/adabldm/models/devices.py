"""Where to compute, and in which precision."""

from __future__ import annotations

import torch

from adabldm.core.precision import computes_half
from adabldm.core.settings.problems import FieldProblem, SettingsError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str = "auto") -> torch.device:
    """The first GPU for "auto", where there is one; else the CPU.

    Raises:
        SettingsError: unknown device, or one that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        problem = f"{name} is not available here; use cpu, or leave it out"
        raise SettingsError((FieldProblem("device", problem),)) from error
    return device


def edit_dtype(name: str, device: torch.device, *, finetunes: bool) -> torch.dtype:
    """Precision of the networks of an edit; "auto" is bfloat16 where the device computes in it, and single elsewhere.

    Args:
        name: "auto" or one of `DTYPES`.
        device: where they are.
        finetunes: the preset fine-tunes the decoder; such presets stay in single precision, as published.

    Raises:
        SettingsError: unknown precision.
    """
    if name == "auto":
        return torch.bfloat16 if computes_half(device) and not finetunes else torch.float32
    return pick_dtype(name)


def pick_dtype(name: str) -> torch.dtype:
    """The precision of that name.

    Raises:
        SettingsError: it is none of `DTYPES`.
    """
    if name not in DTYPES:
        problem = f"{name!r} is unknown, expected one of {', '.join(DTYPES)}"
        raise SettingsError((FieldProblem("dtype", problem),))
    return DTYPES[name]
