"""LabelMe: NAME.json beside its image, or naming it; images without a JSON file or without shapes are defect-free."""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from adabldm.core.samples import Defect
from adabldm.data.formats.annotations import (
    ByName,
    Collector,
    files_below,
    first_texts,
    folder_split,
    folders_in,
    image_size,
    objects_of,
    points_of,
    read_json,
    require_good,
)
from adabldm.data.formats.reading import Listing, ReadOptions, masks_among, some
from adabldm.data.formats.shapes import BitmapMask, DrawnMask, Polygon, UnionMask

NAME = "labelme"
FORMS = ("polygon", "mask", "circle", "rectangle", "line", "linestrip")
ANNOTATION_FOLDERS = frozenset({"annotation", "annotations", "ann", "anns", "label", "labels", "json", "jsons"})
"""Lower-case names of folders whose files are about images elsewhere."""


class LabelMeReader:
    """Reads folders with LabelMe's JSON files, at any depth; folders named test or val hold test images."""

    name = NAME

    def detects(self, root: Path) -> bool:
        """Whether there is a JSON file that names an image or has shapes."""
        return any('"shapes"' in text or '"imagePath"' in text for text in first_texts(root, ".json"))

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        """List the images with their defects; see `Reader`."""
        listing = Listing()
        work = _Work(Collector(listing, options), ByName(root))
        paths = files_below(root, ".json")
        work.folders = {path.parent for path in paths if work.images.beside(path)}
        for path in paths:
            work.read(path)
        work.finish()
        require_good(root, listing, options, "without a JSON file or with no shapes in it")
        return listing


@dataclass
class _Work:
    """Pairs the files of a data set: image by image the file that describes it.

    Attributes:
        collector: gathers the defects.
        images: the images that are there.
        folders: those where files lie beside their images.
        described: the file of each image.
        moved: files whose image was found in another folder than the written one.
        agreed: whether any file that does not lie beside its image tells its folder as it is; the images of the
            others are then taken to be missing, because people use parts of larger sets.
    """

    collector: Collector
    images: ByName
    folders: set[Path] = field(default_factory=set)
    described: dict[Path, Path] = field(default_factory=dict)
    moved: list[Path] = field(default_factory=list)
    agreed: bool = False

    def finish(self) -> None:
        """Take in what had to wait, and list the images without a file as defect-free."""
        moved, self.moved = self.moved, []
        for path in moved:
            self.read(path, late=True)
        root, notes = self.images.root, self.collector.listing.notes
        rest = [image for image in self.images.images if image not in self.described]
        others = masks_among(self.images.images, root)
        left_out = [str(image.relative_to(root)) for image in rest if image in others]
        if left_out:
            notes.append(f"{root}: {len(left_out)} masks and previews were left out ({some(left_out)}).")
        for image in (image for image in rest if image not in others):
            self.collector.add(image, (), folder_split(image, root))
        self.collector.finish()

    def read(self, path: Path, *, late: bool = False) -> None:
        """Take in one file; `late` is a second time, when it is known where the other files' images are."""
        content = read_json(path, self.collector.listing)
        if content is None:
            self.described.update(dict.fromkeys(self.images.beside(path), path))
            return
        found = self._beside(path, content) or self._elsewhere(path, content, late=late)
        if path in self.moved:
            return
        if not found:
            if {"shapes", "imagePath"} & content.keys():  # else it is another program's file
                self.collector.without_image.append(path)
        elif len(found) > 1:
            self.collector.ambiguous(path, found[0].name, found)
            self.described.update(dict.fromkeys(found, path))
        elif found[0] in self.described:
            self.collector.listing.problems.append(
                f"{path}: describes {found[0].name}, as {self.described[found[0]]} does; remove one of the two."
            )
        else:
            self.described[found[0]] = path
            defects = _defects(self.collector, path, content, found[0])
            self.collector.add(found[0], defects, folder_split(found[0], self.images.root))

    def _beside(self, path: Path, content: dict[str, Any]) -> list[Path]:
        """The image that a file names, or that has its name."""
        written = _written(content)
        own = self.images.at(path.parent / PurePosixPath(written).name) if written else None
        if own is not None:
            return [own]
        relative = self.images.at(path.parent / written) if written else None
        return self.images.beside(path)[:1] or ([] if relative is None else [relative])

    def _elsewhere(self, path: Path, content: dict[str, Any], *, late: bool) -> list[Path]:
        """Images of the name that a file gives; it waits when their folder is another one than the file says."""
        name = _written(content) or path.stem
        found = self.images.find(name, path)
        agrees = bool(found) and self.images.agrees(found[0], name)
        self.agreed |= agrees
        if path.parent.name.lower() not in ANNOTATION_FOLDERS and not agrees:
            found = [image for image in found if image.parent not in self.folders]
        if found and folders_in(name) and not agrees:
            if not late:
                self.moved.append(path)
            elif self.agreed:
                return []
            else:
                self.collector.moved.append(f"{name} at {found[0]}")
        return found


