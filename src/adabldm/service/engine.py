"""Edits for many callers at once, with models that stay loaded.

with EditEngine(Runs()) as engine:
    request = EditRequest.create(picture, mask=mask, run="magnetic-tile", defect="crack", seed=7)
    result = engine.edit(request)  # or: await engine.edit_async(request)
    result.pixels, result.mask, result.record
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from adabldm.core.errors import AdaBLDMError, InputError
from adabldm.core.images import Mask, Picture
from adabldm.core.precision import fast_half
from adabldm.core.prompts import defect_prompt
from adabldm.core.records import ImageRecord, RunCard
from adabldm.core.samples import Instance
from adabldm.core.seeding import numpy_rng
from adabldm.core.settings import EditPreset, EditSettings, FieldProblem, SettingsError
from adabldm.core.settings.common import Limits
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import open_data_set
from adabldm.editing.editor import Edited, EditJob, Editor
from adabldm.editing.rendered import RenderingEditor
from adabldm.editing.stage_plan import Step
from adabldm.models.devices import pick_device, pick_dtype
from adabldm.models.store import RENDERING, digest, load_run, read_card
from adabldm.rendering.render import RENDERER
from adabldm.selection.rules import Candidate, first_rejection
from adabldm.service.runs import Runs, UnknownRunError

if TYPE_CHECKING:
    from adabldm.pipeline import AdaBLDMPipeline, ImageLike, Reference

LARGE = 100_000_000
"""Weights of a UNet from which one edit keeps all cores busy."""
LOADED = 4
"""Runs that stay loaded; the one that was not used for longest goes first."""
OTHER = "defect"
"""Defect type in the record of an edit by a free prompt."""
SOURCE = "picture"
"""Source in the record of an edit; who keeps the picture in a folder puts the path there."""
FIELDS = ("reference", "trimap", "mask", "image", "prompt", "example")
"""Fields of a request that a message of the pipeline may be about, the first that it names wins."""


class BusyError(AdaBLDMError):
    """Too many edits wait; `retry_after` are seconds after which there should be room."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"{waiting} edits wait already; try again in {retry_after} s.")


class ClosedError(AdaBLDMError):
    """The engine is about to end and takes nothing new."""


@dataclass(frozen=True, eq=False)
class EditRequest:
    """One picture to edit.

    Attributes:
        image: PIL image, or array: uint8 HxW or HxWx3, or uint16 HxW.
        settings: run, defect type or prompt, seed, preset and its changes.
        mask: where the defect is to be, HxW, non-zero is defect; everything is object then.
        trimap: instead of a mask, HxW of 0 background, 128 object, 255 defect.
        reference: (image, mask) of a real defect to begin from; `settings.example` draws one from the run's data.
    """

    image: ImageLike
    settings: EditSettings
    mask: ImageLike | None = None
    trimap: ImageLike | None = None
    reference: Reference | None = None

    @classmethod
    def create(
        cls,
        image: ImageLike,
        *,
        mask: ImageLike | None = None,
        trimap: ImageLike | None = None,
        reference: Reference | None = None,
        **settings: Any,
    ) -> Self:
        """A request from plain values; `settings` are the fields of `EditSettings`.

        Raises:
            SettingsError: values that do not fit, all at once.
        """
        return cls(image, EditSettings.create(settings), mask, trimap, reference)


