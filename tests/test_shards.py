"""Parts of a production on several machines, and several processes on one: the same bytes as one process makes."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import GENERATE, Adabldm, contents, run_command
from hypothesis import given
from hypothesis import strategies as st

from adabldm.core.settings.generate import MOST_SHARDS, parse_shard

PLACES = ("reports", ".adabldm.lock")
"""What is not compared: `merge` writes no page, and the lock names the process that held the folder."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, run: Path, data: Path) -> list[Path]:
    """The six images of `generated`, in two parts: batches 0 and 2, and batch 1."""
    folder = tmp_path_factory.mktemp("parts")
    for number in (1, 2):
        options = ("generate", run, "--data", data, "--out", folder / str(number), *GENERATE)
        assert run_command(*options, "--shard", f"{number}/2") == 0
    return [folder / "1", folder / "2"]


def test_parts_hold_whole_batches_in_turns(parts: list[Path]) -> None:
    lines = [(part / "manifest.jsonl").read_text(encoding="utf-8").splitlines() for part in parts]
    assert [[json.loads(line)["index"] for line in own] for own in lines] == [[0, 1, 4, 5], [2, 3]]


def test_merged_parts_are_what_one_process_makes(
    adabldm: Adabldm, parts: list[Path], generated: Path, run: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "all"
    result = adabldm("merge", *parts, "--out", out)
    assert result.code == 0
    assert "6 images, 0 missing" in result.err
    assert contents(out, without=PLACES) == contents(generated, without=PLACES)
    assert "0 images made, 6 were there" in adabldm("generate", run, "--data", data, "--out", out, *GENERATE).err
    assert adabldm("merge", *parts, "--out", out, "--copy").code == 0
    assert contents(out, without=PLACES) == contents(generated, without=PLACES)


def test_a_part_that_is_missing_is_said_and_made(
    adabldm: Adabldm, parts: list[Path], generated: Path, run: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "all"
    result = adabldm("merge", parts[0], "--out", out)
    assert "4 images, 2 missing" in result.err
    assert "(2, 3)" in result.err
    assert adabldm("generate", run, "--data", data, "--out", out, *GENERATE).code == 0
    assert contents(out, without=PLACES) == contents(generated, without=PLACES)


def test_decisions_of_parts_are_kept(adabldm: Adabldm, parts: list[Path], tmp_path: Path) -> None:
    own = [Path(shutil.copytree(part, tmp_path / part.name)) for part in parts]
    assert adabldm("curate", own[1], "--reject", "3").code == 0
    assert adabldm("merge", *own, "--out", tmp_path / "all").code == 0
    (line,) = (tmp_path / "all" / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["index"] == 3


def test_a_picture_that_was_deleted_from_a_part_stays_away(
    adabldm: Adabldm, parts: list[Path], run: Path, data: Path, tmp_path: Path
) -> None:
    own = [Path(shutil.copytree(part, tmp_path / part.name)) for part in parts]
    (gone,) = own[1].glob("train/*/000003.png")
    gone.unlink()
    out = tmp_path / "all"
    for _ in range(2):
        assert "5 images, 0 missing" in adabldm("merge", *own, "--out", out).err
    lines = (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(6))
    again = adabldm("generate", run, "--data", data, "--out", out, *GENERATE)
    assert "0 images made, 5 were there" in again.err
    assert not list(out.glob("train/*/000003.png"))


def test_a_part_does_not_replace_what_was_rejected(adabldm: Adabldm, run: Path, data: Path, tmp_path: Path) -> None:
    options = ("generate", run, "--data", data, "--out", tmp_path / "x", *GENERATE, "--shard", "1/2")
    result = adabldm(*options, "--replace-rejected")
    assert result.code == 2
    assert "--replace-rejected: a part does not know" in result.err
    assert not (tmp_path / "x").exists()


def test_parts_of_different_productions_are_refused(
    adabldm: Adabldm, parts: list[Path], run: Path, data: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert run_command("generate", run, "--data", data, "--out", other, *GENERATE, "--seed", 9, "--shard", "1/3") == 0
    for folders, words in (
        ((parts[0], other), ["another seed", str(other)]),
        ((tmp_path / "nothing",), ["no usable settings.json"]),
        ((data,), ["no usable settings.json"]),
    ):
        result = adabldm("merge", *folders, "--out", tmp_path / "all")
        assert result.code == 2
        assert all(word in result.err for word in words)
        assert not (tmp_path / "all").exists()
    changed = Path(shutil.copytree(parts[0], tmp_path / "changed"))
    manifest = changed / "manifest.jsonl"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"seam": ', '"seam": 1'), encoding="utf-8")
    result = adabldm("merge", parts[0], changed, "--out", tmp_path / "all")
    assert result.code == 2
    assert "image 0 differs" in result.err


def test_several_processes_make_the_same_bytes(
    adabldm: Adabldm, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "images"
    assert adabldm("generate", run, "--data", data, "--out", out, *GENERATE, "--workers", 2).code == 0
    assert contents(out) == contents(generated)


@given(number=st.integers(1, MOST_SHARDS), parts=st.integers(1, MOST_SHARDS))
def test_a_shard_is_a_number_and_the_number_of_parts(number: int, parts: int) -> None:
    if number <= parts:
        assert parse_shard(f"{number}/{parts}") == (number, parts)
    else:
        with pytest.raises(ValueError, match="3/8"):
            parse_shard(f"{number}/{parts}")


@pytest.mark.parametrize("text", ["3", "0/8", "9/8", "-1/8", "1/8/2", "1.5/8", "²/8"])
def test_other_shards_are_refused(adabldm: Adabldm, run: Path, data: Path, tmp_path: Path, text: str) -> None:
    result = adabldm("generate", run, "--data", data, "--out", tmp_path / "x", *GENERATE, f"--shard={text}")
    assert result.code == 2
    assert "--shard" in result.err
    assert not (tmp_path / "x").exists()


def test_a_second_merge_leaves_what_was_decided_in_the_whole_folder(
    adabldm: Adabldm, parts: list[Path], tmp_path: Path
) -> None:
    own = [Path(shutil.copytree(part, tmp_path / part.name)) for part in parts]
    out = tmp_path / "all"
    assert adabldm("curate", own[0], "--reject", "0").code == 0
    assert adabldm("merge", own[0], "--out", out).code == 0
    assert adabldm("curate", out, "--keep", "0").code == 0
    assert adabldm("curate", out, "--reject", "1", "--set-aside").code == 0
    (gone,) = out.glob("train/*/000004.png")
    gone.unlink()
    grows = ["manifest.jsonl", "rejected.jsonl"]
    before = contents(out, without=grows)
    again = adabldm("merge", *own, "--out", out)
    assert again.code == 0, again.err
    assert "files of images that were deleted or set aside here stay away" in " ".join(again.err.split())
    after = contents(out, without=grows)
    assert {name: after.get(name) for name in before} == before
    assert {Path(name).stem for name in after.keys() - before.keys() if name.startswith("train/")} == {
        "000002",
        "000003",
    }
    assert adabldm("curate", out, "--reject", "5", "--set-aside").code == 0
