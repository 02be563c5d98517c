"""Read a data set into memory with the foreground of every image: what training windows are cut from."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from adabldm.core.samples import DataSet, Sample
from adabldm.masks.foreground import decide_method, estimate_foreground
from adabldm.training.examples import SourceImage, TrainingImages


def foreground_method(data_set: DataSet, method: str) -> str:
    """Resolve `auto` once for a data set: its images show objects, or they are textures, all of them."""
    if method != "auto":
        return method
    step = max(1, len(data_set.good) // 12)
    return decide_method([sample.picture().pixels for sample in data_set.good[::step][:12]])


def read_views(samples: Sequence[Sample], method: str, *, folder: Path | None = None) -> list[SourceImage]:
    """Read samples with their masks and foregrounds, in their order: a view of each defect, or one without a defect.

    Args:
        samples: what to read.
        method: of the foreground, see `estimate_foreground`.
        folder: of ready foreground masks, for the method `folder`.
    """

    def read(sample: Sample) -> list[SourceImage]:
        pixels = sample.picture().pixels
        foreground = estimate_foreground(pixels, method, path=sample.image, folder=folder).mask
        masks = [defect.mask.read() for defect in sample.defects]
        # A defect belongs to the object, also where the estimate misses it (a stain as dark as the background).
        for mask in masks:
            foreground = foreground | mask
        if not masks:
            size = foreground.shape[0], foreground.shape[1]
            regions = {name: sample.region(name, size) for name in sorted({one.type for one in sample.regions})}
            own = {name: region for name, region in regions.items() if region is not None}
            return [SourceImage(pixels, foreground, regions=own)]
        times = np.zeros(foreground.shape, np.uint16)  # how many of them cover a pixel
        for mask in masks:
            times += mask
        return [
            SourceImage(pixels, foreground, defect.type, mask, times > mask if len(masks) > 1 else None)
            for defect, mask in zip(sample.defects, masks, strict=True)
        ]

    with ThreadPoolExecutor(2) as pool:
        return [view for views in pool.map(read, samples) for view in views]


def read_data_set(data_set: DataSet, method: str, *, folder: Path | None = None, limit: int = 1000) -> TrainingImages:
    """The images of the training split; of the defect-free ones at most `limit`, evenly chosen."""
    step = max(1, -(-len(data_set.good) // limit))
    defects: dict[str, list[SourceImage]] = {name: [] for name in data_set.types}
    for view in read_views(data_set.defective, method, folder=folder):
        assert view.defect is not None
        defects[view.defect].append(view)
    good = read_views(data_set.good[::step], method, folder=folder)
    return TrainingImages(data_set.object_name, good, defects)
