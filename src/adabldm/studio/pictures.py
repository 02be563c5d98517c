"""Pictures for the pages: thumbnails, windows around defects, files of results. Pixels are uint8 RGB, HxWx3."""

from __future__ import annotations

import hashlib
import io
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import numpy as np
from fastapi import Response
from numpy.typing import NDArray
from PIL import Image

from adabldm.core.images import Mask, Pixels, resize_mask, resize_pixels
from adabldm.core.windows import Window, crop, window_around
from adabldm.report.pictures import fitted_size, outline

WEEK = "private, max-age=604800, immutable"
SHORT = "private, no-cache"

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def digest(pixels: NDArray[Any], letters: int) -> str:
    """A name for pixels that no others have, also none of another size or depth."""
    form = f"{pixels.dtype.str} {pixels.shape} ".encode()
    return hashlib.sha256(form + np.ascontiguousarray(pixels).tobytes()).hexdigest()[:letters]


def png(pixels: NDArray[Any], *, lasting: bool = False) -> Response:
    """uint8 HxWx3 or HxW, or uint16 HxW, as a PNG that is quickly made."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=1)
    return Response(buffer.getvalue(), media_type="image/png", headers={"Cache-Control": WEEK if lasting else SHORT})


def jpeg_bytes(pixels: Pixels) -> bytes:
    """HxWx3 as a JPEG for looking at."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="JPEG", quality=86)
    return buffer.getvalue()


def jpeg(content: bytes, *, lasting: bool = False) -> Response:
    """An answer with a JPEG."""
    return Response(content, media_type="image/jpeg", headers={"Cache-Control": WEEK if lasting else SHORT})


def thumbnail(pixels: Pixels, side: int) -> Pixels:
    """A smaller copy whose shorter side is `side` px, cut to its middle square."""
    height, width = pixels.shape[:2]
    length = min(height, width)
    top, left = (height - length) // 2, (width - length) // 2
    middle = pixels[top : top + length, left : left + length]
    return resize_pixels(middle, (side, side)) if length > side else middle


def fitted(pixels: Pixels, side: int) -> Pixels:
    """The whole picture, at most `side` px long."""
    size = pixels.shape[0], pixels.shape[1]
    return resize_pixels(pixels, fitted_size(size, min(side, max(size))))


def detail(pixels: Pixels, mask: Mask, side: int, *, outlined: bool = False) -> Pixels:
    """The window around a defect, `side` px long, with the mask's outline if asked for."""
    return cut_detail(pixels, mask, window_around(mask), side, outlined=outlined)


def cut_detail(pixels: Pixels, mask: Mask, window: Window, side: int, *, outlined: bool = False) -> Pixels:
    """A given window of a picture, `side` px long."""
    cut = resize_pixels(crop(pixels, window), (side, side))
    if not outlined:
        return cut
    return outline(cut, resize_mask(crop(mask, window), (side, side)))


def with_outline(pixels: Pixels, mask: Mask, side: int) -> Pixels:
    """The whole picture with its mask's outline, at most `side` px long."""
    small = fitted(pixels, side)
    return outline(small, resize_mask(mask, (small.shape[0], small.shape[1])))


class Cache(Generic[Key, Value]):
    """The values that were used last; two threads that miss the same key may both make it.

    Args:
        most: number of values that are kept.
        weight: of a value, such as its megapixels.
        heaviest: weight of all values that are kept; one value is kept however heavy it is.
    """

    def __init__(
        self, most: int, weight: Callable[[Value], float] = lambda value: 0.0, heaviest: float = math.inf
    ) -> None:
        self._most, self._weight, self._heaviest = most, weight, heaviest
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, made if it is not there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        self.put(key, value)
        return value

    def find(self, key: Key) -> Value | None:
        """The value of a key, or `None`."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Keep a value; those that were used longest ago are dropped."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            weight = sum(map(self._weight, self._values.values()))
            while len(self._values) > 1 and (len(self._values) > self._most or weight > self._heaviest):
                weight -= self._weight(self._values.popitem(last=False)[1])

    def forget(self, key: Key) -> None:
        """Drop a value."""
        with self._lock:
            self._values.pop(key, None)


def megapixels(pixels: NDArray[Any]) -> float:
    """Of HxW or HxWxC."""
    return float(pixels.shape[0] * pixels.shape[1]) / 1e6
