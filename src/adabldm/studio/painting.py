"""Orders become variants: results that wait in memory until one is kept."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adabldm.core.changes import Expected
from adabldm.core.errors import InputError
from adabldm.core.images import Mask, Picture, Pixels
from adabldm.core.records import ImageRecord, RunCard
from adabldm.core.scores import Scores
from adabldm.core.windows import Window
from adabldm.masks.trimap import check_defect_inside, make_trimap
from adabldm.models.store import RENDERING, read_card
from adabldm.selection.rules import Candidate
from adabldm.service.engine import EditEngine, EditRequest, EditResult
from adabldm.studio.library import Example, Library
from adabldm.studio.orders import PaintOrder, changes_of, check_version, decode_mask, examples_for
from adabldm.studio.pictures import Cache, megapixels
from adabldm.studio.words import Verdict, beside_real, verdicts

MOST_WAITING = 200
"""Variants that wait in memory; older ones can no longer be kept."""
MEGAPIXELS = 200.0
"""Of all variants that wait, so that large pictures do not fill the memory."""
PAINTED = "painted"
"""Where the masks of records come from."""


@dataclass(frozen=True)
class Variant:
    """A result that can be kept.

    Attributes:
        id: name of it.
        data: data set of its picture.
        name: of its picture.
        picture: the source.
        result: the result in the form of the source's file: uint8 HxWx3 or HxW, or uint16 HxW.
        mask: the painted mask, bool HxW.
        record: everything that is known of it; path and number are given when it is kept.
        expected: what real defects of its type change, if the run knows it.
    """

    id: str
    data: str
    name: str
    picture: Picture
    result: NDArray[np.uint8] | NDArray[np.uint16]
    mask: Mask
    record: ImageRecord
    expected: Expected | None = None

    @property
    def words(self) -> list[Verdict]:
        """Its scores in words, and how it compares with real defects."""
        found, record = verdicts(self.record.scores), self.record
        if self.expected is None:
            return found
        scores = Scores(**{one.name: getattr(record, one.name) for one in fields(Scores)})
        shown = self.pixels, self.picture.pixels, self.mask
        return [*found, *beside_real(Candidate(*shown, scores, record.defect, self.expected))]

    @property
    def pixels(self) -> Pixels:
        """The result for the eye, uint8 HxWx3."""
        if self.result.ndim == 3:
            return np.asarray(self.result, np.uint8)
        grey = np.rint(self.result / 257).astype(np.uint8) if self.result.dtype == np.uint16 else self.result
        return np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=2)

    @property
    def window(self) -> Window:
        """The square that was edited."""
        assert self.record.window is not None
        return Window(*self.record.window)

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
class Begun:
    """An order whose edits were asked for.

    Attributes:
        order: as it is carried out.
        picture: the source.
        mask: the painted mask, bool HxW.
        examples: real example of each variant; none if they begin from noise.
        notes: remarks for the user.
        futures: one edit for each variant.
    """

    order: PaintOrder
    picture: Picture
    mask: Mask
    examples: tuple[Example, ...]
    notes: list[str]
    futures: list[Future[EditResult]] = field(default_factory=list)

    def cancel(self) -> None:
        """End the edits that are not done, after their present step."""
        for future in self.futures:
            future.cancel()


class Painter:
    """Carries out orders.

    Args:
        library: pictures and real defects.
        engine: edits them.
    """

    def __init__(self, library: Library, engine: EditEngine) -> None:
        self.library, self.engine = library, engine
        self.waiting: Cache[str, Variant] = Cache(MOST_WAITING, lambda one: megapixels(one.mask), MEGAPIXELS)

    def card(self, run: str) -> RunCard:
        """The card of a run; raises `InputError`."""
        return read_card(self.library.workspace.runs.find(run))

    def paint(self, order: PaintOrder) -> Painted:
        """Make the variants of an order, side by side.

        Raises:
            InputError: something in it cannot be used.
            BusyError: too many edits wait.
        """
        begun = self.begin(order)
        try:
            for future in begun.futures:
                future.result()
            return self.finish(begun)
        finally:
            begun.cancel()

    def begin(self, order: PaintOrder) -> Begun:
        """Ask for the edits of an order; `finish` takes their results. Raises as `paint`."""
        card, notes = self.card(order.run), list[str]()
        picture = self.library.picture(order.data, order.picture)
        mask = decode_mask(order.mask, picture.size)
        shape = self._shape(order, card, picture, mask, notes)
        examples = [] if card.method == RENDERING else self._examples(order, mask, notes)
        order = order if examples else order.changed(begin="noise")
        requests = [self._request(order, picture, shape, index, examples) for index in range(order.variants)]
        begun = Begun(order, picture, mask, tuple(examples), notes)
        try:
            for request in requests:
                begun.futures.append(self.engine.submit(request))
        except Exception:
            begun.cancel()
            raise
        return begun

    def finish(self, begun: Begun) -> Painted:
        """The variants of an order whose edits are done; raises what an edit has raised."""
        variants = []
        for index, future in enumerate(begun.futures):
            example = begun.examples[index] if begun.examples else None
            variants.append(self._variant(begun.order, begun.picture, begun.mask, future.result(), example))
        for variant in variants:
            self.waiting.put(variant.id, variant)
        return Painted(variants, begun.notes)

    def variant(self, name: str) -> Variant:
        """A variant that waits.

        Raises:
            InputError: it is gone.
        """
        found = self.waiting.find(name)
        if found is None:
            raise InputError("result: no longer in the server’s memory; make it again with the same seed.")
        return found

    def _shape(
        self, order: PaintOrder, card: RunCard, picture: Picture, mask: Mask, notes: list[str]
    ) -> dict[str, NDArray[Any]]:
        """The trimap where the mask lies on an object, else the mask alone."""
        foreground = self.library.foreground(order.data, order.picture, card.foreground)
        try:
            check_defect_inside(foreground, mask)
        except InputError:
            notes.append(
                "The mask lies outside of the object that was found in the picture; the whole picture counts as object."
            )
            return {"mask": mask}
        return {"trimap": make_trimap(foreground, mask)}

    def _examples(self, order: PaintOrder, mask: Mask, notes: list[str]) -> list[Example]:
        if order.begin == "noise":
            return []
        known = self.library.examples(order.examples_of or order.data, order.defect)
        if not known:
            notes.append(f"There is no real {order.defect} in this data set, so the defect was drawn from noise.")
            return []
        check_version(order, known)
        return examples_for(mask, known, order.example, order.variants)

    def _request(
        self,
        order: PaintOrder,
        picture: Picture,
        shape: dict[str, NDArray[Any]],
        index: int,
        examples: Sequence[Example],
    ) -> EditRequest:
        reference = None
        if examples:
            instance = examples[index].instance
            reference = (instance.sample.picture().pixels, instance.defect.mask.read())
        card = self.card(order.run)
        return EditRequest.create(
            picture.as_file(picture.pixels),
            **shape,
            reference=reference,
            run=order.run,
            defect=order.defect,
            prompt=(order.prompt or "").strip() or None,
            seed=order.seed + index,
            preset=order.preset,
            set=() if card.method == RENDERING else changes_of(order, card.calibration),
        )

    def _variant(
        self, order: PaintOrder, picture: Picture, mask: Mask, result: EditResult, example: Example | None
    ) -> Variant:
        reference = None
        if example is not None:
            sample = example.instance.sample
            reference = sample.image.relative_to(self.library.root(order.examples_of or order.data)).as_posix()
        known = {"source": order.picture, "shape": PAINTED, "reference": reference}
        record = result.record.model_copy(update=known)
        changes = self.card(order.run).changes.get(record.defect)
        expected = Expected(changes) if changes else None
        return Variant(
            secrets.token_urlsafe(12), order.data, order.picture, picture, result.pixels, mask, record, expected
        )
