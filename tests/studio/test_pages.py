"""The studio's pages in a real browser: what a user does with mouse and keys, and what then lies on the disk."""

from __future__ import annotations

import base64
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

import cv2
import httpx
import numpy as np
import pytest
from conftest import DEADLINE, run_command
from fabricate import empty_png, save, texture, write_data_set
from fabricate_formats import labelme
from PIL import Image

from adabldm.core.images import read_picture
from adabldm.core.mask_files import read_mask
from adabldm.core.records import Decision
from adabldm.data.decisions import append_decisions, read_decisions
from adabldm.data.generated import read_manifest

CHROMIUM = os.environ.get("ADABLDM_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SLOW = 600_000
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
        command = [sys.executable, "-m", "adabldm", "studio", *self.arguments, "--headless", "--port", "0"]
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
    page.evaluate("scrollTo(0, 0)")
    page.locator("#canvas canvas").scroll_into_view_if_needed()
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


def slide(page: Any, slider: str, value: int) -> None:
    """Bring a slider to a value, as a user does."""
    page.locator(slider).evaluate(
        "(one, value) => { one.value = value; one.dispatchEvent(new Event('input', { bubbles: true })); }", value
    )


def drawn(page: Any) -> str:
    """What the canvas shows once it has been drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shown: str = page.locator("#canvas canvas").evaluate("one => one.toDataURL()")
    return shown


def check_accessible(page: Any) -> None:
    """axe-core finds nothing serious, and nothing is cut off: wide and narrow, light and dark."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    for width, height in ((1280, 900), (400, 860)):
        page.set_viewport_size({"width": width, "height": height})
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            page.wait_for_selector(f"html[data-theme={theme}]")
            serious = [
                f"{one['id']}: {node['html'][:150]}"
                for one in page.evaluate("axe.run()")["violations"]
                if one["impact"] in {"serious", "critical"}
                for node in one["nodes"]
            ]
            assert serious == [], (width, theme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width


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
        slide(page, "#strength", 120)
        slide(page, "#change", 2)
        make(page)
        assert page.locator("#variants-list button").count() == 2
        views = []
        for place in (0, 40, 100):
            slide(page, "#split", place)
            views.append(drawn(page))
        page.uncheck("#outline")
        views.append(drawn(page))
        assert len(set(views)) == 4, "after, both, before, and before without the outline"
        assert page.locator("#scores li").count() >= 3
        shown = page.evaluate("document.body.dataset.shown")
        page.keyboard.press("k")
        page.get_by_role("link", name="Review what is kept").click()
        page.wait_for_selector("text=1 of 1 images shown")
    kept = places["work"] / "kept" / "kept"
    record = read_manifest(kept)[0]
    mask = read_mask(kept / record.mask)
    result = read_picture(kept / record.image).pixels.astype(int)
    source = read_picture(kept / record.source).pixels.astype(int)  # a copy: several data sets are at hand
    assert (picture_of(f"{server.address}/studio/paint/results/{shown}/whole.png") == result).all()
    change = np.abs(result - source).max(axis=2)
    assert change[mask].max() > 0
    # beyond the few pixels over which the preset fades out, every pixel is the source's
    near = cv2.dilate(mask.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    assert change[~near].max() == 0
    assert change[mask].mean() > 5 * change[~mask].mean()
    assert record.reference is not None
    assert (places["data"] / record.reference).is_file()
    assert record.shape == "painted"
    assert record.preset.startswith("fast look.strengths=1.2,1.2 look.start=")
    assert run_command("export", kept, "--to", "coco", "--out", places["work"] / "coco") == 0
    annotations = json.loads((places["work"] / "coco" / "annotations" / "instances_train.json").read_text())
    assert len(annotations["images"]) == 1


def test_a_shape_is_moved_turned_scaled_and_placed_by_mouse_and_keys(browser: Any, server: Server) -> None:
    with opened(browser, server, "paint") as page:
        page.wait_for_selector("#examples button")
        page.wait_for_selector("#hollow", state="hidden")
        page.click("[data-random=scratch]")
        page.wait_for_selector("#shape-bar:not([hidden])")
        before = (page.input_value("#turn"), page.input_value("#scale"))
        page.keyboard.press("]")
        page.keyboard.press("+")
        drag(page, (0.5, 0.5), (0.4, 0.4))
        assert (page.input_value("#turn"), page.input_value("#scale")) != before
        page.locator("#canvas canvas").press("Enter")
        page.wait_for_selector("#shape-bar", state="hidden")
        page.wait_for_selector("text=The mask covers")
        page.click("#undo")
        page.wait_for_selector("text=The mask is empty")
        page.click("#redo")
        page.wait_for_selector("text=The mask covers")
        page.click("#clear")
        # without a mouse: the space bar puts the brush down and lifts it
        canvas = page.locator("#canvas canvas")
        canvas.focus()
        for key in ("Space", "ArrowRight", "ArrowRight", "Space"):
            canvas.press(key)
        page.wait_for_selector("text=The mask covers")
        page.click("#real-shape")
        page.wait_for_selector("#shape-bar:not([hidden])")
        page.click("#place")
        page.wait_for_selector("#make:not([disabled])")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#keep:visible")


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_a_picture_comes_from_the_clipboard_or_is_dropped(
    browser: Any, server: Server, tmp_path: Path, way: str
) -> None:
    own = save(tmp_path / "part.png", texture((77, 91), np.random.default_rng(5)))
    with opened(browser, server, "paint") as page:
        page.wait_for_selector("#hollow", state="hidden")
        page.evaluate(BRING, [way, list(own.read_bytes())])
        page.wait_for_selector("text=The picture was loaded")
        paint(page)
        page.wait_for_selector("text=The mask covers")


BRING = """([way, bytes]) => {
  const held = new DataTransfer();
  held.items.add(new File([new Uint8Array(bytes)], "part.png", { type: "image/png" }));
  if (way === "paste") document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: held, bubbles: true }));
  else document.querySelector("#canvas").dispatchEvent(new DragEvent("drop", { dataTransfer: held, bubbles: true }));
}"""


def test_edits_can_be_stopped_and_a_page_that_goes_away_stops_them(browser: Any, server: Server) -> None:
    def metric(name: str) -> int:
        found = re.search(rf"^{re.escape(name)} (\d+)", httpx.get(f"{server.address}/metrics").text, re.MULTILINE)
        assert found
        return int(found[1])

    def cancelled() -> int:
        return metric('adabldm_edits_total{outcome="cancelled"}')

    with opened(browser, server, "paint") as page:
        page.wait_for_selector("#examples button")
        paint(page)
        page.click("text=More settings")
        page.select_option("#preset", "paper")  # fits a decoder to each picture
        page.fill("#variants", "8")
        for way in ("button", "page"):
            before = cancelled()
            page.click("#make")
            page.wait_for_selector("#stop:visible")
            # What has not reached the server cannot be stopped there.
            until(lambda: metric("adabldm_edits_running") > 0)
            if way == "button":
                page.click("#stop")
                page.wait_for_selector("text=Stopped.")
                page.wait_for_selector("#make:not([disabled])")
            else:
                page.goto(f"{server.address}/review")
            until(lambda before=before: cancelled() > before)
            until(lambda: metric("adabldm_edits_running") == 0)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(
    browser: Any, server: Server, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(empty_png(30_000))
    with opened(browser, server, "paint") as page:
        page.wait_for_selector("#hollow", state="hidden")
        page.set_input_files("#file", bomb)
        page.wait_for_selector("text=send a part of the picture")
        paint(page)  # the picture from before is still there
        page.wait_for_selector("#make:not([disabled])")
    order = {"data": "samples", "picture": "", "run": "surface", "defect": "scratch"}
    sent = {**order, "mask": base64.b64encode(bomb.read_bytes()).decode()}
    name = httpx.get(f"{server.address}/studio/paint/pictures", params={"data": "samples"}).json()["names"][0]
    answer = httpx.post(f"{server.address}/studio/paint/edits", json={**sent, "picture": name}, timeout=DEADLINE)
    assert answer.status_code == 422
    assert "paint it again" in answer.json()["problems"][0]["message"]


def test_an_uploaded_picture_is_edited_from_noise_and_kept_with_its_source(
    browser: Any, server: Server, places: dict[str, Path], tmp_path: Path
) -> None:
    own = save(tmp_path / "<b>part</b>.png", texture((120, 90), np.random.default_rng(5)))
    with opened(browser, server, "paint") as page:
        page.wait_for_selector("#hollow", state="hidden")
        page.set_input_files("#file", own)
        page.wait_for_selector("text=The picture was loaded")
        page.check("input[name=begin][value=noise]")
        page.select_option("#defect", label="Free prompt …")
        page.fill("#prompt", "<img src=x onerror=alert(1)> a dent")
        page.fill("#named", "dent")
        page.click("text=More settings")
        page.fill("#variants", "1")
        paint(page)
        make(page)
        page.fill("#kept", "dents")
        page.click("#keep")
        page.wait_for_selector("text=Kept as image 0")
        assert page.locator("img[src=x]").count() == 0
        page.fill("#kept", "../outside")
        page.click("#other")
        page.wait_for_selector("#keep:not([disabled])")
        page.click("#keep")
        page.wait_for_selector("text=choose another name")
    root = places["work"] / "kept" / "dents"
    (record,) = read_manifest(root).values()
    assert record.prompt == "<img src=x onerror=alert(1)> a dent"
    assert record.preset.startswith("fast look=none")
    assert (read_picture(root / record.source).pixels == read_picture(own).pixels).all()
    assert not (places["work"] / "outside").exists()


def test_where_a_type_has_no_real_mask_those_of_other_types_are_laid(browser: Any, server: Server) -> None:
    with opened(browser, server, "paint?run=surface") as page:
        page.wait_for_selector("#hollow", state="hidden")
        page.select_option("#defect", "pit")
        page.wait_for_selector("text=real masks of other types are taken: scratch, spot")
        shapes = []
        for _ in range(2):
            page.click("#real-shape")
            page.wait_for_selector("text=A shape lies on the picture")
            shapes.append(drawn(page))
        assert shapes[0] != shapes[1]
        page.click("#place")
        page.wait_for_selector("text=The mask covers")


def test_with_the_tool_that_moves_keys_move_the_picture_and_paint_nothing(browser: Any, server: Server) -> None:
    with opened(browser, server, "paint") as page:
        page.wait_for_selector("#hollow", state="hidden")
        page.keyboard.press("h")
        canvas = page.locator("#canvas canvas")
        before = drawn(page)
        canvas.press("ArrowRight")
        assert drawn(page) != before
        canvas.press(" ")
        page.wait_for_selector("text=The mask is empty")
        page.keyboard.press("b")
        canvas.press(" ")
        page.wait_for_selector("text=The mask covers")


def test_rooms_without_anything_to_show_say_what_to_do(browser: Any, run: Path, tmp_path: Path) -> None:
    """And masks that cannot be changed are shown without the tools that would change them."""
    labelme(tmp_path / "labelled")
    server = Server("--work", tmp_path / "work", "--data", tmp_path / "labelled", "--run", run)
    try:
        with opened(browser, server, "review") as page:
            page.wait_for_selector("text=There are no generated images yet")
            assert not page.is_visible("#wall")
            check_accessible(page)
            page.goto(f"{server.address}/evaluate")
            page.wait_for_selector("text=There is no evaluation yet")
            assert not page.is_visible("#evaluation")
            page.goto(f"{server.address}/data")
            page.wait_for_selector("text=Layout: LabelMe")
            page.click("#pictures button")
            page.wait_for_selector("text=The mask covers")
            shown = page.inner_text("#mask-words")
            for tool in ("[data-tool=brush]", "#size", "#undo", "#save"):
                assert not page.is_visible(tool)
            page.locator("#canvas canvas").press(" ")
            drag(page, (0.4, 0.4), (0.6, 0.6))
            assert page.inner_text("#mask-words") == shown
            check_accessible(page)
    finally:
        server.kill()


def test_images_are_reviewed_with_one_key_each(browser: Any, server: Server, places: dict[str, Path]) -> None:
    folder = places["folder"]
    first, second, third, *_ = read_manifest(folder)

    def decided() -> dict[int, str]:
        return {index: one.decision for index, one in read_decisions(folder).items()}

    with opened(browser, server, "review") as page:
        page.wait_for_selector(".tile[aria-selected=true]")
        page.wait_for_selector("#examples img")
        page.keyboard.press("k")
        until(lambda: decided() == {first: "keep"})
        page.keyboard.press("r")
        until(lambda: decided() == {first: "keep", second: "reject"})
        page.keyboard.press("u")
        until(lambda: decided() == {first: "keep"})
        page.keyboard.press("u")
        until(lambda: decided() == {})
        page.keyboard.press("n")
        page.keyboard.press("n")
        page.keyboard.press("r")
        until(lambda: decided() == {third: "reject"})
        page.select_option("#decision", "reject")
        page.wait_for_selector("text=1 of 6 images shown")
        assert page.locator(".tile").count() == 1
        page.select_option("#decision", "all")
        page.select_option("#sort", "seam:down")
        numbers = [int(text) for text in page.locator(".tile .number").all_text_contents()]
        page.select_option("#type", label="spot")
        spots = {int(text) for text in page.locator(".tile .number").all_text_contents()}
        page.select_option("#type", label="all types")
        middle = sorted(record.contrast for record in read_manifest(folder).values())[3]
        page.fill("#low", str(middle))
        strong = {int(text) for text in page.locator(".tile .number").all_text_contents()}
        page.wait_for_selector("#scores li >> text=/seam|edge/i")
    records = read_manifest(folder)
    seams = [records[index].seam for index in numbers]
    assert len(seams) == len(records)
    assert seams == sorted(seams, reverse=True)
    assert spots == {index for index, record in records.items() if record.defect == "spot"}
    assert strong == {index for index, record in records.items() if record.contrast >= middle}


def test_a_mask_is_painted_and_the_picture_becomes_a_training_example(
    browser: Any, server: Server, places: dict[str, Path]
) -> None:
    data = places["work"] / "ok-ng"
    rng = np.random.default_rng(1)
    for name in ("OK/a.png", "OK/b.png", "NG/bad.png"):
        save(data / name, texture((96, 96), rng))
    with opened(browser, server, f"data?data={data}") as page:
        page.wait_for_selector("text=no mask, expected")
        page.click("#problems button")
        page.wait_for_selector("#editor:not([hidden])")
        page.wait_for_selector("#defect")
        assert page.input_value("#defect") == "ng"
        drag(page, (0.45, 0.45), (0.55, 0.55))
        page.click("#save")
        page.wait_for_selector("text=Saved as")
        page.wait_for_selector("text=No problems found.")
        # correct it: what was there before is kept in a hidden folder
        page.select_option("#show", "type:ng")
        page.click("#pictures button")
        page.wait_for_selector("text=The mask covers")
        page.click("[data-tool=eraser]")
        drag(page, (0.44, 0.44), (0.5, 0.5))
        page.click("#save")
        page.wait_for_selector("#editor", state="hidden")
    mask = read_mask(data / "masks" / "NG" / "bad.png")
    (before,) = (data / ".adabldm-replaced").rglob("*.png")
    assert 0 < mask.sum() < read_mask(before).sum()
    assert run_command("inspect", data) == 0


def late(page: Any, *parts: str) -> None:
    """Hold the answers to addresses with all of these parts back until `come` is called."""
    page.evaluate(LATE, list(parts))


LATE = """(parts) => {
  const ask = window.fetch;
  const gate = new Promise((open) => { window.come = open; });
  window.held = 0;
  window.fetch = async (address, values) => {
    const answer = await ask(address, values);
    if (parts.every((part) => String(address).includes(part))) { window.held += 1; await gate; }
    return answer;
  };
}"""


def until_held(page: Any) -> None:
    until(lambda: page.evaluate("window.held") > 0)


def come(page: Any) -> None:
    """Let the late answers come, and wait until what they may change was changed."""
    until_held(page)
    page.evaluate("come()")
    page.evaluate("new Promise((done) => setTimeout(done, 500))")


def test_decisions_go_to_the_folder_that_is_chosen(
    browser: Any, server: Server, places: dict[str, Path], tmp_path: Path
) -> None:
    """Also while it is read, and when the answer for another one comes after its own."""
    small = places["work"] / "small"
    shutil.copytree(places["folder"], small)
    lines = (small / "manifest.jsonl").read_text().splitlines()[:2]
    (small / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    (small / "decisions.jsonl").unlink(missing_ok=True)
    before = read_decisions(places["folder"])
    with opened(browser, server, f"review?folder={small}") as page:
        page.wait_for_selector("text=2 of 2 images shown")
        late(page, "review/folder", "images")
        page.select_option("#folder", str(places["folder"]))
        until_held(page)
        page.keyboard.press("k")  # nothing is shown yet
        assert page.locator(".tile").count() == 0
        page.select_option("#folder", str(small))
        page.wait_for_selector("text=2 of 2 images shown")
        come(page)
        assert "2 of 2 images shown" in page.inner_text("#count")
        page.keyboard.press("r")
        until(lambda: [one.decision for one in read_decisions(small).values()] == ["reject"])
        page.wait_for_selector("text=1 rejected")
    assert read_decisions(places["folder"]) == before


def test_a_decision_that_was_not_written_is_taken_back_in_its_own_folder_only(
    browser: Any, server: Server, places: dict[str, Path]
) -> None:
    gone, other = places["work"] / "gone", places["work"] / "other"
    for folder in (gone, other):
        shutil.copytree(places["folder"], folder)
        (folder / "decisions.jsonl").unlink(missing_ok=True)
    with opened(browser, server, f"review?folder={gone}") as page:
        page.wait_for_selector("text=6 of 6 images shown")
        late(page, "review/decide")
        (gone / "manifest.jsonl").rename(gone / "aside")
        page.keyboard.press("r")
        page.wait_for_selector("text=1 rejected")
        until_held(page)
        append_decisions(other, [Decision(index=min(read_manifest(other)), decision="keep")])
        page.select_option("#folder", str(other))
        page.wait_for_selector("text=1 kept, 0 rejected")
        come(page)
        page.wait_for_selector("text=expected a folder of generated images")
        assert "1 kept, 0 rejected" in page.inner_text("#count")


def test_results_are_shown_on_the_picture_that_they_were_made_of(
    browser: Any, server: Server, places: dict[str, Path]
) -> None:
    with opened(browser, server, "paint?run=surface") as page:
        page.wait_for_selector("#real-shape:not([disabled])")
        paint(page)
        names = page.locator("#strip button").evaluate_all("all => all.map((one) => one.title)")
        area = page.inner_text("#mask-words")
        late(page, "paint/edits")
        page.click("#make")
        until_held(page)
        page.locator("#strip button").nth(3).click()
        page.wait_for_selector("#strip li:nth-child(4) button[aria-pressed=true]")
        shown = drawn(page)
        come(page)
        page.wait_for_selector("text=They belong to")
        assert drawn(page) == shown
        assert not page.is_visible("#result")
        page.keyboard.press("k")  # nothing that is not seen is kept
        page.click("#offer")
        page.wait_for_selector("body[data-shown]")
        page.fill("#kept", "of-the-first")
        assert page.locator("#strip button[aria-pressed=true]").get_attribute("title") == names[0]
        assert page.inner_text("#mask-words") == area
        page.click("#keep")
        page.wait_for_selector("text=Kept as image 0")
    kept = places["work"] / "kept" / "of-the-first"
    (record,) = read_manifest(kept).values()
    source = read_picture(kept / record.source).pixels  # a copy: several data sets are at hand
    assert (source == read_picture(places["data"] / names[0]).pixels).all()


def test_the_picture_that_was_chosen_last_is_shown(browser: Any, server: Server) -> None:
    with opened(browser, server, "paint") as page:
        page.wait_for_selector("#hollow", state="hidden")
        names = page.locator("#strip button").evaluate_all("all => all.map((one) => one.title)")
        late(page, "paint/picture?", names[1].rpartition("/")[2])
        page.locator("#strip button").nth(1).click()
        page.locator("#strip button").nth(2).click()
        page.wait_for_selector("#strip li:nth-child(3) button[aria-pressed=true]")
        shown = drawn(page)
        come(page)
        assert drawn(page) == shown
        assert page.locator("#strip button[aria-pressed=true]").get_attribute("title") == names[2]


def test_nothing_is_made_by_a_run_that_was_left(browser: Any, server: Server) -> None:
    with opened(browser, server, "paint?run=surface") as page:
        page.wait_for_selector("#hollow", state="hidden")
        paint(page)
        page.wait_for_selector("#make:not([disabled])")
        late(page, "paint/run?", "hazelnut")
        page.select_option("#run", "hazelnut")
        until_held(page)
        assert page.is_disabled("#make"), "its types are not known yet"
        page.select_option("#run", "surface")
        page.wait_for_selector("#make:not([disabled])")
        types = page.locator("#defect option").all_text_contents()
        come(page)
        assert page.locator("#defect option").all_text_contents() == types


def test_a_mask_is_saved_to_the_picture_that_it_was_painted_on(
    browser: Any, server: Server, places: dict[str, Path]
) -> None:
    """Also where another data set, whose pictures have the same names, is chosen while the picture is loaded."""
    first, second = (write_data_set(places["work"] / name, seed=seed) for seed, name in ((1, "one"), (2, "two")))
    with opened(browser, server, f"data?data={first}") as page:
        page.wait_for_selector("#pictures button")
        late(page, "data/picture?", "one")
        page.click("#pictures button")
        until_held(page)
        page.select_option("#data", str(second))
        page.wait_for_selector("#pictures button")
        come(page)
        assert not page.is_visible("#editor")
        page.click("#pictures button")
        page.wait_for_selector("text=The mask covers")
        name = page.inner_text("#editor-title")
        page.click("#clear")
        drag(page, (0.45, 0.45), (0.55, 0.55))
        late(page, "data/mask")
        page.click("#save")
        until_held(page)
        page.locator("#pictures button").nth(1).click()
        until(lambda: page.inner_text("#editor-title") != name)
        come(page)
        page.wait_for_selector("text=Saved as")
        assert page.is_visible("#editor"), "another picture is open"
    assert not (first / ".adabldm-replaced").exists()
    assert len(list((second / ".adabldm-replaced").rglob("*.png"))) == 1


def test_the_types_are_those_of_the_run_that_is_chosen(browser: Any, server: Server) -> None:
    with opened(browser, server, "make") as page:
        page.wait_for_selector("#gen-types input", state="attached")
        late(page, "paint/run?", "hazelnut")
        page.select_option("#gen-run", "hazelnut")
        until_held(page)
        assert page.locator("#gen-types input").count() == 0
        page.select_option("#gen-run", "surface")
        page.wait_for_selector("#gen-types input", state="attached")
        types = page.locator("#gen-types").text_content()
        come(page)
        assert page.locator("#gen-types").text_content() == types


def start_fit(page: Any, name: str, base: Path | str, control: int) -> None:
    page.fill("#fit-name", name)
    if page.locator("#fit details").get_attribute("open") is None:
        page.locator("#fit summary").click()
    values = {"domain": 2, "control": control, "examples": 8, "batch": 2, "preview": 2, "base": base}
    for field, value in values.items():
        page.fill(f"#fit-{field}", str(value))
    page.click("#fit button[type=submit]")


def job(page: Any, name: str, state: str) -> Any:
    """The card of a job, once it is in a state."""
    card = page.locator(f"[data-state={state}]", has=page.locator("h3", has_text=re.compile(rf" {name}$")))
    card.wait_for()
    return card


def asked(server: Server) -> list[dict[str, Any]]:
    """The jobs of a server."""
    answer = httpx.get(f"{server.address}/v1/jobs").raise_for_status()
    return list(answer.json())


def test_every_field_of_a_fit_is_explained_in_plain_words(browser: Any, workshop: Server) -> None:
    with opened(browser, workshop, "make") as page:
        page.locator("#fit summary").click()
        assert "stage" not in page.locator("#fit").inner_text()
        for field in ("domain", "control", "examples", "batch", "base"):
            explained = page.locator(f"#fit-{field}").get_attribute("aria-describedby")
            assert len(page.locator(f"#{explained}").inner_text()) > 40
        check_accessible(page)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, run: Path, base: Path) -> Iterator[Server]:
    """A studio that works on jobs, with a data set that has test pictures."""
    root = tmp_path_factory.mktemp("workshop")
    data = write_data_set(root / "cloth", test=True)
    own = Server("--work", root / "work", "--data", data, "--run", run, "--root", base.parent, "--root", root)
    yield own
    own.kill()


def test_jobs_wait_pause_go_on_and_stop_and_a_fit_shows_its_preview(browser: Any, workshop: Server, base: Path) -> None:
    with opened(browser, workshop, "make") as page:
        page.select_option("#gen-run", label="run (woven cloth)")
        page.fill("#gen-name", "many")
        page.fill("#gen-count", "5000")
        page.click("#generate button[type=submit]")
        job(page, "many", "running")
        start_fit(page, "short", base, 3)
        job(page, "short", "queued").get_by_text("Waits until the jobs before it are over.").wait_for()
        start_fit(page, "usual", "", 3)
        job(page, "usual", "queued").get_by_role("button", name="Stop").click()
        job(page, "usual", "stopped")
        bases = {
            Path(one["folder"]).name: one["settings"]["base"] for one in asked(workshop) if one["command"] == "fit"
        }
        assert (bases["short"], bases["usual"]) == (str(base), None), "none is that of the command line"
        job(page, "many", "running").get_by_role("button", name="Pause").click()
        job(page, "many", "paused")
        card = job(page, "short", "finished")
        preview = card.locator("img.preview")
        preview.wait_for()
        assert preview.evaluate("one => one.decode().then(() => one.naturalWidth)") > 32
        card.locator("svg.chart").wait_for()
        card.locator("img[alt='Real scratch']").wait_for()
        job(page, "many", "paused").get_by_role("button", name="Resume").click()
        running = job(page, "many", "running")
        running.get_by_text(re.compile("left in all")).wait_for()
        running.locator("img[alt^='Image ']").first.wait_for()
        running.get_by_role("button", name="Stop").click()
        job(page, "many", "stopped").get_by_role("link", name="Review the images").wait_for()
        check_accessible(page)
        card.get_by_role("link", name="Paint with it").click()
        page.wait_for_selector("#examples button")
        assert page.input_value("#run").endswith("short")


def test_an_evaluation_is_started_and_its_tables_and_pictures_are_shown(browser: Any, workshop: Server) -> None:
    with opened(browser, workshop, "evaluate") as page:
        page.fill("#name", "cloth")
        page.uncheck("[value='adabldm:fast']")
        page.check("[value=nsa]")
        page.locator("#evaluate summary").click()
        page.fill("#count", "2")
        page.fill("#steps", "2")
        page.click("#start")
        job(page, "cloth", "finished")
        page.wait_for_selector("#tables td.best")
        page.wait_for_selector("text=12 real test pictures")
        rows = page.locator("#tables tbody th").all_text_contents()
        assert set(rows) == {"real", "copy-paste", "Poisson-blended"}
        page.wait_for_selector("text=U-Net: real test images")
        broken = "[...document.images].filter((one) => one.complete && !one.naturalWidth).map((one) => one.src)"
        assert page.evaluate(broken) == []
        for theme, paper in (("light", 255), ("dark", 29)):
            page.emulate_media(color_scheme=theme)
            page.wait_for_selector(f"html[data-theme={theme}]")
            for sheet in page.locator("#tables img:visible").all():
                sheet.scroll_into_view_if_needed()
                assert sheet.evaluate("one => one.decode().then(() => one.naturalWidth)") > 100
                assert sheet.evaluate(CORNER) == paper, "the column of labels fits the theme"
        page.set_viewport_size({"width": 400, "height": 860})
        for table in page.locator("#tables .scroll:has(table)").all():
            right, *cells = table.evaluate(
                "table => [table, ...table.querySelectorAll('tr > :nth-child(2)')]"
                ".map((one) => one.getBoundingClientRect().right)"
            )
            assert max(cells) <= right, "the first measure is cut off"
        check_accessible(page)


def test_a_job_survives_its_server_and_ends_with_the_bytes_of_the_command(
    browser: Any, workshop: Server, base: Path, tmp_path: Path
) -> None:
    work, data = (Path(workshop.arguments[workshop.arguments.index(name) + 1]) for name in ("--work", "--data"))
    with opened(browser, workshop, "make") as page:
        start_fit(page, "long", base, 12)
        job(page, "long", "running")
        until(lambda: bool(list((work / "runs" / "long").glob("previews/control-*.png"))))
        workshop.kill()
    workshop.start()
    with opened(browser, workshop, "make") as page:
        job(page, "long", "finished")
    flags = ("--domain-steps", 2, "--control-steps", 12, "--examples", 8, "--batch-size", 2, "--preview-every", 2)
    line = tmp_path / "line"
    assert run_command("fit", data, "--out", line, "--base", base, *flags, "--quiet") == 0
    weights = "controlnet/diffusion_pytorch_model.safetensors"
    assert (work / "runs" / "long" / weights).read_bytes() == (line / weights).read_bytes()


CORNER = """one => {
  const sheet = document.createElement("canvas");
  sheet.getContext("2d").drawImage(one, 0, 0);
  return sheet.getContext("2d").getImageData(2, 100, 1, 1).data[0];
}"""


def test_a_job_that_failed_says_why_and_nothing_runs_over_the_edge(browser: Any, workshop: Server) -> None:
    folder = Path(workshop.arguments[workshop.arguments.index("--work") + 1]) / ("without-a-break-" * 6)
    folder.mkdir()
    with opened(browser, workshop, "make") as page:
        settings = {"run": "surface", "data": str(folder), "out": "generated/none", "count": 3}
        answer = httpx.post(f"{workshop.address}/v1/jobs", json={"command": "generate", "settings": settings})
        assert answer.status_code < 300, answer.text
        card = job(page, "none", "failed")
        card.get_by_text(re.compile("without-a-break")).wait_for()
        assert str(folder.parent) not in card.inner_text(), "the name of the folder is enough"
        check_accessible(page)


EVIL = "<img src=x onerror=document.title='owned'>"


def test_names_of_users_never_become_markup(browser: Any, places: dict[str, Path], run: Path, tmp_path: Path) -> None:
    data = tmp_path / f"{EVIL} parts"
    shutil.copytree(places["data"], data)
    for path in sorted(data.rglob("*/000*.png")):
        path.rename(path.with_name(path.name.replace("000", f"{EVIL}0")))
    (data / "train" / "spot" / f"{EVIL}broken.png").write_bytes(b"no picture")
    folder = tmp_path / f"{EVIL} images"
    shutil.copytree(places["folder"], folder)
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    evil = [{**line, "prompt": EVIL, "object": EVIL, "source": EVIL, "defect": EVIL} for line in lines]
    (folder / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in evil))
    server = Server("--work", tmp_path / "work", "--data", data, "--folder", folder, "--run", run)
    try:
        with opened(browser, server, "paint") as page:
            for room in ROOMS:
                page.goto(f"{server.address}/{room}")
                page.wait_for_load_state("networkidle")
                if room == "data":
                    page.locator("#problems").get_by_text(EVIL).first.wait_for()
                if room == "review":
                    page.wait_for_selector("#scores li")
                    page.locator("aside summary").click()
                assert page.get_by_text(EVIL).count() > 0, room
                assert page.locator("img[src=x]").count() == 0
                assert "owned" not in page.title()
    finally:
        server.kill()


ROOMS = ("paint", "review", "data", "make", "evaluate")


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_accessible_and_fits_both_widths(browser: Any, server: Server, room: str) -> None:
    with opened(browser, server, room) as page:
        page.wait_for_load_state("networkidle")
        if room == "paint":
            paint(page)
            make(page)
            slide(page, "#split", 45)
        elif room == "review":
            page.wait_for_selector("#scores li")
        elif room == "data":
            page.click("#pictures button")
            page.wait_for_selector("text=The mask covers")
        check_accessible(page)


def test_ten_thousand_images_scroll(browser: Any, places: dict[str, Path], run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    records = list(read_manifest(places["folder"]).values())
    lines = []
    for index in range(10_000):
        record = records[index % len(records)]
        name = f"test/{record.defect}/{index:06d}"
        for old, new in ((record.image, f"{name}.png"), (record.mask, f"{name}_mask.png")):
            (folder / new).parent.mkdir(parents=True, exist_ok=True)
            os.link(places["folder"] / old, folder / new)
        named = {"index": index, "image": f"{name}.png", "mask": f"{name}_mask.png"}
        lines.append(record.model_copy(update=named).line())
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    server = Server("--work", tmp_path / "work", "--folder", folder, "--run", run)
    try:
        with opened(browser, server, "review") as page:
            page.wait_for_selector("text=10,000 of 10,000 images shown")
            most = page.evaluate(SCROLL)
            assert most < 200, "tiles that are far away are drawn, too"
            page.keyboard.press("End")
            page.wait_for_selector(".tile[aria-selected=true] >> text=9999")
            loaded = "[...document.querySelectorAll('.tile img')].every(one => one.complete && one.naturalWidth)"
            until(lambda: bool(page.evaluate(loaded)))
            page.keyboard.press("r")
            until(lambda: {index: one.decision for index, one in read_decisions(folder).items()} == {9999: "reject"})
    finally:
        server.kill()


SCROLL = """async () => {
  const wall = document.querySelector("#wall");
  let most = 0;
  for (let step = 0; step <= 60; step++) {
    wall.scrollTop = (wall.scrollHeight - wall.clientHeight) * step / 60;
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    most = Math.max(most, document.querySelectorAll(".tile").length);
  }
  return most;
}"""


def test_pages_are_told_to_ask_no_other_host_and_run_no_script_of_users(server: Server) -> None:
    for room in ROOMS:
        answer = httpx.get(f"{server.address}/{room}")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"(src|href)=\"(https?:)?//", answer.text)


def test_folders_elsewhere_cannot_be_reached(server: Server, places: dict[str, Path], tmp_path: Path) -> None:
    write_data_set(tmp_path / "secret", good=1)
    link = places["work"] / "link"
    link.symlink_to(tmp_path / "secret")
    tried = [
        ("paint/pictures", {"data": str(tmp_path / "secret")}),
        ("paint/pictures", {"data": str(link)}),
        ("paint/picture", {"data": str(places["data"]), "name": "../../secret/train/good/000.png"}),
        ("paint/picture", {"data": "uploads", "name": "../../woven_cloth/train/good/000.png"}),
        ("review/folder", {"folder": "/etc"}),
        ("data/pictures", {"data": "/etc"}),
        ("evaluate/report", {"folder": "/etc"}),
        ("jobs/name", {"part": "runs", "name": "../../x"}),
    ]
    for path, asked in tried:
        answer = httpx.get(f"{server.address}/studio/{path}", params=asked, timeout=DEADLINE)
        assert answer.status_code in {403, 422}, (path, answer.text)
        assert answer.json()["problems"][0]["message"]
