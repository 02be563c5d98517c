"""The detectors by name. A new detector is a class in a file of its own, and one line here."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from adabldm.core.settings.base import FieldProblem, SettingsError
from adabldm.core.settings.evaluate import Budget
from adabldm.evaluation.detectors.common import Detector
from adabldm.evaluation.detectors.destseg import DeSTSegDetector
from adabldm.evaluation.detectors.patchcore import PatchCoreDetector
from adabldm.evaluation.detectors.unet import UNetDetector

DETECTORS: Mapping[str, type[Detector]] = {
    "unet": UNetDetector,
    "destseg": DeSTSegDetector,
    "patchcore": PatchCoreDetector,
}


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
        SettingsError: unknown name.
        InputError: a package of the extra `evaluate` is missing.
    """
    if name not in DETECTORS:
        raise SettingsError([FieldProblem("detector", f"{name} was given, expected one of {', '.join(DETECTORS)}")])
    return DETECTORS[name].of_budget(budget, torch.device(device), steps)
