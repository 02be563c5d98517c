"""How a run draws its own real defects: again from each first step, and from noise at some guidance scales.

The preset `fast` follows it: at which step it begins from a real defect, and how strongly it is guided from noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from adabldm.core.appearance import evenly
from adabldm.core.changes import Seen, measure
from adabldm.core.images import Pixels
from adabldm.core.prompts import defect_prompt
from adabldm.core.records import FromNoise, Redrawn, RunCard
from adabldm.core.seeding import torch_generator
from adabldm.core.settings.edit import PRESETS, EditPreset
from adabldm.core.settings.presets import edit_preset
from adabldm.editing.editor import EditJob, Editor
from adabldm.editing.look import AREA, breadth
from adabldm.models.components import Components
from adabldm.production.learnt import RealChanges
from adabldm.production.previews import in_evaluation_mode

DRAWN = 5
"""Real defects that are drawn again, of spots and lines and of areas; evenly chosen."""
STEPS = range((PRESETS["fast"].guidance.steps or (0, 1))[1], PRESETS["fast"].plan.steps)
"""First steps that are tried. Before them the guided steps of `fast` lie, which a real defect goes without."""

FROM_NOISE = 8
"""Real defects whose masks are drawn into from noise; evenly chosen."""
SCALES = (1.5, 2.5, 4.0)
"""Guidance scales that are tried for it."""


Windows = Sequence[tuple[str, Seen, int]]
"""Real defects as `RealChanges.windows` gives them: type, window, and side of the whole picture."""


def measured(components: Components, card: RunCard, changes: RealChanges, defects: Sequence[str]) -> RunCard:
    """The card, which then says what the real defects change, and how the networks draw them.

    Args:
        components: of the run.
        card: of the run.
        changes: what the real defects change of the data set that it was fitted to.
        defects: their types.
    """
    windows = tuple(changes.windows(defects))
    components.freeze()
    with in_evaluation_mode(components):
        editor = Editor(components, card.resolution)
        drawn = {
            "redrawn": redrawn(editor, card.object_name, windows),
            "from_noise": from_noise(editor, card.object_name, windows),
        }
    known = {defect: changes.measured(defect) for defect in defects}
    return card.model_copy(update={"changes": known, **drawn})


def redrawn(editor: Editor, object_name: str, windows: Windows) -> tuple[Redrawn, ...]:
    """The real defects of a data set, each laid over its own filled picture and edited, beside what they are.

    Args:
        editor: of the run.
        object_name: what its pictures show.
        windows: the real defects.
    """
    kinds: dict[bool, list[tuple[str, Seen]]] = {False: [], True: []}
    for defect, seen, side in windows:
        kinds[breadth(seen.mask, side) >= AREA].append((defect, seen))
    return tuple(
        _mean(editor, object_name, evenly(found, DRAWN), start, area)
        for area, found in kinds.items()
        for start in STEPS
        if found
    )


def _mean(editor: Editor, object_name: str, windows: Sequence[tuple[str, Seen]], start: int, area: bool) -> Redrawn:
    changes = [f"look.start={start}", "look.area_start=0", "look.tones=1,1", "look.detail=0", "look.fidelity=0"]
    jobs = [
        _job(seen, defect_prompt(object_name, defect), torch_generator("redrawn", start, number), begin=True)
        for number, (defect, seen) in enumerate(windows)
    ]
    pairs = [
        _compared(seen, pixels)
        for (_, seen), pixels in zip(windows, _edited(editor, jobs, edit_preset("fast", changes)), strict=True)
    ]
    kept, alike = np.median(np.array(pairs), axis=0)
    return Redrawn(start=start, area=area, kept=round(float(kept), 3), alike=round(float(alike), 3))


def from_noise(editor: Editor, object_name: str, windows: Windows) -> tuple[FromNoise, ...]:
    """What is drawn from noise into the masks of real defects on their filled pictures, beside what these change.

    Args:
        editor: of the run.
        object_name: what its pictures show.
        windows: the real defects.
    """
    shown = evenly([(defect, seen) for defect, seen, _ in windows], FROM_NOISE)
    if not shown:
        return ()
    real, found = [max(measure(seen).visible, 1.0) for _, seen in shown], []
    for scale in SCALES:
        jobs = [
            _job(seen, defect_prompt(object_name, defect), torch_generator("from noise", number))
            for number, (defect, seen) in enumerate(shown)
        ]
        pictures = _edited(editor, jobs, edit_preset("fast", ["look=none"], guidance=scale))
        made = [
            measure(Seen(pixels, seen.source, seen.mask)) for (_, seen), pixels in zip(shown, pictures, strict=True)
        ]
        visible = float(np.median([one.visible / own for one, own in zip(made, real, strict=True)]))
        share = float(np.mean([one.share for one in made]))
        found.append(FromNoise(scale=scale, visible=round(visible, 3), share=round(share, 3)))
    return tuple(found)


def _job(seen: Seen, prompt: str, generator: torch.Generator, *, begin: bool = False) -> EditJob:
    """An edit of the filled picture in the real defect's mask; it begins from the real defect if asked for."""
    everywhere = np.ones(seen.mask.shape, np.bool_)
    job = EditJob(seen.source, everywhere, seen.mask, prompt, generator)
    return replace(job, reference=seen.result, strengths=(1.0, 1.0)) if begin else job


def _edited(editor: Editor, jobs: Sequence[EditJob], preset: EditPreset) -> list[Pixels]:
    """One after the other: training has filled the memory."""
    return [editor.edit([job], preset, window="full")[0].pixels for job in jobs]


def _compared(seen: Seen, drawn: Pixels) -> tuple[float, float]:
    """(share of the real change that is there, cosine of the two changes) inside the mask."""
    real, made = ((one.astype(np.float64) - seen.source)[seen.mask].ravel() for one in (seen.result, drawn))
    squares = max(float(real @ real), 1e-6)
    return float(real @ made) / squares, float(real @ made) / max((squares * float(made @ made)) ** 0.5, 1e-6)
