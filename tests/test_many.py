"""Data with many files, defects and lines: what replaces a slow way gives the same, and reads nothing twice."""

from __future__ import annotations

import itertools
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from adabldm.core.errors import EmptyMaskError
from adabldm.core.images import Mask
from adabldm.core.samples import Defect, Instance, MaskFile, Sample
from adabldm.core.settings import GenerateSettings
from adabldm.data.content import packed
from adabldm.data.formats.shapes import PolygonMask
from adabldm.production.plan import ProductionPlan
from adabldm.training.sources import read_views

NUMBERS = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=60)
@given(NUMBERS)
def test_polygons_are_drawn_as_on_the_whole_picture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 90, 2))
    corners = [rng.uniform(-0.4, 1.4, (int(rng.integers(3, 9)), 2)) * (width, height) for _ in range(2)]
    corners[0] = (2 * corners[0]).round() / 2
    mask = PolygonMask.of(Path("a"), "", [tuple(map(tuple, one.tolist())) for one in corners], (height, width))
    canvas = Image.new("L", (width, height))
    for polygon in mask.corners:
        ImageDraw.Draw(canvas).polygon(array("d", polygon).tolist(), fill=1, outline=1)
    whole = np.asarray(canvas) > 0
    if whole.any():
        assert np.array_equal(mask.read(), whole)
    else:
        with pytest.raises(EmptyMaskError):
            mask.read()


@settings(deadline=None, max_examples=60)
@given(NUMBERS)
def test_masks_are_packed_as_numpy_packs_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros(rng.integers(1, 30, 2), np.bool_)
    top, left = (int(rng.integers(0, side)) for side in mask.shape)
    mask[top : top + int(rng.integers(0, 9)), left:] = rng.random() < 0.9
    assert packed(mask) == np.packbits(mask).tobytes()


class Counted(tuple[Defect, ...]):
    """Defects that count how often they are hashed."""

    hashed = 0

    def __hash__(self) -> int:
        Counted.hashed += 1
        return super().__hash__()


def test_looking_up_a_defect_does_not_look_at_all_defects_of_its_picture() -> None:
    defects = Counted(Defect("dent", MaskFile(Path(f"{number}.png"))) for number in range(20))
    sample = Sample(Path("a.png"), defects)
    assert len({Instance(sample, one) for one in defects}) == len(defects)
    assert Counted.hashed == 0
    assert sample == replace(sample)
    assert sample != replace(sample, defects=defects[1:])


def slowly(count: int, turns: int, rejected: set[int]) -> set[int]:
    """What `ProductionPlan.wanted` is to give, one image after the other."""
    found = set(range(count)) - rejected
    for index in sorted(rejected & set(range(count))):
        numbers = itertools.count(index, turns)
        found.add(next(one for one in numbers if one >= count and one not in found | rejected))
    return found


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 7), st.sets(st.integers(0, 99)))
def test_each_rejected_image_is_replaced_by_the_next_of_its_type(count: int, turns: int, rejected: set[int]) -> None:
    given_ = GenerateSettings.create(
        {"run": "surface", "data": "d", "out": "o", "count": count, "replace_rejected": True}
    )
    values: Any = dict.fromkeys(("preset", "object_name", "model", "foreground", "sources", "dtype", "reading"))
    plan = ProductionPlan(
        settings=given_, prompts={str(turn): "" for turn in range(turns)}, real_masks={}, recipes={}, **values
    )
    assert plan.wanted(rejected) == slowly(count, turns, rejected)


def test_views_know_the_other_defects_of_their_picture(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (90, 90, 90)).save(tmp_path / "a.png")
    masks: list[Mask] = []
    for number in range(4):
        mask = np.zeros((30, 40), np.bool_)
        mask[5 * number : 5 * number + 8, 3:20] = True  # each overlaps the next one
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"{number}_mask.png")
        masks.append(mask)
    defects = tuple(Defect("dent", MaskFile(tmp_path / f"{number}_mask.png")) for number in range(4))
    views = read_views([Sample(tmp_path / "a.png", defects), Sample(tmp_path / "a.png", defects[:1])], "texture")
    assert len(views) == 5
    assert views[4].others is None
    for number, view in enumerate(views[:4]):
        others = np.logical_or.reduce([mask for other, mask in enumerate(masks) if other != number])
        assert view.others is not None
        assert np.array_equal(view.others, others)
