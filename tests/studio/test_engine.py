"""The engine in this process: equal bytes in every company, and what happens to those that wait."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FIT, run_command

from adabldm.core.errors import InputError
from adabldm.core.settings import SettingsError
from adabldm.data.generated import GeneratedFolder
from adabldm.pipeline import AdaBLDMPipeline
from adabldm.service import engine as module
from adabldm.service.engine import BusyError, ClosedError, EditEngine, EditRequest, EngineOptions
from adabldm.service.roots import Roots
from adabldm.service.runs import Runs

MASK = np.zeros((96, 128), np.bool_)
MASK[30:50, 40:70] = True


def request(seed: int = 0, **more: Any) -> EditRequest:
    pixels = np.random.default_rng(seed).integers(80, 160, (96, 128, 3), dtype=np.uint8)
    return EditRequest.create(pixels, **{"mask": MASK, "run": "run", "defect": "spot", "seed": seed, **more})


@pytest.fixture(scope="module")
def engine(run: Path) -> Iterator[EditEngine]:
    with EditEngine([run], EngineOptions(workers=2)) as engine:
        engine.warm("run")
        yield engine


def test_an_edit_equals_the_python_call_and_can_be_kept(engine: EditEngine, run: Path, tmp_path: Path) -> None:
    given = request(3)
    result = engine.edit(given)
    call = AdaBLDMPipeline.from_pretrained(run)(given.image, mask=MASK, defect="spot", seed=3, output_type="np")
    np.testing.assert_array_equal(result.pixels, call.images[0])
    assert result.record.seam == round(call.scores[0]["seam"], 4)
    assert (result.rejection is None) == result.record.accepted
    folder = GeneratedFolder(tmp_path / "kept")
    with folder.open({"kept": True}, "studio"):
        folder.add(result.record, result.pixels, result.mask)
        assert list(folder.finished()) == [0]
    assert engine.runs()["run"].defects == ("scratch", "spot")


def test_bfloat16_is_a_choice_and_stays_close(engine: EditEngine, run: Path) -> None:
    single = engine.edit(request(3)).pixels.astype(int)
    with EditEngine([run], EngineOptions(workers=1, dtype="bfloat16")) as half:
        differences = np.abs(half.edit(request(3)).pixels - single)[MASK]
    assert 0 < differences.mean() < 2
    with EditEngine([run], EngineOptions(workers=1, dtype="auto")) as chosen:
        assert np.abs(chosen.edit(request(3)).pixels - single).mean() < 2
    with pytest.raises(SettingsError, match="dtype"):
        EditEngine([run], EngineOptions(dtype="int8"))


@pytest.mark.parametrize("window", ["auto", "full"])
def test_the_company_in_a_batch_changes_no_byte(run: Path, window: str) -> None:
    options = EngineOptions(workers=1, batch_size=4, patience=0.5)
    wide = np.zeros_like(MASK)
    wide[20:70, 10:110] = True
    with EditEngine([run], options) as engine:
        alone = [engine.edit(request(seed, window=window)).pixels for seed in range(3)]
        futures = [engine.submit(request(seed, window=window)) for seed in (2, 1, 0)]
        futures.insert(1, engine.submit(request(9, mask=wide, window=window)))
        together = [future.result().pixels for future in futures]
    for expected, found in zip(alone, (together[3], together[2], together[0]), strict=True):
        np.testing.assert_array_equal(expected, found)


def test_threads_share_networks_without_harm_also_with_ridge(engine: EditEngine) -> None:
    asked = [request(seed, adapt="ridge" if seed % 2 else None) for seed in range(8)]
    alone = [engine.edit(one).pixels for one in asked]
    with ThreadPoolExecutor(8) as eight:
        together = [result.pixels for result in eight.map(engine.edit, asked)]
    for expected, found in zip(alone, together, strict=True):
        np.testing.assert_array_equal(expected, found)


def test_a_run_that_renders_edits_without_networks(engine: EditEngine) -> None:
    result = engine.edit(request(run="surface", defect="scratch"))
    assert (result.pixels[MASK] != request().image[MASK]).any()  # type: ignore[index]
    assert engine.edit(request(run="surface", defect="scratch")).pixels.tobytes() == result.pixels.tobytes()


def test_bad_requests_name_their_field_and_harm_no_other(engine: EditEngine) -> None:
    good = engine.submit(request(1))
    with pytest.raises(SettingsError, match="defect: 'dent'"):
        engine.submit(request(defect="dent"))
    with pytest.raises(SettingsError, match="run: 'x': unknown"):
        engine.submit(request(run="x"))
    with pytest.raises(SettingsError) as caught:
        engine.edit(request(mask=MASK[1:]))
    assert caught.value.fields[0].field == "mask"
    with pytest.raises(SettingsError, match="example: the data set of this run is not at hand"):
        engine.edit(request(run="magnetic-tile", defect="crack", example=True))
    assert good.result().pixels.shape == (96, 128, 3)


def test_a_cancelled_edit_ends_after_its_step(run: Path) -> None:
    ended: list[str] = []
    with EditEngine([run], EngineOptions(workers=1), lambda outcome, seconds: ended.append(outcome)) as engine:
        engine.warm("run")

        async def leave() -> None:
            task = asyncio.create_task(engine.edit_async(request(set=("plan.steps=1000",))))
            while not engine.load.running:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(leave())
        begun = engine.submit(request(set=("plan.steps=1000",)))
        waiting = engine.submit(request())
        assert waiting.cancel()
        begun.cancel()
        with pytest.raises(CancelledError):
            begun.result()
        engine.edit(request())
    assert ended == ["cancelled", "cancelled", "cancelled", "done"]


def test_a_full_queue_refuses_and_a_closed_engine_finishes_what_waits(run: Path) -> None:
    engine = EditEngine([run], EngineOptions(workers=1, queue=2))
    engine.warm("run")
    futures = [engine.submit(request(set=("plan.steps=200",)))]
    while not engine.load.running:
        threading.Event().wait(0.01)
    futures += [engine.submit(request(1)), engine.submit(request(2))]
    with pytest.raises(BusyError, match="2 edits wait already; try again in") as caught:
        engine.submit(request(3))
    assert caught.value.retry_after >= 1
    engine.close()
    assert all(future.done() and future.result().pixels.any() for future in futures)
    with pytest.raises(ClosedError):
        engine.submit(request())


def test_large_pictures_do_not_pile_up(run: Path) -> None:
    with EditEngine([run], EngineOptions(workers=1, megapixels=0.03)) as engine:
        engine.warm("run")
        first = engine.submit(request(set=("plan.steps=200",)))
        while not engine.load.running:
            threading.Event().wait(0.01)
        engine.submit(request(1))
        engine.submit(request(2))
        with pytest.raises(BusyError):
            engine.submit(request(3))
        first.cancel()


def test_large_models_take_turns_on_all_cores(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 0)
    monkeypatch.setattr(module, "_cores", lambda: 1)  # on several, the last bit would differ
    asked = [request(seed) for seed in range(3)]
    with EditEngine([run], EngineOptions(workers=2)) as engine, ThreadPoolExecutor(3) as three:
        together = [result.pixels for result in three.map(engine.edit, asked)]
    with EditEngine([run], EngineOptions(workers=1)) as engine:
        for one, found in zip(asked, together, strict=True):
            np.testing.assert_array_equal(engine.edit(one).pixels, found)


def test_a_run_that_was_fitted_anew_is_read_anew(run: Path, base: Path, data: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(run, root / "mine")
    with EditEngine(Runs(roots=Roots([root])), EngineOptions(workers=1)) as engine:
        before = engine.edit(request(run="mine"))
        shutil.rmtree(root / "mine")
        with pytest.raises(SettingsError, match="run: 'mine': unknown"):
            engine.edit(request(run="mine"))
        assert run_command("fit", data, "--out", root / "mine", "--base", base, *FIT, "--seed", 5) == 0
        after = engine.edit(request(run="mine"))
    assert before.record.model != after.record.model
    assert before.pixels.tobytes() != after.pixels.tobytes()


def test_runs_that_cannot_be_offered_are_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    with pytest.raises(InputError, match="another run is named 'run' already"):
        Runs([run, tmp_path / "run"])
    with pytest.raises(InputError, match="no such run"):
        Runs([tmp_path / "nothing"])
