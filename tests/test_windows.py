from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from components import ellipse
from fabricate import texture
from hypothesis import given, settings
from hypothesis import strategies as st

from adabldm.core.images import Mask, Pixels, resize_pixels
from adabldm.core.settings import PRESETS
from adabldm.core.windows import CONTEXT, MIN_SIDE, Window, bounding_box, crop, random_window, window_around
from adabldm.editing.cut import for_model, full_window
from adabldm.editing.look import KEPT
from adabldm.editing.putback import CORE, SLIGHT, expose, feather, put_back, unexpose, window_resolution


def some_mask(rng: np.random.Generator, size: tuple[int, int]) -> Mask:
    mask = np.zeros(size, bool)
    top, left = int(rng.integers(size[0])), int(rng.integers(size[1]))
    bottom, right = int(rng.integers(top, size[0])) + 1, int(rng.integers(left, size[1])) + 1
    mask[top, left] = mask[bottom - 1, right - 1] = True
    mask[top:bottom, left:right] |= rng.random((bottom - top, right - left)) < 0.1
    return mask


sizes = st.tuples(st.integers(2, 90), st.integers(2, 90))
seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=40)
@given(
    sizes, st.integers(-70, 60), st.integers(-70, 60), st.integers(1, 120), st.sampled_from(["u1", "f4", "?"]), seeds
)
def test_crop_is_the_reflected_image(
    size: tuple[int, int], top: int, left: int, side: int, kind: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    top, left = min(top, size[0] - 1), min(left, size[1] - 1)
    top, left = max(top, 1 - side), max(left, 1 - side)
    shape = size if kind == "?" else (*size, 3)
    array: Any = rng.integers(0, 2 if kind == "?" else 256, shape).astype(kind)
    before = max(0, -top), max(0, -left)
    after = max(0, top + side - size[0]), max(0, left + side - size[1])
    padding = [(before[0], after[0]), (before[1], after[1])] + [(0, 0)] * (array.ndim - 2)
    padded = np.pad(array, padding, mode="reflect")
    expected = padded[top + before[0] :, left + before[1] :][:side, :side]
    found = crop(array, Window(top, left, side))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, expected)


def test_slices_pair_the_image_with_the_window() -> None:
    inside, own = Window(-3, 5, 10).slices((20, 12))
    assert inside == (slice(0, 7), slice(5, 12))
    assert own == (slice(3, 10), slice(0, 7))


@settings(deadline=None, max_examples=80)
@given(sizes, st.floats(1.0, 4.0), st.integers(1, 80), st.booleans(), seeds)
def test_windows_contain_the_defect(
    size: tuple[int, int], context: float, min_side: int, shifted: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = some_mask(rng, size)
    window = window_around(mask, context=context, min_side=min_side, rng=rng if shifted else None)
    (rows, columns), _ = window.slices(size)
    assert mask[rows, columns].sum() == mask.sum()
    assert 1 <= window.side <= max(size)
    for start, length in ((window.top, size[0]), (window.left, size[1])):
        if window.side <= length:
            assert 0 <= start <= length - window.side
        else:
            assert start <= 0
            assert start + window.side >= length


def test_window_size_follows_the_defect() -> None:
    mask = np.zeros((400, 600), bool)
    mask[200:203, 100:200] = True
    assert window_around(mask) == Window(round(201.5 - 100), 50, round(CONTEXT * 100))
    mask[:] = False
    mask[7, 590] = True
    assert window_around(mask) == Window(0, 600 - MIN_SIDE, MIN_SIDE)
    mask[:] = False
    mask[:, 30] = True
    assert window_around(mask) == Window(-4, 0, 408), "a crack over the whole height: a window that overhangs a little"


def test_random_shifts_move_the_window_and_follow_the_seed() -> None:
    mask = ellipse((300, 300), (150, 150), (20, 30))
    drawn = [window_around(mask, rng=np.random.default_rng(seed)) for seed in range(20)]
    assert drawn == [window_around(mask, rng=np.random.default_rng(seed)) for seed in range(20)]
    assert len({(window.top, window.left) for window in drawn}) > 15


@settings(deadline=None, max_examples=40)
@given(st.tuples(st.integers(2, 300), st.integers(2, 300)), seeds)
def test_random_windows_lie_in_the_image_where_they_can(size: tuple[int, int], seed: int) -> None:
    window = random_window(size, np.random.default_rng(seed))
    assert MIN_SIDE <= window.side <= max(min(size), MIN_SIDE)
    for start, length in ((window.top, size[0]), (window.left, size[1])):
        if window.side <= length:
            assert 0 <= start <= length - window.side
        else:
            assert start == (length - window.side) // 2


@pytest.mark.parametrize("size", [(40, 70), (70, 40), (41, 64), (50, 50)])
def test_the_full_window_holds_the_whole_image(size: tuple[int, int]) -> None:
    window = full_window(size)
    inside, own = window.slices(size)
    assert window.side == max(size)
    assert inside == (slice(0, size[0]), slice(0, size[1]))
    array = np.arange(size[0] * size[1], dtype=np.float32).reshape(size)
    np.testing.assert_array_equal(crop(array, window)[own], array)


def test_bounding_box_is_half_open() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2, 3] = mask[5, 7] = True
    assert bounding_box(mask) == (2, 3, 6, 8)


