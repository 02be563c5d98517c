"""YOLO segmentation: a text file of normalised polygons for each image, in `labels` where the image is in `images`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from adabldm.core.samples import Defect
from adabldm.data.formats.annotations import Collector, files_below, folder_split, image_size, points_of, require_good
from adabldm.data.formats.reading import Listing, ReadOptions

NAME = "yolo-seg"


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
        names = _names(root, collector)
        used: set[Path] = set()
        images = files_below(root)
        for image in images:
            label_file = _labels_of(image, root)
            used.add(label_file)
            defects = _defects(collector, label_file, image, names) if label_file.is_file() else []
            collector.add(image, defects, folder_split(image, root))
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


def _names(root: Path, collector: Collector) -> dict[int, str]:
    """Class names by number, of the first YAML file that has any."""
    for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        try:
            content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            mark = getattr(error, "problem_mark", None)
            line = f" in line {mark.line + 1}" if mark else ""
            collector.listing.problems.append(f"{path}: cannot be read{line}, expected YAML; repair it.")
            continue
        names = content.get("names") if isinstance(content, dict) else None
        named = dict(enumerate(names)) if isinstance(names, list) else names if isinstance(names, dict) else {}
        if not all(str(number).isdecimal() for number in named):
            collector.listing.problems.append(f"{path}: names, expected a name for each number from 0; correct it.")
        elif named:
            collector.categories.update(dict.fromkeys(map(str, named.values()), path))
            return {int(number): str(name) for number, name in named.items()}
    return {}


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
