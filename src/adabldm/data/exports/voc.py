"""Pascal VOC: boxes as XML, and palette images of classes and of instances."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adabldm.core.errors import InputError
from adabldm.core.images import atomic_file
from adabldm.core.opening import open_header
from adabldm.data.exports.items import (
    MASK_COMPRESSION,
    Contents,
    ExportImage,
    ExportInstance,
    ExportPlan,
    Split,
    place_image,
    save_text,
)
from adabldm.data.formats.numbered import palette

MOST = 254
"""Classes or instances that one image can hold; 255 is the border in this format."""


class VocWriter:
    """Writes Pascal VOC 2012; scores are in an element `attributes` of each object."""

    reads_masks = True

    def __init__(self, plan: ExportPlan) -> None:
        if len(plan.types) > MOST:
            raise InputError(f"--to voc: {len(plan.types)} defect types, expected at most {MOST}; use --to coco.")
        self._plan = plan
        self._names: dict[Split, list[str]] = {split: [] for split in plan.splits}
        self._palette = palette().ravel().tolist()

    def add(self, image: ExportImage, contents: Contents) -> None:
        """Place the image and write its files."""
        if len(contents.instances) > MOST:
            raise InputError(
                f"{image.path}: {len(contents.instances)} connected defects, expected at most {MOST} in one image for "
                "--to voc; use --to coco."
            )
        out = self._plan.out
        place_image(image, out / "JPEGImages" / image.file_name, copy=self._plan.copy)
        classes, objects = np.zeros(contents.size, np.uint8), np.zeros(contents.size, np.uint8)
        root = _head(image, contents.size)
        for number, instance in enumerate(_by_size(contents.instances), 1):
            left, top, width, height = instance.box
            place = np.s_[top : top + height, left : left + width]
            classes[place][instance.mask] = self._plan.types.index(instance.type) + 1
            objects[place][instance.mask] = number
            _add_object(root, instance.type, instance.box, image.scores)
        if len(np.unique(objects[objects > 0])) < len(contents.instances):
            raise InputError(
                f"{image.path}: a defect lies wholly under others, expected each pixel to belong to one for --to voc; "
                "use --to coco."
            )
        ElementTree.indent(root)
        save_text(out / "Annotations" / f"{image.name}.xml", ElementTree.tostring(root, encoding="unicode") + "\n")
        self._save(f"SegmentationClass/{image.name}.png", classes)
        self._save(f"SegmentationObject/{image.name}.png", objects)
        self._names[image.split].append(image.name)

    def finish(self) -> None:
        """Write the lists of each split and of the classes; class k of the images is line k of `labels.txt`."""
        for split, names in self._names.items():
            for kind in ("Main", "Segmentation"):
                save_text(self._plan.out / "ImageSets" / kind / f"{split}.txt", "".join(f"{one}\n" for one in names))
        save_text(self._plan.out / "labels.txt", "".join(f"{name}\n" for name in self._plan.types))

    def _save(self, name: str, values: NDArray[np.uint8]) -> None:
        picture = Image.fromarray(values).convert("L")
        picture.putpalette(self._palette)
        with atomic_file(self._plan.out / name, durable=False) as file:
            picture.save(file, format="PNG", compress_level=MASK_COMPRESSION)


def _by_size(instances: Sequence[ExportInstance]) -> list[ExportInstance]:
    """Instances from the largest: a pixel has one number, and a small defect in a large one stays to be seen."""
    return sorted(instances, key=lambda one: -one.area)


def _head(image: ExportImage, size: tuple[int, int]) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", image.file_name)
    source = ElementTree.SubElement(root, "source")
    _add(source, "database", "AdaBLDM" if image.synthetic else "real")
    _add(source, "image", image.source)
    shape = ElementTree.SubElement(root, "size")
    with open_header(image.path) as opened:
        depth = 1 if opened.mode in {"1", "L", "I", "F"} or opened.mode.startswith("I;") else 3
    for name, value in (("width", size[1]), ("height", size[0]), ("depth", depth)):
        _add(shape, name, str(value))
    _add(root, "segmented", "1")
    return root


def _add_object(root: ElementTree.Element, name: str, box: tuple[int, int, int, int], scores: dict[str, float]) -> None:
    element = ElementTree.SubElement(root, "object")
    for tag, text in (("name", name), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
        _add(element, tag, text)
    left, top, width, height = box
    bounds = ElementTree.SubElement(element, "bndbox")  # pixels count from 1, both ends included
    for tag, value in (("xmin", left + 1), ("ymin", top + 1), ("xmax", left + width), ("ymax", top + height)):
        _add(bounds, tag, str(value))
    if scores:
        attributes = ElementTree.SubElement(element, "attributes")
        for tag, score in scores.items():
            _add(attributes, tag, f"{score:g}")


def _add(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text
