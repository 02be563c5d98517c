"""Work for the tests of clusters; the workers import it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from adabldm.core.errors import InputError, ModelError

ILL = "ADABLDM_TEST_ILL"
"""In the environment of a node, what is wrong with it."""
DISK = "ADABLDM_TEST_DISK"
"""In the environment of a node, a folder on its disk, into which each job writes a file."""


def squares(shared: float) -> Callable[[int], tuple[int, str]]:
    """The square of a number after a while, with the number of the process."""
    if os.environ.get(ILL) == "files":
        raise InputError("runs/parts: no such run; copy it there.")

    def work(number: int) -> tuple[int, str]:
        time.sleep(shared)
        if os.environ.get(ILL) == "disk":
            raise OSError(errno.ENOSPC, "No space left on device", "/tmp/cell")
        if DISK in os.environ:
            (Path(os.environ[DISK]) / str(number)).write_bytes(bytes(2**16))
        if number < 0:
            raise ModelError("the numbers are not finite.")
        return number**2, str(os.getpid())

    return work
