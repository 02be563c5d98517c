"""The queue of jobs: the same bytes as the command line, through pauses, kills and full disks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import DEADLINE, contents, run_command

from adabldm.core.errors import InputError, OutputError
from adabldm.core.settings import ExportSettings, FitSettings, GenerateSettings, SettingsError
from adabldm.service.jobs import Job, JobQueue, JobStateError, UnknownJobError

WITHOUT = ("settings.json", "logs")


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not happened():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def over(queue: JobQueue, job: Job) -> Job:
    wait_for(lambda: queue.get(job.id).state in {"finished", "failed", "stopped"})
    return queue.get(job.id)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    """A queue at work."""
    with JobQueue(tmp_path / "queue" / "jobs.sqlite3") as queue:
        yield queue


def generate(run: Path, data: Path, out: Path, count: int = 6) -> GenerateSettings:
    return GenerateSettings(run=str(run), data=data, out=out, count=count, batch_size=2)


def test_a_job_writes_the_bytes_of_the_command_and_tells_its_events(
    run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    queue = JobQueue(tmp_path / "queue" / "jobs.sqlite3")
    job = queue.submit("generate", generate(run, data, tmp_path / "images"))  # before the queue is at work
    assert (job.state, job.number, job.command, job.attempts) == ("queued", 1, "generate", 0)
    with queue:
        numbered = list(queue.follow(job.id))
        assert [number for number, _ in numbered] == list(range(1, len(numbered) + 1))
        events = [event for _, event in numbered]
        assert sum(event["event"] == "ImageFinished" for event in events) == 6
        finished = over(queue, job)
        assert (finished.state, finished.fraction, finished.problem, finished.attempts) == ("finished", 1.0, None, 1)
        assert finished.started is not None
        assert finished.finished is not None
        assert job.created <= finished.started <= finished.finished
        assert contents(tmp_path / "images") == contents(generated)
        assert queue.events(job.id, after=len(events) - 1) == [(len(events), events[-1])]


def test_what_fails_says_why_and_the_next_job_runs(
    queue: JobQueue, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    bad = queue.submit("generate", generate(run, tmp_path / "nothing", tmp_path / "images"))
    good = queue.submit("export", ExportSettings(folder=generated, to="coco", out=tmp_path / "coco"))
    failed = over(queue, bad)
    assert failed.state == "failed"
    assert failed.problem is not None
    assert str(tmp_path / "nothing") in failed.problem
    assert "Traceback" not in failed.problem
    assert over(queue, good).state == "finished"
    assert [job.id for job in queue.list()] == [bad.id, good.id]
    assert [job.id for job in queue.list({"failed"})] == [bad.id]
    assert queue.counts()["finished"] == 1


def test_a_job_that_fails_without_its_folder_lets_the_next_one_run(
    queue: JobQueue, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    bad = queue.submit("generate", generate(run, tmp_path / "nothing", tmp_path / "images"))
    good = queue.submit("export", ExportSettings(folder=generated, to="coco", out=tmp_path / "coco"))
    wait_for(lambda: queue.get(bad.id).state == "running")
    folder = queue.path.parent / "jobs" / bad.id
    wait_for(lambda: (folder / "said.txt").exists())
    shutil.rmtree(folder)
    failed = over(queue, bad)
    assert (failed.state, f"{folder} is gone" in (failed.problem or "")) == ("failed", True)
    assert over(queue, good).state == "finished"


def test_a_job_pauses_goes_on_and_has_the_same_bytes(
    queue: JobQueue, base: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    settings = FitSettings(
        data=data, out=tmp_path / "fit", base=str(base), domain_steps=2, control_steps=40, examples=8, batch_size=2,
        checkpoint_every=2,
    )  # fmt: skip
    job = queue.submit("fit", settings)
    wait_for(lambda: (queue.get(job.id).progress or {}).get("task") == "control")
    running = queue.get(job.id)
    assert running.state == "running"
    assert 0 < (running.fraction or 0) < 1
    assert queue.pause(job.id).state == "paused"
    other = queue.submit("export", ExportSettings(folder=generated, to="coco", out=tmp_path / "coco"))
    assert over(queue, other).state == "finished", "a paused job lets others pass"
    assert queue.get(job.id).state == "paused"
    assert not (tmp_path / "fit" / "adabldm.json").exists()
    assert queue.resume(job.id).state == "queued"
    finished = over(queue, job)
    assert (finished.state, finished.problem, finished.attempts) == ("finished", None, 2)
    whole = tmp_path / "whole"
    more = ("--domain-steps", 2, "--control-steps", 40, "--examples", 8, "--batch-size", 2, "--checkpoint-every", 2)
    assert run_command("fit", data, "--out", whole, "--base", base, *more, "--quiet") == 0
    weights = Path("controlnet") / "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "fit" / weights).read_bytes() == (whole / weights).read_bytes()
    with pytest.raises(JobStateError, match="finished"):
        queue.pause(job.id)


def test_a_stopped_job_ends_and_stays(queue: JobQueue, run: Path, data: Path, tmp_path: Path) -> None:
    job = queue.submit("generate", generate(run, data, tmp_path / "images", 2000))
    waiting = queue.submit("generate", generate(run, data, tmp_path / "others", 2))
    wait_for(lambda: queue.get(job.id).progress is not None)
    pid = _pid(queue, job)
    assert pid is not None
    assert queue.stop(job.id).state == "stopped"
    assert queue.stop(waiting.id).state == "stopped"
    wait_for(lambda: not psutil.pid_exists(pid) and _pid(queue, job) is None)
    assert queue.get(job.id).state == "stopped"
    assert queue.get(waiting.id).attempts == 0
    assert queue.stop(job.id).state == "stopped", "stopping twice is no mistake"


def _pid(queue: JobQueue, job: Job) -> int | None:
    with sqlite3.connect(queue.path) as database:
        pid: int | None = database.execute("SELECT pid FROM jobs WHERE id = ?", (job.id,)).fetchone()[0]
    return pid


SERVER = """
import sys, time
from pathlib import Path
from adabldm.service.jobs import JobQueue
with JobQueue(Path(sys.argv[1])):
    time.sleep(600)
