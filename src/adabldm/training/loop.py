"""One training loop for every stage: optimiser, schedule, moving average, checkpoints, previews, logs.

Everything random in step k is drawn from a generator derived from (seed, stage, k), so that a run that was
killed and resumed sees what an uninterrupted run sees.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from adabldm.core.errors import InputError, ModelError
from adabldm.core.events import Listener, Note, PreviewWritten, Task, Workload, ignore
from adabldm.core.images import Pixels, atomic_file, write_png
from adabldm.core.interrupts import never
from adabldm.core.precision import mixed
from adabldm.core.records.files import read_json
from adabldm.core.seeding import torch_generator
from adabldm.core.settings.fit import LoopSettings
from adabldm.training.team import ALONE, Team

SAVE_SECONDS = 300
"""A checkpoint is written at least this often, however slow the steps are."""
LOG_EVERY = 10
"""Steps between the figures in the logs."""
ENOUGH = 0.5
"""Share of believable defects below which no stage ends early: there is more to learn, however long it takes."""
SHOWN_STEPS = 100
"""The loss that is reported is the mean of at most this many last steps."""


@dataclass(frozen=True)
class Preview:
    """What a stage can do so far.

    Attributes:
        picture: uint8 HxWx3.
        believable: share in [0, 1] of the defects in it that the filter of `generate` accepts; `None` if it shows none.
    """

    picture: Pixels
    believable: float | None = None


class Objective(Protocol):
    """What a stage trains.

    Attributes:
        name: name of the stage, part of every file name and of every random stream.
        modules: trained modules by name; all their parameters that require gradients are optimised.
    """

    name: str
    modules: Mapping[str, nn.Module]

    def losses(
        self, batch_size: int, progress: float, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Loss of one batch drawn from `generator`, at `progress` in [0, 1), and figures to log, as addends.

        The loop takes the gradients of an addend before it asks for the next one: only one of them is in memory.
        """
        ...

    def preview(self) -> Preview:
        """A picture that shows the progress, from fixed seeds."""
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
    """Weights, their moving average and AdamW's moments, saved to and loaded from one safetensors file.

    Args:
        parameters: the weights by name.
        settings: of the loop.
        average_on: device of the moving average, if it is not that of the weights.
    """

    def __init__(
        self, parameters: dict[str, nn.Parameter], settings: LoopSettings, average_on: torch.device | None = None
    ) -> None:
        self.parameters = parameters
        self.settings = settings
        self.average = {
            key: value.detach().to(average_on or value.device, copy=True) for key, value in parameters.items()
        }
        self.optimizer = torch.optim.AdamW(
            parameters.values(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=(0.9, 0.99),
            fused=True if all(parameter.is_cuda for parameter in parameters.values()) else None,  # needs no copies
        )
        self.step = 0

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.parameters.values())).device

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
            weights = zip(self.parameters.values(), averages, strict=True)
            torch._foreach_lerp_(averages, [weight.detach().to(own.device) for weight, own in weights], 1 - decay)

    def save(self, path: Path) -> None:
        tensors: dict[str, Tensor] = {}
        for key, parameter in self.parameters.items():
            tensors[f"weight/{key}"] = parameter.detach().contiguous()
            tensors[f"average/{key}"] = self.average[key].contiguous()
            moments = self.optimizer.state.get(parameter)
            if moments:
                tensors[f"first/{key}"] = moments["exp_avg"].contiguous()
                tensors[f"second/{key}"] = moments["exp_avg_sq"].contiguous()
        metadata = {"step": str(self.step), "settings": self.settings.model_dump_json()}
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

    def spread(self, team: Team) -> None:
        """Give the whole team the state of the leading process, which alone has read a checkpoint."""
        if team.size == 1:
            return
        if self.step != (step := team.spread(self.step)):
            self.step, fused = step, bool(self.optimizer.defaults["fused"])
            for parameter in self.parameters.values():
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(step), device=parameter.device if fused else "cpu"),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        team.spread_tensors([*self.parameters.values(), *self.average.values()])
        if step:
            moments = [self.optimizer.state[parameter] for parameter in self.parameters.values()]
            team.spread_tensors([own[key] for own in moments for key in ("exp_avg", "exp_avg_sq")])

    def swap_average(self) -> None:
        """Exchange the weights and their moving average; neither is copied where both are on one device."""
        for key, parameter in self.parameters.items():
            weight, average = parameter.data, self.average[key]
            parameter.data, self.average[key] = average.to(weight.device), weight.to(average.device)


