"""The networks of latent diffusion as one value, and the few calls that the rest of the code makes on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from adabldm.errors import InputError
from adabldm.stages import stage


@dataclass
class Components:
    """VAE, text encoder and tokenizer, UNet, noise scheduler, and the control branch once there is one."""

    vae: AutoencoderKL | AutoencoderTiny
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    scheduler: DDIMScheduler
    controlnet: ControlNetModel | None = None

    def modules(self) -> dict[str, nn.Module]:
        """The networks by name."""
        found = {"vae": self.vae, "text_encoder": self.text_encoder, "unet": self.unet, "controlnet": self.controlnet}
        return {name: module for name, module in found.items() if module is not None}

    def freeze(self) -> None:
        """No gradients, evaluation mode: a stage then unfreezes what it trains."""
        for module in self.modules().values():
            module.requires_grad_(False)
            module.eval()

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        device: torch.device = next(self.unet.parameters()).device
        return device


@contextmanager
def in_half(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Frozen networks in bfloat16, half the memory, while this is open; they are called under autocast then.

    Afterwards they have their own weights again, to the bit: these wait in the host's memory.
    """
    parameters = [parameter for module in modules for parameter in module.parameters()]
    own = [parameter.data.cpu() for parameter in parameters]
    for parameter in parameters:
        parameter.data = parameter.data.bfloat16()
    try:
        yield
    finally:
        for parameter, values in zip(parameters, own, strict=True):
            parameter.data = values.to(parameter.device)


@contextmanager
def moved(modules: Sequence[nn.Module], device: torch.device | str) -> Iterator[None]:
    """Networks on another device while this is open, such as in the host's memory while they are not needed."""
    before = [next(module.parameters()).device for module in modules]
    for module in modules:
        module.to(device)
    try:
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            module.to(own)


def vae_factor(vae: nn.Module) -> int:
    """Image pixels per latent pixel along a side."""
    config: Any = vae.config
    widths = config["encoder_block_out_channels"] if isinstance(vae, AutoencoderTiny) else config["block_out_channels"]
    return int(2 ** (len(widths) - 1))


def encode_images(vae: nn.Module, images: Tensor) -> Tensor:
    """E: BCHW in [-1, 1] to scaled latents; the mode of the posterior, so that it is deterministic."""
    with stage("encode"):
        encoded: Any = vae.encode(images)  # type: ignore[operator]
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    config: Any = vae.config
    scaled: Tensor = (latents - (config.get("shift_factor") or 0.0)) * config["scaling_factor"]
    return scaled


def decode_latents(vae: nn.Module, latents: Tensor) -> Tensor:
    """D: scaled latents to BCHW, nominally in [-1, 1] (not clipped)."""
    config: Any = vae.config
    with stage("decode"):
        decoded: Any = vae.decode(latents / config["scaling_factor"] + (config.get("shift_factor") or 0.0))  # type: ignore[operator]
    images: Tensor = decoded.sample
    return images


def encode_prompts(components: Components, prompts: Sequence[str]) -> Tensor:
    """Prompts to embeddings BxTxC.

    Raises:
        InputError: a prompt is longer than the text encoder reads.
    """
    tokenizer: Any = components.tokenizer
    limit = int(tokenizer.model_max_length)
    limit = min(limit, int(components.text_encoder.config.max_position_embeddings))
    for prompt in prompts:
        length = len(tokenizer(prompt).input_ids)
        if length > limit:
            raise InputError(
                f'prompt "{prompt[:60]}…" has {length} tokens, but the text encoder reads at most {limit}; shorten it.'
            )
    ids = tokenizer(list(prompts), padding="max_length", max_length=limit, return_tensors="pt").input_ids
    encoder: Any = components.text_encoder
    with stage("text"):
        embeddings: Tensor = encoder(ids.to(next(encoder.parameters()).device)).last_hidden_state
    return embeddings


def check_autoencoder(vae: nn.Module) -> None:
    """Refuse an autoencoder that a control branch cannot follow: its condition is shrunk by at most 8.

    Raises:
        InputError: it shrinks by more.
    """
    if vae_factor(vae) > 8:
        raise InputError(f"the base's autoencoder shrinks by {vae_factor(vae)}, expected at most 8; use another base.")


def new_controlnet(components: Components) -> ControlNetModel:
    """A control branch for the trimap: a copy of the UNet's encoder with zero convolutions (arXiv 2302.05543).

    Its condition is the trimap, B1HW in {0, 0.5, 1}, at image size.

    Raises:
        InputError: see `check_autoencoder`.
    """
    check_autoencoder(components.vae)
    small = components.unet.config["block_out_channels"][0] < 128
    widths = (16, 32, 48, 64) if small else (16, 32, 96, 256)
    levels = vae_factor(components.vae).bit_length()
    controlnet = ControlNetModel.from_unet(
        components.unet, conditioning_embedding_out_channels=widths[:levels], conditioning_channels=1
    )
    _wake_trimap_embedding(controlnet)
    return controlnet


@torch.no_grad()
def _wake_trimap_embedding(controlnet: ControlNetModel) -> None:
    """Let the trimap be heard from the first step.

    ControlNet's zero convolutions at the branch's outputs alone make it start harmless. A second zero convolution
    behind the condition, and default weights before it, only delay learning by thousands of steps: here each layer
    keeps the size of its input (arXiv 1502.01852), and the last one is not zero.
    """
    embedding: Any = controlnet.controlnet_cond_embedding
    layers = [embedding.conv_in, *embedding.blocks, embedding.conv_out]
    for layer in layers:
        gain = 4.0 if layer is embedding.conv_in else 1.7
        fan_in = layer.weight[0].numel()
        layer.weight.normal_(0.0, gain / fan_in**0.5)
        layer.bias.zero_()
