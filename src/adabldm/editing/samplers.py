"""The sampler's step: from the prediction at one noise level to the latents at the next.

A sampler is a pure function of (prediction, latents, step); `make_sampler` is the one place that chooses it. One that
needs its earlier predictions, such as DPM-Solver++(2M), keeps them in the closure that `make_sampler` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from adabldm.editing.stage_plan import CLEAN, Step

SamplerStep = Callable[[Tensor, Tensor, Step], tuple[Tensor, Tensor]]
"""(prediction BCHW, latents z_t BCHW, step) to (latents at the next timestep, ẑ_0)."""


@dataclass(frozen=True)
class Schedule:
    """The noise schedule.

    Attributes:
        alphas_cumprod: ᾱ_t of every training timestep.
        final_alpha: ᾱ of clean latents.
        prediction_type: what the UNet predicts: "epsilon", "v_prediction" or "sample".
    """

    alphas_cumprod: Tensor
    final_alpha: float = 1.0
    prediction_type: str = "epsilon"

    def alpha(self, timestep: int) -> float:
        """ᾱ at a timestep."""
        return self.final_alpha if timestep == CLEAN else float(self.alphas_cumprod[timestep])


def make_schedule(scheduler: Any) -> Schedule:
    """Noise levels and prediction type as the base's scheduler config says."""
    kind = str(scheduler.config["prediction_type"])
    return Schedule(scheduler.alphas_cumprod, float(scheduler.final_alpha_cumprod), kind)


def make_sampler(schedule: Schedule) -> SamplerStep:
    """The sampler of one edit."""
    return partial(ddim, schedule=schedule)


def ddim(prediction: Tensor, latents: Tensor, step: Step, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """A DDIM step with η = 0 (arXiv 2010.02502, eq. 12).

    Args:
        prediction: ε, v or ẑ_0, BCHW.
        latents: z_t.
        step: gives the timesteps.
        schedule: gives ᾱ and what is predicted.

    Returns:
        (latents at the next timestep, ẑ_0).
    """
    alpha, following = schedule.alpha(step.timestep), schedule.alpha(step.next_timestep)
    signal, noise_level = alpha**0.5, (1 - alpha) ** 0.5
    if schedule.prediction_type == "v_prediction":
        clean = signal * latents - noise_level * prediction
        noise = signal * prediction + noise_level * latents
    elif schedule.prediction_type == "sample":
        clean, noise = prediction, (latents - signal * prediction) / max(noise_level, 1e-8)
    else:
        clean, noise = (latents - noise_level * prediction) / signal, prediction
    return following**0.5 * clean + (1 - following) ** 0.5 * noise, clean
