"""Layouts in which data sets come: one reader each.

A new layout is one file with a `Reader` and one line in `READERS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adabldm.core.errors import InputError
from adabldm.data.formats import btad, coco, folders, ksdd2, labelme, mvtec, visa, voc, yolo
from adabldm.data.formats.reading import Listing, Reader, ReadOptions, entries

_ALL: tuple[Reader, ...] = (
    btad.BTADReader(),
    mvtec.MVTecReader(),
    visa.VisAReader(),
    ksdd2.KSDD2Reader(),
    coco.COCOReader(),
    yolo.YOLOReader(),
    voc.VOCReader(),
    labelme.LabelMeReader(),
    folders.FoldersReader(),
)
READERS: dict[str, Reader] = {reader.name: reader for reader in _ALL}
"""Readers by name, in the order in which they are asked whether a folder is theirs."""


def find_reader(root: Path, name: str | None = None, readers: Sequence[Reader] | None = None) -> Reader:
    """The reader of that name, or the first one that recognises the folder; MVTec AD's where none does.

    Raises:
        InputError: there is no reader of that name.
    """
    known = list(READERS.values()) if readers is None else list(readers)
    if name is not None:
        for reader in known:
            if reader.name == name:
                return reader
        raise InputError(f"--format {name}: unknown, expected one of {', '.join(one.name for one in known)}.")
    return next((reader for reader in known if reader.detects(root)), READERS[mvtec.NAME])


def note_on_layout(root: Path, name: str, *, asked: bool) -> str | None:
    """A remark where a folder does not look like the layout that it is read as; else `None`.

    Args:
        root: the folder.
        name: of the layout.
        asked: whether the user asked for it.
    """
    if READERS[name].detects(root):
        return None
    if not asked:
        return (
            f"{root}: none of the layouts {', '.join(READERS)} was recognised, and it was read as {name}; name its "
            "folders by --good-folder, --bad-folder and --mask-folder, or its layout by --format."
        )
    other = next((reader.name for reader in _ALL if reader.detects(root)), None)
    return None if other is None else f"{root}: looks like {other}, and is read as {name} because --format says so."


def data_sets_inside(root: Path) -> list[str]:
    """Names of the folders that are data sets themselves, where a folder is not: MVTec AD and VisA hold one for each
    object."""
    if any(reader.detects(root) for reader in _ALL):
        return []
    inner = [path for path in entries(root, Listing()) if path.is_dir()]
    return [path.name for path in inner if any(reader.detects(path) for reader in _ALL)]


__all__ = ["READERS", "Listing", "ReadOptions", "Reader", "data_sets_inside", "find_reader", "note_on_layout"]
