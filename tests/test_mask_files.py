"""Masks in the forms in which tools save them: read rightly, or refused, or doubted aloud; never silently wrong."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FIT, Adabldm
from fabricate import box, save, texture
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from adabldm.core.errors import InputError
from adabldm.core.images import Mask
from adabldm.core.mask_files import MaskRules, mask_of_array, read_mask
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import Inspection, check_data_set
from adabldm.pipeline import _picture, _read_target

SIZE = (48, 64)
SHAPE = box((10, 30), (20, 45), SIZE)
SECOND = box((34, 46), (4, 16), SIZE)
NOISE = np.random.default_rng(0).integers(245, 255, SIZE)


def painted(ground: tuple[int, ...], *shapes: tuple[Mask, tuple[int, ...]]) -> Image.Image:
    """Shapes in colours on a ground; one number is grey, three a colour, four a colour with alpha."""
    pixels = np.empty((*SIZE, len(ground)), np.uint8)
    pixels[:] = ground
    for shape, colour in shapes:
        pixels[shape] = colour
    return Image.fromarray(pixels[..., 0] if len(ground) == 1 else pixels)


def palette() -> Image.Image:
    """A white drawing on a ground that is white as well, but transparent."""
    image = Image.fromarray(SHAPE.astype(np.uint8))
    image.putpalette([255, 255, 255, 255, 255, 255])
    image.info["transparency"] = 0
    return image


WHITE, CLEAR = (255, 255, 255), (255, 255, 255, 0)
READ: dict[str, tuple[Image.Image, Mask]] = {
    "alpha of white": (painted(CLEAR, (SHAPE, (255, 255, 255, 255))), SHAPE),
    "alpha of black": (painted((0, 0, 0, 0), (SHAPE, (0, 0, 0, 255))), SHAPE),
    "alpha of grey": (painted(CLEAR, (SHAPE, (255, 255, 255, 255))).convert("LA"), SHAPE),
    "alpha of a palette": (palette(), SHAPE),
    "red on clear white": (painted(CLEAR, (SHAPE, (255, 0, 0, 255))), SHAPE),
    "two colours on clear black": (
        painted((0, 0, 0, 0), (SHAPE, (255, 0, 0, 255)), (SECOND, (0, 90, 0, 255))), SHAPE | SECOND,
    ),
    "red on white": (painted(WHITE, (SHAPE, (255, 0, 0))), SHAPE),
    "labels 1 and 255": (painted((0,), (SHAPE, (255,)), (SECOND, (1,))), SHAPE | SECOND),
    "labels 10 and 255": (painted((0,), (SHAPE, (255,)), (SECOND, (10,))), SHAPE | SECOND),
    "16-bit labels 1 and 300": (Image.fromarray((300 * SHAPE + SECOND).astype(np.uint16)), SHAPE | SECOND),
    "16-bit labels 1 and 65535": (Image.fromarray((65535 * SHAPE + SECOND).astype(np.uint16)), SHAPE | SECOND),
    "12-bit": (Image.fromarray((4095 * SHAPE).astype(np.uint16)), SHAPE),
    "noise near black": (Image.fromarray(np.where(SHAPE, 250, 6).astype(np.uint8)), SHAPE),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_forms_that_are_read(tmp_path: Path, name: str) -> None:
    image, expected = READ[name]
    image.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), expected)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_red_on_white_as_jpeg(tmp_path: Path, quality: int) -> None:
    painted(WHITE, (SHAPE, (255, 0, 0))).save(tmp_path / "m.jpg", quality=quality, subsampling=0)
    found = read_mask(tmp_path / "m.jpg")
    assert np.count_nonzero(found ^ SHAPE) < 0.1 * SHAPE.sum()


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "two colours on clear white": (
        lambda path: painted(CLEAR, (SHAPE, (255, 0, 0, 255)), (SECOND, (90, 0, 0, 255))).save(path / "m.png"),
        "colours and its transparency",
    ),
    "a label lost in a JPEG": (
        lambda path: painted((0,), (SHAPE, (255,)), (SECOND, (60,))).save(path / "m.jpg"), "not binary",
    ),
    "a faint label beside soft edges": (
        lambda path: Image.fromarray(
            np.where(SECOND, 10, np.where(SHAPE, NOISE, 0)).astype(np.uint8)
        ).save(path / "m.png"),
        "not binary",
    ),
    "not finite": (
        lambda path: Image.fromarray(np.where(SHAPE, np.nan, 0).astype(np.float32)).save(path / "m.tif"), "not finite",
    ),
    "negative": (lambda path: Image.fromarray(-SHAPE.astype(np.float32)).save(path / "m.tif"), "negative"),
    "probabilities": (
        lambda path: Image.fromarray(np.geomspace(0.001, 1, SHAPE.size, dtype=np.float32).reshape(SIZE)).save(
            path / "m.tif"
        ),
        "not binary",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_forms_that_are_refused(tmp_path: Path, name: str) -> None:
    write, words = REFUSED[name]
    write(tmp_path)
    (path,) = tmp_path.iterdir()
    with pytest.raises(InputError, match=words):
        read_mask(path)


def test_the_advised_threshold_helps(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4, SIZE)  # scattered, so that they are no labels
    path = save(tmp_path / "m.png", values.astype(np.uint8))
    with pytest.raises(InputError, match="--mask-threshold 1") as caught:
        read_mask(path)
    assert "127" not in str(caught.value)
    np.testing.assert_array_equal(read_mask(path, threshold=1), values > 1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 255), min_size=1, max_size=4, unique=True),
    st.sampled_from([np.uint8, np.uint16, np.int64, np.float64]),
    st.data(),
)
def test_no_label_is_ever_lost(levels: list[int], kind: type[Any], data: st.DataObject) -> None:
    values = np.zeros((40, 40), kind)
    for place, level in enumerate(levels):
        side = data.draw(st.integers(2, 9))
        values[1 : 1 + side, 10 * place : 10 * place + side] = level
    np.testing.assert_array_equal(mask_of_array(values, MaskRules("mask")), values > 0)


# Python


def from_jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=60)
    return Image.open(file)


def test_python_reads_masks_by_the_rules_of_files() -> None:
    picture = _picture(texture(SIZE, np.random.default_rng(0)), "image")

    def call(mask: Any) -> Any:
        return _read_target(mask, picture)[1]

    noisy = from_jpeg(painted((0,), (SHAPE, (255,))))
    assert np.count_nonzero(np.asarray(noisy)) > SHAPE.sum()  # what the levels would give by themselves
    assert np.count_nonzero(call(noisy) ^ SHAPE) < 0.1 * SHAPE.sum()
    np.testing.assert_array_equal(call(READ["alpha of white"][0]), SHAPE)
    np.testing.assert_array_equal(call(np.asarray(READ["red on white"][0])), SHAPE)
    for mask, words in (
        (np.asarray(noisy), "not binary.*such as mask > 127"),
        (np.linspace(0, 1, SHAPE.size).reshape(SIZE), "not binary"),
        (np.where(SHAPE, np.nan, 0.0), "not finite"),
        (np.ones(SIZE, bool), "covers the whole image"),
        (np.full(SIZE, "x"), "expected numbers"),
    ):
        with pytest.raises(InputError, match=words):
            call(mask)


# Data sets


@pytest.fixture
def mine(data: Path, tmp_path: Path) -> Path:
    root = tmp_path / "woven cloth"
    shutil.copytree(data, root)
    return root


def check(root: Path) -> Inspection:
    return check_data_set(root, ReadOptions(split="train", require_defects=True))


def test_an_inverted_mask_is_doubted_by_every_command(
    adabldm: Adabldm, mine: Path, run: Path, base: Path, tmp_path: Path
) -> None:
    path = save(mine / "ground_truth/spot/001_mask.png", (~box((10, 50), (20, 63))).astype(np.uint8) * 255)
    words = f"{path}: covers 86% of its image"
    assert words in adabldm("inspect", mine).out
    fitted = adabldm("fit", mine, "--out", tmp_path / "run", "--base", base, *FIT)
    made = adabldm("generate", run, "--data", mine, "--out", tmp_path / "out", "--count", 1, "--quiet")
    for result in (fitted, made):
        assert result.code == 0
        assert f"note: {words}" in result.err


def test_an_inverted_mask_of_a_large_defect_is_doubted(mine: Path) -> None:
    save(mine / "ground_truth/spot/001_mask.png", (~box((3, 93), (3, 125))).astype(np.uint8) * 255)
    assert any("covers 11% of its image; check" in note for note in check(mine).data_set.notes)


def test_a_mask_of_the_whole_image_is_refused(mine: Path) -> None:
    path = save(mine / "ground_truth/spot/001_mask.png", np.full((96, 128), 255, np.uint8))
    assert check(mine).problems == (
        f"{path}: the mask covers the whole image, expected the defect in white on black; draw it or remove the pair.",
    )


def test_masks_beside_their_images_are_masks(mine: Path) -> None:
    before = check(mine)
    masks = sorted((mine / "ground_truth/spot").iterdir())
    for path in masks:
        shutil.copy(path, mine / "train/spot" / path.name)
    (mine / "train/good/000_mask.png").write_bytes(masks[0].read_bytes())
    both = check(mine)
    assert (both.problems, both.rows) == ((), before.rows)
    assert any("left out 3 masks that lie beside images of spot" in note for note in both.data_set.notes)
    assert any("left out 1 masks of defect-free images" in note for note in both.data_set.notes)
    shutil.rmtree(mine / "ground_truth/spot")
    moved = check(mine)
    assert (moved.problems, moved.rows) == ((), before.rows)


def test_a_mask_among_the_images_is_recognised(mine: Path) -> None:
    mask = mine / "ground_truth/spot/001_mask.png"
    shutil.copy(mask, mine / "train/spot/001.png")
    (problem,) = check(mine).problems
    assert (
        problem
        == f"{mine / 'train/spot/001.png'}: looks like the mask {mask} itself, expected a picture; move it away."
    )


def turned(path: Path, orientation: int, pixels: NDArray[np.uint8]) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize(("orientation", "size"), [(6, (96, 96)), (3, (96, 128)), (6, (96, 128))])
def test_a_turned_picture_with_a_mask_that_is_not(mine: Path, orientation: int, size: tuple[int, int]) -> None:
    path = turned(mine / "train/spot/001.png", orientation, texture(size, np.random.default_rng(0)))
    mask = mine / "ground_truth/spot/001_mask.png"
    shape = (box((10, 30), (20, 60), size) * 255).astype(np.uint8)
    save(mask, shape)
    (problem,) = check(mine).problems
    if orientation == 6 and size[0] != size[1]:
        assert "export the mask at the image's size" in problem
        save(mask, np.rot90(shape))
    else:
        assert problem.startswith(f"{path}: is shown turned")
        assert str(mask) in problem
        turned(mask, orientation, shape)
    assert check(mine).problems == ()
