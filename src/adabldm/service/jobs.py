"""Jobs that outlive the server: commands as processes of their own, one after the other, from a queue in SQLite.

    with JobQueue(Path("jobs.sqlite3")) as queue:  # runs the jobs while it is open
        job = queue.submit("fit", FitSettings(data=Path("parts"), out=Path("runs/parts")))
        for number, event in queue.follow(job.id):
            print(number, event)

A job is the same command line that a person would type, so its files have the same bytes. Pausing ends the process, and
resuming starts the command again, which goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self, get_args

import filelock
import psutil
from pydantic import BaseModel, ConfigDict, Field

from adabldm.core.errors import InputError, OutputError
from adabldm.core.settings import (
    EvaluateSettings,
    ExportSettings,
    FieldProblem,
    FitSettings,
    GenerateSettings,
    Settings,
    SettingsError,
)
from adabldm.data.claim import this_process, told_holder
from adabldm.service.attempt import EXIT, SAID

SCHEMA = 1
"""Version of the queue's file, its `user_version`."""
JobCommand = Literal["fit", "generate", "evaluate", "export"]
JobState = Literal["queued", "running", "paused", "finished", "failed", "stopped"]
COMMANDS: dict[str, type[Settings]] = {
    "fit": FitSettings,
    "generate": GenerateSettings,
    "evaluate": EvaluateSettings,
    "export": ExportSettings,
}
"""Settings of every command that can be a job."""
OVER = frozenset({"finished", "failed", "stopped"})
"""States in which nothing happens any more by itself."""
SETTINGS, EVENTS = "settings.json", "events.jsonl"
GRACE = 30.0
"""Seconds that a command gets to end after an interruption."""
AGAIN = 3.0
"""Seconds after which an interruption is sent again."""
LOOK = 0.2
"""Seconds between two looks at the process and the queue."""
MOST_LOSSES = 20
"""Attempts whose process was lost, after which a job counts as failed."""
TAIL = 16_384
"""Bytes at the end of a file that are looked at."""
TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, command TEXT NOT NULL, settings TEXT NOT NULL,
    state TEXT NOT NULL, created REAL NOT NULL, started REAL, finished REAL, attempts INTEGER NOT NULL DEFAULT 0,
    pid INTEGER, pid_since REAL, problem TEXT
)
"""


class UnknownJobError(InputError):
    """There is no such job."""


class JobStateError(InputError):
    """A job is in a state in which this cannot be done."""


class Job(BaseModel):
    """A job as it is now."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="Name of the job.")
    number: int = Field(description="Place in the order of all jobs.")
    command: JobCommand = Field(description="Command that it runs.")
    settings: dict[str, Any] = Field(description="Settings of the command.")
    folder: str = Field(description="Folder that it writes.")
    state: JobState = Field(description="What it does.")
    created: datetime = Field(description="When it was asked for.")
    started: datetime | None = Field(None, description="When it began first.")
    finished: datetime | None = Field(None, description="When it ended.")
    attempts: int = Field(0, description="How often it was started.")
    fraction: float | None = Field(None, description="Share of the work that is done, 0 to 1.")
    seconds_left: float | None = Field(None, description="Expected seconds until it ends.")
    progress: dict[str, Any] | None = Field(None, description="Last event about the progress.")
    problem: str | None = Field(None, description="Why it failed, in a sentence.")


