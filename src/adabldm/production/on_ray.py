"""The workers of a Ray cluster make the batches of a plan; the images come back as the bytes of their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from adabldm.core.cluster import Spread, work_on_ray
from adabldm.core.events import Listener, ignore
from adabldm.production.plan import Batch, ProductionPlan
from adabldm.production.produce import Producer
from adabldm.production.results import Encoded, encode


def produce_on_ray(plan: ProductionPlan, batches: Sequence[Batch], listen: Listener = ignore) -> Iterator[Encoded]:
    """Make the wanted images of batches on a cluster, in the order in which they are finished.

    Each worker loads run and data set once. An image depends on the plan and its batch alone, not on workers that die.

    Args:
        plan: of the production; its settings say where the cluster is.
        batches: what is made.
        listen: is told of nodes that are left out.

    Raises:
        InputError: no cluster, or none of its nodes has run and data as they were planned.
        OutputError: workers were killed again and again; what came back before is not lost.
    """
    settings = plan.settings
    assert settings.ray is not None
    cuda = settings.device.startswith("cuda")
    if cuda:  # a worker sees its own GPU alone
        plan = replace(plan, settings=settings.changed(device="cuda"))
    gpus = None if settings.device == "auto" else cuda
    spread = Spread(settings.ray, _maker, plan, settings.ray_cores, gpus, "generate")
    for _, images in work_on_ray(spread, batches, listen):
        yield from images


def _maker(plan: ProductionPlan) -> Callable[[Batch], list[Encoded]]:
    producer = Producer(plan)
    return lambda batch: [encode(produced) for produced in producer.produce([batch])]
