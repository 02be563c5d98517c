"""What commands print. Where nobody reads it any more, as in `adabldm inspect parts/ | head -1`, they end quietly."""

from __future__ import annotations

import os
import sys
from typing import TextIO

READER_LEFT = 141
"""Exit code of a command whose output nobody reads any more: as a shell reports the signal SIGPIPE."""


class ReaderLeft(Exception):  # noqa: N818 (no error: the reader has seen enough)
    """Nobody reads standard output, or standard error, any more."""


def show(text: object) -> None:
    """Print a result on standard output; raises `ReaderLeft`."""
    _print(text, sys.stdout)


def tell(text: object) -> None:
    """Print a remark on standard error; raises `ReaderLeft`."""
    _print(text, sys.stderr)


def _print(text: object, stream: TextIO) -> None:
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError as error:
        raise ReaderLeft from error


def drop_unread() -> None:
    """Drop what was not read, so that Python does not complain about it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
