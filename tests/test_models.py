from __future__ import annotations

import json
import shutil
from dataclasses import replace
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
    make_pipeline,
    make_vae,
    text_encoder,
    tiny_unet,
    weights,
)
from diffusers import AutoencoderKL, PNDMScheduler
from fabricate import grown, texture, write_data_set
from PIL import Image
from safetensors.torch import load_file, save_file

from adabldm.data.folder import open_data_set
from adabldm.editing.guidance import make_schedule
from adabldm.editing.presets import PRESETS, Finetuning
from adabldm.errors import InputError
from adabldm.images import Mask, Pixels
from adabldm.models import store
from adabldm.models.components import Components, encode_prompts, new_controlnet
from adabldm.models.store import RunCard, digest, load_base, load_run, save_components, write_card, write_model_index
from adabldm.pipeline import AdaBLDMPipeline, EditJob
from adabldm.prompts import defect_prompt
from adabldm.seeding import torch_generator
from adabldm.windows import crop, window_around
from adabldm.workflows.previews import control_preview
from adabldm.workflows.sources import Scene, SceneMaker

HALF_PRECISION = 0.5
"""Grey levels: mean distance of an edit in bfloat16 from one in single precision."""
BASE_PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


def write_base(folder: Path, **options: Any) -> Components:
    components = make_components(control=False, **options)
    save_components(components, folder)
    return components


def write_run(folder: Path, base: str = "tiny", only: tuple[str, ...] = store.PARTS, **options: Any) -> Components:
    components = make_components(**options)
    save_components(components, folder, only=only)
    write_model_index(components, folder)
    write_card(folder, RunCard("metal tile", DEFECTS, base, RESOLUTION, "texture", "quick", {"shots": 3}))
    return components


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
    assert make_schedule(base).prediction_type == prediction
    base.controlnet = new_controlnet(base)
    pipeline = AdaBLDMPipeline(
        base.vae, base.text_encoder, base.tokenizer, base.unet, base.scheduler, base.controlnet, "tile", DEFECTS, 32
    )
    pixels, mask = scene()
    before = digest(pipeline.parts)
    result = pipeline(pixels, mask=mask, defect="blob", output_type="np")
    (image,) = result.images
    assert (image.shape, image.dtype) == (pixels.shape, np.uint8)
    assert np.abs(image[mask].astype(int) - pixels[mask]).mean() > 1
    outside = np.ones_like(mask)
    outside[window_around(mask).slices(mask.shape)[0]] = False
    np.testing.assert_array_equal(image[outside], pixels[outside])
    assert digest(pipeline.parts) == before


def test_the_scheduler_of_stable_diffusion_1_is_read(tmp_path: Path) -> None:
    write_base(tmp_path, prediction="epsilon")
    shutil.rmtree(tmp_path / "scheduler")
    original = PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
    )
    original.save_pretrained(tmp_path / "scheduler")
    schedule = make_schedule(load_base(str(tmp_path)))
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


def test_missing_parts_are_named_with_the_folder(tmp_path: Path) -> None:
    write_base(tmp_path)
    shutil.rmtree(tmp_path / "unet")
    shutil.rmtree(tmp_path / "tokenizer")
    with pytest.raises(InputError) as caught:
        load_base(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "lacks tokenizer, unet" in str(caught.value)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "unet"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "incomplete", "pickle", "config"])
def test_damaged_parts_are_named_with_the_folder(tmp_path: Path, part: str, damage: str) -> None:
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
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, part: str, problem: str) -> None:
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
    latents, text = torch.randn(1, 4, 16, 16), encode_prompts(components, [""])
    trimap = torch.rand(1, 1, 32, 32)
    down, mid = control(latents, 5, encoder_hidden_states=text, controlnet_cond=trimap, return_dict=False)
    assert not any(part.any() for part in [*down, mid])


# Prompts


