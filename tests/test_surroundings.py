"""Places like those of real defects."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import GENERATE, contents, run_command
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adabldm.core.errors import InputError
from adabldm.core.images import Pixels
from adabldm.core.samples import DataSet
from adabldm.core.settings import GenerateSettings
from adabldm.data.inspection import open_data_set
from adabldm.masks.bank import shape_from_mask, warped
from adabldm.masks.placement import PlacementError
from adabldm.masks.surroundings import (
    Habits,
    RealDefect,
    choose_place,
    learn_habits,
    scattered,
    show_one_place,
    told_apart,
)
from adabldm.production.scenes import SceneMaker, SceneOptions

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from placement import fabricate_plates, possible_on_plate

HABITS = Habits(usual=0.05, good_enough=0.07)


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Plates with chips at their edges."""
    return open_data_set(fabricate_plates(tmp_path_factory.mktemp("plates") / "plates", good=6, chipped=6))


def test_chips_are_placed_at_edges_and_elsewhere_today(plates: DataSet) -> None:
    shares = {}
    for policy in ("anywhere", "like-real"):
        maker = SceneMaker(plates, "texture", SceneOptions(placement=policy))  # type: ignore[arg-type]
        scenes = [maker.draw("chip", 0, index, 0) for index in range(6)]
        shares[policy] = np.mean([possible_on_plate("chip", one.picture.pixels, one.mask) for one in scenes])
        if policy == "like-real":
            assert len({one.path for one in scenes}) > 2
            assert len({one.mask.tobytes() for one in scenes}) == len(scenes)
    assert shares["anywhere"] < 0.5
    assert shares["like-real"] >= 0.95


def test_every_real_defect_is_used_not_only_those_that_fit_best(plates: DataSet) -> None:
    maker = SceneMaker(plates, "texture", SceneOptions(placement="like-real"))
    used = Counter(maker.draw("chip", 5, index, 0).shape.source for index in range(18))
    assert len(used) == len(maker.banks["chip"].shapes) == 6
    assert max(used.values()) <= 8


def test_large_shapes_are_compared_in_smaller_pictures() -> None:
    """A shape is put where its surroundings are, though they are compared at a quarter of the size."""
    rng = np.random.default_rng(0)
    pixels = cv2.GaussianBlur(rng.integers(0, 256, (300, 320, 3)).astype(np.uint8), (0, 0), 12)
    mask = np.zeros((300, 320), np.bool_)
    mask[100:190, 130:230] = True
    real, shape = RealDefect(pixels, mask, ~cv2_grown(mask)), shape_from_mask(mask)
    habits = learn_habits([(lambda: real, shape)], [pixels], registered=False)
    choice = choose_place(pixels, np.ones_like(mask), [(real, shape)], habits, np.random.default_rng(0))
    y, x = (float(values.mean()) for values in np.nonzero(choice.mask))
    assert np.hypot(y - 144.5, x - 179.5) < 6


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_part_around_a_defect_holds_all_that_is_near(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = tuple(int(one) for one in rng.integers(20, 90, 2))
    mask = np.zeros(size, np.bool_)
    top, left = (int(rng.integers(one - 6)) for one in size)
    mask[top : top + int(rng.integers(1, 7)), left : left + int(rng.integers(1, 7))] = True
    pixels, reach = rng.integers(0, 256, (*size, 3)).astype(np.uint8), float(rng.uniform(8, 60))
    part, (x, y) = RealDefect(pixels, mask, ~mask).around(reach)
    assert part.mask.sum() == mask.sum()
    height, width = part.mask.shape
    assert np.array_equal(part.pixels, pixels[y : y + height, x : x + width])
    middle = [(values.min() + values.max()) / 2 for values in np.nonzero(mask)]
    for start, end, at, side in ((y, y + height, middle[0], size[0]), (x, x + width, middle[1], size[1])):
        assert start <= max(0, at - reach)
        assert end >= min(side, at + reach)


def test_auto_follows_where_places_matter_and_enough_are_known(plates: DataSet, data: Path) -> None:
    assert SceneMaker(plates, "texture", SceneOptions(may_follow=True)).follows("chip")
    assert not SceneMaker(plates, "texture", SceneOptions()).follows("chip"), "as bench, and the published presets"
    assert not SceneMaker(plates, "texture", SceneOptions(placement="anywhere", may_follow=True)).follows("chip")
    assert not SceneMaker(plates, "texture", SceneOptions(masks="procedural", may_follow=True)).follows("chip")
    few = SceneMaker(open_data_set(data), "texture", SceneOptions(may_follow=True))
    assert not any(few.follows(defect) for defect in few.data_set.types)
    assert few.told_apart("spot") == 0.5


def test_a_scene_depends_on_its_keys_alone(plates: DataSet) -> None:
    def scene(maker: SceneMaker) -> tuple[bytes, str, float]:
        one = maker.draw("chip", 3, 1, 0)
        return one.mask.tobytes(), one.path, one.cost

    options = SceneOptions(placement="like-real")
    used = SceneMaker(plates, "texture", options)
    for index in range(1):
        used.draw("chip", 9, index, 0)
    assert scene(used) == scene(SceneMaker(plates, "texture", options))


def stripes(angle: float) -> Pixels:
    """Bright bands of 20 px on dark ground, 160 px apart, at an angle in degrees."""
    rows, columns = np.mgrid[:160, :160]
    turned = np.cos(np.deg2rad(angle)) * rows - np.sin(np.deg2rad(angle)) * columns
    grey = np.where(np.abs(turned - 80 * np.cos(np.deg2rad(angle)) + 80 * np.sin(np.deg2rad(angle))) < 10, 200, 40)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("angle", [0, 90])
def test_a_cut_across_a_band_is_put_across_a_band_again(angle: int) -> None:
    pixels = stripes(0)
    mask = np.zeros((160, 160), np.bool_)
    mask[69:91, 60:66] = True  # it is as long as the band is wide
    real = RealDefect(np.where(mask[..., None], 40, pixels).astype(np.uint8), mask, ~cv2_grown(mask))
    shape = shape_from_mask(mask, "cut")
    shapes = [(real, shape), (real, warped(shape, 90.0, (1.0, 1.0)))]
    picture, room = stripes(angle), np.ones((160, 160), np.bool_)
    habits = learn_habits([(lambda: real, shape)], [picture], registered=False)
    for seed in range(4):
        choice = choose_place(picture, room, shapes, habits, np.random.default_rng(seed))
        band = picture[..., 0] > 100
        assert band[choice.mask].mean() > 0.85
        height, width = choice.shape.mask.shape
        assert (height > width) == (angle == 0), "it is turned with the band"
        assert choice.cost < 0.2


def cv2_grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_place_lies_in_the_room_with_all_of_its_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (70, 90, 3)).astype(np.uint8)
    mask = np.zeros((70, 90), np.bool_)
    mask[20 : 24 + int(rng.integers(12)), 30 : 34 + int(rng.integers(12))] = True
    room = np.zeros((70, 90), np.bool_)
    room[10:60, 10 : 45 + int(rng.integers(30))] = True
    real = RealDefect(pixels, mask, ~cv2_grown(mask))
    choice = choose_place(pixels, room, [(real, shape_from_mask(mask))], HABITS, rng, scales=(0.85, 1.15))
    assert choice.mask.any()
    assert not (choice.mask & ~room).any()
    assert choice.cost >= 0
    placed = scattered(shape_from_mask(mask), room, rng, tries=500)
    assert placed is not None
    assert not (placed & ~room).any()
    assert placed.sum() == mask.sum()


