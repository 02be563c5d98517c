"""What happens in the service, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BUCKETS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0)
"""Seconds of an edit."""
UNKNOWN = "other"
"""Route of requests for which there is none."""


class Metrics:
    """Counters of one service; several may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._edits = Counter("adabldm_edits", "Edits by how they ended.", ["outcome"], registry=self.registry)
        for outcome in ("done", "refused", "failed", "cancelled"):
            self._edits.labels(outcome)
        self._seconds = Histogram(
            "adabldm_edit_seconds", "Seconds from a request to its edit.", buckets=BUCKETS, registry=self.registry
        )
        self._requests = Counter(
            "adabldm_requests", "Requests by route and status.", ["method", "route", "status"], registry=self.registry
        )
        ProcessCollector(registry=self.registry)

    def edit(self, outcome: str, seconds: float) -> None:
        """An edit ended."""
        self._edits.labels(outcome).inc()
        if outcome == "done":
            self._seconds.observe(seconds)

    def request(self, method: str, route: str, status: int) -> None:
        """A request was answered."""
        self._requests.labels(method, route, str(status)).inc()

    def watch(self, gauges: Callable[[], dict[str, float]], jobs: Callable[[], dict[str, int]]) -> None:
        """Ask for the present state whenever the metrics are read.

        Args:
            gauges: values by name.
            jobs: numbers of jobs by state.
        """
        self.registry.register(_Now(gauges, jobs))

    def text(self) -> bytes:
        """All metrics."""
        return generate_latest(self.registry)


class _Now(Collector):
    """The present state."""

    def __init__(self, gauges: Callable[[], dict[str, float]], jobs: Callable[[], dict[str, int]]) -> None:
        self._gauges, self._jobs = gauges, jobs

    def describe(self) -> list[Metric]:
        """Nothing is asked for when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The values of now."""
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"adabldm_edits_{name}", f"Edits that are {name}.", value=value)
        family = GaugeMetricFamily("adabldm_jobs", "Jobs by state.", labels=["state"])
        for state, count in self._jobs().items():
            family.add_metric([state], count)
        yield family


class Counted:
    """Counts the requests of an application by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", UNKNOWN)
                method = scope["method"] if scope["method"] in METHODS else UNKNOWN
                self.metrics.request(method, route, message["status"])
            await send(message)

        await self.app(scope, receive, note)


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods that are counted under their own names, so that a client cannot make up others."""
