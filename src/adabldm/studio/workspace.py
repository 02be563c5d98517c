"""Which folders the studio reads and writes, and what can be chosen in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from adabldm.core.errors import InputError
from adabldm.core.images import is_image_file
from adabldm.data.formats.folders import GOOD_NAMES
from adabldm.data.generated import MANIFEST
from adabldm.models.store import CARD, RENDERING, shipped_runs
from adabldm.service.roots import Roots, real_path
from adabldm.service.runs import Runs
from adabldm.workflows.samples import surface_pictures

SAMPLES = "samples"
"""Name of the pictures that ship, which are shown where no data set is given."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,60}")
DEPTH = 3
"""How deep data sets are looked for below a root."""
MOST_FOLDERS = 500
"""Folders of one folder that are looked into."""
MOST_NAMES = 2000
"""Names in a folder by which a data set is recognised."""
ANNOTATED = (".json", ".xml")
"""Ends of the names of annotation files."""
REPORT = "evaluation.json"
COMMON_NAMES = frozenset({"data", "dataset", "images", "output", "out", "results"})
"""Names of folders that say nothing without the folder that they are in."""


@dataclass(frozen=True)
class Place:
    """A folder that can be chosen: its path as text, and the words for it."""

    path: str
    label: str


@dataclass(frozen=True)
class Workspace:
    """The folders of a studio; nothing outside of the roots is reached by any name or link.

    Attributes:
        roots: folders that may be touched.
        runs: that are offered.
        work: holds what the studio makes: kept images, uploads, runs, generated folders; it lies in a root.
        run: name of the run that is chosen at first.
        data: data set that is chosen at first.
        folder: generated folder that is chosen at first.
    """

    roots: Roots
    runs: Runs
    work: Path
    run: str | None = None
    data: Path | None = None
    folder: Path | None = None

    def resolve(self, name: str) -> Path:
        """A file or folder by its path as text.

        Raises:
            ForbiddenError: it lies in no root.
        """
        return self.roots.resolve(name, "folder")

    def inside(self, root: Path, name: str) -> Path:
        """A file below a folder by its relative path.

        Raises:
            InputError: it is not below the folder.
        """
        path = real_path(root / name)
        if path is None or path == root.resolve() or not path.is_relative_to(root.resolve()):
            raise InputError(f"{name[:200]!r}: not a file of {root}; choose one that is shown.")
        return path

    def new_folder(self, part: str, name: str) -> Path:
        """A folder of a user's name in a part of the work folder, such as "kept".

        Raises:
            InputError: the name cannot be used.
        """
        if not NAME.fullmatch(name):
            raise InputError(
                f"name {name[:80]!r}: expected letters, digits, spaces, dots, dashes or underscores, at most 61 of "
                "them and a letter or digit first; choose another name."
            )
        return self.work / part / name

    def data_sets(self) -> list[Place]:
        """Data sets that can be chosen, the given one first."""
        given = [self.data] if self.data is not None else []
        found = (path for root in self.roots.folders for path in _below(root, DEPTH) if _is_data_set(path))
        return _places([*given, *found])

    def generated(self) -> list[Place]:
        """Folders with generated images, the given one first."""
        given = [self.folder] if self.folder is not None else []
        return _places([*given, *self.roots.find(MANIFEST)])

    def evaluations(self) -> list[Place]:
        """Folders with the report of an evaluation."""
        return _places(list(self.roots.find(REPORT)))

    def run_places(self) -> list[Place]:
        """Runs by the names that requests use: the given one, one's own, and those that ship.

        Of those that ship, the one that draws on every surface is the first.
        """
        shipped, cards = shipped_runs(), self.runs.cards()
        usual = [name for name in shipped if cards[name].method == RENDERING]
        places = [
            Place(name, f"{Path(name).name} ({'ships with AdaBLDM' if name in shipped else card.object_name})")
            for name, card in cards.items()
        ]
        return sorted(
            places, key=lambda place: (place.path != self.run, place.path in shipped, place.path not in usual)
        )


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """A folder and those below it that can be data sets, in a fixed order; links are not followed."""
    if (folder / MANIFEST).is_file() or (folder / CARD).is_file():
        return
    yield folder
    if depth == 0 or _is_data_set(folder):
        return
    try:
        inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return
    for path in inner[:MOST_FOLDERS]:
        if not path.is_symlink():
            yield from _below(path, depth - 1)


def _is_data_set(folder: Path) -> bool:
    """Whether a folder looks like a data set by the names in it and one level below; no file is opened."""
    names = _names(folder)
    if names & {"ground_truth", "annotations", "data.yaml", "data.yml"} or names & GOOD_NAMES:
        return True
    if (folder / "Data/Images/Normal").is_dir() or any(name.endswith("_gt.png") for name in names):
        return True
    inner = [found for name in ("train", "test", "images") if name in names for found in _names(folder / name)]
    if any(name in GOOD_NAMES or name.endswith("_gt.png") for name in inner):
        return True
    pictures = inner or any(is_image_file(Path(name)) for name in names)
    return bool(pictures) and any(name.endswith(ANNOTATED) for name in (*names, *inner))


def _names(folder: Path) -> set[str]:
    """Names in a folder, in lower case; the first `MOST_NAMES`."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name.lower() for entry in islice(entries, MOST_NAMES)}
    except OSError:
        return set()


def _places(found: Sequence[Path]) -> list[Place]:
    paths = list(dict.fromkeys(path.expanduser().resolve() for path in found))
    names = [path.name for path in paths]
    return [
        Place(str(path), path.name if _tells(path.name, names) else f"{path.parent.name}/{path.name}") for path in paths
    ]


def _tells(name: str, names: Sequence[str]) -> bool:
    """Whether the name of a folder says which one it is."""
    return names.count(name) == 1 and name.lower() not in COMMON_NAMES


def shipped_samples() -> dict[str, Path]:
    """The pictures that ship, by name."""
    return {path.name: path for path in surface_pictures()}
