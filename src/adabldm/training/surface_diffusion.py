"""Trains the UNet, the text encoder and the control branch of the general base together on rendered defects."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adabldm.core.images import Pixels
from adabldm.core.precision import fast_half, mixed
from adabldm.core.prompts import EMPTY, good_prompt
from adabldm.core.seeding import numpy_rng, torch_generator
from adabldm.models.components import Components, encode_images
from adabldm.models.conditioning import TextConditioning, encode_prompts
from adabldm.models.denoiser import ControlFeatures, Denoiser
from adabldm.rendering.render import Rendered
from adabldm.rendering.sources import Surfaces
from adabldm.training.crops import crop_places, cropped
from adabldm.training.loop import Preview

PROMPT_DROPOUT = 0.1
CONTROL_DROPOUT = 0.1
"""Share of steps without the control branch, so that the UNet stays a base of its own."""
GOOD_SHARE = 0.12
MASK_WEIGHT = 4.0
"""Weight of the loss inside the grown mask; 1 outside."""
CROP_SHARE = 0.75
"""Share of steps on crops around the defects: half as large, and four times as many for the same work."""
SHARD = 500


@dataclass(frozen=True)
class SurfaceCache:
    """Encoded examples.

    Attributes:
        latents: Scaled latents with the defect, float16 NxCxhxw.
        clean: Scaled latents of the same surfaces without it, float16 NxCxhxw.
        masks: uint8 Nx1xHxW, 0 and 1.
        captions: Index of each example's prompt, N.
        prompts: The different prompts.
    """

    latents: Tensor
    clean: Tensor
    masks: Tensor
    captions: Tensor
    prompts: tuple[str, ...]


def surface_example(surfaces: Surfaces, seed: int, index: int, side: int) -> Rendered:
    """The `index`-th training example: 88 % with a defect, types taking turns, the others clean with an empty mask."""
    rng = numpy_rng(seed, "surface example kind", index)
    if rng.random() >= GOOD_SHARE:
        return surfaces.example(seed, index, side)
    pixels, kind = surfaces.draw(rng, side)
    return Rendered(pixels, pixels, np.zeros((side, side), bool), "", good_prompt(kind))


def draw_shards(
    surfaces: Surfaces, folder: Path, seed: int, count: int, side: int, draw: Callable[..., Rendered] = surface_example
) -> list[Path]:
    """Render examples into files of `SHARD` examples each (.npz); files that are there are kept.

    Returns:
        the files, the last of which may hold fewer examples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for start in range(0, count, SHARD):
        size = min(SHARD, count - start)
        path = folder / f"examples-{start:06d}-{size}.npz"
        paths.append(path)
        if path.is_file():
            continue
        drawn = [draw(surfaces, seed, index, side) for index in range(start, start + size)]
        part = path.with_suffix(".part.npz")
        np.savez(
            part,
            clean=np.stack([example.clean for example in drawn]),
            pixels=np.stack([example.pixels for example in drawn]),
            mask=np.packbits(np.stack([example.mask for example in drawn]), axis=-1),
            caption=np.array([example.caption for example in drawn]),
        )
        part.replace(path)
    return paths


@torch.no_grad()
def _encoded(components: Components, pixels: Any, batch_size: int = 8) -> Tensor:
    device = next(components.vae.parameters()).device
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    parts = [
        encode_images(components.vae, (batch.to(device).float() / 127.5 - 1)).half().cpu()
        for batch in torch.split(images, batch_size)
    ]
    return torch.cat(parts)


