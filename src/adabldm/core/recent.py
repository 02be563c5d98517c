"""Values that are likely to be asked for again, such as what the networks make of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


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
