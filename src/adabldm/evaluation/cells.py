"""The cells of an evaluation: a detector, trained on one condition with one seed, and tested on the real images.

Every finished cell is a file, so that a kill loses the running ones only. Cells do not depend on each other: several
processes can train them at once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from adabldm.core.events import Task, Workload
from adabldm.core.images import write_png
from adabldm.core.processes import end_with_parent, told_of_kills, worker_context
from adabldm.core.records import CellRecord, VersionedRecord, read_record, write_record
from adabldm.core.records.evaluation import MEAN, MEASURES, CellMeasures, Measures
from adabldm.core.records.files import OneRecord
from adabldm.core.settings.evaluate import Budget
from adabldm.evaluation.conditions import file_name
from adabldm.evaluation.detectors.common import Advance, Detector, ScoreMap, image_score, unreported
from adabldm.evaluation.detectors.registry import DETECTORS, make_detector
from adabldm.evaluation.labelled import Labelled
from adabldm.evaluation.measures import image_auroc, pixel_measures

ANY = "any"
"""Condition of label-free detectors, which serves all conditions."""
SHOWN_TESTS = 10
"""Test images that the report shows."""


@dataclass(frozen=True)
class RealImages:
    """The real images: what every condition is trained on, and what all are tested on."""

    train: list[Labelled]
    test: list[Labelled]


@dataclass(frozen=True)
class Cell:
    """One detector on one condition (`ANY` for a label-free detector) with one seed."""

    detector: str
    condition: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.detector}-{file_name(self.condition)}-{self.seed}"


def rows(detector: str, conditions: Sequence[str]) -> tuple[str, ...]:
    """The conditions that a detector is trained on: one for all if it is label-free."""
    return (ANY,) if DETECTORS[detector].label_free else tuple(conditions)


@dataclass(frozen=True)
class CellSteps:
    """Callbacks that are told the progress of a cell: training steps, and test images."""

    train: Advance = unreported
    test: Advance = unreported


@dataclass(frozen=True)
class Comparison:
    """What all cells have in common. It can be pickled.

    Attributes:
        out: folder of the evaluation.
        types: defect types.
        budget: budget of the detectors.
        steps: optimiser steps of the trained detectors, instead of the budget's.
        networks: number of networks that are trained for a cell and whose maps are averaged.
        device: where they are trained.
        real: images that all are trained and tested on.
        synthetic: images that each condition adds.
    """

    out: Path
    types: tuple[str, ...]
    budget: Budget
    steps: int | None
    networks: int
    device: torch.device
    real: RealImages
    synthetic: Mapping[str, list[Labelled]]

    def path(self, name: str) -> Path:
        """File of a cell."""
        return self.out / "cells" / f"{name}.json"

    def make(self, name: str, make: Callable[[], VersionedRecord]) -> None:
        """Make a cell and write it, if it is not there."""
        if not self.path(name).exists():
            write_record(self.path(name), make())

    def read(self, name: str, kind: type[OneRecord]) -> OneRecord:
        """A finished cell.

        Raises:
            InputError: its file is damaged, or of a later version.
        """
        return read_record(self.path(name), kind)

    def training(self, condition: str) -> list[Labelled]:
        """The images that detectors are trained on in a condition."""
        return [*self.real.train, *self.synthetic.get(condition, [])]

    def units(self, detector: str) -> tuple[int, int]:
        """(training steps, predicted test images) of a cell of this detector."""
        steps = self._detector(detector).steps(self.real.train)
        return self._networks(detector) * steps, self._networks(detector) * len(self.real.test)

    def train(self, cell: Cell, steps: CellSteps | None = None) -> None:
        """Fit and test a detector, if that was not done."""
        self.make(cell.name, lambda: self._trained(cell, steps or CellSteps()))

    def _networks(self, detector: str) -> int:
        return 1 if DETECTORS[detector].label_free else self.networks

    def _detector(self, name: str) -> Detector:
        return make_detector(name, self.budget, self.device, steps=self.steps)

    def _trained(self, cell: Cell, steps: CellSteps) -> CellRecord:
        training, networks = self.training(cell.condition), self._networks(cell.detector)
        maps: list[ScoreMap] = []
        fit_seconds = test_seconds = 0.0
        for seed in range(cell.seed * networks, (cell.seed + 1) * networks):
            began = time.monotonic()
            model = self._detector(cell.detector)
            model.fit(training, seed=seed, advance=steps.train)
            fitted = time.monotonic()
            found = []
            for image in self.real.test:
                found.append(model.predict(image.pixels))
                steps.test(1)
            maps = [own + other for own, other in zip(maps, found, strict=True)] if maps else found
            fit_seconds += fitted - began
            test_seconds += time.monotonic() - fitted
        maps = [map_ / np.float32(networks) for map_ in maps]
        if cell.seed == 0:
            self._save_maps(cell.name, maps)
        return CellRecord(
            fit_seconds=round(fit_seconds, 1),
            test_seconds=round(test_seconds, 1),
            measures=measure(maps, self.real.test, self.types),
        )

    def _save_maps(self, name: str, maps: list[ScoreMap]) -> None:
        """Maps of the test images that the report shows, stretched from the median of their means to the maximum."""
        low = statistics.median(float(map_.mean()) for map_ in maps)
        high = max(float(map_.max()) for map_ in maps)
        for index in shown_tests(self.real.test):
            scaled = (maps[index] - low) / max(high - low, 1e-9) * 255
            write_png(self.out / "maps" / name / f"{index:05d}.png", scaled.clip(0, 255).astype("uint8"))


class CellProgress:
    """The tasks of all cells in a workload: each detector has one of training steps and one of test images.

    Args:
        comparison: what the cells have in common.
        cells: all cells of the command, also finished ones.
    """

    def __init__(self, comparison: Comparison, cells: Sequence[Cell]) -> None:
        self._cells = cells
        self._units = {name: comparison.units(name) for name in dict.fromkeys(cell.detector for cell in cells)}
        self._done = {cell for cell in cells if comparison.path(cell.name).exists()}

    def tasks(self) -> list[Task]:
        """The tasks; what was finished earlier counts as done."""
        found: list[Task] = []
        for detector, (steps, images) in self._units.items():
            own = [cell for cell in self._cells if cell.detector == detector]
            done, cost = len(self._done.intersection(own)), DETECTORS[detector].step_seconds
            found.append(Task(_training(detector), steps * len(own), "step", cost, steps * done))
            found.append(Task(_testing(detector), images * len(own), "img", cost, images * done))
        return found

    def steps(self, work: Workload, cell: Cell) -> CellSteps:
        """Callbacks that hand the progress of a cell on to the workload."""
        return CellSteps(
            partial(_advance, work, _training(cell.detector)), partial(_advance, work, _testing(cell.detector))
        )

    def finished(self, work: Workload, cell: Cell) -> None:
        """A whole cell was finished elsewhere."""
        for name, units in zip(
            (_training(cell.detector), _testing(cell.detector)), self._units[cell.detector], strict=True
        ):
            work.advance(name, units)


def _advance(work: Workload, task: str, units: int = 1, /, **figures: float) -> None:
    work.advance(task, units, **figures)


def _training(detector: str) -> str:
    return f"train {detector}"


def _testing(detector: str) -> str:
    return f"test {detector}"


def train_cells(
    comparison: Comparison, cells: Sequence[Cell], work: Workload, progress: CellProgress, workers: int = 1
) -> None:
    """Train the cells that are missing, `workers` at once in processes of their own, which share the threads.

    Small networks use two threads badly: two processes with a thread each finish sooner. Where one fails, those that
    are running are finished and written. A worker that loses its parent ends itself.

    Args:
        comparison: what the cells have in common.
        cells: all cells.
        work: is told the progress; with several workers, every finished cell.
        progress: the tasks of the cells in `work`.
        workers: number of processes.

    Raises:
        OutputError: a worker was killed; what is finished stays.
    """
    missing = [cell for cell in cells if not comparison.path(cell.name).exists()]
    if min(workers, len(missing)) < 2:
        for cell in missing:
            comparison.train(cell, progress.steps(work, cell))
        return
    threads = max(1, torch.get_num_threads() // workers)
    context = worker_context("adabldm.evaluation.cells")
    with told_of_kills(), ProcessPoolExecutor(workers, context, _start_worker, (comparison, threads)) as pool:
        try:
            running = {pool.submit(_train_in_worker, cell): cell for cell in missing}
            for done in as_completed(running):
                done.result()
                progress.finished(work, running[done])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_comparison: list[Comparison] = []
"""In a worker, what it was started with."""


def _start_worker(comparison: Comparison, threads: int) -> None:
    end_with_parent()
    torch.set_num_threads(threads)
    _comparison.append(comparison)


def _train_in_worker(cell: Cell) -> None:
    _comparison[0].train(cell)


def measure(maps: Sequence[ScoreMap], images: Sequence[Labelled], types: Sequence[str]) -> CellMeasures:
    """Measures of each defect type against the defect-free images, and their mean, in percent.

    An image takes part in the measures of a type if it shows that type or no defect at all; where it shows defects of
    other types too, their pixels count for neither side.
    """
    found: dict[str, dict[str, float]] = {}
    for defect in types:
        picks = [index for index, image in enumerate(images) if not image.marks or image.has(defect)]
        chosen = [maps[index] for index in picks]
        truths = [images[index].truth(defect) for index in picks]
        pixels = pixel_measures(chosen, [wanted for wanted, _ in truths], [others for _, others in truths])
        scores = [
            image_score(map_ if others is None else map_[~others])
            for map_, (_, others) in zip(chosen, truths, strict=True)
        ]
        defective = [bool(images[index].marks) for index in picks]
        found[defect] = {**asdict(pixels), "image_auroc": image_auroc(scores, defective)}
    found[MEAN] = {key: statistics.fmean(found[defect][key] for defect in types) for key in MEASURES}
    return {
        defect: Measures[float](**{key: round(value, 3) for key, value in own.items()}) for defect, own in found.items()
    }


def shown_tests(images: Sequence[Labelled]) -> list[int]:
    """Indices of the test images that the report shows: defects, spread evenly."""
    defective = [index for index, one in enumerate(images) if one.marks]
    step = max(1, len(defective) // SHOWN_TESTS)
    return defective[step // 2 :: step][:SHOWN_TESTS]
