"""One claim of an output folder for every command that writes one.

A folder belongs to the settings that it was made with: the same command goes on there, other settings are refused. Who
owns a folder is decided before anything in it is touched, and only one process at a time works in it.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from adabldm.core.errors import InputError, OutputError
from adabldm.core.events import Event, Listener
from adabldm.core.images import TEMPORARY, atomic_file
from adabldm.core.records import SCHEMA
from adabldm.core.records.files import read_json
from adabldm.data.upgrade import LATER, UNKNOWN, upgrade_settings

SETTINGS = "settings.json"
LOCK, HOLDER = ".adabldm.lock", ".adabldm.holder"
WAY_OUT = "choose another --out, or delete the folder to start anew."
ASIDE = "made_with"
"""Field of what is written beside the settings and decides nothing."""
CONTENT, FOREGROUNDS = "content", "foreground_masks"
"""Fields with digests of the data and of ready foreground masks, which earlier versions did not write."""
ROI, REGIONS = "roi", "regions"
"""Where the masks of regions lie, and a digest of them, which earlier versions did not write."""
PLACES = frozenset({"data", "foreground_folder"})
"""Fields that say where something lies; they decide nothing where its content is known."""
BASE, BASE_WEIGHTS = "base", "base_weights"
"""A base by its name, which may be a place, and a digest of its weights, which earlier versions did not write."""
FOLDERS = (
    "test", "ground_truth", "instances", "cells", "digests", "maps", "checkpoints", "previews", "train", "val",
    "validation", "images", "labels", "annotations", "Annotations", "JPEGImages", "SegmentationClass",
    "SegmentationObject", "ImageSets", "reports",
)  # fmt: skip
"""Subfolders that commands make in a folder that they claimed."""
OLD_LEFTOVER = re.compile(r"\.part-[a-z0-9_]{8}")
"""Names of temporary files of versions without a schema."""


@dataclass(frozen=True)
class Held:
    """A folder that is held.

    Attributes:
        root: the folder.
        lock: device and number of the lock's file, which shows that the folder is still the same.
    """

    root: Path
    lock: tuple[int, int]

    @property
    def vanished(self) -> bool:
        """Whether the folder was removed or replaced meanwhile."""
        return _identity(self.root / LOCK) != self.lock

    def check(self) -> None:
        """Refuse to go on in a folder that was removed or replaced, for it would be made again with a part only.

        Raises:
            OutputError: it was.
        """
        if self.vanished:
            raise OutputError(
                f"{self.root}: removed or replaced while it was written; delete what is left of it, then run the same "
                "command again."
            )

    def watched(self, listen: Listener) -> Listener:
        """A listener that checks at every event first; what it raises ends the work."""

        def tell(event: Event) -> None:
            self.check()
            listen(event)

        return tell


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def claim(
    root: Path,
    settings: Mapping[str, Any],
    command: str,
    *,
    name: str = SETTINGS,
    growing: Collection[str] = (),
    aside: Mapping[str, Any] | None = None,
) -> Iterator[Held]:
    """Hold a folder of results while it is written.

    Args:
        root: the folder; it is created.
        settings: JSON values that decide the results.
        command: name of the command that makes such folders.
        name: of the file in which the settings stand.
        growing: dotted names of numbers that may be larger than before; the file then says the larger ones.
        aside: JSON values that are written beside the settings and decide nothing.

    Raises:
        InputError: the folder holds something else, was made with other settings, or another process works in it;
            nothing in it was touched.
        OutputError: the folder cannot be written, or was removed or replaced while it was held.
    """
    wanted = json.loads(json.dumps({"schema": SCHEMA, "command": command, **settings}))
    _check_owner(root, wanted, name, growing)
    _make_folder(root)
    with _locked(root) as held:
        grown = _check_owner(root, wanted, name, growing)  # another process may have been faster
        _remove_leftovers(root)
        if grown or not (root / name).exists():
            with atomic_file(root / name) as file:
                values = wanted if aside is None else {**wanted, ASIDE: dict(aside)}
                file.write((json.dumps(values, ensure_ascii=False, indent=2) + "\n").encode())
        try:
            yield held
        except Exception:
            held.check()  # the reason of what else went wrong
            raise
        held.check()


def _check_owner(root: Path, wanted: dict[str, Any], name: str, growing: Collection[str]) -> bool:
    """Refuse a folder that is somebody else's; reads only. Tells whether numbers that may grow have grown."""
    if root.is_symlink() and not root.exists():
        raise InputError(f"{root}: a link that leads nowhere, expected a folder; choose another --out.")
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: a file, expected a folder; choose another --out.")
    if (root / name).exists():
        return _compare(root / name, wanted, growing)
    elif root.exists() and not all(map(_is_own, _entries(root))):
        raise InputError(f"{root}: not empty and not made by {wanted['command']}; choose another --out or empty it.")
    return False


