"""The runs that a service offers: those that ship, those that were named, and those that lie in its roots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adabldm.core.errors import InputError
from adabldm.core.records import RunCard
from adabldm.models.store import CARD, find_run, read_card, shipped_runs
from adabldm.service.roots import ForbiddenError, Roots


class UnknownRunError(InputError):
    """There is no run of that name."""


class Runs:
    """Runs by name.

    Args:
        named: folders of runs, or names of runs that ship; each is offered under its last part.
        roots: where other runs are looked for, such as those that a job has just fitted; none if left out.

    Raises:
        InputError: a named one is no finished run, or two have one name.
    """

    def __init__(self, named: Sequence[str | Path] = (), roots: Roots | None = None) -> None:
        self.roots = roots
        self._fixed: dict[str, Path] = {}
        for one in (*shipped_runs(), *named):
            folder = find_run(one).resolve()
            name = folder.name
            if self._fixed.setdefault(name, folder) != folder:
                raise InputError(f"run {one}: another run is named {name!r} already; rename its folder.")

    def folders(self) -> dict[str, Path]:
        """Folder of every run by its name; where a fixed one has the name of another, that is called by its path."""
        found = dict(self._fixed)
        if self.roots is not None:
            known = set(found.values())
            found.update({self.name(place): place for place in self.roots.find(CARD) if place not in known})
        return found

    def name(self, folder: Path) -> str:
        """The name by which `find` finds a run in the roots; its path where a fixed one is called as it is."""
        real = folder.resolve()
        name = real.as_posix() if self.roots is None else self.roots.name(real)
        return real.as_posix() if self._fixed.get(name, real) != real else name

    def cards(self) -> dict[str, RunCard]:
        """Card of every run that can be read, by name."""
        cards = {}
        for name, folder in self.folders().items():
            try:
                cards[name] = read_card(folder)
            except InputError:  # damaged, or of a later version: naming it tells why
                continue
        return cards

    def find(self, name: str) -> Path:
        """Folder of a run.

        Raises:
            UnknownRunError: there is none of that name.
        """
        if name in self._fixed:
            return self._fixed[name]
        if self.roots is not None:
            try:
                folder = self.roots.resolve(name, "run")
            except ForbiddenError:
                folder = None
            if folder is not None and (folder / CARD).is_file():
                return folder
        known = ", ".join(list(self.folders())[:20]) or "none"
        raise UnknownRunError(f"run {name[:200]!r}: unknown, expected one of {known}.")
