"""The workers of a Ray cluster train the cells of an evaluation; what a cell writes comes back as bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from adabldm.core.cluster import Spread, work_on_ray
from adabldm.core.events import Listener, ignore
from adabldm.core.images import atomic_file
from adabldm.evaluation.cells import Cell, Comparison
from adabldm.models.devices import pick_device

Files = dict[str, bytes]
"""Contents by path relative to the folder of the evaluation."""


def train_on_ray(
    comparison: Comparison, cells: Sequence[Cell], address: str, cores: int, listen: Listener = ignore
) -> Iterator[Cell]:
    """Train cells on a cluster; each one's files are written here, its record last, before it is given.

    Args:
        comparison: what the cells have in common; the images are in it, so that no node needs the data.
        cells: those that are missing.
        address: of the cluster, see `Spread`.
        cores: of each worker.
        listen: is told of nodes that are left out.

    Raises:
        InputError: no cluster, or none of its nodes can do the work.
        OutputError: a file could not be written, or workers were killed again and again.
    """
    cuda = comparison.device.type == "cuda"
    spread = Spread(address, _maker, comparison, cores, True if cuda else None, "evaluate")
    for cell, files in work_on_ray(spread, cells, listen):
        record = comparison.path(cell.name).relative_to(comparison.out).as_posix()
        for name in sorted(files, key=lambda name: name == record):
            with atomic_file(comparison.out / name) as file:
                file.write(files[name])
        yield cell


def _maker(comparison: Comparison) -> Callable[[Cell], Files]:
    device = torch.device("cpu") if comparison.device.type == "cpu" else pick_device("auto")

    def work(cell: Cell) -> Files:
        with tempfile.TemporaryDirectory(prefix="adabldm-cell-") as place:
            out = Path(place)
            replace(comparison, out=out, device=device).train(cell)
            return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    return work
