"""Three-stage editing: free diffusion, latent editing, image editing (AdaBLDM, arXiv 2402.19330; DESIGN section 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adabldm.editing.blending import blend, draw_noise, noised
from adabldm.editing.plan import CLEAN, Step
from adabldm.editing.presets import Preset

Predictor = Callable[[Tensor, int], Tensor]
"""(latents BCHW, timestep) to the guided prediction BCHW."""


@dataclass(frozen=True)
class Schedule:
    """The noise schedule: ᾱ_t for every training timestep, ᾱ of clean latents, and what the UNet predicts."""

    alphas_cumprod: Tensor
    final_alpha: float = 1.0
    prediction_type: str = "epsilon"

    def alpha(self, timestep: int) -> float:
        """ᾱ at a timestep."""
        return self.final_alpha if timestep == CLEAN else float(self.alphas_cumprod[timestep])


@dataclass(frozen=True)
class Scene:
    """What is edited.

    Attributes:
        image: x_OK, BCHW in [-1, 1].
        mask: M, B1HW in {0, 1}.
        background: E(x_OK), scaled latents.
        latent_mask: M_z at latent size.
        generators: one a sample; everything random is drawn from them.
    """

    image: Tensor
    mask: Tensor
    background: Tensor
    latent_mask: Tensor
    generators: Sequence[torch.Generator]


def denoise(prediction: Tensor, latents: Tensor, step: Step, schedule: Schedule) -> tuple[Tensor, Tensor]:
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


def edit(
    predict: Predictor,
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    scene: Scene,
    plan: Sequence[Step],
    schedule: Schedule,
    preset: Preset,
    on_step: Callable[[Step], None] | None = None,
) -> Tensor:
    """From noise to z*, the latents of the edited pictures.

    A plan whose first steps were left out begins from the noised background instead of from pure noise.

    Args:
        predict: Denoise, the guided prediction.
        encode: E, BCHW in [-1, 1] to scaled latents.
        decode: D, the reverse.
        scene: images, masks and generators.
        plan: the steps with their stages.
        schedule: noise levels.
        preset: the open points: what is blended and what is decoded.
        on_step: called after every step.
    """
    alphas = schedule.alphas_cumprod
    if plan[0].index == 0:
        latents = draw_noise(scene.background, scene.generators)
    else:
        latents = noised(scene.background, plan[0].timestep, alphas, scene.generators)
    for step in plan:
        if step.blends_latents:
            level = step.timestep if preset.blend_background == "noised" else CLEAN
            background = noised(scene.background, level, alphas, scene.generators)
            latents = blend(latents, background, scene.latent_mask)
        following, clean = denoise(predict(latents, step.timestep), latents, step, schedule)
        if step.pastes_pixels:
            pasted = blend(decode(clean if preset.paste_source == "predicted" else following), scene.image, scene.mask)
            following = noised(encode(pasted), step.renoise_timestep, alphas, scene.generators)
        latents = following
        if on_step is not None:
            on_step(step)
    return blend(latents, scene.background, scene.latent_mask) if preset.final_blend else latents
