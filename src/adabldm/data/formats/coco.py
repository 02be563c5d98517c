"""COCO: one or several JSON files with images, categories and annotations as polygons, run lengths or boxes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adabldm.core.samples import Defect
from adabldm.data.formats.annotations import (
    Collector,
    files_below,
    first_texts,
    points_of,
    read_json,
    require_good,
    split_of,
)
from adabldm.data.formats.reading import Listing, ReadOptions
from adabldm.data.formats.shapes import RunLengthMask, decode_counts

NAME = "coco"


class COCOReader:
    """Reads COCO files below a folder; the name or folder of a file says whether it is for training or test."""

    name = NAME

    def detects(self, root: Path) -> bool:
        """Whether a JSON file has images and annotations."""
        return any('"images"' in text and '"annotations"' in text for text in first_texts(root, ".json"))

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        """List the images with their defects; see `Reader`."""
        listing = Listing()
        by_name: dict[str, list[Path]] = defaultdict(list)
        for image in files_below(root):
            by_name[image.name].append(image)
        work = _Work(root, Collector(listing, options), by_name)
        for path in files_below(root, ".json"):
            content = read_json(path, listing)
            if content is not None and isinstance(content.get("images"), list):
                work.read(path, content)
        work.finish()
        require_good(root, listing, options, "listed without annotations")
        return listing


@dataclass
class _Image:
    path: Path
    size: tuple[int, int]
    split: str
    source: Path
    defects: list[Defect | None] = field(default_factory=list)
    types: set[str] = field(default_factory=set)


@dataclass
class _Work:
    """Puts the files of a data set together: an image may stand in several, unless both annotate it."""

    root: Path
    collector: Collector
    by_name: dict[str, list[Path]]
    images: dict[Path, _Image] = field(default_factory=dict)

    def read(self, path: Path, content: dict[str, Any]) -> None:
        """Take in one file."""
        problems = self.collector.listing.problems
        names = {one.get("id"): str(one.get("name") or one.get("id")) for one in content.get("categories") or []}
        images: dict[object, _Image] = {}
        for entry in content["images"]:
            image = self._image(path, entry)
            if entry.get("id") in images:
                problems.append(f"{path}: two images have the id {entry.get('id')}; give each its own.")
            elif image is not None:
                images[entry.get("id")] = image
        known = {entry.get("id") for entry in content["images"]}
        for number, entry in enumerate(content.get("annotations") or []):
            label = f"annotation {entry.get('id', number)}"
            found, kind = images.get(entry.get("image_id")), names.get(entry.get("category_id"))
            if entry.get("image_id") not in known:
                problems.append(
                    f"{path}: {label}: image_id {entry.get('image_id')} is the id of no image; correct or remove it."
                )
            elif kind is None:
                problems.append(
                    f"{path}: {label}: category_id {entry.get('category_id')} is the id of no category; correct it."
                )
            elif found is not None:
                found.defects.append(self._defect(path, label, kind, entry, found))
        self._merge(path, images.values())

    def finish(self) -> None:
        """List the images."""
        for image in self.images.values():
            self.collector.add(image.path, image.defects, image.split)
        listed = set(self.images)
        others = [path.name for paths in self.by_name.values() for path in paths if path not in listed]
        if others and listed:
            self.collector.listing.notes.append(
                f"{self.root}: {len(others)} images that no annotation file lists were left out ({others[0]}, …)."
            )
        self.collector.finish()

    def _image(self, path: Path, entry: dict[str, Any]) -> _Image | None:
        name = str(entry.get("file_name", "")).replace("\\", "/")
        problems = self.collector.listing.problems
        candidates = [
            folder / name for folder in (path.parent, path.parent / "images", self.root, self.root / "images")
        ]
        found = next((one for one in candidates if name and one.is_file()), None)
        if found is None:
            same = self.by_name.get(Path(name).name, [])
            same = [one for one in same if split_of(one, self.root) == split_of(path, self.root)] or same
            if len(same) > 1:
                problems.append(
                    f"{path}: the image {name} is there twice, {same[0]} and {same[1]}; write its folder in file_name."
                )
                return None
            found = same[0] if same else None
        if found is None:
            problems.append(f"{path}: there is no image {name}; add it, or remove it from the file.")
            return None
        size = (int(entry.get("height") or 0), int(entry.get("width") or 0))
        return _Image(found, size, split_of(path, self.root), path)

    def _defect(self, path: Path, label: str, kind: str, entry: dict[str, Any], image: _Image) -> Defect | None:
        shape, box = entry.get("segmentation"), entry.get("bbox")
        image.types.add(kind)
        if isinstance(shape, dict):
            return self._runs(path, label, kind, shape)
        if isinstance(shape, list) and shape:
            parts = shape if isinstance(shape[0], list) else [shape]
            return self.collector.polygons(path, label, kind, [points_of(part) for part in parts], image.size)
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
        except (KeyError, TypeError, ValueError):
            self.collector.listing.problems.append(
                f"{path}: {label}: run lengths that cannot be read, expected size and counts; export it anew."
            )
            return None
        return Defect(kind, RunLengthMask(path, label, runs, (height, width)))

    def _merge(self, path: Path, images: Any) -> None:
        for image in images:
            other = self.images.get(image.path)
            if other is None or not other.defects:
                self.images[image.path] = image
            elif image.defects and (image.types & other.types or image.split != other.split):
                self.collector.listing.problems.append(
                    f"{path}: annotates {image.path.name}, as {other.source} does; keep one of the two."
                )
            else:
                other.defects += image.defects
                other.types |= image.types
