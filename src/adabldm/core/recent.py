"""Values that are likely to be asked for again, such as what the networks make of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Stamp:
    """When a file was changed, so that what was read of it can be kept until it is another."""

    path: Path
    changed: int
    size: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of a file; of an empty one where there is none."""
        try:
            found = path.stat()
        except OSError:
            return cls(path, 0, 0)
        return cls(path, found.st_mtime_ns, found.st_size)


class Recent(Generic[Key, Value]):
    """The values that were made last, by key.

    Several threads may ask; two that ask for a new key at once both make its value.

    Args:
        most: number of values that are kept; the oldest is forgotten first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Key, Value] = {}

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, made if it is not known."""
        known = self._values.get(key)
        if known is None:
            known = make()
            self._values[key] = known
            for oldest in list(self._values)[: -self._most]:
                self._values.pop(oldest, None)
        return known
