"""Fits from a base that brings a control branch which reads clean latents: examples, fills, stages, resumed fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from components import awaken, ellipse
from conftest import Adabldm, contents, manifest, write_base
from fabricate import grown, texture
from safetensors.torch import load_file
from test_fit import steps_done

from adabldm.core.errors import InputError
from adabldm.core.events import Event, PreviewWritten, Progress
from adabldm.core.seeding import numpy_rng, torch_generator
from adabldm.core.settings import FIT_PRESETS, FitSettings, SettingsError
from adabldm.core.settings.fit import Mixture
from adabldm.core.windows import Window, window_around
from adabldm.models.clean_latents import TRIMAP_AND_LATENTS, new_control_branch, reads_latents
from adabldm.models.components import new_controlnet
from adabldm.models.store import load_base, load_run, save_components
from adabldm.training.crops import crop_places, cropped
from adabldm.training.examples import SourceImage, TrainingImages, make_examples
from adabldm.training.fill import Filler, continued
from adabldm.workflows.fit import fit

OPTIONS: dict[str, Any] = {"control_steps": 3, "examples": 8, "batch_size": 2, "checkpoint_every": 1}
FLAGS = ("--control-steps", 3, "--examples", 8, "--batch-size", 2, "--checkpoint-every", 1, "--quiet")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with a control branch of its own whose features count. Read only."""
    folder = write_base(tmp_path_factory.mktemp("own") / "base")
    components = load_base(str(folder))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        components.controlnet = new_control_branch(components, TRIMAP_AND_LATENTS)
    awaken(components.controlnet)
    save_components(components, folder, only=("controlnet",))
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, own: Path, data: Path) -> Path:
    """What `fit` made of `own` and `data`. Read only."""
    out = tmp_path_factory.mktemp("fitted") / "run"
    return fit(FitSettings.create({"data": data, "out": out, "base": str(own), **OPTIONS}))


def scene() -> tuple[TrainingImages, list[SourceImage]]:
    """Good textures, and a black spot on another."""
    size = (96, 128)
    everywhere = np.ones(size, bool)
    good = [SourceImage(texture(size, numpy_rng("good", index)), everywhere) for index in range(3)]
    mask = ellipse(size, (50, 60), (7, 9))
    pixels = texture(size, numpy_rng("bad"))
    pixels[mask] = 0
    spots = [SourceImage(pixels, everywhere, "spot", mask)]
    return TrainingImages("cloth", good, {"spot": spots}), spots


# What the branch is shown


def test_a_filled_window_shows_the_surroundings_instead_of_the_defect() -> None:
    images, (spot,) = scene()
    assert spot.mask is not None
    window = window_around(spot.mask, context=2.5)
    cut = window.slices((96, 128))[0]
    seen = spot.pixels[cut], spot.mask[cut]
    filler = Filler([one.pixels for one in images.good])
    first, second = (filler.fill(spot.pixels, spot.mask, window, seen, numpy_rng("fill", k)) for k in range(2))
    far = ~grown(seen[1], 10)
    for filled in (first, second):
        np.testing.assert_array_equal(filled[far], seen[0][far])
        assert abs(filled[seen[1]].mean() - seen[0][far].mean()) < 15, "as bright as the cloth"
        assert filled[seen[1]].std() > 4, "with its texture"
    assert not np.array_equal(first, second)
    nothing = np.zeros_like(seen[1])
    assert filler.fill(spot.pixels, spot.mask, window, (seen[0], nothing), numpy_rng(0)) is seen[0]


