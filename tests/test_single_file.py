"""Stable Diffusion as people have it: single files, inpainting bases, LoRA files, variants and shards, built small."""

from __future__ import annotations

import gzip
import json
import math
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from huggingface_hub.utils import filter_repo_objects
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from adabldm.core.errors import InputError
from adabldm.core.settings import SettingsError
from adabldm.models.components import Components
from adabldm.models.single_file import clip_tokenizer
from adabldm.models.store import digest, load_base, save_components

WIDTH = 64
PARTS = ("model.diffusion_model", "first_stage_model", "cond_stage_model")


def components(*, second: bool = False, channels: int = 4) -> Components:
    """Real classes with the proportions of Stable Diffusion, at two levels of 32 and 64 channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=64,
            in_channels=channels,
            layers_per_block=1,
            block_out_channels=(64, 128),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=(1, 2) if second else 8,
            use_linear_projection=second,
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            sample_size=512,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=WIDTH,
                intermediate_size=WIDTH * 4,
                num_hidden_layers=2,
                num_attention_heads=1,
                hidden_act="gelu" if second else "quick_gelu",
                projection_dim=WIDTH,
                bos_token_id=49406,
                eos_token_id=49407,
            )
        )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False
    )
    return Components(vae.eval(), text.eval(), clip_tokenizer("!" if second else None), unet.eval(), scheduler)


RESNET = (
    ("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"), ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection"),
)  # fmt: skip


def original_unet(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """The weights under the names of the original code, written down from that code's structure."""
    layers, found = int(unet.config["layers_per_block"]), {}
    whole = (
        ("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"),
        ("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"),
    )  # fmt: skip

    def place(match: re.Match[str]) -> str:
        way, level, kind, number = match[1], int(match[2]), match[3], int(match[4])
        first, each = (1, layers + 1) if way == "down" else (0, layers + 1)
        block = first + each * level + number
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (level + 1)}.0.op"
        if kind == "upsamplers":
            attends = f"up_blocks.{level}.attentions.0.norm.weight" in unet.state_dict()
            return f"output_blocks.{each * level + layers}.{2 if attends else 1}.conv"
        side = "input_blocks" if way == "down" else "output_blocks"
        return f"{side}.{block}.{0 if kind == 'resnets' else 1}"

    for key, value in unet.state_dict().items():
        name = key
        for ours, theirs in whole:
            name = re.sub(rf"^{re.escape(ours)}\.", f"{theirs}.", name)
        name = re.sub(r"^(down|up)_blocks\.(\d+)\.(downsamplers|upsamplers)\.(\d+)\.conv", place, name)
        name = re.sub(r"^(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)", place, name)
        name = re.sub(r"^mid_block\.resnets\.(\d)", lambda match: f"middle_block.{2 * int(match[1])}", name)
        name = name.replace("mid_block.attentions.0", "middle_block.1")
        if ".resnets." in key:
            for ours, theirs in RESNET:
                name = name.replace(f".{ours}.", f".{theirs}.")
        found[f"model.diffusion_model.{name}"] = value.contiguous()
    return found


def original_vae(vae: AutoencoderKL) -> dict[str, Tensor]:
    """The same of an autoencoder; its attention is made of convolutions of one pixel there."""
    levels, found = len(vae.config["block_out_channels"]), {}
    for key, value in vae.state_dict().items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", key)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(
            r"up_blocks\.(\d+)\.(resnets\.|upsamplers\.0)",
            lambda m: f"up.{levels - 1 - int(m[1])}.{'block.' if m[2] == 'resnets.' else 'upsample'}",
            name,
        )
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
        name = name.replace("conv_shortcut", "nin_shortcut")
        if ".attn_1." in name:
            for ours, theirs in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v")):
                name = name.replace(f".{ours}.", f".{theirs}.")
            name = name.replace(".to_out.0.", ".proj_out.")
            value = value[:, :, None, None] if value.ndim == 2 else value
        found[f"first_stage_model.{name}"] = value.contiguous()
    return found


