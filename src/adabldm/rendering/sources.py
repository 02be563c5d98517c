"""The pictures that surfaces are cut from: a folder of tileable materials and the training splits of data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from adabldm.core.errors import InputError
from adabldm.core.images import Pixels, is_image_file, read_picture
from adabldm.core.seeding import derived_seed, numpy_rng
from adabldm.rendering.render import DEFECTS, Rendered, render
from adabldm.rendering.surfaces import (
    material_window,
    picture_window,
    procedural,
    recolour,
    with_edge,
    without_margin,
)

UNSEEN_NAMES_SHARE = 0.05
UNSEEN_KINDS_SHARE = 0.02


def kind_of(path: Path) -> str:
    """Kind of a material: its file's name without the number, "Metal012.png" gives "Metal"."""
    return path.stem.rstrip("0123456789")


@dataclass(frozen=True)
class Split:
    """Materials by what they are for.

    Attributes:
        training: File names to train on.
        unseen_names: Held-out pictures of kinds that training sees.
        unseen_kinds: Held-out pictures of kinds that training never sees.
    """

    training: tuple[str, ...]
    unseen_names: tuple[str, ...]
    unseen_kinds: tuple[str, ...]


def split_materials(names: Sequence[str]) -> Split:
    """Hold out about 5 % of the names and a few whole kinds (about 2 %), both by a hash of the name."""
    kinds: dict[str, list[str]] = {}
    for name in sorted(names):
        kinds.setdefault(kind_of(Path(name)), []).append(name)
    wanted = UNSEEN_KINDS_SHARE * len(names)
    unseen: list[str] = []
    for kind in sorted(kinds, key=lambda kind: derived_seed("held-out kind", kind)):
        if len(unseen) + len(kinds[kind]) <= wanted:
            unseen += kinds[kind]
    kept_back = set(unseen)
    others = [name for name in sorted(names) if name not in kept_back]
    held = {name for name in others if derived_seed("held-out material", name) % 1000 < 1000 * UNSEEN_NAMES_SHARE}
    return Split(tuple(name for name in others if name not in held), tuple(sorted(held)), tuple(sorted(unseen)))


def read_materials(folder: Path) -> dict[str, Pixels]:
    """All pictures of a folder by file name.

    Raises:
        InputError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected tileable pictures of materials; check the path.")
    paths = sorted(path for path in folder.iterdir() if is_image_file(path))
    if not paths:
        raise InputError(f"{folder}: no pictures in it, expected tileable pictures of materials.")
    return {path.name: without_margin(read_picture(path).pixels) for path in paths}


@dataclass(frozen=True)
class Mix:
    """Shares of the surfaces; the rest are procedural.

    Attributes:
        materials: Share of windows of materials.
        pictures: Share of windows of the data sets' pictures, every data set alike.
        plain: Share of materials that keep their colours.
        edges: Share of surfaces that end at an edge.
    """

    materials: float = 0.6
    pictures: float = 0.25
    plain: float = 0.4
    edges: float = 0.06


@dataclass(frozen=True)
class Surfaces:
    """Draws surfaces; the i-th depends on the seed and i alone.

    Attributes:
        materials: Tileable pictures by file name.
        pictures: Pictures of defect-free parts, one list a data set.
        mix: Shares.
    """

    materials: dict[str, Pixels]
    pictures: tuple[list[Pixels], ...] = ()
    mix: Mix = field(default_factory=Mix)

    def _material(self, rng: np.random.Generator) -> tuple[str, Pixels]:
        """A material with its file name: kinds are drawn by the 0.6th power of their number of pictures."""
        kinds: dict[str, list[str]] = {}
        for name in self.materials:
            kinds.setdefault(kind_of(Path(name)), []).append(name)
        names = sorted(kinds)
        weights = np.array([len(kinds[name]) ** 0.6 for name in names])
        own = sorted(kinds[names[int(rng.choice(len(names), p=weights / weights.sum()))]])
        name = own[int(rng.integers(len(own)))]
        return name, self.materials[name]

    def draw(self, rng: np.random.Generator, side: int) -> tuple[Pixels, str]:
        """A surface, uint8 RxRx3, and the kind of its material in lower case, or "surface"."""
        kind, share = "surface", rng.random()
        if self.materials and share < self.mix.materials:
            name, tile = self._material(rng)
            pixels = material_window(tile, side, rng)
            kind = kind_of(Path(name)).lower()
            if rng.random() >= self.mix.plain:
                pixels = recolour(pixels, rng)
        elif self.pictures and share < self.mix.materials + self.mix.pictures:
            own = self.pictures[int(rng.integers(len(self.pictures)))]
            pixels = picture_window(own[int(rng.integers(len(own)))], side, rng)
        else:
            pixels = procedural(rng, side)
        if rng.random() < self.mix.edges:
            pixels = with_edge(pixels, procedural(rng, side), rng)
        return pixels, kind

    def example(self, seed: int, index: int, side: int, defects: Sequence[str] = DEFECTS) -> Rendered:
        """The `index`-th surface of a seed with a rendered defect; types take turns.

        A third of the captions name the material's kind, the others say "surface".
        """
        rng = numpy_rng(seed, "rendered example", index)
        clean, kind = self.draw(rng, side)
        named = rng.random() < 0.33
        size = float(np.exp(rng.uniform(np.log(0.7), np.log(1.7))))
        return render(
            clean,
            defects[index % len(defects)],
            rng,
            size=size,
            object_name=kind if named else "surface",
        )
