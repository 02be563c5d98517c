"""Pascal VOC: Annotations/NAME.xml, JPEGImages/NAME.jpg, and masks in SegmentationObject or SegmentationClass.

Polygons in the XML files are read too. Masks of classes need no XML files where the classes have a list: `labels.txt`
or `class_names.txt` (a name a line), or `labelmap.txt` (name:red,green,blue). Images that a list in `ImageSets` puts
into `val` or `test`, and none into `train`, are test images; others go by their folders.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from adabldm.core.samples import Defect
from adabldm.data.formats.annotations import (
    Collector,
    files_below,
    folder_split,
    image_size,
    points_of,
    require_good,
)
from adabldm.data.formats.numbered import ClassMask, Colour, IndexMask, classes_in, numbers_in
from adabldm.data.formats.reading import Listing, ReadOptions, some
from adabldm.data.formats.shapes import Box

NAME = "voc"
OBJECTS, CLASSES = "SegmentationObject", "SegmentationClass"
NAME_LISTS, COLOUR_LIST = ("labels.txt", "class_names.txt"), "labelmap.txt"
BACKGROUND = frozenset({"background", "_background_"})
SETS, HELD_OUT = "ImageSets", ("val", "test")


class VOCReader:
    """Reads XML files of Pascal VOC and masks of classes; images without either are defect-free."""

    name = NAME

    def detects(self, root: Path) -> bool:
        """Whether there is an XML file of annotations, or a folder of class masks."""
        texts = (path.read_text("utf-8", "replace")[:500] for path in files_below(root, ".xml")[:20])
        return any("<annotation" in text for text in texts) or next(root.rglob(CLASSES), None) is not None

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        """List the images with their defects; see `Reader`."""
        listing = Listing()
        work = _Work(root, Collector(listing, options))
        work.find_files()
        for path in files_below(root, ".xml"):
            work.read(path)
        for stem, image in work.images.items():
            if stem not in work.described:
                defects = work.classes(image) if stem in work.class_masks else []
                work.collector.add(image, defects, work.split(image))
        spare = sorted((work.object_masks.keys() | work.class_masks.keys()) - work.images.keys())
        work.collector.lonely(root, "masks", spare)
        work.finish()
        work.collector.finish()
        require_good(root, listing, options, "without an XML file or with no object in it")
        return listing


@dataclass
class _Work:
    """The files of a data set by stem."""

    root: Path
    collector: Collector
    images: dict[str, Path] = field(default_factory=dict)
    object_masks: dict[str, Path] = field(default_factory=dict)
    class_masks: dict[str, Path] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    colours: dict[str, Colour] = field(default_factory=dict)
    described: dict[str, Path] = field(default_factory=dict)
    nameless: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    splits: dict[str, str] = field(default_factory=dict)

    def find_files(self) -> None:
        """Sort the image files into pictures and masks, and read the lists of classes and of splits."""
        for path in files_below(self.root):
            parts = path.relative_to(self.root).parts
            kind = self.object_masks if OBJECTS in parts else self.class_masks if CLASSES in parts else self.images
            other = kind.setdefault(path.stem, path)
            if other != path:
                self._problem(f"{path}: has the same name as {other}; rename or remove one.")
        for name in NAME_LISTS:
            lines = [line for line in self._lines(name) if line != "__ignore__"]
            if lines and not self.numbers:
                first = 0 if lines[0].lower() in BACKGROUND else 1
                self.numbers = {line: number for number, line in enumerate(lines, first) if number}
        for number, line in enumerate(self._lines(COLOUR_LIST), 1):
            name, _, rest = line.partition(":")
            levels = rest.partition(":")[0].split(",")
            if line.startswith("#") or name.lower() in BACKGROUND:
                continue
            if len(levels) == 3 and all(level.strip().isdecimal() for level in levels):
                self.colours[name] = (int(levels[0]), int(levels[1]), int(levels[2]))
            else:
                self._problem(f"{self.root / COLOUR_LIST}: line {number}: expected name:red,green,blue; correct it.")

        for split in (*HELD_OUT, "train"):  # what is in train too is no test image
            for path in sorted(self.root.glob(f"{SETS}/*/{split}.txt")):
                stems = [line.split()[0] for line in self._lines(str(path.relative_to(self.root)))]
                self.splits.update(dict.fromkeys(stems, "train" if split == "train" else "test"))

    def split(self, image: Path) -> str:
        """The split of an image."""
        return self.splits.get(image.stem) or folder_split(image, self.root)

    def read(self, path: Path) -> None:
        """Take in one XML file."""
        try:
            tree = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, OSError, ValueError) as error:
            line = f" in line {error.position[0]}" if isinstance(error, ElementTree.ParseError) else ""
            self._problem(f"{path}: broken XML{line}; repair or remove it.")
            self.described[path.stem] = path
            return
        if tree.tag == "annotations" and tree.find("image") is not None:
            self._problem(f"{path}: written by CVAT for all images at once, which is not read; export from CVAT as "
                          "COCO 1.0 or Pascal VOC instead.")  # fmt: skip
            return
        name = Path((tree.findtext("filename") or path.name).replace("\\", "/")).stem
        image = self.images.get(path.stem) or self.images.get(name)
        if image is None:
            self.collector.without_image.append(path)
        elif image.stem in self.described:
            other = self.described[image.stem]
            self._problem(f"{path}: describes {image.name}, as {other} does; remove one of the two.")
        else:
            self.described[image.stem] = path
            if self._fits(path, tree, image):
                self.collector.add(image, self._objects(path, tree, image), self.split(image))

    def classes(self, image: Path) -> list[Defect | None]:
        """A defect for each class in an image that has no XML file."""
        path = self.class_masks[image.stem]
        return [Defect(name, mask) for name, mask in classes_in(path, self.numbers, self.colours)]

    def finish(self) -> None:
        """Say what was left out or taken in another way than it stands in the files."""
        notes = self.collector.listing.notes
        if self.nameless:
            notes.append(f'{len(self.nameless)} objects without a name count as "defect" ({some(self.nameless)}).')
        if self.unlisted:
            notes.append(
                f"{len(self.unlisted)} masks in {OBJECTS} show objects that their XML files do not list; these were "
                f"left out ({some(self.unlisted)})."
            )

    def _fits(self, path: Path, tree: ElementTree.Element, image: Path) -> bool:
        """Whether a file is an annotation of this image whose objects can all be read; what is wrong is reported."""
        inside = sum(len(item.findall(".//bndbox") + item.findall(".//polygon")) for item in tree.findall("object"))
        height, width = image_size(image) or (0, 0)
        stated = [(tree.findtext(f"size/{side}") or "").strip() for side in ("width", "height")]
        numbers = [int(side) for side in stated if side.isdecimal() and len(side) < 10 and int(side)]
        if tree.tag != "annotation":
            self._problem(f"{path}: begins with <{tree.tag}>, expected <annotation>; export it anew or remove it.")
        elif len(tree.findall(".//bndbox") + tree.findall(".//polygon")) > inside:
            self._problem(f"{path}: a box or polygon outside of any <object>; export it anew or repair it.")
        elif len(numbers) == 2 and height and sorted(numbers) != sorted((width, height)):
            self._problem(
                f"{path}: drawn on an image of {numbers[0]}x{numbers[1]} px, {image} has {width}x{height} px; export "
                "it for this image."
            )
        else:
            return True
        return False

    def _objects(self, path: Path, tree: ElementTree.Element, image: Path) -> list[Defect | None]:
        whole, parts = self.object_masks.get(image.stem), self.class_masks.get(image.stem)
        size = image_size(image) or (1, 1)
        objects = tree.findall("object")
        if not objects and parts is not None:
            return self.classes(image)
        if whole is not None and len(numbers_in(whole)) > len(objects):
            self.unlisted.append(image.name)
        defects: list[Defect | None] = []
        for number, item in enumerate(objects, 1):
            label, kind = f"object {number}", (item.findtext("name") or "").strip() or "defect"
            if not (item.findtext("name") or "").strip():
                self.nameless.append(f"{path.name} {label}")
            polygon, box = item.find("polygon"), _box(item)
            if whole is not None:
                defects.append(Defect(kind, IndexMask(whole, number)))
            elif parts is not None and polygon is None and box is None and item.find("bndbox") is not None:
                self._problem(f"{path}: {label}: a box without four numbers; correct or remove it.")
                defects.append(None)
            elif parts is not None and polygon is None:
                defects.append(self._of_class(path, label, kind, parts, box))
            elif polygon is not None:
                corners = points_of([child.text for child in polygon])
                defects.append(self.collector.polygons(path, label, kind, [corners], size))
            else:
                defects.append(self.collector.box(path, label, kind, image, box or (0.0, 0.0, 0.0, 0.0)))
        return defects

    def _of_class(self, path: Path, label: str, kind: str, mask: Path, box: Box | None) -> Defect | None:
        known: Iterable[str] = self.colours or self.numbers
        if known and kind not in known:
            self._problem(f"{path}: {label}: {kind} is not in the list of classes ({', '.join(known)}); correct one.")
            return None
        return Defect(kind, ClassMask(mask, label, self.numbers.get(kind), self.colours.get(kind), box))

    def _lines(self, name: str) -> list[str]:
        try:
            text = (self.root / name).read_text(encoding="utf-8-sig")
        except OSError:
            return []
        except UnicodeDecodeError as error:
            self._problem(f"{self.root / name}: cannot be read as UTF-8 text ({error}); save it anew or remove it.")
            return []
        return [line.strip() for line in text.splitlines() if line.strip()]

    def _problem(self, text: str) -> None:
        self.collector.listing.problems.append(text)


def _box(item: ElementTree.Element) -> Box | None:
    """An object's box in px with exclusive ends; in the file pixels count from 1, and both ends belong to it."""
    box = item.find("bndbox")
    sides = None if box is None else points_of([box.findtext(key) for key in ("xmin", "ymin", "xmax", "ymax")])
    return None if sides is None else (sides[0][0] - 1, sides[0][1] - 1, sides[1][0], sides[1][1])
