"""Settings of `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from adabldm.core.settings.base import Settings
from adabldm.core.settings.common import DATA, DataSettings, ExportFormat, setting

__all__ = ["ExportFormat", "ExportSettings", "Segmentation"]

Segmentation = Literal["auto", "polygons", "rle"]


class ExportSettings(DataSettings, Settings):
    """What `export` writes, and how."""

    folder: Path = setting("Folder of generated images.", DATA, positional=True)
    to: ExportFormat = setting("Format of the new data set.", DATA)
    out: Path = setting("Folder of the new data set.", DATA)
    real: Path | None = setting(
        "Data set whose training images are merged in; its test images stay out.", DATA, None, alias="with"
    )
    validation: float = setting(
        "Share of the images for validation; all images of one source are in one split.", DATA, 0.0, ge=0, lt=1
    )
    copy_files: bool = setting("Copy images instead of making hard links.", DATA, False, alias="copy")
    segmentation: Segmentation = setting(
        "Masks in COCO files: polygons, run lengths (rle), or auto: run lengths for masks with holes.", DATA, "auto"
    )
