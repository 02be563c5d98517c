"""The classes of other libraries that networks are made of.

Importing them takes seconds, because diffusers brings PyTorch's compiler, peft and all its models. So this module is
imported inside the functions that make or load networks, and nowhere else: pages, help texts, and everything that
renders or only reads files start without it.
"""

from __future__ import annotations

from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

__all__ = [
    "AutoencoderKL", "AutoencoderTiny", "CLIPTextConfig", "CLIPTextModel", "CLIPTokenizer", "ControlNetModel",
    "DDIMScheduler", "UNet2DConditionModel",
]  # fmt: skip
