"""Records: what is written is read again, also what older and other versions wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adabldm.core.errors import InputError
from adabldm.core.names import check_defect_name
from adabldm.core.records import SCHEMA, ImageRecord, Rejection, RunCard, VersionedRecord, read_record, write_record
from adabldm.data.generated import read_manifest

OLD = Path(__file__).parent / "fixtures" / "schema0"
RECORD = ImageRecord(
    image="test/spot/000000.png", mask="ground_truth/spot/000000_mask.png", index=0, source="train/good/0.png",
    defect="spot", object="cloth", prompt="a spot", seed=1, preset="fast", adapt="poisson", model="none",
)  # fmt: skip


def names_a_folder(name: str) -> bool:
    try:
        check_defect_name(name)
    except InputError:
        return False
    return True


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
figures = st.none() | st.floats(allow_nan=False, allow_infinity=False)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
unknown = st.dictionaries(names.map("x_{}".format), plain_values, max_size=3)
rejections = st.builds(Rejection, attempt=st.integers(0, 9), source=names, reason=names)
images = st.builds(
    lambda more, **fields: ImageRecord(**fields, **more),
    unknown,
    image=names,
    mask=names,
    index=st.integers(0, 10**9),
    source=names,
    defect=names,
    object=names,
    prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    seed=st.integers(-(2**63), 2**63),
    attempt=st.none() | st.integers(0, 9),
    preset=names,
    adapt=names,
    background_psnr=figures,
    seam=figures,
    contrast=figures,
    accepted=st.none() | st.booleans(),
    rejected=st.lists(rejections, max_size=2).map(tuple),
    shape=st.none() | names,
    window=st.none() | st.tuples(st.integers(), st.integers(), st.integers(1)),
    model=names,
)
words = names.filter(str.isprintable)
cards = st.builds(
    lambda more, **fields: RunCard(**fields, **more),
    unknown,
    object_name=words,
    defects=st.lists(names.filter(names_a_folder), max_size=3, unique=True).map(tuple),
    base=words,
    resolution=st.integers(8, 8192),
    foreground=st.sampled_from(["auto", "grabcut", "texture", "folder"]),
    preset=words,
    files=st.none() | st.just({"unet/config.json": "0" * 64}),
    settings=st.dictionaries(names, plain_values, max_size=3),
)


@given(images)
def test_a_line_holds_the_whole_record(record: ImageRecord) -> None:
    line = record.line()
    assert "\n" not in line
    again = ImageRecord.parse(json.loads(line), "here")
    assert again == record
    assert again.line() == line  # unknown fields too


@given(cards)
def test_a_file_holds_the_whole_record(tmp_path_factory: pytest.TempPathFactory, card: RunCard) -> None:
    path = tmp_path_factory.getbasetemp() / "card.json"
    write_record(path, card)
    again = read_record(path, RunCard)
    assert again == card
    assert again.plain() == card.plain()
    assert json.loads(path.read_text(encoding="utf-8"))["schema"] == SCHEMA


@given(st.dictionaries(st.sampled_from(sorted(RECORD.plain())), plain_values, max_size=4), plain_values)
def test_wrong_types_are_a_sentence_and_never_a_traceback(changes: dict[str, Any], other: Any) -> None:
    for values in (RECORD.plain() | changes, other, changes):
        try:
            record = ImageRecord.parse(values, "m.jsonl, line 3", "remove the line")
        except InputError as error:
            (problem,) = error.problems
            assert problem.startswith("m.jsonl, line 3: ")
            assert problem.endswith(".")
            assert "remove the line" in problem or "update adabldm" in problem
        else:
            assert ImageRecord.parse(json.loads(record.line()), "here") == record


def test_the_order_of_a_lines_keys() -> None:
    assert list(RECORD.plain())[:4] == ["schema", "image", "mask", "index"]
    assert list(RECORD.plain())[-2:] == ["rejected", "model"]  # what does not apply is left out
    later = ImageRecord.parse({**RECORD.plain(), "cutter": None, "seam": None}, "here")
    assert later.plain() == {**RECORD.plain(), "cutter": None}


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        ImageRecord.parse({**RECORD.plain(), "schema": SCHEMA + 1}, "here")
    assert str(caught.value) == (
        f"here: schema {SCHEMA + 1} was found, this version of adabldm reads up to {SCHEMA}; update adabldm."
    )
    (tmp_path / "adabldm.json").write_text(f'{{"schema": {SCHEMA + 1}}}', encoding="utf-8")
    with pytest.raises(InputError, match=r"adabldm\.json: schema .* update adabldm"):
        read_record(tmp_path / "adabldm.json", RunCard)


def test_an_older_version_is_upgraded(tmp_path: Path) -> None:
    class Renamed(VersionedRecord):
        width: int

        @classmethod
        def upgrade(cls, values: dict[str, Any], version: int) -> dict[str, Any]:
            assert version == 0
            wide = values.pop("wide")
            return super().upgrade({**values, "width": wide}, version)

    (tmp_path / "a.json").write_text('{"wide": 3, "more": [1]}', encoding="utf-8")
    record = read_record(tmp_path / "a.json", Renamed)
    assert record.plain() == {"schema": SCHEMA, "width": 3, "more": [1]}


@pytest.mark.parametrize("content", [b"", b'{"object', b"[]", b"7", b"\xff\xfe", b"{}"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "adabldm.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"adabldm\.json: .*restore it or make it again"):
        read_record(path, RunCard)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_figures_that_are_not_finite_are_not_written(value: float) -> None:
    with pytest.raises(InputError, match="cannot be written as JSON"):
        RECORD.model_copy(update={"seam": value}).line()


CHANGE = {
    "contrast": 3, "visible": 30, "tone": -30, "share": 1, "edge": 9, "turned": [-1, 1, -1, 1], "shown": [0, 1, 0, 1]
}  # fmt: skip
FROM_NOISE = {"scale": 2.5, "visible": 0.9, "share": 0.8}
REDRAWN = {"start": 3, "area": False, "kept": 0.9, "alike": 0.95}


@pytest.mark.parametrize(
    ("field", "text"),
    [
        *(("turned", text) for text in ("[1e999, 0, 0, 0]", "[0, 1e308, 0, 0]", "[0, 0, 0]", "[0, 0, 0, null]")),
        *(("shown", text) for text in ("[-1e999, 1e999, -1e999, 1e999]", "[0, 0, 0, NaN]")),
        *((name, text) for name in ("contrast", "visible", "share", "edge") for text in ("-1", "1e999")),
        *(("tone", text) for text in ("1e9", "NaN", "[]")),
        *((name, text) for name in ("scale", "visible", "share") for text in ("-2", "1e9", "NaN", "1e999", "[]")),
        *((name, text) for name in ("kept", "alike") for text in ("1e9", "-1e999", "NaN", "null")),
        *(("start", text) for text in ("0", "1001", "1.5")),
        ("area", "7"),
    ],
)
def test_absurd_numbers_of_a_card_are_refused(tmp_path: Path, field: str, text: str) -> None:
    card = json.loads((OLD / "run" / "adabldm.json").read_text(encoding="utf-8"))
    card |= {"changes": {"spot": [CHANGE]}, "from_noise": [FROM_NOISE], "redrawn": [REDRAWN]}
    path = tmp_path / "adabldm.json"
    path.write_text(json.dumps(card), encoding="utf-8")
    read_record(path, RunCard)
    for name, one in (("changes", CHANGE), ("from_noise", FROM_NOISE), ("redrawn", REDRAWN)):
        if field in one:
            odd = json.dumps({**one, field: "odd"}).replace('"odd"', text)
            whole = {**card, name: {"spot": ["odd"]} if name == "changes" else ["odd"]}
            path.write_text(json.dumps(whole).replace('"odd"', odd), encoding="utf-8")
            with pytest.raises(InputError, match="restore it or make it again"):
                read_record(path, RunCard)


def test_a_card_holds_the_name_of_a_preset_with_many_changes() -> None:
    name = " ".join(["quick", *["control.learning_rate=0.0003"] * 20])
    card = json.loads((OLD / "run" / "adabldm.json").read_text(encoding="utf-8"))
    assert RunCard.parse({**card, "preset": name}, "card").preset == name


def test_scores_are_those_that_are_known() -> None:
    assert RECORD.scores == {}
    assert RECORD.model_copy(update={"seam": 1.5, "tone": 2.0}).scores == {"seam": 1.5}


# Files of the version before there were schema numbers


def test_an_old_card_opens() -> None:
    card = read_record(OLD / "run" / "adabldm.json", RunCard)
    assert (card.object_name, card.defects, card.resolution) == ("woven cloth", ("scratch", "spot"), 32)
    assert card.settings["domain"]["steps"] == 1
    assert card.version == SCHEMA


def test_old_manifests_open() -> None:
    records = read_manifest(OLD / "generated")
    assert list(records) == [0, 1, 2, 3]
    old = [json.loads(line) for line in (OLD / "generated" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record.plain() for record in records.values()] == [{"schema": SCHEMA, **line} for line in old]
    baseline = read_manifest(OLD / "evaluation" / "images" / "copy-paste")
    assert [(record.attempt, record.accepted) for record in baseline.values()] == [(None, None)] * 2
