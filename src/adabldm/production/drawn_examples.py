"""Training views of defect types without any example: shapes drawn by a procedure, filled by the renderer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from adabldm.core.samples import DataSet
from adabldm.core.seeding import torch_generator
from adabldm.core.settings.common import Recipe
from adabldm.editing.rendered import RenderingEditor
from adabldm.masks.procedural import ANY
from adabldm.production.scenes import Scene, SceneMaker, SceneOptions
from adabldm.rendering.render import DEFECTS
from adabldm.training.examples import SourceImage

VIEWS = 24
"""Pictures that are drawn of each type."""
LINE, BLOB, CORNERS = (Recipe(kind="scratch"),), (Recipe(kind="blob"),), (Recipe(kind="polygon"),)
SHAPES: Mapping[str, tuple[Recipe, ...]] = MappingProxyType(
    {"scratch": LINE, "crack": LINE, "chip": CORNERS, "peeling": CORNERS}
)
"""Families of shapes of the renderer's types; blobs for the others of them."""
LOOKS: Mapping[str, str] = MappingProxyType({"scratch": "scratch", "blob": "stain", "polygon": "chip"})
"""What the renderer draws of a type that it does not know, by the family of its shape."""


def usual_recipes(defect: str) -> tuple[Recipe, ...]:
    """The families of shapes of a type for which none are given: by its name, or any."""
    return SHAPES.get(defect, BLOB) if defect in DEFECTS else ANY


def drawn_views(
    data_set: DataSet, method: str, options: SceneOptions, types: Sequence[str], seed: int
) -> dict[str, list[SourceImage]]:
    """Views of defects on the data set's good images, by type; they depend on the seed alone.

    Args:
        data_set: gives the good images.
        method: of the foreground.
        options: with the recipes of the types.
        types: defect types without any example.
        seed: of all random draws.

    Raises:
        PlacementError: a shape fits on no good image.
    """
    maker = SceneMaker(data_set, method, replace(options, masks="procedural"))
    return {
        defect: [_view(maker.draw(defect, seed, number, index), defect, seed, number, index) for index in range(VIEWS)]
        for number, defect in enumerate(types)
    }


def _view(scene: Scene, defect: str, *keys: int) -> SourceImage:
    family = scene.shape.source.split()[-1]
    job = scene.job("", torch_generator("drawn", *keys))
    job = replace(job, defect=defect if defect in DEFECTS else LOOKS[family])
    pixels = RenderingEditor().edit([job])[0].pixels
    foreground = np.asarray(scene.foreground | scene.mask)
    return SourceImage(pixels, foreground, defect, scene.mask, clean=job.pixels)
