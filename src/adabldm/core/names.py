"""Names that become folders and words of a prompt."""

from __future__ import annotations

from adabldm.core.errors import InputError

GOOD = "good"
LONGEST_NAME = 200
"""Bytes of a name, so that file systems can hold it with a suffix."""


def check_defect_name(name: str) -> None:
    """Refuse a defect type that cannot name a folder of its own on every file system.

    Raises:
        InputError: the name is empty, hidden, "good" in any case, holds a separator or a character that cannot be
            printed, begins or ends with a space, ends with a dot, or is too long.
    """
    problem = _problem(name)
    if problem:
        shown = name[:80]
        raise InputError(
            f"defect type {shown!r}: cannot name a folder ({problem}), expected words such as 'scratch'; rename it."
        )


def _problem(name: str) -> str | None:
    if not name.strip():
        return "it is empty"
    if name.strip().casefold() == GOOD:
        return f"it reads {GOOD!r}, which stands for images without a defect"
    if name.startswith("."):
        return "it begins with a dot"
    if name != name.strip() or name.endswith("."):
        return "it begins or ends with a space, or ends with a dot"
    if any(letter in name for letter in "/\\") or not name.isprintable():
        return "it holds a slash, or a character that cannot be printed"
    if len(name.encode()) > LONGEST_NAME:
        return f"it is longer than {LONGEST_NAME} bytes"
    return None
