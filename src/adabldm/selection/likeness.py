"""Which defects are alike, by the features of a frozen backbone: near-duplicates, and how far the real ones are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 1024
"""Images that are compared with all others at once, so that memory stays small."""


@dataclass(frozen=True)
class Look:
    """A defect as the backbone sees it.

    Attributes:
        name: number of a generated image, or path of a real one, relative to its data set.
        defect: its type.
        features: of length 1.
        reference: path of the real image that a generated defect began from, if any.
    """

    name: int | str
    defect: str
    features: Tensor
    reference: str | None = None


@dataclass(frozen=True)
class Duplicate:
    """A generated image that is nearly the same as another one with a smaller number, or as a real one.

    Attributes:
        index: number of the image.
        other: number of the other generated image, or path of the real one.
        distance: between them, as in `distances`.
    """

    index: int
    other: int | str
    distance: float


def distances(first: Sequence[Look], second: Sequence[Look]) -> Iterator[Tensor]:
    """Cosine distances, in [0, 2], of each of `first` to all of `second`, in blocks of rows."""
    others = torch.stack([look.features for look in second])
    for start in range(0, len(first), BLOCK):
        rows = torch.stack([look.features for look in first[start : start + BLOCK]])
        yield (1.0 - rows @ others.T).clamp_min(0.0)


def near_duplicates(made: Sequence[Look], real: Sequence[Look], limit: float) -> list[Duplicate]:
    """For each image that has one, the nearest of those that count: real ones, and images with smaller numbers.

    An image that is a near-duplicate itself does not count, so that of several equal images the first one remains.

    Args:
        made: looks of generated images; an image with several defects has several.
        real: looks of real defects.
        limit: distance up to which two are near-duplicates.
    """
    found: dict[int, Duplicate] = {}
    ordered = sorted((look for look in made if isinstance(look.name, int)), key=lambda look: int(look.name))
    everything = [*real, *ordered]
    if not ordered:
        return []
    start = 0
    for block in distances(ordered, everything):
        for row, values in enumerate(block):
            own = int(ordered[start + row].name)
            candidates = torch.nonzero(values <= limit).ravel().tolist()
            for place in sorted(candidates, key=lambda one: (float(values[one]), one)):
                other = everything[place].name
                if isinstance(other, int) and (other >= own or other in found):
                    continue
                known = found.get(own)
                if known is None or float(values[place]) < known.distance:
                    found[own] = Duplicate(own, other, round(float(values[place]), 4))
                break
        start += len(block)
    return [found[index] for index in sorted(found)]


def nearest_real(made: Iterable[Look], real: Sequence[Look]) -> dict[int, float]:
    """The distance of each image's defect to the nearest real one of its type, where there is any.

    The real image that a defect began from does not count where there are others. Of an image with several defects the
    largest distance counts.
    """
    groups: dict[str, list[Look]] = {}
    for one in real:
        groups.setdefault(one.defect, []).append(one)
    features = {defect: torch.stack([one.features for one in group]).T for defect, group in groups.items()}
    places: dict[tuple[str, int | str], list[int]] = {}
    for defect, group in groups.items():
        for place, one in enumerate(group):
            places.setdefault((defect, one.name), []).append(place)
    found: dict[int, float] = {}
    for look in made:
        if look.defect not in groups or not isinstance(look.name, int):
            continue
        values = (1.0 - look.features[None] @ features[look.defect]).clamp_min(0.0)[0]
        own = places.get((look.defect, look.reference or ""), [])
        if len(own) < len(values):
            values[own] = torch.inf
        found[look.name] = round(max(found.get(look.name, 0.0), float(values.min())), 4)
    return found
