from __future__ import annotations

import numpy as np
import pytest
from fabricate import defect_mask, texture
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adabldm.core.errors import EmptyMaskError, InputError
from adabldm.core.images import Mask, Pixels
from adabldm.evaluation.mask_truth import LEVEL, SPECK, MaskTruth, changed_pixels, mask_truth

SIZE = (96, 128)


def edited(where: Mask, by: int = 60, seed: int = 0) -> tuple[Pixels, Pixels]:
    """A texture with the pixels of `where` brightened, and the texture."""
    source = texture(SIZE, np.random.default_rng(seed))
    result = source.copy()
    result[where] = np.clip(source[where].astype(int) + by, 0, 255).astype(np.uint8)
    return result, source


def box(top: int, left: int, bottom: int, right: int) -> Mask:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def slow_changed(result: Pixels, source: Pixels) -> Mask:
    """Flood fill over the 8 neighbours."""
    height, width = result.shape[:2]
    differs = {
        (y, x)
        for y, x in np.ndindex(height, width)
        if max(abs(int(a) - int(b)) for a, b in zip(result[y, x], source[y, x], strict=True)) > 8
    }
    kept = np.zeros((height, width), bool)
    while differs:
        piece, edge = set(), {differs.pop()}
        while edge:
            piece |= edge
            edge = {(y + dy, x + dx) for y, x in edge for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & differs
            differs -= edge
        for pixel in piece if len(piece) >= 4 else ():
            kept[pixel] = True
    return kept


@given(arrays(np.uint8, (9, 10, 3), elements=st.sampled_from([100, 104, 109, 90])))
@settings(max_examples=60, deadline=None)
def test_changed_pixels_agree_with_a_flood_fill(result: Pixels) -> None:
    source = np.full_like(result, 100)
    source[:, ::2, 1] = 109
    assert np.array_equal(changed_pixels(result, source), slow_changed(result, source))


@pytest.mark.parametrize("defect", ["spot", "scratch"])
def test_a_mask_that_is_the_change_is_the_truth(defect: str) -> None:
    mask = defect_mask(defect, SIZE, np.random.default_rng(4))
    assert mask_truth(*edited(mask), mask) == MaskTruth(1.0, 1.0, 1.0)


def test_hand_computed_agreement() -> None:
    changed, mask = box(10, 10, 30, 30), box(20, 10, 50, 30)  # 400 and 600 pixels, 200 of them in both
    assert mask_truth(*edited(changed), mask) == MaskTruth(iou=200 / 800, precision=200 / 400, recall=200 / 600)


def test_a_change_beside_the_mask_is_no_agreement() -> None:
    assert mask_truth(*edited(box(10, 10, 20, 20)), box(40, 40, 50, 50)) == MaskTruth(0.0, 0.0, 0.0)


def test_nothing_changed_is_no_truth() -> None:
    result, _ = edited(box(0, 0, 0, 0))
    assert mask_truth(result, result, box(40, 40, 50, 50)) == MaskTruth(0.0, 0.0, 0.0)


def test_the_level_and_the_sign() -> None:
    area = box(10, 10, 20, 20)
    for by in (LEVEL, -LEVEL):
        assert not changed_pixels(*edited(area, by)).any()
    for by in (LEVEL + 1, -LEVEL - 1):
        assert np.array_equal(changed_pixels(*edited(area, by)), area)


def test_a_change_of_one_channel_counts() -> None:
    source = np.full((*SIZE, 3), 100, np.uint8)
    area = box(10, 10, 20, 20)
    for channel in range(3):
        result = source.copy()
        result[area, channel] = 120
        assert np.array_equal(changed_pixels(result, source), area)


def test_hair_thin_scratches_stay_and_specks_go() -> None:
    scratch = np.zeros(SIZE, bool)
    steps = np.arange(40)
    scratch[20 + steps, 30 + steps] = True  # one pixel wide, connected by its corners
    specks = box(5, 5, 6, 5 + SPECK - 1) | box(80, 100, 82, 101) | box(60, 5, 61, 6)
    assert np.array_equal(changed_pixels(*edited(scratch | specks)), scratch)


def test_the_noise_of_a_decoder_is_no_change() -> None:
    mask = box(30, 40, 60, 90)
    result, source = edited(mask)
    noise = np.random.default_rng(0).normal(0, 2.5, result.shape)  # 40 dB
    truth = mask_truth(np.clip(result + np.rint(noise), 0, 255).astype(np.uint8), source, mask)
    assert truth.iou > 0.999


def test_a_mask_that_is_too_large_costs_recall_and_one_too_small_precision() -> None:
    edit = edited(box(30, 40, 60, 90))
    large, small = mask_truth(*edit, box(20, 30, 70, 100)), mask_truth(*edit, box(40, 50, 50, 80))
    assert large.precision == small.recall == 1
    assert large.recall == large.iou == 1500 / 3500
    assert small.precision == small.iou == 300 / 1500


def test_empty_masks_and_other_sizes_are_refused() -> None:
    image = np.zeros((8, 9, 3), np.uint8)
    with pytest.raises(EmptyMaskError, match="empty"):
        mask_truth(image, image, np.zeros((8, 9), bool))
    with pytest.raises(InputError, match=r"\(8, 9, 3\).*\(9, 8\)"):
        mask_truth(image, image, np.ones((9, 8), bool))
    with pytest.raises(InputError, match=r"\(8, 9, 3\).*source \(8, 8, 3\)"):
        mask_truth(image, image[:, :8], np.ones((8, 9), bool))