@dataclass
class _Attempt:
    """A process that works on a job.

    Attributes:
        job: its id.
        folder: of the job.
        pid: of the process, which leads a process group of its own.
        since: when the process began, so that another one of the same number is not taken for it.
        process: of this server; `None` if an earlier server started it.
    """

    job: str
    folder: Path
    pid: int
    since: float
    process: subprocess.Popen[bytes] | None = None

    def code(self) -> int | None:
        """The exit code; `None` while it runs, -1 if it is not known."""
        if self.process is not None:
            return self.process.poll()
        if self._alive():
            return None
        try:
            return int((self.folder / EXIT).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return -1

    def interrupt(self) -> None:
        """End the processes, if they still run: by an interruption, as Ctrl-C, and by force after `GRACE` seconds."""
        if self.code() is not None:
            return
        begun = time.monotonic()
        while self.code() is None:
            last = time.monotonic() - begun > GRACE
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL if last else signal.SIGINT)
            end = time.monotonic() + AGAIN  # while a command imports its libraries, an interruption may be lost
            while self.code() is None and time.monotonic() < end:
                time.sleep(0.02)
            if last:
                return

    def _alive(self) -> bool:
        try:
            found = psutil.Process(self.pid)
            return bool(abs(found.create_time() - self.since) < 1) and found.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


