from __future__ import annotations

import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from adabldm.core.errors import EmptyMaskError, InputError, OutputError
from adabldm.core.images import (
    TEMPORARY,
    atomic_file,
    is_image_file,
    read_picture,
    resize_mask,
    resize_pixels,
    write_image,
    write_mask,
    write_png,
)
from adabldm.core.mask_files import read_mask
from adabldm.core.tensors import to_pixels, to_tensor

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOUR = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)


def saved(path: Path, image: Image.Image | NDArray[np.generic]) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)
    return path


def test_reads_colour_exactly(tmp_path: Path) -> None:
    picture = read_picture(saved(tmp_path / "a.png", COLOUR))
    assert not picture.grey
    assert picture.size == (16, 16)
    np.testing.assert_array_equal(picture.pixels, COLOUR)


def test_reads_one_channel_as_grey(tmp_path: Path) -> None:
    picture = read_picture(saved(tmp_path / "a.png", RAMP))
    assert picture.grey
    np.testing.assert_array_equal(picture.pixels, np.stack([RAMP] * 3, axis=-1))


def test_reads_float_images(tmp_path: Path) -> None:
    picture = read_picture(saved(tmp_path / "a.tif", RAMP.astype(np.float32) / 255))
    np.testing.assert_array_equal(picture.pixels[..., 1], RAMP)


def test_floats_that_resizing_left_a_little_above_one_are_not_black(tmp_path: Path) -> None:
    levels = RAMP.astype(np.float32) / 255 * 1.01 - 0.004
    picture = read_picture(saved(tmp_path / "a.tif", levels))
    expected = np.clip(np.rint(levels.astype(np.float64) * 255), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(picture.pixels, np.repeat(expected[..., None], 3, axis=2))


def test_reads_palette_colours(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP % 3)
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 255, 0])
    expected = np.array([[10, 20, 30], [200, 100, 50], [0, 255, 0]], dtype=np.uint8)[RAMP % 3]
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "a.png", image)).pixels, expected)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "torn.png").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "none.png").write_bytes(b"")
    for name in ("torn.png", "text.png", "none.png", "absent.png"):
        with pytest.raises(InputError, match=name):
            read_picture(tmp_path / name)
        with pytest.raises(InputError, match=name):
            read_mask(tmp_path / name)


def test_is_image_file() -> None:
    assert is_image_file(Path("x/Ä b.JPG"))
    assert not is_image_file(Path("x/notes.txt"))
    assert not is_image_file(Path("x/.hidden.png"))


MASK = RAMP > 200


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(MASK),
        Image.fromarray(MASK.astype(np.uint8)),
        Image.fromarray(MASK.astype(np.uint8) * 255),
        Image.fromarray(MASK.astype(np.uint16) * 65535),
        Image.fromarray(MASK.astype(np.uint16)),
        Image.fromarray(MASK.astype(np.uint16) * 255),
        Image.fromarray(np.stack([MASK * 255, MASK * 0, MASK * 0], axis=-1).astype(np.uint8)),
        Image.fromarray(np.where(MASK, 250, 5).astype(np.uint8)),
    ],
    ids=["1-bit", "0-1", "0-255", "16-bit", "16-bit label", "8 of 16 bit", "red", "lossy"],
)
def test_mask_forms(tmp_path: Path, image: Image.Image) -> None:
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "m.png", image)), MASK)


def test_palette_mask_is_read_by_colour_not_by_index(tmp_path: Path) -> None:
    image = Image.fromarray((~MASK).astype(np.uint8))
    image.putpalette([255, 255, 255, 0, 0, 0])
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "m.png", image)), MASK)


def test_mask_refusals(tmp_path: Path) -> None:
    with pytest.raises(EmptyMaskError, match=r"m\.png.*empty"):
        read_mask(saved(tmp_path / "m.png", RAMP * 0))
    with pytest.raises(InputError, match=r"m\.png.*not binary.*--mask-threshold"):
        read_mask(saved(tmp_path / "m.png", RAMP))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", threshold=200), MASK)
    with pytest.raises(InputError, match=r"m\.png.*above 255"):
        read_mask(tmp_path / "m.png", threshold=255)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("level", [1, 8, 255])
def test_masks_of_two_levels_are_read_as_those_of_three_channels(tmp_path: Path, level: int, inverted: bool) -> None:
    values = np.zeros((30, 40), np.uint8)
    values[5:12, 8:30] = level
    Image.fromarray(values).save(tmp_path / "one.png")
    Image.fromarray(np.repeat(values[..., None], 3, axis=2)).save(tmp_path / "three.png")
    one, three = (read_mask(tmp_path / name, inverted=inverted) for name in ("one.png", "three.png"))
    np.testing.assert_array_equal(one, three)
    np.testing.assert_array_equal(one, (values == 0) == inverted)


def test_tensor_round_trip_is_exact_for_all_values() -> None:
    tensor = to_tensor(COLOUR)
    assert tensor.shape == (3, 16, 16)
    assert (tensor.min().item(), tensor.max().item()) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_pixels(tensor), COLOUR)
    clipped = to_pixels(tensor * 3)
    assert (clipped[COLOUR < 64] == 0).all()
    assert (clipped[COLOUR > 191] == 255).all()


