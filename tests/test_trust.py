"""Runs from strangers and runs that were damaged: refused with a sentence, before anything is read elsewhere."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from components import ellipse, make_components, make_pipeline
from conftest import FIT, GENERATE, Adabldm, contents, run_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from adabldm.core.errors import InputError, ModelError
from adabldm.core.records import RunCard
from adabldm.core.scores import defect_fidelity, score
from adabldm.editing.editor import Editor
from adabldm.models import eight_bit
from adabldm.models.components import Components
from adabldm.models.store import (
    CARD,
    NEXT,
    digest,
    finish_saving,
    load_base,
    load_run,
    save_components,
    save_run,
    shipped,
    write_card,
)
from adabldm.pipeline import AdaBLDMPipeline


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run. Read only."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    make_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def mine(whole: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def refusal(run: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_run(run)
    (problem,) = caught.value.problems
    assert problem.startswith(str(run))
    assert problem.endswith(".")
    return problem


def change_card(run: Path, **changes: Any) -> None:
    path = run / CARD
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def change_config(run: Path, file: str, **changes: Any) -> None:
    path = run / file
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    accept(run)


def accept(run: Path) -> None:
    """Give the card the digests of what is there, as a stranger would."""
    write_card(run, RunCard.model_validate(json.loads((run / CARD).read_text(encoding="utf-8"))))


def weights_file(run: Path, name: str) -> Path:
    return next((run / name).glob("*.safetensors"))


def change_tensor(run: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor], which: int = 3) -> str:
    file = weights_file(run, name)
    tensors = load_file(file)
    key = sorted(key for key, value in tensors.items() if value.is_floating_point() and value.ndim > 1)[which]
    tensors[key] = change(tensors[key])
    save_file(tensors, file, metadata={"format": "pt"})
    return key


# What a run owns


NETWORKS = ("vae", "text_encoder", "unet", "controlnet")


@pytest.mark.parametrize("name", [*NETWORKS, "tokenizer", "scheduler"])
@pytest.mark.parametrize("old", [False, True], ids=["digests", "old card"])
def test_a_run_that_lacks_a_component_takes_no_other(mine: Path, name: str, old: bool) -> None:
    change_card(mine, base="tiny")
    if old:
        change_card(mine, files=None)
    shutil.rmtree(mine / name)
    assert f"the run has no {name} folder; copy the whole run again" in refusal(mine)
    (mine / name).write_text("a file")
    assert f"the run has no {name} folder" in refusal(mine)


def test_what_was_changed_removed_or_added_is_named(mine: Path) -> None:
    file = weights_file(mine, "unet")
    before = file.read_bytes()
    file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert f"{file}: changed since the run was written" in refusal(mine)
    assert "adabldm fit … --out" in refusal(mine)
    file.unlink()
    assert f"{file}: missing, though the run's adabldm.json lists it" in refusal(mine)
    file.write_bytes(before)
    extra = mine / "text_encoder" / "adapter_config.json"
    extra.write_text('{"base_model_name_or_path": "evil/hub-id"}')
    assert f"{extra}: not listed in the run's adabldm.json; remove it" in refusal(mine)
    extra.unlink()
    (mine / "unet" / ".DS_Store").write_bytes(b"\0")
    (mine / "unet" / "notes.md").write_text("mine")
    assert load_run(mine)[1].files is not None


def test_a_component_that_the_card_does_not_list(tmp_path: Path) -> None:
    shutil.copytree(shipped("magnetic-tile") or Path(), tmp_path / "run")
    shutil.copytree((shipped("tiny") or Path()) / "unet", tmp_path / "run" / "unet")
    accept(tmp_path / "run")
    card = json.loads((tmp_path / "run" / CARD).read_text(encoding="utf-8"))
    files = {path: value for path, value in card["files"].items() if path.startswith("controlnet/")}
    change_card(tmp_path / "run", files=files)
    assert "unet: not listed in the run's adabldm.json; remove it" in refusal(tmp_path / "run")


def test_the_runs_that_ship_have_digests() -> None:
    for name, weights in (("magnetic-tile", "diffusion_pytorch_model.safetensors"), ("hazelnut", eight_bit.FILE)):
        card = load_run(name)[1]
        assert sorted(card.files or {}) == ["controlnet/config.json", f"controlnet/{weights}"]


# Values of the card


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("resolution", value) for value in (0, -128, 129, 1.5, "64", True, None, 10**9, float("nan"), [64])),
        *(("defects", value) for value in ("blowhole", ["../../evil"], ["a/b"], ["good"], ["Good "], ["a\x1b[2J"])),
        *(("defects", value) for value in ([""], [5], ["x"] * 2, ["x" * 300], None, {"a": 1}, ["a"] * 100_000)),
        *(("object_name", value) for value in ("", "x" * 10_000, "a\nb", 7, None)),
        *(("base", value) for value in (5, None, "x" * 10_000, "a\0b")),
        *(("foreground", value) for value in ("evil", "", None, 3)),
        *(("settings", value) for value in ("no", [1])),
        *(("files", value) for value in ({"../unet/x": "0" * 64}, {"unet/x": "0"}, {"unet/../../x": "0" * 64})),
        ("files", {"/etc/passwd": "0" * 64}),
        ("files", {"unet/config.json": "0" * 64}),
        ("files", {}),
        ("schema", 2),
        ("schema", "new"),
        ("preset", None),
    ],
)  # fmt: skip
def test_every_value_of_a_card_has_limits(mine: Path, field: str, value: Any) -> None:
    change_card(mine, **{field: value})
    refusal(mine)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"7", b"{}", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 100_000, b"NaN", b"{" * 100]
)
def test_cards_that_are_none(mine: Path, content: bytes) -> None:
    (mine / CARD).write_bytes(content)
    assert "damaged or of another version" in refusal(mine)


@given(
    st.sampled_from(["object_name", "defects", "base", "resolution", "foreground", "preset", "settings", "files"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_card_of_any_values_loads_or_is_refused(whole: Path, field: str, value: Any) -> None:
    values = {**json.loads((whole / CARD).read_text(encoding="utf-8")), field: value}
    with suppress(InputError):  # no other error
        card = RunCard.parse(json.loads(json.dumps(values)), "card")
        assert 8 <= card.resolution <= 8192
        assert not [defect for defect in card.defects if "/" in defect or "." in defect[:1]]


def test_an_evil_card_is_refused_before_anything_is_drawn(
    adabldm: Adabldm, run: Path, data: Path, tmp_path: Path
) -> None:
    evil = Path(shutil.copytree(run, tmp_path / "evil"))
    change_card(evil, defects=["../../evil"])
    result = adabldm("generate", evil, "--data", data, "--out", tmp_path / "out", *GENERATE)
    assert (result.code, result.out, (tmp_path / "out").exists()) == (2, "", False)
    assert "defect type '../../evil': cannot name a folder" in result.err


# Files that lead elsewhere


def test_no_file_of_a_run_leads_elsewhere(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    outside = tmp_path / "outside.safetensors"
    shutil.move(weights_file(mine, "text_encoder"), outside)
    (mine / "text_encoder" / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(load_file(outside), "../../outside.safetensors")})
    )
    accept(mine)
    assert "names '../../outside.safetensors', expected a safetensors file beside it" in refusal(mine)
    (mine / "text_encoder" / "model.safetensors.index.json").unlink()
    (mine / "text_encoder" / "model.safetensors").symlink_to(outside)
    accept(mine)
    assert "model.safetensors is a link that leads out of the run" in refusal(mine)
    (mine / "text_encoder" / "model.safetensors").unlink()
    shutil.move(outside, mine / "text_encoder" / "model.safetensors")
    accept(mine)
    load_run(mine)
    (mine / "text_encoder" / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/hub-id"}')
    accept(mine)
    assert "adapter_config.json leads to another model" in refusal(mine)


@pytest.mark.parametrize("key", ["vocab_file", "tokenizer_file", "auto_map"])
def test_configs_name_no_other_files(mine: Path, tmp_path: Path, key: str) -> None:
    change_config(mine, "tokenizer/tokenizer_config.json", **{key: str(tmp_path / "secret.json")})
    assert f"{key} leads elsewhere" in refusal(mine)


@pytest.mark.parametrize("name", ["unet", "text_encoder"])
def test_pickles_are_never_read(mine: Path, tmp_path: Path, name: str) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "executed"),)

    file = weights_file(mine, name)
    pickled = "pytorch_model.bin" if name == "text_encoder" else "diffusion_pytorch_model.bin"
    torch.save(Evil(), file.with_name(pickled))
    file.unlink()
    accept(mine)
    assert f"pickled in {pickled}, which may hold code and is never read" in refusal(mine)
    assert not (tmp_path / "executed").exists()


def test_a_pipe_in_place_of_a_file_does_not_hang(mine: Path) -> None:
    (mine / "unet" / "config.json").unlink()
    os.mkfifo(mine / "unet" / "config.json")
    with pytest.raises(InputError, match="unet: not a loadable unet .config.json is no file"):
        load_base(str(mine))


# Sizes and numbers of configs


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("unet/config.json", {"block_out_channels": [480_000, 960_000]}),
        ("unet/config.json", {"cross_attention_dim": 10**6}),
        ("unet/config.json", {"cross_attention_dim": 10**15}),
        ("unet/config.json", {"layers_per_block": 10**6}),
        ("unet/config.json", {"block_out_channels": [16] * 5000}),
        ("unet/config.json", {"in_channels": 900_000}),
        ("unet/config.json", {"num_class_embeds": 900_000}),
        ("unet/config.json", {"sample_size": float("inf")}),
        ("unet/config.json", {"norm_eps": float("nan")}),
        ("controlnet/config.json", {"conditioning_embedding_out_channels": [900_000, 900_000]}),
        ("vae/config.json", {"decoder_block_out_channels": [90_000, 90_000]}),
        ("vae/config.json", {"num_decoder_blocks": [10**5, 1]}),
        ("text_encoder/config.json", {"vocab_size": 10**6, "hidden_size": 10**6}),
        ("text_encoder/config.json", {"num_hidden_layers": 10**5}),
        ("text_encoder/config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}),
        ("scheduler/scheduler_config.json", {"beta_start": float("nan")}),
        ("scheduler/scheduler_config.json", {"beta_start": -3.0}),
        ("scheduler/scheduler_config.json", {"beta_start": 2.0}),
        ("scheduler/scheduler_config.json", {"beta_end": 1e300}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}),
        ("scheduler/scheduler_config.json", {"trained_betas": ["a"]}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_absurd_configs_are_refused_before_memory_is_taken(mine: Path, file: str, changes: dict[str, Any]) -> None:
    change_config(mine, file, **changes)
    assert str(mine / file.split("/")[0]) in refusal(mine)


# Numbers that are not finite, or far too large


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_tensor(mine: Path, name: str, value: float) -> None:
    key = change_tensor(mine, name, lambda tensor: tensor.index_fill(0, torch.tensor([0]), value))
    accept(mine)
    message = refusal(mine)
    assert str(mine / name) in message
    assert f"{key.removeprefix('text_model.')} holds numbers that are not finite" in message


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_ten_thousand_times_too_large_are_refused(mine: Path, name: str) -> None:
    file = weights_file(mine, name)
    save_file({key: value * 1e4 for key, value in load_file(file).items()}, file, metadata={"format": "pt"})
    assert "changed since the run was written" in refusal(mine)
    accept(mine)
    assert "expected at most 1000" in refusal(mine)


def test_a_base_is_checked_alike(tmp_path: Path) -> None:
    save_components(make_components(control=False), tmp_path)
    change_tensor(tmp_path, "unet", lambda tensor: tensor * float("nan"))
    with pytest.raises(InputError, match="unet: not a loadable unet .*not finite"):
        load_base(str(tmp_path))


# Silence


def test_loading_from_python_prints_nothing(mine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from diffusers.utils import logging

    logging.set_verbosity_warning()
    load_run(mine)
    load_run("magnetic-tile")
    logging.set_verbosity_error()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


# Values of an edit


def spoil(components: Components, name: str, factor: float, only: str = "") -> None:
    """Multiply weights in memory, past the checks of the files."""
    with torch.no_grad():
        for key, parameter in components.modules()[name].named_parameters():
            if only in key:
                parameter.mul_(factor)


@pytest.mark.parametrize("factor", [1e4, float("nan")])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_edit_with_absurd_values_is_refused(name: str, factor: float) -> None:
    """With the shipped run, and with the real defect to begin from as well as from noise."""
    components, card = load_run("magnetic-tile")
    spoil(components, name, factor)
    pipeline = AdaBLDMPipeline.from_components(components, card)
    mask = ellipse((64, 64), (30, 34), (6, 8))
    pixels = np.full((64, 64, 3), 120, np.uint8)
    for reference in (None, (np.where(mask[..., None], 40, pixels).astype(np.uint8), mask)):
        with pytest.raises(ModelError, match="(not finite|expected at most 1.000*), so that no edit can be made"):
            pipeline(pixels, mask=mask, defect="crack", reference=reference)


def test_one_tensor_that_is_not_finite_ends_generate(adabldm: Adabldm, run: Path, data: Path, tmp_path: Path) -> None:
    spoilt, out = Path(shutil.copytree(run, tmp_path / "spoilt")), tmp_path / "out"
    key = change_tensor(spoilt, "unet", lambda tensor: tensor * float("nan"))
    accept(spoilt)
    result = adabldm("generate", spoilt, "--data", data, "--out", out, *GENERATE)
    assert (result.code, result.out, out.exists()) == (2, "", False)
    assert f"tensor {key} holds numbers that are not finite" in result.err


def test_the_score_of_a_nan_is_no_score() -> None:
    mask = ellipse((32, 32), (15, 15), (4, 4))
    pixels: Any = np.full((32, 32, 3), np.nan)
    with pytest.raises(InputError, match="expected uint8"):
        score(pixels, np.zeros((32, 32, 3), np.uint8), mask)
    with pytest.raises(InputError, match="expected uint8"):
        defect_fidelity(pixels, pixels, mask)


def test_a_fit_that_diverges_ends_with_a_sentence(adabldm: Adabldm, data: Path, base: Path, tmp_path: Path) -> None:
    steps = ("--domain", "none", "--control-steps", 60)
    wild = (
        "--set",
        "control.learning_rate=1",
        "--set",
        "control.weight_decay=1000",
    )  # the weights grow 1,000-fold a step
    result = adabldm("fit", data, "--out", tmp_path / "run", "--base", base, *FIT, *steps, *wild)
    assert (result.code, result.out) == (2, "")
    assert "not finite" in result.err.splitlines()[-1]
    assert not (tmp_path / "run" / CARD).exists()


# A new run in place of a finished one


def killed_at(count: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that SIGKILLs itself before its `count`-th renaming; whether it came to that."""
    child = os.fork()
    if not child:
        seen = itertools.count()

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "os.rename" and NEXT in f"{arguments[0]}{arguments[1]}" and next(seen) == count:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            work()
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def test_a_kill_while_a_run_is_replaced_leaves_one_of_the_two(mine: Path, tmp_path: Path) -> None:
    """At every renaming: the loader finds the earlier run or the new one, whole, before and after it is tidied up."""
    others = make_components(seed=5)
    card = load_run(mine)[1].model_copy(update={"object_name": "another tile"})
    save_run(others, tmp_path / "other", card)
    old, new = digest(load_run(mine)[0]), digest(load_run(tmp_path / "other")[0])
    assert old != new
    before, after = contents(mine), contents(tmp_path / "other")
    found = []
    for count in itertools.count():
        folder = Path(shutil.copytree(mine, tmp_path / f"run{count}"))
        if not killed_at(count, lambda folder=folder: save_run(others, folder, card)):
            break
        components, own = load_run(folder)
        found.append(digest(components))
        assert own.object_name == ("another tile" if found[-1] == new else "metal tile")
        finish_saving(folder)
        assert contents(folder) == (after if found[-1] == new else before)
        assert not (folder / NEXT).exists()
    assert contents(folder) == after
    assert set(found) == {old, new}
    assert found == sorted(found, key=[old, new].index), "from one moment on it is the new one"
    assert len(found) > 12


