"""What all readers have in common."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Protocol

from adabldm.core.images import is_image_file
from adabldm.core.records.run import Reading
from adabldm.core.samples import MissingMask, Sample

JUNK = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "__macosx"})
"""Lower-case names that operating systems leave behind; they are ignored without a word, as hidden files are."""
SPLITS = ("train", "test")
MASK_ENDING = re.compile(r"[_\- ]?(mask|gt|label|seg)$", re.IGNORECASE)
"""Of the name of a mask that lies beside its image."""
MASK_NAMES = frozenset({"mask", "masks", "gt", "ground_truth", "groundtruth", "label", "labels", "annotation", "truth"})
"""Lower-case names of folders of masks."""


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is read and what it must have.

    Attributes:
        object_name: what the images show; the folder's name with spaces for `_` and `-` if `None`.
        mask_threshold: grey level in 0…254 above which a mask pixel is defect; `None` refuses non-binary masks.
        shots: use only the first so many few-shot images of each type, by name; `None` uses all.
        skip_empty: leave out defect images whose mask is empty, with a note, instead of calling it a problem.
        require_good: count it as a problem when there is no defect-free image for training.
        require_defects: count it as a problem when there is no defect image.
        min_size: note how many images have a shorter side than this (px).
        split: "train" looks at what `fit` and `generate` use only: defect types with training images then leave their
            test images unread, and so are defect-free test images.
        format: name of the layout; recognised by itself if `None`.
        boxes: "grabcut" turns boxes into masks, "fill" takes them whole; `None` refuses them.
        good_folder: folders of defect-free images, relative to the data set, for the layout `folders`.
        bad_folder: folders of defect images, one for each type.
        mask_folder: folders of masks.
        fold: of a cross-validation, such as "2/5": the training images without its share are for training, its share
            for tests.
        roi: where defects may be: PATH or TYPE=PATH each, of a mask for all images or a folder of masks.
        types: defect types that `roi` may name although no image has them.
    """

    object_name: str | None = None
    mask_threshold: int | None = None
    shots: int | None = None
    skip_empty: bool = False
    require_good: bool = True
    require_defects: bool = False
    min_size: int | None = None
    split: str | None = None
    format: str | None = None
    boxes: str | None = None
    good_folder: tuple[str, ...] = ()
    bad_folder: tuple[str, ...] = ()
    mask_folder: tuple[str, ...] = ()
    fold: str | None = None
    roi: tuple[str, ...] = ()
    types: tuple[str, ...] = ()

    @classmethod
    def of(cls, reading: Reading, **more: Any) -> ReadOptions:
        """Options that read as a record of a reading says; `more` are other fields."""
        own = {name: getattr(reading, name) for name in Reading.model_fields}
        return cls(**own, **more)

    @property
    def layout(self) -> str | None:
        """The layout that is asked for: folders that are named are those of `folders`."""
        named = self.good_folder or self.bad_folder or self.mask_folder
        return "folders" if named and self.format is None else self.format


@dataclass
class Listing:
    """What a reader found, before any image was decoded.

    Attributes:
        samples: in a fixed order; the mask of a defect image without one is a `MissingMask`.
        problems: one sentence each.
        notes: remarks, one sentence each.
    """

    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Reader(Protocol):
    """Reads one layout."""

    @property
    def name(self) -> str:
        """Name of the layout, as `inspect` prints it."""
        ...

    def detects(self, root: Path) -> bool:
        """Whether a folder looks like this layout; decodes nothing."""
        ...

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        """List the images with their defects; never raises for a bad folder."""
        ...


def entries(folder: Path, listing: Listing) -> list[Path]:
    """Visible entries of a folder by name; none where it is missing."""
    try:
        found = sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else []
    except OSError as error:
        listing.problems.append(f"{folder}: the folder cannot be read ({error.strerror}); check its permissions.")
        return []
    return [path for path in found if not path.name.startswith(".") and path.name.lower() not in JUNK]


def image_files(folder: Path, listing: Listing) -> list[Path]:
    """Image files of a folder by name; the rest is mentioned in a note."""
    found = entries(folder, listing)
    kinds = [(path, is_image_file(path) and not path.is_dir()) for path in found]
    images = [path for path, is_image in kinds if is_image]
    others = [path.name for path, is_image in kinds if not is_image]
    if others:
        listing.notes.append(f"{folder}: left out what is no image file ({some(others)}).")
    return images


def stem_of(path: Path) -> str:
    """A file's stem in composed letters: file systems disagree, so that an "ö" may differ between image and mask."""
    return unicodedata.normalize("NFC", path.stem)


def masks_beside(images: Iterable[Path]) -> dict[Path, Path]:
    """Masks that lie in the folder of their images, as `000_mask.png` beside `000.png`, each with its image."""
    places = {path: (path.parent, stem_of(path)) for path in images}
    by_place = {place: path for path, place in places.items()}
    bases = {path: (folder, MASK_ENDING.sub("", stem)) for path, (folder, stem) in places.items()}
    return {path: by_place[base] for path, base in bases.items() if base != places[path] and base in by_place}


def masks_among(images: Sequence[Path], root: Path) -> set[Path]:
    """Files among images that their names call masks or previews of annotations.

    These are files in folders such as `masks`, in those that LabelMe's converter writes (`NAME_json`), and
    `000_mask.png` beside `000.png`.
    """
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in images:
        folders[path.parent].append(path)
    found = set(masks_beside(images))
    for folder, paths in folders.items():
        parts = [part.lower() for part in folder.relative_to(root).parts]
        if any(part in MASK_NAMES or part.endswith("_json") for part in parts):
            found.update(paths)
    return found


def some(names: Sequence[str]) -> str:
    """The first three names, for a message."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def missing_mask(image: Path, place: str, root: Path) -> MissingMask:
    """The mask of a defect image that has none, with the ways out.

    Args:
        image: of the defect.
        place: where a mask was expected.
        root: folder of the data set.
    """
    ways = f"paint it (`adabldm studio --data {quote(str(root))}`), annotate boxes and give --boxes grabcut"
    return MissingMask(image, f"{image}: no mask, expected {place}; {ways}, or remove the image.")
