"""How well a detector's score maps find the true defects.

A map holds one finite score per pixel, float HxW, higher = more defective, on any scale; its mask is bool HxW, True
where the defect is, all False for a defect-free image. Images may differ in size; their pixels are pooled. At a
threshold every pixel that scores at least as high is predicted defective, so equal scores switch together. A region
(or instance) is a connected component of a mask in the 8-neighbourhood, found with `cv2.connectedComponents`.
Pixels that are ignored count neither as defect nor as background. All measures are in percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from adabldm.core.errors import InputError
from adabldm.core.images import Mask

MAX_FPR = 0.3
"""False positive rate up to which PRO integrates."""
SAFE_RECALL = 0.9
"""Share of the instances that must be found for IAP90."""


@dataclass(frozen=True)
class PixelMeasures:
    """Measures of the maps of one detector on one set of test images, each in percent (0…100).

    Attributes:
        auroc: area under the receiver operating characteristic of all pixels.
        ap: average precision of all pixels.
        pro: area under the per-region overlap up to a false positive rate of `MAX_FPR`.
        iap: instance average precision.
        iap90: precision at which `SAFE_RECALL` of the instances are found.
        f1: best F1 of all pixels over all thresholds.
    """

    auroc: float
    ap: float
    pro: float
    iap: float
    iap90: float
    f1: float


@dataclass(frozen=True)
class Counts:
    """What lies at or above each threshold: all that the pixel measures need.

    The K thresholds are the distinct scores of the defective pixels, downwards. Between two of them only background
    is gained, so no measure loses anything: the curves run straight from `background` to the next `above`.

    Attributes:
        defective: K numbers of defective pixels at or above the threshold; the last counts all of them.
        background: K numbers of background pixels at or above the threshold.
        above: K numbers of background pixels strictly above it.
        overlap: K means over the regions of the share of a region's pixels at or above the threshold (0…1).
        instances: K numbers of instances whose score is at or above the threshold; the last counts all of them.
        all_background: number of background pixels.
    """

    defective: NDArray[np.int64]
    background: NDArray[np.int64]
    above: NDArray[np.int64]
    overlap: NDArray[np.float64]
    instances: NDArray[np.int64]
    all_background: int


def pixel_measures(
    maps: Sequence[NDArray[np.float32]], masks: Sequence[Mask], ignored: Sequence[Mask | None] | None = None
) -> PixelMeasures:
    """All pixel measures of a detector, from one sort of the pixels.

    Args:
        maps: the detector's scores, float HxW each.
        masks: the true masks, bool, each of its map's size.
        ignored: pixels beside the mask of each image that are left out, bool of the map's size; `None` for none.

    Raises:
        InputError: as `count`.
    """
    counts = count(maps, masks, ignored)
    return PixelMeasures(
        auroc=auroc(counts),
        ap=average_precision(counts),
        pro=pro(counts),
        iap=iap(counts),
        iap90=iap90(counts),
        f1=max_f1(counts),
    )


def count(
    maps: Sequence[NDArray[np.float32]], masks: Sequence[Mask], ignored: Sequence[Mask | None] | None = None
) -> Counts:
    """Counts the pixels, regions and instances at every threshold that matters.

    The score of an instance with n pixels is the one at 0-based position ⌊n/2⌋ of its scores sorted downwards
    (DeSTSeg, arXiv 2211.11317).

    Raises:
        InputError: the numbers or sizes of maps and masks differ, a score is not finite, or all pixels together
            hold no defect or no background.
    """
    left_out = [None] * len(masks) if ignored is None else ignored
    _check(maps, masks, left_out)
    free = [~mask if other is None else ~(mask | other) for mask, other in zip(masks, left_out, strict=True)]
    background = np.sort(np.concatenate([scores[mask] for scores, mask in zip(maps, free, strict=True)]))
    defective = np.concatenate([scores[mask] for scores, mask in zip(maps, masks, strict=True)])
    region = _regions(masks)
    size = np.bincount(region)
    thresholds, level = np.unique(defective, return_inverse=True)  # upwards
    upwards_in_region = np.lexsort((level, region))
    instance_level = level[upwards_in_region[np.cumsum(size) - 1 - size // 2]]
    overlap = _from_the_top(np.bincount(level, 1 / size[region]))
    return Counts(
        defective=_from_the_top(np.bincount(level)),
        background=background.size - np.searchsorted(background, thresholds, side="left")[::-1],
        above=background.size - np.searchsorted(background, thresholds, side="right")[::-1],
        overlap=overlap / overlap[-1],  # the last is the number of regions but for rounding; so it becomes exactly 1
        instances=_from_the_top(np.bincount(instance_level, minlength=thresholds.size)),
        all_background=background.size,
    )


def auroc(counts: Counts) -> float:
    """Area under the true positive rate over the false positive rate of all pixels, in percent; chance is 50."""
    return 100 * _area(counts, counts.defective / counts.defective[-1], 1.0)


def average_precision(counts: Counts) -> float:
    """Average precision of all pixels in percent: Σ (Rₙ − Rₙ₋₁) Pₙ over the thresholds, as scikit-learn defines it."""
    gained = np.diff(counts.defective, prepend=0)
    return 100 * float(np.sum(gained * _precision(counts))) / int(counts.defective[-1])


def max_f1(counts: Counts) -> float:
    """Best F1 of all pixels over all thresholds, in percent."""
    predicted = counts.defective + counts.background
    return 100 * float(np.max(2 * counts.defective / (predicted + counts.defective[-1])))


def pro(counts: Counts) -> float:
    """Area under the per-region overlap in percent of the best, for false positive rates from 0 to `MAX_FPR`.

    Per-region overlap is the mean over all regions of the share of a region's pixels that are predicted; the false
    positive rate is the share of all background pixels. Every distinct score is a threshold, with straight lines
    between them (Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021, doi 10.1007/s11263-020-01400-4).
    """
    return 100 * _area(counts, counts.overlap, MAX_FPR)


def iap(counts: Counts) -> float:
    """Instance average precision in percent (DeSTSeg, arXiv 2211.11317).

    At the score of an instance, recall is the share of the instances that score at least as high and precision the
    share of all predicted pixels that are defective. The precision at a recall is the best one there or at a higher
    recall, and IAP the mean of these precisions over the instances.
    """
    found, precision = _instance_curve(counts)
    return 100 * float(np.sum(np.diff(found, prepend=0) * precision)) / int(found[-1])


def iap90(counts: Counts) -> float:
    """Precision of `iap` in percent at the smallest recall of at least `SAFE_RECALL` (DeSTSeg, arXiv 2211.11317)."""
    found, precision = _instance_curve(counts)
    return 100 * float(precision[found / found[-1] >= SAFE_RECALL][0])


def image_auroc(scores: Sequence[float], defective: Sequence[bool]) -> float:
    """Area under the receiver operating characteristic of whole images, in percent; chance is 50.

    Args:
        scores: one finite score per image, higher = more defective.
        defective: for each image whether it shows a defect.

    Raises:
        InputError: the lengths differ, a score is not finite, or one of the two classes is missing.
    """
    if len(scores) != len(defective):
        raise InputError(f"{len(scores)} scores for {len(defective)} images; give one score per image.")
    if not np.isfinite(scores).all():
        index = int(np.argmin(np.isfinite(scores)))
        raise InputError(f"score {index} is {scores[index]}; give finite scores only.")
    bad = sum(map(bool, defective))
    if not 0 < bad < len(defective):
        raise InputError(
            f"{bad} of {len(defective)} images are defective; image AUROC needs both kinds, add the other."
        )
    return 100 * float(roc_auc_score(defective, scores))


def _check(maps: Sequence[NDArray[np.float32]], masks: Sequence[Mask], ignored: Sequence[Mask | None]) -> None:
    if len(maps) != len(masks) or len(masks) != len(ignored):
        more = "" if len(masks) == len(ignored) else f" and {len(ignored)} ignored masks"
        raise InputError(
            f"{len(maps)} maps but {len(masks)} masks{more}; give one mask per map, all False where no defect is."
        )
    problems = []
    for index, (scores, mask, other) in enumerate(zip(maps, masks, ignored, strict=True)):
        if other is not None and other.shape != mask.shape:
            problems.append(f"mask {index} has shape {mask.shape}, its ignored pixels {other.shape}; give one size.")
        if scores.ndim != 2 or scores.shape != mask.shape:
            problems.append(f"map {index} has shape {scores.shape}, its mask {mask.shape}; give both HxW of one size.")
        elif not (finite := np.isfinite(scores)).all():
            problems.append(f"map {index} has the score {scores[~finite][0]}; give finite scores only.")
    if problems:
        raise InputError(problems)
    if not any(mask.any() for mask in masks):
        raise InputError(f"none of {len(masks)} masks has a defective pixel; add test images with a defect.")
    if all((mask if other is None else mask | other).all() for mask, other in zip(masks, ignored, strict=True)):
        raise InputError(f"none of {len(masks)} masks has a background pixel; a mask is True where the defect is only.")


def _regions(masks: Sequence[Mask]) -> NDArray[np.int64]:
    """For each defective pixel of all masks the number of its region, from 0 on without gaps."""
    numbers, start = [], 0
    for mask in masks:
        if mask.any():
            labels, image = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)  # 0 is the background
            numbers.append(image[mask].astype(np.int64) - 1 + start)
            start += labels - 1
    return np.concatenate(numbers)


def _from_the_top(gained: NDArray[Any]) -> NDArray[Any]:
    """Sums at or above each threshold, downwards, of what is gained at each, given upwards."""
    return np.cumsum(gained[::-1])


def _precision(counts: Counts) -> NDArray[np.float64]:
    """K shares of the predicted pixels that are defective (0…1)."""
    return np.asarray(counts.defective / (counts.defective + counts.background))


def _area(counts: Counts, height: NDArray[np.float64], max_fpr: float) -> float:
    """Area under K heights over the false positive rate from 0 to `max_fpr`, over `max_fpr` (0…1 for heights to 1).

    At each threshold the curve moves flat to what lies above it, then straight to what it gains itself.
    """
    steps = np.column_stack([counts.above, counts.background]).ravel()
    x = np.concatenate([[0], steps, [counts.all_background]])
    y = np.repeat(np.concatenate([[0.0], height]), 2)
    limit = max_fpr * counts.all_background
    width = np.maximum(np.minimum(x[1:], limit) - x[:-1], 0)
    share = width / np.maximum(np.diff(x), 1)  # of the line that lies below the limit
    return float(np.sum(width * (y[:-1] + share * np.diff(y) / 2)) / limit)


def _instance_curve(counts: Counts) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Numbers of instances found at the distinct instance scores, downwards, and the interpolated precision there."""
    reached = np.diff(counts.instances, prepend=0) > 0
    best = np.maximum.accumulate(_precision(counts)[reached][::-1])[::-1]
    return counts.instances[reached], best
