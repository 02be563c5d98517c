"""Scores of an edit in words, with the figures behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from adabldm.core.changes import Expected, Seen, measure
from adabldm.core.settings.common import Limits

Level = Literal["good", "fair", "bad"]

UNCHANGED = 99.95
"""dB from which the background counts as equal."""


@dataclass(frozen=True)
class Verdict:
    """One score in words.

    Attributes:
        level: how good it is.
        text: a short sentence.
        figure: the figures behind it.
    """

    level: Level
    text: str
    figure: str


def verdicts(scores: Mapping[str, float | None]) -> list[Verdict]:
    """All scores that are known, the most important first.

    Args:
        scores: by field of `ImageRecord`.
    """
    known = {name: value for name, value in scores.items() if value is not None}
    return [*_visibility(known), *_seam(known), *_background(known), *_confined(known), *_detail(known)]


def beside_real(seen: Seen, expected: Expected) -> list[Verdict]:
    """How a defect compares with the real ones of its type, by the limits of the filter.

    Args:
        seen: the window around it, with and without it.
        expected: what real ones change.
    """
    limits, change = Limits(), measure(seen)
    fainter, softer = expected.fainter(change), expected.softer(change)
    strange, count = expected.strange(seen), len(expected.examples)
    found: list[Verdict] = []
    beside = f"deviations from the mean of {count} real one{'s' * (count != 1)}"
    if limits.max_fainter is not None and abs(fainter) > limits.max_fainter:
        text = f"{'Fainter' if fainter > 0 else 'Stronger'} than real defects"
        found.append(Verdict("bad" if fainter > 0 else "fair", text, f"visible change {-fainter:+.1f} {beside}"))
    if limits.max_softer is not None and softer > limits.max_softer:
        found.append(Verdict("fair", "A softer edge than real defects", f"step at the edge {-softer:+.1f} {beside}"))
    if limits.max_strange is not None and strange > limits.max_strange:
        figure = f"{strange:.0%} of the mask; at most {limits.max_strange:.0%} is usual"
        found.append(Verdict("bad", "A colour that no real defect has", figure))
    if change.share < limits.min_filled:
        figure = f"{change.share:.0%} of the mask changed visibly; at least {limits.min_filled:.0%} is usual"
        found.append(Verdict("fair", "Part of the mask looks as before", figure))
    figure = f"visible change {-fainter:+.1f}, step at the edge {-softer:+.1f} {beside}"
    return found or [Verdict("good", "Strength, edge and colour are those of real defects", figure)]


def as_json(found: list[Verdict]) -> list[dict[str, str]]:
    """Verdicts as JSON values."""
    return [asdict(one) for one in found]


def _visibility(scores: Mapping[str, float]) -> Iterator[Verdict]:
    if "visible_change" not in scores or "contrast" not in scores:
        return
    change, contrast = scores["visible_change"], scores["contrast"]
    figure = f"changes by {change:.1f} grey levels on average, {contrast:.1f} times the surface’s own texture"
    if change < 4 or contrast < 0.5:
        yield Verdict("bad", "Hardly visible", figure)
    elif contrast < 1:
        yield Verdict("fair", "Faint", figure)
    elif contrast < 4:
        yield Verdict("good", "Clearly visible", figure)
    else:
        yield Verdict("good", "Very strong", figure)


def _seam(scores: Mapping[str, float]) -> Iterator[Verdict]:
    if "seam" not in scores:
        return
    seam = scores["seam"]
    figure = f"step across the outline is {seam:.1f} times the steps beside it; 1 is invisible"
    if seam <= 1.5:
        yield Verdict("good", "No visible seam", figure)
    elif seam <= 3:
        yield Verdict("good", "A soft edge, as real defects often have", figure)
    elif seam <= 5:
        yield Verdict("fair", "A sharp edge; compare it with real defects", figure)
    else:
        yield Verdict("bad", "A very sharp edge along the outline", figure)


def _background(scores: Mapping[str, float]) -> Iterator[Verdict]:
    if "background_psnr" not in scores:
        return
    level = scores["background_psnr"]
    figure = f"background PSNR {level:.1f} dB; 100 stands for equal pixels"
    if level >= UNCHANGED:
        yield Verdict("good", "Nothing changed outside the mask", figure)
    elif level >= 40:
        yield Verdict("good", "Surroundings look the same", figure)
    elif level >= 30:
        yield Verdict("fair", "Surroundings changed a little", figure)
    else:
        yield Verdict("bad", "Surroundings changed", figure)


def _confined(scores: Mapping[str, float]) -> Iterator[Verdict]:
    if "edit_strength" not in scores:
        return
    strength = scores["edit_strength"]
    figure = f"change inside the mask is {strength:.1f} times that around it"
    if strength >= 2:
        yield Verdict("good", "The defect stays inside its mask", figure)
    else:
        yield Verdict("bad", "The change is not confined to the mask", figure)


def _detail(scores: Mapping[str, float]) -> Iterator[Verdict]:
    fidelity = scores.get("defect_fidelity")
    if fidelity is not None and fidelity < 26:
        figure = f"defect fidelity {fidelity:.0f} dB; above 26 is usual"
        yield Verdict("fair", "The join changed the defect itself", figure)
