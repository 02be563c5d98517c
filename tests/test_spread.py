"""Work for clusters and teams of processes: what can be checked without starting any. See `tests/campaigns`."""

import sys
from pathlib import Path

import pytest
from conftest import GENERATE, Adabldm
from fabricate import write_data_set
from hypothesis import given
from hypothesis import strategies as st

from adabldm.training.team import Team


def test_an_address_where_nobody_answers(adabldm: Adabldm, run: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    options = ("generate", run, "--data", data, "--out", tmp_path / "images", *GENERATE)
    for address, words in (("127.0.0.1:1", "nobody answers"), ("head", "HOST:PORT")):
        result = adabldm(*options, "--ray", address)
        assert result.code == 2
        assert f"--ray {address}" in result.err
        assert words in result.err


def test_evaluate_refuses_an_address_before_anything_is_made(adabldm: Adabldm, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    data, out = write_data_set(tmp_path / "woven_cloth", good=4, test=True), tmp_path / "out"
    result = adabldm("evaluate", "--data", data, "--out", out, "--condition", "copy-paste", "--ray", "127.0.0.1:1")
    assert result.code == 2
    assert "nobody answers" in result.err
    assert not out.exists()


def test_ray_that_is_not_installed(
    adabldm: Adabldm, run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # so that its import fails
    options = ("generate", run, "--data", data, "--out", tmp_path / "images", *GENERATE, "--ray")
    result = adabldm(*options)
    assert result.code == 2
    assert "pip install 'adabldm[ray]'" in result.err
    beside = adabldm(*options, "--workers", 2)
    assert beside.code == 2
    assert "--ray: given beside --workers" in beside.err


def test_more_gpus_than_there_are(adabldm: Adabldm, data: Path, tmp_path: Path) -> None:
    result = adabldm("fit", data, "--out", tmp_path / "run", "--gpus", 200, "--device", "cuda")
    assert result.code == 2
    assert "--gpus: 200 was given" in result.err
    assert not (tmp_path / "run").exists()


@given(size=st.integers(1, 9), batch=st.integers(0, 30))
def test_a_team_shares_out_everything_once(size: int, batch: int) -> None:
    parts = [Team(rank, size).part(range(batch)) for rank in range(size)]
    assert sorted(place for part in parts for place in part) == list(range(batch))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
