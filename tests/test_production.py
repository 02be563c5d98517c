"""Plan, produce and sink: what travels between processes, what a listener sees, and what an interruption changes."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from components import make_components
from conftest import manifest
from fabricate import save, texture, write_data_set
from hypothesis import given
from hypothesis import strategies as st
from own_process import LONGEST, started
from PIL import Image

from adabldm.core.errors import InputError, OutputError
from adabldm.core.events import Event, ImageFinished, Note, Progress
from adabldm.core.lettering import text_strip
from adabldm.core.mask_files import read_mask
from adabldm.core.records import RunCard
from adabldm.core.seeding import torch_generator
from adabldm.core.settings import PRESETS, GenerateSettings, SettingsError
from adabldm.core.settings.common import Limits
from adabldm.core.settings.presets import edit_preset
from adabldm.data.generated import GeneratedFolder
from adabldm.data.inspection import ReadOptions, open_data_set
from adabldm.editing.editor import Editor
from adabldm.models.components import Components
from adabldm.models.devices import edit_dtype
from adabldm.production.learnt import RealChanges
from adabldm.production.plan import ProductionPlan, Supplies, plan_production, usual_batch_size
from adabldm.production.previews import RealWindows, base_preview, control_preview
from adabldm.production.produce import ATTEMPTS, Producer
from adabldm.production.results import Produced
from adabldm.production.scenes import Scene, SceneMaker
from adabldm.production.sink import Sink
from adabldm.selection.rules import Candidate, first_rejection
from adabldm.training.sources import read_data_set
from adabldm.workflows.generate import generate

Planned = tuple[ProductionPlan, Supplies]


@pytest.fixture
def settings(run: Path, data: Path, tmp_path: Path) -> GenerateSettings:
    """As of the fixture `generated`."""
    return GenerateSettings(run=str(run), data=data, out=tmp_path / "images", count=6, batch_size=2)


@pytest.fixture(scope="module")
def planned(run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """Plan and supplies as of the fixture `generated`; read only."""
    out = tmp_path_factory.mktemp("planned") / "images"
    return plan_production(GenerateSettings(run=str(run), data=data, out=out, count=6, batch_size=2))


def check_files(produced: Produced, generated: Path) -> None:
    """An image is that of the fixture `generated`, pixel by pixel and in all that is known of it."""
    line = manifest(generated)[produced.record.index]
    with Image.open(generated / line["image"]) as image:
        assert np.array_equal(np.asarray(image), produced.pixels)
    assert np.array_equal(read_mask(generated / line["mask"]), produced.mask)
    known = {key: value for key, value in produced.record.plain().items() if key not in {"image", "mask"}}
    assert known == {key: line[key] for key in known}
    assert not line.keys() - known.keys() - {"image", "mask"}


# Plan


@given(
    count=st.integers(1, 40),
    size=st.integers(1, 9),
    finished=st.sets(st.integers(0, 60), max_size=30),
    later=st.integers(0, 10),
)
def test_batches_are_fixed_and_remade_whole(
    planned: Planned, count: int, size: int, finished: set[int], later: int
) -> None:
    settings = planned[0].settings.changed(count=count, batch_size=size)
    plan = replace(planned[0], settings=settings)
    every, missing = plan.batches(), plan.batches(finished)
    assert sorted(index for batch in missing for index in batch.wanted) == sorted(set(range(count)) - finished)
    assert all(batch.wanted for batch in missing)
    assert [job.index for batch in every for job in batch.jobs] == list(range(-(-count // size) * size))
    assert {batch.jobs for batch in missing} <= {batch.jobs for batch in every}
    assert all(len(batch.jobs) == size for batch in every)
    longer = replace(plan, settings=settings.changed(count=count + later)).batches()
    assert [batch.jobs for batch in longer[: len(every)]] == [batch.jobs for batch in every]
    assert [job.defect for batch in every for job in batch.jobs][:4] == ["scratch", "spot", "scratch", "spot"][
        : size * len(every)
    ]


def test_few_steps_are_edited_eight_at_once_and_many_one_by_one() -> None:
    assert {name: usual_batch_size(preset) for name, preset in PRESETS.items()} == {
        "fast": 8, "paper": 1, "released": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "device", "preset", "adapt", "expected"),
    [
        ("auto", "cpu", "released", None, torch.float32),
        ("auto", "cuda", "fast", None, torch.bfloat16),
        ("auto", "cuda", "released", None, torch.float32),
        ("auto", "cuda", "released", "poisson", torch.bfloat16),
        ("float16", "cuda", "released", None, torch.float16),
    ],
)
def test_the_precision_fits_device_and_preset(
    name: str, device: str, preset: str, adapt: str | None, expected: torch.dtype
) -> None:
    finetunes = edit_preset(preset, adapt=adapt).adaptation.method == "finetune"
    assert edit_dtype(name, torch.device(device), finetunes=finetunes) == expected


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks Linux what the processor has")
@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="this version of torch cannot tell")
def test_a_processor_edits_in_half_precision_where_it_computes_in_it() -> None:
    has = "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
    assert edit_dtype("auto", torch.device("cpu"), finetunes=False) == (torch.bfloat16 if has else torch.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"batch_size": 3},
        {"adapt": "none"},
        {"guidance": 7.5},
        {"preset": "paper"},
        {"set": ("look.detail=0.5",)},
        {"masks": "procedural"},
        {"placement": "real"},
        {"window": "full"},
        {"mask_threshold": 9},
        {"dtype": "float16"},
        {"defect": ("spot",)},
        {"defect": ("spot", "scratch")},
        {"prompt": "a spot"},
        {"foreground": "grabcut"},
        {"limits": {"max_seam": 3.0}},
        {"recipes": {"spot": [{"kind": "blob"}]}},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_all_that_decides_the_pixels_is_written_down(
    planned: Planned, settings: GenerateSettings, changes: dict[str, object]
) -> None:
    assert plan_production(settings)[0].decisive() == planned[0].decisive()
    assert plan_production(settings.changed(**changes))[0].decisive() != planned[0].decisive()


def test_recipes_of_types_that_the_run_does_not_know_are_named(settings: GenerateSettings) -> None:
    heard: list[object] = []
    plan_production(settings.changed(recipes={"spot": [{"kind": "blob"}], "sopt": [{"kind": "blob"}]}), heard.append)
    notes = [str(one) for one in heard if isinstance(one, Note)]
    assert len(notes) == 1
    assert "--recipes: sopt not used" in notes[0]


def test_what_does_not_decide_the_pixels_is_not(planned: Planned, settings: GenerateSettings) -> None:
    changes = {"count": 9, "workers": 1, "remarks": ("Look.",), "out": settings.out / "elsewhere", "device": "cpu"}
    assert plan_production(settings.changed(**changes))[0].decisive() == planned[0].decisive()


# Produce


def produce_backwards(plan_file: Path, made: Path) -> None:
    plan, batches = pickle.loads(plan_file.read_bytes())
    made.write_bytes(pickle.dumps(list(Producer(plan).produce(reversed(batches)))))


def test_plan_batches_and_results_travel_between_processes(planned: Planned, generated: Path, tmp_path: Path) -> None:
    plan, supplies = planned
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert pickle.loads(pickle.dumps(plan.batches({1}))) == plan.batches({1})
    (tmp_path / "plan").write_bytes(pickle.dumps((plan, plan.batches())))
    process = started().Process(target=produce_backwards, args=(tmp_path / "plan", tmp_path / "made"))
    process.start()
    process.join()
    elsewhere: list[Produced] = pickle.loads((tmp_path / "made").read_bytes())
    assert [one.record.index for one in elsewhere] == [4, 5, 2, 3, 0, 1]
    for one in elsewhere:
        check_files(one, generated)
    (here,) = Producer(plan, supplies).produce(plan.batches({0, 1, 2, 4, 5}))
    again: Produced = pickle.loads(pickle.dumps(here))
    assert again.record == here.record == elsewhere[3].record
    assert np.array_equal(again.pixels, elsewhere[3].pixels)
    assert np.array_equal(again.mask, elsewhere[3].mask)


def test_the_scenes_of_a_batch_are_drawn_side_by_side(
    settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of further attempts; each scene waits for another one of its batch, so that one thread would fail."""
    plan, supplies = plan_production(settings.changed(threads=2, batch_size=2, limits=Limits(min_visible=1e6)))
    draw, together = SceneMaker.draw, threading.Barrier(2, timeout=60)

    def drawn(maker: SceneMaker, defect: str, *keys: int) -> Scene:
        together.wait()
        return draw(maker, defect, *keys)

    monkeypatch.setattr(SceneMaker, "draw", drawn)
    produced = list(Producer(plan, supplies).produce(plan.batches({2, 3, 4, 5})))
    assert [one.record.index for one in produced] == [0, 1]
    assert all(len(one.record.rejected) == ATTEMPTS for one in produced)


