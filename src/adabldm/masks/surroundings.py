"""Places like those of real defects: where a picture looks as it does around a real defect.

The surroundings of a real defect, turned and scaled with its mask, are slid over the picture (template matching with a
mask of weights). A place costs what tone, texture and the direction of lines differ there, and more where the defect
would change nothing: a hole cannot be where a hole is already. Where all pictures of a data set show their object at
one place, the distance to the places of real defects counts too. One of the cheapest places is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from adabldm.core.images import Mask, Pixels, resize_pixels
from adabldm.core.windows import bounding_box
from adabldm.masks.bank import DefectShape, warped
from adabldm.masks.placement import PlacementError, paste_mask

Item = TypeVar("Item")
Plane = NDArray[np.float32]

WORKING_SIZE = 320
"""Places are compared in pictures whose longer side is at most this many pixels."""
GAP = 1
"""Pixels of the small picture next to a mask that belong to the defect's own border."""
REACH = (7, 22)
"""Least and greatest reach of surroundings in pixels of the small picture; between, it is the mask's longer side."""
LARGE = 44
"""Masks that are longer in the small picture, in px, are compared in one of half the size, or a quarter, and so on."""
OFFSET, TEXTURE, LINES = 0.3, 0.5, 0.5
"""Weights of the mean tone (exposure is no place), of the strength of texture and of the direction of lines."""
UNCHANGED, ELSEWHERE = 0.6, 1.0
"""What a place costs where a defect changes nothing, and far from all real places; a usual place costs 1."""
NEAR = 0.06
"""Distance to a real defect's place, as a share of the picture's longer side, that counts as near."""
TOLERANCE = 0.04
"""What the drawn place may cost more than the best one."""
GOOD_ENOUGH = 0.07
"""Other pictures are tried while the best place costs more than this, or than what half of the shapes reach."""
FOLLOWS = 0.8
"""Places follow their surroundings if these tell a real defect's place from any other one this reliably (AUROC)."""
LEAST_DEFECTS = 5
"""So few real defects say nothing about where defects may be; policy "auto" does not follow them."""
CONTACT, SPOT, WORST = 4.0, 1.5, 0.4
"""The spot next to a mask that differs most: its farthest pixels, its size, and its weight in the cost of a place."""
DESCRIBED = (6, 40)
"""Least and greatest reach in px of the surroundings that are described."""
ALIKE = 0.8
"""Correlation of small grey pictures from which a data set shows its object at one place."""
FINER, MOVES, SIZES = 2.5, 3, 4
"""A place that was found is improved at so many times its scale, within so many pixels of it, in so many sizes."""
LOOKED_AT = 3
"""How many of the cheapest places are looked at more closely, until one is good enough."""
CHECKED_SHAPES = 8
"""For how many shapes the usual cost of a place is measured."""


@dataclass(frozen=True)
class RealDefect:
    """A real defect in its picture.

    Attributes:
        pixels: uint8 RGB, HxWx3.
        mask: its pixels, bool HxW.
        known: where neither it nor another defect is, bool HxW.
    """

    pixels: Pixels
    mask: Mask
    known: Mask

    @cached_property
    def outline(self) -> NDArray[np.float64]:
        """Nx2 (x, y): the corners of the mask's convex hull."""
        points = cv2.findNonZero(self.mask.astype(np.uint8))
        return np.asarray(cv2.convexHull(points).reshape(-1, 2), np.float64)

    def around(self, reach: float) -> tuple[RealDefect, tuple[int, int]]:
        """The part of the picture within so many pixels of the mask's middle, and its first (x, y)."""
        low, high = self.outline.min(axis=0), self.outline.max(axis=0)
        first = np.floor(np.maximum((low + high) / 2 - reach, 0)).astype(int)
        end = np.ceil((low + high) / 2 + reach).astype(int) + 1
        part = np.s_[first[1] : end[1], first[0] : end[0]]
        return RealDefect(self.pixels[part], self.mask[part], self.known[part]), (int(first[0]), int(first[1]))


