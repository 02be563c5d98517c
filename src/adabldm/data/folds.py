"""Cross-validation: the training images of a data set, divided into those that are trained on and those held out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from adabldm.core.samples import GOOD, Sample

NUMBER = re.compile(r"\d+")


def parse_fold(text: str) -> tuple[int, int]:
    """(number of the fold, from 1; number of folds) of "2/5"."""
    number, folds = text.split("/")
    return int(number), int(folds)


def hold_out(samples: Sequence[Sample], fold: str) -> list[Sample]:
    """The samples with the split that they have in a fold: "test" for those held out, "train" for the rest.

    Defect-free images, and the images of each type, are put in the order of the largest number in their names, which
    usually counts pictures or tells the time, and cut into blocks of equal size: pictures of one specimen mostly follow
    each other, and so stay together. An image with several types goes with the first of them by name.

    Args:
        samples: the training images.
        fold: such as "2/5", the second of five.
    """
    number, folds = parse_fold(fold)
    held: set[Path] = set()
    for group in _groups(samples).values():
        first, end = (len(group) * edge // folds for edge in (number - 1, number))
        held.update(sample.image for sample in group[first:end])
    return [replace(sample, split="test" if sample.image in held else "train") for sample in samples]


def too_few(samples: Sequence[Sample], fold: str, root: Path) -> list[str]:
    """A problem for each group that has fewer images than there are folds, one sentence each."""
    _, folds = parse_fold(fold)
    return [
        f"{root}: {len(group)} training images of {name}, expected at least {folds}, one for each fold; ask for fewer "
        "folds."
        for name, group in _groups(samples).items()
        if len(group) < folds
    ]


def _groups(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The samples by their first type, each group in the order in which it is cut."""
    found: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=_order):
        found.setdefault(sample.types[0] if sample.defects else GOOD, []).append(sample)
    return found


def _order(sample: Sample) -> tuple[int, str]:
    numbers = [int(digits) for digits in NUMBER.findall(sample.image.stem)]
    return max(numbers, default=0), sample.image.as_posix()
