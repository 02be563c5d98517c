"""Clusters of several nodes on this machine, for tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from ray_start import tell_ports
from spread_work import ILL

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")
os.environ.setdefault("RAY_agent_register_timeout_ms", "300000")
os.environ.setdefault("RAY_worker_niceness", "0")  # else they wait for all others on a busy machine
os.environ["RAY_AUTH_MODE"] = "disabled"  # whatever tokens the user of this machine has
pytest.importorskip("ray", reason="Ray is not installed; pip install 'adabldm[ray]'")
tell_ports()

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
"""One core, and as little memory as Ray allows."""

OPTIONS = {"metrics_agent_port": "dashboard_agent_grpc_port"}
"""Options of `ray start` with other names than the arguments of a node."""


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

    os.environ["PYTHONPATH"] = _module_path()
    made = Cluster()
    try:
        try:
            made.add_node(**NODE | {"num_cpus": 0}, **ports())
            for _ in range(nodes):
                add_node(made)
        except Exception as error:
            pytest.skip(f"Ray does not start here, perhaps because the machine is busy: {error}")
        yield made
    finally:
        made.shutdown()


@contextmanager
def ray_start(*options: str, variables: Mapping[str, str] | None = None, without: Path | None = None) -> Iterator[None]:
    """`ray start OPTIONS` as a user types it, until the end of the block; the node's processes end with it.

    Args:
        options: such as `--head`.
        variables: of its environment, beside those of this process.
        without: a folder whose contents it cannot see, as on a machine that lacks them; needs root on Linux.
    """
    ray = (sys.executable, str(Path(__file__).with_name("ray_start.py")), "start", "--block")
    small = ("--object-store-memory", str(NODE["object_store_memory"]), "--disable-usage-stats")
    own = [f"--{OPTIONS.get(name, name).replace('_', '-')}={port}" for name, port in ports().items()]
    command = [*ray, *small, *own, "--include-log-monitor=false", *options]
    if without is not None:
        if sys.platform != "linux" or os.geteuid() != 0:
            pytest.skip("a folder can only be hidden by root on Linux")
        hide = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", hide, str(without), *command]
    with tempfile.NamedTemporaryFile() as said:
        environment = {**os.environ, "PYTHONPATH": _module_path(), **(variables or {})}
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        try:
            _wait_for_start(process, Path(said.name))
            yield
        finally:
            process.terminate()
            process.wait()


def _wait_for_start(process: subprocess.Popen[bytes], said: Path) -> None:
    """Wait until `ray start` says that it is done; skips the test where it gives up."""
    end, text = time.monotonic() + 300, ""
    while "Ray runtime started" not in text:
        if process.poll() is not None or time.monotonic() > end:
            pytest.skip(f"Ray does not start here, perhaps because the machine is busy: {text[-500:]}")
        time.sleep(0.5)
        text = said.read_text(errors="replace")


def _module_path() -> str:
    """Where workers look for modules: beside those of this process, the work of the tests."""
    return os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])


def head_options() -> tuple[tuple[str, ...], str]:
    """Options of `ray start` for a head without cores, and its address."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    return ("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"), f"127.0.0.1:{port}"