@dataclass(frozen=True)
class Habits:
    """What is known of the places of a defect type.

    Attributes:
        usual: what any place costs, before it is divided by this.
        good_enough: cost at which no better place is looked for in other pictures; 1 is usual.
        places: (y, x) of the real defects as shares of the picture; `None` where pictures show different places.
    """

    usual: float
    good_enough: float
    places: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Choice:
    """A place for a shape.

    Attributes:
        shape: as it is placed.
        mask: its pixels, bool HxW.
        cost: 0 for surroundings like the real ones, 1 for a usual place.
    """

    shape: DefectShape
    mask: Mask
    cost: float


@dataclass(frozen=True)
class _Planes:
    """What is compared of a picture, float32 HxW each: tones in 0…1, then texture and directions with their weights."""

    tones: tuple[Plane, ...]
    others: tuple[Plane, ...]

    def padded(self, rows: int, columns: int) -> _Planes:
        """Continued by reflection beyond all borders."""

        def wider(group: tuple[Plane, ...]) -> tuple[Plane, ...]:
            kind = cv2.BORDER_REFLECT_101
            return tuple(np.asarray(cv2.copyMakeBorder(one, rows, rows, columns, columns, kind)) for one in group)

        return _Planes(wider(self.tones), wider(self.others))

    def part(self, rows: NDArray[np.intp], columns: NDArray[np.intp], size: tuple[int, ...]) -> _Planes:
        """See `_cut`."""
        tones, others = ([_cut(one, rows, columns, size) for one in planes] for planes in (self.tones, self.others))
        return _Planes(tuple(tones), tuple(others))


@dataclass(frozen=True)
class _Template:
    """A mask with its surroundings in the small picture's scale; the mask's middle is the template's.

    Attributes:
        planes: of the real picture, turned and scaled as the mask.
        ring: weights of the surroundings, 1 in all; 0 where nothing is known.
        inside: weights of the mask's pixels, 1 in all.
        contact: the known pixels next to the mask, 1 there and else 0.
    """

    planes: _Planes
    ring: Plane
    inside: Plane
    contact: Plane


def _planes(pixels: Pixels) -> _Planes:
    values = pixels.astype(np.float32) / 255
    grey = values.mean(axis=2)
    smooth = cv2.GaussianBlur(grey, (0, 0), 0.8)
    colour = cv2.GaussianBlur(values[..., 0] - values[..., 2], (0, 0), 0.8)
    fine = cv2.GaussianBlur((grey - cv2.GaussianBlur(grey, (0, 0), 2.0)) ** 2, (0, 0), 2.0)
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *order, scale=0.25) for order in ((1, 0), (0, 1)))
    strength = np.sqrt(across**2 + down**2) + 1e-3
    lines = [cv2.GaussianBlur(one / strength, (0, 0), 1.5) for one in (across**2 - down**2, 2 * across * down)]
    others = [TEXTURE * np.sqrt(np.maximum(fine, 0)), *(LINES * one for one in lines)]
    return _Planes((smooth, colour) if np.abs(colour).max() > 0.02 else (smooth,), tuple(others))