def test_a_finished_fit_that_is_killed_while_it_is_resumed_stays_finished(
    adabldm: Adabldm, run: Path, data: Path, base: Path, tmp_path: Path
) -> None:
    again = Path(shutil.copytree(run, tmp_path / "again"))
    arguments = ("fit", data, "--out", again, "--base", base, *FIT, "--resume")
    assert killed_at(5, lambda: run_command(*arguments))
    assert digest(load_run(again)[0]) == digest(load_run(run)[0])
    assert adabldm(*arguments).code == 0
    assert contents(again, without=["logs"]) == contents(run, without=["logs"])


def test_a_half_written_run_is_no_run(mine: Path) -> None:
    shutil.copytree(mine / "unet", mine / NEXT / "unet")
    weights_file(mine, f"{NEXT}/unet").write_bytes(b"half")
    load_run(mine)
    finish_saving(mine)
    assert not (mine / NEXT).exists()


# Arguments from Python, and requests that cannot be met


@pytest.fixture(scope="module")
def pipeline() -> AdaBLDMPipeline:
    return make_pipeline()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("prompt", value) for value in (5, [5], {"a": 1}, b"x")),
        *(("preset", value) for value in (None, 7, ["fast"])),
        *(("seed", value) for value in (float("nan"), None, "a", 1.5, True)),
        *(("batch_size", value) for value in ("x", 1.5, True, 0, -3)),
        *(("guidance_scale", value) for value in ("x", float("nan"))),
        *(("window", value) for value in (None, 3)),
        *(("reference", value) for value in (5, [5], "a.png")),
        *(("image", value) for value in (None, 5, "a.png", {}, np.zeros((64, 64, 3)))),
        *(("mask", value) for value in (5, None, np.zeros((3, 3), bool))),
        *(("callback_on_step_end", value) for value in (5, "x", lambda *_: 3)),
    ],
)  # fmt: skip
def test_arguments_of_another_kind_are_a_sentence(pipeline: AdaBLDMPipeline, name: str, value: Any) -> None:
    arguments: dict[str, Any] = {
        "image": np.full((64, 64, 3), 120, np.uint8), "mask": ellipse((64, 64), (30, 34), (6, 8)), "defect": "blob"
    }  # fmt: skip
    with pytest.raises(InputError) as caught:
        pipeline(**{**arguments, name: value})
    (problem,) = caught.value.problems
    assert problem.endswith(".")


