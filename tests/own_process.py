"""Commands in processes of their own, which can be killed. They begin with everything imported, as copies of one."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

LONGEST = 600
"""Seconds that one command gets on a busy machine."""


def started() -> ForkServerContext:
    """A context whose processes begin with everything imported, so that signals meet the work and not the imports."""
    here = str(Path(__file__).parent)
    if here not in os.environ.get("PYTHONPATH", "").split(os.pathsep):  # where the server looks for its first import
        os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imported"])
    return context


@dataclass
class Running:
    """A command in a process of its own; its standard error is in `said`."""

    process: ForkServerProcess
    said: Path

    def wait(self) -> int:
        """The exit code, as a shell gives it or minus the signal."""
        self.process.join(LONGEST)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"it hangs: {self.text()[-2000:]}")
        return self.process.exitcode

    def text(self) -> str:
        """What it has said on standard error."""
        return self.said.read_text(encoding="utf-8", errors="replace") if self.said.exists() else ""


def start(place: Path, *arguments: object, largest_file: int | None = None) -> Running:
    """`adabldm ARGUMENTS` in a process of its own, in which no file grows beyond `largest_file` bytes."""
    said = place / f"said-{time.monotonic_ns()}.txt"
    process = started().Process(target=carry_out, args=([*map(str, arguments)], str(said), largest_file))
    process.start()
    return Running(process, said)


def carry_out(arguments: Sequence[str], said: str, largest_file: int | None) -> None:
    """Run a command; its standard error goes to the file `said`."""
    from imported import main

    with Path(said).open("wb", buffering=0) as file:
        os.dup2(file.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if largest_file is not None:
        limit_files(largest_file)
    sys.exit(main(list(arguments)))


def limit_files(largest: int) -> None:
    """Let no file of this process grow beyond so many bytes, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
