"""Settings of `studio`."""

from __future__ import annotations

from pathlib import Path

from adabldm.core.settings.common import DATA, MACHINE, setting
from adabldm.core.settings.serve import ServeSettings


class StudioSettings(ServeSettings):
    """What the studio shows at first, and where it keeps what it makes; the rest is that of `serve`."""

    data: Path | None = setting("Data set to begin with; sample pictures if left out.", DATA, None)
    folder: Path | None = setting("Folder of generated images to review.", DATA, None)
    work: Path = setting(
        "Folder for what is made in the studio: kept images, uploads, runs and jobs.", DATA, Path("adabldm-studio")
    )
    headless: bool = setting("Open no browser.", MACHINE, False)

    def places(self) -> tuple[Path, ...]:
        """The folders that the studio may touch: the work folder, those that are named, and the roots.

        Where nothing is named, the working folder may be touched too, so that data sets in it are found.
        """
        named = [place for place in (self.data, self.folder) if place is not None]
        return (self.work, *self.root, *named) if self.root or named else (self.work, Path.cwd())
