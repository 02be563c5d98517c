"""Half precision where the hardware computes in it."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def computes_half(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bfloat16 faster than in single precision: GPUs, and processors with AMX.

    Processors without it imitate bfloat16 and are slower for it. Where torch cannot tell what a processor has, as older
    versions, it counts as without.
    """
    if device.type == "cpu":
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("amx_bf16", False))
    return device.type == "cuda"


def fast_half(device: torch.device) -> bool:
    """Whether training in bfloat16 pays: GPUs, and processors with AMX or AVX-512 BF16 instructions."""
    if device.type != "cpu":
        return device.type == "cuda"
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def mixed(device: torch.device, *, enabled: bool | None = None, cache: bool = True) -> torch.autocast:
    """Autocast to bfloat16 on a device; the weights stay as they are.

    Args:
        device: where the networks are.
        enabled: `False` changes nothing; where the device computes in bfloat16 if left out.
        cache: keep the weights in bfloat16 until the end; pays where they are read more than once.
    """
    enabled = computes_half(device) if enabled is None else enabled
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=cache)
