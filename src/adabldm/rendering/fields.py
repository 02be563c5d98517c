"""Scalar fields on an oversampled canvas: noise, outlines and lines as signed distances in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Points = NDArray[np.float64]
Vector = Sequence[float] | NDArray[np.float64]
_SUBPIXEL_BITS = 4
_NEIGHBOURS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4


def smoothstep(values: Any) -> Field:
    """Hermite step: 0 below 0, 1 above 1, 3t² − 2t³ between."""
    clipped = np.clip(values, 0.0, 1.0)
    return np.asarray(clipped * clipped * (3.0 - 2.0 * clipped), dtype=np.float32)


def fractal(
    rng: np.random.Generator, shape: tuple[int, int], low: float, high: float, persistence: float = 0.6
) -> Field:
    """Sum of octaves of smooth random noise with zero mean and unit variance.

    Args:
        rng: Random generator.
        shape: (height, width) of the result.
        low: Cells along the shorter side in the coarsest octave.
        high: Cells along the shorter side in the finest octave.
        persistence: Amplitude of an octave over that of the coarser one.

    Returns:
        float32 HxW.
    """
    height, width = shape
    total = np.zeros(shape, np.float32)
    cells, amplitude = max(low, 1.0), 1.0
    while cells <= max(high, low):
        step = min(height, width) / cells
        grid = rng.standard_normal((int(height / step) + 4, int(width / step) + 4)).astype(np.float32)
        offset = rng.uniform(0.0, 1.0, 2)
        matrix = np.array([[1 / step, 0, 1 + offset[0]], [0, 1 / step, 1 + offset[1]]], np.float64)
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        octave = cv2.warpAffine(grid, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        total += np.float32(amplitude) * octave
        cells, amplitude = cells * 2, amplitude * persistence
    return np.asarray((total - total.mean()) / (total.std() + 1e-6), dtype=np.float32)


@dataclass(frozen=True)
class Canvas:
    """Oversampled grid over a picture; positions and lengths are in pixels of the picture.

    Attributes:
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
        oversampling: Samples per pixel along a side.
        unit: Pixels that a length of 1 in the recipes stands for: the shorter side over 128.
    """

    height: int
    width: int
    oversampling: int
    unit: float

    @classmethod
    def over(cls, height: int, width: int) -> Canvas:
        """Canvas of a picture: four samples a pixel side for small pictures, fewer for large ones."""
        shorter = min(height, width)
        return cls(height, width, 4 if shorter <= 96 else 2 if shorter <= 384 else 1, shorter / 128)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the oversampled grid."""
        return self.height * self.oversampling, self.width * self.oversampling

    def grid(self) -> tuple[Field, Field]:
        """(y, x) of every sample in pixels, as a column and a row that broadcast to `shape`."""
        y, x = (((np.arange(side) + 0.5) / self.oversampling).astype(np.float32) for side in self.shape)
        return y[:, None], x[None, :]

    def noise(self, rng: np.random.Generator, low: float, high: float, persistence: float = 0.6) -> Field:
        """`fractal` on the oversampled grid; a picture larger than 128 px has finer octaves too."""
        return fractal(rng, self.shape, low, high * max(1.0, self.unit), persistence)

    def reduce(self, field: NDArray[Any]) -> Field:
        """Mean over the samples of each pixel: HxW or HxWxC at the picture's size."""
        values = np.asarray(field, dtype=np.float32)
        if self.oversampling == 1:
            return values
        return np.asarray(cv2.resize(values, (self.width, self.height), interpolation=cv2.INTER_AREA))

    def blur(self, field: NDArray[Any], sigma: float) -> Field:
        """Gaussian blur of an oversampled field; `sigma` in pixels of the picture."""
        return np.asarray(cv2.GaussianBlur(np.float32(field), (0, 0), max(sigma * self.oversampling, 0.3)))

    def shifted(self, field: NDArray[Any], offset: Vector, *, goes_on: bool = False) -> Field:
        """Field moved by `offset` (x, y) in pixels; what comes in is 0, or as at the picture's border if it goes on."""
        mode = cv2.BORDER_REPLICATE if goes_on else cv2.BORDER_CONSTANT
        matrix = np.array([[1, 0, offset[0] * self.oversampling], [0, 1, offset[1] * self.oversampling]], np.float64)
        size = (self.shape[1], self.shape[0])
        return np.asarray(cv2.warpAffine(np.float32(field), matrix, size, flags=cv2.INTER_LINEAR, borderMode=mode))

    def distance(self, inside: NDArray[np.bool_]) -> Field:
        """Signed distance to the border of a shape in pixels, positive inside."""
        own = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 3)
        other = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 3)
        return np.asarray(np.where(inside, own - 0.5, 0.5 - other) / self.oversampling, dtype=np.float32)

    def outline(self, mask: NDArray[np.bool_]) -> Field:
        """`distance` to the border of a mask of the picture's size, smooth between its pixels."""
        size = (self.shape[1], self.shape[0])
        fine = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        return self.distance(fine > 0.45)

    def membrane(self, inside: NDArray[np.bool_]) -> Field:
        """Height of a membrane that is held along the border of a shape and pressed evenly: oversampled, 0 to 1.

        A disc gives a paraboloid, every other shape a bowl without creases. The Poisson equation is relaxed on grids
        of 32, 64 and 128 cells around the shape, each of which begins with the one before it.
        """
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        own = inside[box].astype(np.float32)
        longer, height = max(own.shape), np.zeros((1, 1), np.float32)
        for cells, steps in ((32, 300), (64, 80), (128, 50)):
            size = tuple(max(3, round(side * cells / longer)) for side in own.shape[::-1])
            held = np.pad(cv2.resize(own, size, interpolation=cv2.INTER_AREA), 1)
            height = cv2.resize(height, (held.shape[1], held.shape[0]), interpolation=cv2.INTER_LINEAR)
            for _ in range(steps):
                height = held * (cv2.filter2D(height, -1, _NEIGHBOURS) + 0.25 / cells**2)
        result = np.zeros(self.shape, np.float32)
        shape = (own.shape[1], own.shape[0])
        result[box] = own * cv2.resize(height[1:-1, 1:-1], shape, interpolation=cv2.INTER_CUBIC)
        return np.asarray(np.clip(result / max(float(result.max()), 1e-9), 0, 1), np.float32)

    def streaks(self, rng: np.random.Generator, inside: NDArray[np.bool_]) -> Field:
        """Unit-variance noise that is stretched along the longer axis of a shape, oversampled."""
        rows, columns = np.nonzero(inside)
        turn = 0.0
        if len(rows) > 2:
            values, vectors = np.linalg.eigh(np.cov(np.stack([columns, rows])))
            turn = float(np.degrees(np.arctan2(vectors[1, -1], vectors[0, -1]))) if values[-1] > 0 else 0.0
        height, width = self.shape
        side = int(np.hypot(height, width)) + 8
        fine = rng.standard_normal((side, max(8, side // 24))).astype(np.float32)
        long = cv2.resize(fine, (side, side), interpolation=cv2.INTER_LINEAR)
        long = cv2.GaussianBlur(long, (0, 0), sigmaX=0.3, sigmaY=max(0.3, 0.35 * self.oversampling * self.unit))
        matrix = cv2.getRotationMatrix2D((side / 2, side / 2), -turn, 1.0)
        turned = cv2.warpAffine(long, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        top, left = (side - height) // 2, (side - width) // 2
        part = turned[top : top + height, left : left + width]
        return np.asarray((part - part.mean()) / (part.std() + 1e-6), dtype=np.float32)

    def stroke(self, canvas: NDArray[np.uint8], points: Points, widths: NDArray[np.float64]) -> None:
        """Draw a polyline of changing width (pixels) into an oversampled uint8 mask; widths below 0.1 leave a gap."""
        fixed = np.rint(points * self.oversampling * 2**_SUBPIXEL_BITS).astype(int)
        for start, end, width in zip(fixed[:-1], fixed[1:], widths, strict=False):
            if width >= 0.1:
                thickness = max(1, round(float(width) * self.oversampling))
                cv2.line(
                    canvas, tuple(map(int, start)), tuple(map(int, end)), 255, thickness, cv2.LINE_8, _SUBPIXEL_BITS
                )

    def polygon(self, points: Points) -> NDArray[np.bool_]:
        """Filled polygon on the oversampled grid."""
        canvas = np.zeros(self.shape, np.uint8)
        fixed = np.rint(points * self.oversampling * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(canvas, [fixed], 1, cv2.LINE_8, _SUBPIXEL_BITS)
        return np.asarray(canvas > 0)


def blob(
    canvas: Canvas,
    rng: np.random.Generator,
    centre: Vector,
    radius: float,
    *,
    roughness: float = 0.2,
    elongation: float = 1.0,
) -> Field:
    """A closed outline around a centre, whose radius is a short random Fourier series in the angle.

    Args:
        canvas: Grid.
        rng: Random generator.
        centre: (x, y) in pixels.
        radius: Mean radius in pixels.
        roughness: Standard deviation of the outline's coarsest wave over the radius.
        elongation: Long over short axis.

    Returns:
        roughly the distance to the outline in pixels, positive inside, oversampled.
    """
    y, x = canvas.grid()
    turn = rng.uniform(0, np.pi)
    along = (x - centre[0]) * np.cos(turn) + (y - centre[1]) * np.sin(turn)
    across = (y - centre[1]) * np.cos(turn) - (x - centre[0]) * np.sin(turn)
    along, across = along / elongation**0.5, across * elongation**0.5
    angle = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    order = np.arange(2, 14)
    strength = 1.4 * rng.normal(0, roughness, order.size) / order**1.05
    table = 1 + (strength * np.cos(angle[:, None] * order + rng.uniform(0, 2 * np.pi, order.size))).sum(1)
    table = (radius * np.maximum(table, 0.3)).astype(np.float32)
    far, turned = cv2.cartToPolar(np.float32(along), np.float32(across), angleInDegrees=True)
    outline = table[(turned * np.float32(256 / 360)).astype(np.int32) & 255]
    return np.asarray(outline - far, np.float32)


def smooth_path(
    rng: np.random.Generator, start: Vector, heading: float, length: float, bend: float, wiggle: float
) -> Points:
    """Curve of nearly constant curvature with slow random turns.

    Args:
        rng: Random generator.
        start: Middle of the curve, (x, y) in pixels.
        heading: Direction at the start in radians.
        length: Length in pixels.
        bend: Turn from end to end in radians.
        wiggle: Standard deviation of the additional random turns over the curve in radians.

    Returns:
        Nx2 points about 2 px apart.
    """
    count = max(6, int(length / 2))
    share = np.linspace(-0.5, 0.5, count)
    coarse = rng.normal(0, 1, max(3, count // 6))
    turns = np.interp(share, np.linspace(-0.5, 0.5, coarse.size), np.cumsum(coarse) / coarse.size**0.5)
    direction = heading + bend * share + wiggle * (turns - turns.mean())
    steps = np.stack([np.cos(direction), np.sin(direction)], 1) * (length / count)
    path = np.cumsum(steps, 0)
    return np.asarray(path - path[count // 2] + np.asarray(start))


def broken_path(rng: np.random.Generator, start: Vector, end: Vector, roughness: float) -> Points:
    """Fracture line by midpoint displacement: each half's middle is moved by `roughness` of its length."""
    points = np.array([start, end], np.float64)
    while len(points) < 66 and np.hypot(*(points[1] - points[0])) > 2.0:
        steps = points[1:] - points[:-1]
        lengths = np.hypot(steps[:, 0], steps[:, 1])
        normal = np.stack([-steps[:, 1], steps[:, 0]], 1)
        place = rng.uniform(0.35, 0.65, (len(steps), 1))
        size = np.clip(rng.normal(0, roughness, (len(steps), 1)), -2.5 * roughness, 2.5 * roughness)
        middles = points[:-1] + place * steps + size * normal * (1.0 if lengths.max() > 0 else 0.0)
        joined = np.empty((len(points) + len(middles), 2))
        joined[0::2], joined[1::2] = points, middles
        points = joined
    return points
