"""Cross-validation: the training images of a data set, divided into those that are trained on and those held out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
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
    each other, and so stay together. An image with several types goes with the rarest of them, which the fewest images
    show (the first by name of equally rare ones), so that rare types are spread over all folds.

    Args:
        samples: the training images.
        fold: such as "2/5", the second of five.
    """
    number, folds = parse_fold(fold)
    numbers = _numbers(samples, folds)
    return [replace(sample, split="test" if numbers[sample.image] == number else "train") for sample in samples]


def too_few(samples: Sequence[Sample], fold: str, root: Path) -> list[str]:
    """A problem for each type that fewer images show than there are folds, one sentence each."""
    _, folds = parse_fold(fold)
    return [
        f"{root}: {count} training images of {name}, expected at least {folds}, one for each fold; ask for fewer folds."
        for name, count in sorted(_counts(samples).items())
        if count < folds
    ]


def one_sided(samples: Sequence[Sample], used: Iterable[Sample], fold: str, root: Path) -> list[str]:
    """A problem for each type whose images are all held out in some fold, or none of them, one sentence each.

    Args:
        samples: the training images, as they are divided.
        used: those that are used, with the defects that are used.
        fold: such as "2/5"; all five are looked at, as all are needed.
        root: folder of the data set, for the sentences.
    """
    _, folds = parse_fold(fold)
    numbers, problems = _numbers(samples, folds), []
    held: dict[str, set[int]] = {}
    for sample in used:
        for name in sample.types:
            held.setdefault(name, set()).add(numbers[sample.image])
    for name, own in sorted(held.items()):
        if len(own) < folds:
            alone = len(own) == 1
            number = min(own) if alone else min(set(range(1, folds + 1)) - own)
            found = f"all images of {name} are" if alone else f"no image of {name} is"
            problems.append(
                f"{root}: in fold {number} of {folds} {found} held out, expected some of them in every fold; ask for "
                f"fewer folds, or add training images of {name}."
            )
    return problems


def _numbers(samples: Sequence[Sample], folds: int) -> dict[Path, int]:
    """The number of the fold, from 1, in which each image is held out."""
    numbers = {}
    for group in _groups(samples).values():
        for number in range(1, folds + 1):
            first, end = (len(group) * edge // folds for edge in (number - 1, number))
            numbers.update({sample.image: number for sample in group[first:end]})
    return numbers


def _groups(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The samples by the rarest of their types, each group in the order in which it is cut."""
    counts = _counts(samples)
    found: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=_order):
        found.setdefault(min(sample.types or (GOOD,), key=lambda name: (counts[name], name)), []).append(sample)
    return found


def _counts(samples: Iterable[Sample]) -> Counter[str]:
    """How many images show each type, and how many are free of defects."""
    return Counter(name for sample in samples for name in sample.types or (GOOD,))


def _order(sample: Sample) -> tuple[int, str]:
    numbers = [int(digits) for digits in NUMBER.findall(sample.image.stem)]
    return max(numbers, default=0), sample.image.as_posix()
