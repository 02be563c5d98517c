"""Finished images become files: the only place that writes into a generated folder."""

from __future__ import annotations

from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from adabldm.core.events import ImageFinished, Listener, guarded, ignore
from adabldm.core.records import ImageRecord
from adabldm.data.generated import GeneratedFolder
from adabldm.production.results import Encoded, Produced

WRITERS = 8
"""Threads for files that other processes have encoded: they do little else than wait for the disk."""
WAITING = 8
"""Finished images that may wait for a thread that writes."""


class Sink:
    """Writes images in threads while the next ones are made, and tells a listener of each that is on the disk.

    A context manager; on leaving, everything that was put in has been written. The listener is called in the thread of
    the caller, in the order in which the images were put in; its errors lose no image.

    Args:
        folder: an open folder.
        listen: is told `ImageFinished`.
        threads: number of threads that write.
    """

    def __init__(self, folder: GeneratedFolder, listen: Listener = ignore, *, threads: int = 2) -> None:
        self.made: Counter[str] = Counter()
        """How many "images" were written, attempts were "retried", images are "unaccepted", and how many hold "fewer"
        defects than were drawn for them."""
        self._folder, self._listen = folder, guarded(listen)
        self._pool = ThreadPoolExecutor(threads)
        self._limit = threads + WAITING
        self._pending: deque[Future[ImageRecord]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._pool.shutdown()
        failures = []
        while self._pending:  # also after an error: what is on the disk is reported
            try:
                self._report(self._pending.popleft())
            except Exception as failure:
                failures.append(failure)
        if failures and error is None:
            raise failures[0]

    def put(self, produced: Produced | Encoded) -> None:
        """Write an image; returns before it is on the disk.

        Raises:
            OutputError: an image that was put in earlier could not be written.
        """
        self._pending.append(self._pool.submit(self._write, produced))
        while self._pending and (self._pending[0].done() or len(self._pending) > self._limit):
            self._report(self._pending.popleft())

    def _write(self, produced: Produced | Encoded) -> ImageRecord:
        if isinstance(produced, Encoded):
            return self._folder.add_files(produced.record, produced.pixels, produced.mask, produced.labels)
        return self._folder.add(produced.record, produced.pixels, produced.mask, produced.labels)

    def _report(self, write: Future[ImageRecord]) -> None:
        record = write.result()
        kept, fewer = int(not record.accepted), int(record.missing is not None)
        self.made.update(images=1, retried=len(record.rejected), unaccepted=kept, fewer=fewer)
        self._listen(ImageFinished(self._folder.root, record))
