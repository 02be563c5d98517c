"""Stages and operations: what the profiler and the counter say, against what can be worked out by hand."""

from __future__ import annotations

import gzip
import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from components import make_editor
from test_editor import scene
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from adabldm.core.seeding import torch_generator
from adabldm.core.settings.edit import PRESETS, EditPreset
from adabldm.core.stages import STAGES, stage
from adabldm.editing.editor import Edited, EditJob, Editor
from adabldm.models.components import decode_latents
from adabldm.models.conditioning import encode_prompts
from adabldm.workflows.profiling import (
    ALL,
    CONTROL,
    UNET,
    count_edit,
    count_operations,
    matmul_rate,
    profiled,
    stage_seconds,
    sum_stages,
    with_tuning_steps,
    write_trace,
)

CPU = torch.device("cpu")


NO_ADAPTATION = {"adaptation": {"method": "none"}}


@pytest.fixture(scope="module")
def editor() -> Editor:
    return make_editor()


def edits(editor: Editor, count: int = 1) -> Callable[[EditPreset], list[Edited]]:
    """Edits the same pictures with the same noise in every call."""
    pictures = [scene((80, 96), index) for index in range(count)]

    def edit(preset: EditPreset) -> list[Edited]:
        return editor.edit(
            [
                EditJob(pixels, np.ones_like(mask), mask, "tile with a hole", torch_generator("edit", index))
                for index, (pixels, mask) in enumerate(pictures)
            ],
            preset,
        )

    return edit


def short(name: str) -> EditPreset:
    """A published preset in four steps, of which one pastes."""
    preset = PRESETS[name]
    return preset.changed(plan=preset.plan.changed(steps=4, latent_stage=(1, 4), image_stage=(3, 4)))


def tuned(name: str, steps: int) -> EditPreset:
    """The same with so many steps of fine-tuning."""
    return with_tuning_steps(short(name), steps)


# Operations


def test_a_convolution_counts_two_for_every_weight_and_place() -> None:
    layer = torch.nn.Conv2d(3, 8, 3, padding=1)
    image = torch.randn(2, 3, 10, 12, requires_grad=True)
    forward = 2 * (3 * 3 * 3) * 8 * (2 * 10 * 12)
    with torch.no_grad():
        assert count_operations(lambda: layer(image))[ALL] == forward
    # Backward, once for the weights and once for the image.
    assert count_operations(lambda: layer(image).sum().backward())[ALL] == 3 * forward


@pytest.mark.parametrize("length", [16, 40])
def test_attention_counts_on_the_cpu_too(length: int) -> None:
    """Two products, queries with keys and weights with values."""
    query, key = torch.randn(2, 4, 16, 8, requires_grad=True), torch.randn(2, 4, length, 8)
    product = 2 * (2 * 4) * 16 * length * 8

    def attend() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, key, key)

    with torch.no_grad():
        assert count_operations(attend)[ALL] == 2 * product
    assert count_operations(lambda: attend().sum().backward())[ALL] > 4 * product


def test_an_edit_counts_its_network_calls(editor: Editor) -> None:
    """`released` runs both networks on both halves in each step; two pictures cost twice as much as one."""
    unet: Any = editor.components.unet
    control: Any = editor.components.controlnet
    latents, text = torch.randn(2, 4, 16, 16), encode_prompts(editor.components, ["", ""]).embeddings.detach()
    trimap = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        once = {
            UNET: count_operations(lambda: unet(latents, 5, encoder_hidden_states=text))[ALL],
            CONTROL: count_operations(lambda: control(latents, 5, text, trimap))[ALL],
        }
    assert min(once.values()) > 0
    preset = short("released").changed(**NO_ADAPTATION)
    one, two = (count_operations(lambda count=count: edits(editor, count)(preset)) for count in (1, 2))  # type: ignore[misc]
    for network, operations in once.items():
        assert one[network] == preset.plan.steps * operations
        assert two[network] == 2 * one[network]
    assert one[ALL] > sum(one[network] for network in once), "text, encoding and decoding count too"


