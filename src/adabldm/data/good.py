"""Defect-free images in a generated folder: `train/good`, so that the folder is a data set as it lies."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from adabldm.core.samples import GOOD, DataSet
from adabldm.core.settings.common import Good
from adabldm.data.exports.items import orientation, place_file, write_upright

FOLDER = f"train/{GOOD}"


def good_names(paths: Sequence[str]) -> list[str]:
    """Names for the files of `train/good`: their own, or with their folders where these would not tell them apart.

    Args:
        paths: of the images, POSIX and relative to the data set, all different.
    """
    own = [Path(path).name for path in paths]
    long = [path.replace("/", "_") for path in paths]
    names = [one if single else other for one, other, single in zip(own, long, _single(own), strict=True)]
    return [
        name if single else f"{Path(name).stem}_{hashlib.sha256(path.encode()).hexdigest()[:8]}{Path(name).suffix}"
        for path, name, single in zip(paths, names, _single(names), strict=True)
    ]


def _single(names: Sequence[str]) -> list[bool]:
    """Which names differ from all others by more than their suffixes and the case of their letters."""
    stems = [Path(name).stem.casefold() for name in names]
    counts = Counter(stems)
    return [counts[stem] == 1 for stem in stems]


def place_good(root: Path, data_set: DataSet, how: Good) -> bool:
    """Put the defect-free training images of a data set into a generated folder; those that are there stay.

    An image that its EXIF data turn is written again as a viewer shows it.

    Args:
        root: the generated folder.
        data_set: the sources.
        how: as links, as copies, or not at all.

    Returns:
        Whether links were asked for and there are copies instead.

    Raises:
        OutputError: full disk or missing permission.
    """
    if how == "none":
        return False
    copied = False
    names = good_names([data_set.relative(sample) for sample in data_set.good])
    for sample, name in zip(data_set.good, names, strict=True):
        target = root / FOLDER / name
        if target.exists() or target.with_suffix(".png").exists():
            continue
        if sample.image.suffix.lower() != ".png" and orientation(sample.image) != 1:
            write_upright(sample.image, target.with_suffix(".png"))
        else:
            copied |= not place_file(sample.image, target, copy=how == "copy")
    return copied and how == "link"
