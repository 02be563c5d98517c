"""The networks of latent diffusion as one value, and the few calls that the rest of the code makes on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adabldm.core.errors import InputError
from adabldm.core.stages import stage

if TYPE_CHECKING:
    from adabldm.models.libraries import (
        AutoencoderKL,
        AutoencoderTiny,
        CLIPTextModel,
        CLIPTokenizer,
        ControlNetModel,
        DDIMScheduler,
        UNet2DConditionModel,
    )


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
        """Switch off gradients and training mode; a stage of training then unfreezes what it trains."""
        for module in self.modules().values():
            module.requires_grad_(False)
            module.eval()

    @property
    def device(self) -> torch.device:
        """Device of the UNet."""
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
def channels_last(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Networks in the memory format in which their convolutions are fastest, while this is open.

    Afterwards their weights lie in memory as before: the last bit of a convolution depends on it.
    """
    parameters = [parameter for module in modules for parameter in module.parameters()]
    before = [(parameter, parameter.stride()) for parameter in parameters if parameter.ndim == 4]
    to_channels_last(modules)
    try:
        yield
    finally:
        for parameter, strides in before:
            _lay_out(parameter, strides)
            if parameter.grad is not None:
                _lay_out(parameter.grad, strides)


def _lay_out(tensor: Tensor, strides: tuple[int, ...]) -> None:
    """Give a tensor these strides in memory, without a change of its values."""
    if tensor.stride() != strides:
        place = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
        tensor.data = place.copy_(tensor.data)


def to_channels_last(modules: Sequence[nn.Module]) -> None:
    """Bring networks to the memory format in which their convolutions are fastest, for good."""
    for module in modules:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


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
    widths = config.get("encoder_block_out_channels") or config["block_out_channels"]
    return int(2 ** (len(widths) - 1))


def window_multiple(components: Components) -> int:
    """Number of pixels that the side of a window must be a multiple of."""
    config: Any = components.unet.config
    return vae_factor(components.vae) * int(2 ** (len(config["block_out_channels"]) - 1))


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
    from adabldm.models.libraries import ControlNetModel

    check_autoencoder(components.vae)
    small = components.unet.config["block_out_channels"][0] < 128
    widths = (16, 32, 48, 64) if small else (16, 32, 96, 256)
    levels = vae_factor(components.vae).bit_length()
    controlnet = ControlNetModel.from_unet(
        components.unet, conditioning_embedding_out_channels=widths[:levels], conditioning_channels=1
    )
    _initialise_trimap_embedding(controlnet)
    return controlnet


@torch.no_grad()
def _initialise_trimap_embedding(controlnet: ControlNetModel) -> None:
    """Initialise the trimap embedding so that it is not zero.

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
