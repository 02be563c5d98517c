"""The call that a library user makes: what it reads, refuses and returns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from components import RESOLUTION, ellipse, make_pipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from fabricate import texture
from PIL import Image

from adabldm.core.depth import levels_of
from adabldm.core.errors import InputError
from adabldm.core.images import Mask, Pixels
from adabldm.core.seeding import torch_generator
from adabldm.core.settings import PRESETS
from adabldm.core.settings.presets import change_preset
from adabldm.editing.editor import EditJob, Editor
from adabldm.editing.look import brightness_around, lay_over
from adabldm.masks.bank import IDENTITY
from adabldm.models.store import digest
from adabldm.pipeline import AdaBLDMPipeline


def scene(size: tuple[int, int] = (80, 96), seed: int = 0) -> tuple[Pixels, Mask]:
    return texture(size, np.random.default_rng(seed)), ellipse(size, (size[0] * 0.4, size[1] * 0.6), (6, 9))


@pytest.fixture(scope="module")
def pipeline() -> AdaBLDMPipeline:
    return make_pipeline()


# Saving and loading


@pytest.mark.parametrize("vae", ["tiny", "kl"])
def test_a_pipeline_comes_back_as_it_was_saved(tmp_path: Path, vae: str) -> None:
    pipeline = make_pipeline(vae=vae)
    pipeline.save_pretrained(tmp_path / "run")
    assert not [path for path in (tmp_path / "run").rglob("*") if path.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]
    again = AdaBLDMPipeline.from_pretrained(tmp_path / "run")
    assert digest(again.networks) == digest(pipeline.networks)
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


# The call


def test_the_same_seed_gives_the_same_bytes(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene()
    results = [pipeline(pixels, mask=mask, defect="blob", seed=seed) for seed in (3, 3, 4)]
    first, second, other = (result.images[0].tobytes() for result in results)
    assert first == second != other
    assert results[0].scores == results[1].scores
    for networks in pipeline.networks.modules().values():
        assert not any(parameter.requires_grad for parameter in networks.parameters())


@pytest.mark.parametrize("name", ["paper", "released"])
def test_the_published_presets_run_as_they_are(pipeline: AdaBLDMPipeline, name: str) -> None:
    pixels, mask = scene()
    preset = change_preset(PRESETS[name], ["adaptation.steps=2"])
    result = pipeline(pixels, mask=mask, defect="scratch", preset=preset, output_type="np")
    assert (result.images[0][mask] != pixels[mask]).any()


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


def test_whole_numbers_of_numpy_are_whole_numbers(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene()
    own, other = (
        pipeline(pixels, mask=mask, defect=kind("blob"), seed=seed).images[0].tobytes()
        for kind, seed in ((str, 3), (np.str_, np.int64(3)))
    )
    assert own == other


def test_a_preset_file_may_be_a_path(pipeline: AdaBLDMPipeline, tmp_path: Path) -> None:
    pixels, mask = scene()
    path = tmp_path / "own.json"
    path.write_text(json.dumps(PRESETS["fast"].plain()))
    own, other = (pipeline(pixels, mask=mask, defect="blob", preset=one).images[0] for one in (path, str(path)))
    assert own.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "La", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
)
def test_pictures_and_masks_of_all_modes_of_pillow_are_read(pipeline: AdaBLDMPipeline, mode: str) -> None:
    pixels, mask = scene()
    image, own = (in_mode(Image.fromarray(one), mode) for one in (pixels, mask.astype(np.uint8) * 255))
    pictures, jobs = pipeline.jobs([image], {"mask": [mask if mode == "LAB" else own]}, defect="blob")
    np.testing.assert_array_equal(jobs[0].mask, mask)
    assert pictures[0].pixels.shape == pixels.shape
    assert np.ptp(pictures[0].pixels) > 20


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """A picture in any mode, through those that Pillow asks for."""
    if mode == "LAB":
        return Image.merge("LAB", image.convert("RGB").split())
    for one in {"La": ("LA",), "RGBa": ("RGBA",), "PA": ("RGB", "P"), "HSV": ("RGB",)}.get(mode, ()):
        image = image.convert(one)
    return image.convert(mode)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.int64])
def test_a_trimap_may_have_whole_numbers_of_any_type(pipeline: AdaBLDMPipeline, kind: type[Any]) -> None:
    pixels, mask = scene()
    trimap = np.where(mask, 255, 128).astype(kind)
    given = [trimap] if kind == np.int64 else [trimap, Image.fromarray(trimap)]
    for one in given:
        _, jobs = pipeline.jobs([pixels], {"trimap": [one]}, defect="blob")
        np.testing.assert_array_equal(jobs[0].mask, mask)
        assert jobs[0].foreground.all()


def test_an_array_with_transparency_is_seen_as_its_image(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene()
    layered = np.dstack([pixels, np.where(mask, 255, 0).astype(np.uint8)])
    own, other = (pipeline(one, mask=mask, defect="blob").images[0] for one in (layered, Image.fromarray(layered)))
    assert own.mode == other.mode == "RGBA"
    assert own.tobytes() == other.tobytes()


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


def test_deep_pictures_keep_their_depth(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene()
    given = pixels[..., 0].astype(np.uint16) * 16 + np.uint16(300)
    levels = levels_of(given)
    wide = pipeline(Image.fromarray(given), mask=mask, defect="blob", output_type="np").images[0]
    before = levels.shown(given)
    grey = pipeline(before, mask=mask, defect="blob", output_type="np").images[0][..., 0]
    assert wide.dtype == np.uint16
    result = pipeline(Image.fromarray(given), mask=mask, defect="blob").images[0]
    assert result.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(result), wide)
    np.testing.assert_array_equal(wide[grey == before], given[grey == before])
    assert (np.abs(levels.shown(wide).astype(int) - grey) <= 1).all()
    assert (grey != before).any()
    colours = np.stack([given, given // 2, given // 3], axis=-1)
    both = [pipeline(colours, mask=mask, defect="blob", output_type=form).images[0] for form in ("np", "pil")]
    assert both[0].dtype == np.uint16
    assert both[0].shape == colours.shape
    assert both[1].mode == "RGB"


def test_all_pictures_of_a_call_may_be_edited_at_once_or_one_by_one(pipeline: AdaBLDMPipeline) -> None:
    scenes = [scene((80, 96)), scene((64, 70), 1), scene((200, 90), 2)]
    options: dict[str, Any] = {
        "image": [pixels for pixels, _ in scenes],
        "mask": [mask for _, mask in scenes],
        "prompt": ["tile with a hole", "tile with a crack", "tile with a "],
        "output_type": "np",
    }
    sizes: list[int] = []
    handle = pipeline.vae.encoder.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    try:
        results = [pipeline(**options, batch_size=size).images for size in (None, 1, 2)]
    finally:
        handle.remove()
    assert max(sizes) == 3
    for one, other in zip(results[0] * 2, results[1] + results[2], strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_a_call_leaves_the_networks_as_they_were() -> None:
    pipeline = make_pipeline()
    parameters = [parameter for module in pipeline.networks.modules().values() for parameter in module.parameters()]
    before, layout = digest(pipeline.networks), [parameter.stride() for parameter in parameters]
    pixels, mask = scene()
    pipeline(pixels, mask=mask, defect="blob")
    assert digest(pipeline.networks) == before
    assert [parameter.stride() for parameter in parameters] == layout


# A real defect to begin from


def real_defect(size: tuple[int, int] = (60, 70)) -> tuple[Pixels, Mask]:
    pixels, mask = texture(size, np.random.default_rng(5)) // 2, ellipse(size, (20, 30.6), (6, 9))
    pixels[mask] = (200, 40, 40)
    return pixels, mask


def test_a_call_with_a_real_defect_is_the_edit_of_a_job_with_it(pipeline: AdaBLDMPipeline) -> None:
    (pixels, mask), (real, real_mask) = scene(), real_defect()
    reference = lay_over(real, real_mask, IDENTITY, mask)
    exposure = brightness_around(real, real_mask) / brightness_around(pixels, mask)
    prompt = "metal tile, a metal tile with a blob"
    job = EditJob(pixels, np.ones_like(mask), mask, prompt, torch_generator("edit", 0, 0), exposure, reference)
    (expected,) = Editor(pipeline.networks, RESOLUTION).edit([job], PRESETS["fast"])
    for given in ((real, real_mask), (Image.fromarray(real), Image.fromarray(real_mask)), [(real, real_mask)]):
        found = pipeline(pixels, mask=mask, defect="blob", reference=given, output_type="np")
        np.testing.assert_array_equal(found.images[0], expected.pixels)
    assert abs(exposure - 0.5) < 0.1
    without = pipeline(pixels, mask=mask, defect="blob", output_type="np").images[0]
    assert (without != expected.pixels).any()


def test_pictures_with_and_without_a_real_defect_may_be_mixed(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene()
    options: dict[str, Any] = {"mask": [mask] * 2, "defect": "blob", "output_type": "np"}
    mixed = pipeline([pixels] * 2, reference=[None, real_defect()], **options).images
    plain, real = (pipeline([pixels] * 2, reference=one, **options).images for one in (None, real_defect()))
    assert np.abs(mixed[0].astype(int) - plain[0]).max() <= 1
    assert np.abs(mixed[1].astype(int) - real[1]).max() <= 1
    assert (plain[1] != real[1]).any()


def test_a_preset_without_a_look_takes_a_real_defect_and_does_not_read_it(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene()
    preset = change_preset(PRESETS["fast"], ["look=none", "put_back.match_exposure=false"])
    first, second = (
        pipeline(pixels, mask=mask, defect="blob", preset=preset, reference=one, output_type="np").images[0]
        for one in (None, real_defect())
    )
    np.testing.assert_array_equal(first, second)


# Callback


def test_the_callback_is_called_as_by_diffusers(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene()
    calls: list[tuple[int, int, list[str]]] = []

    def note(pipe: AdaBLDMPipeline, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> Any:
        assert pipe is pipeline
        calls.append((step, timestep, list(tensors)))
        return tensors

    def zeroed(pipe: AdaBLDMPipeline, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> Any:
        del pipe, timestep
        return {"latents": tensors["latents"] * 0} if step == 2 else {}

    def edited(**options: Any) -> bytes:
        return pipeline(pixels, mask=mask, defect="blob", **options).images[0].tobytes()

    plain = edited()
    assert edited(callback_on_step_end=note) == plain
    assert calls == [(index, timestep, ["latents"]) for index, timestep in enumerate((999, 832, 666, 499, 332, 166))]
    calls.clear()
    assert edited(callback_on_step_end=note, callback_on_step_end_tensor_inputs=[]) == plain
    assert [names for _, _, names in calls] == [[]] * 6
    assert edited(callback_on_step_end=zeroed) != plain


class Noting(PipelineCallback):  # type: ignore[misc]
    tensor_inputs = ["latents"]  # noqa: RUF012

    def callback_fn(self, pipeline: Any, step_index: int, timestep: int, callback_kwargs: dict[str, Any]) -> Any:
        del pipeline, timestep
        assert step_index >= 0
        return callback_kwargs


class Reading(Noting):
    tensor_inputs = ["prompt_embeds"]  # noqa: RUF012


def test_callbacks_that_are_objects_of_diffusers_name_their_tensors(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene()
    for callback in (Noting(), MultiPipelineCallbacks([Noting(), Noting()])):
        assert pipeline(pixels, mask=mask, defect="blob", callback_on_step_end=callback).images
    with pytest.raises(InputError, match="'prompt_embeds'.*unknown, expected some of latents"):
        pipeline(pixels, mask=mask, defect="blob", callback_on_step_end=Reading())


def test_latents_of_another_shape_are_refused(pipeline: AdaBLDMPipeline) -> None:
    pixels, mask = scene()
    with pytest.raises(InputError, match=r"latents of shape \(1, 4, 16, 16\), expected \(1, 4, 32, 32\)"):
        pipeline(
            pixels,
            mask=mask,
            defect="blob",
            callback_on_step_end=lambda *given: {"latents": given[3]["latents"][..., ::2, ::2]},
        )


# What is refused

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
        ({"mask": EMPTY_MASK, "defect": "blob"}, "mask: the mask is empty"),
        ({"trimap": np.full_like(TRIMAP, 128), "defect": "blob"}, "no defect pixel"),
        ({"trimap": np.where(MASK, 255, 60).astype(np.uint8), "defect": "blob"}, "other values"),
        ({"trimap": np.where(MASK, 255, 0).astype(np.uint8), "defect": "blob"}, "outside the object"),
        ({"mask": MASK, "prompt": "tile " * 500}, "tokens, but the text encoder reads at most 48"),
        ({"mask": MASK, "prompt": ["a", "b"]}, "2 prompts for 1 images"),
        ({"mask": MASK, "defect": "blob", "preset": "slow"}, "preset: 'slow' was given, expected one of fast"),
        ({"mask": MASK, "defect": "blob", "adapt": "magic"}, "adapt: 'magic' was given, expected one of residual"),
        ({"mask": MASK, "defect": "blob", "guidance_scale": 0.0}, "guidance_scale: "),
        ({"mask": MASK, "defect": "blob", "window": "half"}, "window 'half': unknown"),
        ({"mask": MASK, "defect": "blob", "output_type": "pt"}, "output_type 'pt': unknown"),
        ({"image": PIXELS.astype(np.float32), "mask": MASK, "defect": "blob"}, "uint8"),
        ({"image": "photo.png", "mask": MASK, "defect": "blob"}, "expected a PIL image, or a uint8 or uint16 array"),
        ({"image": PIXELS[:9, :9], "mask": MASK[:9, :9], "defect": "blob"}, "at least 16 pixels"),
        ({"image": Image.new("RGB", (9, 9)), "mask": np.ones((9, 9), bool), "defect": "blob"}, "at least 16 pixels"),
        ({"image": np.dstack([PIXELS, PIXELS]), "mask": MASK, "defect": "blob"}, "image of 6 channels"),
        (
            {"image": Image.fromarray(PIXELS[..., 0] * np.float32(16)), "mask": MASK, "defect": "blob"},
            "image: an image of mode F .*expected 0 to 1, or 0 to 255",
        ),
        (
            {"image": Image.fromarray(PIXELS[..., 0].astype(np.int32) - 300), "mask": MASK, "defect": "blob"},
            "image: an image of mode I .*expected 0 to 65535",
        ),
        ({"trimap": Image.fromarray(TRIMAP.astype(np.uint16) * 257), "defect": "blob"}, "other values"),
        (
            {"trimap": Image.merge("LAB", [Image.fromarray(TRIMAP)] * 3), "defect": "blob"},
            "trimap: an image of mode LAB",
        ),
        ({"trimap": np.full_like(TRIMAP, 255), "defect": "blob"}, "trimap: covers the whole image"),
        ({"mask": MASK, "defect": "blob", "preset": Path("slow.toml")}, "preset: slow.toml"),
        ({"image": [], "mask": [], "defect": "blob"}, "image: none given"),
        ({"mask": MASK, "defect": "blob", "batch_size": 0}, "batch_size 0: expected at least 1"),
        (
            {"mask": MASK, "defect": "blob", "reference": PIXELS},
            r"reference: expected \(image, mask\)|references for 1",
        ),
        ({"mask": MASK, "defect": "blob", "reference": [(PIXELS, MASK)] * 2}, "2 references for 1 images"),
        (
            {"mask": MASK, "defect": "blob", "reference": (PIXELS, EMPTY_MASK)},
            "mask of the reference: the mask is empty",
        ),
        ({"mask": MASK, "defect": "blob", "reference": (PIXELS, MASK[1:])}, "mask of the reference of shape"),
        ({"mask": MASK, "defect": "blob", "reference": (PIXELS / 2, MASK)}, "image of the reference: expected"),
        (
            {"mask": MASK, "defect": "blob", "callback_on_step_end": print, "callback_on_step_end_tensor_inputs": "z"},
            "callback_on_step_end_tensor_inputs",
        ),
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
