"""Draw one of ten generic defects on a picture, with the exact mask of what changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.errors import InputError
from adabldm.core.images import Mask, Pixels
from adabldm.core.prompts import defect_prompt
from adabldm.rendering.bodies import contamination
from adabldm.rendering.coats import corrosion, peeling, stain
from adabldm.rendering.fields import Canvas, Field, smoothstep
from adabldm.rendering.hollows import chip, dent, hole, pit
from adabldm.rendering.light import Light, from_linear, luminance, to_linear
from adabldm.rendering.lines import crack, scratch
from adabldm.rendering.outlines import OUTLINES
from adabldm.rendering.scene import Layers, Place, Scene

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
RENDERER = "renderer 3"
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
        mask: bool HxW, the pixels that visibly changed and the small gaps between them (dents and holes: all of them).
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


def _softness(surface: Field) -> float:
    """Blur of a surface's own detail as the deviation of a Gaussian, in pixels: 0.3 where it is sharp, up to 1.4.

    What a blur of one pixel takes away is compared with what one of two pixels takes away beyond that; the power of
    their ratio was fitted to magnified materials (experiments/2026-11-26-blind-test-independent.md). A surface without
    detail says nothing; 0.5 then.
    """
    level = luminance(surface)
    once, twice = cv2.GaussianBlur(level, (0, 0), 1.0), cv2.GaussianBlur(level, (0, 0), 2.0)
    coarse = float((once - twice).std())
    if coarse < 1e-3:
        return 0.5
    ratio = float((level - once).std()) / coarse
    return float(np.clip(0.62 * max(ratio, 0.1) ** -1.54, 0.3, 1.4))


@dataclass(frozen=True)
class _Easel:
    """A picture that is drawn on, and what is known of it before anything is drawn."""

    clean: Pixels
    defect: str
    rng: np.random.Generator

    @cached_property
    def canvas(self) -> Canvas:
        return Canvas.over(*self.clean.shape[:2])

    @cached_property
    def surface(self) -> Field:
        return to_linear(self.clean)

    @cached_property
    def softness(self) -> float:
        return _softness(self.surface)

    @cached_property
    def grey(self) -> bool:
        return is_grey(self.clean)

    def draw(self, inside: NDArray[np.bool_], attempt: int) -> Pixels:
        """The picture with a defect in an oversampled outline, as sharp as its surface; outside nothing changes."""
        light = Light.random(self.rng, self.surface)
        strength = 1.0 + 0.15 * attempt
        scene = Scene(self.surface, self.canvas, light, self.rng, inside, self.grey, strength)
        scene = replace(scene, light=light.on(scene.brightness))
        softness = self.softness / strength**2  # a thin line that cannot be seen is drawn sharper
        drawn = PAINTERS[self.defect](scene).softened(softness).over(self.surface)
        share = self.canvas.reduce(smoothstep(scene.depth / (0.4 + softness) + 0.5) * inside)
        drawn = self.surface + share[..., None] * (drawn - self.surface)
        if self.grey:
            drawn = np.repeat(luminance(drawn)[..., None], 3, axis=-1)
        return np.where(share[..., None] > 0, from_linear(drawn), self.clean)

    def change(self, pixels: Pixels) -> NDArray[np.int16]:
        """Largest change of a channel, in grey levels, HxW."""
        return np.asarray(np.abs(pixels.astype(np.int16) - self.clean.astype(np.int16)).max(-1))


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

    Raises:
        InputError: unknown type, a picture that is too small, or an empty `inside`.
    """
    _check(clean, defect, inside, "the region for the defect")
    easel = _Easel(clean, defect, rng)
    canvas = easel.canvas
    allowed = True if inside is None else canvas.outline(inside) > 0
    wanted = max(CONTRAST, TEXTURE_SHARE * min(float(clean.mean(-1).std()), 40.0))
    best: tuple[float, Pixels, Mask] = -1.0, clean, np.zeros(clean.shape[:2], bool)
    for attempt in range(TRIES):
        outline = OUTLINES[defect](Place(canvas, rng, _centre(clean.shape[:2], inside, rng), size)) & allowed
        if not outline.any():
            continue
        pixels = easel.draw(outline, attempt)
        mask = _without_specks(easel.change(pixels) >= VISIBLE, max(2.0, 3 * canvas.unit))
        if defect in {"dent", "hole"}:  # where light and shadow of a dent meet, it is as bright as its surface
            mask |= canvas.reduce(outline) >= 0.5
        mask |= _small_gaps(mask, 10 * canvas.unit**2)
        if inside is not None:
            mask &= inside
        pixels = np.where(mask[..., None], pixels, clean)
        contrast = float(easel.change(pixels)[mask].mean()) if mask.any() else 0.0
        if contrast > best[0]:
            best = contrast, pixels, mask
        if contrast >= wanted and mask.sum() >= 12:
            break
    return Rendered(clean, best[1], best[2], defect, defect_prompt(object_name, defect))


def render_in(
    clean: Pixels,
    mask: Mask,
    defect: str,
    rng: np.random.Generator,
    *,
    object_name: str = "surface",
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

    Returns:
        the picture, with the mask that was given.

    Raises:
        InputError: unknown type, a picture that is too small, or an empty mask.
    """
    _check(clean, defect, mask, "the mask")
    easel = _Easel(clean, defect, rng)
    outline = easel.canvas.outline(mask) > 0
    best: tuple[float, Pixels] = -1.0, clean
    for attempt in range(TRIES):
        pixels = np.where(mask[..., None], easel.draw(outline, attempt), clean)
        change = easel.change(pixels)[mask]
        filled = float((change >= VISIBLE).mean())
        fullness = filled + 0.1 * min(1.0, float(change.mean()) / CONTRAST)
        if fullness > best[0]:
            best = fullness, pixels
        if filled >= FILLED and change.mean() >= CONTRAST:
            break
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
