"""Events: the time left of a whole command, the log file, and what the bar shows."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adabldm.app.progress import PAUSE, ProgressBar, duration
from adabldm.core.events import Event, ImageFinished, Note, PreviewWritten, Progress, Task, Workload, guarded, log_file
from adabldm.core.records import ImageRecord

RECORD = ImageRecord(
    image="test/spot/000000.png", mask="ground_truth/spot/000000_mask.png", index=0, source="train/good/0.png",
    defect="spot", object="cloth", prompt="a spot", seed=1, preset="fast", adapt="poisson", model="none",
)  # fmt: skip


class Clock:
    """Time that only passes when a test says so."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        patch.setattr("time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def work(load: Workload, clock: Clock, name: str, seconds: Sequence[float]) -> None:
    for one in seconds:
        clock.now += one
        load.advance(name)


def test_the_time_left_is_that_of_all_tasks(clock: Clock) -> None:
    load = Workload([Task("first", 10, "step", cost=1.0), Task("second", 100, "step", cost=0.5)])
    assert load.seconds_left() is None
    load.begin("first")
    work(load, clock, "first", [2.0] * 5)
    # Steps take twice what was expected; those of the second task are expected to be as slow.
    assert load.seconds_left() == pytest.approx(5 * 2 + 100 * 1)
    assert load.fraction() == pytest.approx(10 / 120)
    work(load, clock, "first", [2.0] * 5)
    load.begin("second")
    work(load, clock, "second", [3.0])
    assert load.seconds_left() == pytest.approx(99 * 3)


def test_a_resumed_command_estimates_from_its_own_units(clock: Clock) -> None:
    load = Workload([Task("encode", 50, "window", done=50), Task("train", 1000, "step", cost=3.0)])
    load.begin("encode")
    clock.now += 500  # loading, which belongs to no unit
    load.begin("train", done=900)
    assert load.seconds_left() is None
    work(load, clock, "train", [0.5] * 20)
    assert load.seconds_left() == pytest.approx(80 * 0.5)
    assert load.tasks["train"].done == 920
    assert load.tasks["encode"].done == 50
    assert load.fraction() > 0.9


def test_a_slow_beginning_is_forgotten(clock: Clock) -> None:
    load = Workload([Task("train", 1000, "step")])
    load.begin("train")
    work(load, clock, "train", [60.0, *[0.1] * 400])
    assert load.seconds_left() == pytest.approx(599 * 0.1, rel=0.05)


def test_a_task_that_ends_early_leaves_nothing(clock: Clock) -> None:
    told: list[Event] = []
    load = Workload([Task("first", 5, "step"), Task("second", 1, "step")], told.append)
    load.begin("first")
    load.finish("first")
    load.begin("second")
    clock.now += 1
    load.advance("second", loss=0.25)
    assert told[-1] == Progress("second", 1, 1, "step", 1.0, 0.0, {"loss": 0.25})
    assert Workload([]).fraction() == 1.0


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.floats(0.01, 10)), min_size=1, max_size=4))
def test_fractions_and_times_are_sane(tasks: list[tuple[int, int, float]]) -> None:
    told: list[Event] = []
    load = Workload([Task(str(n), total, "step", cost) for n, (total, _, cost) in enumerate(tasks)], told.append)
    for number, (total, done, _) in enumerate(tasks):
        load.begin(str(number), min(done, total))
        for _ in range(done, total):
            load.advance(str(number))
    assert all(isinstance(one, Progress) and 0 <= one.fraction <= 1 for one in told)
    assert all(isinstance(one, Progress) and (one.seconds_left is None or one.seconds_left >= 0) for one in told)
    assert (load.fraction(), load.seconds_left()) == (1.0, 0.0)


# The log


def test_the_log_keeps_every_event_as_a_line_of_json(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "events.jsonl"
    told: list[Event] = [
        Note("Größe"),
        Progress("control", 1, 2, "step", 0.5, None, {"loss": 0.1}),
        ImageFinished(Path("more"), RECORD),
        PreviewWritten(Path("run/previews/1.png"), "control", 1),
    ]
    for part in (told[:2], told[2:]):  # a second command goes on with the same file
        with log_file(path) as listen:
            for event in part:
                listen(event)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["event"] for line in lines] == ["Note", "Progress", "ImageFinished", "PreviewWritten"]
    assert all(line["time"] > 1.7e9 for line in lines)
    assert lines[0]["text"] == "Größe"
    assert lines[1]["figures"] == {"loss": 0.1}
    assert lines[2]["record"] == RECORD.plain()
    assert lines[3]["path"] == "run/previews/1.png"


def test_a_guarded_listener_does_not_end_the_work(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        raise ValueError("no page")

    listen = guarded(broken)
    listen(Note("one"))
    listen(Note("two"))
    assert len(caplog.records) == 1


# The bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_of_a_terminal_is_one_line_for_the_whole_command(clock: Clock) -> None:
    stream = Terminal()
    with ProgressBar(stream=stream) as show:
        show(Progress("domain", 1, 10, "step", 0.05, None))
        clock.now += 1
        show(Progress("domain", 2, 10, "step", 0.1, 200.4, {"loss": 0.03125}))
        clock.now += 1
        show(Note("the images have no test split"))
        show(Progress("control", 10, 10, "step", 1.0, 0.0, {"loss": 0.01}))
    text = stream.getvalue()
    assert text.count("\n") == 2  # after the remark, and in the end
    assert "note: the images have no test split\n" in text
    drawn = [line for line in text.replace("\n", "\r").split("\r") if "|" in line]
    second = [line for line in drawn if line.startswith("domain 2/10 step")]
    assert all("10%, loss 0.03125, 3:20 left" in line for line in second)
    assert second
    assert "control 10/10 step" in drawn[-1]
    assert "100%" in drawn[-1]


def test_without_a_terminal_there_is_a_line_now_and_then(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressBar(stream=stream) as show:
        for done in range(1, 121):
            clock.now += 1
            show(Progress("control", done, 120, "step", done / 120, 120 - done, {"loss": 0.5}))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + 119 // PAUSE + 1
    assert lines[0] == "control 1/120 step, 1% in all, loss 0.5, 1:59 left"
    assert lines[-1] == "control 120/120 step, 100% in all, loss 0.5, 0:00 left"
    assert "\r" not in stream.getvalue()


def test_quiet_keeps_remarks_alone() -> None:
    for stream in (io.StringIO(), Terminal()):
        with ProgressBar(quiet=True, stream=stream) as show:
            show(Progress("control", 1, 2, "step", 0.5, 3.0))
            show(ImageFinished(Path("more"), RECORD))
            show(Note("remark"))
        assert stream.getvalue() == "note: remark\n"


def test_durations_are_readable() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.6, 200, 3725)] == ["0:00", "1:00", "3:20", "1:02:05"]
