"""The real defect in the picture that is edited: where it lands, what it brings and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from fabricate import box, defect_mask, grown, overlap, save, texture
from hypothesis import given, settings
from hypothesis import strategies as st

from adabldm.core.images import Mask, Pixels
from adabldm.core.settings.common import Placement
from adabldm.core.windows import bounding_box
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import open_data_set
from adabldm.editing.look import (
    BROAD,
    EXPOSURES,
    KEPT,
    REACH,
    RIM,
    SURROUNDINGS,
    breadth,
    brightness_around,
    compose,
    lay_over,
    relative_exposure,
    turn_onto,
)
from adabldm.masks.bank import IDENTITY, DefectShape, shape_from_mask, transform
from adabldm.masks.placement import place_from_bank
from adabldm.production.scenes import SceneMaker, SceneOptions

SIZE = (96, 128)
SIDE = 96
SEEDS = st.integers(0, 2**32 - 1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture_of(mask: Mask) -> Pixels:
    """White defect on black."""
    return np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255


def lopsided(where: tuple[int, int] = (30, 40), size: tuple[int, int] = SIZE) -> Mask:
    """A thick comma that no rotation, flip or stretch maps to itself."""
    top, left = where
    mask = box((top, top + 30), (left, left + 14), size) | box((top + 20, top + 30), (left, left + 40), size)
    return mask | box((top, top + 6), (left, left + 24), size)


def disc(radius: int = 20) -> Mask:
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    return np.asarray(rows**2 + columns**2 <= radius**2)


def flat(level: int) -> Pixels:
    return np.full((SIDE, SIDE, 3), level, np.uint8)


# Moving a real defect


def test_a_defect_laid_over_its_own_place_is_the_image_itself() -> None:
    image, mask = texture(SIZE, rng()), defect_mask("spot", SIZE, rng(1))
    assert np.array_equal(lay_over(image, mask, IDENTITY, mask), image)


@pytest.mark.parametrize(("down", "right"), [(0, 9), (-14, -30), (20, 0)])
def test_a_defect_that_is_only_moved_keeps_its_pixels(down: int, right: int) -> None:
    image, mask = texture(SIZE, rng()), lopsided()
    target = np.roll(mask, (down, right), (0, 1))
    moved = lay_over(image, mask, IDENTITY, target)
    assert np.array_equal(moved[target], image[mask])


def laid_overlap(real: Mask, shape: DefectShape, target: Mask) -> float:
    """IoU of the target with the mask's own picture, laid over it; reflections farther away do not count."""
    laid = lay_over(picture_of(real), real, shape.linear, target)[..., 0] > 127
    return overlap(laid & grown(target, 8), target)


@settings(deadline=None, max_examples=60)
@given(SEEDS)
def test_a_turned_scaled_and_flipped_defect_lies_on_its_placed_mask(seed: int) -> None:
    real, draws = lopsided(), rng(seed)
    shape, target, _ = place_from_bank(
        lambda: transform(shape_from_mask(real), draws), np.ones((110, 150), bool), draws
    )
    assert laid_overlap(real, shape, target) > 0.85


@pytest.mark.parametrize("seed", range(8))
def test_a_turned_scratch_two_pixels_wide_lies_on_its_placed_mask(seed: int) -> None:
    real, draws = defect_mask("scratch", SIZE, rng(seed)), rng(seed)
    shape, target, _ = place_from_bank(
        lambda: transform(shape_from_mask(real), draws), np.ones((110, 150), bool), draws
    )
    laid = lay_over(picture_of(real), real, shape.linear, target)[..., 0] > 127
    assert np.count_nonzero(laid & target) > 0.6 * np.count_nonzero(target)
    assert not (laid & grown(target, 5) & ~grown(target, 2)).any()


@pytest.mark.parametrize("policy", ["overlap", "real"])
@settings(deadline=None, max_examples=40)
@given(seed=SEEDS)
def test_a_defect_that_is_cut_off_at_the_object_keeps_its_place(policy: str, seed: int) -> None:
    real, draws, room = lopsided(), rng(seed), box((25, 110), (45, 110), (110, 150))
    placed = place_from_bank(lambda: transform(shape_from_mask(real), draws), room, draws, policy=policy)
    laid = lay_over(picture_of(real), real, placed.shape.linear, placed.mask, placed.middle)[..., 0] > 127
    assert not (placed.mask & ~room).any()
    assert np.count_nonzero(laid & placed.mask) > 0.85 * np.count_nonzero(placed.mask)


