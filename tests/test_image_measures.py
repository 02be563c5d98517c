from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from fabricate import defect_mask, texture
from numpy.typing import NDArray
from torch import Tensor

from adabldm.core.images import Pixels, resize_pixels
from adabldm.core.records.evaluation import ImageMeasures
from adabldm.core.tensors import to_pixels
from adabldm.evaluation.image_measures import (
    Described,
    cut_windows,
    describe,
    diversity,
    frechet_distance,
    image_measures,
    kid,
    nearest_few_shot,
    perceptual_distances,
)
from adabldm.evaluation.labelled import Labelled, Mark
from adabldm.models.backbone import Backbone, load_backbone

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone()


def features(count: int, seed: int, width: int = 12, shift: float = 0.0) -> Tensor:
    """Correlated features with a mean away from 0, as pooled ones are."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width))
    return torch.from_numpy(np.abs(rng.normal(size=(count, width)) @ mixing) + shift)


def described(perceptual: Array | list[list[float]]) -> Described:
    rows = torch.tensor(np.asarray(perceptual), dtype=torch.float32)
    return Described(torch.zeros(len(rows), 1), rows)


def tile(defect: str, seed: int, size: tuple[int, int] = (96, 128)) -> Labelled:
    rng = np.random.default_rng(seed)
    pixels, mask = texture(size, rng), defect_mask(defect, size, rng)
    pixels[mask] = pixels[mask] // 3 if defect == "spot" else 235
    return Labelled(pixels, (Mark(defect, mask),))


def slow_mmd(first: Array, second: Array) -> float:
    """Unbiased squared maximum mean discrepancy, the kernel written out."""

    def kernel(a: Array, b: Array) -> float:
        return float((sum(x * y for x, y in zip(a, b, strict=True)) / len(a) + 1) ** 3)

    own = [
        sum(kernel(a, b) for a, b in itertools.permutations(each, 2)) / (len(each) * (len(each) - 1))
        for each in (first, second)
    ]
    across = sum(kernel(a, b) for a in first for b in second) / (len(first) * len(second))
    return sum(own) - 2 * across


def slow_frechet(first: Array, second: Array) -> float:
    covariances = [np.cov(each, rowvar=False) for each in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    means = first.mean(axis=0) - second.mean(axis=0)
    return float(means @ means + np.trace(covariances[0] + covariances[1] - 2 * np.real(root)))


def slow_distance(first: list[Tensor], second: list[Tensor]) -> float:
    """Perceptual distance of two windows from their maps (CxHxW), place by place."""
    layers = []
    for one, other in zip(first, second, strict=True):
        total, (_, height, width) = 0.0, one.shape
        for y, x in np.ndindex(height, width):
            a, b = one[:, y, x].double(), other[:, y, x].double()
            total += float((a / a.norm() - b / b.norm()).square().sum())
        layers.append(total / (height * width))
    return sum(layers) / len(layers)


def slow_diversity(points: Array, few_shot: Array) -> float | None:
    clusters: dict[int, list[Array]] = {}
    for point in points:
        distances = [math.dist(point, shot) for shot in few_shot]
        clusters.setdefault(distances.index(min(distances)), []).append(point)
    means = [
        float(np.mean([math.dist(a, b) ** 2 for a, b in itertools.combinations(members, 2)]))
        for members in clusters.values()
        if len(members) >= 2
    ]
    return sum(means) / len(means) if means else None


# KID


def test_kid_is_the_mean_of_unbiased_estimates() -> None:
    first, second = features(8, 1), features(8, 2, shift=0.3)
    mean, deviation = kid(first, second, seed=5)
    # 100 subsets of 4: their mean scatters by a tenth of their deviation around the estimate from all pairs
    # (whose cross term has the same expectation).
    assert mean == pytest.approx(slow_mmd(first.numpy(), second.numpy()), abs=3 * deviation / 10)
    assert deviation > 0.1 * mean


def test_kid_without_a_choice_of_subsets_is_the_estimate_itself() -> None:
    first, second = features(2, 1), features(2, 2, shift=0.3)
    mean, deviation = kid(first, second)
    assert mean == pytest.approx(slow_mmd(first.numpy(), second.numpy()))
    assert deviation == pytest.approx(0, abs=1e-9)


def test_kid_is_near_0_for_the_same_kind_and_grows_with_a_shift() -> None:
    real = features(150, 1)
    scores = [kid(features(150, 2, shift=shift), real) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert abs(scores[0][0]) < scores[0][1]
    assert scores[1][0] > 5 * abs(scores[0][0])
    assert [mean for mean, _ in scores[1:]] == sorted(mean for mean, _ in scores[1:])


def test_kid_depends_on_its_seed_alone() -> None:
    first, second = features(30, 1), features(20, 2)
    before = torch.random.get_rng_state()
    torch.manual_seed(1)
    one = kid(first, second, seed=3)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert kid(first, second, seed=3) == one
    assert kid(first, second, seed=4) != one
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.random.set_rng_state(before)


# Fréchet distance


@pytest.mark.parametrize("counts", [(40, 60), (5, 7)])
def test_frechet_agrees_with_the_matrix_square_root(counts: tuple[int, int]) -> None:
    first, second = features(counts[0], 1), features(counts[1], 2, shift=0.4)
    assert frechet_distance(first, second) == pytest.approx(slow_frechet(first.numpy(), second.numpy()), rel=1e-4)


def test_frechet_of_few_windows_and_many_features() -> None:
    first, second = features(20, 1, width=1280), features(30, 2, width=1280)
    centred = [each - each.mean(0) for each in (first, second)]
    # tr (S S')^½ is the nuclear norm of the centred features' product: exact where the covariances are singular.
    root = torch.linalg.svdvals(centred[0] @ centred[1].T).sum() / math.sqrt(19 * 29)
    spread = centred[0].square().sum() / 19 + centred[1].square().sum() / 29
    expected = float((first.mean(0) - second.mean(0)).square().sum() + spread - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-5)


def test_frechet_of_equal_sets_is_0_and_a_shift_adds_its_square() -> None:
    real = features(50, 1)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-5)
    shift = torch.arange(12) / 10
    assert frechet_distance(real + shift, real) == pytest.approx(float(shift.square().sum()), rel=1e-5)
    assert frechet_distance(real, real) >= 0


# Perceptual distance, diversity, nearest few-shot window


def test_perceptual_distance_agrees_with_plain_loops(backbone: Backbone) -> None:
    windows = cut_windows([tile("spot", 1), tile("scratch", 2), tile("spot", 3)], side=32)
    whole = describe(backbone, windows, batch_size=2)
    distances = perceptual_distances(whole, whole)
    maps = [[each[0] for each in backbone.maps(window[None])] for window in windows]
    for i, j in itertools.product(range(3), range(3)):
        assert float(distances[i, j]) == pytest.approx(slow_distance(maps[i], maps[j]), rel=1e-3, abs=1e-6)
    assert distances.diagonal().tolist() == [0, 0, 0]


def test_perceptual_distance_grows_with_the_change(backbone: Backbone) -> None:
    window = cut_windows([tile("spot", 1)])
    noise = torch.randn(window.shape, generator=torch.Generator().manual_seed(0))
    noisy = torch.cat([(window + strength * noise).clamp(-1, 1) for strength in (0.02, 0.05, 0.1, 0.3)])
    distances = perceptual_distances(describe(backbone, window), describe(backbone, noisy))[0].tolist()
    assert distances == sorted(distances)
    assert 0 < distances[0] < distances[-1] / 3 < 4 / 3


def test_hand_computed_diversity_and_nearest() -> None:
    few_shot = described([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    # Two at the first, three at the second, one at the third.
    windows = described([[0.0, 1.0], [0.0, -2.0], [10.0, 0.0], [10.0, 1.0], [10.0, 3.0], [0.0, 9.0]])
    distances = perceptual_distances(windows, few_shot)
    assert diversity(windows, distances) == pytest.approx((9 + (1 + 9 + 4) / 3) / 2)
    assert nearest_few_shot(distances) == pytest.approx((1 + 4 + 0 + 1 + 9 + 1) / 6)


@pytest.mark.parametrize("seed", range(4))
def test_diversity_agrees_with_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, few_shot = rng.normal(size=(17, 5)).astype(np.float32), rng.normal(size=(6, 5)).astype(np.float32)
    distances = perceptual_distances(described(points), described(few_shot))
    assert diversity(described(points), distances) == pytest.approx(slow_diversity(points, few_shot), rel=1e-4)
    closest = [min(math.dist(point, shot) ** 2 for shot in few_shot) for point in points]
    assert nearest_few_shot(distances) == pytest.approx(np.mean(closest), rel=1e-4)


def test_copies_of_the_few_shot_windows_have_neither_diversity_nor_distance() -> None:
    few_shot = described(np.random.default_rng(0).normal(size=(4, 6)))
    copies = Described(few_shot.pooled.repeat(3, 1), few_shot.perceptual.repeat(3, 1))
    distances = perceptual_distances(copies, few_shot)
    assert diversity(copies, distances) == 0
    assert nearest_few_shot(distances) == 0


def test_windows_without_a_companion_have_no_diversity() -> None:
    few_shot = described([[0.0], [10.0]])
    windows = described([[1.0], [9.0]])
    assert diversity(windows, perceptual_distances(windows, few_shot)) is None
    nothing = described(np.zeros((0, 1)))
    for first, second in ((windows, nothing), (nothing, few_shot)):
        distances = perceptual_distances(first, second)
        assert distances.shape == (len(first), len(second))
        assert diversity(first, distances) is None
        assert nearest_few_shot(distances) is None


# Windows


def test_windows_hold_the_defect_at_the_images_resolution() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    mask = np.zeros((300, 400), bool)
    mask[100:164, 200:220] = True  # 64 px high: a window of 128 px around row 132, column 210
    assert np.array_equal(to_pixels(cut_windows([Labelled(pixels, (Mark("spot", mask),))])[0]), pixels[68:196, 146:274])
    half = cut_windows([Labelled(pixels, (Mark("spot", mask),))], side=64)[0]
    assert np.array_equal(to_pixels(half), resize_pixels(pixels[68:196, 146:274], (64, 64)))


def test_images_without_a_defect_give_no_window() -> None:
    good = Labelled(np.zeros((50, 60, 3), np.uint8))
    empty = Labelled(good.pixels, (Mark("spot", np.zeros((50, 60), bool)),))
    assert cut_windows([good, empty, tile("spot", 0)], side=16).shape == (1, 3, 16, 16)
    assert cut_windows([good], side=16).shape == (0, 3, 16, 16)


def test_every_defect_of_an_image_has_a_window_and_may_be_chosen_by_type() -> None:
    spot, scratch = tile("spot", 1), tile("scratch", 2)
    both = Labelled(spot.pixels, (*spot.marks, *scratch.marks))
    windows = cut_windows([both], side=16)
    assert torch.equal(windows[:1], cut_windows([spot], side=16))
    assert torch.equal(windows[1:], cut_windows([both], side=16, defect="scratch"))
    assert len(cut_windows([both, spot], side=16, defect="spot")) == 2


def test_describing_does_not_depend_on_the_batch(backbone: Backbone) -> None:
    windows = cut_windows([tile("spot", seed) for seed in range(5)], side=48)
    whole, parts = describe(backbone, windows), describe(backbone, windows, batch_size=2)
    torch.testing.assert_close(whole.pooled, parts.pooled, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.perceptual, parts.perceptual, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.pooled, backbone(windows), rtol=1e-4, atol=1e-5)


# All together


def measures(backbone: Backbone, *kinds: tuple[str, range], seed: int = 0) -> ImageMeasures:
    synthetic, real, few_shot = ([tile(defect, index) for index in numbers] for defect, numbers in kinds)
    return image_measures(backbone, synthetic, real, few_shot, seed)


def test_defects_of_the_same_kind_are_nearer_than_others(backbone: Backbone) -> None:
    real, shots = ("spot", range(20, 30)), ("spot", range(40, 43))
    same = measures(backbone, ("spot", range(10)), real, shots)
    other = measures(backbone, ("scratch", range(10)), real, shots)
    assert other.kid > 3 * abs(same.kid)
    assert other.frechet > 1.5 * same.frechet
    assert other.nearest_few_shot > same.nearest_few_shot > 0
    assert same.nearest_few_shot_real == other.nearest_few_shot_real
    assert same.diversity_real == other.diversity_real
    assert same.diversity == pytest.approx(same.diversity_real, rel=0.3)
    assert (same.backbone, same.synthetic, same.real, same.few_shot) == ("EfficientNet-Lite0", 10, 10, 3)


def test_memorised_defects_are_found_out(backbone: Backbone) -> None:
    shots = ("spot", range(40, 43))
    copied = measures(backbone, shots, ("spot", range(20, 24)), shots)
    assert copied.nearest_few_shot == pytest.approx(0, abs=1e-6)
    assert copied.diversity is None
    assert copied.nearest_few_shot_real > 0.1


def test_the_seed_changes_the_subsets_of_kid_alone(backbone: Backbone) -> None:
    kinds = ("spot", range(4)), ("spot", range(20, 25)), ("spot", range(40, 42))
    first, other = (measures(backbone, *kinds, seed=seed).model_dump() for seed in (1, 2))
    assert {name for name, value in first.items() if value != other[name]} == {"kid", "kid_std"}


def test_too_few_images_leave_measures_out(backbone: Backbone) -> None:
    one = measures(backbone, ("spot", range(1)), ("spot", range(20, 22)), ("spot", range(40, 42)))
    assert (one.kid, one.kid_std, one.frechet, one.diversity) == (None,) * 4
    assert one.nearest_few_shot > 0
    none = image_measures(backbone, [], [Labelled(np.zeros((9, 9, 3), np.uint8))], [])
    counts = {"synthetic": 0, "real": 0, "few_shot": 0, "backbone": backbone.name}
    assert {name: value for name, value in none.model_dump().items() if value is not None} == counts


def test_measures_do_not_change_the_images(backbone: Backbone) -> None:
    images = [tile("spot", index) for index in range(3)]
    before: list[Pixels] = [image.pixels.copy() for image in images]
    image_measures(backbone, images[:1], images, images)
    assert all(np.array_equal(image.pixels, pixels) for image, pixels in zip(images, before, strict=True))