@torch.no_grad()
def test_prompts_become_embeddings_that_do_not_depend_on_their_neighbours() -> None:
    components = make_components(control=False)
    texts = ["tile, a tile with a crack", "", "żółty größe 欠陥 🙂"]
    together = encode_prompts(components, texts)
    assert together.shape == (3, components.tokenizer.model_max_length, 16)
    for index, text in enumerate(texts):
        torch.testing.assert_close(encode_prompts(components, [text])[0], together[index], rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_long_prompts_are_refused_with_their_length() -> None:
    components = make_components(control=False)
    with pytest.raises(InputError, match="has 502 tokens, but the text encoder reads at most 48; shorten it"):
        encode_prompts(components, ["tile", " ".join(["scratch"] * 500)])


# Runs


def test_a_run_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    written = write_run(tmp_path)
    loaded, card = load_run(tmp_path)
    assert digest(loaded) == digest(written)
    assert card == RunCard("metal tile", DEFECTS, "tiny", RESOLUTION, "texture", "quick", {"shots": 3})
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "AdaBLDMPipeline"
    assert index["vae"] == ["diffusers", "AutoencoderTiny"]
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]


def test_parts_that_a_run_lacks_come_from_its_base(tmp_path: Path) -> None:
    write_base(tmp_path / "base", seed=0)
    written = write_run(tmp_path / "run", str(tmp_path / "base"), only=("controlnet",), seed=0)
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir()) == ["controlnet"]
    assert digest(load_run(tmp_path / "run")[0]) == digest(written)
    shutil.rmtree(tmp_path / "base" / "vae")
    with pytest.raises(InputError, match="vae"):
        load_run(tmp_path / "run")


def test_unfinished_and_damaged_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run"):
        load_run(tmp_path / "nowhere")
    write_run(tmp_path)
    shutil.move(tmp_path / "controlnet", tmp_path / "elsewhere")
    with pytest.raises(InputError, match="has no controlnet folder"):
        load_run(tmp_path)
    shutil.move(tmp_path / "elsewhere", tmp_path / "controlnet")
    for text in ("{", "[]", "{}", '{"object_name": "x", "defects": null}', '{"colour": 1, "defects": []}'):
        (tmp_path / store.CARD).write_text(text)
        with pytest.raises(InputError, match="damaged or of another version"):
            load_run(tmp_path)
    (tmp_path / store.CARD).unlink()
    with pytest.raises(InputError, match="no finished run.*--resume"):
        load_run(tmp_path)


def test_a_control_branch_of_another_unet_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path)
    shutil.rmtree(tmp_path / "controlnet")
    other: Any = make_components(latent_channels=8).controlnet
    other.save_pretrained(tmp_path / "controlnet")
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


@pytest.mark.parametrize("vae", ["tiny", "kl"])
def test_a_pipeline_comes_back_as_it_was_saved(tmp_path: Path, vae: str) -> None:
    pipeline = make_pipeline(vae=vae)
    pipeline.save_pretrained(tmp_path / "run")
    assert not [path for path in (tmp_path / "run").rglob("*") if path.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]
    again = AdaBLDMPipeline.from_pretrained(tmp_path / "run")
    assert digest(again.parts) == digest(pipeline.parts)
    assert again.card == pipeline.card
    assert (again.config["object_name"], again.config["resolution"]) == ("metal tile", RESOLUTION)
    pixels, mask = scene()
    first, second = (
        one(pixels, mask=mask, defect="blob", output_type="np").images[0].astype(int) for one in (pipeline, again)
    )
    # The weights are equal to the bit; sums over them may round differently at another place in memory.
    assert np.abs(first - second).max() <= 1
    assert (first[mask] != pixels[mask]).any()


def test_a_pipeline_runs_in_half_precision(tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path)
    pipeline = AdaBLDMPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert pipeline.unet.dtype == torch.bfloat16
    pixels, mask = scene()
    for adapt in ("texture", "ridge", "none"):
        image = pipeline(pixels, mask=mask, defect="blob", adapt=adapt, output_type="np").images[0]
        assert (image[mask] != pixels[mask]).any()


@pytest.mark.parametrize("name", ["fast", "paper", "released"])
def test_half_precision_stays_close_to_single(name: str) -> None:
    """Mean absolute difference in grey levels inside the window; the networks' weights are random."""
    preset = replace(PRESETS[name], adapt="none" if PRESETS[name].adapt == "finetune" else PRESETS[name].adapt)
    pictures = [scene((80, 96)), scene((200, 90), 2)]
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        pipeline = make_pipeline().to(torch.device("cpu"), dtype)
        jobs = [
            EditJob(pixels, np.ones_like(mask), mask, "tile with a hole", torch_generator("edit", 0, index))
            for index, (pixels, mask) in enumerate(pictures)
        ]
        results.append(pipeline.edit(jobs, preset))
    for single, half in zip(*results, strict=True):
        first, second = (crop(one.pixels, single.window).astype(int) for one in (single, half))
        assert 0 < np.abs(first - second).mean() <= HALF_PRECISION


