"""Unusual pixels: more than 8 bits, turned by EXIF data, palettes, transparency, CMYK and one bit."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import FIT, manifest, run_command
from fabricate import write_data_set
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from adabldm.core.depth import FULL, Levels, levels_of
from adabldm.core.errors import InputError
from adabldm.core.images import Picture, picture_size, read_picture, write_png
from adabldm.core.mask_files import read_mask
from adabldm.core.records import RunCard
from adabldm.core.samples import DataSet
from adabldm.data.generated import read_manifest
from adabldm.data.inspection import open_data_set
from adabldm.evaluation.conditions import read_synthetic
from adabldm.evaluation.labelled import Labelled
from adabldm.models.store import read_card
from adabldm.pipeline import AdaBLDMPipeline

RNG = np.random.default_rng(5)
COLOURS = cv2.GaussianBlur(RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8), (0, 0), 1.5)
SPOT = np.zeros((40, 30), np.bool_)
SPOT[12:20, 8:15] = True


def edited(picture: Picture) -> NDArray[np.uint8]:
    """The picture with a visible change in `SPOT`."""
    return np.where(SPOT[..., None], picture.pixels // 2 + 20, picture.pixels).astype(np.uint8)


def written(picture: Picture, path: Path) -> Path:
    """The edited picture as a result is written."""
    write_png(path, picture.as_file(edited(picture)))
    return path


# Levels


@st.composite
def some_levels(draw: st.DrawFn) -> Levels:
    low, high = sorted(
        draw(st.tuples(st.integers(0, 65535), st.integers(0, 65535)).filter(lambda two: two[0] != two[1]))
    )
    return Levels(low, high, 2 ** draw(st.integers(0, 4)))


@settings(max_examples=150, deadline=None)
@given(some_levels(), arrays(np.uint16, (4, 5)), arrays(np.uint8, (4, 5)), arrays(np.bool_, (4, 5)))
def test_levels_stay_exact_where_nothing_changed_and_follow_the_edit_elsewhere(
    levels: Levels, own: NDArray[np.uint16], edit: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> None:
    own = own // levels.step * levels.step
    before = levels.shown(own)
    after = np.where(mask, edit, before)
    result = levels.changed(own, before, after)
    same = before == after
    np.testing.assert_array_equal(result[same], own[same])
    assert not (result % levels.step).any()
    assert (np.abs(result[~same] - np.clip(result[~same].astype(float), levels.low, levels.high)) <= levels.step).all()
    # Read again it is the edit, up to the rounding of both.
    tolerance = 1 + levels.step / levels.grey_level
    assert (np.abs(levels.shown(result).astype(int) - after)[~same] <= tolerance).all()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([10, 12, 14, 16]), st.booleans(), st.integers(0, 2**32 - 1))
def test_percentiles_of_all_pixels_are_black_and_white(bits: int, upper: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    step = 2 ** (16 - bits) if upper else 1
    low, high = sorted(rng.integers(0, 2**bits, 2))
    pictures = [(rng.integers(low, high + 1, (50, 60)) * step).astype(np.uint16) for _ in range(2)]
    found, values = levels_of(*pictures), np.concatenate([one.ravel() for one in pictures])
    if low == high:
        assert found == FULL
        return
    assert found.step % step == 0
    for level, share in ((found.low, 1e-4), (found.high, 1 - 1e-4)):
        expected = np.quantile(values, share, method="inverted_cdf")
        assert abs(level - float(expected)) <= max(step, (float(np.ptp(values)) * 0.01))


@pytest.mark.parametrize("levels", [(10, 10, 1), (-1, 9, 1), (0, 70000, 1), (0, 9, 0), (5,), "grey"])
def test_levels_of_a_card_that_cannot_be_are_refused(levels: object) -> None:
    values: dict[str, Any] = {
        "object_name": "cloth", "defects": ["spot"], "base": "tiny", "resolution": 32, "foreground": "texture",
        "preset": "quick",
    }  # fmt: skip
    assert RunCard.parse({**values, "levels": [3, 900, 1]}, "card").levels == Levels(3, 900, 1)
    with pytest.raises(InputError, match="card: levels"):
        RunCard.parse({**values, "levels": levels}, "card")


def test_a_picture_that_is_edited_twice_keeps_both_edits() -> None:
    own = RNG.integers(700, 3900, SPOT.shape).astype(np.uint16)
    first = Picture.from_deep(own)
    second = first.edited(edited(first))
    other = np.roll(SPOT, 9, axis=0)
    pixels = np.where(other[..., None], 255 - second.pixels, second.pixels).astype(np.uint8)
    result = second.as_file(pixels)
    np.testing.assert_array_equal(result[~SPOT & ~other], own[~SPOT & ~other])
    assert (np.abs(first.levels.shown(result).astype(int) - pixels[..., 0]) <= 1).all()


def test_a_small_dark_defect_is_not_cut_off(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "plate", good=3, defects={"pit": 1}, deep=True)
    path = root / "train" / "pit" / "000.png"
    values = 30000 + np.asarray(Image.open(path)).astype(np.int64) // 16
    for good in (root / "train" / "good").iterdir():
        Image.fromarray((30000 + np.asarray(Image.open(good)).astype(np.int64) // 16).astype(np.uint16)).save(good)
    mask = np.zeros(values.shape, np.uint8)
    mask[40, 50:53] = 255  # 3 of 49,152 pixels
    values[mask > 0] = 9000
    Image.fromarray(values.astype(np.uint16)).save(path)
    Image.fromarray(mask).save(root / "ground_truth" / "pit" / "000_mask.png")
    levels = open_data_set(root).levels
    assert levels is not None
    assert levels.low == 9000


# A data set of 12 bits in files of 16


@pytest.fixture(scope="module")
def deep_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 12 bits that use levels 1500 to 3300 or so, in 16-bit files."""
    root = write_data_set(tmp_path_factory.mktemp("deep") / "woven_cloth", deep=True, test=True, good=4)
    for path in sorted(root.glob("t*/*/*.png")):
        values = np.asarray(Image.open(path)).astype(np.float64)
        Image.fromarray(np.rint(800 + values / 16 * 0.7).astype(np.uint16)).save(path)
    return root


