"""YOLO segmentation: `images/<split>`, `labels/<split>` with a polygon a line, and `data.yaml`."""

from __future__ import annotations

import numpy as np
import yaml

from adabldm.data.exports.items import Contents, ExportImage, ExportPlan, place_image, save_text
from adabldm.data.exports.outlines import centre_polygon, with_area


class YoloWriter:
    """Writes YOLO segmentation; the format has no place for scores."""

    reads_masks = True

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan

    def add(self, image: ExportImage, contents: Contents) -> None:
        """Place the image and write its labels; a defect-free image gets an empty file."""
        place_image(image, self._plan.out / "images" / image.split / image.file_name, copy=self._plan.copy)
        height, width = contents.size
        lines = []
        for instance in contents.instances:
            corners = with_area(centre_polygon(instance.mask)) + instance.box[:2]
            relative = (corners + 0.25) / np.array([width, height])  # the pixel for readers that round, also down
            numbers = " ".join(f"{value:.7g}" for value in relative.ravel().tolist())
            lines.append(f"{self._plan.types.index(instance.type)} {numbers}\n")
        save_text(self._plan.out / "labels" / image.split / f"{image.name}.txt", "".join(lines))

    def finish(self) -> None:
        """Write `data.yaml`; without validation images, training images stand in, for the format asks for some."""
        validation = "val" if "val" in self._plan.splits else "train"
        values = {
            "train": "images/train",
            "val": f"images/{validation}",
            "names": dict(enumerate(self._plan.types)),
        }
        save_text(self._plan.out / "data.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
