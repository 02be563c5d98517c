"""A cluster on this machine makes the bytes of one process, whatever dies, comes late or cannot work."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest
from campaign import SEED, row, size
from conftest import GENERATE, Adabldm, SmallDisk, cells, contents, kill_when, run_command
from fabricate import write_data_set
from ray_cluster import add_node, cluster, head_options, ray_start, say_other_versions
from spread_work import DISK, squares

from adabldm.core.cluster import Spread, work_on_ray
from adabldm.core.errors import InputError, ModelError
from adabldm.core.events import Event, Note

MANY = ("--count", "24", "--batch-size", "2", "--quiet")
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    with cluster(2) as made:
        yield made


def test_a_cluster_makes_the_same_bytes(
    adabldm: Adabldm, nodes: Any, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "images"
    options = ("generate", run, "--data", data, "--out", out, *GENERATE)
    assert adabldm(*options, "--ray", nodes.address).code == 0
    assert contents(out) == contents(generated)


def _modules(place: Path) -> Iterator[Path]:
    """Folders whose modules a node finds first: one hides AdaBLDM, one says that it is another version."""
    hidden = place / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['adabldm'] = None\n", encoding="utf-8")
    yield hidden
    other = place / "other" / "adabldm-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: adabldm\nVersion: 0.0.1\n", encoding="utf-8")
    yield other.parent


def test_nodes_that_cannot_work_are_left_out(nodes: Any, tmp_path: Path) -> None:
    ill = [add_node(nodes, what) for what in ("files", "disk")]
    ill += [add_node(nodes, modules=module) for module in _modules(tmp_path)]
    said: list[str] = []

    def listen(event: Event) -> None:
        said.append(event.text if isinstance(event, Note) else "")

    spread = Spread(nodes.address, squares, 1.0)
    try:
        found = list(work_on_ray(spread, range(40), listen))
    finally:
        for one in ill:
            nodes.remove_node(one)
    assert sorted(number for number, _ in found) == list(range(40))
    assert all(result[0] == number**2 for number, result in found)
    assert sorted(text.partition("left out: ")[2] for text in said if "left out" in text) == [
        "/tmp/cell: No space left on device; free some space or mend the disk there.",
        "AdaBLDM is not installed there; install it.",
        f"it has AdaBLDM 0.0.1, but the command runs with AdaBLDM {version('adabldm')}; install the same there.",
        "runs/parts: no such run; copy it there.",
    ]
    with pytest.raises(ModelError, match="not finite"):
        list(work_on_ray(spread, [1, -1]))


def test_a_node_whose_disk_is_full_is_left_out(small_disk: Callable[[str], SmallDisk]) -> None:
    place, said = small_disk("320k").place, list[str]()

    def listen(event: Event) -> None:
        said.append(event.text if isinstance(event, Note) else "")

    head, address = head_options()
    ill = {DISK: str(place)}
    with (
        ray_start(*head),
        ray_start(f"--address={address}", "--num-cpus=1"),
        ray_start(f"--address={address}", "--num-cpus=1", variables=ill),
    ):
        found = list(work_on_ray(Spread(address, squares, 0.5), range(40), listen))
    assert sorted(number for number, _ in found) == list(range(40))
    full = [text.partition("left out: ")[2] for text in said if "left out" in text]
    assert len(full) == 1
    assert "No space left on device; free some space or mend the disk there." in full[0]
    assert any(path.stat().st_size == 2**16 for path in place.iterdir()), "it worked before"


def test_a_node_that_lacks_the_run(adabldm: Adabldm, run: Path, data: Path, generated: Path, tmp_path: Path) -> None:
    mine, out = tmp_path / "run", tmp_path / "images"
    shutil.copytree(run, mine)
    options = ("generate", mine, "--data", data, "--out", out, *GENERATE)
    head, address = head_options()
    with ray_start(*head), ray_start(f"--address={address}", "--num-cpus=1", without=mine):
        refused = adabldm(*options, "--ray", address)
        assert refused.code == 2
        assert "no node can do the work" in refused.err
        assert str(mine) in refused.err
        with ray_start(f"--address={address}", "--num-cpus=1"):
            result = adabldm(*options, "--ray", address)
            assert result.code == 0, result.err
            assert "is left out" in result.err
    assert contents(out, without=["settings.json"]) == contents(generated, without=["settings.json"])


def test_a_cluster_that_asks_for_a_token(run: Path, data: Path, generated: Path, tmp_path: Path) -> None:
    out, token = tmp_path / "images", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    head, address = head_options()
    command = [sys.executable, "-m", "adabldm", "generate", run, "--data", data, "--out", out, *GENERATE]

    def generate(**variables: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
        arguments = [*map(str, command), "--ray", address]
        return subprocess.run(arguments, capture_output=True, text=True, check=False, env={**environment, **variables})

    with (
        ray_start(*head, variables=token),
        ray_start(f"--address={address}", "--num-cpus=1", variables=token),
    ):
        refused = generate()
        assert refused.returncode == 2, refused.stderr
        assert "set RAY_AUTH_MODE=token here" in refused.stderr
        assert not list(out.glob("ground_truth/*/*.png"))
        result = generate(**token)
        assert result.returncode == 0, result.stderr
    assert contents(out) == contents(generated)


def test_a_node_that_comes_late_works_too(nodes: Any) -> None:
    working = work_on_ray(Spread(nodes.address, squares, 1.0), range(60))
    found = [next(working)]
    late = add_node(nodes)
    found += working
    nodes.remove_node(late)
    assert sorted(number for number, _ in found) == list(range(60))
    assert len({process for _, (_, process) in found}) == 3


def test_a_node_whose_clock_is_off_works_too(
    adabldm: Adabldm, run: Path, data: Path, generated: Path, tmp_path: Path
) -> None:
    off = tmp_path / "off"
    off.mkdir()
    shift = "import time\nnow = time.time\ntime.time = lambda: now() - 1e6\n"
    (off / "sitecustomize.py").write_text(shift, encoding="utf-8")
    out = tmp_path / "images"
    with cluster(0) as made:
        add_node(made, modules=off)
        options = ("generate", run, "--data", data, "--out", out, *GENERATE)
        assert adabldm(*options, "--ray", made.address).code == 0
    assert contents(out) == contents(generated)


def test_no_node_can_work_and_other_versions() -> None:
    with cluster(0) as made:
        add_node(made, "files")
        spread = Spread(made.address, squares, 0.0)
        with pytest.raises(InputError, match="no node can do the work: .*no such run"):
            list(work_on_ray(spread, range(4)))
        for name, other in (("ray_version", "2.0.0"), ("python_version", "3.8.1")):
            say_other_versions(made, {name: other})
            with pytest.raises(InputError, match=f"other versions .*{other}.*; install the same"):
                list(work_on_ray(spread, range(4)))


def test_workers_nodes_and_the_command_are_killed(
    run: Path, data: Path, tmp_path: Path, record_property: Record
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    options = ("generate", run, "--data", data, *MANY)
    assert run_command(*options, "--out", whole) == 0
    rng, counts = random.Random(SEED), Counter[str]()
    for _ in range(size(1, 10)):
        with cluster(2) as made:
            command = (*options, "--out", out, "--ray", made.address)
            kill_when(lambda: len(list(out.glob("train/*/*.png"))) >= 4, *command)
            counts["commands killed"] += 1
            _go_on(made, command, rng, counts)
            counts["compared"] += 1
            assert contents(out) == contents(whole)
    record_property("campaign", row("kills on a cluster", counts))


def test_an_evaluation_is_that_of_one_process_whatever_is_killed(
    run: Path, tmp_path: Path, record_property: Record
) -> None:
    data, whole, out = tmp_path / "woven_cloth", tmp_path / "whole", tmp_path / "out"
    write_data_set(data, good=4, test=True)
    conditions = ("--condition", "real", "--condition", "copy-paste", "--condition", "adabldm:fast")
    sizes = ("--detector", "unet", "--seeds", 2, "--count", 2, "--detector-steps", 20, "--quiet")
    options = ("evaluate", "--data", data, "--run", run, *conditions, *sizes)
    assert run_command(*options, "--out", whole) == 0
    counts = Counter[str]()
    with cluster(2) as made:
        command = (*options, "--out", out, "--ray", made.address)
        kill_when(lambda: any((out / "cells").glob("unet-*.json")), *command)
        counts["commands killed"] += 1
        done = {path: path.stat().st_mtime_ns for path in (out / "cells").glob("*.json")}
        _go_on(made, command, random.Random(SEED), counts)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert cells(out) == cells(whole)
    assert len(cells(out)) == 2 * 3 + 2
    assert contents(out, without=["cells"]) == contents(whole, without=["cells"])
    record_property("campaign", row("kills of evaluate on a cluster", counts))


def _go_on(made: Any, command: tuple[object, ...], rng: random.Random, counts: Counter[str]) -> None:
    """Run the command to its end while a worker and a node are killed, and another node comes."""
    arguments = [sys.executable, "-m", "adabldm", *map(str, command)]
    nodes = [one for one in made.list_all_nodes() if one is not made.head_node]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 300
        while process.poll() is None and not (workers := _workers(made)) and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(rng.uniform(0, 6))
        if process.poll() is None and workers:
            for one in rng.sample(workers, 1):
                if one.is_running():
                    one.send_signal(signal.SIGKILL)
                    counts["workers killed"] += 1
        if process.poll() is None:
            made.remove_node(rng.choice(nodes), allow_graceful=False)
            counts["nodes killed"] += 1
            add_node(made)
            counts["nodes that came late"] += 1
        said = process.stderr.read() if process.stderr else ""
    assert process.returncode == 0, said


def _workers(made: Any) -> list[psutil.Process]:
    """The processes of our workers on this machine's clusters."""
    found = []
    for one in psutil.process_iter(["cmdline", "create_time"]):
        words = " ".join(one.info["cmdline"] or ())
        if words.startswith("ray::_Worker") and one.info["create_time"] > time.time() - 600:
            found.append(one)
    return found
