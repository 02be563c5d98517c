"""The rules that a result must pass, each one function; a new rule is one more function in `RULES`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adabldm.core.images import Mask, Pixels
from adabldm.core.samples import Instance
from adabldm.core.scores import Scores
from adabldm.core.settings.common import Limits


@dataclass(frozen=True)
class Candidate:
    """A result, with all that a rule may look at.

    Attributes:
        pixels: the result, uint8 HxWx3.
        source: the picture before the edit, uint8 HxWx3.
        mask: the defect's mask, bool HxW.
        scores: measures of the result.
        defect: defect type.
        examples: returns the real defects of that type; a rule that compares with them calls it, others cost nothing.
            `None` where there are no real ones.
    """

    pixels: Pixels
    source: Pixels
    mask: Mask
    scores: Scores
    defect: str
    examples: Callable[[], Sequence[Instance]] | None = None


Rule = Callable[[Candidate, Limits], str | None]
"""(candidate, limits) to the reason of the rejection, with the number and its limit; `None` if it passes."""


def visible(candidate: Candidate, limits: Limits) -> str | None:
    """The defect can be seen."""
    change = candidate.scores.visible_change
    if change >= limits.min_visible:
        return None
    return (
        f"no visible defect: mean change {change:.3g} grey levels inside the mask, "
        f"at least {limits.min_visible:g} expected"
    )


def stands_out(candidate: Candidate, limits: Limits) -> str | None:
    """The defect is not lost in the texture of the surface."""
    contrast = candidate.scores.contrast
    if contrast >= limits.min_contrast:
        return None
    return (
        f"defect lost in the texture: change {contrast:.3g} times the texture's deviation, "
        f"at least {limits.min_contrast:g} expected"
    )


def confined(candidate: Candidate, limits: Limits) -> str | None:
    """The change lies in the mask and not around it."""
    strength = candidate.scores.edit_strength
    if strength >= limits.min_edit_strength:
        return None
    return (
        f"defect not confined to its mask: change inside {strength:.3g} times that around it, "
        f"at least {limits.min_edit_strength:g} expected"
    )


def background_kept(candidate: Candidate, limits: Limits) -> str | None:
    """The background is the source's."""
    psnr = candidate.scores.background_psnr
    if psnr >= limits.min_background_psnr:
        return None
    return f"background changed: {psnr:.3g} dB outside the mask, at least {limits.min_background_psnr:g} expected"


def seamless(candidate: Candidate, limits: Limits) -> str | None:
    """The mask's boundary cannot be seen; asked for only with a limit."""
    seam = candidate.scores.seam
    if limits.max_seam is None or seam <= limits.max_seam:
        return None
    return (
        f"visible seam: step across the mask's boundary {seam:.3g} times those beside it, "
        f"at most {limits.max_seam:g} expected"
    )


RULES: tuple[Rule, ...] = (visible, stands_out, confined, background_kept, seamless)
"""In the order in which they are asked: the cheapest and plainest first."""


def first_rejection(candidate: Candidate, limits: Limits, rules: Sequence[Rule] = RULES) -> str | None:
    """The reason of the first rule that a candidate misses; `None` if it passes all of them."""
    for rule in rules:
        reason = rule(candidate, limits)
        if reason is not None:
            return reason
    return None
