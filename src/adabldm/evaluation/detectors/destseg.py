"""DeSTSeg (Zhang et al., Segmentation Guided Denoising Student-Teacher, arXiv 2211.11317), made small.

| paper | here |
|---|---|
| T, teacher: ResNet18 with ImageNet weights, frozen | EfficientNet-Lite0, frozen: maps at strides 4, 8, 16 |
| S, student: ResNet18 encoder, its mirror image as decoder | `Student`, narrower |
| synthetic anomalies of Perlin noise and textures | the condition's own images and their sources |
| 1 - cosine of T(clean) and S(corrupted), over three maps (section 3.2) | `cosine_distance` |
| segmentation: two residual blocks and ASPP on the products of normalised maps (section 3.3) | `Segmentation` |
| focal loss + L1 at stride 4 (section 3.3) | the same on the map scaled up to the image: small defects stay visible |
| SGD | AdamW, for a fit of minutes |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adabldm.core.images import Pixels
from adabldm.core.settings.evaluate import Budget
from adabldm.evaluation.detectors.common import (
    Advance,
    DetectorSettings,
    ScoreMap,
    check_settings,
    not_fitted,
    predict_map,
    require,
    seeded,
    train,
    unreported,
)
from adabldm.evaluation.detectors.crops import Frames, draw_batch, full_range, prepare
from adabldm.evaluation.labelled import Labelled
from adabldm.models.backbone import Backbone, load_backbone

STRIDE = 32
"""Stride of the student's narrowest map: the sides of crops and of padded images are multiples of it."""
GAMMA = 4.0
"""Exponent of the focal loss: pixels that are already right hardly count."""


@dataclass(frozen=True)
class DeSTSegSettings(DetectorSettings):
    """How the student and the segmentation network are built and trained; `steps` are those of the segmentation.

    Attributes:
        student_steps: optimiser steps of the student, which come first.
        widths: channels of the student at strides 2, 4, 8, 16 and 32.
        segmentation_width: channels of the segmentation network, a multiple of 4.
    """

    student_steps: int = 0
    widths: tuple[int, int, int, int, int] = (24, 32, 64, 128, 192)
    segmentation_width: int = 64


BUDGETS: Mapping[Budget, DeSTSegSettings] = {
    "quick": DeSTSegSettings(steps=150, student_steps=150),
    "full": DeSTSegSettings(steps=300, student_steps=300),
}


