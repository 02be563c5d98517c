"""How real, how varied and how new synthetic defects look: windows around them against windows of real defects.

A window holds the defect with its surroundings at the image's own resolution and is then resized to a fixed side. It
is described by a frozen backbone in two ways: by its pooled features, which KID and the Fréchet distance compare as
sets, and by its feature maps, which the perceptual distance compares place by place. All measures depend on the
backbone, whose name belongs beside them; none is an FID or an LPIPS: those stand for other networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from adabldm.core.images import Mask, Pixels, resize_pixels
from adabldm.core.records.evaluation import ImageMeasures
from adabldm.core.tensors import to_tensor
from adabldm.core.windows import crop, window_around
from adabldm.evaluation.labelled import Labelled
from adabldm.models.backbone import Backbone

SIDE = 128
"""Side in pixels that windows are resized to."""
KID_SUBSETS = 100
KID_SUBSET_SIZE = 50
"""Most windows of either kind in a subset of KID."""


@dataclass(frozen=True)
class Described:
    """N windows as the backbone sees them, float32.

    Attributes:
        pooled: NxC pooled features.
        perceptual: NxD; squared Euclidean distances between the rows are the perceptual distances of the windows.
    """

    pooled: Tensor
    perceptual: Tensor

    def __len__(self) -> int:
        return len(self.pooled)


def image_measures(
    backbone: Backbone,
    synthetic: Sequence[Labelled],
    real_test: Sequence[Labelled],
    few_shot: Sequence[Labelled],
    seed: int = 0,
    defect: str | None = None,
) -> ImageMeasures:
    """All measures of one defect type, or of all types together.

    Args:
        backbone: the network that looks at the windows.
        synthetic: generated images.
        real_test: real images that the generator has not seen.
        few_shot: the real images that the generator was fitted on.
        seed: seed of the random subsets of KID.
        defect: type of the defects that are looked at; all types if left out.

    In all three, images without such a defect are left out.
    """
    made, real, shots = (
        describe(backbone, cut_windows(images, defect=defect)) for images in (synthetic, real_test, few_shot)
    )
    mean, deviation = kid(made.pooled, real.pooled, seed) or (None, None)
    from_shots, real_from_shots = (perceptual_distances(each, shots) for each in (made, real))
    return ImageMeasures(
        kid=mean,
        kid_std=deviation,
        frechet=frechet_distance(made.pooled, real.pooled),
        diversity=diversity(made, from_shots),
        diversity_real=diversity(real, real_from_shots),
        nearest_few_shot=nearest_few_shot(from_shots),
        nearest_few_shot_real=nearest_few_shot(real_from_shots),
        backbone=backbone.name,
        synthetic=len(made),
        real=len(real),
        few_shot=len(shots),
    )


def cut_windows(images: Sequence[Labelled], side: int = SIDE, defect: str | None = None) -> Tensor:
    """The windows around the defects, or around those of one type, Nx3x`side`x`side` in [-1, 1]."""
    windows = [_cut(image.pixels, mask, side) for image in images for mask in image.of_type(defect) if mask.any()]
    return torch.stack(windows) if windows else torch.empty(0, 3, side, side)


def describe(backbone: Backbone, windows: Tensor, batch_size: int = 16) -> Described:
    """Show the backbone Nx3xHxW windows in [-1, 1], `batch_size` at a time, on the device where it is."""
    device = next(backbone.parameters()).device
    pooled, perceptual = [], []
    with torch.inference_mode():
        for start in range(0, max(1, len(windows)), batch_size):  # one empty batch where there is no window
            maps, features = backbone.maps_and_features(windows[start : start + batch_size].to(device))
            pooled.append(features.cpu())
            perceptual.append(_perceptual(maps).cpu())
    return Described(torch.cat(pooled), torch.cat(perceptual))


def kid(synthetic: Tensor, real: Tensor, seed: int = 0) -> tuple[float, float] | None:
    """Kernel Inception distance of NxC and MxC features: mean and standard deviation over random subsets.

    Each of `KID_SUBSETS` subsets gives an unbiased estimate of the squared maximum mean discrepancy under the cubic
    kernel (x·y / C + 1)³ (Bińkowski et al., Demystifying MMD GANs, arXiv 1801.01401). The mean is unbiased for any
    number of windows and can be negative. A subset has half as many windows of either kind as the smaller set (2 to
    `KID_SUBSET_SIZE`), so that the subsets of few windows differ too; the deviation is that of an estimate from so
    many windows, hence larger than that of the mean. `None` with fewer than two of a kind.
    """
    fewest = min(len(synthetic), len(real))
    if fewest < 2:
        return None
    size = min(KID_SUBSET_SIZE, max(2, fewest // 2))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.stack(
        [
            poly_mmd(_subset(real.double(), size, generator), _subset(synthetic.double(), size, generator))
            for _ in range(KID_SUBSETS)
        ]
    )
    return float(scores.mean()), float(scores.std(correction=0))


def frechet_distance(synthetic: Tensor, real: Tensor) -> float | None:
    """Squared Fréchet distance of two Gaussians with the means and covariances of NxC and MxC features.

    |m - m'|² + tr(S + S' - 2 (S S')^½), as in Heusel et al., arXiv 1706.08500. With fewer windows than
    features it is much too large even for windows of the same kind: compare only values of the same counts.
    `None` with fewer than two of a kind.
    """
    if min(len(synthetic), len(real)) < 2:
        return None
    metric = FrechetInceptionDistance(_Given(real.shape[1]))
    metric.update(real.double(), real=True)
    metric.update(synthetic.double(), real=False)
    return max(0.0, float(metric.compute()))  # equal sets can come out below 0 by rounding


def perceptual_distances(first: Described, second: Described) -> Tensor:
    """NxM perceptual distances between N and M windows, each in [0, 4].

    The distance of Zhang et al., arXiv 1801.03924, equation 1, without learned weights: at every place of every map
    the features are scaled to unit length, and their squared differences are averaged over places and maps.
    """
    exact = "donot_use_mm_for_euclid_dist"  # else a window is not at distance 0 from its copy
    return torch.cdist(first.perceptual, second.perceptual, compute_mode=exact).square()


def diversity(windows: Described, from_few_shot: Tensor) -> float | None:
    """Intra-cluster diversity: how different the windows made from one few-shot example are from each other.

    Every window joins the cluster of its nearest few-shot window; the perceptual distance is averaged over the pairs
    of each cluster and then over the clusters with a pair, so that copies of the few-shot windows count as no
    diversity (Ojha et al., arXiv 2104.06820). `None` where no cluster has a pair.

    Args:
        windows: N windows.
        from_few_shot: NxM distances to the M few-shot windows.
    """
    means = list(_cluster_means(windows, from_few_shot)) if from_few_shot.numel() else []
    return sum(means) / len(means) if means else None


def nearest_few_shot(from_few_shot: Tensor) -> float | None:
    """Mean distance of the N windows to their nearest of the M few-shot windows (NxM); `None` without either."""
    return float(from_few_shot.amin(1).mean()) if from_few_shot.numel() else None


def _subset(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return features[torch.randperm(len(features), generator=generator)[:size]]


class _Given(nn.Identity):
    """Features that are there already, for torchmetrics, which asks for a network."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def _cut(pixels: Pixels, mask: Mask, side: int) -> Tensor:
    return to_tensor(resize_pixels(crop(pixels, window_around(mask)), (side, side)))


def _perceptual(maps: Sequence[Tensor]) -> Tensor:
    """Unit-length features at every place, NxD, scaled so that squared distances average over places and maps."""
    places = [each.shape[2] * each.shape[3] for each in maps]
    parts = [F.normalize(each, dim=1).flatten(1) / math.sqrt(count) for each, count in zip(maps, places, strict=True)]
    return torch.cat(parts, dim=1) / math.sqrt(len(maps))


def _cluster_means(windows: Described, from_few_shot: Tensor) -> Iterator[float]:
    """Mean distance between two windows of a cluster, for each cluster that has two."""
    owner = from_few_shot.argmin(1)
    for cluster in range(from_few_shot.shape[1]):
        members = windows.perceptual[owner == cluster]
        if len(members) >= 2:
            yield float(F.pdist(members).square().mean())
