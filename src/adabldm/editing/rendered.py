"""Edits without networks: a generic defect is rendered into each target mask."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from adabldm.core.images import Mask, Pixels
from adabldm.core.scores import score
from adabldm.core.settings.common import WindowMode
from adabldm.core.settings.edit import EditPreset
from adabldm.core.stages import stage
from adabldm.editing.cut import Cut, cut_window
from adabldm.editing.editor import Edited, EditJob
from adabldm.editing.loop import StepCallback
from adabldm.rendering.broken import BREAKING, break_off, reaches_edge
from adabldm.rendering.render import MIN_SIDE, render_in

FIDELITY = 100.0
"""Defect fidelity of a rendered picture, in dB: nothing is decoded, so nothing is lost. The cap of the measure."""


class RenderingEditor:
    """Renders defects of `adabldm.rendering.render.DEFECTS`; every job draws from its own generator.

    It has the interface of `Editor`. Preset and callback are ignored, because there are no denoising steps.
    """

    def to(self, device: torch.device, dtype: torch.dtype) -> RenderingEditor:
        """The editor itself: it computes with NumPy and OpenCV on the CPU."""
        del device, dtype
        return self

    def edit(
        self,
        jobs: Sequence[EditJob],
        preset: EditPreset | None = None,
        *,
        window: WindowMode = "auto",
        on_step: StepCallback | None = None,
    ) -> list[Edited]:
        """Render a defect into the mask of every job.

        Args:
            jobs: pictures of any sizes, each with a type of `DEFECTS`.
            preset: not used.
            window: "auto" shades a window around the defect, "full" the whole picture.
            on_step: not used.

        Raises:
            InputError: an unknown type.
        """
        del preset, on_step
        return [_rendered(job, window) for job in jobs]


def _rendered(job: EditJob, window: WindowMode) -> Edited:
    with stage("prepare"):
        cut = cut_window(job.pixels, job.foreground, job.mask, full=window == "full")
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=job.generator)))
    with stage("render"):
        result = render_into(job.pixels, cut, job.defect, rng)
    with stage("score"):
        scores = score(result, job.pixels, job.mask, cut.window.slices(cut.size)[0])
    return Edited(result, cut.window, max(len(cut.mask), MIN_SIDE), scores, FIDELITY)


def render_into(picture: Pixels, cut: Cut, defect: str, rng: np.random.Generator) -> Pixels:
    """The picture with a rendered defect in the mask of its window; nothing else changes.

    A chip or a hole that reaches over the object's edge shows the background.

    Args:
        picture: uint8 HxWx3.
        cut: the window around the mask.
        defect: one of `adabldm.rendering.render.DEFECTS`.
        rng: source of all random draws.

    Raises:
        InputError: an unknown type.
    """
    pixels, mask = _at_least(cut.pixels, cut.mask, MIN_SIDE)
    if defect in BREAKING and reaches_edge(cut.mask, cut.foreground):
        object_pixels = np.pad(cut.foreground, ((0, len(mask) - len(cut.mask)),) * 2, mode="symmetric")
        drawn = break_off(pixels, mask, object_pixels, rng)
    else:
        drawn = render_in(pixels, mask, defect, rng).pixels
    drawn = drawn[: len(cut.mask), : len(cut.mask)]
    inside = cut.window.slices(cut.size)[0]
    result = picture.copy()
    result[inside] = np.where(cut.inside(cut.mask)[..., None], cut.inside(drawn), result[inside])
    return result


def _at_least(pixels: Pixels, mask: Mask, side: int) -> tuple[Pixels, Mask]:
    """A small window continued by its mirror image to the right and below; the mask is continued by nothing."""
    more = max(0, side - len(mask))
    if not more:
        return pixels, mask
    wide = cv2.copyMakeBorder(pixels, 0, more, 0, more, cv2.BORDER_REFLECT)
    return wide, np.pad(mask, ((0, more), (0, more)))