@torch.no_grad()
def rounded(pipeline: AdaBLDMPipeline, dtype: torch.dtype) -> AdaBLDMPipeline:
    """Weights and every layer's results rounded to `dtype`, sums in single precision: a GPU's half precision.

    A processor without such arithmetic takes minutes for the same numbers.
    """

    def rounding(module: Any, inputs: Any, output: Any) -> Any:
        del module, inputs
        return output.to(dtype).float() if isinstance(output, torch.Tensor) and output.is_floating_point() else output

    for network in pipeline.parts.modules().values():
        for parameter in network.parameters():
            parameter.copy_(parameter.to(dtype).float())
        for layer in network.modules():
            if not list(layer.children()):
                layer.register_forward_hook(rounding)
    return pipeline


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.5), (torch.float16, 0.1)])
@pytest.mark.parametrize("real", [True, False])
def test_the_shipped_model_hardly_differs_in_half_precision(dtype: torch.dtype, limit: float, real: bool) -> None:
    """Mean absolute difference in grey levels inside the mask, trained weights."""
    pixels, mask = scene((120, 140), 3)
    results = []
    for change in (lambda given: given, lambda given: rounded(given, dtype)):
        pipeline = change(AdaBLDMPipeline.from_pretrained("magnetic-tile"))
        job = replace(with_reference(pixels, mask, real=real), prompt=defect_prompt("magnetic tile", "blowhole"))
        results.append(pipeline.edit([job], PRESETS["fast"])[0].pixels.astype(int))
    first, second = results
    assert np.abs(first - pixels)[mask].mean() > 5
    assert 0 < np.abs(first - second)[mask].mean() <= limit


# The call


@pytest.fixture(scope="module")
def pipeline() -> AdaBLDMPipeline:
    return make_pipeline()


