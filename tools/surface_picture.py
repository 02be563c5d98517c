"""Draw the README's first picture: eight surfaces (CC0) with eight generic defects, by `adabldm generate surface`.

python tools/surface_picture.py docs/pictures/surface.jpg
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from adabldm.core.images import Pixels, read_picture
from adabldm.core.mask_files import read_mask
from adabldm.core.settings import GenerateSettings
from adabldm.core.windows import Window, crop, window_around
from adabldm.data.generated import read_manifest
from adabldm.workflows.generate import generate
from adabldm.workflows.samples import lay_out, surface_pictures

SHOWN = {
    "Paint001": ("dent", 0),
    "Marble001": ("crack", 4),
    "Metal001": ("corrosion", 0),
    "CorrugatedSteel005": ("peeling", 5),
    "Fabric027": ("stain", 1),
    "Wood063": ("scratch", 4),
    "Plastic008": ("contamination", 5),
    "Granite001": ("pit", 0),
}
"""Defect type and seed of each surface."""
SIDE = 220
"""Side of a detail in the picture, in px."""


def detail(name: str, defect: str, seed: int, folder: Path) -> tuple[Pixels, Pixels]:
    """Source and result around the defect, `SIDE` px square each."""
    data = lay_out([path for path in surface_pictures() if path.stem == name], folder / "data")
    generate(GenerateSettings(run="surface", data=data, out=folder / "out", count=1, defect=(defect,), seed=seed))
    (record,) = read_manifest(folder / "out").values()
    around = window_around(read_mask(folder / "out" / record.mask), context=1.6)
    side = min(512, max(SIDE, around.side))
    starts = [start + around.side // 2 - side // 2 for start in (around.top, around.left)]
    window = Window(*(min(max(start, 0), 512 - side) for start in starts), side)
    paths = folder / "data" / record.source, folder / "out" / record.image
    source, result = (_fit(crop(read_picture(path).pixels, window)) for path in paths)
    return source, result


def _fit(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def main(out: Path) -> None:
    """Write the picture: sources above, results below."""
    columns = []
    for name, (defect, seed) in SHOWN.items():
        with tempfile.TemporaryDirectory() as folder:
            pair = detail(name, defect, seed, Path(folder))
        white = [np.pad(part, ((2, 2), (2, 2), (0, 0)), constant_values=255) for part in pair]
        columns.append(np.vstack(white))
    Image.fromarray(np.hstack(columns)).save(out, quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
