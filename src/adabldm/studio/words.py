"""Scores of an edit in words, with the figures behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from adabldm.core.settings.common import Limits
from adabldm.selection.rules import Candidate, Rule, filled_like_real, no_ghost, real_colours, sharp_as_real

Level = Literal["good", "fair", "bad"]

UNCHANGED = 99.95
"""dB from which the background counts as equal."""
BESIDE: tuple[tuple[Rule, Level, str], ...] = (
    (no_ghost, "bad", "Fainter than real defects"),
    (sharp_as_real, "fair", "A softer edge than real defects"),
    (real_colours, "bad", "A colour that no real defect has"),
    (filled_like_real, "fair", "Part of the mask looks as before"),
)
"""Rules on real defects, and what is said where one is missed."""


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


def beside_real(candidate: Candidate) -> list[Verdict]:
    """How a defect compares with the real ones of its type, by the rules and limits of the filter.

    Args:
        candidate: with what real ones change.
    """
    assert candidate.expected is not None
    limits, stronger = Limits(), -candidate.expected.fainter(candidate.change)
    found = [
        Verdict(level, text, reason.partition(": ")[2])
        for rule, level, text in BESIDE
        if (reason := rule(candidate, limits)) is not None
    ]
    if limits.max_fainter is not None and stronger > limits.max_fainter:
        figure = f"change {candidate.change.visible:.3g} grey levels, {stronger:.2g} deviations above that of real ones"
        found.append(Verdict("fair", "Stronger than real defects", figure))
    count = len(candidate.expected.examples)
    figure = f"compared with {count} real one{'s' * (count != 1)}"
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
