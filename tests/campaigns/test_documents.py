"""Run cards, manifests, settings and annotations with values changed at random: used, or refused by a sentence.

Hypothesis changes documents that are right, so that the damage lies deep inside them.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import fabricate_formats
import numpy as np
import pytest
import yaml
from campaign import SEED, row, size
from conftest import run_command
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from adabldm.core.changes import Expected, Seen, measure
from adabldm.core.errors import AdaBLDMError, InputError
from adabldm.core.records import Calibration, RunCard, read_record, write_record
from adabldm.core.settings.edit import ADAPTATIONS, PRESETS, EditPreset
from adabldm.core.settings.presets import edit_preset
from adabldm.data.decisions import read_decisions
from adabldm.data.formats import READERS, ReadOptions
from adabldm.data.generated import GeneratedFolder, read_kept
from adabldm.data.inspection import check_data_set
from adabldm.editing.look import settled
from adabldm.models.store import load_run
from adabldm.report.generated import GeneratedReport

Record = Callable[[str, object], None]
OLD = Path(__file__).resolve().parent.parent / "fixtures" / "schema0"
EXAMPLES = int(os.environ.get("ADABLDM_CAMPAIGN_DOCUMENTS", size(120, 10_000)))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

ODD = st.sampled_from(
    [None, True, False, 0, -1, 1, 1.5, -0.0, 1e9, 1e308, 2**31, 2**63, 2**64, 10**30, -(10**30), "", " ", ".", "..",
     "../../evil", "/etc/passwd", "good", "a/b", "a\\b", "a\0b", "\ud800", "x" * 300, "ä" * 120, "1", "NaN", [], {},
     [[]], [None], [1], ["a"], {"a": 1}, [-1, -1], [1e30, 1e30], [float("nan")], float("nan"), float("inf")]
)  # fmt: skip


def places(document: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Ways to all values inside a document."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [way, *(place for key, value in inner for place in places(value, (*way, key)))]


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """A document with one to three values replaced, removed, repeated, or put in other places."""
    found = {"": copy.deepcopy(document)}
    for _ in range(draw(st.integers(1, 3))):
        ways = places(found, ())[1:]
        way = ways[draw(st.integers(0, len(ways) - 1))]
        holder: Any = found
        for key in way[:-1]:
            holder = holder[key]
        kind = draw(st.sampled_from(["odd", "odd", "odd", "remove", "repeat", "swap", "wrap"]))
        if kind == "remove" and len(way) > 1:
            del holder[way[-1]]
        elif kind == "repeat" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[way[-1]]))
        elif kind == "swap":
            value: Any = found
            for key in ways[draw(st.integers(0, len(ways) - 1))]:
                value = value[key]
            holder[way[-1]] = copy.deepcopy(value)
        elif kind == "wrap":
            holder[way[-1]] = [holder[way[-1]]]
        else:
            holder[way[-1]] = copy.deepcopy(draw(ODD))  # a list may be changed by the next step
    return found[""]


def text_of(document: Any) -> bytes:
    return json.dumps(document).encode()


class Tally:
    """Counts what was used and what was refused."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.said: list[str] = []

    def __call__(self, read: Callable[[], object]) -> None:
        self.counts["documents"] += 1
        try:
            read()
            self.counts["used"] += 1
        except AdaBLDMError as error:
            self.counts["refused"] += 1
            self.said.append(str(error))
        while self.said:
            text = self.said.pop()
            assert text.strip()
            text.encode()


@pytest.fixture
def tally(request: pytest.FixtureRequest, record_property: Record) -> Any:
    found = Tally()
    yield found
    record_property("campaign", row(request.node.name.removeprefix("test_").replace("_", " "), found.counts))


def test_manifests(generated: Path, data: Path, tmp_path: Path, tally: Tally) -> None:
    mine = tmp_path / "images"
    shutil.copytree(generated, mine)
    path = mine / "manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    plain = json.loads((mine / "settings.json").read_text(encoding="utf-8"))
    inner = {key: value for key, value in plain.items() if key not in {"schema", "command"}}

    @seed(SEED)
    @fuzz
    @given(changed(lines))
    def check(document: Any) -> None:
        whole = document if isinstance(document, list) else [document]
        path.write_bytes(b"".join(text_of(line) + b"\n" for line in whole))

        def read() -> None:
            GeneratedReport(mine, data, "fuzz").write(read_kept(mine).values())
            with GeneratedFolder(mine).open(inner):
                pass

        tally(read)

    check()


