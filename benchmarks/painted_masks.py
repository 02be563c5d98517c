"""How much of a painted mask an edit changes visibly, by defect type, and what the edit costs.

    python benchmarks/painted_masks.py MATERIALS [--shapes 100]
    python benchmarks/painted_masks.py DATA --run magnetic-tile [--real] [--shapes 100]

A hundred masks as somebody would paint them (lines, ellipses, strokes of a brush) on pictures of 512 px. For the run
`surface` these are made of materials on which nothing was tuned (the held-out ones of `train-surface`), and every type
gets all masks. For any other run they are cut from defect-free images of its object, which DATA holds. The masks lie on
the object and go round the types; every edit is one of the preset `fast` and begins from noise or, with `--real`, from
a real defect of the training split. A pixel is changed visibly if a channel changed by six grey levels or more.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from adabldm.core.images import Mask, Pixels, resize_pixels
from adabldm.core.samples import Sample
from adabldm.core.seeding import numpy_rng
from adabldm.data.formats import ReadOptions, find_reader
from adabldm.masks.foreground import decide_method, estimate_foreground
from adabldm.pipeline import AdaBLDMPipeline
from adabldm.rendering.render import VISIBLE
from adabldm.rendering.sources import read_materials, split_materials
from adabldm.rendering.surfaces import material_window

SIDE = 512
Draw = Callable[[np.random.Generator], tuple[Pixels, Mask]]
"""Draws a picture and a mask on it."""


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


def on_materials(folder: Path) -> Draw:
    """Pictures of held-out materials."""
    pictures = read_materials(folder)
    split = split_materials(list(pictures))
    materials = [pictures[name] for name in (*split.unseen_names, *split.unseen_kinds)]

    def draw(rng: np.random.Generator) -> tuple[Pixels, Mask]:
        return material_window(materials[int(rng.integers(len(materials)))], SIDE, rng), painted(rng)

    return draw


def on_objects(samples: Sequence[Sample]) -> Draw:
    """Middles of the pictures of defect-free samples, with masks on the object."""
    pictures = []
    for sample in [one for one in samples if not one.defects][:30]:
        pixels = sample.picture().pixels
        top, left = ((length - min(pixels.shape[:2])) // 2 for length in pixels.shape[:2])
        square = pixels[top:, left:][: min(pixels.shape[:2]), : min(pixels.shape[:2])]
        pictures.append(resize_pixels(square, (SIDE, SIDE)))
    method = decide_method(pictures)
    objects = [estimate_foreground(picture, method).mask for picture in pictures]

    def draw(rng: np.random.Generator) -> tuple[Pixels, Mask]:
        place = int(rng.integers(len(pictures)))
        picture, foreground = pictures[place], objects[place]
        while True:
            mask = painted(rng)
            if (mask & foreground).sum() >= 0.7 * mask.sum():
                return picture, mask & foreground

    return draw


def shares(
    pipeline: AdaBLDMPipeline, draw: Draw, defect: str, indices: range, real: Sequence[Sample] = ()
) -> Iterator[tuple[float, float]]:
    """(share of the mask that changed visibly, seconds) of every edit; each begins from a defect of `real`, if any."""
    for index in indices:
        image, mask = draw(numpy_rng("painted masks", index))
        reference = None
        if real:
            sample = real[index % len(real)]
            reference = sample.picture().pixels, next(one.mask.read() for one in sample.defects if one.type == defect)
        began = time.perf_counter()
        output = pipeline(image=image, mask=mask, defect=defect, reference=reference, seed=index, output_type="np")
        seconds = time.perf_counter() - began
        change = np.abs(output.images[0].astype(np.int16) - image.astype(np.int16)).max(-1)
        yield float((change[mask] >= VISIBLE).mean()), seconds


def main() -> None:
    """Print a table: mean, and tenth percentile, of the share of the mask that changed; seconds of an edit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--run", default="surface")
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--shapes", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    pipeline = AdaBLDMPipeline.from_pretrained(options.run)
    defects = pipeline.card.defects
    own = options.run == "surface"
    reader = None if own else find_reader(options.pictures)
    samples = [] if reader is None else reader.list_samples(options.pictures, ReadOptions()).samples
    samples = [sample for sample in samples if sample.split == "train"]
    draw = on_materials(options.pictures) if own else on_objects(samples)
    print(f"{'defect':<15}{'mean':>7}{'10 %':>7}{'s/edit':>8}")
    every: list[tuple[float, float]] = []
    for place, defect in enumerate(defects):
        indices = range(options.shapes) if own else range(place, options.shapes, len(defects))
        real = [sample for sample in samples if options.real and defect in sample.types]
        found = list(shares(pipeline, draw, defect, indices, real))
        every += found
        _print(defect, found)
    _print("all", every)


def _print(name: str, found: list[tuple[float, float]]) -> None:
    changed, seconds = zip(*found, strict=True)
    print(f"{name:<15}{np.mean(changed):>7.3f}{np.quantile(changed, 0.1):>7.3f}{np.mean(seconds):>8.2f}", flush=True)


if __name__ == "__main__":
    main()