"""


@pytest.mark.parametrize("also_the_command", [False, True])
def test_a_killed_server_finds_its_job_and_finishes_it(
    also_the_command: bool, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    path = tmp_path / "queue" / "jobs.sqlite3"
    job = JobQueue(path).submit("generate", generate(run, data, tmp_path / "images"))
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(path)], stderr=subprocess.DEVNULL)
    queue = JobQueue(path)
    try:
        wait_for(lambda: any(event["event"] == "ImageFinished" for _, event in queue.events(job.id)))
        pid = _pid(queue, job)
    finally:
        server.kill()
        server.wait()
    assert pid is not None
    if also_the_command:
        os.killpg(pid, signal.SIGKILL)
    assert queue.get(job.id).state == "running", "nobody has told the queue"
    with queue:
        finished = over(queue, job)
    assert (finished.state, finished.attempts) == ("finished", 2 if also_the_command else 1)
    assert contents(tmp_path / "images") == contents(generated)


def test_a_closed_queue_interrupts_its_job_and_the_next_one_goes_on(run: Path, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    with JobQueue(path) as queue:
        job = queue.submit("generate", generate(run, data, tmp_path / "images", 24))
        wait_for(lambda: queue.get(job.id).progress is not None)
        queue.claim("http://127.0.0.1:7860")
        with pytest.raises(
            InputError, match=rf"with this folder, process {os.getpid()} on .* at http://127.0.0.1:7860;"
        ):
            JobQueue(path).start()
    assert not list(tmp_path.glob("*.holder"))
    left = JobQueue(path).get(job.id)
    assert (left.state, _pid(queue, job)) == ("queued", None)
    with JobQueue(path) as queue:
        assert over(queue, job).state == "finished"


def test_what_cannot_be_a_job_is_refused(tmp_path: Path, run: Path, data: Path) -> None:
    queue = JobQueue(tmp_path / "jobs.sqlite3")
    with pytest.raises(SettingsError, match="'demo' with GenerateSettings"):
        queue.submit("demo", generate(run, data, tmp_path))
    with pytest.raises(SettingsError, match="'fit' with GenerateSettings"):
        queue.submit("fit", generate(run, data, tmp_path))
    with pytest.raises(SettingsError, match="preset: slow was given|preset: 'slow' was given"):
        queue.submit("generate", generate(run, data, tmp_path).changed(preset="slow"))
    for call in (queue.get, queue.pause, queue.resume, queue.stop, queue.events):
        with pytest.raises(UnknownJobError, match="none of that name"):
            call("x")
    assert queue.list() == []


def test_a_file_that_is_no_queue_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be taken for one" * 50)
    with pytest.raises(InputError, match="no usable queue"):
        JobQueue(tmp_path / "text")
    with sqlite3.connect(tmp_path / "later") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match="later version"):
        JobQueue(tmp_path / "later")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        JobQueue(tmp_path / "file" / "jobs.sqlite3")


def test_a_full_disk_fails_a_job_and_resuming_finishes_it(
    run: Path, data: Path, generated: Path, tmp_path: Path, small_disk: Callable[[str], object]
) -> None:
    disk = small_disk("48k")
    with JobQueue(tmp_path / "jobs.sqlite3") as queue:
        out = disk.place / "images"  # type: ignore[attr-defined]
        job = queue.submit("generate", generate(run, data, out))
        failed = over(queue, job)
        assert failed.state == "failed"
        assert "No space left" in (failed.problem or "")
        disk.grow("8m")  # type: ignore[attr-defined]
        queue.resume(job.id)
        assert over(queue, job).state == "finished"
        assert contents(out) == contents(generated)


def test_a_queue_on_a_full_disk_says_so_and_loses_no_job(
    run: Path, data: Path, tmp_path: Path, small_disk: Callable[[str], object]
) -> None:
    disk = small_disk("64k")
    queue = JobQueue(disk.place / "jobs.sqlite3")  # type: ignore[attr-defined]
    first = queue.submit("generate", generate(run, data, tmp_path / "images"))

    def fill() -> None:
        for _ in range(1000):
            queue.submit("generate", generate(run, data, tmp_path / "images"))

    with pytest.raises(OutputError, match="could not be written"):
        fill()
    many = len(queue.list())
    assert queue.get(first.id).state == "queued"
    disk.grow("1m")  # type: ignore[attr-defined]
    queue.submit("generate", generate(run, data, tmp_path / "images"))
    assert len(queue.list()) == many + 1


def test_settings_reach_the_command_whole(queue: JobQueue, run: Path, data: Path, tmp_path: Path) -> None:
    given = {"count": 1, "set": ["look=none"], "defect": ["spot"], "limits": {"min_visible": 0.0}}
    settings = GenerateSettings.create({"run": str(run), "data": data, "out": tmp_path / "images", **given})
    assert over(queue, queue.submit("generate", settings)).state == "finished"
    (line,) = (tmp_path / "images" / "manifest.jsonl").read_text().splitlines()
    assert (json.loads(line)["preset"], json.loads(line)["defect"]) == ("fast look=none", "spot")