def test_a_fill_continues_lines_and_takes_a_good_picture_where_nothing_is_left() -> None:
    stripes = np.repeat((255 * (np.arange(96) // 8 % 2)).astype(np.uint8)[:, None, None], 96, 1).repeat(3, 2)
    mask = ellipse((96, 96), (48, 48), (4, 30))
    white = np.full_like(stripes, 200)
    whole = Window(0, 0, 96)
    filled = Filler([texture((96, 96), numpy_rng(1))]).fill(stripes, mask, whole, (stripes, mask), numpy_rng(0))
    assert set(np.unique(stripes)) == {0, 255}
    assert abs(filled[mask].mean() - stripes[grown(mask, 6) & ~mask].mean()) < 70
    all_of_it = np.ones((96, 96), bool)
    assert Filler([white]).fill(stripes, all_of_it, whole, (stripes, all_of_it), numpy_rng(0)).min() == 200


def test_values_are_continued_between_those_around_them() -> None:
    known = np.ones((40, 40), bool)
    known[10:30, 10:30] = False
    values = np.tile(np.linspace(0, 100, 40, dtype=np.float32)[None, :, None], (40, 1, 2))
    result = continued(np.where(known[..., None], values, 1e6).astype(np.float32), known)
    np.testing.assert_array_equal(result[known], values[known])
    assert np.abs(result - values).max() < 25
    assert result[~known].min() >= 0
    assert result[~known].max() <= 100


def test_examples_come_with_the_window_as_it_is_without_its_defect() -> None:
    images, _ = scene()

    def drawn(real: float, pasted: float) -> list[tuple[Any, Any, Any]]:
        mixture = Mixture(real=real, pasted=pasted)
        found = list(make_examples(images, 6, 64, numpy_rng(5), mixture, clean=True))
        return [(one.pixels.astype(int), one.clean, one.trimap == 1) for one in found]

    for pixels, clean, _ in drawn(0.0, 0.0):
        np.testing.assert_array_equal(pixels, clean)
    for shares in ((1.0, 0.0), (0.0, 1.0)):
        for pixels, clean, mask in drawn(*shares):
            changed = np.abs(pixels - clean).max(2)
            assert changed[~grown(mask, 12)].max() == 0
            assert changed[mask].mean() > 40
    plain = list(make_examples(images, 6, 64, numpy_rng(5), Mixture()))
    assert [one.clean for one in plain] == [None] * 6


def test_crops_show_their_defects_at_both_sizes() -> None:
    masks = torch.zeros(6, 1, 64, 64)
    for index in range(5):
        masks[index, 0, 10 * index : 10 * index + 3, 55:60] = 1
    places = crop_places(masks, (16, 16), torch_generator("crops"))
    shapes, latents = (
        cropped(masks, places, 4),
        cropped(torch.arange(256.0).view(1, 1, 16, 16).expand(6, 2, -1, -1), places),
    )
    assert (shapes.shape, latents.shape) == ((6, 1, 32, 32), (6, 2, 8, 8))
    assert shapes.flatten(1).any(1).tolist() == [True] * 5 + [False]
    assert latents[:, 0, 0, 0].tolist() == [16 * top + left for top, left in places]


# Fits


def test_a_base_brings_its_branch_only_if_that_reads_latents(own: Path, tmp_path: Path) -> None:
    components = load_base(str(own))
    assert reads_latents(components)
    components.controlnet = new_controlnet(components)
    save_components(components, tmp_path)
    assert load_base(str(tmp_path)).controlnet is None


def test_a_branch_of_another_unet_is_refused(adabldm: Adabldm, own: Path, data: Path, tmp_path: Path) -> None:
    other = write_base(tmp_path / "other", channels=(8, 16))
    components = load_base(str(other))
    components.controlnet = load_base(str(own)).controlnet
    save_components(components, other, only=("controlnet",))
    result = adabldm("fit", data, "--out", tmp_path / "run", "--base", other, *FLAGS)
    assert result.code == 2
    assert "the control branch has block_out_channels" in result.err
    assert "use a matching set of components" in result.err
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="block_out_channels"):
        load_base(str(other))


def test_the_fit_goes_on_from_the_base_s_branch_and_trains_the_unet_with_it(
    adabldm: Adabldm, own: Path, data: Path, fitted: Path, tmp_path: Path
) -> None:
    card = json.loads((fitted / "adabldm.json").read_text(encoding="utf-8"))
    assert card["settings"]["own_branch"] == {"unet": True, "crops": 0.5}
    assert card["steps"] == {"domain": 0, "control": 3}
    assert f"controlnet/{WEIGHTS}" in card["files"]
    assert reads_latents(load_run(fitted)[0])
    out = tmp_path / "slow"
    slow = ("--set", "control.learning_rate=1e-12", "--set", "own_branch.unet=false", "--set", "own_branch.crops=0")
    assert adabldm("fit", data, "--out", out, "--base", own, *FLAGS, *slow).code == 0
    for name, moved in (("controlnet", True), ("unet", False)):
        before, after, other = (load_file(folder / name / WEIGHTS) for folder in (own, out, fitted))
        assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before), "it began there"
        assert any(not torch.equal(before[key], after[key]) for key in before) == moved
        assert any(not torch.equal(before[key], other[key]) for key in before)


def test_an_interrupted_fit_equals_an_uninterrupted_one(own: Path, data: Path, fitted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = FitSettings.create({"data": data, "out": out, "base": str(own), **OPTIONS})

    def interrupt(event: Event) -> None:
        if isinstance(event, Progress) and event.task == "control" and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(settings, interrupt)
    assert 0 < steps_done(out / "checkpoints" / "control.safetensors") < 3
    events: list[Event] = []
    fit(settings.changed(resume=True), events.append)
    assert any(isinstance(event, PreviewWritten) for event in events)
    mine, other = (contents(folder, without=["logs", "checkpoints"]) for folder in (out, fitted))
    assert [name for name in other if mine[name] != other[name]] == []
    ours, theirs = (load_file(folder / "checkpoints" / "control.safetensors") for folder in (out, fitted))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_the_run_generates_and_goes_on_to_the_byte(adabldm: Adabldm, fitted: Path, data: Path, tmp_path: Path) -> None:
    options = ("--data", data, "--batch-size", 2, "--quiet")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert adabldm("generate", fitted, "--out", whole, "--count", 4, *options).code == 0
    assert adabldm("generate", fitted, "--out", parts, "--count", 2, *options).code == 0
    assert adabldm("generate", fitted, "--out", parts, "--count", 4, *options).code == 0
    assert manifest(whole) == manifest(parts)
    assert contents(whole / "test") == contents(parts / "test")
    record = manifest(whole)[0]
    result = adabldm("reproduce", whole, record["index"])
    assert result.code == 0, result.err


def test_presets_of_other_bases_are_as_they_were() -> None:
    settings = FitSettings.create(data=Path("data"), out=Path("out"))
    assert settings.fit_preset() == FIT_PRESETS["quick"]
    assert "own_branch" not in settings.fit_preset().plain()
    own = settings.fit_preset(own_branch=True)
    assert (own.name, own.domain_mode, own.plain()["own_branch"]) == ("quick", "none", {"unet": True, "crops": 0.5})
    both = settings.changed(domain_steps=5).fit_preset(own_branch=True)
    assert (both.domain.steps, both.domain_mode) == (5, "auto"), "who asks for a domain stage gets one"
    for mode in ("full", "lora"):
        with pytest.raises(SettingsError, match=f"domain: {mode} was given, but .* give --domain-steps"):
            settings.changed(domain=mode).fit_preset(own_branch=True)
        assert settings.changed(domain=mode, domain_steps=5).fit_preset(own_branch=True).domain_mode == mode
    given = FitSettings.create(data=Path("data"), out=Path("out"), preset=FIT_PRESETS["standard"])
    assert given.fit_preset(own_branch=True).own_branch is not None
    assert settings.changed(set=("own_branch=none",)).fit_preset(own_branch=True).own_branch is None
