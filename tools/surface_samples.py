"""Make the surfaces that ship: pictures of 512 px from small tileable pictures of materials.

    python tools/surface_samples.py MATERIALS       # -> src/adabldm/models/shipped/surfaces

MATERIALS is a folder of CC0 pictures, 128 px a side. Copies and mirror images of one lie side by side, so that no seam
shows; the border of a picture, where it fades, is left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from adabldm.core.images import Pixels, read_picture

SHIPPED = Path(__file__).resolve().parents[1] / "src" / "adabldm" / "models" / "shipped" / "surfaces"
NAMES = (
    "CorrugatedSteel005", "Fabric027", "Granite001", "Marble001", "Metal001", "Paint001", "Plastic008", "Wood063",
)  # fmt: skip
BORDER = 3
"""Pixels of a picture's border, where it fades."""


def surface(tile: Pixels) -> Pixels:
    """A picture of 512 px of copies of a tile and of its mirror images."""
    inner = tile[BORDER:-BORDER, BORDER:-BORDER]
    wide = np.hstack([inner, inner[:, ::-1]] * 3)
    return np.ascontiguousarray(np.vstack([wide, wide[::-1]] * 3)[:512, :512])


def main() -> None:
    """Write every picture without loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("materials", type=Path, metavar="MATERIALS")
    materials = parser.parse_args().materials
    SHIPPED.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        pixels = surface(read_picture(materials / f"{name}.png").pixels)
        Image.fromarray(pixels).save(SHIPPED / f"{name}.webp", lossless=True, quality=100, method=6)


if __name__ == "__main__":
    main()
