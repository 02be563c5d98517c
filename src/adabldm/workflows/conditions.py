"""The synthetic images of each condition of an evaluation, written as data sets and read back.

All conditions edit the same sources at the same places with the same masks (`perlin` draws its own outlines there), so
that only the appearance differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from adabldm.data.folder import open_data_set
from adabldm.data.generated import GeneratedFolder, read_manifest
from adabldm.editing.presets import PRESETS, get_preset
from adabldm.errors import InputError
from adabldm.evaluation.baselines import (
    OPACITY,
    copy_paste,
    fill,
    foreign_texture,
    perlin_mask,
    poisson_paste,
)
from adabldm.evaluation.labelled import Labelled
from adabldm.images import Mask, Pixels, read_mask, read_picture
from adabldm.seeding import numpy_rng
from adabldm.selection.scores import score
from adabldm.workflows.sources import Scene, SceneMaker

REAL = "real"
BASELINES = ("copy-paste", "nsa", "perlin")


@dataclass(frozen=True)
class Condition:
    """What is added to the real training images: `kind` is "real", "baseline", "adabldm" or "folder".

    Attributes:
        name: as the user gave it.
        kind: where its images come from.
        value: the preset of "adabldm", with its changes if there are any ("fast,start=0"), the path of "folder".
    """

    name: str
    kind: str
    value: str = ""

    @property
    def file_name(self) -> str:
        """The name, fit for a file."""
        return file_name(self.name)


def file_name(condition: str) -> str:
    """A condition's name, fit for a file."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in condition)


def parse_conditions(names: Sequence[str]) -> list[Condition]:
    """Conditions by name, in the order given.

    Raises:
        InputError: none, an unknown one, an unknown preset, a folder that is not there, or one named twice.
    """
    if not names:
        raise InputError("--condition: none given, expected at least one, such as real.")
    conditions = [_parse(name) for name in names]
    folders = [Path(one.value).resolve() if one.kind == "folder" else one.name for one in conditions]
    twice = [one.name for one, own in zip(conditions, folders, strict=True) if folders.count(own) > 1]
    files = [one.file_name for one in conditions]
    twice += [one.name for one in conditions if files.count(one.file_name) > 1]
    if twice:
        raise InputError(f"--condition {twice[0]}: named twice, expected different ones; leave one out.")
    return conditions


def _parse(name: str) -> Condition:
    kind, _, value = name.partition(":")
    if name == REAL:
        return Condition(name, REAL)
    if name in BASELINES:
        return Condition(name, "baseline")
    if kind == "adabldm" and value.split(",")[0] in PRESETS:
        get_preset(value)
        return Condition(name, kind, value)
    if kind == "folder" and value:
        if not Path(value).expanduser().is_dir():
            raise InputError(f"--condition {name}: no such folder; check the path.")
        return Condition(name, kind, str(Path(value).expanduser()))
    raise InputError(
        f"--condition {name}: unknown, expected {REAL}, {', '.join(BASELINES)}, adabldm:PRESET ({', '.join(PRESETS)}) "
        "or folder:PATH."
    )


def write_baseline(
    name: str, maker: SceneMaker, types: Sequence[str], count: int, out: Path, *, seed: int, quiet: bool
) -> Path:
    """Make the images of one of `BASELINES`; a rerun goes on where it stopped.

    Scene i is the one that `generate` edits first for image i under the same seed.

    Raises:
        InputError: `out` was made by other settings.
        OutputError: full disk.
    """
    folder = GeneratedFolder(out)
    folder.open({"condition": name, "types": list(types), "seed": seed, "sources": len(maker.data_set.good)})
    finished = folder.finished()
    for index in tqdm(range(count), desc=name, unit="img", disable=quiet):
        if index in finished:
            continue
        defect = types[index % len(types)]
        scene = maker.draw(defect, seed, index, 0)
        pixels, mask = _METHODS[name](scene, maker, numpy_rng("baseline", name, seed, index))
        scores = {key: round(float(value), 4) for key, value in vars(score(pixels, scene.picture.pixels, mask)).items()}
        record = {
            "index": index,
            "source": scene.path,
            "defect": defect,
            "object": maker.data_set.object_name,
            "prompt": "",
            "seed": seed,
            "preset": name,
            "adapt": "none",
            **scores,
            "shape": scene.shape.source,
            "model": "none",
        }
        folder.add(index, pixels, mask, record, grey=scene.picture.grey)
    folder.finish()
    return out


