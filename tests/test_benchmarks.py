"""Benchmarks and studies: what they compute themselves agrees with the library, and they say what they lack."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from components import RESOLUTION, make_components, make_vae
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from test_adaptation import scene
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPTextConfig, CLIPTextModel

from adabldm.core.errors import InputError
from adabldm.core.settings import FIT_PRESETS
from adabldm.core.settings.edit import PRESETS, Finetune
from adabldm.editing.adaptation import finetune
from adabldm.editing.editor import Editor
from adabldm.models import tiny
from adabldm.models.components import Components, encode_images

ROOT = Path(__file__).resolve().parent.parent


def load(name: str, folder: str = "benchmarks") -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


SCRIPTS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("tools/*.py")])
HELP = """
import contextlib, io, json, runpy, sys, traceback
shown = {}
for script in sys.argv[1:]:
    sys.argv[:], sys.path[0] = [script, "--help"], script.rpartition("/")[0]
    with open(script, encoding="utf-8") as file:
        name = "__main__" if "argparse" in file.read() else "script"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_path(script, run_name=name)
            code = 0 if name == "script" else "it went on after its help"
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = traceback.format_exc()
    shown[script] = [code or 0, out.getvalue()]
print(json.dumps(shown))
"""
"""Asks all scripts for their help, in one process, for they import the same libraries; those without are imported."""


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[int | str, str]]:
    """By script: how it ended, and what it printed."""
    command = [sys.executable, "-c", HELP, *map(str, SCRIPTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, tuple[int | str, str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("script", [path.relative_to(ROOT).as_posix() for path in SCRIPTS])
def test_every_script_is_imported_and_prints_its_help(helps: dict[str, tuple[int | str, str]], script: str) -> None:
    code, text = helps[str(ROOT / script)]
    assert code == 0, code
    asks = "argparse" in (ROOT / script).read_text(encoding="utf-8")
    assert text.startswith("usage: ") == asks, text


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return load("adaptation", "experiments")


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return load("sd15_speed")


@pytest.mark.parametrize("kind", ["tiny", "kl"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_batch_tuned_at_once_equals_each_image_tuned_alone(study: Any, kind: str, reduction: Any) -> None:
    vae = make_vae(kind)
    vae.requires_grad_(False)
    latents, image, mask = scene(vae, 2)
    settings = Finetune(steps=3, learning_rate=1e-3, outside=2.0, inside=70.0, reduction=reduction)
    case = study.Case(latents, encode_images(vae, image), image, mask)
    pictures = dict(study.tuned("{}", settings, (0, 3))(vae, case))
    for index in range(2):
        one = slice(index, index + 1)
        alone = finetune(settings, vae, latents[one], image[one], mask[one])[0]
        torch.testing.assert_close(pictures["3"][one], alone, rtol=0, atol=2e-4)
        assert (pictures["0"][one] - alone).abs().max() > 0.05


@pytest.mark.parametrize("kind", ["tiny", "kl"])
@pytest.mark.parametrize("options", [{"last_block": True}, {"kind": "low rank"}, {"kind": "affine"}, {"stop_at": 60.0}])
def test_every_correction_starts_from_the_decoder_and_brings_the_background_nearer(
    study: Any, kind: str, options: dict[str, Any]
) -> None:
    vae = make_vae(kind)
    vae.requires_grad_(False)
    latents, image, mask = scene(vae, 2)
    case = study.Case(latents, encode_images(vae, image), image, mask)
    settings = Finetune(learning_rate=1e-2, outside=1.0, inside=1.0)
    start = next(study.plain(vae, case))[1]
    results = list(study.tuned("{}", settings, (0, 5), **options)(vae, case))
    if "stop_at" not in options:
        torch.testing.assert_close(results[0][1], start, rtol=0, atol=1e-5)
    error = [float(((picture - image) * (1 - mask)).square().mean()) for picture in (start, results[-1][1])]
    assert error[1] < 0.95 * error[0]


def test_data_that_is_not_there_is_named(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["adaptation.py", "--data", str(tmp_path)])
    assert study.main() == 2
    assert str(tmp_path) in capsys.readouterr().err
    (tmp_path / "magnetic_tile_set" / "train" / "good").mkdir(parents=True)
    assert study.find_data(str(tmp_path), "magnetic-tile") == tmp_path / "magnetic_tile_set"


def test_the_study_measures_every_cheap_method(
    study: Any, run: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["adaptation.py", "--run", run, "--data", data, "--count", 2, "--quick"]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    assert study.main() == 0
    tables = capsys.readouterr().out
    for method in ("none", "hard paste", "residual", "texture", "poisson", "ridge", "poisson, grown 2 px, reach 3"):
        assert f"| {method} | 8 |" in tables
    assert "| real defects |" in tables


class FromTheHost(TorchDispatchMode):
    """Counts what comes from the host to the meta device, in the place of a GPU: the host waits for such a copy, unless
    it is one of noise, which lies in pinned memory (`to_device`).

    A value that is asked for, as by `.item()`, has no answer on the meta device and raises an error there.
    """

    def __init__(self, latents: tuple[int, ...]) -> None:
        super().__init__()
        self.latents, self.noise, self.others = latents, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        before = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        if getattr(result, "device", torch.device("cpu")).type == "meta":
            if any(one.device.type == "cpu" and one.shape == self.latents for one in before):
                self.noise += 1
            elif func is torch.ops.aten.lift_fresh.default or any(one.device.type == "cpu" for one in before):
                self.others += 1
        return result


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_no_step_of_an_edit_waits_for_the_device(speed: Any, name: str) -> None:
    components, counts = make_components(), []
    for module in components.modules().values():
        module.to("meta")
    for network in (components.unet, components.controlnet):  # diffusers copies a number to the device

        def check(_: Any, given: tuple[Any, ...], options: Any) -> None:
            assert given[1].device.type == "meta"

        network.register_forward_pre_hook(check, with_kwargs=True)
    for steps in (6, 3):  # the last ones, which are the dearest
        with FromTheHost((1, 4, RESOLUTION // 2, RESOLUTION // 2)) as counted, torch.no_grad():
            preset = PRESETS[name]
            speed.diffused(Editor(components, RESOLUTION), preset, RESOLUTION, preset.plan.steps - steps)
        counts.append(counted)
    longer, shorter = counts
    assert longer.others == shorter.others, "only what is brought once"
    assert longer.noise >= shorter.noise > 0


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_memory_is_counted_while_tensors_live(speed: Any, device: str) -> None:
    kilobyte = 1024 // 4
    with speed.PeakMemory() as counted:
        first = torch.zeros(8 * kilobyte, device=device)
        view = first[:kilobyte].reshape(2, -1)
        assert (counted.live, counted.peak) == (8192, 8192)
        second = first + 1
        assert (counted.live, counted.peak) == (16384, 16384)
        del second
        third = torch.ones(kilobyte, device=device, dtype=torch.bfloat16)
        assert (counted.live, counted.peak) == (8192 + 512, 16384)
        del first
        assert counted.live == 8192 + 512, "the view holds it"
        del view
        assert counted.live == third.nbytes
        counted.start()
        assert counted.peak == third.nbytes


def test_every_preset_and_a_fit_are_counted(speed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the classes and inputs of Stable Diffusion, and narrow networks."""
    wide = (32, 32, 32, 32)

    def narrow() -> Components:
        text = {"num_attention_heads": 2, "max_position_embeddings": 77, "num_hidden_layers": 1}
        return Components(
            AutoencoderKL(
                block_out_channels=wide, down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, norm_num_groups=8,
            ),
            CLIPTextModel(CLIPTextConfig(vocab_size=49408, hidden_size=768, intermediate_size=8, **text)),
            tiny.tokenizer(),
            UNet2DConditionModel(
                cross_attention_dim=768, block_out_channels=wide, layers_per_block=1, norm_num_groups=8
            ),
            DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1),
        )  # fmt: skip

    monkeypatch.setattr(speed, "sd15_components", narrow)
    monkeypatch.setattr(speed, "PRESETS", {name: PRESETS[name] for name in ("fast", "released")})
    counted = speed.operations(64)
    assert set(counted) == {"fast", "released", "fast, from noise"}
    assert 0 < counted["fast"]["diffusion_tflop"] < counted["fast, from noise"]["diffusion_tflop"]
    held = speed.memory(64, ((2, 1), (2, None)))
    assert 0 < held["control_step_64_batch_2_micro_batch_1"] < held["control_step_64_batch_2_micro_batch_2"]


