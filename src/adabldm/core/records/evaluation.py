"""The records of an evaluation: `evaluation.json` and the files of its finished cells."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from adabldm.core.records.files import VersionedRecord

MEAN = "mean"
"""Key of the mean over all defect types, beside the types themselves."""
RESERVED_TYPES = (MEAN, "all", "mask", "scores")
"""Names that stand beside the defect types in the records; no defect type may have one of them."""

Value = TypeVar("Value")


class _Figures(BaseModel):
    """Base of what stands inside a record; unknown fields are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Statistic(_Figures):
    """One measure over all seeds, or over the folds of a cross-validation."""

    mean: float = Field(description="Mean over the seeds or folds.")
    std: float = Field(description="Sample standard deviation over the seeds or folds; 0 for a single one.")
    values: tuple[float, ...] = Field(description="The value of each seed, or the mean of each fold.")


class Measures(_Figures, Generic[Value]):
    """What a detector reaches on test images, in percent: one value of a cell, or a `Statistic` over all seeds."""

    auroc: Value = Field(description="Area under the receiver operating characteristic of all pixels.")
    ap: Value = Field(description="Average precision of all pixels.")
    pro: Value = Field(description="Area under the per-region overlap.")
    iap: Value = Field(description="Instance average precision.")
    iap90: Value = Field(description="Precision at which 90 % of the instances are found.")
    f1: Value = Field(description="Best F1 of all pixels.")
    image_auroc: Value = Field(description="Area under the receiver operating characteristic of whole images.")


MEASURES: tuple[str, ...] = ("auroc", "ap", "pro", "iap", "iap90", "f1", "image_auroc")
"""Fields of `Measures`."""

CellMeasures = dict[str, Measures[float]]
"""By defect type, and their mean under `MEAN`."""
SeedMeasures = dict[str, Measures[Statistic]]
"""By defect type, and their mean under `MEAN`."""


class ImageMeasures(_Figures):
    """How synthetic defects look beside real ones; a measure is `None` where there are too few windows for it."""

    kid: float | None = Field(None, description="Kernel Inception distance; 0 is expected of the same kind.")
    kid_std: float | None = Field(None, description="Standard deviation of KID over random subsets, or over folds.")
    frechet: float | None = Field(None, description="Fréchet distance; lower is better.")
    diversity: float | None = Field(None, description="Intra-cluster diversity; higher is more varied.")
    diversity_real: float | None = Field(None, description="Intra-cluster diversity of the real windows.")
    nearest_few_shot: float | None = Field(
        None, description="Mean distance to the nearest training window; far below that of real ones, they are copies."
    )
    nearest_few_shot_real: float | None = Field(None, description="The same distance of the real test windows.")
    backbone: str = Field(description="Name of the network that all of these depend on.")
    synthetic: int = Field(ge=0, description="Number of synthetic windows.")
    real: int = Field(ge=0, description="Number of real windows that they are compared with.")
    few_shot: int = Field(ge=0, description="Number of real windows that the synthetic ones were made from.")


class MaskAgreement(_Figures):
    """Agreement of the saved masks with the pixels that changed, 0 to 1; `None` where the sources are not known."""

    iou: float | None = Field(None, description="Intersection over union.")
    precision: float | None = Field(None, description="Share of the changed pixels that the mask covers.")
    recall: float | None = Field(None, description="Share of the mask that changed.")


class MeanScores(_Figures):
    """Means of the scores in a manifest; `None` where the folder has none."""

    background_psnr: float | None = Field(None, description="PSNR outside the mask, in dB.")
    seam: float | None = Field(None, description="Step across the mask's boundary, 1 = invisible.")
    defect_fidelity: float | None = Field(None, description="Adapted against unadapted decoding, in dB.")
    edit_strength: float | None = Field(None, description="Change inside the mask over that around it.")
    accepted: float | None = Field(None, description="Share of the images that met the limits; `None` without limits.")


class ImageFigures(BaseModel):
    """What is known of the images of one condition; the figures of each defect type stand beside `all`, `mask`…"""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)
    __pydantic_extra__: dict[str, ImageMeasures]

    together: ImageMeasures = Field(alias="all", description="Measures of all defect types together.")
    mask: MaskAgreement = Field(MaskAgreement(), description="Agreement of masks and changed pixels.")
    scores: MeanScores = Field(MeanScores(), description="Means of the manifest's scores.")

    @property
    def types(self) -> dict[str, ImageMeasures]:
        """Measures by defect type."""
        return dict(self.__pydantic_extra__)


class CellRecord(VersionedRecord):
    """One detector, trained on one condition with one seed, and tested."""

    what: ClassVar[str] = "result of a detector"

    fit_seconds: float = Field(ge=0, description="Seconds of the training.")
    test_seconds: float = Field(ge=0, description="Seconds of the prediction of all test images.")
    measures: CellMeasures = Field(description="Measures by defect type, and their mean.")


class ImagesRecord(VersionedRecord):
    """The images of one condition, measured."""

    what: ClassVar[str] = "record of a condition's images"

    figures: ImageFigures = Field(description="What is known of the images.")

    @classmethod
    def upgrade(cls, values: dict[str, Any], version: int) -> dict[str, Any]:
        """Version 0 had the figures at the top."""
        figures = {key: value for key, value in values.items() if key != "schema"}
        return super().upgrade({"figures": figures}, version)


class ComparisonSettings(_Figures):
    """What was compared."""

    conditions: tuple[str, ...] = Field(description="Names of the conditions.")
    detectors: tuple[str, ...] = Field(description="Names of the detectors.")
    seeds: int = Field(description="Trainings of each detector.")
    networks: int = Field(1, description="Networks of each training, whose maps are averaged.")
    count: int = Field(description="Synthetic images of each condition.")
    budget: str = Field(description="Budget of the detectors.")
    detector_steps: int | None = Field(None, description="Optimiser steps instead of the budget's.")
    seed: int = Field(description="Seed of the synthetic images.")
    folds: int | None = Field(None, ge=2, description="Folds of a cross-validation; `None` for a test.")


class EvaluationReport(VersionedRecord):
    """Everything that an evaluation found: `evaluation.json`."""

    what: ClassVar[str] = "report of an evaluation"

    data: str = Field(description="Folder of the real images, as it was given.")
    test_images: int = Field(ge=0, description="Number of real test images.")
    types: tuple[str, ...] = Field(min_length=1, description="Defect types.")
    settings: ComparisonSettings = Field(description="What was compared.")
    difference: float | None = Field(
        None,
        ge=0,
        description="How much farther the images are from those of the run's fit than these from each other; above 1.5 "
        "they show something else.",
    )
    images: dict[str, ImageFigures] = Field(description="Figures of the images by condition.")
    detectors: dict[str, dict[str, SeedMeasures]] = Field(
        description="Measures by detector and condition; label-free detectors have the single condition any."
    )
