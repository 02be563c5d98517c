"""Small fabricated data sets in the MVTec AD layout: a woven texture with visible defects and exact masks."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

DEFECTS = {"spot": 3, "scratch": 3}


def texture(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A defect-free surface, uint8 HxWx3: weave, slow shading and smoothed noise around a warm grey."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    noise = Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).filter(ImageFilter.GaussianBlur(1))
    weave = 10 * np.sin(rows / 2.5 + rng.uniform(0, 6)) * np.cos(columns / 3.5 + rng.uniform(0, 6))
    shade = rng.uniform(-10, 10) * rows / height + rng.uniform(-10, 10) * columns / width
    grey = 140 + weave + shade + (np.asarray(noise, dtype=np.float64) - 128) / 6
    return np.clip(grey[..., None] * [1.0, 0.93, 0.82], 0, 255).astype(np.uint8)


def defect_mask(defect: str, size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A mask, bool HxW: a thin line for "scratch", an ellipse for any other type."""
    height, width = size
    image = Image.new("L", (width, height))
    x, y = rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height
    reach = 0.12 * min(size) * rng.uniform(0.8, 1.5)
    if defect == "scratch":
        turn = rng.uniform(0, np.pi)
        dx, dy = 2 * reach * np.cos(turn), 2 * reach * np.sin(turn)
        ImageDraw.Draw(image).line([x - dx, y - dy, x + dx, y + dy], fill=255, width=2)
    else:
        ImageDraw.Draw(image).ellipse([x - reach, y - reach * 0.7, x + reach, y + reach * 0.7], fill=255)
    return np.asarray(image) > 0


def save(path: Path, pixels: NDArray[np.uint8], grey: bool = False, deep: bool = False) -> Path:
    """Write an image, with its folders; `grey` keeps the first channel, `deep` writes it with 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if deep:
        Image.fromarray(deepened(pixels)).save(path)
    else:
        Image.fromarray(pixels[..., 0] if grey and pixels.ndim == 3 else pixels).save(path)
    return path


def empty_png(side: int) -> bytes:
    """A PNG of side x side pixels by its header, a few kilobytes long: decoding it would need side²/8 bytes."""
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])

    def chunk(name: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    data = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def deepened(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The first channel with 16 bits, whose lower half holds what 8 bits cannot."""
    levels = pixels[..., 0].astype(np.uint16) * 257
    finer = np.random.default_rng(0).integers(-120, 121, levels.shape)
    return np.clip(levels + finer, 0, 65535).astype(np.uint16)


def write_data_set(
    root: Path,
    *,
    good: int = 6,
    defects: Mapping[str, int] = DEFECTS,
    size: tuple[int, int] = (96, 128),
    grey: bool = False,
    deep: bool = False,
    test: bool = False,
    seed: int = 0,
) -> Path:
    """Draw `good` images in train/good and so many of each type in train/<defect>, with masks; returns `root`.

    With `test`, test/good and test/<defect> get as many again, under other names. `size` is (height, width);
    `grey` images have one channel, `deep` ones one of 16 bits.
    """
    rng = np.random.default_rng(seed)
    for number, split in enumerate(("train", "test") if test else ("train",)):
        for index in range(good):
            save(root / split / "good" / f"{100 * number + index:03d}.png", texture(size, rng), grey, deep)
        for defect, count in defects.items():
            for index in range(100 * number, 100 * number + count):
                mask = defect_mask(defect, size, rng)
                pixels = texture(size, rng)
                pixels[mask] = 235 if defect == "scratch" else pixels[mask] // 3
                save(root / split / defect / f"{index:03d}.png", pixels, grey, deep)
                save(root / "ground_truth" / defect / f"{index:03d}_mask.png", (mask * 255).astype(np.uint8))
    return root


def box(rows: tuple[int, int], columns: tuple[int, int], size: tuple[int, int] = (96, 128)) -> NDArray[np.bool_]:
    mask = np.zeros(size, np.bool_)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return np.count_nonzero(first & second) / np.count_nonzero(first | second)


def grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """All pixels within a square of so many pixels around one of the mask's."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)) > 0
