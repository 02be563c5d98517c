"""Work on a Ray cluster: the same bytes as one process, and a sentence for what cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import GENERATE, Adabldm, contents
from ray_cluster import NODE, cluster


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    with cluster() as made:
        yield made


def test_a_cluster_makes_the_same_bytes(
    adabldm: Adabldm, nodes: Any, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "images"
    options = ("generate", run, "--data", data, "--out", out, *GENERATE)
    assert adabldm(*options, "--ray", nodes.address).code == 0
    assert contents(out) == contents(generated)


def test_an_address_where_nobody_answers(adabldm: Adabldm, run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "images"
    options = ("generate", run, "--data", data, "--out", out, *GENERATE)
    for address, words in (("127.0.0.1:1", "nobody answers"), ("head", "HOST:PORT")):
        result = adabldm(*options, "--ray", address)
        assert result.code == 2
        assert f"--ray {address}" in result.err
        assert words in result.err
    result = adabldm(*options, "--workers", 2, "--ray")
    assert result.code == 2
    assert "--ray: given beside --workers" in result.err
