"""Settings that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from adabldm.core.settings.base import Range, Settings
from adabldm.core.settings.problems import field_error

ForegroundMethod = Literal["auto", "grabcut", "texture", "folder"]
Placement = Literal["auto", "like-real", "anywhere", "inside", "overlap", "real"]
Masks = Literal["bank", "procedural"]
WindowMode = Literal["auto", "full"]
ShapeKind = Literal["blob", "scratch", "polygon"]
DataFormat = Literal["mvtec", "visa", "btad", "ksdd2", "folders", "labelme", "coco", "yolo-seg", "voc"]
Boxes = Literal["grabcut", "fill"]
Split = Literal["train", "test"]
Good = Literal["link", "copy", "none"]
ExportFormat = Literal["coco", "yolo-seg", "labelme", "voc", "mvtec", "anomalib", "huggingface"]
Segmentation = Literal["auto", "polygons", "rle"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

FOLD = r"^[0-9]{1,3}/[0-9]{1,3}$"
"""A fold of a cross-validation, such as 2/5."""
MOST_IMAGES = 1_000_000
"""In one folder; so many can be planned at once, and their names have six digits."""
DATA, DEFECTS, EDIT, TRAINING, MACHINE = "Data", "Defects", "Edit", "Training", "Machine"
"""Groups of settings in the help of the command line, in this order."""


def setting(
    description: str,
    group: str,
    default: Any = ...,
    *,
    positional: bool = False,
    bare: str | None = None,
    **limits: Any,
) -> Any:
    """A field of a command's settings.

    Args:
        description: a phrase that stands by itself.
        group: heading in the help.
        default: value if left out; `...` means that it must be given.
        positional: the command line takes it by place instead of as an option.
        bare: value of an option that nothing follows; if left out, something must follow.
        limits: of pydantic's `Field`, such as `ge`.
    """
    extra: dict[str, Any] = {"group": group, "positional": positional}
    if bare is not None:
        extra["bare"] = bare
    return Field(default, description=description, json_schema_extra=extra, **limits)


class DataSettings(Settings):
    """How a data set is read."""

    mask_threshold: int | None = setting(
        "Grey level above which a mask pixel is defect, for masks that are not binary.", DATA, None, ge=0, le=254
    )
    format: DataFormat | None = setting("Layout of the data set; recognised by itself if left out.", DATA, None)
    boxes: Boxes | None = setting(
        "What becomes of boxes without masks: grabcut finds the defect in them, fill takes them whole.",
        DATA,
        None,
    )
    good_folder: tuple[str, ...] = setting(
        "Folder of defect-free images, relative to the data set; found by its name if left out (repeatable).", DATA, ()
    )
    bad_folder: tuple[str, ...] = setting(
        "Folder of defect images of one type; every folder that is neither good nor masks if left out (repeatable).",
        DATA,
        (),
    )
    mask_folder: tuple[str, ...] = setting("Folder of masks; found by its name if left out (repeatable).", DATA, ())
    fold: str | None = setting(
        "Fold of a cross-validation, such as 2/5: the training images without its share are trained on, the share "
        "takes the place of the test images, and the real test images are not opened.",
        DATA,
        None,
    )

    @model_validator(mode="after")
    def _one_of_the_folds(self) -> Self:
        if self.fold is not None:
            number, folds = map(int, self.fold.split("/")) if re.fullmatch(FOLD, self.fold) else (0, 0)
            if not 1 <= number <= folds or folds < 2:
                message = f"{self.fold[:40]} was given, expected a fold and their number, such as 1/3, 2/3 or 3/3"
                raise field_error("fold", message)
        return self


class RegionSettings(Settings):
    """Where defects may be."""

    roi: tuple[str, ...] = setting(
        "Where defects may be: a mask for all images, or a folder of masks with the images' names. By type: "
        "pit=edge.png (repeatable).",
        DATA,
        (),
    )


class ForegroundSettings(Settings):
    """How the object is told from the background."""

    fitted_elsewhere: ClassVar[bool] = False
    """The method may be left out beside a folder, because a run says it."""
    foreground: ForegroundMethod | None = setting(
        "How the object is found; if left out, automatically in a fit and elsewhere as in the fit.", DATA, None
    )
    foreground_folder: Path | None = setting("Folder of ready object masks, if foreground is folder.", DATA, None)

    @model_validator(mode="after")
    def _folder_fits_the_method(self) -> Self:
        folder = self.foreground_folder
        usable = {"folder", None} if self.fitted_elsewhere else {"folder"}
        if self.foreground == "folder" and folder is None:
            message = "missing, expected the folder of the ready object masks because foreground is folder; give it"
            raise field_error("foreground_folder", message)
        if folder is not None and self.foreground not in usable:
            message = f"{str(folder)!r} was given, but foreground is not folder; change that or leave this out"
            raise field_error("foreground_folder", message)
        if folder is not None and not folder.is_dir():
            raise field_error("foreground_folder", f"{str(folder)!r} is no folder; check the path")
        return self


class ExportOptions(Settings):
    """How images are exported, by `export` and at the end of `generate`."""

    real: Path | None = setting(
        "Data set whose training images are merged into the export; its test images stay out.",
        DATA,
        None,
        alias="with",
    )
    validation: float = setting(
        "Share of the exported images for validation; all images of one source are in one split.",
        DATA,
        0.0,
        ge=0,
        lt=1,
    )
    copy_files: bool = setting("Copy exported images instead of making hard links.", DATA, False, alias="copy")
    segmentation: Segmentation = setting(
        "Masks in COCO files: polygons, run lengths (rle), or auto: run lengths for masks with holes.", DATA, "auto"
    )


class MachineSettings(Settings):
    """Where a command computes."""

    device: str = setting("Device that computes: auto, cpu, cuda or cuda:N.", MACHINE, "auto")


class RaySettings(Settings):
    """A cluster that shares the work."""

    ray: str | None = setting(
        "Ray cluster that works: local (also if nothing follows) for this machine's cores and GPUs, auto for the one "
        "that this machine belongs to, or HOST:PORT of its head.",
        MACHINE,
        None,
        bare="local",
    )
    ray_cores: int = setting(
        "Cores of each worker on Ray; where there are GPUs, each worker has one of them too.", MACHINE, 1, ge=1, le=256
    )

    @model_validator(mode="after")
    def _one_kind_of_workers(self) -> Self:
        if self.ray is not None and getattr(self, "workers", 1) > 1:
            message = "given beside --workers, but Ray starts its own workers; leave one of them out"
            raise field_error("ray", message)
        return self


class Recipe(Settings):
    """How procedural shapes of a defect type are drawn."""

    kind: ShapeKind = Field(description="Family of the shape.")
    share: Range = Field((0.12, 0.4), description="Length of the shape over the object's shorter side, above 0.")


class Limits(Settings):
    """What a result must reach to be accepted; see `adabldm.core.scores` for the scores."""

    min_visible: float = Field(4.0, description="Least mean change inside the mask, in grey levels.")
    min_contrast: float = Field(0.5, description="Least change over the deviation of the source's texture.")
    min_edit_strength: float = Field(2.0, description="Least change inside the mask over the change around it.")
    min_background_psnr: float = Field(30.0, description="Least background PSNR, in dB.")
    max_seam: float | None = Field(None, description="Largest seam; any if left out.")
    min_changed: float = Field(0.3, description="Least share of the mask that changed visibly.")
    min_on_object: float = Field(0.5, description="Least share of the mask that lies on the object.")
    min_filled: float = Field(
        0.85, description="Least share of the mask that changed visibly, of types with real ones."
    )
    max_fainter: float | None = Field(
        2.5, description="Most deviations by which it changes less than real ones do; any if left out."
    )
    max_softer: float | None = Field(
        2.25, description="Most deviations by which its border is softer than those of real ones; any if left out."
    )
    max_strange: float | None = Field(
        0.1, description="Largest share of the mask with a colour that no real one has; any if left out."
    )