@dataclass(frozen=True, eq=False)
class EditResult:
    """An edited picture.

    Attributes:
        pixels: in the form of the given picture: uint8 HxWx3 or HxW, or uint16 HxW.
        mask: of the defect, bool HxW.
        record: scores, preset, window and so on, as `generate` writes them; `GeneratedFolder.add` sets its paths,
            and who keeps it sets `index` and `source`. `accepted` tells whether it passes the usual limits.
        rejection: the limit that it misses, in one sentence; `None` if it passes.
        seconds: from the request to the result.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    mask: Mask
    record: ImageRecord
    rejection: str | None
    seconds: float


@dataclass(frozen=True)
class EngineOptions:
    """How much an engine does at once.

    Attributes:
        device: auto, cpu, cuda or cuda:N.
        workers: edits side by side; if left out one for each core, or one on a GPU. An edit runs on one thread then,
            except with large models, which take turns and use all cores.
        batch_size: edits that go through the networks at once, filled up to this number, so that the bytes of an edit
            never depend on the others. They equal those of `AdaBLDMPipeline` if it is 1, in single precision.
        dtype: float32, bfloat16, float16, or auto for bfloat16 where the device is quicker in it.
        patience: seconds that a batch waits for more.
        queue: edits that may wait.
        megapixels: of all pictures that wait, so that the memory stays bounded.
    """

    device: str = "auto"
    workers: int | None = None
    batch_size: int = 1
    dtype: str = "float32"
    patience: float = 0.004
    queue: int = 64
    megapixels: float = 400.0


@dataclass(frozen=True)
class EngineLoad:
    """What an engine is doing.

    Attributes:
        waiting: edits that wait.
        running: edits that are computed.
        workers: edits that can be computed side by side.
    """

    waiting: int
    running: int
    workers: int


class _AbandonedError(Exception):
    """Nobody waits for the edit any more."""


class _EditFuture(Future[EditResult]):
    """A future whose `cancel` also ends an edit that has begun, after its present step."""

    def __init__(self) -> None:
        super().__init__()
        self.abandoned = False

    def cancel(self) -> bool:
        self.abandoned = True
        return super().cancel()


@dataclass(eq=False)
class _Work:
    """A request on its way."""

    request: EditRequest
    folder: Path
    card: RunCard
    preset: EditPreset
    size: float
    future: _EditFuture = field(default_factory=_EditFuture)
    since: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> tuple[Path, EditPreset, str]:
        """Edits with equal keys can go through the networks at once."""
        return self.folder, self.preset, self.request.settings.window


@dataclass(eq=False)
class _Loaded:
    """A run in memory.

    Attributes:
        pipeline: checks requests and makes jobs of them.
        editor: of the same networks.
        model: digest of the weights.
        card: as it was read; a run that was fitted anew has another one.
        large: whether one edit keeps all cores busy.
        instances: real defects of its data set by type, once they were asked for.
    """

    pipeline: AdaBLDMPipeline
    editor: Editor | RenderingEditor
    model: str
    card: RunCard
    large: bool
    instances: dict[str, tuple[Instance, ...]] | None = None


Observer = Callable[[str, float], None]
"""Is told how an edit ended ("done", "refused", "failed", "cancelled") and the seconds since its request."""


class EditEngine:
    """Edits pictures for many callers; every method may be called from any thread.

    The bytes of a result depend on the request alone: not on other requests, workers or their order. With a batch
    size of 1 in single precision they are those that `AdaBLDMPipeline` gives for the same picture and seed on one
    thread.

    Args:
        runs: that are offered; a list of names or folders does, too.
        options: how much is done at once.
        observe: is told how every edit ended.
    """

    def __init__(
        self,
        runs: Runs | Sequence[str | Path] = (),
        options: EngineOptions | None = None,
        observe: Observer | None = None,
    ) -> None:
        self.options = options or EngineOptions()
        self._runs = runs if isinstance(runs, Runs) else Runs(runs)
        self._observe = observe or (lambda outcome, seconds: None)
        self._device = pick_device(self.options.device)
        half = self.options.dtype == "auto" and fast_half(self._device)
        self._dtype = torch.bfloat16 if half else pick_dtype(self.options.dtype.replace("auto", "float32"))
        usual = _cores() if self._device.type == "cpu" else 1
        self.workers = self.options.workers or usual
        self._changed = threading.Condition()
        self._waiting: deque[_Work] = deque()
        self._running = 0
        self._closing = False
        self._mean = 1.0
        self._loading, self._all_cores = threading.Lock(), threading.Lock()
        self._loaded: OrderedDict[Path, _Loaded] = OrderedDict()
        self._threads = [
            threading.Thread(target=self._work, name=f"edit-{number}", daemon=True) for number in range(self.workers)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Take nothing new, finish what was asked for, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._loaded.clear()

    def runs(self) -> dict[str, RunCard]:
        """Cards of the runs that are offered, by the names that requests use."""
        return self._runs.cards()

    @property
    def load(self) -> EngineLoad:
        """How many edits wait and are computed."""
        with self._changed:
            return EngineLoad(len(self._waiting), self._running, self.workers)

    def warm(self, run: str) -> None:
        """Load a run before the first request, so that this is as quick as the next one.

        Raises:
            InputError: there is no such run, or it is damaged.
        """
        folder = self._runs.find(run)
        self._load(folder, read_card(folder))

    def edit(self, request: EditRequest) -> EditResult:
        """Edit a picture and wait for it.

        Raises:
            InputError: a request that cannot be carried out; a `SettingsError` where the field is known.
            BusyError: too many edits wait.
            ClosedError: the engine is about to end.
        """
        return self.submit(request).result()

    async def edit_async(self, request: EditRequest) -> EditResult:
        """The same for callers on an event loop; a cancelled call ends the edit after its present step."""
        return await asyncio.wrap_future(self.submit(request))

    def submit(self, request: EditRequest) -> Future[EditResult]:
        """Ask for an edit; the future's `cancel` also ends one that has begun, after its present step.

        Raises:
            SettingsError: unknown run, defect type or preset; other problems are raised by the future.
            BusyError: too many edits wait.
            ClosedError: the engine is about to end.
        """
        work = self._accept(request)
        with self._changed:
            if self._closing:
                raise ClosedError("the service is about to end; try again in a moment.")
            waiting = len(self._waiting)
            pixels = sum(one.size for one in self._waiting)
            if waiting >= self.options.queue or (waiting and pixels + work.size > self.options.megapixels):
                raise BusyError(waiting, self._retry_after())
            self._waiting.append(work)
            self._changed.notify()
        return work.future

    def _accept(self, request: EditRequest) -> _Work:
        """Check what costs nothing, so that it is told at once."""
        settings = request.settings
        preset = settings.edit_preset()
        try:
            folder = self._runs.find(settings.run)
        except UnknownRunError as error:
            message = str(error).removeprefix("run ").rstrip(".")
            raise SettingsError([FieldProblem("run", message)]) from error
        card = read_card(folder)
        known = card.defects
        if settings.prompt is None and settings.defect not in known:
            message = f"{settings.defect!r} was given, expected one of {', '.join(known) or 'none'}, or a prompt"
            raise SettingsError([FieldProblem("defect", message)])
        return _Work(request, folder, card, preset, _megapixels(request.image))

    def _retry_after(self) -> int:
        ahead = len(self._waiting) + self._running
        return max(1, min(3600, math.ceil(ahead * self._mean / self.workers / 2)))

    def _work(self) -> None:
        """What every worker does."""
        torch.set_num_threads(1 if self._device.type == "cpu" else torch.get_num_threads())
        with self._loading:  # takes seconds: while the first user still paints, not when she waits for a picture
            import_module("adabldm.pipeline")
        while batch := self._take():
            try:
                self._carry_out(batch)
            finally:
                with self._changed:
                    self._running -= len(batch)
                    self._changed.notify_all()
            del batch  # its pictures

    def _take(self) -> list[_Work]:
        """The next edits that go through the networks together; none when the engine ends."""
        with self._changed:
            while not self._waiting:
                if self._closing:
                    return []
                self._changed.wait()
            batch = [self._waiting.popleft()]
            end = time.monotonic() + self.options.patience
            while len(batch) < self.options.batch_size:
                fitting = next((one for one in self._waiting if one.key == batch[0].key), None)
                left = end - time.monotonic()
                if fitting is not None:
                    self._waiting.remove(fitting)
                    batch.append(fitting)
                elif self._closing or left <= 0:
                    break
                else:
                    self._changed.wait(left)
            self._running += len(batch)
            return batch

    def _carry_out(self, batch: list[_Work]) -> None:
        """Edit a batch; each future gets its own result or error."""
        batch = [one for one in batch if self._begin(one)]
        try:
            loaded = self._load(batch[0].folder, batch[0].card) if batch else None
        except Exception as error:
            for one in batch:
                self._end(one, error)
            return
        ready: list[tuple[_Work, Picture, EditJob, str | None]] = []
        for one in batch:
            assert loaded is not None
            try:
                ready.append((one, *_prepare(loaded, one.request, self._runs)))
            except Exception as error:
                self._end(one, error)
        if not ready or loaded is None:
            return
        try:
            edited = self._edit(loaded, [work for work, *_ in ready], [job for _, _, job, _ in ready])
            results = [
                _result(loaded, work, picture, job, example, one)
                for (work, picture, job, example), one in zip(ready, edited, strict=True)
            ]
        except Exception as error:
            for work, *_ in ready:
                self._end(work, error)
            return
        for (work, *_), result in zip(ready, results, strict=True):
            self._end(work, result)

    def _edit(self, loaded: _Loaded, works: list[_Work], jobs: list[EditJob]) -> list[Edited]:
        def on_step(step: Step, latents: Tensor) -> Tensor:
            if all(one.future.abandoned for one in works):
                raise _AbandonedError
            return latents

        settings = works[0].request.settings
        options: dict[str, Any] = {"window": settings.window, "on_step": on_step}
        if isinstance(loaded.editor, RenderingEditor):
            return loaded.editor.edit(jobs, works[0].preset, **options)
        options["fill"] = self.options.batch_size
        with torch.inference_mode(works[0].preset.adaptation.method != "finetune"):  # which trains a copy
            if not loaded.large or self._device.type != "cpu":
                return loaded.editor.edit(jobs, works[0].preset, **options)
            with self._all_cores:
                torch.set_num_threads(_cores())
                try:
                    return loaded.editor.edit(jobs, works[0].preset, **options)
                finally:
                    torch.set_num_threads(1)

    def _begin(self, work: _Work) -> bool:
        if not work.future.set_running_or_notify_cancel():
            self._observe("cancelled", time.monotonic() - work.since)
            return False
        return True

    def _end(self, work: _Work, outcome: EditResult | Exception) -> None:
        seconds = time.monotonic() - work.since
        if isinstance(outcome, EditResult):
            with self._changed:
                self._mean += 0.1 * (seconds - self._mean)
            work.future.set_result(outcome)
            self._observe("done", seconds)
        elif isinstance(outcome, _AbandonedError):
            work.future.set_exception(CancelledError())
            self._observe("cancelled", seconds)
        else:
            work.future.set_exception(outcome)
            self._observe("refused" if isinstance(outcome, InputError) else "failed", seconds)

    def _load(self, folder: Path, card: RunCard) -> _Loaded:
        """A run from memory, or from the disk if it is not there or was fitted anew."""
        with self._loading:
            known = self._loaded.get(folder)
            if known is None or known.card != card:
                self._loaded.pop(folder, None)
                known = self._loaded[folder] = self._read(folder, card)
            self._loaded.move_to_end(folder)
            while len(self._loaded) > LOADED:
                self._loaded.popitem(last=False)
            return known

    def _read(self, folder: Path, card: RunCard) -> _Loaded:
        from adabldm.pipeline import AdaBLDMPipeline

        if card.method == RENDERING:
            return _Loaded(AdaBLDMPipeline.from_pretrained(folder), RenderingEditor(), RENDERER, card, False)
        components, found = load_run(folder)
        model = digest(components)
        pipeline = AdaBLDMPipeline.from_components(components, found)
        editor = Editor(components, found.resolution, found.calibration).to(self._device, self._dtype)
        weights = sum(one.numel() for one in components.unet.parameters())
        return _Loaded(pipeline, editor, model, card, weights > LARGE)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _megapixels(image: ImageLike) -> float:
    height, width = (image.height, image.width) if isinstance(image, Image.Image) else image.shape[:2]
    return float(height * width) / 1e6


def _prepare(loaded: _Loaded, request: EditRequest, runs: Runs) -> tuple[Picture, EditJob, str | None]:
    """The picture, what the editor is given, and the path of the real example that it begins from."""
    settings, reference, example = request.settings, request.reference, None
    image = Image.fromarray(request.image) if _is_deep(request.image) else request.image
    shapes = {"mask": request.mask, "trimap": request.trimap}
    try:
        if settings.example and reference is None:
            reference, example = _draw_example(loaded, settings, runs)
        pictures, jobs = loaded.pipeline.jobs(
            image, shapes, settings.prompt, defect=settings.defect, reference=reference, seed=settings.seed
        )
    except SettingsError:
        raise
    except InputError as error:
        named = next((name for name in FIELDS if name in str(error)), "image")
        raise SettingsError([FieldProblem(named, str(error).removeprefix(f"{named}: ").rstrip("."))]) from error
    return pictures[0], jobs[0], example


def _is_deep(image: ImageLike) -> bool:
    return isinstance(image, np.ndarray) and image.dtype == np.uint16 and image.ndim == 2


def _draw_example(loaded: _Loaded, settings: EditSettings, runs: Runs) -> tuple[Reference, str]:
    """A real defect from the data set that the run was fitted to, from the random stream of the seed."""
    assert settings.defect is not None
    if loaded.instances is None:
        card = loaded.pipeline.card.settings
        data = card.get("data")
        there = isinstance(data, str) and Path(data).is_dir()
        if not there or (runs.roots is not None and not runs.roots.allows(Path(str(data)))):
            message = "the data set of this run is not at hand; give the example itself as reference"
            raise SettingsError([FieldProblem("example", message)])
        options = ReadOptions(split="train", mask_threshold=card.get("mask_threshold"), shots=card.get("shots"))
        loaded.instances = open_data_set(Path(str(data)), options).instances
    found = loaded.instances.get(settings.defect, ())
    if not found:
        message = f"the data set of this run has no real {settings.defect!r}; leave it out"
        raise SettingsError([FieldProblem("example", message)])
    chosen = found[int(numpy_rng("example", settings.seed).integers(len(found)))]
    return (chosen.sample.picture().pixels, chosen.defect.mask.read()), chosen.sample.image.name


def _result(
    loaded: _Loaded, work: _Work, picture: Picture, job: EditJob, example: str | None, edited: Edited
) -> EditResult:
    card, settings, preset = loaded.pipeline.card, work.request.settings, work.preset
    defect = settings.defect or OTHER
    rejection = first_rejection(Candidate(edited.pixels, job.pixels, job.mask, edited.scores, defect), Limits())
    record = ImageRecord(
        image="",
        mask="",
        index=0,
        source=SOURCE,
        defect=defect,
        object=card.object_name,
        prompt=settings.prompt or defect_prompt(card.object_name, defect),
        seed=settings.seed,
        attempt=0,
        preset=preset.name,
        adapt=preset.adaptation.method,
        **edited.figures(),
        accepted=rejection is None,
        reference=example,
        exposure=round(job.exposure if preset.put_back.match_exposure else 1.0, 4),
        levels=None if picture.deep is None else picture.levels,
        model=loaded.model,
    )
    return EditResult(
        picture.as_file(edited.pixels), job.mask, record, rejection, round(time.monotonic() - work.since, 3)
    )