def _template(real: RealDefect, shape: DefectShape, scale: float, finer: float) -> _Template:
    small = [max(1.0, side * scale) for side in shape.mask.shape]
    reach = round(float(np.clip(max(small), REACH[0] * finer, REACH[1] * finer)))
    height, width = (2 * (int(np.ceil(side)) // 2 + reach) + 1 for side in small)
    linear = np.array(shape.linear)
    smallest = float(np.linalg.svd(linear, compute_uv=False).min())
    turned = real.outline @ linear.T
    middle = (turned.min(axis=0) + turned.max(axis=0)) / 2 * scale
    real, first = real.around(0.75 * max(height, width) / (scale * max(smallest, 0.05)) + 8)
    shift = np.array([(width - 1) / 2, (height - 1) / 2]) - middle + linear @ np.array(first) * scale
    matrix = np.column_stack([linear * scale, shift])

    def moved(values: NDArray[np.uint8] | Plane, border: int = cv2.BORDER_CONSTANT) -> NDArray[np.float32]:
        return np.asarray(cv2.warpAffine(values, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border))

    blurred = cv2.GaussianBlur(real.pixels, (0, 0), 0.4 / scale) if scale < 0.7 else real.pixels
    planes = _planes(moved(blurred, cv2.BORDER_REFLECT_101).astype(np.uint8))
    inside = (moved(cv2.blur(real.mask.astype(np.float32), (3, 3))) > 0.3).astype(np.float32)
    inside[height // 2, width // 2] = max(inside[height // 2, width // 2], float(not inside.any()))
    distance = cv2.distanceTransform(1 - inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    near = np.where((distance > GAP) & (distance <= reach), np.exp(-distance / (0.35 * reach)), 0)
    ring = near * (moved(real.known.astype(np.float32)) > 0.95)
    if not ring.any():
        ring = near
    contact = ((ring > 0) & (distance <= CONTACT * finer / FINER)).astype(np.float32)
    ring = _balanced(ring / ring.sum(), planes.tones[0])
    return _Template(planes, ring.astype(np.float32), inside / inside.sum(), contact)


def _balanced(ring: NDArray[np.float64], tone: Plane) -> NDArray[np.float64]:
    """Weights for which the few pixels that differ from most others, as an edge that is touched, count as much."""
    deviation = (tone - (ring * tone).sum()) ** 2
    variance = float((ring * deviation).sum())
    ring = ring * (1 + deviation / variance) if variance > 1e-4 else ring
    return np.asarray(ring / ring.sum())


def _cut(plane: Plane, rows: NDArray[np.intp], columns: NDArray[np.intp], size: tuple[int, ...]) -> Plane:
    """What a template of a size is slid over to stand at consecutive rows and columns, of a plane that is padded."""
    return plane[rows[0] : rows[-1] + size[0], columns[0] : columns[-1] + size[1]]


def _slide(plane: Plane, weights: Plane) -> Plane:
    return np.asarray(cv2.matchTemplate(plane, np.ascontiguousarray(weights, np.float32), cv2.TM_CCORR))


def _differing(picture: _Planes, one: _Template) -> Plane:
    """How much the surroundings differ at every place; (y, x) is the template's first pixel."""
    tones = list(zip(picture.tones, one.planes.tones, strict=False))
    pairs = [*tones, *zip(picture.others, one.planes.others, strict=True)]
    squares = np.asarray(np.sum([plane**2 for plane, _ in pairs], axis=0), np.float32)
    result = _slide(squares, one.ring) + np.float32(sum(float((one.ring * wanted**2).sum()) for _, wanted in pairs))
    for plane, wanted in pairs:
        result -= 2 * _slide(plane, one.ring * wanted)
    for plane, wanted in tones:
        result -= (1 - OFFSET) * (_slide(plane, one.ring) - float((one.ring * wanted).sum())) ** 2
    return np.asarray(np.maximum(result, 0))


def _worst_spot(picture: _Planes, one: _Template, place: tuple[int, int], finer: float) -> float:
    """How much the spot next to the mask differs that differs most, at a place given by the template's first pixel."""
    height, width = one.contact.shape
    part = np.s_[place[0] : place[0] + height, place[1] : place[1] + width]
    pairs = zip(picture.tones, one.planes.tones, strict=False)
    squares = np.asarray(np.sum([(plane[part] - wanted) ** 2 for plane, wanted in pairs], axis=0), np.float32)
    size = SPOT * finer / FINER
    weights = cv2.GaussianBlur(one.contact, (0, 0), size)
    local = cv2.GaussianBlur(squares * one.contact, (0, 0), size) / np.maximum(weights, 1e-6)
    return float(local[one.contact > 0].max(initial=0.0))


def _unchanged(picture: _Planes, one: _Template) -> Plane:
    """Which share of the usual change of the defect is missing at every place, 0…1."""
    tone, defect = picture.tones[0], one.planes.tones[0]
    change = _slide(tone**2, one.inside) - 2 * _slide(tone, one.inside * defect)
    change += float((one.inside * defect**2).sum())
    return np.asarray(np.clip(1 - change / max(float(np.quantile(change, 0.9)), 1e-6), 0, 1))


@dataclass(frozen=True)
class _Field:
    """The costs of all places of one shape.

    Attributes:
        cost: of every place, with the cost of a missing change.
        surroundings: of every place, without that.
        corners: (tops, lefts) of the shape in the picture, by row and by column.
        valid: whether the shape lies in the picture there, and on what is open.
        compared: the padded picture, and the template that was slid over it.
    """

    cost: Plane
    surroundings: Plane
    corners: tuple[NDArray[np.intp], NDArray[np.intp]]
    valid: Mask
    compared: tuple[_Planes, _Template]

    def lowest(self) -> float:
        """What the cheapest place costs, with the spot next to it that differs most."""
        cost = np.where(self.valid, self.cost, np.inf)
        y, x = np.unravel_index(int(cost.argmin()), cost.shape)
        return float(cost[y, x]) + WORST * _worst_spot(*self.compared, (int(y), int(x)), 1.0)


@dataclass(frozen=True)
class _Near:
    """Places whose middle is near a point of the picture.

    Attributes:
        middle: (y, x) of the point in px.
        within: px in each direction.
    """

    middle: tuple[float, float]
    within: float

    def among(self, axis: int, count: int, scale: float) -> NDArray[np.intp]:
        """The rows (axis 0) or columns (axis 1) of a small picture that may be near, with some to spare."""
        at = np.arange(count)
        near = np.abs((at + 0.5) / scale - self.middle[axis]) <= self.within + 2
        return np.asarray(at[near], np.intp)


class _View:
    """A picture in which places are compared.

    Args:
        pixels: uint8 RGB, HxWx3.
        room: where a defect may be, bool HxW.
        scale: of the small picture.
        finer: how much finer that is than where the place was found.
    """

    def __init__(self, pixels: Pixels, room: Mask, scale: float, finer: float = 1.0) -> None:
        self.size, self.scale, self.finer = room.shape, scale, finer
        small = max(8, round(self.size[0] * self.scale)), max(8, round(self.size[1] * self.scale))
        self._planes = _planes(resize_pixels(pixels, small))
        self._room = None if room.all() else resize_pixels(room.astype(np.float32), small)

    def field(
        self, real: RealDefect, shape: DefectShape, habits: Habits | None, near: _Near | None = None
    ) -> _Field | None:
        """The costs of a shape's places; `None` where it is larger than the picture, or has no place that is asked for.

        Args:
            real: the real defect.
            shape: what is placed.
            habits: of the defect type; without them only the surroundings count.
            near: the places that are asked for; all of them if left out.
        """
        if shape.mask.shape[0] > self.size[0] or shape.mask.shape[1] > self.size[1]:
            return None
        one = _template(real, shape, self.scale, self.finer)
        whole = self._planes.tones[0].shape
        rows, columns = (
            np.arange(count) if near is None else near.among(axis, count, self.scale)
            for axis, count in enumerate(whole)
        )
        if not len(rows) or not len(columns):
            return None
        all_of_it = self._planes.padded(one.ring.shape[0] // 2, one.ring.shape[1] // 2)
        picture = all_of_it.part(rows, columns, one.ring.shape)
        surroundings = _differing(picture, one) / (1.0 if habits is None else habits.usual)
        cost = surroundings
        if habits is not None:
            # Surroundings that lie beyond the picture are taken for usual ones, whose cost is 1.
            beyond = self._slide_over(np.zeros(whole, np.float32), one.ring, rows, columns, 1)
            cost = cost + beyond + UNCHANGED * _unchanged(all_of_it, one)[np.ix_(rows, columns)]
        corners = tuple(
            np.round((at + 0.5) / self.scale - side / 2).astype(np.intp)
            for at, side in zip((rows, columns), shape.mask.shape, strict=True)
        )
        inner = [
            (at >= 0) & (at + side <= whole)
            for at, side, whole in zip(corners, shape.mask.shape, self.size, strict=True)
        ]
        valid = inner[0][:, None] & inner[1][None]
        if self._room is not None:
            valid &= self._slide_over(self._room, one.inside, rows, columns, 0) > 0.97
        if habits is not None and habits.places is not None:
            cost = cost + ELSEWHERE * self._distance_cost(rows, columns, habits.places)
        return _Field(cost, surroundings, (corners[0], corners[1]), valid, (picture, one))

    @staticmethod
    def _slide_over(
        plane: Plane, weights: Plane, rows: NDArray[np.intp], columns: NDArray[np.intp], beyond: float
    ) -> Plane:
        """Weighted means of a plane, which has a constant value beyond its border, at some rows and columns of it."""
        down, across = weights.shape[0] // 2, weights.shape[1] // 2
        padded = cv2.copyMakeBorder(plane, down, down, across, across, cv2.BORDER_CONSTANT, value=beyond)
        return _slide(_cut(np.asarray(padded, np.float32), rows, columns, weights.shape), weights)

    def _distance_cost(self, rows: NDArray[np.intp], columns: NDArray[np.intp], places: NDArray[np.float64]) -> Plane:
        """0 at the places of real defects, 1 far from all of them."""
        longer = max(self.size)
        y, x = ((at + 0.5) / self.scale / longer for at in (rows, columns))
        nearest = np.full((len(rows), len(columns)), np.inf)
        for row, column in places * np.array(self.size) / longer:
            nearest = np.minimum(nearest, (y[:, None] - row) ** 2 + (x[None] - column) ** 2)
        return np.asarray(1 - np.exp(-nearest / (2 * NEAR**2)), np.float32)


class _Views:
    """A picture in which places are compared, as coarse as the size of a shape allows.

    Args:
        pixels: uint8 RGB, HxWx3.
        room: where a defect may be, bool HxW.
    """

    def __init__(self, pixels: Pixels, room: Mask) -> None:
        self._picture = pixels, room
        self._usual = min(1.0, WORKING_SIZE / max(room.shape))
        self._made: dict[int, _View] = {}

    def of(self, shape: DefectShape) -> _View:
        """The one for a shape."""
        longer = max(shape.mask.shape) * self._usual
        halvings = max(0, int(np.ceil(np.log2(longer / LARGE))))
        if halvings not in self._made:
            self._made[halvings] = _View(*self._picture, self._usual / 2**halvings)
        return self._made[halvings]


def learn_habits(
    defects: Sequence[tuple[Callable[[], RealDefect], DefectShape]], pictures: Sequence[Pixels], *, registered: bool
) -> Habits:
    """What places of a defect type cost.

    Args:
        defects: all real defects of the type, what reads them and their shapes as they are.
        pictures: defect-free pictures, a few.
        registered: the pictures show the object at one place, see `show_one_place`.
    """
    views = [_Views(pixels, np.ones(pixels.shape[:2], np.bool_)) for pixels in pictures]
    usual, best = [], []
    for read, shape in evenly(defects, CHECKED_SHAPES):
        real = read()
        fields = [view.of(shape).field(real, shape, None) for view in views]
        found = [one for one in fields if one is not None and one.valid.any()]
        if found:
            usual.append(float(np.median(np.concatenate([one.cost[one.valid] for one in found]))))
            best.append(min(one.lowest() for one in found))
    middle = max(float(np.median(usual)), 1e-4) if usual else 1.0
    places = np.array([shape.origin for _, shape in defects]) if registered else None
    return Habits(middle, max(GOOD_ENOUGH, float(np.median(best)) / middle if best else 0.0), places)


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of them, evenly chosen."""
    places = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [items[place] for place in places]


def show_one_place(pictures: Sequence[Pixels]) -> bool:
    """Whether pictures of a data set show their object at one and the same place: small grey ones correlate."""
    if len(pictures) < 2:
        return False
    small = [resize_pixels(pixels.mean(axis=2).astype(np.float32), (32, 32)).ravel() for pixels in pictures]
    with np.errstate(invalid="ignore", divide="ignore"):
        correlations = np.corrcoef(small)[np.triu_indices(len(small), 1)]
    return bool(np.nan_to_num(correlations).mean() >= ALIKE)


def describe(pixels: Pixels, mask: Mask, known: Mask, foreground: Mask) -> NDArray[np.float64] | None:
    """What the surroundings of a mask look like: tones against the object's, gradients, fine texture, parallel lines.

    Args:
        pixels: uint8 RGB, HxWx3.
        mask: of a defect, or where one could be, bool HxW.
        known: where no defect is, bool HxW.
        foreground: object pixels, bool HxW.

    Returns:
        Six numbers; `None` where the surroundings are too small.
    """
    top, left, bottom, right = bounding_box(mask)
    reach = int(np.clip(max(bottom - top, right - left) // 2, *DESCRIBED))
    part = np.s_[max(0, top - reach - 4) : bottom + reach + 4, max(0, left - reach - 4) : right + reach + 4]
    distance = cv2.distanceTransform((~mask[part]).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    ring = (distance > 2) & (distance <= reach) & known[part]
    if np.count_nonzero(ring) < 10:
        return None
    whole = pixels[::2, ::2].mean(axis=2)[foreground[::2, ::2]] / 255
    middle, spread = (float(np.median(whole)), float(whole.std()) + 0.02) if whole.size else (0.5, 0.3)
    grey = pixels[part].mean(axis=2).astype(np.float32) / 255
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *order, scale=0.25)[ring] for order in ((1, 0), (0, 1)))
    xx, yy, xy = (float((one * other).mean()) for one, other in ((across, across), (down, down), (across, down)))
    tones = (np.array([smooth[ring].mean(), *np.quantile(smooth[ring], (0.1, 0.9))]) - middle) / spread
    lines = float(np.hypot(xx - yy, 2 * xy)) / (xx + yy + 1e-5)
    texture = np.log(float((grey - smooth)[ring].std()) + 1e-3)
    return np.array([*tones, np.log(xx + yy + 1e-6) / 2, texture, lines])


def told_apart(real: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """How reliably surroundings tell the places of real defects from others (AUROC): each is judged by all but itself.

    Args:
        real: a row of `describe` for each real defect, at least three.
        others: the same for places drawn at random, at least three.
    """
    spread = np.concatenate([real, others]).std(axis=0) + 1e-6

    def nearest(rows: NDArray[np.float64], known: NDArray[np.float64], *, own: bool) -> NDArray[np.float64]:
        distances = np.linalg.norm((rows[:, None] - known[None]) / spread, axis=2)
        return np.asarray(np.sort(distances, axis=1)[:, int(own) : int(own) + 2].mean(axis=1))

    first = nearest(real, real, own=True) - nearest(real, others, own=False)
    second = nearest(others, real, own=False) - nearest(others, others, own=True)
    return float((first[:, None] < second[None]).mean())


def scattered(shape: DefectShape, room: Mask, rng: np.random.Generator, tries: int = 20) -> Mask | None:
    """The shape anywhere in the room, bool HxW; `None` if some tries find no place."""
    free = [whole - side for whole, side in zip(room.shape, shape.mask.shape, strict=True)]
    for _ in range(tries if min(free) >= 0 else 0):
        corner = int(rng.integers(free[0] + 1)), int(rng.integers(free[1] + 1))
        mask = paste_mask(shape.mask, corner, (room.shape[0], room.shape[1]))
        if not (mask & ~room).any():
            return mask
    return None


def choose_place(
    pixels: Pixels,
    room: Mask,
    shapes: Sequence[tuple[RealDefect, DefectShape]],
    habits: Habits,
    rng: np.random.Generator,
    *,
    scales: tuple[float, float] | None = None,
) -> Choice:
    """One of the cheapest places for one of several shapes.

    Args:
        pixels: the picture, uint8 HxWx3.
        room: where a defect may be, bool HxW; it lies there with all of its pixels.
        shapes: what may be placed, each with its real defect.
        habits: of the defect type.
        rng: numpy generator.
        scales: the shape may be scaled within this range of the real defect's size, so that it fits the place better.

    Raises:
        PlacementError: none of the shapes fits.
    """
    views = _Views(pixels, room)
    costs, places = [], []
    for index, (real, shape) in enumerate(shapes):
        field = views.of(shape).field(real, shape, habits)
        if field is None:
            continue
        points = _minima(field.cost, field.valid)
        costs.append(field.cost[points[:, 0], points[:, 1]])
        tops, lefts = field.corners[0][points[:, 0]], field.corners[1][points[:, 1]]
        places.append(np.stack([np.full(len(points), index), tops, lefts], axis=1))
    cost = np.concatenate(costs) if costs else np.zeros(0, np.float32)
    order = np.argsort(cost, kind="stable")
    best: Choice | None = None
    tried = 0
    while len(order) and tried < LOOKED_AT:
        cheap = order[cost[order] <= cost[order[0]] + TOLERANCE]
        for chosen in rng.permutation(cheap):
            index, top, left = (int(value) for value in np.concatenate(places)[chosen])
            shape = shapes[index][1]
            mask = paste_mask(shape.mask, (top, left), (room.shape[0], room.shape[1]))
            if not (mask & ~room).any():
                found = Choice(shape, mask, float(cost[chosen]))
                coarse = views.of(shape).scale
                found = _refined(pixels, room, (shapes[index][0], found), (coarse, habits), scales)
                best = found if best is None or found.cost < best.cost else best
                tried += 1
                if best.cost <= habits.good_enough or tried == LOOKED_AT:
                    return best
        order = order[len(cheap) :]
    if best is not None:
        return best
    names = ", ".join(sorted({shape.source for _, shape in shapes}))
    raise PlacementError(
        f"none of {len(shapes)} masks ({names}) fits on the object or into the region where it may be."
    )


def _refined(
    pixels: Pixels,
    room: Mask,
    found: tuple[RealDefect, Choice],
    view: tuple[float, Habits],
    scales: tuple[float, float] | None,
) -> Choice:
    """The best place within a few pixels of one that was found, at a finer scale and in several sizes.

    Args:
        pixels: the picture, uint8 HxWx3.
        room: where a defect may be, bool HxW.
        found: the real defect, and the place.
        view: scale at which it was found, and habits of its type.
        scales: see `choose_place`.
    """
    (real, choice), (coarse, habits) = found, view
    top, left, bottom, right = bounding_box(choice.mask)
    finer = min(FINER, 1 / coarse)
    moves = int(np.ceil(MOVES / coarse))
    margin = moves + int(np.ceil(max(bottom - top, right - left) * 0.2)) + int(REACH[1] / coarse)
    corner = max(0, top - margin), max(0, left - margin)
    part = np.s_[corner[0] : bottom + margin, corner[1] : right + margin]
    near = _View(pixels[part], room[part], coarse * finer, finer)
    middle = np.array([top + bottom, left + right]) / 2 - corner
    own = float(np.sqrt(abs(np.linalg.det(np.array(choice.shape.linear)))))
    factors = [1.0] if scales is None else [1.0, *(float(one) / own for one in np.linspace(*scales, SIZES))]
    best, lowest = choice, np.inf
    for factor in factors:
        shape = choice.shape if factor == 1 else warped(choice.shape, 0.0, (factor, factor))
        field = near.field(real, shape, replace(habits, places=None), _Near((middle[0], middle[1]), moves))
        if field is None:
            continue
        rows, columns = (
            np.abs(at + side / 2 - centre) <= moves
            for at, side, centre in zip(field.corners, shape.mask.shape, middle, strict=True)
        )
        cost = np.where(field.valid & rows[:, None] & columns[None], field.cost, np.inf)
        y, x = np.unravel_index(int(cost.argmin()), cost.shape)
        value = float(cost[y, x]) + WORST * _worst_spot(*field.compared, (int(y), int(x)), finer) / habits.usual
        if value >= lowest:
            continue
        place = int(field.corners[0][y]) + corner[0], int(field.corners[1][x]) + corner[1]
        mask = paste_mask(shape.mask, place, (room.shape[0], room.shape[1]))
        if not (mask & ~room).any():
            best, lowest = Choice(shape, mask, value), value
    return best


def _minima(cost: Plane, valid: Mask) -> NDArray[np.intp]:
    """Nx2 places that are valid and no dearer than their neighbours."""
    held = np.where(valid, cost, np.float32(np.inf))
    lowest = cv2.erode(held, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
    return np.argwhere(valid & (held <= lowest))
