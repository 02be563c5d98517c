"""Settings of `export`."""

from __future__ import annotations

from pathlib import Path

from adabldm.core.settings.common import DATA, DataSettings, ExportFormat, ExportOptions, Segmentation, setting

__all__ = ["ExportFormat", "ExportSettings", "Segmentation"]


class ExportSettings(DataSettings, ExportOptions):
    """What `export` writes, and how."""

    folder: Path = setting("Folder of generated images.", DATA, positional=True)
    to: ExportFormat = setting("Format of the new data set.", DATA)
    out: Path = setting("Folder of the new data set.", DATA)
