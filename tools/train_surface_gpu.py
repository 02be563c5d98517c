"""Trains the general base on one GPU within a given time: autoencoder first, then UNet, branch and text encoder.

`adabldm train-surface` is the recipe for processors: it draws examples once and reads them again. On a GPU the
networks see a hundred times as many examples in the same time, so here processes draw new ones until the end, the
pictures stay in the GPU's memory, and the autoencoder encodes them anew in every step, mirrored and turned. Losses,
networks and examples are the library's own.

    python tools/train_surface_gpu.py DATA --out OUT --autoencoder-seconds 100 --seconds 500

DATA holds `materials` and the training splits named in `FOLDERS`. OUT gets a folder of components in 16 bits, the
losses in `log.jsonl`, and may be given again with `--resume` to go on with its weights.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import multiprocessing as mp
import queue
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.nn import functional as F

from adabldm.core.precision import mixed
from adabldm.core.prompts import EMPTY
from adabldm.models import general
from adabldm.models.clean_latents import TRIMAP_AND_LATENTS, condition, new_control_branch
from adabldm.models.components import Components, encode_images
from adabldm.training.autoencoder import fourier_distance
from adabldm.training.surface_autoencoder import DEFECT_WEIGHT, FOURIER_WEIGHT, LATENT_NOISE
from adabldm.training.surface_diffusion import PROMPT_DROPOUT, mask_weights, surface_example
from adabldm.training.surface_windows import Pool, read_pool, unseen_defect

FOLDERS = ("magnetic_tile/train/good", "hazelnut_toy/train/good", "ball_screw/train", "deeppcb_coco/train/images")
SIDE, CROP, CHUNK, PLACES = 128, 64, 16, 8
CONTROL_DROPOUT = 0.1


def pool_of(data: Path) -> Pool:
    """The pictures of DATA, training and held out."""
    return read_pool(data / "materials", [data / name for name in FOLDERS if (data / name).is_dir()])


def packed(examples: list[Any]) -> tuple[Any, ...]:
    """Examples as arrays: pixels and clean pixels Nx3xHxW, masks Nx1xHxW, mask pixels NxPx2 or -1, captions."""
    rng = np.random.default_rng(len(examples))
    places = np.full((len(examples), PLACES, 2), -1, np.int64)
    for index, example in enumerate(examples):
        found = np.argwhere(example.mask)
        if len(found):
            places[index] = found[rng.integers(len(found), size=PLACES)]
    pictures = [np.stack([getattr(e, name).transpose(2, 0, 1) for e in examples]) for name in ("pixels", "clean")]
    masks = np.stack([e.mask[None].astype(np.uint8) for e in examples])
    return (*pictures, masks, places, [e.caption for e in examples])


def draw_examples(data: Path, seed: int, part: int, parts: int, out: Any) -> None:
    """Draw the examples part, part + parts, … until the process is ended."""
    surfaces = pool_of(data).training
    index = part
    while True:
        batch = []
        for _ in range(CHUNK):
            batch.append(surface_example(surfaces, seed, index, SIDE))
            index += parts
        out.put(packed(batch))


class Examples:
    """Examples in the memory of the GPU; a thread adds those that the processes draw."""

    def __init__(self, tokenizer: Any, device: torch.device, capacity: int) -> None:
        self.tokenizer, self.device, self.capacity = tokenizer, device, capacity
        self.pixels = torch.empty((capacity, 3, SIDE, SIDE), dtype=torch.uint8, device=device)
        self.clean = torch.empty_like(self.pixels)
        self.masks = torch.empty((capacity, 1, SIDE, SIDE), dtype=torch.uint8, device=device)
        self.places = torch.empty((capacity, PLACES, 2), dtype=torch.long, device=device)
        limit = min(int(tokenizer.model_max_length), 48)
        self.tokens = torch.empty((capacity, limit), dtype=torch.long, device=device)
        self.count = self.seen = 0

    def add(self, pixels: Any, clean: Any, masks: Any, places: Any, captions: list[str]) -> None:
        """Keep examples as `packed` gives them; the oldest make room."""
        start = self.seen % self.capacity
        rows = slice(start, min(start + len(captions), self.capacity))
        size = rows.stop - rows.start
        for store, values in ((self.pixels, pixels), (self.clean, clean), (self.masks, masks), (self.places, places)):
            store[rows] = torch.from_numpy(values[:size]).to(self.device)
        self.tokens[rows] = tokens_of(self.tokenizer, captions[:size]).to(self.device)
        self.seen += size
        self.count = min(self.seen, self.capacity)


def tokens_of(tokenizer: Any, captions: list[str]) -> Tensor:
    """Token numbers of captions, BxT."""
    limit = min(int(tokenizer.model_max_length), 48)
    found: Tensor = tokenizer(captions, padding="max_length", max_length=limit, return_tensors="pt").input_ids
    return found


def turned(parts: list[Tensor]) -> list[Tensor]:
    """All parts mirrored and turned alike, by chance."""
    draws = torch.rand(3).tolist()
    for name, draw in zip(("columns", "rows", "both"), draws, strict=True):
        if draw < 0.5:
            parts = [part.transpose(-1, -2) if name == "both" else part.flip(-1 if name == "columns" else -2)
                     for part in parts]  # fmt: skip
    return [part.contiguous() for part in parts]


def batch_of(examples: Examples, size: int, *, crop: bool) -> tuple[list[Tensor], Tensor]:
    """Pixels, clean pixels and masks of random examples (or of crops around a mask pixel), and their tokens."""
    device = examples.device
    picks = torch.randint(examples.count, (size,), device=device)
    if not crop:
        parts = [examples.pixels[picks], examples.clean[picks], examples.masks[picks]]
        return turned(parts), examples.tokens[picks]
    place = examples.places[picks, torch.randint(PLACES, (size,), device=device)]
    anywhere = torch.randint(SIDE - CROP + 1, (size, 2), device=device)
    offset = CROP // 8 + (torch.rand((size, 2), device=device) * CROP * 0.75).long()
    start = torch.where(place < 0, anywhere, (place - offset).clamp(0, SIDE - CROP))
    steps = torch.arange(CROP, device=device)
    rows = (start[:, :1] + steps)[:, None, :, None]
    columns = (start[:, 1:] + steps)[:, None, None, :]
    which = picks[:, None, None, None]
    parts = []
    for store in (examples.pixels, examples.clean, examples.masks):
        channels = torch.arange(store.shape[1], device=device)[None, :, None, None]
        parts.append(store[which, channels, rows, columns])
    return turned(parts), examples.tokens[picks]


class Average:
    """Moving average of weights."""

    def __init__(self, modules: list[nn.Module], decay: float) -> None:
        self.live = [parameter for module in modules for parameter in module.parameters()]
        self.kept = [parameter.detach().clone() for parameter in self.live]
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.kept, [parameter.detach() for parameter in self.live], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their average."""
        for parameter, kept in zip(self.live, self.kept, strict=True):
            own = parameter.detach().clone()
            parameter.copy_(kept)
            kept.copy_(own)


