"""Data with many files, defects and lines: what replaces a slow way gives the same, and reads nothing twice."""

from __future__ import annotations

import itertools
import json
from array import array
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from torch.nn import functional as F

from adabldm.core import samples
from adabldm.core.errors import EmptyMaskError
from adabldm.core.images import Mask, read_picture
from adabldm.core.mask_files import read_mask
from adabldm.core.opening import open_header
from adabldm.core.records import ImageRecord
from adabldm.core.samples import DataSet, Defect, Instance, MaskFile, Sample
from adabldm.core.settings import GenerateSettings
from adabldm.data.content import packed
from adabldm.data.formats import numbered
from adabldm.data.formats.shapes import PolygonMask
from adabldm.data.generated import GeneratedFolder, read_finished, read_manifest
from adabldm.production import scenes
from adabldm.production.learnt import RealChanges
from adabldm.production.plan import ProductionPlan
from adabldm.production.scenes import SceneMaker
from adabldm.selection.likeness import Look, nearest_real
from adabldm.service.jobs import JobQueue
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


def generate_settings(count: int) -> GenerateSettings:
    """Settings that replace rejected images."""
    return GenerateSettings.create(
        {"run": "surface", "data": "d", "out": "o", "count": count, "replace_rejected": True}
    )


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
    given_ = generate_settings(count)
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
    assert views[4].every is None
    for number, view in enumerate(views[:4]):
        others = np.logical_or.reduce([mask for other, mask in enumerate(masks) if other != number])
        assert view.every is not None
        assert view.mask is not None
        assert np.array_equal(view.every, others | view.mask)


def test_who_follows_a_job_is_given_the_end_of_its_events(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "jobs.sqlite3")
    job = queue.submit("generate", generate_settings(4))
    file = tmp_path / "jobs" / job.id / "events.jsonl"
    file.parent.mkdir(parents=True)
    texts = [f"note {number}" for number in range(9)]
    lines = [json.dumps({"event": "Note", "text": text}) + "\n" for text in texts]

    def told(after: int) -> list[tuple[int, str]]:
        return [(number, event["text"]) for number, event in queue.events(job.id, after)]

    every = list(enumerate(texts, 1))
    file.write_text("".join(lines[:4]) + lines[4][:7])
    assert told(0) == every[:4]
    file.write_text("".join(lines[:7]))
    assert told(4) == every[4:7]
    assert told(7) == []
    assert told(2) == every[2:7], "of one who has missed some"
    file.write_text("".join(lines))
    assert told(5) == every[5:], "of another one, before those that were told last"
    file.write_text("x" * 20 + file.read_text()[20:])  # what was read is not read again
    assert told(9) == []
    assert told(0)[-1] == every[-1]
    file.write_text(lines[0])
    assert told(0) == every[:1], "of a file that began anew"


def test_distances_to_real_defects_are_those_of_one_comparison_after_the_other() -> None:
    generator = torch.Generator().manual_seed(0)

    def look(name: int | str, defect: str, reference: str | None = None) -> Look:
        return Look(name, defect, F.normalize(torch.randn(48, generator=generator), dim=0), reference)

    real = [look(f"{number // 2}.png", "dent" if number < 20 else "hole") for number in range(30)]
    real.append(look("alone.png", "spot"))
    made = [look(number % 50, ("dent", "hole", "crack")[number % 3], f"{number % 9}.png") for number in range(90)]
    made.append(look(99, "spot", "alone.png"))
    expected: dict[int, float] = {}
    for one in made:
        same = [other for other in real if other.defect == one.defect]
        others = [other for other in same if other.name != one.reference] or same
        if others:
            nearest = min(1 - float(one.features @ other.features) for other in others)
            expected[int(one.name)] = max(nearest, expected.get(int(one.name), 0.0))
    assert nearest_real(made, real) == pytest.approx(expected, abs=1e-4)


