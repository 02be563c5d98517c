"""Put an edited window back into its image at native resolution (DESIGN section 2.1)."""

from __future__ import annotations

import cv2
import numpy as np

from adabldm.editing.reference import KEPT
from adabldm.images import Mask, Pixels, resize_mask, resize_pixels
from adabldm.windows import Window, crop

THIN = 6.0
"""Pixels at the model's resolution; a thinner defect has hardly more than one latent pixel across."""
SLIGHT = 8.0
"""Source pixels from a defect's border to its middle; a thinner part of it lives by its border."""
CORE = 0.3
"""Share of what lies deeper that no feather weakens."""
FADE = 2
"""Power of the feather's fall: gentle at the border, where a step shows, and steep inside: little of a defect pales."""


def put_back(pixels: Pixels, edited: Pixels, mask: Mask, window: Window, *, texture: float = 1.0) -> Pixels:
    """The image with the edited window in it; pixels outside the window are the source's, bit for bit.

    What the window lost when it was resized to the model's resolution is added back: all of it outside the mask,
    the share `texture` inside.

    Args:
        pixels: the source, uint8 HxWx3.
        edited: the edited window at the model's resolution, uint8 RxRx3.
        mask: defect mask of the source, bool HxW.
        window: where `edited` belongs.
        texture: share of the source's fine detail that the defect keeps, in [0, 1].
    """
    native = crop(pixels, window)
    size = (window.side, window.side)
    if edited.shape[:2] == size:
        full = edited.astype(np.float32)
    else:
        known = resize_pixels(native, (edited.shape[0], edited.shape[1]))
        detail = native.astype(np.float32) - _resize(known.astype(np.float32), size)
        soft = cv2.GaussianBlur(crop(mask, window).astype(np.float32), (0, 0), max(1.0, window.side / edited.shape[0]))
        full = _resize(edited.astype(np.float32), size) + detail * (1 - np.maximum(soft, 0) * (1 - texture))[..., None]
    result = pixels.copy()
    (rows, columns), own = window.slices((pixels.shape[0], pixels.shape[1]))
    result[rows, columns] = np.clip(np.rint(full), 0, 255).astype(np.uint8)[own]
    return result


def feather(
    edited: Pixels, source: Pixels, mask: Mask, window: Window, resolution: int, widths: tuple[float, float]
) -> Pixels:
    """The edit with its change fading out across the mask's border; beyond that band, the source bit for bit.

    The factor of the change falls from 1 to 0, as the power `FADE` of a straight line. With k source pixels to a pixel
    of the model (at least 1), it falls from `widths[0]` · (k − 1) px inside the mask's border, less `KEPT`, to
    `widths[1]` · k px outside it, plus `KEPT`: a defect that is edited at its native resolution keeps the sharp border
    of the real one, and one that was shrunk for the model gets a border as soft as the model saw it. A part of the mask
    that is not deeper than `SLIGHT` keeps a sharp border too; a deeper one fades no farther inside than `CORE` of the
    rest of its depth allows.

    Args:
        edited: the picture with its defect, uint8 HxWx3, equal to `source` outside the window.
        source: the picture before.
        mask: defect mask, bool HxW.
        window: what was edited.
        resolution: side of the window at the model, in px.
        widths: (into the mask, out of it), see above; (0, 0) leaves the edit as it is.
    """
    if max(widths) <= 0:
        return edited
    (rows, columns), _ = window.slices((mask.shape[0], mask.shape[1]))
    scale = max(1.0, window.side / resolution)
    deep, far = widths[0] * (scale - 1) - KEPT, widths[1] * scale + KEPT
    inside = mask[rows, columns].astype(np.uint8)
    outwards, nearest = cv2.distanceTransformWithLabels(
        1 - inside, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    inwards = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_5)  # the picture's edge is no border
    parts, part = cv2.connectedComponents(inside)
    depth = np.zeros(parts, np.float32)
    np.maximum.at(depth, part, inwards)
    belongs = np.zeros(int(nearest.max()) + 1, np.int32)
    belongs[nearest[inside > 0]] = part[inside > 0]  # the part whose pixel is the nearest one
    inner = np.minimum(deep, np.maximum(-KEPT, (1 - CORE) * (depth[belongs[nearest]] - SLIGHT)))
    signed = np.where(inside > 0, 0.5 - inwards, outwards - 0.5)  # from the border line between two pixels
    share = np.clip((far - signed) / np.maximum(inner + far, 1e-6), 0, 1)[..., None] ** FADE
    before = source[rows, columns].astype(np.float32)
    result = edited.copy()
    result[rows, columns] = np.clip(np.rint(before + share * (edited[rows, columns] - before)), 0, 255)
    return result


def window_resolution(mask: Mask, resolution: int, finest: int) -> int:
    """The resolution that a window needs: `resolution`, doubled while its defect is too thin to be drawn.

    A defect is too thin when its thickest place is below `THIN` pixels at the model; more than the window's own
    pixels, or than `finest`, is never asked for.

    Args:
        mask: the window's mask at native resolution, bool SxS, not empty.
        resolution: the model's own, in px.
        finest: in px.
    """
    side = mask.shape[0]
    padded = np.pad(mask.astype(np.uint8), 1, mode="edge")
    thickness = 2 * float(cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max()) - 1
    while thickness * resolution / side < THIN and resolution < side and 2 * resolution <= finest:
        resolution *= 2
    return resolution


def expose(pixels: Pixels, gain: float) -> Pixels:
    """The picture at another exposure: grey levels times `gain`, clipped; uint8 HxWx3."""
    return pixels if gain == 1.0 else np.clip(np.rint(pixels * gain), 0, 255).astype(np.uint8)


def unexpose(edited: Pixels, exposed: Pixels, pixels: Pixels, gain: float) -> Pixels:
    """Carry an edit that was made at another exposure back to the picture's own.

    What changed is divided by the gain and added to the picture: where nothing changed, it stays as it is, also where
    the exposure had clipped it.

    Args:
        edited: the edited picture at the other exposure, uint8 HxWx3.
        exposed: the same before the edit: `expose(pixels, gain)`.
        pixels: the picture at its own exposure.
        gain: see `expose`.
    """
    if gain == 1.0:
        return edited
    change = edited.astype(np.float32) - exposed
    return np.clip(np.rint(pixels + change / gain), 0, 255).astype(np.uint8)


def _resize(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], size: tuple[int, int]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    growing = size[0] >= values.shape[0]
    return np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_CUBIC if growing else cv2.INTER_AREA))


def window_inputs(
    pixels: Pixels, foreground: Mask, mask: Mask, window: Window, resolution: int
) -> tuple[Pixels, Mask, Mask]:
    """(pixels, foreground, mask) of the window at the model's resolution; a thin defect survives the resizing."""
    size = (resolution, resolution)
    own = resize_mask(crop(mask, window), size)
    return resize_pixels(crop(pixels, window), size), resize_mask(crop(foreground, window), size) | own, own