@pytest.fixture(scope="module")
def deep_run(tmp_path_factory: pytest.TempPathFactory, deep_data: Path, base: Path) -> Path:
    out = tmp_path_factory.mktemp("deep-run") / "run"
    assert run_command("fit", deep_data, "--out", out, "--base", base, *FIT) == 0
    return out


@pytest.fixture(scope="module")
def deep_images(tmp_path_factory: pytest.TempPathFactory, deep_data: Path, deep_run: Path) -> Path:
    out = tmp_path_factory.mktemp("deep-images") / "images"
    assert run_command("generate", deep_run, "--data", deep_data, "--out", out, "--count", "4", "--quiet") == 0
    return out


def training_values(root: Path) -> NDArray[np.uint16]:
    return np.concatenate([np.asarray(Image.open(path)).ravel() for path in sorted(root.glob("train/*/*.png"))])


def test_twelve_bits_reach_the_model_with_most_grey_levels(deep_data: Path) -> None:
    data_set = open_data_set(deep_data)
    values = training_values(deep_data)
    assert values.max() < 4096
    assert data_set.levels is not None
    assert data_set.levels.low <= np.quantile(values, 0.0005)
    assert data_set.levels.high >= np.quantile(values, 0.9995)
    assert data_set.levels.low >= values.min()
    assert data_set.levels.high <= values.max()
    grey_levels = {len(np.unique(one.picture().pixels)) for one in data_set.good}
    full = {len(np.unique(one.picture().shown_with(FULL).pixels)) for one in data_set.good}
    assert min(grey_levels) > 40 > 5 * max(full)
    np.testing.assert_array_equal(
        data_set.good[0].picture().pixels[..., 1],
        np.clip(
            np.rint(
                (np.asarray(Image.open(data_set.good[0].image)).astype(float) - data_set.levels.low)
                * 255
                / (data_set.levels.high - data_set.levels.low)
            ),
            0,
            255,
        ),
    )
    assert any("more than 8 bits" in note for note in data_set.notes)
    only_training = open_data_set(deep_data).levels
    assert only_training == data_set.levels


def test_the_test_split_does_not_decide_the_levels(deep_data: Path, tmp_path: Path) -> None:
    other = tmp_path / "woven_cloth"
    shutil.copytree(deep_data, other)
    path = next((other / "test" / "good").iterdir())
    Image.fromarray(np.full(np.asarray(Image.open(path)).shape, 4095, np.uint16)).save(path)
    assert open_data_set(other).levels == open_data_set(deep_data).levels


def test_fit_generate_and_evaluation_show_the_same_levels(deep_data: Path, deep_run: Path, deep_images: Path) -> None:
    data_set = open_data_set(deep_data)
    levels = data_set.levels
    assert levels is not None
    assert read_card(deep_run).levels == levels
    records = list(read_manifest(deep_images).values())
    assert [record.levels for record in records] == [levels] * 4
    synthetic = read_synthetic(deep_images, deep_data, 4, levels=levels)
    for record, made in zip(records, synthetic, strict=True):
        source = next(one for one in data_set.good if data_set.relative(one) == record.source)
        real = Labelled.read(source)
        outside = np.ones(made.pixels.shape[:2], np.bool_)
        top, left, side = record.window or (0, 0, 0)
        outside[max(0, top) : top + side, max(0, left) : left + side] = False
        np.testing.assert_array_equal(made.pixels[outside], real.pixels[outside])


