"""The window of a picture that is edited: cut once, at native resolution and at the model's.

Images are uint8 RGB, HxWx3; masks are bool, HxW. Side S is the window's in source pixels, R at the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from adabldm.core.images import Mask, Pixels, resize_mask, resize_pixels
from adabldm.core.windows import Window, crop, window_around

Array = TypeVar("Array", Pixels, Mask)


@dataclass(frozen=True)
class Cut:
    """The window of one picture at native resolution.

    Attributes:
        window: place of the window in the picture.
        size: (height, width) of the picture.
        pixels: the source, SxSx3.
        foreground: object pixels, SxS.
        mask: the defect's mask, SxS.
        reference: the real defect laid over the source, SxSx3; `None` without one.
    """

    window: Window
    size: tuple[int, int]
    pixels: Pixels
    foreground: Mask
    mask: Mask
    reference: Pixels | None = None

    @property
    def side(self) -> int:
        """Shorter side of the picture in px."""
        return min(self.size)

    def inside(self, values: Array) -> Array:
        """The part of window-sized pixels, or of a mask, that lies in the picture."""
        return values[self.window.slices(self.size)[1]]

    def reflected(self, values: Pixels) -> Pixels:
        """Window-sized pixels whose part beyond the picture's border is made the reflection of the part within."""
        rows, columns = self.window.slices(self.size)[1]
        return crop(values[rows, columns], Window(-rows.start, -columns.start, self.window.side))


@dataclass(frozen=True)
class ModelWindow:
    """A window at the model's resolution.

    Attributes:
        pixels: RxRx3.
        foreground: object pixels, RxR, the defect among them.
        mask: the defect's mask, RxR; a thin defect survives the resizing.
    """

    pixels: Pixels
    foreground: Mask
    mask: Mask


def cut_window(
    pixels: Pixels, foreground: Mask, mask: Mask, reference: Pixels | None = None, *, full: bool = False
) -> Cut:
    """Cut the window around a defect.

    Args:
        pixels: the source, HxWx3.
        foreground: object pixels, HxW.
        mask: the defect's mask, HxW, not empty.
        reference: the real defect laid over the source, HxWx3.
        full: take the whole picture instead.
    """
    size = (mask.shape[0], mask.shape[1])
    window = full_window(size) if full else window_around(mask)
    real = None if reference is None else crop(reference, window)
    return Cut(window, size, crop(pixels, window), crop(foreground, window), crop(mask, window), real)


def full_window(size: tuple[int, int]) -> Window:
    """The square that holds a whole image of `size` (height, width); what overhangs is reflected, nothing stretched."""
    side = max(size)
    return Window((size[0] - side) // 2, (size[1] - side) // 2, side)


def for_model(pixels: Pixels, foreground: Mask, mask: Mask, resolution: int) -> ModelWindow:
    """A window, SxSx3 and SxS, at the model's resolution."""
    size = (resolution, resolution)
    own = resize_mask(mask, size)
    return ModelWindow(resize_pixels(pixels, size), resize_mask(foreground, size) | own, own)