def _entries(root: Path) -> list[Path]:
    try:
        return list(root.iterdir())
    except OSError as error:
        raise InputError(f"{root}: cannot be read ({error.strerror or error}); choose another --out.") from error


def _is_own(path: Path) -> bool:
    """Whether a file is what a claim itself leaves when it is killed."""
    return path.name in {LOCK, HOLDER} or (path.name.startswith(TEMPORARY) and path.is_file())


def _make_folder(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{root}: cannot be created ({error.strerror or error}); choose another --out.") from error


@contextmanager
def _locked(root: Path) -> Iterator[Held]:
    lock = filelock.FileLock(root / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise InputError(
            f"{root}: {told_holder(root / HOLDER)} works in this folder; wait until it has finished, or choose "
            "another --out."
        ) from error
    except OSError as error:
        raise OutputError(f"{root}: cannot be written ({error.strerror or error}); choose another --out.") from error
    own = _identity(root / LOCK)
    try:
        with atomic_file(root / HOLDER) as file:
            file.write(this_process().encode())
        yield Held(root, own or (0, 0))
    finally:
        for path in (root / HOLDER, root / LOCK) if _identity(root / LOCK) == own else ():
            with suppress(OSError):  # the results count, not these
                path.unlink(missing_ok=True)
        lock.release()


def this_process() -> str:
    """What is told of this process to those who find what it holds."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def told_holder(path: Path) -> str:
    """What a file says of who holds something, as `this_process` is written there."""
    try:
        return path.read_text(encoding="utf-8")[:300] or "another process"
    except (OSError, ValueError):
        return "another process"


def _remove_leftovers(root: Path) -> None:
    """Remove the temporary files of a process that was killed: here and in our subfolders; links are not followed."""
    places = [root]
    for folder in (root / name for name in FOLDERS if not (root / name).is_symlink()):
        places += [Path(place) for place, _, _ in os.walk(folder, followlinks=False)]
    for path in (path for place in places for path in _entries(place)):
        if (path.name.startswith(TEMPORARY) or OLD_LEFTOVER.fullmatch(path.name)) and path.is_file():
            with suppress(OSError):
                path.unlink()


def _compare(place: Path, wanted: dict[str, Any], growing: Collection[str]) -> bool:
    """Refuse a folder that was made with other settings; tells whether numbers that may grow have grown."""
    try:
        before = read_json(place.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: cannot be read ({error}); {WAY_OUT}") from error
    if not isinstance(before, dict) or not isinstance(before.get("schema", 0), int):
        raise InputError(f"{place}: not written by {wanted['command']}; {WAY_OUT}")
    if before.get("schema", 0) > SCHEMA:
        raise InputError(
            f"{place}: written by a later version of adabldm (schema {before['schema']}, this one knows {SCHEMA}); "
            "update adabldm, or choose another --out."
        )
    if before.get("command", wanted["command"]) != wanted["command"]:
        raise InputError(f"{place.parent}: made by {before.get('command')}, not by {wanted['command']}; {WAY_OUT}")
    changes = differences(before, wanted, growing)
    if changes:
        raise InputError(f"{place.parent}: made with other settings ({'; '.join(changes)}); {WAY_OUT}")
    first, second = _compared(before), _compared(wanted)
    return any(_has_grown(first.get(key), second.get(key)) for key in growing)


def differences(before: Mapping[str, Any], wanted: Mapping[str, Any], growing: Collection[str] = ()) -> list[str]:
    """What decides the results and differs, in words; where something lay does not, if its content is known.

    Args:
        before: settings as they stand in a file, perhaps of an earlier version.
        wanted: settings of today.
        growing: dotted names of numbers that may be larger than before.
    """
    left_out = {"schema", "command"}
    if "schema" not in before:
        before = upgrade_settings(wanted["command"], dict(before))
        left_out |= UNKNOWN - _flat(before).keys()
    left_out |= PLACES if CONTENT in before and CONTENT in wanted else {CONTENT, FOREGROUNDS}
    left_out.add(ROI if REGIONS in before and REGIONS in wanted else REGIONS)
    left_out.add(BASE if BASE_WEIGHTS in before and BASE_WEIGHTS in wanted else BASE_WEIGHTS)
    first, second = _compared(before), _compared(wanted)
    first = {**{key: value for key, value in LATER.items() if key in second}, **first}
    left_out |= {key for key in growing if _has_grown(first.get(key), second.get(key))}
    return [
        f"{key} was {_shown(first, key)}, is now {_shown(second, key)}"
        for key in dict.fromkeys([*first, *second])
        if key not in left_out and (first.get(key) != second.get(key) or (key in first) != (key in second))
    ]


def _compared(values: Mapping[str, Any]) -> dict[str, Any]:
    return _flat({key: value for key, value in values.items() if key != ASIDE})


def _has_grown(first: object, second: object) -> bool:
    return isinstance(first, int) and isinstance(second, int) and second > first


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _shown(settings: dict[str, Any], key: str) -> str:
    return json.dumps(settings[key], ensure_ascii=False) if key in settings else "not set"
