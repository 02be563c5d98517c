"""Images an hour against workers, and what the one writer can take from many nodes.

    python benchmarks/throughput.py --workers 1 2 [--count 200] [--run magnetic-tile] [--data FOLDER]
    python benchmarks/throughput.py --nodes 8 64 [--images 2000] [--side 256] [--service 0.2] [--plot FILE]
    python benchmarks/throughput.py --nodes 64 --images 100000

The first form runs `generate --workers N` on the pictures of `adabldm demo`, or on a data set, and prints images an
hour and the memory of a worker. The second one simulates nodes: as many threads, each of which hands over a batch of 8
finished images of real size (the bytes of their files) every `--service` seconds, to the sink that `generate` writes
with. It shows what the process of the command can take; what the nodes compute and how Ray carries it is not in it. The
memory of the process is printed at each tenth. The load of the machine is printed with every line.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import psutil

from adabldm.core.images import image_bytes
from adabldm.core.records import ImageRecord
from adabldm.core.settings import GenerateSettings
from adabldm.data.generated import GeneratedFolder
from adabldm.production.results import Encoded
from adabldm.production.sink import Sink
from adabldm.workflows.generate import generate

BATCH = 8
MIB = 2**20


def load() -> str:
    """The load of the machine in the last minute, over its cores."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def real(run: str, data: Path, workers: int, count: int) -> float:
    """Images an hour of `generate` with processes, from the first batch on, when all is loaded."""
    with tempfile.TemporaryDirectory() as place:
        most, begun, times = [0], psutil.Process(), list[float]()

        def watch(event: object) -> None:
            if type(event).__name__ == "ImageFinished":
                times.append(time.monotonic())
                most[0] = max([most[0], *(one.memory_info().rss for one in begun.children())])

        settings = {"run": run, "data": data, "out": Path(place) / "out", "count": count, "workers": workers}
        generate(GenerateSettings.create({**settings, "good": "none"}), watch)
    rate = (len(times) - BATCH) / (times[-1] - times[BATCH - 1]) * 3600
    print(f"{workers} workers: {rate:,.0f} images an hour, {most[0] / MIB:,.0f} MiB each process; {load()}", flush=True)
    return rate


def images(side: int) -> list[Encoded]:
    """A batch of finished images: a surface with noise, as hard to compress as a photograph."""
    rng, found = np.random.default_rng(0), []
    for index in range(BATCH):
        pixels = np.clip(rng.normal(120, 12, (side, side, 3)), 0, 255).astype(np.uint8)
        mask = np.zeros((side, side), np.uint8)
        mask[side // 4 : side // 2, side // 4 : side // 3] = 255
        record = ImageRecord.model_validate(
            {
                "image": "", "mask": "", "index": index, "source": "train/good/000.png", "defect": "crack",
                "object": "tile", "prompt": "tile, a tile with a crack", "seed": 0, "preset": "fast",
                "adapt": "residual", "model": "none",
            }
        )  # fmt: skip
        found.append(Encoded(record, image_bytes(pixels), image_bytes(mask)))
    return found


def handed_over(nodes: int, count: int, service: float, batch: list[Encoded]) -> Iterator[Encoded]:
    """What nodes hand over: each a batch after every `service` seconds, at most two of them ahead."""

    def work(first: int) -> list[Encoded]:
        time.sleep(service)
        return [
            Encoded(one.record.model_copy(update={"index": first + number}), one.pixels, one.mask)
            for number, one in enumerate(batch)
        ]

    firsts = iter(range(0, count, BATCH))
    with ThreadPoolExecutor(nodes) as pool:
        running: set[Future[list[Encoded]]] = {
            pool.submit(work, first) for first, _ in zip(firsts, range(2 * nodes), strict=False)
        }
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for one in done:
                first = next(firsts, None)
                if first is not None:
                    running.add(pool.submit(work, first))
                yield from one.result()


def simulated(nodes: int, count: int, side: int, service: float) -> float:
    """Images a second that the writer takes from nodes."""
    batch, process, finished = images(side), psutil.Process(), 0
    offered = nodes * BATCH / service
    with tempfile.TemporaryDirectory() as place:
        folder = GeneratedFolder(Path(place) / "out")
        with folder.open({"benchmark": "throughput"}):
            began = time.monotonic()
            with Sink(folder) as sink:
                for one in handed_over(nodes, count, service, batch):
                    sink.put(one)
                    finished += 1
                    if finished % (count // 10) == 0:
                        print(f"  {finished:,} images, {process.memory_info().rss / MIB:,.0f} MiB", flush=True)
            rate = count / (time.monotonic() - began)
    print(f"{nodes} nodes offer {offered:,.0f}, written {rate:,.1f} images a second; {load()}", flush=True)
    return rate


def plot(path: Path, rates: dict[int, float], service: float) -> None:
    """Images a second against nodes, with what they offer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    axes.plot(list(rates), [nodes * BATCH / service for nodes in rates], "--", label="offered by the nodes")
    axes.plot(list(rates), list(rates.values()), "o-", label="written")
    axes.set(xlabel="simulated nodes", ylabel="images a second", title=load())
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="*", default=[])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--run", default="magnetic-tile")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--nodes", type=int, nargs="*", default=[])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--service", type=float, default=0.2, help="seconds of a batch on a node")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        data = given.data
        if given.workers and data is None:
            from adabldm.workflows.demo import copy_samples

            data = copy_samples(Path(place) / "tiles")
        for workers in given.workers:
            real(given.run, data, workers, given.count)
    rates = {nodes: simulated(nodes, given.images, given.side, given.service) for nodes in given.nodes}
    if given.plot is not None and rates:
        plot(given.plot, rates, given.service)


if __name__ == "__main__":
    main()
