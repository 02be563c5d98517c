"""The layout of MVTec AD, with training defects in `train/<defect>`, and the stricter form that anomalib reads."""

from __future__ import annotations

from pathlib import Path

from adabldm.core.samples import GOOD
from adabldm.data.exports.items import Contents, ExportImage, ExportPlan, place_image, place_mask, write_upright


class MvtecWriter:
    """Writes `train/…`, `test/…` (the validation split) and `ground_truth/…`; the layout has no place for scores."""

    reads_masks = False
    png_only = False
    """Whether images of other formats are written as PNG files instead of being linked."""
    behind = "_mask"
    """What a mask's name has behind that of its image."""

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan
        self._root = plan.out

    def add(self, image: ExportImage, contents: Contents) -> None:
        """Place the image in the folder of its defects' type and write the mask of all its defects."""
        place = self._place(image) / self._folder(image) / image.label
        if self.png_only and image.path.suffix.lower() != ".png":
            write_upright(image.path, place / f"{image.name}.png")
        else:
            place_image(image, place / image.file_name, copy=self._plan.copy)
        if image.defects:
            target = self._place(image) / "ground_truth" / image.label / f"{image.name}{self.behind}.png"
            place_mask(image, contents, target, copy=self._plan.copy)

    def finish(self) -> None:
        """Nothing is left to write."""

    def _folder(self, image: ExportImage) -> str:
        return "test" if image.split == "val" else "train"

    def _place(self, image: ExportImage) -> Path:
        return self._root


class AnomalibWriter(MvtecWriter):
    """Writes the category folder that anomalib's `MVTecAD` and `Folder` data modules read.

    They train on `train/good` alone and expect each mask of `ground_truth` to belong to an image of `test`. Without a
    validation split all defects are in `test/<defect>`. With one, defects of training sources are in a second folder
    beside it, `<category>_extra`, in the layout of `mvtec`, so that no source is in `train` and `test`. They cannot be
    in the category, because `MVTecAD` counts every PNG file in it, and no file of another format.

    Both sort the paths of images and of masks and pair them by their rank. Masks have their images' names, because
    `10_mask.png` would stand before `1_mask.png`, but `1.png` before `10.png`.
    """

    png_only = True
    behind = ""

    def __init__(self, plan: ExportPlan) -> None:
        super().__init__(plan)
        name = "_".join(plan.object_name.replace("/", " ").split()).lower().lstrip(".") or "object"
        self._root, self._extra = plan.out / name, plan.out / f"{name}_extra"

    def _folder(self, image: ExportImage) -> str:
        if image.label == GOOD:
            return super()._folder(image)
        return "train" if self._is_extra(image) else "test"

    def _place(self, image: ExportImage) -> Path:
        return self._extra if self._is_extra(image) else self._root

    def _is_extra(self, image: ExportImage) -> bool:
        return image.label != GOOD and "val" in self._plan.splits and image.split == "train"
