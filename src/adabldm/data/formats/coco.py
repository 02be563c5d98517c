"""COCO: one or several JSON files with images, categories and annotations as polygons, run lengths or boxes."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adabldm.core.samples import Defect
from adabldm.data.formats.annotations import (
    ByName,
    Collector,
    files_below,
    first_texts,
    folders_in,
    image_size,
    objects_of,
    points_of,
    read_json,
    require_good,
    split_of,
)
from adabldm.data.formats.reading import Listing, ReadOptions
from adabldm.data.formats.shapes import Polygon, RunLengthMask, area, decode_counts

NAME = "coco"
MOST_COMPARED = 200
"""Annotations of a file whose areas are compared with their polygons, so that large files are not read twice."""
LARGEST = 1e6
"""Corners and boxes beyond it, in px, are compared with nothing."""


class COCOReader:
    """Reads COCO files below a folder; the name or folder of a file says whether it is for training or test."""

    name = NAME

    def detects(self, root: Path) -> bool:
        """Whether a JSON file has images and annotations."""
        return any('"images"' in text and '"annotations"' in text for text in first_texts(root, ".json"))

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        """List the images with their defects; see `Reader`."""
        listing = Listing()
        work = _Work(root, Collector(listing, options), ByName(root))
        for path in files_below(root, ".json"):
            content = read_json(path, listing)
            if content is not None and _lists_images(content):
                work.read(path, content)
        work.finish()
        require_good(root, listing, options, "listed without annotations")
        return listing


@dataclass
class _Image:
    path: Path
    name: str
    size: tuple[int, int]
    split: str
    source: Path
    defects: list[Defect | None] = field(default_factory=list)
    types: set[str] = field(default_factory=set)


@dataclass
class _Work:
    """Puts the files of a data set together: an image may stand in several, unless both annotate it.

    Attributes:
        root: folder of the data set.
        collector: gathers the defects.
        files: the images that are there.
        images: those that the annotation files list.
        moved: those that were found in another folder than the written one.
        agreed: whether any was found in the folder that is written; the others are then taken for images that are
            not there, because people use parts of larger sets.
    """

    root: Path
    collector: Collector
    files: ByName
    images: dict[Path, _Image] = field(default_factory=dict)
    moved: list[_Image] = field(default_factory=list)
    agreed: bool = False

    def read(self, path: Path, content: dict[str, Any]) -> None:
        """Take in one file."""
        listing = self.collector.listing
        names = {_id(one): str(one.get("name") or one.get("id"))
                 for one in objects_of(content, "categories", path, listing)}  # fmt: skip
        for name in names.values():
            self.collector.categories.setdefault(name, path)
        known: set[str] = set()
        images: dict[str, _Image] = {}
        for entry in objects_of(content, "images", path, listing):
            number, image = _id(entry), self._image(path, entry)
            if number in known:
                listing.problems.append(f"{path}: two images have the id {number}; give each its own.")
            elif image is not None:
                images[number] = image
            known.add(number)
        entries = objects_of(content, "annotations", path, listing)
        along_edges = _along_edges(entries)
        for place, entry in enumerate(entries):
            label = f"annotation {entry.get('id', place)}"
            number, category = _id(entry, "image_id"), _id(entry, "category_id")
            if number not in known:
                listing.problems.append(
                    f"{path}: {label}: image_id {number} is the id of no image; correct or remove it."
                )
            elif category not in names:
                listing.problems.append(
                    f"{path}: {label}: category_id {category} is the id of no category; correct it."
                )
            elif number in images:
                found = images[number]
                found.defects.append(self._defect(path, label, names[category], entry, found, along_edges=along_edges))
        self._merge(image for image in images.values() if self._is_sure(image))

    def finish(self) -> None:
        """List the images."""
        if self.agreed:
            for image in self.moved:
                self.collector.missing[image.source].append(image.name)
        else:
            self.collector.moved += [f"{image.name} at {image.path}" for image in self.moved]
            self._merge(self.moved)
        for image in self.images.values():
            self.collector.add(image.path, image.defects, image.split)
        others = [path.name for path in self.files.images if path not in self.images]
        if others and self.images:
            self.collector.listing.notes.append(
                f"{self.root}: {len(others)} images that no annotation file lists were left out ({others[0]}, …)."
            )
        self.collector.finish()

    def _image(self, path: Path, entry: dict[str, Any]) -> _Image | None:
        name = str(entry.get("file_name") or "").replace("\\", "/")
        folders = (path.parent, path.parent / "images", self.root, self.root / "images")
        places = [self.files.at(folder / name) for folder in folders if name]
        found = [one for one in places if one is not None][:1] or self.files.find(name, path)
        if len(found) != 1:
            if found:
                self.collector.ambiguous(path, name, found)
            else:
                self.collector.missing[path].append(name or f"image {_id(entry)}")
            return None
        size = image_size(found[0]) or (1, 1)  # an unreadable image will be reported
        stated = (entry.get("height") or size[0], entry.get("width") or size[1])
        if stated != size and size != (1, 1):
            self.collector.listing.problems.append(
                f"{path}: says {stated[0]} x {stated[1]} px (height x width) of {name}, but it has {size[0]} x "
                f"{size[1]}; annotate the image of this size."
            )
        return _Image(found[0], name, size, split_of(path, self.root), path)

    def _is_sure(self, image: _Image) -> bool:
        """Whether an image is where its name says; others wait until all names are known."""
        agrees = self.files.agrees(image.path, image.name)
        self.agreed |= agrees
        if agrees or not folders_in(image.name) or image.path == self.files.at(image.source.parent / image.name):
            return True
        self.moved.append(image)
        return False

    def _defect(
        self, path: Path, label: str, kind: str, entry: dict[str, Any], image: _Image, *, along_edges: bool
    ) -> Defect | None:
        shape, box = entry.get("segmentation"), entry.get("bbox")
        image.types.add(kind)
        if isinstance(shape, dict):
            self.collector.annotated.add(kind)
            return self._runs(path, label, kind, shape)
        polygons = _polygons(entry)
        if polygons:
            return self.collector.polygons(path, label, kind, polygons, image.size, along_edges=along_edges)
        corners = points_of(box or [])
        if corners is not None and len(corners) == 2:
            (x, y), (width, height) = corners
            return self.collector.box(path, label, kind, image.path, (x, y, x + width, y + height))
        return self.collector.polygons(path, label, kind, [], image.size)

    def _runs(self, path: Path, label: str, kind: str, shape: dict[str, Any]) -> Defect | None:
        try:
            counts = shape["counts"]
            runs = decode_counts(counts) if isinstance(counts, str) else tuple(int(run) for run in counts)
            height, width = (int(side) for side in shape["size"])
            mask = RunLengthMask.of(path, label, runs, (height, width))
        except (KeyError, TypeError, ValueError, OverflowError):
            self.collector.listing.problems.append(
                f"{path}: {label}: run lengths that cannot be read, expected size and counts; export it anew."
            )
            return None
        return Defect(kind, mask)

    def _merge(self, images: Iterable[_Image]) -> None:
        for image in images:
            other = self.images.get(image.path)
            if other is not None and other.source == image.source and other.name != image.name:
                self.collector.listing.problems.append(
                    f"{image.source}: lists {other.name} and {image.name}, but of these {image.path} alone is there; "
                    "add the other one, or remove its entry."
                )
            elif other is None or not other.defects:
                self.images[image.path] = image
            elif image.defects and (image.types & other.types or image.split != other.split):
                self.collector.listing.problems.append(
                    f"{image.source}: annotates {image.path.name}, as {other.source} does; keep one of the two."
                )
            else:
                other.defects += image.defects
                other.types |= image.types


def _polygons(entry: dict[str, Any]) -> list[Polygon | None]:
    """The polygons of an annotation; none where it has run lengths or a box alone."""
    shape = entry.get("segmentation")
    if not isinstance(shape, list) or not shape:
        return []
    return [points_of(part) for part in (shape if isinstance(shape[0], list | array) else [shape])]


def _along_edges(entries: Sequence[dict[str, Any]]) -> bool:
    """Whether the polygons of a file run along the edges of pixels, not through the centres of the outermost ones.

    The areas that stand beside them tell: those along edges enclose them, while through the centres less is enclosed
    than there are pixels. False where no area tells anything.
    """
    outlined = [entry for entry in entries if isinstance(entry.get("segmentation"), list) and entry["segmentation"]]
    chosen = outlined[:: max(1, math.ceil(len(outlined) / MOST_COMPARED))]
    found = [one for one in map(_compared, chosen) if one is not None]
    # Some tools write the areas of the boxes, which then are those of the polygons by chance alone.
    if any(one.is_box and min(one.to_edges, one.to_centres) > one.rounding for one in found):
        found = [one for one in found if not one.is_box]
    found = [one for one in found if min(one.to_edges, one.to_centres) <= one.between]
    return sum(one.to_edges for one in found) < sum(one.to_centres for one in found)


@dataclass(frozen=True, slots=True)
class _Compared:
    """How far the stated area of an annotation is from the areas of its polygons, in px.

    Attributes:
        to_edges: from what the polygons enclose.
        to_centres: from the number of pixels that they and their outlines cover.
        between: how far these two are from each other.
        rounding: by so much areas that are the same may differ.
        is_box: whether the stated area is that of the box.
    """

    to_edges: float
    to_centres: float
    between: float
    rounding: float
    is_box: bool


def _compared(entry: dict[str, Any]) -> _Compared | None:
    """An annotation's area beside its polygons; `None` where it tells nothing."""
    stated = entry.get("area")
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not 0 < stated < LARGEST**2:
        return None
    polygons = [one for one in _polygons(entry) if one is not None and len(one) >= 3]
    if not polygons or max(abs(value) for one in polygons for corner in one for value in corner) > LARGEST:
        return None
    enclosed = sum(area(one) for one in polygons)
    rings = [np.array(one) for one in polygons]
    # By Pick's theorem there are so many pixels whose centres lie in a polygon or on its outline.
    sides = sum(float(np.abs(one - np.roll(one, 1, axis=0)).max(axis=1).sum()) for one in rings)
    more = sides / 2 + len(polygons)
    rounding, is_box = 0.01 + 1e-4 * stated, False
    box = points_of(entry.get("bbox"))
    if box is not None and len(box) == 2:
        corners = np.concatenate(rings)
        least, most = corners.min(axis=0), corners.max(axis=0)
        # A box that counts the pixels at both ends shows that corners are centres, whatever the area is.
        if np.abs([box[0] - least, box[1] - (most - least) - 1]).max() < 1e-3:
            return None
        is_box = abs(box[1][0] * box[1][1] - stated) <= rounding
    return _Compared(abs(stated - enclosed), abs(stated - enclosed - more), more, rounding, is_box)


def _lists_images(content: dict[str, Any]) -> bool:
    """Whether a JSON object is a COCO file, also a damaged one; others, such as ours, have an entry "images" too."""
    return isinstance(content.get("images"), list) or {"images", "annotations"} <= content.keys()


def _id(entry: dict[str, Any], key: str = "id") -> str:
    """An id as text: some tools write numbers in one place and text in the other."""
    return str(entry.get(key, "(none)"))
