"""The application: `create_app` puts engine, jobs, folders and their guards together.

app = create_app(ServeSettings(root=(Path("work"),)))
app.state.service.engine.edit(...)  # the same objects that the routes use, for pages in this process
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from adabldm import __version__
from adabldm.core.settings import FieldProblem, ServeSettings, SettingsError
from adabldm.service.answers import Health, answer_errors, errors
from adabldm.service.engine import EditEngine, EngineOptions
from adabldm.service.jobs import JobQueue
from adabldm.service.metrics import Counted, Metrics
from adabldm.service.roots import Roots
from adabldm.service.runs import Runs
from adabldm.service.security import Guard, is_loopback, new_token
from adabldm.service.uploads import UploadLimits

JOBS = Path(".adabldm") / "jobs.sqlite3"
"""The queue's file in the first root, if none was named."""
SHORTEST_TOKEN = 8
"""Characters of a token."""
SPARE_BYTES = 1_000_000
"""Bytes of a body beside its pictures."""


@dataclass(frozen=True)
class Service:
    """What the routes work with; `app.state.service`.

    Attributes:
        settings: as given.
        token: that clients must send; `None` if none is asked for.
        roots: folders that may be touched.
        runs: that are offered.
        engine: edits.
        jobs: runs jobs.
        limits: of uploads.
        metrics: counts.
        decoding: how many uploads are decoded at once.
        stopping: is set when the service is about to end, so that streams end.
    """

    settings: ServeSettings
    token: str | None
    roots: Roots
    runs: Runs
    engine: EditEngine
    jobs: JobQueue
    limits: UploadLimits
    metrics: Metrics
    decoding: anyio.CapacityLimiter
    stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Run the jobs; raises as `JobQueue.start`."""
        self.jobs.start()

    def close(self) -> None:
        """Finish the edits that were asked for, and interrupt the job at work, which goes on at the next start."""
        self.stopping.set()
        self.engine.close()
        self.jobs.close()


def create_service(settings: ServeSettings) -> Service:
    """Engine, jobs and folders as the settings say; nothing is started but the engine's threads.

    Raises:
        InputError: a run, folder or queue that cannot be used.
        OutputError: the queue cannot be written.
    """
    if settings.token is not None and len(settings.token) < SHORTEST_TOKEN:
        message = f"{len(settings.token)} characters were given, expected at least {SHORTEST_TOKEN}; take a longer one"
        raise SettingsError([FieldProblem("token", message)])
    roots = Roots(settings.root or (Path.cwd(),))
    runs = Runs(settings.run, roots)
    jobs = JobQueue(settings.jobs or roots.first / JOBS, folder=roots.first)
    metrics = Metrics()
    options = EngineOptions(
        device=settings.device,
        workers=settings.workers,
        batch_size=settings.batch_size,
        dtype=settings.dtype,
        queue=settings.queue,
    )
    engine = EditEngine(runs, options, metrics.edit)
    metrics.watch(lambda: {"waiting": engine.load.waiting, "running": engine.load.running}, jobs.counts)
    token = settings.token or (None if is_loopback(settings.host) else new_token())
    limits = UploadLimits(int(settings.max_upload * 1e6), settings.max_megapixels)
    return Service(
        settings, token, roots, runs, engine, jobs, limits, metrics, anyio.CapacityLimiter(max(2, engine.workers))
    )


def create_app(settings: ServeSettings, service: Service | None = None) -> FastAPI:
    """The whole service as an ASGI application, such as to mount a page below it.

    Engine and jobs are `app.state.service.engine` and `app.state.service.jobs`; they are closed when the application
    ends.

    Args:
        settings: where it listens and what it may touch.
        service: engine, jobs and folders that were made already; made from the settings if left out.

    Raises:
        InputError: as `create_service`.
    """
    own = service or create_service(settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        own.start()
        yield
        await anyio.to_thread.run_sync(own.close)

    app = FastAPI(
        title="AdaBLDM",
        summary="Realistic images of industrial defects, with exact masks.",
        version=__version__,
        docs_url=None,  # its page would fetch scripts from another host
        redoc_url=None,
        lifespan=life,
    )
    app.state.service = own
    answer_errors(app)
    _add_routes(app)
    most = own.limits.bytes * 4 // 3 + SPARE_BYTES  # base64 is longer
    app.add_middleware(Guard, token=own.token, hosts=(settings.host, *settings.allow_host), most_bytes=most)
    app.add_middleware(Counted, metrics=own.metrics)
    return app


def _add_routes(app: FastAPI) -> None:
    from adabldm.service import api_edits, api_folders, api_jobs

    for part in (api_edits, api_jobs, api_folders):
        app.include_router(part.router)

    @app.get("/healthz", tags=["state"], responses=errors())
    def healthz() -> Health:
        """Whether the service works; needs no token."""
        return Health(status="ok", version=__version__)

    @app.get("/metrics", tags=["state"], response_class=Response, responses=errors())
    def metrics(request: Request) -> Response:
        """Counters in Prometheus' format."""
        return Response(request.app.state.service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
