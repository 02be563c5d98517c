"""What a command shows while it works: one bar for the whole of it, and remarks, both on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

from adabldm.core.events import Event, Note, Progress

PAUSE = 30.0
"""Seconds between lines where standard error is no terminal, such as a log of a batch system."""
SHORT = 2.0
"""Seconds from which it is shown that a command is still reading before its work; what is wrong is said sooner."""
LAYOUT = "{desc} |{bar:20}| {percentage:3.0f}%{postfix}"


class ProgressBar:
    """A listener that draws one bar for the whole command and prints remarks.

    Where the stream is no terminal, the state is printed as a line at the beginning of a task, at its end, and every
    `PAUSE` seconds in between.

    Args:
        quiet: draw no bar; remarks are printed all the same.
        stream: where to; standard error if left out.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._bar: tqdm | None = None
        self._task, self._printed = "", 0.0
        self._began: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, event: Event) -> None:
        """Show an event, if it is one to be shown."""
        if isinstance(event, Note):
            self._print(f"note: {event.text}")
        elif isinstance(event, Progress) and not self._quiet and not self._too_early(event):
            if self._stream.isatty():
                self._draw(event)
            else:
                self._tell(event)

    def _too_early(self, event: Progress) -> bool:
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        return event.before and now - self._began < SHORT

    def _draw(self, event: Progress) -> None:
        words = {"desc": title(event), "postfix": details(event)}
        if self._bar is None:
            look = {"bar_format": LAYOUT, "dynamic_ncols": True}
            self._bar = tqdm(total=1.0, initial=event.fraction, file=self._stream, **look, **words)
        self._bar.n, self._bar.desc, self._bar.postfix = event.fraction, words["desc"], words["postfix"]
        now = time.monotonic()
        if event.task != self._task or event.done >= event.total or now - self._printed >= self._bar.mininterval:
            self._task, self._printed = event.task, now
            self._bar.refresh()
        if event.fraction >= 1:  # what is printed next begins a line of its own
            self._bar.close()
            self._bar = None

    def _tell(self, event: Progress) -> None:
        now = time.monotonic()
        if event.task != self._task or event.done >= event.total or now - self._printed >= PAUSE:
            self._task, self._printed = event.task, now
            more = details(event)
            self._print(f"{title(event)}, {event.fraction:.0%} in all{', ' + more if more else ''}")

    def _print(self, line: str) -> None:
        if self._bar is None:
            print(line, file=self._stream, flush=True)
        else:
            self._bar.write(line, file=self._stream)


def title(event: Progress) -> str:
    """The task and its units: "control 120/900 step"."""
    return f"{event.task} {event.done}/{event.total} {event.unit}"


def details(event: Progress) -> str:
    """Figures, then the time left of the whole command: "loss 0.0312, 3:20 left"."""
    figures = [f"{name} {value:.4g}" for name, value in event.figures.items()]
    return ", ".join([*figures, *([] if event.seconds_left is None else [f"{duration(event.seconds_left)} left"])])


def duration(seconds: float) -> str:
    """Seconds as "0:07", "3:20" or "1:03:20"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
