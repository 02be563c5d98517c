"""Settings of `curate`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from adabldm.core.settings.common import DATA, DEFECTS, DataSettings, setting
from adabldm.core.settings.problems import field_error, shown


def _numbers(value: object) -> object:
    """Numbers of images, which may be written as "12,40" or "3-9"; ranges stay as they are, however long."""
    found: list[object] = []
    for item in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(item, str):
            found.append(item)
            continue
        for part in filter(None, re.split(r"[,\s]+", item)):
            limits = re.fullmatch(r"(\d{1,15})(?:-(\d{1,15}))?", part, re.ASCII)
            if limits is None or int(limits[2] or limits[1]) < int(limits[1]):
                raise ValueError(f"{shown(part)} was given, expected numbers of images such as 12,40 or 3-9")
            found.append(part if limits[2] else int(part))
    return tuple(found)


def ends(numbers: int | str) -> tuple[int, int]:
    """The first and the last number of a range such as "3-9", or of one number."""
    first, _, last = numbers.partition("-") if isinstance(numbers, str) else (numbers, "", numbers)
    return int(first), int(last)


def as_ranges(numbers: Iterable[int]) -> str:
    """Numbers as one option of `curate` takes them, such as 3-9,12."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        begun = found.pop() if found and number == found[-1][1] + 1 else (number, number)
        found.append((begun[0], number))
    return ",".join(_as_range(low, high) for low, high in found)


def _as_range(low: int, high: int) -> str:
    return f"{low}-{high}" if low < high else str(low)


def _ranges(numbers: Iterable[int | str]) -> list[tuple[int, int]]:
    """The same numbers as ranges that share none, the first ones last."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(map(ends, numbers)):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found[::-1]


def _shared(first: Iterable[int | str], second: Iterable[int | str]) -> list[str]:
    """The numbers and ranges that are in both."""
    ours, theirs = _ranges(first), _ranges(second)
    found = []
    while ours and theirs:
        low, high = max(ours[-1][0], theirs[-1][0]), min(ours[-1][1], theirs[-1][1])
        if low <= high:
            found.append(_as_range(low, high))
        (ours if ours[-1][1] < theirs[-1][1] else theirs).pop()
    return found


Numbers = Annotated[tuple[int | Annotated[str, Field(pattern=r"^\d+-\d+$")], ...], BeforeValidator(_numbers)]
"""Numbers of images and ranges of them, such as "3-9"."""


class CurateSettings(DataSettings):
    """What `curate` decides."""

    folder: Path = setting("Folder of generated images.", DATA, positional=True)
    reject: Numbers = setting("Numbers of images to reject, such as 12,40 or 3-9 (repeatable).", DEFECTS, ())
    keep: Numbers = setting("Numbers of images to keep, whatever a rule says (repeatable).", DEFECTS, ())
    note: str | None = setting("Remark that is written with each decision.", DEFECTS, None)
    max_seam: float | None = setting("Reject images whose seam is larger.", DEFECTS, None)
    min_contrast: float | None = setting("Reject images whose contrast is lower.", DEFECTS, None)
    data: Path | None = setting("Data set whose real training defects the images are compared with.", DATA, None)
    nearest: float | None = setting(
        "Reject images whose defect is farther than this from every real one of its type, by features of a network; 0 "
        "is equal.",
        DEFECTS,
        None,
        ge=0,
    )
    duplicates: Literal["list", "reject"] | None = setting(
        "List or reject near-duplicates of other images and, with data, of real defects.", DEFECTS, None
    )
    duplicate_distance: float = setting(
        "Distance by features up to which two defects are near-duplicates.", DEFECTS, 0.03, ge=0, le=2
    )

    set_aside: bool = setting(
        "Move the files of rejected images to the folder rejected, where no program takes them for images, and those "
        "of kept ones back.",
        DATA,
        False,
    )

    @property
    def decides(self) -> bool:
        """Whether decisions may be written, or files moved."""
        rules = (self.max_seam, self.min_contrast, self.nearest)
        named = self.reject or self.keep or self.duplicates == "reject" or self.set_aside
        return bool(named or any(one is not None for one in rules))

    @model_validator(mode="after")
    def _decided_once(self) -> Self:
        both = _shared(self.reject, self.keep)
        if both:
            numbers = ", ".join(both)
            raise field_error("keep", f"{numbers} was given, but is rejected too; name an image in one of them")
        return self

    @model_validator(mode="after")
    def _compared_with_something(self) -> Self:
        if self.nearest is not None and self.data is None:
            raise field_error("data", "missing, expected the data set with the real defects because nearest is given")
        return self