def test_a_defect_that_fits_nowhere_is_refused() -> None:
    pixels, mask = np.full((60, 60, 3), 90, np.uint8), np.zeros((60, 60), np.bool_)
    mask[10:40, 10:40] = True
    real, room = RealDefect(pixels, mask, ~mask), np.zeros((60, 60), np.bool_)
    room[5:20, 5:20] = True
    with pytest.raises(PlacementError, match="fits on the object"):
        choose_place(pixels, room, [(real, shape_from_mask(mask, "hole.png"))], HABITS, np.random.default_rng(0))
    assert scattered(shape_from_mask(mask), room, np.random.default_rng(0)) is None


def test_pictures_of_one_place_are_told_from_others() -> None:
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.integers(0, 256, (64, 80, 3)).astype(np.uint8), (0, 0), 6)
    alike = [np.clip(scene.astype(int) + rng.integers(-4, 5, scene.shape), 0, 255).astype(np.uint8) for _ in range(4)]
    others = [cv2.GaussianBlur(rng.integers(0, 256, (64, 80, 3)).astype(np.uint8), (0, 0), 6) for _ in range(4)]
    assert show_one_place(alike)
    assert not show_one_place(others)
    assert not show_one_place(alike[:1])


def test_surroundings_are_told_apart_by_all_but_themselves() -> None:
    rng = np.random.default_rng(0)
    same = [rng.normal(size=(12, 6)), rng.normal(size=(40, 6))]
    assert 0.3 < told_apart(*same) < 0.7
    assert told_apart(same[0] + 5, same[1]) > 0.98


def test_near_the_real_places_where_pictures_show_one_place() -> None:
    pixels = np.full((160, 200, 3), 120, np.uint8) + np.random.default_rng(0).integers(0, 9, (160, 200, 3), np.uint8)
    mask = np.zeros((160, 200), np.bool_)
    mask[30:40, 150:162] = True
    real, shape = RealDefect(pixels, mask, ~cv2_grown(mask)), shape_from_mask(mask)
    habits = learn_habits([(lambda: real, shape)], [pixels], registered=True)
    for seed in range(4):
        choice = choose_place(pixels, np.ones_like(mask), [(real, shape)], habits, np.random.default_rng(seed))
        y, x = (float(values.mean()) for values in np.nonzero(choice.mask))
        assert np.hypot(y - 34.5, x - 155.5) < 25


def test_placement_on_the_command_line(run: Path, data: Path, generated: Path, tmp_path: Path) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    for out, policy in ((same, "anywhere"), (other, "like-real")):
        options = ("generate", run, "--data", data, "--out", out, *GENERATE, "--placement", policy)
        assert run_command(*options) == 0
    assert json.loads((same / "settings.json").read_text())["placement"] == "auto"
    assert contents(same)["manifest.jsonl"] == contents(generated)["manifest.jsonl"]
    assert json.loads((other / "settings.json").read_text())["placement"] == "like-real"
    assert contents(other)["manifest.jsonl"] != contents(generated)["manifest.jsonl"]


def test_a_name_that_is_no_policy_is_refused(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="like-real"):
        GenerateSettings.create(run=str(run), data=data, out=tmp_path, count=1, placement="alike")
