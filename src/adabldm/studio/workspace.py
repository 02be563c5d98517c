"""Which folders the studio reads and writes: nothing outside of them is reached by any name or link."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adabldm.core.errors import InputError
from adabldm.core.images import is_image_file
from adabldm.data.formats import READERS
from adabldm.data.generated import MANIFEST
from adabldm.models.store import CARD, read_card, shipped_runs
from adabldm.workflows.demo import sample_images

SAMPLES = "samples"
"""Name of the pictures that ship, which are shown where no data set is given."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,60}")
DEPTH = 2
"""How deep folders of data sets, runs and images are looked for below a root."""


@dataclass(frozen=True)
class Place:
    """A folder that can be chosen: its path as text, and the words for it."""

    path: str
    label: str


@dataclass(frozen=True)
class Workspace:
    """The folders of a studio.

    Attributes:
        work: holds everything that the studio makes: kept images, uploads, runs, jobs.
        run: run that is chosen at first.
        data: data set that is chosen at first.
        folder: generated folder that is chosen at first.
        roots: further folders below which data sets and runs may be read and written.
    """

    work: Path
    run: str | None = None
    data: Path | None = None
    folder: Path | None = None
    roots: tuple[Path, ...] = ()

    @property
    def allowed(self) -> tuple[Path, ...]:
        """Folders below which everything may be read, without links."""
        run = [] if self.run is None or self.run in shipped_runs() else [Path(self.run)]
        chosen = [one for one in (self.work, self.data, self.folder, *run, *self.roots) if one is not None]
        return tuple(dict.fromkeys(one.expanduser().resolve() for one in chosen))

    def resolve(self, name: str) -> Path:
        """A file or folder by its path as text.

        Raises:
            InputError: it lies outside the studio's folders.
        """
        if "\0" in name:
            raise InputError("path: it holds a null character; write another one.")
        path = Path(name).expanduser().resolve()
        if not any(path.is_relative_to(root) for root in self.allowed):
            shown = ", ".join(map(str, self.allowed))
            raise InputError(
                f"{name}: outside of the studio’s folders, expected a path below one of {shown}; start the studio with "
                "--root for that folder."
            )
        return path

    def inside(self, root: Path, name: str) -> Path:
        """A file below a folder by its relative path.

        Raises:
            InputError: it is not below the folder.
        """
        path = (root / name).resolve() if "\0" not in name else root
        if path == root.resolve() or not path.is_relative_to(root.resolve()):
            raise InputError(f"{name!r}: not a file of {root}; choose one that is shown.")
        return path

    def new_folder(self, part: str, name: str) -> Path:
        """A folder of a user's name in a part of the work folder, such as "kept".

        Raises:
            InputError: the name cannot be used.
        """
        if not NAME.fullmatch(name):
            raise InputError(
                f"name {name!r}: expected letters, digits, spaces, dots, dashes or underscores, at most 61 of them and "
                "a letter or digit first; choose another name."
            )
        return self.work / part / name

    def data_sets(self) -> list[Place]:
        """Data sets that can be chosen."""
        found = [self.data] if self.data is not None else []
        found += [path for path in self._folders() if _is_data_set(path)]
        return _places(found)

    def generated(self) -> list[Place]:
        """Folders with generated images."""
        found = [self.folder] if self.folder is not None else []
        return _places([*found, *(path for path in self._folders() if (path / MANIFEST).is_file())])

    def evaluations(self) -> list[Place]:
        """Folders with the report of an evaluation."""
        return _places([path for path in self._folders() if (path / "evaluation.json").is_file()])

    def runs(self) -> list[Place]:
        """Runs: the given one, those that were found, those that ship."""
        folders = [path for path in self._folders() if (path / CARD).is_file()]
        if self.run is not None and self.run not in shipped_runs():
            folders.insert(0, Path(self.run).expanduser().resolve())
        places = []
        for path in dict.fromkeys(folders):
            try:
                places.append(Place(str(path), f"{path.name} ({read_card(path).object_name})"))
            except InputError:
                continue
        shipped = [Place(name, f"{name} (ships with AdaBLDM)") for name in shipped_runs()]
        shipped.sort(key=lambda place: place.path != self.run)
        return [*places, *shipped] if self.run not in shipped_runs() else [*shipped, *places]

    def _folders(self) -> Iterator[Path]:
        """Folders below the roots, in a fixed order and without hidden ones."""
        for root in self.allowed:
            yield from _below(root, DEPTH)


def _below(folder: Path, depth: int) -> Iterator[Path]:
    if not folder.is_dir():
        return
    yield folder
    if depth == 0 or (folder / MANIFEST).is_file() or (folder / CARD).is_file():
        return
    try:
        inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return
    for path in inner[:500]:
        if not path.is_symlink():
            yield from _below(path, depth - 1)


def _is_data_set(folder: Path) -> bool:
    if (folder / MANIFEST).is_file() or (folder / CARD).is_file():
        return False
    try:
        return any(reader.detects(folder) for reader in READERS.values())
    except OSError:
        return False


def _places(found: Sequence[Path]) -> list[Place]:
    paths = list(dict.fromkeys(path.expanduser().resolve() for path in found))
    names = [path.name for path in paths]
    return [
        Place(str(path), path.name if names.count(path.name) == 1 else f"{path.parent.name}/{path.name}")
        for path in paths
    ]


def shipped_samples() -> dict[str, Path]:
    """The pictures that ship, by name."""
    return {path.name: path for path in sample_images() if is_image_file(path)}