@pytest.mark.parametrize("run", [None, 5, "", "x" * 5000, "a\0b"])
def test_names_that_are_no_run(run: Any) -> None:
    with pytest.raises(InputError, match="run"):
        AdaBLDMPipeline.from_pretrained(run)


def test_more_images_than_can_be_planned(adabldm: Adabldm, run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = adabldm("generate", run, "--data", data, "--out", out, "--count", 1_000_000_000)
    assert (result.code, result.out, out.exists()) == (2, "", False)
    assert result.err == "adabldm: --count: 1000000000 was given, expected a number from 1 to 1000000.\n"


@pytest.mark.parametrize("name", ["Good", "good ", " spot", "a\tb"])
def test_defect_types_that_cannot_name_a_folder(
    adabldm: Adabldm, data: Path, base: Path, tmp_path: Path, name: str
) -> None:
    parts = Path(shutil.copytree(data, tmp_path / "parts"))
    for folder in ("train", "ground_truth"):
        (parts / folder / "spot").rename(parts / folder / name)
    for command in (("inspect", parts), ("fit", parts, "--out", tmp_path / "run", "--base", base, *FIT)):
        result = adabldm(*command)
        assert result.code == 2
        assert "cannot name a folder" in result.out + result.err
        assert "rename it" in result.out + result.err
    assert not (tmp_path / "run").exists()


def test_moving_to_another_precision_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    from diffusers.utils import logging

    logging.set_verbosity_warning()
    pipeline = make_pipeline()
    pipeline.to(torch.bfloat16)
    Editor(pipeline.networks, 32).to(torch.device("cpu"), torch.float32)
    logging.set_verbosity_error()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


# What a fit leaves does not depend on how it is watched


def test_previews_change_no_weights_and_come_back(
    adabldm: Adabldm, run: Path, data: Path, base: Path, tmp_path: Path
) -> None:
    """More previews, and a kill between a checkpoint and its preview, leave the same run to the bit."""
    out = tmp_path / "run"
    arguments = ("fit", data, "--out", out, "--base", base, *FIT, "--preview-every", 1)
    assert adabldm(*arguments).code == 0
    for name in NETWORKS:
        assert contents(out / name) == contents(run / name)
    assert len(list((out / "previews").iterdir())) == 6, "2 + 3 pictures, and the shares of the second stage"
    whole = contents(out, without=["logs"])
    for name in ("domain-000002.png", "control-000003.png"):
        (out / "previews" / name).unlink()
    assert adabldm(*arguments, "--resume").code == 0
    assert contents(out, without=["logs"]) == whole