def test_resize_pixels() -> None:
    assert resize_pixels(COLOUR, (16, 16)) is COLOUR
    assert resize_pixels(COLOUR, (8, 4)).shape == (8, 4, 3)
    assert resize_pixels(RAMP, (32, 40)).shape == (32, 40)
    np.testing.assert_array_equal(resize_pixels(np.full((8, 8), 77, np.uint8), (4, 4)), 77)


sides = st.integers(1, 40)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.tuples(sides, sides), st.tuples(sides, sides))
def test_resizing_never_loses_a_mask(data: st.DataObject, shape: tuple[int, int], size: tuple[int, int]) -> None:
    mask = data.draw(arrays(np.bool_, shape))
    mask[data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1))] = True
    resized = resize_mask(mask, size)
    assert resized.shape == size
    assert resized.dtype == np.bool_
    assert resized.any()


@settings(max_examples=60, deadline=None)
@given(*[st.integers(0, 127)] * 4, st.sampled_from([100, 64, 51, 43, 32, 16]))
def test_shrinking_keeps_a_thin_scratch_in_one_piece(x0: int, y0: int, x1: int, y1: int, side: int) -> None:
    line = cv2.line(np.zeros((128, 128), np.uint8), (x0, y0), (x1, y1), 1)
    small = resize_mask(line > 0, (side, side))
    assert cv2.connectedComponents(small.astype(np.uint8))[0] == 2
    touched = cv2.resize(line.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA) > 0
    assert not (small & ~touched).any()


def test_growing_a_mask_repeats_pixels() -> None:
    np.testing.assert_array_equal(resize_mask(MASK, (32, 48)), MASK.repeat(2, axis=0).repeat(3, axis=1))


def test_writes_png_and_mask(tmp_path: Path) -> None:
    write_png(tmp_path / "new" / "a.png", COLOUR)
    write_png(tmp_path / "g.png", COLOUR[..., 0])
    write_mask(tmp_path / "m.png", MASK)
    np.testing.assert_array_equal(read_picture(tmp_path / "new" / "a.png").pixels, COLOUR)
    grey = read_picture(tmp_path / "g.png")
    assert grey.grey
    np.testing.assert_array_equal(grey.pixels[..., 0], COLOUR[..., 0])
    assert set(np.unique(np.asarray(Image.open(tmp_path / "m.png")))) == {0, 255}
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), MASK)


deep_levels = arrays(np.uint16, (3, 4))


@settings(max_examples=25, deadline=None)
@given(deep_levels, st.sampled_from([".png", ".tif"]), st.sampled_from(["<u2", ">u2"]))
def test_sixteen_bit_files_give_their_own_values(
    tmp_path_factory: pytest.TempPathFactory, levels: NDArray[np.uint16], suffix: str, order: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"deep{suffix}"
    big = order == ">u2" and suffix == ".tif"
    image = Image.frombytes("I;16B" if big else "I;16", (4, 3), levels.astype(order if big else "<u2").tobytes())
    picture = read_picture(saved(path, image))
    assert picture.grey
    assert picture.deep is not None
    np.testing.assert_array_equal(picture.deep, levels)
    assert picture.deep.dtype == np.uint16
    write_image(path.with_suffix(".png"), picture.as_file(picture.pixels))
    again = read_picture(path.with_suffix(".png"))
    assert again.deep is not None
    np.testing.assert_array_equal(again.deep, levels)


@pytest.mark.parametrize(("mode", "channels"), [("L", 2), ("RGB", 3), ("RGBA", 3), ("LA", 2), ("1", 2)])
def test_files_of_eight_bits_keep_their_channels(tmp_path: Path, mode: str, channels: int) -> None:
    picture = read_picture(saved(tmp_path / "a.png", Image.fromarray(COLOUR).convert(mode)))
    assert picture.deep is None
    assert picture.as_file(picture.pixels).ndim == channels
    assert picture.as_file(picture.pixels).dtype == np.uint8


@pytest.mark.parametrize(
    ("levels", "found"),
    [
        (np.float32(16) * COLOUR[..., 0], "0 to 1, or 0 to 255"),
        (np.float32(0.5) - COLOUR[..., 0] / np.float32(255), "0 to 1, or 0 to 255"),
        (COLOUR[..., 0].astype(np.int32) * 4000, "0 to 65535"),
    ],
)
def test_levels_that_would_all_be_white_or_black_are_refused(
    tmp_path: Path, levels: NDArray[np.generic], found: str
) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(levels))
    with pytest.raises(InputError, match=rf"a\.tif: .*expected {found}.*; convert it"):
        read_picture(path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.ENOENT, "its folder vanished"),
        (errno.EACCES, "allow writing there"),
        (errno.EROFS, "allow writing there"),
        (errno.EIO, "check the disk"),
    ],
)
def test_a_failed_write_leaves_nothing_and_says_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, advice: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutputError) as caught:
        write_png(tmp_path / "a.png", COLOUR)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a.png'}: could not be written ({os.strerror(number)}); {advice}")
    assert ("space" in message.split("; ")[1]) == (number in {errno.ENOSPC, errno.EDQUOT})
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_being_written_can_be_recognised(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a.txt") as file:
        (part,) = tmp_path.iterdir()
        assert part.name.startswith(TEMPORARY)
        file.write(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def interrupted_write(path: Path) -> None:
    with atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_a_failed_write_keeps_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
