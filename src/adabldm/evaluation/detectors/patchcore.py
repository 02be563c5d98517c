"""PatchCore (Roth et al., Towards Total Recall in Industrial Anomaly Detection, arXiv 2106.08265), made small.

It remembers what good patches look like and never sees a defect: a control that synthetic images cannot help.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import cv2
import torch
from torch import Tensor
from torch.nn import functional as F

from adabldm.core.images import Pixels
from adabldm.core.seeding import torch_generator
from adabldm.core.settings.evaluate import Budget
from adabldm.evaluation.detectors.common import Advance, ScoreMap, not_fitted, predict_map, unreported
from adabldm.evaluation.detectors.crops import Frame, full_range, prepare, scaled
from adabldm.evaluation.labelled import Labelled
from adabldm.models.backbone import Backbone, load_backbone

STRIDE = 16
"""Stride of the coarser map: the sides of whole images are made multiples of it."""


@dataclass(frozen=True)
class PatchCoreSettings:
    """How much PatchCore remembers.

    Attributes:
        memory: largest number of patches that are remembered.
        candidates: number of patches that they are chosen from: a random sample, with equally many of each image.
        projection: dimensions in which they are chosen (section 3.2).
        side: images whose longer side is longer (px) are shrunk to it, smaller ones stay as they are.
        sigma: standard deviation of the Gaussian that smooths the map, in px at that size (section 3.3).
    """

    memory: int = 2000
    candidates: int = 20_000
    projection: int = 64
    side: int = 384
    sigma: float = 4.0


BUDGETS: Mapping[Budget, PatchCoreSettings] = {
    "quick": PatchCoreSettings(memory=1000, candidates=10_000),
    "full": PatchCoreSettings(),
}


def patches(maps: Sequence[Tensor]) -> Tensor:
    """One vector per place: maps averaged over 3x3 places, scaled up to the first's size and joined, BxΣCxhxw."""
    size = maps[0].shape[-2:]
    pooled = [F.avg_pool2d(map_, 3, 1, 1, count_include_pad=False) for map_ in maps]
    return torch.cat([F.interpolate(map_, size=size, mode="bilinear") for map_ in pooled], dim=1)


def coreset(vectors: Tensor, count: int, projection: int, generator: torch.Generator) -> Tensor:
    """Greedy k-centre choice (algorithm 1): each pick is the vector farthest from all picked before.

    Args:
        vectors: NxC, on any device.
        count: vectors to choose.
        projection: dimensions of the random projection in which distances are measured.
        generator: CPU generator of the projection and of the first pick.

    Returns:
        the indices chosen, min(N, count), on the device of `vectors`.
    """
    if len(vectors) <= count:
        return torch.arange(len(vectors), device=vectors.device)
    directions = torch.randn(vectors.shape[1], projection, generator=generator).to(vectors.device)
    points = vectors @ directions
    norms = points.pow(2).sum(1)
    pick = torch.randint(len(points), (1,), generator=generator).to(points.device)
    picks, nearest = [pick], torch.full_like(norms, float("inf"))
    for _ in range(count - 1):
        squared = norms - 2 * (points @ points[pick].T).squeeze(1) + norms[pick]
        nearest = torch.minimum(nearest, squared)
        pick = nearest.argmax(0, keepdim=True)
        picks.append(pick)
    return torch.cat(picks)


class PatchCoreDetector:
    """Distance of each patch to the nearest remembered one; its maps are distances, at least 0.

    Args:
        settings: how much it remembers.
        device: where it computes.

    Raises:
        InputError: the weights of the backbone are not installed.
    """

    name: ClassVar[str] = "patchcore"
    label_free: ClassVar[bool] = True
    step_seconds: ClassVar[float] = 0.1

    def __init__(self, settings: PatchCoreSettings, device: torch.device | str = "cpu") -> None:
        self.settings, self.device = settings, torch.device(device)
        self.backbone: Backbone = load_backbone().to(self.device)
        self._memory: Tensor | None = None

    @classmethod
    def of_budget(cls, budget: Budget, device: torch.device, steps: int | None) -> Self:
        """The PatchCore of a budget; nothing is optimised, so `steps` changes nothing. See `Detector.of_budget`."""
        del steps
        return cls(BUDGETS[budget], device)

    def steps(self, images: Sequence[Labelled]) -> int:
        """Defect-free images; see `Detector.steps`."""
        return sum(not image.marks for image in images)

    def fit(self, images: Sequence[Labelled], *, seed: int, advance: Advance = unreported) -> None:
        """Remember patches of the defect-free images, the others are left out; see `Detector.fit`."""
        settings = self.settings
        frames = prepare(images, name=self.name, side=settings.side, scaling=full_range, needs_defects=False).good
        share = -(-settings.candidates // len(frames))
        samples = []
        for index, frame in enumerate(frames):
            samples.append(self._sample(frame, share, seed, index))
            advance(1)
        vectors = torch.cat(samples)
        generator = torch_generator(seed, self.name, "coreset")
        self._memory = vectors[coreset(vectors, settings.memory, settings.projection, generator)]

    def predict(self, pixels: Pixels) -> ScoreMap:
        """Distance to what is known; see `Detector.predict`."""
        if self._memory is None:
            raise not_fitted(self.name)
        return predict_map(
            self._distances,
            pixels,
            side=self.settings.side,
            multiple=STRIDE,
            scaling=full_range,
            device=self.device,
        )

    def _patches(self, images: Tensor) -> Tensor:
        return patches(self.backbone.maps(images)[1:])

    @torch.no_grad()
    def _sample(self, frame: Frame, count: int, seed: int, index: int) -> Tensor:
        """At most `count` random patches of an image, NxC."""
        image = torch.from_numpy(scaled(frame.pixels, *frame.scaling))[None].to(self.device)
        vectors = self._patches(image)[0].flatten(1).T
        order = torch.randperm(len(vectors), generator=torch_generator(seed, self.name, index))
        return vectors[order[:count].to(self.device)]

    def _distances(self, images: Tensor) -> Tensor:
        """Smoothed distances, 1x1xHxW, of a 1x3xHxW image."""
        assert self._memory is not None
        vectors = self._patches(images)
        nearest = torch.cdist(vectors[0].flatten(1).T, self._memory).amin(1)
        coarse = nearest.reshape(1, 1, *vectors.shape[-2:])
        fine = F.interpolate(coarse, size=images.shape[-2:], mode="bilinear")[0, 0].cpu().numpy()
        return torch.from_numpy(cv2.GaussianBlur(fine, (0, 0), self.settings.sigma))[None, None]
