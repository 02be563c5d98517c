"""LabelMe: a JSON file beside each image, in a folder for each split."""

from __future__ import annotations

import json

from adabldm.data.exports.items import Contents, ExportImage, ExportPlan, place_image, save_text
from adabldm.data.exports.outlines import centre_polygon, with_area

VERSION = "5.5.0"
"""Of LabelMe's format."""


class LabelMeWriter:
    """Writes LabelMe; scores are in the `description` of shapes, each connected defect has a `group_id`."""

    reads_masks = True

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan

    def add(self, image: ExportImage, contents: Contents) -> None:
        """Place the image and write its file."""
        folder = self._plan.out / image.split
        place_image(image, folder / image.file_name, copy=self._plan.copy)
        scores = ", ".join(f"{name}={value:g}" for name, value in image.scores.items())
        shapes = [
            {
                "label": instance.type,
                "points": (with_area(centre_polygon(instance.mask)) + instance.box[:2]).tolist(),
                "group_id": number,
                "description": scores,
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for number, instance in enumerate(contents.instances)
        ]
        values = {
            "version": VERSION,
            "flags": {"synthetic": image.synthetic},
            "shapes": shapes,
            "imagePath": image.file_name,
            "imageData": None,
            "imageHeight": contents.size[0],
            "imageWidth": contents.size[1],
        }
        save_text(folder / f"{image.name}.json", json.dumps(values, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """Write the list of labels."""
        save_text(self._plan.out / "labels.txt", "".join(f"{name}\n" for name in self._plan.types))
