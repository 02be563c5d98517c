"""What the size of the source costs: the same defect on a 512² and on a 4096² picture, window on.

    python benchmarks/image_size.py [--small 512] [--large 4096] [--repeats 7] [--batch-size 2] [--grey]

The small picture lies in the middle of the large one, so that both windows hold the same pixels and the results must
be equal there. The two are edited in turns by the tiny model with the preset `fast`; the medians of wall time and of
the process's CPU time (which a busy machine disturbs less) are printed for each, and their ratios. Reading and writing
the files is measured apart: `generate` does it in threads of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adabldm.core.images import Mask, Pixels, read_picture, write_png
from adabldm.core.prompts import defect_prompt
from adabldm.core.seeding import numpy_rng, torch_generator
from adabldm.core.settings.edit import PRESETS
from adabldm.core.stages import STAGES
from adabldm.core.windows import crop
from adabldm.editing.editor import Edited, EditJob, Editor
from adabldm.models.devices import pick_device, pick_dtype
from adabldm.models.store import load_run
from adabldm.workflows.profiling import profiled, stage_seconds

DEFECT = 60
"""Diameter in pixels."""


def pictures(small: int, large: int, grey: bool) -> dict[int, tuple[Pixels, Mask]]:
    """Source and mask of either size, by its side."""
    noise = numpy_rng("image size").integers(90, 150, (small, small, 1 if grey else 3), dtype=np.uint8)
    inner = np.repeat(noise, 3, axis=2) if grey else noise
    margin = (large - small) // 2
    outer = np.pad(inner, ((margin, margin), (margin, margin), (0, 0)), mode="wrap")
    rows, columns = np.mgrid[:small, :small]
    mask = (rows - small / 2) ** 2 + (columns - small / 2) ** 2 <= (DEFECT / 2) ** 2
    return {small: (inner, mask), large: (outer, np.pad(mask, margin))}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=512, help="side in px")
    parser.add_argument("--large", type=int, default=4096, help="side in px")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=2, help="images at once")
    parser.add_argument("--grey", action="store_true", help="grey pictures")
    parser.add_argument("--run", default="magnetic-tile")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    device = pick_device(options.device)
    components, card = load_run(options.run)
    editor = Editor(components, card.resolution).to(device, pick_dtype(options.dtype))
    prompt = defect_prompt(card.object_name, card.defects[0])
    sources = pictures(options.small, options.large, options.grey)

    def edit(side: int) -> list[Edited]:
        pixels, mask = sources[side]
        jobs = [
            EditJob(pixels, np.ones_like(mask), mask, prompt, torch_generator("edit", index))
            for index in range(options.batch_size)
        ]
        return editor.edit(jobs, PRESETS["fast"])

    first, second = (edit(side)[0] for side in sources)
    assert np.array_equal(crop(first.pixels, first.window), crop(second.pixels, second.window))
    wall: dict[int, list[float]] = {side: [] for side in sources}
    processor: dict[int, list[float]] = {side: [] for side in sources}
    for _ in range(options.repeats):
        for side in sources:
            began, used = time.perf_counter(), time.process_time()
            edit(side)
            wall[side].append((time.perf_counter() - began) / options.batch_size)
            processor[side].append((time.process_time() - used) / options.batch_size)
    facts: dict[str, Any] = {
        "device": str(device),
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "batch_size": options.batch_size,
        "repeats": options.repeats,
        "grey": options.grey,
    }
    for name, found in (("seconds_per_image", wall), ("processor_seconds_per_image", processor)):
        medians = {side: statistics.median(times) for side, times in found.items()}
        facts[name] = {str(side): round(median, 4) for side, median in medians.items()}
        facts[name]["ratio"] = round(medians[options.large] / medians[options.small], 3)
    facts["stages"] = {}
    for side in sources:
        stages = stage_seconds(profiled(lambda side=side: edit(side), device), device)  # type: ignore[misc]
        facts["stages"][str(side)] = {
            name: round(stages[name] / options.batch_size, 4) for name in (*STAGES, "other") if name in stages
        }
    facts["read_and_write_seconds"] = {str(side): _files(pixels) for side, (pixels, _) in sources.items()}
    print(json.dumps(facts, indent=2))


def _files(pixels: Pixels) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "picture.png"
        began = time.perf_counter()
        write_png(path, pixels)
        read_picture(path)
        return round(time.perf_counter() - began, 3)


if __name__ == "__main__":
    main()
