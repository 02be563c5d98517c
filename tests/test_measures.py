from __future__ import annotations

from dataclasses import astuple
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from adabldm.core.errors import InputError
from adabldm.core.images import Mask
from adabldm.evaluation.measures import (
    PixelMeasures,
    auroc,
    average_precision,
    count,
    iap,
    iap90,
    image_auroc,
    max_f1,
    pixel_measures,
    pro,
)

Map = NDArray[np.float32]
Pixel = tuple[int, int, int]
"""Image, row, column."""


def random_case(seed: int) -> tuple[list[Map], list[Mask]]:
    """Small images of different sizes, some of them free of defects, with few levels below, at and above zero."""
    rng = np.random.default_rng(seed)
    levels = rng.choice([-2.5, -1, -0.0, 0.0, 0.25, 1, 3e6], size=rng.integers(1, 7))
    maps, masks = [], []
    for _ in range(rng.integers(1, 5)):
        size = tuple(rng.integers(1, 9, size=2))
        mask = rng.random(size) < rng.choice([0, 0.2, 0.5])
        scores = rng.choice(levels, size=size) + mask * rng.choice([0, 1])
        maps.append(scores.astype(np.float32))
        masks.append(mask)
    maps.append(np.float32([[levels[0], levels[-1]]]))  # so that there is a defect and a background always
    masks.append(np.array([[True, False]]))
    return maps, masks


def row(*scores: float) -> list[Map]:
    return [np.array([scores], np.float32)]


def mask_row(defects: str) -> list[Mask]:
    """'x' is a defective pixel."""
    return [np.array([[letter == "x" for letter in defects]])]


