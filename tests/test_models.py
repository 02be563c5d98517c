from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from components import (
    DEFECTS,
    RESOLUTION,
    assert_same_weights,
    ellipse,
    make_components,
    make_vae,
    text_encoder,
    tiny_unet,
    weights,
)
from conftest import FIT, run_command
from diffusers import AutoencoderKL, PNDMScheduler
from fabricate import texture
from safetensors.torch import load_file, save_file

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, Pixels
from adabldm.core.records import RunCard
from adabldm.core.windows import window_around
from adabldm.editing.samplers import make_schedule
from adabldm.models import store
from adabldm.models.components import Components, new_controlnet
from adabldm.models.conditioning import encode_prompts
from adabldm.models.denoiser import Denoiser
from adabldm.models.store import (
    digest,
    load_base,
    load_run,
    pinned,
    read_card,
    save_components,
    write_card,
    write_model_index,
)
from adabldm.pipeline import AdaBLDMPipeline


def write_base(folder: Path, **options: Any) -> Components:
    components = make_components(control=False, **options)
    save_components(components, folder)
    return components


def write_run(
    folder: Path, base: str = "tiny", only: tuple[str, ...] = store.COMPONENT_NAMES, **options: Any
) -> Components:
    components = make_components(**options)
    save_components(components, folder, only=only)
    write_model_index(components, folder)
    write_card(folder, card_of(base))
    return components


def card_of(base: str = "tiny") -> RunCard:
    return RunCard(
        object_name="metal tile",
        defects=DEFECTS,
        base=base,
        resolution=RESOLUTION,
        foreground="texture",
        preset="quick",
        settings={"shots": 3},
    )


def scene(size: tuple[int, int] = (80, 96), seed: int = 0) -> tuple[Pixels, Mask]:
    return texture(size, np.random.default_rng(seed)), ellipse(size, (size[0] * 0.4, size[1] * 0.6), (6, 9))


# Base models


@pytest.mark.parametrize(
    ("vae", "prediction", "channels"),
    [("tiny", "epsilon", 4), ("kl", "v_prediction", 8), ("tiny", "v_prediction", 8), ("kl", "epsilon", 4)],
)
def test_a_base_from_a_folder_goes_all_the_way(tmp_path: Path, vae: str, prediction: str, channels: int) -> None:
    """Standard diffusers classes written to disk, read as --base, given a control branch, and called."""
    written = write_base(tmp_path, vae=vae, prediction=prediction, latent_channels=channels)
    assert not list(tmp_path.rglob("*.bin"))
    base = load_base(str(tmp_path))
    assert digest(base) == digest(written)
    assert type(base.vae) is type(written.vae)
    assert base.controlnet is None
    assert not any(module.training for module in base.modules().values())
    assert make_schedule(base.scheduler).prediction_type == prediction
    base.controlnet = new_controlnet(base)
    pipeline = AdaBLDMPipeline(
        base.vae, base.text_encoder, base.tokenizer, base.unet, base.scheduler, base.controlnet, "tile", DEFECTS, 32
    )
    pixels, mask = scene()
    before = digest(pipeline.networks)
    result = pipeline(pixels, mask=mask, defect="blob", output_type="np")
    (image,) = result.images
    assert (image.shape, image.dtype) == (pixels.shape, np.uint8)
    assert np.abs(image[mask].astype(int) - pixels[mask]).mean() > 1
    outside = np.ones_like(mask)
    outside[window_around(mask).slices(mask.shape)[0]] = False
    np.testing.assert_array_equal(image[outside], pixels[outside])
    assert digest(pipeline.networks) == before


def test_the_scheduler_of_stable_diffusion_1_is_read(tmp_path: Path) -> None:
    write_base(tmp_path, prediction="epsilon")
    shutil.rmtree(tmp_path / "scheduler")
    original = PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
    )
    original.save_pretrained(tmp_path / "scheduler")
    schedule = make_schedule(load_base(str(tmp_path)).scheduler)
    assert schedule.prediction_type == "epsilon"
    torch.testing.assert_close(schedule.alphas_cumprod, original.alphas_cumprod)


def test_half_precision_weights_are_read_as_single_and_saving_them_changes_nothing(tmp_path: Path) -> None:
    components = make_components(control=False)
    before = digest(components)
    save_components(components, tmp_path, half=True)
    assert digest(components) == before
    stored = load_file(next((tmp_path / "unet").glob("*.safetensors")))
    assert {value.dtype for value in stored.values()} == {torch.float16}
    loaded = load_base(str(tmp_path))
    assert {p.dtype for module in loaded.modules().values() for p in module.parameters()} == {torch.float32}
    for key, value in loaded.unet.state_dict().items():
        assert torch.equal(value, stored[key].float())


