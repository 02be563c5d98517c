"""What is varied of the defects that are made, by type: their number in an image, size, turn, flips and contrast."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from adabldm.core.settings.base import Range, Settings
from adabldm.core.settings.common import DEFECTS, setting
from adabldm.core.settings.problems import FieldProblem, SettingsError, field_error, shown

Flips = Literal["both", "horizontal", "vertical", "none"]
Turn = Literal["free", "along", "real"]
MOST_DEFECTS = 100
"""Largest number of defects that can be asked for in one image."""
NUMBER = r"\d+(?:\.\d+)?"


class SizeRange(Settings):
    """Longest extents of defects."""

    low: float = Field(gt=0, description="Smallest one.")
    high: float = Field(gt=0, description="Largest one.")
    unit: Literal["px", "%"] = Field(description="Pixels, or percent of the object's shorter side.")

    def in_px(self, room: int) -> tuple[float, float]:
        """(smallest, largest) in px, at least 1.

        Args:
            room: the object's shorter side in px.
        """
        factor = room / 100 if self.unit == "%" else 1.0
        return max(1.0, self.low * factor), max(1.0, self.high * factor)


class Variation(Settings):
    """How defects of one type vary.

    Attributes:
        number: (fewest, most) in one image.
        size: their longest extents; those of the real ones, times 0.85 to 1.15, if left out.
        turn: "free": by any angle; "along": along the local direction, as the real one lies along its own; "real": by
            at most `degrees` from the real one's.
        degrees: see `turn`.
        flips: ways in which they are mirrored at random.
        contrast: factor of the real defect's contrast; that of the preset if left out.
    """

    number: tuple[int, int] = (1, 1)
    size: SizeRange | None = None
    turn: Turn = "free"
    degrees: float = 0.0
    flips: Flips = "both"
    contrast: Range | None = None

    @property
    def angles(self) -> tuple[float, float]:
        """(smallest, largest) angle in degrees by which a shape is turned before it is placed."""
        return {"free": (0.0, 360.0), "along": (0.0, 0.0)}.get(self.turn, (-self.degrees, self.degrees))


def _number(text: str) -> dict[str, Any] | None:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if found is None:
        return None
    low, high = int(found[1]), int(found[2] or found[1])
    return {"number": (low, high)} if 1 <= low <= high <= MOST_DEFECTS else None


def _size(text: str) -> dict[str, Any] | None:
    found = re.fullmatch(rf"({NUMBER})(?:-({NUMBER}))?(px|%)", text)
    if found is None:
        return None
    low, high = float(found[1]), float(found[2] or found[1])
    return {"size": {"low": low, "high": high, "unit": found[3]}} if 0 < low <= high else None


def _turn(text: str) -> dict[str, Any] | None:
    if text in ("free", "along"):
        return {"turn": text}
    found = re.fullmatch(rf"(?:real)?(?:±|\+-|\+/-)?({NUMBER})(?:°)?", "0" if text == "none" else text)
    if found is None or float(found[1]) > 180:
        return None
    return {"turn": "real", "degrees": float(found[1])}


def _flips(text: str) -> dict[str, Any] | None:
    return {"flips": text} if text in ("both", "horizontal", "vertical", "none") else None


def _contrast(text: str) -> dict[str, Any] | None:
    found = re.fullmatch(rf"({NUMBER})(?:-({NUMBER}))?", text)
    if found is None:
        return None
    low, high = float(found[1]), float(found[2] or found[1])
    return {"contrast": (low, high)} if 0.01 <= low <= high <= 100 else None


PARSERS: Mapping[str, tuple[Callable[[str], dict[str, Any] | None], str]] = {
    "per_image": (_number, f"a number or range such as 2 or 1-4, from 1 to {MOST_DEFECTS}"),
    "size": (_size, "a range in px or percent such as 20-60px or 5-20%, the smaller number first and above 0"),
    "turn": (_turn, "free, none, along, or degrees from 0 to 180 such as 15"),
    "flips": (_flips, "both, horizontal, vertical or none"),
    "contrast": (_contrast, "a factor or range such as 0.8-1.3, from 0.01 to 100, the smaller number first"),
}
"""By field: what turns a text into fields of `Variation`, and what is expected."""


def _rules(value: object) -> object:
    """Texts such as "20-60px" or "scratch=20-60px"; a file may hold a table from types to them."""
    if isinstance(value, Mapping):
        return tuple(f"{name}={one}" for name, one in value.items())
    return tuple(str(one) for one in value) if isinstance(value, list | tuple) else (str(value),)


Rules = Annotated[tuple[str, ...], BeforeValidator(_rules)]
"""Values for all defect types, or for one of them: TYPE=VALUE."""


class VariationSettings(Settings):
    """What is varied; the last value that fits a type counts, one that names the type before one for all."""

    per_image: Rules = setting(
        "Defects in one image, such as 2 or 1-4; one if left out. By type: scratch=1-2 (repeatable).", DEFECTS, ()
    )
    mix: bool = setting("Let the defects of one image be of different types.", DEFECTS, False)
    size: Rules = setting(
        "Longest extent of a defect, such as 20-60px, or 5-20% of the object's shorter side; the real one's, times "
        "0.85 to 1.15, if left out. By type: scratch=20-60px (repeatable).",
        DEFECTS,
        (),
    )
    turn: Rules = setting(
        "How a defect is turned: free, none, along (the local direction, as the real one lies), or by at most so many "
        "degrees from the real one's angle, such as 15; free if left out. By type: scratch=along (repeatable).",
        DEFECTS,
        (),
    )
    flips: Rules = setting(
        "How a defect is mirrored at random: both (ways), horizontal, vertical or none; both if left out. By type: "
        "scratch=none (repeatable).",
        DEFECTS,
        (),
    )
    contrast: Rules = setting(
        "Factor of the real defect's contrast, such as 0.8-1.3; the preset's if left out. By type: scratch=1-1.5 "
        "(repeatable).",
        DEFECTS,
        (),
    )

    @model_validator(mode="after")
    def _rules_can_be_read(self) -> Self:
        for field, (parse, expected) in PARSERS.items():
            for text in getattr(self, field):
                defect, _, value = text.rpartition("=")
                if parse(value.strip()) is None or (not defect.strip() and "=" in text):
                    raise field_error(
                        field, f"{shown(text)} was given, expected {expected}, with TYPE= before it or not"
                    )
        return self

    def variation(self, defect: str) -> Variation:
        """How defects of a type vary."""
        values: dict[str, Any] = {}
        for field, (parse, _) in PARSERS.items():
            rules = [text.rpartition("=") for text in getattr(self, field)]
            own = [value for name, _, value in rules if name.strip() == defect]
            common = [value for name, _, value in rules if not name]
            if own or common:
                values.update(parse((own or common)[-1].strip()) or {})
        return Variation.create(values)

    def check_types(self, known: Collection[str]) -> None:
        """Refuse rules for types that are not made.

        Raises:
            SettingsError: with all of them.
        """
        problems = [
            FieldProblem(field, f"{shown(text)} names a type that is not made, expected one of {', '.join(known)}")
            for field in PARSERS
            for text in getattr(self, field)
            if "=" in text and text.rpartition("=")[0].strip() not in known
        ]
        if problems:
            raise SettingsError(problems)

    def decisive_variation(self) -> dict[str, Any]:
        """JSON values of what decides pixels, without what has its default."""
        values = {**{field: list(getattr(self, field)) for field in PARSERS}, "mix": self.mix}
        return {key: value for key, value in values.items() if value}