def _gradients(
    losses: Iterator[tuple[Tensor, dict[str, float]]], device: torch.device
) -> tuple[float, dict[str, float]]:
    """Add up the gradients of all addends, in bfloat16 where that is safe and the device has it; loss and figures."""
    total, figures = 0.0, dict[str, float]()
    while True:
        # A cache of the weights in bfloat16 would be read once only, and hold half as much memory as they do.
        with mixed(device, cache=False):
            addend = next(losses, None)
        if addend is None:
            return total, figures
        loss, own = addend
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
        figures = {key: figures.get(key, 0.0) + value for key, value in own.items()}


def train(
    objective: Objective,
    settings: LoopSettings,
    folder: Path,
    *,
    workload: Workload | None = None,
    listen: Listener = ignore,
    stop: Callable[[], bool] = never,
    team: Team = ALONE,
    average_on: torch.device | None = None,
) -> float:
    """Train a stage to its last step, going on from `folder/checkpoints/<stage>.safetensors` if that is there.

    Afterwards the modules hold the averaged weights. Previews go to `folder/previews`, TensorBoard's logs to
    `folder/logs`.

    Args:
        objective: what is trained.
        settings: how; a checkpoint made with more steps than asked for is simply finished.
        folder: of the run.
        workload: has a task of the stage's name, which counts the steps; the stage is all the work if left out.
        listen: is told of previews, and of the progress where there is no `workload`.
        stop: asked after each step whether the training is to end there, with a checkpoint.
        team: the processes that train together; the leading one alone reads and writes files.
        average_on: device of the moving average of the weights, if it is not that of the weights.

    Returns:
        the mean loss of the last hundred steps (0 when nothing was left to do). A stage with `patience` may end before
        its last step; `finished_steps` tells.

    Raises:
        InputError: the checkpoint is damaged or of another architecture.
        ModelError: the loss is not finite.
        KeyboardInterrupt: `stop` said so.
    """
    checkpoint = _checkpoint(folder, objective.name)
    state = _State(_trained(objective.modules), settings, average_on)
    with team.together():
        if team.leads and checkpoint.exists():
            state.load(checkpoint)
    state.spread(team)
    for module in objective.modules.values():
        module.train()
    workload = workload or Workload([Task(objective.name, settings.steps, "step")], listen)
    workload.begin(objective.name, done=min(state.step, settings.steps))
    reports = Reports(listen, stop, team)
    shares = Shares(folder, objective.name, state.step, settings.preview_every)
    if team.leads and _shows(state) and not _preview(folder, objective.name, state.step).exists():
        _write_preview(objective, state, folder, reports, shares)  # a kill came between the checkpoint and the preview
    ended = state.step >= settings.steps or _ends(shares, settings, team)
    losses = [] if ended else _train_on(objective, state, folder, workload, reports, shares)
    if state.step < settings.steps:
        workload.finish(objective.name)
    if state.step < settings.steps and team.leads:  # the others have not seen the previews
        listen(Note(f"{objective.name}: ended after step {state.step} of {settings.steps}, {shares.told()}"))
    state.swap_average()
    for module in objective.modules.values():
        module.eval()
    return sum(losses) / len(losses) if losses else 0.0


@dataclass(frozen=True)
class Reports:
    """Whom the loop tells of previews, whom it asks whether to stop, and with whom it trains."""

    listen: Listener
    stop: Callable[[], bool]
    team: Team = ALONE


def _train_on(
    objective: Objective, state: _State, folder: Path, workload: Workload, reports: Reports, shares: Shares
) -> Sequence[float]:
    """Train to the last step, or until the previews get no better; the losses of the last steps."""
    name, settings, team = objective.name, state.settings, reports.team
    recent: deque[float] = deque(maxlen=SHOWN_STEPS)
    saved_at = time.monotonic()
    with _log_writer(folder / "logs" / name if team.leads else None) as writer:
        while state.step < settings.steps:
            generator = torch_generator(settings.seed, name, state.step)
            losses = objective.losses(settings.batch_size, state.step / settings.steps, generator)
            loss, figures = _gradients(losses, state.device)
            (loss,) = team.total([loss])
            if not math.isfinite(loss):
                raise ModelError(
                    f"{folder}: the loss of stage {name!r} is not finite after {state.step} steps; lower the learning "
                    "rate, or look for damaged images; the last checkpoint stays."
                )
            team.add_up_gradients(list(state.parameters.values()))
            state.advance()
            recent.append(loss)
            workload.advance(name, loss=sum(recent) / len(recent))
            if team.leads and state.step % LOG_EVERY == 0:
                for key, value in {"loss": loss, **figures}.items():
                    writer.add_scalar(key, value, state.step)
            last, stop = state.step == settings.steps, team.total([float(reports.stop())]) != [0.0]
            due = state.step % settings.checkpoint_every == 0 or time.monotonic() - saved_at > SAVE_SECONDS
            if team.leads and (last or stop or due):
                state.save(_checkpoint(folder, name))
                saved_at = time.monotonic()
            if stop:
                raise KeyboardInterrupt(f"{name}: stopped after step {state.step} of {settings.steps}")
            if team.leads and _shows(state):
                preview = _write_preview(objective, state, folder, reports, shares)
                writer.add_image("preview", preview.picture, state.step, dataformats="HWC")
                if preview.believable is not None:
                    writer.add_scalar("believable", preview.believable, state.step)
            if not last and _shows(state) and _ends(shares, settings, team):
                if team.leads:
                    state.save(_checkpoint(folder, name))
                break
    return recent