# Put back


def returned(pixels: Pixels, edited: Pixels, mask: Mask, window: Window, texture: float) -> Pixels:
    """The whole picture with an edited window put back."""
    inside, own = window.slices(mask.shape)
    result = pixels.copy()
    result[inside] = put_back(crop(pixels, window), edited, crop(mask, window), texture=texture)[own]
    return result


def feathered(
    edited: Pixels, source: Pixels, mask: Mask, window: Window, resolution: int, widths: tuple[float, float]
) -> Pixels:
    """The whole picture with the change in a window fading out."""
    inside = window.slices(mask.shape)[0]
    result = edited.copy()
    result[inside] = feather(edited[inside], source[inside], mask[inside], max(1, window.side / resolution), widths)
    return result


@pytest.mark.parametrize("window", [Window(20, 30, 64), Window(-8, 40, 80), Window(-10, -5, 140)])
@pytest.mark.parametrize("resolution", [32, 64, 128])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_an_unchanged_window_gives_the_source_back(window: Window, resolution: int, share: float) -> None:
    """Exactly where all the source's detail is kept; elsewhere the resized picture of the defect remains."""
    pixels = np.random.default_rng(0).integers(0, 256, (110, 130, 3), dtype=np.uint8)
    mask = ellipse((110, 130), (50, 60), (9, 12))
    seen = resize_pixels(crop(pixels, window), (resolution, resolution))
    result = returned(pixels, seen, mask, window, share)
    far = ~ellipse((110, 130), (50, 60), (29, 32)) if share < 1 else np.ones_like(mask)
    assert np.abs(result[far].astype(int) - pixels[far]).max() <= 1
    resized = resolution != window.side
    assert (np.abs(result[mask].astype(int) - pixels[mask]).max() > 1) == (share < 1 and resized)


@pytest.mark.parametrize("window", [Window(20, 30, 64), Window(-8, 90, 80)])
def test_pixels_outside_the_window_are_bit_exact(window: Window) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (110, 130, 3), dtype=np.uint8)
    original = pixels.copy()
    mask = ellipse((110, 130), (50, 100), (9, 12))
    edited = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    result = returned(pixels, edited, mask, window, 0.0)
    outside = np.ones_like(mask)
    outside[window.slices((110, 130))[0]] = False
    np.testing.assert_array_equal(result[outside], pixels[outside])
    assert (result[~outside] != pixels[~outside]).mean() > 0.9
    np.testing.assert_array_equal(pixels, original)


def test_an_edit_at_native_resolution_is_put_back_as_it_is() -> None:
    rng = np.random.default_rng(2)
    pixels, edited = (rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for size in (90, 64))
    result = returned(pixels, edited, ellipse((90, 90), (40, 40), (9, 9)), Window(10, 11, 64), 0.3)
    np.testing.assert_array_equal(result[10:74, 11:75], edited)


