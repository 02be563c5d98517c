"""Read a data set into memory with the foreground of every image: what training windows are cut from."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from adabldm.images import read_mask, read_picture
from adabldm.sample import DataSet, Sample
from adabldm.training.examples import Part
from adabldm.trimap.foreground import decide_method, estimate_foreground


def foreground_method(data_set: DataSet, method: str) -> str:
    """Resolve `auto` once for a data set: its images show objects, or they are textures, all of them."""
    if method != "auto":
        return method
    step = max(1, len(data_set.good) // 12)
    return decide_method([read_picture(sample.image).pixels for sample in data_set.good[::step][:12]])


def read_parts(
    samples: Sequence[Sample], method: str, *, folder: Path | None = None, mask_threshold: int | None = None
) -> list[Part]:
    """Read samples with their masks and foregrounds, in their order.

    Args:
        samples: what to read.
        method: of the foreground, see `estimate_foreground`.
        folder: of ready foreground masks, for the method `folder`.
        mask_threshold: see `read_mask`.
    """

    def read(sample: Sample) -> Part:
        pixels = read_picture(sample.image).pixels
        foreground = estimate_foreground(pixels, method, path=sample.image, folder=folder).mask
        if sample.mask is None:
            return Part(pixels, foreground)
        mask = read_mask(sample.mask, threshold=mask_threshold)
        # A defect belongs to the object, also where the estimate misses it (a stain as dark as the background).
        return Part(pixels, foreground | mask, sample.defect, mask)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(read, samples))


def read_data_set(
    data_set: DataSet, method: str, *, folder: Path | None = None, mask_threshold: int | None = None, limit: int = 1000
) -> tuple[list[Part], dict[str, list[Part]]]:
    """(defect-free parts, parts by defect type) of the training split; of the former at most `limit`, evenly chosen."""
    step = max(1, -(-len(data_set.good) // limit))
    good = read_parts(data_set.good[::step], method, folder=folder)
    defects = {
        defect: read_parts(samples, method, folder=folder, mask_threshold=mask_threshold)
        for defect, samples in data_set.defects.items()
    }
    return good, defects
