"""What the campaigns share: their size, and processes that are killed at random moments.

`ADABLDM_CAMPAIGN=full` asks for the long form; `ADABLDM_CAMPAIGN_FILES` changes the number of image files alone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

FULL = os.environ.get("ADABLDM_CAMPAIGN") == "full"
SEED = int(os.environ.get("ADABLDM_CAMPAIGN_SEED", "0"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LONGEST = 600
"""Seconds that one command gets on a busy machine."""


def size(short: int, full: int) -> int:
    """How often something is tried."""
    return full if FULL else short


def started() -> ForkServerContext:
    """A context whose processes begin with everything imported, so that signals meet the work and not the imports."""
    here = str(Path(__file__).parent)
    if here not in os.environ.get("PYTHONPATH", "").split(os.pathsep):  # where the server looks for its first import
        os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["campaign_process"])
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
    from campaign_process import carry_out

    said = place / f"said-{time.monotonic_ns()}.txt"
    process = started().Process(target=carry_out, args=([*map(str, arguments)], str(said), largest_file))
    process.start()
    return Running(process, said)


def check_said(text: str) -> None:
    """Nothing that a user or a stranger can cause ends in a traceback."""
    assert "Traceback" not in text, text
    assert "Exception ignored" not in text, text


@dataclass
class Kills:
    """Kills one command again and again, and lets it go on, until it has been killed often enough.

    Attributes:
        place: folder for what the processes say.
        command: arguments of the command.
        rng: draws moments and signals.
        intact: looks at the folder after every kill.
        counts: what happened.
    """

    place: Path
    command: Sequence[object]
    rng: random.Random
    intact: Callable[[], None]
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def measure(self) -> None:
        """Let the command run once undisturbed, with a server of processes that is ready."""
        start(self.place, "--version").wait()
        began = time.monotonic()
        self._finish(start(self.place, *self.command))
        self.seconds = time.monotonic() - began

    def until_finished(self, wanted: int) -> None:
        """Kill it at random moments until it finishes by itself, or was killed often enough; then let it finish."""
        while self.counts["kills"] < wanted:
            running = start(self.place, *self.command)
            running.process.join(self.rng.uniform(0, self.seconds))
            if running.process.exitcode is not None:
                self._finish(running)
                return
            number = self.rng.choice(SIGNALS)
            os.kill(running.process.pid or 0, number)
            code = running.wait()
            check_said(running.text())
            assert code in {-number, 130, 0}, (code, running.text())
            self.counts["kills"] += 1
            self.counts[f"{signal.Signals(number).name}"] += 1
            self.intact()
        self._finish(start(self.place, *self.command))

    def _finish(self, running: Running) -> None:
        code = running.wait()
        check_said(running.text())
        assert code == 0, running.text()
        self.counts["finished"] += 1


def limit_files(largest: int) -> None:
    """Let no file of this process grow beyond so many bytes, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def row(what: str, counts: Counter[str] | dict[str, int | float]) -> str:
    """A row of the table of counts, for `record_property("campaign", …)`."""
    return json.dumps([what, dict(counts)])
