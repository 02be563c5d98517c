"""Decisions on generated images: an append-only file that export, evaluation and reruns of `generate` honour."""

from __future__ import annotations

import fcntl
import json
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GENERATE, Adabldm, contents, manifest
from fabricate import box, texture
from hypothesis import given, settings
from hypothesis import strategies as st

from adabldm.core.errors import InputError
from adabldm.core.events import Note
from adabldm.core.records import Decision, ImageRecord
from adabldm.core.settings import CurateSettings, SettingsError
from adabldm.data.decisions import DECISIONS, append_decisions, deciding, read_decisions, rejected_indices
from adabldm.data.generated import GeneratedFolder, read_kept, read_manifest
from adabldm.evaluation.conditions import read_synthetic
from adabldm.selection.likeness import Look, near_duplicates, nearest_real
from adabldm.workflows.curate import curate


def write_folder(root: Path, count: int = 6) -> Path:
    """Generated images whose seam is 1, 2, 3, …; the last one has no seam."""
    rng, folder = np.random.default_rng(0), GeneratedFolder(root)
    with folder.open({"seed": 0}):
        for index in range(count):
            record = ImageRecord.parse(
                {
                    "image": "", "mask": "", "index": index, "source": "train/good/000.png", "defect": "spot",
                    "object": "cloth", "prompt": "", "seed": 0, "preset": "fast", "adapt": "none",
                    "seam": None if index == count - 1 else index + 1.0, "contrast": 1.0 - index / 10, "model": "none",
                },
                "test",
            )  # fmt: skip
            folder.add(record, texture((32, 32), rng), box((8, 16), (8, 16), (32, 32)))
        folder.finish()
    return root


def decide(root: Path, **values: object) -> tuple[int, ...]:
    return curate(CurateSettings.create({"folder": root, **values})).rejected


