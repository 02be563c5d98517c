"""Denoise: the guided prediction of the UNet, steered by the control branch."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch
from torch import Tensor

from adabldm.editing.loop import Predictor, Schedule
from adabldm.models.components import Components
from adabldm.stages import stage
from adabldm.trimap.trimap import OBJECT


def make_schedule(components: Components) -> Schedule:
    """Noise levels and prediction type as the base's scheduler config says."""
    scheduler = components.scheduler
    kind = str(scheduler.config["prediction_type"])
    return Schedule(scheduler.alphas_cumprod, float(scheduler.final_alpha_cumprod), kind)


def guided_prediction(
    components: Components,
    prompts: Tensor,
    empty: Tensor,
    trimaps: Tensor,
    guidance: float,
    *,
    control_once: bool = True,
    guide_trimap: bool = False,
    guided_timesteps: Container[int] | None = None,
) -> Predictor:
    """ε_u + w(ε_c − ε_u) (arXiv 2207.12598); the same holds for v, which is linear in ε at a given z_t.

    The control branch reads the *empty* prompt in both halves (AdaBLDM), so its features are the same in both.

    Args:
        components: the networks, with a control branch.
        prompts: embeddings of the prompts, BxTxC.
        empty: embedding of the empty prompt, 1xTxC.
        trimaps: Γ, B1HW in {0, 0.5, 1}.
        guidance: w; 1 runs the prompted half only.
        control_once: compute the control features once and use them in both halves.
        guide_trimap: the unguided half reads the trimap *without* its defect, so that guidance strengthens the defect
            and not only its prompt; the control branch then runs on both halves.
        guided_timesteps: those with guidance; the others run the prompted half only; `None` = all.
    """
    control: Any = components.controlnet
    unet: Any = components.unet
    count = len(prompts)
    empties = empty.expand(count, -1, -1)
    both = torch.cat([empties, prompts])
    unguided_trimaps = trimaps.clamp(max=OBJECT) if guide_trimap else trimaps
    once = control_once and not guide_trimap

    def features(latents: Tensor, timestep: int, halves: int) -> tuple[list[Tensor], Tensor]:
        with stage("control"):
            down, mid = control(
                torch.cat([latents] * halves),
                timestep,
                encoder_hidden_states=torch.cat([empties] * halves),
                controlnet_cond=trimaps if halves == 1 else torch.cat([unguided_trimaps, trimaps]),
                return_dict=False,
            )
        return down, mid

    def predict(latents: Tensor, timestep: int) -> Tensor:
        if guidance == 1.0 or (guided_timesteps is not None and timestep not in guided_timesteps):
            down, mid = features(latents, timestep, 1)
            return _run(unet, latents, timestep, prompts, down, mid)
        if once:
            down, mid = features(latents, timestep, 1)
            down, mid = [torch.cat([part, part]) for part in down], torch.cat([mid, mid])
        else:
            down, mid = features(latents, timestep, 2)
        unguided, guided = _run(unet, torch.cat([latents, latents]), timestep, both, down, mid).chunk(2)
        return unguided + guidance * (guided - unguided)

    return predict


def _run(unet: Any, latents: Tensor, timestep: int, embeddings: Tensor, down: list[Tensor], mid: Tensor) -> Tensor:
    with stage("unet"):
        prediction: Tensor = unet(
            latents,
            timestep,
            encoder_hidden_states=embeddings,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample
    return prediction
