"""Stable Diffusion 1.5 size: operations, time and memory of the preset `fast` against `released`.

    python benchmarks/sd15_speed.py --operations-only        # counts operations and memory, computes nothing
    python benchmarks/sd15_speed.py --device cuda [--times-only] [--batch 1 --batch 8 --batch 16] [--repeats 5]

Operations are those of an image at 256² (`--size`). Memory is counted from tensors without storage: all that live at
once in an edit and in control steps of a fit at 512², in the precisions that a GPU uses; its libraries' own workspaces
come on top. On a GPU the networks have random weights, which cost as much as
trained ones, and the following are measured: seconds an image of `fast` in bfloat16 at several batch sizes; of
`released` as published, one image in single precision with all its fine-tuning, and in bfloat16; the share of the
GPU's measured bfloat16 matrix rate during diffusion; how often the host waits for the GPU in the edit of a batch; peak
memory of an edit and of a control step of a fit at 512².
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from sd15_size import fit_steps, sd15_components
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adabldm.core.prompts import EMPTY
from adabldm.core.records import Calibration
from adabldm.core.seeding import torch_generator
from adabldm.core.settings.edit import PRESETS, EditPreset, Finetune, NoAdaptation
from adabldm.editing.adaptation import Decoding, adapt
from adabldm.editing.blending import latent_mask
from adabldm.editing.editor import Edited, EditJob, Editor, Guides, prepare
from adabldm.editing.look import settled
from adabldm.editing.loop import EditBatch
from adabldm.editing.signals import Signals
from adabldm.editing.source import Source
from adabldm.models.components import (
    Components,
    decode_latents,
    encode_images,
    new_controlnet,
    vae_factor,
)
from adabldm.workflows.profiling import (
    ALL,
    CONTROL,
    UNET,
    count_operations,
    matmul_rate,
    profiled,
    stage_seconds,
    with_tuning_steps,
)

PROMPT = "part, a part with a dent"


class Once:
    """While it is open, a network on the meta device makes a call of the same shapes once, and remembers its cost.

    A counted step is then hardly slower than none. `repeated` are the operations of the calls that
    were not made again.
    """

    def __init__(self, module: Any) -> None:
        self.module, self.made, self.repeated = module, module.forward, 0.0
        self._known: dict[Any, tuple[Any, float]] = {}

    def __enter__(self) -> Once:
        self.module.forward = self._forward
        return self

    def __exit__(self, *_: object) -> None:
        del self.module.forward

    def _forward(self, *inputs: Any, **options: Any) -> Any:
        values = tree_leaves((inputs, options))
        shapes = tuple(value.shape for value in values if isinstance(value, Tensor))
        if shapes in self._known:
            self.repeated += self._known[shapes][1]
        else:
            outputs: list[Any] = []
            cost = count_operations(lambda: outputs.append(self.made(*inputs, **options)))[ALL]
            self._known[shapes] = outputs[0], cost
        return self._known[shapes][0]


def diffused(editor: Editor, preset: EditPreset, size: int, start: int = 0) -> Decoding:
    """The edit of one `size`² window up to z*, by networks without storage.

    Args:
        editor: its networks are on the meta device, or fake.
        preset: how it is edited.
        size: side of the window in px.
        start: first denoising step; that of the preset's look where the edit begins from a real defect.
    """
    vae, (job,) = editor.components.vae, jobs(size, 1)
    options: dict[str, Any] = {"dtype": editor.components.unet.dtype, "device": editor.components.device}
    image, mask = torch.zeros(1, 3, size, size, **options), torch.zeros(1, 1, size, size, **options)
    small = latent_mask(mask, vae_factor(vae), how=preset.plan.latent_mask, grow=preset.plan.grow)
    source = Source(vae, image)
    batch = EditBatch(image, mask, source.latents, small, [job.generator])
    preset = settled(preset, editor.calibration)
    window = replace(prepare(job, preset, size, "auto"), start=start)
    latents = editor._diffuse([window], batch, Guides(mask, Signals()), preset, None)
    return Decoding(vae, latents, image, mask, source=source)


@torch.no_grad()
def count(editor: Editor, preset: EditPreset, size: int, start: int = 0) -> dict[str, float]:
    """Operations of the edit of one `size`² window by networks on the meta device, as `count_operations` gives them.

    The prompts are encoded before: that is done once for all images. The fine-tuning itself waits for the value of its
    loss, which does not exist there: its steps are counted as what they are, a decoding with its backward pass each,
    and three more decodings (before, for the last loss, and with the tuned decoder).

    Args:
        editor: its networks are on the meta device.
        preset: how it is edited.
        size: side of the window in px.
        start: see `diffused`.
    """
    vae, tuning = editor.components.vae, preset.adaptation
    for prompt in (PROMPT, EMPTY):
        editor._prompt(prompt)

    def run() -> None:
        adapt(NoAdaptation() if isinstance(tuning, Finetune) else tuning, diffused(editor, preset, size, start))

    with Once(editor.components.unet) as unet, Once(editor.components.controlnet) as control:
        counts = count_operations(run)
    for name, network in ((UNET, unet), (CONTROL, control)):
        counts[name] += network.repeated
        counts[ALL] += network.repeated
    if isinstance(tuning, Finetune):
        latents = encode_images(vae, torch.zeros(1, 3, size, size, device="meta"))
        plain = count_operations(lambda: decode_latents(vae, latents))[ALL]
        step = count_operations(lambda: _tuning_step(vae, latents))[ALL]
        counts[ALL] += tuning.steps * step + 3 * plain
    return counts


def _tuning_step(vae: Any, latents: Tensor) -> None:
    """The decoder's weights need gradients, its input does not."""
    parts = [part for part in (vae.decoder, getattr(vae, "post_quant_conv", None)) if part is not None]
    for part in parts:
        part.requires_grad_(True)
    with torch.enable_grad():
        decode_latents(vae, latents).sum().backward()  # type: ignore[no-untyped-call]
    for part in parts:
        part.requires_grad_(False)
        part.zero_grad(set_to_none=True)


