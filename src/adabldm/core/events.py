"""What happens while a command works: events that a progress bar, a page or a log file can listen to."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from adabldm.core.records.image import ImageRecord


@dataclass(frozen=True)
class Note:
    """A remark for the user, one sentence."""

    text: str


@dataclass(frozen=True)
class Progress:
    """How far the whole command is.

    Attributes:
        task: what is worked on, such as "control" or "generate".
        done: units of this task that are finished.
        total: units of this task.
        unit: name of a unit, such as "step" or "img".
        fraction: share of the whole command's work that is done, in [0, 1].
        seconds_left: estimate for the whole command; `None` while it cannot be told.
        figures: what is to be shown beside it, such as {"loss": 0.12}.
        before: this comes before the command's work, whose size is not known yet; `fraction` is 0.
    """

    task: str
    done: int
    total: int
    unit: str
    fraction: float
    seconds_left: float | None
    figures: dict[str, float] = field(default_factory=dict)
    before: bool = False


@dataclass(frozen=True)
class ImageFinished:
    """An image was written.

    Attributes:
        folder: the generated folder.
        record: of the image.
    """

    folder: Path
    record: ImageRecord


@dataclass(frozen=True)
class PreviewWritten:
    """A preview picture of a training stage was written."""

    path: Path
    task: str
    step: int


Event = Note | Progress | ImageFinished | PreviewWritten
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener that does nothing."""
    del event


def to_all(listeners: Sequence[Listener]) -> Listener:
    """One listener that hands every event on to several."""

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell


def guarded(listen: Listener) -> Listener:
    """A listener whose errors are logged instead of raised, so that a broken page or bar does not end the work."""
    failed: set[str] = set()

    def tell(event: Event) -> None:
        try:
            listen(event)
        except Exception as error:
            if str(error) not in failed:  # once for each error, not once for each image
                logging.getLogger(__name__).exception("a listener failed on %s", type(event).__name__)
            failed.add(str(error))

    return tell


def beforehand(listen: Listener) -> Listener:
    """A listener for what comes before a command's tasks are known: its progress is told as nothing of the whole."""

    def tell(event: Event) -> None:
        if isinstance(event, Progress):
            event = dataclasses.replace(event, fraction=0.0, seconds_left=None, before=True)
        listen(event)

    return tell


def without_repeats(listen: Listener) -> Listener:
    """A listener that is told every remark once, however many commands inside another one make it."""
    told: set[str] = set()

    def tell(event: Event) -> None:
        if not isinstance(event, Note) or event.text not in told:
            listen(event)
        if isinstance(event, Note):
            told.add(event.text)

    return tell


@dataclass
class Task:
    """A part of a command's work.

    Attributes:
        name: of the task.
        total: units in all.
        unit: name of a unit.
        cost: expected seconds of a unit, used until some were measured; only the ratio between tasks matters then.
        done: units that are finished, also by an earlier run.
        measured: units that were measured in this process and the seconds they took; older ones count less.
    """

    name: str
    total: int
    unit: str
    cost: float = 1.0
    done: int = 0
    measured: tuple[float, float] = (0.0, 0.0)

    @property
    def left(self) -> int:
        """Units that are not finished."""
        return max(0, self.total - self.done)


MEMORY = 50
"""Units after which a measurement counts for 1/e of a new one: a slow beginning is forgotten."""


class Workload:
    """All tasks of a command, so that its progress and the time left are those of the whole.

    Tasks are worked on one after the other. What an earlier run finished counts as done and is never measured: a
    resumed command estimates from its own units alone. A unit's cost is measured as soon as one is finished; tasks of
    which none was measured are expected to be as much slower or faster than their `cost` as the measured ones are.

    Args:
        tasks: in order.
        listen: is told the progress.
    """

    def __init__(self, tasks: Sequence[Task], listen: Listener = ignore) -> None:
        self.tasks = {task.name: task for task in tasks}
        self._listen = listen
        self._since = time.monotonic()

    def begin(self, name: str, done: int | None = None) -> None:
        """Work on a task begins, of which `done` units were finished by an earlier run; as it was made if left out."""
        task = self.tasks[name]
        task.done = task.done if done is None else done
        self._since = time.monotonic()
        self._tell(name, {})

    def advance(self, name: str, units: int = 1, **figures: float) -> None:
        """Units of a task were finished; `figures` are shown beside the progress."""
        task, now = self.tasks[name], time.monotonic()
        task.done += units
        kept = math.exp(-units / MEMORY)
        task.measured = (task.measured[0] * kept + units, task.measured[1] * kept + now - self._since)
        self._since = now
        self._tell(name, figures)

    def finish(self, name: str) -> None:
        """A task is finished, however many units it took."""
        self.tasks[name].done = self.tasks[name].total
        self._since = time.monotonic()
        self._tell(name, {})

    def seconds_left(self) -> float | None:
        """Expected seconds until all tasks are finished; `None` while nothing was measured and something is left."""
        if not any(task.left for task in self.tasks.values()):
            return 0.0
        if not any(task.measured[0] for task in self.tasks.values()):
            return None
        costs = self._unit_costs()
        return sum(costs[name] * task.left for name, task in self.tasks.items())

    def fraction(self) -> float:
        """Share of the whole work that is done, in [0, 1]."""
        costs = self._unit_costs()
        whole = sum(costs[name] * task.total for name, task in self.tasks.items())
        left = sum(costs[name] * task.left for name, task in self.tasks.items())
        return max(0.0, 1.0 - left / whole) if whole > 0 else 1.0

    def _unit_costs(self) -> dict[str, float]:
        """Seconds of a unit of every task: measured, or expected from how slow the measured ones are."""
        measured = [task for task in self.tasks.values() if task.measured[0]]
        expected = sum(task.cost * task.measured[0] for task in measured)
        seconds = sum(task.measured[1] for task in measured)
        slowness = seconds / expected if expected > 0 and seconds > 0 else 1.0
        return {
            name: task.measured[1] / task.measured[0] if task.measured[1] > 0 else task.cost * slowness
            for name, task in self.tasks.items()
        }

    def _tell(self, name: str, figures: dict[str, float]) -> None:
        task = self.tasks[name]
        self._listen(Progress(name, task.done, task.total, task.unit, self.fraction(), self.seconds_left(), figures))


def to_json(event: Event) -> dict[str, Any]:
    """An event as JSON values; "event" names its kind."""
    values: dict[str, Any] = {"event": type(event).__name__}
    for one in dataclasses.fields(event):
        value = getattr(event, one.name)
        values[one.name] = (
            value.plain() if isinstance(value, ImageRecord) else str(value) if isinstance(value, Path) else value
        )
    return values


@contextmanager
def log_file(path: Path) -> Iterator[Listener]:
    """A listener that appends every event to a file, a line of JSON each, with the time in seconds since 1970."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        yield lambda event: _write(file, event)


def _write(file: TextIO, event: Event) -> None:
    file.write(json.dumps({"time": round(time.time(), 3), **to_json(event)}, ensure_ascii=False) + "\n")
    file.flush()
