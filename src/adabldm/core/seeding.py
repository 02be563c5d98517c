"""One random stream per sample, so that a result never depends on order, interruption or worker."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derived_seed(*keys: int | str) -> int:
    """A 63-bit seed that depends on every key and on nothing else (not on the process or the platform)."""
    kinds = ("str" if isinstance(key, str) else "int" for key in keys)  # NumPy has types of its own for both
    text = "\x1f".join(f"{kind}:{key}" for kind, key in zip(kinds, keys, strict=True))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_rng(*keys: int | str) -> np.random.Generator:
    """A numpy generator for `keys`, used where masks and sources are chosen."""
    return np.random.default_rng(derived_seed(*keys))


def torch_generator(*keys: int | str) -> torch.Generator:
    """A CPU torch generator for `keys`; noise is always drawn on the CPU, then moved to the device."""
    return torch.Generator("cpu").manual_seed(derived_seed(*keys))
