"""Synthetic defects without a model: where they land, what they change and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fabricate import box, defect_mask, grown, overlap, texture
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adabldm.core.images import Mask, Pixels
from adabldm.core.windows import bounding_box
from adabldm.evaluation.baselines import (
    ERODED,
    POISSON_RIM,
    copy_paste,
    fill,
    foreign_texture,
    perlin_mask,
    perlin_noise,
    poisson_paste,
)

SIZE = (96, 128)
SEEDS = st.integers(0, 2**32 - 1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Pasting


def test_copy_paste_is_the_patch_inside_the_mask_and_the_image_outside() -> None:
    image, patch, mask = texture(SIZE, rng(0)), texture(SIZE, rng(1)), defect_mask("spot", SIZE, rng(2))
    before = image.copy(), patch.copy()
    pasted = copy_paste(image, patch, mask)
    assert pasted.dtype == np.uint8
    assert np.array_equal(pasted[mask], patch[mask])
    assert np.array_equal(pasted[~mask], image[~mask])
    assert np.array_equal(image, before[0])
    assert np.array_equal(patch, before[1])


MASKS: dict[str, Mask] = {
    "spot": defect_mask("spot", SIZE, rng(3)),
    "scratch": defect_mask("scratch", SIZE, rng(3)),
    "two spots": box((20, 30), (20, 34)) | box((70, 76), (100, 110)),
    "one pixel": box((50, 51), (60, 61)),
    "one pixel in the corner": box((0, 1), (127, 128)),
    "one pixel beside the border": box((50, 51), (1, 2)),
    "at the border": box((80, 96), (60, 90)),
    "in the corner": box((0, 20), (0, 30)),
    "from border to border": box((40, 50), (0, 128)),
    "everything": np.ones(SIZE, np.bool_),
}


def difference(first: Pixels, second: Pixels) -> NDArray[np.int64]:
    """Absolute differences, HxW, of the channel that differs most."""
    return np.abs(first.astype(np.int64) - second).max(axis=2)


@pytest.mark.parametrize("name", MASKS)
def test_an_image_cloned_into_itself_stays_itself(name: str) -> None:
    image = texture(SIZE, rng())
    cloned = poisson_paste(image, image, MASKS[name])
    assert cloned.dtype == np.uint8
    assert cloned.shape == image.shape
    assert difference(cloned, image).max() <= 2


@pytest.mark.parametrize("name", sorted(MASKS.keys() - {"everything"}))
@pytest.mark.parametrize("shift", [-40, 30])
def test_cloning_forgets_how_bright_the_patch_is(name: str, shift: int) -> None:
    """The property of Poisson blending: gradients come from the patch, the level from the image."""
    image = texture(SIZE, rng())
    patch = (image + np.int64(shift)).astype(np.uint8)
    assert difference(patch, image).min() == abs(shift)
    assert difference(poisson_paste(image, patch, MASKS[name]), image).max() <= 2


@pytest.mark.parametrize("name", sorted(MASKS.keys() - {"everything", "from border to border"}))
def test_cloning_leaves_what_lies_beyond_the_rim_alone(name: str) -> None:
    image, patch, mask = texture(SIZE, rng(0)), texture(SIZE, rng(1)), MASKS[name]
    patch[grown(mask, 2)] //= 4  # a defect that is larger than its mask spreads
    before = image.copy(), patch.copy()
    cloned = poisson_paste(image, patch, mask)
    beyond = ~grown(mask, POISSON_RIM + ERODED)
    assert beyond.any()
    assert np.array_equal(cloned[beyond], image[beyond])
    assert np.array_equal(image, before[0])
    assert np.array_equal(patch, before[1])


@pytest.mark.parametrize("name", sorted(MASKS.keys() - {"everything", "from border to border"}))
def test_a_cloned_defect_is_as_dark_against_its_surroundings_as_the_real_one(name: str) -> None:
    """On even grounds of different brightness copying takes the level over, cloning the contrast."""
    mask = MASKS[name]
    image, patch = np.full((*SIZE, 3), 180, np.uint8), np.full((*SIZE, 3), 110, np.uint8)
    patch[mask] = 50
    cloned = poisson_paste(image, patch, mask)
    assert np.all(copy_paste(image, patch, mask)[mask] == 50)
    assert np.abs(cloned[mask].astype(np.int64) - 120).max() <= 8
    ring = grown(mask, POISSON_RIM) & ~mask
    assert np.abs(cloned[ring].astype(np.int64) - 180).max() <= 8


def test_grey_images_stay_grey() -> None:
    image, patch = (np.repeat(texture(SIZE, rng(seed))[..., :1], 3, axis=2) for seed in (0, 1))
    cloned = poisson_paste(image, patch, MASKS["spot"])
    assert (cloned == cloned[..., :1]).all()
    assert not np.array_equal(cloned, image)


# Perlin noise


def slow_noise(size: tuple[int, int], cells: tuple[int, int], seed: int) -> NDArray[np.float64]:
    """Gradient noise, pixel by pixel."""
    angles = rng(seed).uniform(0, 2 * np.pi, (cells[0] + 1, cells[1] + 1))
    noise = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = i * cells[0] / size[0], j * cells[1] / size[1]
            corners = {}
            for row in (int(y), int(y) + 1):
                for column in (int(x), int(x) + 1):
                    gradient = np.cos(angles[row, column]), np.sin(angles[row, column])
                    corners[row - int(y), column - int(x)] = gradient[0] * (x - column) + gradient[1] * (y - row)
            u, v = x % 1, y % 1
            u, v = 6 * u**5 - 15 * u**4 + 10 * u**3, 6 * v**5 - 15 * v**4 + 10 * v**3
            above = corners[0, 0] + u * (corners[0, 1] - corners[0, 0])
            below = corners[1, 0] + u * (corners[1, 1] - corners[1, 0])
            noise[i, j] = np.sqrt(2) * (above + v * (below - above))
    return noise


@pytest.mark.parametrize(
    ("size", "cells"), [((24, 30), (3, 5)), ((17, 40), (2, 2)), ((8, 8), (1, 4)), ((9, 7), (4, 3))]
)
@pytest.mark.parametrize("seed", range(3))
def test_noise_is_that_of_a_slow_loop(size: tuple[int, int], cells: tuple[int, int], seed: int) -> None:
    noise = perlin_noise(size, cells, rng(seed))
    assert noise.shape == size
    assert noise == pytest.approx(slow_noise(size, cells, seed), abs=1e-12)


def test_noise_is_zero_on_the_lattice_and_nowhere_steep() -> None:
    noise = perlin_noise((160, 200), (4, 5), rng())
    assert noise[::40, ::40] == pytest.approx(np.zeros((4, 5)), abs=1e-12)
    assert max(np.abs(np.diff(noise, axis=axis)).max() for axis in (0, 1)) < 0.15  # a cell is 40 px
    assert noise.std() > 0.1


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.integers(1, 6), st.integers(1, 6))
def test_noise_lies_between_minus_one_and_one_and_depends_on_the_generator_alone(
    seed: int, rows: int, columns: int
) -> None:
    noise = perlin_noise((48, 36), (rows, columns), rng(seed))
    assert np.abs(noise).max() <= 1 + 1e-12
    assert np.array_equal(noise, perlin_noise((48, 36), (rows, columns), rng(seed)))
    assert not np.array_equal(noise, perlin_noise((48, 36), (rows, columns), rng(seed + 1)))


@st.composite
def placed_masks(draw: Callable[..., int]) -> tuple[Mask, Mask]:
    """A mask of one to many pixels, and an object that holds at least some of it."""
    size = draw(st.integers(16, 60)), draw(st.integers(16, 60))
    draws = rng(draw(SEEDS))
    top, left = (int(draws.integers(side)) for side in size)
    height, width = int(draws.integers(1, 30)), int(draws.integers(1, 30))
    mask = box((top, top + height), (left, left + width), size) & (draws.uniform(size=size) < draws.uniform(0.3, 1))
    mask[top, left] = True
    start = int(draws.integers(size[1]))
    return mask, mask | box((0, size[0]), (start, size[1]), size) if draws.integers(2) else np.ones(size, np.bool_)


@settings(deadline=None, max_examples=150)
@given(placed_masks(), SEEDS)
def test_a_noise_mask_has_the_placed_masks_area_and_lies_near_it_on_the_object(
    masks: tuple[Mask, Mask], seed: int
) -> None:
    placed, foreground = masks
    mask = perlin_mask(placed, foreground, rng(seed))
    assert (mask.dtype, mask.shape) == (np.bool_, placed.shape)
    assert np.count_nonzero(mask) == np.count_nonzero(placed) > 0
    assert not (mask & ~foreground).any()
    top, left, bottom, right = bounding_box(placed)
    reach = max(bottom - top, right - left) // 4 + 1
    near = grown(box((top, bottom), (left, right), placed.shape), reach)
    assert not (mask & ~near).any()
    assert np.array_equal(mask, perlin_mask(placed, foreground, rng(seed)))


def test_noise_masks_differ_from_the_placed_mask_and_from_each_other() -> None:
    placed, everywhere = box((30, 60), (40, 80)), np.ones(SIZE, np.bool_)
    masks = [perlin_mask(placed, everywhere, rng(seed)) for seed in range(10)]
    assert all(overlap(mask, placed) < 0.95 for mask in masks)
    assert all(overlap(masks[0], mask) < 0.95 for mask in masks[1:])


# Foreign textures


@pytest.mark.parametrize("size", [(96, 128), (40, 200), (150, 30)])
def test_a_foreign_texture_has_the_wanted_size_and_leaves_its_origin_alone(size: tuple[int, int]) -> None:
    other = texture(SIZE, rng())
    before = other.copy()
    for seed in range(12):  # every operation of the list has its turn
        made = foreign_texture(other, size, rng(seed))
        assert (made.shape, made.dtype) == ((*size, 3), np.uint8)
    assert np.array_equal(other, before)


def test_a_foreign_texture_depends_on_the_generator_alone_and_is_unlike_its_origin() -> None:
    other = texture(SIZE, rng())
    made = [foreign_texture(other, SIZE, rng(seed)) for seed in range(12)]
    again = [foreign_texture(other, SIZE, rng(seed)) for seed in range(12)]
    assert all(np.array_equal(first, second) for first, second in zip(made, again, strict=True))
    assert all(not np.array_equal(one, other) for one in made)
    assert len({one.tobytes() for one in made}) == 12


def test_filling_mixes_inside_the_mask_and_rounds() -> None:
    image = np.array([[[100, 0, 255], [10, 20, 30]]], np.uint8)
    foreign = np.array([[[200, 255, 0], [90, 90, 90]]], np.uint8)
    mask = np.array([[True, False]])
    expected = {0.0: [100, 0, 255], 0.25: [125, 64, 191], 0.3: [130, 76, 178], 1.0: [200, 255, 0]}
    for opacity, pixel in expected.items():
        assert fill(image, foreign, mask, opacity).tolist() == [[pixel, [10, 20, 30]]]
    assert fill(image, foreign, mask, 0.5).dtype == np.uint8