def test_the_profile_without_a_model_waits_for_the_edits_it_stands_for(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    throughput = load("throughput")
    arguments = ["throughput.py", "--profile", "--run", run, "--data", data, "--count", 4, "--edit-seconds", 0.5]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    throughput.main()
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 4
    assert found["parts"]["edit (main thread, with the GPU)"] >= 4 * 0.5
    assert 0 < found["images_a_second"] < 1 / 0.5


def test_a_training_step_holds_weights_gradients_and_moments(speed: Any) -> None:
    with speed.FakeTensorMode(), speed.PeakMemory() as counted:
        layer = torch.nn.Linear(1000, 1000, bias=False)
        optimizer = torch.optim.AdamW(layer.parameters(), foreach=False)
        for _ in range(2):
            layer(torch.ones(1, 1000)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert 4 * 4e6 <= counted.peak < 6.5 * 4e6


def test_fits_are_timed_and_judged_once(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training = load("training")
    arguments = ["training.py", "--data", data, "--out", tmp_path / "fits", "--base", base, "--count", 10]
    presets = ("--preset", "standard", "--preset", "quick", "--quiet")  # published has windows of 256 px
    monkeypatch.setattr(sys, "argv", [*map(str, arguments), *presets, "--share", "0.001"])

    def run() -> list[dict[str, Any]]:
        capsys.readouterr()
        training.main()
        rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return rows

    rows = run()
    assert [row["preset"] for row in rows] == ["standard", "quick"]
    assert [(row["domain_steps"], row["control_steps"]) for row in rows] == [(2, 4), (1, 1)]
    published = training.shortened(FIT_PRESETS["published"], 0.0001)
    assert (published.domain.steps, published.control.steps, published.examples) == (0, 5, 2)
    assert all(row["seconds"] > 0 and math.isfinite(row["kid"]) for row in rows)
    assert rows[0]["time_ratio"] == pytest.approx(rows[0]["seconds"] / rows[1]["seconds"], abs=1e-3)
    weights = tmp_path / "fits" / "quick" / "controlnet" / "diffusion_pytorch_model.safetensors"
    before = weights.stat().st_mtime_ns
    assert run() == rows
    assert weights.stat().st_mtime_ns == before
    sys.argv[-1] = "0.002"
    with pytest.raises(InputError, match="other settings"):
        training.main()


def test_reading_prints_times_and_memory_of_each_layout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reading.py", "--count", "20", "--side", "64"])
    load("reading").main()
    lines = capsys.readouterr().out.splitlines()
    counts = [(layout, count) for layout in ("coco", "labelme", "mvtec") for count in (2, 20)]
    masks = {"coco": 3, "labelme": 3, "mvtec": 1}
    assert [line.split(":")[:2] for line in lines] == [
        [layout, f" {count} images, {masks[layout] * (count - max(1, count // 10))} masks"] for layout, count in counts
    ]


def test_inverted_masks_counts_what_is_turned(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["inverted_masks.py", str(data)])
    load("inverted_masks").main()
    found = capsys.readouterr().out
    assert re.fullmatch(r"woven_cloth: \d of 6 inverted masks turned, 0 of 12 large defects\n", found)
