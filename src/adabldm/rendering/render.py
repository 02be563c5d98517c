"""Draw one of ten generic defects on a picture, with the exact mask of what changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, Pixels
from adabldm.core.prompts import defect_prompt
from adabldm.rendering.bodies import contamination
from adabldm.rendering.coats import corrosion, peeling, stain
from adabldm.rendering.fields import Canvas, Field
from adabldm.rendering.hollows import chip, dent, hole, pit
from adabldm.rendering.light import Light, from_linear, luminance, to_linear
from adabldm.rendering.lines import crack, scratch
from adabldm.rendering.scene import Layers, Scene, Texture
from adabldm.rendering.surfaces import plain

PAINTERS: Mapping[str, Callable[[Scene], Layers]] = MappingProxyType(
    {
        "scratch": scratch,
        "crack": crack,
        "pit": pit,
        "dent": dent,
        "hole": hole,
        "chip": chip,
        "stain": stain,
        "corrosion": corrosion,
        "contamination": contamination,
        "peeling": peeling,
    }
)
DEFECTS = tuple(PAINTERS)
RENDERER = "renderer 1"
"""Stands in manifests where runs with networks have the digest of their weights; changes with what is drawn."""
MIN_SIDE = 32
VISIBLE = 6
"""Smallest change of a channel, in grey levels of 255, that counts as visible; smaller changes are undone."""
CONTRAST = 14.0
"""Smallest mean change inside the mask in grey levels; a fainter drawing is drawn again."""
TEXTURE_SHARE = 0.6
"""The change shall also be at least this share of the standard deviation of the surface's own grey levels."""
TRIES = 8
FILLED = 0.92
"""Share of a given mask that a drawing visibly changes; a drawing that changes less is drawn again."""


@dataclass(frozen=True)
class Rendered:
    """A picture with a rendered defect.

    Attributes:
        clean: uint8 HxWx3 as it was given.
        pixels: uint8 HxWx3 with the defect; equal to `clean` outside the mask.
        mask: bool HxW, the pixels that visibly changed and the small gaps that they enclose (a dent: all gaps).
        defect: Type, one of `DEFECTS`.
        caption: Prompt of the picture.
    """

    clean: Pixels
    pixels: Pixels
    mask: Mask
    defect: str
    caption: str


def is_grey(pixels: Pixels) -> bool:
    """Whether the three channels of a picture are equal."""
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all())


def plain_texture(rng: np.random.Generator, height: int, width: int) -> Field:
    """A procedural second material in linear light, for callers without pictures of materials."""
    side = max(height, width)
    return to_linear(plain(rng, side))[:height, :width]


def _small_gaps(mask: Mask, largest: float) -> Mask:
    """Regions of at most `largest` pixels that are not in the mask and that it encloses."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] <= largest
    small[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = False
    small[0] = False
    return np.asarray(small[labels])


def _without_specks(mask: Mask, least: float) -> Mask:
    """The mask without pieces of fewer than `least` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= least
    kept[0] = False
    return np.asarray(kept[labels])


def _finish(clean: Pixels, pixels: Pixels, defect: str, unit: float, inside: Mask | None) -> tuple[Pixels, Mask]:
    """Undo what is not visible, outside `inside` or a speck; the mask of the rest with its small gaps closed."""
    change = np.abs(pixels.astype(np.int16) - clean.astype(np.int16)).max(-1)
    mask = change >= VISIBLE
    if inside is not None:
        mask &= inside
    mask = _without_specks(mask, max(2.0, 3 * unit))
    if defect == "dent":  # its lit and its dark side meet in a line of the surface's own brightness
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(5 * unit) + 1,) * 2)
        closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disc, borderValue=0) > 0
        mask = closed if inside is None else closed & inside
    mask |= _small_gaps(mask, 1e9 if defect in {"dent", "hole"} else 10 * unit * unit)
    if inside is not None:
        mask &= inside
    return np.where(mask[..., None], pixels, clean), mask


def _centre(shape: tuple[int, int], inside: Mask | None, rng: np.random.Generator) -> tuple[float, float]:
    """(x, y) of a random pixel of `inside`, or of a place not too near the border."""
    if inside is not None:
        rows, columns = np.nonzero(inside)
        pick = int(rng.integers(len(rows)))
        return float(columns[pick]) + 0.5, float(rows[pick]) + 0.5
    x, y = rng.uniform(0.15, 0.85, 2)
    return float(x * shape[1]), float(y * shape[0])


