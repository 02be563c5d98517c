"""Which pixels belong to the object (AdaBLDM, arXiv 2402.19330, trimap; the paper takes the estimate as given)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, Pixels, resize_mask, resize_pixels
from adabldm.core.mask_files import read_mask
from adabldm.core.settings.common import ForegroundMethod

METHODS: tuple[str, ...] = get_args(ForegroundMethod)
WORKING_SIZE = 256
"""GrabCut runs on an image whose longer side is at most this many pixels."""
MIN_WORKING_SIZE = 16
BORDER_SHARE = 0.04
"""The outer frame, as a share of the shorter side, that is background when the image shows an object."""
AREA_SHARES = (0.05, 0.95)
TOUCHING_SHARE = 0.1
"""An object may cover at most this share of the pixels next to the outer frame."""
DISTINCT_SHARE = 0.7
"""At least this share of the object's pixels has a colour that the background does not have."""
MIN_SATURATION = 0.04
"""Distance of the background's tint from grey (shares of R, G, B) from which its hue means something."""
DECIDING_IMAGES = 12


@dataclass(frozen=True)
class Foreground:
    """The object's pixels in one image.

    Attributes:
        mask: bool HxW, True on the object.
        method: the method that made it: "grabcut", "texture" or "folder".
        note: a remark for the user, one sentence, or `None`.
    """

    mask: Mask
    method: str
    note: str | None = None


def estimate_foreground(
    pixels: Pixels, method: str = "auto", *, path: Path | None = None, folder: Path | None = None
) -> Foreground:
    """Estimate the object's pixels.

    Args:
        pixels: uint8 RGB, HxWx3.
        method: "grabcut" (an object on a calm background), "texture" (everything is object), "folder" (ready masks
            `<folder>/<stem>.png` or `<stem>_mask.png`), or "auto" (GrabCut, or texture where its result is not
            convincing). A data set is one or the other: ask `decide_method` once, then give its answer here.
        path: the image's file; "folder" finds the mask by its stem.
        folder: where the ready masks lie.

    Raises:
        InputError: unknown method, or the ready mask is missing, unreadable or of another size.
    """
    if method not in METHODS:
        raise InputError(f"foreground method is {method!r}, expected one of {', '.join(METHODS)}.")
    if method == "folder":
        return Foreground(_ready_mask(pixels, path, folder), "folder")
    everything = np.ones(pixels.shape[:2], dtype=np.bool_)
    if method == "texture":
        return Foreground(everything, "texture")
    mask, convincing = _object_mask(pixels)
    if convincing or (method == "grabcut" and _area_is_plausible(mask)):
        note = None if convincing else "the object does not stand out clearly from its background; check the outline"
        return Foreground(resize_mask(mask, pixels.shape[:2]), "grabcut", note)
    return Foreground(everything, "texture", "no object stands out from a background: all pixels count as object")


def decide_method(images: Sequence[Pixels]) -> str:
    """Decide once per data set: "grabcut" when most images show an object on a background, else "texture".

    Args:
        images: defect-free images of one data set, uint8 RGB, HxWx3 each; twelve, evenly spaced, are looked at.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), DECIDING_IMAGES)).round().astype(int))
    votes = sum(_object_mask(images[index])[1] for index in chosen)
    return "grabcut" if 2 * votes > len(chosen) else "texture"


def _ready_mask(pixels: Pixels, path: Path | None, folder: Path | None) -> Mask:
    if path is None or folder is None:
        raise InputError("foreground method 'folder' needs the image's path and the folder of masks; give both.")
    candidates = [folder / f"{path.stem}.png", folder / f"{path.stem}_mask.png"]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise InputError(f"{path}: no foreground mask, expected {candidates[0]} or {candidates[1].name}; add it.")
    mask = read_mask(found)
    if mask.shape != pixels.shape[:2]:
        have, want = (f"{width}x{height}" for height, width in (mask.shape, pixels.shape[:2]))
        raise InputError(
            f"{found}: the foreground mask is {have} px, its image {path.name} {want} px; make them equal."
        )
    return mask


def _object_mask(pixels: Pixels) -> tuple[Mask, bool]:
    """The GrabCut mask at working size without the object's shadow, and whether it is convincing."""
    scale = min(1.0, WORKING_SIZE / max(pixels.shape[:2]))
    height, width = (max(MIN_WORKING_SIZE, round(side * scale)) for side in pixels.shape[:2])
    small = resize_pixels(pixels, (height, width))
    mask = _grab_cut(small)
    lit = _large_parts(mask & ~_background_tint(small))
    if 4 * np.count_nonzero(lit) >= np.count_nonzero(mask):  # else the object itself has the background's tint
        mask = lit
    return mask, _is_convincing(small, mask)