def on_meta() -> Components:
    """The networks without storage."""
    with torch.device("meta"):
        components = sd15_components()
        components.controlnet = new_controlnet(components)
    components.scheduler = type(components.scheduler).from_config(components.scheduler.config)  # noise levels are real
    return components


def operations(size: int) -> dict[str, Any]:
    """TFLOP an image of each preset."""
    editor = Editor(on_meta(), size)
    counts = {name: count(editor, preset, size, first_step(preset)) for name, preset in PRESETS.items()}
    counts["fast, from noise"] = count(editor, PRESETS["fast"], size)
    return {
        name: {
            "tflop": rounded(found[ALL] / 1e12),
            "diffusion_tflop": rounded((found[UNET] + found[CONTROL]) / 1e12),
            "of_released": f"1/{counts['released'][ALL] / found[ALL]:.1f}",
        }
        for name, found in counts.items()
    }


def rounded(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")


def first_step(preset: EditPreset) -> int:
    """The first denoising step of a spot that begins from a real defect, as with the masks of the bank."""
    look = settled(preset, Calibration()).look
    return 0 if look is None else look.start or 0


class PeakMemory(TorchDispatchMode):
    """The most bytes that the tensors made while it is open hold at once, also if they hold them in name only."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        if storage not in self._known:
            size = storage.nbytes()
            self._known.add(storage)
            weakref.finalize(storage, self._drop, size)
            self.live += size
            self.peak = max(self.peak, self.live)

    def _drop(self, size: int) -> None:
        self.live -= size

    def start(self) -> None:
        """Forget the peak so far, and what waits for the collector."""
        gc.collect()
        self.peak = self.live


def fused_attention(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
    """What attention leaves on a GPU, whose kernels never hold all its scores: the result alone."""
    return query.new_empty(*query.shape[:-1], value.shape[-1])


def in_bfloat16(build: Callable[[], Components]) -> Components:
    """Networks that are built in that precision: tensors without storage cannot be converted to it."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        return build()
    finally:
        torch.set_default_dtype(torch.float32)


Batches = tuple[tuple[int, int | None], ...]
"""Windows in a batch, and how many of them go through the networks at a time; `None`: all."""


def memory(size: int = 512, batches: Batches = ((1, 1), (8, 1), (8, None))) -> dict[str, float]:
    """Counted peaks in GB (10⁹ bytes) at `size`²: an edit of `fast` in bfloat16, and control steps of a fit.

    Under a micro batch the moving average of the weights waits in the host's memory: its bytes are taken off.
    """
    found = {}
    with PeakMemory() as counted:
        editor = Editor(in_bfloat16(on_meta), size)
        fast = PRESETS["fast"]
        counted.start()
        with torch.no_grad(), patch("torch.nn.functional.scaled_dot_product_attention", fused_attention):
            adapt(fast.adaptation, diffused(editor, fast, size, first_step(fast)))
        found[f"edit_{size}_batch_1"] = counted.peak / 1e9
    del editor
    for batch, micro_batch in batches:
        with FakeTensorMode(), PeakMemory() as counted:
            components = in_bfloat16(sd15_components)
            components.controlnet = new_controlnet(sd15_components())
            components.freeze()
            config = components.vae.config
            components.vae = components.text_encoder = torch.nn.Identity()  # they wait in the host's memory
            components.vae.config = config
            latents, text = torch.randn(batch, 4, size // 8, size // 8), torch.randn(batch, 77, 768)
            trimap = torch.ones(batch, 1, size, size) / 2
            counted.start()
            fit_steps(components, 2, latents, text, trimap, half=True, micro_batch=micro_batch)
            weights = components.controlnet.parameters()
            average = 0 if micro_batch is None else sum(one.numel() * one.element_size() for one in weights)
            name = f"control_step_{size}_batch_{batch}_micro_batch_{micro_batch or batch}"
            found[name] = (counted.peak - average) / 1e9
            del components, latents, text, trimap
    return {name: rounded(value) for name, value in found.items()}


def jobs(size: int, count: int) -> list[EditJob]:
    """Pictures of twice the model's side, each with a real defect to begin from: a spot, for which `start` holds."""
    picture = np.full((2 * size, 2 * size, 3), 120, np.uint8)
    mask = np.zeros(picture.shape[:2], np.bool_)
    spot = slice(size // 2, size // 2 + size // 8)
    mask[spot, spot] = True
    real = np.where(mask[..., None], picture // 2, picture)
    return [
        EditJob(picture, np.ones_like(mask), mask, PROMPT, torch_generator("edit", index), reference=real)
        for index in range(count)
    ]


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Of calls on the GPU, after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:] or times)


def waits(call: Callable[[], object]) -> int:
    """How often PyTorch lets the host wait for the GPU in a call."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(one.message) for one in found)


def on_gpu(size: int, batches: list[int], repeats: int, device: torch.device) -> dict[str, Any]:
    """The rows that need a GPU."""
    components = sd15_components()
    components.controlnet = new_controlnet(components)
    facts: dict[str, Any] = {"gpu": torch.cuda.get_device_name(device)}
    rate = matmul_rate(device)
    facts["bf16_matmul_tflops"] = round(rate / 1e12, 1)

    def editor(side: int, dtype: torch.dtype) -> Editor:
        return Editor(components, side).to(device, dtype)

    def peak_mb(call: Callable[[], object]) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return round(torch.cuda.max_memory_allocated(device) / 2**20)

    fast, released = PRESETS["fast"], PRESETS["released"]
    half = editor(size, torch.bfloat16)
    facts["fast_bfloat16"] = {}
    for batch in batches:

        def edit_all(batch: int = batch) -> list[Edited]:
            return half.edit(jobs(size, batch), fast)

        seconds = median_seconds(edit_all, repeats) / batch
        counted = count_operations(edit_all)
        stages = stage_seconds(profiled(edit_all, device), device)
        reached = (counted[UNET] + counted[CONTROL]) / (stages["unet"] + stages["control"])
        facts["fast_bfloat16"][batch] = {
            "seconds_per_image": round(seconds, 4),
            "tflop_per_image": round(counted[ALL] / batch / 1e12, 2),
            "matmul_share_of_diffusion": round(reached / rate, 3),
            "waits_for_the_gpu": waits(edit_all),
            "stages": {name: round(value / batch, 5) for name, value in stages.items()},
        }
    short = with_tuning_steps(released, 2)
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        slow = editor(size, dtype)
        slow.edit(jobs(size, 1), short)  # the first call is slower
        seconds = median_seconds(lambda slow=slow: slow.edit(jobs(size, 1), released), 0)  # type: ignore[misc]
        facts[f"released_{name}"] = {"seconds_per_image": round(seconds, 3)}
        for found in facts["fast_bfloat16"].values():
            found[f"of_released_{name}"] = f"1/{seconds / found['seconds_per_image']:.0f}"
    large = editor(512, torch.bfloat16)
    facts["peak_mb"] = {"edit_512_batch_1": peak_mb(lambda: large.edit(jobs(512, 1), fast))}
    large.to(device, torch.float32)
    latents, text = torch.randn(8, 4, 64, 64, device=device), torch.randn(8, 77, 768, device=device)
    trimap = torch.ones(8, 1, 512, 512, device=device) / 2
    for micro_batch in (1, None):
        name = f"control_step_512_batch_8_micro_batch_{micro_batch or 8}"
        facts["peak_mb"][name] = peak_mb(
            lambda size=micro_batch: fit_steps(components, 2, latents, text, trimap, micro_batch=size)  # type: ignore[misc]
        )
    return facts


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="window in px")
    parser.add_argument("--operations-only", action="store_true", help="count and stop")
    parser.add_argument("--times-only", action="store_true", help="measure on the GPU without counting before")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, action="append", help="images at once (repeatable; default: 1, 8, 16)")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if not options.operations_only and not torch.cuda.is_available():
        parser.error("no GPU here: add --operations-only")
    facts: dict[str, Any] = {"torch": torch.__version__, "size": options.size}
    if not options.times_only:
        facts |= {"operations": operations(options.size), "memory_counted_gb": memory()}
    if not options.operations_only:
        facts.update(on_gpu(options.size, options.batch or [1, 8, 16], options.repeats, torch.device(options.device)))
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
