"""Batches of jobs become images: in this process, or in any other that has the same run and data."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from adabldm.core.errors import InputError
from adabldm.core.images import Mask
from adabldm.core.records import ImageRecord, Rejection
from adabldm.core.seeding import torch_generator
from adabldm.editing.editor import Edited, Editor
from adabldm.editing.rendered import RenderingEditor
from adabldm.models.devices import pick_device, pick_dtype
from adabldm.production.plan import Batch, ImageJob, ProductionPlan, Supplies, plan_production
from adabldm.production.scenes import Scene
from adabldm.selection.rules import Candidate, first_rejection

ATTEMPTS = 4
"""Tries for one image; when all are rejected, the one with the strongest edit is kept and marked."""
AHEAD = 2
"""Batches whose scenes are drawn while another one is edited."""


@dataclass(frozen=True)
class Produced:
    """A finished image that is not written yet.

    Attributes:
        record: of the image, without paths: these are the folder's.
        pixels: in the form of the source's file: uint8 HxWx3 or HxW, or uint16 HxW.
        mask: bool HxW.
    """

    record: ImageRecord
    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    mask: Mask


@dataclass
class _Item:
    """One image on its way: the scene of the present attempt, the best result so far, and what was rejected."""

    job: ImageJob
    scene: Scene
    best: tuple[Scene, Edited, int] | None = None
    accepted: bool = False
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

    def produce(self, batches: Iterable[Batch]) -> Iterator[Produced]:
        """Make the wanted images of batches, in order; threads draw the scenes of the next ones meanwhile."""
        waiting = iter(batches)
        with ThreadPoolExecutor(self.plan.settings.threads) as pool:
            ahead: deque[tuple[Batch, Future[list[_Item]]]] = deque()

            def fetch(count: int) -> None:
                ahead.extend((batch, pool.submit(self._prepare, batch)) for batch in islice(waiting, count))

            fetch(AHEAD)
            while ahead:
                batch, scenes = ahead.popleft()
                items = scenes.result()
                fetch(1)
                self._edit(items)
                yield from (self._produced(item) for item in items if item.job.index in batch.wanted)

    def _prepare(self, batch: Batch) -> list[_Item]:
        seed = self.plan.settings.seed
        return [_Item(job, self.maker.draw(job.defect, seed, job.index, 0)) for job in batch.jobs]

    def _edit(self, items: list[_Item]) -> None:
        """Edit a batch; what is rejected is tried again with the next random stream."""
        plan, pending = self.plan, items
        for attempt in range(ATTEMPTS):
            if attempt:
                for item in pending:
                    item.scene = self.maker.draw(item.job.defect, plan.settings.seed, item.job.index, attempt)
            jobs = [
                replace(
                    item.scene.job(
                        plan.prompts[item.job.defect],
                        torch_generator("edit", plan.settings.seed, item.job.index, attempt),
                    ),
                    defect=item.job.defect,
                )
                for item in pending
            ]
            results = self._editor.edit(jobs, plan.preset, window=plan.settings.window)
            for item, edited in zip(pending, results, strict=True):
                self._judge(item, edited, attempt)
            pending = [item for item in pending if not item.accepted]
            if not pending:
                return

    def _judge(self, item: _Item, edited: Edited, attempt: int) -> None:
        """Accept a result or write down why not; the best one so far is kept."""
        scene = item.scene
        real = self.maker.instances.get(item.job.defect)
        candidate = Candidate(
            edited.pixels,
            scene.picture.pixels,
            scene.mask,
            edited.scores,
            item.job.defect,
            None if real is None else lambda: real,
        )
        reason = first_rejection(candidate, self.plan.settings.limits)
        if item.best is None or reason is None or edited.scores.contrast > item.best[1].scores.contrast:
            item.best = (scene, edited, attempt)
        item.accepted = reason is None
        if reason is not None:
            item.rejected.append(Rejection(attempt=attempt, source=scene.path, reason=reason))

    def _produced(self, item: _Item) -> Produced:
        assert item.best is not None
        plan, (scene, edited, attempt) = self.plan, item.best
        record = ImageRecord(
            image="",
            mask="",
            index=item.job.index,
            source=scene.path,
            defect=item.job.defect,
            object=plan.object_name,
            prompt=plan.prompts[item.job.defect],
            seed=plan.settings.seed,
            attempt=attempt,
            preset=plan.preset.name,
            adapt=plan.preset.adaptation.method,
            **edited.figures(),
            accepted=item.accepted,
            rejected=tuple(item.rejected),
            shape=scene.shape.source,
            reference=self._reference(scene),
            exposure=round(scene.exposure if plan.preset.put_back.match_exposure else 1.0, 4),
            levels=None if scene.picture.deep is None else scene.picture.levels,
            model=plan.model,
        )
        return Produced(record, scene.picture.as_file(edited.pixels), scene.mask)

    def _reference(self, scene: Scene) -> str | None:
        """The real image whose defect the edit began from, relative to the data set."""
        instance = scene.shape.instance
        if instance is None or self.plan.preset.look is None:
            return None
        return self.maker.data_set.relative(instance.sample)


def _editor(supplies: Supplies) -> Editor | RenderingEditor:
    """What draws the defects of a run."""
    if supplies.components is None:
        return RenderingEditor()
    return Editor(supplies.components, supplies.card.resolution)


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
