"""Light on a relief: shading by normals, glints and cast shadows, relative to the flat surface around it.

Colours are linear light in [0, 1]; a picture's 8-bit values are converted with a gamma of 2.2. Source of the shading
model: Blinn, "Models of light reflection for computer synthesized pictures" (1977).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.images import Pixels
from adabldm.rendering.fields import Canvas, Field

GAMMA = 2.2
_TABLE = (np.arange(256, dtype=np.float64) / 255.0) ** GAMMA


def to_linear(pixels: Pixels) -> Field:
    """uint8 to linear light, float32 in [0, 1]."""
    return np.asarray(_TABLE.astype(np.float32)[pixels])


def from_linear(values: NDArray[Any]) -> Pixels:
    """Linear light to uint8, clipped."""
    bounded = np.clip(np.asarray(values, dtype=np.float32), 0.0, 1.0)
    return np.asarray(np.rint(255.0 * bounded ** np.float32(1 / GAMMA)), dtype=np.uint8)


def luminance(values: NDArray[Any]) -> Field:
    """Linear luminance of HxWx3, HxW (Rec. 709 weights)."""
    return np.asarray(values @ np.array([0.2126, 0.7152, 0.0722], np.float32), dtype=np.float32)


@dataclass(frozen=True)
class Light:
    """One lamp and an even surrounding light.

    Attributes:
        direction: Unit vector (x, y, z) towards the lamp; x to the right, y down, z to the camera.
        ambient: Share of the surrounding light on a flat surface, 0…1.
        gloss: Strength of the mirror-like part in linear light.
        sharpness: Exponent of the mirror-like part; large for polished surfaces.
    """

    direction: tuple[float, float, float]
    ambient: float
    gloss: float
    sharpness: float

    @classmethod
    def random(cls, rng: np.random.Generator, surface: Field) -> Light:
        """A lamp 30° to 55° above a surface (linear light HxWx3), on its brighter side; half of the lamps are soft.

        Where the surface is evenly bright, the lamp stands in the upper half of the picture: people see a hollow as a
        hollow if the light comes from above (Kleffner and Ramachandran, "On the perception of shape from shading",
        1992), and machines' cameras are mostly mounted so.
        """
        turn, elevation = np.deg2rad(rng.normal(-100, 30)), np.deg2rad(rng.uniform(30, 55))
        aim = np.array([np.cos(turn), np.sin(turn)]) + 2.0 * brighter_side(surface)
        aim = aim / max(float(np.hypot(*aim)), 1e-6) * np.cos(elevation)
        gloss = float(rng.uniform(0.05, 0.4)) if rng.random() < 0.5 else 0.0
        direction = (float(aim[0]), float(aim[1]), float(np.sin(elevation)))
        return cls(direction, float(rng.uniform(0.25, 0.5)), gloss, float(np.exp(rng.uniform(1.5, 3.0))))

    def on(self, brightness: float) -> Light:
        """The same lamp on a surface of a mean luminance.

        What is dark shines less in the exposure of its picture; what is nearly black shows its relief in glints alone.
        """
        least = 0.3 if brightness < 0.02 else 0.0
        return replace(self, gloss=max(self.gloss, least) * min(1.0, 0.1 + 1.3 * brightness))

    @property
    def across(self) -> tuple[float, float]:
        """Unit vector (x, y) in the picture towards the lamp."""
        length = max(float(np.hypot(*self.direction[:2])), 1e-6)
        return self.direction[0] / length, self.direction[1] / length

    @property
    def slope(self) -> float:
        """Tangent of the lamp's elevation: height over length of a shadow."""
        return self.direction[2] / max(float(np.hypot(*self.direction[:2])), 1e-6)


