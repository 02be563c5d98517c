"""What the studio has read of data sets: their pictures at once, their real defects when they are asked for."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, Picture, read_picture
from adabldm.core.recent import Stamp
from adabldm.core.samples import Instance, MaskSource, Sample
from adabldm.data.formats import Listing, ReadOptions, find_reader
from adabldm.data.inspection import Inspection, check_data_set
from adabldm.masks.bank import DefectShape, shape_from_mask
from adabldm.masks.foreground import estimate_foreground
from adabldm.studio.pictures import Cache, megapixels
from adabldm.studio.workspace import SAMPLES, Workspace, shipped_samples

MOST_PICTURES = 3000
"""Good pictures of a data set that are offered for painting."""
FRESH = 4.0
"""A listing is fresh for so many times as long as it took."""
MEGAPIXELS = 200.0
"""Of all pictures that are kept in memory, and of all objects found in pictures."""
UPLOADS = "uploads"


@dataclass(frozen=True)
class Example:
    """A real defect that a mask or an edit can begin from.

    Attributes:
        number: place among the defects of its type.
        instance: defect and image.
        shape: its mask, cropped.
    """

    number: int
    instance: Instance
    shape: DefectShape

    @property
    def version(self) -> str:
        """Other whenever it is another defect, or its files were changed; fit for addresses."""
        mask = self.instance.defect.mask
        told = repr((Stamp.of(self.instance.sample.image), mask, list(_stamps(mask))))
        return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@dataclass(frozen=True)
class Listed:
    """A data set as its reader lists it, nothing decoded.

    Attributes:
        root: the folder.
        layout: its name.
        samples: the pictures by name.
        mark: other whenever a picture, a mask or an annotation is another one or was changed.
        began, ended: when the listing began and ended, in seconds of the monotonic clock.
    """

    root: Path
    layout: str
    samples: dict[str, Sample]
    mark: int
    began: float = 0.0
    ended: float = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether less than `FRESH` times as long has passed as the listing took."""
        return time.monotonic() - self.ended < FRESH * (self.ended - self.began)

    @property
    def types(self) -> list[str]:
        """All defect types."""
        return sorted({name for sample in self.samples.values() for name in sample.types})

    def sample(self, name: str) -> Sample:
        """One picture.

        Raises:
            InputError: it is not in the data set.
        """
        if name not in self.samples:
            raise InputError(f"{name!r}: not in the data set; load the page again.")
        return self.samples[name]