def original_text(text: CLIPTextModel, *, second: bool) -> dict[str, Tensor]:
    """The same of a text encoder: CLIP, or OpenCLIP with a last layer that is not used."""
    weights = {key.removeprefix("text_model."): value for key, value in text.state_dict().items()}
    if not second:
        return {f"cond_stage_model.transformer.text_model.{key}": value for key, value in weights.items()}
    found: dict[str, Tensor] = {
        "token_embedding.weight": weights["embeddings.token_embedding.weight"],
        "positional_embedding": weights["embeddings.position_embedding.weight"],
        "ln_final.weight": weights["final_layer_norm.weight"],
        "ln_final.bias": weights["final_layer_norm.bias"],
        "text_projection": torch.eye(WIDTH),
    }
    names = (
        ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
        ("attn.out_proj", "self_attn.out_proj"),
    )  # fmt: skip
    for layer in range(3):
        ours, theirs = f"encoder.layers.{min(layer, 1)}.", f"transformer.resblocks.{layer}."
        for one in ("weight", "bias"):
            found |= {f"{theirs}{name}.{one}": weights[f"{ours}{own}.{one}"].clone() for name, own in names}
            parts = [weights[f"{ours}self_attn.{letter}_proj.{one}"] for letter in "qkv"]
            found[f"{theirs}attn.in_proj_{one}"] = torch.cat(parts)
    return {f"cond_stage_model.model.{key}": value for key, value in found.items()}


def write_single(path: Path, own: Components, *, second: bool = False) -> Path:
    vae: Any = own.vae
    text = original_text(own.text_encoder, second=second)
    save_file({**original_unet(own.unet), **original_vae(vae), **text}, path)
    return path


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_single(tmp_path_factory.mktemp("single") / "sd.safetensors", components())


@pytest.mark.parametrize("second", [False, True], ids=["1.x", "2.x"])
def test_a_single_file_is_the_base_that_it_was_written_from(*, second: bool, tmp_path: Path) -> None:
    own = components(second=second)
    path = write_single(tmp_path / "sd.safetensors", own, second=second)
    if second:
        with pytest.raises(InputError, match="give --prediction epsilon"):
            load_base(str(path))
    loaded = load_base(str(path), prediction="epsilon" if second else None)
    assert digest(loaded) == digest(own)
    for name in ("block_out_channels", "attention_head_dim", "cross_attention_dim", "use_linear_projection"):
        assert list_of(loaded.unet.config[name]) == list_of(own.unet.config[name])
    assert torch.equal(loaded.scheduler.alphas_cumprod, own.scheduler.alphas_cumprod)
    with torch.no_grad():
        prompt = clip_tokenizer()("a cracked tile", return_tensors="pt").input_ids
        assert torch.equal(loaded.text_encoder(prompt)[0], own.text_encoder(prompt)[0])


