"""How much of a painted mask the run `surface` changes visibly, by defect type, and what an edit costs.

    python benchmarks/painted_masks.py MATERIALS [--shapes 100]

A hundred masks as somebody would paint them (lines, ellipses, strokes of a brush) on pictures of 512 px that are made
of materials on which nothing was tuned (the held-out ones of `train-surface`). A pixel is changed visibly if a channel
changed by six grey levels or more.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from adabldm.core.images import Mask, Pixels
from adabldm.core.seeding import numpy_rng
from adabldm.pipeline import AdaBLDMPipeline
from adabldm.rendering.render import DEFECTS, VISIBLE
from adabldm.rendering.sources import read_materials, split_materials
from adabldm.rendering.surfaces import material_window

SIDE = 512


def painted(rng: np.random.Generator) -> Mask:
    """A line, an ellipse or a stroke of a brush, 3 to 60 px wide."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    kind = int(rng.integers(3))
    points = rng.integers(80, SIDE - 80, (6, 2)).astype(np.int32)
    if kind == 0:
        cv2.line(mask, tuple(map(int, points[0])), tuple(map(int, points[1])), 1, int(rng.integers(3, 12)))
    elif kind == 1:
        axes = tuple(map(int, rng.integers(8, 60, 2)))
        cv2.ellipse(mask, tuple(map(int, points[0])), axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    else:
        steps = np.cumsum(rng.normal(0, 25, (8, 2)), axis=0) + points[0]
        cv2.polylines(mask, [steps.astype(np.int32)], False, 1, int(rng.integers(8, 60)))
    return mask > 0


def main() -> None:
    """Print a table: mean, and tenth percentile, of the share of the mask that changed; seconds of an edit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("materials", type=Path)
    parser.add_argument("--shapes", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = read_materials(options.materials)
    split = split_materials(list(pictures))
    materials = [pictures[name] for name in (*split.unseen_names, *split.unseen_kinds)]
    pipeline = AdaBLDMPipeline.from_pretrained("surface")
    print(f"{'defect':<15}{'mean':>7}{'10 %':>7}{'s/edit':>8}")
    every: list[float] = []
    for defect in DEFECTS:
        shares, seconds = [], 0.0
        for index in range(options.shapes):
            rng = numpy_rng("painted masks", index)
            image: Pixels = material_window(materials[int(rng.integers(len(materials)))], SIDE, rng)
            mask = painted(rng)
            began = time.perf_counter()
            output = pipeline(image=image, mask=mask, defect=defect, seed=index, output_type="np")
            seconds += time.perf_counter() - began
            change = np.abs(output.images[0].astype(np.int16) - image.astype(np.int16)).max(-1)
            shares.append(float((change[mask] >= VISIBLE).mean()))
        every += shares
        low = float(np.quantile(shares, 0.1))
        print(f"{defect:<15}{np.mean(shares):>7.3f}{low:>7.3f}{seconds / options.shapes:>8.2f}", flush=True)
    print(f"{'all':<15}{np.mean(every):>7.3f}{np.quantile(every, 0.1):>7.3f}")


if __name__ == "__main__":
    main()
