"""What the campaigns share: their size, and processes that are killed at random moments.

`ADABLDM_CAMPAIGN=full` asks for the long form; `ADABLDM_CAMPAIGN_FILES` changes the number of image files alone.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from own_process import Running, start

FULL = os.environ.get("ADABLDM_CAMPAIGN") == "full"
SEED = int(os.environ.get("ADABLDM_CAMPAIGN_SEED", "0"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def size(short: int, full: int) -> int:
    """How often something is tried."""
    return full if FULL else short


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


def row(what: str, counts: Counter[str] | dict[str, int | float]) -> str:
    """A row of the table of counts, for `record_property("campaign", …)`."""
    return json.dumps([what, dict(counts)])
