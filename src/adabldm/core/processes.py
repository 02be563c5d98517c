"""Processes beside this one that work for it."""

from __future__ import annotations

import multiprocessing
import sys
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