def render(
    clean: Pixels,
    defect: str,
    rng: np.random.Generator,
    *,
    size: float = 1.0,
    object_name: str = "surface",
    inside: Mask | None = None,
    texture: Texture = plain_texture,
) -> Rendered:
    """Draw a defect on a picture.

    A drawing that changes too little to be seen is drawn again, up to eight times; the strongest is returned.

    Args:
        clean: uint8 HxWx3, at least 32 px a side.
        defect: One of `DEFECTS`.
        rng: Random generator; the result depends on nothing else but the arguments.
        size: Factor of the defect's size; 1 is made for a window of which the defect is a third or so.
        object_name: Object of the caption.
        inside: bool HxW, not empty: the defect stays inside.
        texture: Second material for peeling and corrosion.

    Raises:
        InputError: unknown type, a picture that is too small, or an empty `inside`.
    """
    _check(clean, defect, inside, "the region for the defect")
    height, width = clean.shape[:2]
    grey = is_grey(clean)
    surface = to_linear(clean)
    canvas = Canvas.over(height, width)
    wanted = max(CONTRAST, TEXTURE_SHARE * min(float(clean.mean(-1).std()), 40.0))
    best: tuple[float, Pixels, Mask] | None = None
    for attempt in range(TRIES):
        centre = _centre((height, width), inside, rng)
        light = Light.random(rng).on(float(luminance(surface.mean((0, 1)))))
        scene = Scene(surface, canvas, light, rng, centre, size, texture, grey, attempt)
        pixels, mask = _finish(clean, _drawn(scene, defect), defect, canvas.unit, inside)
        contrast = _contrast(clean, pixels, mask, canvas.unit if defect == "dent" else 0.0)
        if best is None or contrast > best[0]:
            best = contrast, pixels, mask
        if contrast >= wanted and mask.sum() >= 12:
            break
    assert best is not None
    return Rendered(clean, best[1], best[2], defect, defect_prompt(object_name, defect))


def render_in(
    clean: Pixels,
    mask: Mask,
    defect: str,
    rng: np.random.Generator,
    *,
    object_name: str = "surface",
    texture: Texture = plain_texture,
) -> Rendered:
    """Fill a given mask with a defect; nothing outside the mask changes.

    A drawing that leaves more than 8 % of the mask without a visible change is drawn again, up to eight times; the
    fullest is returned.

    Args:
        clean: uint8 HxWx3, at least 32 px a side.
        mask: bool HxW, not empty.
        defect: One of `DEFECTS`.
        rng: Random generator; the result depends on nothing else but the arguments.
        object_name: Object of the caption.
        texture: Second material for peeling and corrosion.

    Returns:
        the picture, with the mask that was given.

    Raises:
        InputError: unknown type, a picture that is too small, or an empty mask.
    """
    _check(clean, defect, mask, "the mask")
    surface, canvas = to_linear(clean), Canvas.over(*clean.shape[:2])
    outline, grey = canvas.outline(mask), is_grey(clean)
    rows, columns = np.nonzero(mask)
    centre = float(columns.mean()) + 0.5, float(rows.mean()) + 0.5
    best: tuple[float, Pixels] | None = None
    for attempt in range(TRIES):
        light = Light.random(rng).on(float(luminance(surface[mask].mean(0))))
        scene = Scene(surface, canvas, light, rng, centre, 1.0, texture, grey, attempt, outline)
        pixels = np.where(mask[..., None], _drawn(scene, defect), clean)
        change = np.abs(pixels.astype(np.int16) - clean.astype(np.int16)).max(-1)[mask]
        filled = float((change >= VISIBLE).mean())
        fullness = filled + 0.1 * min(1.0, float(change.mean()) / CONTRAST)
        if best is None or fullness > best[0]:
            best = fullness, pixels
        if filled >= FILLED and change.mean() >= CONTRAST:
            break
    assert best is not None
    return Rendered(clean, best[1], mask, defect, defect_prompt(object_name, defect))


def _check(clean: Pixels, defect: str, region: Mask | None, what: str) -> None:
    """Refuse what cannot be drawn on.

    Raises:
        InputError: unknown type, a picture that is too small, or an empty region.
    """
    if defect not in PAINTERS:
        raise InputError(f"defect type is {defect!r}, expected one of {', '.join(DEFECTS)}.")
    height, width = clean.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise InputError(f"the picture is {width}x{height} px, expected at least {MIN_SIDE} a side; give a larger one.")
    if region is not None and not region.any():
        raise InputError(f"{what} is empty, expected at least one pixel.")


def _drawn(scene: Scene, defect: str) -> Pixels:
    """One drawing of a defect: uint8 HxWx3, grey on a grey surface."""
    drawn = PAINTERS[defect](scene).over(scene.surface)
    if scene.grey:
        drawn = np.repeat(luminance(drawn)[..., None], 3, axis=-1)
    return from_linear(drawn)


def _contrast(clean: Pixels, pixels: Pixels, mask: NDArray[np.bool_], smoothing: float) -> float:
    """Mean over the mask of the largest change of a channel, in grey levels; 0 for an empty mask.

    With `smoothing` (pixels) the change is blurred before: a moved texture alone does not count.
    """
    if not mask.any():
        return 0.0
    change = pixels.astype(np.float32) - clean.astype(np.float32)
    if smoothing > 0:
        change = cv2.GaussianBlur(change, (0, 0), 1.5 * smoothing)
    return float(np.abs(change[mask]).max(-1).mean())