class Student(nn.Module):
    """Encoder and decoder of residual blocks, without any way around the narrowest map, so that it must denoise.

    Args:
        widths: channels at strides 2, 4, 8, 16 and 32.
        map_channels: channels of the teacher's maps at strides 4, 8 and 16.
    """

    def __init__(self, widths: tuple[int, int, int, int, int], map_channels: Sequence[int]) -> None:
        from monai.networks.blocks.convolutions import Convolution, ResidualUnit

        super().__init__()
        encoder = [
            ResidualUnit(2, before, after, strides=2, act="relu", norm="batch") for before, after in pairwise(widths)
        ]
        self.encoder = nn.Sequential(Convolution(2, 3, widths[0], strides=2, act="relu", norm="batch"), *encoder)
        self.decoder = nn.ModuleList(
            ResidualUnit(2, before, after, act="relu", norm="batch")
            for before, after in zip(widths[:1:-1], widths[-2:0:-1], strict=True)
        )
        # Linear in the end, as the teacher's maps have both signs.
        self.heads = nn.ModuleList(
            nn.Conv2d(width, channels, 1) for width, channels in zip(widths[-2:0:-1], map_channels[::-1], strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps of Bx3xHxW images (sides multiples of 32) at strides 4, 8 and 16, with the teacher's channels."""
        hidden = self.encoder(images)
        maps = []
        for block, head in zip(self.decoder, self.heads, strict=True):
            hidden = block(F.interpolate(hidden, scale_factor=2, mode="bilinear"))
            maps.append(head(hidden))
        return maps[::-1]


class Segmentation(nn.Module):
    """Two residual blocks and atrous spatial pyramid pooling.

    Args:
        channels: of the joined maps.
        width: of the hidden maps.
    """

    def __init__(self, channels: int, width: int) -> None:
        from monai.networks.blocks.aspp import SimpleASPP
        from monai.networks.blocks.convolutions import ResidualUnit

        super().__init__()
        self.layers = nn.Sequential(
            ResidualUnit(2, channels, width, act="relu", norm="batch"),
            ResidualUnit(2, width, width, act="relu", norm="batch"),
            SimpleASPP(2, width, width // 4, acti_type="relu"),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, products: Tensor) -> Tensor:
        """Logits at four times the size: BxCxhxw to Bx1x4hx4w."""
        logits: Tensor = F.interpolate(self.layers(products), scale_factor=4, mode="bilinear")
        return logits


def cosine_distance(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """One minus the cosine of the channels at each place, averaged over the places, summed over the maps."""
    distances = [
        1 - F.cosine_similarity(first.float(), second.float(), dim=1).mean()
        for first, second in zip(teacher, student, strict=True)
    ]
    return torch.stack(distances).sum()


def products(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Channel by channel the products of the normalised maps, all at the size of the first: BxΣCxhxw."""
    size = teacher[0].shape[-2:]
    return torch.cat(
        [
            F.interpolate(F.normalize(first, dim=1) * F.normalize(second, dim=1), size=size, mode="bilinear")
            for first, second in zip(teacher, student, strict=True)
        ],
        dim=1,
    )


class DeSTSegDetector:
    """Student, teacher and segmentation network; its maps are probabilities in [0, 1].

    The student learns to remove the defects of images whose source is known; real defect images have none and take
    part in the segmentation only, so without synthetic images the student sees nothing but good ones.

    Args:
        settings: how it is built and trained.
        device: where it computes.

    Raises:
        InputError: MONAI or the teacher's weights are not installed, or a setting cannot work.
    """

    name: ClassVar[str] = "destseg"
    label_free: ClassVar[bool] = False
    step_seconds: ClassVar[float] = 0.4

    def __init__(self, settings: DeSTSegSettings, device: torch.device | str = "cpu") -> None:
        require(["monai"])
        check_settings(self.name, settings, STRIDE)
        self.settings, self.device = settings, torch.device(device)
        self.teacher: Backbone = load_backbone().to(self.device)
        self._networks: tuple[Student, Segmentation] | None = None

    @classmethod
    def of_budget(cls, budget: Budget, device: torch.device, steps: int | None) -> Self:
        """The DeSTSeg of a budget; see `Detector.of_budget`."""
        settings = BUDGETS[budget]
        student_steps = steps or settings.student_steps
        return cls(replace(settings, steps=steps or settings.steps, student_steps=student_steps), device)

    def steps(self, images: Sequence[Labelled]) -> int:
        """Optimiser steps of student and segmentation network; see `Detector.steps`."""
        del images
        return self.settings.student_steps + self.settings.steps

    def fit(self, images: Sequence[Labelled], *, seed: int, advance: Advance = unreported) -> None:
        """Learn from defect-free and defect images; see `Detector.fit`."""
        frames = prepare(images, name=self.name, side=self.settings.side, scaling=full_range)
        student = self._fit_student(frames, seed, advance)
        self._networks = student, self._fit_segmentation(frames, student, seed, advance)

    def predict(self, pixels: Pixels) -> ScoreMap:
        """Probability of a defect; see `Detector.predict`."""
        if self._networks is None:
            raise not_fitted(self.name)
        student, segmentation = self._networks
        return predict_map(
            lambda images: segmentation(products(self.teacher.maps(images), student(images))).sigmoid(),
            pixels,
            side=self.settings.side,
            multiple=STRIDE,
            scaling=full_range,
            device=self.device,
        )

    def _fit_student(self, frames: Frames, seed: int, advance: Advance) -> Student:
        settings, name = self.settings, f"{self.name}-student"
        student = seeded(lambda: Student(settings.widths, self.teacher.map_channels), seed, name).to(self.device)

        def loss(rng: np.random.Generator) -> Tensor:
            batch = draw_batch(frames.good, frames.pairs, settings.batch_size, settings.crop, rng)
            with torch.no_grad():
                target = self.teacher.maps(batch.clean.to(self.device))
            return cosine_distance(target, student(batch.images.to(self.device)))

        train(student, loss, settings, steps=settings.student_steps, seed=seed, name=name, advance=advance)
        return student

    def _fit_segmentation(self, frames: Frames, student: Student, seed: int, advance: Advance) -> Segmentation:
        from monai.losses import FocalLoss

        settings, name = self.settings, f"{self.name}-segmentation"
        channels = sum(self.teacher.map_channels)
        network = seeded(lambda: Segmentation(channels, settings.segmentation_width), seed, name).to(self.device)
        focal = FocalLoss(gamma=GAMMA)

        def loss(rng: np.random.Generator) -> Tensor:
            batch = draw_batch(frames.good, frames.defects, settings.batch_size, settings.crop, rng)
            images, masks = batch.images.to(self.device), batch.masks.to(self.device)
            with torch.no_grad():
                joined = products(self.teacher.maps(images), student(images))
            logits = network(joined).float()
            value: Tensor = focal(logits, masks) + F.l1_loss(logits.sigmoid(), masks)
            return value

        train(network, loss, settings, steps=settings.steps, seed=seed, name=name, advance=advance)
        return network
