"""The real defect whose mask is used, brought into the picture that is edited: what `fast` begins from.

Images are uint8 RGB, HxWx3; masks are bool, HxW.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from adabldm.core.changes import Interval
from adabldm.core.images import Mask, Pixels, resize_mask
from adabldm.core.records import Calibration, FromNoise, Redrawn
from adabldm.core.settings.edit import PRESETS, EditPreset, Look, StagePlan
from adabldm.core.windows import bounding_box
from adabldm.editing.stage_plan import timesteps
from adabldm.masks.bank import Linear

Floats = NDArray[np.float32]

REACH = 1 / 32
"""Share of a window's side over which the tone at the mask's border is carried into the defect (falls to 1/e)."""
KEPT = 1
"""Pixels outside the mask that come from the real defect's picture entirely: the mask's border is a real one."""
RIM = 2
"""Pixels beyond them over which the real defect's surroundings fade into the picture."""
BROAD = 1 / 16
"""Standard deviation, as a share of the picture's shorter side, of the Gaussian that tells spots from areas."""
AREA = 0.4
"""`breadth` from which a defect is called an area."""
SURROUNDINGS = 8
"""Pixels around a mask that its exposure is measured in."""
EXPOSURES = (0.4, 2.5)
"""Exposures beyond this range are clipped to it."""
TURN = 3
"""Degrees between the rotations that are tried to bring a real defect onto a target mask."""
MATCHED = 64
"""Longest side in px at which these are compared."""

UNKNOWN = Look(start=3, area_start=5, detail=0.8)
"""First steps of `fast`, and detail, where a run does not say how it draws real defects again."""
TRUSTED = 0.9
"""Least cosine of the drawn and the real change at which a first step is trusted."""
KEEPS = (0.7, 1.3)
"""Shares of the real change that a trusted first step keeps."""
UNKNOWN_SCALE = 4.0
"""Guidance scale where a run does not say what it draws from noise."""
FILLED = 0.9
"""Least share of a mask that is to change visibly."""
MOST_VISIBLE = 1.5
"""What is drawn from noise may be so many times as visible as real defects, where masks would stay empty otherwise."""


def settled(preset: EditPreset, calibration: Calibration) -> EditPreset:
    """The preset with guidance scale, first steps and detail, as far as it leaves them out.

    The guidance scale is the one at which the run draws, from noise, changes as visible as those of its real defects; a
    higher one, up to `MOST_VISIBLE`, if their masks are not filled (`FILLED`) at that.

    An edit of a real defect begins at the first step from which the run draws its own real defects again: on the
    average the drawn change has a cosine of `TRUSTED` with the real one, and the share of it that is kept lies in
    `KEEPS`. Where no step is trusted it begins at the last one. The lost detail is given back in proportion to the
    cosine at that step: it belongs there as far as the defect was drawn where the real one is. Areas, which begin no
    earlier, have their own first step. They are steps of `fast`: any other plan begins at the noise level of that step.

    Args:
        preset: of the edit.
        calibration: of the run.
    """
    if preset.guidance.scale is None:
        preset = preset.changed(guidance=preset.guidance.changed(scale=usual_scale(calibration.from_noise)))
    return _with_look(preset, calibration.redrawn)


def usual_scale(measured: Sequence[FromNoise]) -> float:
    """The guidance scale that fits a run, between those that were measured; `UNKNOWN_SCALE` without any."""
    if not measured:
        return UNKNOWN_SCALE
    ordered = sorted(measured, key=lambda one: one.scale)
    scales = [one.scale for one in ordered]
    visible = np.maximum.accumulate([np.log(max(one.visible, 1e-3)) for one in ordered])
    share = np.maximum.accumulate([one.share for one in ordered])
    as_visible, most, filled = (
        float(np.interp(wanted, known, scales))
        for wanted, known in ((0.0, visible), (np.log(MOST_VISIBLE), visible), (FILLED, share))
    )
    return round(max(as_visible, min(filled, most)), 2)


def _with_look(preset: EditPreset, redrawn: Sequence[Redrawn]) -> EditPreset:
    look, plan = preset.look, preset.plan
    if look is None:
        return preset
    measured = redrawn if {one.start for one in redrawn} <= set(range(1, PRESETS["fast"].plan.steps)) else ()
    spot, area = (_first_trusted([one for one in measured if one.area == area]) for area in (False, True))
    known = spot or area
    start = _carried_over(UNKNOWN.start or 1 if known is None else known.start, plan)
    own_area = area or spot
    area_start = _carried_over(UNKNOWN.area_start or 1 if own_area is None else own_area.start, plan)
    detail = UNKNOWN.detail if known is None else float(np.clip(round(known.alike, 2), 0, 1))
    found = {"start": start, "area_start": area_start, "detail": detail}
    given = {name: getattr(look, name) for name in found if getattr(look, name) is not None}
    return preset.changed(look=look.changed(**{**found, **given}))


