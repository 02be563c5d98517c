"""The objective of the base, the domain and the control stage: the error of the noise (or velocity) prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adabldm.images import Pixels, to_tensor
from adabldm.models.components import Components, encode_images, encode_prompts
from adabldm.prompts import EMPTY
from adabldm.training.examples import Example

PROMPT_DROPOUT = 0.1
"""Share of examples with the empty prompt, so that guidance works (DESIGN section 1)."""


@dataclass(frozen=True)
class Cache:
    """Examples encoded once.

    Attributes:
        latents: NxCxhxw, scaled.
        trimaps: uint8 Nx1xHxW, twice the trimap's value: 0, 1, 2.
        captions: index of each example's prompt, N.
        prompts: the different prompts.
    """

    latents: Tensor
    trimaps: Tensor
    captions: Tensor
    prompts: tuple[str, ...]


@torch.no_grad()
def encode_examples(components: Components, examples: Sequence[Example], batch_size: int = 16) -> Cache:
    """Encode the windows with the VAE, in half the size of float32; what does not change is computed once."""
    prompts = tuple(sorted({example.prompt for example in examples}))
    device = next(components.vae.parameters()).device
    latents = []
    for start in range(0, len(examples), batch_size):
        images = torch.stack([to_tensor(example.pixels) for example in examples[start : start + batch_size]])
        latents.append(encode_images(components.vae, images.to(device)).half().cpu())
    trimaps = np.stack([np.rint(example.trimap * 2).astype(np.uint8) for example in examples])
    captions = torch.tensor([prompts.index(example.prompt) for example in examples])
    return Cache(torch.cat(latents), torch.from_numpy(trimaps)[:, None], captions, prompts)


class DiffusionObjective:
    """Predict the noise (or velocity) in noised latents.

    Args:
        name: of the stage.
        components: the networks; those that are not in `train` are frozen here.
        cache: encoded examples.
        train: names of the networks (or adapters inside them) that are trained.
        control: the control branch takes part; it reads the trimap and the *empty* prompt, the UNet the real one.
        mask_weight: weight of the loss inside the defect, 1 as outside (DESIGN section 1).
        micro_batch: examples that go through the networks at a time, for less memory; None: the whole batch.
        preview: draws the preview.
    """

    def __init__(
        self,
        name: str,
        components: Components,
        cache: Cache,
        *,
        train: Sequence[str],
        control: bool = False,
        mask_weight: float = 1.0,
        micro_batch: int | None = None,
        preview: Callable[[], Pixels] | None = None,
    ) -> None:
        self.name, self.components, self.cache = name, components, cache
        self.control, self.mask_weight, self.micro_batch, self._preview = control, mask_weight, micro_batch, preview
        modules = components.modules()
        self.modules: Mapping[str, nn.Module] = {key: modules[key] for key in train}
        for key, module in modules.items():
            if key not in train:
                module.requires_grad_(False)
        self._prompts = [*cache.prompts, EMPTY]
        self._embeddings: Tensor | None = None
        if "text_encoder" not in train:
            with torch.no_grad():
                self._embeddings = encode_prompts(components, self._prompts)

    def _embed(self, captions: Tensor, dropped: Tensor) -> Tensor:
        picks = torch.where(dropped, len(self._prompts) - 1, captions)
        if self._embeddings is None:
            return encode_prompts(self.components, self._prompts)[picks]
        return self._embeddings[picks.to(self._embeddings.device)]

    def losses(
        self, batch_size: int, progress: float, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Mean squared error of the prediction of a random batch at random timesteps, in parts of `micro_batch`."""
        del progress
        scheduler = self.components.scheduler
        picks = torch.randint(len(self.cache.latents), (batch_size,), generator=generator)
        latents = self.cache.latents[picks].float()
        noise = torch.randn(latents.shape, generator=generator)
        last = int(scheduler.config["num_train_timesteps"])
        # One timestep from each of `batch_size` equal parts: as uniform as independent draws, with less variance.
        offsets = torch.rand(batch_size, generator=generator)
        timesteps = ((torch.arange(batch_size) + offsets) / batch_size * last).long().clamp_max(last - 1)
        dropped = torch.rand(batch_size, generator=generator) < PROMPT_DROPOUT
        trimaps, captions = self.cache.trimaps[picks].float() / 2, self.cache.captions[picks]
        weight = torch.ones_like(latents[:, :1])
        if self.mask_weight != 1.0:
            inside = F.adaptive_max_pool2d((trimaps > 0.75).float(), latents.shape[-2:])
            weight = 1 + (self.mask_weight - 1) * inside
        drawn: tuple[Tensor, ...] = (weight / weight.mean(), latents, noise, timesteps, captions, dropped, trimaps)
        for places in torch.split(torch.arange(batch_size), self.micro_batch or batch_size):
            own, *part = (values[places] for values in drawn)
            error = self._error(*part)
            share = len(error) / batch_size
            yield (error * own.to(error.device)).mean() * share, {"mse": float(error.detach().mean()) * share}

    def _error(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, captions: Tensor, dropped: Tensor, trimaps: Tensor
    ) -> Tensor:
        """Squared errors of the prediction, BxCxhxw."""
        scheduler, device = self.components.scheduler, self.components.device
        latents, noise, timesteps = latents.to(device), noise.to(device), timesteps.to(device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        prediction = self._predict(noisy, timesteps, self._embed(captions, dropped), trimaps.to(device))
        kind = scheduler.config["prediction_type"]
        velocity = scheduler.get_velocity(latents, noise, timesteps)
        target = {"epsilon": noise, "v_prediction": velocity, "sample": latents}[kind]
        error: Tensor = (prediction - target).pow(2)
        return error

    def _predict(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor, trimaps: Tensor) -> Tensor:
        components = self.components
        extra: dict[str, Any] = {}
        if self.control:
            assert components.controlnet is not None
            empty = self._embed(torch.zeros(len(noisy), dtype=torch.long), torch.ones(len(noisy), dtype=torch.bool))
            down, mid = components.controlnet(
                noisy, timesteps, encoder_hidden_states=empty, controlnet_cond=trimaps, return_dict=False
            )
            extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        prediction: Tensor = components.unet(noisy, timesteps, encoder_hidden_states=embeddings, **extra).sample
        return prediction

    def preview(self) -> Pixels:
        """The picture that the workflow draws of this stage."""
        return self._preview() if self._preview else np.zeros((8, 8, 3), np.uint8)
