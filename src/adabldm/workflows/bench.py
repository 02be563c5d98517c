"""Presets side by side on the same weights, sources, masks and seeds: time, stages, operations, memory, scores."""

from __future__ import annotations

import gc
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.profiler import profile

from adabldm.core.events import Listener, Note, Task, Workload, guarded, ignore
from adabldm.core.images import Pixels, resize_pixels, write_png
from adabldm.core.prompts import defect_prompt
from adabldm.core.records.bench import BenchReport, BenchRow
from adabldm.core.records.run import Reading
from adabldm.core.samples import DataSet
from adabldm.core.scores import background_psnr
from adabldm.core.seeding import torch_generator
from adabldm.core.settings import BenchSettings, EditPreset, FieldProblem, SettingsError
from adabldm.core.settings.common import Recipe
from adabldm.core.settings.presets import edit_preset
from adabldm.core.windows import crop
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import open_data_set
from adabldm.editing.editor import Edited, Editor
from adabldm.evaluation.labelled import Labelled, Mark
from adabldm.models.devices import pick_device, pick_dtype
from adabldm.models.store import digest, load_run
from adabldm.production.plan import usual_batch_size
from adabldm.production.scenes import Scene, SceneMaker, SceneOptions
from adabldm.report.markdown import table_lines
from adabldm.training.sources import foreground_method
from adabldm.workflows.profiling import (
    ALL,
    CONTROL,
    UNET,
    count_edit,
    matmul_rate,
    profiled,
    stage_seconds,
    with_tuning_steps,
    write_trace,
)
from adabldm.workflows.samples import lay_out, tile_pictures

RECIPES = {
    "blowhole": (Recipe(kind="blob", share=(0.05, 0.14)),),
    "break": (Recipe(kind="polygon", share=(0.16, 0.44)),),
    "crack": (Recipe(kind="scratch", share=(0.2, 0.6)),),
    "fray": (Recipe(kind="blob", share=(0.3, 0.7)), Recipe(kind="polygon", share=(0.3, 0.7))),
    "uneven": (Recipe(kind="blob", share=(0.6, 0.95)),),
}
"""Shapes of about the sizes that the real defects have."""
FEWEST_FOR_KID = 10
"""Smallest number of images of each preset with which KID says something."""