def brighter_side(surface: Field) -> NDArray[np.float64]:
    """(x, y) towards the side from which a surface (linear light HxWx3) is lit; nearly 0 where it is evenly bright.

    A plane is fitted to the logarithm of the luminance. Its length is the plane's rise over the picture, weighted with
    the share of the variance that it explains.
    """
    level = np.log(cv2.resize(luminance(surface), (32, 32), interpolation=cv2.INTER_AREA).astype(np.float64) + 0.01)
    level -= level.mean()
    ramp = (np.arange(32) - 15.5) / 31
    rise = np.array([(level * ramp).sum(), (level * ramp[:, None]).sum()]) / (32 * (ramp**2).sum())
    explained = ((rise**2).sum() * 32 * (ramp**2).sum()) / max(float((level**2).sum()), 1e-9)
    return np.asarray(rise * explained)


def gradient(canvas: Canvas, height: Field) -> tuple[Field, Field]:
    """(dh/dx, dh/dy) of an oversampled height map in pixels."""
    scale = canvas.oversampling / 8.0
    return (
        np.asarray(cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=scale, borderType=cv2.BORDER_REPLICATE)),
        np.asarray(cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=scale, borderType=cv2.BORDER_REPLICATE)),
    )


def cast_shadow(canvas: Canvas, height: Field, light: Light, reach: float) -> Field:
    """Share of the lamp's light that the relief takes away: oversampled, 0 lit, 1 in full shadow.

    Args:
        canvas: Grid.
        height: Oversampled heights in pixels.
        light: Lamp.
        reach: Longest shadow in pixels.
    """
    shadow = np.zeros(canvas.shape, np.float32)
    steps = int(np.clip(reach * 1.5, 3, 14))
    floor = float(height.min())
    for step in range(1, steps + 1):
        far = reach * step / steps
        blocker = canvas.shifted(height - floor, (-light.across[0] * far, -light.across[1] * far)) + floor
        shadow = np.maximum(shadow, np.clip((blocker - far * light.slope - height) / 0.4, 0.0, 1.0))
    return shadow


def openness(canvas: Canvas, height: Field, reach: float) -> Field:
    """Share of the surrounding light that gets into a relief, oversampled: what lies lower than around it is darker.

    Args:
        canvas: Grid.
        height: Oversampled heights in pixels.
        reach: Distance in pixels over which heights are compared.
    """
    below = canvas.blur(height, 0.5 * reach) - height
    return np.asarray(1.0 / (1.0 + 2.5 * np.maximum(below, 0.0) / reach), np.float32)


def shade(
    canvas: Canvas, height: Field, light: Light, shadow: Field | None = None, reach: float | None = None
) -> tuple[Field, Field]:
    """Light on a relief over the light on the flat surface.

    Args:
        canvas: Grid.
        height: Oversampled heights in pixels.
        light: Lamp.
        shadow: Oversampled share of the lamp's light that is taken away.
        reach: Distance in pixels over which a relief keeps surrounding light out (`openness`); None for nothing.

    Returns:
        (gain, glint) at the picture's size: factor of the diffuse light, 1 where flat; mirror-like light to add.
    """
    slope_x, slope_y = gradient(canvas, height)
    length = np.sqrt(slope_x**2 + slope_y**2 + 1.0)
    x, y, z = light.direction
    lit = np.maximum((z - slope_x * x - slope_y * y) / length, 0.0)
    direct = lit / z if shadow is None else lit / z * (1.0 - shadow)
    around = 0.35 + 0.65 / length if reach is None else (0.35 + 0.65 / length) * openness(canvas, height, reach)
    gain = light.ambient * around + (1.0 - light.ambient) * direct
    if light.gloss == 0.0:
        return canvas.reduce(gain), np.zeros((canvas.height, canvas.width), np.float32)
    half = np.array([x, y, z + 1.0]) / np.sqrt(x**2 + y**2 + (z + 1.0) ** 2)
    facing = np.maximum((half[2] - slope_x * half[0] - slope_y * half[1]) / length, 0.0)
    glint = light.gloss * (facing**light.sharpness - half[2] ** light.sharpness)
    if shadow is not None:
        glint = np.where(glint > 0, glint * (1.0 - shadow), glint)
    return canvas.reduce(gain), canvas.reduce(np.maximum(glint, -0.3 * light.gloss))
