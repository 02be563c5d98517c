"""What an evaluation reports: figures of each condition's images, and measures of the detectors over all seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from adabldm.core.records import CellRecord
from adabldm.core.records.evaluation import (
    MEASURES,
    CellMeasures,
    EvaluationReport,
    ImageFigures,
    ImageMeasures,
    MaskAgreement,
    MeanScores,
    Measures,
    SeedMeasures,
    Statistic,
)
from adabldm.data.generated import read_kept
from adabldm.evaluation.cells import RealImages
from adabldm.evaluation.image_measures import image_measures
from adabldm.evaluation.labelled import Labelled
from adabldm.evaluation.mask_truth import mask_truth
from adabldm.models.backbone import Backbone


def image_figures(
    images: Sequence[Labelled], real: RealImages, backbone: Backbone, types: Sequence[str], scores: MeanScores
) -> ImageFigures:
    """Image measures over all types and for each, the agreement of the masks, and the scores of the manifest.

    Args:
        images: synthetic images of a condition.
        real: real images, to compare with.
        backbone: network that the image measures depend on.
        types: defect types.
        scores: means of the manifest's scores.
    """
    measured = {
        defect or "all": image_measures(backbone, images, real.test, real.train, seed=0, defect=defect)
        for defect in (None, *types)
    }
    return ImageFigures.model_validate({**measured, "mask": _mask_agreement(images), "scores": scores})


def _mask_agreement(images: Sequence[Labelled]) -> MaskAgreement:
    truths = [
        mask_truth(one.pixels, one.source, one.mask)
        for one in images
        if one.source is not None and one.mask is not None
    ]
    if not truths:
        return MaskAgreement()
    return MaskAgreement(
        iou=round(statistics.fmean(truth.iou for truth in truths), 4),
        precision=round(statistics.fmean(truth.precision for truth in truths), 4),
        recall=round(statistics.fmean(truth.recall for truth in truths), 4),
    )


def manifest_scores(folder: Path, count: int) -> MeanScores:
    """Means of the manifest's scores over its first images; `None` where the folder does not say."""
    records = list(read_kept(folder).values())[:count]
    means: dict[str, float] = {}
    judged = [record.accepted for record in records if record.accepted is not None]
    if judged:
        means["accepted"] = round(statistics.fmean(judged), 3)
    for key in MeanScores.model_fields:
        values = [record.scores[key] for record in records if key in record.scores]
        if values and all(map(math.isfinite, values)):
            means[key] = round(statistics.fmean(values), 3)
    return MeanScores(**means)


def over_seeds(cells: Sequence[CellRecord]) -> SeedMeasures:
    """Mean and sample standard deviation of every measure (0 for a single seed)."""
    by_seed: list[CellMeasures] = [cell.measures for cell in cells]
    return {
        defect: Measures[Statistic](
            **{key: _statistic([getattr(own[defect], key) for own in by_seed]) for key in MEASURES}
        )
        for defect in by_seed[0]
    }


def over_folds(reports: Sequence[EvaluationReport]) -> EvaluationReport:
    """The evaluations of all folds of a cross-validation in one: means, and deviations of the folds' means.

    Args:
        reports: of the folds, made with the same settings; at least two.
    """
    first = reports[0]
    return first.model_copy(
        update={
            "test_images": sum(one.test_images for one in reports),
            "settings": first.settings.model_copy(update={"folds": len(reports)}),
            "difference": None,
            "images": {name: _figures_over_folds([one.images[name] for one in reports]) for name in first.images},
            "detectors": {
                detector: {
                    name: _measures_over_folds([one.detectors[detector][name] for one in reports]) for name in own
                }
                for detector, own in first.detectors.items()
            },
        }
    )


def _measures_over_folds(folds: Sequence[SeedMeasures]) -> SeedMeasures:
    return {
        defect: Measures[Statistic](
            **{key: _statistic([getattr(own[defect], key).mean for own in folds]) for key in MEASURES}
        )
        for defect in folds[0]
    }


def _figures_over_folds(folds: Sequence[ImageFigures]) -> ImageFigures:
    measured = {
        name: _image_measures_over_folds([own.together if name == "all" else own.types[name] for own in folds])
        for name in ("all", *folds[0].types)
    }
    mask = MaskAgreement(**_means([own.mask for own in folds]))
    return ImageFigures.model_validate(
        {**measured, "mask": mask, "scores": MeanScores(**_means([own.scores for own in folds]))}
    )


def _image_measures_over_folds(folds: Sequence[ImageMeasures]) -> ImageMeasures:
    """Means; the numbers of windows are those of all folds together."""
    kids = [own.kid for own in folds if own.kid is not None]
    counts = {name: sum(getattr(own, name) for own in folds) for name in ("synthetic", "real", "few_shot")}
    spread = {"kid_std": round(statistics.stdev(kids), 4) if len(kids) > 1 else None}
    return folds[0].model_copy(update={**_means(folds), **spread, **counts})


def _means(folds: Sequence[ImageMeasures] | Sequence[MaskAgreement] | Sequence[MeanScores]) -> dict[str, float | None]:
    """Mean of every figure that may be missing, over the folds that have it."""
    found: dict[str, float | None] = {}
    for name, info in type(folds[0]).model_fields.items():
        values = [value for own in folds if isinstance(value := getattr(own, name), float)]
        if info.default is None:
            found[name] = round(statistics.fmean(values), 4) if values else None
    return found


def _statistic(values: Sequence[float]) -> Statistic:
    return Statistic(
        mean=round(statistics.fmean(values), 3),
        std=round(statistics.stdev(values), 3) if len(values) > 1 else 0.0,
        values=tuple(values),
    )
