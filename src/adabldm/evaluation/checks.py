"""Checks of an evaluation's real images: a test needs images of its own, which no training has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from adabldm.core.errors import InputError
from adabldm.core.images import Pixels
from adabldm.core.opening import is_file
from adabldm.core.records import ImageRecord
from adabldm.core.records.evaluation import RESERVED_TYPES
from adabldm.core.samples import DataSet, Instance, Sample
from adabldm.data.content import file_digest
from adabldm.data.generated import MANIFEST, made_from, read_kept
from adabldm.evaluation.cells import RealImages
from adabldm.evaluation.labelled import Labelled


def check_splits(data_set: DataSet) -> None:
    """Refuse a test split that lacks a type, or that shows training images again.

    Raises:
        InputError: with all problems.
    """
    root, tested = data_set.root, data_set.test_instances
    problems = [
        f"{root}: no real test images of {defect} (beside the training images), expected some to test the detectors "
        "on; have about ten of each type in the training split and the rest in the test split."
        for defect in data_set.types
        if defect not in tested
    ]
    if not data_set.test_good:
        problems.append(f"{root}: no defect-free test images, expected some; put them into the test split.")
    problems += [
        f"{root}: a defect type named {defect} cannot be told from the report's own entries "
        f"({', '.join(RESERVED_TYPES)}); rename it."
        for defect in data_set.types
        if defect in RESERVED_TYPES
    ]
    problems = problems or _repeated(data_set)
    if problems:
        raise InputError(problems)


def _repeated(data_set: DataSet) -> list[str]:
    """Test images that are training images too, under whatever name."""
    trained = {_content(sample): sample for sample in trained_samples(data_set)}
    return [
        f"{sample.image}: the same picture as {trained[content].image}, which is trained on; remove one of them."
        for sample in tested_samples(data_set)
        if (content := _content(sample)) in trained
    ]


def check_no_test_image(images: Sequence[Labelled], data_set: DataSet, where: str) -> None:
    """Refuse synthetic images that are images of the test.

    Args:
        images: synthetic images.
        data_set: the real images.
        where: place of the synthetic images, for the message.

    Raises:
        InputError: one of them is.
    """
    known = {_content(sample) for sample in data_set.test_defective}
    if any(_digest(image.pixels) in known for image in images):
        raise InputError(f"{where}: holds test images of {data_set.root}; leave them out.")


def check_origins(
    folder: Path, images: Sequence[Labelled], data_set: DataSet, held: Sequence[Sample], way_out: str
) -> None:
    """Refuse synthetic images that were made from real images of the test, as far as a manifest says what from.

    A name alone says little, for other data sets have the same ones: the named file is compared where the data set
    still is from which the folder was made. Elsewhere, the image must show the picture of this data set that its record
    names as its source.

    Args:
        folder: of the synthetic images.
        images: its first images, as `read_synthetic` gives them.
        data_set: the real images.
        held: those that no synthetic image may be made from.
        way_out: end of the message.

    Raises:
        InputError: some are.
    """
    records = list(read_kept(folder).values())[: len(images)]
    if not records:
        return
    places, digest_of = _Places.of(folder), lru_cache(maxsize=None)(file_digest)
    names, contents = {data_set.relative(one) for one in held}, {file_digest(one.image) for one in held}

    def is_held(origin: tuple[Path | None, str], record: ImageRecord, image: Labelled) -> bool:
        place, name = origin
        if place is not None and is_file(place / name):
            return digest_of(place / name) in contents
        return name in names and image.source is not None and is_file(data_set.root / record.source)

    found = [
        name
        for record, image in zip(records, images, strict=True)
        if (name := next((one[1] for one in places.origins(record) if is_held(one, record, image)), None)) is not None
    ]
    if found:
        raise InputError(
            f"{folder}: {len(found)} of its first {len(records)} images were made from images that the test holds out, "
            f"such as {found[0]}; {way_out}."
        )


@dataclass(frozen=True)
class _Places:
    """Where the real images lay that a generated folder was made from; `None` where its settings do not say it.

    Attributes:
        data: the data set.
        onto: the pictures with defects that were edited.
        below: the data set of these.
    """

    data: Path | None
    onto: Path | None
    below: Path | None

    @classmethod
    def of(cls, folder: Path) -> _Places:
        """As the settings of the folder say."""
        onto = made_from(folder, "onto")
        below = made_from(onto) if onto is not None and is_file(onto / MANIFEST) else onto
        return cls(made_from(folder), onto, below)

    def origins(self, record: ImageRecord) -> Iterator[tuple[Path | None, str]]:
        """(folder, path in it) of each real image that an image was made from."""
        yield (self.data if record.base is None else self.below), record.source
        if record.base is not None:
            yield self.onto, record.base
        if record.reference is not None:
            yield self.data, record.reference
        for one in record.instances:
            if one.reference is not None:
                yield (self.data if one.origin == "made" else self.below), one.reference


def trained_samples(data_set: DataSet) -> list[Sample]:
    """Defect-free training images, then those with defects, by type."""
    return [*data_set.good, *_in_order(data_set.instances.values())]


def tested_samples(data_set: DataSet) -> list[Sample]:
    """Defect-free test images, then those with defects, by type."""
    return [*data_set.test_good, *_in_order(data_set.test_instances.values())]


def _in_order(groups: Iterable[Sequence[Instance]]) -> list[Sample]:
    """The images of all instances, each once."""
    return list(dict.fromkeys(instance.sample for group in groups for instance in group))


def read_real_images(data_set: DataSet) -> RealImages:
    """All real images with their truth."""
    return RealImages(
        [Labelled.read(sample) for sample in trained_samples(data_set)],
        [Labelled.read(sample) for sample in tested_samples(data_set)],
    )


def listed(data_set: DataSet) -> str:
    """How many real images there are, with a digest of their names: other images make other results."""
    samples = [
        *data_set.good,
        *data_set.test_good,
        *_in_order(data_set.instances.values()),
        *_in_order(data_set.test_instances.values()),
    ]
    names = [data_set.relative(sample) for sample in samples]
    return f"{len(names)} images, {hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:12]}"


def _content(sample: Sample) -> str:
    return _digest(sample.picture().pixels)


def _digest(pixels: Pixels) -> str:
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
