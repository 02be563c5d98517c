"""Defect-free sources with a place for a defect: what is edited, drawn from (seed, index, attempt) alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch

from adabldm.core.images import Mask, Picture, Pixels, read_picture
from adabldm.core.samples import DataSet, Instance
from adabldm.core.seeding import numpy_rng
from adabldm.core.settings.common import Masks, Placement, Recipe
from adabldm.core.settings.variation import VariationSettings
from adabldm.core.windows import bounding_box
from adabldm.data.bases import Base
from adabldm.editing.editor import EditJob
from adabldm.editing.look import brightness_around, lay_over, relative_exposure
from adabldm.masks.bank import DefectShape, MaskBank, extent, transform, warped
from adabldm.masks.direction import local_direction, main_axis
from adabldm.masks.foreground import estimate_foreground
from adabldm.masks.placement import PlacementError, paste_mask, place_from_bank
from adabldm.masks.procedural import ANY, draw_shape
from adabldm.rendering.shapes import own_shape

OTHER_SOURCES = 8
"""How many sources are tried before a defect counts as too large for all of them."""
OTHER_PLACES = 20
"""How many places are tried for a defect that is turned along its surroundings."""
GAP = 4
"""Pixels between two defects in one picture, at least."""


@dataclass(frozen=True)
class Canvas:
    """A picture that a defect is put into.

    Attributes:
        picture: as it is now.
        foreground: object pixels.
        path: of the source, relative to the data set.
        taken: pixels of the defects that are in it; `None` without any.
        base: the picture with defects that it was at first; `None` for a defect-free source.
    """

    picture: Picture
    foreground: Mask
    path: str
    taken: Mask | None = None
    base: Base | None = None

    @property
    def closed(self) -> Mask | None:
        """Pixels that no other defect may cover: those that are taken, and `GAP` px around them."""
        if self.taken is None:
            return None
        return np.asarray(cv2.dilate(self.taken.astype(np.uint8), np.ones((2 * GAP + 1,) * 2, np.uint8)) > 0)

    def edited(self, pixels: Pixels, mask: Mask) -> Canvas:
        """The canvas with one defect more.

        Args:
            pixels: the picture with it, uint8 HxWx3.
            mask: where it is, bool HxW.
        """
        taken = mask if self.taken is None else self.taken | mask
        return replace(self, picture=self.picture.edited(pixels), taken=taken)


@dataclass(frozen=True)
class Scene:
    """A source with a place for a defect.

    Attributes:
        canvas: the picture, and what is in it already.
        mask: target mask.
        shape: the defect's shape, as it was placed.
        exposure: see `EditJob`; 1 for a procedural shape.
        reference: see `EditJob`; `None` for a procedural shape.
        strengths: see `EditJob`.
    """

    canvas: Canvas
    mask: Mask
    shape: DefectShape
    exposure: float = 1.0
    reference: Pixels | None = None
    strengths: tuple[float, float] | None = None

    @property
    def picture(self) -> Picture:
        """The picture before the edit."""
        return self.canvas.picture

    @property
    def foreground(self) -> Mask:
        """Object pixels."""
        return self.canvas.foreground

    @property
    def path(self) -> str:
        """Path of the source, relative to the data set."""
        return self.canvas.path

    def job(self, prompt: str, generator: torch.Generator) -> EditJob:
        """What the editor is given."""
        return EditJob(
            self.picture.pixels,
            self.foreground,
            self.mask,
            prompt,
            generator,
            self.exposure,
            self.reference,
            self.strengths,
        )


@dataclass(frozen=True)
class SceneOptions:
    """How scenes are drawn.

    Attributes:
        folder: of ready foreground masks.
        masks: "bank" (the real ones; procedural for types without any) or "procedural".
        recipes: how procedural shapes are drawn, by defect type; any kind for types that are not named.
        placement: policy, see `masks.placement`.
        vary: how many, how large and how turned defects are, by type.
        onto: pictures with defects, which are edited instead of the data set's defect-free ones.
        rendered: types without real masks and recipes have the shapes that the renderer gives them.
    """

    folder: Path | None = None
    masks: Masks = "bank"
    recipes: Mapping[str, Sequence[Recipe]] = field(default_factory=dict)
    placement: Placement = "auto"
    vary: VariationSettings = field(default_factory=VariationSettings)
    onto: tuple[Base, ...] | None = None
    rendered: bool = False


class SceneMaker:
    """Draws scenes.

    Args:
        data_set: gives sources and real masks.
        method: of the foreground: "grabcut", "texture" or "folder".
        options: how they are drawn.
    """

    def __init__(self, data_set: DataSet, method: str, options: SceneOptions | None = None) -> None:
        self.data_set, self.method, self.options = data_set, method, options or SceneOptions()
        self.instances = data_set.instances
        found = self.instances if self.options.masks == "bank" else {}
        self.banks = {defect: MaskBank.from_instances(instances) for defect, instances in found.items()}
        self._variation = lru_cache(maxsize=None)(self.options.vary.variation)
        self._read = lru_cache(maxsize=64)(self._load)
        self._masks = lru_cache(maxsize=64)(Base.masks)
        self._real = lru_cache(maxsize=64)(self._load_real)
        self._real_brightness = lru_cache(maxsize=None)(self._measure)

    def draw(self, defect: str, *keys: int) -> Scene:
        """A random source and a random place for the defect on it, from the random stream of `keys`.

        Raises:
            PlacementError: no shape fits on any of the sources that were tried.
        """
        rng = numpy_rng("scene", *keys)
        for attempt in range(OTHER_SOURCES):
            canvas = self._canvas(rng)
            try:
                return self._scene(canvas, defect, rng)
            except PlacementError as error:
                if attempt + 1 == OTHER_SOURCES:
                    raise PlacementError(f"defect type {defect!r}, on {OTHER_SOURCES} images: {error}") from error
        raise AssertionError("unreachable")

    def draw_on(self, canvas: Canvas, defect: str, *keys: int) -> Scene:
        """A random place for one defect more in a picture, from the random stream of `keys`.

        Raises:
            PlacementError: no shape fits beside the defects that are in it.
        """
        return self._scene(canvas, defect, numpy_rng("scene", *keys))

    def foreground(self, path: str) -> Mask:
        """Object pixels of a source, given as in `Canvas.path`."""
        own = self.data_set.root / path
        image = next((base.image for base in self.options.onto or () if base.source == path), own)
        return self._read(own if own.is_file() else image, own)[1]

    def _canvas(self, rng: np.random.Generator) -> Canvas:
        """A random source."""
        if self.options.onto is None:
            sample = self.data_set.good[int(rng.integers(len(self.data_set.good)))]
            return Canvas(*self._read(sample.image, sample.image), self.data_set.relative(sample))
        base = self.options.onto[int(rng.integers(len(self.options.onto)))]
        picture, foreground = self._read(base.image, self.data_set.root / base.source)
        taken = np.logical_or.reduce(self._masks(base))
        return Canvas(picture, foreground, base.source, np.asarray(taken), base)

    def _scene(self, canvas: Canvas, defect: str, rng: np.random.Generator) -> Scene:
        turned = self._variation(defect).turn == "along"
        shape, mask = self._along(canvas, defect, rng) if turned else self._placed(canvas, defect, rng)
        exposure = self._exposure(canvas.picture, mask, shape)
        return Scene(
            canvas, mask, shape, exposure, self._reference(shape, mask), self._variation(defect).contrast
        )  # fmt: skip

    def _placed(self, canvas: Canvas, defect: str, rng: np.random.Generator) -> tuple[DefectShape, Mask]:
        return place_from_bank(
            lambda: self._shape(defect, canvas.foreground, rng),
            canvas.foreground,
            rng,
            policy=self.options.placement,
            taken=canvas.closed,
        )

    def _along(self, canvas: Canvas, defect: str, rng: np.random.Generator) -> tuple[DefectShape, Mask]:
        """A defect that lies in the local direction as the real one lies in its own; by any angle where there is none.

        A shape that touches its image's border is not turned.
        """
        closed = canvas.closed
        for _ in range(OTHER_PLACES):
            shape, mask = self._placed(canvas, defect, rng)
            free = float(rng.uniform(0, 360))
            if shape.borders:
                return shape, mask
            here, own = local_direction(canvas.picture.pixels, mask), self._own_direction(shape)
            angle = free if here is None or own is None else own - here + (180.0 if free < 180 else 0.0)
            turned = warped(shape, angle, (1.0, 1.0))
            top, left, bottom, right = bounding_box(mask)
            height, width = turned.mask.shape
            moved = paste_mask(
                turned.mask, ((top + bottom - height) // 2, (left + right - width) // 2), mask.shape
            )  # fmt: skip
            room = canvas.foreground if closed is None else canvas.foreground & ~closed
            if np.count_nonzero(moved & room) == np.count_nonzero(turned.mask):
                return turned, moved
        raise PlacementError(f"no place was found in {OTHER_PLACES} tries where it fits along the local direction.")

    def _own_direction(self, shape: DefectShape) -> float | None:
        """Direction of a shape's own surroundings, as it was flipped and turned; of its main axis without any."""
        if shape.instance is None:
            return main_axis(shape.mask)
        direction = local_direction(*self._real(shape.instance))
        if direction is None:
            return None
        x, y = np.array(shape.linear) @ (np.cos(np.deg2rad(direction)), np.sin(np.deg2rad(direction)))
        return float(np.rad2deg(np.arctan2(y, x)))

    def _shape(self, defect: str, foreground: Mask, rng: np.random.Generator) -> DefectShape:
        vary = self._variation(defect)
        rows, columns = np.flatnonzero(foreground.any(axis=1)), np.flatnonzero(foreground.any(axis=0))
        room = min(len(rows), len(columns))
        sizes = None if vary.size is None else vary.size.in_px(room)
        if defect in self.banks:
            drawn = self.banks[defect].draw(rng)
            scale = (0.85, 1.15) if sizes is None else tuple(one / extent(drawn.mask) for one in sizes)
            return transform(drawn, rng, angles=vary.angles, scale=(scale[0], scale[1]), flips=vary.flips)
        if self.options.rendered and defect not in self.options.recipes:
            shape = own_shape(defect, room, rng)
            factor = 1.0 if sizes is None else float(rng.uniform(*sizes)) / extent(shape.mask)
            return shape if sizes is None else warped(shape, 0.0, (factor, factor))
        recipes = self.options.recipes.get(defect, ANY)
        recipe = recipes[int(rng.integers(len(recipes)))]
        if sizes is None:
            return draw_shape(recipe.kind, max(6, int(room * rng.uniform(*recipe.share))), rng)
        length = float(rng.uniform(*sizes))
        shape = draw_shape(recipe.kind, max(6, round(length)), rng)
        factor = length / extent(shape.mask)  # its sides were of that length, so that its diagonal may be longer
        return warped(shape, 0.0, (factor, factor))

    def _exposure(self, picture: Picture, mask: Mask, shape: DefectShape) -> float:
        if shape.instance is None:
            return 1.0
        return relative_exposure(self._real_brightness(shape.instance), brightness_around(picture.pixels, mask))

    def _reference(self, shape: DefectShape, mask: Mask) -> Pixels | None:
        if shape.instance is None:
            return None
        pixels, real_mask = self._real(shape.instance)
        return lay_over(pixels, real_mask, shape.linear, mask)

    def _load(self, image: Path, source: Path) -> tuple[Picture, Mask]:
        """A picture with its object; ready foregrounds are named after the source."""
        picture = read_picture(image, self.data_set.levels)
        found = estimate_foreground(picture.pixels, self.method, path=source, folder=self.options.folder)
        return picture, found.mask

    @staticmethod
    def _load_real(instance: Instance) -> tuple[Pixels, Mask]:
        return instance.sample.picture().pixels, instance.defect.mask.read()

    def _measure(self, instance: Instance) -> float:
        return brightness_around(*self._real(instance))
