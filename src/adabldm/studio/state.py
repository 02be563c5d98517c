"""What the rooms of a studio share."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from adabldm.core.records import RunCard
from adabldm.models.store import find_run, read_card, shipped_runs
from adabldm.studio.keeping import Keeper
from adabldm.studio.library import Library
from adabldm.studio.painting import Painter
from adabldm.studio.pictures import Cache
from adabldm.studio.workspace import Workspace


@dataclass(frozen=True)
class Studio:
    """Everything that the pages work with."""

    workspace: Workspace
    library: Library
    painter: Painter
    keeper: Keeper
    thumbs: Cache[Hashable, bytes] = field(default_factory=lambda: Cache(6000))

    def card(self, run: str) -> RunCard:
        """The card of a run; raises `InputError`."""
        if run not in shipped_runs():
            self.workspace.resolve(run)
        return read_card(find_run(run))
