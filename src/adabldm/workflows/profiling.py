"""Where the time of an edit goes, and how many operations it makes; for `bench` and the scripts in benchmarks/."""

from __future__ import annotations

import shutil
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from adabldm.core.images import atomic_file
from adabldm.core.settings.edit import EditPreset, Finetune
from adabldm.core.stages import PREFIX, STAGES

HOST_STAGES = frozenset({"prepare", "put_back", "score"})
"""Stages that work on numpy arrays: they cost the host's time also where there is a GPU."""
ALL, UNET, CONTROL = "Global", "UNet2DConditionModel", "ControlNetModel"
"""Names under which `count_operations` lists the whole call and the networks of diffusion."""


def profiled(call: Callable[[], object], device: torch.device) -> profile:
    """Run the call under torch's profiler, on the CPU and on the GPU if `device` is one."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    found = profile(activities=activities, acc_events=True)
    with found:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return found


def stage_seconds(found: profile, device: torch.device) -> dict[str, float]:
    """Seconds of every stage that was run, and of what lies between them ("other"); see `sum_stages`."""
    events: Any = found.events()  # type: ignore[no-untyped-call]
    return sum_stages(events, on_gpu=device.type == "cuda")


def sum_stages(events: Sequence[Any], *, on_gpu: bool) -> dict[str, float]:
    """Seconds of the stages in the profiler's events.

    A stage inside another one belongs to that, so that nothing counts twice. On the CPU it is the time from a stage's
    begin to its end, and "other" what is left between the first one's begin and the last one's end. On a GPU it is
    the time of the kernels that were launched meanwhile, by whichever thread (a backward pass has its own), except
    for the `HOST_STAGES`.
    """
    outer = _outermost(events)
    seconds = dict.fromkeys(STAGES, 0.0)
    for begin, end, name in outer:
        if not on_gpu or name in HOST_STAGES:
            seconds[name] += (end - begin) / 1e6
    if not on_gpu:
        seconds["other"] = (outer[-1][1] - outer[0][0]) / 1e6 - sum(seconds.values()) if outer else 0.0
    else:
        seconds["other"] = 0.0
        for moment, duration in _launches(events):
            index = bisect_right(outer, moment, key=lambda mark: mark[0]) - 1
            name = outer[index][2] if index >= 0 and moment < outer[index][1] else "other"
            if name not in HOST_STAGES:
                seconds[name] += duration / 1e6
    return {name: value for name, value in seconds.items() if value or name == "other"}


def _outermost(events: Iterable[Any]) -> list[tuple[float, float, str]]:
    """(begin, end, name) of the stages that lie in no other one, in microseconds, in order."""
    marks = [
        (event.time_range.start, event.time_range.end, event.name.removeprefix(PREFIX))
        for event in events
        if event.device_type == DeviceType.CPU and event.name.startswith(PREFIX)
    ]
    outer: list[tuple[float, float, str]] = []
    for mark in sorted(marks, key=lambda mark: (mark[0], -mark[1])):
        if not outer or mark[0] >= outer[-1][1]:
            outer.append(mark)
    return outer


def _launches(events: Iterable[Any]) -> Iterable[tuple[float, float]]:
    """(moment of the launch, duration) of every kernel and copy on the GPU, in microseconds."""
    for event in events:
        if event.device_type == DeviceType.CPU:
            for kernel in event.kernels:
                if kernel.name != event.name:  # a mark's shadow on the GPU's time line bears the mark's name
                    yield event.time_range.start, kernel.duration


def write_trace(found: profile, path: Path) -> None:
    """Write a Chrome trace (for chrome://tracing or Perfetto), whole or not at all; zipped if `path` ends in .gz."""
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / ("trace.json.gz" if path.suffix == ".gz" else "trace.json")
        found.export_chrome_trace(str(written))
        with written.open("rb") as source, atomic_file(path) as target:
            shutil.copyfileobj(source, target)


def count_operations(call: Callable[[], object]) -> dict[str, float]:
    """Floating-point operations of matrix products, convolutions and attention, forward and backward.

    A multiplication and its addition count as two. Everything else (normalisation, activation) is left out, as in
    `torch.utils.flop_counter`, which counts them.

    Returns:
        Operations of the whole call under "Global", and of each network under its class's name.
    """
    aten = torch.ops.aten
    forward: Any = sdpa_flop_count
    backward: Any = sdpa_backward_flop_count
    on_cpu = {  # torch's own table lacks the CPU's attention
        aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: forward(*shapes[:3]),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: backward(*shapes[:4]),
    }
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        call()
    found = {name: float(sum(counts.values())) for name, counts in counter.get_flop_counts().items() if "." not in name}
    return {ALL: 0.0, **found}


def count_edit(edit: Callable[[EditPreset], object], preset: EditPreset) -> dict[str, float]:
    """`count_operations` of an edit.

    Fine-tuning makes the same operations in each of its steps. They are counted in edits with one step and with two,
    and the others are added to "Global" without running them.

    Args:
        edit: edits one batch in the way of the preset that it is given; it was called before, so that prompts are
            encoded, which an editor does once.
        preset: what is counted.
    """
    adaptation = preset.adaptation
    if not isinstance(adaptation, Finetune) or adaptation.steps < 2:
        return count_operations(lambda: edit(preset))
    once, twice = (count_operations(lambda own=own: edit(with_tuning_steps(preset, own))) for own in (1, 2))  # type: ignore[misc]
    return {**once, ALL: once[ALL] + (adaptation.steps - 1) * (twice[ALL] - once[ALL])}


def with_tuning_steps(preset: EditPreset, steps: int) -> EditPreset:
    """The preset with so many steps of fine-tuning; unchanged if its decoder is not fine-tuned."""
    adaptation = preset.adaptation
    if not isinstance(adaptation, Finetune):
        return preset
    return preset.changed(adaptation=adaptation.changed(steps=steps))


def matmul_rate(
    device: torch.device, dtype: torch.dtype = torch.bfloat16, size: int = 8192, repeats: int = 20
) -> float:
    """Operations a second of the product of two square matrices of `size`: what the device can reach at best."""
    first, second = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def multiply(times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            first @ second
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    multiply(3)  # the first calls are slower
    return 2 * size**3 * repeats / multiply(repeats)
