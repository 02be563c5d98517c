"""The editor on tiny networks: pictures with target masks in, edited pictures with their scores out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from components import RESOLUTION, assert_same_weights, ellipse, make_components, make_editor, make_scheduler, weights
from fabricate import grown, texture
from hypothesis import given
from hypothesis import strategies as st

from adabldm.core.images import Mask, Pixels
from adabldm.core.prompts import defect_prompt
from adabldm.core.recent import Recent
from adabldm.core.records import Calibration
from adabldm.core.scores import score
from adabldm.core.seeding import torch_generator
from adabldm.core.settings import PRESETS, EditPreset
from adabldm.core.settings.presets import change_preset
from adabldm.core.windows import crop, window_around
from adabldm.editing.cut import full_window
from adabldm.editing.editor import EditJob, Editor
from adabldm.editing.look import UNKNOWN, settled
from adabldm.editing.samplers import make_sampler
from adabldm.editing.stage_plan import Step, make_steps
from adabldm.models.store import digest, load_run

FAST = PRESETS["fast"]
HALF_PRECISION = 0.5
"""Grey levels: mean distance of an edit in bfloat16 from one in single precision."""


def changed(preset: EditPreset, *changes: str) -> EditPreset:
    return change_preset(preset, changes)


def scene(size: tuple[int, int] = (80, 96), seed: int = 0) -> tuple[Pixels, Mask]:
    return texture(size, np.random.default_rng(seed)), ellipse(size, (size[0] * 0.4, size[1] * 0.6), (6, 9))


def checkered(pixels: Pixels) -> Pixels:
    """The picture darkened, with a pattern that no window at the model's resolution can hold."""
    pattern = 20 * (-1) ** np.indices(pixels.shape[:2]).sum(0)
    return np.clip(pixels * 0.7 + pattern[..., None], 0, 255).astype(np.uint8)


def job_of(
    pixels: Pixels, mask: Mask, index: int = 0, *, real: bool = True, prompt: str = "tile with a hole"
) -> EditJob:
    reference = checkered(pixels) if real else None
    return EditJob(pixels, np.ones_like(mask), mask, prompt, torch_generator("edit", 0, index), reference=reference)


@pytest.fixture(scope="module")
def editor() -> Editor:
    return make_editor()


def short(name: str) -> EditPreset:
    """The preset with the long ones shortened to the steps where something happens."""
    if name == "fast":
        return FAST
    plan = ("plan.steps=8", "plan.latent_stage=3,7", "plan.image_stage=6,8")
    return changed(PRESETS[name], *plan, "adaptation.steps=2")


# Batches


@pytest.mark.parametrize("name", ["fast", "paper", "released"])
def test_another_batch_size_moves_a_pixel_by_one_grey_level_at_most(editor: Editor, name: str) -> None:
    """Different sizes, masks and prompts, with and without a real defect."""
    preset = short(name)
    scenes = [scene((80, 96)), scene((64, 70), 1), scene((200, 90), 2), scene((90, 90), 3)]
    prompts = ("tile with a hole", "tile with a crack", "", "tile with a hole")

    def jobs() -> list[EditJob]:
        return [
            job_of(*one, index, real=index % 2 == 0, prompt=prompt)
            for index, (one, prompt) in enumerate(zip(scenes, prompts, strict=True))
        ]

    together = editor.edit(jobs(), preset)
    for one, job in zip(together, jobs(), strict=True):
        assert np.abs(one.pixels.astype(int) - editor.edit([job], preset)[0].pixels).max() <= 1


def test_every_prompt_is_encoded_once_and_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    editor = make_editor()
    encoder: Any = editor.components.text_encoder
    forward, shapes = encoder.forward, []
    monkeypatch.setattr(encoder, "forward", lambda ids: shapes.append(tuple(ids.shape)) or forward(ids))
    for prompts in (("a hole", "a crack", "a hole"), ("a crack", "a hole")):
        editor.edit([job_of(*scene(), index, prompt=prompt) for index, prompt in enumerate(prompts)], FAST)
    assert len(shapes) == 3, "two prompts and the empty one"
    assert {shape[0] for shape in shapes} == {1}
    editor.to(torch.device("cpu"), torch.bfloat16)
    assert editor.edit([job_of(*scene(), prompt="a hole")], FAST)
    assert len(shapes) == 5, "another precision asks for another encoding"


