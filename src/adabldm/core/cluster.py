"""Jobs on a Ray cluster: every worker loads what it needs once, and what was lost with a worker is done again.

The process that began the work keeps everything that matters; workers hold nothing that cannot be made again. A node
that comes later is given work, one that cannot do it is left out with a remark.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

from adabldm.core.errors import AdaBLDMError, InputError, ModelError, OutputError, portable
from adabldm.core.events import Listener, Note, ignore

Shared = TypeVar("Shared")
Job = TypeVar("Job")
Result = TypeVar("Result")

LOCAL, AUTO = "local", "auto"
"""Addresses: a cluster of this machine alone, which ends with the command; the one that this machine belongs to."""
AHEAD = 2
"""Jobs of a worker that are handed out before the first of them is back."""
MOST_DEATHS = 10
"""Workers that may die at the same job, or one after the other while they load on the same node."""
LOOK_SECONDS = 1.0
"""Between two looks for nodes that came or went."""
WAIT_SECONDS = 15.0
"""Without any worker, after which a remark says what is waited for."""
REACH_SECONDS = 5.0
"""That an address gets to answer."""
TOKEN = "If there is one, it may ask for a token: set RAY_AUTH_MODE=token here and copy ~/.ray/auth_token of its head"
"""What to do where a cluster does not say why it cannot be joined."""
MISSING = "AdaBLDM is not installed there; install it."
"""Why a node is left out whose workers cannot load it."""


@dataclass(frozen=True)
class Spread(Generic[Shared, Job, Result]):
    """Work for a cluster.

    Attributes:
        address: `LOCAL`, `AUTO`, or HOST:PORT of a cluster's head.
        make: loads what a worker needs, and gives the function that does a job; a function of a module.
        shared: what `make` is given; it can be pickled.
        cores: of each worker; so many threads compute in it.
        gpus: whether each worker has a GPU; `None`: if the cluster has any.
        name: of the work, for Ray's own pages.
    """

    address: str
    make: Callable[[Shared], Callable[[Job], Result]]
    shared: Shared
    cores: int = 1
    gpus: bool | None = None
    name: str = "adabldm"


@dataclass(frozen=True)
class _Failure:
    """An error of a worker, told as a result, so that it is not wrapped."""

    error: AdaBLDMError


class _Worker:
    """What runs in a process of the cluster."""

    def __init__(self, make: Callable[[Any], Callable[[Any], Any]], shared: Any, place: str, threads: int) -> None:
        self._make, self._shared, self._place, self._threads = make, shared, place, threads
        self._work: Callable[[Any], Any] | None = None

    def ready(self, versions: dict[str, str]) -> _Failure | None:
        """Load what the jobs need."""
        if versions != (own := _versions()):
            here = ", ".join(f"{name} {value}" for name, value in own.items() if versions[name] != value)
            there = ", ".join(f"{name} {value}" for name, value in versions.items() if own[name] != value)
            return _Failure(InputError(f"it has {here}, but the command runs with {there}; install the same there."))
        if Path(self._place).is_dir():  # so that relative paths mean the same, where the disks are shared
            os.chdir(self._place)

        def load() -> None:
            torch = sys.modules.get("torch")  # the module of `make` has imported it, if it computes with it
            if torch is not None:
                torch.set_num_threads(self._threads)
            self._work = self._make(self._shared)

        failure: _Failure | None = _told(load)
        return failure

    def work(self, job: Any) -> Any:
        """Do a job."""
        work = self._work
        assert work is not None
        return _told(lambda: work(job))


def _told(act: Callable[[], Any]) -> Any:
    """The result of a function, or the error that it ended with as a plain sentence that can be pickled."""
    try:
        return act()
    except AdaBLDMError as error:
        return _Failure(portable(error))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _Failure(OutputError(f"{place}{error.strerror or error}; free some space or mend the disk there."))


def _versions() -> dict[str, str]:
    """Of what decides the results: they must be the same everywhere."""
    return {"AdaBLDM": version("adabldm"), "PyTorch": version("torch").partition("+")[0]}


@contextmanager
def joined(address: str) -> Iterator[Any]:
    """Ray, as a part of a cluster while this is open; one that is joined already is kept.

    Raises:
        InputError: Ray is not installed, or there is no cluster of this version at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to others
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray: Ray is not installed; pip install 'adabldm[ray]'.") from error
    if ray.is_initialized():
        yield ray
        return
    _check_answers(address)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:
        ray.shutdown()  # what was begun
        words = " ".join(str(error).split())
        if "Version mismatch" in words:
            problem = f"the cluster has other versions ({words[:300]}); install the same ones here and there"
        elif address == LOCAL:
            problem = f"Ray could not be started here ({words[:200]}); try again when the machine is less busy"
        else:
            problem = f"no Ray cluster that could be joined ({words[:200]}); start one with `ray start --head`. {TOKEN}"
        raise InputError(f"--ray {address}: {problem}.") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Refuse an address at once where nobody listens: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in {LOCAL, AUTO}:
        return
    if not host or not port.isdecimal() or int(port) > 65535:
        raise InputError(f"--ray {address}: expected local, auto, or HOST:PORT of a cluster's head; correct it.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"--ray {address}: nobody answers there ({error.strerror or error}); check the address, or start a cluster "
            "with `ray start --head`."
        ) from error


