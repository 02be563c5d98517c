"""VisA: Data/Images/Normal, Data/Images/Anomaly and Data/Masks/Anomaly, whose masks hold numbers of defect classes."""

from __future__ import annotations

from pathlib import Path

from adabldm.data.formats.folders import list_folders
from adabldm.data.formats.reading import Listing, ReadOptions

NAME = "visa"


class VisAReader:
    """Reads one object of VisA; all images count as training images."""

    name = NAME

    def detects(self, root: Path) -> bool:
        """Whether there is a folder Data/Images/Normal."""
        return (root / "Data/Images/Normal").is_dir()

    def list_samples(self, root: Path, options: ReadOptions) -> Listing:
        """List the images with their masks; see `Reader`."""
        data = root / "Data"
        return list_folders(
            data,
            options,
            good=[data / "Images/Normal"],
            bad=[data / "Images/Anomaly"],
            masks=[data / "Masks/Anomaly"],
        )
