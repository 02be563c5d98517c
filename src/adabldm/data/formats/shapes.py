"""Masks that annotation files describe: polygons, run lengths, circles, lines, small images, and boxes.

Annotation files are read by our own few lines on top of `json`, `yaml` and `xml.etree`, and rasterised by Pillow, as
LabelMe does: `supervision` wants PyAV and matplotlib, and drops LabelMe images without a JSON file, which are the
defect-free ones; `pycocotools` is a C extension that would be needed for run lengths alone.
"""

from __future__ import annotations

import io
import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageDraw

from adabldm.core.errors import EmptyMaskError, InputError
from adabldm.core.images import Mask, read_picture
from adabldm.core.samples import MaskSource

Point = tuple[float, float]
Polygon = tuple[Point, ...]
Box = tuple[float, float, float, float]
LINE_WIDTH = 10
"""Width in px of the lines that LabelMe draws."""
MOST_CROSSINGS = 1 << 20
"""Crossings of a polygon with rows that are computed at once."""


@dataclass(frozen=True, slots=True)
class PolygonMask:
    """The union of polygons.

    Attributes:
        source: annotation file, for messages.
        label: which annotation of it, for messages.
        corners: of each polygon x, y, x, y, … in px, as float64: objects would need eight times the memory.
        size: (height, width) of the image in px; what lies outside is cut off.
        along_edges: whole numbers are the edges of pixels, and the pixels whose centres lie inside belong to it; of a
            polygon without such pixels, those that its outline touches. Else whole numbers are the centres of pixels,
            and the outline belongs to it.
    """

    source: Path
    label: str
    corners: tuple[bytes, ...]
    size: tuple[int, int]
    along_edges: bool = False

    @classmethod
    def of(
        cls, source: Path, label: str, polygons: Iterable[Polygon], size: tuple[int, int], *, along_edges: bool = False
    ) -> PolygonMask:
        """From corners (x, y) in px; see the attributes."""
        corners = tuple(array("d", chain.from_iterable(one)).tobytes() for one in polygons)
        return cls(source, label, corners, size, along_edges)

    @property
    def name(self) -> str:
        """File and annotation."""
        return f"{self.source.name} {self.label}"

    def read(self) -> Mask:
        """The mask, bool HxW; raises as `MaskSource.read`."""
        polygons = [array("d", corners).tolist() for corners in self.corners]
        rows = [int(y) for polygon in polygons for y in polygon[1::2]]  # Pillow cuts fractions off
        top, bottom = max(0, min(rows, default=0)), min(self.size[0], max(rows, default=-1) + 1)
        mask = np.zeros(self.size, np.bool_)
        if top < bottom:
            # Only these rows are drawn, for a large picture may have hundreds of small defects.
            part = mask[top:bottom]
            _outline(part, [one for one in polygons if not (self.along_edges and _cover(part, one, top))], top)
        filled(mask[top:bottom], self.source, self.label)
        return mask


@dataclass(frozen=True, slots=True)
class RunLengthMask:
    """COCO's run lengths.

    Attributes:
        source: annotation file, for messages.
        label: which annotation of it, for messages.
        runs: lengths of the runs in px as int64, down the columns, beginning with background.
        size: (height, width) in px.
    """

    source: Path
    label: str
    runs: bytes
    size: tuple[int, int]

    @classmethod
    def of(cls, source: Path, label: str, counts: Iterable[int], size: tuple[int, int]) -> RunLengthMask:
        """From the lengths of the runs; raises `OverflowError` where one is no length of pixels."""
        return cls(source, label, array("q", counts).tobytes(), size)

    @property
    def name(self) -> str:
        """File and annotation."""
        return f"{self.source.name} {self.label}"

    def read(self) -> Mask:
        """The mask, bool HxW; raises as `MaskSource.read`."""
        height, width = self.size
        counts = array("q", self.runs)
        if sum(counts) != height * width or min(counts, default=0) < 0:
            raise InputError(
                f"{self.source}: {self.label}: run lengths of {sum(counts)} px, expected {height * width} px "
                f"({height} x {width}); export the annotation anew."
            )
        values = np.arange(len(counts)) % 2 == 1
        flat = np.repeat(values, counts)
        return filled(np.ascontiguousarray(flat.reshape(width, height).T), self.source, self.label)


