"""What is varied of defects: the rules as they are written, shapes that keep to them, places beside other defects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fabricate import box, grown, save, write_data_set
from hypothesis import given
from hypothesis import strategies as st

from adabldm.core.settings.common import Recipe
from adabldm.core.settings.problems import SettingsError
from adabldm.core.settings.variation import VariationSettings
from adabldm.data.inspection import open_data_set
from adabldm.masks.bank import DefectShape, extent, transform, warp_mask
from adabldm.masks.direction import local_direction, main_axis
from adabldm.masks.placement import POLICIES, PlacementError, place
from adabldm.production.scenes import GAP, SceneMaker, SceneOptions


@pytest.mark.parametrize(
    ("field", "texts", "expected"),
    [
        ("per_image", ["2"], (2, 2)),
        ("per_image", ["1-4", "spot=3"], (3, 3)),
        ("per_image", ["spot=3", "1-4", "scratch=1"], (3, 3)),
        ("per_image", 3, (3, 3)),
        ("per_image", {"spot": "1-2", "scratch": 9}, (1, 2)),
        ("size", ["20-60px"], ("px", 20, 60)),
        ("size", ["5-7.5%", "6px", "scratch=1px"], ("px", 6, 6)),
        ("turn", ["free"], (0, 360)),
        ("turn", ["none"], (0, 0)),
        ("turn", ["15"], (-15, 15)),
        ("turn", ["real±7.5"], (-7.5, 7.5)),
        ("flips", ["scratch=none"], "both"),
        ("flips", ["vertical"], "vertical"),
        ("contrast", ["0.5-1.5"], (0.5, 1.5)),
        ("contrast", ["spot=2"], (2, 2)),
    ],
)
def test_rules_are_read_by_type(field: str, texts: object, expected: object) -> None:
    found = VariationSettings.create({field: texts}).variation("spot")
    shown = {
        "per_image": found.number,
        "size": None if found.size is None else (found.size.unit, found.size.low, found.size.high),
        "turn": found.angles,
        "flips": found.flips,
        "contrast": found.contrast,
    }
    assert shown[field] == expected
    assert VariationSettings().variation("spot").angles == (0, 360)
    assert VariationSettings().decisive_variation() == {}
    assert list(VariationSettings.create({field: texts}).decisive_variation()) == [field]


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("per_image", "0", "1-4"),
        ("per_image", "4-2", "1-4"),
        ("per_image", "many", "1-4"),
        ("size", "20-60", "20-60px"),
        ("size", "scratch=60-20px", "20-60px"),
        ("size", "0px", "20-60px"),
        ("turn", "181", "degrees"),
        ("turn", "left", "free, none, along"),
        ("flips", "yes", "both, horizontal"),
        ("contrast", "0", "0.8-1.3"),
        ("contrast", "=1", "0.8-1.3"),
    ],
)
def test_rules_that_cannot_be_read_are_refused_with_an_example(field: str, text: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        VariationSettings.create({field: [text]})
    (problem,) = caught.value.fields
    assert problem.field == field
    assert text in problem.message
    assert expected in problem.message


def test_rules_for_types_that_are_not_made_are_refused() -> None:
    settings = VariationSettings.create({"size": ["spot=3px", "dent=4px"], "turn": ["crack=none"]})
    with pytest.raises(SettingsError) as caught:
        settings.check_types(["spot", "scratch"])
    assert [one.field for one in caught.value.fields] == ["size", "turn"]
    assert "expected one of spot, scratch" in str(caught.value)


def bar(length: int, angle: float) -> np.ndarray:
    return warp_mask(np.ones((3, length), np.bool_), angle, (1.0, 1.0))


@given(angle=st.integers(0, 180), length=st.integers(8, 60))
def test_the_extent_does_not_depend_on_the_angle(angle: int, length: int) -> None:
    assert extent(bar(length, angle)) == pytest.approx(np.hypot(length - 1, 2) + 1, abs=2.5)


@given(seed=st.integers(0, 999), flips=st.sampled_from(["both", "horizontal", "vertical", "none"]))
def test_shapes_are_mirrored_in_the_allowed_ways_only(seed: int, flips: str) -> None:
    mask = np.array([[1, 1, 1], [1, 0, 0]], np.bool_)
    shape = transform(DefectShape(mask), np.random.default_rng(seed), angles=(0, 0), scale=(1, 1), flips=flips)  # type: ignore[arg-type]
    ways = {"none": [mask], "horizontal": [mask, mask[:, ::-1]], "vertical": [mask, mask[::-1]]}
    allowed = ways.get(flips, [mask, mask[:, ::-1], mask[::-1], mask[::-1, ::-1]])
    assert any(np.array_equal(shape.mask, one) for one in allowed)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_part_of_a_mask_covers_what_is_taken(policy: str) -> None:
    shape = DefectShape(np.ones((9, 14), np.bool_), origin=(0.4, 0.5), image_size=(96, 128))
    everything = np.ones((96, 128), np.bool_)
    taken = box((42, 60), (0, 128)) | box((0, 96), (90, 100))
    for seed in range(40):
        mask = place(shape, everything, np.random.default_rng(seed), policy=policy, taken=taken)
        assert mask.any()
        assert not (mask & taken).any()
    with pytest.raises(PlacementError):
        place(shape, everything, np.random.default_rng(0), policy=policy, taken=box((3, 93), (0, 128)))


def stripes(angle: float) -> np.ndarray:
    """Lines at an angle from the x axis towards the y axis, uint8 HxWx3."""
    rows, columns = np.mgrid[:96, :128]
    across = np.cos(np.deg2rad(angle)) * rows - np.sin(np.deg2rad(angle)) * columns
    return np.repeat((128 + 60 * np.sin(across / 1.7))[..., None], 3, axis=2).astype(np.uint8)


def apart(first: float, second: float) -> float:
    """Degrees between two directions without a sense."""
    return abs((first - second + 90) % 180 - 90)


@given(angle=st.integers(-90, 90))
def test_the_direction_of_lines_is_found_beside_the_defect(angle: int) -> None:
    pixels = stripes(angle)
    mask = box((40, 56), (50, 70))
    pixels[mask] = 255
    found = local_direction(pixels, mask)
    assert found is not None
    assert apart(found, angle) < 2
    assert local_direction(np.full((96, 128, 3), 90, np.uint8), mask) is None
    # `warp_mask` turns counter-clockwise, directions go from x towards y.
    assert apart(main_axis(bar(40, -angle)), angle) < 3


def test_an_edge_of_the_object_does_not_outweigh_the_grain_beside_it() -> None:
    pixels = (stripes(90) // 4 + 100).astype(np.uint8)  # faint grain, upright
    pixels[:30] = 0  # the object ends above the defect
    found = local_direction(pixels, box((40, 56), (50, 70)))
    assert found is not None
    assert apart(found, 90) < 10


@pytest.fixture(scope="module")
def striped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Striped sources at several angles; the real scratches run along the lines."""
    root = write_data_set(tmp_path_factory.mktemp("striped") / "set", good=1, defects={"scratch": 2, "spot": 1})
    for index, angle in enumerate((0, 35, 90, -50)):
        save(root / "train" / "good" / f"{index:03d}.png", stripes(angle))
    for index, angle in enumerate((20, 75)):
        mask = np.zeros((96, 128), np.bool_)
        line = bar(36, -angle)
        top, left = 48 - line.shape[0] // 2, 64 - line.shape[1] // 2
        mask[top : top + line.shape[0], left : left + line.shape[1]] = line
        pixels = stripes(angle)
        pixels[mask] = 240
        save(root / "train" / "scratch" / f"{index:03d}.png", pixels)
        save(root / "ground_truth" / "scratch" / f"{index:03d}_mask.png", mask.astype(np.uint8) * 255)
    return root


