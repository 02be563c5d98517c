"""The cells of an evaluation: a detector, trained on one condition with one seed, and tested on the real images.

Every finished cell is a file, so that a kill loses the running ones only. Cells do not depend on each other: several
processes can train them at once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from adabldm.evaluation.detectors.common import ScoreMap, image_score
from adabldm.evaluation.detectors.registry import Budget, make_detector
from adabldm.evaluation.labelled import Labelled
from adabldm.evaluation.measures import image_auroc, pixel_measures
from adabldm.images import atomic_file, write_png
from adabldm.workflows.conditions import file_name

LABEL_FREE = ("patchcore",)
"""Detectors that learn from defect-free images alone: one result serves all conditions."""
ANY = "any"
"""The condition of those."""
MEAN = "mean"
SHOWN_TESTS = 10


@dataclass(frozen=True)
class RealImages:
    """The real images: what every condition is trained on, and what all are tested on."""

    train: list[Labelled]
    test: list[Labelled]

    def defects(self, images: list[Labelled], defect: str | None = None) -> list[Labelled]:
        """Those of `images` with a defect, or with a defect of one type."""
        return [one for one in images if one.mask is not None and defect in (None, one.defect)]


@dataclass(frozen=True)
class Cell:
    """One detector on one condition (`ANY` for a label-free detector) with one seed."""

    detector: str
    condition: str
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.detector}-{file_name(self.condition)}-{self.seed}"


@dataclass(frozen=True)
class Comparison:
    """What all cells have in common.

    Attributes:
        out: folder of the evaluation.
        types: defect types.
        budget: of the detectors.
        steps: of the trained detectors, instead of the budget's.
        networks: trained for a cell, whose maps are averaged.
        device: where they are trained.
        real: images that all are trained and tested on.
        synthetic: images that a condition adds.
        quiet: no progress bars.
    """

    out: Path
    types: tuple[str, ...]
    budget: Budget
    steps: int | None
    networks: int
    device: torch.device
    real: RealImages
    synthetic: Mapping[str, list[Labelled]]
    quiet: bool = False

    def path(self, name: str) -> Path:
        """File of a cell."""
        return self.out / "cells" / f"{name}.json"

    def make(self, name: str, make: Callable[[], dict[str, Any]]) -> None:
        """Make a cell and write it, if it is not there."""
        if self.path(name).exists():
            return
        made = make()
        with atomic_file(self.path(name)) as file:
            file.write((json.dumps(made, indent=1) + "\n").encode())

    def read(self, name: str) -> dict[str, Any]:
        """A finished cell."""
        found: dict[str, Any] = json.loads(self.path(name).read_text(encoding="utf-8"))
        return found

    def train(self, cell: Cell) -> None:
        """Fit and test a detector, if that was not done."""
        self.make(cell.name, lambda: self._trained(cell))

    def _trained(self, cell: Cell) -> dict[str, Any]:
        training = [*self.real.train, *self.synthetic.get(cell.condition, [])]
        networks = 1 if cell.detector in LABEL_FREE else self.networks
        maps: list[ScoreMap] = []
        fit_seconds = test_seconds = 0.0
        for seed in range(cell.seed * networks, (cell.seed + 1) * networks):
            began = time.monotonic()
            model = make_detector(cell.detector, self.budget, self.device, steps=self.steps)
            model.fit(training, seed=seed, quiet=self.quiet)
            fitted = time.monotonic()
            bar = tqdm(self.real.test, desc=f"test {cell.name}", unit="img", disable=self.quiet)
            found = [model.predict(one.pixels) for one in bar]
            maps = [own + other for own, other in zip(maps, found, strict=True)] if maps else found
            fit_seconds += fitted - began
            test_seconds += time.monotonic() - fitted
        maps = [map_ / np.float32(networks) for map_ in maps]
        if cell.seed == 0:
            self._save_maps(cell.name, maps)
        return {
            "fit_seconds": round(fit_seconds, 1),
            "test_seconds": round(test_seconds, 1),
            "measures": _measures(maps, self.real.test, self.types),
        }

    def _save_maps(self, name: str, maps: list[ScoreMap]) -> None:
        """Maps of the test images that the report shows, stretched to 0…255 between the medians of good and the top."""
        low = statistics.median(float(map_.mean()) for map_ in maps)
        high = max(float(map_.max()) for map_ in maps)
        for index in shown_tests(self.real.test):
            scaled = (maps[index] - low) / max(high - low, 1e-9) * 255
            write_png(self.out / "maps" / name / f"{index:05d}.png", scaled.clip(0, 255).astype("uint8"))


def train_cells(comparison: Comparison, cells: Sequence[Cell], workers: int = 1) -> None:
    """Train the cells that are missing, `workers` at once in processes of their own, which share the threads.

    Small networks use two threads badly: two processes with a thread each finish sooner. Where one fails, those that
    are running are finished and written. A worker that loses its parent ends itself.
    """
    missing = [cell for cell in cells if not comparison.path(cell.name).exists()]
    if min(workers, len(missing)) < 2:
        for cell in missing:
            comparison.train(cell)
        return
    threads = max(1, torch.get_num_threads() // workers)
    spawned = multiprocessing.get_context("spawn")
    with (
        tqdm(total=len(missing), desc="detectors", unit="fit", disable=comparison.quiet) as bar,
        ProcessPoolExecutor(workers, spawned, _start_worker, (comparison, threads)) as pool,
    ):
        try:
            for done in as_completed([pool.submit(_train_in_worker, cell) for cell in missing]):
                done.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_comparison: list[Comparison] = []
"""In a worker, what it was started with."""


def _start_worker(comparison: Comparison, threads: int) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _comparison.append(replace(comparison, quiet=True))


def _train_in_worker(cell: Cell) -> None:
    _comparison[0].train(cell)


def _measures(maps: list[ScoreMap], images: list[Labelled], types: Sequence[str]) -> dict[str, dict[str, float]]:
    """Measures of each type against the defect-free test images, and their mean, in percent."""
    scores = [image_score(map_) for map_ in maps]
    found: dict[str, dict[str, float]] = {}
    for defect in types:
        picks = [index for index, one in enumerate(images) if one.mask is None or one.defect == defect]
        masks = [
            one.mask if one.mask is not None else torch.zeros(one.pixels.shape[:2], dtype=torch.bool).numpy()
            for one in (images[index] for index in picks)
        ]
        found[defect] = {
            **asdict(pixel_measures([maps[index] for index in picks], masks)),
            "image_auroc": image_auroc(
                [scores[index] for index in picks], [images[index].mask is not None for index in picks]
            ),
        }
    keys = list(found[types[0]])
    found[MEAN] = {key: statistics.fmean(found[defect][key] for defect in types) for key in keys}
    return {defect: {key: round(value, 3) for key, value in own.items()} for defect, own in found.items()}


def shown_tests(images: Sequence[Labelled]) -> list[int]:
    """Indices of the test images that the report shows: defects, spread evenly."""
    defective = [index for index, one in enumerate(images) if one.mask is not None]
    step = max(1, len(defective) // SHOWN_TESTS)
    return defective[step // 2 :: step][:SHOWN_TESTS]