def rate(progress: float, step: int, warmup: int) -> float:
    """Factor of the learning rate: a warm-up over steps, a cosine over time."""
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def note(out: Path, **values: Any) -> None:
    """Print values, and add them to the log."""
    line = json.dumps({key: round(v, 5) if isinstance(v, float) else v for key, v in values.items()})
    print(line, flush=True)
    with (out / "log.jsonl").open("a") as file:
        file.write(line + "\n")


def train_autoencoder(vae: Any, examples: Examples, out: Path, seconds: float, size: int) -> None:
    """First stage: the loss of `SurfaceAutoencoderObjective` on crops of new examples."""
    device = examples.device
    vae.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=6e-4, weight_decay=0.0, fused=device.type == "cuda")
    average = Average([vae], 0.998)
    begin, step, total = time.time(), 0, 0.0
    while time.time() - begin < seconds:
        progress = (time.time() - begin) / seconds
        for group in optimizer.param_groups:
            group["lr"] = 6e-4 * rate(progress, step, 100)
        (pixels, _, masks), _ = batch_of(examples, size, crop=True)
        images = (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        with mixed(device):
            latents = vae.encoder(images).float()
            decoded = vae.decoder(latents + torch.randn_like(latents) * LATENT_NOISE).float()
        weight = 1 + (DEFECT_WEIGHT - 1) * masks.float()
        loss = ((decoded - images).abs() * weight).mean() + FOURIER_WEIGHT * fourier_distance(decoded, images)
        loss = loss + 0.1 * F.relu(latents.abs() - 2.5).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average.update()
        step += 1
        if step % 200 == 0:
            total = float(loss.detach())
            note(out, stage="autoencoder", step=step, seconds=time.time() - begin, loss=total, examples=examples.seen)
    average.swap()
    vae.requires_grad_(False).eval()


class Objective:
    """The loss of the second stage."""

    def __init__(self, components: Components, device: torch.device) -> None:
        self.components, self.device = components, device
        scheduler: Any = components.scheduler
        alphas = scheduler.alphas_cumprod.to(device).float()
        self.signal, self.noise = alphas.sqrt(), (1 - alphas).sqrt()
        self.empty = tokens_of(components.tokenizer, [EMPTY]).to(device)
        self.predict: Any = self.networks

    def forward(
        self, latents: Tensor, clean: Tensor, trimaps: Tensor, noise: Tensor, timesteps: Tensor, tokens: Tensor,
        keep: Tensor,
    ) -> Tensor:  # fmt: skip
        """Squared errors of the velocity, BxCxhxw."""
        components: Any = self.components
        signal, amount = self.signal[timesteps][:, None, None, None], self.noise[timesteps][:, None, None, None]
        noisy, target = signal * latents + amount * noise, signal * noise - amount * latents
        texts = components.text_encoder(torch.cat([tokens, self.empty])).last_hidden_state
        own, empty = texts[:-1], texts[-1:].expand(len(tokens), -1, -1).contiguous()
        shown = condition(components, trimaps, clean)
        prediction = self.predict(noisy, timesteps, own, empty, shown, keep[:, None, None, None])
        error: Tensor = (prediction.float() - target).pow(2)
        return error

    def networks(
        self, noisy: Tensor, timesteps: Tensor, own: Tensor, empty: Tensor, shown: Tensor, keep: Tensor
    ) -> Tensor:
        """The velocity, BxCxhxw, with the branch's features times `keep`."""
        components: Any = self.components
        down, mid = components.controlnet(
            noisy, timesteps, encoder_hidden_states=empty, controlnet_cond=shown, return_dict=False
        )
        prediction: Tensor = components.unet(
            noisy,
            timesteps,
            encoder_hidden_states=own,
            down_block_additional_residuals=[part * keep for part in down],
            mid_block_additional_residual=mid * keep,
        ).sample
        return prediction


def encoded(components: Components, parts: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, clean latents and masks in floating point."""
    pixels, clean, masks = parts
    with torch.no_grad(), mixed(pixels.device):
        both = (torch.cat([pixels, clean]).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        latents, own = encode_images(components.vae, both).float().chunk(2)
    return latents, own, masks.float()


def stratified(size: int, device: torch.device, last: int = 1000) -> Tensor:
    """Timesteps, one from each of equal parts, in random order."""
    steps = (torch.arange(size, device=device) + torch.rand(size, device=device)) / size * last
    return steps.long().clamp_max(last - 1)[torch.randperm(size, device=device)]


@torch.no_grad()
def unseen_loss(objective: Objective, unseen: Examples) -> tuple[float, float]:
    """Mean squared error on unseen surfaces everywhere and inside the masks, at fixed noise and timesteps."""
    total, inside, area = 0.0, 0.0, 0.0
    for start in range(0, unseen.count, 16):
        rows = slice(start, min(start + 16, unseen.count))
        latents, clean, masks = encoded(
            objective.components, [unseen.pixels[rows], unseen.clean[rows], unseen.masks[rows]]
        )
        generator = torch.Generator().manual_seed(start)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        timesteps = ((torch.arange(len(latents)) + 0.5) / len(latents) * 1000).long().to(latents.device)
        keep = torch.ones(len(latents), device=latents.device)
        errors = objective.forward(latents, clean, 0.5 + 0.5 * masks, noise, timesteps, unseen.tokens[rows], keep)
        small = F.adaptive_max_pool2d(masks, errors.shape[-2:])
        total += float(errors.mean()) * len(latents) / unseen.count
        inside += float((errors.mean(1, keepdim=True) * small).sum())
        area += float(small.sum())
    return total, inside / max(area, 1.0)


def save(components: Components, out: Path, names: tuple[str, ...]) -> None:
    """Save components, the networks but the autoencoder in 16 bits."""
    for name in names:
        component: Any = getattr(components, name)
        if isinstance(component, nn.Module):
            component = copy.deepcopy(component).cpu().float()
            component = component.to(memory_format=torch.contiguous_format)
            component = component.half() if name != "vae" else component
        component.save_pretrained(str(out / name))


def train_diffusion(
    components: Components, examples: Examples, unseen: Examples, out: Path, seconds: float, options: Any
) -> None:
    """Second stage: UNet, control branch and text encoder together; a copy of the average is saved now and then."""
    device = examples.device
    modules: list[nn.Module] = [components.unet, components.controlnet, components.text_encoder]  # type: ignore[list-item]
    for module in modules:
        module.requires_grad_(True).train()
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=options.rate, weight_decay=0.01, betas=(0.9, 0.99), fused=device.type == "cuda"
    )
    average = Average(modules, 0.9995)
    objective = Objective(components, device)
    fast = torch.compile(objective.networks, dynamic=False) if options.compile else objective.networks
    begin, step, shown, measured = time.time(), 0, time.time(), time.time()
    while time.time() - begin < seconds:
        progress = (time.time() - begin) / seconds
        for group in optimizer.param_groups:
            group["lr"] = options.rate * rate(progress, step, 300)
        crop = step % 2 == 1
        size = options.batch * (4 if crop else 1)
        parts, tokens = batch_of(examples, size, crop=crop)
        latents, clean, masks = encoded(components, parts)
        drop = torch.rand(size, device=device) < PROMPT_DROPOUT
        tokens = torch.where(drop[:, None], objective.empty, tokens)
        keep = (torch.rand(size, device=device) >= CONTROL_DROPOUT).float()
        noise, timesteps = torch.randn_like(latents), stratified(size, device)
        with mixed(device):
            objective.predict = fast
            errors = objective.forward(latents, clean, 0.5 + 0.5 * masks, noise, timesteps, tokens, keep)
            objective.predict = objective.networks
        loss = (errors * mask_weights(masks, (errors.shape[-2], errors.shape[-1]))).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        average.update()
        step += 1
        if step in (2, 10) or (step % 50 == 0 and time.time() - shown > 10):
            shown = time.time()
            note(out, step=step, seconds=shown - begin, loss=float(loss.detach()), examples=examples.seen)
        if step % 50 == 0 and time.time() - measured > options.every:
            measured = time.time()
            average.swap()
            everywhere, inside = unseen_loss(objective, unseen)
            note(out, step=step, seconds=time.time() - begin, unseen=everywhere, inside=inside)
            save(components, out, ("unet", "controlnet", "text_encoder"))
            average.swap()
    average.swap()
    everywhere, inside = unseen_loss(objective, unseen)
    note(out, step=step, seconds=time.time() - begin, unseen=everywhere, inside=inside, examples=examples.seen)
    for module in modules:
        module.eval()
    save(components, out, ("unet", "controlnet", "text_encoder"))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=500, help="of the second stage")
    parser.add_argument("--autoencoder-seconds", type=float, default=100, help="0 takes the autoencoder that ships")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--capacity", type=int, default=220_000, help="examples in the GPU's memory")
    parser.add_argument("--first", type=int, default=4000, help="examples to wait for before training")
    parser.add_argument("--batch", type=int, default=128, help="whole windows a step; four times as many crops")
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--every", type=float, default=60, help="seconds between measurements")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--resume", action="store_true", help="begin from the weights in OUT")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    context = mp.get_context("spawn")
    drawn: Any = context.Queue(maxsize=512)
    workers = [
        context.Process(
            target=draw_examples, args=(options.data, options.seed, part, options.workers, drawn), daemon=True
        )
        for part in range(options.workers)
    ]
    for worker in workers:
        worker.start()
    components = Components(**general.new_components(0))
    torch.manual_seed(options.seed)
    components.controlnet = new_control_branch(components, TRIMAP_AND_LATENTS)
    shipped = Path(general.__file__).parent / "shipped" / "general" / "vae"
    components.vae = AutoencoderTiny.from_pretrained(str(shipped)).float()
    if options.resume:
        for name in ("vae", "unet", "controlnet", "text_encoder"):
            if (out / name).is_dir():
                module: Any = getattr(components, name)
                module.load_state_dict(type(module).from_pretrained(str(out / name)).float().state_dict())
    for module in components.modules().values():
        module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    examples = Examples(components.tokenizer, device, options.capacity)
    unseen = Examples(components.tokenizer, device, 160)
    pool = pool_of(options.data)
    unseen.add(*packed([unseen_defect(pool, index, SIDE) for index in range(160)]))

    def collect() -> None:
        while True:
            with contextlib.suppress(queue.Empty):
                examples.add(*drawn.get(timeout=1))

    threading.Thread(target=collect, daemon=True).start()
    begin = time.time()
    while examples.count < options.first:
        time.sleep(0.2)
    note(out, waited=time.time() - begin, examples=examples.seen, device=str(device))
    save(components, out, ("tokenizer", "scheduler"))
    if options.autoencoder_seconds > 0:
        train_autoencoder(components.vae, examples, out, options.autoencoder_seconds, 2 * options.batch)
        with torch.no_grad():
            pixels = examples.pixels[:512].float() / 127.5 - 1
            spread = float(components.vae.encoder(pixels).std())
        components.vae.register_to_config(scaling_factor=round(1.0 / spread, 4))
        note(out, scaling=1.0 / spread)
        save(components, out, ("vae",))
    if options.seconds > 0:
        train_diffusion(components, examples, unseen, out, options.seconds, options)
    for worker in workers:
        worker.terminate()


if __name__ == "__main__":
    main()