def test_control_once_and_no_guidance_save_what_they_should(editor: Editor) -> None:
    preset = short("paper").changed(**NO_ADAPTATION)
    edit = edits(editor)
    both = count_edit(edit, preset)
    once = count_edit(edit, preset.changed(guidance=preset.guidance.changed(control_once=True)))
    plain = count_edit(edit, preset.changed(guidance=preset.guidance.changed(scale=1.0)))
    assert both[CONTROL] == 2 * once[CONTROL] == 2 * plain[CONTROL]
    assert both[UNET] == once[UNET] == 2 * plain[UNET]


@pytest.mark.parametrize("name", ["paper", "released"])
def test_fine_tuning_counts_a_forward_and_a_backward_pass_for_each_step(editor: Editor, name: str) -> None:
    edit = edits(editor)
    edit(tuned(name, 1))  # encodes the prompts
    counts = [count_operations(lambda own=own: edit(tuned(name, own)))[ALL] for own in (1, 2, 5)]  # type: ignore[misc]
    step = counts[1] - counts[0]
    assert counts[2] - counts[0] == 4 * step
    with torch.no_grad():
        forward = count_operations(lambda: decode_latents(editor.components.vae, torch.randn(1, 4, 16, 16)))[ALL]
    assert 2.5 * forward < step <= 3 * forward, "backward is twice forward, less the first layer's input"
    assert count_edit(edit, tuned(name, 5))[ALL] == counts[2], "steps that are not run are counted alike"


def test_the_measured_rate_of_matrix_products_is_a_rate() -> None:
    assert matmul_rate(CPU, torch.float32, size=64, repeats=3) > 1e6


# Stages


def test_the_stages_of_an_edit_add_up(editor: Editor) -> None:
    edit = edits(editor, 2)
    edit(PRESETS["fast"])
    began = time.perf_counter()
    found = profiled(lambda: edit(PRESETS["fast"]), CPU)
    wall = time.perf_counter() - began
    stages = stage_seconds(found, CPU)
    assert list(stages) == [*(name for name in STAGES if name != "text"), "other"], "prompts were encoded before"
    assert all(seconds >= 0 for seconds in stages.values())
    assert sum(stages.values()) <= wall


def test_a_stage_inside_another_one_is_part_of_it() -> None:
    def work() -> None:
        with stage("encode"):
            pass
        with stage("adapt"):
            time.sleep(0.02)
            with stage("decode"):
                time.sleep(0.02)
            with stage("decode"):
                pass

    stages = stage_seconds(profiled(work, CPU), CPU)
    assert "decode" not in stages
    assert stages["adapt"] >= 0.04
    assert stages["encode"] < stages["adapt"]
    assert stage_seconds(profiled(lambda: torch.ones(2) + 1, CPU), CPU) == {"other": 0.0}


def event(name: str, start: float, end: float, *kernels: tuple[str, float], thread: int = 1) -> FunctionEvent:
    """A real event of torch's profiler: something on the CPU that started kernels of so many microseconds."""
    made = FunctionEvent(
        id=0, name=name, thread=thread, start_us=start, end_us=end, device_type=DeviceType.CPU, use_device="cuda"
    )
    for kernel, duration in kernels:
        made.append_kernel(kernel, 0, duration)
    return made


def test_on_a_gpu_a_stage_costs_the_kernels_that_it_launched() -> None:
    """The host runs ahead; a backward pass launches from a thread of its own; a mark's shadow is no kernel."""
    events = [
        event("adabldm.unet", 0, 10, ("adabldm.unet", 900.0)),
        event("aten::conv2d", 1, 2, ("gemm", 300.0), ("bias", 20.0)),
        event("aten::add", 11, 12, ("add", 5.0)),
        event("adabldm.adapt", 20, 90),
        event("adabldm.decode", 21, 30),
        event("aten::conv2d", 22, 23, ("gemm", 40.0)),
        event("ConvolutionBackward0", 50, 60, ("gemm", 80.0), thread=2),
        event("adabldm.put_back", 100, 150),
        event("aten::copy_", 101, 102, ("Memcpy DtoH", 7.0)),
    ]
    found = sum_stages(events, on_gpu=True)
    assert found == pytest.approx({"unet": 320e-6, "adapt": 120e-6, "put_back": 50e-6, "other": 5e-6})


