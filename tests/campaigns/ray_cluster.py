"""Clusters of several nodes on this machine, for tests."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from spread_work import ILL

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
pytest.importorskip("ray", reason="Ray is not installed; pip install 'adabldm[ray]'")

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
"""One core, and as little memory as Ray allows."""


def ports() -> dict[str, int]:
    """Free ports for a node's helpers: with them a node does not wait for these, which takes long on a busy machine."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in names]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return {name: int(one.getsockname()[1]) for name, one in zip(names, sockets, strict=True)}


def add_node(made: Any, ill: str | None = None, modules: Path | None = None) -> Any:
    """Another node with one core.

    Args:
        made: the cluster.
        ill: says what is wrong with it, see `spread_work`.
        modules: a folder whose modules its processes find before all others.
    """
    variables = {} if ill is None else {ILL: ill}
    if modules is not None:
        variables["PYTHONPATH"] = os.pathsep.join([str(modules), os.environ["PYTHONPATH"]])
    return made.add_node(**NODE, **ports(), env_vars=variables)


def say_other_versions(made: Any, changed: dict[str, str]) -> None:
    """Let a cluster say that it was started with other versions, as one does whose head has them."""
    from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
    from ray._raylet import GcsClient

    client, key = GcsClient(address=made.address), b"CLUSTER_METADATA"
    found = json.loads(client.internal_kv_get(key, KV_NAMESPACE_CLUSTER)) | changed
    client.internal_kv_put(key, json.dumps(found).encode(), True, KV_NAMESPACE_CLUSTER)


@contextmanager
def cluster(nodes: int = 1) -> Iterator[Any]:
    """A head without cores, and nodes with one core each; skips the test where Ray cannot start."""
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    try:
        made = Cluster(initialize_head=True, head_node_args={**NODE, **ports(), "num_cpus": 0})
        for _ in range(nodes):
            add_node(made)
    except Exception as error:
        pytest.skip(f"Ray does not start here, perhaps because the machine is busy: {error}")
    try:
        yield made
    finally:
        made.shutdown()
