"""Which folders may be read and written: what a client names lies below a root, also behind links."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from adabldm.core.errors import InputError, is_text
from adabldm.core.settings import FieldProblem, SettingsError
from adabldm.core.settings.presets import FILES
from adabldm.data.decisions import DECISIONS
from adabldm.data.generated import MANIFEST

DEEPEST = 4
"""Levels of folders below a root that are searched for runs and generated folders."""
MOST_FOLDERS = 20_000
"""Folders that a search looks into at most, so that a root with millions of them does not stall the service."""
PATHS: Mapping[str, tuple[str, ...]] = {
    "fit": ("data", "out", "foreground_folder"),
    "generate": ("data", "out", "foreground_folder", "onto", "export_out", "with", "real"),
    "evaluate": ("data", "out"),
    "export": ("folder", "out", "with", "real"),
}
"""Settings of each command that name a folder."""
DATA_SETS = frozenset({"data", "with", "real", "folder", "foreground_folder", "onto", "roi"})
"""Settings whose folder is read as a whole."""
READ = ("data", "with", "real")
"""Settings that name a data set in which `INNER` are looked for."""
INNER = ("good_folder", "bad_folder", "mask_folder")
"""Settings that name folders of a data set."""


def real_path(place: Path) -> Path | None:
    """A path with all links followed; `None` where that cannot be done."""
    try:
        real = place.resolve()
        with suppress(FileNotFoundError, NotADirectoryError):
            real.stat()  # a name that is too long can be resolved, with Python 3.13 also a loop of links, but no more
        # Behind a loop of links that ".." left, links are not followed at first.
        return real if real == real.resolve() else None
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a name that is no path
        return None


class ForbiddenError(InputError):
    """A path that lies in no root."""


class Roots:
    """The folders that a service may touch.

    Args:
        folders: the first one holds what is named by a relative path and does not exist yet.

    Raises:
        SettingsError: one is no folder.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        missing = [str(folder) for folder in folders if not folder.expanduser().is_dir()]
        if missing:
            raise SettingsError([FieldProblem("root", f"{missing[0]} is no folder; check the path")])
        self.folders = tuple(dict.fromkeys(folder.expanduser().resolve() for folder in folders))

    @property
    def first(self) -> Path:
        """Where relative paths of new things begin."""
        return self.folders[0]

    def resolve(self, name: str | Path, field: str = "path") -> Path:
        """The path that a client means, with all links followed.

        Args:
            name: absolute, or relative to a root; the first root wins that has it.
            field: names it in the error.

        Raises:
            ForbiddenError: it lies in no root.
        """
        text = str(name)
        given = Path(text)
        places = [given] if given.is_absolute() else [root / given for root in self.folders]
        if "\0" not in text and text:
            chosen = next((place for place in places if os.path.lexists(place)), places[0])
            real = self._real(chosen)
            if real is not None:
                return real
        raise ForbiddenError(
            f"{field}: {_shown(text)} lies in no folder that this service may use; name one below a root, or start the "
            "service with another --root."
        )

    def _real(self, place: Path) -> Path | None:
        """A path without links, if it lies in a root."""
        real = real_path(place)
        return real if real is not None and any(real.is_relative_to(root) for root in self.folders) else None

    def allows(self, path: Path) -> bool:
        """Whether a path, with all links followed, lies in a root."""
        return self._real(path.absolute()) is not None

    def name(self, path: Path) -> str:
        """A path as clients name it: relative to its root if `resolve` finds it by that, else absolute.

        A root itself is absolute, too, because no address can end in a dot.
        """
        real = path.resolve()
        root = next((one for one in self.folders if one in real.parents), None)
        short = "" if root is None else real.relative_to(root).as_posix()
        return short if short and self.resolve(short) == real else real.as_posix()

    def find(self, mark: str) -> Iterator[Path]:
        """Folders in the roots that hold a file named `mark`, sorted; links are not followed.

        Those whose name is no text are left out, because no request could name them.
        """
        left = MOST_FOLDERS
        for root in self.folders:
            for place, folders, files in os.walk(root, followlinks=False):
                depth = len(Path(place).relative_to(root).parts)
                folders[:] = sorted(one for one in folders if not one.startswith(".")) if depth < DEEPEST else []
                left -= 1
                if mark in files:
                    folders.clear()
                    if is_text(self.name(Path(place))):
                        yield Path(place)
                if left <= 0:
                    return

    def check_links(self, folder: Path, field: str) -> None:
        """Refuse a folder with a link in it that leads out of the roots.

        Raises:
            ForbiddenError: there is one.
        """
        for place, folders, files in os.walk(folder, followlinks=False):
            for name in (*folders, *files):
                path = Path(place) / name
                if path.is_symlink() and not self.allows(path):
                    raise ForbiddenError(
                        f"{field}: {path} is a link that leads out of the folders that this service may use; start it "
                        "with its target as another --root."
                    )


