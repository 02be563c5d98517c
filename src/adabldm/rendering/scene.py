"""What a defect is drawn on, and the layers that a defect is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.rendering.fields import Canvas, Field, fractal
from adabldm.rendering.light import Light, luminance

Colour = NDArray[np.float32]
Texture = Callable[[np.random.Generator, int, int], Field]
"""Returns a picture of another material in linear light, HxWx3, for (generator, height, width)."""


@dataclass(frozen=True)
class Layers:
    """What a defect does to a picture; every array has the picture's size.

    Attributes:
        cover: Share of a pixel that shows `material` and not the surface, HxW in [0, 1].
        material: Colour under the cover in linear light, HxWx3 or 3.
        gain: Factor of the light, HxW or HxWx3.
        glint: Mirror-like light to add, HxW; where the relief turns it away (below 0), the surface is darker.
        move: (dx, dy) in pixels from where the surface is read, HxW each: a dent bends the texture.
    """

    cover: Field | None = None
    material: Field | None = None
    gain: Field | None = None
    glint: Field | None = None
    move: tuple[Field, Field] | None = None

    def over(self, surface: Field) -> Field:
        """The surface with the defect: linear light HxWx3."""
        result = surface
        if self.move is not None:
            height, width = surface.shape[:2]
            x = np.arange(width, dtype=np.float32)[None] + self.move[0]
            y = np.arange(height, dtype=np.float32)[:, None] + self.move[1]
            result = cv2.remap(surface, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        if self.cover is not None and self.material is not None:
            result = result + self.cover[..., None] * (self.material - result)
        if self.gain is not None:
            result = result * (self.gain if self.gain.ndim == 3 else self.gain[..., None])
        if self.glint is not None:
            glint = self.glint[..., None]
            result = result * np.exp(2.0 * np.minimum(glint, 0.0)) + np.maximum(glint, 0.0)
        return np.asarray(np.maximum(result, 0.0), dtype=np.float32)


@dataclass(frozen=True)
class Scene:
    """A surface, its light and the random stream that a defect is drawn from.

    Attributes:
        surface: Linear light HxWx3.
        canvas: Oversampled grid over it.
        light: Lamp.
        rng: Random generator.
        centre: (x, y) in pixels around which the defect lies.
        size: Factor of the defect's size.
        texture: Pictures of other materials.
        grey: The surface has no colour.
        attempt: Number of drawings before this one that could not be seen.
        outline: Signed distance to the border of a given mask in pixels at the oversampled grid, positive inside; the
            defect fills the mask. None lets the defect take a shape of its own.
    """

    surface: Field
    canvas: Canvas
    light: Light
    rng: np.random.Generator
    centre: tuple[float, float]
    size: float
    texture: Texture
    grey: bool = False
    attempt: int = 0
    outline: Field | None = None
    _means: dict[str, Colour] = field(default_factory=dict)

    def length(self, low: float, high: float) -> float:
        """Random length in pixels, log-uniform between two lengths of a 128 px picture."""
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high)))) * self.canvas.unit * self.size

    @property
    def half_breadth(self) -> float:
        """Largest distance of a pixel of the given mask to its border, in pixels; at least half a pixel."""
        return 0.5 if self.outline is None else max(0.5, float(self.outline.max()))

    def radius(self, low: float, high: float) -> float:
        """Radius in pixels: that of the given mask, or `length`."""
        return self.length(low, high) if self.outline is None else self.half_breadth

    def thickness(self, low: float, high: float) -> float:
        """Random line width in pixels, log-uniform; thin lines stay at least a third of a pixel wide."""
        return max(0.35, float(np.exp(self.rng.uniform(np.log(low), np.log(high)))) * self.canvas.unit)

    def near(self, spread: float) -> tuple[float, float]:
        """Random point, normally distributed around the centre with a deviation of `spread` pixels."""
        x, y = self.rng.normal(0, spread, 2)
        return self.centre[0] + float(x), self.centre[1] + float(y)

    def tone(self) -> Colour:
        """Mean colour around the centre, linear light, 3."""
        if "tone" not in self._means:
            reach = max(8, int(20 * self.canvas.unit))
            x, y = int(self.centre[0]), int(self.centre[1])
            part = self.surface[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            self._means["tone"] = np.asarray(part.mean((0, 1)), dtype=np.float32)
        return self._means["tone"]

    def brightness(self) -> float:
        """Luminance of `tone`."""
        return float(luminance(self.tone()))

    def noise(self, low: float, high: float, persistence: float = 0.6) -> Field:
        """Unit-variance fractal noise at the picture's size, HxW; pictures above 128 px have finer octaves too."""
        return fractal(self.rng, self.surface.shape[:2], low, high * max(1.0, self.canvas.unit), persistence)

    def chance(self, share: float) -> bool:
        """True with probability `share`."""
        return bool(self.rng.random() < share)

    def grain(self, strength: float) -> Field:
        """Fine factor with mean 1, HxWx1."""
        return np.asarray(np.exp(strength * self.noise(24, 64, 0.9))[..., None], dtype=np.float32)


def luminous(colour: Colour, wanted: float) -> Colour:
    """A colour scaled to the luminance `wanted`; channels above 1 are clipped."""
    scaled = colour * (wanted / max(float(luminance(colour)), 1e-3))
    return np.asarray(np.clip(scaled, 0.0, 1.0), dtype=np.float32)


def apart(scene: Scene, colour: Colour, gap: float = 0.25) -> Colour:
    """A colour that differs from the surface: its perceived brightness is moved if it is within `gap` of it.

    Args:
        scene: The surface.
        colour: Linear light.
        gap: Smallest difference of luminance ** (1 / 2.2).
    """
    here, there = scene.brightness() ** (1 / 2.2), float(luminance(colour)) ** (1 / 2.2)
    chroma = float(np.abs(colour / max(colour.sum(), 1e-3) - scene.tone() / max(scene.tone().sum(), 1e-3)).sum())
    if abs(here - there) >= gap or (chroma > 0.25 and not scene.grey):
        return colour
    lower, upper = here - gap, here + gap
    wanted = lower if (scene.chance(0.5) and lower > 0.05) or upper > 0.95 else upper
    return luminous(colour, max(wanted, 0.03) ** 2.2)


def random_colour(rng: np.random.Generator) -> Colour:
    """Any colour, half of them nearly grey; linear light."""
    value = rng.uniform(0.05, 0.95)
    tint = rng.uniform(0.5, 1.3, 3) if rng.random() < 0.5 else rng.uniform(0.92, 1.06, 3)
    return np.asarray(np.clip(value * tint, 0, 1) ** 2.2, dtype=np.float32)
