"""Routes of folders of generated images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse

from adabldm.core.records import ImageRecord
from adabldm.core.settings import CurateSettings
from adabldm.data.decisions import read_decisions
from adabldm.data.generated import MANIFEST, read_finished, read_manifest
from adabldm.service.answers import (
    DecidedRecord,
    DecisionsAnswer,
    FolderAnswer,
    RecordsAnswer,
    UnknownFolderError,
    errors,
)
from adabldm.service.bodies import decisions_body, read_json
from adabldm.service.roots import ForbiddenError, Roots, check_records, confine_comparison
from adabldm.workflows.curate import curate

router = APIRouter(tags=["folders"])
Number = Annotated[int, PathParameter(ge=0, le=10**9)]
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "The picture."}
}


@router.get("/v1/folders", responses=errors(422))
def folders(request: Request) -> list[FolderAnswer]:
    """Folders of generated images in the roots."""
    roots: Roots = request.app.state.service.roots
    return [FolderAnswer(id=roots.name(place), images=_lines(place / MANIFEST)) for place in roots.find(MANIFEST)]


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


@router.get("/v1/folders/{folder_id:path}/records", responses=errors(404, 422))
def records(
    request: Request,
    folder_id: str,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    defect: str | None = None,
    decision: Literal["keep", "reject", "none"] | None = None,
) -> RecordsAnswer:
    """Records of the images of a folder, with what was decided on them."""
    root = _folder(request, folder_id)
    decisions = read_decisions(root)
    found = []
    for index, record in read_manifest(root).items():
        own = decisions.get(index)
        word = None if own is None else own.decision
        if (defect is None or record.defect == defect) and (decision is None or (word or "none") == decision):
            note, rule = (None, None) if own is None else (own.note, own.rule)
            found.append(DecidedRecord(record=record, decision=word, note=note, rule=rule))
    return RecordsAnswer(total=len(found), records=found[offset : offset + limit])


@router.patch(
    "/v1/folders/{folder_id:path}/records",
    responses=errors(400, 404, 409, 415, 422, 507),
    openapi_extra=decisions_body(),
)
async def decide(request: Request, folder_id: str) -> DecisionsAnswer:
    """Keep or reject images, by their numbers or by rules on their scores, as `adabldm curate` does."""
    values = await read_json(request)

    def carry_out() -> DecisionsAnswer:
        root = _folder(request, folder_id)
        given = confine_comparison(values, request.app.state.service.roots)
        summary = curate(CurateSettings.create({**given, "folder": root}))
        return DecisionsAnswer(
            images=summary.images, rejected=summary.rejected, kept=summary.kept, added=len(summary.added)
        )

    return await anyio.to_thread.run_sync(carry_out)


@router.get(
    "/v1/folders/{folder_id:path}/images/{index}",
    response_class=FileResponse,
    responses={**PICTURE, **errors(404, 422)},
)
def image(request: Request, folder_id: str, index: Number) -> FileResponse:
    """One image of a folder."""
    root = _folder(request, folder_id)
    return _file(request, root, _record(root, index).image)


@router.get(
    "/v1/folders/{folder_id:path}/masks/{index}",
    response_class=FileResponse,
    responses={**PICTURE, **errors(404, 422)},
)
def mask(request: Request, folder_id: str, index: Number) -> FileResponse:
    """The mask of one image of a folder."""
    root = _folder(request, folder_id)
    return _file(request, root, _record(root, index).mask)


def _folder(request: Request, name: str) -> Path:
    """A folder of generated images.

    Raises:
        UnknownFolderError: there is none of that name.
        ForbiddenError: it lies in no root, or its manifest does.
    """
    roots: Roots = request.app.state.service.roots
    root = roots.resolve(name, "folder")
    if not (root / MANIFEST).is_file():
        raise UnknownFolderError(f"folder {name[:200]!r}: there are no generated images of that name.")
    check_records(roots, root)
    return root


def _record(root: Path, index: int) -> ImageRecord:
    record = read_finished(root, index)
    if record is None:
        raise UnknownFolderError(f"image {index}: there is no such image in this folder.")
    return record


def _file(request: Request, root: Path, name: str) -> FileResponse:
    roots: Roots = request.app.state.service.roots
    path = root / name
    if not roots.allows(path):
        raise ForbiddenError(f"{name}: a link that leads out of the roots.")
    return FileResponse(path.resolve(), headers={"X-Content-Type-Options": "nosniff"})