@pytest.mark.parametrize("policy", ["overlap", "real"])
def test_scenes_lay_the_whole_real_defect_under_what_is_left_of_its_mask(tmp_path: Path, policy: Placement) -> None:
    draws = rng()
    for index in range(4):
        save(tmp_path / "train" / "good" / f"{index}.png", texture(SIZE, draws) // 3)
    for index, where in enumerate([(20, 0), (66, 30), (30, 88), (0, 50)]):
        mask = lopsided(where)
        save(tmp_path / "train" / "comma" / f"{index}.png", np.maximum(texture(SIZE, draws) // 3, picture_of(mask)))
        save(tmp_path / "ground_truth" / "comma" / f"{index}_mask.png", (mask * 255).astype(np.uint8))
    left = save(tmp_path / "left.png", (box((20, 96), (0, 70)) * 255).astype(np.uint8))
    data_set = open_data_set(tmp_path, ReadOptions(roi=(str(left),)))
    maker = SceneMaker(data_set, "texture", SceneOptions(placement=policy))
    scenes = [maker.draw("comma", 0, int(draws.integers(2**31)), 0) for _ in range(12)]
    cut = [one for one in scenes if np.count_nonzero(one.mask) < 0.95 * np.count_nonzero(one.shape.mask)]
    assert len(cut) > 3
    for one in scenes:
        assert one.reference is not None
        assert (one.reference[one.mask] > 127).mean() > 0.85


@pytest.mark.parametrize("flip", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_a_flipped_defect_is_mirrored_pixel_for_pixel(flip: tuple[int, int]) -> None:
    image, mask = texture(SIZE, rng()), lopsided()
    target = mask[:: flip[1], :: flip[0]]
    laid = lay_over(image, mask, ((flip[0], 0.0), (0.0, flip[1])), target)
    assert np.array_equal(laid[target], image[:: flip[1], :: flip[0]][target])


PLACES = {
    "top": (0, 40),
    "bottom": (66, 40),
    "left": (30, 0),
    "right": (30, 88),
    "top left": (0, 0),
    "bottom right": (66, 88),
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("seed", range(4))
def test_a_defect_at_a_border_stays_there(where: str, seed: int) -> None:
    real, draws = lopsided(PLACES[where]), rng(seed)
    shape, target, _ = place_from_bank(
        lambda: transform(shape_from_mask(real), draws), np.ones((110, 150), bool), draws
    )
    assert set(where.split()) <= {"top", "bottom", "left", "right"}
    assert len(shape.borders) == len(where.split())
    top, left, bottom, right = bounding_box(target)
    touched = {"top": top == 0, "left": left == 0, "bottom": bottom == 110, "right": right == 150}
    assert all(touched[name] for name in shape.borders)
    assert laid_overlap(real, shape, target) > 0.9


@pytest.mark.parametrize("size", [(96, 200), (140, 128), (60, 70)])
@pytest.mark.parametrize("across", [False, True])
def test_a_defect_from_border_to_border_is_stretched_to_the_image(size: tuple[int, int], across: bool) -> None:
    real = box((40, 52), (0, 128)) | box((40, 60), (30, 50)) if across else box((0, 96), (50, 62)) | lopsided((0, 50))
    draws = rng(7)
    shape, target, _ = place_from_bank(lambda: transform(shape_from_mask(real), draws), np.ones(size, bool), draws)
    rows, columns = np.flatnonzero(target.any(1)), np.flatnonzero(target.any(0))
    assert len(columns if across else rows) == size[across]
    assert laid_overlap(real, shape, target) > 0.85


# Onto a mask of the user's own


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_a_real_defect_is_turned_onto_any_mask_that_is_its_own_turned(seed: int) -> None:
    real, draws = lopsided(), rng(seed)
    shape, target, _ = place_from_bank(
        lambda: transform(shape_from_mask(real), draws), np.ones((110, 150), bool), draws
    )
    turned = DefectShape(shape.mask, linear=turn_onto(real, target))
    assert laid_overlap(real, turned, target) > 0.75


@pytest.mark.parametrize("real", [lopsided(), defect_mask("scratch", SIZE, rng(1)), box((40, 52), (10, 120))])
def test_a_mask_that_was_only_moved_is_not_turned(real: Mask) -> None:
    target = np.zeros((140, 180), bool)
    target[20 : 20 + SIZE[0], 30 : 30 + SIZE[1]] = real
    assert turn_onto(real, target) == IDENTITY


def test_a_real_defect_is_scaled_to_the_area_of_the_mask() -> None:
    real, target = disc(10), disc(20)
    (xx, xy), (yx, yy) = turn_onto(real, target)
    assert np.sqrt(xx * yy - xy * yx) == pytest.approx(np.sqrt(target.sum() / real.sum()))


# Exposure


@pytest.mark.parametrize("level", [0, 60, 250])
def test_brightness_is_that_of_the_surroundings_and_never_zero(level: int) -> None:
    pixels, mask = flat(level), disc(10)
    pixels[mask] = 99
    pixels[~grown(mask, SURROUNDINGS)] = 7
    assert brightness_around(pixels, mask) == max(1, level)
    assert brightness_around(flat(level), np.ones((SIDE, SIDE), bool)) == max(1, level), "nothing around it"


def test_exposures_are_ratios_within_a_range() -> None:
    assert relative_exposure(90.0, 60.0) == 1.5
    assert (relative_exposure(1.0, 255.0), relative_exposure(255.0, 1.0)) == EXPOSURES


# Composing


def test_composing_leaves_everything_beyond_the_rim() -> None:
    image, real, mask = texture((SIDE, SIDE), rng(0)), texture((SIDE, SIDE), rng(1)), disc()
    found = compose(image, real, mask)
    beyond = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5) > KEPT + RIM + 1
    assert np.array_equal(found[beyond], image[beyond])
    assert (found[mask] != image[mask]).mean() > 0.5


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
def test_composing_a_picture_with_itself_at_another_exposure_changes_nothing(gain: float) -> None:
    image = np.clip(texture((SIDE, SIDE), rng(0)), 0, 127)
    real = np.rint(image * gain).astype(np.uint8)
    assert np.abs(compose(image, real, disc(), gain).astype(int) - image).max() <= 1 / gain


@pytest.mark.parametrize("step", [-40, 25])
def test_a_difference_of_tone_vanishes_at_the_border_and_the_defect_keeps_its_depth(step: int) -> None:
    """Surroundings that are `step` brighter, and a hole 60 grey levels deep in their middle."""
    mask, hole = disc(30), disc(6)
    real = flat(120 + step)
    real[hole] -= 60
    found = compose(flat(120), real, mask)[..., 0].astype(int)
    edge = grown(mask, KEPT) & ~mask
    assert np.abs(found[edge] - 120).mean() < 0.4 * abs(step)
    middle = step * np.exp(-30 / (SIDE * REACH))
    assert np.abs(found[disc(2)] - (60 + step)).max() <= abs(middle) + 2


def test_the_pixels_beside_the_mask_are_the_real_ones() -> None:
    """A checkerboard under a flat picture: what its tone is corrected by is the same for black and white."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    board = np.where((rows + columns) % 2, 140, 100).astype(np.uint8)
    real, mask = np.repeat(board[..., None], 3, axis=2), disc()
    beside = grown(mask, KEPT) & ~mask
    found = compose(flat(120), real, mask)
    assert np.abs(found.astype(int) - real)[beside].max() <= 5  # the picture itself is 20 grey levels away


# Spots and areas


@pytest.mark.parametrize("side", [40, 96, 200])
@pytest.mark.parametrize("mask", [box((30, 60), (20, 70), (SIDE, SIDE)), box((0, 96), (0, 30), (SIDE, SIDE))])
def test_breadth_is_the_mean_share_of_the_mask_around_its_pixels(mask: Mask, side: int) -> None:
    """Against weights written out pixel by pixel, the mask continued beyond the array's border."""
    deviation = side * BROAD
    reach = int(5 * deviation)
    wide = np.pad(mask, reach, mode="edge").astype(float)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets**2) / (2 * deviation**2))
    weights /= weights.sum()
    columns = np.stack([wide[:, left : left + SIDE] for left in range(2 * reach + 1)], axis=-1) @ weights
    cover = np.stack([columns[top : top + SIDE] for top in range(2 * reach + 1)], axis=-1) @ weights
    assert breadth(mask, side) == pytest.approx(cover[mask].mean(), abs=0.02)


def test_a_spot_has_little_breadth_and_an_area_much() -> None:
    whole, pit, line = np.ones((SIDE, SIDE), bool), disc(3), box((10, 80), (40, 43), (SIDE, SIDE))
    assert breadth(whole, SIDE) == pytest.approx(1)
    assert breadth(disc(40), SIDE) > 0.85
    assert breadth(pit, 400) < 0.05
    assert breadth(line, 400) < 0.1


@pytest.mark.parametrize("side", [SIDE, 4000])
@pytest.mark.parametrize("strength", [0.25, 0.5, 1.5])
def test_strength_scales_all_that_a_spot_changes_and_less_of_an_area(strength: float, side: int) -> None:
    image, real, mask = texture((SIDE, SIDE), rng(0)), texture((SIDE, SIDE), rng(1)), disc()
    real[disc(6)] //= 2
    full = compose(image, real, mask).astype(int) - image
    scaled = compose(image, real, mask, strength=strength, side=side).astype(int) - image
    factor = 1 + (strength - 1) * (1 - breadth(mask, side))
    assert abs(factor - 1) > 0.5 * abs(strength - 1) if side == 4000 else abs(factor - 1) < 0.4 * abs(strength - 1)
    assert np.abs(full).max() > 20
    assert np.abs(scaled - np.clip(factor * full, -image.astype(int), 255 - image.astype(int))).max() <= 1.5


def worn(step: int) -> tuple[Pixels, Pixels, Mask]:
    """A striped picture, a real defect of another tone without stripes, and its mask, which is an area."""
    stripes = np.where(np.arange(SIDE) % 4 < 2, 110, 130).astype(np.uint8)
    image = np.repeat(np.tile(stripes, (SIDE, 1))[..., None], 3, axis=2)
    real, mask = image.copy(), disc(36)
    real[mask] = 120 + step
    return image, real, mask


@pytest.mark.parametrize("step", [-40, 30])
@pytest.mark.parametrize("tone", [-0.5, 0.0, 0.5])
def test_tone_moves_the_mean_of_an_area_and_leaves_its_texture(tone: float, step: int) -> None:
    image, real, mask = worn(step)
    plain, found = (compose(image, real, mask, tone=one).astype(int) for one in (1.0, tone))
    middle = disc(20)
    expected = step * (1 - (1 - tone) * breadth(mask, SIDE))
    assert plain[middle].mean() - 120 == pytest.approx(step, abs=2)
    assert found[middle].mean() - 120 == pytest.approx(expected, abs=3)
    assert found[middle].std() < 3 < image[middle].std()  # the stripes are gone at any tone


@pytest.mark.parametrize("tone", [-1.0, -0.5, 0.0])
def test_an_area_in_the_tone_of_its_surroundings_or_beyond_has_their_light(tone: float) -> None:
    """The picture's light falls off from side to side and the real defect's does not: it is laid in, not doubled."""
    light = np.tile(np.linspace(90, 150, SIDE), (SIDE, 1))
    image = np.repeat(light[..., None], 3, axis=2).astype(np.uint8)
    mask = disc(36)
    real = np.where(mask[..., None], flat(80), flat(120))
    plain, found = (compose(image, real, mask, tone=one)[..., 0].astype(float) - image[..., 0] for one in (1.0, tone))
    middle = disc(20)
    assert np.polyfit(np.nonzero(middle)[1], plain[middle], 1)[0] == pytest.approx(-60 / (SIDE - 1), abs=0.1)
    assert np.polyfit(np.nonzero(middle)[1], found[middle], 1)[0] == pytest.approx(0, abs=0.15)
    assert found[mask].mean() == pytest.approx(plain[mask].mean() * (1 - (1 - tone) * breadth(mask, SIDE)), abs=3)


def test_tone_leaves_the_colour_of_an_area() -> None:
    """A red stain becomes a brighter red one: light acts on all channels alike."""
    image, real, mask = worn(0)
    real[mask] = (130, 60, 80)
    plain, found = (compose(image, real, mask, tone=one).astype(int)[disc(20)].mean(0) for one in (1.0, -1.0))
    assert plain - plain.mean() == pytest.approx(found - found.mean(), abs=2)
    assert found.mean() - 120 == pytest.approx((plain.mean() - 120) * (1 - 2 * breadth(mask, SIDE)), abs=3)


def test_an_area_without_a_tone_of_its_own_keeps_its_edge() -> None:
    """The real defect sets in over some pixels, as lenses show it: where it begins, a lip is left, and no more."""
    _, real, mask = worn(-40)
    real = np.minimum(cv2.GaussianBlur(real, (0, 0), 1.5), 120)
    found = np.abs(compose(flat(120), real, mask, tone=0.0)[..., 0].astype(int) - 120)
    lip = grown(mask, KEPT + RIM + 1) & ~(cv2.erode(mask.astype(np.uint8), np.ones((9, 9))) > 0)
    assert 5 < found[lip].max() < 40
    assert found[disc(20)].max() < 6


def test_tone_leaves_a_spot_as_it_is() -> None:
    image, mask = texture((SIDE, SIDE), rng(0)), disc(4)
    real = image // 2
    plain, found = (compose(image, real, mask, tone=one, side=600).astype(int) for one in (1.0, -0.3))
    assert np.abs(plain[mask] - image[mask]).mean() > 20
    assert np.abs(found - plain).mean() < 0.05 * np.abs(plain - image).max()


def test_a_hole_darker_than_its_new_surroundings_is_clipped_at_black() -> None:
    mask, real = disc(10), flat(30)
    found = compose(flat(5), real, mask, gain=1.0)
    assert found.dtype == np.uint8
    assert (compose(flat(0), flat(0), mask) == 0).all()
    assert found[mask].max() <= 30


def test_a_mask_that_fills_the_window_takes_the_real_picture_as_it_is() -> None:
    real = texture((SIDE, SIDE), rng(1))
    assert np.array_equal(compose(flat(100), real, np.ones((SIDE, SIDE), bool)), real)
