"""What a user asks for on the page Paint, and the changes of the preset and real examples that it stands for."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from adabldm.core.errors import InputError
from adabldm.core.images import Mask
from adabldm.core.records import Calibration
from adabldm.core.settings.base import Settings
from adabldm.core.settings.edit import EditPreset, Look
from adabldm.core.settings.presets import edit_preset
from adabldm.editing.look import settled
from adabldm.studio.library import Example

MOST_VARIANTS = 8
USUAL = 1
"""Size of the change that leaves a preset's own steps as they are."""


class PaintOrder(Settings):
    """What is to be painted."""

    data: str = Field(description="Data set of the picture.")
    picture: str = Field(description="Name of the picture in it.")
    mask: str = Field(description="PNG of the picture's size in base64, white where the defect is.")
    run: str = Field(description="Run that edits.")
    defect: str = Field(min_length=1, description="Defect type.")
    prompt: str | None = Field(None, max_length=300, description="Free prompt instead of the type's.")
    preset: str = Field("fast", description="Preset of the edit.")
    begin: Literal["real", "noise"] = Field("real", description="Begin from a real example or from noise.")
    examples_of: str = Field("", description="Data set of the real examples; the picture's own if left out.")
    example: int | None = Field(None, ge=0, description="Number of the example; chosen for each variant if left out.")
    example_version: str | None = Field(None, max_length=100, description="Version of the example as it was shown.")
    strength: float = Field(1.0, ge=0.3, le=3, description="Factor of the defect's contrast.")
    change: int = Field(USUAL, ge=0, le=3, description="How far the result may differ from the example.")
    seed: int = Field(0, ge=0, le=2**31, description="Seed of the first variant.")
    variants: int = Field(4, ge=1, le=MOST_VARIANTS, description="Number of results; each has the next seed.")


def decode_mask(text: str, size: tuple[int, int]) -> Mask:
    """A mask that was sent as a PNG in base64.

    Args:
        text: as it was sent.
        size: (height, width) that it must have.

    Raises:
        InputError: it is no such picture, or empty.
    """
    try:
        content = base64.b64decode(text.rpartition(",")[2], validate=True)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            width, height = image.size
            if (height, width) != size:
                raise InputError(f"mask: {height} x {width} px, expected {size[0]} x {size[1]} px; paint it again.")
            mask = np.asarray(image.convert("L")) > 127
    except Image.DecompressionBombError as error:
        raise InputError(f"mask: too many pixels, expected {size[0]} x {size[1]} px; paint it again.") from error
    except (binascii.Error, UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError("mask: not a readable PNG in base64; paint it again.") from error
    if not mask.any():
        raise InputError("mask: empty, expected at least one painted pixel; paint where the defect goes.")
    return mask


def changes_of(order: PaintOrder, calibration: Calibration) -> tuple[str, ...]:
    """What the sliders change in the preset, as for `generate --set`.

    Args:
        order: with the sliders.
        calibration: of the run.

    Raises:
        SettingsError: there is no such preset.
    """
    preset = edit_preset(order.preset)
    if order.begin == "real":
        return _look_changes(preset, order, calibration)
    usual = settled(preset, calibration).guidance.scale
    assert usual is not None
    scale = float(np.clip(round(usual * order.strength, 2), 1, 50))
    guidance = () if order.strength == 1 else (f"guidance.scale={scale:g}",)
    return (*(("look=none",) if preset.look is not None else ()), *guidance)


def _look_changes(preset: EditPreset, order: PaintOrder, calibration: Calibration) -> tuple[str, ...]:
    """The factor of the contrast, and first steps that are earlier or later than those of the run."""
    steps = preset.plan.steps
    look = preset.look or Look(start=steps // 2, area_start=steps * 5 // 6)
    usual = settled(preset.changed(look=look), calibration).look
    assert usual is not None
    assert usual.start is not None
    assert usual.area_start is not None
    strength = f"look.strengths={order.strength:g},{order.strength:g}"
    if order.change == USUAL and preset.look is not None:
        return (strength,)
    spot = _first_step(usual.start, order.change, steps)
    area = _first_step(usual.area_start, order.change, steps)
    if order.change > USUAL:  # what is freer is freer for areas as well, which usually begin later
        area = min(area, usual.start if order.change == USUAL + 1 else spot)
    return strength, f"look.start={spot}", f"look.area_start={area}"


def _first_step(usual: int, change: int, steps: int) -> int:
    return {0: steps - 1, USUAL: usual, 2: max(1, math.ceil(usual * 2 / 3)), 3: max(1, math.ceil(usual / 3))}[change]


def check_version(order: PaintOrder, examples: Sequence[Example]) -> None:
    """Make sure that the chosen example is the one that was shown.

    Raises:
        InputError: the data set was changed since.
    """
    if order.example is None or order.example_version is None:
        return
    if order.example_version not in {one.version for one in examples if one.number == order.example}:
        raise InputError(f"example {order.example}: the data set was changed since; load the page again.")


def examples_for(mask: Mask, examples: Sequence[Example], chosen: int | None, count: int) -> list[Example]:
    """A real example for each variant: the chosen one, or those whose masks are most like the painted one.

    Args:
        mask: the painted mask.
        examples: of the defect type, not empty.
        chosen: number of one of them.
        count: number of variants.
    """
    if chosen is not None:
        found = [one for one in examples if one.number == chosen]
        if not found:
            raise InputError(f"example {chosen}: not in the data set; choose one that is shown.")
        return found * count
    wanted = _measures(mask)
    ranked = sorted(examples, key=lambda one: (_difference(wanted, _measures(one.shape.mask)), one.number))
    return [ranked[index % len(ranked)] for index in range(count)]


def _measures(mask: Mask) -> tuple[float, float]:
    """Logarithm of the area, and how long a mask is for its breadth (logarithm)."""
    rows, columns = np.nonzero(mask)
    if len(rows) < 3:
        return math.log(max(1, len(rows))), 0.0
    spread = np.linalg.eigvalsh(np.cov(np.stack([rows, columns])))
    return math.log(len(rows)), 0.5 * math.log((spread[1] + 0.1) / (spread[0] + 0.1))


def _difference(first: tuple[float, float], second: tuple[float, float]) -> float:
    return abs(first[0] - second[0]) + abs(first[1] - second[1])
