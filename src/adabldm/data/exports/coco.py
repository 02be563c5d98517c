"""COCO instance files: `annotations/instances_<split>.json` beside the images of each split."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from adabldm.data.exports.items import Contents, ExportImage, ExportInstance, ExportPlan, Split, place_image
from adabldm.data.exports.items import save_text as save
from adabldm.data.exports.outlines import edge_polygon, has_holes, run_lengths


class CocoWriter:
    """Writes COCO; scores, source and origin are in `attributes` of annotations and images."""

    reads_masks = True

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan
        self._images: dict[Split, list[str]] = {split: [] for split in plan.splits}
        self._annotations: dict[Split, list[str]] = {split: [] for split in plan.splits}
        self._number = 0

    def add(self, image: ExportImage, contents: Contents) -> None:
        """Place the image and keep its annotations."""
        place_image(image, self._plan.out / image.split / image.file_name, copy=self._plan.copy)
        images = self._images[image.split]
        number = len(images) + 1
        attributes = {"synthetic": image.synthetic, **image.scores}
        images.append(
            _text(
                {
                    "id": number,
                    "file_name": image.file_name,
                    "height": contents.size[0],
                    "width": contents.size[1],
                    "source": image.source,
                    "attributes": attributes,
                }
            )
        )
        for instance in contents.instances:
            self._number += 1
            self._annotations[image.split].append(
                _text(
                    {
                        "id": self._number,
                        "image_id": number,
                        "category_id": self._plan.types.index(instance.type) + 1,
                        "segmentation": self._segmentation(instance, contents.size),
                        "area": instance.area,
                        "bbox": list(instance.box),
                        "iscrowd": 0,
                        "attributes": attributes,
                    }
                )
            )

    def finish(self) -> None:
        """Write the annotation files."""
        categories = [{"id": i, "name": name, "supercategory": "defect"} for i, name in enumerate(self._plan.types, 1)]
        for split in self._plan.splits:
            text = (
                '{"info": ' + _text({"description": self._plan.object_name}) + ', "licenses": [],\n"categories": '
                + _text(categories) + ',\n"images": [\n' + ",\n".join(self._images[split]) + '\n],\n"annotations": [\n'
                + ",\n".join(self._annotations[split]) + "\n]}\n"
            )  # fmt: skip
            save(self._plan.out / "annotations" / f"instances_{split}.json", text)

    def _segmentation(self, instance: ExportInstance, size: tuple[int, int]) -> Any:
        left, top, width, height = instance.box
        form = self._plan.segmentation
        if form == "rle" or (form == "auto" and has_holes(instance.mask)):
            whole = np.zeros(size, np.bool_)
            whole[top : top + height, left : left + width] = instance.mask
            return {"size": list(size), "counts": run_lengths(whole)}
        return [(edge_polygon(instance.mask) + instance.box[:2]).ravel().tolist()]


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
