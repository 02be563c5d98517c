"""Signals that ask a command to end: long work ends at a place that it can go on from."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def never() -> bool:
    """Nobody asks to stop."""
    return False


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Whether somebody asks to stop: the first SIGINT or SIGTERM is remembered only, the second one acts as usual.

    Outside the main thread signals cannot be caught, so that nobody asks there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield never
        return
    asked = threading.Event()
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def remember(number: int, frame: FrameType | None) -> None:
        del number, frame
        asked.set()
        restore()

    for number in SIGNALS:
        signal.signal(number, remember)
    try:
        yield asked.is_set
    finally:
        restore()