def work_on_ray(
    spread: Spread[Shared, Job, Result], jobs: Sequence[Job], listen: Listener = ignore
) -> Iterator[tuple[Job, Result]]:
    """Do jobs on a cluster; each one's result comes once, in the order in which they are finished.

    Args:
        spread: the work.
        jobs: what is to be done; each can be pickled.
        listen: is told of nodes that are left out, and what is waited for.

    Raises:
        InputError: no cluster, or none of its nodes can do the work.
        OutputError: workers died again and again.
        ModelError: a job's numbers cannot be used.
    """
    with joined(spread.address) as ray:
        crew = _Crew(ray, spread, jobs, listen)
        try:
            yield from crew.results()
        finally:
            crew.end()


@dataclass(eq=False)
class _Member:
    """A worker as the process that began the work sees it."""

    actor: Any
    node: str
    ready: bool = False
    jobs: int = 0


@dataclass
class _Node:
    """What is known of a node."""

    name: str
    room: int = 0
    refused: str | None = None
    deaths: int = 0
    members: list[_Member] = field(default_factory=list)


class _Crew:
    """The workers of a cluster, and who does what."""

    def __init__(self, ray: Any, spread: Spread[Any, Any, Any], jobs: Sequence[Any], listen: Listener) -> None:
        self._ray, self._spread, self._listen = ray, spread, listen
        self._jobs = jobs
        self._open = deque(range(len(jobs)))
        self._left = len(jobs)
        self._deaths: Counter[int] = Counter()
        self._nodes: dict[str, _Node] = {}
        self._running: dict[Any, tuple[_Member, int | None]] = {}
        """What is waited for: a job by its number, or `None` for a worker that gets ready."""
        self._shared = ray.put(spread.shared)
        self._looked = float("-inf")
        self._idle_since: float | None = time.monotonic()

    def results(self) -> Iterator[tuple[Any, Any]]:
        """Every job with its result."""
        while self._left:
            self._look()
            self._hand_out()
            if not self._running:
                time.sleep(LOOK_SECONDS / 4)
                continue
            done, _ = self._ray.wait(list(self._running), timeout=LOOK_SECONDS)
            for reference in done:
                member, number = self._running.pop(reference)
                result = self._outcome(reference, member, number)
                if number is not None and result is not None:
                    self._left -= 1
                    yield self._jobs[number], result[0]

    def end(self) -> None:
        """Send all workers away."""
        for node in self._nodes.values():
            for member in node.members:
                self._ray.kill(member.actor, no_restart=True)

    # Workers

    def _look(self) -> None:
        """Find nodes that came, and engage workers where there is room."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        alive = [one for one in self._ray.nodes() if one["Alive"]]
        gpus = self._spread.gpus
        if gpus is None:
            gpus = any(one["Resources"].get("GPU", 0) >= 1 for one in alive)
        engaged = sum(len(node.members) for node in self._nodes.values())
        for one in alive:
            node = self._nodes.setdefault(one["NodeID"], _Node(one["NodeManagerAddress"]))
            room = node.room = self._room(one["Resources"], gpus=gpus)
            for _ in range(min(room - len(node.members), self._left - engaged) if node.refused is None else 0):
                self._engage(one["NodeID"], node, gpus=gpus)
                engaged += 1
        self._check_hope(alive, gpus=gpus)

    def _room(self, resources: Mapping[str, float], *, gpus: bool) -> int:
        """How many workers a node has room for when nobody else uses it."""
        room = int(resources.get("CPU", 0) // self._spread.cores)
        return min(room, int(resources.get("GPU", 0))) if gpus else room

    def _engage(self, identity: str, node: _Node, *, gpus: bool) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        spread = self._spread
        kind = self._ray.remote(_Worker).options(
            num_cpus=spread.cores,
            num_gpus=1 if gpus else 0,
            max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(identity, soft=False),
        )
        member = _Member(kind.remote(spread.make, self._shared, str(Path.cwd()), spread.cores), identity)
        node.members.append(member)
        self._running[member.actor.ready.options(name=f"{spread.name}: load").remote(_versions())] = member, None

    def _check_hope(self, alive: Sequence[Any], *, gpus: bool) -> None:
        """Refuse to wait where no node can do the work; remark on what is waited for."""
        known = [node for node in (self._nodes[one["NodeID"]] for one in alive) if node.room > 0]
        reasons = [f"{node.name}: {node.refused}" for node in known if node.refused is not None]
        if reasons and len(reasons) == len(known):
            raise InputError(f"--ray {self._spread.address}: no node can do the work: {reasons[-1]}")
        if any(member.ready for node in known for member in node.members):
            self._idle_since = None
        elif self._idle_since is not None and time.monotonic() - self._idle_since > WAIT_SECONDS:
            what = "a GPU" if gpus else f"{self._spread.cores} free cores"
            self._listen(Note(f"--ray {self._spread.address}: still waiting for a node with {what} to get ready."))
            self._idle_since = None

    def _dismiss(self, member: _Member) -> None:
        members = self._nodes[member.node].members
        if member in members:
            members.remove(member)
            self._ray.kill(member.actor, no_restart=True)

    def _refuse(self, member: _Member, reason: str) -> None:
        """Leave the node of a worker out."""
        node = self._nodes[member.node]
        if node.refused is None:
            node.refused = reason
            self._listen(Note(f"--ray {self._spread.address}: node {node.name} is left out: {reason}"))
        for one in list(node.members):
            self._dismiss(one)
        self._looked = float("-inf")

    # Jobs

    def _hand_out(self) -> None:
        ready = [one for node in self._nodes.values() for one in node.members if one.ready and one.jobs < AHEAD]
        for level in range(AHEAD):
            for member in ready:
                if self._open and member.jobs <= level:
                    number = self._open.popleft()
                    member.jobs += 1
                    act = member.actor.work.options(name=f"{self._spread.name}: {number}")
                    self._running[act.remote(self._jobs[number])] = member, number

    def _outcome(self, reference: Any, member: _Member, number: int | None) -> tuple[Any] | None:
        """The result of a job, in a tuple; `None` if there is none and it is to be done again, or for no job."""
        member.jobs -= number is not None
        try:
            result = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if "failed to import on the worker" not in str(error):
                raise getattr(error, "cause", None) or error from None
            self._give_back(number)
            self._refuse(member, MISSING)
            return None
        except self._ray.exceptions.RayError as error:
            self._lost(member, number, error)
            return None
        if isinstance(result, _Failure):
            self._give_back(number)
            if isinstance(result.error, ModelError):
                raise result.error
            self._refuse(member, str(result.error))
            return None
        self._nodes[member.node].deaths = 0
        if number is None:
            member.ready = True
        return (result,)

    def _lost(self, member: _Member, number: int | None, error: Exception) -> None:
        """A worker died, or its result was lost with its node."""
        self._give_back(number)
        exceptions = self._ray.exceptions
        words = " ".join(str(error).split())
        if isinstance(error, exceptions.OutOfDiskError) or "No space left on device" in words:
            self._refuse(member, "its disk is full; free some space there.")
        elif "ModuleNotFoundError" in words:
            self._refuse(member, MISSING)
        elif number is None and member in self._nodes[member.node].members:
            node = self._nodes[member.node]
            node.deaths += 1
            if node.deaths >= MOST_DEATHS:
                self._refuse(member, "its workers were killed while they loaded, perhaps because memory was short.")
        if number is not None and isinstance(error, exceptions.ActorDiedError):
            self._deaths[number] += 1
            if self._deaths[number] >= MOST_DEATHS:
                raise OutputError(
                    f"--ray {self._spread.address}: {MOST_DEATHS} workers were killed at the same job, perhaps because "
                    "memory was short; what is finished stays. Run the same command again, with a larger --ray-cores."
                )
        if not isinstance(error, exceptions.ObjectLostError):
            self._dismiss(member)

    def _give_back(self, number: int | None) -> None:
        if number is not None:
            self._open.appendleft(number)
