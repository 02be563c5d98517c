"""One attempt at a job, as a process of its own: runs the command and leaves its exit code in a file.

A server that was killed finds the file when it starts again, also if the command ended meanwhile.

    python -m adabldm.service.attempt FOLDER COMMAND...
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

EXIT, SAID = "exit", "said.txt"
"""Files of the attempt's folder: the exit code, and what the command printed on standard error."""
CALMER = 5
"""By how much the command gives way to other processes, so that edits stay quick."""


def main(folder: Path, command: list[str]) -> int:
    """Run a command; an interruption is the command's own matter, which shares the process group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(CALMER)
    with (
        (folder / SAID).open("wb") as said,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, preexec_fn=_hear_interruptions
        ) as process,
    ):
        code = process.wait()
    try:
        part = folder / f"{EXIT}.part"
        part.write_text(str(code), encoding="ascii")
        part.replace(folder / EXIT)
    except OSError:  # a full disk: the server, if it lives, sees the exit code of this process
        pass
    return code if code >= 0 else 128 - code


def _hear_interruptions() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
