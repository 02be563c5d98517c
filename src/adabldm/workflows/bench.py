"""Presets side by side on the same weights, sources, masks and seeds: time, stages, operations, memory, scores."""

from __future__ import annotations

import gc
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch.profiler import profile

from adabldm.data.folder import open_data_set
from adabldm.editing.presets import Preset, get_preset
from adabldm.errors import InputError
from adabldm.images import Pixels, read_mask, read_picture, resize_pixels, write_png
from adabldm.models.store import digest
from adabldm.pipeline import AdaBLDMPipeline, Edited
from adabldm.prompts import defect_prompt
from adabldm.report.markdown import table_lines
from adabldm.sample import DataSet, Sample
from adabldm.seeding import torch_generator
from adabldm.selection.scores import background_psnr
from adabldm.training.parts import foreground_method
from adabldm.trimap.procedural import Recipe
from adabldm.windows import crop
from adabldm.workflows.devices import pick_device, pick_dtype
from adabldm.workflows.profiling import (
    ALL,
    CONTROL,
    UNET,
    count_edit,
    matmul_rate,
    profiled,
    stage_seconds,
    write_trace,
)
from adabldm.workflows.sources import Scene, SceneMaker

FEWEST_FOR_KID = 10
"""Images of each preset; below it KID says nothing."""


class _PeakMemory:
    """Peak memory in MB while the block runs: of the GPU if there is one, else the whole process's resident set."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.peak = device, 0.0
        self._stop = threading.Event()

    def __enter__(self) -> _PeakMemory:
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


def bench(
    run: str,
    data: Path,
    *,
    presets: Sequence[str] = ("fast", "paper", "released"),
    count: int = 8,
    masks: str = "bank",
    recipes: Mapping[str, Sequence[Recipe]] | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    adapt: str | None = None,
    kid: bool = False,
    sheet: Path | None = None,
    trace: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Edit the same scenes with every preset and measure.

    Args:
        run: folder of a fit, or the name of one that ships.
        data: sources and real masks.
        presets: what is compared.
        count: images for each preset.
        masks: "bank" or "procedural".
        recipes: of procedural shapes, by defect type.
        seed: of scenes and noise.
        device: "auto", "cpu", "cuda".
        dtype: precision of the networks: "float32", "bfloat16", "float16".
        adapt: one decoder adaptation for all presets, instead of each preset's own.
        kid: compare the defect windows with those of real defects; needs the extra `evaluate` and at least
            `FEWEST_FOR_KID` images.
        sheet: write a picture here: a column for each scene; source, then each preset's result, below each other.
        trace: write a Chrome trace of the first preset's first batch here.
        say: takes remarks.

    Returns:
        `{"machine", "dtype", "torch", "model", "images", "resolution", "presets": [{"preset", "seconds_per_image",
        "time_ratio", "tflop_per_image", "operations_ratio", "peak_memory_mb", "background_psnr", "seam",
        "defect_fidelity", "edit_strength", "stages": {name: seconds an image}, …}]}`, means over the images;
        `background_psnr` is measured in the window around the defect. Ratios are those to `released`, or to the last
        preset without it. Time and memory are measured without a profiler; stages and operations belong to the first
        batch, which is edited again for each (see `workflows.profiling`). On a GPU there are `matmul_tflops`, its
        measured rate in bfloat16, and for each preset `matmul_share`, the part of it that diffusion reaches. With
        `kid` there are `kid`, `kid_std` and `kid_backbone`, and in `kid_real` what the windows are compared with.

    Raises:
        InputError: bad arguments or data.
    """
    if count < 1:
        raise InputError(f"--count {count}: expected at least 1.")
    if kid and count < FEWEST_FOR_KID:
        raise InputError(f"--kid with --count {count}: expected at least {FEWEST_FOR_KID} images; raise --count.")
    for option, path in (("--sheet", sheet), ("--profile", trace)):
        if path is not None and path.is_dir():
            raise InputError(f"{option} {path}: is a folder, expected a file; choose another name.")
    chosen = [get_preset(name, adapt=adapt) for name in presets]
    where, precision = pick_device(device), pick_dtype(dtype)
    pipeline = AdaBLDMPipeline.from_pretrained(run)
    data_set = open_data_set(data, split="train")
    method = foreground_method(data_set, pipeline.card.foreground)
    maker = SceneMaker(data_set, method, masks=masks, recipes=recipes)
    types = pipeline.card.defects
    scenes = [(types[i % len(types)], maker.draw(types[i % len(types)], seed, i, 0)) for i in range(count)]
    real = _RealWindows(data, sorted({defect for defect, _ in scenes})) if kid else None
    model = digest(pipeline.parts)
    pipeline.to(where, precision)
    rate = matmul_rate(where) if where.type == "cuda" else None
    rows: list[dict[str, Any]] = []
    pictures = []
    for preset in chosen:
        say(f"{preset.name}: {count} images")
        edit = _edit_scenes(pipeline, scenes, seed)
        row, edited = _measure(edit, scenes, preset, where)
        say(f"{preset.name}: stages and operations of a batch")
        more, found = _look_inside(edit, min(count, preset.batch_size), preset, where, rate)
        if trace is not None and not rows:
            write_trace(found, trace)
        rows.append({**row, **(real.compare(scenes, edited) if real else {}), **more})
        pictures.append(edited)
    slowest = next((row for row in rows if row["preset"] == "released"), rows[-1])
    for row in rows:
        row["time_ratio"] = round(row["seconds_per_image"] / slowest["seconds_per_image"], 4)
        row["operations_ratio"] = round(row["tflop_per_image"] / slowest["tflop_per_image"], 4)
    if sheet is not None:
        write_png(sheet, _side_by_side(scenes, pictures))
    return {
        "machine": _machine(where),
        "dtype": dtype,
        "torch": torch.__version__,
        "run": str(run),
        "model": model,
        "images": count,
        "resolution": int(pipeline.config["resolution"]),
        "seed": seed,
        **({"kid_backbone": real.backbone.name, "kid_real": real.what} if real else {}),
        **({"matmul_tflops": round(rate / 1e12, 1)} if rate else {}),
        "presets": rows,
    }


