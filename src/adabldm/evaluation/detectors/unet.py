"""A supervised U-Net (Ronneberger et al., arXiv 1505.04597), trained from scratch on the condition's masks.

Its weights come from the condition alone, so it is the most sensitive judge of what synthetic images add.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

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
from adabldm.evaluation.detectors.crops import draw_batch, prepare, standardise
from adabldm.evaluation.labelled import Labelled

PRIOR = -3.0
"""First logit of every pixel: defects are rare, and learning that alone would take hundreds of steps."""

MIRRORS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
"""Axes along which an image (BCHW) is flipped in prediction, as it is and laid on its side: eight views."""


@dataclass(frozen=True)
class UNetSettings(DetectorSettings):
    """How the U-Net is built and trained.

    The defaults are those that learnt most from real images alone in some minutes of a CPU core: small images and
    batches, few channels at the full size, many steps.

    Attributes:
        features: channels of the five levels from the full size down, and of the last layer; each level halves the
            sides.
    """

    batch_size: int = 8
    crop: int = 96
    side: int = 192
    learning_rate: float = 2e-3
    features: tuple[int, int, int, int, int, int] = (8, 16, 32, 64, 128, 8)


BUDGETS: Mapping[Budget, UNetSettings] = {"quick": UNetSettings(steps=1500), "full": UNetSettings(steps=3000)}


class UNetDetector:
    """Segments defects; its maps are probabilities in [0, 1].

    Each image is standardised as a whole: the exposure of magnetic tiles differs more from image to image than a
    defect differs from its tile. The norm inside is batch norm, whose statistics are fixed in prediction: an instance
    norm would see other statistics in a whole image than in a crop half filled by a defect. A map is the mean over
    the image's turned and mirrored views, which steadies what a few hundred images taught.

    Args:
        settings: how it is built and trained.
        device: where it computes.

    Raises:
        InputError: MONAI is not installed, or a setting cannot work.
    """

    name: ClassVar[str] = "unet"
    label_free: ClassVar[bool] = False
    step_seconds: ClassVar[float] = 0.05

    def __init__(self, settings: UNetSettings, device: torch.device | str = "cpu") -> None:
        require(["monai"])
        self._multiple = 2 ** (len(settings.features) - 2)
        check_settings(self.name, settings, self._multiple)
        self.settings, self.device = settings, torch.device(device)
        self._network: nn.Module | None = None

    @classmethod
    def of_budget(cls, budget: Budget, device: torch.device, steps: int | None) -> Self:
        """The U-Net of a budget; see `Detector.of_budget`."""
        settings = BUDGETS[budget]
        return cls(replace(settings, steps=steps or settings.steps), device)

    def steps(self, images: Sequence[Labelled]) -> int:
        """Optimiser steps; see `Detector.steps`."""
        del images
        return self.settings.steps

    def fit(self, images: Sequence[Labelled], *, seed: int, advance: Advance = unreported) -> None:
        """Learn from defect-free and defect images; see `Detector.fit`."""
        from monai.losses import DiceCELoss, DiceLoss

        settings = self.settings
        frames = prepare(images, name=self.name, side=settings.side, scaling=standardise)
        network = seeded(self._build, seed, self.name).to(self.device)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Dice over the batch, because a crop without a defect has none of its own; and Dice of each crop with a defect,
        # because in the batch's sum a pit of ten pixels has no weight beside a stain of thousands.
        together, each = DiceCELoss(sigmoid=True, batch=True), DiceLoss(sigmoid=True)

        def loss(rng: np.random.Generator) -> Tensor:
            batch = draw_batch(frames.good, frames.defects, settings.batch_size, settings.crop, rng)
            crops = batch.images.to(self.device, memory_format=torch.channels_last)
            found, masks = network(crops).float(), batch.masks.to(self.device)
            shown = batch.masks.flatten(1).any(1).nonzero().flatten().to(self.device)  # never empty
            value: Tensor = together(found, masks) + each(found[shown], masks[shown])
            return value

        train(network, loss, settings, steps=settings.steps, seed=seed, name=self.name, advance=advance)
        self._network = network

    def predict(self, pixels: Pixels) -> ScoreMap:
        """Probability of a defect; see `Detector.predict`."""
        network = self._network
        if network is None:
            raise not_fitted(self.name)
        return predict_map(
            lambda images: mean_of_views(network, images),
            pixels,
            side=self.settings.side,
            multiple=self._multiple,
            scaling=standardise,
            device=self.device,
        )

    def _build(self) -> nn.Module:
        from monai.networks.nets import BasicUNet

        network: Any = BasicUNet(
            spatial_dims=2, in_channels=3, out_channels=1, features=self.settings.features, norm="batch"
        )
        nn.init.constant_(network.final_conv.bias, PRIOR)
        built: nn.Module = network
        return built


def mean_of_views(network: nn.Module, images: Tensor) -> Tensor:
    """Mean probability over an image's eight views (`MIRRORS`), each turned back; images Bx3xHxW, result Bx1xHxW."""
    sides = [_mirrored_mean(network, images), _mirrored_mean(network, images.transpose(2, 3)).transpose(2, 3)]
    return torch.stack(sides).mean(0)


def _mirrored_mean(network: nn.Module, images: Tensor) -> Tensor:
    views = network(torch.cat([images.flip(axes) for axes in MIRRORS])).float().sigmoid().chunk(len(MIRRORS))
    return torch.stack([view.flip(axes) for view, axes in zip(views, MIRRORS, strict=True)]).mean(0)
