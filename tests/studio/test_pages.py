"""The studio's pages in a real browser: what a user does with mouse and keys, and what then lies on the disk."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import DEADLINE, run_command
from PIL import Image

from adabldm.core.images import read_mask, read_picture
from adabldm.data.generated import read_manifest

CHROMIUM = os.environ.get("ADABLDM_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SLOW = 120_000
"""Milliseconds that a page gets on a busy machine."""

if CHROMIUM is None:
    pytest.skip("the pages need a browser: install Chromium, or name one in ADABLDM_CHROMIUM", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="the pages are tested with Playwright")


class Server:
    """`adabldm studio` as a process of its own."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = [str(argument) for argument in arguments]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "adabldm", "studio", *self.arguments, "--no-browser", "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        said = ""
        for line in self.process.stderr:
            said += line
            found = re.search(r"the studio is at (http://\S+)", line)
            if found:
                self.address = found[1]
                break
        else:
            pytest.fail(f"it ended by itself: {said}")
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.address}/healthz", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        pytest.fail("it does not answer")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, data: Path, generated: Path) -> dict[str, Path]:
    """Copies that the studio may write to."""
    root = tmp_path_factory.mktemp("studio")
    shutil.copytree(data, root / "woven_cloth")
    shutil.copytree(generated, root / "images")
    return {"work": root / "work", "data": root / "woven_cloth", "folder": root / "images"}


@pytest.fixture(scope="module")
def server(places: dict[str, Path], run: Path) -> Iterator[Server]:
    own = Server(
        "--work", places["work"], "--data", places["data"], "--folder", places["folder"], "--run", run,
        "--root", places["work"].parent,
    )  # fmt: skip
    yield own
    own.kill()


@contextmanager
def opened(browser: Any, server: Server, room: str, **options: Any) -> Iterator[Any]:
    """A page of the studio, of which nothing may fail and nothing may ask another host."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page = context.new_page()
    page.set_default_timeout(SLOW)
    elsewhere: list[str] = []
    errors: list[str] = []
    requests: list[str] = []

    def asked(request: Any) -> None:
        requests.append(request.url)
        if not request.url.startswith((server.address, "blob:", "data:")):
            elsewhere.append(request.url)

    page.on("request", asked)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{server.address}/{room}")
    yield page
    assert requests
    assert elsewhere == []
    assert errors == []
    context.close()


def drag(page: Any, *steps: tuple[float, float]) -> None:
    """Drag the mouse over the canvas, by shares of its width and height."""
    box = page.locator("#canvas canvas").bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in steps]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=4)
    page.mouse.up()


def paint(page: Any) -> None:
    """Choose the first picture, and paint a stroke on it."""
    page.wait_for_selector("#hollow", state="hidden")
    drag(page, (0.45, 0.45), (0.55, 0.5), (0.6, 0.58))


def make(page: Any) -> None:
    page.click("#make")
    page.wait_for_selector("body[data-shown]")
    page.wait_for_selector("#make:not([disabled])")


def picture_of(address: str) -> np.ndarray:
    answer = httpx.get(address, timeout=DEADLINE)
    assert answer.status_code == 200
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).astype(int)


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not happened():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def test_what_is_painted_changes_inside_the_mask_alone_and_is_kept(
    browser: Any, server: Server, places: dict[str, Path]
) -> None:
    with opened(browser, server, "paint") as page:
        page.wait_for_selector("#examples button")
        paint(page)
        page.click("text=More settings")
        page.fill("#variants", "2")
        make(page)
        assert page.locator("#variants-list button").count() == 2
        assert page.locator("#scores dt").count() >= 3
        shown = page.evaluate("document.body.dataset.shown")
        page.keyboard.press("k")
        page.wait_for_selector("text=Kept as image 0")
    kept = places["work"] / "kept" / "kept"
    record = read_manifest(kept)[0]
    mask = read_mask(kept / record.mask)
    result = read_picture(kept / record.image).pixels.astype(int)
    source = read_picture(places["data"] / record.source).pixels.astype(int)
    assert (picture_of(f"{server.address}/studio/paint/results/{shown}/whole.png") == result).all()
    change = np.abs(result - source).max(axis=2)
    assert change[mask].max() > 0
    # beyond the few pixels over which the preset fades out, every pixel is the source's
    import cv2

    near = cv2.dilate(mask.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    assert change[~near].max() == 0
    assert change[mask].mean() > 5 * change[~mask].mean()
    assert record.reference is not None
    assert (places["data"] / record.reference).is_file()
    assert record.shape == "painted"
    assert record.preset.startswith("fast look.strengths=1,1")
    assert run_command("export", kept, "--to", "coco", "--out", places["work"] / "coco") == 0
    annotations = json.loads((places["work"] / "coco" / "annotations" / "instances_train.json").read_text())
    assert len(annotations["images"]) == 1