def _machine(device: torch.device) -> str:
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {where}"


Edit = Callable[[int, Preset], list[Edited]]
"""(index of the first scene, how) to the results of one batch."""


def _edit_scenes(pipeline: AdaBLDMPipeline, scenes: list[tuple[str, Scene]], seed: int) -> Edit:
    """Every call edits with the same noise."""

    def edit(start: int, how: Preset) -> list[Edited]:
        batch = list(enumerate(scenes))[start : start + how.batch_size]
        return pipeline.edit(
            [
                scene.job(defect_prompt(pipeline.card.object_name, defect), torch_generator("edit", seed, index))
                for index, (defect, scene) in batch
            ],
            how,
        )

    return edit


def _look_inside(
    edit: Edit, images: int, preset: Preset, device: torch.device, rate: float | None
) -> tuple[dict[str, Any], profile]:
    """Stages and operations of the first batch, which has so many `images`, and its profile."""
    found = profiled(lambda: edit(0, preset), device)
    stages = stage_seconds(found, device)
    operations = count_edit(lambda how: edit(0, how), preset)
    row: dict[str, Any] = {"tflop_per_image": float(f"{operations[ALL] / images / 1e12:.4g}")}
    if rate is not None:
        diffusion = operations[UNET] + operations[CONTROL]
        row["matmul_share"] = round(diffusion / (stages["unet"] + stages["control"]) / rate, 4)
    row["stages"] = {name: float(f"{value / images:.4g}") for name, value in stages.items()}
    return row, found


