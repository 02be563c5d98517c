"""Orders become variants: results that wait in memory until one is kept."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, Picture, Pixels
from adabldm.core.prompts import defect_prompt
from adabldm.core.records import ImageRecord, RunCard
from adabldm.core.seeding import torch_generator
from adabldm.core.settings.edit import EditPreset
from adabldm.core.windows import Window
from adabldm.editing.editor import Edited, EditJob
from adabldm.editing.look import brightness_around, lay_over, relative_exposure, turn_onto
from adabldm.masks.trimap import check_defect_inside
from adabldm.studio.library import Example, Library
from adabldm.studio.orders import PaintOrder, decode_mask, examples_for, preset_of
from adabldm.studio.pictures import Cache
from adabldm.studio.words import Verdict, verdicts

MOST_WAITING = 200
"""Variants that wait in memory; older ones can no longer be kept."""


class Engine(Protocol):
    """Edits pictures with runs that are loaded once."""

    def card(self, run: str) -> RunCard:
        """The card of a run."""
        ...

    def model(self, run: str) -> str:
        """Digest of a run's weights."""
        ...

    def edit(self, run: str, jobs: Sequence[EditJob], preset: EditPreset) -> list[Edited]:
        """Edit pictures."""
        ...


@dataclass(frozen=True)
class Variant:
    """A result that can be kept.

    Attributes:
        id: name of it.
        data: data set of its picture.
        name: of its picture.
        picture: the source.
        pixels: the result, uint8 HxWx3.
        mask: the painted mask, bool HxW.
        window: the square that was edited.
        record: everything that is known of it; paths and number are given when it is kept.
    """

    id: str
    data: str
    name: str
    picture: Picture
    pixels: Pixels
    mask: Mask
    window: Window
    record: ImageRecord

    @property
    def words(self) -> list[Verdict]:
        """Its scores in words."""
        return verdicts(self.record.scores)

    @property
    def area(self) -> tuple[slice, slice]:
        """Rows and columns of the picture that may have changed."""
        return self.window.slices(self.picture.size)[0]


@dataclass(frozen=True)
class Painted:
    """What an order gave.

    Attributes:
        variants: one for each seed.
        notes: remarks for the user, one sentence each.
    """

    variants: list[Variant]
    notes: list[str]


@dataclass(frozen=True)
class _Scene:
    """What all variants of an order have in common."""

    picture: Picture
    mask: Mask
    foreground: Mask
    prompt: str
    preset: EditPreset


class Painter:
    """Carries out orders.

    Args:
        library: pictures and real defects.
        engine: edits them.
    """

    def __init__(self, library: Library, engine: Engine) -> None:
        self.library, self.engine = library, engine
        self.waiting: Cache[str, Variant] = Cache(MOST_WAITING)

    def paint(self, order: PaintOrder) -> Painted:
        """Make the variants of an order.

        Raises:
            InputError: something in it cannot be used; before any work is done.
        """
        card, notes = self.engine.card(order.run), list[str]()
        if order.prompt is None and order.defect not in card.defects:
            known = ", ".join(card.defects)
            raise InputError(f"defect type {order.defect!r}: unknown to this run, expected one of {known}.")
        scene = self._scene(order, card, notes)
        examples = self._examples(order, scene.mask, notes)
        if order.begin == "real" and not examples:
            order = order.changed(begin="noise")
            scene = self._scene(order, card, [])
        jobs = [self._job(order, scene, index, examples) for index in range(order.variants)]
        edited = self.engine.edit(order.run, jobs, scene.preset)
        variants = [
            self._variant(order, scene, card, index, one, examples[index] if examples else None)
            for index, one in enumerate(edited)
        ]
        for variant in variants:
            self.waiting.put(variant.id, variant)
        return Painted(variants, notes)

    def variant(self, name: str) -> Variant:
        """A variant that waits.

        Raises:
            InputError: it is gone.
        """
        found = self.waiting.find(name)
        if found is None:
            raise InputError("result: no longer in the server’s memory; make it again with the same seed.")
        return found

    def _scene(self, order: PaintOrder, card: RunCard, notes: list[str]) -> _Scene:
        picture = self.library.picture(order.data, order.picture)
        mask = decode_mask(order.mask, picture.size)
        foreground = self.library.foreground(order.data, order.picture, card.foreground)
        try:
            check_defect_inside(foreground, mask)
        except InputError:
            foreground = np.ones(picture.size, np.bool_)
            notes.append(
                "The mask lies outside of the object that was found in the picture; the whole picture counts as object."
            )
        prompt = (order.prompt or "").strip() or defect_prompt(card.object_name, order.defect)
        return _Scene(picture, mask, foreground, prompt, preset_of(order))

    def _examples(self, order: PaintOrder, mask: Mask, notes: list[str]) -> list[Example]:
        if order.begin == "noise":
            return []
        known = self.library.examples(order.examples_of or order.data, order.defect)
        if not known:
            notes.append(f"There is no real {order.defect} in this data set, so the defect was drawn from noise.")
            return []
        return examples_for(mask, known, order.example, order.variants)

    def _job(self, order: PaintOrder, scene: _Scene, index: int, examples: Sequence[Example]) -> EditJob:
        generator = torch_generator("edit", order.seed + index, 0)
        job = EditJob(scene.picture.pixels, scene.foreground, scene.mask, scene.prompt, generator)
        if not examples:
            return job
        instance = examples[index].instance
        real, real_mask = instance.sample.picture().pixels, instance.defect.mask.read()
        laid = lay_over(real, real_mask, turn_onto(real_mask, scene.mask), scene.mask)
        exposure = relative_exposure(
            brightness_around(real, real_mask), brightness_around(scene.picture.pixels, scene.mask)
        )
        return EditJob(job.pixels, job.foreground, job.mask, job.prompt, job.generator, exposure, laid)

    def _variant(
        self, order: PaintOrder, scene: _Scene, card: RunCard, index: int, edited: Edited, example: Example | None
    ) -> Variant:
        reference = None
        if example is not None:
            sample = example.instance.sample
            reference = sample.image.relative_to(self.library.root(order.examples_of or order.data)).as_posix()
        record = ImageRecord(
            image="",
            mask="",
            index=0,
            source=order.picture,
            defect=order.defect,
            object=card.object_name,
            prompt=scene.prompt,
            seed=order.seed + index,
            preset=scene.preset.name,
            adapt=scene.preset.adaptation.method,
            **{key: round(float(value), 4) for key, value in vars(edited.scores).items()},
            defect_fidelity=round(edited.defect_fidelity, 4),
            shape="painted",
            reference=reference,
            strength=round(edited.strength, 4),
            tone=round(edited.tone, 4),
            resolution=edited.resolution,
            window=(edited.window.top, edited.window.left, edited.window.side),
            model=self.engine.model(order.run),
        )
        name = secrets.token_urlsafe(12)
        return Variant(name, order.data, order.picture, scene.picture, edited.pixels, scene.mask, edited.window, record)
