"""What the readers of annotation files share: files, splits, and defects from polygons and boxes."""

from __future__ import annotations

import itertools
import json
import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from adabldm.core.errors import InputError
from adabldm.core.images import is_image_file
from adabldm.core.opening import is_file, open_header, orientation_of
from adabldm.core.samples import Defect, Sample
from adabldm.data.formats.reading import JUNK, Listing, ReadOptions, some
from adabldm.data.formats.shapes import LINE_WIDTH, Box, BoxMask, Polygon, PolygonMask, area

TEST_WORDS = frozenset({"test", "val", "valid", "validation", "val2017", "test2017"})
BOX_ADVICE = (
    "outline the defects by polygons, or give --boxes grabcut to find them inside the boxes, or --boxes fill if they "
    "fill them"
)
FARTHEST = 100
"""Corners farther away from the image than so many of its longer sides are no pixels."""


def split_of(path: Path, root: Path) -> str:
    """The split that a folder below the root or the file's name says: "test" also for validation, else "train"."""
    parts = path.relative_to(root).parts if path.is_relative_to(root) else (path.name,)
    words = {part.lower() for part in parts[:-1]}
    words |= set(Path(parts[-1]).stem.lower().replace("-", "_").replace(".", "_").split("_")) if parts else set()
    return "test" if words & TEST_WORDS else "train"


def folder_split(path: Path, root: Path) -> str:
    """As `split_of`, by the folders alone."""
    return "test" if {part.lower() for part in path.relative_to(root).parts[:-1]} & TEST_WORDS else "train"


def files_below(root: Path, suffix: str | None = None) -> list[Path]:
    """Visible files below a folder by path; images, or files of a suffix."""
    found = []
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if any(part.startswith(".") or part.lower() in JUNK for part in parts) or path.is_dir():
            continue
        if is_image_file(path) if suffix is None else path.suffix.lower() == suffix:
            found.append(path)
    return found


def first_texts(root: Path, suffix: str) -> Iterator[str]:
    """Texts of the first 20 readable files of a suffix below a folder, from which a layout is recognised."""
    for path in files_below(root, suffix)[:20]:
        try:
            yield path.read_text(encoding="utf-8-sig", errors="replace")
        except OSError:
            continue


def read_json(path: Path, listing: Listing) -> dict[str, Any] | None:
    """The object in a JSON file; `None` where it cannot be read, which is reported with its line."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"), object_hook=_packed)
    except json.JSONDecodeError as error:
        listing.problems.append(
            f"{path}: broken JSON in line {error.lineno}, column {error.colno} ({error.msg}); repair or remove it."
        )
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else error
        listing.problems.append(f"{path}: cannot be read as JSON in UTF-8 ({reason}); save it anew or remove it.")
        return None
    if not isinstance(found, dict):
        listing.problems.append(f"{path}: no JSON object, expected annotations; repair or remove it.")
        return None
    return found


def _packed(values: dict[str, Any]) -> dict[str, Any]:
    """An annotation whose outlines are lists of numbers, with these packed: a large file then needs less memory."""
    parts = values.get("segmentation")
    if isinstance(parts, list) and all(isinstance(part, list) for part in parts):
        with suppress(TypeError, OverflowError):
            values["segmentation"] = [array("d", part) for part in parts]
    return values


def image_size(path: Path) -> tuple[int, int] | None:
    """(height, width) in px as a viewer shows the image, from its header; `None` where it cannot be read."""
    try:
        with open_header(path) as image:
            width, height = image.size
            # Pillow gives the size of a TIFF file as it is shown.
            turned = image.format != "TIFF" and orientation_of(image) >= 5
    except InputError:
        return None
    return (width, height) if turned else (height, width)


def objects_of(content: dict[str, Any], key: str, path: Path, listing: Listing) -> list[dict[str, Any]]:
    """The objects of a list in a JSON object; anything else in its place is reported."""
    found = content.get(key)
    if found is None:
        return []
    objects = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    if not isinstance(found, list) or len(objects) < len(found):
        listing.problems.append(f"{path}: {key} is no list of objects; export the file anew.")
    return objects


class ByName:
    """Image files of a data set by name, for annotation files that do not lie beside their images."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = files_below(root)
        self._named: dict[str, list[Path]] = defaultdict(list)
        self._stems: dict[str, list[Path]] = defaultdict(list)
        self._above = root.absolute().parts
        self._own = set(self.images)
        self._resolved: dict[Path, Path] = {}
        for image in self.images:
            self._named[image.name].append(image)
            self._stems[image.stem].append(image)

    def at(self, path: Path) -> Path | None:
        """The image of the data set to which a path leads, however it is written; `None` where there is none."""
        if path in self._own or not is_file(path):
            return path if path in self._own else None
        if not self._resolved:
            self._resolved = {image.resolve(): image for image in reversed(self.images)}
        return self._resolved.get(path.resolve())

    def beside(self, source: Path) -> list[Path]:
        """The images in an annotation file's own folder that have its name but for the suffix."""
        return [image for image in self._stems.get(source.stem, []) if image.parent == source.parent]

    def find(self, name: str, source: Path) -> list[Path]:
        """The images of a name, or else of its stem.

        Those whose folders agree most with the name's go before others, and of these those of the annotation file's
        split.

        Args:
            name: of the image, or its stem; with or without folders.
            source: annotation file.
        """
        file = PurePosixPath(name).name
        found = self._named.get(file) or self._stems.get(Path(file).stem) or []
        shared = {one: self._shared(one, name) for one in found}
        most = max(shared.values(), default=0)
        found = [one for one in found if shared[one] == most]
        split = split_of(source, self.root)
        return [one for one in found if split_of(one, self.root) == split] or found

    def agrees(self, image: Path, name: str) -> bool:
        """Whether the folder of an image is the last one of those that its name was written with."""
        return self._shared(image, name) > 0

    def _shared(self, image: Path, name: str) -> int:
        """How many of the folders in a written name stand in an image's path too, counted from the file."""
        own = (*self._above, *image.relative_to(self.root).parts[:-1])
        pairs = zip(reversed(folders_in(name)), reversed(own), strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0].lower() == pair[1].lower(), pairs))


