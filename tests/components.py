"""The smallest real components: every test that uses them takes a second or two. Window 32 px, latents 16x16."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from adabldm.editing.editor import Editor
from adabldm.models.clean_latents import TRIMAP, new_control_branch
from adabldm.models.components import Components
from adabldm.models.tiny import tokenizer
from adabldm.pipeline import AdaBLDMPipeline

RESOLUTION = 32
WIDTH = 16
DEFECTS = ("blob", "scratch")


@cache
def shared_tokenizer() -> CLIPTokenizer:
    return tokenizer()


def tiny_vae(latent_channels: int = 4) -> AutoencoderTiny:
    """Factor 2."""
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=latent_channels,
        force_upcast=False,
    )


def kl_vae(latent_channels: int = 4) -> AutoencoderKL:
    """Factor 2, with a scaling and a shift."""
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=RESOLUTION,
        scaling_factor=0.7,
        shift_factor=0.1,
        force_upcast=False,
    )


def make_vae(kind: str, latent_channels: int = 4, seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae: Any = (tiny_vae if kind == "tiny" else kl_vae)(latent_channels)
    return vae.eval()


def tiny_unet(latent_channels: int = 4) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=RESOLUTION // 2,
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def text_encoder(words: CLIPTokenizer, width: int = WIDTH) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=words.model_max_length,
            projection_dim=width,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def make_scheduler(
    prediction: str = "v_prediction", *, zero_snr: bool = False, to_one: bool = True, **options: Any
) -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction,
        rescale_betas_zero_snr=zero_snr,
        clip_sample=False,
        set_alpha_to_one=to_one,
        **options,
    )


def awaken(module: nn.Module, seed: int = 1) -> None:
    """Replace the zeros that a new control branch starts with, so that its features count."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def make_components(
    *,
    vae: str = "tiny",
    prediction: str = "v_prediction",
    latent_channels: int = 4,
    control: bool = True,
    conditioning: str = TRIMAP,
    awake: bool = True,
    seed: int = 0,
) -> Components:
    """Components with random weights that depend on `seed` alone."""
    words = shared_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        components = Components(
            make_vae(vae, latent_channels, seed),
            text_encoder(words),
            words,
            tiny_unet(latent_channels),
            make_scheduler(prediction, zero_snr=prediction == "v_prediction"),
        )
        if control:
            components.controlnet = new_control_branch(components, conditioning)
            if awake:
                awaken(components.controlnet)
    components.freeze()
    return components


def make_editor(**options: Any) -> Editor:
    return Editor(make_components(**options), RESOLUTION)


def make_pipeline(**options: Any) -> AdaBLDMPipeline:
    networks: dict[str, Any] = vars(make_components(**options))
    return AdaBLDMPipeline(**networks, object_name="metal tile", defects=DEFECTS, resolution=RESOLUTION)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [key for key in first if not torch.equal(first[key], second[key])]
    assert different == []


def ellipse(size: tuple[int, int], centre: tuple[float, float], reach: tuple[float, float]) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.asarray(((rows - centre[0]) / reach[0]) ** 2 + ((columns - centre[1]) / reach[1]) ** 2 <= 1)
