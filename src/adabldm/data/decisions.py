"""Decisions on generated images: an append-only file beside the manifest, which stays as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from adabldm.core.errors import InputError
from adabldm.core.images import write_error
from adabldm.core.records import Decision
from adabldm.core.records.files import read_json

DECISIONS = "decisions.jsonl"
LOCK = ".adabldm.decisions.lock"
WAY_OUT = "repair or remove the line"


def read_decisions(root: Path) -> dict[int, Decision]:
    """The decision that counts for each image, which is its last one; a torn last line is left out.

    An image whose last decision was taken back has none.

    Args:
        root: a generated folder.

    Raises:
        InputError: another line is not a usable decision.
    """
    decisions: dict[int, Decision] = {}
    for decision in _lines(root):
        decisions.pop(decision.index, None)
        if decision.decision != "undecided":
            decisions[decision.index] = decision
    return decisions


def decided_indices(root: Path) -> set[int]:
    """Numbers of the images that have a line, also one that takes a decision back; raises as `read_decisions`."""
    return {decision.index for decision in _lines(root)}


def _lines(root: Path) -> Iterator[Decision]:
    """The decisions in the order of the file."""
    path = root / DECISIONS
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check its permissions.") from error
    *lines, torn = content.split(b"\n")
    for number, line in enumerate([*lines, torn], 1):
        if not line.strip():
            continue
        try:
            values = read_json(line)
        except ValueError as error:
            if number > len(lines):
                continue
            raise InputError(f"{path}, line {number}: not a line of JSON ({error}); {WAY_OUT}.") from error
        yield Decision.parse(values, f"{path}, line {number}", WAY_OUT)


def rejected_indices(root: Path) -> set[int]:
    """Numbers of the images that were rejected; raises as `read_decisions`."""
    return {index for index, decision in read_decisions(root).items() if decision.decision == "reject"}


@contextmanager
def deciding(root: Path) -> Iterator[None]:
    """Hold a folder's decisions from reading them to writing new ones; images may be made there meanwhile.

    Raises:
        InputError: another process decides in this folder.
        OutputError: missing permission.
    """
    lock = filelock.FileLock(root / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise InputError(
            f"{root}: another process decides on these images; wait until it has finished, then run the command again."
        ) from error
    except OSError as error:
        raise write_error(root / LOCK, error) from error
    try:
        yield
    finally:
        with suppress(OSError):
            (root / LOCK).unlink(missing_ok=True)
        lock.release()


def append_decisions(root: Path, decisions: Sequence[Decision]) -> None:
    """Add decisions at the end of the file, in one write, so that other writers do no harm.

    Raises:
        OutputError: full disk or missing permission.
    """
    if not decisions:
        return
    path = root / DECISIONS
    text = "".join(f"{decision.line()}\n" for decision in decisions).encode()
    try:
        with path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            torn = size > 0 and file.read(1) != b"\n"
            if torn:  # its beginning was never a decision
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise write_error(path, error) from error
