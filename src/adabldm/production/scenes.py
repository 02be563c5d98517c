"""Defect-free sources with a place for a defect: what is edited, drawn from (seed, index, attempt) alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import torch

from adabldm.core.changes import Change, Interval
from adabldm.core.images import Mask, Picture, Pixels, read_picture
from adabldm.core.records import ImageRecord
from adabldm.core.samples import DataSet, Instance, Sample, picture_reader
from adabldm.core.seeding import numpy_rng
from adabldm.core.settings.common import Masks, Placement, Recipe
from adabldm.core.settings.variation import VariationSettings
from adabldm.core.windows import bounding_box
from adabldm.data.bases import Base
from adabldm.data.formats.annotations import image_size
from adabldm.editing.editor import EditJob
from adabldm.editing.look import brightness_around, lay_over, relative_exposure
from adabldm.masks.bank import DefectShape, MaskBank, extent, transform, warped
from adabldm.masks.direction import local_direction, main_axis
from adabldm.masks.foreground import estimate_foreground
from adabldm.masks.placement import Placed, PlacementError, paste_mask, place_from_bank
from adabldm.masks.procedural import ANY, draw_shape
from adabldm.masks.surroundings import (
    FOLLOWS,
    LEAST_DEFECTS,
    Choice,
    Habits,
    RealDefect,
    choose_place,
    describe,
    evenly,
    learn_habits,
    scattered,
    show_one_place,
    told_apart,
)
from adabldm.production.learnt import RealChanges
from adabldm.rendering.shapes import own_shape

OTHER_SOURCES = 8
"""How many sources are tried before a defect counts as too large for all of them."""
SCALES = (0.85, 1.15)
"""Size of a defect as a share of the real one's, if nothing else is asked for."""
LIKE_SOURCES = 21
"""How many sources are tried until one has a place like a real defect's; then the best of them counts."""
PATIENCE = 15
"""After so many sources that were tried in vain, a place may cost twice as much; the search ends the sooner."""
ALIKE_SOURCES = 3
"""The same for a data set whose pictures show the object at one place."""
SAME_SHAPE = 3
"""After so many sources without such a place, another real defect is tried."""
LIKE_SHAPES = 3
"""How many variants of a shape are compared with a source at once, each also turned by a right angle."""
SLANTED = 0.3
"""Share of shapes that are tried at an angle other than a right one."""
CHECKED_PICTURES = (3, 8)
"""On how many pictures the usual cost of a place is measured: a third of them, but at least and at most so many."""
COMPARED_PICTURES = 12
"""How many pictures decide whether all show the object at one place, and whether defects follow their surroundings."""
RANDOM_PLACES = 5
"""How many places on each of these are compared with those of real defects."""
OTHER_PLACES = 20
"""How many places are tried for a defect that is turned along its surroundings."""
NEARLY = 4.0
"""Degrees from the local direction that are left to a defect whose place was compared with the real one's."""
KEPT, KEPT_PIXELS = (4, 64), 200_000_000
"""Pictures that are kept in memory, at least and at most; between, as many as have so many pixels."""
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
        placed: the defect's shape and where it lies.
        exposure: see `EditJob`; 1 for a procedural shape.
        reference: see `EditJob`; `None` for a procedural shape.
        strengths: see `EditJob`.
        cost: of the place, see `surroundings.Choice`; 0 where it was not asked for.
    """

    canvas: Canvas
    placed: Placed
    exposure: float = 1.0
    reference: Pixels | None = None
    strengths: tuple[float, float] | None = None
    cost: float = 0.0

    @property
    def mask(self) -> Mask:
        """Target mask: the shape without what was cut off at the object."""
        return self.placed.mask

    @property
    def shape(self) -> DefectShape:
        """The defect's shape, as it was placed, whole."""
        return self.placed.shape

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

    def job(self, prompt: str, generator: torch.Generator, usual: tuple[Interval, Interval] | None = None) -> EditJob:
        """What the editor is given; see `EditJob`."""
        return EditJob(
            self.picture.pixels,
            self.foreground,
            self.mask,
            prompt,
            generator,
            self.exposure,
            self.reference,
            self.strengths,
            usual=usual,
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
        may_follow: the policy "auto" puts types whose places follow their surroundings where real ones may be.
        known: what real defects change, by type, for types that have no example in the data set.
    """

    folder: Path | None = None
    masks: Masks = "bank"
    recipes: Mapping[str, Sequence[Recipe]] = field(default_factory=dict)
    placement: Placement = "auto"
    vary: VariationSettings = field(default_factory=VariationSettings)
    onto: tuple[Base, ...] | None = None
    rendered: bool = False
    may_follow: bool = False
    known: Mapping[str, Sequence[Change]] = field(default_factory=dict)


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
        self.changes = RealChanges(data_set, self.options.known)
        self._variation = lru_cache(maxsize=None)(self.options.vary.variation)
        size = image_size(data_set.good[0].image) if data_set.good else None
        kept = KEPT[1] if size is None else int(np.clip(KEPT_PIXELS // (size[0] * size[1]), *KEPT))
        self._read = lru_cache(maxsize=kept)(self._load)
        self._masks = lru_cache(maxsize=kept)(Base.masks)
        self._picture = picture_reader()
        self._every = lru_cache(maxsize=kept)(Sample.mask)
        self._object = lru_cache(maxsize=1)(self._find_object)
        self._real = lru_cache(maxsize=kept)(self._load_real)
        self._real_brightness = lru_cache(maxsize=None)(self._measure)
        self._real_defect = lru_cache(maxsize=kept)(self._load_real_defect)
        self._by_path = {data_set.relative(sample): sample for sample in data_set.good}
        self._bases = {base.name: base for base in self.options.onto or ()}
        self._sources = lru_cache(maxsize=None)(self._find_sources)
        self._region = lru_cache(maxsize=kept)(self._read_region)
        self._checked = lru_cache(maxsize=None)(self._checked_pictures)
        self._registered = lru_cache(maxsize=None)(self._show_one_place)
        self.habits = lru_cache(maxsize=None)(self._learn_habits)
        """By defect type with real masks: what is known of its places."""
        self.told_apart = lru_cache(maxsize=None)(self._told_apart)
        """By defect type with real masks: how reliably surroundings tell its places from others, 0.5 to 1."""

    def follows(self, defect: str) -> bool:
        """Whether a defect type is put where the surroundings are like those of real defects."""
        if defect not in self.banks or self.options.placement == "like-real":
            return defect in self.banks
        asked = self.options.placement == "auto" and self.options.may_follow
        return asked and self.told_apart(defect) >= FOLLOWS

    def draw(self, defect: str, *keys: int) -> Scene:
        """A random source and a random place for the defect on it, from the random stream of `keys`.

        Raises:
            PlacementError: no shape fits on any of the sources that were tried.
        """
        rng, best = numpy_rng("scene", *keys), None
        tries, enough, real = OTHER_SOURCES, 0.0, self._to_be_like(defect, rng)
        if self.follows(defect):
            habits = self.habits(defect)
            tries = LIKE_SOURCES if habits.places is None else ALIKE_SOURCES  # else all sources have the same places
            enough = habits.good_enough
        for attempt in range(tries):
            canvas = self._canvas(rng, defect)
            try:
                scene = self._scene(canvas, defect, rng, real)
            except PlacementError as error:
                if attempt + 1 == tries and best is None:
                    raise PlacementError(f"defect type {defect!r}, on {tries} images: {error}") from error
                if best is None:
                    real = self._to_be_like(defect, rng)  # for the object may be too small for that one
                continue
            best = scene if best is None or scene.cost < best.cost else best
            if best.cost <= enough * (1 + (attempt / PATIENCE) ** 2):
                break
            if attempt % SAME_SHAPE == SAME_SHAPE - 1:
                real = self._to_be_like(defect, rng)  # for there may be no place like that one's
        assert best is not None
        return best

    def draw_on(self, canvas: Canvas, defect: str, *keys: int) -> Scene:
        """A random place for one defect more in a picture, from the random stream of `keys`.

        Raises:
            PlacementError: no shape fits beside the defects that are in it.
        """
        rng = numpy_rng("scene", *keys)
        return self._scene(canvas, defect, rng, self._to_be_like(defect, rng))

    def _to_be_like(self, defect: str, rng: np.random.Generator) -> DefectShape | None:
        """The real defect whose place a new one is to be like, each as likely as any; `None` where it may be anywhere.

        It is not the one that fits best, because then a few of them would be used again and again.
        """
        return self.banks[defect].draw(rng) if self.follows(defect) else None

    def foreground(self, path: str, base: str | None = None) -> Mask:
        """Object pixels of a source, given as in `Canvas.path`, or of the base of this name that was made from it."""
        own = self.data_set.root / path
        return self._read(own if base is None else self._bases[base].image, own)[1]

    def source_of(self, record: ImageRecord) -> Path:
        """File of the defect-free source of an image; the picture that was edited, where its source is not at hand."""
        if record.base is None:
            return self.data_set.root / record.source
        base = self._bases[record.base]
        path = None if base.sources is None else base.sources / record.source
        return base.image if path is None or not path.is_file() else path

    def _canvas(self, rng: np.random.Generator, defect: str) -> Canvas:
        """A random source, on which a defect of the type may be."""
        if self.options.onto is None:
            sources = self._sources(defect)
            sample = sources[int(rng.integers(len(sources)))]
            return Canvas(*self._read(sample.image, sample.image), self.data_set.relative(sample))
        base = self.options.onto[int(rng.integers(len(self.options.onto)))]
        picture, foreground = self._read(base.image, self.data_set.root / base.source)
        taken = np.logical_or.reduce(self._masks(base))
        return Canvas(picture, foreground, base.source, np.asarray(taken), base)

    def _scene(self, canvas: Canvas, defect: str, rng: np.random.Generator, real: DefectShape | None) -> Scene:
        """A scene on a canvas; where `real`, one of the bank's shapes, is given, at a place like that one's."""
        turned = self._variation(defect).turn == "along"
        choice = None if real is None else self._like_real(canvas, defect, rng, real)
        if choice is not None and turned:
            found = self._lying_along(canvas, defect, Placed.uncut(choice.shape, choice.mask))
            if found is None:
                raise PlacementError("the place that is like a real one has no room along the local direction.")
            placed = found
        elif choice is not None:
            placed = Placed.uncut(choice.shape, choice.mask)
        else:
            placed = self._along(canvas, defect, rng) if turned else self._placed(canvas, defect, rng)
        exposure = self._exposure(canvas.picture, placed.mask, placed.shape)
        reference, contrast = self._reference(placed), self._variation(defect).contrast
        return Scene(canvas, placed, exposure, reference, contrast, 0.0 if choice is None else choice.cost)

    def _like_real(self, canvas: Canvas, defect: str, rng: np.random.Generator, real: DefectShape) -> Choice | None:
        """A place as a real defect's, for the best of some variants; `None` for a shape that touches its border."""
        if real.borders:
            return None
        free = self._variation(defect).turn in {"free", "along"}
        shapes: list[DefectShape] = []
        for _ in range(LIKE_SHAPES):
            shape = self._shape(defect, canvas.foreground, rng, angles=(0.0, 0.0) if free else None, real=real)
            # Many objects have their lines upright or level, others anywhere.
            angle = float(rng.uniform(0, 90)) if rng.random() < SLANTED else 0.0
            shapes += [warped(shape, angle + right, (1.0, 1.0)) for right in (0.0, 90.0)] if free else [shape]
        room = self._free_room(canvas, defect)
        pairs = [(self._real_defect(one.instance), one) for one in shapes if one.instance is not None]
        scales = SCALES if self._variation(defect).size is None else None
        return choose_place(canvas.picture.pixels, room, pairs, self.habits(defect), rng, scales=scales)

    def _find_sources(self, defect: str) -> tuple[Sample, ...]:
        """The defect-free images; where some say where a defect type may be, these alone."""
        return tuple(one for one in self.data_set.good if one.has_region(defect)) or self.data_set.good

    def _read_region(self, path: str, defect: str) -> Mask | None:
        sample, foreground = self._by_path[path], self.foreground(path)
        return sample.region(defect, (foreground.shape[0], foreground.shape[1]))

    def _room(self, canvas: Canvas, defect: str) -> Mask:
        """Object pixels where a defect of a type may be.

        Raises:
            PlacementError: there are none.
        """
        sample = self._by_path.get(canvas.path)
        if sample is None or not sample.has_region(defect):
            if any(one.has_region(defect) for one in self._sources(defect)[:1]):
                raise PlacementError(f"{canvas.path} does not say where a {defect} may be, other images do.")
            return canvas.foreground
        region = self._region(canvas.path, defect)
        room = canvas.foreground if region is None else canvas.foreground & region
        if not room.any():
            raise PlacementError(f"{canvas.path}: the region where a {defect} may be lies beside the object.")
        return room

    def _free_room(self, canvas: Canvas, defect: str) -> Mask:
        """The same without what no other defect may cover; raises as `_room`."""
        room, closed = self._room(canvas, defect), canvas.closed
        return room if closed is None else room & ~closed

    def _placed(self, canvas: Canvas, defect: str, rng: np.random.Generator) -> Placed:
        return place_from_bank(
            lambda: self._shape(defect, canvas.foreground, rng),
            self._room(canvas, defect),
            rng,
            policy=self.options.placement,
            taken=canvas.closed,
        )

    def _along(self, canvas: Canvas, defect: str, rng: np.random.Generator) -> Placed:
        """A defect that lies in the local direction as the real one lies in its own; by any angle where there is none.

        A shape that touches its image's border is not turned.
        """
        for _ in range(OTHER_PLACES):
            placed = self._placed(canvas, defect, rng)
            found = self._lying_along(canvas, defect, placed, float(rng.uniform(0, 360)))
            if found is not None:
                return found
        raise PlacementError(f"no place was found in {OTHER_PLACES} tries where it fits along the local direction.")

    def _lying_along(self, canvas: Canvas, defect: str, placed: Placed, free: float | None = None) -> Placed | None:
        """A placed shape turned about its middle as it has to lie there; `None` where it has no room then.

        Args:
            canvas: the picture.
            defect: its type.
            placed: the shape and its mask.
            free: angle in degrees where there is no direction; below 180 it also turns others over. If left out, a
                shape keeps its angle there and where it nearly lies as it has to, and is turned by at most a right
                angle elsewhere.
        """
        shape, mask, _ = placed
        if shape.borders:
            return placed
        here, own = local_direction(canvas.picture.pixels, mask), self._own_direction(shape)
        if free is None:
            angle = 0.0 if here is None or own is None else (own - here + 90) % 180 - 90
            if abs(angle) < NEARLY:
                return placed
        else:
            angle = free if here is None or own is None else own - here + (180.0 if free < 180 else 0.0)
        turned = warped(shape, angle, (1.0, 1.0))
        top, left, bottom, right = bounding_box(mask)
        height, width = turned.mask.shape
        corner = (top + bottom - height) // 2, (left + right - width) // 2
        moved = paste_mask(turned.mask, corner, (mask.shape[0], mask.shape[1]))
        fits = np.count_nonzero(moved & self._free_room(canvas, defect)) == np.count_nonzero(turned.mask)
        return Placed(turned, moved, corner) if fits else None

    def _own_direction(self, shape: DefectShape) -> float | None:
        """Direction of a shape's own surroundings, as it was flipped and turned; of its main axis without any."""
        if shape.instance is None:
            return main_axis(shape.mask)
        direction = local_direction(*self._real(shape.instance))
        if direction is None:
            return None
        x, y = np.array(shape.linear) @ (np.cos(np.deg2rad(direction)), np.sin(np.deg2rad(direction)))
        return float(np.rad2deg(np.arctan2(y, x)))

    def _shape(
        self,
        defect: str,
        foreground: Mask,
        rng: np.random.Generator,
        angles: tuple[float, float] | None = None,
        real: DefectShape | None = None,
    ) -> DefectShape:
        """A shape of a size that fits the object; a variant of `real` if that is given."""
        vary = self._variation(defect)
        rows, columns = np.flatnonzero(foreground.any(axis=1)), np.flatnonzero(foreground.any(axis=0))
        room = min(len(rows), len(columns))
        sizes = None if vary.size is None else vary.size.in_px(room)
        if defect in self.banks:
            drawn = self.banks[defect].draw(rng) if real is None else real
            scale = SCALES if sizes is None else tuple(one / extent(drawn.mask) for one in sizes)
            return transform(drawn, rng, angles=angles or vary.angles, scale=(scale[0], scale[1]), flips=vary.flips)
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

    def _reference(self, placed: Placed) -> Pixels | None:
        shape = placed.shape
        if shape.instance is None:
            return None
        pixels, real_mask = self._real(shape.instance)
        return lay_over(pixels, real_mask, shape.linear, placed.mask, placed.middle)

    def _load(self, image: Path, source: Path) -> tuple[Picture, Mask]:
        """A picture with its object; ready foregrounds are named after the source."""
        picture = read_picture(image, self.data_set.levels)
        found = estimate_foreground(picture.pixels, self.method, path=source, folder=self.options.folder)
        return picture, found.mask

    def _load_real(self, instance: Instance) -> tuple[Pixels, Mask]:
        return self._picture(instance.sample).pixels, instance.defect.mask.read()

    def _find_object(self, sample: Sample) -> Mask:
        pixels = self._picture(sample).pixels
        return estimate_foreground(pixels, self.method, path=sample.image, folder=self.options.folder).mask

    def _load_real_defect(self, instance: Instance) -> RealDefect:
        pixels, mask = self._real(instance)
        every = self._every(instance.sample)
        near = cv2.dilate((mask if every is None else every | mask).astype(np.uint8), np.ones((5, 5), np.uint8))
        return RealDefect(pixels, mask, near == 0)

    def _show_one_place(self) -> bool:
        return show_one_place([one.picture().pixels for one in evenly(self.data_set.good, COMPARED_PICTURES)])

    def _learn_habits(self, defect: str) -> Habits:
        known = [(one.instance, one) for one in self.banks[defect].shapes if one.instance is not None]
        defects = [(partial(self._real_defect, instance), shape) for instance, shape in known]
        return learn_habits(defects, self._checked(), registered=self._registered())

    def _checked_pictures(self) -> list[Pixels]:
        count = int(np.clip(len(self.data_set.good) // 3, *CHECKED_PICTURES))
        return [one.picture().pixels for one in evenly(self.data_set.good, count)]

    def _told_apart(self, defect: str) -> float:
        """See `surroundings.told_apart`; 0.5, by chance, for a type with few defects."""
        shapes = [one for one in self.banks[defect].shapes if one.instance is not None and not one.borders]
        real, others, rng = [], [], numpy_rng("places", defect)
        for shape in shapes:
            assert shape.instance is not None
            one = self._real_defect(shape.instance)
            foreground = self._object(shape.instance.sample)
            real.append(describe(one.pixels, one.mask, one.known, foreground | one.mask))
        for sample in evenly(self.data_set.good, COMPARED_PICTURES) if shapes else ():
            picture, foreground = self._read(sample.image, sample.image)
            for _ in range(RANDOM_PLACES):
                placed = scattered(shapes[int(rng.integers(len(shapes)))], foreground, rng)
                if placed is not None:
                    others.append(describe(picture.pixels, placed, np.ones_like(placed), foreground))
        rows = [np.array([row for row in group if row is not None]) for group in (real, others)]
        return told_apart(*rows) if min(map(len, rows)) >= LEAST_DEFECTS else 0.5

    def _measure(self, instance: Instance) -> float:
        return brightness_around(*self._real(instance))
