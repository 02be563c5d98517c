"""What is exported: images with their defects, read one by one, and the files that stand for them in the new folder."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
from PIL import Image

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, atomic_file, read_picture, write_error, write_image
from adabldm.core.opening import is_file, open_header, read_orientation
from adabldm.core.records import ImageRecord
from adabldm.core.records.image import COMBINED
from adabldm.core.samples import GOOD, DataSet, Defect, Sample
from adabldm.core.settings.export import Segmentation
from adabldm.core.windows import bounding_box
from adabldm.data.content import file_digest
from adabldm.data.generated import defects_of

Split = Literal["train", "val"]
MASK_COMPRESSION = 3
"""Level at which masks are packed: half the time of level 4 and more, for 3 KB more of a mask of 1 MP."""


@dataclass(frozen=True)
class ExportImage:
    """One image of the new data set.

    Attributes:
        path: of the file that it is linked to.
        name: stem of its file, unique in the new data set.
        source: name of the defect-free image that it was made from; a real image is its own source.
        defects: its defects; their masks are read later.
        scores: by name; none for a real image.
        synthetic: whether it was generated.
        split: "train" or "val".
        whole_mask: file with all its defects as 0 and 255, if there is one.
        origin: what its split goes by, equal for equal sources; the source's name if left out.
    """

    path: Path
    name: str
    source: str
    defects: tuple[Defect, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    synthetic: bool = True
    split: Split = "train"
    whole_mask: Path | None = None
    origin: str = ""

    @property
    def file_name(self) -> str:
        """Name of its file in the new data set."""
        return self.name + (".png" if self.is_turned else self.path.suffix.lower())

    @property
    def is_turned(self) -> bool:
        """Whether EXIF data turn it; generated images have none, and looking for it decodes a PNG."""
        return not self.synthetic and orientation(self.path) != 1

    @property
    def label(self) -> str:
        """Its defect type, "combined" where it has several, or "good"."""
        types = {defect.type for defect in self.defects}
        return COMBINED if len(types) > 1 else next(iter(types), GOOD)


@dataclass(frozen=True)
class ExportInstance:
    """One connected defect.

    Attributes:
        type: defect type.
        mask: its pixels, bool, of the box's size only.
        box: (left, top, width, height) in px.
    """

    type: str
    mask: Mask
    box: tuple[int, int, int, int]

    @property
    def area(self) -> int:
        """Its number of pixels."""
        return int(np.count_nonzero(self.mask))


@dataclass(frozen=True)
class Contents:
    """What was read of one image.

    Attributes:
        size: (height, width) in px.
        instances: connected defects, type by type, from top to bottom.
        masks: whole masks by defect type, bool HxW.
    """

    size: tuple[int, int]
    instances: tuple[ExportInstance, ...]
    masks: dict[str, Mask]

    def whole(self) -> Mask:
        """All defects, bool HxW."""
        found = np.zeros(self.size, np.bool_)
        for mask in self.masks.values():
            found |= mask
        return found


@dataclass(frozen=True)
class ExportPlan:
    """What a writer needs to know before the first image.

    Attributes:
        out: folder of the new data set; it exists.
        types: all defect types, sorted.
        object_name: what the images show.
        copy: copy images instead of linking them.
        segmentation: form of masks in COCO files.
        splits: which splits have images.
    """

    out: Path
    types: tuple[str, ...]
    object_name: str
    copy: bool = False
    segmentation: Segmentation = "auto"
    splits: tuple[Split, ...] = ("train",)


class Writer(Protocol):
    """Writes one format; it is made with an `ExportPlan`. A new one is a file here and a line in `WRITERS`."""

    @property
    def reads_masks(self) -> bool:
        """Whether it needs the pixels of masks that are files already; else it is given `Contents` without them."""
        ...

    def add(self, image: ExportImage, contents: Contents) -> None:
        """Write one image; raises `OutputError`."""
        ...

    def finish(self) -> None:
        """Write what holds all images; raises `OutputError`."""
        ...


def generated_images(root: Path, records: Iterable[ImageRecord]) -> list[ExportImage]:
    """The images of a generated folder."""
    return [
        ExportImage(
            root / record.image,
            f"{record.index:06d}",
            record.source,
            defects_of(root, record),
            record.scores,
            whole_mask=root / record.mask,
        )
        for record in records
    ]


def real_images(data_set: DataSet) -> list[ExportImage]:
    """The training images of a data set."""

    def one(sample: Sample) -> ExportImage:
        source = data_set.relative(sample)
        name = "real_" + Path(source).with_suffix("").as_posix().replace("/", "_").replace(" ", "_")
        return ExportImage(sample.image, name, source, sample.defects, synthetic=False)

    images = [one(sample) for sample in (*data_set.good, *data_set.defective)]
    counts = Counter(image.name for image in images)
    return [
        replace(image, name=f"{image.name}_{hashlib.sha256(image.source.encode()).hexdigest()[:8]}")
        if counts[image.name] > 1
        else image
        for image in images
    ]


def divide(images: Sequence[ExportImage], share: float) -> list[ExportImage]:
    """Divide images into training and validation, so that all images of one source are in the same split.

    The order in which sources are taken depends on their names alone.

    Args:
        images: of all sources.
        share: of the images for validation, in [0, 1); reached as nearly as whole sources allow, with at least one
            source in each split.

    Raises:
        InputError: there is a single source.
    """
    if share == 0:
        return list(images)
    counts = Counter(image.origin or image.source for image in images)
    if len(counts) < 2:
        raise InputError(
            f"--validation: {share:g} was given, but all images have one source, expected at least two; leave it out."
        )
    order = sorted(counts, key=lambda source: hashlib.sha256(source.encode()).hexdigest())
    held, number = {order[0]}, counts[order[0]]
    for source in order[1:-1]:
        if abs(number + counts[source] - share * len(images)) < abs(number - share * len(images)):
            held.add(source)
            number += counts[source]
    return [replace(image, split="val" if (image.origin or image.source) in held else "train") for image in images]


def with_origins(images: Sequence[ExportImage], sources: Path | None) -> list[ExportImage]:
    """The images with an origin that is the same for all whose sources have the same content.

    A generated image of a generated one names its source in another way than the real data set does.

    Args:
        images: generated and real ones.
        sources: data set of the generated ones, if it is known.
    """
    names: dict[str, str] = {}
    first: dict[tuple[bool, str], str] = {}
    for image in images:
        key = (image.synthetic, image.source)
        if key in first:
            continue
        file = image.path if not image.synthetic else None if sources is None else sources / image.source
        content = file_digest(file).hex() if file is not None and is_file(file) else image.source
        first[key] = content
        names[content] = min(names.get(content, image.source), image.source)
    return [replace(image, origin=names[first[image.synthetic, image.source]]) for image in images]


def read_contents(image: ExportImage) -> Contents:
    """Read an image's masks, and of the image itself its size only.

    Raises:
        InputError: a file that cannot be read, or a mask of another size than its image.
    """
    size = _size(image)
    masks: dict[str, Mask] = {}
    for defect in image.defects:
        mask = defect.mask.read()
        _check_size(image, size, defect.mask.name, mask.shape)
        masks[defect.type] = masks[defect.type] | mask if defect.type in masks else mask
    instances = [one for defect_type, mask in masks.items() for one in connected(defect_type, mask)]
    return Contents(size, tuple(instances), masks)


def read_headers(image: ExportImage) -> Contents:
    """As `read_contents`, but of a mask that can be linked only its size is read."""
    if image.whole_mask is None:
        return read_contents(image)
    size = _size(image)
    with open_header(image.whole_mask) as mask:
        _check_size(image, size, image.whole_mask.name, (mask.height, mask.width))
    return Contents(size, (), {})


def _check_size(image: ExportImage, size: tuple[int, int], name: str, found: tuple[int, ...]) -> None:
    if found != size:
        raise InputError(
            f"{image.path}: {size[0]} x {size[1]} px (height x width), but its mask {name} {found[0]} x {found[1]}, "
            "expected equal sizes; make the pair again."
        )


def connected(defect_type: str, mask: Mask) -> list[ExportInstance]:
    """The connected parts (8 neighbours) of a mask, bool HxW."""
    if not mask.any():
        return []
    rows, columns, *ends = bounding_box(mask)
    rows, columns = rows - rows % 2, columns - columns % 2  # the order of the parts depends on even places
    inner = mask[rows : ends[0], columns : ends[1]].astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inner, connectivity=8)
    found = []
    for number in range(1, count):
        left, top, width, height = (int(value) for value in stats[number, :4])
        part = labels[top : top + height, left : left + width] == number
        found.append(ExportInstance(defect_type, np.asarray(part), (columns + left, rows + top, width, height)))
    return found


def place_image(image: ExportImage, target: Path, *, copy: bool) -> None:
    """Put an image's file into the new data set: as a hard link where that is possible, else as a copy.

    A file that its EXIF data turn is written as a PNG as viewers show it, because its masks lie on that.

    Raises:
        OutputError: full disk or missing permission.
    """
    if image.is_turned:
        write_upright(image.path, target)
    else:
        place_file(image.path, target, copy=copy)


def write_upright(source: Path, target: Path) -> None:
    """Write an image as a PNG as viewers show it, with its own depth. Raises as `place_image`."""
    picture = read_picture(source)
    write_image(target, picture.as_file(picture.pixels), durable=False)


def place_file(source: Path, target: Path, *, copy: bool) -> bool:
    """Link or copy a file; one that is there already is replaced. Raises as `place_image`.

    Returns:
        Whether it is a link.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(target, error) from error
    if not copy:
        try:
            os.link(source.resolve(), target)
            return True
        except OSError:  # another disk, or a file system without links
            pass
    with atomic_file(target, durable=False) as out, source.open("rb") as file:
        shutil.copyfileobj(file, out)
    return False


