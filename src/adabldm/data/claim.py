"""A folder of results belongs to one set of settings: a rerun goes on there, other settings are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adabldm.errors import InputError
from adabldm.images import atomic_file

SETTINGS = "settings.json"
WAY_OUT = "choose another --out, or delete the folder to start anew."


def claim(root: Path, settings: dict[str, Any], command: str) -> None:
    """Start a folder of results, or check that it was made by the same settings; half-written files are removed.

    Args:
        root: the folder; it is created.
        settings: JSON values that decide the results.
        command: that makes such folders.

    Raises:
        InputError: the folder was made by other settings, or holds something else.
        OutputError: the folder cannot be written.
    """
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: a file, expected a folder; choose another --out.")
    place = root / SETTINGS
    for leftover in root.rglob(".part-*"):
        leftover.unlink()
    if place.exists():
        _compare(place, json.loads(json.dumps(settings)), command)
        return
    if root.exists() and any(root.iterdir()):
        raise InputError(f"{root}: not empty and not made by {command}; choose another --out or empty it.")
    with atomic_file(place) as file:
        file.write((json.dumps(settings, ensure_ascii=False, indent=2) + "\n").encode())


def _compare(place: Path, settings: dict[str, Any], command: str) -> None:
    try:
        before = json.loads(place.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: cannot be read ({error}); {WAY_OUT}") from error
    if not isinstance(before, dict):
        raise InputError(f"{place}: not written by {command}; {WAY_OUT}")
    changes = [
        f"{key} was {_shown(before, key)}, is now {_shown(settings, key)}"
        for key in dict.fromkeys([*before, *settings])
        if before.get(key) != settings.get(key) or (key in before) != (key in settings)
    ]
    if changes:
        raise InputError(f"{place.parent}: made with other settings ({'; '.join(changes)}); {WAY_OUT}")


def _shown(settings: dict[str, Any], key: str) -> str:
    return json.dumps(settings[key], ensure_ascii=False) if key in settings else "not set"
