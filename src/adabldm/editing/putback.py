"""Put an edited window back into its picture at native resolution (docs/method.md, section 6).

Images are uint8 RGB, HxWx3; masks are bool, HxW. Side S is a window's in source pixels, R at the model.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.images import Mask, Pixels, resize_pixels
from adabldm.editing.look import KEPT

THIN = 6.0
"""Pixels at the model's resolution; a thinner defect has hardly more than one latent pixel across."""
SLIGHT = 8.0
"""Source pixels from a defect's border to its middle; a thinner part of it is hardly more than its border."""
CORE = 0.3
"""Share of what lies deeper that no feather weakens."""
FADE = 2
"""Power of the feather's fall: gentle at the border, where a step shows, and steep inside, so that little fades."""


def put_back(native: Pixels, edited: Pixels, mask: Mask, *, texture: float = 1.0) -> Pixels:
    """The edited window at native resolution, SxSx3.

    What the window lost when it was resized to the model's resolution is added back: all of it outside the mask,
    the share `texture` inside.

    Args:
        native: the window before the edit, SxSx3.
        edited: the window after it at the model's resolution, RxRx3.
        mask: the defect's mask, SxS.
        texture: share of the source's fine detail that the defect keeps, in [0, 1].
    """
    size = (native.shape[0], native.shape[1])
    if edited.shape[:2] == size:
        return edited
    known = resize_pixels(native, (edited.shape[0], edited.shape[1]))
    detail = native.astype(np.float32) - _resize(known.astype(np.float32), size)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(1.0, size[0] / edited.shape[0]))
    full = _resize(edited.astype(np.float32), size) + detail * (1 - np.maximum(soft, 0) * (1 - texture))[..., None]
    return np.asarray(np.clip(np.rint(full), 0, 255), dtype=np.uint8)


def feather(edited: Pixels, source: Pixels, mask: Mask, scale: float, widths: tuple[float, float]) -> Pixels:
    """The edit with its change fading out across the mask's border; beyond that band, the source bit for bit.

    The factor of the change falls from 1 to 0, as the power `FADE` of a straight line, from `widths[0]` · (scale − 1)
    px inside the mask's border, less `KEPT`, to `widths[1]` · scale px outside it, plus `KEPT`: a defect that is edited
    at its native resolution keeps the sharp border of the real one, and one that was shrunk for the model gets a border
    as soft as the model saw it. A part of the mask that is not deeper than `SLIGHT` keeps a sharp border too; a deeper
    one fades no farther inside than `CORE` of the rest of its depth allows.

    Args:
        edited: the part of the edited window that lies in the picture, HxWx3.
        source: the same part before the edit.
        mask: the defect's mask there, HxW; the array's border is no border of the defect.
        scale: source pixels for one pixel of the model, at least 1.
        widths: (into the mask, out of it), see above; (0, 0) leaves the edit as it is.
    """
    if max(widths) <= 0:
        return edited
    deep, far = widths[0] * (scale - 1) - KEPT, widths[1] * scale + KEPT
    inside = mask.astype(np.uint8)
    outwards, nearest = cv2.distanceTransformWithLabels(
        1 - inside, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    inwards = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_5)
    count, labels = cv2.connectedComponents(inside)
    depth = np.zeros(count, np.float32)
    np.maximum.at(depth, labels, inwards)
    belongs = np.zeros(int(nearest.max()) + 1, np.int32)
    belongs[nearest[inside > 0]] = labels[inside > 0]  # the part of the mask whose pixel is the nearest one
    inner = np.minimum(deep, np.maximum(-KEPT, (1 - CORE) * (depth[belongs[nearest]] - SLIGHT)))
    signed = np.where(inside > 0, 0.5 - inwards, outwards - 0.5)  # from the border line between two pixels
    share = np.clip((far - signed) / np.maximum(inner + far, 1e-6), 0, 1)[..., None] ** FADE
    before = source.astype(np.float32)
    return np.asarray(np.clip(np.rint(before + share * (edited - before)), 0, 255), dtype=np.uint8)


def is_grey(pixels: Pixels, rows: int = 64) -> bool:
    """Equal channels; looks at some rows at a time, so that a large coloured picture is recognised at once."""
    parts = (pixels[start : start + rows] for start in range(0, len(pixels), rows))
    return all((part[..., 0] == part[..., 1]).all() and (part[..., 1] == part[..., 2]).all() for part in parts)


def as_grey(pixels: Pixels) -> Pixels:
    """The mean of the channels in all of them, rounded."""
    return np.repeat(pixels.mean(axis=2, keepdims=True).round().astype(np.uint8), 3, axis=2)


def window_resolution(mask: Mask, resolution: int, finest: int) -> int:
    """The resolution that a window needs: `resolution`, doubled while its defect is too thin to be drawn.

    A defect is too thin when its thickest place is below `THIN` pixels at the model; more than the window's own
    pixels, or than `finest`, is never asked for.

    Args:
        mask: the window's mask at native resolution, bool SxS, not empty.
        resolution: the model's own, in px.
        finest: highest resolution in px.
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


def _resize(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    growing = size[0] >= values.shape[0]
    return np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_CUBIC if growing else cv2.INTER_AREA))
