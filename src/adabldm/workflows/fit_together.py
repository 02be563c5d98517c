"""Start the processes of a fit on one machine, one for each GPU, and speak for them."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import socket
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from adabldm.core.errors import AdaBLDMError, OutputError, portable
from adabldm.core.events import Event, Listener
from adabldm.core.interrupts import stop_requests
from adabldm.core.processes import end_with_parent
from adabldm.core.settings import FieldProblem, FitSettings, SettingsError
from adabldm.training.team import KILLED, ElsewhereError

LOOK_SECONDS = 0.2
"""Between two looks whether all processes live."""
Said = tuple[str, Any]
"""What a process says: an event, its result, or how it ended."""


def fit_together(settings: FitSettings, listen: Listener, work: Callable[[FitSettings, Listener], Path]) -> Path:
    """Fit in several processes of this machine.

    Args:
        settings: with more than one GPU.
        listen: is told what the leading process tells.
        work: what each process does; a function of a module.

    Raises:
        SettingsError: there are fewer GPUs.
        OutputError: a process was killed; the others have ended too.
        AdaBLDMError: as `fit`.
    """
    _check_devices(settings)
    context = multiprocessing.get_context("spawn")
    said: Any = context.Queue()
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(settings.gpus)}
    names = [{**place, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(settings.gpus)]
    threads = max(1, torch.get_num_threads() // settings.gpus)
    processes = [context.Process(target=_work, args=(settings, own, threads, said, work)) for own in names]
    for one in processes:
        one.start()
    try:
        with stop_requests() as stop:
            return _listened(processes, said, listen, stop)
    finally:
        for one in processes:
            one.kill()
            one.join()


def _check_devices(settings: FitSettings) -> None:
    there = torch.cuda.device_count()
    if settings.device == "cpu" or (settings.device in {"auto", "cuda"} and settings.gpus <= there):
        return
    problem = f"{settings.gpus} was given, but {there} are here for --device {settings.device}; give fewer"
    raise SettingsError((FieldProblem("gpus", problem),))


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _listened(processes: Sequence[BaseProcess], said: Any, listen: Listener, stop: Callable[[], bool]) -> Path:
    """Hand on what is said until all have ended; the result of the leading process."""
    result: Path | None = None
    asked = False
    while True:
        if stop() and not asked:
            asked = True
            for one in processes:
                if one.pid is not None and one.is_alive():
                    os.kill(one.pid, signal.SIGTERM)
        dead = not any(one.is_alive() for one in processes)
        try:
            kind, value = said.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            if any(one.exitcode not in (None, 0) for one in processes):
                raise OutputError(KILLED) from None
            if dead:
                assert result is not None
                return result
            continue
        if kind == "event":
            listen(value)
        elif kind == "result":
            result = value
        elif kind == "interrupted":
            raise KeyboardInterrupt(value)
        elif kind == "error":
            raise value


def _work(
    settings: FitSettings,
    place: dict[str, str],
    threads: int,
    said: Any,
    work: Callable[[FitSettings, Listener], Path],
) -> None:
    """In a process of the team."""
    os.setsid()  # the terminal's interruption goes to the parent alone, which hands it on
    end_with_parent()
    os.environ.update(place)
    torch.set_num_threads(threads)

    def tell(event: Event) -> None:
        said.put(("event", event))

    try:
        result = work(settings, tell)
        if place["RANK"] == "0":
            said.put(("result", result))
    except ElsewhereError:
        pass
    except AdaBLDMError as error:
        if str(error) != KILLED:  # the parent sees itself who was killed
            said.put(("error", portable(error)))
    except OSError as error:
        place_of = f"{error.filename}: " if error.filename else ""
        said.put(("error", OutputError(f"{place_of}{error.strerror or error}; check the path and the free space.")))
    except KeyboardInterrupt as interruption:
        if place["RANK"] == "0":
            said.put(("interrupted", str(interruption)))
    said.close()
    said.join_thread()