class _RealWindows:
    """Windows of real defects that KID compares with: test images where there are any, else the few-shot ones.

    Raises:
        InputError: there are fewer than two.
    """

    def __init__(self, data: Path, types: Sequence[str]) -> None:
        from adabldm.evaluation import image_measures
        from adabldm.evaluation.backbone import load_backbone
        from adabldm.evaluation.labelled import Labelled

        self._measures, self._labelled, self.backbone = image_measures, Labelled, load_backbone()
        split, samples = _real_defects(open_data_set(data, skip_empty=True), types)
        if len(samples) < 2:
            raise InputError(
                f"--kid: {data} has {len(samples)} real images of {', '.join(types)}, expected at least 2; "
                "give a data set with real defects, or leave --kid out."
            )
        self.what = f"{len(samples)} {split} images"
        self._real = self._describe(
            [Labelled(read_picture(one.image).pixels, read_mask(one.mask), one.defect) for one in samples if one.mask]
        )

    def _describe(self, images: list[Any]) -> torch.Tensor:
        return self._measures.describe(self.backbone, self._measures.cut_windows(images)).pooled

    def compare(self, scenes: list[tuple[str, Scene]], edited: list[Edited]) -> dict[str, Any]:
        """Their KID and its standard deviation over subsets."""
        made = [
            self._labelled(one.pixels, scene.mask, defect) for (defect, scene), one in zip(scenes, edited, strict=True)
        ]
        found = self._measures.kid(self._describe(made), self._real)
        assert found is not None
        return {"kid": round(found[0], 4), "kid_std": round(found[1], 4)}


def _real_defects(data_set: DataSet, types: Sequence[str]) -> tuple[str, list[Sample]]:
    test = [sample for defect in types for sample in data_set.test_defects.get(defect, ())]
    if test:
        return "test", test
    return "train", [sample for defect in types for sample in data_set.defects.get(defect, ())]


def _measure(
    edit: Edit, scenes: list[tuple[str, Scene]], preset: Preset, device: torch.device
) -> tuple[dict[str, Any], list[Edited]]:
    edit(0, replace(preset, finetuning=replace(preset.finetuning, steps=1)))  # the first call is slower
    edited: list[Edited] = []
    with _PeakMemory(device) as memory:
        began = time.perf_counter()
        for start in range(0, len(scenes), preset.batch_size):
            edited += edit(start, preset)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = (time.perf_counter() - began) / len(scenes)

    def mean(values: list[float]) -> float:
        return round(statistics.fmean(values), 3)

    return {
        "preset": preset.name,
        "adapt": preset.adapt,
        "batch_size": preset.batch_size,
        "seconds_per_image": round(seconds, 3),
        "peak_memory_mb": round(memory.peak),
        "background_psnr": mean([_window_psnr(scene, one) for (_, scene), one in zip(scenes, edited, strict=True)]),
        "seam": mean([one.scores.seam for one in edited]),
        "defect_fidelity": mean([one.defect_fidelity for one in edited]),
        "edit_strength": mean([one.scores.edit_strength for one in edited]),
        "visible_change": mean([one.scores.visible_change for one in edited]),
    }, edited


def _window_psnr(scene: Scene, edited: Edited) -> float:
    source, result = crop(scene.picture.pixels, edited.window), crop(edited.pixels, edited.window)
    return background_psnr(result, source, crop(scene.mask, edited.window))


def _side_by_side(scenes: list[tuple[str, Scene]], results: list[list[Edited]], cell: int = 160) -> Pixels:
    columns = []
    for index, (_, scene) in enumerate(scenes):
        window = results[0][index].window
        mask = np.repeat(crop(scene.mask, window)[..., None], 3, axis=2).astype(np.uint8) * 255
        cells = [crop(scene.picture.pixels, window), mask]
        cells += [crop(edited[index].pixels, window) for edited in results]
        columns.append(np.vstack([resize_pixels(picture, (cell, cell)) for picture in cells]))
    return np.hstack(columns)


def format_table(result: dict[str, Any]) -> str:
    """The result of `bench` as two Markdown tables, the second of the stages, with their headings."""
    rows = [{key: value for key, value in row.items() if key != "stages"} for row in result["presets"]]
    stages = [{"preset": row["preset"], **row["stages"]} for row in result["presets"]]
    head = ", ".join(f"{key} {result[key]}" for key in result if key != "presets")
    return "\n".join([head, "", *_markdown(rows), "", "Seconds an image:", "", *_markdown(stages)])


def _markdown(rows: list[dict[str, Any]]) -> list[str]:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return table_lines(keys, ([str(row.get(key, "-")) for key in keys] for row in rows))
