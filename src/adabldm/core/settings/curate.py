"""Settings of `curate`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, model_validator

from adabldm.core.settings.common import DATA, DEFECTS, DataSettings, setting
from adabldm.core.settings.problems import field_error, shown


def _numbers(value: object) -> object:
    """Numbers of images, which may be written as "12,40" or "3-9"."""
    found: list[object] = []
    for item in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(item, str):
            found.append(item)
            continue
        for part in filter(None, re.split(r"[,\s]+", item)):
            limits = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
            if limits is None or int(limits[2] or limits[1]) < int(limits[1]):
                raise ValueError(f"{shown(part)} was given, expected numbers of images such as 12,40 or 3-9")
            found += range(int(limits[1]), int(limits[2] or limits[1]) + 1)
    return tuple(found)


Numbers = Annotated[tuple[int, ...], BeforeValidator(_numbers)]
"""Numbers of images."""


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
        both = sorted(set(self.reject) & set(self.keep))
        if both:
            numbers = ", ".join(map(str, both))
            raise field_error("keep", f"{numbers} was given, but is rejected too; name an image in one of them")
        return self

    @model_validator(mode="after")
    def _compared_with_something(self) -> Self:
        if self.nearest is not None and self.data is None:
            raise field_error("data", "missing, expected the data set with the real defects because nearest is given")
        return self