def test_old_names_of_attention_weights_are_understood(tmp_path: Path) -> None:
    """As in the autoencoders of Stable Diffusion 1.x and 2.x on the hub."""
    written = write_base(tmp_path, vae="kl")
    file = next((tmp_path / "vae").glob("*.safetensors"))
    old = load_file(file)
    for new, name in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        old = {key.replace(new, name): value for key, value in old.items()}
    assert old.keys() != written.vae.state_dict().keys()
    save_file(old, file, metadata={"format": "pt"})
    assert digest(load_base(str(tmp_path))) == digest(written)


def test_missing_components_are_named_with_the_folder(tmp_path: Path) -> None:
    write_base(tmp_path)
    shutil.rmtree(tmp_path / "unet")
    shutil.rmtree(tmp_path / "tokenizer")
    with pytest.raises(InputError) as caught:
        load_base(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "lacks tokenizer, unet" in str(caught.value)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "unet"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "incomplete", "pickle", "config"])
def test_damaged_components_are_named_with_the_folder(tmp_path: Path, part: str, damage: str) -> None:
    write_base(tmp_path)
    file = next((tmp_path / part).glob("*.safetensors"))
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "text":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif damage == "incomplete":
        kept = load_file(file)
        kept.pop(sorted(kept)[-1])
        save_file(kept, file, metadata={"format": "pt"})
    elif damage == "pickle":
        name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
        torch.save(load_file(file), file.with_name(name))
        file.unlink()
    else:
        (tmp_path / part / "config.json").write_text('{"truncated": ')
    with pytest.raises(InputError) as caught:
        load_base(str(tmp_path))
    assert f"{tmp_path / part}: not a loadable {part}" in str(caught.value)


@pytest.mark.parametrize("part", ["tokenizer", "scheduler"])
def test_empty_folders_are_refused(tmp_path: Path, part: str) -> None:
    write_base(tmp_path)
    for path in (tmp_path / part).iterdir():
        path.unlink()
    with pytest.raises(InputError, match=f"not a loadable {part}"):
        load_base(str(tmp_path))


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ("unet", "the UNet reads 8 channels but the VAE makes 4"),
        ("vae", "the UNet reads 4 channels but the VAE makes 8"),
        ("text_encoder", "the UNet reads text of width 16 but the encoder makes 24"),
        ("text_encoder", "tokens but the encoder reads 300"),
    ],
)
def test_components_that_do_not_fit_are_refused(tmp_path: Path, part: str, problem: str) -> None:
    components = write_base(tmp_path)
    shutil.rmtree(tmp_path / part)
    others: dict[str, Any] = {
        "unet": lambda: tiny_unet(8),
        "vae": lambda: make_vae("kl", 8),
        "text_encoder": lambda: text_encoder(components.tokenizer, 24),
    }
    if "300" in problem:
        components.text_encoder.config.vocab_size = 300
        others["text_encoder"] = lambda: type(components.text_encoder)(components.text_encoder.config)
    others[part]().save_pretrained(tmp_path / part)
    with pytest.raises(InputError) as caught:
        load_base(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert problem in str(caught.value)


def test_a_hub_model_that_cannot_be_fetched_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="adabldm-tests/no-such-model: neither a folder here nor a model"):
        load_base("adabldm-tests/no-such-model")


def in_hub_cache(cache: Path, name: str, base: Path, commit: str) -> None:
    """A base as the hub's own library keeps what it has fetched: links to blobs, below the commit of a revision."""
    root = cache / f"models--{name.replace('/', '--')}"
    for path in filter(Path.is_file, base.rglob("*")):
        blob = root / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        link = root / "snapshots" / commit / path.relative_to(base)
        for folder in (blob.parent, link.parent):
            folder.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(path.read_bytes())
        link.symlink_to(os.path.relpath(blob, link.parent))
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(commit)


