"""What a defect is drawn on, and the layers that a defect is made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.images import Mask
from adabldm.rendering.fields import Canvas, Field, fractal, smoothstep
from adabldm.rendering.light import Light, luminance

Colour = NDArray[np.float32]


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

    def softened(self, deviation: float) -> Layers:
        """The layers as a camera with a blur of this deviation (pixels) shows them."""

        def soft(field: Field | None) -> Field | None:
            flat = field is None or field.ndim == 1
            return field if flat else np.asarray(cv2.GaussianBlur(field, (0, 0), deviation), np.float32)

        return Layers(soft(self.cover), soft(self.material), soft(self.gain), soft(self.glint), self.move)

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
            hue = surface / np.maximum(surface.max(-1, keepdims=True), 0.02)  # few surfaces shine purely white
            result = result * np.exp(2.0 * np.minimum(glint, 0.0)) + np.maximum(glint, 0.0) * (0.4 + 0.6 * hue)
        return np.asarray(np.maximum(result, 0.0), dtype=np.float32)


@dataclass(frozen=True)
class Place:
    """Where an outline is drawn.

    Attributes:
        canvas: Oversampled grid.
        rng: Random generator.
        centre: (x, y) in pixels around which the defect lies.
        size: Factor of the defect's size.
    """

    canvas: Canvas
    rng: np.random.Generator
    centre: tuple[float, float]
    size: float = 1.0

    def length(self, low: float, high: float) -> float:
        """Random length in pixels, log-uniform between two lengths of a 128 px picture."""
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high)))) * self.canvas.unit * self.size

    def thickness(self, low: float, high: float) -> float:
        """Random line width in pixels, log-uniform, at least 1.2."""
        return max(1.2, float(np.exp(self.rng.uniform(np.log(low), np.log(high)))) * self.canvas.unit)

    def near(self, spread: float) -> tuple[float, float]:
        """Random point, normally distributed around the centre with a deviation of `spread` pixels."""
        x, y = self.rng.normal(0, spread, 2)
        return self.centre[0] + float(x), self.centre[1] + float(y)

    def empty(self) -> NDArray[np.uint8]:
        """An oversampled mask to draw strokes into."""
        return np.zeros(self.canvas.shape, np.uint8)


@dataclass(frozen=True)
class Scene:
    """A surface, its light, the outline of a defect and the random stream that its look is drawn from.

    Attributes:
        surface: Linear light HxWx3.
        canvas: Oversampled grid over it.
        light: Lamp.
        rng: Random generator.
        inside: Where the defect is, bool at the oversampled grid. All of it changes, and nothing else.
        grey: The surface has no colour.
        strength: Factor of contrasts; above 1 where drawings before this one could not be seen.
    """

    surface: Field
    canvas: Canvas
    light: Light
    rng: np.random.Generator
    inside: NDArray[np.bool_]
    grey: bool = False
    strength: float = 1.0

    @cached_property
    def depth(self) -> Field:
        """Signed distance to the outline in pixels, positive inside, oversampled."""
        return self.canvas.distance(self.inside)

    @cached_property
    def half_breadth(self) -> float:
        """Largest distance of a point inside to the outline, in pixels; at least half a pixel."""
        return max(0.5, float(self.depth.max()))

    @cached_property
    def _here(self) -> Mask:
        """Pixels of the picture where the defect is."""
        return np.asarray(self.canvas.reduce(self.inside) > 0.2)

    @cached_property
    def tone(self) -> Colour:
        """Mean colour of the surface where the defect is, linear light, 3."""
        return np.asarray(self.surface[self._here].mean(0), dtype=np.float32)

    @cached_property
    def shading(self) -> Field:
        """What light and camera do to any material that lies here, HxWx1: factor around 1.

        Slow changes of the surface's brightness, taken for light, and the finest ones up to three of their median sizes
        and 5 %, taken for noise.
        """
        level = luminance(self.surface) + np.float32(0.004)
        wide = float(np.clip(self.half_breadth, 4 * self.canvas.unit, 16 * self.canvas.unit))
        slow = cv2.GaussianBlur(level, (0, 0), wide)
        fine = level / cv2.GaussianBlur(level, (0, 0), 1.0) - 1
        bound = min(0.05, 3.0 * float(np.median(np.abs(fine))))
        factor = np.clip(slow / float(slow[self._here].mean()), 0.3, 2.5) * (1 + np.clip(fine, -bound, bound))
        return np.asarray(factor[..., None], np.float32)

    @property
    def brightness(self) -> float:
        """Luminance of `tone`."""
        return float(luminance(self.tone))

    @property
    def texture(self) -> Field:
        """Luminance of the surface over its mean where the defect is, HxWx1."""
        return np.asarray((luminance(self.surface) / max(self.brightness, 0.02))[..., None], np.float32)

    @property
    def exposure(self) -> float:
        """Factor, 0.55 to 1.15, for the colours of materials of their own: dark pictures are also dimly lit ones."""
        return float(np.clip((self.brightness / 0.22) ** 0.35, 0.55, 1.15))

    def body(self, width: float) -> Field:
        """Oversampled: 0 on the outline, 1 from `width` pixels inwards, or from the middle of what is narrower.

        The edge is harder with a larger `strength`, so that thin lines come to be seen.
        """
        return smoothstep(self.depth * self.strength**2 / max(min(width, self.half_breadth), 0.3))

    def noise(self, low: float, high: float, persistence: float = 0.6) -> Field:
        """Unit-variance fractal noise at the picture's size, HxW; pictures above 128 px have finer octaves too."""
        return fractal(self.rng, self.surface.shape[:2], low, high * max(1.0, self.canvas.unit), persistence)

    def chance(self, share: float) -> bool:
        """True with probability `share`."""
        return bool(self.rng.random() < share)

    def grain(self, strength: float) -> Field:
        """Fine factor with mean 1, HxWx1."""
        return np.asarray(np.exp(strength * self.noise(24, 64, 0.9))[..., None], dtype=np.float32)


def recessed(scene: Scene, low: float, high: float) -> Colour:
    """Colour at the bottom of a narrow recess: `low` to `high` of the surface's, or dust where nothing is darker."""
    share = np.float32(scene.rng.uniform(low, high))
    if scene.brightness >= 0.02:
        return share * scene.tone
    return np.asarray(scene.tone + (0.1 + share) * (0.4 - scene.tone), np.float32)


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
    here, there = scene.brightness ** (1 / 2.2), float(luminance(colour)) ** (1 / 2.2)
    if abs(here - there) >= gap:
        return colour
    lower, upper = here - gap, here + gap
    wanted = lower if (there <= here and lower > 0.05) or upper > 0.95 else upper
    return luminous(colour, max(wanted, 0.03) ** 2.2)
