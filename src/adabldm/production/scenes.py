"""Defect-free sources with a place for a defect: what is edited, drawn from (seed, index, attempt) alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from adabldm.core.images import Mask, Picture, Pixels, read_picture
from adabldm.core.samples import DataSet, Instance
from adabldm.core.seeding import numpy_rng
from adabldm.core.settings.common import Masks, Placement, Recipe
from adabldm.editing.editor import EditJob
from adabldm.editing.look import brightness_around, lay_over, relative_exposure
from adabldm.masks.bank import DefectShape, MaskBank, transform
from adabldm.masks.foreground import estimate_foreground
from adabldm.masks.placement import PlacementError, place_from_bank
from adabldm.masks.procedural import ANY, draw_shape

OTHER_SOURCES = 8
"""How many sources are tried before a defect counts as too large for all of them."""


@dataclass(frozen=True)
class Scene:
    """A source with a place for a defect.

    Attributes:
        picture: the source.
        foreground: object pixels.
        mask: target mask.
        path: of the source, relative to the data set.
        shape: the defect's shape, as it was placed.
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
        """What the editor is given."""
        return EditJob(
            self.picture.pixels, self.foreground, self.mask, prompt, generator, self.exposure, self.reference
        )


class SceneMaker:
    """Draws scenes.

    Args:
        data_set: gives sources and real masks.
        method: of the foreground: "grabcut", "texture" or "folder".
        folder: of ready foreground masks.
        masks: "bank" (the real ones; procedural for types without any) or "procedural".
        recipes: how procedural shapes are drawn, by defect type; any kind for types that are not named.
        placement: policy, see `masks.placement`.
    """

    def __init__(
        self,
        data_set: DataSet,
        method: str,
        *,
        folder: Path | None = None,
        masks: Masks = "bank",
        recipes: Mapping[str, Sequence[Recipe]] | None = None,
        placement: Placement = "auto",
    ) -> None:
        self.data_set, self.method, self.folder = data_set, method, folder
        self.recipes, self.placement = recipes or {}, placement
        self.instances = data_set.instances
        found = self.instances if masks == "bank" else {}
        self.banks = {defect: MaskBank.from_instances(instances) for defect, instances in found.items()}
        self._read = lru_cache(maxsize=64)(self._load)
        self._real = lru_cache(maxsize=64)(self._load_real)
        self._real_brightness = lru_cache(maxsize=None)(self._measure)

    def draw(self, defect: str, *keys: int) -> Scene:
        """A random source and a random place for the defect on it, from the random stream of `keys`.

        Raises:
            PlacementError: no shape fits on any of the sources that were tried.
        """
        rng = numpy_rng("scene", *keys)
        for attempt in range(OTHER_SOURCES):
            sample = self.data_set.good[int(rng.integers(len(self.data_set.good)))]
            picture, foreground = self._read(sample.image)
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
            path, exposure = self.data_set.relative(sample), self._exposure(picture, mask, shape)
            return Scene(picture, foreground, mask, path, shape, exposure, self._reference(shape, mask))
        raise AssertionError("unreachable")

    def foreground(self, path: str) -> Mask:
        """Object pixels of a source, given relative to the data set."""
        return self._read(self.data_set.root / path)[1]

    def _shape(self, defect: str, foreground: Mask, rng: np.random.Generator) -> DefectShape:
        if defect in self.banks:
            return transform(self.banks[defect].draw(rng), rng)
        recipes = self.recipes.get(defect, ANY)
        recipe = recipes[int(rng.integers(len(recipes)))]
        rows, columns = np.flatnonzero(foreground.any(axis=1)), np.flatnonzero(foreground.any(axis=0))
        room = min(len(rows), len(columns))
        return draw_shape(recipe.kind, max(6, int(room * rng.uniform(*recipe.share))), rng)

    def _exposure(self, picture: Picture, mask: Mask, shape: DefectShape) -> float:
        if shape.instance is None:
            return 1.0
        return relative_exposure(self._real_brightness(shape.instance), brightness_around(picture.pixels, mask))

    def _reference(self, shape: DefectShape, mask: Mask) -> Pixels | None:
        if shape.instance is None:
            return None
        pixels, real_mask = self._real(shape.instance)
        return lay_over(pixels, real_mask, shape.linear, mask)

    def _load(self, image: Path) -> tuple[Picture, Mask]:
        picture = read_picture(image, self.data_set.levels)
        return picture, estimate_foreground(picture.pixels, self.method, path=image, folder=self.folder).mask

    @staticmethod
    def _load_real(instance: Instance) -> tuple[Pixels, Mask]:
        return instance.sample.picture().pixels, instance.defect.mask.read()

    def _measure(self, instance: Instance) -> float:
        return brightness_around(*self._real(instance))
