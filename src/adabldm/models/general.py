"""The architecture of the general base: eight latent channels, a wider UNet, and words for generic defects."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import nn

from adabldm.core.errors import InputError
from adabldm.models import tiny

LATENT_CHANNELS = 8
WORDS = """
abrasion asphalt bamboo bark brick bricks carpet chipboard clay concrete contaminated contamination cork corroded
corrugated dented fibre flake flaking foil grass gravel ground leaves marble moss onyx particle paving peeling planks
plaster porcelain road roof rock rocks rubber snow stone surface terracotta terrazzo tiles travertine wallpaper wear
worn wooden
""".split()  # noqa: SIM905 - a list of 50 lines would hide the words


def autoencoder(channels: int = 48, latent_channels: int = LATENT_CHANNELS) -> AutoencoderTiny:
    """Factor 4: B3HW in [-1, 1] to B8(H/4)(W/4); 1.1 M parameters."""
    return AutoencoderTiny(
        encoder_block_out_channels=(channels,) * 3,
        decoder_block_out_channels=(channels,) * 3,
        num_encoder_blocks=(0, 2, 5),
        num_decoder_blocks=(5, 2, 1),
        latent_channels=latent_channels,
        force_upcast=False,
    )


@torch.no_grad()
def grow_autoencoder(small: AutoencoderTiny, large: AutoencoderTiny) -> None:
    """Start a larger autoencoder from a smaller one of as many levels, so that it computes the same.

    New channels keep their random weights but are not read by what was there before; new latent channels are not
    decoded at first; additional blocks start as the identity (Chen, Goodfellow and Shlens, "Net2Net", 2016).

    Args:
        small: A trained autoencoder.
        large: Changed in place: as wide or wider, with as many or more blocks a level.

    Raises:
        InputError: the levels differ, or `large` is smaller somewhere.
    """
    for old, new in ((small.encoder, large.encoder), (small.decoder, large.decoder)):
        before, after = _levels(old.layers), _levels(new.layers)
        if [len(part) for part in before] > [len(part) for part in after] or len(before) != len(after):
            raise InputError("the autoencoder to start from has other levels or more blocks; use a smaller one.")
        for source, target in zip(before, after, strict=True):
            for layer, wider in zip(source, target, strict=False):
                _widen(layer, wider)
            for extra in target[len(source) :]:
                extra.conv[-1].weight.zero_()
                extra.conv[-1].bias.zero_()


def _levels(layers: Any) -> list[list[Any]]:
    """The layers with weights; consecutive blocks form one list, every other layer a list of its own."""
    found: list[list[Any]] = []
    blocks = False
    for layer in layers:
        if not any(True for _ in layer.parameters()):
            continue
        block = hasattr(layer, "fuse")
        if block and blocks:
            found[-1].append(layer)
        else:
            found.append([layer])
        blocks = block
    return found


def _widen(layer: nn.Module, wider: nn.Module) -> None:
    """Copy weights into the first channels of a wider layer; those channels do not read the new ones."""
    values = dict(layer.named_parameters())
    for key, target in wider.named_parameters():
        source = values[key]
        if any(have > room for have, room in zip(source.shape, target.shape, strict=True)):
            raise InputError(f"the autoencoder to start from is wider ({tuple(source.shape)} at {key}); use a smaller.")
        if source.ndim == 1:
            target[: len(source)] = source
        else:
            target[: source.shape[0]] = 0.0
            target[: source.shape[0], : source.shape[1]] = source


def unet(channels: tuple[int, ...] = (64, 96, 160)) -> UNet2DConditionModel:
    """A UNet of one block a level for the eight latent channels; 7.6 M parameters, its control branch 3.5 M.

    In 16 bits the base with two control branches takes 31 MB, within the package's limit of 40 MB.
    """
    return tiny.unet(channels, LATENT_CHANNELS, pooled_text=True)


def new_components(seed: int = 0) -> dict[str, Any]:
    """All components with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        words = tiny.tokenizer(sorted({*tiny.VOCABULARY, *WORDS}))
        return {
            "vae": autoencoder(),
            "text_encoder": tiny.text_encoder(words),
            "tokenizer": words,
            "unet": unet(),
            "scheduler": tiny.scheduler(),
        }
