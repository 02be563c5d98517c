"""What the service answers: models, and errors as JSON with the field and a sentence."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from adabldm.core.errors import AdaBLDMError, InputError, OutputError
from adabldm.core.records import ImageRecord, RunCard
from adabldm.core.settings import FieldProblem, SettingsError
from adabldm.core.settings.problems import sentence
from adabldm.data.decisions import HeldError
from adabldm.service.engine import BusyError, ClosedError
from adabldm.service.jobs import JobStateError, UnknownJobError
from adabldm.service.roots import ForbiddenError
from adabldm.service.runs import UnknownRunError
from adabldm.service.security import TooLongError
from adabldm.service.uploads import TooLargeError

LOG = logging.getLogger(__name__)


class UnknownFolderError(InputError):
    """There is no folder of generated images of that name, or no such image in it."""


class MediaTypeError(InputError):
    """A body of a kind that is not read."""


class Problem(BaseModel):
    """One thing that is wrong with a request."""

    field: str = Field(description="Field that should be changed; empty for the request as a whole.")
    message: str = Field(description="What was given, what was expected and the way out, in a sentence.")


class Problems(BaseModel):
    """Why a request was not carried out."""

    problems: list[Problem] = Field(description="All that is wrong.")


class EditAnswer(BaseModel):
    """An edited picture."""

    image: str = Field(description="The picture as PNG, in base64.")
    mask: str = Field(description="Mask of the defect as PNG of 0 and 255, in base64.")
    record: ImageRecord = Field(description="Scores, preset, window and so on, as in a manifest.")
    rejection: str | None = Field(description="Usual limit that the picture misses, in a sentence; null if none.")


class RunAnswer(BaseModel):
    """A run that edits."""

    id: str = Field(description="Name of the run in requests.")
    object_name: str = Field(description="What the pictures show.")
    defects: tuple[str, ...] = Field(description="Defect types that it knows.")
    resolution: int = Field(description="Side of a window at the model, in px.")
    card: RunCard = Field(description="What the run knows of itself, without the digests of its images.")


class FolderAnswer(BaseModel):
    """A folder of generated images."""

    id: str = Field(description="Name of the folder in requests.")
    images: int = Field(description="Number of images in it.")


class DecidedRecord(BaseModel):
    """An image and what was decided on it."""

    record: ImageRecord
    decision: str | None = Field(description="keep or reject; null if nothing was decided.")
    note: str | None = Field(description="Remark of the person who decided.")
    rule: str | None = Field(description="Rule that decided, with the score.")


class RecordsAnswer(BaseModel):
    """Images of a folder."""

    total: int = Field(description="Number of images that fit the question.")
    records: list[DecidedRecord] = Field(description="Those of this page, in the order of their numbers.")


class DecisionsAnswer(BaseModel):
    """What is decided on a folder's images."""

    model_config = ConfigDict(frozen=True)

    images: int = Field(description="Number of images.")
    rejected: tuple[int, ...] = Field(description="Numbers of the rejected images.")
    kept: tuple[int, ...] = Field(description="Numbers of the images that were kept on purpose.")
    added: int = Field(description="Decisions that were written now.")


class Health(BaseModel):
    """That the service works."""

    status: str
    version: str


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route for its OpenAPI description; those that every route has come by themselves."""
    return {code: {"model": Problems, "description": MEANINGS[code]} for code in (*codes, *EVERYWHERE)}


MEANINGS = {
    400: "The body cannot be read.",
    401: "The token is missing or wrong.",
    403: "A folder that the service may not use, or a page of another site.",
    404: "There is no such thing.",
    405: "Another method is needed.",
    409: "This cannot be done in the present state.",
    413: "Too many bytes or pixels.",
    415: "The body is of a kind that is not read.",
    421: "The host is no name of this service.",
    422: "Values that do not fit.",
    503: "Too much to do; Retry-After tells when to try again.",
    507: "The disk is full or cannot be written.",
}
"""What the status of an error means."""
EVERYWHERE = (401, 403, 413, 421)
STATUS: Sequence[tuple[type[Exception], int]] = (
    (TooLargeError, 413),
    (TooLongError, 413),
    (ForbiddenError, 403),
    (UnknownRunError, 404),
    (UnknownJobError, 404),
    (UnknownFolderError, 404),
    (JobStateError, 409),
    (HeldError, 409),
    (MediaTypeError, 415),
    (InputError, 422),
    (OutputError, 507),
    (BusyError, 503),
    (ClosedError, 503),
)
"""Status of each kind of error; the first that fits."""


def problem_answer(status: int, problems: Sequence[Problem], headers: dict[str, str] | None = None) -> Response:
    """An error as JSON; in ASCII, because what a client sent may be no text that can be written."""
    body = json.dumps({"problems": [one.model_dump() for one in problems]})
    return Response(body, status, headers, "application/json")


def problems_of(error: Exception) -> list[Problem]:
    """What is wrong, by field."""
    if isinstance(error, SettingsError):
        return [Problem(field=one.field, message=sentence(one.field, one.message)) for one in error.fields]
    if isinstance(error, InputError):
        return [Problem(field="", message=line) for line in error.problems]
    return [Problem(field="", message=str(error))]


def handle_own(request: Request, error: Exception) -> Response:
    """One of our errors."""
    del request
    status = next((status for kind, status in STATUS if isinstance(error, kind)), 422)
    if isinstance(error, TooLongError):
        return problem_answer(status, [Problem(field="", message="the body is longer than it may be; send less.")])
    after = error.retry_after if isinstance(error, BusyError) else 5
    return problem_answer(status, problems_of(error), {"Retry-After": str(after)} if status == 503 else None)


def handle_values(request: Request, error: Exception) -> Response:
    """Values in a path or a query that do not fit."""
    del request
    assert isinstance(error, RequestValidationError)
    problems = []
    for one in error.errors():
        field = ".".join(str(step) for step in one["loc"][1:])
        problems.append(Problem(field=field, message=sentence(field, str(one["msg"]))))
    return problem_answer(422, problems)


def handle_http(request: Request, error: Exception) -> Response:
    """What the framework refuses: no such route, another method, a body that cannot be read."""
    assert isinstance(error, HTTPException)
    sentences = {
        404: f"{request.url.path[:200]}: there is nothing here; /openapi.json lists what there is.",
        405: f"{request.method}: not possible here; see the header Allow.",
    }
    message = sentences.get(error.status_code, sentence("", str(error.detail)))
    headers = dict(error.headers) if error.headers else None
    return problem_answer(error.status_code, [Problem(field="", message=message)], headers)


def handle_disk(request: Request, error: Exception) -> Response:
    """The operating system refuses."""
    assert isinstance(error, OSError)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return problem_answer(507, [Problem(field="", message="the disk is full; free some space and try again.")])
    return handle_other(request, error)


def handle_other(request: Request, error: Exception) -> Response:
    """A mistake of ours: the log has it, the client does not."""
    LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    message = "the service made a mistake, which its log describes; this request cannot be carried out."
    return problem_answer(500, [Problem(field="", message=message)])


def answer_errors(app: FastAPI) -> None:
    """Let an application answer every error as JSON."""
    app.add_exception_handler(AdaBLDMError, handle_own)
    app.add_exception_handler(TooLongError, handle_own)
    app.add_exception_handler(RequestValidationError, handle_values)
    app.add_exception_handler(HTTPException, handle_http)
    app.add_exception_handler(OSError, handle_disk)
    app.add_exception_handler(Exception, handle_other)


def field_error(field: str, message: str) -> SettingsError:
    """A problem of one field of a body."""
    return SettingsError([FieldProblem(field, message)])
