"""What a page tells of all images of a folder, in a few dozen bytes an image: a long run does not fill the memory."""

from __future__ import annotations

import math
import statistics
from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Protocol, TypeVar

from adabldm.core.records import ImageRecord
from adabldm.core.records.image import SCORES

SHOWN_SCORES = ("background_psnr", "seam", "edit_strength", "visible_change", "contrast", "distance")
FACT_KEYS = ("object", "model", "preset", "adapt")
UNACCEPTED = "missed the limits"
"""Mark of an image that was kept although all attempts were rejected."""


class Numbered(Protocol):
    """Anything with an image's number and defect type."""

    @property
    def index(self) -> int:
        """Number of the image."""

    @property
    def defect(self) -> str:
        """Its defect type."""


AnyNumbered = TypeVar("AnyNumbered", bound=Numbered)


@dataclass(frozen=True, slots=True)
class Entry:
    """Number and defect type of an image, and its row in the tally."""

    index: int
    defect: str
    row: int


class Tally:
    """Counts images one by one. An image that is added again replaces what was known of it.

    Args:
        records: of the images that are there already.
    """

    def __init__(self, records: Iterable[ImageRecord] = ()) -> None:
        self._indices, self._kinds, self._missed, self._scores = array("q"), array("q"), array("b"), array("d")
        self._known: dict[tuple[str, ...], int] = {}
        for record in records:
            self.add(record)

    def add(self, record: ImageRecord) -> None:
        """Count an image."""
        kind = (record.defect, *(str(getattr(record, key)) for key in FACT_KEYS))
        scores = record.scores
        self._indices.append(record.index)
        self._kinds.append(self._known.setdefault(kind, len(self._known)))
        self._missed.append(record.accepted is False)
        self._scores.extend(scores.get(name, math.nan) for name in SHOWN_SCORES)

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(set(self._indices))

    def entries(self, rejected: Collection[int] = ()) -> list[Entry]:
        """All images but the rejected ones, by number."""
        rows = {index: row for row, index in enumerate(self._indices)}
        kinds = list(self._known)
        return [Entry(index, kinds[self._kinds[row]][0], row) for index, row in sorted(rows.items())
                if index not in rejected]  # fmt: skip

    def facts(self, entries: Sequence[Entry], shown: int) -> dict[str, str]:
        """What images have in common, and the middle of their scores.

        Args:
            entries: the images.
            shown: how many of them the page shows.
        """
        count = str(len(entries)) if shown == len(entries) else f"{len(entries)}, of which {shown} are shown"
        kinds = list(self._known)
        found = {kinds[number] for number in {self._kinds[one.row] for one in entries}}
        same = {key: ", ".join(sorted({kind[place] for kind in found})) for place, key in enumerate(FACT_KEYS, 1)}
        missed = sum(self._missed[one.row] for one in entries)
        return {
            "images": count,
            **({UNACCEPTED: str(missed)} if missed else {}),
            **{key: value for key, value in same.items() if value},
            **self._medians(entries),
        }

    def _medians(self, entries: Sequence[Entry]) -> dict[str, str]:
        """By name, the middle of each score that is known of an image."""
        width, medians = len(SHOWN_SCORES), {}
        for place, name in enumerate(SHOWN_SCORES):
            values = [self._scores[one.row * width + place] for one in entries]
            known = [value for value in values if not math.isnan(value)]
            if known:
                medians[f"median {SCORES[name]}"] = f"{statistics.median(known):.3g}"
        return medians


def evenly(images: Iterable[AnyNumbered], limit: int) -> list[AnyNumbered]:
    """The first `limit` images when the defect types take turns; sorted by type and index."""
    groups: dict[str, list[AnyNumbered]] = {}
    for image in images:
        groups.setdefault(image.defect, []).append(image)
    turns = chain.from_iterable(zip_longest(*groups.values()))
    chosen = [image for image in turns if image is not None][:limit]
    return sorted(chosen, key=lambda image: (image.defect, image.index))