def test_decisions_are_appended_and_the_manifest_is_untouched(adabldm: Adabldm, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")
    before = contents(root)
    result = adabldm("curate", root, "--reject", "0,2", "--reject", "4", "--keep", "1", "--note", "blurred")
    assert result.code == 0
    assert "rejected  3: 0, 2, 4" in result.out
    first = (root / DECISIONS).read_bytes()
    assert contents(root, without=[DECISIONS]) == before
    assert json.loads(first.splitlines()[0]) == {"schema": 1, "index": 0, "decision": "reject", "note": "blurred"}
    assert adabldm("curate", root, "--keep", 2).code == 0
    assert (root / DECISIONS).read_bytes().startswith(first)
    assert rejected_indices(root) == {0, 4}
    listed = adabldm("curate", root)
    assert "new decisions: 0" in listed.out
    assert len((root / DECISIONS).read_bytes().splitlines()) == 5


def test_rules_reject_but_a_person_decides(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")
    assert decide(root, keep=[4], max_seam=3) == (3,)  # 5 has no seam
    assert "seam 4 is above 3" in (read_decisions(root)[3].rule or "")
    assert decide(root, min_contrast=0.75) == (3, 5)  # seams are no longer asked for; 4 stays kept
    assert decide(root, keep=[3], max_seam=1.5) == (1, 2, 5)


def test_what_a_person_decides_while_a_rule_runs_counts(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")

    def meanwhile(event: object) -> None:  # told before anything is written, because an image lacks the score
        assert isinstance(event, Note)
        append_decisions(root, [Decision(index=4, decision="keep", note="fine"), Decision(index=0, decision="reject")])

    summary = curate(CurateSettings(folder=root, max_seam=3), meanwhile)
    assert (summary.rejected, summary.kept) == ((0, 3), (4,))
    assert [one.index for one in summary.added] == [3]
    assert read_decisions(root)[4].note == "fine"


def test_writers_of_decisions_wait_for_each_other(tmp_path: Path) -> None:
    append_decisions(tmp_path, [Decision(index=0, decision="keep")])
    with (tmp_path / DECISIONS).open("ab") as file, ThreadPoolExecutor(1) as pool:
        fcntl.flock(file, fcntl.LOCK_EX)
        other = pool.submit(append_decisions, tmp_path, [Decision(index=1, decision="keep")])
        time.sleep(0.3)
        assert not other.done()
        fcntl.flock(file, fcntl.LOCK_UN)
        assert other.result().before.keys() == {0}
    assert read_decisions(tmp_path).keys() == {0, 1}


def test_an_endless_range_is_refused_at_once(adabldm: Adabldm, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")
    result = adabldm("curate", root, "--reject", "0-999999999999")
    assert (result.code, "--reject 0-999999999999: there is no image 6 in" in result.err) == (2, True)
    result = adabldm("curate", root, "--reject", "0-999999999999", "--keep", "3,5-8")
    assert "3, 5-8 was given, but is rejected too" in result.err


def test_files_of_rejected_images_are_set_aside_and_brought_back(adabldm: Adabldm, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")
    before = contents(root)
    result = adabldm("curate", root, "--reject", "1,4", "--set-aside")
    assert result.code == 0, result.err
    assert "files set aside: 2, brought back: 0" in result.out
    now = contents(root, without=[DECISIONS])
    moved = {name for name in now if name.startswith("rejected/")}
    assert moved == {
        f"rejected/{name}.rejected"
        for index in (1, 4)
        for name in (f"train/spot/{index:06d}.png", f"ground_truth/spot/{index:06d}_mask.png")
    }
    assert now == {name: data for name, data in before.items() if f"rejected/{name}.rejected" not in moved} | {
        f"rejected/{name}.rejected": data for name, data in before.items() if f"rejected/{name}.rejected" in moved
    }
    assert set(read_manifest(root)) == {0, 2, 3, 5}
    again = adabldm("curate", root, "--set-aside")
    assert (again.code, "6 images" in again.out) == (0, True), "nothing is left to do, and those set aside count"
    assert contents(root, without=[DECISIONS]) == now
    assert "brought back: 1" in adabldm("curate", root, "--keep", 4).out
    assert set(read_manifest(root)) == {0, 2, 3, 4, 5}
    append_decisions(root, [Decision(index=1, decision="undecided")])
    assert "brought back: 1" in adabldm("curate", root, "--set-aside").out
    assert contents(root, without=[DECISIONS]) == before


def test_a_file_in_both_places_is_refused(adabldm: Adabldm, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")
    mask = root / "ground_truth" / "spot" / "000001_mask.png"
    image = root / "train" / "spot" / "000001.png"
    kept = {path: path.read_bytes() for path in (image, mask)}
    assert adabldm("curate", root, "--reject", "1", "--set-aside").code == 0
    for path, content in kept.items():
        path.write_bytes(content)
    before = contents(root, without=[DECISIONS])
    refused = adabldm("curate", root, "--keep", "1")
    assert refused.code == 2
    assert "is there already" in refused.err
    assert contents(root, without=[DECISIONS]) == before


LOOKS = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from([0.0, 0.01, 0.2, 1.5, 1.52, 3.0])), min_size=1, max_size=8
)


def turned(name: int | str, angle: float, defect: str = "spot", reference: str | None = None) -> Look:
    return Look(name, defect, torch.tensor([math.cos(angle), math.sin(angle)]), reference)


@given(LOOKS, st.lists(st.sampled_from([0.0, 1.5]), max_size=2), st.sampled_from([0.0001, 0.03]))
def test_near_duplicates_leave_one_of_each_kind(made: list[tuple[int, float]], real: list[float], limit: float) -> None:
    looks = [turned(name, angle) for name, angle in made]
    examples = [turned(f"train/spot/{number}.png", angle) for number, angle in enumerate(real)]
    found = {one.index: one for one in near_duplicates(looks, examples, limit)}
    kept = [look for look in looks if look.name not in found]
    apart = [*examples, *kept]
    for one in kept:  # nothing that is left is like anything else that is left
        for other in apart:
            if other.name != one.name and (isinstance(other.name, str) or other.name < int(one.name)):
                assert 1 - float(one.features @ other.features) > limit - 1e-6
    for one in found.values():
        assert one.distance <= limit + 1e-4
        assert isinstance(one.other, str) or (one.other < one.index and one.other not in found)


def test_the_nearest_real_defect_is_of_the_type_and_another_one() -> None:
    real = [turned("a", 0.0), turned("b", 0.5), turned("c", 0.0, defect="crack")]
    made = [turned(0, 0.0), turned(1, 0.0, reference="a"), turned(2, 0.1, "crack", "c"), turned(3, 0.0, "dent")]
    expected = {0: 0.0, 1: round(1 - math.cos(0.5), 4), 2: round(1 - math.cos(0.1), 4)}
    assert nearest_real(made, real) == pytest.approx(expected, abs=1e-4)


def test_images_that_look_the_same_or_like_nothing_real_are_found(adabldm: Adabldm, copied: Path, data: Path) -> None:
    records = read_manifest(copied)
    for name in ("image", "mask"):  # image 4 becomes a copy of image 2, and image 3 of a real one
        shutil.copy(copied / getattr(records[2], name), copied / getattr(records[4], name))
    real = data / "train" / records[3].defect / "001.png"
    shutil.copy(real, copied / records[3].image)
    shutil.copy(data / "ground_truth" / records[3].defect / "001_mask.png", copied / records[3].mask)
    before = contents(copied)
    listed = adabldm("curate", copied, "--duplicates", "list", "--data", data, "--duplicate-distance", "0.0005")
    assert listed.code == 0, listed.err
    assert "near-duplicates: 2" in listed.out
    assert "4 is like image 2 (distance 0)" in listed.out
    assert f"3 is like the real defect in train/{records[3].defect}/001.png (distance 0)" in listed.out
    assert contents(copied) == before
    options = ("--duplicates", "reject", "--duplicate-distance", "0.0005", "--keep", 3)
    assert "rejected  1: 4" in adabldm("curate", copied, *options, "--data", data).out
    assert "near-duplicate of image 2" in (read_decisions(copied)[4].rule or "")
    assert "data: missing" in adabldm("curate", copied, "--nearest", 0.1).err.replace("--", "")
    assert "rejected  5: 0, 1, 2, 4, 5" in adabldm("curate", copied, "--nearest", 0, "--data", data).out
    assert "to the nearest real defect is above 0" in (read_decisions(copied)[5].rule or "")


def test_one_process_decides_at_a_time(adabldm: Adabldm, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")
    with deciding(root):
        result = adabldm("curate", root, "--reject", 1)
        assert (result.code, "another process decides" in result.err) == (2, True)
        assert adabldm("curate", root).code == 0  # only lists
    assert not (root / DECISIONS).exists()
    assert adabldm("curate", root, "--reject", 1).code == 0
    assert sorted(path.name for path in root.iterdir() if path.name.startswith(".")) == []


def test_bad_decisions_are_refused_before_anything_is_written(adabldm: Adabldm, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")
    result = adabldm("curate", root, "--reject", "1,9", "--keep", "17")
    assert (result.code, len(result.err.splitlines())) == (2, 2)
    assert "9" in result.err
    assert not (root / DECISIONS).exists()
    with pytest.raises(SettingsError, match="rejected too"):
        CurateSettings.create({"folder": root, "reject": "1-3", "keep": "2"})
    with pytest.raises(SettingsError, match="12,40"):
        CurateSettings.create({"folder": root, "reject": "a"})
    assert adabldm("curate", tmp_path).code == 2


def test_a_torn_last_line_is_left_out_and_another_one_is_refused(tmp_path: Path) -> None:
    append_decisions(tmp_path, [Decision(index=1, decision="reject")])
    with (tmp_path / DECISIONS).open("a") as file:
        file.write('{"schema": 1, "ind')
    assert rejected_indices(tmp_path) == {1}
    append_decisions(tmp_path, [Decision(index=2, decision="reject")])
    assert rejected_indices(tmp_path) == {1, 2}
    with (tmp_path / DECISIONS).open("a") as file:
        file.write('{"schema": 1, "index": 3, "decision": "perhaps"}\n')
    with pytest.raises(InputError, match="line 3"):
        rejected_indices(tmp_path)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["keep", "reject"]))))
def test_the_last_decision_counts(tmp_path_factory: pytest.TempPathFactory, decisions: list[tuple[int, str]]) -> None:
    root = tmp_path_factory.mktemp("decisions")
    for index, word in decisions:
        append_decisions(root, [Decision.parse({"index": index, "decision": word}, "test")])
    assert {index: one.decision for index, one in read_decisions(root).items()} == dict(decisions)


def test_export_and_evaluation_leave_rejected_images_out(adabldm: Adabldm, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")
    decide(root, reject=[0, 3])
    assert list(read_kept(root)) == [1, 2, 4, 5]
    assert len(read_synthetic(root, tmp_path, 4)) == 4
    with pytest.raises(InputError, match="4 synthetic images, expected 5"):
        read_synthetic(root, tmp_path, 5)
    out = tmp_path / "out"
    assert adabldm("export", root, "--to", "coco", "--out", out, "--quiet").code == 0
    assert sorted(path.stem for path in (out / "train").iterdir()) == ["000001", "000002", "000004", "000005"]
    decide(root, reject=[1])
    again = adabldm("export", root, "--to", "coco", "--out", out, "--quiet")
    assert (again.code, "made with other settings" in again.err) == (2, True)


@pytest.fixture
def copied(generated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(generated, tmp_path / "images"))


def test_the_page_leaves_out_what_was_rejected_since(copied: Path) -> None:
    style = copied / "reports" / "decisions.css"
    decide(copied, reject=[1])
    assert "1 image is rejected and left out: 1." in style.read_text()
    assert "#image-1 { display: none; }" in style.read_text()
    assert 'id="image-1"' in (copied / "reports" / "index.html").read_text()
    decide(copied, keep=[1])
    assert "image" not in style.read_text()


def test_a_rerun_never_brings_a_rejected_image_back(
    adabldm: Adabldm, copied: Path, generated: Path, run: Path, data: Path
) -> None:
    decide(copied, reject=[1, 2])
    record = read_manifest(copied)[1]
    (copied / record.image).unlink()
    (copied / record.mask).unlink()
    assert adabldm("generate", run, "--data", data, "--out", copied, *GENERATE).code == 0
    assert not (copied / record.image).exists()
    assert manifest(copied) == manifest(generated)
    assert list(read_manifest(copied)) == [0, 2, 3, 4, 5]
    assert curate(CurateSettings.create({"folder": copied})).rejected == (1, 2)


def test_rejected_images_are_replaced_with_the_same_bytes(
    adabldm: Adabldm, copied: Path, run: Path, data: Path, tmp_path: Path
) -> None:
    decide(copied, reject=[1, 2])
    assert adabldm("generate", run, "--data", data, "--out", copied, *GENERATE, "--replace-rejected").code == 0
    records = read_manifest(copied)
    assert sorted(records) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert sorted(records[index].defect for index in (6, 7)) == sorted(records[index].defect for index in (1, 2))
    longer = tmp_path / "longer"
    assert adabldm("generate", run, "--data", data, "--out", longer, *GENERATE, "--count", 8).code == 0
    files, expected = contents(copied), contents(longer)
    assert [name for name in expected if name.endswith(".png") and name.startswith(("train", "ground_truth"))
            and files[name] != expected[name]] == []  # fmt: skip
    once = contents(copied)
    assert adabldm("generate", run, "--data", data, "--out", copied, *GENERATE, "--replace-rejected").code == 0
    assert contents(copied) == once
    decide(copied, reject=[6])
    assert adabldm("generate", run, "--data", data, "--out", copied, *GENERATE, "--replace-rejected").code == 0
    assert len(read_kept(copied)) == 6


def test_a_range_may_hold_images_that_were_deleted(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")
    (root / read_manifest(root)[2].image).unlink()
    assert curate(CurateSettings.create({"folder": root, "reject": ["1-3"]})).rejected == (1, 2, 3)