class PeakMemory:
    """Peak memory in MB while the block runs: of the GPU if there is one, else the whole process's resident set."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.peak = device, 0.0
        self._stop = threading.Event()

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, process.memory_info().rss / 2**20)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.peak = torch.cuda.max_memory_allocated(self.device) / 2**20


@dataclass(frozen=True)
class Bench:
    """What all presets are measured on.

    Attributes:
        settings: as given.
        editor: the run's networks, where they compute.
        scenes: the scene of each image, with its defect type and prompt.
        device: where the networks compute.
        rate: measured matrix rate of a GPU in operations a second.
    """

    settings: BenchSettings
    editor: Editor
    scenes: tuple[tuple[Scene, str, str], ...]
    device: torch.device
    rate: float | None

    def edit(self, preset: EditPreset, start: int = 0) -> list[Edited]:
        """Edit the batch that begins with a scene, with the same noise in every call."""
        batch = list(enumerate(self.scenes))[start : start + usual_batch_size(preset)]
        jobs = [
            scene.job(prompt, torch_generator("edit", self.settings.seed, index)) for index, (scene, _, prompt) in batch
        ]
        return self.editor.edit(jobs, preset)

    def synchronize(self) -> None:
        """Wait for the GPU, if there is one."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def bench(settings: BenchSettings, listen: Listener = ignore) -> dict[str, Any]:
    """Edit the same scenes with every preset and measure.

    Time and memory are measured without a profiler; stages and operations belong to the first batch, which is edited
    again for each (see `workflows.profiling`).

    Args:
        settings: what is measured.
        listen: is told notes and the progress.

    Returns:
        The JSON values of a `BenchReport`. `background_psnr` is measured in the window around the defect. On a GPU
        there are `matmul_tflops` and `matmul_share`, with `kid` there are `kid_backbone`, `kid_real`, `kid` and
        `kid_std`.

    Raises:
        InputError: settings, run or data that cannot be used.
    """
    listen = guarded(listen)
    presets = _check(settings)
    with _sources(settings) as (data, procedural):
        components, card = load_run(settings.run)
        reading = card.reading if settings.data is not None else Reading()
        data_set = open_data_set(data, ReadOptions.of(reading, split="train"), listen)
        method = foreground_method(data_set, card.foreground)
        options = SceneOptions(masks="procedural", recipes=RECIPES) if procedural else SceneOptions()
        maker = SceneMaker(data_set, method, options)
        types = [card.defects[index % len(card.defects)] for index in range(settings.count)]
        scenes = tuple(
            (maker.draw(defect, settings.seed, index, 0), defect, defect_prompt(card.object_name, defect))
            for index, defect in enumerate(types)
        )
        real = RealWindows(data, sorted(set(types)), reading) if settings.kid else None
        model, device = digest(components), pick_device(settings.device)
        editor = Editor(components, card.resolution, card.calibration).to(device, pick_dtype(settings.dtype))
        rate = matmul_rate(device) if device.type == "cuda" else None
        rows = _measure_all(Bench(settings, editor, scenes, device, rate), presets, real, listen)
    report = BenchReport(
        machine=_machine(device),
        dtype=settings.dtype,
        torch=torch.__version__,
        run=settings.run,
        model=model,
        images=settings.count,
        resolution=card.resolution,
        seed=settings.seed,
        kid_backbone=None if real is None else real.backbone.name,
        kid_real=None if real is None else real.what,
        matmul_tflops=None if rate is None else round(rate / 1e12, 1),
        presets=rows,
    )
    return report.plain()


def _check(settings: BenchSettings) -> list[EditPreset]:
    """The presets, once all settings are found usable."""
    problems = []
    if settings.kid and settings.count < FEWEST_FOR_KID:
        message = f"{settings.count} was given, but kid needs at least {FEWEST_FOR_KID} images; raise it"
        problems.append(FieldProblem("count", message))
    for field, path in (("sheet", settings.sheet), ("profile", settings.profile)):
        if path is not None and path.is_dir():
            problems.append(FieldProblem(field, f"{path} is a folder, expected a file; choose another name"))
    if problems:
        raise SettingsError(problems)
    return [edit_preset(name, settings.set, adapt=settings.adapt) for name in settings.preset]


@contextmanager
def _sources(settings: BenchSettings) -> Iterator[tuple[Path, bool]]:
    """The folder of the sources, and whether their masks are procedural; the demo's pictures if none is given."""
    if settings.data is not None:
        yield settings.data, False
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield lay_out(tile_pictures(), Path(scratch)), True


def _machine(device: torch.device) -> str:
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {where}"


@dataclass(frozen=True)
class Timed:
    """The results of a preset, with the seconds of an image and the peak memory in MB."""

    edited: list[Edited]
    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Inside:
    """A batch of a preset from within: stages in seconds and operations, both of an image; share of the rate."""

    stages: dict[str, float]
    tflop: float
    matmul_share: float | None


def _measure_all(
    bench: Bench, presets: Sequence[EditPreset], real: RealWindows | None, listen: Listener
) -> tuple[BenchRow, ...]:
    """A row for each preset; the sheet and the trace are written where they were asked for."""
    count, settings = len(bench.scenes), bench.settings
    work = Workload(_tasks(presets, count), listen)
    timed, inside = [], []
    for place, preset in enumerate(presets):
        work.begin(_editing(place, preset))
        timed.append(_time(bench, preset, partial(work.advance, _editing(place, preset))))
        work.begin(_counting(place, preset))
        own, found = _look_inside(bench, preset)
        inside.append(own)
        work.finish(_counting(place, preset))
        if settings.profile is not None and not place:
            write_trace(found, settings.profile)
            listen(Note(f"trace of {preset.name}: {settings.profile}"))
    slowest = next((place for place, preset in enumerate(presets) if preset.name == "released"), len(presets) - 1)
    if settings.sheet is not None:
        write_png(settings.sheet, _side_by_side(bench, [one.edited for one in timed]))
    return tuple(
        _row(
            preset,
            bench,
            timed[place],
            inside[place],
            real,
            (timed[slowest].seconds, inside[slowest].tflop),
        )
        for place, preset in enumerate(presets)
    )


