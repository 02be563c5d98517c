"""Read a data set into memory with the foreground of every image: what training windows are cut from."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from adabldm.core.opening import open_header
from adabldm.core.samples import DataSet, Sample, joined
from adabldm.masks.foreground import decide_method, estimate_foreground
from adabldm.training.examples import SourceImage, TrainingImages

MEMORY = 4 * 2**30
"""Bytes that the defect-free images of a data set may take: a thousand of one megapixel each."""


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
        if not masks:
            size = foreground.shape[0], foreground.shape[1]
            regions = {name: sample.region(name, size) for name in sorted({one.type for one in sample.regions})}
            own = {name: region for name, region in regions.items() if region is not None}
            return [SourceImage(pixels, foreground, regions=own)]
        every = joined(masks)
        # A defect belongs to the object, also where the estimate misses it (a stain as dark as the background).
        foreground = foreground | every
        return [
            SourceImage(pixels, foreground, defect.type, mask, every if len(masks) > 1 else None)
            for defect, mask in zip(sample.defects, masks, strict=True)
        ]

    with ThreadPoolExecutor(2) as pool:
        return [view for views in pool.map(read, samples) for view in views]


def read_data_set(
    data_set: DataSet, method: str, *, folder: Path | None = None, limit: int = 1000, memory: int = MEMORY
) -> TrainingImages:
    """The images of the training split; of the defect-free ones at most `limit`, evenly chosen.

    Where these would need more than `memory` bytes, there are fewer of them.
    """
    chosen = data_set.good[:: max(1, -(-len(data_set.good) // limit))]
    chosen = chosen[:: max(1, -(-sum(map(_bytes, chosen)) // memory))]
    defects: dict[str, list[SourceImage]] = {name: [] for name in data_set.types}
    for view in read_views(data_set.defective, method, folder=folder):
        assert view.defect is not None
        defects[view.defect].append(view)
    return TrainingImages(data_set.object_name, read_views(chosen, method, folder=folder), defects)


def _bytes(sample: Sample) -> int:
    """What a defect-free image takes in memory: three colours, its foreground and regions."""
    with open_header(sample.image) as image:
        return image.width * image.height * (4 + len({region.type for region in sample.regions}))