@dataclass(frozen=True)
class DrawnMask:
    """A circle or a line, drawn as LabelMe draws them.

    Attributes:
        source: annotation file, for messages.
        label: which annotation of it, for messages.
        form: "circle" (its centre, and a point on it) or "line" (two points or more, `LINE_WIDTH` px wide).
        points: (x, y) in px.
        size: (height, width) of the image in px; what lies outside is cut off.
    """

    source: Path
    label: str
    form: Literal["circle", "line"]
    points: Polygon
    size: tuple[int, int]

    @property
    def name(self) -> str:
        """File and annotation."""
        return f"{self.source.name} {self.label}"

    def read(self) -> Mask:
        """The mask, bool HxW; raises as `MaskSource.read`."""
        canvas = Image.new("L", self.size[::-1])
        draw = ImageDraw.Draw(canvas)
        if self.form == "circle":
            (x, y), edge = self.points
            radius = math.dist((x, y), edge)
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=1, outline=1)
        else:
            draw.line(list(self.points), fill=1, width=LINE_WIDTH)
        return filled(np.asarray(canvas) > 0, self.source, self.label)


@dataclass(frozen=True)
class BitmapMask:
    """A small mask image at a place, as LabelMe's shapes of the type "mask" are.

    Attributes:
        source: annotation file, for messages.
        label: which annotation of it, for messages.
        data: bytes of a PNG file.
        corner: (left, top) of the mask in px.
        size: (height, width) of the image in px; what lies outside is cut off.
    """

    source: Path
    label: str
    data: bytes
    corner: tuple[int, int]
    size: tuple[int, int]

    @property
    def name(self) -> str:
        """File and annotation."""
        return f"{self.source.name} {self.label}"

    def read(self) -> Mask:
        """The mask, bool HxW; raises as `MaskSource.read`."""
        try:
            with Image.open(io.BytesIO(self.data), formats=["PNG"]) as image:
                part = np.asarray(image.convert("L")) > 0
        except Exception as error:  # a decoder that meets damage raises whatever it stumbles over
            raise InputError(
                f"{self.source}: {self.label}: the mask is no readable PNG; draw it anew or remove it."
            ) from error
        (left, top), (height, width) = self.corner, self.size
        whole = np.zeros(self.size, np.bool_)
        rows = slice(max(top, 0), max(0, min(top + part.shape[0], height)))
        columns = slice(max(left, 0), max(0, min(left + part.shape[1], width)))
        if rows.start < rows.stop and columns.start < columns.stop:
            whole[rows, columns] = part[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        return filled(whole, self.source, self.label)


@dataclass(frozen=True)
class UnionMask:
    """Several masks that are one defect together, such as LabelMe's shapes of one group."""

    parts: tuple[MaskSource, ...]

    @property
    def name(self) -> str:
        """That of the first one."""
        return self.parts[0].name

    def read(self) -> Mask:
        """The mask, bool HxW; raises as `MaskSource.read`."""
        return np.asarray(np.logical_or.reduce([part.read() for part in self.parts]))


@dataclass(frozen=True)
class BoxMask:
    """A box whose defect is found by GrabCut (Rother et al. 2004) on the pixels around it, or fills it.

    Attributes:
        source: annotation file, for messages.
        label: which annotation of it, for messages.
        image: image file.
        box: (left, top, right, bottom) in px.
        fill: the whole box is the defect.
    """

    source: Path
    label: str
    image: Path
    box: Box
    fill: bool = False

    @property
    def name(self) -> str:
        """File and annotation."""
        return f"{self.source.name} {self.label}"

    def read(self) -> Mask:
        """The mask, bool HxW; the whole box where GrabCut finds nothing in it; raises as `MaskSource.read`."""
        pixels = read_picture(self.image).pixels
        height, width = pixels.shape[:2]
        left, right = (int(np.clip(round(value), 0, width)) for value in (self.box[0], self.box[2]))
        top, bottom = (int(np.clip(round(value), 0, height)) for value in (self.box[1], self.box[3]))
        mask = np.zeros((height, width), np.bool_)
        mask[top:bottom, left:right] = True
        filled(mask, self.source, self.label)
        if self.fill:
            return mask
        pad = max(8, (bottom - top + right - left) // 2)
        rows, columns = slice(max(0, top - pad), bottom + pad), slice(max(0, left - pad), right + pad)
        inside = mask[rows, columns]
        found = _grabcut(np.ascontiguousarray(pixels[rows, columns]), inside)
        if found.any():
            mask[rows, columns] = found
        return mask


def _grabcut(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], inside: Mask) -> Mask:
    if inside.all():
        return inside
    labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(pixels, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return inside
    return np.asarray(inside & ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)))


