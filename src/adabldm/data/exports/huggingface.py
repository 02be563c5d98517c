"""Hugging Face's `imagefolder`: a folder for each split with `metadata.jsonl`, masks in `masks/`."""

from __future__ import annotations

import json
from typing import Any

from adabldm.data.exports.items import Contents, ExportImage, ExportPlan, Split, place_image, place_mask, save_text

FOLDERS: dict[Split, str] = {"train": "train", "val": "validation"}


class HuggingFaceWriter:
    """Writes an image folder; each line holds the mask's file, all objects with boxes and types, and the scores."""

    reads_masks = True

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan
        self._lines: dict[Split, list[str]] = {split: [] for split in plan.splits}
        self._scores: set[str] = set()

    def add(self, image: ExportImage, contents: Contents) -> None:
        """Place the image, write its mask (all 0 for a defect-free one) and keep its line."""
        folder, mask = self._plan.out / FOLDERS[image.split], f"masks/{image.name}_mask.png"
        place_image(image, folder / image.file_name, copy=self._plan.copy)
        place_mask(image, contents, folder / mask, copy=self._plan.copy)
        values: dict[str, Any] = {
            "file_name": image.file_name,
            "mask_file_name": mask,
            "label": image.label,
            "objects": {
                "bbox": [list(one.box) for one in contents.instances],
                "category": [one.type for one in contents.instances],
                "area": [one.area for one in contents.instances],
            },
            "source": image.source,
            "synthetic": image.synthetic,
            "scores": image.scores,
        }
        self._scores.update(image.scores)
        self._lines[image.split].append(json.dumps(values, ensure_ascii=False))

    def finish(self) -> None:
        """Write the metadata; every line has the same scores, null where one is unknown."""
        names = sorted(self._scores)
        for split, lines in self._lines.items():
            rows = [self._complete(line, names) for line in lines]
            save_text(self._plan.out / FOLDERS[split] / "metadata.jsonl", "".join(rows))

    @staticmethod
    def _complete(line: str, names: list[str]) -> str:
        values = json.loads(line)
        scores = values.pop("scores")
        values.update({name: scores.get(name) for name in names})
        return json.dumps(values, ensure_ascii=False) + "\n"