UNGUARDED = """
from adabldm.core.settings import {name}Settings
from adabldm.workflows.{work} import {work}

{work}({name}Settings.create({values!r}))
"""


@pytest.mark.parametrize("work", ["generate", "evaluate"])
def test_a_script_whose_main_part_has_no_guard_is_told_so(run: Path, tmp_path: Path, work: str) -> None:
    """Every worker process reads the script, and would begin its work again."""
    own: dict[str, object] = {"run": str(run), "count": 4, "batch_size": 2}
    if work == "evaluate":
        own = {"count": 2, "condition": ["real", "perlin"], "detector": ["unet"], "detector_steps": 1, "seeds": 1}
    data = write_data_set(tmp_path / "parts", good=3, defects={"spot": 2}, test=True)
    values = {"data": str(data), "out": str(tmp_path / "out"), "workers": 2, **own}
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED.format(name=work.capitalize(), work=work, values=values), encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=LONGEST, check=False)
    assert done.returncode == 1
    assert f"{work}: the script starts several processes" in done.stderr
    assert "works in this folder" not in done.stderr  # so far it would have come, had it begun again
    assert done.stderr.splitlines()[-1].startswith("adabldm.core.errors.OutputError: a worker process was killed")


def test_an_iteration_that_is_given_up_leaves_nothing_behind(planned: Planned, generated: Path) -> None:
    producer = Producer(*planned)
    images = producer.produce(planned[0].batches())
    check_files(next(images), generated)
    images.close()
    last = list(producer.produce(planned[0].batches({0, 1, 2, 3})))
    assert [one.record.index for one in last] == [4, 5]
    for one in last:
        check_files(one, generated)


