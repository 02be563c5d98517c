"""The pictures of defect-free parts in the package: surfaces (CC0), and tiles that the model `tiny` drew itself."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from adabldm.core.images import is_image_file


def surface_pictures() -> list[Path]:
    """Eight surfaces of 512 px: painted, brushed and corrugated metal, plastic, wood, cloth, marble and granite."""
    return _pictures("surfaces")


def tile_pictures() -> list[Path]:
    """Tiles for the run `magnetic-tile`, 320x224 px, grey."""
    return _pictures("samples")


def lay_out(pictures: Sequence[Path], data: Path) -> Path:
    """Copy pictures into a data set as its defect-free training images, and return its folder."""
    good = data / "train" / "good"
    good.mkdir(parents=True, exist_ok=True)
    for path in pictures:
        shutil.copyfile(path, good / path.name)
    return data


def _pictures(name: str) -> list[Path]:
    folder = Path(str(files("adabldm.models"))) / "shipped" / name
    return sorted(path for path in folder.iterdir() if is_image_file(path))