@pytest.mark.parametrize(("masks", "placement"), [("bank", "auto"), ("procedural", "auto"), ("bank", "like-real")])
def test_defects_are_turned_along_the_surface(striped: Path, masks: str, placement: str) -> None:
    vary = VariationSettings.create({"turn": ["scratch=along"], "size": ["scratch=24-34px"]})
    recipes = {"scratch": [Recipe(kind="scratch")]}
    options = SceneOptions(masks=masks, recipes=recipes, placement=placement, vary=vary)  # type: ignore[arg-type]
    maker = SceneMaker(open_data_set(striped), "texture", options)
    off, lengths = [], []
    for index in range(8 if placement == "like-real" else 16):
        scene = maker.draw("scratch", 0, index, 0)
        angle = {"000": 0, "001": 35, "002": 90, "003": -50}[Path(scene.path).stem]
        off.append(apart(main_axis(scene.mask), angle))
        lengths.append(extent(scene.mask))
    assert np.median(off) < 6
    assert min(lengths) >= 20
    assert max(lengths) <= 38
    assert max(lengths) - min(lengths) > 3


@pytest.mark.parametrize(("rule", "low", "high"), [("8-14px", 7, 16), ("20-25%", 18, 26)])
def test_sizes_keep_to_their_range(data: Path, rule: str, low: float, high: float) -> None:
    """The object, here the whole image, is 96 px high."""
    vary = VariationSettings.create({"size": [rule], "turn": ["10"]})
    maker = SceneMaker(open_data_set(data), "texture", SceneOptions(vary=vary))
    sizes = [extent(maker.draw("spot", 0, index, 0).mask) for index in range(12)]
    assert low <= min(sizes) < max(sizes) <= high


def test_defects_in_one_picture_neither_overlap_nor_touch(data: Path) -> None:
    maker = SceneMaker(open_data_set(data), "texture")
    for index in range(6):
        canvas = maker.draw("spot", 0, index, 0).canvas
        masks: list[np.ndarray] = []
        for slot in range(4):
            try:
                scene = maker.draw_on(canvas, ("spot", "scratch")[slot % 2], 0, index, 0, slot)
            except PlacementError:
                break
            assert not any((grown(scene.mask, GAP) & other).any() for other in masks)
            masks.append(scene.mask)
            canvas = canvas.edited(canvas.picture.pixels, scene.mask)
        assert len(masks) >= 2
