"""Synthetic defects without a model: the conditions that a generator has to beat.

Each edits an image inside a mask that was placed for all conditions alike, so that only the appearance differs.
Images are uint8 RGB, HxWx3; masks are bool, HxW. A new baseline is a function like `copied`, and one line in
`BASELINES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from adabldm.core.images import Mask, Pixels, resize_pixels
from adabldm.core.samples import DataSet
from adabldm.core.windows import bounding_box
from adabldm.editing.cut import cut_window
from adabldm.editing.rendered import render_into
from adabldm.production.scenes import Scene
from adabldm.rendering.render import DEFECTS

POISSON_RIM = 3
"""Pixels of the real defect's surroundings that are cloned with it, so that the seam lies outside the defect."""
ERODED = 3
"""Pixels that `seamlessClone` takes off the rim of its mask before it reads the patch's gradients."""
PERLIN_CELLS = (2, 6)
"""Range of the number of noise cells along a side."""
OPACITY = (0.1, 1.0)
"""Range of DRAEM's opacity β (arXiv 2108.07610, eq. 1)."""


def copy_paste(image: Pixels, patch: Pixels, mask: Mask) -> Pixels:
    """The patch inside the mask, the image elsewhere."""
    return np.where(mask[..., None], patch, image)


def poisson_paste(image: Pixels, patch: Pixels, mask: Mask) -> Pixels:
    """The patch's gradients inside the mask and a rim around it, the image elsewhere (NSA, arXiv 2109.15222).

    OpenCV's `seamlessClone` does the blending. It takes the image's own gradients in the mask's outermost `ERODED`
    pixels, so it is given so many more, in which the result fades into the image: a mismatch there would else spread
    over the mask's whole bounding box. A mask at the image's border is continued by its mirror image, so that nothing
    holds the defect back there.
    """
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_C, cv2.DIST_MASK_3)
    rim = distance <= POISSON_RIM + ERODED
    top, left, bottom, right = bounding_box(rim)
    part = slice(max(0, top - 2), bottom + 2), slice(max(0, left - 2), right + 2)
    weight = np.clip((POISSON_RIM + ERODED + 1 - distance[part]) / (ERODED + 1), 0, 1)[..., None]
    result = image.copy()
    result[part] = np.rint(weight * _cloned(image[part], patch[part], rim[part]) + (1 - weight) * image[part])
    return result


def _cloned(image: Pixels, patch: Pixels, mask: Mask) -> Pixels:
    """`seamlessClone` in place, in the mirrored image; of the mirrored masks those that touch the mask are cloned."""
    height, width = mask.shape
    pads = height - 1, height - 1, width - 1, width - 1
    wide_image, wide_patch, wide_mask = (
        cv2.copyMakeBorder(array, *pads, cv2.BORDER_REFLECT_101) for array in (image, patch, mask.astype(np.uint8))
    )
    middle = slice(height - 1, 2 * height - 1), slice(width - 1, 2 * width - 1)
    count, pieces = cv2.connectedComponents(wide_mask)
    touching = np.zeros(count, np.uint8)
    touching[pieces[middle][mask]] = 255
    chosen = touching[pieces]
    chosen[:2], chosen[-2:], chosen[:, :2], chosen[:, -2:] = 0, 0, 0, 0
    top, left, bottom, right = bounding_box(chosen > 0)
    centre = left + (right - left) // 2, top + (bottom - top) // 2
    return np.asarray(cv2.seamlessClone(wide_patch, wide_image, chosen, centre, cv2.NORMAL_CLONE)[middle])


def perlin_noise(size: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Gradient noise (Perlin, 1985) of `size` (height, width) with `cells` (rows, columns), roughly in [-1, 1]."""
    angles = rng.uniform(0, 2 * np.pi, (cells[0] + 1, cells[1] + 1))
    y, x = (
        np.linspace(0, count, length, endpoint=False)[:, None] if axis == 0 else np.linspace(0, count, length, False)
        for axis, (count, length) in enumerate(zip(cells, size, strict=True))
    )
    row, column = np.floor(y).astype(int), np.floor(x).astype(int)

    def ramp(down: int, across: int) -> NDArray[np.float64]:
        angle = angles[row + down, column + across]
        return np.asarray(np.cos(angle) * (x - column - across) + np.sin(angle) * (y - row - down))

    def fade(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(t**3 * (t * (6 * t - 15) + 10))

    across, down = fade(x - column), fade(y - row)
    upper = ramp(0, 0) * (1 - across) + ramp(0, 1) * across
    lower = ramp(1, 0) * (1 - across) + ramp(1, 1) * across
    return np.asarray((upper * (1 - down) + lower * down) * 2**0.5)


def perlin_mask(placed: Mask, foreground: Mask, rng: np.random.Generator) -> Mask:
    """A mask of Perlin noise at the place of another one and of its area (DRAEM, arXiv 2108.07610).

    The noise fills the placed mask's bounding box, widened by half; its highest pixels on the object (or on the
    placed mask) are kept, as many as the placed mask has.
    """
    top, left, bottom, right = bounding_box(placed)
    height, width = placed.shape
    more = max(bottom - top, right - left) // 4 + 1
    rows = slice(max(0, top - more), min(height, bottom + more))
    columns = slice(max(0, left - more), min(width, right + more))
    room = foreground[rows, columns] | placed[rows, columns]
    low, high = PERLIN_CELLS
    noise = perlin_noise(
        (room.shape[0], room.shape[1]), (int(rng.integers(low, high)), int(rng.integers(low, high))), rng
    )
    ranked = np.argsort(np.where(room, noise, -np.inf), axis=None, kind="stable")  # equal noise is common: 0 at corners
    chosen = np.zeros(room.size, np.bool_)
    chosen[ranked[-int(placed.sum()) :]] = True
    mask = np.zeros_like(placed)
    mask[rows, columns] = chosen.reshape(room.shape)
    return mask


def foreign_texture(other: Pixels, size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """A picture of `size` (height, width) unlike its origin: three random operations of DRAEM's list on it."""
    picture = Image.fromarray(resize_pixels(other, size))
    operations: list[Callable[[Image.Image], Image.Image]] = [
        lambda image: ImageOps.invert(image),
        lambda image: ImageOps.posterize(image, int(rng.integers(1, 4))),
        lambda image: ImageOps.solarize(image, int(rng.integers(32, 129))),
        lambda image: ImageOps.equalize(image),
        lambda image: ImageOps.autocontrast(image),
        lambda image: ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.4, 1.8))),
        lambda image: ImageEnhance.Contrast(image).enhance(float(rng.uniform(0.4, 2.5))),
        lambda image: image.rotate(float(rng.uniform(-90, 90)), Image.Resampling.BILINEAR, expand=False),
    ]
    for choice in rng.choice(len(operations), size=3, replace=False):
        picture = operations[int(choice)](picture)
    return np.array(picture, dtype=np.uint8)


