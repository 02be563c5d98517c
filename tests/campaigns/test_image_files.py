"""Damaged image files of every format: each is read or refused by a sentence, in reasonable time."""

from __future__ import annotations

import io
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from campaign import SEED, row, size
from fabricate import texture
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from adabldm.core.errors import InputError
from adabldm.core.images import read_picture
from adabldm.core.mask_files import read_mask
from adabldm.core.opening import read_orientation

FILES = int(os.environ.get("ADABLDM_CAMPAIGN_FILES", size(10_000, 1_000_000)))
FIRST = int(os.environ.get("ADABLDM_CAMPAIGN_FIRST_FILE", "0"))
"""Number of the first file, to go on after an interruption or to share the files among processes."""
TOLD_EVERY = 20_000
LONGEST_SECONDS = 30.0
"""Processor time; a file that takes longer hangs. A damaged header may ask for as many pixels as are allowed."""
NUMBERS = [bytes([value]) * length for value in (0, 1, 127, 128, 255) for length in (1, 2, 4)]
"""What decoders stumble over when it replaces a length or a count."""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    tags = ImageFileDirectory_v2()
    tags[0x0112] = orientation
    tags[0x010F] = "camera"
    tags[0x011A] = 72.0
    return b"Exif\0\0II*\0\x08\0\0\0" + tags.tobytes(8)


def seeds() -> list[tuple[str, bytes]]:
    """Sound files, by their suffixes, of all formats, modes and compressions that are read."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(texture((24, 32), rng))
    grey, deep = colour.convert("L"), Image.fromarray(rng.integers(0, 65536, (24, 32)).astype(np.uint16))
    mask = Image.fromarray((np.hypot(*np.mgrid[-12:12, -16:16]) < 8).astype(np.uint8) * 255)
    layered = colour.copy()
    layered.putalpha(mask)
    real = Image.fromarray(rng.random((24, 32), dtype=np.float32))
    found = [(".png", encoded(one, "PNG")) for one in (colour, grey, deep, mask, layered, mask.convert("1"))]
    found += [
        (".png", encoded(colour.quantize(16), "PNG", transparency=3)),
        (".png", encoded(mask, "PNG", exif=exif(6))),
    ]
    found += [(".jpg", encoded(one, "JPEG", quality=80)) for one in (colour, grey, colour.convert("CMYK"))]
    found += [(".jpg", encoded(colour, "JPEG", exif=exif(turn), progressive=turn == 3)) for turn in (3, 6)]
    found += [(".bmp", encoded(one, "BMP")) for one in (colour, grey, colour.quantize(16), layered)]
    for way in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        kinds = (colour, grey) if way == "jpeg" else (colour, grey, deep, real, layered)
        found += [(".tif", encoded(one, "TIFF", compression=way)) for one in kinds]
    found.append((".tif", encoded(colour, "TIFF", tiffinfo={0x0112: 6})))
    found += [(".webp", encoded(one, "WEBP", lossless=exact)) for one in (colour, layered) for exact in (False, True)]
    return found


def damaged(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A file with one to four changes: bits, lengths, pieces cut, repeated, moved, or taken from another file."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(0, min(len(changed), 128 if rng.random() < 0.4 else len(changed)) + 1))
        length = int(rng.integers(1, 33))
        piece = bytes(changed[place : place + length])
        kind = int(rng.integers(0, 8))
        if kind <= 1 and place < len(changed):
            changed[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            number = NUMBERS[int(rng.integers(len(NUMBERS)))]
            changed[place : place + len(number)] = number
        elif kind == 3:
            changed[place : place + length] = rng.bytes(length)
        elif kind == 4:
            del changed[place : place + length]
        elif kind == 5:
            changed[place:place] = piece
        elif kind == 6:
            start = int(rng.integers(0, len(other)))
            changed[place : place + length] = other[start : start + length]
        elif rng.random() < 0.3:
            del changed[place:]
    return bytes(changed)


def files(count: int) -> Iterator[tuple[str, bytes]]:
    sound = seeds()
    for number in range(FIRST, FIRST + count):
        rng = np.random.default_rng((SEED, number))
        suffix, data = sound[number % len(sound)]
        other = sound[int(rng.integers(len(sound)))]
        yield (suffix if rng.random() < 0.9 else other[0]), damaged(data, other[1], rng)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_image_files(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    counts: Counter[str] = Counter()
    faults: dict[str, str] = {}
    slowest = 0.0
    for number, (suffix, data) in enumerate(files(FILES), FIRST):
        path = tmp_path / f"f{suffix}"
        path.write_bytes(data)
        began = time.process_time()
        for read in (read_picture, read_mask, read_orientation):
            try:
                read(path)
                counts[f"{read.__name__.removeprefix('read_')}s read"] += 1
            except InputError:
                counts["refusals"] += 1
            except Exception as error:
                kept = tmp_path / f"fault-{number}{suffix}"
                kept.write_bytes(data)
                faults.setdefault(f"{read.__name__}: {type(error).__name__}: {error}"[:200], str(kept))
        slowest = max(slowest, time.process_time() - began)
        counts["files"] += 1
        path.unlink()
        if counts["files"] % TOLD_EVERY == 0:
            print(f"image files {FIRST} to {number}: {dict(counts)}, faults {faults}", flush=True)
    counts["ms for the slowest"] = round(1000 * slowest)
    record_property("campaign", row("image files", counts))
    assert faults == {}
    assert slowest < LONGEST_SECONDS


def test_sound_files_are_read(tmp_path: Path) -> None:
    for number, (suffix, data) in enumerate(seeds()):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(data)
        assert sorted(read_picture(path).size) == [24, 32]
