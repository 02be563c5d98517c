"""One random stream per sample, so that a result never depends on order, interruption or worker."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on nothing else (not on the process or the platform)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_rng(*parts: int | str) -> np.random.Generator:
    """A numpy generator for `parts`, used where masks and sources are chosen."""
    return np.random.default_rng(derived_seed(*parts))


def torch_generator(*parts: int | str) -> torch.Generator:
    """A CPU torch generator for `parts`; noise is always drawn on the CPU, then moved to the device."""
    return torch.Generator("cpu").manual_seed(derived_seed(*parts))
