"""Files of every version that wrote a schema open; those of a later version are refused with a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Adabldm, contents

from adabldm.core.errors import InputError
from adabldm.core.records import SCHEMA, CellRecord, EvaluationReport, ImagesRecord, RunCard, read_record
from adabldm.data.claim import claim
from adabldm.data.decisions import rejected_indices
from adabldm.data.generated import read_kept, read_manifest
from adabldm.models.store import read_card

FIXTURES = Path(__file__).parent / "fixtures"
WITH_SCHEMA = sorted(path for path in FIXTURES.iterdir() if path.name != "schema0")


@pytest.fixture(params=WITH_SCHEMA, ids=lambda path: path.name)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Files of one version, to be changed by a test."""
    return Path(shutil.copytree(request.param, tmp_path / "old"))


def claim_again(folder: Path, name: str = "settings.json") -> None:
    """Go on in a folder with the settings that it has."""
    values = json.loads((folder / name).read_text(encoding="utf-8"))
    own = {key: value for key, value in values.items() if key not in ("schema", "command")}
    with claim(folder, own, values["command"], name=name):
        pass


def test_every_file_of_a_version_opens(old: Path) -> None:
    card = read_card(old / "run")
    assert (card.object_name, card.defects, card.resolution) == ("woven cloth", ("scratch", "spot"), 32)
    assert len(card.files or {}) > 10
    assert len(card.appearance or ()) == 3
    assert list(read_manifest(old / "generated")) == [0, 1, 2, 3]
    assert rejected_indices(old / "generated") == {1}
    assert list(read_kept(old / "generated")) == [0, 2, 3]
    report = read_record(old / "evaluation" / "evaluation.json", EvaluationReport)
    assert report.settings.conditions == ("real", "copy-paste", "adabldm:fast")
    for path in (old / "evaluation" / "cells").glob("*.json"):
        assert read_record(path, ImagesRecord if path.name.startswith("images-") else CellRecord).version == SCHEMA
    for folder, name in (("run", "fit.json"), ("generated", "settings.json"), ("evaluation", "settings.json")):
        before = contents(old / folder)
        claim_again(old / folder, name)
        assert contents(old / folder) == before


def test_commands_go_on_with_old_folders(adabldm: Adabldm, old: Path, tmp_path: Path) -> None:
    assert adabldm("curate", old / "generated", "--keep", "1").code == 0
    result = adabldm("export", old / "generated", "--to", "coco", "--out", tmp_path / "coco")
    assert result.code == 0, result.err
    assert len(list((tmp_path / "coco").rglob("*.png"))) >= 4


def later(path: Path) -> None:
    lines = path.read_text(encoding="utf-8")
    many = lines.splitlines() if path.suffix == ".jsonl" else [lines]
    values = [{**json.loads(line), "schema": SCHEMA + 1} for line in many]
    path.write_text("".join(json.dumps(one) + "\n" for one in values), encoding="utf-8")


OPENERS: dict[str, Callable[[Path], object]] = {
    "run/adabldm.json": lambda old: read_card(old / "run"),
    "run/fit.json": lambda old: claim_again(old / "run", "fit.json"),
    "generated/manifest.jsonl": lambda old: read_manifest(old / "generated"),
    "generated/decisions.jsonl": lambda old: read_kept(old / "generated"),
    "generated/settings.json": lambda old: claim_again(old / "generated"),
    "evaluation/settings.json": lambda old: claim_again(old / "evaluation"),
    "evaluation/evaluation.json": lambda old: read_record(old / "evaluation" / "evaluation.json", EvaluationReport),
    "evaluation/cells/unet-real-0.json": lambda old: read_record(
        old / "evaluation" / "cells" / "unet-real-0.json", CellRecord
    ),
}


@pytest.mark.parametrize("name", OPENERS)
def test_files_of_a_later_version_are_refused(old: Path, name: str) -> None:
    later(old / name)
    before = contents(old)
    with pytest.raises(InputError) as caught:
        OPENERS[name](old)
    for problem in caught.value.problems:
        assert problem.startswith(str(old / name))
        assert f"schema {SCHEMA + 1}" in problem
        assert "update adabldm" in problem
        assert problem.endswith(".")
    assert contents(old) == before


def test_unknown_fields_of_a_card_are_kept(old: Path) -> None:
    """A later version of the same schema may add some; a step back loses nothing."""
    path = old / "run" / "adabldm.json"
    values = {**json.loads(path.read_text(encoding="utf-8")), "colour": {"of": "cloth"}}
    assert RunCard.parse(values, "card").plain()["colour"] == {"of": "cloth"}