def check_records(roots: Roots, folder: Path) -> None:
    """Refuse a folder of generated images whose records lead elsewhere.

    Raises:
        ForbiddenError: the manifest or the decisions are a link out of the roots.
    """
    for name in (MANIFEST, DECISIONS):
        if not roots.allows(folder / name):
            raise ForbiddenError(f"folder {folder.name}: its {name} is a link that leads out of the roots.")


def confine(command: str, values: Mapping[str, Any], roots: Roots, runs: Mapping[str, Path]) -> dict[str, Any]:
    """The settings of a command with every path in them made absolute and checked.

    Args:
        command: "fit", "generate", "evaluate" or "export".
        values: as the client gave them; what is no text stays as it is, for the settings to judge.
        roots: what may be touched.
        runs: folders of the runs that are offered, by name.

    Raises:
        SettingsError: a path that may not be used, by its field.
    """
    confined = dict(values)
    problems: list[FieldProblem] = []

    def put(field: str, change: Any) -> None:
        try:
            confined[field] = change(confined[field])
        except InputError as error:
            problems.append(FieldProblem(field, str(error).removeprefix(f"{field}: ")))

    for field in PATHS[command]:
        if isinstance(confined.get(field), str):
            put(field, lambda value, field=field: str(_folder(value, field, roots)))
    for field in INNER:
        if isinstance(confined.get(field), list | tuple):
            put(field, lambda value, field=field: _inner(value, field, confined, roots))
    if isinstance(confined.get("run"), str):
        put("run", lambda value: str(runs[value] if value in runs else roots.resolve(value, "run")))
    if isinstance(confined.get("base"), str):
        put("base", lambda value: _base(value, roots))
    if isinstance(confined.get("preset"), str):
        put("preset", lambda value: _preset(value, roots))
    for field, change in (("condition", _condition), ("roi", _region), ("lora", _lora)):
        if isinstance(confined.get(field), list | tuple):
            put(field, lambda value, change=change: [change(one, roots) for one in value])
    if confined.get("ray") is not None:
        problems.append(FieldProblem("ray", "given, but jobs work on the service's own machine; leave it out"))
    if problems:
        raise SettingsError(problems)
    return confined


def confine_comparison(values: Mapping[str, Any], roots: Roots) -> dict[str, Any]:
    """Settings of `curate` with the path of their data set made absolute and checked.

    Raises:
        ForbiddenError: it lies in no root, or leads out of them.
    """
    confined = dict(values)
    if isinstance(confined.get("data"), str):
        confined["data"] = str(_folder(confined["data"], "data", roots))
    for field in INNER:
        if isinstance(confined.get(field), list):
            _inner(confined[field], field, confined, roots)
    return confined


def _inner(value: Any, field: str, values: Mapping[str, Any], roots: Roots) -> Any:
    """Folders of data sets, as they were given; refused if they are not in the roots."""
    bases = [Path(values[name]) for name in READ if isinstance(values.get(name), str)]
    for name in value:
        for base in bases if isinstance(name, str) else ():
            roots.check_links(roots.resolve(base / name, field), field)
    return value


def _folder(value: str, field: str, roots: Roots) -> Path:
    path = roots.resolve(value, field)
    if field in DATA_SETS:
        roots.check_links(path, field)
    if field == "out" and path in roots.folders:
        raise InputError(f"{field}: {_shown(value)} is a root itself; name a new folder in it.")
    return path


def _base(value: str, roots: Roots) -> str:
    from adabldm.models.store import shipped

    if shipped(value) is not None:
        return value
    path = roots.resolve(value, "base")
    if not path.is_dir():
        raise InputError(
            f"base: {_shown(value)} was given, expected a base that ships, such as tiny, or a folder in a root; fetch "
            "one of the hub on the command line."
        )
    return str(path)


def _preset(value: str, roots: Roots) -> str:
    return str(roots.resolve(value, "preset")) if value.lower().endswith(FILES) else value


def _condition(value: Any, roots: Roots) -> Any:
    if not isinstance(value, str):
        return value
    kind, _, rest = value.partition(":")
    if kind == "folder":
        return f"folder:{_folder(rest, 'folder', roots)}"
    return f"{kind}:{_preset(rest, roots)}" if rest else value


def _region(value: Any, roots: Roots) -> Any:
    """PATH or TYPE=PATH."""
    if not isinstance(value, str):
        return value
    defect, separator, path = value.rpartition("=")
    return f"{defect}{separator}{_folder(path, 'roi', roots)}"


def _lora(value: Any, roots: Roots) -> Any:
    """FILE or FILE=WEIGHT."""
    if not isinstance(value, str):
        return value
    path, separator, weight = value.partition("=")
    return f"{roots.resolve(path, 'lora')}{separator}{weight}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]}…")
