"""Kept variants: a data set on the disk with full records, which `export` and `evaluate` take."""

from __future__ import annotations

import threading
from pathlib import Path

from adabldm.core.images import write_image
from adabldm.core.names import check_defect_name
from adabldm.core.records import ImageRecord
from adabldm.data.generated import GeneratedFolder, read_records
from adabldm.studio.library import UPLOADS
from adabldm.studio.painting import Variant
from adabldm.studio.pictures import digest
from adabldm.studio.workspace import SAMPLES, Workspace

KEPT = "kept"
COMMAND = "studio"
SOURCES = "sources"


class Keeper:
    """Appends variants to generated folders.

    Args:
        workspace: whose work folder holds them.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._lock = threading.Lock()

    def keep(self, variant: Variant, name: str = KEPT) -> tuple[Path, ImageRecord]:
        """Append a variant.

        A source that is in no data set, as an upload, or in one of several, is copied into the folder, so that it is
        found and scores can be taken again.

        Args:
            variant: the result.
            name: of the data set in the work folder.

        Returns:
            The folder, and the record as it was written.

        Raises:
            InputError: the name or the defect type cannot be used, or the folder was made by something else.
            OutputError: full disk; the folder holds what it held before.
        """
        root = self.workspace.new_folder(KEPT, name)
        check_defect_name(variant.record.defect)
        folder = GeneratedFolder(root)
        with self._lock, folder.open({}, COMMAND):
            index = max(read_records(root), default=-1) + 1  # a deleted image keeps its number
            source = self._source(variant, root)
            record = variant.record.model_copy(update={"index": index, "source": source})
            return root, folder.add(record, variant.result, variant.mask)

    def _source(self, variant: Variant, root: Path) -> str:
        """The source's path, relative to its data set or to the folder."""
        if not self._is_only(variant.data):
            return self._copied(variant, root)
        return variant.name

    def _is_only(self, data: str) -> bool:
        """Whether a data set is the only one of the studio, so that the name of a picture in it tells which it is."""
        if data in {UPLOADS, SAMPLES}:
            return False
        own = str(Path(data).resolve())
        return all(place.path == own for place in self.workspace.data_sets())

    def _copied(self, variant: Variant, root: Path) -> str:
        pixels = variant.picture.as_file(variant.picture.pixels)
        name = f"{SOURCES}/{digest(pixels, 16)}.png"
        if not (root / name).is_file():
            write_image(root / name, pixels)
        return name
