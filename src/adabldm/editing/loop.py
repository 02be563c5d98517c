"""Three-stage editing: free diffusion, latent editing, image editing (AdaBLDM, arXiv 2402.19330; docs/method.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adabldm.core.settings.edit import StagePlan
from adabldm.editing.blending import blend, draw_noise, noised
from adabldm.editing.samplers import Schedule, make_sampler
from adabldm.editing.stage_plan import CLEAN, Step

Predictor = Callable[[Tensor, Step], Tensor]
"""(latents BCHW, step) to the guided prediction BCHW."""
StepCallback = Callable[[Step, Tensor], Tensor]
"""(step, latents after it BCHW) to the latents that the edit goes on with."""


@dataclass(frozen=True)
class Codec:
    """The autoencoder as two functions.

    Attributes:
        encode: E, BCHW in [-1, 1] to scaled latents.
        decode: D, the reverse.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EditBatch:
    """What is edited at once.

    Attributes:
        image: x_OK, BCHW in [-1, 1].
        mask: M, B1HW in {0, 1}.
        background: E(x_OK), scaled latents.
        latent_mask: M_z, the mask at latent size.
        generators: one for each sample; all noise is drawn from them.
    """

    image: Tensor
    mask: Tensor
    background: Tensor
    latent_mask: Tensor
    generators: Sequence[torch.Generator]


def edit(
    predict: Predictor,
    codec: Codec,
    batch: EditBatch,
    steps: Sequence[Step],
    schedule: Schedule,
    plan: StagePlan,
    on_step: StepCallback | None = None,
) -> Tensor:
    """From noise to z*, the latents of the edited pictures.

    Args:
        predict: the guided prediction.
        codec: E and D.
        batch: images, masks and generators.
        steps: the steps with their stages; if the first ones were left out, the edit begins from the noised background
            instead of from pure noise (SDEdit, arXiv 2108.01073).
        schedule: noise levels.
        plan: the points that the paper leaves open: what is blended and what is decoded.
        on_step: called after every step; may replace the latents.
    """
    alphas, sample = schedule.alphas_cumprod, make_sampler(schedule)
    if steps[0].index == 0:
        latents = draw_noise(batch.background, batch.generators)
    else:
        latents = noised(batch.background, steps[0].timestep, alphas, batch.generators)
    for step in steps:
        if step.blends_latents:  # z_t ← M_z ⊙ z_t + (1 − M_z) ⊙ q(E(x_OK), t)
            level = step.timestep if plan.blend_background == "noised" else CLEAN
            background = noised(batch.background, level, alphas, batch.generators)
            latents = blend(latents, background, batch.latent_mask)
        following, clean = sample(predict(latents, step), latents, step)
        if step.pastes_pixels:  # x ← M ⊙ D(ẑ_0) + (1 − M) ⊙ x_OK, encoded and noised again
            decoded = codec.decode(clean if plan.paste_source == "predicted" else following)
            pasted = codec.encode(blend(decoded, batch.image, batch.mask))
            following = noised(pasted, step.renoise_timestep, alphas, batch.generators)
        latents = on_step(step, following) if on_step is not None else following
    return blend(latents, batch.background, batch.latent_mask) if plan.final_blend else latents
