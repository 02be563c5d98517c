"""Masks in images of numbers or colours: objects and classes of Pascal VOC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adabldm.core.errors import InputError
from adabldm.core.images import Mask
from adabldm.core.opening import open_header
from adabldm.core.recent import Stamp
from adabldm.data.formats.shapes import Box, filled

BORDER = 255
"""Number of pixels of Pascal VOC that belong to no class."""
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class IndexMask:
    """The pixels of an image file that have one number, such as an object of Pascal VOC.

    Attributes:
        path: image file with palette indices or grey levels.
        index: the number.
    """

    path: Path
    index: int

    @property
    def name(self) -> str:
        """File and number."""
        return f"{self.path.name} index {self.index}"

    def read(self) -> Mask:
        """The mask, bool HxW; raises as `MaskSource.read`."""
        return filled(_numbers(self.path) == self.index, self.path, f"index {self.index}")


@dataclass(frozen=True)
class ClassMask:
    """The pixels of a class in an image file, all of them or those in the box of one object.

    Attributes:
        path: image file with palette indices, grey levels or colours.
        label: which class or object, for messages.
        index: number of the class; where neither it nor `colour` is known, it is the most frequent one in the box.
        colour: of the class.
        box: (left, top, right, bottom) in px of the object; `None` takes all pixels of the class.
    """

    path: Path
    label: str
    index: int | None = None
    colour: Colour | None = None
    box: Box | None = None

    @property
    def name(self) -> str:
        """File and class or object."""
        return f"{self.path.name} {self.label}"

    def read(self) -> Mask:
        """The mask, bool HxW; raises as `MaskSource.read`."""
        if self.colour is not None:
            return self._inside((_colours(self.path) == self.colour).all(axis=2))
        values = _numbers(self.path)
        if self.index is not None:
            return self._inside(values == self.index)
        inside = self._inside((values > 0) & (values != BORDER))
        return np.asarray(inside & (values == np.bincount(values[inside]).argmax()))

    def _inside(self, mask: Mask) -> Mask:
        if self.box is not None:
            # Tools differ in whether pixels count from 0 or 1: a pixel more on each side loses nothing.
            left, top, right, bottom = (max(0, int(side)) for side in np.add(self.box, (-1, -1, 2, 2)))
            cut = np.zeros_like(mask)
            cut[top:bottom, left:right] = mask[top:bottom, left:right]
            mask = cut
        return filled(mask, self.path, self.label)


def classes_in(path: Path, numbers: Mapping[str, int], colours: Mapping[str, Colour]) -> list[tuple[str, ClassMask]]:
    """The classes that a mask shows, with their names; none where it cannot be read, which reading one then says.

    Args:
        path: image file with palette indices, grey levels or colours.
        numbers: of the classes by name.
        colours: of the classes by name; go before numbers.
    """
    try:
        if colours:
            shown = {tuple(colour) for colour in np.unique(_colours(path).reshape(-1, 3), axis=0).tolist()}
            return [(name, ClassMask(path, name, colour=one)) for name, one in colours.items() if one in shown]
        values = _numbers(path)
    except InputError:
        return [("defect", ClassMask(path, "classes"))]
    found = np.unique(values).tolist()
    classes = [number for number in found if number not in {0, BORDER}] or [number for number in found if number]
    names = {number: name for name, number in numbers.items()}
    named = [(names.get(number, f"class {number}"), number) for number in classes]
    return [(name, ClassMask(path, name, index=number)) for name, number in named]


def numbers_in(path: Path) -> list[int]:
    """The numbers of objects that a mask shows; none where it cannot be read, which reading one then says."""
    try:
        return [number for number in np.unique(_numbers(path)).tolist() if number not in {0, BORDER}]
    except InputError:
        return []


def _open(path: Path) -> Image.Image:
    with open_header(path) as image:
        image.load()
        return image


def palette() -> NDArray[np.uint8]:
    """The colours of Pascal VOC, 256x3: the bits of a number, spread over red, green and blue."""
    bits = np.arange(256)[:, None, None] >> (3 * np.arange(8)[None, :, None] + np.arange(3)) & 1
    return np.asarray((bits << (7 - np.arange(8)[None, :, None])).sum(axis=1), np.uint8)


def _numbers(path: Path) -> NDArray[Any]:
    """Its numbers, HxW; files that were read last are kept, as a picture may have a hundred objects in one."""
    return _read_numbers(Stamp.of(path))


@lru_cache(maxsize=8)
def _read_numbers(stamp: Stamp) -> NDArray[Any]:
    """What `_numbers` gives, of a file as it was at a time."""
    path = stamp.path
    values: NDArray[Any] = np.asarray(_open(path))
    if values.ndim == 3 and values.shape[2] == 3 and values.dtype == np.uint8:
        values = _of_palette(values)
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise InputError(f"{path}: a colour image, expected one channel with a number for each object or class, or the "
                         "colours of the classes in labelmap.txt; export it anew.")  # fmt: skip
    return values if values.dtype == np.uint8 else values.astype(np.int64)


def _of_palette(values: NDArray[np.uint8]) -> NDArray[Any]:
    """The numbers of an image that was written in the colours of Pascal VOC, HxW; else as it is."""
    packed = values.astype(np.int64) @ (65536, 256, 1)
    known = palette().astype(np.int64) @ (65536, 256, 1)
    order = np.argsort(known)
    found = order[np.searchsorted(known[order], packed).clip(max=255)]
    return np.asarray(found) if np.array_equal(known[found], packed) else values


def _colours(path: Path) -> NDArray[np.uint8]:
    return np.asarray(_open(path).convert("RGB"))
