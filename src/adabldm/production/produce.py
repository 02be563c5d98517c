"""Batches of jobs become images: in this process, or in any other that has the same run and data."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch

from adabldm.core.errors import InputError
from adabldm.core.records import Rejection
from adabldm.core.seeding import torch_generator
from adabldm.editing.editor import Edited, Editor
from adabldm.editing.rendered import RenderingEditor
from adabldm.masks.placement import PlacementError
from adabldm.models.devices import pick_device, pick_dtype
from adabldm.production.plan import Batch, ImageJob, ProductionPlan, Supplies, plan_production
from adabldm.production.results import Made, Produced, finished
from adabldm.production.scenes import Scene
from adabldm.selection.nearest import NearestReal
from adabldm.selection.rules import Candidate, rejections

ATTEMPTS = 4
"""Tries for one image; when all are rejected, the one that misses the fewest rules is kept and marked."""
AHEAD = 2
"""Batches whose scenes are drawn while another one is edited."""
THREADS = (2, 8)
"""Fewest and most threads if nothing is asked for: one may wait for files, and each holds a whole picture."""


@dataclass
class _Item:
    """One image on its way: the scene of the present attempt, the defects that are made, and what was rejected.

    Attributes:
        job: what is made.
        scene: of the present defect and attempt; `None` when no place was found.
        best: of the present defect.
        done: the defects before it.
        rejected: all attempts that were rejected.
    """

    job: ImageJob
    scene: Scene | None
    best: Made | None = None
    done: list[Made] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


class Producer:
    """Makes the images of a plan; run and data set are loaded once.

    An image depends on the plan and its index alone: not on interruptions, order, threads or the process.

    Args:
        plan: of the production.
        supplies: run and data set, if this process has loaded them already.

    Raises:
        InputError: run or data are not those of the plan.
    """

    def __init__(self, plan: ProductionPlan, supplies: Supplies | None = None) -> None:
        supplies = supplies or _load_again(plan)
        self.plan, self.maker = plan, supplies.maker
        self._editor = _editor(supplies)
        self._editor.to(pick_device(plan.settings.device), pick_dtype(plan.dtype))
        self._nearest = NearestReal(supplies.maker.instances) if plan.settings.best_of > 1 else None

    def produce(self, batches: Iterable[Batch]) -> Iterator[Produced]:
        """Make the wanted images of batches, in order; threads draw the scenes of the next ones meanwhile."""
        waiting = iter(batches)
        with ThreadPoolExecutor(self.plan.settings.threads or usual_threads()) as pool:
            ahead: deque[tuple[Batch, list[Future[_Item]]]] = deque()

            def fetch(count: int) -> None:
                ahead.extend(
                    (batch, [pool.submit(self._prepare, job) for job in batch.jobs]) for batch in islice(waiting, count)
                )

            fetch(AHEAD)
            while ahead:
                batch, scenes = ahead.popleft()
                items = [scene.result() for scene in scenes]
                fetch(1)
                for slot in range(max(len(item.job.defects) for item in items)):
                    self._edit(items, slot, pool)
                yield from (
                    finished(self.plan, self.maker.data_set, item.job, item.done, item.rejected)
                    for item in items
                    if item.job.index in batch.wanted
                )

    def _prepare(self, job: ImageJob) -> _Item:
        return _Item(job, self.maker.draw(job.defect, self.plan.settings.seed, job.index, 0))

    def _edit(self, items: list[_Item], slot: int, pool: ThreadPoolExecutor) -> None:
        """Make one defect in each image of a batch; what is rejected is tried again with the next random stream.

        Args:
            items: the images.
            slot: how many defects were asked for before this one.
            pool: draws the scenes of further attempts and defects, which the batch waits for.
        """
        pending = [item for item in items if slot < len(item.job.defects)]
        for attempt in range(ATTEMPTS):
            if attempt or slot:
                drawn = [pool.submit(self._draw, item, slot, attempt) for item in pending]
                for item, scene in zip(pending, drawn, strict=True):
                    item.scene = scene.result()
            pending = [item for item in pending if item.scene is not None]
            if not pending:
                break
            candidates = [self._candidates(pending, slot, attempt, n) for n in range(self.plan.settings.best_of)]
            for item, results in zip(pending, zip(*candidates, strict=True), strict=True):
                self._keep(item, slot, attempt, results)
            pending = [item for item in pending if item.best is not None and item.best.reason is not None]
        for item in items:
            if item.best is not None:
                item.done.append(item.best)
                item.best = None

    def _draw(self, item: _Item, slot: int, attempt: int) -> Scene | None:
        """The scene of an attempt; a defect after the first goes into the picture with those before it."""
        seed, index, defect = self.plan.settings.seed, item.job.index, item.job.defects[slot]
        if not slot:
            return self.maker.draw(defect, seed, index, attempt)
        last = item.done[-1]
        canvas = last.scene.canvas.edited(last.edited.pixels, last.scene.mask)
        try:
            return self.maker.draw_on(canvas, defect, seed, index, attempt, slot)
        except PlacementError as error:
            reason = f"no place was found for {defect!r} beside the defects before it: {error}"
            item.rejected.append(Rejection(attempt=attempt, source=canvas.path, reason=reason, instance=slot + 1))
            return None

    def _candidates(self, items: Sequence[_Item], slot: int, attempt: int, candidate: int) -> list[Edited]:
        """One candidate for each image, from its own random stream; the first defect's first has the oldest one."""
        plan, more = self.plan, (slot, candidate) if candidate else (slot,) if slot else ()
        jobs = []
        for item in items:
            assert item.scene is not None
            generator = torch_generator("edit", plan.settings.seed, item.job.index, attempt, *more)
            defect, example = item.job.defects[slot], item.scene.shape.instance
            usual = None if plan.preset.look is None else self.maker.changes.ranges(defect, example)
            jobs.append(replace(item.scene.job(plan.prompts[defect], generator, usual), defect=defect))
        return self._editor.edit(jobs, plan.preset, window=plan.settings.window)

    def _keep(self, item: _Item, slot: int, attempt: int, results: Sequence[Edited]) -> None:
        """Take the best candidate of an attempt, and note why if it is rejected; the best attempt so far is kept."""
        assert item.scene is not None
        defect, scene = item.job.defects[slot], item.scene
        judged = [self._judged(Made(defect, scene, one, attempt, number)) for number, one in enumerate(results)]
        passed = [one for one in judged if one.reason is None]
        own = (
            min(passed, key=lambda one: (one.distance is None, one.distance or 0.0, one.candidate))
            if passed
            else min(judged, key=lambda one: (*_badness(one), one.candidate))
        )
        if item.best is None or _badness(own) < _badness(item.best):
            item.best = own
        if own.reason is not None:
            number = slot + 1 if len(item.job.defects) > 1 else None
            item.rejected.append(Rejection(attempt=attempt, source=scene.path, reason=own.reason, instance=number))

    def _judged(self, made: Made) -> Made:
        """The same with its distance and with what the rules say."""
        scene, edited = made.scene, made.edited
        distance = None
        if self._nearest is not None:
            distance = self._nearest.distance(edited.pixels, scene.mask, made.defect, scene.shape.instance)
        candidate = Candidate(
            edited.pixels,
            scene.picture.pixels,
            scene.mask,
            edited.scores,
            made.defect,
            self.maker.changes.of(made.defect),
            scene.foreground,
        )
        reasons = list(rejections(candidate, self.plan.settings.limits))
        return replace(made, distance=distance, reason=reasons[0] if reasons else None, missed=len(reasons))


def usual_threads() -> int:
    """Threads beside the edits: as many as this process may compute with, within `THREADS`."""
    return int(np.clip(torch.get_num_threads(), *THREADS))


def _badness(made: Made) -> tuple[int, float]:
    """Orders results: by the number of rules that they miss, then by their contrast."""
    return made.missed, -made.edited.scores.contrast


def _editor(supplies: Supplies) -> Editor | RenderingEditor:
    """What draws the defects of a run."""
    if supplies.components is None:
        return RenderingEditor()
    return Editor(supplies.components, supplies.card.resolution, supplies.card.calibration)


def _load_again(plan: ProductionPlan) -> Supplies:
    """Run and data set of a plan that was made elsewhere."""
    own, supplies = plan_production(plan.settings)
    # The precision was decided once for all processes; what their devices prefer does not count.
    if replace(own, dtype=plan.dtype).decisive() != plan.decisive():
        raise InputError(
            f"{plan.settings.run} and {plan.settings.data}: not as they were when the production was planned; restore "
            "them, or start it again."
        )
    return supplies
