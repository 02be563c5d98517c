"""LabelMe: NAME.json beside its image, or naming it; images without a JSON file or without shapes are defect-free."""

from __future__ import annotations

import math
from pathlib import Path, PureWindowsPath
from typing import Any

from adabldm.core.images import is_image_file
from adabldm.core.samples import Defect
from adabldm.data.formats.annotations import (
    Collector,
    files_below,
    first_texts,
    folder_split,
    image_size,
    points_of,
    read_json,
    require_good,
)
from adabldm.data.formats.reading import Listing, ReadOptions
from adabldm.data.formats.shapes import Polygon

NAME = "labelme"
CIRCLE_CORNERS = 72


class LabelMeReader:
    """Reads folders with LabelMe's JSON files, at any depth; folders named test or val hold test images."""

    name = NAME

    def detects(self, root: Path) -> bool:
        """Whether there is a JSON file that names an image or has shapes."""
        return any('"shapes"' in text or '"imagePath"' in text for text in first_texts(root, ".json"))

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        """List the images with their defects; see `Reader`."""
        listing = Listing()
        collector = Collector(listing, options)
        described: dict[Path, Path] = {}
        for path in files_below(root, ".json"):
            content = read_json(path, listing)
            if content is None:
                described.update(dict.fromkeys(_same_stem(path), path))
                continue
            image = _image_of(path, content)
            if image is None:
                listing.problems.append(
                    f"{path}: there is no image {content.get('imagePath') or path.stem}, expected it beside the file; "
                    "add the image or remove the file."
                )
            elif image in described:
                listing.problems.append(f"{path}: describes {image.name}, as {described[image].name} does; remove one.")
            else:
                described[image] = path
                collector.add(image, _defects(collector, path, content, image), folder_split(image, root))
        for image in files_below(root):
            if image not in described:
                collector.add(image, (), folder_split(image, root))
        collector.finish()
        require_good(root, listing, options, "without a JSON file or with no shapes in it")
        return listing


def _same_stem(path: Path) -> list[Path]:
    return [one for one in path.parent.iterdir() if one.stem == path.stem and is_image_file(one)]


def _image_of(path: Path, content: dict[str, Any]) -> Path | None:
    named = PureWindowsPath(str(content.get("imagePath") or "")).name
    beside = path.parent / named
    if named and beside.is_file():
        return beside
    found = _same_stem(path)
    if found:
        return found[0]
    relative = path.parent / PureWindowsPath(str(content.get("imagePath") or "")).as_posix()
    return relative if named and relative.is_file() else None


def _defects(collector: Collector, path: Path, content: dict[str, Any], image: Path) -> list[Defect | None]:
    """The shapes of a file; shapes of one label and group number are one defect."""
    size = image_size(image) or (int(content.get("imageHeight") or 1), int(content.get("imageWidth") or 1))
    stated = (content.get("imageHeight") or size[0], content.get("imageWidth") or size[1])
    if stated != size:
        collector.listing.problems.append(
            f"{path}: says {stated[0]} x {stated[1]} px (height x width), but {image.name} has {size[0]} x {size[1]}; "
            "annotate the image of this size."
        )
    groups: dict[tuple[str, object], list[tuple[str, Polygon | None]]] = {}
    defects: list[Defect | None] = []
    shapes = content.get("shapes")
    for number, shape in enumerate(shapes if isinstance(shapes, list) else []):
        label, kind = f"shape {number}", str(shape.get("label") or "defect")
        points, form = points_of(shape.get("points") or []), shape.get("shape_type") or "polygon"
        if form == "rectangle" and points is not None and len(points) >= 2:
            (x0, x1), (y0, y1) = (sorted(values) for values in zip(points[0], points[1], strict=True))
            defects.append(collector.box(path, label, kind, image, (x0, y0, x1 + 1, y1 + 1)))
        elif form in {"polygon", "circle"}:
            group = shape.get("group_id")
            key = (kind, number if group is None else f"group {group}")
            polygon = _circle(points) if form == "circle" else points
            groups.setdefault(key, []).append((label, polygon))
        else:
            collector.listing.problems.append(
                f"{path}: {label}: of the form {form}, expected polygon, rectangle or circle; outline the defect."
            )
            defects.append(None)
    for (kind, _), members in groups.items():
        defects.append(collector.polygons(path, members[0][0], kind, [one for _, one in members], size))
    return defects


def _circle(points: Polygon | None) -> Polygon | None:
    """A circle from its centre and a point on it."""
    if points is None or len(points) != 2:
        return None
    (x, y), edge = points
    radius = math.dist((x, y), edge)
    angles = [2 * math.pi * step / CIRCLE_CORNERS for step in range(CIRCLE_CORNERS)]
    return tuple((x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles)
