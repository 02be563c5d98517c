"""Processes beside this one that work for it."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import BaseContext

from adabldm.core.errors import InputError, OutputError


def worker_context(*modules: str) -> BaseContext:
    """A context for worker processes that begin with nothing of this process but what they are given.

    On Linux they are copies of one process that has imported `modules`, so that each worker starts at once; importing
    PyTorch and diffusers takes some seconds of a core. Elsewhere every worker imports for itself.

    Args:
        modules: names of what all of them need.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    return context


@contextmanager
def told_of_kills() -> Iterator[None]:
    """Says it in a sentence when a worker process of a pool ends before its work does.

    Raises:
        OutputError: a worker process was killed, or could not start.
    """
    try:
        yield
    except (BrokenProcessPool, BrokenPipeError) as error:
        raise OutputError(
            "a worker process was killed, perhaps because memory was short, or ended by an error that stands above; "
            "what is finished stays. Run the same command again, with fewer --workers if memory was short."
        ) from error


def check_guarded(work: str) -> None:
    """Refuse work that a worker process would begin while it starts.

    A worker process reads the script that started it. Where that is not guarded, the whole script begins again there.

    Args:
        work: what is called, for the message.

    Raises:
        InputError: this process is a worker that is being started.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as Python's own check in `multiprocessing`
        raise InputError(
            f"{work}: the script starts several processes, each of which reads it; call {work} below a line "
            "`if __name__ == '__main__':`, so that it is called once."
        )


def end_with_parent() -> None:
    """End this worker process as soon as the process that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
