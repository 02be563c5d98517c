"""Half precision where the hardware computes in it."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def computes_half(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bfloat16 faster than in single precision: GPUs, and processors with AMX.

    Processors without it imitate bfloat16 and are slower for it. Versions of torch that cannot tell what a processor
    has (before 2.10 or so) count it as without.
    """
    if device.type == "cpu":
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("amx_bf16", False))
    return device.type == "cuda"


def mixed(device: torch.device, *, enabled: bool = True, cache: bool = True) -> torch.autocast:
    """Autocast to bfloat16 on a device, weights in single precision.

    Args:
        device: where the networks are.
        enabled: `False` changes nothing.
        cache: keep the weights in bfloat16 until the end; pays where they are read more than once.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=cache)
