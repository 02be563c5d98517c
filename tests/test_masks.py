from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adabldm.core.errors import InputError
from adabldm.core.images import write_mask
from adabldm.core.samples import Defect, Instance, MaskFile, MissingMask, Sample
from adabldm.masks import bank, foreground, placement, procedural, trimap
from adabldm.masks.bank import DefectShape, MaskBank, shape_from_mask, transform
from adabldm.masks.placement import PlacementError, place, place_from_bank

SEEDS = st.integers(0, 2**32 - 1)
KINDS = st.sampled_from(["blob", "scratch", "polygon"])
FEW = settings(max_examples=30, deadline=None)


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def ellipse(size: tuple[int, int], centre: tuple[int, int], axes: tuple[int, int]) -> np.ndarray:
    """Bool mask of `size` (height, width); centre and axes as (x, y)."""
    return cv2.ellipse(np.zeros(size, np.uint8), centre, axes, 20, 0, 360, 1, -1) > 0


def components(mask: np.ndarray) -> int:
    return int(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0]) - 1


def touched(mask: np.ndarray) -> set[str]:
    return set(shape_from_mask(mask).borders)


# foreground


def object_image(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A brown ellipse on yellow paper, with a soft shadow to the right, and the ellipse's mask."""
    rng, size = rng_of(seed), (160, 200)
    centre = (int(rng.integers(80, 110)), int(rng.integers(70, 90)))
    mask = ellipse(size, centre, (50, 36))
    shade = cv2.GaussianBlur(ellipse(size, (centre[0] + 16, centre[1] + 4), (50, 36)).astype(np.float32), (0, 0), 4)
    paper = np.array([220.0, 200.0, 70.0]) * (1 - 0.4 * shade[..., None])
    picture = np.where(mask[..., None], np.array([185.0, 150.0, 105.0]), paper) + rng.normal(0, 3, (*size, 3))
    return np.clip(picture, 0, 255).astype(np.uint8), mask


def texture_image(seed: int) -> np.ndarray:
    noise = cv2.GaussianBlur(rng_of(seed).normal(0, 60, (120, 90)).astype(np.float32), (0, 0), 3)
    grey = np.clip(110 + 4 * noise, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, 2)


@pytest.mark.parametrize("seed", range(3))
def test_auto_finds_the_object_and_not_its_shadow(seed):
    pixels, truth = object_image(seed)
    found = foreground.estimate_foreground(pixels)
    assert found.method == "grabcut"
    assert np.count_nonzero(found.mask & truth) / np.count_nonzero(found.mask | truth) > 0.9


def test_grabcut_on_a_grey_object():
    truth = ellipse((120, 120), (60, 60), (35, 25))
    grey = np.where(truth, 190, 60) + rng_of(0).normal(0, 4, truth.shape)
    found = foreground.estimate_foreground(np.repeat(grey[..., None], 3, 2).astype(np.uint8))
    assert found.method == "grabcut"
    assert np.count_nonzero(found.mask & truth) / np.count_nonzero(found.mask | truth) > 0.9


def test_grabcut_is_deterministic_and_full_size():
    big = cv2.resize(object_image(0)[0], (700, 560), interpolation=cv2.INTER_CUBIC)
    first, again = (foreground.estimate_foreground(big).mask for _ in range(2))
    assert first.shape == (560, 700)
    assert np.array_equal(first, again)


@pytest.mark.parametrize("pixels", [texture_image(1), np.full((64, 80, 3), 90, np.uint8)], ids=["noise", "constant"])
def test_a_texture_is_all_object(pixels):
    found = foreground.estimate_foreground(pixels)
    assert found.method == "texture"
    assert found.mask.all()
    assert found.note


def test_a_given_method_is_kept():
    pixels, truth = object_image(0)
    assert foreground.estimate_foreground(pixels, "texture").mask.all()
    assert foreground.estimate_foreground(pixels, "grabcut").method == "grabcut"
    faint = np.where(truth[..., None], 118, 100) + rng_of(0).normal(0, 6, (*truth.shape, 1))
    faint = np.repeat(np.clip(faint, 0, 255), 3, 2).astype(np.uint8)
    assert foreground.estimate_foreground(faint).method == "texture"
    forced = foreground.estimate_foreground(faint, "grabcut")
    assert forced.method == "grabcut"
    assert "check the outline" in forced.note


def test_one_odd_image_does_not_flip_the_decision():
    objects, textures = [object_image(seed)[0] for seed in range(2)], [texture_image(seed) for seed in range(2)]
    assert foreground.decide_method([*objects, textures[0]]) == "grabcut"
    assert foreground.decide_method([*textures, objects[0]]) == "texture"
    assert foreground.decide_method([]) == "texture"


def test_ready_masks_are_read_from_a_folder(tmp_path):
    pixels, truth = object_image(0)
    write_mask(tmp_path / "a.png", truth)
    write_mask(tmp_path / "b_mask.png", truth)
    for name in ("a", "b"):
        found = foreground.estimate_foreground(pixels, "folder", path=Path(f"{name}.jpg"), folder=tmp_path)
        assert np.array_equal(found.mask, truth)
    with pytest.raises(InputError, match=r"c\.png"):
        foreground.estimate_foreground(pixels, "folder", path=Path("c.jpg"), folder=tmp_path)
    with pytest.raises(InputError, match=r"a\.png.*200x160 px.*100x160 px"):
        foreground.estimate_foreground(pixels[:, :100], "folder", path=Path("a.jpg"), folder=tmp_path)
    with pytest.raises(InputError, match="folder"):
        foreground.estimate_foreground(pixels, "folder")
    with pytest.raises(InputError, match="'magic'"):
        foreground.estimate_foreground(pixels, "magic")


# shapes


def instances_of(*masks) -> tuple[Instance, ...]:
    """Defects of one image."""
    sample = Sample(Path("x.png"), tuple(Defect("break", mask) for mask in masks))
    return tuple(Instance(sample, defect) for defect in sample.defects)


def test_a_bank_reads_shapes_with_borders_and_all_components(tmp_path):
    mask = np.zeros((40, 50), bool)
    mask[:5, 10:14] = mask[8:10, 20:30] = True
    write_mask(tmp_path / "x_mask.png", mask)
    (instance,) = instances_of(MaskFile(tmp_path / "x_mask.png"))
    shape = MaskBank.from_instances([instance]).draw(rng_of(0))
    assert shape.instance is instance
    assert shape.source == "x_mask.png"
    assert np.array_equal(shape.mask, mask[:10, 10:30])
    assert shape.borders == {"top"}
    assert shape.origin == (5 / 40, 20 / 50)
    assert shape.image_size == (40, 50)


def test_each_defect_of_an_image_is_a_shape_of_its_own(tmp_path):
    masks = np.zeros((2, 40, 50), bool)
    masks[0, :5, 10:14] = masks[1, 8:10, 20:30] = True
    for number, mask in enumerate(masks):
        write_mask(tmp_path / f"{number}.png", mask)
    instances = instances_of(MaskFile(tmp_path / "0.png"), MaskFile(tmp_path / "1.png"))
    shapes = MaskBank.from_instances(instances).shapes
    assert [shape.instance for shape in shapes] == list(instances)
    assert [shape.mask.shape for shape in shapes] == [(5, 4), (2, 10)]
    assert [shape.borders for shape in shapes] == [{"top"}, set()]


def test_a_variant_keeps_its_real_defect(tmp_path):
    write_mask(tmp_path / "0.png", ellipse((40, 50), (20, 15), (7, 4)))
    (shape,) = MaskBank.from_instances(instances_of(MaskFile(tmp_path / "0.png"))).shapes
    assert transform(shape, rng_of(0)).instance is shape.instance


def test_a_bank_names_every_bad_mask(tmp_path):
    write_mask(tmp_path / "empty.png", np.zeros((4, 4), bool))
    sources = [
        MaskFile(tmp_path / "empty.png"),
        MaskFile(tmp_path / "missing.png"),
        MissingMask(Path("i.png"), "none."),
    ]
    with pytest.raises(InputError) as caught:
        MaskBank.from_instances(instances_of(*sources))
    assert len(caught.value.problems) == 3
    with pytest.raises(InputError, match="at least one"):
        MaskBank.from_instances([])


@FEW
@given(SEEDS, KINDS, st.integers(1, 90))
def test_drawn_shapes_have_the_asked_size(seed, kind, size):
    mask = procedural.draw_shape(kind, size, rng_of(seed)).mask
    assert mask.any(0).all() or kind == "scratch"
    assert mask.any()
    assert abs(max(mask.shape) - size) <= 2
    assert components(mask) == 1


def test_bad_procedural_arguments():
    with pytest.raises(InputError, match="'dent'"):
        procedural.draw_shape("dent", 10, rng_of(0))
    with pytest.raises(InputError, match="0 px"):
        procedural.draw_shape("blob", 0, rng_of(0))


@FEW
@given(SEEDS, KINDS, st.integers(1, 60), st.floats(0.1, 3.0))
def test_transforms_are_never_empty_and_tightly_cropped(seed, kind, size, scale):
    rng = rng_of(seed)
    mask = transform(procedural.draw_shape(kind, size, rng), rng, scale=(scale, scale)).mask
    assert mask[[0, -1]].any(1).all()
    assert mask[:, [0, -1]].any(0).all()


@FEW
@given(SEEDS, st.sampled_from(["blob", "polygon"]), st.floats(0.5, 2.0))
def test_area_scales_with_the_square(seed, kind, scale):
    rng = rng_of(seed)
    shape = procedural.draw_shape(kind, 80, rng)
    after = transform(shape, rng, scale=(scale, scale)).mask
    assert np.count_nonzero(after) / np.count_nonzero(shape.mask) == pytest.approx(scale**2, rel=0.08)


@pytest.mark.parametrize("angle", range(0, 180, 7))
@pytest.mark.parametrize("scale", [0.85, 1.0, 1.15])
def test_a_one_pixel_scratch_survives_rotation_whole(angle, scale):
    line = cv2.line(np.zeros((60, 60), np.uint8), (2, 30), (57, 38), 1, 1) > 0
    after = bank.warp_mask(bank.crop_to_content(line), angle, (scale, scale))
    assert components(after) == 1
    assert np.hypot(*after.shape) == pytest.approx(56 * scale, rel=0.12)
    assert np.count_nonzero(after) < 2.2 * 56 * scale


def test_no_change_leaves_a_shape_as_it_is():
    shape = procedural.draw_shape("polygon", 31, rng_of(3))
    same = transform(shape, rng_of(0), angles=(0, 0), scale=(1, 1), flips="none")
    assert np.array_equal(same.mask, shape.mask)


def test_bad_scale():
    with pytest.raises(InputError, match="scale"):
        transform(procedural.draw_shape("blob", 9, rng_of(0)), rng_of(0), scale=(0, 1))


# placement


def bordered(*borders: str) -> DefectShape:
    """An irregular shape of 60 x 90 px images that touches exactly these borders."""
    mask = np.zeros((60, 90), bool)
    mask[24:36, 38:52] = True
    mask[26, 36] = True
    for name in borders:
        {"top": mask[:30, 40:45], "bottom": mask[30:, 41:47], "left": mask[28:33, :45], "right": mask[27:31, 45:]}[
            name
        ][:] = True
    return shape_from_mask(mask, "fabricated")


BORDER_SETS = [
    ("top",),
    ("bottom", "left"),
    ("left", "right"),
    ("left", "right", "top"),
    ("top", "bottom", "left", "right"),
]


@pytest.mark.parametrize("borders", BORDER_SETS)
@pytest.mark.parametrize("policy", ["auto", "real"])
@pytest.mark.parametrize("size", [(60, 90), (101, 75), (70, 140)])
def test_border_shapes_stay_at_their_border(borders, policy, size):
    rng = rng_of(5)
    places = set()
    for _ in range(12):
        shape = transform(bordered(*borders), rng)
        mask = place(shape, np.ones(size, bool), rng, policy=policy)
        assert touched(mask) >= set(shape.borders)
        assert len(shape.borders) == len(borders)
        places.add(mask.tobytes())
    assert len(places) > 1


def test_border_shapes_shift_along_their_border_only():
    shape = bordered("top")
    masks = [place(shape, np.ones((60, 200), bool), rng_of(seed)) for seed in range(20)]
    assert len({tuple(np.flatnonzero(mask[0])) for mask in masks}) > 10
    assert all(touched(mask) >= {"top"} and mask.sum() == shape.mask.sum() for mask in masks)


@FEW
@given(SEEDS, KINDS, st.integers(1, 30))
def test_inside_lies_inside_and_keeps_the_whole_mask(seed, kind, size):
    rng = rng_of(seed)
    shape, room = procedural.draw_shape(kind, size, rng), ellipse((90, 120), (60, 45), (50, 36))
    mask = place(shape, room, rng, policy="inside")
    assert not (mask & ~room).any()
    assert np.array_equal(bank.crop_to_content(mask), shape.mask)


@FEW
@given(SEEDS, st.sampled_from(["overlap", "real"]))
def test_clipped_policies_keep_half_of_the_mask_on_the_object(seed, policy):
    rng = rng_of(seed)
    shape, room = procedural.draw_shape("blob", 30, rng), ellipse((90, 120), (60, 45), (30, 20))
    mask = place(shape, room, rng, policy=policy)
    assert not (mask & ~room).any()
    assert 2 * mask.sum() >= shape.mask.sum()


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_valid_corners_agree_with_a_slow_loop(share):
    rng = rng_of(8)
    room = ellipse((40, 50), (25, 20), (20, 14)) & (rng.random((40, 50)) > 0.01)
    mask = procedural.draw_shape("polygon", 11, rng).mask
    needed, (height, width) = int(np.ceil(share * mask.sum())), mask.shape
    slow = [
        [top, left]
        for top in range(40 - height + 1)
        for left in range(50 - width + 1)
        if (room[top : top + height, left : left + width] & mask).sum() >= needed
    ]
    assert slow
    assert placement.valid_corners(room, mask, needed).tolist() == slow


def test_inside_reaches_every_valid_position():
    room, shape = np.ones((6, 7), bool), DefectShape(np.ones((3, 4), bool))
    rng = rng_of(0)
    found = {place(shape, room, rng).tobytes() for _ in range(300)}
    assert len(found) == 4 * 4


def test_real_stays_near_the_real_place():
    mask = np.zeros((100, 200), bool)
    mask[20:30, 140:160] = True
    for seed in range(10):
        y, x = shape_from_mask(
            place(shape_from_mask(mask), np.ones((50, 100), bool), rng_of(seed), policy="real")
        ).origin
        assert abs(y - 0.25) <= 0.12
        assert abs(x - 0.75) <= 0.08


def test_the_same_generator_gives_the_same_mask():
    def once(seed: int) -> np.ndarray:
        rng = rng_of(seed)
        return place(transform(procedural.draw_shape("blob", 20, rng), rng), np.ones((80, 80), bool), rng)

    assert np.array_equal(once(4), once(4))
    assert not np.array_equal(once(4), once(5))


@pytest.mark.parametrize("policy", ["inside", "auto", "overlap", "real"])
def test_a_too_large_mask_names_the_sizes(policy):
    room = ellipse((100, 100), (50, 50), (5, 5))
    with pytest.raises(PlacementError, match=r"mask of 40x30 px.*100x100 px"):
        place(DefectShape(np.ones((30, 40), bool)), room, rng_of(0), policy=policy)
    with pytest.raises(PlacementError, match="empty"):
        place(DefectShape(np.ones((3, 4), bool)), np.zeros((9, 9), bool), rng_of(0), policy=policy)


def test_a_border_shape_that_is_taller_than_the_image_does_not_fit():
    shape = DefectShape(np.ones((30, 4), bool), borders=frozenset({"top"}))
    with pytest.raises(PlacementError, match="4x30"):
        place(shape, np.ones((20, 50), bool), rng_of(0))
    with pytest.raises(InputError, match="'nowhere'"):
        place(shape, np.ones((20, 50), bool), rng_of(0), policy="nowhere")


def test_another_shape_is_drawn_when_one_does_not_fit():
    large, small = DefectShape(np.ones((30, 30), bool)), DefectShape(np.ones((3, 3), bool))
    queue = iter([large, large, small])
    shape, mask, _ = place_from_bank(lambda: next(queue), np.ones((20, 20), bool), rng_of(0))
    assert shape is small
    assert mask.sum() == 9
    with pytest.raises(PlacementError, match="none of 4"):
        place_from_bank(lambda: large, np.ones((20, 20), bool), rng_of(0), redraws=4)


# trimap


def test_a_trimap_has_three_levels_and_gives_the_mask_back():
    room, mask = ellipse((30, 40), (20, 15), (14, 10)), np.zeros((30, 40), bool)
    mask[12:15, 18:25] = True
    made = trimap.make_trimap(room, mask)
    assert made.dtype == np.float32
    assert set(np.unique(made)) == {0.0, 0.5, 1.0}
    assert np.array_equal(trimap.mask_of(made), mask)
    tensor = trimap.trimap_tensor(made)
    assert tuple(tensor.shape) == (1, 30, 40)
    assert np.array_equal(tensor[0].numpy(), made)


@pytest.mark.parametrize("middle", [127, 128])
def test_eight_bit_trimaps_are_normalised(middle):
    values = np.array([[0, middle, 255]], np.uint8)
    assert trimap.check_trimap(values).tolist() == [[0, 0.5, 1]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0.0, 0.3, 1.0]], "1 pixels.*0.3"),
        ([[0.0, np.nan, 1.0]], "nan"),
        ([[0.0, 2.0, 1.0]], "2.0"),
        ([[0.0, 0.5]], "no defect"),
        ([[[0.0]]], "shape"),
    ],
)
def test_bad_trimaps_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        trimap.check_trimap(np.array(values))


def test_a_defect_outside_the_object_is_refused_with_numbers():
    room, mask = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    room[:, :5] = True
    mask[0, :] = True
    trimap.check_defect_inside(room, mask)
    mask[0, 0] = False
    with pytest.raises(InputError, match="5 of the defect's 9 pixels"):
        trimap.check_defect_inside(room, mask)
    with pytest.raises(InputError, match="empty"):
        trimap.check_defect_inside(room, np.zeros((10, 10), bool))
    with pytest.raises(InputError, match="10x10"):
        trimap.make_trimap(room, mask[:4])
