"""Clusters of several nodes on this machine, for tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
pytest.importorskip("ray", reason="Ray is not installed; pip install 'adabldm[ray]'")

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
"""One core, and as little memory as Ray allows."""


@contextmanager
def cluster(nodes: int = 1) -> Iterator[Any]:
    """A head without cores, and nodes with one core each; skips the test where Ray cannot start."""
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    try:
        made = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
        for _ in range(nodes):
            made.add_node(**NODE)
    except Exception as error:
        pytest.skip(f"Ray does not start here, perhaps because the machine is busy: {error}")
    try:
        yield made
    finally:
        made.shutdown()
