"""Pictures of results: the contact sheet and outlined defects. Images are uint8 RGB, HxWx3."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, Pixels, resize_mask, resize_pixels
from adabldm.core.lettering import PAPER, text_strip
from adabldm.core.windows import crop, window_around
from adabldm.masks.trimap import DEFECT, OBJECT, Trimap, make_trimap

ROWS = 8
"""Most rows under each other; further ones stand in a second block beside them."""
COLUMNS = ("source", "trimap", "result", "mask", "source detail", "result detail")
MOUNT = (214, 220, 228)
GAP, BLOCK_GAP = 6, 30
LINE, TITLE_LINE = 24, 40


@dataclass(frozen=True)
class SheetRow:
    """One result on a contact sheet, everything of the same height and width.

    Attributes:
        source: the image before the edit, uint8 HxWx3.
        trimap: float HxW of 0, 0.5 and 1.
        result: the edited image, uint8 HxWx3.
        mask: the saved mask, bool HxW, not empty.
        label: a line of text, drawn in ASCII and cut off where the row ends.
    """

    source: Pixels
    trimap: Trimap
    result: Pixels
    mask: Mask
    label: str


def contact_sheet(rows: Iterable[SheetRow], *, cell: int = 192, title: str | None = None) -> Pixels:
    """Results under each other, each with its source, trimap, mask and a closer look at the defect.

    Args:
        rows: read once, one at a time, so that they need not be in memory together.
        cell: side in pixels of the square that a picture is fitted into.
        title: a line above everything.

    Returns:
        uint8 HxWx3; more than `ROWS` rows stand in blocks side by side.

    Raises:
        InputError: no row, or pictures of different sizes in a row.
    """
    return join_strips([sheet_strip(row, cell) for row in rows], cell=cell, title=title)


def join_strips(strips: list[Pixels], *, cell: int = 192, title: str | None = None) -> Pixels:
    """A contact sheet of rows that were drawn before; see `contact_sheet`."""
    if not strips:
        raise InputError("contact sheet: no images, expected at least one; generate some first.")
    sheet = _blocks(strips, _header(cell))
    if title is not None:
        sheet = np.vstack([text_strip(title, sheet.shape[1], TITLE_LINE), sheet])
    return _frame(sheet, GAP * 2)


def outline(pixels: Pixels, mask: Mask, colour: tuple[int, int, int] = (255, 64, 64)) -> Pixels:
    """A copy of HxWx3 with a line around the mask, just outside it, so that the defect itself stays visible."""
    thickness = max(1, round(min(mask.shape) / 256))
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=thickness) > 0
    outlined = pixels.copy()
    outlined[grown & ~mask] = colour
    return outlined


def fitted_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The largest (height, width) of the same proportions inside a square of `side` pixels."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def sheet_strip(row: SheetRow, cell: int = 192) -> Pixels:
    """A row of the sheet: its label over its cells. Raises as `contact_sheet`."""
    _check_sizes(row)
    window = window_around(row.mask)
    size = fitted_size(row.mask.shape, cell)
    pictures = [
        resize_pixels(row.source, size),
        _trimap_picture(row.trimap, size),
        resize_pixels(row.result, size),
        _mask_picture(row.mask, size),
        resize_pixels(crop(row.source, window), (cell, cell)),
        resize_pixels(crop(row.result, window), (cell, cell)),
    ]
    cells = beside([letterbox(picture, cell) for picture in pictures], GAP)
    return np.vstack([text_strip(row.label, cells.shape[1], LINE), cells, blank(GAP, cells.shape[1])])


def _check_sizes(row: SheetRow) -> None:
    sizes = {array.shape[:2] for array in (row.source, row.trimap, row.result, row.mask)}
    if len(sizes) > 1:
        raise InputError(f"{row.label}: source, trimap, result and mask have the sizes {sorted(sizes)}; make them one.")


def _trimap_picture(trimap: Trimap, size: tuple[int, int]) -> Pixels:
    """Black, grey and white; shrunk like masks, so that a thin defect stays."""
    small = make_trimap(resize_mask(trimap >= OBJECT, size), resize_mask(trimap == DEFECT, size))
    return _grey_picture(np.rint(small * 255).astype(np.uint8))


def _mask_picture(mask: Mask, size: tuple[int, int]) -> Pixels:
    return _grey_picture(resize_mask(mask, size).astype(np.uint8) * 255)


def _grey_picture(grey: Pixels) -> Pixels:
    return np.repeat(grey[..., None], 3, axis=2)


def letterbox(picture: Pixels, cell: int) -> Pixels:
    """The picture in the middle of a square mount."""
    height, width = picture.shape[:2]
    top, left = (cell - height) // 2, (cell - width) // 2
    mount = blank(cell, cell, MOUNT)
    mount[top : top + height, left : left + width] = picture
    return mount


def _header(cell: int) -> Pixels:
    return beside([text_strip(name, cell, LINE) for name in COLUMNS], GAP)


def _blocks(strips: list[Pixels], header: Pixels) -> Pixels:
    """Strips in as few blocks as `ROWS` allows, evenly filled, each under its own header."""
    per_block = math.ceil(len(strips) / math.ceil(len(strips) / ROWS))
    blocks = [np.vstack([header, *strips[start : start + per_block]]) for start in range(0, len(strips), per_block)]
    return beside([_pad_below(block, blocks[0].shape[0]) for block in blocks], BLOCK_GAP)


def _pad_below(picture: Pixels, height: int) -> Pixels:
    return np.vstack([picture, blank(height - picture.shape[0], picture.shape[1])])


def beside(pictures: list[Pixels], gap: int) -> Pixels:
    """Pictures of one height, side by side."""
    space = blank(pictures[0].shape[0], gap)
    return np.hstack([part for picture in pictures for part in (space, picture)][1:])


def _frame(picture: Pixels, margin: int) -> Pixels:
    height, width = picture.shape[:2]
    sheet = blank(height + 2 * margin, width + 2 * margin)
    sheet[margin:-margin, margin:-margin] = picture
    return sheet


def blank(height: int, width: int, colour: tuple[int, int, int] = PAPER) -> Pixels:
    """A picture of one colour."""
    return np.full((height, width, 3), colour, np.uint8)
