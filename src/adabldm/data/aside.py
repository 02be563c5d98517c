"""The files of rejected images can be set aside, so that programs that read the folder do not see them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from adabldm.core.errors import InputError
from adabldm.core.images import write_error
from adabldm.core.records import ImageRecord
from adabldm.data.generated import read_records

FOLDER = "rejected"
SUFFIX = ".rejected"
"""Behind the files' names: programs that count every PNG file of a folder leave these alone."""


def set_aside(root: Path, rejected: Collection[int]) -> tuple[int, int]:
    """Move the files of rejected images to `rejected/`, and bring back those of all others that are there.

    Args:
        root: a generated folder.
        rejected: numbers of the rejected images.

    Returns:
        Numbers of images that were moved there and brought back.

    Raises:
        InputError: the manifest cannot be used, or a file is in both places.
        OutputError: missing permission.
    """
    records = read_records(root)
    away = [record for index, record in records.items() if index in rejected and (root / record.image).is_file()]
    return sum(_move(root, record) for record in away), bring_back(root, records.keys() - set(rejected))


def bring_back(root: Path, indices: Collection[int]) -> int:
    """Put files of images that were set aside where they were; returns of how many. Raises as `set_aside`."""
    if not (root / FOLDER).is_dir():
        return 0
    records = [record for index, record in read_records(root).items() if index in indices]
    return sum(_move(root, record, back=True) for record in records if is_set_aside(root, record))


def is_set_aside(root: Path, record: ImageRecord) -> bool:
    """Whether the files of an image are set aside."""
    return _aside(root, record.image).is_file()


def _aside(root: Path, name: str) -> Path:
    return root / FOLDER / (name + SUFFIX)


def _move(root: Path, record: ImageRecord, *, back: bool = False) -> bool:
    """Move an image with its mask and labels; it goes first and comes last, so that it is never without them."""
    names = [name for name in (record.image, record.mask, record.labels) if name is not None]
    pairs = [(root / name, _aside(root, name)) for name in names]
    moves = [(aside, own) for own, aside in reversed(pairs)] if back else pairs
    moves = [(source, target) for source, target in moves if source.is_file()]
    for source, target in moves:
        if target.exists():
            raise InputError(f"{target}: is there already, expected {source} alone; remove one of them.")
    for source, target in moves:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
        except OSError as error:
            raise write_error(target, error) from error
    return True