class Library:
    """Pictures, real defects and objects of the data sets; read once, and again when their files were changed.

    A picture is looked at whenever it is asked for, a whole data set when it is listed again or after `forget`.

    Args:
        workspace: which folders may be read.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._inspections: Cache[tuple[str, int, bool], Inspection] = Cache(8)
        self._pictures: Cache[Stamp, Picture] = _pictures()
        self._foregrounds: Cache[tuple[Stamp, str], Mask] = _foregrounds()
        self._examples: Cache[tuple[str, int, str], tuple[Example, ...]] = Cache(64)
        self._listings: Cache[str, Listed] = Cache(8)
        self._reading = threading.Lock()

    def root(self, data: str) -> Path:
        """Folder of a data set.

        Raises:
            InputError: in none of the studio's folders, or not there.
        """
        path = self.workspace.resolve(data)
        if not path.is_dir():
            raise InputError(f"{data}: no such folder; choose another data set.")
        return path

    def listed(self, data: str, *, again: bool = False) -> Listed:
        """A data set as its reader lists it; nothing is decoded.

        Args:
            data: the data set.
            again: look at the folder again.

        Raises:
            InputError: the folder cannot be read.
        """
        root = self.root(data)
        if again:
            self._listings.forget(str(root))
        return self._listings.get(str(root), lambda: self._list(root))

    def _list(self, root: Path) -> Listed:
        self.workspace.roots.check_links(root, "folder")
        began = time.monotonic()
        reader = find_reader(root)
        listing = reader.list_samples(root, ReadOptions(require_good=False))
        samples = {sample.image.relative_to(root).as_posix(): sample for sample in listing.samples}
        return Listed(root, reader.name, samples, _mark(listing), began, time.monotonic())

    def good_pictures(self, data: str, *, again: bool = False) -> tuple[str, ...]:
        """Names of the defect-free pictures, training pictures first; nothing is decoded.

        Args:
            data: the data set.
            again: look at the folder again, unless the last listing is fresh: ten thousand files of annotations take
                seconds, and every load of a page asks for them.

        Raises:
            InputError: the folder cannot be read.
        """
        if data == SAMPLES:
            return tuple(shipped_samples())
        last = self.listed(data)
        found = (self.listed(data, again=True) if again and not last.is_fresh else last).samples
        good = [name for name, sample in found.items() if not sample.defects]
        good.sort(key=lambda name: found[name].split != "train")
        return tuple(good[:MOST_PICTURES])

    def path(self, data: str, name: str) -> Path:
        """File of a picture.

        Raises:
            InputError: it is not in the data set.
        """
        if data == SAMPLES:
            if name not in shipped_samples():
                raise InputError(f"{name!r}: not among the samples; choose one that is shown.")
            return shipped_samples()[name]
        if data == UPLOADS:
            return self.workspace.inside(self.workspace.work / UPLOADS, name)
        root = self.root(data)
        path = self.workspace.inside(root, name)
        return path

    def picture(self, data: str, name: str) -> Picture:
        """A picture, kept in memory for a while; raises `InputError`."""
        path = self.path(data, name)
        return self._pictures.get(Stamp.of(path), lambda: read_picture(path))

    def foreground(self, data: str, name: str, method: str) -> Mask:
        """The object's pixels in a picture, by the method of a run; raises `InputError`."""
        stamp = Stamp.of(self.path(data, name))
        known = method if method in {"grabcut", "texture"} else "auto"

        def make() -> Mask:
            return estimate_foreground(self.picture(data, name).pixels, known).mask

        return self._foregrounds.get((stamp, known), make)

    def inspection(self, data: str, *, training: bool) -> Inspection:
        """The whole data set as it was listed last, decoded and checked once.

        Args:
            data: the data set.
            training: look at what a fit uses only.
        """
        return self._inspected(data, training)[1]

    def _inspected(self, data: str, training: bool) -> tuple[int, Inspection]:
        """The same, after the mark of its listing."""
        name = str(self.root(data))
        mark = self.listed(data).mark
        found = self._inspections.find((name, mark, training))
        if found is not None:
            return mark, found
        with self._reading:  # a second page waits instead of reading everything too
            mark = self.listed(data, again=True).mark  # files may have changed since it was listed

            def make() -> Inspection:
                return check_data_set(Path(name), ReadOptions(split="train" if training else None))

            return mark, self._inspections.get((name, mark, training), make)

    def forget(self, data: str) -> None:
        """Read a data set again, because it was changed."""
        root = str(self.root(data))
        known = self._listings.find(root)
        self._listings.forget(root)
        for training in (True, False):
            self._inspections.forget((root, known.mark if known else 0, training))
        self._examples = Cache(64)
        self._pictures, self._foregrounds = _pictures(), _foregrounds()

    def types(self, data: str) -> dict[str, int]:
        """Number of real defects by type."""
        if data in {SAMPLES, UPLOADS, ""}:
            return {}
        return {name: len(found) for name, found in self.inspection(data, training=True).data_set.instances.items()}

    def examples(self, data: str, defect: str) -> tuple[Example, ...]:
        """The real defects of a type with their shapes; none where the data set has none."""
        if data in {SAMPLES, UPLOADS, ""}:
            return ()

        mark, inspection = self._inspected(data, training=True)

        def make() -> tuple[Example, ...]:
            found = inspection.data_set.instances.get(defect, ())
            return tuple(
                Example(number, instance, shape_from_mask(instance.defect.mask.read(), instance.defect.mask.name))
                for number, instance in enumerate(found)
            )

        return self._examples.get((str(self.root(data)), mark, defect), make)

    def example(self, data: str, defect: str, number: int) -> Example:
        """One real defect.

        Raises:
            InputError: there is no such one.
        """
        found = self.examples(data, defect)
        if not 0 <= number < len(found):
            raise InputError(f"example {number} of {defect!r}: not in the data set; choose one that is shown.")
        return found[number]


def _pictures() -> Cache[Stamp, Picture]:
    return Cache(24, lambda picture: megapixels(picture.pixels), MEGAPIXELS)


def _foregrounds() -> Cache[tuple[Stamp, str], Mask]:
    return Cache(64, megapixels, MEGAPIXELS)


def _mark(listing: Listing) -> int:
    """Of all that a reader found, and of the files that it names; none of them is opened."""
    stamps = [Stamp.of(sample.image) for sample in listing.samples]
    for sample in listing.samples:
        for one in (*sample.defects, *sample.regions):
            stamps.extend(_stamps(one.mask))
    known = tuple((sample, sample.defects, sample.levels, sample.regions) for sample in listing.samples)
    return hash((known, tuple(listing.problems), tuple(listing.notes), tuple(stamps)))


def _stamps(mask: MaskSource) -> Iterator[Stamp]:
    """Of the files that hold a mask; none where it was read with the annotations."""
    for part in getattr(mask, "parts", (mask,)):
        path = getattr(part, "path", None)
        if path is not None:
            yield Stamp.of(path)
