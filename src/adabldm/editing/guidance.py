"""The guided prediction of the denoiser, steered by the control branch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adabldm.core.settings.edit import Guidance
from adabldm.editing.loop import Predictor
from adabldm.editing.stage_plan import Step
from adabldm.masks.trimap import OBJECT
from adabldm.models.conditioning import TextConditioning, join
from adabldm.models.denoiser import ControlFeatures, Denoiser


@dataclass(frozen=True)
class Conditions:
    """What the networks read beside the latents.

    Attributes:
        prompts: of B samples.
        empty: the empty prompt, one.
        trimaps: Γ, B1HW in {0, 0.5, 1}.
        clean: scaled latents of the good pictures, BCHW; a control branch that reads the trimap alone needs none.
    """

    prompts: TextConditioning
    empty: TextConditioning
    trimaps: Tensor
    clean: Tensor | None = None


def guided_prediction(denoiser: Denoiser, conditions: Conditions, guidance: Guidance) -> Predictor:
    """ε_u + w(ε_c − ε_u) (arXiv 2207.12598); the same holds for v, which is linear in ε at a given z_t.

    The control branch reads the *empty* prompt in both halves (AdaBLDM), so its features are the same in both, and
    `guidance.control_once` computes them once. With `guidance.trimap`, the unguided half reads the trimap *without* its
    defect, so that guidance strengthens the defect and not only its prompt; the control branch then runs on both.
    Steps that are not guided, and all steps at w = 1, run the prompted half alone.

    Args:
        denoiser: UNet and control branch.
        conditions: prompts, trimaps and clean latents.
        guidance: scale w, which is known, and which of the two ways.
    """
    scale = guidance.scale
    assert scale is not None
    prompts, trimaps, clean = conditions.prompts, conditions.trimaps, conditions.clean
    empties = conditions.empty.pick([0] * len(prompts))
    both_prompts, both_empties = join([empties, prompts]), empties.repeat(2)
    unguided_trimaps = trimaps.clamp(max=OBJECT) if guidance.trimap else trimaps
    both_trimaps = torch.cat([unguided_trimaps, trimaps])
    both_clean = None if clean is None else torch.cat([clean, clean])
    once = guidance.control_once and not guidance.trimap

    def both_features(latents: Tensor, timestep: int) -> ControlFeatures:
        if once:
            return denoiser.control(latents, timestep, empties, trimaps, clean).repeat(2)
        return denoiser.control(torch.cat([latents, latents]), timestep, both_empties, both_trimaps, both_clean)

    def predict(latents: Tensor, step: Step) -> Tensor:
        timestep = step.timestep
        if scale == 1.0 or not step.guided:
            features = denoiser.control(latents, timestep, empties, trimaps, clean)
            return denoiser.predict(latents, timestep, prompts, features)
        features = both_features(latents, timestep)
        both = denoiser.predict(torch.cat([latents, latents]), timestep, both_prompts, features)
        unguided, guided = both.chunk(2)
        return unguided + scale * (guided - unguided)

    return predict