def _carried_over(start: int, plan: StagePlan) -> int:
    """The first step of a plan, after its very first, that is no noisier than a step of `fast`; else its last one."""
    fast = PRESETS["fast"].plan
    level = timesteps(fast.steps, fast.spacing)[start]
    levels = timesteps(plan.steps, plan.spacing)
    return next((step for step in range(1, plan.steps) if levels[step] <= level), plan.steps - 1)


def _first_trusted(redrawn: Sequence[Redrawn]) -> Redrawn | None:
    """The first trusted one, else the last one; `None` without any."""
    ordered = sorted(redrawn, key=lambda one: one.start)
    trusted = [one for one in ordered if one.alike >= TRUSTED and KEEPS[0] <= one.kept <= KEEPS[1]]
    return next(iter(trusted or ordered[-1:]), None)


def draw_look(
    look: Look,
    generator: torch.Generator,
    strengths: Interval | None = None,
    usual: tuple[Interval, Interval] | None = None,
) -> tuple[float, float]:
    """(strength, tone) of a real defect, drawn from their ranges.

    Args:
        look: of the preset.
        generator: source of the draws.
        strengths: range of the strength instead of that of the look.
        usual: ranges of both that suit the real defect, for those that the look leaves out; 1 without them.
    """
    first, second = torch.rand(2, generator=generator).tolist()
    own = usual or ((1.0, 1.0), (1.0, 1.0))
    faintest, strongest = strengths or look.strengths or own[0]
    lowest, highest = look.tones or own[1]
    return faintest * (strongest / faintest) ** first, lowest + (highest - lowest) * second


def brightness_around(pixels: Pixels, mask: Mask) -> float:
    """Median grey level within `SURROUNDINGS` px of the mask, at least 1; of the whole picture if there is none."""
    reach = np.ones((2 * SURROUNDINGS + 1,) * 2, np.uint8)
    ring = (cv2.dilate(mask.astype(np.uint8), reach) > 0) & ~mask
    return max(1.0, float(np.median(pixels[ring if ring.any() else slice(None)])))


def relative_exposure(real: float, own: float) -> float:
    """Brightness around a real defect over that around the target mask (`brightness_around`), within `EXPOSURES`."""
    return float(np.clip(real / own, *EXPOSURES))


def turn_onto(real_mask: Mask, target: Mask) -> Linear:
    """The rotation, flip and scale by which a real mask covers a target mask best: `linear` of `lay_over`.

    Every `TURN` degrees are tried, at the scale that makes the areas equal; a mask that was only moved stays as it is.
    """
    longest = max(*_lengths(real_mask), *_lengths(target))
    shrink = min(1.0, MATCHED / longest)
    real, wanted = (_padded(mask, shrink, 2 * MATCHED) for mask in (real_mask, target))
    scale = float(np.sqrt(np.count_nonzero(target) / np.count_nonzero(real_mask)))
    turns: list[Linear] = []
    for flip in (1.0, -1.0):
        for angle in np.deg2rad(np.arange(0, 360, TURN)):
            cosine, sine = scale * float(np.cos(angle)), scale * float(np.sin(angle))
            turns.append(((flip * cosine, -sine), (flip * sine, cosine)))

    def overlap(linear: Linear) -> float:
        laid = lay_over(real.astype(np.uint8) * 255, real, linear, wanted) > 127
        return float(np.count_nonzero(laid & wanted) / np.count_nonzero(laid | wanted))

    return max(turns, key=overlap)


def _lengths(mask: Mask) -> tuple[int, int]:
    """(height, width) of the bounding box."""
    top, left, bottom, right = bounding_box(mask)
    return bottom - top, right - left


def _padded(mask: Mask, shrink: float, side: int) -> Mask:
    """The mask's content, smaller by a factor, in the middle of an empty square."""
    top, left, bottom, right = bounding_box(mask)
    content = mask[top:bottom, left:right]
    height, width = (max(1, round(length * shrink)) for length in content.shape)
    result = np.zeros((side, side), bool)
    rows, columns = (side - height) // 2, (side - width) // 2
    result[rows : rows + height, columns : columns + width] = resize_mask(content, (height, width))
    return result


