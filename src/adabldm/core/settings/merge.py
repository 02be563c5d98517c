"""Settings of `merge`."""

from __future__ import annotations

from pathlib import Path

from adabldm.core.settings.base import Settings
from adabldm.core.settings.common import DATA, setting


class MergeSettings(Settings):
    """What `merge` joins."""

    parts: tuple[Path, ...] = setting("Folders that `generate --shard` made.", DATA, positional=True, min_length=1)
    out: Path = setting("Folder of all images.", DATA)
    copy_files: bool = setting("Copy images instead of making hard links.", DATA, False, alias="copy")