def _tasks(presets: Sequence[EditPreset], count: int) -> list[Task]:
    tasks = []
    for place, preset in enumerate(presets):
        cost = float(preset.plan.steps)
        tasks.append(Task(_editing(place, preset), count, "img", cost))
        tasks.append(Task(_counting(place, preset), 1, "batch", 4 * cost * min(count, usual_batch_size(preset))))
    return tasks


def _editing(place: int, preset: EditPreset) -> str:
    return f"{place + 1}: {preset.name}"


def _counting(place: int, preset: EditPreset) -> str:
    return f"{place + 1}: {preset.name}, stages and operations"


def _time(bench: Bench, preset: EditPreset, advance: Callable[[int], None]) -> Timed:
    bench.edit(with_tuning_steps(preset, 1))  # the first call is slower
    edited: list[Edited] = []
    with PeakMemory(bench.device) as memory:
        began = time.perf_counter()
        for start in range(0, len(bench.scenes), usual_batch_size(preset)):
            batch = bench.edit(preset, start)
            edited += batch
            advance(len(batch))
        bench.synchronize()
        seconds = (time.perf_counter() - began) / len(bench.scenes)
    return Timed(edited, seconds, memory.peak)


def _look_inside(bench: Bench, preset: EditPreset) -> tuple[Inside, profile]:
    """Stages and operations of the first batch, and its profile."""
    images = min(len(bench.scenes), usual_batch_size(preset))
    found = profiled(lambda: bench.edit(preset), bench.device)
    stages = stage_seconds(found, bench.device)
    operations = count_edit(bench.edit, preset)
    share = None
    if bench.rate is not None:
        diffusion = operations[UNET] + operations[CONTROL]
        share = round(diffusion / (stages["unet"] + stages["control"]) / bench.rate, 4)
    each = {name: float(f"{value / images:.4g}") for name, value in stages.items()}
    return Inside(each, float(f"{operations[ALL] / images / 1e12:.4g}"), share), found


def _row(
    preset: EditPreset,
    bench: Bench,
    timed: Timed,
    inside: Inside,
    real: RealWindows | None,
    slowest: tuple[float, float],
) -> BenchRow:
    """The row of a preset; `slowest` are the seconds and the operations that it is compared with."""
    edited, seconds = timed.edited, round(timed.seconds, 3)
    kid, kid_std = (None, None) if real is None else real.compare(bench.scenes, edited)
    pairs = zip(bench.scenes, edited, strict=True)
    return BenchRow(
        preset=preset.name,
        adapt=preset.adaptation.method,
        batch_size=usual_batch_size(preset),
        seconds_per_image=seconds,
        peak_memory_mb=round(timed.peak_mb),
        background_psnr=_mean(_window_psnr(scene, one) for (scene, _, _), one in pairs),
        seam=_mean(one.scores.seam for one in edited),
        defect_fidelity=_mean(one.defect_fidelity for one in edited),
        edit_strength=_mean(one.scores.edit_strength for one in edited),
        visible_change=_mean(one.scores.visible_change for one in edited),
        kid=kid,
        kid_std=kid_std,
        tflop_per_image=inside.tflop,
        matmul_share=inside.matmul_share,
        stages=inside.stages,
        time_ratio=round(seconds / round(slowest[0], 3), 4),
        operations_ratio=round(inside.tflop / slowest[1], 4),
    )


