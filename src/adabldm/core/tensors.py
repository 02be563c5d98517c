"""Pixels as tensors and back: uint8 HxWx3 and float CHW in [-1, 1]."""

from __future__ import annotations

import numpy as np
import torch

from adabldm.core.images import Pixels


def to_device(values: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Bring values from the processor's memory to a device; a GPU is not waited for, which fetches them meanwhile.

    For that they lie in pinned memory, which PyTorch keeps until the copy is made.
    """
    if device.type != "cuda":
        return values.to(device, dtype)
    return values.to(dtype).pin_memory().to(device, non_blocking=True)


def to_tensor(pixels: Pixels) -> torch.Tensor:
    """uint8 HxWx3 to float32 CHW in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float().div(127.5).sub(1.0)


def to_pixels(image: torch.Tensor) -> Pixels:
    """Float CHW in [-1, 1] to uint8 HxWx3 (rounded, clipped)."""
    values = image.detach().float().cpu().add(1.0).mul(127.5).round().clamp(0, 255)
    return np.ascontiguousarray(values.to(torch.uint8).permute(1, 2, 0).numpy())
