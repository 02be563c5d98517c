"""Recognises defects that change the outline of an object, such as a piece that is broken off."""

from __future__ import annotations

import cv2
import numpy as np

from adabldm.core.images import Mask
from adabldm.core.samples import DataSet, Instance
from adabldm.masks.foreground import decide_method, estimate_foreground
from adabldm.masks.surroundings import evenly

OFF_SHARE = 0.3
"""A mask of whose pixels at least this share shows no object reaches over the object's edge, if it touches it."""
NEAR = 4
"""Distance in px at which a mask touches an object."""
LOOKED_AT = 8
"""Masks of each type that are looked at, and good images by which it is decided whether objects are shown at all."""


def over_edge(mask: Mask, foreground: Mask) -> bool:
    """Whether a mask reaches over the edge of the object.

    Args:
        mask: bool HxW, not empty.
        foreground: bool HxW, object pixels of the picture with the defect.
    """
    near = cv2.dilate(mask.astype(np.uint8), np.ones((2 * NEAR + 1,) * 2, np.uint8)) > 0
    return bool(1 - foreground[mask].mean() >= OFF_SHARE and foreground[near].any())


def notes_on_outlines(data_set: DataSet, method: str = "auto") -> tuple[str, ...]:
    """A sentence for each defect type most of whose masks reach over the edge.

    Args:
        data_set: its masks are read, and its pictures.
        method: of the foreground; "auto" decides it by the good images. Only for "grabcut" are there any edges.
    """
    if method == "auto" and data_set.good and data_set.instances:
        method = decide_method([sample.picture().pixels for sample in evenly(data_set.good, LOOKED_AT)])
    if method != "grabcut":
        return ()
    notes = []
    for defect, instances in data_set.instances.items():
        looked_at = evenly(instances, LOOKED_AT)
        found = sum(map(_reaches_over, looked_at))
        if 2 * found > len(looked_at):
            notes.append(
                f"{defect}: {found} of {len(looked_at)} masks that were looked at reach over the object's edge. Edits "
                "change what is on an object and not its outline; for broken edges, let the run surface draw chips or "
                "holes with --placement overlap."
            )
    return tuple(notes)


def _reaches_over(instance: Instance) -> bool:
    foreground = estimate_foreground(instance.sample.picture().pixels, "grabcut").mask
    return over_edge(instance.defect.mask.read(), foreground)