def _outline(part: Mask, polygons: list[list[float]], top: int) -> None:
    """Add polygons (x, y, x, y, …) with their outlines to the rows of a mask from `top` on, as Pillow draws them."""
    if not polygons:
        return
    canvas = Image.new("L", part.shape[::-1])
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        polygon[1::2] = [int(y) - top for y in polygon[1::2]]
        draw.polygon(polygon, fill=1, outline=1)
    part |= np.asarray(canvas) > 0


def _cover(part: Mask, polygon: list[float], top: int) -> bool:
    """Add the pixels whose centres lie inside a polygon (x, y, x, y, …), by the even-odd rule.

    A centre on the outline belongs to the polygon on its right or below it, so that of polygons side by side each
    pixel is in one.

    Args:
        part: rows of a mask from `top` on, which are changed.
        polygon: its corners in px.
        top: first row of the part.

    Returns:
        Whether there is such a pixel.
    """
    height, width = part.shape
    start = np.array(polygon).reshape(-1, 2) - (0.5, top + 0.5)  # the centres of pixels are whole numbers now
    end = np.roll(start, -1, axis=0)
    low, high = np.ceil(np.clip([np.minimum(start, end)[:, 1], np.maximum(start, end)[:, 1]], 0, height)).astype(int)
    left, right = (math.ceil(np.clip(x, 0, width)) for x in (start[:, 0].min(), start[:, 0].max()))
    first, last = int(low.min()), int(high.max())
    if first >= last or left >= right:
        return False
    turns = np.zeros((last - first, right - left + 1), np.bool_)  # where a row enters or leaves the polygon
    sides = np.flatnonzero(high > low)
    step = max(1, MOST_CROSSINGS // (last - first))
    for some in (sides[place : place + step] for place in range(0, len(sides), step)):
        counts = high[some] - low[some]
        side = np.repeat(some, counts)
        row = np.arange(len(side)) - np.repeat(np.cumsum(counts) - counts - low[some], counts)
        (x, y), (dx, dy) = start[side].T, (end - start)[side].T
        column = np.clip(np.ceil(x + (row - y) * dx / dy), left, right).astype(int)
        np.logical_xor.at(turns, (row - first, column - left), True)
    inside = np.logical_xor.accumulate(turns, axis=1)[:, :-1]
    part[first:last, left:right] |= inside
    return bool(inside.any())


def filled(mask: Mask, source: Path, label: str) -> Mask:
    """The mask itself; raises `EmptyMaskError` where it has no pixel."""
    if not mask.any():
        raise EmptyMaskError(
            f"{source}: {label}: no pixel inside the image, expected at least one; draw it anew or remove it."
        )
    return mask


def area(polygon: Polygon) -> float:
    """Area in px, by the shoelace formula."""
    x, y = np.asarray(polygon, dtype=np.float64).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def decode_counts(text: str) -> tuple[int, ...]:
    """Run lengths from COCO's compressed text: groups of 5 bits from the lowest, differences to the run before last.

    Raises:
        ValueError: the text breaks off or has characters that do not belong there.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64:
            raise ValueError(letter)
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the text breaks off")
    return tuple(counts)