def _mean(values: Iterator[float]) -> float:
    return round(statistics.fmean(values), 3)


def _window_psnr(scene: Scene, edited: Edited) -> float:
    source, result = crop(scene.picture.pixels, edited.window), crop(edited.pixels, edited.window)
    return background_psnr(result, source, crop(scene.mask, edited.window))


class RealWindows:
    """Windows of real defects that KID compares with: test images where there are any, else the few-shot ones.

    Raises:
        InputError: there are fewer than two.
    """

    def __init__(self, data: Path, types: Sequence[str], reading: Reading | None = None) -> None:
        from adabldm.models.backbone import load_backbone

        self.backbone = load_backbone()
        options = ReadOptions.of(reading or Reading(), skip_empty=True)
        split, images = _real_defects(open_data_set(data, options), types)
        if len(images) < 2:
            message = (
                f"{data} has {len(images)} real images of {', '.join(types)}, expected at least 2; give a data set "
                "with real defects, or leave this out"
            )
            raise SettingsError([FieldProblem("kid", message)])
        self.what = f"{len(images)} {split} images"
        self._real = self._describe(images)

    def _describe(self, images: Sequence[Labelled]) -> Tensor:
        from adabldm.evaluation.image_measures import cut_windows, describe

        return describe(self.backbone, cut_windows(images)).pooled

    def compare(self, scenes: Sequence[tuple[Scene, str, str]], edited: Sequence[Edited]) -> tuple[float, float]:
        """KID of the results and its standard deviation over subsets."""
        from adabldm.evaluation.image_measures import kid

        made = [
            Labelled(one.pixels, (Mark(defect, scene.mask),))
            for (scene, defect, _), one in zip(scenes, edited, strict=True)
        ]
        found = kid(self._describe(made), self._real)
        assert found is not None
        return round(found[0], 4), round(found[1], 4)


def _real_defects(data_set: DataSet, types: Sequence[str]) -> tuple[str, list[Labelled]]:
    """(split, images) of the real defects of some types; other defects in the images are left out."""
    for split, by_type in (("test", data_set.test_instances), ("train", data_set.instances)):
        samples = dict.fromkeys(one.sample for defect in types for one in by_type.get(defect, ()))
        images = [Labelled.read(sample) for sample in samples]
        if images or split == "train":
            return split, [
                replace(image, marks=tuple(mark for mark in image.marks if mark.type in types)) for image in images
            ]
    raise AssertionError("unreachable")


def _side_by_side(bench: Bench, results: Sequence[Sequence[Edited]], cell: int = 160) -> Pixels:
    """A column for each scene: source, mask, then each preset's result."""
    columns = []
    for index, (scene, _, _) in enumerate(bench.scenes):
        window = results[0][index].window
        mask = np.repeat(crop(scene.mask, window)[..., None], 3, axis=2).astype(np.uint8) * 255
        cells = [crop(scene.picture.pixels, window), mask]
        cells += [crop(edited[index].pixels, window) for edited in results]
        columns.append(np.vstack([resize_pixels(picture, (cell, cell)) for picture in cells]))
    return np.hstack(columns)


def format_table(result: dict[str, Any]) -> str:
    """The result of `bench` as two Markdown tables, the second of the stages, with their headings."""
    report = BenchReport.parse(result, "result of bench").plain()
    rows = [{key: value for key, value in row.items() if key != "stages"} for row in report["presets"]]
    stages = [{"preset": row["preset"], **row["stages"]} for row in report["presets"]]
    head = ", ".join(f"{key} {value}" for key, value in report.items() if key not in {"presets", "schema"})
    return "\n".join([head, "", *_markdown(rows), "", "Seconds an image:", "", *_markdown(stages)])


def _markdown(rows: list[dict[str, Any]]) -> list[str]:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return table_lines(keys, ([str(row.get(key, "-")) for key in keys] for row in rows))
