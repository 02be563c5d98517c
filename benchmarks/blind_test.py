"""A blind test of generic defects: sheets of numbered pictures, a form to fill in, and its evaluation.

    python benchmarks/blind_test.py make MATERIALS FOLDER … --out TEST [--count 200] [--seed 0]
    python benchmarks/blind_test.py score TEST/form.csv TEST/key.csv

FOLDER … are data sets with real defects in their training splits. `make` draws `count` defects
with `adabldm generate surface`, as many of each type, on pictures of 512 px of materials that are held out
(`split_materials`). They are mixed with windows around real defects (a third as many) and windows without any (a
sixth), all resized to 256 px. The order is random, and the key that says what is what lies in a file of its own. Who
judges writes a line for each number: the type of defect (one of the ten, "other" or "none"), and whether it is believed
to be real ("yes" or "no").
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from adabldm.core.errors import EmptyMaskError
from adabldm.core.images import Pixels, read_picture, resize_pixels, write_png
from adabldm.core.lettering import text_strip
from adabldm.core.mask_files import read_mask
from adabldm.core.seeding import numpy_rng
from adabldm.core.settings import GenerateSettings
from adabldm.core.windows import Window, crop, random_window, window_around
from adabldm.data.formats import ReadOptions, find_reader
from adabldm.data.generated import read_manifest
from adabldm.rendering.render import DEFECTS
from adabldm.rendering.sources import read_materials, split_materials
from adabldm.rendering.surfaces import material_window
from adabldm.workflows.generate import generate

SIDE = 512
"""Side in px of the pictures that are drawn on."""
SCALE = (0.22, 0.3)
"""Magnification of a material as `material_window` counts it: 0.9 to 1.2 pixels for each of its own."""
SHOWN = 256
CONTEXT = 1.9
SMALLEST = 96
"""Smallest side in px of a window that is shown."""
COLUMNS, ROWS = 4, 5


@dataclass(frozen=True)
class Tile:
    """A picture of the test.

    Attributes:
        pixels: what is shown, uint8 SHOWNxSHOWNx3.
        source: "rendered", "real" or "unedited".
        defect: its type; "none" without a defect.
        name: of the picture that it is cut from.
    """

    pixels: Pixels
    source: str
    defect: str
    name: str


def _shown(picture: Pixels, window: Window) -> Pixels:
    return resize_pixels(crop(picture, window), (SHOWN, SHOWN))


def rendered(materials: Path, count: int, seed: int) -> Iterator[Tile]:
    """Defects drawn by `adabldm generate surface` on held-out materials, then a sixth as many windows without any."""
    tiles = read_materials(materials)
    split = split_materials(list(tiles))
    names = [*split.unseen_names, *split.unseen_kinds]
    rng = numpy_rng("blind test", seed)
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        for index in range(count):
            name = names[int(rng.integers(len(names)))]
            picture = material_window(tiles[name], SIDE, rng, SCALE)
            write_png(data / "train" / "good" / f"{index:03d}-{Path(name).stem}.png", picture)
        generate(GenerateSettings(run="surface", data=data, out=out, count=count, defect=DEFECTS, seed=seed))
        for record in read_manifest(out).values():
            mask = read_mask(out / record.mask)
            window = window_around(mask, context=CONTEXT, min_side=SMALLEST, rng=rng)
            pixels = _shown(read_picture(out / record.image).pixels, window)
            yield Tile(pixels, "rendered", record.defect, Path(record.source).stem)
        for path in sorted((data / "train" / "good").iterdir())[: count // 6]:
            picture = read_picture(path).pixels
            window = random_window(picture.shape[:2], rng, min_side=SMALLEST)
            yield Tile(_shown(picture, window), "unedited", "none", path.stem)


def real(folders: Sequence[Path], count: int, seed: int) -> Iterator[Tile]:
    """Windows around real defects of the training splits, as many from each data set."""
    rng = numpy_rng("blind test", "real", seed)
    for place, folder in enumerate(folders):
        samples = find_reader(folder).list_samples(folder, ReadOptions()).samples
        found = [(one, defect) for one in samples if one.split == "train" for defect in one.defects]
        wanted = count // len(folders) + (place < count % len(folders))
        for sample, defect in (found[index] for index in rng.permutation(len(found))):
            try:
                mask = defect.mask.read()
            except EmptyMaskError:
                continue
            window = window_around(mask, context=CONTEXT, min_side=SMALLEST, rng=rng)
            yield Tile(
                _shown(sample.picture().pixels, window), "real", defect.type, f"{folder.name}/{sample.image.stem}"
            )
            wanted -= 1
            if not wanted:
                break


def make(materials: Path, folders: Sequence[Path], out: Path, count: int, seed: int) -> None:
    """Write the sheets, an empty form and the key."""
    tiles = [*rendered(materials, count, seed), *(real(folders, count // 3, seed) if folders else ())]
    order = numpy_rng("blind test", "order", seed).permutation(len(tiles))
    tiles = [tiles[index] for index in order]
    out.mkdir(parents=True)
    each = COLUMNS * ROWS
    for sheet, start in enumerate(range(0, len(tiles), each), start=1):
        cells = [
            np.pad(np.vstack([text_strip(f"{number}", SHOWN, 18), tile.pixels]), ((2, 2), (2, 2), (0, 0)))
            for number, tile in enumerate(tiles[start : start + each], start=start + 1)
        ]
        cells += [np.zeros_like(cells[0])] * (each - len(cells))
        rows = [np.hstack(cells[row * COLUMNS :][:COLUMNS]) for row in range(ROWS)]
        write_png(out / f"sheet-{sheet:02d}.png", np.vstack(rows))
    _write(out / "form.csv", ("number", "type", "real", "note"), [(n + 1, "", "", "") for n in range(len(tiles))])
    keys = [(number, tile.source, tile.defect, tile.name) for number, tile in enumerate(tiles, start=1)]
    _write(out / "key.csv", ("number", "source", "defect", "picture"), keys)


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _read(path: Path) -> dict[int, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {int(row["number"]): row for row in csv.DictReader(file)}


def score(form: Path, key: Path) -> None:
    """Print, by type, the share of rendered defects taken for their type and the share believed to be real.

    Raises:
        SystemExit: a number has no judgement, or one that is not allowed.
    """
    judged, truth = _read(form), _read(key)
    allowed = {*DEFECTS, "other", "none"}
    for number in truth:
        row = judged.get(number, {})
        if row.get("type") not in allowed or row.get("real") not in {"yes", "no"}:
            raise SystemExit(f"{form}: number {number} needs a type ({', '.join(sorted(allowed))}) and real (yes, no).")
    print(f"{'source':<10}{'type':<15}{'pictures':>9}{'taken for it':>14}{'believed real':>15}")
    groups = [("rendered", defect) for defect in DEFECTS] + [("rendered", ""), ("real", ""), ("unedited", "")]
    for source, defect in groups:
        numbers = [n for n, row in truth.items() if row["source"] == source and defect in {"", row["defect"]}]
        if not numbers:
            continue
        right = sum(judged[number]["type"] == truth[number]["defect"] for number in numbers)
        believed = sum(judged[number]["real"] == "yes" for number in numbers)
        share = "-" if source == "real" else f"{right / len(numbers):.0%}"
        print(f"{source:<10}{defect or 'all':<15}{len(numbers):>9}{share:>14}{believed / len(numbers):>15.0%}")
    found = [judged[number]["type"] != "none" for number, row in truth.items() if row["source"] == "real"]
    if found:
        print(f"real defects that were taken for a defect: {np.mean(found):.0%} of {len(found)}")


def main() -> None:
    """Make a test or score one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("materials", type=Path)
    making.add_argument("folders", type=Path, nargs="*")
    making.add_argument("--out", type=Path, required=True)
    making.add_argument("--count", type=int, default=200)
    making.add_argument("--seed", type=int, default=0)
    scoring = commands.add_parser("score")
    scoring.add_argument("form", type=Path)
    scoring.add_argument("key", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.command == "make":
        make(options.materials, options.folders, options.out, options.count, options.seed)
    else:
        score(options.form, options.key)


if __name__ == "__main__":
    main()