def test_results_of_twelve_bits_are_their_source_bit_for_bit_outside_the_window(
    deep_data: Path, deep_images: Path
) -> None:
    for line in manifest(deep_images):
        result, source = (
            np.asarray(Image.open(path)) for path in (deep_images / line["image"], deep_data / line["source"])
        )
        assert result.dtype == np.uint16
        assert result.max() < 4096
        top, left, side = line["window"]
        inside = np.zeros(result.shape, np.bool_)
        inside[max(0, top) : top + side, max(0, left) : left + side] = True
        np.testing.assert_array_equal(result[~inside], source[~inside])
        changed = result != source
        assert changed[read_mask(deep_images / line["mask"])].mean() > 0.5


def test_a_python_call_shows_the_levels_of_the_fit(deep_data: Path, deep_run: Path) -> None:
    pipeline = AdaBLDMPipeline.from_pretrained(deep_run)
    levels = pipeline.card.levels
    assert levels is not None
    path = sorted((deep_data / "train" / "good").iterdir())[0]
    values = np.asarray(Image.open(path))
    mask = np.zeros(values.shape, np.bool_)
    mask[40:52, 50:70] = True
    results: list[Any] = [
        pipeline(image, mask=mask, defect="spot", preset="fast", output_type=form).images[0]
        for image, form in ((Image.open(path), "pil"), (values, "np"))
    ]
    assert results[0].mode == "I;16"
    first, second = (np.asarray(one) for one in results)
    assert second.dtype == np.uint16
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[:, :10], values[:, :10])
    shown = read_picture(path, levels).pixels
    alone = pipeline(shown, mask=mask, defect="spot", preset="fast", output_type="np").images[0]
    np.testing.assert_array_equal(levels.changed(values, shown[..., 0], alone[..., 0]), first)


def test_other_levels_of_a_run_are_kept_by_generate(deep_data: Path, deep_run: Path, tmp_path: Path) -> None:
    brighter = tmp_path / "woven_cloth"
    for path in sorted(deep_data.rglob("*.png")):
        target = brighter / path.relative_to(deep_data)
        target.parent.mkdir(parents=True, exist_ok=True)
        values = np.asarray(Image.open(path))
        Image.fromarray(values if values.dtype == np.uint8 else values + np.uint16(200)).save(target)
    out = tmp_path / "out"
    assert run_command("generate", deep_run, "--data", brighter, "--out", out, "--count", "1", "--quiet") == 0
    assert read_manifest(out)[0].levels == read_card(deep_run).levels != open_data_set(brighter).levels


# Files as a viewer shows them


def turned_by_hand(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """EXIF's definition: where row 0 and column 0 of the stored image are in the shown one."""
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels),
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_data_say(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif)
    grey = (COLOURS[..., 0].astype(np.uint16) * 13).copy()
    Image.fromarray(grey).save(tmp_path / "b.tif", exif=exif)
    picture, deep = read_picture(tmp_path / "a.png"), read_picture(tmp_path / "b.tif")
    np.testing.assert_array_equal(picture.pixels, turned_by_hand(COLOURS, orientation))
    np.testing.assert_array_equal(picture.pixels[..., ::-1], cv2.imread(str(tmp_path / "a.png")))
    assert deep.deep is not None
    np.testing.assert_array_equal(deep.deep, turned_by_hand(grey, orientation))
    assert picture_size(tmp_path / "a.png") == picture.size == deep.size
    write_png(tmp_path / "c.png", picture.as_file(picture.pixels))
    assert 0x0112 not in Image.open(tmp_path / "c.png").getexif()
    np.testing.assert_array_equal(read_picture(tmp_path / "c.png").pixels, picture.pixels)


@pytest.mark.parametrize(("suffix", "orientation"), [(".png", 1), (".png", 6), (".tif", 1)])
def test_colours_of_sixteen_bits_keep_their_depth(tmp_path: Path, suffix: str, orientation: int) -> None:
    own = RNG.integers(700, 3900, (40, 30, 3)).astype(np.uint16)
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), own[..., ::-1])
    if orientation == 6:
        path.write_bytes(turned_file(path.read_bytes()))
    picture = read_picture(path)
    assert picture.deep is not None
    np.testing.assert_array_equal(picture.deep, turned_by_hand(own, orientation))
    change = picture.pixels.copy()
    change[5:9, 5:9] = 255 - change[5:9, 5:9]
    write_png(tmp_path / "b.png", picture.as_file(change))
    result = cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert result.dtype == np.uint16
    same = (change == picture.pixels).all(axis=2)
    np.testing.assert_array_equal(result[same], picture.deep[same])
    assert (np.abs(picture.levels.shown(result).astype(int) - change) <= 1).all()


