"""How smoothly the studio's wall scrolls through ten thousand images, in headless Chromium.

    python benchmarks/studio_scroll.py [--images 10000] [--seconds 8]

Prints JSON: milliseconds between two frames (median, 95th percentile, longest) while the wall is scrolled from its
first to its last image, the most tiles that were in the page at once, the seconds until the wall could be used, and the
seconds after which all pictures in sight were loaded once the scrolling ended.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SCROLL = """async (seconds) => {
  const wall = document.querySelector("#wall");
  const gaps = [];
  let most = 0, last = performance.now();
  const begin = last, end = wall.scrollHeight - wall.clientHeight;
  await new Promise((done) => {
    const step = (now) => {
      gaps.push(now - last);
      last = now;
      most = Math.max(most, document.querySelectorAll(".tile").length);
      const share = Math.min(1, (now - begin) / 1000 / seconds);
      wall.scrollTop = end * share;
      if (share < 1) requestAnimationFrame(step); else done();
    };
    requestAnimationFrame(step);
  });
  gaps.sort((one, other) => one - other);
  const at = (share) => Math.round(10 * gaps[Math.floor((gaps.length - 1) * share)]) / 10;
  return { frames: gaps.length, median_ms: at(0.5), p95_ms: at(0.95), longest_ms: at(1), most_tiles: most };
}"""
LOADED = "[...document.querySelectorAll('.tile img')].every((one) => one.complete && one.naturalWidth)"


def main() -> None:
    """Make the folder, start the studio and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        many(work, options.images)
        command = [sys.executable, "-m", "adabldm", "studio", "--work", "studio", "--folder", "many", "--port", "0"]
        server = subprocess.Popen([*command, "--headless"], stderr=subprocess.PIPE, text=True, cwd=work)
        assert server.stderr is not None
        address = next(found[1] for line in server.stderr if (found := re.search(r"the studio is at (\S+)", line)))
        try:
            print(json.dumps(measure(address, options.images, options.seconds), indent=2))
        finally:
            server.terminate()
            server.wait()


def many(work: Path, count: int) -> None:
    """A folder of so many images: those of the demo, linked again and again."""
    subprocess.run([sys.executable, "-m", "adabldm", "demo", "--out", work / "demo", "--quiet"], check=True)
    source, folder, lines = work / "demo" / "images", work / "many", []
    records = [json.loads(line) for line in (source / "manifest.jsonl").read_text().splitlines()]
    for index in range(count):
        record = dict(records[index % len(records)], index=index)
        for key, end in (("image", ".png"), ("mask", "_mask.png")):
            old = Path(record[key])
            record[key] = (old.parent / f"{index:06d}{end}").as_posix()
            (folder / old.parent).mkdir(parents=True, exist_ok=True)
            os.link(source / old, folder / record[key])
        lines.append(json.dumps(record))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")


def measure(address: str, count: int, seconds: float) -> dict[str, float]:
    """Scroll from the first to the last image."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=SWITCHES)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        began = time.monotonic()
        page.goto(f"{address}/review")
        page.wait_for_selector(f"text={count:,} of {count:,} images shown")
        ready = time.monotonic() - began
        found: dict[str, float] = page.evaluate(SCROLL, seconds)
        ended = time.monotonic()
        while not page.evaluate(LOADED):
            time.sleep(0.02)
        loaded = time.monotonic() - ended
        browser.close()
    return {"images": count, "ready_s": round(ready, 2), **found, "loaded_s": round(loaded, 2)}


if __name__ == "__main__":
    main()
