"""One training loop for every stage: optimiser, schedule, moving average, checkpoints, previews, logs.

Everything random in step k is drawn from a generator derived from (seed, stage, k), so that a run that was
killed and resumed sees what an uninterrupted run sees.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from tqdm import tqdm

from adabldm.errors import InputError
from adabldm.images import Pixels, atomic_file, write_png
from adabldm.precision import mixed
from adabldm.seeding import torch_generator


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast a stage trains.

    Attributes:
        steps: optimiser steps in all.
        batch_size: examples a step.
        learning_rate: peak rate of AdamW.
        schedule: "cosine" (linear warm-up, then down to 2 %) or "constant" (as the paper).
        warmup: steps of warm-up of the cosine schedule.
        ema: decay of the moving average of the weights that is kept in the end; 0 keeps the last weights.
        weight_decay: of AdamW.
        checkpoint_every: steps between checkpoints; a kill loses at most so many steps.
        preview_every: steps between preview pictures.
        seed: of everything random.
    """

    steps: int
    batch_size: int
    learning_rate: float
    schedule: str = "cosine"
    warmup: int = 100
    ema: float = 0.999
    weight_decay: float = 0.01
    checkpoint_every: int = 200
    preview_every: int = 500
    seed: int = 0


class Objective(Protocol):
    """What a stage trains.

    Attributes:
        name: of the stage, part of every file name and of every random stream.
        modules: the trained modules by name; all their parameters that require gradients are optimised.
    """

    name: str
    modules: Mapping[str, nn.Module]

    def losses(
        self, batch_size: int, progress: float, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Loss of one batch drawn from `generator`, at `progress` in [0, 1), and figures to log, both in parts to add.

        The loop takes the gradients of a part before it asks for the next one: only one of them is in memory.
        """
        ...

    def preview(self) -> Pixels:
        """A picture (uint8 HxWx3) that shows the progress, from fixed seeds."""
        ...


def _learning_rate(settings: LoopSettings, step: int) -> float:
    if settings.schedule == "constant":
        return settings.learning_rate
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def _trained(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {
        f"{name}.{key}": parameter
        for name, module in modules.items()
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    }


class _State:
    """Weights, their moving average and AdamW's moments, saved to and loaded from one safetensors file."""

    def __init__(self, parameters: dict[str, nn.Parameter], settings: LoopSettings) -> None:
        self.parameters = parameters
        self.settings = settings
        self.average = {key: value.detach().clone() for key, value in parameters.items()}
        self.optimizer = torch.optim.AdamW(
            parameters.values(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=(0.9, 0.99),
            fused=True if all(parameter.is_cuda for parameter in parameters.values()) else None,  # needs no copies
        )
        self.step = 0

    def advance(self) -> None:
        """One step of the optimiser with the gradients that have been taken."""
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(self.settings, self.step)
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step)) if self.settings.ema > 0 else 0.0
        with torch.no_grad():
            averages = list(self.average.values())
            torch._foreach_lerp_(averages, [p.detach() for p in self.parameters.values()], 1 - decay)

    def save(self, path: Path) -> None:
        tensors: dict[str, Tensor] = {}
        for key, parameter in self.parameters.items():
            tensors[f"weight/{key}"] = parameter.detach().contiguous()
            tensors[f"average/{key}"] = self.average[key].contiguous()
            moments = self.optimizer.state.get(parameter)
            if moments:
                tensors[f"first/{key}"] = moments["exp_avg"].contiguous()
                tensors[f"second/{key}"] = moments["exp_avg_sq"].contiguous()
        metadata = {"step": str(self.step), "settings": json.dumps(asdict(self.settings), sort_keys=True)}
        payload = to_safetensors({key: value.cpu() for key, value in tensors.items()}, metadata)
        with atomic_file(path) as file:
            file.write(payload)

    def load(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: the checkpoint is damaged; delete it to train this stage anew.") from error
        expected = {f"weight/{key}": tuple(value.shape) for key, value in self.parameters.items()}
        found = {key: tuple(value.shape) for key, value in tensors.items() if key.startswith("weight/")}
        if expected != found or "step" not in metadata:
            raise InputError(
                f"{path}: the checkpoint belongs to another architecture; use its own base, or another --out."
            )
        step, fused = int(metadata["step"]), bool(self.optimizer.defaults["fused"])
        with torch.no_grad():
            for key, parameter in self.parameters.items():
                parameter.copy_(tensors[f"weight/{key}"])
                self.average[key].copy_(tensors[f"average/{key}"])
                if f"first/{key}" in tensors:
                    self.optimizer.state[parameter] = {
                        "step": torch.tensor(float(step), device=parameter.device if fused else "cpu"),
                        "exp_avg": tensors[f"first/{key}"].to(parameter.device),
                        "exp_avg_sq": tensors[f"second/{key}"].to(parameter.device),
                    }
        self.step = step

    def swap_average(self) -> None:
        """Exchange the weights and their moving average, without a copy of either."""
        for key, parameter in self.parameters.items():
            parameter.data, self.average[key] = self.average[key], parameter.data


def _gradients(
    losses: Iterator[tuple[Tensor, dict[str, float]]], device: torch.device
) -> tuple[float, dict[str, float]]:
    """Add up the gradients of all parts, in bfloat16 where that is safe and the device has it; loss and figures."""
    total, figures = 0.0, dict[str, float]()
    while True:
        # A cache of the weights in bfloat16 would be read once only, and hold half as much memory as they do.
        with mixed(device, cache=False):
            part = next(losses, None)
        if part is None:
            return total, figures
        loss, own = part
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
        figures = {key: figures.get(key, 0.0) + value for key, value in own.items()}


def train(
    objective: Objective,
    settings: LoopSettings,
    folder: Path,
    *,
    quiet: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> float:
    """Train a stage to its last step, going on from `folder/checkpoints/<stage>.safetensors` if that is there.

    Afterwards the modules hold the averaged weights. Previews go to `folder/previews`, logs to `folder/logs`.

    Args:
        objective: what is trained.
        settings: how; a checkpoint made with more steps than asked for is simply finished.
        folder: of the run.
        quiet: no progress bar.
        on_step: called with (step, loss) after every step.

    Returns:
        the mean loss of the last hundred steps (0 when nothing was left to do).

    Raises:
        InputError: the checkpoint is damaged or of another architecture.
    """
    from torch.utils.tensorboard import SummaryWriter

    checkpoint = folder / "checkpoints" / f"{objective.name}.safetensors"
    state = _State(_trained(objective.modules), settings)
    if checkpoint.exists():
        state.load(checkpoint)
    for module in objective.modules.values():
        module.train()
    device = next(iter(state.parameters.values())).device
    recent: list[float] = []
    bar = tqdm(total=settings.steps, initial=state.step, desc=objective.name, unit="step", disable=quiet, mininterval=1)
    writer = SummaryWriter(str(folder / "logs" / objective.name)) if state.step < settings.steps else None
    saved_at = time.monotonic()
    while state.step < settings.steps:
        generator = torch_generator(settings.seed, objective.name, state.step)
        losses = objective.losses(settings.batch_size, state.step / settings.steps, generator)
        loss, figures = _gradients(losses, device)
        state.advance()
        recent = [*recent[-99:], loss]
        bar.update()
        bar.set_postfix(loss=f"{sum(recent) / len(recent):.4f}")
        if on_step is not None:
            on_step(state.step, recent[-1])
        if writer is not None and state.step % 10 == 0:
            writer.add_scalar("loss", recent[-1], state.step)
            for key, value in figures.items():
                writer.add_scalar(key, value, state.step)
        last = state.step == settings.steps
        if last or state.step % settings.checkpoint_every == 0 or time.monotonic() - saved_at > 300:
            state.save(checkpoint)
            saved_at = time.monotonic()
        if last or state.step % settings.preview_every == 0:
            state.swap_average()
            with mixed(device):
                picture = objective.preview()
            write_png(folder / "previews" / f"{objective.name}-{state.step:06d}.png", picture)
            if writer is not None:
                writer.add_image("preview", picture, state.step, dataformats="HWC")
            state.swap_average()
    bar.close()
    if writer is not None:
        writer.close()
    state.swap_average()
    for module in objective.modules.values():
        module.eval()
    return sum(recent) / len(recent) if recent else 0.0
