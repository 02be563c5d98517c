"""The detectors by name, and how long each may take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch

from adabldm.errors import InputError
from adabldm.evaluation.detectors.common import Detector
from adabldm.evaluation.detectors.destseg import DeSTSegDetector, DeSTSegSettings
from adabldm.evaluation.detectors.patchcore import PatchCoreDetector, PatchCoreSettings
from adabldm.evaluation.detectors.unet import UNetDetector, UNetSettings

Budget = Literal["quick", "full"]
Factory = Callable[[Budget, torch.device, int | None], Detector]

UNET: Mapping[Budget, UNetSettings] = {"quick": UNetSettings(steps=1500), "full": UNetSettings(steps=3000)}
DESTSEG: Mapping[Budget, DeSTSegSettings] = {
    "quick": DeSTSegSettings(steps=150, student_steps=150),
    "full": DeSTSegSettings(steps=300, student_steps=300),
}
PATCHCORE: Mapping[Budget, PatchCoreSettings] = {
    "quick": PatchCoreSettings(memory=1000, candidates=10_000),
    "full": PatchCoreSettings(),
}


def _unet(budget: Budget, device: torch.device, steps: int | None) -> Detector:
    settings = UNET[budget]
    return UNetDetector(replace(settings, steps=steps or settings.steps), device)


def _destseg(budget: Budget, device: torch.device, steps: int | None) -> Detector:
    settings = DESTSEG[budget]
    student_steps = steps or settings.student_steps
    return DeSTSegDetector(replace(settings, steps=steps or settings.steps, student_steps=student_steps), device)


def _patchcore(budget: Budget, device: torch.device, steps: int | None) -> Detector:
    del steps  # nothing is optimised
    return PatchCoreDetector(PATCHCORE[budget], device)


DETECTORS: Mapping[str, Factory] = {"unet": _unet, "destseg": _destseg, "patchcore": _patchcore}


def make_detector(
    name: str, budget: Budget = "full", device: torch.device | str = "cpu", *, steps: int | None = None
) -> Detector:
    """A detector that is yet to be fitted.

    Args:
        name: one of `DETECTORS`.
        budget: "full", or "quick" for about half the work; other settings go to the detector's class itself.
        device: where it computes.
        steps: optimiser steps (of each of its networks), instead of the budget's.

    Raises:
        InputError: unknown name, or a package of the extra `evaluate` is missing.
    """
    if name not in DETECTORS:
        raise InputError(f"detector {name}: unknown, expected one of {', '.join(DETECTORS)}.")
    return DETECTORS[name](budget, torch.device(device), steps)
