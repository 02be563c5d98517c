"""Defect-free sources with a place for a defect: what is edited, drawn from (seed, index, attempt) alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch

from adabldm.editing.reference import lay_over
from adabldm.errors import InputError
from adabldm.images import Mask, Picture, Pixels, read_mask, read_picture
from adabldm.pipeline import EditJob
from adabldm.sample import DataSet, Sample
from adabldm.seeding import numpy_rng
from adabldm.trimap.bank import DefectShape, MaskBank, transform
from adabldm.trimap.foreground import estimate_foreground
from adabldm.trimap.placement import PlacementError, place_from_bank
from adabldm.trimap.procedural import ANY, Recipe, draw_shape

SURROUNDINGS = 8
"""Pixels around a mask that its exposure is measured in."""
EXPOSURES = (0.4, 2.5)
"""Exposures beyond this range are clipped to it."""
OTHER_SOURCES = 8
"""How many sources are tried before a defect counts as too large for all of them."""


def check_foreground(method: str, folder: Path | None) -> None:
    """Refuse ready foreground masks that are asked for and not given, or the reverse.

    Raises:
        InputError: the two do not fit together, or the folder is missing.
    """
    if method == "folder" and folder is None:
        raise InputError("--foreground folder: expected the folder of the ready masks; add --foreground-folder DIR.")
    if folder is not None and method != "folder":
        raise InputError(
            f"--foreground-folder {folder}: read with --foreground folder only; add that, or leave it out."
        )
    if folder is not None and not folder.is_dir():
        raise InputError(f"--foreground-folder {folder}: no such folder; check the path.")


@dataclass(frozen=True)
class Scene:
    """A source with a place for a defect.

    Attributes:
        picture: the source.
        foreground: object pixels.
        mask: where the defect shall be.
        path: of the source, relative to the data set.
        shape: what was placed.
        exposure: see `EditJob`; 1 for a procedural shape.
        reference: see `EditJob`; `None` for a procedural shape.
    """

    picture: Picture
    foreground: Mask
    mask: Mask
    path: str
    shape: DefectShape
    exposure: float = 1.0
    reference: Pixels | None = None

    def job(self, prompt: str, generator: torch.Generator) -> EditJob:
        """What the pipeline is given to edit."""
        return EditJob(
            self.picture.pixels, self.foreground, self.mask, prompt, generator, self.exposure, self.reference
        )


def _brightness_around(pixels: Pixels, mask: Mask) -> float:
    """Median grey level within `SURROUNDINGS` px of the mask, at least 1; of the whole picture if there is none."""
    reach = np.ones((2 * SURROUNDINGS + 1,) * 2, np.uint8)
    ring = (cv2.dilate(mask.astype(np.uint8), reach) > 0) & ~mask
    return max(1.0, float(np.median(pixels[ring if ring.any() else slice(None)])))


class SceneMaker:
    """Draws scenes.

    Args:
        data_set: gives sources and real masks.
        method: of the foreground: "grabcut", "texture" or "folder".
        folder: of ready foreground masks.
        masks: "bank" (the real ones; procedural for types without any) or "procedural".
        recipes: how procedural shapes are drawn, by defect type; any kind for types that are not named.
        placement: policy, see `trimap.placement`.
        mask_threshold: see `read_mask`.
    """

    def __init__(
        self,
        data_set: DataSet,
        method: str,
        *,
        folder: Path | None = None,
        masks: str = "bank",
        recipes: Mapping[str, Sequence[Recipe]] | None = None,
        placement: str = "auto",
        mask_threshold: int | None = None,
    ) -> None:
        if masks not in {"bank", "procedural"}:
            raise InputError(f"--masks {masks}: unknown, expected bank or procedural.")
        self.data_set, self.method, self.folder = data_set, method, folder
        self.recipes, self.placement, self.mask_threshold = recipes or {}, placement, mask_threshold
        found = data_set.defects if masks == "bank" else {}
        self.banks = {defect: MaskBank.from_samples(samples, mask_threshold) for defect, samples in found.items()}
        self._read = lru_cache(maxsize=64)(self._load)
        self._real = lru_cache(maxsize=64)(self._load_real)
        self._real_brightness = lru_cache(maxsize=None)(self._measure)

    def _load(self, sample: Sample) -> tuple[Picture, Mask]:
        picture = read_picture(sample.image)
        return picture, estimate_foreground(
            picture.pixels, self.method, path=sample.image, folder=self.folder
        ).mask  # fmt: skip

    def _load_real(self, sample: Sample) -> tuple[Pixels, Mask]:
        assert sample.mask is not None
        return read_picture(sample.image).pixels, read_mask(sample.mask, threshold=self.mask_threshold)

    def _measure(self, sample: Sample) -> float:
        return _brightness_around(*self._real(sample))

    def _exposure(self, picture: Picture, mask: Mask, shape: DefectShape) -> float:
        if shape.sample is None:
            return 1.0
        ratio = self._real_brightness(shape.sample) / _brightness_around(picture.pixels, mask)
        return float(np.clip(ratio, *EXPOSURES))

    def _reference(self, shape: DefectShape, mask: Mask) -> Pixels | None:
        if shape.sample is None:
            return None
        pixels, real_mask = self._real(shape.sample)
        return lay_over(pixels, real_mask, shape.linear, mask)

    def relative(self, sample: Sample) -> str:
        """An image's path, relative to the data set."""
        return sample.image.relative_to(self.data_set.root).as_posix()

    def foreground(self, path: str) -> Mask:
        """Object pixels of a source, given relative to the data set."""
        return self._read(Sample(self.data_set.root / path))[1]

    def _shape(self, defect: str, foreground: Mask, rng: np.random.Generator) -> DefectShape:
        if defect in self.banks:
            return transform(self.banks[defect].draw(rng), rng)
        recipes = self.recipes.get(defect, ANY)
        recipe = recipes[int(rng.integers(len(recipes)))]
        rows, columns = np.flatnonzero(foreground.any(axis=1)), np.flatnonzero(foreground.any(axis=0))
        room = min(len(rows), len(columns))
        return draw_shape(recipe.kind, max(6, int(room * rng.uniform(*recipe.share))), rng)

    def draw(self, defect: str, *parts: int) -> Scene:
        """A random source and a random place for the defect on it, from the stream of `parts`.

        Raises:
            PlacementError: no shape fits on any of the sources that were tried.
        """
        rng = numpy_rng("scene", *parts)
        for attempt in range(OTHER_SOURCES):
            sample = self.data_set.good[int(rng.integers(len(self.data_set.good)))]
            picture, foreground = self._read(sample)
            try:
                shape, mask = place_from_bank(
                    lambda room=foreground: self._shape(defect, room, rng),  # type: ignore[misc]
                    foreground,
                    rng,
                    policy=self.placement,
                )
            except PlacementError as error:
                if attempt + 1 == OTHER_SOURCES:
                    raise PlacementError(f"defect type {defect!r}, on {OTHER_SOURCES} images: {error}") from error
                continue
            exposure = self._exposure(picture, mask, shape)
            return Scene(
                picture, foreground, mask, self.relative(sample), shape, exposure, self._reference(shape, mask)
            )
        raise AssertionError("unreachable")
