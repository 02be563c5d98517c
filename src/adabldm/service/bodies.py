"""Bodies of requests: JSON or forms to plain values, and what OpenAPI says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from adabldm.core.settings import CurateSettings, EditSettings, Settings
from adabldm.service.answers import MediaTypeError, field_error
from adabldm.service.jobs import COMMANDS
from adabldm.service.uploads import from_base64

PICTURES = {
    "image": "The picture.",
    "mask": "Where the defect is to be: a picture of the same size, non-zero is defect. Everything is object then.",
    "trimap": "Instead of a mask: 0 background, 128 object, 255 defect.",
    "reference_image": "A real defect to begin from.",
    "reference_mask": "Mask of that real defect.",
}
"""Parts of an edit that are pictures."""
MOST_FIELDS = 100


async def read_json(request: Request) -> dict[str, Any]:
    """The values of a JSON body.

    Raises:
        MediaTypeError: it is something else.
        HTTPException: it cannot be read (400).
    """
    if _kind(request) != "application/json":
        raise MediaTypeError(f"Content-Type: {_kind(request)!r} was given, expected application/json.")
    try:
        values = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise field_error("", "the body is no JSON object, expected settings by name")
    return values


async def read_edit(request: Request) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The settings and the pictures of an edit, from a form or from JSON with base64.

    Raises:
        MediaTypeError: it is something else.
        SettingsError: a picture that is none.
        HTTPException: it cannot be read (400).
    """
    if _kind(request) == "multipart/form-data":
        return await _read_form(request)
    if _kind(request) != "application/json":
        raise MediaTypeError(
            f"Content-Type: {_kind(request)!r} was given, expected multipart/form-data or application/json."
        )
    values = await read_json(request)
    pictures = {}
    for name in PICTURES:
        text = values.pop(name, None)
        if isinstance(text, str):
            pictures[name] = from_base64(text, name)
        elif text is not None:
            raise field_error(name, "no text, expected a picture in base64")
    return values, pictures


async def _read_form(request: Request) -> tuple[dict[str, Any], dict[str, bytes]]:
    values: dict[str, Any] = {}
    pictures = {}
    async with request.form(max_files=len(PICTURES), max_fields=MOST_FIELDS) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile) and name in PICTURES:
                pictures[name] = await value.read()
            elif isinstance(value, UploadFile):
                raise field_error(name[:100], f"a file was given, expected files named {', '.join(PICTURES)} alone")
            elif name in PICTURES:
                raise field_error(name, "a text was given, expected a file")
            elif name == "set":
                values.setdefault(name, []).append(value)
            else:
                values[name] = value
    if isinstance(values.get("preset"), str) and values["preset"].lstrip().startswith("{"):
        try:
            values["preset"] = json.loads(values["preset"])
        except (ValueError, RecursionError) as error:
            raise field_error("preset", f"no JSON ({error}), expected a name or a whole preset") from error
    return values, pictures


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()[:100]


def schema_of(kind: type[Settings], *, without: str | None = None) -> dict[str, Any]:
    """JSON schema of settings for OpenAPI; the models in them stand inside."""
    schema = kind.model_json_schema(by_alias=True, ref_template="#/$defs/{model}")
    plain: dict[str, Any] = _inlined(schema, schema.get("$defs", {}))
    plain.pop("$defs", None)
    if without is not None:
        plain["properties"].pop(without)
        plain["required"] = [name for name in plain.get("required", []) if name != without]
    return plain


def _inlined(value: Any, models: Mapping[str, Any]) -> Any:
    """A schema with its references replaced by what they mean, and without what OpenAPI does not know."""
    if isinstance(value, list):
        return [_inlined(one, models) for one in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _inlined(models[value["$ref"].rpartition("/")[2]], models)
    left_out = {"$defs", "discriminator", "group", "positional", "bare"}
    return {key: _inlined(one, models) for key, one in value.items() if key not in left_out}


def edit_body() -> dict[str, Any]:
    """What `POST /v1/edits` takes, for OpenAPI."""
    settings = schema_of(EditSettings)
    form, text = dict(settings["properties"]), dict(settings["properties"])
    for name, meaning in PICTURES.items():
        form[name] = {"type": "string", "format": "binary", "description": meaning}
        text[name] = {"type": "string", "format": "byte", "contentEncoding": "base64", "description": meaning}
    shape = {"type": "object", "required": ["image", "run"], "additionalProperties": False}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": {**shape, "properties": form}},
                "application/json": {"schema": {**shape, "properties": text}},
            },
        }
    }


def job_body() -> dict[str, Any]:
    """What `POST /v1/jobs` takes, for OpenAPI."""
    kinds = [
        {
            "type": "object",
            "title": command,
            "required": ["command", "settings"],
            "additionalProperties": False,
            "properties": {"command": {"const": command}, "settings": schema_of(kind)},
        }
        for command, kind in COMMANDS.items()
    ]
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": {"oneOf": kinds}}}}}


def decisions_body() -> dict[str, Any]:
    """What `PATCH /v1/folders/{id}/records` takes, for OpenAPI."""
    schema = schema_of(CurateSettings, without="folder")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
