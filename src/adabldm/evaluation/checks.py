"""Checks of an evaluation's real images: a test needs images of its own, which no training has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from adabldm.core.errors import InputError
from adabldm.core.images import Pixels
from adabldm.core.records.evaluation import RESERVED_TYPES
from adabldm.core.samples import DataSet, Instance, Sample
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
