"""The rules that a result must pass, each one function; a new rule is one more function in `RULES`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from adabldm.core.changes import Change, Expected, Seen, measure, seen_at
from adabldm.core.images import Mask, Pixels
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
        expected: what real defects of that type change; `None` where none is known.
        foreground: object pixels, bool HxW; `None` where they are not known.
    """

    pixels: Pixels
    source: Pixels
    mask: Mask
    scores: Scores
    defect: str
    expected: Expected | None = None
    foreground: Mask | None = None

    @cached_property
    def seen(self) -> Seen:
        """The window around the defect."""
        return seen_at(self.pixels, self.source, self.mask)

    @cached_property
    def change(self) -> Change:
        """What the defect changed."""
        return measure(self.seen)


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


def changed(candidate: Candidate, limits: Limits) -> str | None:
    """The mask is filled: most of it changed."""
    share = candidate.change.share
    if share >= limits.min_changed:
        return None
    return f"empty mask: {share:.0%} of it changed visibly, at least {limits.min_changed:.0%} expected"


def on_object(candidate: Candidate, limits: Limits) -> str | None:
    """The defect lies on the object."""
    if candidate.foreground is None:
        return None
    share = float(candidate.foreground[candidate.mask].mean())
    if share >= limits.min_on_object:
        return None
    return f"off the object: {share:.0%} of the mask lies on it, at least {limits.min_on_object:.0%} expected"


def filled_like_real(candidate: Candidate, limits: Limits) -> str | None:
    """The mask is filled as those of real defects are."""
    share = candidate.change.share
    if candidate.expected is None or share >= limits.min_filled:
        return None
    return f"mask half empty: {share:.0%} of it changed visibly, at least {limits.min_filled:.0%} expected"


def no_ghost(candidate: Candidate, limits: Limits) -> str | None:
    """The change is as strong as one of a real defect."""
    if candidate.expected is None:
        return None
    change = candidate.change
    found = f"fainter than real ones: change {change.visible:.3g} grey levels"
    return _not_below(found, candidate.expected.fainter(change), limits.max_fainter)


def sharp_as_real(candidate: Candidate, limits: Limits) -> str | None:
    """The border is as sharp as that of a real defect."""
    if candidate.expected is None:
        return None
    change = candidate.change
    found = f"softer than real ones: step across the border {change.edge:.3g}"
    return _not_below(found, candidate.expected.softer(change), limits.max_softer)


def _not_below(found: str, deviations: float, limit: float | None) -> str | None:
    """The reason of a result that lies farther below the real ones than a limit allows."""
    if limit is None or deviations <= limit:
        return None
    return f"{found}, {deviations:.2g} deviations below theirs, at most {limit:g} expected"


def real_colours(candidate: Candidate, limits: Limits) -> str | None:
    """No colour that no real defect has."""
    if candidate.expected is None or limits.max_strange is None:
        return None
    share = candidate.expected.strange(candidate.seen)
    if share <= limits.max_strange:
        return None
    return (
        f"false colour: {share:.0%} of the mask turned to colours that no real one has, at most "
        f"{limits.max_strange:.0%} expected"
    )


RULES: tuple[Rule, ...] = (
    visible, stands_out, confined, background_kept, seamless, changed, on_object, filled_like_real, no_ghost,
    sharp_as_real, real_colours,
)  # fmt: skip
"""In the order in which they are asked: the cheapest and plainest first."""


def rejections(candidate: Candidate, limits: Limits, rules: Sequence[Rule] = RULES) -> Iterator[str]:
    """The reasons of the rules that a candidate misses; nothing if it passes all of them."""
    for rule in rules:
        reason = rule(candidate, limits)
        if reason is not None:
            yield reason


def first_rejection(candidate: Candidate, limits: Limits, rules: Sequence[Rule] = RULES) -> str | None:
    """The first of them; `None` if it passes. The rules after it are not asked."""
    return next(rejections(candidate, limits, rules), None)
