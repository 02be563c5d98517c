"""The one call of UNet and control branch, shared by guidance, training and previews."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adabldm.core.stages import stage
from adabldm.models.clean_latents import condition
from adabldm.models.components import Components
from adabldm.models.conditioning import TextConditioning


@dataclass(frozen=True)
class ControlFeatures:
    """Features that the control branch adds to the UNet (arXiv 2302.05543).

    Attributes:
        down: one for each skip connection, BCHW.
        mid: for the middle block, BCHW.
    """

    down: tuple[Tensor, ...]
    mid: Tensor

    def repeat(self, times: int) -> ControlFeatures:
        """The features of the batch, so many times one after the other."""
        return ControlFeatures(tuple(torch.cat([part] * times) for part in self.down), torch.cat([self.mid] * times))


class Denoiser:
    """Predicts the noise, the velocity or the clean latents, as the base's scheduler says.

    Args:
        components: the networks; they are looked up at every call.
        remember: embed what the control branch reads once, not at every step: it is the same at all noise levels. For
            plain networks whose weights stay as they are while this denoiser is used.
    """

    def __init__(self, components: Components, *, remember: bool = False) -> None:
        self._components, self._remember = components, remember
        self._embedded: list[tuple[Tensor, Tensor | None, Tensor]] = []

    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor | int,
        conditioning: TextConditioning,
        control: ControlFeatures | None = None,
    ) -> Tensor:
        """The UNet's prediction, BCHW.

        Args:
            latents: z_t, BCHW.
            timesteps: one for all, or one for each.
            conditioning: of B prompts.
            control: features of the control branch; it takes no part if left out.
        """
        unet: Any = self._components.unet
        features: dict[str, Any] = {}
        if control is not None:
            features = {
                "down_block_additional_residuals": list(control.down),
                "mid_block_additional_residual": control.mid,
            }
        with stage("unet"):
            prediction: Tensor = unet(
                latents,
                _for_each(timesteps, latents),
                encoder_hidden_states=conditioning.embeddings,
                **features,
            ).sample
        return prediction

    def control(
        self,
        latents: Tensor,
        timesteps: Tensor | int,
        empty: TextConditioning,
        trimaps: Tensor,
        clean: Tensor | None = None,
    ) -> ControlFeatures:
        """The control branch's features.

        Args:
            latents: z_t, BCHW.
            timesteps: one for all, or one for each.
            empty: the *empty* prompt, B times: the branch reads no other (AdaBLDM, arXiv 2402.19330).
            trimaps: Γ, B1HW in {0, 0.5, 1}, at image size.
            clean: scaled latents of the pictures without their defects, BCHW; a branch that reads the trimap alone
                (`models.clean_latents`) needs none.
        """
        branch: Any = self._components.controlnet
        with stage("control"):
            if self._remember:
                shown, branch = self._embed(branch, trimaps, clean), _behind_embedding(branch)
            else:
                shown = condition(self._components, trimaps, clean)
            down, mid = branch(
                latents,
                _for_each(timesteps, latents),
                encoder_hidden_states=empty.embeddings,
                controlnet_cond=shown,
                return_dict=False,
            )
        return ControlFeatures(tuple(down), mid)

    def _embed(self, branch: Any, trimaps: Tensor, clean: Tensor | None) -> Tensor:
        """What the control branch reads, embedded; remembered for the same tensors."""
        for known_trimaps, known_clean, known in self._embedded:
            if known_trimaps is trimaps and known_clean is clean:
                return known
        embedded: Tensor = branch.controlnet_cond_embedding(condition(self._components, trimaps, clean))
        self._embedded.append((trimaps, clean, embedded))
        return embedded


def _behind_embedding(branch: nn.Module) -> nn.Module:
    """The control branch with the same weights, that reads what is embedded already."""
    view = copy.copy(branch)
    view._modules = {**branch._modules, "controlnet_cond_embedding": nn.Identity()}
    return view


def _for_each(timesteps: Tensor | int, latents: Tensor) -> Tensor:
    """Timesteps as they are made on the device of the latents: diffusers copies a number there, and waits for it."""
    if isinstance(timesteps, Tensor):
        return timesteps
    return torch.full((len(latents),), timesteps, device=latents.device)