def test_more_steps_than_the_base_has_timesteps_are_refused_before_anything_is_written(
    run: Path, tmp_path: Path, settings: GenerateSettings
) -> None:
    few = tmp_path / "few"
    shutil.copytree(run, few)
    config = few / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_train_timesteps": 5}))
    card = few / "adabldm.json"
    values = json.loads(card.read_text())
    values["files"]["scheduler/scheduler_config.json"] = hashlib.sha256(config.read_bytes()).hexdigest()
    card.write_text(json.dumps(values))
    with pytest.raises(SettingsError, match=r"plan\.steps: 6 was given, expected at most 5"):
        generate(settings.changed(run=str(few)))
    assert not settings.out.exists()


def test_a_worker_refuses_data_or_a_run_that_changed_since_the_plan(
    run: Path, tmp_path: Path, settings: GenerateSettings
) -> None:
    root = write_data_set(tmp_path / "data", good=2, defects={"spot": 1})
    plan, _ = plan_production(settings.changed(data=root, defect=("spot",)))
    Producer(plan)
    save(root / "train" / "good" / "another.png", texture((96, 128), np.random.default_rng(9)))
    with pytest.raises(InputError, match="not as they were"):
        Producer(plan)


# Sink, events


def test_a_listener_sees_the_whole_command(settings: GenerateSettings, data: Path) -> None:
    events: list[Event] = []
    there: list[bool] = []

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, ImageFinished):
            there.append(all((event.folder / name).is_file() for name in (event.record.image, event.record.mask)))

    summary = generate(settings.changed(count=3, guidance=4.0), listen)
    assert (summary.made, summary.found, summary.folder) == (3, 0, settings.out)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert len(notes) == 1
    assert "--set look=none" in notes[0]
    progress = [event for event in events if isinstance(event, Progress) and event.task != "read"]
    assert [(one.task, one.done, one.total, one.unit) for one in progress] == [
        ("generate", done, 3, "img") for done in range(4)
    ]
    assert [one.fraction for one in progress] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert progress[0].seconds_left is None
    assert progress[-1].seconds_left == 0
    finished = [event.record for event in events if isinstance(event, ImageFinished)]
    assert there == [True] * 3
    assert [record.plain() for record in finished] == manifest(settings.out)
    events.clear()
    generate(settings.changed(guidance=4.0), listen)
    assert next(one.done for one in events if isinstance(one, Progress) and one.task == "generate") == 3