def list_of(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_the_vocabulary_is_clips() -> None:
    words = clip_tokenizer()
    assert len(words) == 49408
    assert words("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]  # as CLIP's readme has it
    assert clip_tokenizer("!").pad_token_id == 0


def test_an_inpainting_base_draws_as_if_everything_were_masked(tmp_path: Path) -> None:
    own = components(channels=9)
    loaded = load_base(str(write_single(tmp_path / "sd.safetensors", own)))
    assert loaded.unet.config["in_channels"] == loaded.unet.conv_in.in_channels == 4
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        vae: Any = own.vae
        encoded = vae.encode(torch.zeros(1, 3, 16, 16)).latent_dist.mode() * vae.config["scaling_factor"]
        grey = encoded.mean((2, 3), keepdim=True).expand(1, 4, 16, 16)
        beside = torch.cat([noise, torch.ones(1, 1, 16, 16), grey], 1)
        wanted = own.unet.conv_in(beside)[..., 1:-1, 1:-1]
        found = loaded.unet.conv_in(noise)[..., 1:-1, 1:-1]
    assert torch.allclose(found, wanted, atol=1e-5)


def test_loras_are_merged_with_their_weight(tmp_path: Path) -> None:
    own = components()
    save_components(own, tmp_path / "base")
    unet = components().unet
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"], init_lora_weights=False))
    state = get_peft_model_state_dict(unet)
    StableDiffusionPipeline.save_lora_weights(str(tmp_path), unet_lora_layers=state, weight_name="style.safetensors")
    loaded = load_base(str(tmp_path / "base"), [f"{tmp_path / 'style.safetensors'}=0.5"])
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    update = state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
    change = loaded.unet.state_dict()[f"{name}.weight"] - own.unet.state_dict()[f"{name}.weight"]
    assert torch.allclose(change, 0.5 * update, atol=1e-5)
    assert loaded.unet.state_dict().keys() == own.unet.state_dict().keys()
    for text, words in (
        ("gone.safetensors", "check the path"),
        (f"{tmp_path / 'style.safetensors'}=much", "FILE=WEIGHT"),
        (str(tmp_path / "base" / "vae" / "diffusion_pytorch_model.safetensors"), "no LoRA for this base"),
    ):
        with pytest.raises(InputError, match=words):
            load_base(str(tmp_path / "base"), [text])


def test_a_lora_that_finds_only_some_of_its_layers_is_refused(tmp_path: Path) -> None:
    save_components(components(), tmp_path / "base")
    layer, rank = "attentions_0_transformer_blocks_0_attn1_to_q", 2
    width = int(components().unet.config["block_out_channels"][-1])
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"lora_unet_{block}_{layer}.{part}.weight": torch.randn(*size, generator=generator) / 10
        for block in ("mid_block", "down_blocks_2")
        for part, size in (("lora_down", (rank, width)), ("lora_up", (width, rank)))
    }
    save_file(weights, tmp_path / "style.safetensors")
    with pytest.raises(InputError, match="1 of its 2 updates of the UNet belong to no layer of it"):
        load_base(str(tmp_path / "base"), [str(tmp_path / "style.safetensors")])
    save_file({key: one for key, one in weights.items() if "mid" in key}, tmp_path / "style.safetensors")
    assert digest(load_base(str(tmp_path / "base"), [str(tmp_path / "style.safetensors")])) != digest(components())


@pytest.mark.parametrize("variant", ["fp16", "bf16", "ema"])
def test_a_folder_of_one_variant_is_read(variant: str, tmp_path: Path) -> None:
    own = components()
    save_components(own, tmp_path)
    whole = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    whole.rename(whole.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
    assert digest(load_base(str(tmp_path))) == digest(own)


def test_a_text_encoder_is_not_rounded_to_what_its_config_says(tmp_path: Path) -> None:
    own = components()
    save_components(own, tmp_path)
    config = tmp_path / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float16", "torch_dtype": "float16"}))
    assert digest(load_base(str(tmp_path))) == digest(own)


def write_scheduler(folder: Path, scheduler: Any) -> None:
    shutil.rmtree(folder / "scheduler")
    scheduler.save_pretrained(folder / "scheduler")


def test_noise_levels_of_other_solvers_are_read_and_those_of_other_models_refused(tmp_path: Path) -> None:
    own = components()
    save_components(own, tmp_path)
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    for solver in (DPMSolverMultistepScheduler, DEISMultistepScheduler, EulerDiscreteScheduler):
        write_scheduler(tmp_path, solver(**betas))
        config = tmp_path / "scheduler" / "scheduler_config.json"
        values = json.loads(config.read_text())
        config.write_text(json.dumps({**values, "lambda_min_clipped": -math.inf}))  # as diffusers writes it
        assert torch.equal(load_base(str(tmp_path)).scheduler.alphas_cumprod, own.scheduler.alphas_cumprod)
    write_scheduler(tmp_path, FlowMatchEulerDiscreteScheduler())
    with pytest.raises(InputError, match="has no beta_schedule"):
        load_base(str(tmp_path))
    for prediction, words in (("v_prediction", None), ("epsilon", "its last noise level is pure noise")):
        write_scheduler(tmp_path, DDIMScheduler(**betas, prediction_type=prediction, rescale_betas_zero_snr=True))
        with nullcontext() if words is None else pytest.raises(InputError, match=words):
            load_base(str(tmp_path))


@pytest.mark.parametrize("key", ["class_embed_type", "time_cond_proj_dim"])
def test_a_unet_that_reads_more_than_a_prompt_is_refused(key: str, tmp_path: Path) -> None:
    own = components()
    more: dict[str, Any] = {"class_embed_type": "timestep", "time_cond_proj_dim": 8}
    config = {name: one for name, one in own.unet.config.items() if not name.startswith("_")}
    own.unet = UNet2DConditionModel(**{**config, key: more[key]})
    save_components(own, tmp_path)
    with pytest.raises(InputError, match=rf"the UNet reads more than a prompt \({key}\)"):
        load_base(str(tmp_path))


def test_a_base_from_the_hub_with_half_weights_alone_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub stands in a folder here; its own library says which files the patterns ask for."""
    own, hub = components(), tmp_path / "hub"
    save_components(own, hub)
    for path in [*hub.glob("*/*.safetensors")]:
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))

    def fetch(name: str, *, revision: str | None, **patterns: list[str]) -> str:
        del name, revision
        names = [path.relative_to(hub).as_posix() for path in hub.rglob("*") if path.is_file()]
        for one in filter_repo_objects(names, **patterns):
            (tmp_path / "cache" / one).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(hub / one, tmp_path / "cache" / one)
        return str(tmp_path / "cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert digest(load_base("adabldm-tests/halves")) == digest(own)


def test_variants_and_shards_are_read(tmp_path: Path) -> None:
    own = components()
    save_components(own, tmp_path)
    own.unet.save_pretrained(tmp_path / "unet", max_shard_size="2MB")
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink(missing_ok=True)
    assert len(list((tmp_path / "unet").glob("*-of-*.safetensors"))) > 1
    assert digest(load_base(str(tmp_path))) == digest(own)
    for part in ("vae", "text_encoder"):
        for path in (tmp_path / part).glob("*.safetensors"):
            path.unlink()
        getattr(own, part).half().save_pretrained(tmp_path / part, variant="fp16")
        getattr(own, part).float()
    assert digest(load_base(str(tmp_path))) == digest(own)


@given(st.data())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_single_file_that_lacks_any_weight_is_refused(single: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Else it would be random, without any error."""
    weights = load_file(single)
    needed = sorted(key for key in weights if not key.endswith("position_ids"))
    gone = data.draw(st.sampled_from(needed))
    save_file({key: one for key, one in weights.items() if key != gone}, tmp_path / "part.safetensors")
    with pytest.raises(InputError, match="not a whole checkpoint|holds no weights named"):
        load_base(str(tmp_path / "part.safetensors"))


def test_a_single_file_of_another_kind_of_model_is_refused(single: Path, tmp_path: Path) -> None:
    label = {"model.diffusion_model.label_emb.0.0.weight": torch.zeros(4, 4)}
    save_file({**load_file(single), **label}, tmp_path / "more.safetensors")
    with pytest.raises(InputError, match="1 weights of its UNet are of another kind of model"):
        load_base(str(tmp_path / "more.safetensors"))


def test_a_single_file_says_what_it_predicts_and_that_its_last_level_is_noise(single: Path, tmp_path: Path) -> None:
    markers = {name: torch.zeros(0) for name in ("v_pred", "ztsnr")}
    save_file({**load_file(single), **markers}, tmp_path / "marked.safetensors")
    loaded = load_base(str(tmp_path / "marked.safetensors"))
    assert loaded.scheduler.config["prediction_type"] == "v_prediction"
    assert float(loaded.scheduler.alphas_cumprod[-1]) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "damaged"),
        (lambda path: save_file({"conditioner.embedders.0.x": torch.zeros(1)}, path), "Stable Diffusion XL"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), "holds no weights named model.diffusion_model."),
        (
            lambda path: save_file(
                {
                    f"{name}.x": torch.zeros(1)
                    for name in ("model.diffusion_model", "first_stage_model", "cond_stage_model")
                },
                path,
            ),
            "not a whole checkpoint",
        ),
    ],
)
def test_other_files_are_refused(change: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    path = tmp_path / "sd.safetensors"
    path.write_bytes(gzip.compress(b"x" * 2000))
    change(path)
    with pytest.raises(InputError, match=words) as caught:
        load_base(str(path))
    assert str(path) in str(caught.value)


def test_a_folder_of_stable_diffusion_xl_is_refused(tmp_path: Path) -> None:
    own = components()
    save_components(own, tmp_path)
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"addition_embed_type": "text_time"}))
    with pytest.raises(InputError, match="of Stable Diffusion XL, which has two text encoders; give one of"):
        load_base(str(tmp_path))


def test_pickles_and_needless_predictions_are_refused(single: Path, tmp_path: Path) -> None:
    pickle = tmp_path / "sd.ckpt"
    pickle.write_bytes(b"x")
    with pytest.raises(InputError, match="may hold code"):
        load_base(str(pickle))
    with pytest.raises(SettingsError, match="prediction"):
        load_base("tiny", prediction="epsilon")
