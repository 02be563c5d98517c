"""What all detectors share: the protocol, the settings, the training loop, prediction and the image score."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar, Protocol, Self, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adabldm.core.errors import InputError
from adabldm.core.images import Pixels, resize_pixels
from adabldm.core.precision import mixed
from adabldm.core.seeding import derived_seed, numpy_rng
from adabldm.core.settings.evaluate import Budget
from adabldm.evaluation.detectors.crops import Scaling, pad_to, scaled, shrink_size
from adabldm.evaluation.labelled import Labelled

TOP_PIXELS = 100
"""Pixels that the image score averages: T of DeSTSeg (arXiv 2211.11317)."""
WARMUP = 0.1
"""Share of the steps in which the learning rate rises."""
WEIGHT_DECAY = 0.01
"""Weight decay of AdamW."""
REPORT_STEPS = 25
"""Steps between two reports of the progress: reading the loss waits for a GPU."""

ScoreMap = NDArray[np.float32]
Network = TypeVar("Network", bound=nn.Module)


class Advance(Protocol):
    """A callback that is told of finished work."""

    def __call__(self, units: int = 1, /, **figures: float) -> None:
        """So many more units are finished; `figures` are to be shown beside the progress."""
        ...


def unreported(units: int = 1, /, **figures: float) -> None:
    """A callback that does nothing."""
    del units, figures


class Detector(Protocol):
    """Learns where defects are from the training set of one condition, then judges images.

    Attributes:
        name: name of the detector in the registry; part of every random stream.
        label_free: it learns from defect-free images alone, so that one result serves all conditions.
        step_seconds: rough seconds of a step of `fit` on one core; only its ratio to other detectors matters.
    """

    name: ClassVar[str]
    label_free: ClassVar[bool]
    step_seconds: ClassVar[float]

    @classmethod
    def of_budget(cls, budget: Budget, device: torch.device, steps: int | None) -> Self:
        """A detector with the settings of a budget.

        Args:
            budget: "full", or "quick" for about half the work.
            device: where it computes.
            steps: optimiser steps of each of its networks, instead of the budget's.
        """
        ...

    def steps(self, images: Sequence[Labelled]) -> int:
        """Number of steps that `fit` reports on these images."""
        ...

    def fit(self, images: Sequence[Labelled], *, seed: int, advance: Advance = unreported) -> None:
        """Learn from scratch; what an earlier fit learned is forgotten.

        On the CPU the same images and seed give the same maps, bit for bit.

        Args:
            images: defect-free ones, real and synthetic defects with their masks.
            seed: seed of all random draws.
            advance: is told the finished steps.

        Raises:
            InputError: a kind of image that the detector needs is missing, or a mask does not fit its image.
        """
        ...

    def predict(self, pixels: Pixels) -> ScoreMap:
        """Anomaly map of an image (uint8 HxWx3), float32 HxW, higher = more defective.

        Raises:
            InputError: nothing was fitted yet.
        """
        ...


@dataclass(frozen=True)
class DetectorSettings:
    """How a detector is trained.

    Attributes:
        steps: optimiser steps.
        batch_size: crops a step: half of them show a defect.
        crop: side of the square crops in px.
        side: images whose longer side is longer (px) are shrunk to it, smaller ones stay as they are.
        learning_rate: peak rate of AdamW; it rises for the first tenth of the steps, then falls along a cosine.
    """

    steps: int
    batch_size: int = 16
    crop: int = 128
    side: int = 384
    learning_rate: float = 2e-3


def image_score(scores: ScoreMap, top: int = TOP_PIXELS) -> float:
    """Score of an image: the mean of its map's `top` highest pixels (of all of them, where there are fewer).

    A mean over some pixels is a maximum that one odd pixel cannot set.
    """
    values = np.ravel(scores)
    top = min(top, values.size)
    return float(np.partition(values, values.size - top)[values.size - top :].mean(dtype=np.float64))


def require(packages: Iterable[str]) -> None:
    """Check before any work that optional packages are installed.

    Raises:
        InputError: naming the ones that are missing.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)}: not installed, but detectors need it; pip install 'adabldm[evaluate]'."
        )


def check_settings(name: str, settings: DetectorSettings, multiple: int) -> None:
    """Check before any work that a network can be trained so.

    Args:
        name: name of the detector, for messages.
        settings: settings of the detector.
        multiple: the network takes crops whose sides are multiples of it (px).

    Raises:
        InputError: with all that is wrong.
    """
    problems = []
    if settings.steps < 1:
        problems.append(f"detector {name}: {settings.steps} steps, expected at least 1; raise steps.")
    if settings.batch_size < 2:
        problems.append(f"detector {name}: batch_size {settings.batch_size}, expected at least 2 (good and defect).")
    if settings.crop < multiple or settings.crop % multiple:
        problems.append(f"detector {name}: crop {settings.crop} px, expected a multiple of {multiple}; change crop.")
    if problems:
        raise InputError(problems)


def seeded(build: Callable[[], Network], *stream: int | str) -> Network:
    """A network whose initial weights depend on `stream` only; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(*stream, "weights"))
        return build()


def train(
    network: nn.Module,
    loss_of: Callable[[np.random.Generator], Tensor],
    settings: DetectorSettings,
    *,
    steps: int,
    seed: int,
    name: str,
    advance: Advance,
) -> None:
    """Minimise a loss by AdamW; afterwards the network is in evaluation mode.

    Args:
        network: what is trained, on its device.
        loss_of: the scalar loss of a batch that it draws from the generator it is given.
        settings: gives the learning rate.
        steps: optimiser steps.
        seed: with `name` and the step's number the seed of the generator.
        name: name of the random streams.
        advance: is told the finished steps and the loss.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    device = next(network.parameters()).device
    network.train()
    reported = 0
    for step in range(steps):
        with mixed(device):
            loss = loss_of(numpy_rng(seed, name, step))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if (step + 1) % REPORT_STEPS == 0 or step + 1 == steps:
            advance(step + 1 - reported, loss=loss.item())
            reported = step + 1
    network.eval()


def _rate(step: int, steps: int) -> float:
    """Factor of the learning rate in [0, 1]: a linear rise, then a cosine down to 0."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.no_grad()
def predict_map(
    scores_of: Callable[[Tensor], Tensor],
    pixels: Pixels,
    *,
    side: int,
    multiple: int,
    scaling: Scaling,
    device: torch.device,
) -> ScoreMap:
    """Anomaly map of a whole image.

    Args:
        scores_of: scores of a 1x3xhxw image, 1x1xhxw.
        pixels: uint8 HxWx3.
        side: the longer side is at most so many px in the network.
        multiple: the network's sides are multiples of it; the rest is filled up by reflection.
        scaling: how pixels become the network's numbers.
        device: device of the network.

    Returns:
        float32 HxW, scaled bilinearly to the image's own size.
    """
    small = resize_pixels(pixels, shrink_size(pixels.shape[:2], side))
    height, width = small.shape[:2]
    padded = pad_to(small, (-(-height // multiple) * multiple, -(-width // multiple) * multiple))
    image = torch.from_numpy(scaled(padded, *scaling(small)))[None].to(device)
    scores = scores_of(image)[0, 0, :height, :width].float().cpu().numpy()
    if scores.shape == pixels.shape[:2]:
        return np.ascontiguousarray(scores)
    return np.asarray(cv2.resize(scores, pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def not_fitted(name: str) -> InputError:
    """The error of a prediction that comes too early."""
    return InputError(f"detector {name}: it was not fitted yet; call fit with training images first.")
