from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fabricate import defect_mask, texture
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adabldm.core.errors import EmptyMaskError, InputError
from adabldm.core.images import Mask, Pixels
from adabldm.core.scores import (
    BEST_PSNR,
    Scores,
    background_psnr,
    contrast,
    defect_fidelity,
    edit_strength,
    score,
    seam,
    visible_change,
)
from adabldm.core.settings.common import Limits
from adabldm.selection.rules import Candidate, first_rejection

PASSING = Scores(background_psnr=45.0, seam=1.1, edit_strength=9.0, visible_change=20.0, contrast=3.0)


def random_case(seed: int) -> tuple[Pixels, Pixels, Mask]:
    """A result, its source and a small mask, anywhere in an image that is larger than the part looked at."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(20, 80)), int(rng.integers(20, 80))
    source = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    result = np.clip(source + rng.integers(-9, 10, source.shape), 0, 255).astype(np.uint8)
    mask = np.zeros(size, bool)
    top, left = int(rng.integers(size[0] - 2)), int(rng.integers(size[1] - 2))
    mask[top : top + 9, left : left + 7] = rng.random(mask[top : top + 9, left : left + 7].shape) < 0.6
    mask[top, left] = True
    return result, source, mask


def slow_seam(result: Pixels, mask: Mask) -> float:
    grey = result.astype(float).sum(axis=2) / 3
    height, width = mask.shape
    pairs = [((y, x), (y + 1, x)) for y in range(height - 1) for x in range(width)]
    pairs += [((y, x), (y, x + 1)) for y in range(height) for x in range(width - 1)]
    crossing = [pair for pair in pairs if mask[pair[0]] != mask[pair[1]]]
    boundary = {pixel for pair in crossing for pixel in pair}
    near = {p for p in np.ndindex(height, width) if any(math.dist(p, q) <= 8 for q in boundary)}
    beside = [(a, b) for a, b in pairs if mask[a] == mask[b] and a in near and b in near]
    across = sum(abs(grey[a] - grey[b]) for a, b in crossing) / len(crossing)
    return float(across / (sum(abs(grey[a] - grey[b]) for a, b in beside) / len(beside)))


def slow_change(result: Pixels, source: Pixels, where: list[tuple[int, ...]]) -> float:
    total = sum(abs(int(result[(*pixel, c)]) - int(source[(*pixel, c)])) for pixel in where for c in range(3))
    return total / (3 * len(where))


def slow_psnr(result: Pixels, source: Pixels, where: list[tuple[int, ...]]) -> float:
    total = sum((int(result[(*pixel, c)]) - int(source[(*pixel, c)])) ** 2 for pixel in where for c in range(3))
    return 10 * math.log10(255**2 / (total / (3 * len(where))))


def slow_texture(source: Pixels, around: list[tuple[int, ...]]) -> float:
    grey = np.pad(source.astype(float).mean(axis=2), 7, mode="reflect")
    detail = [grey[y + 7, x + 7] - grey[y : y + 15, x : x + 15].mean() for y, x in around]
    return float(np.std(detail))


@pytest.mark.parametrize("seed", range(5))
def test_scores_agree_with_plain_loops(seed: int) -> None:
    result, source, mask = random_case(seed)
    inside = [pixel for pixel in np.ndindex(mask.shape) if mask[pixel]]
    outside = [pixel for pixel in np.ndindex(mask.shape) if not mask[pixel]]
    ring = [pixel for pixel in outside if any(math.dist(pixel, other) <= 8 for other in inside)]
    change = slow_change(result, source, inside)
    scores = score(result, source, mask)
    assert scores.background_psnr == pytest.approx(slow_psnr(result, source, outside))
    assert scores.seam == pytest.approx(slow_seam(result, mask))
    assert scores.visible_change == pytest.approx(change)
    assert scores.edit_strength == pytest.approx(change / slow_change(result, source, ring))
    assert scores.contrast == pytest.approx(change / slow_texture(source, [*inside, *ring]))
    assert defect_fidelity(result, source, mask) == pytest.approx(slow_psnr(result, source, inside))


@given(arrays(np.uint8, (7, 6, 3)), arrays(np.uint8, (7, 6, 3)), arrays(np.bool_, (7, 6)), st.booleans())
@settings(max_examples=30, deadline=None)
def test_scores_are_always_finite(result: Pixels, source: Pixels, mask: Mask, full: bool) -> None:
    mask = mask | full
    mask[0, 0] = True
    scores = score(result, source, mask)
    assert all(math.isfinite(value) and value >= 0 for value in vars(scores).values() if value != BEST_PSNR)


def test_hand_computed_psnr() -> None:
    source = np.full((2, 2, 3), 100, np.uint8)
    result = source.copy()
    result[0, 0] = 0  # in the mask: does not count
    result[1, 1, 2] = 103  # 9 over nine values outside
    mask = np.array([[True, False], [False, False]])
    assert background_psnr(result, source, mask) == pytest.approx(20 * math.log10(255))
    assert defect_fidelity(result, source, mask) == pytest.approx(20 * math.log10(2.55))


def test_large_differences_do_not_overflow() -> None:
    mask = np.zeros((700, 900), bool)
    black, white = (np.full((700, 900, 3), value, np.uint8) for value in (0, 255))
    assert background_psnr(black, white, mask) == pytest.approx(0, abs=1e-9)
    assert visible_change(black, white, ~mask) == 255


def test_equal_pixels_get_the_cap() -> None:
    source = np.full((300, 300, 3), 50, np.uint8)
    mask = np.zeros((300, 300), bool)
    mask[:2] = True
    result = source.copy()
    assert background_psnr(result, source, mask) == BEST_PSNR
    assert defect_fidelity(result, source, mask) == BEST_PSNR
    assert background_psnr(result, source, np.ones_like(mask)) == BEST_PSNR
    result[9, 9, 0] = 51  # one grey level in 270,000 values: 102 dB
    assert background_psnr(result, source, mask) == BEST_PSNR


def test_hand_computed_seam() -> None:
    row = np.array([10, 12, 20, 23, 23], np.uint8)  # steps 2 | 8 | 3 0, the mask ends between 12 and 20
    result = np.repeat(row[None, :, None], 3, axis=2)
    mask = np.array([[True, True, False, False, False]])
    assert seam(result, mask) == pytest.approx(8 / ((2 + 3 + 0) / 3))


def test_seam_looks_no_further_than_eight_pixels() -> None:
    result = np.zeros((1, 40, 3), np.uint8)
    result[0, ::2] = 4  # every step is 4
    mask = np.arange(40)[None] < 20  # boundary pixels 19 and 20, so pixels 11 to 28 count
    assert seam(result, mask) == 1
    result[0, 28] = 6  # the pair 27-28 counts, 28-29 does not
    assert seam(result, mask) == pytest.approx(4 / (4 + 2 / 16))
    result[0, 28], result[0, 29] = 4, 9
    assert seam(result, mask) == 1


def test_flat_surroundings_and_a_full_mask_have_a_finite_seam() -> None:
    result = np.full((20, 20, 3), 80, np.uint8)
    mask = np.zeros((20, 20), bool)
    mask[5:9, 5:9] = True
    assert seam(result, mask) == 1
    assert seam(result, np.ones_like(mask)) == 1
    result[mask] = 90
    assert math.isfinite(seam(result, mask))
    assert seam(result, mask) >= 1000


def test_hand_computed_edit_strength() -> None:
    source = np.full((41, 41, 3), 100, np.uint8)
    mask = np.zeros((41, 41), bool)
    mask[20, 20] = True
    result = source.copy()
    result[20, 20] += 30
    assert visible_change(result, source, mask) == 30
    assert edit_strength(result, source, mask) == 30 / 0.25  # exact background: the floor
    result[20, 29] += 200  # nine pixels away: not in the ring
    assert edit_strength(result, source, mask) == 30 / 0.25
    result[:] = source + 2
    result[20, 20] += 28
    assert edit_strength(result, source, mask) == 15


def test_contrast_asks_more_on_rough_surfaces() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((60, 60), bool)
    mask[20:40, 20:40] = True
    flat = np.full((60, 60, 3), 120, np.uint8)
    rough = np.repeat(rng.integers(80, 160, (60, 60, 1), dtype=np.uint8), 3, axis=2)
    edits = [np.where(mask[..., None], image + 10, image).astype(np.uint8) for image in (flat, rough)]
    assert contrast(edits[0], flat, mask) == 10
    assert contrast(edits[1], rough, mask) == pytest.approx(10 / 23, rel=0.1)  # uniform over 80: deviation 23


@pytest.mark.parametrize("defect", ["spot", "scratch"])
def test_an_invisible_edit_has_no_seam_and_a_pasted_constant_has(defect: str) -> None:
    rng = np.random.default_rng(3)
    size = (128, 160)
    source, mask = texture(size, rng), defect_mask(defect, size, rng)
    assert seam(source, mask) == pytest.approx(1, abs=0.25)
    pasted = source.copy()
    pasted[mask] = (255, 0, 0)
    assert seam(pasted, mask) > 5


def test_scores_of_a_big_image_depend_only_on_the_surroundings() -> None:
    rng = np.random.default_rng(1)
    source = rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)
    mask = np.zeros((300, 300), bool)
    mask[140:150, 150:170] = True
    result = source.copy()
    result[mask] //= 2
    result[mask] += 40
    before = score(result, source, mask)
    source[:100] = result[:100] = 7
    assert score(result, source, mask) == before


@pytest.mark.parametrize("seed", range(5))
def test_scores_need_only_the_part_that_changed(seed: int) -> None:
    result, source, mask = random_case(seed)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    changed = slice(rows[0], rows[-1] + 3), slice(max(0, columns[0] - 2), columns[-1] + 1)
    edited = source.copy()
    edited[changed] = result[changed]
    assert score(edited, source, mask, changed) == score(edited, source, mask)
    assert score(edited, source, mask).background_psnr < BEST_PSNR


def test_empty_masks_and_other_sizes_are_refused() -> None:
    image = np.zeros((8, 9, 3), np.uint8)
    with pytest.raises(EmptyMaskError, match="empty"):
        seam(image, np.zeros((8, 9), bool))
    with pytest.raises(InputError, match=r"\(8, 9, 3\).*\(9, 8\)"):
        background_psnr(image, image, np.ones((9, 8), bool))


def candidate(scores: Scores) -> Candidate:
    picture, mask = np.full((8, 8, 3), 120, np.uint8), np.ones((8, 8), bool)
    return Candidate(picture - 60, picture, mask, scores, "scratch")


def test_a_good_result_is_kept() -> None:
    assert first_rejection(candidate(PASSING), Limits()) is None
    assert first_rejection(candidate(PASSING), Limits(max_seam=1.1)) is None


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (
            replace(PASSING, visible_change=1.23),
            "no visible defect: mean change 1.23 grey levels inside the mask, at least 4 expected",
        ),
        (
            replace(PASSING, contrast=0.21),
            "defect lost in the texture: change 0.21 times the texture's deviation, at least 0.5 expected",
        ),
        (
            replace(PASSING, edit_strength=1.5),
            "defect not confined to its mask: change inside 1.5 times that around it, at least 2 expected",
        ),
        (
            replace(PASSING, background_psnr=28.94),
            "background changed: 28.9 dB outside the mask, at least 30 expected",
        ),
        (
            replace(PASSING, seam=2.5),
            "visible seam: step across the mask's boundary 2.5 times those beside it, at most 1.8 expected",
        ),
        (
            replace(PASSING, visible_change=0.0, contrast=0.0, edit_strength=0.0),
            "no visible defect: mean change 0 grey levels inside the mask, at least 4 expected",
        ),
    ],
)
def test_a_rejection_says_the_number_and_the_limit(scores: Scores, reason: str) -> None:
    assert first_rejection(candidate(scores), Limits(max_seam=1.8)) == reason


def test_the_first_rule_that_is_missed_is_named_and_the_rest_are_not_asked() -> None:
    asked: list[str] = []

    def rule(name: str, reason: str | None) -> Callable[[Candidate, Limits], str | None]:
        def check(given: Candidate, limits: Limits) -> str | None:
            assert (given, limits) == (candidate_, Limits())
            asked.append(name)
            return reason

        return check

    candidate_ = candidate(PASSING)
    rules = [rule("a", None), rule("b", "too plain"), rule("c", "too late")]
    assert first_rejection(candidate_, Limits(), rules) == "too plain"
    assert asked == ["a", "b"]
    assert first_rejection(candidate_, Limits(), []) is None