def folders_in(name: str) -> list[str]:
    """The folders in a written name, without drive and without steps upwards."""
    parts = PurePosixPath(name).parts[:-1]
    return [part for part in parts if part not in {"/", ".", ".."} and not part.endswith(":")]


def points_of(values: Any) -> Polygon | None:
    """Corners from [x, y, x, y, …] or [[x, y], …]; `None` where it is neither, or has no finite numbers."""
    try:
        flat = [float(number) for value in values for number in (value if isinstance(value, list | tuple) else [value])]
    except (TypeError, ValueError, OverflowError):
        return None
    if len(flat) % 2 or not flat or not all(map(math.isfinite, flat)):
        return None
    return tuple(zip(flat[::2], flat[1::2], strict=True))


def is_region(kind: str) -> bool:
    """Whether annotations of a class say where defects may be: `roi`, or `roi:TYPE` for one defect type."""
    return kind.partition(":")[0].strip().lower() == "roi"


@dataclass
class Collector:
    """Gathers the defects of images, and says what is wrong with their shapes.

    Attributes:
        listing: gets samples, problems and notes.
        options: how boxes are treated.
        clipped: polygons that reach outside their image.
        boxed: boxes.
        lines: lines, whose width the file does not say.
        without_image: annotation files of a single image that is not there.
        missing: names of images that are not there, by the annotation file that lists them.
        moved: names of images that were found in another folder than the written one.
        categories: defect types that an annotation file declares.
        annotated: defect types of all annotations, also of those that were refused.
    """

    listing: Listing
    options: ReadOptions
    clipped: list[str] = field(default_factory=list)
    boxed: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    without_image: list[Path] = field(default_factory=list)
    missing: dict[Path, list[str]] = field(default_factory=lambda: defaultdict(list))
    moved: list[str] = field(default_factory=list)
    categories: dict[str, Path] = field(default_factory=dict)
    annotated: set[str] = field(default_factory=set)

    def polygons(
        self,
        source: Path,
        label: str,
        kind: str,
        polygons: Sequence[Polygon | None],
        size: tuple[int, int],
        *,
        along_edges: bool = False,
    ) -> Defect | None:
        """A defect from its polygons, which may run along the edges of pixels; what is wrong with them is reported."""
        self.annotated.add(kind)
        sound = []
        for polygon in polygons:
            if polygon is None or len(polygon) < 3:
                corners = "no corners" if polygon is None else f"{len(polygon)} corners"
                self._problem(source, label, f"a polygon with {corners}, expected three or more")
            elif any(abs(value) > FARTHEST * max(size) for corner in polygon for value in corner):
                self._problem(source, label, "a corner far outside the image, expected px")
            elif area(polygon) == 0:
                self._problem(source, label, "a polygon without area, expected one that encloses the defect")
            else:
                sound.append(polygon)
        if not polygons or len(sound) < len(polygons):
            if not polygons:
                self._problem(source, label, "no polygon, expected the outline of the defect")
            return None
        height, width = size
        outside = any(not (-1 <= x <= width and -1 <= y <= height) for polygon in sound for x, y in polygon)
        if outside:
            self.clipped.append(f"{source.name} {label}")
        return Defect(kind, PolygonMask.of(source, label, sound, size, along_edges=along_edges))

    def box(self, source: Path, label: str, kind: str, image: Path, box: Box) -> Defect | None:
        """A defect from its box, if the options ask for that."""
        self.annotated.add(kind)
        if not (all(map(math.isfinite, box)) and box[2] > box[0] and box[3] > box[1]):
            self._problem(source, label, "a box without area, expected one around the defect")
            return None
        if is_region(kind):
            return Defect(kind, BoxMask(source, label, image, box, fill=True))
        self.boxed.append(f"{source} {label}")
        boxes = self.options.boxes
        return None if boxes is None else Defect(kind, BoxMask(source, label, image, box, fill=boxes == "fill"))

    def add(self, image: Path, defects: Iterable[Defect | None], split: str) -> None:
        """List an image; one all of whose defects were refused is left out."""
        found = list(defects)
        sound = [defect for defect in found if defect is not None]
        kept = tuple(defect for defect in sound if not is_region(defect.type))
        regions = tuple(
            replace(one, type=one.type.partition(":")[2].strip()) for one in sound if is_region(one.type)
        )  # fmt: skip
        if kept or len(regions) == len(found):
            self.listing.samples.append(Sample(image, kept, split, regions=regions))

    def ambiguous(self, source: Path, name: str, images: Sequence[Path]) -> None:
        """Report an annotation file whose image is there several times."""
        self.listing.problems.append(
            f"{source}: the image {name} is there twice, {images[0]} and {images[1]}; rename one, or write its folder "
            "in the file."
        )

    def lonely(self, place: Path, what: str, names: Sequence[str]) -> None:
        """Mention what has no image: people use parts of larger data sets."""
        if names:
            self.listing.notes.append(f"{place}: {len(names)} {what} without an image were left out ({some(names)}).")

    def finish(self) -> None:
        """Say what concerns the whole data set."""
        notes = self.listing.notes
        if self.clipped:
            notes.append(f"{len(self.clipped)} polygons reach outside their image and were clipped "
                         f"({some(self.clipped)}).")  # fmt: skip
        if self.lines:
            notes.append(f"{len(self.lines)} lines were taken {LINE_WIDTH} px wide, as LabelMe draws them "
                         f"({some(self.lines)}); outline the defects by polygons if they differ.")  # fmt: skip
        self._finish_boxes()
        if self.without_image:
            names = [path.name for path in self.without_image]
            self.lonely(self.without_image[0].parent, "annotation files", names)
        for path, names in self.missing.items():
            self.lonely(path, "entries", names)
        if self.moved:
            notes.append(f"{len(self.moved)} images were found by their names in another folder than the annotations "
                         f"say ({some(self.moved)}); check that they are the same ones.")  # fmt: skip
        used = self.annotated.union(*(sample.types for sample in self.listing.samples))
        unused = [(kind, path) for kind, path in self.categories.items() if kind not in used and not is_region(kind)]
        for path in dict.fromkeys(path for _, path in unused):
            kinds = [kind for kind, place in unused if place == path]
            notes.append(f"{path}: no defect of the types {', '.join(kinds)} is annotated.")
        self.listing.samples.sort(key=lambda sample: sample.image)

    def _finish_boxes(self) -> None:
        if not self.boxed:
            return
        if self.options.boxes is None:
            self.listing.problems.append(
                f"{self.boxed[0]}: a box instead of a mask ({len(self.boxed)} boxes in all), expected polygons or "
                f"masks; {BOX_ADVICE}."
            )
        else:
            how = "turned into masks by GrabCut" if self.options.boxes == "grabcut" else "taken as masks whole"
            self.listing.notes.append(f"{len(self.boxed)} boxes were {how}; look at them with `inspect --show`.")

    def _problem(self, source: Path, label: str, what: str) -> None:
        self.listing.problems.append(f"{source}: {label}: {what}; draw it anew or remove it.")


def require_good(root: Path, listing: Listing, options: ReadOptions, where: str) -> None:
    """Report a data set without defect-free images for training."""
    if options.require_good and not any(not one.defects and one.split == "train" for one in listing.samples):
        listing.problems.append(f"{root}: no defect-free images for training, expected some {where}; put them there.")