def several(folder: Path, count: int) -> Sample:
    """A picture with several defects, each in a mask file of its own."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(80, 120, (64, 64, 3), dtype=np.uint8)).save(folder / "several.png")
    defects = []
    for number in range(count):
        mask = np.zeros((64, 64), np.uint8)
        mask[8 * number + 2 : 8 * number + 7, 20:30] = 255
        Image.fromarray(mask).save(folder / f"several_{number}.png")
        defects.append(Defect("dent", MaskFile(folder / f"several_{number}.png")))
    return Sample(folder / "several.png", tuple(defects))


def test_a_picture_with_several_defects_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = several(tmp_path, 7)
    Image.new("RGB", (64, 64), (100, 100, 100)).save(tmp_path / "good.png")
    data_set = DataSet(tmp_path, "plate", (Sample(tmp_path / "good.png"),), (sample,))
    read: Counter[str] = Counter()

    def noted(path: Path, reader: Any, *more: Any, **options: Any) -> Any:
        read[path.name] += 1
        return reader(path, *more, **options)

    monkeypatch.setattr(samples, "read_picture", lambda path, *more: noted(path, read_picture, *more))
    monkeypatch.setattr(samples, "read_mask", lambda path, **options: noted(path, read_mask, **options))
    SceneMaker(data_set, "texture").told_apart("dent")
    masks = {name: count for name, count in read.items() if "_" in name}
    assert read["several.png"] == 1
    assert len(masks) == 7
    assert max(masks.values()) <= 3, "in the bank, alone, and with the others"
    read.clear()
    assert len(RealChanges(data_set).measured("dent")) == 7
    assert read["several.png"] == 1


def test_an_image_of_numbers_is_decoded_once_for_all_of_its_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers, path = np.repeat(np.arange(12, dtype=np.uint8), 5)[None].repeat(9, 0), tmp_path / "numbers.png"
    Image.fromarray(numbers).save(path)
    opened: list[Path] = []

    def noted(path: Path) -> Any:
        opened.append(path)
        return open_header(path)

    monkeypatch.setattr(numbered, "open_header", noted)
    for index in range(1, 12):
        assert np.array_equal(numbered.IndexMask(path, index).read(), numbers == index)
    assert len(opened) == 1
    Image.fromarray(np.ascontiguousarray(numbers[:, ::-1][:, :-7])).save(path)
    assert np.array_equal(numbered.IndexMask(path, 3).read(), (numbers == 3)[:, ::-1][:, :-7]), "it was changed"


def test_one_record_is_that_of_the_whole_manifest(tmp_path: Path) -> None:
    folder = GeneratedFolder(tmp_path / "made")
    pixels, mask = np.full((20, 20, 3), 90, np.uint8), np.eye(20, dtype=np.bool_)
    values = {"object": "plate", "defect": "dent", "prompt": "", "source": "a.png", "preset": "fast", "seed": 0,
              "adapt": "none", "model": "none", "image": "a", "mask": "a"}  # fmt: skip
    with folder.open({}):
        for index in (1, 10, 11, 100):
            folder.add(ImageRecord.model_validate({**values, "index": index}), pixels, mask)
    known = read_manifest(folder.root)
    (folder.root / known[10].mask).unlink()
    assert {index: read_finished(folder.root, index) for index in (0, 1, 10, 11, 100)} == {
        0: None, 1: known[1], 10: None, 11: known[11], 100: known[100]
    }  # fmt: skip


def test_fewer_large_pictures_are_kept_and_the_scenes_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = several(tmp_path, 7)
    good = []
    for number in range(9):
        Image.new("RGB", (64, 64), (100 + number,) * 3).save(tmp_path / f"good{number}.png")
        good.append(Sample(tmp_path / f"good{number}.png"))
    data_set = DataSet(tmp_path, "plate", tuple(good), (sample,))
    opened: list[Path] = []

    def noted(path: Path, *more: Any) -> Any:
        opened.append(path)
        return read_picture(path, *more)

    monkeypatch.setattr(scenes, "read_picture", noted)

    def drawn() -> list[tuple[str, bytes]]:
        maker = SceneMaker(data_set, "texture")
        found = [maker.draw("dent", index) for index in range(40)]
        return [(one.path, one.mask.tobytes()) for one in found]

    many = drawn()
    assert len(opened) == len(set(opened)) == 9
    monkeypatch.setattr(scenes, "KEPT_PIXELS", 5 * 64 * 64)
    assert drawn() == many
    assert len(opened) > 18, "five of nine are kept"
