"""How like the real defects a run draws them again, from each first step: what the preset `fast` trusts it with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adabldm.core.appearance import evenly
from adabldm.core.changes import Seen
from adabldm.core.images import Pixels
from adabldm.core.prompts import defect_prompt
from adabldm.core.records import Redrawn
from adabldm.core.seeding import torch_generator
from adabldm.core.settings.edit import PRESETS
from adabldm.core.settings.presets import edit_preset
from adabldm.editing.editor import EditJob, Editor
from adabldm.editing.look import AREA, breadth
from adabldm.production.learnt import RealChanges

DRAWN = 5
"""Real defects that are drawn again, of spots and lines and of areas; evenly chosen."""
STEPS = range(2, PRESETS["fast"].plan.steps)
"""First steps that are tried. Before them the guided steps of `fast` lie, which a real defect goes without."""


def redrawn(editor: Editor, object_name: str, changes: RealChanges, defects: Sequence[str]) -> tuple[Redrawn, ...]:
    """The real defects of a data set, each laid over its own filled picture and edited, beside what they are.

    Args:
        editor: of the run.
        object_name: what its pictures show.
        changes: gives the windows.
        defects: types.
    """
    kinds: dict[bool, list[tuple[str, Seen]]] = {False: [], True: []}
    for defect, seen, side in changes.windows(defects):
        kinds[breadth(seen.mask, side) >= AREA].append((defect, seen))
    return tuple(
        _mean(editor, object_name, evenly(found, DRAWN), start, area)
        for area, found in kinds.items()
        for start in STEPS
        if found
    )


def _mean(editor: Editor, object_name: str, windows: Sequence[tuple[str, Seen]], start: int, area: bool) -> Redrawn:
    changes = [f"look.start={start}", "look.area_start=0", "look.tones=1,1", "look.detail=0", "look.fidelity=0"]
    preset = edit_preset("fast", changes)
    jobs = [
        EditJob(
            seen.source,
            np.ones(seen.mask.shape, np.bool_),
            seen.mask,
            defect_prompt(object_name, defect),
            torch_generator("redrawn", start, number),
            reference=seen.result,
            strengths=(1.0, 1.0),
        )
        for number, (defect, seen) in enumerate(windows)
    ]
    edited = [editor.edit([job], preset, window="full")[0].pixels for job in jobs]
    pairs = [_compared(seen, pixels) for (_, seen), pixels in zip(windows, edited, strict=True)]
    kept, alike = np.median(np.array(pairs), axis=0)
    return Redrawn(start=start, area=area, kept=round(float(kept), 3), alike=round(float(alike), 3))


def _compared(seen: Seen, drawn: Pixels) -> tuple[float, float]:
    """(share of the real change that is there, cosine of the two changes) inside the mask."""
    real, made = ((one.astype(np.float64) - seen.source)[seen.mask].ravel() for one in (seen.result, drawn))
    squares = max(float(real @ real), 1e-6)
    return float(real @ made) / squares, float(real @ made) / max((squares * float(made @ made)) ** 0.5, 1e-6)
