"""A generated folder under reruns, decisions, deletions and exports in any order."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from conftest import GENERATE, contents, manifest, run_command
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from adabldm.core.images import TEMPORARY
from adabldm.core.settings import CurateSettings
from adabldm.data.decisions import read_decisions, rejected_indices
from adabldm.data.generated import read_kept, read_manifest
from adabldm.workflows.curate import curate

COUNT = 6
INDICES = st.integers(0, COUNT + 1)


def test_nothing_rejected_comes_back_and_files_agree(generated: Path, run: Path, data: Path, tmp_path: Path) -> None:
    folders = (tmp_path / str(number) for number in itertools.count())

    class Folder(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.place = next(folders)
            self.root = Path(shutil.copytree(generated, self.place / "images"))
            self.decided: dict[int, str] = {}
            self.bytes: dict[str, bytes] = {}
            self.exports = 0

        @rule(index=INDICES, decision=st.sampled_from(["reject", "reject", "keep"]))
        def decide(self, index: int, decision: str) -> None:
            if index in read_manifest(self.root) or index in self.decided:
                curate(CurateSettings.create({"folder": self.root, decision: [index]}))
                self.decided[index] = decision

        @rule(index=INDICES, mask=st.booleans())
        def delete(self, index: int, mask: bool) -> None:
            record = read_manifest(self.root).get(index)
            if record is not None:
                (self.root / (record.mask if mask else record.image)).unlink()

        @rule(option=st.sampled_from(["", "--replace-rejected", "--restore-deleted", "--count=3"]), torn=st.booleans())
        def generate(self, option: str, torn: bool) -> None:
            before = read_manifest(self.root)
            if torn:  # as if an earlier run had been killed while it wrote a line and an image
                with (self.root / "manifest.jsonl").open("ab") as file:
                    file.write(b'{"image": "train/sc')
                (self.root / "train" / f"{TEMPORARY}77").write_bytes(b"half")
            options = (option,) if option else ()
            assert run_command("generate", run, "--data", data, "--out", self.root, *GENERATE, *options) == 0
            after, rejected = read_manifest(self.root), rejected_indices(self.root)
            assert before.items() <= after.items()
            assert (after.keys() - before.keys()) & rejected == set()  # what is away and rejected stays away
            assert option != "--replace-rejected" or len(read_kept(self.root)) >= COUNT

        @rule(to=st.sampled_from(["coco", "mvtec"]))
        def export(self, to: str) -> None:
            self.exports += 1
            out = self.place / f"export {self.exports}"
            code = run_command("export", self.root, "--to", to, "--out", out, "--quiet")
            kept = read_kept(self.root)
            assert code == (0 if kept else 2)
            masks = out / "ground_truth"
            images = [path for path in out.rglob("*.png") if not path.is_relative_to(masks)]
            assert sorted(int(path.stem) for path in images) == list(kept)

        @invariant()
        def manifest_and_files_agree(self) -> None:
            lines = {line["index"]: line for line in manifest(self.root)}
            assert len(lines) == len(manifest(self.root))
            whole = {
                index
                for index, line in lines.items()
                if all((self.root / line[key]).exists() for key in ("image", "mask"))
            }
            assert whole == read_manifest(self.root).keys()
            files = contents(self.root, without=["reports"])
            pictures = {name for name in files if name.endswith(".png") and not name.startswith("train/good/")}
            assert pictures <= {line[key] for line in lines.values() for key in ("image", "mask")}
            assert all(self.bytes.setdefault(name, files[name]) == files[name] for name in pictures)

        @invariant()
        def the_last_decisions_count(self) -> None:
            assert {index: one.decision for index, one in read_decisions(self.root).items()} == self.decided

        def teardown(self) -> None:
            shutil.rmtree(self.place)

    run_state_machine_as_test(
        Folder,
        settings=settings(
            max_examples=5, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )  # fmt: skip


def test_a_rejected_picture_without_its_mask_keeps_its_line(
    generated: Path, run: Path, data: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(generated, tmp_path / "images"))
    record = read_manifest(root)[0]
    curate(CurateSettings.create({"folder": root, "reject": [0]}))
    (root / record.mask).unlink()
    assert run_command("generate", run, "--data", data, "--out", root, *GENERATE) == 0
    assert [line["index"] for line in manifest(root)] == list(range(COUNT))
    assert (root / record.image).exists()
    assert 0 not in read_manifest(root)


def test_a_replacement_that_is_not_made_again_keeps_its_line(
    generated: Path, run: Path, data: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(generated, tmp_path / "images"))
    command = ("generate", run, "--data", data, "--out", root, *GENERATE)
    curate(CurateSettings.create({"folder": root, "reject": [0]}))
    assert run_command(*command, "--replace-rejected") == 0
    record = read_manifest(root)[COUNT]
    pixels = (root / record.image).read_bytes()
    (root / record.mask).unlink()
    assert run_command(*command) == 0  # without replacements, so that it is not asked for
    assert [line["index"] for line in manifest(root)] == list(range(COUNT + 1))
    assert (root / record.image).exists()
    assert COUNT not in read_manifest(root)
    assert run_command(*command, "--replace-rejected") == 0
    assert read_manifest(root)[COUNT] == record
    assert (root / record.image).read_bytes() == pixels
