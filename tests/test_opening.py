"""Odd files, as cameras, tools and strangers make them: read, or refused by a sentence, and never waited for."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Adabldm
from fabricate import texture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

from adabldm.core import depth
from adabldm.core.depth import in_parts
from adabldm.core.errors import InputError
from adabldm.core.images import read_picture
from adabldm.core.mask_files import read_mask
from adabldm.core.opening import MOST_PIXELS
from adabldm.core.settings import GenerateSettings, SettingsError

PIXELS = texture((40, 56), np.random.default_rng(0))
SIDE = 1024
"""Of the pictures whose memory is measured: several times `depth.PART` pixels."""
BYTES = 28
"""That a picture or a mask may need for each of its pixels while it is read, beside the decoder's own."""
RNG = np.random.default_rng(1)
COSTLY: dict[str, Image.Image] = {
    "transparent": Image.fromarray(RNG.integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)),
    "numbers.jpg": Image.fromarray(np.kron(RNG.integers(0, 2, (8, 8)), np.full((128, 128), 255)).astype(np.uint8)),
    "float": Image.fromarray(RNG.random((SIDE, SIDE), dtype=np.float32)),
    "32 bits": Image.fromarray(RNG.integers(0, 2**31 - 1, (SIDE, SIDE), dtype=np.int32)),
    "16 bits": Image.fromarray(RNG.integers(0, 2**16, (SIDE, SIDE)).astype(np.uint16)),
    "numbers": Image.fromarray(np.kron(RNG.integers(0, 5, (8, 8)), np.ones((128, 128))).astype(np.uint8)),
    "many numbers": Image.fromarray(np.kron(RNG.integers(0, 2**20, (8, 8)), np.ones((128, 128))).astype(np.int32)),
}
"""Pictures that a small file may hold and that are computed with in double precision."""


def huge_png(path: Path, width: int, height: int) -> None:
    """A whole PNG of one bit a pixel, all black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def postscript(path: Path) -> None:
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n(%pipe%id) (w) file\n%%EOF\n")


def not_finite(path: Path) -> None:
    values = np.full((40, 40), 0.5, np.float32)
    values[3, 4] = np.nan
    Image.fromarray(values).save(path, format="TIFF")


def without_permission(path: Path) -> None:
    Image.fromarray(PIXELS).save(path)
    path.chmod(0)


ODD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "fifo": ("f.png", lambda path: os.mkfifo(path), "neither a file nor a link to one"),
    "socket or device": ("f.png", lambda path: path.symlink_to("/dev/zero"), "neither a file nor a link to one"),
    "nan": ("f.tif", not_finite, "not finite numbers"),
    "too large": ("f.png", lambda path: huge_png(path, 30000, 30000), r"too large \(900,000,000 pixels\), expected at"),
    "a little too large": ("f.png", lambda path: huge_png(path, 14000, 12800), f"at most {MOST_PIXELS:,}"),
    "postscript": ("f.png", postscript, "not a readable image"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_refused(tmp_path: Path, name: str) -> None:
    file, write, words = ODD[name]
    write(tmp_path / file)
    with pytest.raises(InputError, match=words) as caught:
        read_picture(tmp_path / file)
    assert str(caught.value).startswith(f"{tmp_path / file}: ")
    assert "truncated" not in str(caught.value) or name == "postscript"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_not_called_truncated(tmp_path: Path) -> None:
    without_permission(tmp_path / "a.png")
    with pytest.raises(InputError, match="permissions"):
        read_picture(tmp_path / "a.png")


def test_a_rational_width_in_exif_is_no_matter(tmp_path: Path) -> None:
    tags = ImageFileDirectory_v2()
    tags[0x0112] = 6
    tags.tagtype[0x0100] = 5
    tags[0x0100] = IFDRational(56, 1)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + tags.tobytes(8)
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", quality=95, exif=exif)
    picture = read_picture(tmp_path / "a.jpg")
    assert (picture.size, picture.orientation) == ((56, 40), 6)


def test_large_images_and_odd_metadata_do_not_warn(tmp_path: Path) -> None:
    huge_png(tmp_path / "a.png", 12000, 12000)
    place = f"pathlib.Path({str(tmp_path / 'a.png')!r})"
    call = f"import pathlib; from adabldm.core import opening; opening.read_orientation({place})"
    done = subprocess.run([sys.executable, "-W", "error", "-c", call], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("read", [read_picture, read_mask])
@pytest.mark.parametrize("name", COSTLY)
def test_a_large_picture_needs_little_memory(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    path = tmp_path / (name if "." in name else f"{name}.tif")
    COSTLY[name].save(path)
    tracemalloc.start()
    try:
        read(path)
    except InputError:
        pass  # random levels are no mask
    finally:
        needed = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert SIDE**2 < needed < BYTES * SIDE**2


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([None, 1, 3]), st.integers(1, 4000))
def test_parts_of_pictures_make_the_whole(height: int, width: int, channels: int | None, part: int) -> None:
    size = (height, width) if channels is None else (height, width, channels)
    values = np.random.default_rng(height).integers(0, 2**16, size).astype(np.uint16)[::-1]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(depth, "PART", part)
        found = in_parts(lambda one, other: np.sqrt(one.astype(np.float64)) - other, values, values[:, ::-1])
    np.testing.assert_array_equal(found, np.sqrt(values.astype(np.float64)) - values[:, ::-1])


def test_names_that_are_not_utf8(adabldm: Adabldm, data: Path, run: Path, tmp_path: Path) -> None:
    root = tmp_path / "woven cloth"
    shutil.copytree(data, root)
    odd = os.fsdecode(b"caf\xe9")
    shutil.copy(root / "train/good/000.png", root / "train/good" / f"{odd}.png")
    (root / "train/good" / f"{odd}.txt").write_text("")
    os.mkfifo(root / "train/good/f.png")
    report = adabldm("inspect", root)
    assert report.code == 2
    assert f"{root / 'train/good/f.png'}: neither a file nor a link to one" in report.out
    assert "caf\\udce9.png: its name is not written in UTF-8; rename it." in report.out
    assert json.loads(adabldm("inspect", root, "--json").out)["problems"]
    made = adabldm("generate", run, "--data", root, "--out", tmp_path / "out", "--count", 1)
    assert (made.code, made.err.count("\n")) == (2, 2)
    assert "its name is not written in UTF-8; rename it." in made.err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SettingsError, match=r"out: .*caf.udce9 is not written in UTF-8"):
        GenerateSettings.create(run=str(run), data=data, out=tmp_path / odd, count=1)