def turned_file(png: bytes) -> bytes:
    """A PNG file with EXIF's orientation 6."""
    exif = Image.Exif()
    exif[0x0112] = 6
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    length, check = (len(chunk) - 4).to_bytes(4, "big"), zlib.crc32(chunk).to_bytes(4, "big")
    return png[:33] + length + chunk + check + png[33:]


def shown_on_white(path: Path) -> NDArray[np.int64]:
    """Pillow's own composition."""
    opened = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", opened.size, "white")
    return np.asarray(Image.alpha_composite(white, opened).convert("RGB")).astype(np.int64)


def with_alpha(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colours with a transparent left, an opaque right and a gradient between; below the transparent part is red."""
    alpha = np.clip(np.linspace(-100, 400, colours.shape[1]), 0, 255).astype(np.uint8)
    own = colours.copy()
    if colours.ndim == 3:
        own[:, alpha == 0] = (255, 0, 0)
    plane = np.repeat(alpha[None], len(colours), axis=0)[..., None]
    return np.concatenate([own if own.ndim == 3 else own[..., None], plane], axis=2)


def transparent_files(folder: Path) -> dict[str, Path]:
    """A file of every kind that has transparent pixels."""
    Image.fromarray(with_alpha(COLOURS)).save(folder / "rgba.png")
    Image.fromarray(with_alpha(COLOURS[..., 0])).save(folder / "la.png")
    palette = Image.fromarray(COLOURS).quantize(7)
    palette.save(folder / "palette.png", transparency=bytes([255, 0, 100, 255, 255, 255, 255]))
    Image.fromarray(COLOURS // 128 * 200).save(folder / "key.png", transparency=(200, 200, 200))
    return {path.stem: path for path in sorted(folder.glob("*.png"))}


@pytest.mark.parametrize("name", ["key", "la", "palette", "rgba"])
def test_transparent_pixels_are_seen_on_white_and_stay_transparent(tmp_path: Path, name: str) -> None:
    path = transparent_files(tmp_path)[name]
    picture = read_picture(path)
    np.testing.assert_allclose(picture.pixels, shown_on_white(path), atol=1)
    result = written(picture, tmp_path / "result" / "a.png")
    own = np.asarray(Image.open(path).convert("LA" if name == "la" else "RGBA"))
    found = np.asarray(Image.open(result))
    assert found.shape == own.shape
    np.testing.assert_array_equal(found[~SPOT], own[~SPOT])
    np.testing.assert_allclose(shown_on_white(result)[SPOT], edited(picture)[SPOT], atol=1)


@pytest.mark.parametrize("alpha", [255, 0])
def test_an_alpha_channel_that_says_nothing_is_dropped(tmp_path: Path, alpha: int) -> None:
    plane = np.full((*COLOURS.shape[:2], 1), alpha, np.uint8)
    Image.fromarray(np.concatenate([COLOURS, plane], axis=2)).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.pixels, COLOURS)
    assert picture.as_file(picture.pixels).shape == COLOURS.shape


def test_palettes_become_colours(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).quantize(9).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.pixels[..., ::-1], cv2.imread(str(tmp_path / "a.png")))
    result = read_picture(written(picture, tmp_path / "b.png"))
    np.testing.assert_array_equal(result.pixels, edited(picture))


def test_one_bit_becomes_grey(tmp_path: Path) -> None:
    Image.fromarray(COLOURS[..., 0] > 120).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.grey
    np.testing.assert_array_equal(picture.pixels[..., 0], np.where(COLOURS[..., 0] > 120, 255, 0))
    with Image.open(written(picture, tmp_path / "b.png")) as result:
        assert result.mode == "L"
        np.testing.assert_array_equal(np.asarray(result), edited(picture)[..., 0])


def test_ink_becomes_light(tmp_path: Path) -> None:
    ink = Image.fromarray(COLOURS).convert("CMYK")
    ink.save(tmp_path / "a.jpg", quality=95)
    ink.save(tmp_path / "a.tif")
    from_tiff, from_jpeg = read_picture(tmp_path / "a.tif"), read_picture(tmp_path / "a.jpg")
    np.testing.assert_allclose(from_tiff.pixels.astype(int), COLOURS, atol=2)
    other = cv2.imread(str(tmp_path / "a.jpg"))[..., ::-1].astype(int)
    assert np.abs(from_jpeg.pixels.astype(int) - other).mean() < 4
    with Image.open(written(from_tiff, tmp_path / "b.png")) as result:
        assert result.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(result), edited(from_tiff))


def test_the_data_set_knows_no_levels_of_eight_bits(data: Path) -> None:
    data_set: DataSet = open_data_set(data)
    assert data_set.levels is None
    assert all(sample.levels is None for sample in data_set.good)