def lay_over(
    real: Pixels, real_mask: Mask, linear: Linear, target: Mask, middle: tuple[float, float] | None = None
) -> Pixels:
    """The image of a real defect, moved so that the defect lies on `target`; of the target's size, reflected outside.

    Args:
        real: the real defect's image.
        real_mask: its mask.
        linear: 2x2 matrix on (x, y) by which the real mask became the shape of `target` (`DefectShape.linear`).
        target: the placed mask.
        middle: (x, y) where the middle of the defect's bounding box comes to lie: of a mask that was cut, the place of
            what it was before; the middle of `target` if left out.
    """
    matrix = np.array(linear)
    rows, columns = np.nonzero(real_mask)
    turned = np.stack([columns, rows], axis=1) @ matrix.T
    if middle is None:
        top, left, bottom, right = bounding_box(target)
        middle = (left + right - 1) / 2, (top + bottom - 1) / 2
    shift = np.array(middle) - (turned.min(axis=0) + turned.max(axis=0)) / 2
    return np.asarray(
        cv2.warpAffine(
            real,
            np.column_stack([matrix, shift]),
            (target.shape[1], target.shape[0]),
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REFLECT_101,
        ),
        dtype=np.uint8,
    )


def breadth(mask: Mask, side: int) -> float:
    """How much of an area a defect is, in [0, 1]: a spot or line near 0, a face that fills much of its picture near 1.

    It is the mean over the mask of the share of the mask around each pixel (Gaussian of `BROAD` · side px). At the
    array's border the mask is continued.

    Args:
        mask: where the defect is, HxW, not empty.
        side: shorter side of the whole picture in px.
    """
    return float(_around(mask.astype(np.float32), side * BROAD)[mask].mean())


def compose(
    image: Pixels,
    reference: Pixels,
    mask: Mask,
    gain: float = 1.0,
    strength: float = 1.0,
    tone: float = 1.0,
    side: int | None = None,
) -> Pixels:
    """The picture with the real defect in its mask, without a visible border.

    The real surroundings are kept over `KEPT` pixels outside the mask and fade into the picture over `RIM` more. The
    mean difference of the two pictures farther outside is taken from the defect, falling off with the depth: a cheap
    form of screened Poisson blending (Bhat et al., ECCV 2008). Pixels farther outside are the picture's.

    A spot differs from its surroundings by being dark or light: `strength` makes it more or less so. An area, as a worn
    face, differs by its texture, and whether it is darker or lighter is a matter of the light: `tone` changes its mean
    brightness alone. Its texture stays, and so do its colour and its edge: the tone is taken off as far as the
    surroundings that are kept, and leaves a fine lip there. Between spot and area the two act in proportion to the
    `breadth`.

    Args:
        image: a square window of the source, SxSx3.
        reference: the real defect laid over it (`lay_over`).
        mask: where the defect is.
        gain: exposure of the reference over that of the image.
        strength: factor of all that a spot changes; the picture shows through below 1.
        tone: factor of the mean change of an area's brightness; below 0 what was darker becomes lighter, as a whole.
        side: shorter side of the whole picture in px, `None` if it is the window's.
    """
    reach = max(2.0, image.shape[0] * REACH)
    defect = reference.astype(np.float32) / gain
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    outside = (distance > KEPT).astype(np.float32)
    missing = cv2.GaussianBlur((image - defect) * outside[..., None], (0, 0), reach)
    weight = np.maximum(cv2.GaussianBlur(outside, (0, 0), reach), 1e-3)
    depth = cv2.distanceTransform((distance <= KEPT).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    border = np.exp(-depth / reach)[..., None]
    change = defect + missing * border / weight[..., None] - image
    if strength != 1.0 or tone != 1.0:
        side = side or image.shape[0]
        area = breadth(mask, side)
        local = _tone(change, mask, side * BROAD)
        # below 0 one step for all: turned over place by place, the picture's own light would double
        kept = tone * (local if tone > 0 else local[mask].mean())
        change = (1 + (strength - 1) * (1 - area)) * (change - area * (local - kept))
    share = np.clip(1 - (distance - KEPT) / (RIM + 1), 0, 1)[..., None]
    return np.asarray(np.clip(np.rint(image + share * change), 0, 255), dtype=np.uint8)


def _tone(change: Floats, mask: Mask, deviation: float) -> Floats:
    """The mean change of brightness around each pixel, of the mask's pixels alone, as far as the array goes; SxSx1.

    Args:
        change: grey levels, float32 SxSx3.
        mask: where the defect is, SxS.
        deviation: of the Gaussian weights, in px.
    """
    inside = mask.astype(np.float32)
    cover = np.maximum(_around(inside, deviation), 1e-3)
    return np.asarray(_around(change.mean(axis=2) * inside, deviation) / cover, dtype=np.float32)[..., None]


def _around(values: Floats, deviation: float) -> Floats:
    """Gaussian mean around each pixel, HxW or HxWxC; the values are continued at the border.

    It is taken at a size at which the deviation is some px: its cost does not grow with the deviation.
    """
    height, width = values.shape[:2]
    factor = max(1.0, deviation / 8)
    size = max(1, round(width / factor)), max(1, round(height / factor))
    small = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), deviation / factor, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