def test_a_listener_that_fails_loses_no_image(
    settings: GenerateSettings, generated: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def listen(event: Event) -> None:
        raise RuntimeError("the page is gone")

    with caplog.at_level(logging.ERROR):
        assert generate(settings, listen).made == 6
    assert len([record for record in caplog.records if "listener" in record.message]) in {1, 2}
    assert (settings.out / "manifest.jsonl").read_bytes() == (generated / "manifest.jsonl").read_bytes()


def test_what_is_on_the_disk_is_reported_though_another_image_cannot_be_written(
    planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned[0]
    produced = list(Producer(*planned).produce(plan.batches({2, 3, 4, 5})))
    broken = replace(produced[0], record=produced[0].record.model_copy(update={"index": 7}))
    folder = GeneratedFolder(tmp_path / "images")
    add, all_put = folder.add, threading.Event()

    def full(record: object, *arguments: object, **options: object) -> object:
        if getattr(record, "index", None) == 7:
            assert all_put.wait(60)  # the failure is noticed when no image is left to put in
            raise OutputError("no space left")
        return add(record, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(folder, "add", full)
    seen: list[Event] = []
    sink = Sink(folder, seen.append)

    def write() -> None:
        with sink:
            for one in (produced[0], broken, produced[1]):
                sink.put(one)
            all_put.set()

    with folder.open(plan.decisive()), pytest.raises(OutputError, match="no space"):
        write()
    assert [event.record.index for event in seen if isinstance(event, ImageFinished)] == [0, 1]
    assert sink.made["images"] == 2
    assert folder.finished().keys() == {0, 1}


def test_one_image_that_was_kept_is_counted(planned: Planned, tmp_path: Path) -> None:
    plan = planned[0]
    one = next(iter(Producer(*planned).produce(plan.batches({0, 1}))))
    kept = replace(one, record=one.record.model_copy(update={"accepted": False}))
    folder = GeneratedFolder(tmp_path / "images")
    sink = Sink(folder)
    with folder.open(plan.decisive()), sink:
        sink.put(kept)
    assert f"{sink.made['unaccepted']} {sink.made['fewer']}" == "1 0"


@pytest.mark.parametrize("masks", ["bank", "procedural"])
def test_sixteen_bits_stay_sixteen_bits(run: Path, tmp_path: Path, masks: str) -> None:
    root, out = write_data_set(tmp_path / "woven_cloth", deep=True), tmp_path / "images"
    generate(GenerateSettings.create(run=str(run), data=root, out=out, count=4, masks=masks))
    for line in manifest(out):
        with Image.open(out / line["image"]) as image, Image.open(root / line["source"]) as file:
            assert image.mode == file.mode == "I;16"
            made, source = np.asarray(image).astype(int), np.asarray(file).astype(int)
        assert len(np.unique(source % 257)) > 100, "the lower half holds something"
        top, left, side = line["window"]
        outside = np.ones(source.shape, bool)
        outside[max(0, top) : top + side, max(0, left) : left + side] = False
        assert outside.any()
        assert np.array_equal(made[outside], source[outside])
        mask = read_mask(out / line["mask"])
        assert not np.array_equal(made[mask], source[mask])


# Previews


def preview_card() -> RunCard:
    return RunCard(
        object_name="cloth", defects=("scratch", "spot"), base="", resolution=32, foreground="texture", preset=""
    )


@pytest.fixture(scope="module")
def maker(data: Path) -> SceneMaker:
    return SceneMaker(open_data_set(data, ReadOptions(split="train")), "texture")


class WithoutReferences(SceneMaker):
    def draw(self, defect: str, *keys: int) -> Scene:
        return replace(super().draw(defect, *keys), reference=None)


def test_previews_show_the_model_and_not_the_real_defects(maker: SceneMaker) -> None:
    components, bare = make_components(), WithoutReferences(maker.data_set, "texture")
    previews = [control_preview(components, preview_card(), one, 4).picture for one in (maker, bare)]
    assert maker.draw("spot", 0, 1, 0).reference is not None
    assert np.array_equal(*previews)


def test_previews_show_real_defects_of_the_type_below(maker: SceneMaker) -> None:
    images = read_data_set(maker.data_set, "texture")
    real = RealWindows.of(images, 32)
    assert (len(real.good), {name: len(found) for name, found in real.defects.items()}) == (
        6,
        {"scratch": 3, "spot": 3},
    )
    components = make_components()
    plain = control_preview(components, preview_card(), maker, 4).picture
    shown = control_preview(components, preview_card(), maker, 4, real).picture
    assert np.array_equal(shown[12:-32], plain)
    for column, (defect, number) in enumerate((("scratch", 0), ("spot", 0), ("scratch", 1), ("spot", 1))):
        assert np.array_equal(shown[-32:, 32 * column : 32 * column + 32], real.defects[defect][number])
    assert shown[:12].min() < 100, "the type is written above"
    assert real.show("crack", 0) is None
    assert real.show(None, 7) is real.good[1]


def test_previews_say_what_the_filter_says(maker: SceneMaker) -> None:
    components, changes = make_components(), RealChanges(maker.data_set)
    plain = control_preview(components, preview_card(), maker, 8)
    judged = control_preview(components, preview_card(), maker, 8, changes=changes)
    assert plain.believable is None
    assert np.array_equal(judged.picture[:-12], plain.picture)
    accepted = text_strip("accepted", 32, 12)
    said = [np.array_equal(judged.picture[-12:, at : at + 32], accepted) for at in range(0, 8 * 32, 32)]
    expected = []
    for index in range(8):
        defect = ("scratch", "spot")[index % 2]
        job = maker.draw(defect, 0, index, 0).job(f"cloth, a cloth with a {defect}", torch_generator("preview", index))
        preset = edit_preset("fast", ["look=none"], guidance=1.5)
        (edited,) = Editor(components, 32).edit([job], preset)
        seen = Candidate(edited.pixels, job.pixels, job.mask, edited.scores, defect, changes.of(defect))
        expected.append(first_rejection(seen, Limits()) is None)
    assert said == expected
    assert judged.believable == sum(expected) / 8


PREVIEWS: dict[str, Callable[[Components, SceneMaker], object]] = {
    "base": lambda components, maker: base_preview(components, ["cloth", "cloth with a spot"]),
    "control": lambda components, maker: control_preview(components, preview_card(), maker, 2),
}


@pytest.mark.parametrize("kind", PREVIEWS)
def test_previews_leave_the_networks_as_they_were(maker: SceneMaker, kind: str) -> None:
    components = make_components()
    assert components.controlnet is not None
    components.freeze()
    components.controlnet.requires_grad_(True).train()
    components.unet.conv_in.weight.grad = torch.randn_like(components.unet.conv_in.weight)
    components.unet.conv_in.train()

    def found() -> list[object]:
        parameters = [
            (parameter.requires_grad, parameter.stride(), parameter.dtype, parameter.detach().clone().numpy().tobytes())
            for network in components.modules().values()
            for parameter in network.parameters()
        ]
        gradient = components.unet.conv_in.weight.grad
        assert gradient is not None
        modes = [module.training for network in components.modules().values() for module in network.modules()]
        return [parameters, modes, gradient.stride(), gradient.sum().item()]

    before = found()
    same = [id(parameter) for parameter in components.unet.parameters()]
    PREVIEWS[kind](components, maker)
    assert found() == before
    assert [id(parameter) for parameter in components.unet.parameters()] == same
