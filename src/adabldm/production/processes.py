"""Several processes on one machine make the batches of a plan; the results come back in the batches' order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor

import torch

from adabldm.core.processes import told_of_kills, worker_context
from adabldm.production.plan import Batch, ProductionPlan
from adabldm.production.produce import Producer
from adabldm.production.results import Encoded, encode

AHEAD = 2
"""Batches for each process that are handed out before the first of them is back."""

_producer: Producer | None = None
"""Of a worker process."""


def produce_in_processes(plan: ProductionPlan, batches: Sequence[Batch], workers: int) -> Iterator[Encoded]:
    """Make the wanted images of batches in processes of their own.

    Each process loads run and data set once. Results do not depend on the number of processes, because an image
    depends on the plan and its batch alone. The threads of this process are shared out among them.

    Args:
        plan: of the production.
        batches: in the order in which the results come back.
        workers: number of processes.

    Raises:
        InputError: run or data have changed since the plan was made.
        OutputError: a process was killed; what came back before is not lost.
    """
    threads = max(1, torch.get_num_threads() // workers)
    context = worker_context("adabldm.production.processes", "adabldm.models.libraries")
    with told_of_kills(), ProcessPoolExecutor(workers, context, _start, (plan, threads)) as pool:
        waiting, ahead = iter(batches), deque[Future[list[Encoded]]]()
        try:
            for batch in waiting:
                ahead.append(pool.submit(_work, batch))
                if len(ahead) >= AHEAD * workers:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _start(plan: ProductionPlan, threads: int) -> None:
    global _producer
    torch.set_num_threads(threads)
    _producer = Producer(plan)


def _work(batch: Batch) -> list[Encoded]:
    assert _producer is not None
    return [encode(produced) for produced in _producer.produce([batch])]
