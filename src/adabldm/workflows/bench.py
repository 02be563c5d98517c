"""Presets side by side on the same weights, sources, masks and seeds: time, memory, scores."""

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

from adabldm.data.folder import open_data_set
from adabldm.editing.presets import Preset, get_preset
from adabldm.errors import InputError
from adabldm.images import Pixels, resize_pixels, write_png
from adabldm.models.store import digest
from adabldm.pipeline import AdaBLDMPipeline, Edited
from adabldm.prompts import defect_prompt
from adabldm.seeding import torch_generator
from adabldm.selection.scores import background_psnr
from adabldm.training.parts import foreground_method
from adabldm.trimap.procedural import Recipe
from adabldm.windows import crop
from adabldm.workflows.devices import pick_device
from adabldm.workflows.sources import Scene, SceneMaker


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
    adapt: str | None = None,
    sheet: Path | None = None,
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
        adapt: one decoder adaptation for all presets, instead of each preset's own.
        sheet: write a picture here: a column for each scene; source, then each preset's result, below each other.
        say: takes remarks.

    Returns:
        `{"machine", "torch", "model", "images", "resolution", "presets": [{"preset", "seconds_per_image",
        "peak_memory_mb", "background_psnr", "seam", "defect_fidelity", "edit_strength", "time_ratio", …}]}`, means
        over the images; `background_psnr` is measured in the window around the defect.

    Raises:
        InputError: bad arguments or data.
    """
    if count < 1:
        raise InputError(f"--count {count}: expected at least 1.")
    chosen = [get_preset(name, adapt=adapt) for name in presets]
    where = pick_device(device)
    pipeline = AdaBLDMPipeline.from_pretrained(run)
    data_set = open_data_set(data, split="train")
    method = foreground_method(data_set, pipeline.card.foreground)
    maker = SceneMaker(data_set, method, masks=masks, recipes=recipes)
    types = pipeline.card.defects
    scenes = [(types[i % len(types)], maker.draw(types[i % len(types)], seed, i, 0)) for i in range(count)]
    pipeline.to(where)
    rows, pictures = [], []
    for preset in chosen:
        say(f"{preset.name}: {count} images")
        row, edited = _measure(pipeline, scenes, preset, seed, where)
        rows.append(row)
        pictures.append(edited)
    slowest = next((row for row in rows if row["preset"] == "released"), rows[-1])
    for row in rows:
        row["time_ratio"] = round(row["seconds_per_image"] / slowest["seconds_per_image"], 4)
    if sheet is not None:
        write_png(sheet, _side_by_side(scenes, pictures))
    return {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {where}",
        "torch": torch.__version__,
        "run": str(run),
        "model": digest(pipeline.to("cpu").parts),
        "images": count,
        "resolution": int(pipeline.config["resolution"]),
        "seed": seed,
        "presets": rows,
    }


def _measure(
    pipeline: AdaBLDMPipeline, scenes: list[tuple[str, Scene]], preset: Preset, seed: int, device: torch.device
) -> tuple[dict[str, Any], list[Edited]]:
    def edit(start: int, how: Preset) -> list[Edited]:
        batch = list(enumerate(scenes))[start : start + preset.batch_size]
        return pipeline.edit(
            [
                scene.job(defect_prompt(pipeline.card.object_name, defect), torch_generator("edit", seed, index))
                for index, (defect, scene) in batch
            ],
            how,
        )

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
    """The result of `bench` as a Markdown table with its heading."""
    keys = list(result["presets"][0])
    lines = [" | ".join(keys), " | ".join("---" for _ in keys)]
    lines += [" | ".join(str(row[key]) for key in keys) for row in result["presets"]]
    head = ", ".join(f"{key} {result[key]}" for key in result if key != "presets")
    return "\n".join([head, "", *(f"| {line} |" for line in lines)])