def test_the_revision_of_a_base_from_the_hub_is_pinned(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the library of the hub, which is offline and has two revisions of the base in its cache."""
    first, second = "1" * 40, "2" * 40
    other = write_base(tmp_path / "other")
    for commit, folder in ((first, tmp_path / "other"), (second, base)):
        in_hub_cache(tmp_path / "hub", "adabldm-tests/base", folder, commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    named = "hf://adabldm-tests/base"
    assert digest(load_base(named)) == digest(load_base(str(base))) == digest(load_base("adabldm-tests/base"))
    assert digest(load_base(f"{named}@{first}")) == digest(other)
    assert pinned(f"{named}@main") == pinned(named) == f"{named}@{second}"
    with pytest.raises(InputError, match="@v2: neither a folder here nor a model that could be fetched") as caught:
        load_base(f"{named}@v2")
    assert "`hf download adabldm-tests/base --revision v2 --local-dir DIR`" in str(caught.value)
    assert run_command("fit", data, "--out", tmp_path / "run", "--base", named, *FIT) == 0
    assert read_card(tmp_path / "run").base == f"{named}@{second}"


@pytest.mark.parametrize("base", ["nowhere", "./nowhere", "/no/such/folder", "a/b/c", "..."])
def test_folders_that_do_not_exist_are_refused(base: str) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_base(base)


def test_a_dot_is_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_base(tmp_path / "base")
    monkeypatch.chdir(tmp_path / "base")
    assert digest(load_base(".")) == digest(written)
    (tmp_path / "base" / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "base" / "inner")
    assert digest(load_base("..")) == digest(written)


def test_an_autoencoder_that_shrinks_too_much_gets_no_control_branch() -> None:
    components = make_components(control=False)
    components.vae = AutoencoderKL(
        block_out_channels=(4,) * 5,
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
        norm_num_groups=2,
    )
    with pytest.raises(InputError, match="shrinks by 16, expected at most 8"):
        new_controlnet(components)


@torch.no_grad()
def test_a_new_control_branch_copies_the_encoder_and_is_silent() -> None:
    components = make_components(awake=False)
    control: Any = components.controlnet
    assert_same_weights(weights(components.unet.down_blocks), weights(control.down_blocks))
    latents, trimap = torch.randn(1, 4, 16, 16), torch.rand(1, 1, 32, 32)
    features = Denoiser(components).control(latents, 5, encode_prompts(components, [""]), trimap)
    assert not any(part.any() for part in [*features.down, features.mid])


# Runs


def test_a_run_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    written = write_run(tmp_path)
    loaded, card = load_run(tmp_path)
    assert digest(loaded) == digest(written)
    assert card.model_copy(update={"files": None}) == card_of()
    stored = {path for path in tmp_path.rglob("*") if path.is_file()} - {
        tmp_path / "model_index.json",
        tmp_path / store.CARD,
    }
    assert set(card.files or {}) == {path.relative_to(tmp_path).as_posix() for path in stored}
    assert json.loads((tmp_path / store.CARD).read_text())["schema"] == 1
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "AdaBLDMPipeline"
    assert index["vae"] == ["diffusers", "AutoencoderTiny"]
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]


def test_a_run_reads_no_base_that_its_card_alone_names(tmp_path: Path) -> None:
    """Those that ship hold the control branch alone; a stranger's card must not lead to a folder or to the hub."""
    write_base(tmp_path / "base")
    for base in (str(tmp_path / "base"), "evil/hub-id", "../base", ""):
        write_run(tmp_path / "run", base, only=("controlnet",))
        with pytest.raises(InputError, match="only bases that ship with this package are read for a run"):
            load_run(tmp_path / "run")


def test_unfinished_and_damaged_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run"):
        load_run(tmp_path / "nowhere")
    write_run(tmp_path)
    shutil.move(tmp_path / "controlnet", tmp_path / "elsewhere")
    with pytest.raises(InputError, match="has no controlnet folder; copy the whole run again"):
        load_run(tmp_path)
    shutil.move(tmp_path / "elsewhere", tmp_path / "controlnet")
    for text in ("{", "[]", "{}", '{"object_name": "x", "defects": null}', '{"colour": 1, "defects": []}'):
        (tmp_path / store.CARD).write_text(text)
        with pytest.raises(InputError, match="damaged or of another version.*fit the run again"):
            load_run(tmp_path)
    (tmp_path / store.CARD).write_text(json.dumps({**card_of().plain(), "schema": 2}))
    with pytest.raises(InputError, match="schema 2 was found.*update adabldm"):
        load_run(tmp_path)
    (tmp_path / store.CARD).unlink()
    with pytest.raises(InputError, match="no finished run.*--resume"):
        load_run(tmp_path)


def test_a_card_without_a_version_is_read(tmp_path: Path) -> None:
    """As runs from before there were versions have it, the shipped ones too; unknown fields are kept."""
    write_run(tmp_path)
    values = card_of().plain()
    del values["schema"]
    (tmp_path / store.CARD).write_text(json.dumps({**values, "colour": 1}))
    card = load_run(tmp_path)[1]
    assert (card.object_name, card.defects, card.settings) == ("metal tile", DEFECTS, {"shots": 3})
    assert (card.version, card.plain()["colour"]) == (1, 1)


def test_a_control_branch_of_another_unet_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path)
    shutil.rmtree(tmp_path / "controlnet")
    other: Any = make_components(latent_channels=8).controlnet
    other.save_pretrained(tmp_path / "controlnet")
    write_card(tmp_path, card_of())
    with pytest.raises(InputError, match="control branch has in_channels 8 but the UNet 4"):
        load_run(tmp_path)


def test_the_digest_tells_weights_apart() -> None:
    first, second = make_components(), make_components()
    assert digest(first) == digest(second)
    assert len(digest(first)) == 12
    assert second.controlnet is not None
    with torch.no_grad():
        second.controlnet.conv_in.bias[0] += 1e-6
    assert digest(first) != digest(second)
    second.controlnet = None
    assert digest(first) != digest(second)
