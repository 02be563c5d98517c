"""The values that flow between the rooms."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    Attributes:
        image: path of the image file.
        defect: defect type, or `None` for a defect-free image.
        mask: path of the defect mask; `None` exactly when `defect` is `None`.
        split: "train" or "test".
    """

    image: Path
    defect: str | None = None
    mask: Path | None = None
    split: str = "train"


@dataclass(frozen=True)
class DataSet:
    """A folder in the MVTec AD layout, checked and listed in a fixed order (by path).

    Attributes:
        root: the folder.
        object_name: what the images show, in words ("magnetic tile").
        good: defect-free training images.
        defects: few-shot defect images by type (`train/<defect>`; `test/<defect>` where the former is missing).
        test_good: defect-free test images.
        test_defects: test defect images by type; empty where `defects` had to come from `test`.
        notes: remarks for the user, one sentence each.
    """

    root: Path
    object_name: str
    good: tuple[Sample, ...]
    defects: dict[str, tuple[Sample, ...]]
    test_good: tuple[Sample, ...] = ()
    test_defects: dict[str, tuple[Sample, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
