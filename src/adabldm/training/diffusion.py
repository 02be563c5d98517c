"""The objective of the base, the domain and the control stage: the error of the noise (or velocity) prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adabldm.core.images import Pixels
from adabldm.core.precision import fast_half, mixed
from adabldm.core.prompts import EMPTY
from adabldm.core.tensors import to_tensor
from adabldm.models.components import Components, encode_images
from adabldm.models.conditioning import TextConditioning, encode_prompts
from adabldm.models.denoiser import Denoiser
from adabldm.training.crops import crop_places, cropped
from adabldm.training.examples import Example
from adabldm.training.loop import Preview
from adabldm.training.team import ALONE, Team

PROMPT_DROPOUT = 0.1
"""Share of examples with the empty prompt: classifier-free guidance needs it (arXiv 2207.12598)."""
ENCODED_TOGETHER = 16
"""Windows that are encoded at a time."""


@dataclass(frozen=True)
class Cache:
    """Examples encoded once.

    Attributes:
        latents: NxCxhxw, scaled.
        trimaps: uint8 Nx1xHxW, twice the trimap's value: 0, 1, 2.
        captions: index of each example's prompt, N.
        prompts: the different prompts.
        clean: latents of the windows without their defects, NxCxhxw; `None` where the control branch reads none.
    """

    latents: Tensor
    trimaps: Tensor
    captions: Tensor
    prompts: tuple[str, ...]
    clean: Tensor | None = None


@torch.no_grad()
def encode_examples(
    components: Components,
    examples: Iterable[Example],
    batch_size: int = ENCODED_TOGETHER,
    on_encoded: Callable[[int], None] | None = None,
    team: Team = ALONE,
) -> Cache:
    """Encode the windows with the VAE, in half the size of float32; what does not change is computed once.

    Args:
        components: the networks; only the VAE is called.
        examples: windows, at least one; only a batch of them is in memory at a time.
        batch_size: windows that are encoded at a time.
        on_encoded: called with the number of windows that were encoded.
        team: the processes that share the work; each gets the whole.
    """
    device = next(components.vae.parameters()).device
    windows = iter(examples)
    latents, clean, trimaps, captions = dict[int, Tensor](), dict[int, Tensor](), [], list[str]()

    def encoded(pictures: Iterable[Pixels]) -> Tensor:
        images = torch.stack([to_tensor(pixels) for pixels in pictures])
        return encode_images(components.vae, images.to(device)).half().cpu()

    some_clean = False
    for number in count():
        if not (batch := list(islice(windows, batch_size))):
            break
        without = [example.clean for example in batch if example.clean is not None]
        some_clean |= bool(without)
        if number % team.size == team.rank:
            latents[number] = encoded(example.pixels for example in batch)
            clean |= {number: encoded(without)} if without else {}
        trimaps += [np.rint(example.trimap * 2).astype(np.uint8) for example in batch]
        captions += [example.prompt for example in batch]
        if on_encoded is not None:
            on_encoded(len(batch))
    prompts = tuple(sorted(set(captions)))
    indices = torch.tensor([prompts.index(caption) for caption in captions])
    shapes = torch.from_numpy(np.stack(trimaps))[:, None]
    return Cache(_whole(latents, team), shapes, indices, prompts, _whole(clean, team) if some_clean else None)


def _whole(own: Mapping[int, Tensor], team: Team) -> Tensor:
    """What the processes of a team have encoded, in the order of the batches."""
    every = {number: values for part in team.gather(dict(own)) for number, values in part.items()}
    return torch.cat([every[number] for number in sorted(every)])


@dataclass(frozen=True)
class DiffusionStage:
    """What a stage trains, and how its loss is taken.

    Attributes:
        name: name of the stage.
        train: names of the networks (or of networks that hold adapters) that are trained.
        control: the control branch takes part; it reads the trimap and the *empty* prompt, the UNet the real one.
        mask_weight: weight of the loss inside the defect; 1 outside.
        micro_batch: examples that go through the networks at a time, for less memory; `None`: the whole batch.
        crops: share of steps on crops of half the side around the defects, four times as many.
        half: compute in bfloat16 also where only processors with AVX-512 BF16 gain by it.
        team: the processes that share every batch.
    """

    name: str
    train: tuple[str, ...]
    control: bool = False
    mask_weight: float = 1.0
    micro_batch: int | None = None
    crops: float = 0.0
    half: bool = False
    team: Team = ALONE


class DiffusionObjective:
    """Predict the noise (or velocity) in noised latents.

    Args:
        components: the networks; those that the stage does not train are frozen here.
        cache: encoded examples.
        stage: what is trained.
        preview: draws the preview.
    """

    def __init__(
        self,
        components: Components,
        cache: Cache,
        stage: DiffusionStage,
        preview: Callable[[], Preview] | None = None,
    ) -> None:
        self.name, self.components, self.cache, self.stage = stage.name, components, cache, stage
        self._denoiser, self._preview = Denoiser(components), preview
        modules = components.modules()
        self.modules: Mapping[str, nn.Module] = {key: modules[key] for key in stage.train}
        for key, module in modules.items():
            if key not in stage.train:
                module.requires_grad_(False)
        self._half = stage.half and fast_half(components.device)
        self._prompts = [*cache.prompts, EMPTY]
        self._encoded: TextConditioning | None = None
        if "text_encoder" not in stage.train:
            with torch.no_grad():
                self._encoded = encode_prompts(components, self._prompts)

    def _conditioning(self, captions: Tensor, dropped: Tensor) -> TextConditioning:
        encoded = encode_prompts(self.components, self._prompts) if self._encoded is None else self._encoded
        return encoded.pick(torch.where(dropped, len(self._prompts) - 1, captions))

    def losses(
        self, batch_size: int, progress: float, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Mean squared error of the prediction of a random batch at random timesteps, an addend per micro batch."""
        del progress
        scheduler, stage = self.components.scheduler, self.stage
        crop = stage.crops > 0 and bool(torch.rand((), generator=generator) < stage.crops)
        batch_size *= 4 if crop else 1
        picks = torch.randint(len(self.cache.latents), (batch_size,), generator=generator)
        latents, clean, trimaps = self._windows(picks, generator if crop else None)
        noise = torch.randn(latents.shape, generator=generator)
        last = int(scheduler.config["num_train_timesteps"])
        # One timestep from each of `batch_size` equal parts: as uniform as independent draws, with less variance.
        offsets = torch.rand(batch_size, generator=generator)
        timesteps = ((torch.arange(batch_size) + offsets) / batch_size * last).long().clamp_max(last - 1)
        dropped = torch.rand(batch_size, generator=generator) < PROMPT_DROPOUT
        captions = self.cache.captions[picks]
        weight = torch.ones_like(latents[:, :1])
        if stage.mask_weight != 1.0:
            inside = F.adaptive_max_pool2d((trimaps > 0.75).float(), latents.shape[-2:])
            weight = 1 + (stage.mask_weight - 1) * inside
        drawn = (weight / weight.mean(), latents, noise, timesteps, captions, dropped, trimaps, clean)
        mine = torch.tensor(stage.team.part(range(batch_size)), dtype=torch.long)
        for places in torch.split(mine, stage.micro_batch or batch_size) if len(mine) else ():
            own, *rest = (values[places] for values in drawn)
            with mixed(self.components.device, enabled=True, cache=False) if self._half else nullcontext():
                error = self._error(*rest).float()
            share = len(error) / batch_size
            yield (error * own.to(error.device)).mean() * share, {"mse": float(error.detach().mean()) * share}

    def _windows(self, picks: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, clean latents (the same ones where they are not read) and trimaps; crops with a generator."""
        cache = self.cache
        latents, trimaps = cache.latents[picks].float(), cache.trimaps[picks].float() / 2
        clean = latents if cache.clean is None else cache.clean[picks].float()
        if generator is None:
            return latents, clean, trimaps
        height, width = latents.shape[-2:]
        places = crop_places((trimaps > 0.75).float(), (height, width), generator)
        return cropped(latents, places), cropped(clean, places), cropped(trimaps, places, trimaps.shape[-1] // width)

    def _error(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        captions: Tensor,
        dropped: Tensor,
        trimaps: Tensor,
        clean: Tensor,
    ) -> Tensor:
        """Squared errors of the prediction, BxCxhxw."""
        scheduler, device = self.components.scheduler, self.components.device
        latents, noise, timesteps = latents.to(device), noise.to(device), timesteps.to(device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        control = None
        if self.stage.control:
            empty = self._conditioning(torch.zeros_like(captions), torch.ones_like(dropped))
            control = self._denoiser.control(noisy, timesteps, empty, trimaps.to(device), clean.to(device))
        prediction = self._denoiser.predict(noisy, timesteps, self._conditioning(captions, dropped), control)
        kind = scheduler.config["prediction_type"]
        velocity = scheduler.get_velocity(latents, noise, timesteps)
        target = {"epsilon": noise, "v_prediction": velocity, "sample": latents}[kind]
        error: Tensor = (prediction - target).pow(2)
        return error

    def preview(self) -> Preview:
        """The picture that the workflow draws of this stage."""
        return self._preview() if self._preview else Preview(np.zeros((8, 8, 3), np.uint8))
