"""Join the parts that `generate --shard` made: one folder, as one process would have made it."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adabldm.core.errors import InputError
from adabldm.core.events import Listener, Note, Task, Workload, ignore
from adabldm.core.records import ImageRecord
from adabldm.core.settings import MergeSettings
from adabldm.data.claim import ASIDE, SETTINGS, differences
from adabldm.data.decisions import append_decisions, decided_indices, read_decisions
from adabldm.data.exports.items import place_file
from adabldm.data.generated import REPORTS, GeneratedFolder, read_deleted, read_records

TASK = "merge"
COMMAND = "generate"


@dataclass(frozen=True)
class MergeSummary:
    """What `merge` did.

    Attributes:
        folder: of all images.
        images: number of images in it.
        missing: numbers below the largest one that no part has made and nobody rejected.
    """

    folder: Path
    images: int
    missing: tuple[int, ...]


def merge(settings: MergeSettings, listen: Listener = ignore) -> MergeSummary:
    """Put the images, records and decisions of all parts into one folder; the parts stay as they are.

    Args:
        settings: which parts, and where to.
        listen: is told notes and the progress.

    Raises:
        InputError: a part was not made by `generate`, the parts were made by different settings, or two parts hold
            different images of one number; before anything is written.
        OutputError: full disk; a rerun goes on.
    """
    common = _common_settings(settings.parts)
    records = _records(settings.parts)
    stored = {key: value for key, value in common.items() if key not in {"schema", "command", "split", ASIDE}}
    folder = GeneratedFolder(settings.out, "train" if common.get("split") == "train" else "test")
    files = [(part, path) for part in settings.parts for path in _files(part)]
    work = Workload([Task(TASK, len(files), "file")], listen)
    with folder.open(stored, COMMAND, common.get(ASIDE)):
        for note in folder.notes:
            listen(Note(note))
        work.begin(TASK)
        away = _away(settings.out)
        for part, path in files:
            if path.as_posix() not in away:
                _place(part / path, settings.out / path, copy=settings.copy_files)
            work.advance(TASK)
        if away:
            listen(Note(f"{settings.out}: files of images that were deleted or set aside here stay away."))
        folder.adopt(records.values())
        folder.finish()
        _merge_decisions(settings)
        made = folder.finished()
    known = made.keys() | read_deleted(settings.out) | read_decisions(settings.out).keys()
    missing = tuple(sorted(set(range(max(made, default=-1))) - known))
    listen(
        Note(f"run `{COMMAND}` with --out {settings.out} and without --shard to write the contact sheet and the page.")
    )
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        listen(
            Note(f"{len(missing)} images are missing ({shown}); the same command makes them, or merge their part too.")
        )
    return MergeSummary(settings.out, len(made), missing)


def _common_settings(parts: tuple[Path, ...]) -> dict[str, Any]:
    """What stands in the settings files of all parts.

    Raises:
        InputError: a part has none, or they differ.
    """
    every = [_stored(part) for part in parts]
    for part, own in zip(parts[1:], every[1:], strict=True):
        different = differences(every[0], own)
        if different:
            raise InputError(
                f"{part}: made with another {different[0].split()[0]} than {parts[0]}; merge parts of one production "
                "only."
            )
    return every[0]


def _stored(part: Path) -> dict[str, Any]:
    try:
        values = json.loads((part / SETTINGS).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{part}: no usable {SETTINGS}; give a folder that `generate --shard` made.") from error
    if not isinstance(values, dict) or values.get("command") != COMMAND:
        raise InputError(f"{part}: not made by generate; give a folder that `generate --shard` made.")
    return values


def _records(parts: tuple[Path, ...]) -> dict[int, ImageRecord]:
    """All records by number, also of images that were deleted: these stay away.

    Raises:
        InputError: two parts hold different images of one number.
    """
    found: dict[int, ImageRecord] = {}
    places: dict[int, Path] = {}
    for part in parts:
        for index, record in read_records(part).items():
            if index in found and found[index] != record:
                raise InputError(
                    f"{part}: image {index} differs from that of {places[index]}; merge parts of one production only."
                )
            found.setdefault(index, record)
            places.setdefault(index, part)
    return dict(sorted(found.items()))


def _files(part: Path) -> Iterator[Path]:
    """Images and masks of a part, relative to it; reports and files beside the manifest are not among them."""
    for folder in sorted(path for path in part.iterdir() if path.is_dir() and not path.is_symlink()):
        if folder.name != REPORTS and not folder.name.startswith("."):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.name.startswith("."):
                    yield path.relative_to(part)


def _away(out: Path) -> set[str]:
    """Files of images that a former merge brought and that were deleted or set aside since."""
    deleted = read_deleted(out)
    records = (record for index, record in read_records(out).items() if index in deleted)
    return {name for record in records for name in (record.image, record.mask, record.labels) if name is not None}


def _place(source: Path, target: Path, *, copy: bool) -> None:
    """Link or copy a file, unless the same one is there."""
    if not (target.is_file() and (target.samefile(source) or filecmp.cmp(source, target, shallow=False))):
        place_file(source, target, copy=copy)


def _merge_decisions(settings: MergeSettings) -> None:
    """Take the decisions of the parts on images on which nobody decided in the whole folder, now or before."""
    known = decided_indices(settings.out)
    for part in settings.parts:
        new = [one for index, one in sorted(read_decisions(part).items()) if index not in known]
        append_decisions(settings.out, new)
        known |= {one.index for one in new}
