"""`adabldm fit` through the command line: what it leaves, and that a killed fit goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from components import make_components
from conftest import FIT, GENERATE, Adabldm, SmallDisk, contents, kill_when, run_command, write_base
from fabricate import defect_mask, save, texture, write_data_set
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from adabldm.core.errors import InputError
from adabldm.core.events import Event, Note, PreviewWritten, Progress
from adabldm.core.images import TEMPORARY, read_picture, write_mask
from adabldm.core.settings import FitSettings
from adabldm.core.settings.common import Recipe
from adabldm.core.settings.variation import VariationSettings
from adabldm.core.windows import bounding_box
from adabldm.data.inspection import open_data_set
from adabldm.models.components import vae_factor
from adabldm.models.store import load_base, read_card
from adabldm.pipeline import AdaBLDMPipeline
from adabldm.production.drawn_examples import drawn_views
from adabldm.production.scenes import SceneOptions
from adabldm.training import stages
from adabldm.workflows.fit import fit

WEIGHTS = ("vae", "text_encoder", "unet", "controlnet")


def steps_done(checkpoint: Path) -> int:
    with safe_open(checkpoint, "pt") as file:
        return int(file.metadata()["step"])


def settings_of(data: Path, base: Path, out: Path, **changes: object) -> FitSettings:
    """Those of the fixture `run`."""
    options = {"domain_steps": 2, "control_steps": 3, "examples": 8, "batch_size": 2, "base": str(base)}
    return FitSettings.create({"data": data, "out": out, **options, **changes})


def check_equal(first: Path, second: Path) -> None:
    """Two fits left the same, bit for bit. The header of a checkpoint has no fixed order; its tensors are compared."""
    mine, other = (contents(folder, without=["logs", "checkpoints"]) for folder in (first, second))
    assert mine.keys() == other.keys()
    assert [name for name in mine if mine[name] != other[name]] == []
    for stage in ("domain", "control"):
        ours, theirs = (load_file(folder / "checkpoints" / f"{stage}.safetensors") for folder in (first, second))
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert [path.name for path in (first / "checkpoints").iterdir() if path.suffix != ".safetensors"] == []


def test_a_run_holds_all_that_generate_and_diffusers_need(run: Path, data: Path, base: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {*WEIGHTS, "tokenizer", "scheduler", "previews", "logs", "checkpoints", "fit.json"} <= names
    assert not [path for path in run.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"}]
    assert [sorted(path.suffix for path in (run / name).iterdir()) for name in WEIGHTS] == 4 * [
        [".json", ".safetensors"]
    ]
    card = json.loads((run / "adabldm.json").read_text(encoding="utf-8"))
    assert (card["object_name"], card["defects"]) == ("woven cloth", ["scratch", "spot"])
    assert (card["base"], card["resolution"], card["foreground"]) == (str(base), 32, "texture")
    assert (card["settings"]["data"], card["settings"]["control"]["steps"]) == (str(data), 3)
    assert [one["scale"] for one in card["from_noise"]] == [1.5, 2.5, 4.0]
    assert {one["start"] for one in card["redrawn"]} == {3, 4, 5}, "none of the guided steps"
    assert {name: len(found) for name, found in card["changes"].items()} == {"scratch": 3, "spot": 3}
    assert all(one["brightness"] > 0 for found in card["changes"].values() for one in found)
    index = json.loads((run / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "AdaBLDMPipeline"
    assert index["vae"] == ["diffusers", "AutoencoderTiny"]
    assert index["controlnet"] == ["diffusers", "ControlNetModel"]
    assert index["tokenizer"][1] == "CLIPTokenizer"


def test_previews_logs_and_checkpoints_show_both_stages(run: Path) -> None:
    names = {path.name for path in (run / "previews").iterdir()}
    assert names == {"domain-000002.png", "control-000003.png", "control.json"}
    # Three captions of 32 px, with a real window of each; eight scenes, each with its type above its source above its
    # mask above its result above a real defect.
    assert read_picture(run / "previews" / "domain-000002.png").size == (12 + 2 * 32, 96)
    assert read_picture(run / "previews" / "control-000003.png").size == (24 + 4 * 32, 256)
    assert all(list((run / "logs" / stage).glob("events.out.tfevents.*")) for stage in ("domain", "control"))
    assert steps_done(run / "checkpoints" / "domain.safetensors") == 2
    assert steps_done(run / "checkpoints" / "control.safetensors") == 3


def test_a_run_is_a_pipeline(run: Path, base: Path) -> None:
    pipeline = AdaBLDMPipeline.from_pretrained(run)
    assert pipeline.card.defects == ("scratch", "spot")
    result = pipeline(np.full((64, 64, 3), 120, np.uint8), mask=np.eye(64) > 0, defect="spot", output_type="np")
    assert result.images[0].shape == (64, 64, 3)
    # Both stages trained something: the UNet is not the base's, the control branch answers at all.
    own, first = (folder / "unet" / "diffusion_pytorch_model.safetensors" for folder in (run, base))
    assert own.read_bytes() != first.read_bytes()
    zeros = [value for key, value in pipeline.controlnet.state_dict().items() if "controlnet_down_blocks" in key]
    assert any(value.abs().max() > 0 for value in zeros)


def test_the_last_line_of_standard_output_is_the_folder(adabldm: Adabldm, base: Path, tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "Größe 3 – links", good=2, defects={"Riß groß": 1})
    out = tmp_path / "ein Lauf"
    result = adabldm("fit", data, "--out", out, "--base", base, *FIT, "--domain", "none", "--foreground", "texture")
    assert result.code == 0, result.err
    assert result.out.splitlines() == [str(out)]
    assert "2 defect-free images, 1 Riß groß" in result.err
    following = shlex.split(result.err.partition("next: ")[2].partition("…")[0])
    assert following == ["adabldm", "generate", str(out), "--data", str(data), "--out"], "it can be pasted"
    assert json.loads((out / "adabldm.json").read_text(encoding="utf-8"))["defects"] == ["Riß groß"]
    # Without the domain stage the UNet stays the base's.
    own, first = (folder / "unet" / "diffusion_pytorch_model.safetensors" for folder in (out, base))
    assert own.read_bytes() == first.read_bytes()
    assert not (out / "checkpoints" / "domain.safetensors").exists()


def test_resuming_a_finished_fit_changes_nothing(
    adabldm: Adabldm, run: Path, data: Path, base: Path, tmp_path: Path
) -> None:
    again = tmp_path / "run"
    shutil.copytree(run, again)
    result = adabldm("fit", data, "--out", again, "--base", base, *FIT, "--resume")
    assert result.code == 0, result.err
    assert contents(again) == contents(run)


def test_resume_makes_a_lost_component_again(
    adabldm: Adabldm, run: Path, data: Path, base: Path, tmp_path: Path
) -> None:
    again = tmp_path / "run"
    shutil.copytree(run, again)
    shutil.rmtree(again / "controlnet")
    refused = adabldm("generate", again, "--data", data, "--out", tmp_path / "out", "--count", 1)
    assert refused.code == 2
    assert "controlnet" in refused.err
    assert "--resume" in refused.err
    assert adabldm("fit", data, "--out", again, "--base", base, *FIT, "--resume").code == 0
    assert contents(again) == contents(run)


def test_a_fit_killed_in_both_stages_equals_an_uninterrupted_one(data: Path, base: Path, tmp_path: Path) -> None:
    steps = ("--domain-steps", 20, "--control-steps", 20, "--checkpoint-every", 1)
    options = (data, "--base", base, *FIT, *steps)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    domain, control = (killed / "checkpoints" / f"{stage}.safetensors" for stage in ("domain", "control"))
    kill_when(domain.exists, "fit", *options, "--out", killed)
    assert 0 < steps_done(domain) < 20
    assert not (killed / "adabldm.json").exists()
    kill_when(control.exists, "fit", *options, "--out", killed, "--resume")
    assert steps_done(domain) == 20
    assert 0 < steps_done(control) < 20
    assert run_command("fit", *options, "--out", killed, "--resume") == 0
    assert run_command("fit", *options, "--out", whole) == 0
    check_equal(killed, whole)


def test_what_a_kill_left_half_written_is_removed(
    adabldm: Adabldm, run: Path, data: Path, base: Path, tmp_path: Path
) -> None:
    again = tmp_path / "run"
    shutil.copytree(run, again)
    for folder in (again, again / "checkpoints", again / "previews"):
        (folder / f"{TEMPORARY}1234").write_bytes(b"half")
    assert adabldm("fit", data, "--out", again, "--base", base, *FIT, "--resume").code == 0
    assert contents(again) == contents(run)
    # Killed before anything but such a file was there: the same command simply begins.
    early = tmp_path / "early"
    early.mkdir()
    (early / f"{TEMPORARY}1234").write_bytes(b"half")
    assert adabldm("fit", data, "--out", early, "--base", base, *FIT).code == 0
    check_equal(early, run)


def test_another_seed_makes_another_run(adabldm: Adabldm, run: Path, data: Path, base: Path, tmp_path: Path) -> None:
    assert adabldm("fit", data, "--out", tmp_path / "other", "--base", base, *FIT, "--seed", 1).code == 0
    name = "controlnet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "other" / name).read_bytes() != (run / name).read_bytes()


def test_low_rank_updates_end_up_in_the_unet(adabldm: Adabldm, data: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = adabldm("fit", data, "--out", out, "--base", base, *FIT, "--domain", "lora")
    assert result.code == 0, result.err
    with safe_open(out / "unet" / "diffusion_pytorch_model.safetensors", "pt") as own:
        keys = set(own.keys())
        changed = {key for key in keys if "attentions" in key}
        with safe_open(base / "unet" / "diffusion_pytorch_model.safetensors", "pt") as first:
            assert set(first.keys()) == keys
            changed = {key for key in keys if not (own.get_tensor(key) == first.get_tensor(key)).all()}
    assert changed
    assert all(".to_" in key for key in changed)


def test_a_fit_tells_its_progress_and_its_previews(data: Path, base: Path, tmp_path: Path) -> None:
    """A page could be made of these alone; the share is that of the whole fit."""
    settings, events = settings_of(data, base, tmp_path / "run"), list[Event]()
    out = fit(settings, events.append)
    assert out == tmp_path / "run"
    reports = [event for event in events if isinstance(event, Progress)]
    assert list(dict.fromkeys(event.task for event in reports)) == ["read", "encode", "domain", "control"]
    assert {event.task: (event.total, event.unit) for event in reports} == {
        "read": (12, "img"), "encode": (8, "window"), "domain": (2, "step"), "control": (3, "step"),
    }  # fmt: skip
    assert (reports[0].fraction, reports[-1].fraction, reports[-1].seconds_left) == (0.0, 1.0, 0.0)
    reading = [event for event in reports if event.task == "read"]
    assert [event.done for event in reading] == list(range(13))
    assert {(event.fraction, event.seconds_left) for event in reading} == {(0.0, None)}
    assert all(event.seconds_left is not None for event in reports[len(reading) + 1 :])
    assert all("loss" in event.figures for event in reports if event.task in {"domain", "control"} and event.done)
    found = [
        (event.path.relative_to(out).as_posix(), event.step) for event in events if isinstance(event, PreviewWritten)
    ]
    assert found == [("previews/domain-000002.png", 2), ("previews/control-000003.png", 3)]
    remarks = [event.text for event in events if isinstance(event, Note)]
    assert "woven cloth: 6 defect-free images, 3 scratch, 3 spot; foreground: texture" in remarks
    # What an earlier fit did counts as done.
    again = list[Event]()
    fit(settings.changed(resume=True), again.append)
    done = {event.task: event.done for event in again if isinstance(event, Progress)}
    assert done == {"read": 12, "encode": 8, "domain": 2, "control": 3}
    encoded = [event for event in again if isinstance(event, Progress) and event.task == "encode"]
    assert (encoded[0].fraction > 0.5, encoded[-1].fraction) == (True, 1.0)


def test_a_fit_in_micro_batches_on_a_large_base_hardly_differs(
    run: Path, data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a large base is trained: checkpointed, in parts, what is not needed on the host (here the same device)."""
    monkeypatch.setattr(stages, "LARGE_UNET", 0)
    out = fit(settings_of(data, base, tmp_path / "run", domain="full", micro_batch=1))
    name = "controlnet/diffusion_pytorch_model.safetensors"
    whole, parts = load_file(run / name), load_file(out / name)
    assert whole.keys() == parts.keys()
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-3, atol=1e-3)
    assert [path.name for path in sorted((out / "previews").iterdir())] == [
        path.name for path in sorted((run / "previews").iterdir())
    ]