def slow_regions(masks: list[Mask]) -> list[set[Pixel]]:
    """Connected components, by walking from pixel to pixel over all eight neighbours."""
    left = {(i, y, x) for i, mask in enumerate(masks) for y, x in np.ndindex(mask.shape) if mask[y, x]}
    regions = []
    while left:
        region, edge = set(), [min(left)]
        while edge:
            pixel = edge.pop()
            if pixel in left:
                left.remove(pixel)
                region.add(pixel)
                i, y, x = pixel
                edge += [(i, y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        regions.append(region)
    return regions


def slow_area(curve: list[tuple[float, float]], limit: float) -> float:
    """Trapezoids from left to right up to the limit, over the limit."""
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 < x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
        elif x0 < limit < x1:
            at_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            area += (limit - x0) * (y0 + at_limit) / 2
    return area / limit


def slow_measures(maps: list[Map], masks: list[Mask]) -> PixelMeasures:
    """All measures as they are defined, threshold by threshold over all distinct scores."""
    score = {(i, y, x): float(m[y, x]) for i, m in enumerate(maps) for y, x in np.ndindex(m.shape)}
    regions = slow_regions(masks)
    defective = set[Pixel]().union(*regions)
    background = set(score) - defective
    roc, overlap = [(0.0, 0.0)], [(0.0, 0.0)]
    ap = best_f1 = recall_before = 0.0
    for threshold in sorted(set(score.values()), reverse=True):
        predicted = {pixel for pixel in score if score[pixel] >= threshold}
        recall = len(predicted & defective) / len(defective)
        precision = len(predicted & defective) / len(predicted)
        fpr = len(predicted & background) / len(background)
        roc.append((fpr, recall))
        overlap.append((fpr, sum(len(predicted & region) / len(region) for region in regions) / len(regions)))
        ap += (recall - recall_before) * precision
        recall_before = recall
        if recall:
            best_f1 = max(best_f1, 2 * precision * recall / (precision + recall))
    curve = slow_instance_curve(score, regions)
    interpolated = [max(other for at, other in curve if at >= recall) for recall, _ in curve]
    smallest = min(recall for recall, _ in curve if recall >= 0.9)
    measures = PixelMeasures(
        auroc=slow_area(roc, 1),
        ap=ap,
        pro=slow_area(overlap, 0.3),
        iap=sum(interpolated) / len(regions),
        iap90=max(precision for recall, precision in curve if recall >= smallest),
        f1=best_f1,
    )
    return PixelMeasures(*(100 * value for value in astuple(measures)))


def slow_instance_curve(score: dict[Pixel, float], regions: list[set[Pixel]]) -> list[tuple[float, float]]:
    """Recall and precision at the score of every instance."""
    defective = set[Pixel]().union(*regions)
    instances = [sorted((score[pixel] for pixel in region), reverse=True)[len(region) // 2] for region in regions]
    curve = []
    for threshold in instances:
        recall = sum(other >= threshold for other in instances) / len(instances)
        predicted = [pixel for pixel in score if score[pixel] >= threshold]
        curve.append((recall, sum(pixel in defective for pixel in predicted) / len(predicted)))
    return curve


@pytest.mark.parametrize("seed", range(150))
def test_measures_agree_with_their_definitions(seed: int) -> None:
    maps, masks = random_case(seed)
    assert astuple(pixel_measures(maps, masks)) == pytest.approx(astuple(slow_measures(maps, masks)))


@given(st.integers(min_value=150))
@settings(max_examples=100, deadline=None)
def test_measures_agree_on_cases_that_nobody_chose(seed: int) -> None:
    maps, masks = random_case(seed)
    assert astuple(pixel_measures(maps, masks)) == pytest.approx(astuple(slow_measures(maps, masks)))


@pytest.mark.parametrize("decimals", [1, 8])
def test_pooled_measures_agree_with_scikit_learn(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    masks = [rng.random(size) < 0.03 for size in ((90, 120), (64, 30), (50, 50))]
    masks[2][:] = False
    maps = [np.float32(np.round(rng.normal(size=mask.shape) + mask, decimals)) for mask in masks]
    scores = np.concatenate([values.ravel() for values in maps])
    truth = np.concatenate([mask.ravel() for mask in masks])
    precision, recall, _ = precision_recall_curve(truth, scores)
    f1 = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-9))
    measures = pixel_measures(maps, masks)
    assert measures.auroc == pytest.approx(100 * roc_auc_score(truth, scores))
    assert measures.ap == pytest.approx(100 * average_precision_score(truth, scores))
    assert measures.f1 == pytest.approx(100 * f1)


def test_hand_computed_measures() -> None:
    # Regions {4, 3} and {2} among the background 3, 0, -1, 1, 0; so one background pixel ties with a defective one.
    measures = pixel_measures(row(4, 3, 3, 0, 2, -1, 1, 0), mask_row("xx..x..."))
    assert measures.auroc == pytest.approx(100 * (5 + 4.5 + 4) / 15)  # background pixels beaten, of 3 x 5 pairs
    assert measures.ap == pytest.approx(100 * (1 / 1 + 2 / 3 + 3 / 4) / 3)
    assert measures.f1 == pytest.approx(100 * 6 / 7)  # at 2: three hits, one false alarm, no miss
    # Overlap 1/4 at 4, 1/2 at 3 (FPR 0.2), 1 at 2 (FPR 0.2).
    assert measures.pro == pytest.approx(100 * (0.2 * (1 / 4 + 1 / 2) / 2 + 0.1 * 1) / 0.3)
    # Instance scores 3 and 2; precision 2/3 and 3/4, of which the better one has the higher recall.
    assert measures.iap == pytest.approx(75)
    assert measures.iap90 == pytest.approx(75)


def test_single_measures_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((40, 50)) < 0.1]
    maps = [np.float32(rng.normal(size=(40, 50)) + masks[0])]
    counts = count(maps, masks)
    single = [measure(counts) for measure in (auroc, average_precision, pro, iap, iap90, max_f1)]
    assert single == list(astuple(pixel_measures(maps, masks)))
    assert len(set(single)) == 6


def test_pro_cuts_a_line_at_its_limit() -> None:
    # The only defective pixel ties with two of four: overlap = 2 FPR up to 0.5, 0.6 at 0.3.
    assert pro(count(row(1, 1, 1, 0, 0), mask_row("x...."))) == pytest.approx(100 * 0.3 * 0.6 / 2 / 0.3)


@pytest.mark.parametrize(("worse", "expected"), [(2, 100 * 0.1 / 0.3), (3, 0), (4, 0)])
def test_pro_ignores_what_is_found_at_its_limit_or_later(worse: int, expected: float) -> None:
    scores = [5.0] + [9.0] * worse + [1.0] * (10 - worse)
    assert pro(count(row(*scores), mask_row("x" + "." * 10))) == pytest.approx(expected)


def test_pro_counts_regions_and_auroc_counts_pixels() -> None:
    counts = count(row(9, 9, 9, 0, 1), mask_row("xxx.x"))
    missed = count(row(9, 9, 9, 1, 0), mask_row("xxx.x"))
    assert [pro(counts), auroc(counts)] == pytest.approx([100, 100])
    assert [pro(missed), auroc(missed)] == pytest.approx([50, 75])


@pytest.mark.parametrize(("pixels", "expected"), [(1, 1 / 1), (2, 2 / 3), (3, 2 / 3), (4, 3 / 5)])
def test_score_of_an_instance_lies_at_half_its_pixels(pixels: int, expected: float) -> None:
    # Pixels 9, 8, 7, 6 with a background pixel between each two: the scores are 9, 8, 8, 7.
    counts = count(row(*[9, 8, 7, 6][:pixels], 8.5, 7.5, 6.5), mask_row("x" * pixels + "..."))
    assert [iap(counts), iap90(counts)] == pytest.approx([100 * expected] * 2)


def test_precision_of_an_instance_is_not_worse_than_that_of_a_later_one() -> None:
    falling = count(row(5, 4, 3, 2), mask_row("x..x"))  # precision 1 at recall 1/2, then 2/4
    assert [iap(falling), iap90(falling)] == pytest.approx([75, 50])
    rising = count(row(3, 4, 2, 0, 1), mask_row("x.x.x"))  # 1/2, 2/3, 3/4
    assert [iap(rising), iap90(rising)] == pytest.approx([75, 75])


@pytest.mark.parametrize(("instances", "expected"), [(9, 9 / 17), (10, 1), (11, 1), (20, 1)])
def test_iap90_lets_a_tenth_of_the_instances_go(instances: int, expected: float) -> None:
    # All are found before the background but for the last one, which comes after all of it.
    scores = np.full((1, 2 * instances - 1), 0.5, np.float32)
    scores[0, ::2] = np.arange(instances, 0, -1)
    scores[0, -1] = 0
    counts = count([scores], mask_row(".".join("x" * instances)))
    assert iap90(counts) == pytest.approx(100 * expected)
    assert iap(counts) == pytest.approx(100 * (instances - 1 + instances / (2 * instances - 1)) / instances)


def test_background_at_or_below_zero_is_no_hit() -> None:
    # A product of score and mask is 0 on the background, which a threshold of 0 or less would count as found.
    below = pixel_measures(row(-1, -2, -3), mask_row("x.x"))
    assert below.iap == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert below.iap90 == pytest.approx(100 * 2 / 3)
    zero = pixel_measures(row(0, 0, -1), mask_row("x.."))
    assert [zero.ap, zero.iap, zero.iap90] == pytest.approx([50] * 3)
    assert zero.pro == pytest.approx(100 * 0.3 * 0.6 / 2 / 0.3)


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    scores = np.float32([[3, 2], [1, 0]])
    diagonal = pixel_measures([scores], [np.eye(2, dtype=bool)])
    assert diagonal.iap == pytest.approx(50)  # two regions would have 1 and 2/4
    apart = pixel_measures([np.float32([[3, 2, 0], [1, 1, 1]])], [np.array([[1, 0, 1], [0, 0, 0]], bool)])
    assert apart.iap == pytest.approx(100 * (1 + 2 / 6) / 2)


def test_touching_edges_of_two_images_are_two_regions() -> None:
    scores = [np.float32([[1, 2]]), np.float32([[2, 0], [0, 0]])]
    masks = [np.array([[False, True]]), np.array([[True, False], [True, False]])]
    counts = count(scores, masks)
    assert counts.instances[-1] == 2
    assert counts.overlap.tolist() == pytest.approx([0.75, 1])


def test_defect_free_images_count_as_background() -> None:
    maps, masks = row(3, 1), mask_row("x.")
    assert auroc(count(maps, masks)) == 100
    free = np.float32([[4, 4, 0], [0, 3, 0]])  # two above and one equal, of seven background pixels now
    counts = count([free, *maps, free[:0]], [np.zeros((2, 3), bool), *masks, np.zeros((0, 3), bool)])
    assert counts.all_background == 7
    assert auroc(counts) == pytest.approx(100 * 4.5 / 7)
    assert [average_precision(counts), iap(counts)] == pytest.approx([25, 25])


@given(st.integers(min_value=0))
@settings(max_examples=50, deadline=None)
def test_ignored_pixels_count_for_neither_side(seed: int) -> None:
    """They may have any score, and a map without them has the same measures."""
    maps, masks = random_case(seed)
    rng = np.random.default_rng(seed)
    ignored = [*((rng.random(mask.shape) < 0.3) & ~mask for mask in masks[:-1]), None]
    found = pixel_measures(maps, masks, ignored)
    changed = [
        values if other is None else np.where(other, rng.permuted(values), values)
        for values, other in zip(maps, ignored, strict=True)
    ]
    assert pixel_measures(changed, masks, ignored) == found
    wider = [*maps[:-1], np.float32([[*maps[-1][0], 9e9]])]
    wide_mask, beyond = np.array([[True, False, False]]), np.array([[False, False, True]])
    assert pixel_measures(wider, [*masks[:-1], wide_mask], [*ignored[:-1], beyond]) == found


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-5, -4), (-1, 0), (1e-30, 2e-30), (-3e38, 3e38)])
def test_perfect_prediction_is_100_everywhere_and_its_opposite_finds_nothing(low: float, high: float) -> None:
    rng = np.random.default_rng(2)
    masks = [rng.random((20, 30)) < 0.1, np.zeros((5, 5), bool), rng.random((7, 9)) < 0.4]
    maps = [np.where(mask, high, low).astype(np.float32) for mask in masks]
    assert pixel_measures(maps, masks) == PixelMeasures(100, 100, 100, 100, 100, 100)
    opposite = pixel_measures([-values for values in maps], masks)
    assert opposite.auroc == opposite.pro == 0
    share = sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks)
    assert [opposite.ap, opposite.iap, opposite.iap90] == pytest.approx([100 * share] * 3)