class JobQueue:
    """Jobs in a file; any number of threads and processes may use it, one of them runs the jobs.

    Args:
        path: SQLite file; it is created. A folder `jobs` beside it holds each job's settings and events.
        folder: working folder of the commands; that of this process if left out.

    Raises:
        InputError: the file is no queue, or was written by a later version.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        self.path, self.folder = Path(path), folder
        self._places = self.path.parent / "jobs"
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._read: dict[str, tuple[int, int]] = {}  # of each job the number of events that were read, and their bytes
        self._lock = filelock.FileLock(f"{self.path}.lock", timeout=0, thread_local=False)
        self._holder = Path(f"{self.path}.holder")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be created ({error.strerror}); choose another --jobs.") from error
        self._check_version()
        with self._open() as database:
            database.execute(TABLE)
            database.execute(f"PRAGMA user_version = {SCHEMA}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def claim(self, address: str = "") -> None:
        """Be the process that runs the jobs; `start` does it, too.

        Args:
            address: of the server, for those who come later and are refused.

        Raises:
            InputError: another process runs the jobs of this file.
            OutputError: it cannot be written.
        """
        try:
            if not self._lock.is_locked:
                self._lock.acquire()
        except filelock.Timeout as error:
            raise InputError(
                f"{self.folder or self.path}: another studio or service is running with this folder, "
                f"{told_holder(self._holder)}; "
                "use that one or end it (Ctrl-C where it was started), or give this one its own --jobs and --port."
            ) from error
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}); choose another --jobs.") from error
        with suppress(OSError):  # it is a help for others alone
            place = f" at {address}" if address else ""
            self._holder.write_text(f"{this_process()}{place}", encoding="utf-8")

    def start(self) -> None:
        """Run the jobs in a thread: first those that an earlier server left, whose processes may still be at work.

        Raises:
            InputError: another process runs the jobs of this file.
            OutputError: it cannot be written.
        """
        if self._thread is not None:  # they run already; a second thread would start every job twice
            return
        if not self._lock.is_locked:
            self.claim()
        self._closing.clear()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Interrupt the job at work, which goes on at the next start, and run no more."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._lock.is_locked:
            with suppress(OSError):
                self._holder.unlink(missing_ok=True)
        self._lock.release()

    def submit(self, command: str, settings: Settings) -> Job:
        """Put a job at the end of the queue.

        Args:
            command: "fit", "generate", "evaluate" or "export".
            settings: of that command; relative paths in them are those of the queue's working folder.

        Raises:
            InputError: no such command, or settings of another one.
            OutputError: full disk or missing permission; nothing was queued.
        """
        if command not in COMMANDS or not isinstance(settings, COMMANDS[command]):
            message = f"{command!r} with {type(settings).__name__} was given, expected one of {', '.join(COMMANDS)}"
            raise SettingsError([FieldProblem("command", message)])
        _check_values(settings)
        name = uuid.uuid4().hex[:12]
        values = json.dumps(settings.plain(), ensure_ascii=False)
        with self._open() as database:
            database.execute(
                "INSERT INTO jobs (id, command, settings, state, created) VALUES (?, ?, ?, 'queued', ?)",
                (name, command, values, time.time()),
            )
        self._wake.set()
        return self.get(name)

    def list(self, states: Collection[str] = ()) -> Sequence[Job]:
        """All jobs in the order in which they were asked for, or those in some states."""
        with self._open() as database:
            rows = database.execute("SELECT * FROM jobs ORDER BY number").fetchall()
        return [self._job(row) for row in rows if not states or row["state"] in states]

    def counts(self) -> dict[str, int]:
        """Number of jobs by state."""
        with self._open() as database:
            rows = database.execute("SELECT state, COUNT(*) AS jobs FROM jobs GROUP BY state").fetchall()
        return {**dict.fromkeys(get_args(JobState), 0), **{row["state"]: row["jobs"] for row in rows}}

    def get(self, name: str) -> Job:
        """A job as it is now.

        Raises:
            UnknownJobError: there is none of that name.
        """
        return self._job(self._row(name))

    def pause(self, name: str) -> Job:
        """End the process of a job for now, or keep it from starting; what it wrote stays, and `resume` goes on.

        Raises:
            UnknownJobError: there is none of that name.
            JobStateError: it is over.
        """
        return self._change(name, "paused", {"queued", "running", "paused"})

    def resume(self, name: str) -> Job:
        """Let a job go on that was paused, stopped, or has failed, as on a full disk.

        Raises:
            UnknownJobError: there is none of that name.
            JobStateError: it is finished.
        """
        row = self._row(name)
        if row["state"] in {"queued", "running"}:
            return self._job(row)
        return self._change(name, "queued", {"paused", "stopped", "failed"})

    def stop(self, name: str) -> Job:
        """End a job for good; what it wrote stays. A job that is over stays as it is.

        Raises:
            UnknownJobError: there is none of that name.
        """
        row = self._row(name)
        return (
            self._job(row) if row["state"] in OVER else self._change(name, "stopped", {"queued", "running", "paused"})
        )

    def events(self, name: str, after: int = 0) -> Sequence[tuple[int, dict[str, Any]]]:
        """What has happened, without waiting: numbered events as `--log-file` writes them.

        Args:
            name: of the job.
            after: number of the last event that is known already.

        Raises:
            UnknownJobError: there is none of that name.
        """
        self._row(name)
        known, start = self._read.get(name, (0, 0))
        try:
            with (self._places / name / EVENTS).open("rb") as file:
                if after < known or file.seek(0, os.SEEK_END) < start:
                    known, start = 0, 0
                file.seek(start)  # who follows a job asks for the end of a file that may be large
                content = file.read()
        except OSError:
            return []
        *lines, torn = content.split(b"\n")  # the last one is not whole yet
        self._read[name] = known + len(lines), start + len(content) - len(torn)
        found = []
        for number, line in enumerate(lines[after - known :], after + 1):
            with suppress(ValueError):  # torn by a kill; the next attempt goes on behind it
                values = json.loads(line)
                if isinstance(values, dict):
                    found.append((number, values))
        return found

    def follow(self, name: str, after: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """The same, and then every new event as it happens, until the job is over or paused.

        Raises:
            UnknownJobError: there is none of that name.
        """
        while True:
            resting = self.get(name).state not in {"queued", "running"}
            for number, event in self.events(name, after):
                yield number, event
                after = number
            if resting or self._closing.is_set():
                return
            time.sleep(LOOK)

    def _change(self, name: str, state: str, allowed: Collection[str]) -> Job:
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            row = _found(database, name)
            if row["state"] not in allowed:
                raise JobStateError(f"job {name}: it is {row['state']}, so it cannot become {state}.")
            finished = time.time() if state in OVER else None
            database.execute(
                "UPDATE jobs SET state = ?, finished = ?, problem = NULL WHERE id = ?", (state, finished, name)
            )
        self._wake.set()
        return self.get(name)

    def _row(self, name: str) -> sqlite3.Row:
        with self._open() as database:
            return _found(database, name)

    def _job(self, row: sqlite3.Row) -> Job:
        settings = json.loads(row["settings"])
        progress = _last_progress(self._places / row["id"] / EVENTS)
        over = row["state"] == "finished"
        return Job(
            id=row["id"],
            number=row["number"],
            command=row["command"],
            settings=settings,
            folder=settings["out"],
            state=row["state"],
            created=_time(row["created"]),
            started=_time(row["started"]) if row["started"] else None,
            finished=_time(row["finished"]) if row["finished"] else None,
            attempts=row["attempts"],
            fraction=1.0 if over else progress.get("fraction"),
            seconds_left=0.0 if over else progress.get("seconds_left") if row["state"] == "running" else None,
            progress=progress or None,
            problem=row["problem"],
        )

    def _check_version(self) -> None:
        try:
            with closing(sqlite3.connect(self.path, timeout=10)) as database:
                found = database.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise InputError(f"{self.path}: no usable queue of jobs ({error}); choose another --jobs.") from error
        if found > SCHEMA:
            raise InputError(
                f"{self.path}: written by a later version of adabldm (schema {found}, this one knows {SCHEMA}); update "
                "adabldm, or choose another --jobs."
            )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The database; what was written counts if nothing is raised."""
        try:
            with closing(sqlite3.connect(self.path, timeout=10)) as database, database:
                database.row_factory = sqlite3.Row
                yield database
        except sqlite3.Error as error:
            raise OutputError(
                f"{self.path}: could not be written ({error}); free some space or check its permissions."
            ) from error

    # Running the jobs

    def _run(self) -> None:
        """What the thread does; a disk that is full for the moment does not end it."""
        current: _Attempt | None = None
        adopted = False
        while not self._closing.is_set():
            with suppress(OutputError, OSError):
                if not adopted:
                    current, adopted = self._adopt(), True
                current = self._begin_next() if current is None else self._look_at(current)
            self._wake.wait(LOOK)
            self._wake.clear()
        if current is not None:
            current.interrupt()
            with suppress(OutputError):
                self._set_running(current.job, "queued", None)

    def _adopt(self) -> _Attempt | None:
        """What an earlier server left: a process that still works, or jobs to start again."""
        found = None
        with self._open() as database:
            rows = database.execute("SELECT * FROM jobs WHERE pid IS NOT NULL ORDER BY number").fetchall()
        for row in rows:
            attempt = _Attempt(row["id"], self._places / row["id"], row["pid"], row["pid_since"])
            if row["state"] == "running" and found is None and attempt.code() is None:
                found = attempt
            elif row["state"] == "running":
                attempt.interrupt()
                self._conclude(attempt)
            else:  # it was paused or stopped while nobody was there to end it
                attempt.interrupt()
                self._set_running(row["id"], row["state"], None)
        return found

    def _begin_next(self) -> _Attempt | None:
        with self._open() as database:
            row = database.execute("SELECT * FROM jobs WHERE state = 'queued' ORDER BY number LIMIT 1").fetchone()
        if row is None:
            return None
        folder = self._places / row["id"]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (EXIT, SAID):
                (folder / name).unlink(missing_ok=True)
            values = json.loads(row["settings"])
            if row["command"] == "fit" and row["attempts"]:
                values["resume"] = True
            (folder / SETTINGS).write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
            _end_torn_line(folder / EVENTS)
            attempt = self._start(row, folder)
        except OSError as error:
            self._fail(row["id"], f"{folder}: could not be written ({error.strerror or error}); free some space.")
            return None
        with self._open() as database:
            database.execute(
                "UPDATE jobs SET state = 'running', started = COALESCE(started, ?), attempts = attempts + 1, pid = ?, "
                "pid_since = ?, problem = NULL, finished = NULL WHERE id = ? AND state = 'queued'",
                (time.time(), attempt.pid, attempt.since, row["id"]),
            )
        return attempt

    def _start(self, row: sqlite3.Row, folder: Path) -> _Attempt:
        command = [
            sys.executable, "-m", "adabldm", row["command"], "--config", str(folder / SETTINGS),
            "--log-file", str(folder / EVENTS), "--quiet",
        ]  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "adabldm.service.attempt", str(folder.resolve()), *command],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            since = psutil.Process(process.pid).create_time()
        except psutil.Error:
            since = time.time()
        return _Attempt(row["id"], folder, process.pid, since, process)

    def _look_at(self, attempt: _Attempt) -> _Attempt | None:
        """What becomes of a process; `None` once it is over."""
        state = self._row(attempt.job)["state"]
        if state != "running":
            attempt.interrupt()
            self._set_running(attempt.job, state, None)
            return None
        if attempt.code() is None:
            return attempt
        self._conclude(attempt)
        return None

    def _conclude(self, attempt: _Attempt) -> None:
        """Write down how a process ended."""
        code = attempt.code()
        if code == 0:
            self._set_running(attempt.job, "finished", time.time())
        elif code == -1 and self._row(attempt.job)["attempts"] < MOST_LOSSES:
            self._set_running(attempt.job, "queued", None)
        else:
            self._fail(attempt.job, _problem(attempt.folder, code))

    def _fail(self, name: str, problem: str) -> None:
        with self._open() as database:
            database.execute(
                "UPDATE jobs SET state = 'failed', problem = ?, finished = ?, pid = NULL WHERE id = ? AND state IN "
                "('running', 'queued')",
                (problem, time.time(), name),
            )

    def _set_running(self, name: str, state: str, finished: float | None) -> None:
        """The state of a job whose process is over; a state that somebody else has set meanwhile stays."""
        with self._open() as database:
            database.execute("UPDATE jobs SET pid = NULL WHERE id = ?", (name,))
            database.execute(
                "UPDATE jobs SET state = ?, finished = ? WHERE id = ? AND state = 'running'", (state, finished, name)
            )


