"""Kept variants: a data set on the disk with full records, which `export` and `evaluate` take."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from adabldm.core.images import write_image
from adabldm.core.names import check_defect_name
from adabldm.core.records import ImageRecord
from adabldm.data.generated import GeneratedFolder, read_records
from adabldm.studio.library import UPLOADS
from adabldm.studio.painting import Variant
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

        A source that is in no data set, as an upload, is copied into the folder, so that scores can be taken again.

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
        if variant.data not in {UPLOADS, SAMPLES}:
            return variant.name
        pixels = variant.picture.as_file(variant.picture.pixels)
        name = f"{SOURCES}/{hashlib.sha256(pixels.tobytes()).hexdigest()[:16]}.png"
        if not (root / name).is_file():
            write_image(root / name, pixels)
        return name