def _background_tint(pixels: Pixels) -> Mask:
    """Pixels in the background's own hue and at least as saturated: background, lit or in shadow.

    A camera shows a shadow darker and more saturated than the lit background. On a grey background nothing can be
    told from the tint, and the result is empty.
    """
    smooth = cv2.GaussianBlur(pixels, (0, 0), 1.0).astype(np.float32) + 1.0
    tint = smooth / smooth.sum(2, keepdims=True) - 1 / 3
    background = np.median(tint[_frame_mask(pixels.shape)], axis=0)
    saturation = float(np.linalg.norm(background))
    if saturation < MIN_SATURATION:
        return np.zeros(pixels.shape[:2], dtype=np.bool_)
    along = tint @ (background / saturation)
    across = np.sqrt(np.maximum((tint**2).sum(2) - along**2, 0))
    return np.asarray((along > 0.93 * saturation) & (across < 0.12 * saturation))


def _frame_mask(shape: tuple[int, ...]) -> Mask:
    frame = _frame(shape)
    mask = np.ones(shape[:2], dtype=np.bool_)
    mask[frame:-frame, frame:-frame] = False
    return mask


def _frame(shape: tuple[int, ...]) -> int:
    return max(2, round(BORDER_SHARE * min(shape[:2])))


def _grab_cut(pixels: Pixels) -> Mask:
    """GrabCut (Rother et al. 2004) from a rectangle just inside the border; large parts only, holes filled."""
    height, width = pixels.shape[:2]
    frame = _frame(pixels.shape)
    labels = np.zeros((height, width), np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    rectangle = (frame, frame, width - 2 * frame, height - 2 * frame)
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(cv2.medianBlur(pixels, 3), labels, rectangle, *models, 3, cv2.GC_INIT_WITH_RECT)
    except cv2.error:  # no pixel is left for one of the two colour models
        return np.zeros((height, width), dtype=np.bool_)
    return _large_parts((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))


def _large_parts(mask: Mask) -> Mask:
    """Components of at least a tenth of the largest one's area, smoothed, holes filled."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    smooth = cv2.morphologyEx(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc), cv2.MORPH_CLOSE, disc)
    contours, _ = cv2.findContours(smooth, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    areas = [cv2.contourArea(contour) for contour in contours]
    kept = [contour for contour, area in zip(contours, areas, strict=True) if area >= 0.1 * max(areas)]
    return np.asarray(cv2.drawContours(np.zeros_like(smooth), kept, -1, 1, cv2.FILLED) > 0)


def _area_is_plausible(mask: Mask) -> bool:
    return AREA_SHARES[0] <= float(mask.mean()) <= AREA_SHARES[1]


def _is_convincing(features: NDArray[Any], mask: Mask) -> bool:
    """The area is plausible, few pixels touch the outer frame, and most colours inside do not occur outside."""
    frame = _frame(mask.shape)
    inner = mask[frame:-frame, frame:-frame]
    edge = np.concatenate([inner[0], inner[-1], inner[:, 0], inner[:, -1]])
    if not _area_is_plausible(mask) or edge.mean() > TOUCHING_SHARE:
        return False
    return _distinct_share(features, mask) >= DISTINCT_SHARE


def _distinct_share(features: NDArray[Any], mask: Mask) -> float:
    """Share of the inside pixels more than three standard deviations (Mahalanobis) from the outside ones."""
    values = features.astype(np.float64)
    outside, inside = values[~mask], values[mask]
    covariance = np.cov(outside, rowvar=False) + 4.0 * np.eye(3)  # two grey levels: below is camera noise
    centred = inside - outside.mean(0)
    squared = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred)
    return float(np.mean(squared > 9.0))
