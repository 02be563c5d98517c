"""YOLO segmentation: a text file of normalised polygons for each image, in `labels` where the image is in `images`.

Class names stand in a YAML file, or line by line in `classes.txt` or `obj.names`. The YAML file's entries `train`,
`val` and `test` (folders, or text files of images) say where images belong; those it does not name go by their folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adabldm.core.opening import is_file
from adabldm.core.samples import Defect
from adabldm.data.formats.annotations import (
    ByName,
    Collector,
    files_below,
    folder_split,
    image_size,
    points_of,
    require_good,
)
from adabldm.data.formats.reading import Listing, ReadOptions, masks_among, some

NAME = "yolo-seg"
NAME_LISTS = ("classes.txt", "obj.names", "labels/classes.txt")
"""Files with a class name a line, where no YAML file names the classes."""
HELD_OUT = ("val", "test")


class YOLOReader:
    """Reads images/<split> with labels/<split>, or <split>/images with <split>/labels."""

    name = NAME

    def detects(self, root: Path) -> bool:
        """Whether there are label files and a folder of images."""
        if any(root.glob("*/labels")) or (root / "labels").is_dir():
            return any("labels" in path.relative_to(root).parts for path in files_below(root, ".txt"))
        return False

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        """List the images with their defects; see `Reader`."""
        listing = Listing()
        collector = Collector(listing, options)
        described = _Described.read(root, collector)
        used: set[Path] = {root / name for name in NAME_LISTS}
        files = ByName(root)
        images = _images(files, listing)
        splits = described.splits(files)
        for image in images:
            label_file = _labels_of(image, root)
            used.add(label_file)
            defects = _defects(collector, label_file, image, described.names) if label_file.is_file() else []
            collector.add(image, defects, splits.get(image) or folder_split(image, root))
        spare = [path for path in files_below(root, ".txt") if "labels" in path.relative_to(root).parts]
        spare = [path for path in spare if path not in used]
        misplaced = {image.stem: image for image in images if not _labels_of(image, root).is_file()}
        for path in [path for path in spare if path.stem in misplaced]:
            listing.problems.append(
                f"{path}: does not stand where its image {misplaced[path.stem]} does, expected "
                f"{_labels_of(misplaced[path.stem], root)}; move one of them."
            )
        collector.without_image += [path for path in spare if path.stem not in misplaced]
        collector.finish()
        require_good(root, listing, options, "without a label file or with an empty one")
        return listing


def _labels_of(image: Path, root: Path) -> Path:
    parts = ["labels" if part == "images" else part for part in image.relative_to(root).parts]
    return root.joinpath(*parts).with_suffix(".txt")


def _images(files: ByName, listing: Listing) -> list[Path]:
    """The images: those in folders named images where there are any, else all but masks; the rest is mentioned."""
    root, every = files.root, files.images
    own = {path for path in every if "images" in path.relative_to(root).parts[:-1]}
    kept = own or set(every) - masks_among(every, root)
    found = [path for path in every if path in kept]
    others = [str(path.relative_to(root)) for path in every if path not in kept]
    if others:
        where = "outside of folders named images" if own else "in folders of masks"
        listing.notes.append(f"{root}: {len(others)} pictures {where} were left out ({some(others)}).")
    return found


@dataclass
class _Described:
    """What the YAML file of a data set says.

    Attributes:
        names: of the classes by number.
        entries: what stands under `train`, `val` and `test`.
        path: of the file.
        base: folder that the entries are relative to, where the file names one.
    """

    names: dict[int, str] = field(default_factory=dict)
    entries: dict[str, list[str]] = field(default_factory=dict)
    path: Path | None = None
    base: str = ""

    @classmethod
    def read(cls, root: Path, collector: Collector) -> _Described:
        """The first YAML file with class names; else the names of a text file, if there is one."""
        for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
            content = _yaml(path, collector)
            names = content.get("names")
            named = dict(enumerate(names)) if isinstance(names, list) else names if isinstance(names, dict) else {}
            if not all(str(number).isdecimal() for number in named):
                collector.listing.problems.append(f"{path}: names, expected a name for each number from 0; correct it.")
            elif named:
                collector.categories.update(dict.fromkeys(map(str, named.values()), path))
                splits = {split: _texts(content.get(split)) for split in ("train", *HELD_OUT)}
                numbered = {int(number): str(name) for number, name in named.items()}
                return cls(numbered, splits, path, str(content.get("path") or ""))
        for path in (root / name for name in NAME_LISTS):
            lines = [line.strip() for line in _lines(path) if line.strip()]
            if lines:
                collector.categories.update(dict.fromkeys(lines, path))
                return cls(dict(enumerate(lines)))
        return cls()

    def splits(self, files: ByName) -> dict[Path, str]:
        """The split of every image that the entries name: "test" for `val` and `test`, unless it is in `train` too."""
        found = {
            image: "test"
            for split in HELD_OUT
            for entry in self.entries.get(split, ())
            for image in self._listed(entry, files)
        }
        trained = {image for entry in self.entries.get("train", ()) for image in self._listed(entry, files)}
        return {**found, **dict.fromkeys(trained, "train")}

    def _listed(self, entry: str, files: ByName) -> Iterator[Path]:
        """The images of a folder or of a text file of paths."""
        for place in self._places(entry, files.root):
            if is_file(place):
                for line in filter(None, map(str.strip, _lines(place))):
                    found = [files.at(one) for one in (place.parent / line, *self._places(line, files.root))]
                    yield from [image for image in found if image is not None][:1]
                return
            inside = [image for image in files.images if image.is_relative_to(os.path.normpath(place))]
            yield from inside
            if inside:
                return

    def _places(self, written: str, root: Path) -> list[Path]:
        """Where a path of the file may lead: as it stands, and below the data set, which may have been moved."""
        plain = written.replace("\\", "/")
        below = plain.lstrip("./")
        above = root / self.base
        return [above / plain, root / plain, above / below, root / below]


def _yaml(path: Path, collector: Collector) -> dict[str, Any]:
    """The object in a YAML file; an empty one where it cannot be read, which is reported."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        collector.listing.problems.append(f"{path}: cannot be read{line}, expected YAML; repair it.")
        return {}
    return content if isinstance(content, dict) else {}


def _texts(value: Any) -> list[str]:
    """A text, or the texts of a list."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and one]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except (OSError, ValueError):
        return []


def _defects(collector: Collector, path: Path, image: Path, names: dict[int, str]) -> list[Defect | None]:
    size = image_size(image)
    if size is None:
        return []  # the image itself will be reported
    height, width = size
    defects: list[Defect | None] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words, label = line.split(), f"line {number}"
        if not words:
            continue
        numbers = points_of(words[1:])
        if not words[0].isdecimal() or numbers is None:
            collector.listing.problems.append(
                f"{path}: {label}: expected a class number and pairs of coordinates; repair or remove the line."
            )
            continue
        index = int(words[0])
        if names and index not in names:
            collector.listing.problems.append(
                f"{path}: {label}: class {index} is not among the names of the YAML file; add it there or correct it."
            )
            continue
        kind = names.get(index, f"class {index}")
        if len(numbers) == 2:
            (x, y), (w, h) = numbers
            box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            defects.append(collector.box(path, label, kind, image, box))
        else:
            polygon = tuple((round(x * width, 1), round(y * height, 1)) for x, y in numbers)  # cut off when it is drawn
            defects.append(collector.polygons(path, label, kind, [polygon], size))
    return defects