def _check_values(settings: Settings) -> None:
    """Refuse presets that do not exist before the job waits for its turn; raises `SettingsError`."""
    if isinstance(settings, GenerateSettings):
        settings.edit_preset()
    if isinstance(settings, FitSettings):
        settings.fit_preset()


def _found(database: sqlite3.Connection, name: str) -> sqlite3.Row:
    row: sqlite3.Row | None = database.execute("SELECT * FROM jobs WHERE id = ?", (name,)).fetchone()
    if row is None:
        raise UnknownJobError(f"job {name[:50]!r}: there is none of that name; see the list of jobs.")
    return row


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _tail(path: Path) -> list[bytes]:
    """The whole lines at the end of a file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            return file.read().split(b"\n")
    except OSError:
        return []


def _last_progress(path: Path) -> dict[str, Any]:
    for line in reversed(_tail(path)):
        if b'"Progress"' in line:
            with suppress(ValueError):
                found: dict[str, Any] = json.loads(line)
                return found
    return {}


def _end_torn_line(path: Path) -> None:
    """A kill may have torn the last event: the next one begins on a line of its own."""
    if path.exists() and _tail(path)[-1:] not in ([], [b""]):
        with path.open("ab") as file:
            file.write(b"\n")


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < 1_000_000
    except OSError:
        return False


def _problem(folder: Path, code: int | None) -> str:
    """Why a command failed, as it said itself."""
    lines = [line.decode(errors="replace") for line in _tail(folder / SAID)]
    said = [line.removeprefix("adabldm: ") for line in lines if line.startswith("adabldm: ")]
    if said:
        return " ".join(said)
    if not folder.is_dir():
        return f"the command ended with exit code {code}; {folder} is gone, with what it printed; resume the job."
    if _is_full(folder):
        return f"{folder}: the disk is full; free some space and resume the job."
    if code is not None and code in {137, 128 + 15, -9, -15}:
        return "the process was killed, perhaps because memory was short; resume the job when there is more."
    return f"the command ended with exit code {code}; what it printed is in {folder / SAID}."
