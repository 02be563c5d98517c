"""Screenshots of every room of the studio for the documentation: docs/pictures/studio-*.webp.

    python tools/studio_pictures.py [--room paint] [--every-view] [--out docs/pictures]

With `--every-view`, each room is also shown dark and 400 px wide.

The pictures show no image of a third party: everything is made from the samples that ship, with defects that the run
`surface` renders, a short fit on them, and an evaluation of two conditions.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from adabldm.workflows.samples import tile_pictures

SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
COMMAND = [sys.executable, "-m", "adabldm"]
RUN = "magnetic-tile"
PATIENCE = 600_000
"""Milliseconds that a page gets."""
RENDERED = {"pit": "blowhole", "chip": "break", "crack": "crack", "corrosion": "fray", "stain": "uneven"}
"""Types of the run `surface`, and what such defects of magnetic tiles are called."""
CRACK = ((0.4, 0.42), (0.44, 0.46), (0.47, 0.45), (0.5, 0.52), (0.54, 0.53), (0.56, 0.6), (0.6, 0.62))
"""The stroke that is painted, by shares of the canvas."""
VIEWS = (("light", 1280), ("dark", 1280), ("light", 400), ("dark", 400))
"""Themes and widths; the first one is that of the documentation."""


def main() -> None:
    """Make the data, start the studio, and take a picture of every room."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--every-view", action="store_true", help="also dark, and 400 px wide")
    parser.add_argument("--room", action="append", choices=sorted(ROOMS), help="all rooms if left out (repeatable)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        data, images = make_data(work)
        command = [*COMMAND, "studio", "--work", work / "studio", "--data", data, "--folder", images, "--run", RUN]
        server = subprocess.Popen([*map(str, command), "--port", "0", "--headless"], stderr=subprocess.PIPE, text=True)
        try:
            take(address_of(server), options)
        finally:
            server.terminate()
            server.wait()


def make_data(work: Path) -> tuple[Path, Path]:
    """A data set of the samples that ship, with rendered defects as its real ones, and a folder of images."""
    good, data, drawn = work / "good", work / "tiles", work / "drawn"
    for split, samples in (("train", tile_pictures()[:4]), ("test", tile_pictures()[4:])):
        for sample in samples:
            for place in (good / "train" / "good", data / split / "good"):
                place.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(sample, place / sample.name)
    types = [part for name in RENDERED for part in ("--defect", name)]
    run("generate", "surface", "--data", good, "--out", drawn, "--count", 40, *types)
    for line in (drawn / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        defect, split = RENDERED[record["defect"]], "train" if record["index"] < 28 else "test"
        image, mask = (Path(record[name]) for name in ("image", "mask"))
        for own, target in ((image, data / split / defect), (mask, data / "ground_truth" / defect)):
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(drawn / own, target / own.name)
    run("generate", RUN, "--data", data, "--out", work / "more", "--count", 30)
    return data, work / "more"


def run(*arguments: object) -> None:
    """`adabldm ARGUMENTS`."""
    subprocess.run([*COMMAND, *map(str, arguments), "--quiet"], check=True)


def address_of(server: subprocess.Popen[str]) -> str:
    """Where the studio says that it is."""
    assert server.stderr is not None
    for line in server.stderr:
        found = re.search(r"the studio is at (\S+)", line)
        if found:
            return found[1]
    raise SystemExit("the studio ended by itself")


def take(address: str, options: argparse.Namespace) -> None:
    """Use the rooms a little, and take their pictures."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=SWITCHES)
        page = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light").new_page()
        page.set_default_timeout(PATIENCE)
        for room in options.room or ROOMS:
            page.set_viewport_size({"width": 1280, "height": 900})
            page.emulate_media(color_scheme="light")
            page.goto(f"{address}/{room}")
            ROOMS[room](page)
            for theme, width in VIEWS if options.every_view else VIEWS[:1]:
                page.set_viewport_size({"width": width, "height": 900})
                page.emulate_media(color_scheme=theme)
                page.evaluate("scrollTo(0, 0)")
                page.wait_for_timeout(800)
                name = f"studio-{room}" + ("" if (theme, width) == VIEWS[0] else f"-{width}-{theme}")
                if room == "paint":  # its buttons stay at the window's lower edge, above what is scrolled
                    height = page.evaluate("document.documentElement.scrollHeight")
                    page.set_viewport_size({"width": width, "height": height})
                save(page.screenshot(full_page=True), options.out / f"{name}.webp")
        browser.close()


def save(screenshot: bytes, path: Path) -> None:
    """Write a screenshot as WebP, which is a tenth of the size of a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(screenshot)) as image:
        image.convert("RGB").save(path, quality=88, method=6)
    print(f"{path}: {image.width} x {image.height} px, {path.stat().st_size / 1000:.0f} kB", flush=True)


def use_paint(page: Any) -> None:
    """Paint a crack and make four variants."""
    page.wait_for_selector("#hollow", state="hidden")
    page.select_option("#defect", "crack")
    page.wait_for_selector("#examples button")
    slide(page, "#size", 6)
    box = page.locator("#canvas canvas").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in CRACK]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()
    page.click("#make")
    page.wait_for_selector("body[data-shown]")
    first = page.evaluate("document.body.dataset.shown")
    page.keyboard.press("2")
    page.wait_for_selector(f"body:not([data-shown='{first}'])")
    slide(page, "#split", 45)


def slide(page: Any, slider: str, value: int) -> None:
    """Bring a slider to a value."""
    page.evaluate("([slider, value]) => { document.querySelector(slider).value = value; }", [slider, value])
    page.dispatch_event(slider, "input")


def use_review(page: Any) -> None:
    """Decide on some images."""
    page.wait_for_selector(".tile[aria-selected=true]")
    page.wait_for_selector("#examples img")
    for key in "kkrkknr":
        page.keyboard.press(key)
        page.wait_for_timeout(300)
    page.wait_for_timeout(1500)


def use_data(page: Any) -> None:
    """Open a picture with its mask."""
    page.wait_for_selector("text=No problems found.")
    page.click("#pictures button")
    page.wait_for_selector("text=The mask covers")


def use_make(page: Any) -> None:
    """Fit for some steps."""
    page.fill("#fit-name", "tiles")
    page.click("#fit summary")
    values = {"base": "tiny", "domain": 10, "control": 60, "examples": 60, "batch": 4, "preview": 30}
    for field, value in values.items():
        page.fill(f"#fit-{field}", str(value))
    page.click("#fit summary")
    page.click("#fit button[type=submit]")
    page.wait_for_selector("[data-state=finished] img.preview")
    page.wait_for_selector("[data-state=finished] .real img")


def use_evaluate(page: Any) -> None:
    """Evaluate two conditions for some steps."""
    page.click("#evaluate summary")
    page.fill("#count", "10")
    page.fill("#steps", "30")
    page.fill("#name", "tiles")
    page.click("#start")
    page.wait_for_selector("#jobs [data-state=finished]")
    page.wait_for_selector("#tables table")
    page.wait_for_selector("#tables img")


ROOMS = {"paint": use_paint, "review": use_review, "data": use_data, "make": use_make, "evaluate": use_evaluate}

if __name__ == "__main__":
    main()