def test_the_same_seed_gives_the_same_bytes(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene()
    results = [pipeline(pixels, mask=mask, defect="blob", seed=seed) for seed in (3, 3, 4)]
    first, second, other = (result.images[0].tobytes() for result in results)
    assert first == second != other
    assert results[0].scores == results[1].scores
    for networks in pipeline.parts.modules().values():
        assert not any(parameter.requires_grad for parameter in networks.parameters())


@pytest.mark.parametrize("name", ["fast", "paper", "released"])
def test_another_batch_size_moves_a_pixel_by_one_grey_level_at_most(pipeline: AdaBLDMPipeline, name: str) -> None:
    """Different sizes, masks and prompts; the long presets are shortened to the steps where something happens."""
    preset = replace(PRESETS[name], finetuning=replace(PRESETS[name].finetuning, steps=2))
    if name != "fast":
        preset = replace(preset, steps=8, latent_stage=(3, 7), image_stage=(6, 8))
    scenes = [scene((80, 96)), scene((64, 70), 1), scene((200, 90), 2)]

    def jobs() -> list[EditJob]:
        return [
            EditJob(pixels, np.ones_like(mask), mask, f"tile with a {text}", torch_generator("edit", 0, index))
            for index, ((pixels, mask), text) in enumerate(zip(scenes, ("hole", "crack", ""), strict=True))
        ]

    together = pipeline.edit(jobs(), preset)
    alone = [pipeline.edit([job], preset)[0] for job in jobs()]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1
    called = pipeline(
        [pixels for pixels, _ in scenes],
        mask=[mask for _, mask in scenes],
        prompt=["tile with a hole", "tile with a crack", "tile with a "],
        preset=replace(preset, batch_size=2),
        output_type="np",
    )
    for image, other in zip(called.images, alone, strict=True):
        assert np.abs(image.astype(int) - other.pixels).max() <= 1


def checkered(pixels: Pixels) -> Pixels:
    """The picture darkened, with a pattern that no window at the model's resolution can hold."""
    pattern = 20 * (-1) ** np.indices(pixels.shape[:2]).sum(0)
    return np.clip(pixels * 0.7 + pattern[..., None], 0, 255).astype(np.uint8)


def with_reference(pixels: Pixels, mask: Mask, index: int = 0, real: bool = True) -> EditJob:
    reference = checkered(pixels) if real else None
    generator = torch_generator("edit", 0, index)
    return EditJob(pixels, np.ones_like(mask), mask, "tile with a hole", generator, reference=reference)


def test_an_edit_that_begins_from_a_real_defect_keeps_its_fine_detail(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene((200, 160), 2)
    pattern = (-1) ** np.indices(mask.shape).sum(0)[mask]
    found = {}
    for real in (True, False):
        edited = pipeline.edit([with_reference(pixels, mask, real=real)], PRESETS["fast"])[0]
        found[real] = np.corrcoef(edited.pixels[mask].mean(1), pattern)[0, 1]
        far = ~grown(mask, 8)
        assert np.array_equal(edited.pixels[far], pixels[far])
    assert found[True] > 0.3
    assert abs(found[False]) < 0.1


def test_fainter_and_stronger_defects_come_out_so(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene((200, 160), 2)
    # all detail is given back: what random weights draw does not hide what was laid in
    plain = replace(PRESETS["fast"], start=5, tones=(1.0, 1.0), detail=1.0, fidelity=0.0)
    found = []
    for strength in (0.3, 1.0, 1.6):
        preset = replace(plain, strengths=(strength, strength))
        edited = pipeline.edit([with_reference(pixels, mask)], preset)[0]
        found.append(edited.scores.visible_change)
        assert (edited.strength, edited.tone) == pytest.approx((strength, 1.0))
    assert found == sorted(found)


def test_less_detail_is_given_back_where_less_is_wanted(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene((200, 160), 2)
    plain = replace(PRESETS["fast"], fidelity=0.0)
    found = [
        pipeline.edit([with_reference(pixels, mask)], replace(plain, detail=detail))[0].defect_fidelity
        for detail in (1.0, 0.5, 0.0)
    ]
    assert found == sorted(found)
    assert found[2] > found[0] + 3
    wanted = (found[0] + found[2]) / 2
    bounded = pipeline.edit([with_reference(pixels, mask)], replace(plain, detail=1.0, fidelity=wanted))[0]
    assert wanted - 1 < bounded.defect_fidelity


def test_a_preset_without_a_start_does_not_look_at_the_real_defect(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene()
    preset = replace(PRESETS["fast"], start=0)
    first, second = (pipeline.edit([with_reference(pixels, mask, real=real)], preset)[0] for real in (True, False))
    assert np.array_equal(first.pixels, second.pixels)
    begun = pipeline.edit([with_reference(pixels, mask)], PRESETS["fast"])[0]
    assert (begun.pixels != first.pixels).any()


def test_an_area_begins_later_than_a_spot(pipeline: AdaBLDMPipeline) -> None:
    fast = PRESETS["fast"]
    pixels, spot = scene((200, 160), 2)
    area = np.zeros_like(spot)
    area[40:150, 20:140] = True

    def edited(mask: Mask, **changes: int) -> Pixels:
        return pipeline.edit([with_reference(pixels, mask)], replace(fast, **changes))[0].pixels

    for mask, begins in ((spot, fast.start), (area, fast.area_start)):
        assert np.array_equal(edited(mask), edited(mask, start=begins, area_start=begins))
    assert (edited(area) != edited(area, area_start=0)).any()
    assert np.array_equal(edited(spot), edited(spot, area_start=0))


def test_a_batch_may_mix_edits_that_begin_from_real_defects_and_from_noise(pipeline: AdaBLDMPipeline) -> None:
    scenes = [scene((80, 96)), scene((64, 70), 1), scene((200, 90), 2)]

    def jobs() -> list[EditJob]:
        return [with_reference(*one, index, real=index != 1) for index, one in enumerate(scenes)]

    together = pipeline.edit(jobs(), PRESETS["fast"])
    for one, job in zip(together, jobs(), strict=True):
        assert np.abs(one.pixels.astype(int) - pipeline.edit([job], PRESETS["fast"])[0].pixels).max() <= 1


def test_a_thin_defect_is_drawn_finer_only_where_no_real_one_brings_its_detail(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = texture((300, 300), np.random.default_rng(0)), np.zeros((300, 300), bool)
    mask[40:260, 150:153] = True
    jobs = [with_reference(pixels, mask, real=real) for real in (True, False)]
    assert [one.resolution for one in pipeline.edit(jobs, PRESETS["fast"])] == [32, 256]


class WithoutReferences(SceneMaker):
    def draw(self, defect: str, *parts: int) -> Scene:
        return replace(super().draw(defect, *parts), reference=None)


MAKERS = (SceneMaker, WithoutReferences)


def test_previews_show_the_model_and_not_the_real_defects(tmp_path: Path) -> None:
    data_set = open_data_set(write_data_set(tmp_path / "cloth"), split="train")
    card = RunCard("cloth", ("scratch", "spot"), "", RESOLUTION, "texture", "")
    components = make_components()
    previews = [control_preview(components, card, kind(data_set, "texture"), 4) for kind in MAKERS]
    assert SceneMaker(data_set, "texture").draw("spot", 0, 1, 0).reference is not None
    assert np.array_equal(*previews)


@pytest.mark.parametrize("name", ["paper", "released"])
def test_the_published_presets_run_as_they_are(pipeline: AdaBLDMPipeline, name: str) -> None:
    pixels, mask = scene()
    preset = replace(PRESETS[name], finetuning=Finetuning(steps=2))
    result = pipeline(pixels, mask=mask, defect="scratch", preset=preset, output_type="np")
    assert (result.images[0][mask] != pixels[mask]).any()


@pytest.mark.parametrize("size", [(300, 260), (260, 300)])
def test_pixels_outside_the_window_are_bit_exact(pipeline: AdaBLDMPipeline, size: tuple[int, int]) -> None:
    pixels, mask = scene(size)
    original = pixels.copy()
    image = pipeline(pixels, mask=mask, defect="blob", output_type="np").images[0]
    window = window_around(mask)
    outside = np.ones_like(mask)
    outside[window.slices(size)[0]] = False
    assert outside.mean() > 0.9
    np.testing.assert_array_equal(image[outside], original[outside])
    np.testing.assert_array_equal(pixels, original)


@pytest.mark.parametrize("window", ["auto", "full"])
def test_grey_pictures_stay_grey(pipeline: AdaBLDMPipeline, window: Any) -> None:
    pixels, mask = scene((70, 90))
    grey = Image.fromarray(pixels[..., 0])
    image = pipeline(grey, mask=mask, defect="blob", window=window).images[0]
    assert (image.mode, image.size) == ("L", (90, 70))
    channels = pipeline(grey, mask=mask, defect="blob", window=window, output_type="np").images[0]
    assert (channels == channels[..., :1]).all()
    np.testing.assert_array_equal(np.asarray(image), channels[..., 0])
    assert (channels[..., 0] != pixels[..., 0])[mask].any()


def test_what_comes_back_is_as_documented(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene()
    trimap = np.where(mask, 255, 128).astype(np.uint8)
    given = [Image.fromarray(pixels), Image.fromarray(pixels).convert("RGBA"), pixels]
    result = pipeline(given, trimap=[trimap, Image.fromarray(trimap), trimap / np.float32(255)], defect="blob")
    assert len(result.images) == len(result.masks) == len(result.scores) == 3
    assert [image.mode for image in result.images] == ["RGB"] * 3
    assert result.images[0].size == (96, 80)
    for found in result.masks:
        np.testing.assert_array_equal(np.asarray(found), mask * np.uint8(255))
    expected = {"background_psnr", "seam", "edit_strength", "visible_change", "contrast", "defect_fidelity"}
    for scores in result.scores:
        assert expected <= scores.keys()
        assert all(np.isfinite(value) for value in scores.values())


def test_a_mask_is_a_trimap_whose_rest_is_object_and_a_defect_its_prompt(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene()
    trimap = np.where(mask, 255, 128).astype(np.uint8)
    first = pipeline(pixels, mask=mask, defect="blob").images[0]
    second = pipeline(pixels, trimap=trimap, prompt="metal tile, a metal tile with a blob").images[0]
    assert first.tobytes() == second.tobytes()
    background = trimap.copy()
    background[:25] = 0
    third = pipeline(pixels, trimap=background, defect="blob").images[0]
    assert first.tobytes() != third.tobytes(), "the control branch reads the background"


def test_options_of_the_call_reach_the_edit(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene()
    options: list[dict[str, Any]] = [
        {}, {"adapt": "none"}, {"adapt": "ridge"}, {"guidance_scale": 1.0}, {"window": "full"}, {"defect": "scratch"},
    ]  # fmt: skip
    results = [pipeline(pixels, mask=mask, **{"defect": "blob", **changes}).images[0].tobytes() for changes in options]
    assert len(set(results)) == len(options)
    own = pipeline(pixels, mask=mask, defect="blob", preset=PRESETS["fast"], adapt="none").images[0].tobytes()
    assert own == results[1], "also with a `Preset`"


def test_sixteen_bit_pictures_are_scaled(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene()
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    wide = pipeline(deep, mask=mask, defect="blob", output_type="np").images[0]
    grey = pipeline(pixels[..., 0], mask=mask, defect="blob", output_type="np").images[0]
    np.testing.assert_array_equal(wide, grey)


PIXELS, MASK = scene()
EMPTY_MASK = np.zeros_like(MASK)
TRIMAP = np.where(MASK, 255, 128).astype(np.uint8)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"mask": MASK}, r"neither prompt nor defect.*\(blob, scratch\)"),
        ({"mask": MASK, "defect": "dent"}, "'dent': unknown to this run, expected one of blob, scratch"),
        ({"defect": "blob"}, "0 masks for 1 images"),
        ({"mask": [MASK, MASK], "defect": "blob"}, "2 masks for 1 images"),
        ({"mask": MASK, "trimap": TRIMAP, "defect": "blob"}, "both given"),
        ({"mask": MASK[:-1], "defect": "blob"}, r"\(79, 96\) for an image of 80x96 px"),
        ({"mask": MASK.T, "defect": "blob"}, "make them equal"),
        ({"trimap": TRIMAP[1:], "defect": "blob"}, "trimap of shape"),
        ({"mask": EMPTY_MASK, "defect": "blob"}, "mask: empty"),
        ({"trimap": np.full_like(TRIMAP, 128), "defect": "blob"}, "no defect pixel"),
        ({"trimap": np.where(MASK, 255, 60).astype(np.uint8), "defect": "blob"}, "other values"),
        ({"trimap": np.where(MASK, 255, 0).astype(np.uint8), "defect": "blob"}, "outside the object"),
        ({"mask": MASK, "prompt": "tile " * 500}, "tokens, but the text encoder reads at most 48"),
        ({"mask": MASK, "prompt": ["a", "b"]}, "2 prompts for 1 images"),
        ({"mask": MASK, "defect": "blob", "preset": "slow"}, "--preset slow: unknown"),
        ({"mask": MASK, "defect": "blob", "adapt": "magic"}, "--adapt magic: unknown"),
        ({"mask": MASK, "defect": "blob", "guidance_scale": 0.0}, "--guidance 0.0"),
        ({"mask": MASK, "defect": "blob", "window": "half"}, "window 'half': unknown"),
        ({"mask": MASK, "defect": "blob", "output_type": "pt"}, "output_type 'pt': unknown"),
        ({"image": PIXELS.astype(np.float32), "mask": MASK, "defect": "blob"}, "uint8"),
        ({"image": "photo.png", "mask": MASK, "defect": "blob"}, "expected a PIL image or a uint8 array"),
        ({"image": PIXELS[:9, :9], "mask": MASK[:9, :9], "defect": "blob"}, "at least 16 pixels"),
        ({"image": Image.new("RGB", (9, 9)), "mask": np.ones((9, 9), bool), "defect": "blob"}, "at least 16 pixels"),
        ({"image": [], "mask": [], "defect": "blob"}, "image: none given"),
    ],
)
def test_bad_calls_say_what_is_wrong(pipeline: AdaBLDMPipeline, options: dict[str, Any], problem: str) -> None:
    started: list[Any] = []
    handle = pipeline.unet.register_forward_pre_hook(lambda *_: started.append(1))
    try:
        with pytest.raises(InputError, match=problem):
            pipeline(**{"image": PIXELS, **options})
    finally:
        handle.remove()
    assert not started, "before any work is done"