def _real_defect(scene: Scene) -> Pixels:
    """The real defect that the scene's mask comes from, laid over the scene."""
    assert scene.reference is not None
    return scene.reference


def _copied(scene: Scene, maker: SceneMaker, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    del rng
    return copy_paste(scene.picture.pixels, _real_defect(scene), scene.mask), scene.mask


def _cloned(scene: Scene, maker: SceneMaker, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    del rng
    return poisson_paste(scene.picture.pixels, _real_defect(scene), scene.mask), scene.mask


def _filled(scene: Scene, maker: SceneMaker, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    mask = perlin_mask(scene.mask, scene.foreground, rng)
    good = maker.data_set.good
    other = read_picture(good[int(rng.integers(len(good)))].image).pixels
    texture = foreign_texture(other, (mask.shape[0], mask.shape[1]), rng)
    return fill(scene.picture.pixels, texture, mask, float(rng.uniform(*OPACITY))), mask


_METHODS: dict[str, Callable[[Scene, SceneMaker, np.random.Generator], tuple[Pixels, Mask]]] = {
    "copy-paste": _copied,
    "nsa": _cloned,
    "perlin": _filled,
}


def read_synthetic(folder: Path, sources: Path, count: int, mask_threshold: int | None = None) -> list[Labelled]:
    """The first `count` images of a generated folder; of one without a manifest, `count` evenly over its types.

    Args:
        folder: in the MVTec AD layout, with or without `manifest.jsonl`.
        sources: the folder that the manifest's sources are relative to; a source that is not there is left out.
        count: images in all.
        mask_threshold: for masks that are not binary.

    Raises:
        InputError: there are fewer, or files are broken.
    """
    records = list(read_manifest(folder).values())
    if records:
        _check_count(folder, len(records), count)
        return [_read_record(folder, sources, record, mask_threshold) for record in records[:count]]
    data_set = open_data_set(folder, mask_threshold=mask_threshold, require_defects=True, require_good=False)
    found = data_set.defects
    turns = max(len(samples) for samples in found.values())
    ordered = [samples[turn] for turn in range(turns) for samples in found.values() if turn < len(samples)]
    _check_count(folder, len(ordered), count)
    return [
        Labelled(
            read_picture(sample.image).pixels,
            read_mask(sample.mask, threshold=mask_threshold),
            sample.defect,
            synthetic=True,
        )
        for sample in ordered[:count]
        if sample.mask is not None
    ]


def _read_record(folder: Path, sources: Path, record: dict[str, Any], mask_threshold: int | None) -> Labelled:
    pixels = read_picture(folder / record["image"]).pixels
    mask = read_mask(folder / record["mask"], threshold=mask_threshold)
    if mask.shape != pixels.shape[:2]:
        raise InputError(f"{folder / record['mask']}: not of its image's size; export the mask at the image's size.")
    defect, source = str(record.get("defect", "defect")), _source(sources, record.get("source"), pixels)
    return Labelled(pixels, mask, defect, source, synthetic=True)


def _source(root: Path, name: object, result: Pixels) -> Pixels | None:
    """A result's source; `None` where it is not there, or of another size and so another image."""
    path = root / str(name)
    pixels = read_picture(path).pixels if name and path.is_file() else None
    return pixels if pixels is not None and pixels.shape == result.shape else None


def _check_count(folder: Path, found: int, wanted: int) -> None:
    if found < wanted:
        raise InputError(
            f"{folder}: {found} synthetic images, expected {wanted}; make more, or ask for --count {found}."
        )
