"""Windows for the autoencoder of the general base, and the sets of unseen windows that it is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adabldm.core.errors import InputError
from adabldm.core.images import Pixels, is_image_file, read_picture
from adabldm.core.seeding import numpy_rng
from adabldm.rendering.render import DEFECTS, Rendered, render
from adabldm.rendering.sources import Split, Surfaces, read_materials, split_materials
from adabldm.rendering.surfaces import material_window, picture_window

THIN = ("scratch", "crack", "contamination")
DEFECTIVE_SHARE = 0.45
THIN_SHARE = 0.7
HELD_OUT_PICTURES = 0.05


@dataclass(frozen=True)
class Pool:
    """All pictures that the surfaces of training and of the measurements are cut from.

    Attributes:
        training: Surfaces to train on.
        unseen: Held-out pictures by set: "materials (names)", "materials (kinds)", and one set for each folder.
    """

    training: Surfaces
    unseen: Mapping[str, list[Pixels]]


def read_folder(folder: Path) -> list[Pixels]:
    """Pictures of a folder in the order of their names; those with an annotation (.json) beside them are left out.

    Raises:
        InputError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected pictures of defect-free parts; check the path.")
    paths = sorted(path for path in folder.iterdir() if is_image_file(path) and not path.with_suffix(".json").is_file())
    if len(paths) < 2:
        raise InputError(f"{folder}: {len(paths)} pictures without annotation, expected at least two.")
    return [read_picture(path).pixels for path in paths]


def read_pool(materials: Path, folders: Sequence[Path]) -> Pool:
    """Read the materials and the folders; 5 % of the pictures of each are held out.

    Neighbouring names in a folder are often the same part under another light, so its first names are held out.

    Raises:
        InputError: a folder is missing or empty.
    """
    tiles = read_materials(materials)
    split: Split = split_materials(list(tiles))
    unseen: dict[str, list[Pixels]] = {
        "materials (names)": [tiles[name] for name in split.unseen_names],
        "materials (kinds)": [tiles[name] for name in split.unseen_kinds],
    }
    kept: list[list[Pixels]] = []
    for folder in folders:
        pictures = read_folder(folder)
        count = max(1, round(HELD_OUT_PICTURES * len(pictures)))
        name = next((part for part in reversed(folder.parts) if part not in {"good", "images", "train"}), folder.name)
        unseen[name] = pictures[:count]
        kept.append(pictures[count:])
    training = Surfaces({name: tiles[name] for name in split.training}, tuple(kept))
    return Pool(training, {name: pictures for name, pictures in unseen.items() if pictures})


def autoencoder_window(surfaces: Surfaces, seed: int, index: int, side: int) -> tuple[Pixels, NDArray[np.uint8]]:
    """The `index`-th window, uint8 RxRx3, and the mask of its defect as 0 and 1, RxR: 45 % have one, mostly thin."""
    rng = numpy_rng(seed, "autoencoder window", index)
    pixels, _ = surfaces.draw(rng, side)
    if rng.random() >= DEFECTIVE_SHARE:
        return pixels, np.zeros((side, side), np.uint8)
    defects = THIN if rng.random() < THIN_SHARE else DEFECTS
    defect = defects[int(rng.integers(len(defects)))]
    size = float(rng.uniform(0.5, 1.3))
    drawn = render(pixels, defect, rng, size=size)
    return drawn.pixels, drawn.mask.astype(np.uint8)


def autoencoder_windows(surfaces: Surfaces, seed: int, count: int, side: int, cache: Path | None = None) -> Tensor:
    """`count` windows with their masks: uint8 Nx4xRxR, the fourth channel is the mask as 0 and 1.

    Args:
        surfaces: Surfaces to draw on.
        seed: Seed of all random draws.
        count: Number of windows.
        side: Side of a window in pixels.
        cache: File (.npy) that keeps the windows for a resumed run.
    """
    if cache is not None and cache.is_file():
        found = np.load(cache, mmap_mode="r")
        if found.shape == (count, 4, side, side):
            return torch.from_numpy(np.array(found))
    windows = np.empty((count, 4, side, side), np.uint8)
    for index in range(count):
        pixels, mask = autoencoder_window(surfaces, seed, index, side)
        windows[index, :3], windows[index, 3] = pixels.transpose(2, 0, 1), mask
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, windows)
    return torch.from_numpy(windows)


def unseen_windows(pictures: Sequence[Pixels], name: str, count: int, side: int) -> list[Pixels]:
    """`count` windows of held-out pictures with their own colours, always the same ones.

    Pictures of at most 160 px a side are taken for tileable materials, which are also turned and scaled.
    """
    windows = []
    for index in range(count):
        rng = numpy_rng("unseen windows", name, index)
        pixels = pictures[index % len(pictures)]
        if max(pixels.shape[:2]) <= 160:
            windows.append(material_window(pixels, side, rng, scale=(0.75, 2.4)))
        else:
            windows.append(picture_window(pixels, side, rng))
    return windows


def _unseen(pool: Pool, defect: str, index: int, side: int) -> Rendered:
    rng = numpy_rng("unseen source", defect, index)
    folders = [name for name in pool.unseen if not name.startswith("materials")]
    materials = [name for name in pool.unseen if name.startswith("materials")]
    names = materials if not folders or (materials and rng.random() < 0.6) else folders
    pictures = pool.unseen[names[int(rng.integers(len(names)))]]
    picture = pictures[int(rng.integers(len(pictures)))]
    (clean,) = unseen_windows([picture], f"{defect} {index}", 1, side)
    return render(clean, defect, numpy_rng("unseen defect", defect, index))


def unseen_defects(pool: Pool, defect: str, count: int, side: int) -> list[Rendered]:
    """`count` rendered defects, 60 % on unseen materials, the others on unseen pictures; always the same ones."""
    return [_unseen(pool, defect, index, side) for index in range(count)]


def unseen_defect(pool: Pool, index: int, side: int) -> Rendered:
    """The `index`-th rendered defect on an unseen surface; types take turns."""
    return _unseen(pool, DEFECTS[index % len(DEFECTS)], index // len(DEFECTS), side)
