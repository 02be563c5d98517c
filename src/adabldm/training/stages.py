"""The two stages of a fit: what each trains, and how a large base is kept within memory meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from adabldm.core.events import Listener, Task, Workload
from adabldm.core.interrupts import never
from adabldm.core.seeding import derived_seed
from adabldm.core.settings.fit import FitPreset, LoopSettings
from adabldm.models.components import Components, in_half, moved, new_controlnet
from adabldm.training.diffusion import Cache, DiffusionObjective, DiffusionStage
from adabldm.training.loop import Preview, finished_steps, train
from adabldm.training.team import ALONE, Team

if TYPE_CHECKING:
    from adabldm.models.libraries import ControlNetModel

LARGE_UNET = 100_000_000
"""Parameters above which the domain stage trains low-rank updates only, and training saves memory."""
SMALL_GPU = 16 * 2**30
"""Bytes of memory below which a large base is trained with as many windows at a time as make up 512² pixels."""
ENCODE, DOMAIN, CONTROL = "encode", "domain", "control"
"""Tasks of a fit; the two stages are named so in file names and random streams too."""
WINDOW_COST = {ENCODE: 0.3, DOMAIN: 1.0, CONTROL: 1.3}
"""Expected time of a training window in each task, relative to the domain stage."""


@dataclass(frozen=True)
class StageContext:
    """What both stages work with.

    Attributes:
        components: the networks, on the device where they are trained.
        cache: encoded training windows.
        preset: how both stages are trained.
        micro_batch: windows that go through the networks at a time; `None`: the whole batch.
        folder: of the run.
        workload: has the tasks of `fit_tasks`.
        listen: is told of previews.
        stop: asked after each step whether the training is to end there.
        team: the processes that train together.
    """

    components: Components
    cache: Cache
    preset: FitPreset
    micro_batch: int | None
    folder: Path
    workload: Workload
    listen: Listener
    stop: Callable[[], bool] = never
    team: Team = ALONE

    def train(self, objective: DiffusionObjective, loop: LoopSettings) -> None:
        """Train a stage; where its memory is short, the moving average of the weights waits in the host's."""
        short = self.micro_batch is not None and self.components.device.type == "cuda"
        train(
            objective,
            loop,
            self.folder,
            workload=self.workload,
            listen=self.listen,
            stop=self.stop,
            team=self.team,
            average_on=torch.device("cpu") if short else None,
        )


def fit_tasks(preset: FitPreset, folder: Path) -> list[Task]:
    """The work of a fit: encoding, the domain stage unless it trains nothing, and the control stage.

    Args:
        preset: how both stages are trained.
        folder: of the run; the steps in its checkpoints count as done.
    """

    def steps(name: str, loop: LoopSettings) -> Task:
        done = finished_steps(folder, name, loop.steps)
        return Task(name, loop.steps, "step", WINDOW_COST[name] * loop.batch_size, done)

    domain = [] if preset.domain_mode == "none" else [steps(DOMAIN, preset.domain)]
    encoding = Task(ENCODE, preset.examples, "window", WINDOW_COST[ENCODE])
    return [encoding, *domain, steps(CONTROL, preset.control)]


def train_domain(context: StageContext, preview: Callable[[], Preview]) -> None:
    """The domain stage: the UNet learns the object and its defects from captions; afterwards it is frozen."""
    components, preset = context.components, context.preset
    mode = _domain_mode(components, preset)
    if mode == "none":
        return
    if mode == "lora":
        _add_low_rank_updates(components, preset)
    else:
        components.unet.requires_grad_(True)
    if is_large(components):
        components.unet.enable_gradient_checkpointing()
    stage = DiffusionStage(DOMAIN, train=("unet",), micro_batch=context.micro_batch, team=context.team)
    objective = DiffusionObjective(components, context.cache, stage, preview)
    context.train(objective, preset.domain)
    if mode == "lora":
        components.unet.fuse_lora()
        components.unet.unload_lora()
    components.freeze()


def _domain_mode(components: Components, preset: FitPreset) -> Literal["full", "lora", "none"]:
    if preset.domain_mode != "auto":
        return preset.domain_mode
    return "lora" if is_large(components) else "full"


def _add_low_rank_updates(components: Components, preset: FitPreset) -> None:
    """Adapters of the UNet's attention (LoRA, arXiv 2106.09685), drawn from the fit's seed."""
    from peft import LoraConfig

    rank, targets = preset.lora_rank, ["to_q", "to_k", "to_v", "to_out.0"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(preset.domain.seed, "lora"))
        components.unet.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights="gaussian")
        )


def seeded_controlnet(components: Components, seed: int) -> ControlNetModel:
    """A new control branch, whose new layers are drawn from the fit's seed: the same in a resumed fit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "controlnet"))
        return new_controlnet(components)


def train_control(context: StageContext, preview: Callable[[], Preview]) -> None:
    """The control stage: the control branch learns to read the trimap; the other networks are frozen.

    Where the branch is the base's own, it goes on learning, and the UNet may learn with it.
    """
    components, preset, own = context.components, context.preset, context.preset.own_branch
    assert components.controlnet is not None
    joint = own is not None and own.unet
    components.controlnet.requires_grad_(True)
    components.unet.requires_grad_(joint)
    frozen: list[nn.Module] = []
    idle: list[nn.Module] = []
    device = components.device
    if is_large(components):
        components.unet.enable_gradient_checkpointing()
        components.controlnet.enable_gradient_checkpointing()
        idle = [components.vae, components.text_encoder]  # latents and embeddings are computed once
        if device.type == "cuda":  # where autocast computes in bfloat16 anyway
            frozen = idle if joint else [components.unet, *idle]

    def draw() -> Preview:
        with moved(idle, device):
            return preview()

    stage = DiffusionStage(
        CONTROL,
        ("unet", "controlnet") if joint else ("controlnet",),
        control=True,
        mask_weight=preset.mask_weight,
        micro_batch=context.micro_batch,
        crops=0.0 if own is None else own.crops,
        half=own is not None,
        team=context.team,
    )
    objective = DiffusionObjective(components, context.cache, stage, draw)
    with in_half(frozen), moved(idle, "cpu"):
        context.train(objective, preset.control)
    components.freeze()


def is_large(components: Components) -> bool:
    """Whether a base is so large that training has to save memory."""
    size: int = sum(parameter.numel() for parameter in components.unet.parameters())
    return size > LARGE_UNET


def usual_micro_batch(components: Components, resolution: int, device: torch.device) -> int | None:
    """How many windows go through the networks at a time where memory is short; `None`: the whole batch."""
    if device.type != "cuda" or not is_large(components):
        return None
    memory = torch.cuda.get_device_properties(device).total_memory
    return max(1, 512**2 // resolution**2) if memory < SMALL_GPU else None
