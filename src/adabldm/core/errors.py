"""The errors that a user sees: each names the file or argument, what was expected and the way out."""

from __future__ import annotations

from collections.abc import Iterable


def as_text(value: object) -> str:
    """Text that can be printed and written, also of a path whose bytes are not UTF-8."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def is_text(value: object) -> bool:
    """Whether text, or a path, can be written as UTF-8."""
    return as_text(value) == str(value)


class AdaBLDMError(Exception):
    """Base of every error that AdaBLDM raises on purpose."""


class InputError(AdaBLDMError):
    """The user's input cannot be used; raised before any training or writing starts.

    Args:
        problems: one sentence, or several when a whole folder was checked in one go.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = tuple(map(as_text, (problems,) if isinstance(problems, str) else problems))
        super().__init__("\n".join(self.problems))


class EmptyMaskError(InputError):
    """A defect mask has no defect pixel."""


class OutputError(AdaBLDMError):
    """A result could not be written (full disk, missing permission); nothing half-written was left."""


class ModelError(AdaBLDMError):
    """The networks gave values that cannot be used, such as numbers that are not finite; nothing was made of them."""


def portable(error: AdaBLDMError) -> AdaBLDMError:
    """An error of the same kind that another process can read, whatever its class holds beside its sentence."""
    kind = next(one for one in (InputError, ModelError, OutputError, AdaBLDMError) if isinstance(error, one))
    return kind(str(error))