class Shares:
    """The shares of believable defects in the previews of a stage, kept beside them, by step.

    Args:
        folder: of the run.
        name: of the stage.
        step: at which the stage stands; what was seen later is forgotten, because it is trained again.
        every: steps between previews; what was seen between, when a shorter stage ended there, is forgotten too.
    """

    def __init__(self, folder: Path, name: str, step: int, every: int) -> None:
        self._path = folder / "previews" / f"{name}.json"
        self._found = {at: share for at, share in _read_shares(self._path).items() if at <= step and at % every == 0}

    def add(self, step: int, share: float) -> None:
        """Keep that of a step."""
        self._found[step] = share
        with atomic_file(self._path) as file:
            file.write((json.dumps({str(at): one for at, one in sorted(self._found.items())}) + "\n").encode())

    def ends(self, patience: int) -> bool:
        """Whether at least half of the defects were believable, and for so many previews there were no more."""
        shares = [share for _, share in sorted(self._found.items())]
        best = max(shares, default=0.0)
        return best >= ENOUGH and len(shares) - 1 - shares.index(best) >= patience

    def told(self) -> str:
        """A part of a sentence."""
        best = max(self._found.values(), default=0.0)
        first = min(at for at, share in self._found.items() if share == best)
        return f"because {best:.0%} of the previewed defects were believable after step {first} and no more since then"


def _read_shares(path: Path) -> dict[int, float]:
    """Those of a file; none where it is damaged, for then the previews are judged again from there on."""
    try:
        values = read_json(path.read_bytes())
        return {int(at): min(1.0, max(0.0, float(share))) for at, share in values.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _ends(shares: Shares, settings: LoopSettings, team: Team) -> bool:
    """Whether a stage ends early; the leading process, which has seen the previews, decides."""
    if settings.patience is None:
        return False
    return team.total([float(team.leads and shares.ends(settings.patience))]) != [0.0]


@contextmanager
def _log_writer(folder: Path | None) -> Iterator[Any]:
    """TensorBoard's writer, or `None` without a folder.

    An error of its thread is not printed, for the work itself says what is wrong there.
    """
    if folder is None:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    before = threading.excepthook

    def quiet(error: threading.ExceptHookArgs) -> None:
        if not (isinstance(error.exc_value, OSError) and type(error.thread).__module__.startswith("tensorboard")):
            before(error)

    threading.excepthook = quiet
    try:
        with SummaryWriter(str(folder)) as writer:
            yield writer
    finally:
        threading.excepthook = before


def _shows(state: _State) -> bool:
    """Whether a preview belongs to the present step."""
    step, settings = state.step, state.settings
    return 0 < step <= settings.steps and (step == settings.steps or step % settings.preview_every == 0)


def _write_preview(objective: Objective, state: _State, folder: Path, reports: Reports, shares: Shares) -> Preview:
    """The preview of the present step: what is drawn and written."""
    preview = _averaged_preview(objective, state)
    if preview.believable is not None:
        shares.add(state.step, preview.believable)
    write_png(_preview(folder, objective.name, state.step), preview.picture)
    reports.listen(PreviewWritten(_preview(folder, objective.name, state.step), objective.name, state.step))
    return preview


def _averaged_preview(objective: Objective, state: _State) -> Preview:
    """The stage's preview as the moving average of the weights draws it."""
    state.swap_average()
    with mixed(state.device):
        preview = objective.preview()
    state.swap_average()
    return preview


def finished_steps(folder: Path, name: str, steps: int) -> int:
    """How many of a stage's `steps` an earlier run has kept; 0 where it left no checkpoint that can be read."""
    try:
        with safe_open(_checkpoint(folder, name), "pt") as file:
            return min(steps, int((file.metadata() or {}).get("step", 0)))
    except (SafetensorError, OSError, ValueError):
        return 0


def _preview(folder: Path, name: str, step: int) -> Path:
    return folder / "previews" / f"{name}-{step:06d}.png"


def _checkpoint(folder: Path, name: str) -> Path:
    return folder / "checkpoints" / f"{name}.safetensors"
