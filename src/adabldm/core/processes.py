"""Processes beside this one that work for it."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from multiprocessing.context import BaseContext


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


def end_with_parent() -> None:
    """End this worker process as soon as the process that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
