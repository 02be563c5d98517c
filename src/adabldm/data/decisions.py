"""Decisions on generated images: an append-only file beside the manifest, which stays as it is."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import filelock

from adabldm.core.errors import InputError
from adabldm.core.images import write_error
from adabldm.core.records import Decision
from adabldm.core.records.files import read_json

if sys.platform != "win32":
    import fcntl

DECISIONS = "decisions.jsonl"
LOCK = ".adabldm.decisions.lock"
WAY_OUT = "repair or remove the line"
PATIENCE = 30.0
"""Seconds for which a writer waits for another one, who needs a moment."""


class HeldError(InputError):
    """Another process decides in this folder."""


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
        HeldError: another process decides in this folder.
        OutputError: missing permission.
    """
    lock = filelock.FileLock(root / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise HeldError(
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


class Appended(NamedTuple):
    """What became of decisions.

    Attributes:
        before: the decision that counted for each image.
        written: the decisions that were added.
    """

    before: dict[int, Decision]
    written: tuple[Decision, ...]


def append_decisions(root: Path, decisions: Sequence[Decision], *, yielding: bool = False) -> Appended:
    """Add decisions at the end of the file; of several writers each waits until the others have written.

    Args:
        root: a generated folder.
        decisions: what was decided.
        yielding: leave out the decisions of a rule on images that a person has decided on meanwhile.

    Raises:
        InputError: the decisions that are there cannot be read, or another process does not end writing.
        OutputError: full disk or missing permission.
    """
    if not decisions:
        return Appended({}, ())
    path = root / DECISIONS
    try:
        with path.open("ab+") as file:
            _wait_for(file, path)
            before = read_decisions(root)
            free = [one for one in decisions if not (yielding and one.rule is not None and _by_person(before, one))]
            _end_torn_line(file)
            file.write("".join(f"{one.line()}\n" for one in free).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise write_error(path, error) from error
    return Appended(before, tuple(free))


def _by_person(decisions: Mapping[int, Decision], one: Decision) -> bool:
    known = decisions.get(one.index)
    return known is not None and known.rule is None


def _wait_for(file: IO[bytes], path: Path) -> None:
    """Hold a file until it is closed; where the system knows no such locks, nobody waits.

    Raises:
        HeldError: another process holds it for too long.
    """
    if sys.platform == "win32":
        return
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise HeldError(f"{path}: another process writes decisions; wait, then try again.") from error
            time.sleep(0.01)
        except OSError:  # a file system without locks
            return


def _end_torn_line(file: IO[bytes]) -> None:
    """Remove what a kill has left of a line: its beginning was never a decision."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if size > 0 and file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
