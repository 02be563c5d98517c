"""Single checkpoint files of Stable Diffusion 1.x and 2.x become components, without a network.

Such a file holds the weights of UNet, autoencoder and text encoder under the names of the original code, and no config.
The sizes are read from the weights; what these do not tell is what all models of the kind have in common. Diffusers
renames the weights (`from_single_file`). The vocabulary, which is CLIP's, ships with this package.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from adabldm.core.errors import InputError
from adabldm.models.checks import check_weights
from adabldm.models.components import encode_images, vae_factor
from adabldm.models.quiet import quiet_libraries

if TYPE_CHECKING:
    from adabldm.models.libraries import CLIPTextModel, CLIPTokenizer, DDIMScheduler, UNet2DConditionModel

Prediction = Literal["epsilon", "v_prediction"]
Weights = Mapping[str, Tensor]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
"""Beginnings of the names of weights; the text encoder is CLIP in 1.x and OpenCLIP in 2.x."""
XL = "conditioner.embedders."
NO_XL = "of Stable Diffusion XL, which has two text encoders; give one of Stable Diffusion 1.x or 2.x."
"""What is said of such a base, as a file or as a folder."""
V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"
"""Names of weights that some files hold to say what they predict, and that their last noise level is pure noise."""
GROUPS = 32
"""Of all normalisations of these models."""
HEAD = 64
"""Channels of a head of the text encoders, and of the UNet of 2.x."""
TOKENS = 77


def load_single_file(path: Path, prediction: Prediction | None = None) -> dict[str, Any]:
    """The components of a base, without a control branch.

    Args:
        path: a safetensors file.
        prediction: what the UNet predicts; must be known for 2.x, whose files do not tell.

    Raises:
        InputError: the file is none of this kind, or damaged.
    """
    from diffusers.loaders import single_file_utils

    from adabldm.models import libraries

    weights = _read(path)
    second = any(key.startswith(OPEN_CLIP) for key in weights)
    if prediction is None:
        if second and V_PREDICTION not in weights:
            raise InputError(
                f"{path}: a file of Stable Diffusion 2.x, which does not say what it predicts; give --prediction "
                "epsilon (models for 512 px) or v_prediction (models for 768 px)."
            )
        prediction = "v_prediction" if V_PREDICTION in weights else "epsilon"
    try:
        with quiet_libraries():
            config = _unet_config(weights, second=second, prediction=prediction)
            unet = single_file_utils.convert_ldm_unet_checkpoint(dict(weights), config)
            if len(unet) < (held := sum(key.startswith(UNET) for key in weights)):
                raise ValueError(f"{held - len(unet)} weights of its UNet are of another kind of model")
            vae_config = _vae_config(weights)
            vae = single_file_utils.convert_ldm_vae_checkpoint(dict(weights), vae_config)
            return {
                "unet": _network(libraries.UNet2DConditionModel, config, unet),
                "vae": _network(libraries.AutoencoderKL, vae_config, vae),
                "text_encoder": _open_clip(weights) if second else _clip(weights),
                "tokenizer": clip_tokenizer(pad="!" if second else None),
                "scheduler": _scheduler(prediction, zero_snr=ZERO_SNR in weights),
            }
    except (KeyError, ValueError, RuntimeError, StopIteration, IndexError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path}: not a whole checkpoint of Stable Diffusion 1.x or 2.x ({reason}); get it again, or give a "
            "diffusers folder."
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        raise InputError(
            f"{path}: expected a .safetensors file, because others may hold code; convert it, or give a "
            "diffusers folder."
        )
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged, or no safetensors file ({error}); copy it again.") from error
    if any(key.startswith(XL) for key in weights):
        raise InputError(f"{path}: a file {NO_XL}")
    missing = [name for name in (UNET, VAE, "cond_stage_model.") if not any(key.startswith(name) for key in weights)]
    if missing:
        raise InputError(
            f"{path}: holds no weights named {missing[0]}…, expected a whole Stable Diffusion checkpoint; a LoRA "
            "belongs to --lora, and a diffusers file into its folder."
        )
    return weights


def _network(kind: Any, config: Mapping[str, Any], weights: Weights) -> Any:
    """A network of diffusers with converted weights; one that is missing or unknown is an error."""
    module = kind.from_config(dict(config))
    lacking, extra = module.load_state_dict(weights, strict=False)
    if lacking or extra:
        raise ValueError(f"{(lacking + extra)[0]} is missing or unknown")
    check_weights(module)
    return module.eval()


def _size(weights: Weights, key: str, axis: int) -> int:
    return int(weights[key].shape[axis])


def _unet_config(weights: Weights, *, second: bool, prediction: Prediction) -> dict[str, Any]:
    """The config of a UNet, from its weights."""
    width, at = _size(weights, f"{UNET}input_blocks.0.0.weight", 0), [False]
    channels, layers = [width], [0]
    for number in count(1):
        block = f"{UNET}input_blocks.{number}."
        if f"{block}0.op.weight" in weights:
            channels, layers, at = [*channels, 0], [*layers, 0], [*at, False]
        elif f"{block}0.out_layers.3.weight" in weights:
            channels[-1] = _size(weights, f"{block}0.out_layers.3.weight", 0)
            layers[-1] += 1
            at[-1] = f"{block}1.proj_in.weight" in weights
        else:
            break
    attention = next(key for key in weights if key.startswith(UNET) and key.endswith("attn2.to_k.weight"))
    projection = next(key for key in weights if key.startswith(UNET) and key.endswith("1.proj_in.weight"))
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 96 if second and prediction == "v_prediction" else 64,
        "in_channels": _size(weights, f"{UNET}input_blocks.0.0.weight", 1),
        "out_channels": _size(weights, f"{UNET}out.2.weight", 0),
        "block_out_channels": channels,
        "layers_per_block": layers[0],
        "down_block_types": ["CrossAttnDownBlock2D" if one else "DownBlock2D" for one in at],
        "up_block_types": ["CrossAttnUpBlock2D" if one else "UpBlock2D" for one in reversed(at)],
        "cross_attention_dim": _size(weights, attention, 1),
        "attention_head_dim": [one // HEAD for one in channels] if second else 8,
        "use_linear_projection": weights[projection].ndim == 2,
        "norm_num_groups": GROUPS,
    }


def _vae_config(weights: Weights) -> dict[str, Any]:
    """The config of an autoencoder, from its weights."""
    channels: list[int] = []
    while (key := f"{VAE}encoder.down.{len(channels)}.block.0.conv2.weight") in weights:
        channels.append(_size(weights, key, 0))
    layers = next(n for n in count() if f"{VAE}encoder.down.0.block.{n}.conv2.weight" not in weights)
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": _size(weights, f"{VAE}post_quant_conv.weight", 0),
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "norm_num_groups": GROUPS,
        "sample_size": 512,
        "scaling_factor": 0.18215,
    }


def _clip(weights: Weights) -> CLIPTextModel:
    """The text encoder of 1.x."""
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint

    found = {key.removeprefix("text_model."): value for key, value in convert_ldm_clip_checkpoint(weights).items()}
    layers = next(n for n in count() if f"encoder.layers.{n}.layer_norm1.weight" not in found)
    width = int(found["embeddings.token_embedding.weight"].shape[1])
    return _text_encoder(found, width, layers, "quick_gelu")


def _open_clip(weights: Weights) -> CLIPTextModel:
    """The text encoder of 2.x, whose prompts are read before its last layer."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    from adabldm.models.libraries import CLIPTextConfig

    blocks = f"{OPEN_CLIP}transformer.resblocks."
    layers = next(n for n in count() if f"{blocks}{n}.ln_1.weight" not in weights)
    own = {key: value for key, value in weights.items() if not key.startswith(f"{blocks}{layers - 1}.")}
    width = _size(weights, f"{OPEN_CLIP}token_embedding.weight", 1)
    shape = type("Shape", (), {"config": CLIPTextConfig(hidden_size=width)})
    own.pop(f"{OPEN_CLIP}text_projection", None)
    converted = convert_open_clip_checkpoint(shape, own, prefix=OPEN_CLIP)
    found = {key.removeprefix("text_model."): value for key, value in converted.items()}
    return _text_encoder(found, width, layers - 1, "gelu")