@pytest.mark.parametrize(
    ("gigabytes", "resolution", "expected"), [(11.6, 512, 1), (11.6, 256, 4), (11.6, 768, 1), (80, 512, None)]
)
def test_a_large_base_on_a_small_gpu_takes_few_windows_at_a_time(
    gigabytes: float, resolution: int, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    components = make_components()
    properties = SimpleNamespace(total_memory=gigabytes * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    gpu = torch.device("cuda")
    assert stages.usual_micro_batch(components, resolution, gpu) is None, "a small base"
    monkeypatch.setattr(stages, "LARGE_UNET", 0)
    assert stages.usual_micro_batch(components, resolution, gpu) == expected
    assert stages.usual_micro_batch(components, resolution, torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seed", 5), ["control.seed was 0, is now 5", "domain.seed"]),
        (("--shots", 2), ["shots was null, is now 2"]),
        (("--examples", 9), ["examples was 8, is now 9"]),
        (("--object", "sack"), ['object was "woven cloth", is now "sack"']),
    ],
)
def test_resume_with_other_settings_is_refused(
    adabldm: Adabldm, run: Path, data: Path, base: Path, options: tuple[object, ...], words: list[str]
) -> None:
    before = contents(run)
    result = adabldm("fit", data, "--out", run, "--base", base, *FIT, *options, "--resume")
    assert (result.code, result.out) == (2, "")
    assert [word for word in ["other settings", *words] if word not in result.err] == []
    assert contents(run) == before


def test_an_earlier_fit_is_not_touched_without_resume(run: Path, data: Path, base: Path, tmp_path: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(run, again)
    (again / f"{TEMPORARY}1234").write_bytes(b"half")
    before = contents(again)
    with pytest.raises(InputError, match="holds a fit already; add --resume to go on with it"):
        fit(settings_of(data, base, again))
    assert contents(again) == before


def test_a_fit_of_the_version_before_records_is_resumed(run: Path, data: Path, base: Path, tmp_path: Path) -> None:
    """Its files have no "schema"; the published preset had another name."""
    again = tmp_path / "run"
    shutil.copytree(run, again)
    for name in ("fit.json", "adabldm.json"):
        values = json.loads((again / name).read_text(encoding="utf-8"))
        assert values.pop("schema") == 1
        (again / name).write_text(json.dumps(values), encoding="utf-8")
    shutil.rmtree(again / "controlnet")
    fit(settings_of(data, base, again, resume=True))
    name = "controlnet/diffusion_pytorch_model.safetensors"
    assert (again / name).read_bytes() == (run / name).read_bytes()
    values = json.loads((again / "fit.json").read_text(encoding="utf-8"))
    with pytest.raises(InputError, match="other settings.*shots"):
        fit(settings_of(data, base, again, resume=True, shots=2))
    (again / "fit.json").write_text(json.dumps({**values, "name": "paper"}), encoding="utf-8")
    with pytest.raises(InputError, match="name was .*published.*, is now .*quick"):
        fit(settings_of(data, base, again, resume=True))


def test_shots_limit_the_defect_images(adabldm: Adabldm, data: Path, base: Path, tmp_path: Path) -> None:
    result = adabldm("fit", data, "--out", tmp_path / "run", "--base", base, *FIT, "--shots", 2, "--domain", "none")
    assert result.code == 0, result.err
    assert "2 scratch, 2 spot" in result.err


def test_every_kind_of_image_file_is_read(adabldm: Adabldm, base: Path, tmp_path: Path) -> None:
    """Grey, 16-bit, transparent, palette, JPEG and TIFF files, of mixed sizes, some smaller than the model's window."""
    root, rng = tmp_path / "mixed", np.random.default_rng(0)
    good = root / "train" / "good"
    good.mkdir(parents=True)
    pixels = {size: texture(size, rng) for size in ((96, 128), (24, 20), (300, 40))}
    colour = Image.fromarray(pixels[96, 128])
    colour.save(good / "with space.png")
    colour.convert("L").save(good / "grey.png")
    Image.fromarray(pixels[96, 128][..., 0].astype(np.uint16) * 257).save(good / "sixteen.tif")
    colour.convert("RGBA").save(good / "clear.png")
    colour.quantize(32).save(good / "palette.png")
    colour.save(good / "größe.JPG")
    Image.fromarray(pixels[24, 20]).save(good / "small.png")
    Image.fromarray(pixels[300, 40]).save(good / "strip.bmp")
    for name, size in (("ä 1", (24, 20)), ("b", (96, 128))):
        mask = defect_mask("spot", size, rng)
        save(root / "train" / "Loch" / f"{name}.png", np.where(mask[..., None], 20, pixels[size]).astype(np.uint8))
        save(root / "ground_truth" / "Loch" / f"{name}_mask.png", mask.astype(np.uint8) * 255)
    result = adabldm("fit", root, "--out", tmp_path / "run", "--base", base, *FIT, "--examples", 24, "--domain", "none")
    assert result.code == 0, result.err
    assert "8 defect-free images, 2 Loch" in result.err


def test_a_defect_too_large_for_the_good_images_does_not_stop_a_fit(
    adabldm: Adabldm, base: Path, tmp_path: Path
) -> None:
    """Training windows show such a defect on its own image; only `generate` has to place it."""
    root, rng = tmp_path / "set", np.random.default_rng(0)
    for index in range(2):
        save(root / "train" / "good" / f"{index}.png", texture((40, 40), rng))
    mask = np.zeros((128, 128), bool)
    mask[10:118, 10:118] = True
    save(root / "train" / "patch" / "0.png", texture((128, 128), rng))
    save(root / "ground_truth" / "patch" / "0_mask.png", mask.astype(np.uint8) * 255)
    run, out = tmp_path / "run", tmp_path / "out"
    result = adabldm("fit", root, "--out", run, "--base", base, *FIT, "--domain", "none", "--foreground", "texture")
    assert result.code == 0, result.err
    refused = adabldm("generate", run, "--data", root, "--out", out, "--count", 1)
    assert refused.code == 2
    assert [word for word in ("'patch'", "too large", "40x40", "placement") if word not in refused.err] == []
    assert not out.exists()


def test_a_fit_on_a_full_disk_says_so_and_goes_on_with_space(
    adabldm: Adabldm, run: Path, data: Path, base: Path, small_disk: Callable[[str], SmallDisk]
) -> None:
    disk = small_disk("5m")  # enough for the domain stage's checkpoint, not for the control stage's
    out = disk.place / "run"
    options = ("fit", data, "--out", out, "--base", base, *FIT)
    result = adabldm(*options)
    assert (result.code, result.out) == (2, "")
    assert str(out) in result.err.splitlines()[-1]
    assert "free some space" in result.err.splitlines()[-1]
    assert not list(out.rglob(f"{TEMPORARY}*"))
    assert not (out / "adabldm.json").exists()
    disk.grow("64m")
    assert adabldm(*options, "--resume").code == 0
    check_equal(out, run)


# More steps, and an early end


def test_a_finished_fit_goes_on_for_more_steps(
    adabldm: Adabldm, run: Path, data: Path, base: Path, tmp_path: Path
) -> None:
    again = tmp_path / "run"
    shutil.copytree(run, again)
    fitted = (data, "--out", again, "--base", base, *FIT, "--resume")
    before = (again / "controlnet/diffusion_pytorch_model.safetensors").read_bytes()
    assert adabldm("fit", *fitted, "--control-steps", 5).code == 0
    assert steps_done(again / "checkpoints/control.safetensors") == 5
    assert (again / "controlnet/diffusion_pytorch_model.safetensors").read_bytes() != before
    card, settings = (json.loads((again / name).read_text()) for name in ("adabldm.json", "fit.json"))
    assert card["steps"] == {"domain": 2, "control": 5}
    assert settings["control"]["steps"] == 5
    fewer = adabldm("fit", *fitted, "--control-steps", 4)
    assert "control.steps was 5, is now 4" in fewer.err
    # The control branch was trained on this UNet.
    assert "domain.steps was 2, is now 9" in adabldm("fit", *fitted, "--control-steps", 5, "--domain-steps", 9).err


def test_a_fit_that_is_stopped_can_be_finished_or_resumed(
    adabldm: Adabldm, data: Path, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = settings_of(data, base, out, control_steps=6)

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and (event.task, event.done) == ("control", 2):
            os.kill(os.getpid(), signal.SIGINT)

    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt, match="control: stopped after step 2 of 6"):
        fit(settings, stop)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not (out / "adabldm.json").exists()
    fit(settings.changed(finish=True))
    assert json.loads((out / "adabldm.json").read_text())["steps"] == {"domain": 2, "control": 2}
    made = adabldm("generate", out, "--data", data, "--out", tmp_path / "images", *GENERATE, "--count", 1)
    assert made.code == 0, made.err
    fit(settings.changed(resume=True))
    assert json.loads((out / "adabldm.json").read_text())["steps"] == {"domain": 2, "control": 6}
    whole = fit(settings_of(data, base, tmp_path / "whole", control_steps=6))
    (out / "previews" / "control-000002.png").unlink()  # of the run that was finished at that step
    assert [*json.loads((out / "previews" / "control.json").read_text())] == ["6"]
    check_equal(out, whole)


def test_a_fit_ends_early_and_goes_on_with_more_patience(data: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = settings_of(data, base, out, preview_every=1, patience=2)
    fit(settings)
    shares = json.loads((out / "previews" / "control.json").read_text())
    assert [*shares] == ["1", "2", "3"]
    assert all(share in {count / 16 for count in range(17)} for share in shares.values())
    (out / "previews" / "control.json").write_text('{"1": 0.75, "2": 0.5, "3": 0.75}')  # what better networks draw
    told = list[Event]()
    more = settings.changed(control_steps=5, resume=True)
    fit(more, told.append)
    assert "control: ended after step 3 of 5, because 75% of the previewed defects were believable after step 1" in str(
        [event.text for event in told if isinstance(event, Note)]
    )
    assert read_card(out).steps == {"domain": 2, "control": 3}
    assert [event for event in told if isinstance(event, Progress)][-1].fraction == 1.0
    fit(more.changed(patience=9))
    assert read_card(out).steps == {"domain": 2, "control": 5}
    with pytest.raises(InputError, match="other settings"):
        fit(more)


def test_a_fit_does_not_go_on_with_other_regions(data: Path, base: Path, tmp_path: Path) -> None:
    masks = [tmp_path / "left.png", tmp_path / "right.png"]
    shape = read_picture(next((data / "train" / "good").iterdir())).pixels.shape[:2]
    for place, part in zip(masks, (np.s_[:, : shape[1] // 2], np.s_[:, shape[1] // 2 :]), strict=True):
        mask = np.zeros(shape, np.bool_)
        mask[part] = True
        write_mask(place, mask)
    settings = settings_of(data, base, tmp_path / "run", roi=(str(masks[0]),))
    fit(settings)
    with pytest.raises(InputError, match="made with other settings .*regions"):
        fit(settings.changed(resume=True, roi=(str(masks[1]),)))
    moved = masks[0].rename(tmp_path / "moved.png")
    fit(settings.changed(resume=True, roi=(str(moved),)))


def test_a_fit_goes_on_with_data_and_a_base_that_moved_and_with_no_others(
    data: Path, base: Path, tmp_path: Path
) -> None:
    mine, own = tmp_path / "cloth", tmp_path / "base"
    shutil.copytree(data, mine)
    shutil.copytree(base, own)
    settings = settings_of(mine, own, tmp_path / "run", object="cloth")
    fit(settings)
    data_moved, base_moved = mine.rename(tmp_path / "moved"), own.rename(tmp_path / "moved base")
    more = settings.changed(data=data_moved, base=str(base_moved), control_steps=4, resume=True)
    fit(more)
    assert read_card(settings.out).steps == {"domain": 2, "control": 4}
    write_data_set(mine, seed=99)
    with pytest.raises(InputError, match=r"other settings \(content was [^;]*\)"):
        fit(more.changed(data=mine))
    write_base(own, seed=1)
    with pytest.raises(InputError, match=r"other settings \(base_weights was [^;]*\)"):
        fit(more.changed(base=str(own)))
    written = settings.out / "fit.json"
    values = json.loads(written.read_text())
    written.write_text(json.dumps({key: values[key] for key in values.keys() - {"content", "base_weights"}}))
    fit(more.changed(data=values["data"], base=values["base"]))  # of an earlier version
    with pytest.raises(InputError, match="data was"):
        fit(more.changed(data=data))


def test_what_cannot_be_finished_is_refused(data: Path, base: Path, tmp_path: Path) -> None:
    settings = settings_of(data, base, tmp_path / "run", domain_steps=4)
    with pytest.raises(InputError, match="holds no fit"):
        fit(settings.changed(finish=True))

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and (event.task, event.done) == ("domain", 1):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt, match="domain: stopped after step 1 of 4"):
        fit(settings, stop)
    with pytest.raises(InputError, match="no checkpoint of the control stage"):
        fit(settings.changed(finish=True))


# Types without any example


def test_types_without_any_example_are_drawn(adabldm: Adabldm, data: Path, base: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    fitted = ("fit", data, "--out", run, "--base", base, *FIT, "--defect", "dent", "--defect", "slash")
    refused = adabldm(*fitted)
    assert refused.code == 2
    assert "--defect dent: no example in" in refused.err
    assert "--defect slash: no example in" in refused.err
    shapes = ("--recipes", '{"slash": [{"kind": "scratch"}]}', "--size", "slash=30-40px")
    done = adabldm(*fitted, "--masks", "procedural", *shapes)
    assert done.code == 0, done.err
    assert "3 scratch, 3 spot, dent (drawn), slash (drawn)" in done.err
    card = json.loads((run / "adabldm.json").read_text())
    assert card["defects"] == ["dent", "scratch", "slash", "spot"]
    assert {name: one[0]["kind"] for name, one in card["recipes"].items()} == {"dent": "blob", "slash": "scratch"}
    made = adabldm("generate", run, "--data", data, "--out", out, *GENERATE, "--count", 1, "--defect", "slash")
    assert made.code == 0, made.err
    assert json.loads((out / "settings.json").read_text())["recipes"]["slash"][0]["kind"] == "scratch"


def test_drawn_defects_have_the_size_and_family_that_is_asked_for(data: Path) -> None:
    data_set = open_data_set(data)
    options = SceneOptions(
        recipes={"slash": (Recipe(kind="scratch"),)}, vary=VariationSettings.create({"size": ("30-40px",)})
    )
    (views,) = drawn_views(data_set, "texture", options, ("slash",), 0).values()
    again = drawn_views(data_set, "texture", options, ("slash",), 0)["slash"]
    for view, same in zip(views, again, strict=True):
        assert view.mask is not None
        top, left, bottom, right = bounding_box(view.mask)
        assert 20 <= np.hypot(bottom - top, right - left) <= 42
        assert view.mask.sum() <= 6 * 42
        np.testing.assert_array_equal(view.pixels, same.pixels)
    good = [sample.picture().pixels for sample in data_set.good]
    for view in views[:4]:
        changed = min((np.any(view.pixels != pixels, axis=2) for pixels in good), key=np.count_nonzero)
        assert changed.any()
        assert not (changed & ~view.mask).any()


def test_a_data_set_without_defects_is_fitted_with_drawn_ones(adabldm: Adabldm, base: Path, tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "data", good=2, defects={})
    options = ("--out", tmp_path / "run", "--base", base, *FIT, "--domain", "none")
    assert "no defect images" in adabldm("fit", data, *options).err
    assert adabldm("fit", data, *options, "--masks", "procedural", "--defect", "crack").code == 0


@pytest.mark.parametrize(
    ("side", "words"), [(None, "--resolution: missing, and the base does not say"), ([8, 16], None)]
)
def test_the_resolution_of_a_base_that_does_not_say_its_own_or_says_two(
    adabldm: Adabldm, base: Path, data: Path, tmp_path: Path, side: object, words: str | None
) -> None:
    own = tmp_path / "base"
    shutil.copytree(base, own)
    config = own / "unet" / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**values, "sample_size": side}), encoding="utf-8")
    result = adabldm("fit", data, "--out", tmp_path / "run", "--base", own, *FIT)
    if words is not None:
        assert (result.code, words in result.err) == (2, True)
        assert adabldm("fit", data, "--out", tmp_path / "run", "--base", own, *FIT, "--resolution", 64).code == 0
    else:
        factor = vae_factor(load_base(str(base)).vae)
        assert read_card(tmp_path / "run").resolution == 16 * factor