def encode_shards(components: Components, paths: Sequence[Path]) -> SurfaceCache:
    """Encode rendered examples with the VAE; the latents of each file are kept beside it for a resumed run."""
    latents, clean, masks, captions = [], [], [], list[str]()
    for path in paths:
        with np.load(path) as file:
            kept = path.with_suffix(".latents.npy")
            if not kept.is_file():
                both = torch.cat([_encoded(components, file["pixels"]), _encoded(components, file["clean"])])
                np.save(kept.with_suffix(".part.npy"), both.numpy())
                kept.with_suffix(".part.npy").replace(kept)
            both = torch.from_numpy(np.load(kept))
            latents.append(both[: len(both) // 2])
            clean.append(both[len(both) // 2 :])
            masks.append(torch.from_numpy(np.unpackbits(file["mask"], axis=-1))[:, None])
            captions += [str(caption) for caption in file["caption"]]
    prompts = tuple(sorted(set(captions)))
    places = {prompt: index for index, prompt in enumerate(prompts)}
    picks = torch.tensor([places[caption] for caption in captions])
    return SurfaceCache(torch.cat(latents), torch.cat(clean), torch.cat(masks), picks, prompts)


def mask_weights(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Weights of the loss at the latents' size, Bx1xhxw with mean 1: larger inside the mask grown by a pixel."""
    inside = F.max_pool2d(F.adaptive_max_pool2d(masks, size), 3, stride=1, padding=1)
    weight = 1 + (MASK_WEIGHT - 1) * inside
    return weight / weight.mean()


@dataclass(frozen=True)
class _Batch:
    """Examples of one step.

    Attributes:
        latents: with the defect, BxCxhxw.
        clean: without it, BxCxhxw.
        masks: Bx1xHxW, 0 and 1.
        captions: indices of the prompts, B.
    """

    latents: Tensor
    clean: Tensor
    masks: Tensor
    captions: Tensor


def _whole(cache: SurfaceCache, picks: Tensor) -> _Batch:
    """The examples of these indices."""
    return _Batch(
        cache.latents[picks].float(), cache.clean[picks].float(), cache.masks[picks].float(), cache.captions[picks]
    )


def _cropped(batch: _Batch, generator: torch.Generator) -> _Batch:
    """Crops of half the side around a random pixel of each mask, anywhere where a mask is empty."""
    height, width = batch.latents.shape[-2:]
    places = crop_places(batch.masks, (height, width), generator)
    masks = cropped(batch.masks, places, batch.masks.shape[-1] // width)
    return _Batch(cropped(batch.latents, places), cropped(batch.clean, places), masks, batch.captions)


class SurfaceObjective:
    """Predict the velocity of noised latents of defective surfaces from trimap, clean latents and caption.

    Args:
        components: The networks with a control branch; all but the VAE are trained.
        cache: Training examples.
        unseen: Examples on unseen surfaces, for the loss that every preview logs.
        draw: Draws the preview.
        log: File (.jsonl) that the losses of every preview are added to.
    """

    name = "surface"

    def __init__(
        self,
        components: Components,
        cache: SurfaceCache,
        unseen: SurfaceCache,
        *,
        draw: Callable[[], Pixels] | None = None,
        log: Path | None = None,
    ) -> None:
        assert components.controlnet is not None
        self.components, self.cache, self.unseen, self.draw, self.log = components, cache, unseen, draw, log
        components.vae.requires_grad_(False)
        modules = components.modules()
        self.modules: Mapping[str, nn.Module] = {key: modules[key] for key in ("unet", "controlnet", "text_encoder")}
        self.half = fast_half(components.device)
        self._denoiser = Denoiser(components)
        self.progress = 0.0

    def _embeddings(
        self, prompts: tuple[str, ...], captions: Tensor, dropped: Tensor
    ) -> tuple[TextConditioning, TextConditioning]:
        """Embeddings of the prompts and of the empty prompt; each different prompt is encoded once."""
        texts = [EMPTY if drop else prompts[int(caption)] for caption, drop in zip(captions, dropped, strict=True)]
        different = sorted({EMPTY, *texts})
        embedded = encode_prompts(self.components, different)
        own = embedded.pick([different.index(text) for text in texts])
        empty = TextConditioning(embedded.embeddings[different.index(EMPTY)].expand_as(own.embeddings))
        return own, empty

    def _errors(
        self, prompts: tuple[str, ...], batch: _Batch, noise: Tensor, timesteps: Tensor, dropped: Tensor, control: bool
    ) -> Tensor:
        """Squared errors of the velocity, BxCxhxw."""
        components, device = self.components, self.components.device
        latents, clean = batch.latents.to(device), batch.clean.to(device)
        noise, timesteps = noise.to(device), timesteps.to(device)
        noisy = components.scheduler.add_noise(latents, noise, timesteps)
        target = components.scheduler.get_velocity(latents, noise, timesteps)
        own, empty = self._embeddings(prompts, batch.captions, dropped)
        features: ControlFeatures | None = None
        if control:
            trimaps = 0.5 + 0.5 * batch.masks.to(device)
            features = self._denoiser.control(noisy, timesteps, empty, trimaps, clean)
        prediction = self._denoiser.predict(noisy, timesteps, own, features)
        error: Tensor = (prediction.float() - target).pow(2)
        return error

    def losses(
        self, batch_size: int, progress: float, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Weighted mean squared error of a random batch at random timesteps, one from each of equal parts."""
        self.progress = progress
        cache = self.cache
        crop = bool(torch.rand((), generator=generator) < CROP_SHARE)
        batch_size *= 4 if crop else 1
        batch = _whole(cache, torch.randint(len(cache.latents), (batch_size,), generator=generator))
        if crop:
            batch = _cropped(batch, generator)
        noise = torch.randn(batch.latents.shape, generator=generator)
        last = int(self.components.scheduler.config["num_train_timesteps"])
        offsets = torch.rand(batch_size, generator=generator)
        timesteps = ((torch.arange(batch_size) + offsets) / batch_size * last).long().clamp_max(last - 1)
        dropped = torch.rand(batch_size, generator=generator) < PROMPT_DROPOUT
        control = bool(torch.rand((), generator=generator) >= CONTROL_DROPOUT)
        with mixed(self.components.device, enabled=self.half, cache=False):
            errors = self._errors(cache.prompts, batch, noise, timesteps, dropped, control)
        weights = mask_weights(batch.masks, (errors.shape[-2], errors.shape[-1])).to(errors.device)
        yield (errors * weights).mean(), {"mse": float(errors.detach().mean())}

    @torch.no_grad()
    def unseen_losses(self) -> dict[str, float]:
        """Mean squared error on unseen surfaces, everywhere and inside the masks, at fixed noise and timesteps."""
        total, inside, area = 0.0, 0.0, 0.0
        count = len(self.unseen.latents)
        last = int(self.components.scheduler.config["num_train_timesteps"])
        for start in range(0, count, 8):
            picks = torch.arange(start, min(start + 8, count))
            generator = torch_generator("unseen surfaces", start)
            noise = torch.randn((len(picks), *self.unseen.latents.shape[1:]), generator=generator)
            timesteps = ((torch.arange(len(picks)) + 0.5) / len(picks) * last).long()
            kept = torch.zeros(len(picks), dtype=torch.bool)
            errors = self._errors(self.unseen.prompts, _whole(self.unseen, picks), noise, timesteps, kept, True)
            errors = errors.cpu()
            masks = F.adaptive_max_pool2d(self.unseen.masks[picks].float(), errors.shape[-2:])
            total += float(errors.mean()) * len(picks) / count
            inside += float((errors.mean(1, keepdim=True) * masks).sum())
            area += float(masks.sum())
        return {"mse unseen": round(total, 4), "mse unseen inside": round(inside / max(area, 1.0), 4)}

    def preview(self) -> Preview:
        """The picture of `draw`; the losses on unseen surfaces go to the log."""
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            clock = time.strftime("%H:%M:%S", time.gmtime())
            entry = {"time": clock, "progress": round(self.progress, 4), **self.unseen_losses()}
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        return Preview(self.draw() if self.draw is not None else np.zeros((8, 8, 3), np.uint8))