def _text_encoder(found: Weights, width: int, layers: int, activation: str) -> CLIPTextModel:
    from adabldm.models.libraries import CLIPTextConfig, CLIPTextModel

    vocabulary = int(found["embeddings.token_embedding.weight"].shape[0])
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=int(found["encoder.layers.0.mlp.fc1.weight"].shape[0]),
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // HEAD),
        max_position_embeddings=int(found["embeddings.position_embedding.weight"].shape[0]),
        hidden_act=activation,
        projection_dim=width,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )
    module = CLIPTextModel(config)
    wrapped = "text_model." if hasattr(module, "text_model") else ""
    lacking, extra = module.load_state_dict({f"{wrapped}{key}": one for key, one in found.items()}, strict=False)
    lacking = [key for key in lacking if not key.endswith("position_ids")]
    extra = [key for key in extra if not key.endswith("position_ids")]
    if lacking or extra:
        raise ValueError(f"{(lacking + extra)[0]} of the text encoder is missing or unknown")
    check_weights(module)
    module.float().eval()
    return module


def clip_tokenizer(pad: str | None = None) -> CLIPTokenizer:
    """CLIP's tokenizer of 49,408 tokens.

    Args:
        pad: token that fills prompts up, if it is not the last one.
    """
    from adabldm.models.libraries import CLIPTokenizer

    text = gzip.decompress((Path(str(files("adabldm.models"))) / "clip_merges.txt.gz").read_bytes()).decode("utf-8")
    merges = [tuple(line.split()) for line in text.splitlines()]
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [*map(chr, shown), *(chr(256 + place) for place in range(256 - len(shown)))]
    words = [*letters, *(f"{one}</w>" for one in letters), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    more = {} if pad is None else {"pad_token": pad}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS, **more)


def _scheduler(prediction: Prediction, *, zero_snr: bool) -> DDIMScheduler:
    """The noise levels of Stable Diffusion."""
    from adabldm.models.libraries import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction,
        rescale_betas_zero_snr=zero_snr,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.no_grad()
def without_inpainting(unet: UNet2DConditionModel, vae: nn.Module) -> UNet2DConditionModel:
    """The UNet of an inpainting base as one that draws whole pictures.

    It reads, beside the noisy latents, a mask and the latents of the masked picture: here everything is masked, so that
    both are constant, and what they add in the first convolution becomes a part of its bias. Pixels at the border
    differ a little, because the convolution pads with zeros.

    Args:
        unet: with more input than output channels.
        vae: that encodes its pictures.
    """
    config: Any = unet.config
    own, first = int(config["out_channels"]), unet.conv_in
    side = 8 * vae_factor(vae)
    grey = encode_images(vae, torch.zeros(1, 3, side, side)).mean((0, 2, 3))
    constant = torch.cat([torch.ones(1), grey])
    added = torch.einsum("oikl,i->o", first.weight[:, own:], constant)
    plain = nn.Conv2d(own, first.out_channels, first.kernel_size, padding=first.padding)
    plain.weight.copy_(first.weight[:, :own])
    assert plain.bias is not None
    plain.bias.copy_(first.bias + added)
    unet.conv_in = plain
    unet.register_to_config(in_channels=own)
    return unet.eval()