def place_mask(image: ExportImage, contents: Contents, target: Path, *, copy: bool) -> None:
    """Put the mask of all defects of an image into the new data set, as a link where there is such a file already.

    Raises:
        OutputError: full disk or missing permission.
    """
    if image.whole_mask is None:
        save_mask(target, contents.whole())
    else:
        place_file(image.whole_mask, target, copy=copy)


def save_mask(target: Path, mask: Mask) -> None:
    """Write a mask, bool HxW, as a PNG of 0 and 255; raises `OutputError`."""
    with atomic_file(target, durable=False) as file:
        Image.fromarray(mask.astype(np.uint8) * 255).save(file, format="PNG", compress_level=MASK_COMPRESSION)


def save_text(target: Path, text: str) -> None:
    """Write a text file; raises `OutputError`."""
    with atomic_file(target, durable=False) as file:
        file.write(text.encode())


def _size(image: ExportImage) -> tuple[int, int]:
    """(height, width) as a viewer shows the image; raises `InputError`."""
    with open_header(image.path) as opened:
        width, height = opened.size
        shown = opened.format == "TIFF"  # Pillow gives the size of a TIFF file as it is shown
    turned = not shown and image.is_turned and orientation(image.path) >= 5
    return (width, height) if turned else (height, width)


@lru_cache(256)
def orientation(path: Path) -> int:
    """EXIF's turn of an image, from 1 (none) to 8."""
    try:
        return read_orientation(path)
    except InputError:
        return 1
