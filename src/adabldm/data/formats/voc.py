"""Pascal VOC: Annotations/NAME.xml, JPEGImages/NAME.jpg and masks in SegmentationObject, or polygons in the XML."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
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
from adabldm.data.formats.reading import Listing, ReadOptions
from adabldm.data.formats.shapes import IndexMask

NAME = "voc"
MASK_FOLDERS = ("SegmentationObject", "SegmentationClass")


class VOCReader:
    """Reads XML files of Pascal VOC; images without one, or without objects in it, are defect-free."""

    name = NAME

    def detects(self, root: Path) -> bool:
        """Whether there is an XML file of annotations."""
        return any("<annotation" in path.read_text("utf-8", "replace")[:500] for path in files_below(root, ".xml")[:20])

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        """List the images with their defects; see `Reader`."""
        listing = Listing()
        collector = Collector(listing, options)
        images: dict[str, Path] = {}
        for path in files_below(root):
            if set(MASK_FOLDERS).isdisjoint(path.relative_to(root).parts):
                other = images.setdefault(path.stem, path)
                if other != path:
                    listing.problems.append(f"{path}: has the same name as {other}; rename or remove one.")
        described = set()
        for path in files_below(root, ".xml"):
            try:
                tree = ElementTree.parse(path).getroot()
            except ElementTree.ParseError as error:
                listing.problems.append(f"{path}: broken XML in line {error.position[0]}; repair or remove it.")
                described.add(path.stem)
                continue
            name = Path(tree.findtext("filename") or path.name).stem
            image = images.get(path.stem) or images.get(name)
            if image is None:
                listing.problems.append(f"{path}: there is no image {name}; add the image or remove the file.")
                continue
            described.add(image.stem)
            collector.add(image, _defects(collector, root, path, tree, image), folder_split(image, root))
        for stem, image in images.items():
            if stem not in described:
                collector.add(image, (), folder_split(image, root))
        collector.finish()
        require_good(root, listing, options, "without an XML file or with no object in it")
        return listing


def _defects(
    collector: Collector, root: Path, path: Path, tree: ElementTree.Element, image: Path
) -> list[Defect | None]:
    masks = list(root.rglob(f"SegmentationObject/{image.stem}.png"))
    size = image_size(image) or (1, 1)
    defects: list[Defect | None] = []
    for number, item in enumerate(tree.findall("object"), 1):
        label, kind = f"object {number}", item.findtext("name") or "defect"
        polygon, box = item.find("polygon"), item.find("bndbox")
        if masks:
            defects.append(Defect(kind, IndexMask(masks[0], number)))
        elif polygon is not None:
            corners = points_of([child.text for child in polygon])
            defects.append(collector.polygons(path, label, kind, [corners], size))
        else:
            sides = points_of([] if box is None else [box.findtext(key) for key in ("xmin", "ymin", "xmax", "ymax")])
            flat = (0.0, 0.0, 0.0, 0.0) if sides is None else (*sides[0], *sides[1])
            defects.append(collector.box(path, label, kind, image, flat))
    return defects
