"""`adabldm demo`: generic defects on the surfaces that ship."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from conftest import Adabldm, contents, manifest
from PIL import Image

from adabldm.core.images import read_picture
from adabldm.production.produce import ATTEMPTS


def test_the_demo_makes_several_defect_types_offline(adabldm: Adabldm, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = adabldm("demo", "--out", out, "--count", 6, "--quiet")
    assert result.code == 0, result.err
    images = Path(result.out.splitlines()[-1])
    assert images == out / "images"
    records = manifest(images)
    assert len(records) == 6
    assert len({record["defect"] for record in records}) >= 3
    for record in records:
        with Image.open(images / record["mask"]) as file:
            mask = np.asarray(file)
        image, source = read_picture(images / record["image"]), read_picture(out / "data" / record["source"])
        assert mask.shape == image.size == source.size
        assert np.array_equal(np.unique(mask), [0, 255])
        assert not np.array_equal(image.pixels[mask > 0], source.pixels[mask > 0])
        assert record["background_psnr"] >= 30 or not record["accepted"]
    with Image.open(images / "reports" / "contact_sheet.jpg") as sheet:
        sheet.load()
    page = (images / "reports" / "index.html").read_text(encoding="utf-8")
    assert [record["image"] for record in records if f'"../{record["image"]}"' not in page] == []
    assert any(record["accepted"] for record in records)
    assert all(record["accepted"] == (len(record["rejected"]) < ATTEMPTS) for record in records)
    assert all(record["attempt"] == len(record["rejected"]) for record in records if record["accepted"])
    before = contents(out)
    again = adabldm("demo", "--out", out, "--count", 6, "--quiet")
    assert "0 images made, 6 were there" in again.err
    assert contents(out) == before
    (out / "settings.json").unlink()  # as versions before 1 of the records left it
    assert "0 images made, 6 were there" in adabldm("demo", "--out", out, "--count", 6, "--quiet").err


def test_a_demo_of_something_else_is_refused_untouched(adabldm: Adabldm, tmp_path: Path) -> None:
    """Demos were drawn by a network on other pictures before; theirs stay as they are."""
    out = tmp_path / "demo"
    (out / "data" / "train" / "good").mkdir(parents=True)
    (out / "data" / "train" / "good" / "tile_00.png").write_bytes(b"a tile")
    (out / "images").mkdir()
    (out / "images" / "settings.json").write_text('{"schema": 1, "command": "generate", "model": "8819797f0cd9"}')
    for name in ("without settings of its own", "with settings"):
        if name == "with settings":
            (out / "settings.json").write_text('{"schema": 1, "command": "demo"}')
        before = contents(out)
        result = adabldm("demo", "--out", out, "--count", 2, "--quiet")
        assert result.code == 2, name
        assert result.err.count(str(out)) == 1, name
        assert contents(out) == before, name


def test_the_demo_refuses(adabldm: Adabldm, tmp_path: Path) -> None:
    file, letters = tmp_path / "file", tmp_path / "letters"
    file.write_text("here", encoding="utf-8")
    letters.mkdir()
    (letters / "letter.txt").write_text("Dear reader", encoding="utf-8")
    for options, words in (
        (("--out", tmp_path / "out", "--count", 0), "--count: 0"),
        (("--out", file), f"{file}: a file, expected a folder"),
        (("--out", letters), f"{letters}: not empty"),
    ):
        result = adabldm("demo", *options)
        assert (result.code, result.out) == (2, "")
        assert words in result.err
    assert not (tmp_path / "out").exists()
    assert contents(letters) == {"letter.txt": b"Dear reader"}
