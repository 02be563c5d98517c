"""What is learnt from the real defects of a type: what they change, and how far one of them may be varied."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache

from adabldm.core.appearance import evenly
from adabldm.core.changes import Change, Expected, Interval, Seen, window_size
from adabldm.core.samples import DataSet, Instance, Sample, picture_reader
from adabldm.training.fill import Filler
from adabldm.training.real_changes import filled_window, real_change

EXAMPLES = 48
"""Real defects of a type that are measured, evenly chosen."""
GOOD = 16
"""Defect-free pictures that the pictures below defects are guessed from, evenly chosen."""


class RealChanges:
    """What the real defects of a data set change; of types that have none there, what the run's card knows.

    Everything is measured when it is first asked for, and depends on the images alone.

    Args:
        data_set: with real defects and defect-free pictures.
        known: changes by type, of a run's card.
    """

    def __init__(self, data_set: DataSet, known: Mapping[str, Sequence[Change]] | None = None) -> None:
        self._data_set, self._known = data_set, known or {}
        self.of = lru_cache(maxsize=None)(self._of)
        """By defect type: what its real defects change; `None` where none is known."""
        self._change = lru_cache(maxsize=None)(self._measure)
        self._picture = picture_reader()
        self._every = lru_cache(maxsize=1)(Sample.mask)
        self._instances = data_set.instances

    @cached_property
    def _filler(self) -> Filler:
        return Filler([sample.picture().pixels for sample in evenly(self._data_set.good, GOOD)])

    def examples(self, defect: str) -> Sequence[Instance]:
        """The real defects of a type in the data set that are measured."""
        return evenly(self._instances.get(defect, ()), EXAMPLES)

    def measured(self, defect: str) -> tuple[Change, ...]:
        """What the real defects of a type in the data set change."""
        return tuple(self._change(one) for one in self.examples(defect))

    def ranges(self, defect: str, example: Instance | None) -> tuple[Interval, Interval] | None:
        """Ranges of the factors of contrast and of brightness for a real defect; `None` without one."""
        expected = None if example is None else self.of(defect)
        if example is None or expected is None:
            return None
        own = self._change(example)
        return expected.strengths(own), expected.tones(own)

    def windows(self, defects: Sequence[str]) -> Iterator[tuple[str, Seen, int]]:
        """Each real defect of some types: its type, its window with and without it, and the side that its picture has.

        The side is the shorter one of the whole picture, in px of the window.
        """
        for defect in defects:
            for one in self.examples(defect):
                picture, mask = self._picture(one.sample).pixels, one.defect.mask.read()
                seen = filled_window(self._filler, picture, mask, self._every(one.sample))
                window, side = window_size(mask)
                yield defect, seen, max(1, round(min(mask.shape) * side / window.side))

    def digest(self, defects: Sequence[str]) -> str | None:
        """A digest of what is known of some types; `None` if nothing is."""
        known = [(defect, self.of(defect)) for defect in defects]
        text = [f"{name} {one.model_dump_json()}" for name, of in known if of is not None for one in of.examples]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()[:12] if text else None

    def _of(self, defect: str) -> Expected | None:
        changes = self.measured(defect) or tuple(self._known.get(defect, ()))
        return Expected(changes) if changes else None

    def _measure(self, example: Instance) -> Change:
        sample = example.sample
        picture, mask = self._picture(sample).pixels, example.defect.mask.read()
        return real_change(self._filler, picture, mask, self._every(sample))
