"""Control branches that read the clean picture's latents beside the trimap: guidance, edits, runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from components import RESOLUTION, make_components, make_editor
from safetensors.torch import load_file, save_file
from test_editor import FAST, changed, job_of, scene, short
from torch.nn import functional as F

from adabldm.core.errors import InputError
from adabldm.core.records import Calibration, RunCard
from adabldm.core.settings import PRESETS
from adabldm.core.settings.edit import Guidance
from adabldm.core.tensors import to_tensor
from adabldm.editing.editor import Editor, prepare
from adabldm.editing.guidance import Conditions, guided_prediction
from adabldm.editing.look import settled
from adabldm.editing.stage_plan import CLEAN, Step
from adabldm.models.clean_latents import TRIMAP_AND_LATENTS, reads_latents
from adabldm.models.components import Components, encode_images
from adabldm.models.conditioning import encode_prompts
from adabldm.models.denoiser import Denoiser
from adabldm.models.store import digest, load_run, save_run

CARD = RunCard(object_name="tile", defects=("hole",), base="b", resolution=RESOLUTION, foreground="texture", preset="q")


@pytest.fixture(scope="module")
def components() -> Components:
    return make_components(conditioning=TRIMAP_AND_LATENTS)


@pytest.fixture(scope="module")
def editor(components: Components) -> Editor:
    return Editor(components, RESOLUTION)


@pytest.mark.parametrize("settings", [{"scale": 2.5, "trimap": True}, {"scale": 3.5, "control_once": True}])
@torch.no_grad()
def test_both_halves_of_the_guidance_see_the_clean_picture(components: Components, settings: dict[str, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, clean = torch.randn(2, 2, 4, 16, 16, generator=generator)
    trimaps = torch.randint(0, 3, (2, 1, 32, 32), generator=generator).float() / 2
    prompts, empty = encode_prompts(components, ["a hole", "a crack"]), encode_prompts(components, [""])
    guidance = Guidance(**settings)
    conditions = Conditions(prompts, empty, trimaps, clean)
    step = Step(0, 700, 500, False, False, CLEAN)
    result = guided_prediction(Denoiser(components), conditions, guidance)(latents, step)

    def half(shapes: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        read = torch.cat([F.pixel_unshuffle(shapes, 2), clean], 1)
        nothing = empty.embeddings.expand_as(text)
        down, mid = components.controlnet(latents, 700, nothing, read, return_dict=False)  # type: ignore[misc]
        features = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        found: torch.Tensor = components.unet(latents, 700, text, **features).sample
        return found

    unguided = half(trimaps.clamp(max=0.5) if guidance.trimap else trimaps, empty.embeddings.expand(2, -1, -1))
    guided = half(trimaps, prompts.embeddings)
    torch.testing.assert_close(result, unguided + guidance.scale * (guided - unguided), atol=1e-4, rtol=1e-4)
    other = guided_prediction(Denoiser(components), replace(conditions, clean=-clean), guidance)(latents, step)
    assert (other - result).abs().max() > 1e-2


def test_a_branch_that_reads_latents_is_not_run_without_them(components: Components) -> None:
    latents, prompts = torch.randn(1, 4, 16, 16), encode_prompts(components, [""])
    with pytest.raises(AssertionError, match="reads the clean latents"):
        Denoiser(components).control(latents, 5, prompts, torch.zeros(1, 1, 32, 32))


@torch.no_grad()
def test_an_edit_from_a_real_defect_shows_the_branch_the_unedited_source(editor: Editor) -> None:
    """At the exposure of the edit, where the real defect has another one."""
    pixels, mask = scene((200, 90))
    job = replace(job_of(pixels, mask), exposure=1.4)
    start = prepare(job, settled(FAST, Calibration()), RESOLUTION, "auto")
    assert start.start > 0
    plain = prepare(replace(job, reference=None), changed(FAST, "put_back.finest=0"), RESOLUTION, "auto")
    np.testing.assert_array_equal(start.good(), plain.exposed)
    assert not np.array_equal(start.exposed, plain.exposed)
    seen: list[torch.Tensor] = []
    branch = editor.components.controlnet
    assert branch is not None
    handle = branch.register_forward_pre_hook(
        lambda _, __, options: seen.append(options["controlnet_cond"]), with_kwargs=True
    )
    try:
        editor.edit([job], FAST)
    finally:
        handle.remove()
    expected = encode_images(editor.components.vae, to_tensor(plain.exposed)[None])
    assert seen
    assert all(torch.allclose(one[:, 4:], expected.expand(len(one), -1, -1, -1), atol=1e-5) for one in seen)


@pytest.mark.parametrize("name", ["fast", "paper", "released"])
def test_every_preset_edits_alone_as_in_a_batch(editor: Editor, name: str) -> None:
    scenes = [scene((80, 96)), scene((64, 70), 1), scene((200, 90), 2)]

    def jobs() -> list:  # type: ignore[type-arg]
        return [job_of(*one, index, real=index != 1) for index, one in enumerate(scenes)]

    together = editor.edit(jobs(), short(name), fill=3)
    for one, job in zip(together, jobs(), strict=True):
        (alone,) = editor.edit([job], short(name), fill=3)
        np.testing.assert_array_equal(alone.pixels, one.pixels)
        assert not np.array_equal(one.pixels[job.mask], job.pixels[job.mask])


def test_a_branch_without_effect_edits_like_one_that_reads_the_trimap_alone() -> None:
    asleep = [make_editor(awake=False), make_editor(awake=False, conditioning=TRIMAP_AND_LATENTS)]
    results = [editor.edit([job_of(*scene())], PRESETS["fast"])[0].pixels for editor in asleep]
    np.testing.assert_array_equal(*results)


def test_a_run_with_such_a_branch_is_saved_and_loaded(components: Components, tmp_path: Path) -> None:
    save_run(components, tmp_path, CARD)
    loaded, card = load_run(tmp_path)
    assert reads_latents(loaded)
    assert digest(loaded) == digest(components)
    assert any(name.startswith("controlnet/") for name in card.files or {})


def test_a_branch_that_reads_anything_else_is_refused(components: Components, tmp_path: Path) -> None:
    save_run(components, tmp_path, CARD)
    config, weights = (tmp_path / "controlnet" / f for f in ("config.json", "diffusion_pytorch_model.safetensors"))
    values = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**values, "conditioning_channels": 3}), encoding="utf-8")
    tensors = load_file(weights)
    name = "controlnet_cond_embedding.conv_in.weight"
    save_file({**tensors, name: tensors[name][:, :3].contiguous()}, weights, {"format": "pt"})
    card = json.loads((tmp_path / "adabldm.json").read_text(encoding="utf-8"))
    del card["files"]
    (tmp_path / "adabldm.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(InputError, match="reads 3 channels, expected 1 of a trimap or 8 of trimap and latents"):
        load_run(tmp_path)