def test_marks_change_nothing(editor: Editor) -> None:
    edit = edits(editor)
    plain = edit(PRESETS["fast"])[0]
    seen: list[Edited] = []
    profiled(lambda: seen.extend(edit(PRESETS["fast"])), CPU)
    count_edit(lambda preset: seen.extend(edit(preset)), PRESETS["fast"])
    for one in seen:
        np.testing.assert_array_equal(one.pixels, plain.pixels)


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_a_trace_names_the_stages(tmp_path: Path, name: str) -> None:
    found = profiled(lambda: edits(make_editor())(PRESETS["fast"].changed(**NO_ADAPTATION)), CPU)
    write_trace(found, tmp_path / "new" / name)
    data = (tmp_path / "new" / name).read_bytes()
    names = {
        item.get("name") for item in json.loads(gzip.decompress(data) if name.endswith(".gz") else data)["traceEvents"]
    }
    assert {f"adabldm.{one}" for one in STAGES} <= names
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


# The published presets


def test_no_value_of_the_published_presets_has_moved() -> None:
    """All of the table in docs/method.md; what `fast` does otherwise is off."""
    paper = {
        "steps": 85, "latent_stage": [50, 80], "image_stage": [80, 85], "spacing": "trailing", "renoise": "next",
        "latent_mask": "pooled", "grow": 1, "blend_background": "noised", "paste_source": "predicted",
        "final_blend": False,
    }  # fmt: skip
    released = {
        **paper, "steps": 50, "latent_stage": [26, 46], "image_stage": [45, 50], "spacing": "leading",
        "renoise": "same", "latent_mask": "nearest",
    }  # fmt: skip
    tuning = {"method": "finetune", "steps": 200, "learning_rate": 1e-4}
    adaptations = {
        "paper": {**tuning, "outside": 1.0, "inside": 100.0, "reduction": "sum"},
        "released": {**tuning, "outside": 100.0, "inside": 1.0, "reduction": "mean"},
    }
    for name, plan in (("paper", paper), ("released", released)):
        assert PRESETS[name].plain() == {
            "name": name,
            "plan": plan,
            "guidance": {"scale": 9.0, "steps": None, "control_once": False, "trimap": False},
            "look": None,
            "put_back": {"match_exposure": False, "feather": [0.0, 0.0], "finest": 0},
            "adaptation": adaptations[name],
        }


# The script for Stable Diffusion's size


@pytest.mark.parametrize("vae", ["tiny", "kl"])
@pytest.mark.parametrize("name", ["fast", "released"])
def test_counting_without_computing_gives_the_same_number(monkeypatch: pytest.MonkeyPatch, name: str, vae: str) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    script = importlib.import_module("sd15_speed")
    preset = PRESETS["fast"] if name == "fast" else tuned("released", 3)
    editor = make_editor(vae=vae)
    edit = edits(editor)
    edit(preset)  # encodes the prompts
    computed = count_edit(edit, preset.changed(put_back=preset.put_back.changed(finest=0)))
    for module in editor.components.modules().values():
        module.to("meta")
    counted = script.count(editor, preset, editor.resolution)
    assert {key: counted[key] for key in (UNET, CONTROL)} == {key: computed[key] for key in (UNET, CONTROL)}
    # The CPU's attention makes one product again in its backward pass, the meta device's does not.
    again = 0.01 if (name, vae) == ("released", "kl") else 0.0
    assert counted[ALL] <= computed[ALL] <= (1 + again) * counted[ALL]