@pytest.mark.parametrize(("name", "real"), [("fast", False), ("fast", True), ("released", False)])
def test_what_is_kept_of_earlier_edits_changes_no_byte(name: str, real: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    preset, first, other = short(name), scene((64, 64)), scene((64, 64), 1)
    editor = make_own_editor()
    vae: Any = editor.components.vae
    encode, encoded = vae.encode, []
    monkeypatch.setattr(vae, "encode", lambda images: encoded.append(len(images)) or encode(images))
    numbers = []
    for index, one in enumerate((first, first, other, first)):
        kept = editor.edit([job_of(*one, index, real=real)], preset)[0].pixels
        numbers.append(len(encoded))
        encoded.clear()
        np.testing.assert_array_equal(kept, make_own_editor().edit([job_of(*one, index, real=real)], preset)[0].pixels)
    if not real:  # a real defect is laid in with another strength each time
        assert numbers == [numbers[0], numbers[0] - 1, numbers[0], numbers[0] - 1]


def make_own_editor() -> Editor:
    return make_editor().to(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("name", ["fast", "paper"])
def test_an_editor_that_keeps_its_networks_makes_the_same_bytes_as_one_that_borrows_them(
    editor: Editor, name: str
) -> None:
    for index in range(2):
        own, borrowed = (one.edit([job_of(*scene(), index)], short(name))[0] for one in (make_own_editor(), editor))
        np.testing.assert_array_equal(own.pixels, borrowed.pixels)


@given(st.integers(1, 5), st.lists(st.integers(0, 8)))
def test_recent_values_are_made_once_while_they_are_recent(most: int, keys: list[int]) -> None:
    recent: Recent[int, list[int]] = Recent(most)
    made: list[int] = []
    for key in keys:
        latest = made[-most:]
        assert recent.get(key, lambda key=key: made.append(key) or [key]) == [key]  # type: ignore[misc]
        assert made[-most:] == (latest if key in latest else [*latest, key][-most:])


def test_a_window_is_cut_once(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        "adabldm.editing.cut.crop", lambda array, window: cuts.append(array.shape) or crop(array, window)
    )
    for real, arrays in ((True, 4), (False, 3)):
        cuts.clear()
        editor.edit([job_of(*scene((300, 260)), real=real)], FAST)
        assert sum(shape[:2] == (300, 260) for shape in cuts) == arrays


def test_networks_that_others_use_are_left_as_they_were() -> None:
    components = make_components()
    editor = Editor(components, RESOLUTION)
    modules = list(components.modules().values())
    before = [(weights(module), [parameter.stride() for parameter in module.parameters()]) for module in modules]
    for adapt in ("poisson", "finetune", "ridge"):
        preset = FAST.changed(adaptation={"method": adapt, **({"steps": 2} if adapt == "finetune" else {})})
        editor.edit([job_of(*scene())], preset)
    for module, (values, layout) in zip(modules, before, strict=True):
        assert_same_weights(values, weights(module))
        assert [parameter.stride() for parameter in module.parameters()] == layout


# The window


@pytest.mark.parametrize("size", [(300, 260), (260, 300)])
@pytest.mark.parametrize("real", [True, False])
def test_pixels_outside_the_window_are_bit_exact(editor: Editor, size: tuple[int, int], real: bool) -> None:
    pixels, mask = scene(size)
    original = pixels.copy()
    (edited,) = editor.edit([job_of(pixels, mask, real=real)], FAST)
    assert edited.window == window_around(mask)
    outside = np.ones_like(mask)
    outside[edited.window.slices(size)[0]] = False
    assert outside.mean() > 0.9
    np.testing.assert_array_equal(edited.pixels[outside], original[outside])
    np.testing.assert_array_equal(pixels, original)
    assert edited.scores == score(edited.pixels, pixels, mask)


@pytest.mark.parametrize("real", [True, False])
def test_the_full_window_may_overhang_the_picture(editor: Editor, real: bool) -> None:
    pixels, mask = scene((70, 90))
    (edited,) = editor.edit([job_of(pixels, mask, real=real)], FAST, window="full")
    assert (edited.window, edited.pixels.shape) == (full_window((70, 90)), pixels.shape)
    assert (edited.pixels[mask] != pixels[mask]).any()


@pytest.mark.parametrize("window", ["auto", "full"])
def test_grey_pictures_stay_grey(editor: Editor, window: Any) -> None:
    pixels, mask = scene((70, 90))
    grey = np.repeat(pixels[..., :1], 3, axis=2)
    result = editor.edit([job_of(grey, mask)], FAST, window=window)[0].pixels
    assert (result == result[..., :1]).all()
    assert (result[mask] != grey[mask]).any()


def test_a_thin_defect_is_drawn_finer_only_where_no_real_one_brings_its_detail(editor: Editor) -> None:
    pixels, mask = texture((300, 300), np.random.default_rng(0)), np.zeros((300, 300), bool)
    mask[40:260, 150:153] = True
    jobs = [job_of(pixels, mask, real=real) for real in (True, False)]
    assert [one.resolution for one in editor.edit(jobs, FAST)] == [32, 256]


# The look of a real defect


def test_an_edit_that_begins_from_a_real_defect_keeps_its_fine_detail(editor: Editor) -> None:
    pixels, mask = scene((200, 160), 2)
    pattern = (-1) ** np.indices(mask.shape).sum(0)[mask]
    found = {}
    for real in (True, False):
        edited = editor.edit([job_of(pixels, mask, real=real)], FAST)[0]
        found[real] = np.corrcoef(edited.pixels[mask].mean(1), pattern)[0, 1]
        far = ~grown(mask, 8)
        assert np.array_equal(edited.pixels[far], pixels[far])
    assert found[True] > 0.3
    assert abs(found[False]) < 0.1


def test_fainter_and_stronger_defects_come_out_so(editor: Editor) -> None:
    pixels, mask = scene((200, 160), 2)
    # all detail is given back: what random weights draw does not hide what was laid in
    plain = changed(FAST, "look.start=5", "look.tones=1,1", "look.detail=1", "look.fidelity=0")
    found = []
    for strength in (0.3, 1.0, 1.6):
        edited = editor.edit([job_of(pixels, mask)], changed(plain, f"look.strengths={strength},{strength}"))[0]
        found.append(edited.scores.visible_change)
        assert (edited.strength, edited.tone) == pytest.approx((strength, 1.0))
    assert found == sorted(found)


def test_less_detail_is_given_back_where_less_is_wanted(editor: Editor) -> None:
    pixels, mask = scene((200, 160), 2)

    def fidelity(detail: float, least: float = 0.0) -> float:
        preset = changed(FAST, f"look.fidelity={least}", f"look.detail={detail}")
        return editor.edit([job_of(pixels, mask)], preset)[0].defect_fidelity

    found = [fidelity(detail) for detail in (1.0, 0.5, 0.0)]
    assert found == sorted(found)
    assert found[2] > found[0] + 3
    wanted = (found[0] + found[2]) / 2
    assert wanted - 1 < fidelity(1.0, wanted)


def test_a_preset_without_a_look_does_not_read_the_real_defect(editor: Editor) -> None:
    pixels, mask = scene()
    preset = changed(FAST, "look=none")
    first, second = (editor.edit([job_of(pixels, mask, real=real)], preset)[0] for real in (True, False))
    assert np.array_equal(first.pixels, second.pixels)
    assert (first.strength, first.tone) == (1.0, 1.0)
    begun = editor.edit([job_of(pixels, mask)], FAST)[0]
    assert (begun.pixels != first.pixels).any()


def test_an_area_begins_later_than_a_spot(editor: Editor) -> None:
    pixels, spot = scene((200, 160), 2)
    area = np.zeros_like(spot)
    area[40:150, 20:140] = True

    def edited(mask: Mask, *changes: str) -> Pixels:
        return editor.edit([job_of(pixels, mask)], changed(FAST, *changes))[0].pixels

    look = settled(FAST, Calibration()).look
    assert look is not None
    for mask, begins in ((spot, look.start), (area, look.area_start)):
        assert np.array_equal(edited(mask), edited(mask, f"look.start={begins}", f"look.area_start={begins}"))
    assert (edited(area) != edited(area, "look.area_start=0")).any()
    assert np.array_equal(edited(spot), edited(spot, "look.area_start=0"))


def test_exposure_counts_only_for_presets_that_match_it(editor: Editor) -> None:
    pixels, mask = scene()

    def edited(exposure: float, *changes: str) -> Pixels:
        job = replace(job_of(pixels, mask, real=False), exposure=exposure)
        return editor.edit([job], changed(FAST, *changes))[0].pixels

    assert (edited(0.5) != edited(1.0)).any()
    off = "put_back.match_exposure=false"
    assert np.array_equal(edited(0.5, off), edited(1.0, off))


# Callback


@pytest.mark.parametrize("real", [True, False])
def test_the_callback_sees_every_step_and_may_replace_the_latents(editor: Editor, real: bool) -> None:
    job = scene((200, 160), 2)
    seen: list[Step] = []

    def watch(step: Step, latents: torch.Tensor) -> torch.Tensor:
        seen.append(step)
        assert latents.shape[:2] == (1, 4)
        return latents

    plain = editor.edit([job_of(*job, real=real)], FAST)[0].pixels
    watched = editor.edit([job_of(*job, real=real)], FAST, on_step=watch)[0].pixels
    assert np.array_equal(plain, watched)
    steps = make_steps(FAST.plan, FAST.guidance)
    assert seen == (steps[UNKNOWN.start :] if real else steps)
    zeroed = editor.edit([job_of(*job, real=real)], FAST, on_step=lambda _, latents: torch.zeros_like(latents))
    assert (zeroed[0].pixels != plain).any()


# Networks of all kinds


@pytest.mark.parametrize("vae", ["tiny", "kl"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_all_kinds_of_bases_are_edited_with(vae: str, prediction: str) -> None:
    components = make_components(vae=vae, prediction="epsilon" if prediction == "sample" else prediction)
    if prediction == "sample":
        components.scheduler = make_scheduler("sample")
    before = digest(components)
    pixels, mask = scene()
    (edited,) = Editor(components, RESOLUTION).edit([job_of(pixels, mask, real=False)], FAST)
    assert (edited.pixels[mask] != pixels[mask]).any()
    assert digest(components) == before


@pytest.mark.parametrize("name", ["fast", "paper", "released"])
def test_half_precision_stays_close_to_single(name: str) -> None:
    """Mean absolute difference in grey levels inside the window; the networks' weights are random."""
    preset = PRESETS[name] if name == "fast" else PRESETS[name].changed(adaptation={"method": "none"})
    pictures = [scene((80, 96)), scene((200, 90), 2)]
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        editor = make_editor().to(torch.device("cpu"), dtype)
        results.append(editor.edit([job_of(*one, index, real=False) for index, one in enumerate(pictures)], preset))
    for single, half in zip(*results, strict=True):
        first, second = (crop(one.pixels, single.window).astype(int) for one in (single, half))
        assert 0 < np.abs(first - second).mean() <= HALF_PRECISION


@torch.no_grad()
def rounded(editor: Editor, dtype: torch.dtype) -> Editor:
    """Weights and every layer's results rounded to `dtype`, sums in single precision: a GPU's half precision.

    A processor without such arithmetic takes minutes for the same numbers.
    """

    def rounding(module: Any, inputs: Any, output: Any) -> Any:
        del module, inputs
        return output.to(dtype).float() if isinstance(output, torch.Tensor) and output.is_floating_point() else output

    for network in editor.components.modules().values():
        for parameter in network.parameters():
            parameter.copy_(parameter.to(dtype).float())
        for layer in network.modules():
            if not list(layer.children()):
                layer.register_forward_hook(rounding)
    return editor


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.5), (torch.float16, 0.1)])
@pytest.mark.parametrize("real", [True, False])
def test_the_shipped_model_hardly_differs_in_half_precision(dtype: torch.dtype, limit: float, real: bool) -> None:
    """Mean absolute difference in grey levels inside the mask, trained weights."""
    pixels, mask = scene((120, 140), 3)
    results = []
    for change in (lambda given: given, lambda given: rounded(given, dtype)):
        components, card = load_run("magnetic-tile")
        editor = change(Editor(components, card.resolution))
        job = job_of(pixels, mask, real=real, prompt=defect_prompt("magnetic tile", "blowhole"))
        results.append(editor.edit([job], FAST)[0].pixels.astype(int))
    first, second = results
    assert np.abs(first - pixels)[mask].mean() > 5
    assert 0 < np.abs(first - second)[mask].mean() <= limit


def test_another_sampler_is_one_function(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make_sampler` is the one place that chooses it."""
    plain = editor.edit([job_of(*scene())], FAST)[0].pixels

    def halved(schedule: Any) -> Any:
        ddim = make_sampler(schedule)
        return lambda prediction, latents, step: ddim(prediction / 2, latents, step)

    monkeypatch.setattr("adabldm.editing.loop.make_sampler", halved)
    assert (editor.edit([job_of(*scene())], FAST)[0].pixels != plain).any()