def _written(content: dict[str, Any]) -> str:
    """The path that a file gives its image, with "/" between folders."""
    written = str(content.get("imagePath") or "")
    return PureWindowsPath(written).as_posix() if written else ""


def _defects(collector: Collector, path: Path, content: dict[str, Any], image: Path) -> list[Defect | None]:
    """The shapes of a file; shapes of one label and group number are one defect."""
    size = image_size(image) or (1, 1)  # an unreadable image will be reported
    stated = (content.get("imageHeight") or size[0], content.get("imageWidth") or size[1])
    if stated != size and size != (1, 1):
        collector.listing.problems.append(
            f"{path}: says {stated[0]} x {stated[1]} px (height x width), but {image.name} has {size[0]} x {size[1]}; "
            "annotate the image of this size."
        )
    groups: dict[tuple[str, str], list[Defect | None]] = {}
    for number, shape in enumerate(objects_of(content, "shapes", path, collector.listing)):
        kind, group = str(shape.get("label") or "defect"), shape.get("group_id")
        defect = _defect(_Shape(path, number, kind, shape), collector, image, size)
        groups.setdefault((kind, f"shape {number}" if group is None else f"group {group}"), []).append(defect)
    return [_joined(members) for members in groups.values()]


def _joined(members: list[Defect | None]) -> Defect | None:
    """One defect from its shapes; none where a shape was refused."""
    known = [member for member in members if member is not None]
    if len(known) < len(members):
        return None
    return known[0] if len(known) == 1 else Defect(known[0].type, UnionMask(tuple(one.mask for one in known)))


@dataclass(frozen=True)
class _Shape:
    """A shape of a file, its number there and its label."""

    path: Path
    number: int
    kind: str
    content: dict[str, Any]

    @property
    def label(self) -> str:
        return f"shape {self.number}"

    @property
    def points(self) -> Polygon | None:
        return points_of(self.content.get("points") or [])


def _defect(shape: _Shape, collector: Collector, image: Path, size: tuple[int, int]) -> Defect | None:
    points, form = shape.points, shape.content.get("shape_type") or "polygon"
    count = 0 if points is None else len(points)
    wanted = 0 if form == "polygon" else 2
    if form not in FORMS or count < wanted or (form == "circle" and count > wanted):
        what = f" with {count} points" if form in FORMS else ""
        collector.listing.problems.append(
            f"{shape.path}: {shape.label}: of the form {form}{what}, expected {', '.join(FORMS[:-1])} or {FORMS[-1]} "
            "with its points; outline the defect."
        )
        return None
    if form == "polygon" or points is None:
        return collector.polygons(shape.path, shape.label, shape.kind, [points], size)
    if form == "rectangle":
        (x0, x1), (y0, y1) = ((min(values), max(values)) for values in zip(*points, strict=True))
        return collector.box(shape.path, shape.label, shape.kind, image, (x0, y0, x1 + 1, y1 + 1))
    if form == "mask":
        return _bitmap(shape, collector, points, size)
    if form == "circle" and math.dist(points[0], points[1]) == 0:
        return collector.polygons(shape.path, shape.label, shape.kind, [(points[0],) * 3], size)
    if form != "circle":
        collector.lines.append(f"{shape.path.name} {shape.label}")
    drawn = DrawnMask(shape.path, shape.label, "circle" if form == "circle" else "line", points, size)
    return Defect(shape.kind, drawn)


def _bitmap(shape: _Shape, collector: Collector, points: Polygon, size: tuple[int, int]) -> Defect | None:
    """A shape of the type "mask": a PNG in base64 between its first and its last pixel."""
    try:
        data = base64.b64decode(str(shape.content.get("mask") or ""), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        collector.listing.problems.append(
            f"{shape.path}: {shape.label}: a mask that is no PNG in base64; draw it anew or remove it."
        )
        return None
    left, top = (int(min(values)) for values in zip(*points, strict=True))
    return Defect(shape.kind, BitmapMask(shape.path, shape.label, data, (left, top), size))
