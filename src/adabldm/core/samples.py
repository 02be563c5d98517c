"""The values that a data set consists of: an image, its defects, and the masks of these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from adabldm.core.depth import Levels
from adabldm.core.errors import EmptyMaskError, InputError
from adabldm.core.images import Mask, Picture, read_picture, resize_mask
from adabldm.core.mask_files import read_labels, read_mask
from adabldm.core.names import GOOD as GOOD


class MaskSource(Protocol):
    """Where the mask of a defect comes from. Implementations can be hashed and pickled."""

    @property
    def name(self) -> str:
        """A short name for messages and records, such as a file's name."""
        ...

    def read(self) -> Mask:
        """The mask, bool HxW, not empty.

        Raises:
            EmptyMaskError: it is empty.
            InputError: it cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask that is an image file.

    Attributes:
        path: of the file.
        threshold: grey level above which a pixel is defect; `None` for binary masks. See `read_mask`.
        inverted: the defect is black on white.
    """

    path: Path
    threshold: int | None = None
    inverted: bool = False

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def read(self) -> Mask:
        """The mask, bool HxW; raises as `MaskSource.read`."""
        return read_mask(self.path, threshold=self.threshold, inverted=self.inverted)


@dataclass(frozen=True, slots=True)
class LabelledMask:
    """The mask of one defect in an image of labels.

    Attributes:
        path: of the file.
        label: value of the defect's pixels.
    """

    path: Path
    label: int

    @property
    def name(self) -> str:
        """The file's name with the label."""
        return f"{self.path.name}#{self.label}"

    def read(self) -> Mask:
        """The mask, bool HxW; raises as `MaskSource.read`."""
        mask = np.asarray(read_labels(self.path) == self.label)
        if not mask.any():
            raise EmptyMaskError(f"{self.path}: no pixel has the label {self.label}, expected its defect; restore it.")
        return mask


@dataclass(frozen=True)
class MissingMask:
    """The mask of a defect image that has none; reading it says so.

    Attributes:
        image: path of the image.
        problem: one sentence with the way out.
    """

    image: Path
    problem: str

    @property
    def name(self) -> str:
        """The image's name."""
        return self.image.name

    def read(self) -> Mask:
        """Never returns; raises `InputError`."""
        raise InputError(self.problem)


@dataclass(frozen=True, slots=True)
class Defect:
    """One defect of an image: an instance with a type and a mask."""

    type: str
    mask: MaskSource


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a data set with its defects; none for a defect-free image.

    Attributes:
        image: path of the image file.
        defects: its defects, of one or several types.
        split: "train" or "test".
        levels: of an image of more than 8 bits, which are shown as black and as white; its own ones if `None`.
        regions: where defects may be, by type; "" is for all types without one of their own.
        content: digest of the image's file and of the masks, where they were read; see `data.content`.
    """

    image: Path
    defects: tuple[Defect, ...] = ()
    split: str = "train"
    levels: Levels | None = None
    regions: tuple[Defect, ...] = ()
    content: bytes | None = field(default=None, compare=False, repr=False)

    def __hash__(self) -> int:
        """By the image alone: each of a picture's defects is looked up together with the picture."""
        return hash((self.image, self.split))

    def region(self, defect: str, size: tuple[int, int]) -> Mask | None:
        """Where a defect of a type may be, bool of `size` (height, width); `None` where nothing is said.

        Raises:
            InputError: it cannot be read.
        """
        own = self._regions(defect)
        masks = [resize_mask(region.mask.read(), size) for region in own]
        return joined(masks) if masks else None

    def has_region(self, defect: str) -> bool:
        """Whether it is said where a defect of a type may be."""
        return bool(self._regions(defect))

    def _regions(self, defect: str) -> list[Defect]:
        own = [region for region in self.regions if region.type == defect]
        return own or [region for region in self.regions if not region.type]

    @property
    def types(self) -> tuple[str, ...]:
        """The defect types in it, sorted."""
        return tuple(sorted({defect.type for defect in self.defects}))

    def picture(self) -> Picture:
        """Read the image; raises as `read_picture`."""
        return read_picture(self.image, self.levels)

    def mask(self, defect_type: str | None = None) -> Mask | None:
        """All defects, or those of one type, in one mask, bool HxW; `None` where there is no such defect."""
        masks = [defect.mask.read() for defect in self.defects if defect_type in (None, defect.type)]
        return joined(masks) if masks else None


def joined(masks: Sequence[Mask]) -> Mask:
    """At least one mask, all of one size, as one new mask, bool HxW."""
    whole = masks[0].copy()
    for mask in masks[1:]:
        whole |= mask
    return whole


def picture_reader() -> Callable[[Sample], Picture]:
    """`Sample.picture` that keeps the last picture, because the defects of a picture follow each other."""
    return lru_cache(maxsize=1)(Sample.picture)


@dataclass(frozen=True, slots=True)
class Instance:
    """A defect together with the image that it is in."""

    sample: Sample
    defect: Defect


def by_type(samples: Iterable[Sample]) -> dict[str, tuple[Instance, ...]]:
    """The defects of all samples by type; types sorted, defects in the samples' order."""
    found: dict[str, list[Instance]] = {}
    for sample in samples:
        for defect in sample.defects:
            found.setdefault(defect.type, []).append(Instance(sample, defect))
    return {name: tuple(found[name]) for name in sorted(found)}


@dataclass(frozen=True)
class DataSet:
    """A data set, checked and listed in a fixed order (by path).

    Attributes:
        root: the folder.
        object_name: what the images show, in words ("magnetic tile").
        good: defect-free training images.
        defective: training images with defects; a type without any has its test images here.
        test_good: defect-free test images.
        test_defective: test images with defects.
        notes: remarks for the user, one sentence each.
        format: name of the layout that it was read from.
        levels: of its images of more than 8 bits, which are shown as black and as white; `None` if there are none.
    """

    root: Path
    object_name: str
    good: tuple[Sample, ...]
    defective: tuple[Sample, ...] = ()
    test_good: tuple[Sample, ...] = ()
    test_defective: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()
    format: str = "mvtec"
    levels: Levels | None = None
    types: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = {name for sample in self.defective for name in sample.types}
        object.__setattr__(self, "types", tuple(sorted(found)))

    @property
    def instances(self) -> dict[str, tuple[Instance, ...]]:
        """Training defects by type."""
        return by_type(self.defective)

    @property
    def test_instances(self) -> dict[str, tuple[Instance, ...]]:
        """Test defects by type."""
        return by_type(self.test_defective)

    def shown_with(self, levels: Levels) -> DataSet:
        """The data set with other levels as black and white in all of its images of more than 8 bits."""

        def shown(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
            return tuple(replace(sample, levels=levels) for sample in samples)

        return replace(
            self,
            good=shown(self.good),
            defective=shown(self.defective),
            test_good=shown(self.test_good),
            test_defective=shown(self.test_defective),
            levels=levels,
        )

    def relative(self, sample: Sample) -> str:
        """An image's POSIX path, relative to the data set."""
        return sample.image.relative_to(self.root).as_posix()
