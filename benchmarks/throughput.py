"""Images an hour against workers, what the one writer takes from many nodes, and where `generate` spends its time.

    python benchmarks/throughput.py --workers 1 2 [--ray] [--count 200] [--run magnetic-tile] [--data FOLDER]
    python benchmarks/throughput.py --nodes 8 64 [--ray] [--images 2000] [--side 256] [--service 2.56]
    python benchmarks/throughput.py --profile [--device cuda | --edit-seconds 0.036] [--threads 8] [--count 200]
    python benchmarks/throughput.py --draw FILE.svg --figures FILE.jsonl

Every figure is a line of JSON on standard output, with the load of the machine; `--draw` makes a plot of such lines.

The first form runs `generate --workers N` on the pictures of `adabldm demo`, or on a data set, and prints images an
hour, from the first batch to the last, and the memory of a worker; with `--ray` the workers are those of a cluster on
this machine.

The second one simulates nodes: each hands over a batch of 8 finished images of real size (the bytes of their files)
after every `--service` seconds, to the writer of `generate`. With `--ray` a node is an actor of its own, and the
results come through Ray and through the code that gives out the jobs; else a node is a thread. Printed is what the
process of the command takes, and its memory at each tenth without what it shares with others.

The third one runs `generate` in one process and prints the seconds that each part takes in all threads together, and
how long the main thread, which feeds the processor or the GPU, waits for others. With `--edit-seconds` there is no
model: the real defect is pasted, and each image takes as long as an edit on a GPU would, so that a machine without one
shows what everything around the edits can keep up with.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial, partialmethod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil

from adabldm.core.cluster import LOCAL, Spread, work_on_ray
from adabldm.core.images import image_bytes
from adabldm.core.records import ImageRecord
from adabldm.core.scores import score
from adabldm.core.settings import GenerateSettings
from adabldm.core.settings.common import WindowMode
from adabldm.core.settings.edit import EditPreset
from adabldm.data.generated import GeneratedFolder
from adabldm.editing.cut import cut_window
from adabldm.editing.editor import Edited, EditJob, Editor
from adabldm.production.results import Encoded
from adabldm.production.sink import WRITERS, Sink
from adabldm.workflows.generate import generate

BATCH = 8
LONG = 50_000
MIB = 2**20
Files = tuple[bytes, bytes]
"""An image and its mask, as PNG files."""


def show(**figures: Any) -> None:
    """A line of figures, with the load of the machine in the last minute."""
    print(json.dumps({**figures, "load": round(os.getloadavg()[0], 1), "cores": os.cpu_count()}), flush=True)


@contextmanager
def cluster(cores: int) -> Iterator[None]:
    """A Ray cluster on this machine that believes to have so many cores."""
    import ray

    os.environ.update(RAY_worker_niceness="0")  # Ray's workers make way for all others if they are not told otherwise
    ray.init(
        address=LOCAL, num_cpus=cores, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=512 * MIB, _system_config={"worker_register_timeout_seconds": 600},
    )  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


# Real workers


def real(run: str, data: Path, workers: int, given: argparse.Namespace) -> None:
    """Images an hour of `generate` with workers, from the first batch on, when all is loaded."""
    most, own, times = [0], psutil.Process(), list[float]()

    def watch(event: object) -> None:
        if type(event).__name__ == "ImageFinished":
            times.append(time.monotonic())
            found = [one.memory_info().rss for one in own.children(recursive=True) if given.ray is False or is_ray(one)]
            most[0] = max([most[0], *(found or [own.memory_info().rss])])

    with tempfile.TemporaryDirectory() as place, cluster(workers) if given.ray else ExitStack():
        spread = {"ray": LOCAL} if given.ray else {"workers": workers}
        settings = {"run": run, "data": data, "out": Path(place) / "out", "count": given.count, "good": "none"}
        generate(GenerateSettings.create({**settings, **spread, "device": given.device}), watch)
    rate = (len(times) - BATCH) / (times[-1] - times[BATCH - 1]) * 3600
    kind = "ray" if given.ray else "processes"
    show(kind=kind, workers=workers, images_an_hour=round(rate), worker_mib=round(most[0] / MIB), images=given.count)


def is_ray(process: psutil.Process) -> bool:
    """Whether a process is one of our workers on a cluster."""
    try:
        return "".join(process.cmdline()[:1]).startswith(("ray::_Worker", "ray::generate"))  # waiting, or at a job
    except psutil.Error:
        return False


# Simulated nodes


def files(side: int) -> list[Files]:
    """A batch of finished images: a surface with noise, as hard to compress as a photograph."""
    rng = np.random.default_rng(0)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 2, side // 4 : side // 3] = 255
    pixels = np.clip(rng.normal(120, 12, (BATCH, side, side, 3)), 0, 255).astype(np.uint8)
    return [(image_bytes(one), image_bytes(mask)) for one in pixels]


def simulated_node(shared: tuple[list[Files], float]) -> Callable[[int], list[Files]]:
    """What a node does with a job: nothing for a while, and then hand over a batch."""
    batch, service = shared

    def work(first: int) -> list[Files]:
        del first
        time.sleep(service)
        return batch

    return work


def by_actors(nodes: int, batch: list[Files], service: float, jobs: list[int]) -> Iterator[tuple[int, list[Files]]]:
    """What actors of a cluster hand over, one for each node."""
    with cluster(nodes):
        yield from work_on_ray(Spread(LOCAL, simulated_node, (batch, service), gpus=False, name="simulate"), jobs)


def by_threads(nodes: int, batch: list[Files], service: float, jobs: list[int]) -> Iterator[tuple[int, list[Files]]]:
    """What threads of this process hand over, at most two jobs of each node ahead."""
    work, waiting = simulated_node((batch, service)), iter(jobs)
    with ThreadPoolExecutor(nodes) as pool:

        def submit(first: int) -> Future[tuple[int, list[Files]]]:
            return pool.submit(lambda: (first, work(first)))

        running = {submit(first) for first, _ in zip(waiting, range(2 * nodes), strict=False)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {submit(first) for first, _ in zip(waiting, done, strict=False)}
            for one in done:
                yield one.result()


def simulated(nodes: int, given: argparse.Namespace) -> None:
    """Images a second that the writer takes from nodes: of the second half, because nodes begin one after the other."""
    record = ImageRecord.model_validate(
        {
            "image": "", "mask": "", "index": 0, "source": "train/good/000.png", "defect": "crack", "object": "tile",
            "prompt": "tile, a tile with a crack", "seed": 0, "preset": "fast", "adapt": "residual", "model": "none",
        }
    )  # fmt: skip
    kind, batch, process = "actors" if given.ray else "threads", files(given.side), psutil.Process()
    hand_over, jobs = by_actors if given.ray else by_threads, list(range(0, given.images, BATCH))
    times, finished, memory = list[float](), 0, []
    with tempfile.TemporaryDirectory() as place:
        folder = GeneratedFolder(Path(place) / "out")
        with folder.open({"benchmark": "throughput"}), Sink(folder, threads=WRITERS) as sink:
            for first, found in hand_over(nodes, batch, given.service, jobs):
                times.append(time.monotonic())
                for number, (pixels, mask) in enumerate(found):
                    sink.put(Encoded(record.model_copy(update={"index": first + number}), pixels, mask))
                    finished += 1
                    if finished % (given.images // 10) == 0:
                        used = process.memory_info()
                        memory.append(round((used.rss - used.shared) / MIB))
                        show(kind=f"{kind}, so far", nodes=nodes, images=finished, driver_mib=memory[-1])
        half = len(times) // 2
        rate = (len(times) - half) * BATCH / (time.monotonic() - times[half])
    show(
        kind=kind, nodes=nodes, offered=round(nodes * BATCH / given.service, 1), written=round(rate, 1),
        images=finished, kib_an_image=round(len(batch[0][0]) / 1024), driver_mib=[memory[0], memory[-1]],
    )  # fmt: skip


# Profile


def profile(run: str, data: Path, given: argparse.Namespace) -> None:
    """Seconds of the parts of `generate` in one process, from disk to disk."""
    from adabldm.data.generated import GeneratedFolder as Folder
    from adabldm.production import produce, scenes
    from adabldm.production.scenes import SceneMaker

    seconds: defaultdict[str, float] = defaultdict(float)

    def timed(name: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            seconds[name] += time.perf_counter() - began

    parts: list[tuple[Any, str, str]] = [
        (scenes, "read_picture", "read images (threads, a part of the scenes)"),
        (SceneMaker, "draw", "draw scenes (threads)"),
        (Editor, "edit", "edit (main thread, with the GPU)"),
        (produce, "finished", "mask and record (main thread)"),
        (Folder, "add", "encode and write (threads)"),
        (Sink, "put", "wait for the writers (main thread)"),
    ]
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        if given.edit_seconds is not None:
            stack.enter_context(patch.object(Editor, "edit", partialmethod(pasted, seconds=given.edit_seconds)))
        for owner, attribute, name in parts:
            made = getattr(owner, attribute)
            call = partial(timed, name, made)
            stack.enter_context(patch.object(owner, attribute, _method(call) if isinstance(owner, type) else call))
        settings = {"run": run, "data": data, "out": Path(place) / "out", "count": given.count, "good": "none"}
        summary = generate(GenerateSettings.create({**settings, "device": given.device, "threads": given.threads}))
    found = {name: round(value, 2) for name, value in sorted(seconds.items())}
    edits = {} if given.edit_seconds is None else {"edit_seconds": given.edit_seconds}
    show(
        kind="profile", device=given.device, threads=given.threads or produce.usual_threads(), **edits,
        images=summary.made, seconds=round(summary.seconds, 2),
        images_a_second=round(summary.made / summary.seconds, 2), parts=found,
    )  # fmt: skip


def pasted(
    editor: Editor, jobs: Sequence[EditJob], preset: EditPreset, *, seconds: float, window: WindowMode = "auto"
) -> list[Edited]:
    """The real defects, pasted, after the time that edits of so many pictures would take."""
    del preset
    time.sleep(seconds * len(jobs))
    found = []
    for job in jobs:
        cut = cut_window(job.pixels, job.foreground, job.mask, job.reference, full=window == "full")
        reference = job.pixels if job.reference is None else job.reference
        pixels = np.where(job.mask[..., None], reference, job.pixels)
        scores = score(pixels, job.pixels, job.mask, cut.window.slices(cut.size)[0])
        found.append(Edited(pixels, cut.window, editor.resolution, scores, 99.0))
    return found


def _method(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda own, *arguments, **options: call(own, *arguments, **options)


# Plot


def draw(path: Path, lines: list[dict[str, Any]]) -> None:
    """Images an hour against workers, and images a second against simulated nodes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "adabldm"
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for kind, label, mark in (("processes", "--workers", "o-"), ("ray", "--ray", "s--")):
        own = sorted((line["workers"], line["images_an_hour"]) for line in lines if line["kind"] == kind)
        left.plot([one for one, _ in own], [rate for _, rate in own], mark, label=label)
    left.set(xlabel="workers, a core each", ylabel="images an hour", xticks=[1, 2], ylim=(0, None))
    below, above = (4, -12), (-4, 7)  # of a mark, so that the labels of two lines at the same place do not overlap
    for kind, label, mark, place in (
        ("actors", "through Ray", "s-", below),
        ("threads", "writer alone", "o-", above),
    ):
        own = sorted(
            (line["offered"], line["written"], line["nodes"])
            for line in lines
            if line["kind"] == kind and line["images"] < LONG  # a long run is one of the memory
        )
        right.plot([offered for offered, _, _ in own], [rate for _, rate, _ in own], mark, label=label)
        for offered, rate, nodes in own:
            side = "left" if place is below else "right"
            look = {"textcoords": "offset points", "fontsize": 8, "horizontalalignment": side}
            right.annotate(f"{nodes} nodes", (offered, rate), place, **look)
    most = max((line["offered"] for line in lines if "offered" in line and line["images"] < LONG), default=1)
    right.plot([0, most], [0, most], ":", color="grey", label="all that is offered")
    right.margins(x=0.15)
    right.set(xlabel="images a second that the nodes offer", ylabel="images a second, written", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="*", default=[])
    parser.add_argument("--nodes", type=int, nargs="*", default=[])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--run", default="magnetic-tile")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="threads beside the edits; the usual number if left out")
    parser.add_argument("--edit-seconds", type=float, help="seconds of an edit that is made without a model")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--service", type=float, default=2.56, help="seconds of a batch on a node")
    parser.add_argument("--draw", type=Path)
    parser.add_argument("--figures", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        data = given.data
        if (given.workers or given.profile) and data is None:
            from adabldm.workflows.samples import lay_out, tile_pictures

            data = lay_out(tile_pictures(), Path(place) / "tiles")
        for workers in given.workers:
            real(given.run, data, workers, given)
        if given.profile:
            profile(given.run, data, given)
    for nodes in given.nodes:
        simulated(nodes, given)
    if given.draw is not None:
        draw(given.draw, [json.loads(line) for line in given.figures.read_text().splitlines() if line.startswith("{")])


if __name__ == "__main__":
    main()
