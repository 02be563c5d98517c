"""The service over real HTTP: edits, jobs, folders, and everything that must be refused."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
import uvicorn
from conftest import COMMAND, DEADLINE, contents, manifest
from fabricate import empty_png
from hypothesis import HealthCheck, given, settings
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from adabldm.core.settings import ServeSettings
from adabldm.data.decisions import deciding
from adabldm.pipeline import AdaBLDMPipeline
from adabldm.service.api import Service, create_app, create_service
from adabldm.service.server import listen

PATIENCE = 300.0
"""Seconds for an answer of a busy machine."""
WITH_PATHS = ("settings.json", "decisions.jsonl")
"""Files of a generated folder that name other folders, or that other tests write."""


@dataclass(frozen=True)
class Served:
    """A service that listens.

    Attributes:
        url: of the service.
        root: the folder that it may use.
        service: its parts.
    """

    url: str
    root: Path
    service: Service

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, **options)


def served(settings: ServeSettings) -> Iterator[Served]:
    listening = listen(settings)
    service = create_service(settings)
    listening.listen()
    server = uvicorn.Server(uvicorn.Config(create_app(settings, service), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    host, port = listening.getsockname()[:2]
    try:
        yield Served(f"http://{host}:{port}", service.roots.first, service)
    finally:
        service.stopping.set()
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, run: Path, data: Path, generated: Path) -> Path:
    """A folder with a run, a data set and generated images; beside it a secret."""
    above = tmp_path_factory.mktemp("served")
    (above / "secret").mkdir()
    (above / "secret" / "manifest.jsonl").write_bytes((generated / "manifest.jsonl").read_bytes())
    root = above / "root"
    for source, name in ((run, "run"), (data, "parts"), (generated, "more")):
        shutil.copytree(source, root / name)
    return root


@pytest.fixture(scope="module")
def live(root: Path) -> Iterator[Served]:
    yield from served(
        ServeSettings(port=0, root=(root,), workers=2, dtype="float32", max_megapixels=1.0, max_upload=1.0)
    )


@pytest.fixture
def client(live: Served) -> Iterator[httpx.Client]:
    with live.client() as client:
        yield client


def picture(seed: int = 0, *, grey: bool = True) -> Image.Image:
    shape = (96, 128) if grey else (96, 128, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(80, 160, shape, dtype=np.uint8))


def mask_picture() -> Image.Image:
    values = np.zeros((96, 128), np.uint8)
    values[30:50, 40:70] = 255
    return Image.fromarray(values)


def as_bytes(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind)
    return file.getvalue()


def files(image: bytes | None = None, mask: bytes | None = None) -> dict[str, bytes]:
    return {"image": image or as_bytes(picture()), "mask": mask or as_bytes(mask_picture())}


ASKED = {"run": "run", "defect": "spot", "seed": "7"}


def problems(answer: httpx.Response, status: int) -> list[dict[str, str]]:
    """What is wrong, of an answer that must be of this status and in the usual form."""
    assert answer.status_code == status, answer.text
    found: list[dict[str, str]] = answer.json()["problems"]
    assert found
    for one in found:
        assert set(one) == {"field", "message"}
        assert one["message"].rstrip().endswith((".", "?", "!"))
        assert "Traceback" not in one["message"]
    return found


# Edits


def test_an_edit_has_the_bytes_of_the_python_call_whoever_else_asks(client: httpx.Client, live: Served) -> None:
    pipeline = AdaBLDMPipeline.from_pretrained(live.root / "run")

    def expected(seed: int) -> bytes:
        return pipeline(picture(seed), mask=mask_picture(), defect="spot", seed=seed).images[0].tobytes()

    def asked(seed: int) -> bytes:
        sent = files(as_bytes(picture(seed)))
        answer = client.post("/v1/edits", files=sent, data={**ASKED, "seed": str(seed)})
        assert answer.status_code == 200, answer.text
        return Image.open(io.BytesIO(base64.b64decode(answer.json()["image"]))).tobytes()

    wanted = [expected(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as eight:
        assert list(eight.map(asked, range(8))) == wanted
    assert len(set(wanted)) == 8


def test_the_answer_is_json_with_a_record_or_a_picture(client: httpx.Client) -> None:
    answer = client.post("/v1/edits", files=files(), data=ASKED)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    record = body["record"]
    assert (record["defect"], record["seed"], record["preset"], record["object"]) == ("spot", 7, "fast", "woven cloth")
    assert record["background_psnr"] > 20
    assert (body["rejection"] is None) == record["accepted"]
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(body["mask"]))))
    assert (mask == np.asarray(mask_picture())).all()
    plain = client.post("/v1/edits", files=files(), data=ASKED, headers={"Accept": "image/png"})
    assert plain.headers["content-type"] == "image/png"
    assert plain.content == base64.b64decode(body["image"])
    changed = np.asarray(Image.open(io.BytesIO(plain.content))) != np.asarray(picture())
    assert changed[mask > 0].mean() > 0.5


def test_json_forms_trimaps_prompts_and_references_are_understood(client: httpx.Client) -> None:
    def text(image: Image.Image) -> str:
        return base64.b64encode(as_bytes(image)).decode()

    form = client.post("/v1/edits", files=files(), data=ASKED).json()
    sent = {"image": text(picture()), "mask": f"data:image/png;base64,{text(mask_picture())}", **ASKED, "seed": 7}
    assert client.post("/v1/edits", json=sent).json()["image"] == form["image"]
    trimap = Image.fromarray(np.where(np.asarray(mask_picture()) > 0, 255, 128).astype(np.uint8))
    other = {"image": text(picture()), "trimap": text(trimap), **ASKED, "seed": 7}
    assert client.post("/v1/edits", json=other).json()["image"] == form["image"]
    prompt = {"image": text(picture()), "mask": text(mask_picture()), "run": "run", "prompt": "a <b>dent</b>"}
    answer = client.post("/v1/edits", json=prompt)
    assert answer.json()["record"]["prompt"] == "a <b>dent</b>"
    assert answer.headers["content-type"] == "application/json"
    real = {"reference_image": text(picture(3)), "reference_mask": text(mask_picture())}
    assert client.post("/v1/edits", json={**sent, **real}).json()["image"] != form["image"]
    drawn = client.post("/v1/edits", json={**sent, "set": ["look.start=2"], "preset": "fast"})
    assert drawn.json()["record"]["preset"] == "fast look.start=2"
    tuned = client.post("/v1/edits", json={**sent, "set": ["adaptation.method=finetune", "adaptation.steps=2"]})
    assert tuned.json()["record"]["adapt"] == "finetune"


def test_a_real_example_is_drawn_from_the_data_of_the_run_only_if_it_may_be_read(
    client: httpx.Client, run: Path, data: Path, tmp_path: Path
) -> None:
    refused = client.post("/v1/edits", files=files(), data={**ASKED, "example": "true"})
    assert "not at hand" in problems(refused, 422)[0]["message"]
    for one in served(ServeSettings(port=0, root=(tmp_path, data), run=(str(run),), workers=1)):
        with one.client() as other:
            answer = other.post("/v1/edits", files=files(), data={**ASKED, "run": run.name, "example": "true"})
            assert answer.status_code == 200, answer.text
            assert answer.json()["record"]["reference"].endswith(".png")


def test_grey_pictures_of_16_bits_and_turned_photographs_keep_their_form(client: httpx.Client) -> None:
    values = np.random.default_rng(0).integers(20000, 40000, (96, 128)).astype(np.uint16)
    answer = client.post(
        "/v1/edits", files=files(as_bytes(Image.fromarray(values))), data=ASKED, headers={"Accept": "image/png"}
    )
    deep = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert deep.dtype == np.uint16
    assert (deep[:10] == values[:10]).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    file = io.BytesIO()
    picture(grey=False).transpose(Image.Transpose.ROTATE_90).save(file, format="PNG", exif=exif)
    turned = client.post("/v1/edits", files=files(file.getvalue()), data=ASKED, headers={"Accept": "image/png"})
    assert Image.open(io.BytesIO(turned.content)).size == (128, 96)


def test_a_full_queue_says_when_to_come_again(root: Path, tmp_path: Path) -> None:
    limits = {"workers": 1, "queue": 1, "jobs": tmp_path / "jobs.sqlite3"}
    for one in served(ServeSettings.create({"port": 0, "root": [root], **limits})):
        slow = {**ASKED, "set": "plan.steps=40"}

        def ask(number: int, one: Served = one, slow: dict[str, str] = slow) -> httpx.Response:
            with one.client() as client:
                return client.post("/v1/edits", files=files(), data={**slow, "seed": str(number)})

        with ThreadPoolExecutor(6) as six:
            answers = list(six.map(ask, range(6)))
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert int(answer.headers["retry-after"]) >= 1
                assert "wait already" in problems(answer, 503)[0]["message"]


def test_a_client_that_goes_away_cancels_its_edit(live: Served) -> None:
    with live.client() as client:
        before = outcomes(client)
        long = {**ASKED, "set": "plan.steps=1000"}
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/edits", files=files(), data=long, timeout=1.0)
        end = time.monotonic() + DEADLINE
        while outcomes(client)["cancelled"] == before["cancelled"]:
            assert time.monotonic() < end, "the edit goes on though nobody waits for it"
            time.sleep(0.1)
        assert outcomes(client)["failed"] == before["failed"]


def outcomes(client: httpx.Client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("adabldm_edits_total")]
    return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in found}


# What is sent


PNG = as_bytes(picture())
BAD_PICTURES: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 422, "not a readable picture"),
    "text": (b"hello", 422, "not a readable picture"),
    "half": (PNG[: len(PNG) // 2], 422, "not a readable picture"),
    "broken": (PNG[:60] + b"\xff" * 40 + PNG[100:], 422, "not a readable picture"),
    "30000 squared": (empty_png(30_000), 413, "expected at most 1 million"),
    "billions": (empty_png(2**31 - 1), 413, "expected at most 1 million"),
    "1100 squared": (empty_png(1100), 413, "1100 x 1100"),
    "gif": (as_bytes(picture(), "GIF"), 422, "expected PNG"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 422, "not a readable picture"),
    "script": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", 422, "not a readable"),
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.", 422, "not a readable picture"),
    "tiny": (as_bytes(Image.new("L", (3, 3))), 422, "at least 16 pixels"),
    "another size": (as_bytes(Image.new("L", (64, 64), 90)), 422, "make them equal"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_is_refused(client: httpx.Client, name: str) -> None:
    data, status, message = BAD_PICTURES[name]
    sent = files()
    sent["image"] = data
    found = problems(client.post("/v1/edits", files=sent, data=ASKED), status)
    assert message in found[0]["message"]
    if status == 413 or "readable" in message:
        assert found[0]["field"] == "image"


def grey_mask() -> bytes:
    return as_bytes(Image.fromarray(np.tile(np.arange(128, dtype=np.uint8), (96, 1))))


@pytest.mark.parametrize(
    ("change", "status", "field", "message"),
    [
        ({"run": "nothing"}, 422, "run", "unknown, expected one of"),
        ({"run": "../run"}, 422, "run", "unknown"),
        ({"defect": "dent"}, 422, "defect", "expected one of scratch, spot"),
        ({"defect": None}, 422, "defect", "or a prompt"),
        ({"seed": "x"}, 422, "seed", "whole number"),
        ({"preset": "slow"}, 422, "preset", "expected one of fast"),
        ({"preset": "/etc/passwd.toml"}, 422, "preset", "expected one of fast"),
        ({"preset": '{"name": "x"}'}, 422, "preset.plan", "missing"),
        ({"preset": "{"}, 422, "preset", "no JSON"),
        ({"set": "look.strengths=2,1"}, 422, "set", "smaller number first"),
        ({"adapt": "magic"}, 422, "adapt", "expected one of residual"),
        ({"window": "half"}, 422, "window", "expected one of auto, full"),
        ({"colour": "red"}, 422, "colour", "unknown setting"),
        ({"prompt": "spot " * 500}, 422, "prompt", "reads at most"),
        ({"mask": "text"}, 422, "mask", "expected a file"),
    ],
)  # fmt: skip
def test_a_bad_value_names_its_field(
    client: httpx.Client, change: dict[str, str | None], status: int, field: str, message: str
) -> None:
    sent = {key: value for key, value in {**ASKED, **change}.items() if value is not None}
    (found, *_) = problems(client.post("/v1/edits", files=files(), data=sent), status)
    assert (found["field"], message in found["message"]) == (field, True), found


@pytest.mark.parametrize(
    ("sent", "field", "message"),
    [
        ({"image": PNG}, "mask", "either a mask or a trimap"),
        ({**files(), "trimap": PNG}, "mask", "either a mask or a trimap"),
        ({"mask": as_bytes(mask_picture())}, "image", "missing"),
        (files(mask=as_bytes(Image.new("L", (128, 96)))), "mask", "empty"),
        (files(mask=grey_mask()), "mask", "not binary"),
        ({"image": PNG, "trimap": grey_mask()}, "trimap", "other values"),
        ({**files(), "reference_image": PNG}, "reference_mask", "give both"),
        ({**files(), "other": PNG}, "other", "expected files named image"),
    ],
)
def test_missing_and_wrong_files_are_named(
    client: httpx.Client, sent: dict[str, bytes], field: str, message: str
) -> None:
    (found, *_) = problems(client.post("/v1/edits", files=sent, data=ASKED), 422)
    assert (found["field"], message in found["message"]) == (field, True), found


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
        ({"content": b"x"}, 415),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 400),
        ({"json": [1]}, 422),
        ({"json": {"image": 5}}, 422),
        ({"json": {"image": "§§"}}, 422),
        ({"json": {"run": "\ud800", "\ud800": "\ud800"}}, 422),
        ({"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}}, 400),
        ({"content": b"junk", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400),
        ({"content": b"x" * 3_000_000, "headers": {"Content-Type": "application/json"}}, 413),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_read_is_refused(client: httpx.Client, options: dict[str, Any], status: int) -> None:
    if "json" in options:
        text = json.dumps(options["json"]).encode()
        options = {"content": text, "headers": {"Content-Type": "application/json"}}
    answer = client.post("/v1/edits", **options)
    if status == 400 and answer.status_code == 422:  # an empty form is a form
        status = 422
    problems(answer, status)


def test_an_endless_body_is_cut_off(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(50):
            yield b"x" * 100_000

    answer = client.post("/v1/edits", content=chunks(), headers={"Content-Type": "application/json"})
    problems(answer, 413)


# Folders


PLACES = ["../secret", "/etc", "more/../../secret", "~", "", "link", "more/\0", "%2e%2e/secret", "." * 5000]


@pytest.fixture(scope="module")
def linked(root: Path) -> Path:
    """The root with a link that leads out of it, and a data set with such a link in it."""
    (root / "link").symlink_to(root.parent / "secret")
    (root / "parts-linked").mkdir()
    (root / "parts-linked" / "train").symlink_to(root.parent / "secret")
    return root


@pytest.mark.parametrize("place", PLACES)
def test_no_name_leads_out_of_the_roots(client: httpx.Client, linked: Path, place: str) -> None:
    name = place.replace("/", "%2F").replace("\0", "%00")
    for kind in ("records", "images/0", "masks/0"):
        answer = client.get(f"/v1/folders/{name}/{kind}")
        assert answer.status_code in {403, 404, 422}
        assert "000000.png" not in answer.text
    assert client.patch(f"/v1/folders/{name}/records", json={"reject": [0]}).status_code in {403, 404, 422}
    assert not (linked.parent / "secret" / "decisions.jsonl").exists()
    run = client.get(f"/v1/runs/{name}")
    assert run.status_code in {403, 404}


JOBS: list[tuple[str, dict[str, Any], str]] = [
    ("fit", {"data": "/etc", "out": "new"}, "data"),
    ("fit", {"data": "parts", "out": "../new"}, "out"),
    ("fit", {"data": "parts", "out": "link/new"}, "out"),
    ("fit", {"data": "parts", "out": "."}, "out"),
    ("fit", {"data": "link", "out": "new"}, "data"),
    ("fit", {"data": "parts-linked", "out": "new"}, "data"),
    ("fit", {"data": "parts", "out": "new", "base": "someone/model"}, "base"),
    ("fit", {"data": "parts", "out": "new", "base": "/etc"}, "base"),
    ("fit", {"data": "parts", "out": "new", "preset": "/etc/x.toml"}, "preset"),
    ("fit", {"data": "parts", "out": "new", "foreground": "folder", "foreground_folder": "/etc"}, "foreground_folder"),
    ("generate", {"run": "../secret", "data": "parts", "out": "new", "count": 1}, "run"),
    ("generate", {"run": "run", "data": "parts", "out": "new", "count": 0}, "count"),
    ("generate", {"run": "run", "data": "parts", "out": "new", "count": 1, "preset": "slow"}, "preset"),
    (
        "generate",
        {"run": "run", "data": "parts", "out": "new", "count": 1, "export": "coco", "export_out": "/etc/a"},
        "export_out",
    ),
    ("generate", {"run": "run", "data": "parts", "out": "new", "count": 1, "roi": ["scratch=/etc/mask.png"]}, "roi"),
    ("fit", {"data": "parts", "out": "new", "lora": ["/etc/style.safetensors=0.5"]}, "lora"),
    ("evaluate", {"data": "parts", "out": "new", "condition": ["real", "folder:../secret"]}, "condition"),
    ("export", {"folder": "../secret", "to": "coco", "out": "new"}, "folder"),
    ("export", {"folder": "more", "to": "coco", "out": "new", "with": "/etc"}, "with"),
    ("generate", {"run": "run", "data": "parts", "out": "new", "count": 1, "defect": ["\ud83d"]}, "defect"),
    ("export", {"folder": "more", "to": "magic", "out": "new"}, "to"),
    ("export", {"folder": "more", "to": "coco"}, "out"),
]


@pytest.mark.parametrize(("command", "values", "field"), JOBS)
def test_a_job_stays_in_the_roots_and_names_what_is_wrong(
    client: httpx.Client, linked: Path, command: str, values: dict[str, Any], field: str
) -> None:
    body = json.dumps({"command": command, "settings": values})  # in ASCII, also what is no text
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert problems(answer, 422)[0]["field"] == field
    assert client.get("/v1/jobs", params={"state": "queued"}).json() == []


def test_runs_folders_records_and_decisions(client: httpx.Client, live: Served) -> None:
    runs = {run["id"]: run for run in client.get("/v1/runs").json()}
    assert {"run", "magnetic-tile", "hazelnut", "surface"} <= runs.keys()
    one = client.get("/v1/runs/run").json()
    assert (one["card"]["seen_good"], one["card"]["seen_defects"]) == (None, None)  # they grow with the data
    assert one == runs["run"]
    assert (one["defects"], one["resolution"], one["object_name"]) == (["scratch", "spot"], 32, "woven cloth")
    assert "more" in {folder["id"] for folder in client.get("/v1/folders").json()}
    lines = manifest(live.root / "more")
    answer = client.get("/v1/folders/more/records", params={"offset": 1, "limit": 2}).json()
    assert answer["total"] == len(lines)
    assert [row["record"]["index"] for row in answer["records"]] == [1, 2]
    decided = client.patch("/v1/folders/more/records", json={"reject": [1], "note": "blurred"})
    assert decided.json()["rejected"] == [1]
    rejected = client.get("/v1/folders/more/records", params={"decision": "reject"}).json()
    assert [(row["record"]["index"], row["note"]) for row in rejected["records"]] == [(1, "blurred")]
    left = client.get("/v1/folders/more/records", params={"decision": "none", "defect": lines[0]["defect"]}).json()
    assert left["total"] == sum(line["defect"] == lines[0]["defect"] and line["index"] != 1 for line in lines)
    for kind in ("image", "mask"):
        file = client.get(f"/v1/folders/more/{kind}s/0")
        assert file.content == (live.root / "more" / lines[0][kind]).read_bytes()
        assert file.headers["content-type"] == "image/png"
    assert problems(client.patch("/v1/folders/more/records", json={"reject": [99]}), 422)
    problems(client.get("/v1/folders/more/images/99"), 404)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Served]:
    """A service with a root of its own, in which nothing is yet."""
    (tmp_path / "root").mkdir()
    yield from served(ServeSettings(port=0, root=(tmp_path / "root",), workers=1))


def test_a_run_in_a_folder_does_not_take_the_place_of_one_that_ships(own: Served, run: Path, data: Path) -> None:
    shutil.copytree(run, own.root / "hazelnut")
    shutil.copytree(data, own.root / "parts")
    path = str(own.root / "hazelnut")
    with own.client() as client:
        listed = {one["id"]: one for one in client.get("/v1/runs").json()}
        assert (listed["hazelnut"]["object_name"], listed[path]["object_name"]) == ("hazelnut", "woven cloth")
        for name, one in listed.items():
            assert client.get(f"/v1/runs/{name}").json() == one
        wanted = {"data": "parts", "out": "new", "count": 1, "defect": ["spot"]}
        for name in ("hazelnut", path):
            asked = {"command": "generate", "settings": {**wanted, "run": name}}
            job = client.post("/v1/jobs", json=asked).json()
            assert (job["settings"]["run"] == path) == (name == path)
            client.delete(f"/v1/jobs/{job['id']}")
        answer = client.post("/v1/edits", files=files(), data={**ASKED, "run": path})
        assert answer.json()["record"]["object"] == "woven cloth"


def test_a_folder_whose_name_is_no_text_hides_no_other(own: Served, run: Path, generated: Path) -> None:
    for source, name in ((run, "run"), (generated, "more")):
        shutil.copytree(source, own.root / name)
        shutil.copytree(source, os.fsdecode(os.fsencode(own.root / name) + b"\xfc"))
    with own.client() as client:
        assert [one["id"] for one in client.get("/v1/folders").json()] == ["more"]
        assert "run" in [one["id"] for one in client.get("/v1/runs").json()]


def test_a_root_that_holds_images_itself_can_be_reached(tmp_path: Path, generated: Path) -> None:
    root = shutil.copytree(generated, tmp_path / "more")
    for one in served(ServeSettings(port=0, root=(root,), workers=1)):
        with one.client() as client:
            (folder,) = client.get("/v1/folders").json()
            assert client.get(f"/v1/folders/{folder['id']}/records").json()["total"] == folder["images"] == 6
            assert client.get(f"/v1/folders/{folder['id']}/images/0").status_code == 200


def test_decisions_compare_with_nothing_outside(client: httpx.Client, linked: Path) -> None:
    place = "/v1/folders/more/records"
    for data in ("/etc", str(linked.parent / "secret"), "link", "parts-linked"):
        problems(client.patch(place, json={"duplicates": "list", "data": data}), 403)
    for field in ("good_folder", "bad_folder", "mask_folder"):
        for name in ("/etc", "../../secret"):
            sent = {"duplicates": "list", "data": "parts", field: [name]}
            problems(client.patch(place, json=sent), 403)
            asked = {"command": "fit", "settings": {"data": "parts", "out": "new", field: [name]}}
            assert problems(client.post("/v1/jobs", json=asked), 422)[0]["field"] == field


def test_decisions_wait_for_another_process(client: httpx.Client, live: Served) -> None:
    with deciding(live.root / "more"):
        (found,) = problems(client.patch("/v1/folders/more/records", json={"reject": [1]}), 409)
    assert "another process decides" in found["message"]


def test_a_range_of_images_that_are_not_there_takes_no_memory(own: Served, generated: Path) -> None:
    shutil.copytree(generated, own.root / "more")
    with own.client() as client:
        for name in ("reject", "keep"):
            tracemalloc.start()
            answer = client.patch("/v1/folders/more/records", json={name: ["2-5", "0-3000000"]})
            assert tracemalloc.get_traced_memory()[1] < 10e6
            tracemalloc.stop()
            assert f"--{name} 0-3000000: there is no image 6 in" in problems(answer, 422)[0]["message"]
        assert client.patch("/v1/folders/more/records", json={"reject": ["2-4,0"]}).json()["rejected"] == [0, 2, 3, 4]


# Jobs


def test_a_job_over_http_with_its_events(client: httpx.Client, live: Served, generated: Path) -> None:
    wanted = {"run": "run", "data": "parts", "out": "made/here", "count": 6, "batch_size": 2}
    made = client.post("/v1/jobs", json={"command": "generate", "settings": wanted})
    assert made.status_code == 201, made.text
    place = made.headers["location"]
    events = []
    with client.stream("GET", f"{place}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for block in "".join(stream.iter_text()).split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if fields:
                events.append(fields)
    numbers = [int(event["id"]) for event in events if "id" in event]
    assert numbers == list(range(1, len(numbers) + 1))
    assert sum(event["event"] == "ImageFinished" for event in events) == 6
    states = [json.loads(event["data"])["state"] for event in events if event["event"] == "Job"]
    assert states[-1] == "finished"
    with client.stream("GET", f"{place}/events", headers={"Last-Event-ID": str(numbers[-1])}) as stream:
        again = "".join(stream.iter_text())
    assert "ImageFinished" not in again
    assert "event: Job" in again
    job = client.get(place).json()
    assert (job["state"], job["folder"], job["fraction"]) == ("finished", "made/here", 1.0)
    made_here, usual = (contents(place, without=WITH_PATHS) for place in (live.root / "made" / "here", generated))
    assert made_here == usual
    assert client.get("/v1/folders/made/here/records").json()["total"] == 6
    problems(client.post(f"{place}/pause"), 409)
    assert client.delete(place).json()["state"] == "finished"
    problems(client.get("/v1/jobs/unknown/events"), 404)
    assert 'adabldm_jobs{state="finished"} 1.0' in client.get("/metrics").text


# Who asks


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:80@127.0.0.1"}, 421),
        ({"Host": "[::1"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Content-Length": "-1"}, 400),
    ],
)  # fmt: skip
def test_pages_of_other_sites_cannot_use_it(live: Served, headers: dict[str, str], status: int) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    lines = {"Host": f"{host}:{port}", "Connection": "close", **headers}
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        request = "GET /v1/runs HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in lines.items()) + "\r\n"
        connection.sendall(request.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert int(answer.split()[1]) == status
    assert b"Traceback" not in answer


def test_our_own_origin_passes(client: httpx.Client, live: Served) -> None:
    assert client.get("/v1/jobs", headers={"Origin": live.url}).status_code == 200


@pytest.fixture(scope="module")
def locked(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    jobs = tmp_path_factory.mktemp("locked") / "jobs.sqlite3"
    yield from served(ServeSettings(host="0.0.0.0", port=0, root=(root,), token="correct-horse", workers=1, jobs=jobs))


def test_nothing_is_told_without_the_token(locked: Served) -> None:
    url = locked.url.replace("0.0.0.0", "127.0.0.1")
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        for path in ("/v1/runs", "/v1/jobs", "/v1/folders", "/metrics", "/openapi.json", "/nothing"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic correct-horse"}):
                answer = client.get(path, headers=headers)
                assert problems(answer, 401)[0]["field"] == "Authorization"
                assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/runs?token=wrong").status_code == 401
        assert client.get("/v1/runs", cookies={"adabldm_token": "wrong"}).status_code == 401
        assert client.get("/healthz").json()["status"] == "ok"
        assert client.get("/v1/runs", headers={"Authorization": "Bearer correct-horse"}).status_code == 200


def test_a_browser_keeps_the_token_as_a_cookie(locked: Served) -> None:
    url = locked.url.replace("0.0.0.0", "127.0.0.1")
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        answer = client.get(f"{url}//evil.example/x%0d%0ay?token=correct-horse&a=1")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/evil.example/x%0D%0Ay?a=1"
        assert "HttpOnly; SameSite=Strict" in answer.headers["set-cookie"]
        assert client.get("/v1/runs?token=correct-horse").status_code == 303
        assert client.get("/v1/runs").status_code == 200


# The description


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = [
    "GET /healthz",
    "GET /metrics",
    "GET /v1/folders",
    "GET /v1/folders/{folder_id}/images/{index}",
    "GET /v1/folders/{folder_id}/masks/{index}",
    "GET /v1/folders/{folder_id}/records",
    "GET /v1/jobs",
    "GET /v1/jobs/{job_id}",
    "GET /v1/jobs/{job_id}/events",
    "GET /v1/runs",
    "GET /v1/runs/{run_id}",
    "DELETE /v1/jobs/{job_id}",
    "PATCH /v1/folders/{folder_id}/records",
    "POST /v1/edits",
    "POST /v1/jobs",
    "POST /v1/jobs/{job_id}/pause",
    "POST /v1/jobs/{job_id}/resume",
]


@pytest.fixture(scope="module")
def described(live: Served) -> dict[str, Any]:
    """All operations of the OpenAPI document, by method and path."""
    schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    found = [result.ok() for result in schema.get_all_operations()]
    return {f"{one.method.upper()} {one.path}": one for one in found}


ANY_TEXT = {"GET /v1/jobs/{job_id}", "GET /v1/runs/{run_id}", "DELETE /v1/jobs/{job_id}"} | {
    f"POST /v1/jobs/{{job_id}}/{word}" for word in ("pause", "resume")
}
"""Operations whose only parameter is any text, so that no request can be wrong."""
FALSIFIABLE = [name for name in OPERATIONS if name not in ANY_TEXT and ("{" in name or "GET" not in name)]


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, GenerationMode.POSITIVE) for name in OPERATIONS]
    + [(name, GenerationMode.NEGATIVE) for name in FALSIFIABLE],
)
def test_every_answer_is_as_the_description_says(described: dict[str, Any], name: str, mode: GenerationMode) -> None:
    assert sorted(described) == sorted(OPERATIONS)

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=described[name].as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        case.validate_response(case.call(timeout=PATIENCE), checks=CHECKS)

    ask()


def test_the_description_names_every_setting(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    form = described["paths"]["/v1/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"image", "mask", "trimap", "run", "defect", "prompt", "seed", "preset"} <= form["properties"].keys()
    jobs = described["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert [kind["title"] for kind in jobs] == ["fit", "generate", "evaluate", "export"]
    assert "http" not in json.dumps(described["paths"])


# The whole command


def test_serve_ends_in_order_and_a_second_one_finds_the_jobs(data: Path, run: Path, tmp_path: Path) -> None:
    place = tmp_path / "work"
    shutil.copytree(run, place / "run")
    shutil.copytree(data, place / "parts")
    command = [*COMMAND, "serve", "--port", "0", "--root", place, "--workers", "1"]

    def begin() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        return process, process.stderr.readline().split()[2].rstrip(";")

    first, url = begin()
    try:
        with httpx.Client(base_url=url, timeout=PATIENCE) as client, ThreadPoolExecutor(1) as other:
            wanted = {"run": "run", "data": "parts", "out": "made", "count": 6, "batch_size": 2}
            job = client.post("/v1/jobs", json={"command": "generate", "settings": wanted}).json()["id"]
            slow = {**ASKED, "set": "plan.steps=60"}
            waiting = other.submit(httpx.post, f"{url}/v1/edits", files=files(), data=slow, timeout=PATIENCE)
            while "adabldm_edits_running 1.0" not in client.get("/metrics").text:
                assert not waiting.done()
                time.sleep(0.05)
            first.send_signal(signal.SIGTERM)
            assert waiting.result().status_code == 200, "what is in flight is finished"
        assert first.wait(DEADLINE) == 0
    finally:
        first.kill()
    second, url = begin()
    try:
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            end = time.monotonic() + DEADLINE
            while (found := client.get(f"/v1/jobs/{job}").json())["state"] in {"queued", "running"}:
                assert time.monotonic() < end
                time.sleep(0.2)
            assert (found["state"], found["problem"]) == ("finished", None)
    finally:
        second.kill()
        second.wait()
    assert len(manifest(place / "made")) == 6
    assert os.path.exists(place / ".adabldm" / "jobs.sqlite3")
    taken = subprocess.run(
        [sys.executable, "-m", "adabldm", "serve", "--host", "203.0.113.7"], capture_output=True, text=True, check=False
    )
    assert taken.returncode == 2
    assert "cannot be listened on" in taken.stderr


def test_a_second_studio_is_told_where_the_first_one_is(tmp_path: Path) -> None:
    first, other = tmp_path / "first", tmp_path / "other"

    def line(work: Path, port: int) -> list[str]:
        return [*map(str, (*COMMAND, "studio", "--headless", "--work", work, "--root", tmp_path, "--port", port))]

    def refused(work: Path, port: int) -> str:
        done = subprocess.run(line(work, port), capture_output=True, text=True, check=False, timeout=DEADLINE)
        assert done.returncode == 2
        return done.stderr

    process = subprocess.Popen(line(first, 0), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = re.search(r"http://\S+:(\d+)", process.stderr.readline())
        assert found is not None
        same = refused(first, int(found[1]))
        assert f"{first}: another studio or service is running with this folder, process {process.pid} on" in same
        assert f"at {found[0]}; use that one or end it" in same
        assert f"--port {found[1]}: another program listens there" in refused(other, int(found[1]))
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
