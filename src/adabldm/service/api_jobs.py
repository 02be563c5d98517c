"""Routes of jobs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from adabldm.service.answers import errors, field_error
from adabldm.service.bodies import job_body, read_json
from adabldm.service.jobs import COMMANDS, LOOK, Job, JobState
from adabldm.service.roots import confine

router = APIRouter(tags=["jobs"])
SILENCE = 15.0
"""Seconds after which an idle stream says that it is still there."""


@router.post("/v1/jobs", status_code=201, responses=errors(400, 415, 422, 507), openapi_extra=job_body())
async def submit(request: Request, response: Response) -> Job:
    """Put a job at the end of the queue: the name of a command, and its settings."""
    service = request.app.state.service
    body = await read_json(request)
    unknown = sorted(set(body) - {"command", "settings"})
    if unknown:
        raise field_error(unknown[0][:100], "unknown, expected command and settings")
    command, values = body.get("command"), body.get("settings")
    if not isinstance(command, str) or command not in COMMANDS:
        raise field_error("command", f"expected one of {', '.join(COMMANDS)}")
    if not isinstance(values, dict):
        raise field_error("settings", "missing, expected the settings of the command by name; give them")

    def accept() -> Job:
        confined = confine(command, values, service.roots, service.runs.folders())
        job: Job = service.jobs.submit(command, COMMANDS[command].create(confined))
        return job

    job = await anyio.to_thread.run_sync(accept)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return _named(request, job)


@router.get("/v1/jobs", responses=errors(422, 507))
def jobs(request: Request, state: Annotated[list[JobState] | None, Query()] = None) -> list[Job]:
    """All jobs in the order in which they were asked for, or those in some states."""
    return [_named(request, job) for job in request.app.state.service.jobs.list(state or ())]


@router.get("/v1/jobs/{job_id}", responses=errors(404, 422, 507))
def job(request: Request, job_id: str) -> Job:
    """One job as it is now."""
    return _named(request, request.app.state.service.jobs.get(job_id))


@router.delete("/v1/jobs/{job_id}", responses=errors(404, 422, 507))
def stop(request: Request, job_id: str) -> Job:
    """Stop a job; what it wrote stays. A job that is over stays as it is."""
    return _named(request, request.app.state.service.jobs.stop(job_id))


@router.post("/v1/jobs/{job_id}/pause", responses=errors(404, 409, 422, 507))
def pause(request: Request, job_id: str) -> Job:
    """End the process of a job for now; it goes on where it stopped when it is resumed."""
    return _named(request, request.app.state.service.jobs.pause(job_id))


@router.post("/v1/jobs/{job_id}/resume", responses=errors(404, 409, 422, 507))
def resume(request: Request, job_id: str) -> Job:
    """Let a job go on that was paused, stopped, or has failed."""
    return _named(request, request.app.state.service.jobs.resume(job_id))


@router.get(
    "/v1/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The events."},
        **errors(404, 422, 507),
    },
)
async def events(request: Request, job_id: str, last_event_id: Annotated[int, Header(ge=0)] = 0) -> StreamingResponse:
    """All events of a job as server-sent events, and new ones as they happen, until it is over or paused.

    An event is named after its kind: Note, Progress, ImageFinished or PreviewWritten, as `--log-file` writes them, and
    Job whenever the job's state changes. A client that connects again sends the number of the last event that it got.
    """
    await anyio.to_thread.run_sync(request.app.state.service.jobs.get, job_id)
    return StreamingResponse(_stream(request, job_id, last_event_id), media_type="text/event-stream")


async def _stream(request: Request, name: str, after: int) -> AsyncIterator[str]:
    service, state, silent = request.app.state.service, None, 0.0
    while True:
        found = await anyio.to_thread.run_sync(service.jobs.get, name)
        for number, event in await anyio.to_thread.run_sync(service.jobs.events, name, after):
            after, silent = number, 0.0
            yield _event(str(event.get("event", "message")), event, number)
        if found.state != state:
            state, silent = found.state, 0.0
            yield _event("Job", _named(request, found).model_dump(mode="json"))
        if state not in {"queued", "running"} or service.stopping.is_set() or await request.is_disconnected():
            return
        silent += LOOK
        if silent >= SILENCE:
            silent = 0.0
            yield ": still here\n\n"
        await anyio.sleep(LOOK)


def _event(kind: str, values: dict[str, Any], number: int | None = None) -> str:
    numbered = f"id: {number}\n" if number is not None else ""
    return f"{numbered}event: {kind.split()[0] if kind.split() else 'message'}\ndata: {json.dumps(values)}\n\n"


def _named(request: Request, job: Job) -> Job:
    """The job with its folder as other requests name it."""
    roots = request.app.state.service.roots
    return job.model_copy(update={"folder": roots.name(roots.first / job.folder)})