def test_settings_of_folders(generated: Path, tmp_path: Path, tally: Tally) -> None:
    mine = tmp_path / "images"
    shutil.copytree(generated, mine)
    path = mine / "settings.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    inner = {key: value for key, value in before.items() if key not in {"schema", "command"}}
    old = {key: value for key, value in inner.items() if key != "split"}

    @seed(SEED)
    @fuzz
    @given(st.one_of(changed(before), changed(old)))
    def check(document: Any) -> None:
        path.write_bytes(text_of(document))

        def read() -> None:
            with GeneratedFolder(mine).open(inner):
                pass

        tally(read)

    check()


def test_decisions(tmp_path: Path, tally: Tally) -> None:
    lines = [{"schema": 1, "index": index, "decision": "reject", "note": "dark"} for index in range(3)]

    @seed(SEED)
    @fuzz
    @given(changed(lines))
    def check(document: Any) -> None:
        whole = document if isinstance(document, list) else [document]
        (tmp_path / "decisions.jsonl").write_bytes(b"".join(text_of(line) + b"\n" for line in whole))
        tally(lambda: read_decisions(tmp_path))

    check()


@pytest.mark.parametrize(
    "name", ["adabldm.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"]
)
def test_runs(run: Path, tmp_path: Path, tally: Tally, name: str) -> None:
    mine = tmp_path / "run"
    shutil.copytree(run, mine, ignore=shutil.ignore_patterns("logs", "checkpoints", "previews"))
    path = mine / name
    before = json.loads(path.read_text(encoding="utf-8"))

    @seed(SEED)
    @settings(fuzz, max_examples=max(10, EXAMPLES // 4))
    @given(changed(before))
    def check(document: Any) -> None:
        path.write_bytes(text_of(document))
        tally(lambda: load_run(mine))

    check()


CALIBRATION = {
    "changes": {
        "spot": [
            {"contrast": 9.5, "visible": 61.0, "tone": -60.5, "share": 1.0, "edge": 30.1, "brightness": 71.2,
             "turned": [-1.4, 0.3, -6.6, -2.9], "shown": [0.1, 1.0, 3.1, 6.7]},
            {"contrast": 7.1, "visible": 48.0, "tone": -47.5, "share": 0.9, "edge": 22.4, "brightness": 80.0,
             "turned": [-1.2, 0.1, -5.0, -2.2], "shown": [0.2, 0.9, 3.0, 6.1]},
        ]
    },
    "redrawn": [{"start": start, "area": start > 3, "kept": 0.9, "alike": 0.2 * start} for start in range(2, 6)],
    "from_noise": [{"scale": scale, "visible": 0.3 * scale, "share": 0.2 * scale} for scale in (1.5, 2.5, 4.0)],
}  # fmt: skip


def test_what_a_card_knows_of_real_defects(tmp_path: Path, tally: Tally) -> None:
    card = json.loads((OLD / "run" / "adabldm.json").read_text(encoding="utf-8"))
    path, side = tmp_path / "adabldm.json", 24
    pictures = np.random.default_rng(SEED).integers(0, 256, (2, side, side, 3), np.uint8)
    mask = np.zeros((side, side), np.bool_)
    mask[6:18, 8:16] = True
    seen = Seen(pictures[0], pictures[1], mask)
    change = measure(seen)

    @seed(SEED)
    @fuzz
    @given(changed(CALIBRATION))
    def check(document: Any) -> None:
        path.write_bytes(text_of({**card, **(document if isinstance(document, dict) else {"changes": document})}))

        def read() -> None:
            found = read_record(path, RunCard)
            write_record(tmp_path / "again.json", found)
            assert read_record(tmp_path / "again.json", RunCard) == found
            for name, preset in PRESETS.items():
                whole = settled(preset.changed(guidance=preset.guidance.changed(scale=None)), found.calibration)
                assert whole.guidance.scale is not None, name
                assert whole.look is None or None not in (whole.look.start, whole.look.detail), name
            for changes in found.changes.values():
                if changes:
                    real = Expected(changes)
                    figures = [real.fainter(change), real.softer(change), real.strange(seen)]
                    ranges = [*real.strengths(changes[0]), *real.tones(changes[0])]
                    assert np.isfinite([*figures, *ranges]).all()
                    assert ranges[0] <= 1 <= ranges[1]

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tally(read)

    check()


PRESET = {**PRESETS["fast"].plain(), "name": "mine"}


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_preset_files(tmp_path: Path, tally: Tally, adaptation: str) -> None:
    path = tmp_path / "mine.json"
    before = {**PRESET, "adaptation": ADAPTATIONS[adaptation]().plain()}

    @seed(SEED)
    @settings(fuzz, max_examples=max(10, EXAMPLES // 4))
    @given(changed(before))
    def check(document: Any) -> None:
        path.write_bytes(text_of(document))

        def read() -> None:
            preset = settled(edit_preset(str(path)), Calibration())
            assert EditPreset.create(json.loads(text_of(preset.plain()))) == preset
            assert preset.look is None or 1 <= (preset.look.start or 0) < preset.plan.steps
            assert preset.name.isprintable()

        tally(read)

    check()


SETTINGS = {
    "generate": {
        "count": 3,
        "seed": 1,
        "set": ["look.strengths=0.8,1.2"],
        "limits": {"max_seam": 3.0},
        "masks": "bank",
    },
    "fit": {"set": ["control.learning_rate=1e-4"], "shots": 2, "object": "cloth", "preset": "quick"},
}


@pytest.mark.parametrize("suffix", [".json", ".toml", ".yaml"])
@pytest.mark.parametrize("command", SETTINGS)
def test_settings_files(
    tmp_path: Path, tally: Tally, command: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"settings{suffix}"

    @seed(SEED)
    @settings(fuzz, max_examples=max(10, EXAMPLES // 4))
    @given(changed(SETTINGS[command]))
    def check(document: Any) -> None:
        text = json.dumps(document)
        if suffix == ".yaml":
            text = yaml.safe_dump(json.loads(text.replace("NaN", "1e999")), allow_unicode=False)
        elif suffix == ".toml":
            pairs = document.items() if isinstance(document, dict) else ()
            text = "".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in pairs)
        path.write_text(text, encoding="utf-8")
        more = ("run", "--data", tmp_path / "no") if command == "generate" else (tmp_path / "no",)
        tally.counts["documents"] += 1
        assert run_command(command, *more, "--out", tmp_path / "out", "--config", path) == 2
        said = capsys.readouterr().err
        assert said.startswith("adabldm: ")
        tally.counts["refused"] += 1

    check()


def annotated(root: Path, name: str) -> list[Path]:
    """Write the shared pictures in a layout; returns its annotation files."""
    getattr(fabricate_formats, name)(root)
    wanted = {".json", ".xml", ".txt", ".yaml", ".csv"}
    return sorted(path for path in root.rglob("*") if path.suffix in wanted)


def damage_text(text: str, draw: st.DrawFn) -> str:
    """A text or table with words replaced."""
    words = text.split(" ")
    for _ in range(draw(st.integers(1, 3))):
        odd = draw(ODD)
        words[draw(st.integers(0, len(words) - 1))] = (
            odd.encode(errors="replace").decode() if isinstance(odd, str) else str(odd)
        )
    return " ".join(words)


def damage_xml(text: str, draw: st.DrawFn) -> str:
    root = ElementTree.fromstring(text)
    nodes = [node for node in root.iter() if node is not root]
    node = nodes[draw(st.integers(0, len(nodes) - 1))]
    if draw(st.booleans()):
        odd = str(draw(ODD)).encode("ascii", "replace").decode().replace("\0", "")
        node.text = odd
    else:
        for parent in root.iter():
            if node in list(parent):
                parent.remove(node)
    return ElementTree.tostring(root, encoding="unicode")


@st.composite
def damaged_file(draw: st.DrawFn, path: Path, text: str) -> str:
    if path.suffix == ".json":
        return json.dumps(draw(changed(json.loads(text))))
    return damage_xml(text, draw) if path.suffix == ".xml" else damage_text(text, draw)


@pytest.mark.parametrize("name", ["coco", "labelme", "yolo", "voc"])
def test_annotations(tmp_path: Path, tally: Tally, name: str) -> None:
    root = tmp_path / "parts"
    files = annotated(root, name)
    assert files
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    known = next(reader for reader in READERS if reader.startswith(name))

    @seed(SEED)
    @settings(fuzz, max_examples=max(20, EXAMPLES // 3))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(files))
        path.write_bytes(data.draw(damaged_file(path, texts[path])).encode("utf-8", "surrogatepass"))

        def read() -> None:
            for options in (ReadOptions(), ReadOptions(format=known, boxes="grabcut")):
                found = check_data_set(root, options)
                for text in (*found.problems, *found.data_set.notes):
                    text.encode()
                if found.problems:
                    raise InputError(found.problems)

        try:
            tally(read)
        finally:
            path.write_text(texts[path], encoding="utf-8")

    check()
