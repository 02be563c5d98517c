"""Export generated images, with real ones if asked for, as a data set in the form that trainers read."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from adabldm.core.errors import InputError
from adabldm.core.events import Listener, Note, Task, Workload, guarded, ignore
from adabldm.core.records import ImageRecord, Reading
from adabldm.core.samples import DataSet
from adabldm.core.settings import ExportSettings
from adabldm.core.settings.curate import as_ranges
from adabldm.data.claim import claim
from adabldm.data.exports import WRITERS
from adabldm.data.exports.items import (
    Contents,
    ExportImage,
    ExportPlan,
    Split,
    divide,
    generated_images,
    read_contents,
    read_headers,
    real_images,
    with_origins,
)
from adabldm.data.formats import ReadOptions
from adabldm.data.generated import MANIFEST, made_from, read_kept
from adabldm.data.inspection import open_data_set

TASK = "export"
CHUNK = 32
"""Images that are read ahead of the one that is written."""


@dataclass(frozen=True)
class ExportSummary:
    """What was exported.

    Attributes:
        out: folder of the new data set.
        images: number of images by split.
        instances: number of defects: connected parts of masks, or as recorded where a format needs no more.
        types: all defect types, sorted.
    """

    out: Path
    images: dict[str, int]
    instances: int
    types: tuple[str, ...]


def export(settings: ExportSettings, listen: Listener = ignore, *, real: DataSet | None = None) -> ExportSummary:
    """Write the images that were not rejected as a data set of another format.

    The same call goes on in a folder that it was interrupted in; the result depends on images and settings alone.

    Args:
        settings: what is exported, and how.
        listen: is told notes and the progress.
        real: the data set of `settings.real`, if it is read already.

    Raises:
        InputError: images or masks that cannot be used, all at once, or a folder that holds something else. What holds
            all images, such as an annotation file, was not written.
        OutputError: full disk.
    """
    listen = guarded(listen)
    records = _records(settings)
    if real is None and settings.real is not None:
        real = read_real(settings.real, Reading.of(settings), listen)
        for note in real.notes:
            listen(Note(note))
    images = [*generated_images(settings.folder, records), *([] if real is None else real_images(real))]
    if settings.validation > 0:
        images = with_origins(images, made_from(settings.folder))
    images = divide(images, settings.validation)
    counts = Counter(image.split for image in images)
    splits: tuple[Split, ...] = ("train", "val") if counts["val"] else ("train",)
    types = tuple(sorted({defect.type for image in images for defect in image.defects}))
    for note in _notes(settings, images, records):
        listen(Note(note))
    _check_files(images)
    plan = ExportPlan(settings.out, types, records[0].object, settings.copy_files, settings.segmentation, splits)
    instances = 0
    with claim(settings.out, _decisive(settings, images), "export"):
        writer = WRITERS[settings.to](plan)
        work = Workload([Task(TASK, len(images), "img")], listen)
        work.begin(TASK)
        problems: list[str] = []
        read = read_contents if writer.reads_masks else read_headers
        for image, contents in _read_ahead(images, read, problems):
            if not problems:
                writer.add(image, contents)
            instances += len(contents.instances) or len(image.defects)
            work.advance(TASK)
        if problems:
            raise InputError(problems)
        writer.finish()
    return ExportSummary(settings.out, {split: counts[split] for split in splits}, instances, types)


def read_real(root: Path, reading: Reading, listen: Listener = ignore) -> DataSet:
    """The data set whose training images are merged in; `listen` is told how many images were read.

    Raises:
        InputError: with all problems of the data set, one sentence each.
    """
    return open_data_set(root, ReadOptions.of(reading, split="train", require_good=False), listen)


def _records(settings: ExportSettings) -> list[ImageRecord]:
    """The images that are exported."""
    root = settings.folder
    if not (root / MANIFEST).is_file():
        raise InputError(f"{root}: no {MANIFEST} in it, expected a folder of generated images; check the path.")
    check_place(settings.out, [root, *([] if settings.real is None else [settings.real])], "--out")
    records = list(read_kept(root).values())
    if not records:
        raise InputError(f"{root}: all images are rejected or missing, expected at least one; make more.")
    return records


def check_place(out: Path, others: Sequence[Path], option: str) -> None:
    """Refuse a folder inside of those that are read.

    Raises:
        InputError: it is inside one of them.
    """
    for place in others:
        if out.resolve().is_relative_to(place.resolve()):
            raise InputError(f"{out}: inside {place}, expected a folder elsewhere; choose another {option}.")


def _notes(settings: ExportSettings, images: Sequence[ExportImage], records: Sequence[ImageRecord]) -> Iterator[str]:
    """What the user may not expect."""
    missed = [record.index for record in records if record.accepted is False]
    if missed:
        command = shlex.join(["adabldm", "curate", str(settings.folder), "--reject", as_ranges(missed)])
        yield (
            f"Images that missed the limits in every attempt are exported too: {len(missed)}. To leave them out, give "
            f"{command}, and export into another folder."
        )
    if settings.to == "yolo-seg" and settings.validation == 0:
        yield "no validation images were asked for: data.yaml names those of training; give --validation 0.2."
    if settings.to in ("mvtec", "anomalib") and all(image.defects for image in images):
        yield f"--to {settings.to}: there are no defect-free images, so train/good is missing; give --with DATA."


def _check_files(images: Sequence[ExportImage]) -> None:
    """Refuse images that cannot be named apart."""
    counts = Counter(image.name.lower() for image in images)
    double = [name for name, number in counts.items() if number > 1]
    if double:
        raise InputError(f"{', '.join(double[:3])}: several images would get this name; rename one of them.")


def _decisive(settings: ExportSettings, images: Sequence[ExportImage]) -> dict[str, object]:
    """JSON values of what decides the result."""
    listed = "\n".join(f"{image.name} {image.split} {image.label} {image.source}" for image in images)
    return {
        "folder": str(settings.folder.resolve()),
        "with": None if settings.real is None else str(settings.real.resolve()),
        "to": settings.to,
        "copy": settings.copy_files,
        "segmentation": settings.segmentation,
        "validation": settings.validation,
        **Reading.of(settings).decisive(),
        "images": f"{len(images)} images, {hashlib.sha256(listed.encode()).hexdigest()[:12]}",
    }


def _read_ahead(
    images: Sequence[ExportImage], read: Callable[[ExportImage], Contents], problems: list[str]
) -> Iterator[tuple[ExportImage, Contents]]:
    """Images with their contents in order; a few are held at once. Unreadable ones are left out and told."""

    def attempt(image: ExportImage) -> Contents | InputError:
        try:
            return read(image)
        except InputError as error:
            return error

    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:
        for first in range(0, len(images), CHUNK):
            chunk = images[first : first + CHUNK]
            for image, contents in zip(chunk, pool.map(attempt, chunk), strict=True):
                if isinstance(contents, InputError):
                    problems += contents.problems
                else:
                    yield image, contents