@pytest.mark.parametrize("value", [-2.0, 0.0, 0.7])
def test_constant_prediction_is_chance(value: float) -> None:
    mask = np.zeros((10, 20), bool)
    mask[2:4, 3:8] = mask[6, 6:16] = True  # 20 of 200
    measures = pixel_measures([np.full(mask.shape, value, np.float32)], [mask])
    assert measures.auroc == pytest.approx(50)
    assert [measures.ap, measures.iap, measures.iap90] == pytest.approx([10] * 3)
    assert measures.pro == pytest.approx(100 * 0.3 * 0.3 / 2 / 0.3)
    assert measures.f1 == pytest.approx(100 * 2 * 0.1 / 1.1)


@given(st.integers(min_value=0))
@settings(max_examples=50, deadline=None)
def test_only_the_order_of_the_scores_counts(seed: int) -> None:
    maps, masks = random_case(seed)
    ranks = np.unique(np.concatenate([values.ravel() for values in maps]))
    transformed = [np.exp(np.searchsorted(ranks, values) - 4.0).astype(np.float32) for values in maps]
    assert pixel_measures(transformed, masks) == pixel_measures(maps, masks)


@given(st.integers(min_value=0))
@settings(max_examples=50, deadline=None)
def test_images_may_come_in_any_order_mirrored_and_stay_as_they_are(seed: int) -> None:
    maps, masks = random_case(seed)
    before = [values.copy() for values in (*maps, *masks)]
    mirrored = pixel_measures([values[:, ::-1] for values in maps[::-1]], [mask[:, ::-1] for mask in masks[::-1]])
    assert astuple(mirrored) == pytest.approx(astuple(pixel_measures(maps, masks)))
    for values, old in zip((*maps, *masks), before, strict=True):
        np.testing.assert_array_equal(values, old)


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (row(1, 2), [], "1 maps but 0 masks; give one mask per map"),
        (row(1, 2), mask_row("x.."), r"map 0 has shape \(1, 2\), its mask \(1, 3\); give both HxW"),
        ([np.zeros((1, 2, 2), np.float32)], [np.zeros((1, 2, 2), bool)], r"map 0 has shape \(1, 2, 2\)"),
        (row(1, np.nan), mask_row("x."), "map 0 has the score nan; give finite"),
        (row(1, 2) + row(-np.inf, 1), mask_row("x.") * 2, "map 1 has the score -inf; give finite"),
        (row(1, 2) * 3, mask_row("..") * 3, "none of 3 masks has a defective pixel; add"),
        (row(1, 2) * 2, mask_row("xx") * 2, "none of 2 masks has a background pixel; a mask is True"),
        ([], [], "none of 0 masks has a defective pixel"),
    ],
)
def test_unusable_maps_are_refused(maps: list[Map], masks: list[Mask], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pixel_measures(maps, masks)


def test_all_unusable_maps_are_named_at_once() -> None:
    with pytest.raises(InputError) as refusal:
        count(row(1, np.nan) + row(1, 2) + row(1, 2), mask_row("x.") + mask_row("x.") + mask_row("x"))
    assert [problem[:5] for problem in refusal.value.problems] == ["map 0", "map 2"]


@pytest.mark.parametrize(
    ("scores", "defective", "expected"),
    [
        ([0.1, 0.4, 0.35, 0.8], [False, False, True, True], 75),
        ([-3, -1, 0, 2], [False, False, True, True], 100),
        ([2, 1], [False, True], 0),
        ([5, 5, 5], [True, False, True], 50),
        ([1, 2, 2, 3], [False, True, False, True], 100 * (1 + 0.5 + 1 + 1) / 4),
    ],
)
def test_hand_computed_image_auroc(scores: list[float], defective: list[bool], expected: float) -> None:
    assert image_auroc(scores, defective) == pytest.approx(expected)
    assert image_auroc(np.float32(scores), np.array(defective)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "defective", "message"),
    [
        ([1.0], [True, False], "1 scores for 2 images; give one"),
        ([1.0, np.inf], [True, False], "score 1 is inf; give finite"),
        ([1.0, np.nan, 0.0], [True, False, True], "score 1 is nan; give finite"),
        ([1.0, 2.0], [True, True], "2 of 2 images are defective; image AUROC needs both"),
        ([1.0, 2.0], [False, False], "0 of 2 images are defective; image AUROC needs both"),
        ([], [], "0 of 0 images are defective"),
    ],
)
def test_unusable_image_scores_are_refused(scores: Any, defective: list[bool], message: str) -> None:
    with pytest.raises(InputError, match=message):
        image_auroc(scores, defective)
