"""Which step is in which stage, and at which noise levels it works."""

from __future__ import annotations

from dataclasses import dataclass

from adabldm.core.settings.base import FieldProblem, SettingsError
from adabldm.core.settings.edit import Guidance, StagePlan

CLEAN = -1
"""The "timestep" of latents without noise."""


@dataclass(frozen=True)
class Step:
    """One denoising step.

    Attributes:
        index: number of the step, from 0.
        timestep: noise level on entry.
        next_timestep: noise level after the sampler's step, `CLEAN` after the last.
        blends_latents: latent stage: blend with the background's latents before the step.
        pastes_pixels: image stage: paste the decoded picture after the step.
        renoise_timestep: noise level that pasted latents are brought to.
        guided: the prediction is guided.
    """

    index: int
    timestep: int
    next_timestep: int
    blends_latents: bool
    pastes_pixels: bool
    renoise_timestep: int
    guided: bool = True


def timesteps(steps: int, spacing: str, train_timesteps: int = 1000) -> list[int]:
    """Timesteps from the noisiest down.

    Args:
        steps: number of timesteps.
        spacing: "trailing" (arXiv 2305.08891, table 2: the first is the last training timestep) or "leading"
            (multiples of the step size plus one, as Stable Diffusion samples, but none beyond the schedule).
        train_timesteps: length of the training schedule.
    """
    if spacing == "trailing":
        return [round(train_timesteps - index * train_timesteps / steps) - 1 for index in range(steps)]
    stride = train_timesteps // steps
    return [min((steps - 1 - index) * stride + 1, train_timesteps - 1) for index in range(steps)]


def check_steps(plan: StagePlan, train_timesteps: int) -> None:
    """Refuse a plan of more steps than a base knows noise levels.

    Raises:
        SettingsError: it has.
    """
    if plan.steps > train_timesteps:
        message = f"{plan.steps} was given, expected at most {train_timesteps}, the timesteps of this base"
        raise SettingsError([FieldProblem("plan.steps", message)])


def make_steps(plan: StagePlan, guidance: Guidance, train_timesteps: int = 1000) -> list[Step]:
    """The steps of a plan in order; raises as `check_steps`."""
    check_steps(plan, train_timesteps)
    guided = guidance.steps or (0, plan.steps)
    levels = [*timesteps(plan.steps, plan.spacing, train_timesteps), CLEAN]
    return [
        Step(
            index,
            timestep=levels[index],
            next_timestep=levels[index + 1],
            blends_latents=plan.latent_stage[0] <= index < plan.latent_stage[1],
            pastes_pixels=plan.image_stage[0] <= index < plan.image_stage[1],
            renoise_timestep=levels[index + 1] if plan.renoise == "next" else levels[index],
            guided=guided[0] <= index < guided[1],
        )
        for index in range(plan.steps)
    ]
