"""Commands that are killed, crowded, starved of space and robbed of folders: nothing is lost, and the bytes agree."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from campaign import SEED, Kills, check_said, row, size
from conftest import FIT, GENERATE, SmallDisk, contents, run_command
from fabricate import write_data_set
from own_process import Running, start

from adabldm.data.generated import MANIFEST

Record = Callable[[str, object], None]


def copies_agree(folder: Path, whole: dict[str, bytes], *places: str) -> Callable[[], None]:
    """Checks that what stands in a folder under a final name is whole; a manifest grows, so its lines are."""

    def check() -> None:
        for name, data in contents(folder).items() if folder.is_dir() else ():
            if name.split("/")[0] not in places or Path(name).name.startswith("."):
                continue
            if Path(name).name == MANIFEST:
                finished = data[: data.rfind(b"\n") + 1].splitlines()
                assert set(finished) <= set(whole[name].splitlines()), name
            else:
                assert data == whole[name], name

    return check


def campaign(kills: Kills, out: Path, wanted: int, agree: Callable[[], None]) -> Counter[str]:
    """Kill, resume and compare until there were so many kills."""
    kills.measure()
    agree()
    shutil.rmtree(out)
    while kills.counts["kills"] < wanted:
        kills.until_finished(wanted)
        agree()
        kills.counts["compared"] += 1
        shutil.rmtree(out)
    return kills.counts


def test_kills_of_generate(generated: Path, run: Path, data: Path, tmp_path: Path, record_property: Record) -> None:
    out, whole = tmp_path / "out", contents(generated)
    command = ("generate", run, "--data", data, "--out", out, *GENERATE)
    intact = copies_agree(out, whole, "test", "train", "ground_truth")
    kills = Kills(tmp_path, command, random.Random(SEED), intact)

    def agree() -> None:
        assert contents(out) == whole

    record_property("campaign", row("kills of generate", campaign(kills, out, size(6, 200), agree)))


def test_kills_of_fit(run: Path, data: Path, base: Path, tmp_path: Path, record_property: Record) -> None:
    out, left_out = tmp_path / "out", ["logs", "checkpoints"]
    whole = contents(run, without=left_out)
    command = ("fit", data, "--out", out, "--base", base, *FIT, "--resume")
    kills = Kills(tmp_path, command, random.Random(SEED + 1), lambda: None)

    def agree() -> None:
        assert contents(out, without=left_out) == whole

    record_property("campaign", row("kills of fit", campaign(kills, out, size(4, 100), agree)))


def test_kills_of_evaluate(tmp_path: Path, record_property: Record) -> None:
    split = write_data_set(tmp_path / "woven_cloth", good=4, test=True)
    chosen = ("--condition", "real", "--condition", "nsa", "--detector", "unet", "--count", 3, "--seeds", 1)
    sizes = ("--detector-steps", 2, "--quiet")
    first, out = tmp_path / "first", tmp_path / "out"
    assert run_command("evaluate", "--data", split, "--out", first, *chosen, *sizes) == 0
    kills = Kills(
        tmp_path,
        ("evaluate", "--data", split, "--out", out, *chosen, *sizes),
        random.Random(SEED + 2),
        copies_agree(out, contents(first), "images"),
    )

    def agree() -> None:
        assert contents(out / "images") == contents(first / "images")
        assert contents(out / "maps") == contents(first / "maps")

    record_property("campaign", row("kills of evaluate", campaign(kills, out, size(2, 50), agree)))


@pytest.mark.parametrize("number", [2, 4])
def test_several_processes_on_one_folder(
    number: int, generated: Path, run: Path, data: Path, tmp_path: Path, record_property: Record
) -> None:
    rounds, counts = size(1, 20), Counter[str]()
    for _ in range(rounds):
        out = tmp_path / "out"
        command = ("generate", run, "--data", data, "--out", out, *GENERATE)
        codes = []
        for one in [start(tmp_path, *command) for _ in range(number)]:
            code = one.wait()
            check_said(one.text())
            assert code == 0 or "works in this folder" in one.text(), one.text()
            codes.append(code)
        assert set(codes) <= {0, 2}
        assert 0 in codes
        assert contents(out) == contents(generated)
        counts.update(rounds=1, worked=codes.count(0), refused=codes.count(2))
        shutil.rmtree(out)
    record_property("campaign", row(f"{number} processes on one folder", counts))


def test_files_that_cannot_grow(
    generated: Path, run: Path, data: Path, tmp_path: Path, record_property: Record
) -> None:
    rng, counts, out, whole = random.Random(SEED + 3), Counter[str](), tmp_path / "out", contents(generated)
    largest = max(map(len, whole.values()))
    command = ("generate", run, "--data", data, "--out", out, *GENERATE)
    for _ in range(size(3, 50)):
        one = start(tmp_path, *command, largest_file=rng.randrange(0, largest))
        code = one.wait()
        check_said(one.text())
        counts.update(tries=1, failed=code != 0)
        copies_agree(out, whole, "test", "train", "ground_truth")()
        if code == 0:  # the limit was large enough for all files
            assert contents(out) == whole
            shutil.rmtree(out)
            continue
        assert code == 2, one.text()
        assert "could not be written" in one.text() or "cannot be" in one.text(), one.text()
    again = start(tmp_path, *command)
    assert again.wait() == 0, again.text()
    assert contents(out) == whole
    record_property("campaign", row("files that cannot grow", counts))


def test_full_disks(
    generated: Path,
    run: Path,
    data: Path,
    tmp_path: Path,
    small_disk: Callable[[str], SmallDisk],
    record_property: Record,
) -> None:
    rng, counts, whole = random.Random(SEED + 4), Counter[str](), contents(generated)
    total = sum(map(len, whole.values())) // 1024
    disk = small_disk("32k")
    out = disk.place / "out"
    command = ("generate", run, "--data", data, "--out", out, *GENERATE)
    for kilobytes in sorted(rng.randrange(16, total) for _ in range(size(2, 40))):
        disk.grow(f"{kilobytes}k")
        one = start(tmp_path, *command)
        code = one.wait()
        check_said(one.text())
        assert code == 2, one.text()
        assert "space" in one.text(), one.text()
        counts.update(full=1)
    disk.grow("64m")
    again = start(tmp_path, *command)
    assert again.wait() == 0, again.text()
    assert contents(out) == whole
    record_property("campaign", row("full disks", counts))


@pytest.mark.parametrize("what", ["results", "data"])
def test_folders_that_vanish(
    what: str, generated: Path, run: Path, data: Path, tmp_path: Path, record_property: Record
) -> None:
    rng, counts = random.Random(SEED + 5), Counter[str]()
    mine, out = tmp_path / "data" / data.name, tmp_path / "out"
    whole = contents(generated, without=["settings.json"])  # which names the place of the data
    shutil.copytree(data, mine)
    command = ("generate", run, "--data", mine, "--out", out, *GENERATE)

    def begin() -> Running:
        one = start(tmp_path, *command)
        end = time.monotonic() + 300
        while not list(out.glob("t*/*/*.png")) and one.process.is_alive() and time.monotonic() < end:
            time.sleep(0.002)
        return one

    for _ in range(size(2, 30)):
        one = begin()
        one.process.join(rng.uniform(0, 0.3))
        shutil.rmtree(out if what == "results" else mine, ignore_errors=True)
        code = one.wait()
        check_said(one.text())
        assert code in {0, 2}, one.text()
        if what == "results" and code == 0:
            assert not out.exists() or contents(out, without=["settings.json"]) == whole, one.text()
        if "delete what is left of it" in one.text():  # what was written while the folder was removed
            shutil.rmtree(out, ignore_errors=True)
        if what == "data":
            shutil.copytree(data, mine)
        counts.update(tries=1, said=code == 2)
        again = start(tmp_path, *command)
        assert again.wait() == 0, again.text()
        assert contents(out, without=["settings.json"]) == whole
        shutil.rmtree(out)
    record_property("campaign", row(f"vanished {what}", counts))
