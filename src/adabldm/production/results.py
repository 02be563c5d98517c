"""The defects that were made in an image become its record, its mask and its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adabldm.core.images import Mask, image_bytes, label_values, mask_values
from adabldm.core.records import ImageRecord, InstanceRecord, Rejection
from adabldm.core.records.image import COMBINED
from adabldm.core.samples import DataSet
from adabldm.core.scores import score
from adabldm.core.windows import bounding_box
from adabldm.data.bases import Base
from adabldm.data.generated import LABELS_SUFFIX, SUFFIX
from adabldm.editing.editor import Edited
from adabldm.masks.refine import changed_mask
from adabldm.production.plan import ImageJob, ProductionPlan
from adabldm.production.scenes import Scene

Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Produced:
    """A finished image that is not written yet.

    Attributes:
        record: of the image, without paths: these are the folder's.
        pixels: in the form of the source's file: uint8 HxWx3 or HxW, or uint16 HxW.
        mask: bool HxW, all defects.
        labels: 0, or the number of the defect, HxW; `None` where the record lists no instances.
    """

    record: ImageRecord
    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    mask: Mask
    labels: Labels | None = None


@dataclass(frozen=True)
class Encoded:
    """A finished image with the contents of its files, as another process hands it over.

    Attributes:
        record: of the image, without paths.
        pixels: PNG file.
        mask: PNG file.
        labels: TIFF file; `None` where the record lists no instances.
    """

    record: ImageRecord
    pixels: bytes
    mask: bytes
    labels: bytes | None = None


def encode(produced: Produced) -> Encoded:
    """The same as files, so that the process that writes them has little to do."""
    labels = None if produced.labels is None else image_bytes(label_values(produced.labels), LABELS_SUFFIX)
    return Encoded(
        produced.record, image_bytes(produced.pixels, SUFFIX), image_bytes(mask_values(produced.mask)), labels
    )


@dataclass(frozen=True)
class Made:
    """A defect that was made, perhaps one that was rejected.

    Attributes:
        defect: its type.
        scene: the picture before it.
        edited: the picture after it.
        attempt: from 0.
        candidate: of those at its place, from 0.
        distance: to the real defects, if that was measured.
        reason: why it was rejected; `None` if it passed.
        missed: number of rules that it missed.
    """

    defect: str
    scene: Scene
    edited: Edited
    attempt: int
    candidate: int = 0
    distance: float | None = None
    reason: str | None = None
    missed: int = 0


def finished(
    plan: ProductionPlan, data_set: DataSet, job: ImageJob, made: Sequence[Made], rejected: Sequence[Rejection]
) -> Produced:
    """An image with its defects.

    Args:
        plan: of the production.
        data_set: where real defects are from.
        job: what was asked for.
        made: its defects, in the order in which they were made, at least one.
        rejected: attempts that were rejected.
    """
    first, last = made[0], made[-1]
    canvas = first.scene.canvas
    masks = [_saved_mask(plan, one) for one in made]
    makings = [_making(plan, data_set, one, mask) for one, mask in zip(made, masks, strict=True)]
    whole = reduce(np.logical_or, masks)
    instances: tuple[InstanceRecord, ...] = ()
    labels = None
    if plan.lists_instances:
        own = [(one.defect, mask, plan.prompts[one.defect]) for one, mask in zip(made, masks, strict=True)]
        labels, instances = label_defects(canvas.base, own, makings, (whole.shape[0], whole.shape[1]))
    types = sorted({one.defect for one in instances} or {first.defect})
    together = makings[0]
    if len(made) > 1:
        together = {
            **rounded(score(last.edited.pixels, canvas.picture.pixels, whole)),
            "accepted": all(one["accepted"] for one in makings),
        }
    record = ImageRecord(
        image="",
        mask="",
        index=job.index,
        source=canvas.path,
        base=None if canvas.base is None else canvas.base.name,
        defect=types[0] if len(types) == 1 else COMBINED,
        object=plan.object_name,
        prompt=plan.prompts[first.defect],
        seed=plan.settings.seed,
        preset=plan.preset.name,
        adapt=plan.preset.adaptation.method,
        rejected=tuple(rejected),
        instances=instances,
        levels=None if canvas.picture.deep is None else canvas.picture.levels,
        missing=len(job.defects) - len(made) or None,
        model=plan.model,
        **together,
    )
    mask = whole if labels is None else np.asarray(labels > 0)
    return Produced(record, canvas.picture.as_file(last.edited.pixels), mask, labels)


def rounded(scores: object) -> dict[str, float]:
    """Scores as they stand in a record."""
    return {key: round(float(value), 4) for key, value in vars(scores).items()}


def _saved_mask(plan: ProductionPlan, made: Made) -> Mask:
    if not plan.settings.shrink_mask:
        return made.scene.mask
    return changed_mask(made.edited.pixels, made.scene.picture.pixels, made.scene.mask)


def _making(plan: ProductionPlan, data_set: DataSet, made: Made, mask: Mask) -> dict[str, Any]:
    """Fields of `Making`.

    Args:
        plan: of the production.
        data_set: where real defects are from.
        made: the defect.
        mask: as it is saved.
    """
    scene, edited = made.scene, made.edited
    refined: dict[str, Any] = {}
    if plan.settings.shrink_mask:
        refined = rounded(score(edited.pixels, scene.picture.pixels, mask))
        refined["mask_share"] = round(np.count_nonzero(mask) / np.count_nonzero(scene.mask), 4)
    instance = scene.shape.instance
    return {
        "attempt": made.attempt,
        **edited.figures(),
        "distance": None if made.distance is None else round(made.distance, 6),
        "candidate": made.candidate if plan.settings.best_of > 1 else None,
        "accepted": made.reason is None,
        "shape": scene.shape.source,
        "reference": None if instance is None or plan.preset.look is None else data_set.relative(instance.sample),
        "exposure": round(scene.exposure if plan.preset.put_back.match_exposure else 1.0, 4),
        **refined,
    }


def label_defects(
    base: Base | None,
    made: Sequence[tuple[str, Mask, str | None]],
    makings: Sequence[dict[str, Any]],
    size: tuple[int, int],
) -> tuple[Labels, tuple[InstanceRecord, ...]]:
    """The image of labels and the records of the defects: first those that were there, then those that were made.

    Where defects that were there overlap, the smaller one has the pixels; one that is hidden completely is left out.

    Args:
        base: the picture with defects that was edited, if it was one.
        made: type, mask and prompt of each new defect; these overlap with nothing.
        makings: how each was made.
        size: (height, width) in px.
    """
    labels = np.zeros(size, np.int32)
    earlier = [] if base is None else base.masks()
    for number in sorted(range(len(earlier)), key=lambda one: -np.count_nonzero(earlier[one])):
        labels[earlier[number]] = number + 1
    found: list[dict[str, Any]] = []
    for number in range(len(earlier)):
        assert base is not None
        known = base.known[number].plain() if base.known else {"defect": base.defects[number].type}
        found.append({**known, "label": number + 1, "origin": "source"})
    for (defect, mask, prompt), making in zip(made, makings, strict=True):
        labels[mask] = len(found) + 1
        found.append({**making, "label": len(found) + 1, "defect": defect, "prompt": prompt})
    return labels, tuple(
        InstanceRecord.model_validate({**one, **_extent(labels == one["label"])})
        for one in found
        if (labels == one["label"]).any()
    )


def _extent(mask: Mask) -> dict[str, Any]:
    top, left, bottom, right = bounding_box(mask)
    return {"box": (left, top, right - left, bottom - top), "area": int(np.count_nonzero(mask))}