def test_a_change_arrives_with_its_colour_and_without_the_detail_below_it() -> None:
    pixels = texture((128, 128), np.random.default_rng(3))
    mask = ellipse((128, 128), (64, 64), (16, 16))
    window = Window(0, 0, 128)
    model = for_model(pixels, np.ones_like(mask), mask, 64)
    seen = model.pixels.copy()
    seen[model.mask] = (10, 20, 200)
    core = ellipse((128, 128), (64, 64), (11, 11))
    flat = returned(pixels, seen, mask, window, 0.0)[core]
    assert np.abs(flat.astype(int) - (10, 20, 200)).max() <= 2
    grained = returned(pixels, seen, mask, window, 1.0)[core]
    assert grained.astype(float).std(axis=0).min() > 2 * flat.astype(float).std(axis=0).max()


# Feather

FAST = PRESETS["fast"].put_back.feather


def slow_share(mask: np.ndarray, deep: float, far: float, parts: list[np.ndarray]) -> np.ndarray:
    """Factor of the change at every pixel, from all distances; `parts` are the two of the mask, nan is between."""
    places = np.argwhere(np.ones_like(mask))
    share = np.zeros(mask.shape)
    depths = []
    for part in parts:
        to_border = [np.hypot(*(np.argwhere(~part) - place).T).min() for place in np.argwhere(part)]
        depths.append(max(to_border))
    for place in places:
        to_part = [np.hypot(*(np.argwhere(part) - place).T).min() for part in parts]
        own = int(np.argmin(to_part))
        inner = min(deep, max(-KEPT, (1 - CORE) * (depths[own] - SLIGHT)))
        if mask[tuple(place)]:
            signed = 0.5 - np.hypot(*(np.argwhere(~mask) - place).T).min()
        else:
            signed = min(to_part) - 0.5
        near, next_ = sorted(to_part)
        share[tuple(place)] = np.nan if next_ - near < 0.5 else np.clip((far - signed) / (inner + far), 0, 1) ** 2
    return share


@pytest.mark.parametrize("widths", [(5.5, 2.0), (2.0, 4.0), (0.0, 2.0), (9.0, 0.5)])
@pytest.mark.parametrize("resolution", [30, 60, 120])
def test_the_change_fades_out_across_the_border(widths: tuple[float, float], resolution: int) -> None:
    thick, thin = ellipse((70, 80), (34, 30), (24, 19)), np.zeros((70, 80), bool)
    thin[12:50, 56:58] = True
    mask = thick | thin
    source, edited = np.full((70, 80, 3), 200, np.uint8), np.full((70, 80, 3), 200, np.uint8)
    window = Window(4, 6, 60)
    inside = window.slices(mask.shape)[0]
    edited[inside] = 0
    result = feathered(edited, source, mask, window, resolution, widths)
    scale = max(1.0, 60 / resolution)
    share = slow_share(mask, widths[0] * (scale - 1) - KEPT, widths[1] * scale + KEPT, [thick, thin])
    found = 1 - result[inside][..., 0] / 200
    assert np.nanmax(np.abs(found - share[inside])) < 0.06  # distances are OpenCV's, good to 2 %
    outside = np.ones_like(mask)
    outside[inside] = False
    assert (result[outside] == 200).all()
    assert found[thin[inside]].max() > 0.5  # a thin part survives


def test_what_lies_beyond_the_feather_is_the_source_bit_for_bit() -> None:
    rng = np.random.default_rng(4)
    source, edited = (rng.integers(0, 256, (90, 90, 3), dtype=np.uint8) for _ in range(2))
    mask = ellipse((90, 90), (45, 45), (14, 14))
    result = feathered(edited, source, mask, Window(0, 0, 90), 45, (3.0, 1.0))  # from 2 px inside to 3 px outside
    np.testing.assert_array_equal(
        result[~ellipse((90, 90), (45, 45), (19, 19))], source[~ellipse((90, 90), (45, 45), (19, 19))]
    )
    core = ellipse((90, 90), (45, 45), (9, 9))
    np.testing.assert_array_equal(result[core], edited[core])