def fill(image: Pixels, texture: Pixels, mask: Mask, opacity: float) -> Pixels:
    """The texture over the image inside the mask, at an opacity in [0, 1] (DRAEM, arXiv 2108.07610, eq. 1)."""
    mixed = (1 - opacity) * image.astype(np.float32) + opacity * texture.astype(np.float32)
    return np.where(mask[..., None], np.rint(mixed).astype(np.uint8), image)


Baseline = Callable[[Scene, DataSet, np.random.Generator], tuple[Pixels, Mask]]
"""From a scene, the data set and the source of all random draws to the image and its mask."""


def copied(scene: Scene, data_set: DataSet, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    """The real defect that the scene's mask comes from, pasted."""
    del data_set, rng
    return copy_paste(scene.picture.pixels, _real_defect(scene), scene.mask), scene.mask


def cloned(scene: Scene, data_set: DataSet, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    """The real defect that the scene's mask comes from, blended in by its gradients."""
    del data_set, rng
    return poisson_paste(scene.picture.pixels, _real_defect(scene), scene.mask), scene.mask


def filled(scene: Scene, data_set: DataSet, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    """A texture made of another image, in an outline of Perlin noise."""
    mask = perlin_mask(scene.mask, scene.foreground, rng)
    other = data_set.good[int(rng.integers(len(data_set.good)))].picture().pixels
    texture = foreign_texture(other, (mask.shape[0], mask.shape[1]), rng)
    return fill(scene.picture.pixels, texture, mask, float(rng.uniform(*OPACITY))), mask


def _real_defect(scene: Scene) -> Pixels:
    """The real defect that the scene's mask comes from, laid over the scene."""
    assert scene.reference is not None
    return scene.reference


def rendered(scene: Scene, data_set: DataSet, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    """A defect of a generic type, rendered into the scene's mask; no real defect is looked at.

    The type is the one that the defect's name says (`GENERIC`), else any.
    """
    del data_set
    defect = generic_type(scene.shape.instance.defect.type if scene.shape.instance else "", rng)
    cut = cut_window(scene.picture.pixels, scene.foreground, scene.mask)
    return render_into(scene.picture.pixels, cut, defect, rng), scene.mask


GENERIC: Mapping[str, tuple[str, ...]] = {
    "scratch": ("scratch", "line", "scuff"),
    "crack": ("crack", "break", "broken", "fracture", "crazing"),
    "pit": ("pit", "blowhole", "pore", "void", "pinhole"),
    "dent": ("dent", "bump", "squeeze", "fold", "bent"),
    "hole": ("hole", "cut", "missing"),
    "chip": ("chip", "burr", "mousebite"),
    "corrosion": ("corrosion", "rust", "oxid"),
    "stain": ("stain", "uneven", "colour", "color", "oil", "ink", "print", "spot", "discol"),
    "contamination": ("contamination", "particle", "fibre", "fiber", "thread", "dust", "dirt", "glue", "foreign"),
    "peeling": ("peeling", "fray", "flak", "wear", "worn"),
}
"""Generic types and the parts of names that stand for them; the first name that fits decides."""


def generic_type(name: str, rng: np.random.Generator) -> str:
    """The generic type that a defect type's name says, or a random one."""
    low = name.lower()
    for generic, words in GENERIC.items():
        if any(word in low for word in words):
            return generic
    return DEFECTS[int(rng.integers(len(DEFECTS)))]


BASELINES: Mapping[str, Baseline] = {"copy-paste": copied, "nsa": cloned, "perlin": filled, "rendered": rendered}
