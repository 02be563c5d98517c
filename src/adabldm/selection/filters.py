"""Which results are thrown away, and why (DESIGN section 2.4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adabldm.selection.scores import Scores


@dataclass(frozen=True)
class Limits:
    """What a result must reach; see `adabldm.selection.scores` for the scores.

    Attributes:
        min_visible: grey levels of mean change inside the mask.
        min_contrast: that change over the deviation of the source's texture.
        min_edit_strength: change inside the mask over the change around it.
        min_background_psnr: dB outside the mask.
        max_seam: step across the mask's boundary over the steps beside it; `None` = any.
    """

    min_visible: float = 4.0
    min_contrast: float = 0.5
    min_edit_strength: float = 2.0
    min_background_psnr: float = 30.0
    max_seam: float | None = None


def rejection(scores: Scores, limits: Limits) -> str | None:
    """Why a result is rejected, in one sentence with the score and its limit; `None` when it is kept."""
    return next(_reasons(scores, limits), None)


def _reasons(scores: Scores, limits: Limits) -> Iterator[str]:
    """Every limit that is missed, the plainest first."""
    if scores.visible_change < limits.min_visible:
        yield (
            f"no visible defect: mean change {scores.visible_change:.3g} grey levels inside the mask, "
            f"at least {limits.min_visible:g} expected"
        )
    if scores.contrast < limits.min_contrast:
        yield (
            f"defect lost in the texture: change {scores.contrast:.3g} times the texture's deviation, "
            f"at least {limits.min_contrast:g} expected"
        )
    if scores.edit_strength < limits.min_edit_strength:
        yield (
            f"defect not confined to its mask: change inside {scores.edit_strength:.3g} times that around it, "
            f"at least {limits.min_edit_strength:g} expected"
        )
    if scores.background_psnr < limits.min_background_psnr:
        yield (
            f"background changed: {scores.background_psnr:.3g} dB outside the mask, "
            f"at least {limits.min_background_psnr:g} expected"
        )
    if limits.max_seam is not None and scores.seam > limits.max_seam:
        yield (
            f"visible seam: step across the mask's boundary {scores.seam:.3g} times those beside it, "
            f"at most {limits.max_seam:g} expected"
        )
