"""Pictures that already have defects, to be edited further: they keep these in mask and record."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adabldm.core.errors import InputError
from adabldm.core.events import Listener, ignore
from adabldm.core.images import Mask
from adabldm.core.records import ImageRecord, InstanceRecord, Making, Reading
from adabldm.core.samples import Defect, Sample
from adabldm.data.content import file_digest
from adabldm.data.decisions import rejected_indices
from adabldm.data.formats import READERS, ReadOptions
from adabldm.data.generated import MANIFEST, defects_of, made_from, read_kept
from adabldm.data.inspection import open_data_set


@dataclass(frozen=True)
class Base:
    """A picture with defects.

    Attributes:
        image: its file.
        name: its POSIX path, relative to its folder.
        source: path of the defect-free picture that it was made from, relative to the data set; its own without one.
        defects: what is in it.
        known: what is known of each of them; none of those that were photographed.
        sources: data set in which the defect-free picture is, if there is one and it is known.
    """

    image: Path
    name: str
    source: str
    defects: tuple[Defect, ...]
    known: tuple[InstanceRecord, ...] = ()
    sources: Path | None = None

    def masks(self) -> list[Mask]:
        """The mask of each defect, bool HxW; raises as `MaskSource.read`."""
        return [defect.mask.read() for defect in self.defects]


def read_bases(place: Path, reading: Reading, listen: Listener = ignore) -> tuple[Base, ...]:
    """The pictures with defects of a folder, in a fixed order; of generated ones those that were not rejected.

    Args:
        place: a folder of generated images, or a data set.
        reading: how the masks of a data set are read; its layout is recognised by itself where it is another one.
        listen: is told how many images of a data set were read.

    Raises:
        InputError: there are none, or files are broken.
    """
    if not (place / MANIFEST).is_file():
        same = reading.format is not None and READERS[reading.format].detects(place)
        alike = Reading(mask_threshold=reading.mask_threshold, boxes=reading.boxes)
        options = ReadOptions.of(reading if same else alike, split="train", require_good=False, require_defects=True)
        data_set = open_data_set(place, options, listen)
        return tuple(_photographed(sample, data_set.relative(sample)) for sample in data_set.defective)
    records = read_kept(place)
    if not records:
        many = len(rejected_indices(place))
        raise InputError(f"--onto {place}: no image is left of it ({many} are rejected), expected at least one.")
    sources = made_from(place)
    return tuple(_generated(place, record, sources) for record in records.values())


def _photographed(sample: Sample, name: str) -> Base:
    return Base(sample.image, name, name, sample.defects)


def _generated(root: Path, record: ImageRecord, sources: Path | None) -> Base:
    return Base(root / record.image, record.image, record.source, defects_of(root, record), known_of(record), sources)


def known_of(record: ImageRecord) -> tuple[InstanceRecord, ...]:
    """What a record knows of each defect of its image, with a box and an area that are measured later."""
    if record.instances:
        return record.instances
    values = {name: getattr(record, name) for name in Making.model_fields}
    return (InstanceRecord(label=1, defect=record.defect, prompt=record.prompt, box=(0, 0, 1, 1), area=1, **values),)


def bases_digest(bases: Sequence[Base]) -> str:
    """How many there are, with a digest of their names and content."""
    total = hashlib.sha256()
    for base in bases:
        total.update(f"{base.name}\0{base.source}\0{[one.type for one in base.defects]}\0".encode())
        total.update(file_digest(base.image))
    return f"{len(bases)} pictures, {total.hexdigest()[:12]}"