def test_a_defect_at_the_edge_of_the_picture_does_not_fade_there() -> None:
    source, edited = np.full((40, 40, 3), 200, np.uint8), np.zeros((40, 40, 3), np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[:16, 10:30] = True
    result = feathered(edited, source, mask, Window(-10, 0, 40), 20, (4.0, 1.0))
    assert (result[:10, 15:25] == 0).all()
    assert (feathered(edited, source, np.ones_like(mask), Window(0, 0, 40), 20, (4.0, 1.0)) == 0).all()


def test_a_defect_at_native_resolution_keeps_its_sharp_border() -> None:
    source, edited = np.full((90, 90, 3), 200, np.uint8), np.zeros((90, 90, 3), np.uint8)
    mask = ellipse((90, 90), (45, 45), (14, 14))
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((2 * KEPT + 1, 2 * KEPT + 1))) > 0
    for resolution in (90, 180):
        result = feathered(edited, source, mask, Window(0, 0, 90), resolution, (5.5, 2.0))
        assert (result[mask] == 0).all()
        assert (result[~mask & grown] < 60).all()


def test_the_change_falls_gently_at_the_border_and_steeply_inside() -> None:
    """The feather of `fast` on a stain of 40 px in a window that was shrunk to a third."""
    source, edited = np.full((120, 120, 3), 200, np.uint8), np.zeros((120, 120, 3), np.uint8)
    result = feathered(edited, source, ellipse((120, 120), (60, 60), (20, 20)), Window(0, 0, 120), 40, FAST)
    falls = np.diff(result[60, 60:, 0].astype(float))  # from the middle outwards; the mask ends after 20 px
    assert falls.min() >= 0
    assert 0 < 1.3 * falls[20] < falls[10:20].max()
    assert (result[60, 60:73] == 0).all()  # two thirds of the way it is whole


def test_no_feather_leaves_the_edit_as_it_is() -> None:
    source, edited = np.full((40, 40, 3), 200, np.uint8), np.zeros((40, 40, 3), np.uint8)
    assert feather(edited, source, ellipse((40, 40), (20, 20), (8, 8)), 1.0, (0.0, 0.0)) is edited


def test_windows_at_the_model_keep_a_thin_defect_and_join_it_to_the_object() -> None:
    mask = np.zeros((256, 256), bool)
    mask[20:230, 128] = True
    pixels, foreground = texture((256, 256), np.random.default_rng(4)), np.zeros_like(mask)
    model = for_model(pixels, foreground, mask, 32)
    assert model.pixels.shape == (32, 32, 3)
    assert model.mask.any(axis=1)[3:28].all()
    np.testing.assert_array_equal(model.foreground, model.mask)
    np.testing.assert_array_equal(model.pixels, resize_pixels(pixels, (32, 32)))


def test_an_edit_at_another_exposure_comes_back_in_proportion() -> None:
    pixels = np.array([[[200, 100, 10], [250, 0, 60]]], np.uint8)
    exposed = expose(pixels, 2.0)
    assert exposed.tolist() == [[[255, 200, 20], [255, 0, 120]]]  # clipped, so that it cannot simply be divided
    assert np.array_equal(unexpose(exposed, exposed, pixels, 2.0), pixels)
    edited = exposed.copy()
    edited[0, 0] = (155, 240, 20)
    assert unexpose(edited, exposed, pixels, 2.0).tolist() == [[[150, 120, 10], [250, 0, 60]]]
    assert expose(pixels, 1.0) is pixels
    assert unexpose(edited, pixels, pixels, 1.0) is edited


def needed(mask: Mask, resolution: int, finest: int) -> int:
    return window_resolution(crop(mask, window_around(mask)), resolution, finest)


def test_a_thin_defect_gets_the_resolution_that_it_needs() -> None:
    line, blob = np.zeros((400, 400), bool), np.zeros((400, 400), bool)
    line[20:380, 200:204] = True
    blob[100:300, 100:300] = True
    assert needed(blob, 128, 256) == 128
    assert needed(line, 128, 256) == 256  # 4 px of 400 are 1.3 px at 128
    assert needed(line, 64, 512) == 512  # 3 px still at 256; never beyond what is asked for
    assert needed(line, 128, 0) == needed(line, 128, 128) == 128
    small = np.zeros((100, 100), bool)
    small[50, 20:80] = True
    assert needed(small, 128, 512) == 128  # the window has no more pixels than that


def test_one_thick_place_is_enough_for_the_model_s_own_resolution() -> None:
    mask = np.zeros((400, 400), bool)
    mask[20:380, 200:202] = True
    mask[180:220, 180:220] = True
    assert needed(mask, 128, 256) == 128
