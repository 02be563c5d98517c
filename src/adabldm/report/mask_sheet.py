"""A sheet with every mask of a data set drawn on its picture."""

from __future__ import annotations

import numpy as np

from adabldm.core.errors import InputError
from adabldm.core.images import Pixels, resize_mask, resize_pixels
from adabldm.core.lettering import text_strip
from adabldm.core.samples import DataSet, Sample
from adabldm.report.pictures import LINE, beside, blank, fitted_size, letterbox, outline

COLUMNS, GAP = 4, 8
COLOURS = ((255, 64, 64), (64, 160, 255), (255, 200, 0), (80, 220, 80), (220, 90, 255), (0, 220, 220))
"""Colours of the defect types in their order, from the beginning again after the last."""


REGION = (255, 255, 255)
"""Colour of the regions where defects may be."""


def mask_sheet(data_set: DataSet, *, cell: int = 360, limit: int = 120) -> Pixels:
    """Pictures with an outline around each defect, a colour for each type, and white ones of regions; uint8 HxWx3.

    Args:
        data_set: checked data; images whose reading failed are not in it.
        cell: side of a picture in px.
        limit: most pictures on the sheet.
    """
    samples = [*data_set.defective, *data_set.test_defective][:limit]
    types = sorted({name for sample in samples for name in sample.types})
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(types)}
    cells = [_cell(sample, colours, cell) for sample in samples]
    if not cells:
        return text_strip("no image with a mask that can be read", COLUMNS * cell, LINE)
    empty = blank(cells[0].shape[0], cells[0].shape[1])
    cells += [empty] * (-len(cells) % COLUMNS)
    rows = [beside(cells[start : start + COLUMNS], GAP) for start in range(0, len(cells), COLUMNS)]
    return np.vstack([row for strip in rows for row in (strip, blank(GAP, strip.shape[1]))])


def _cell(sample: Sample, colours: dict[str, tuple[int, int, int]], cell: int) -> Pixels:
    pixels = sample.picture().pixels
    size = fitted_size((pixels.shape[0], pixels.shape[1]), cell)
    pixels = resize_pixels(pixels, size)
    for region in sample.regions:
        try:
            pixels = outline(pixels, resize_mask(region.mask.read(), size), REGION)
        except InputError:
            continue
    for defect in sample.defects:
        try:
            pixels = outline(pixels, resize_mask(defect.mask.read(), size), colours[defect.type])
        except InputError:
            continue
    picture = letterbox(pixels, cell)
    return np.vstack([text_strip(f"{sample.image.name}: {', '.join(sample.types)}", cell, LINE), picture])
