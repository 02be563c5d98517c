"""Write files as this version writes them, so that a test can open them in every later one.

    python tools/fixtures.py tests/fixtures/schema1

The commands are run on fabricated data with the base of the tests: a run without its weights, a generated folder with
decisions, and an evaluation. Paths of this machine become `/old`. Make a new folder for each new schema; those that are
there stay as they are.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import run_command, write_base  # noqa: E402
from fabricate import write_data_set  # noqa: E402

KEPT = {".json", ".jsonl", ".png", ".md"}
LEFT_OUT = {"checkpoints", "logs", "previews", "reports", "good", "maps", "conditions.png", "detections.png"}


def make(work: Path) -> None:
    """Run the commands in a folder."""
    data = write_data_set(work / "woven_cloth", good=3, defects={"spot": 2, "scratch": 2}, size=(40, 48), test=True)
    base, run, out = write_base(work / "base"), work / "run", work / "generated"
    quick = ("--domain-steps", 1, "--control-steps", 1, "--examples", 4, "--batch-size", 2, "--quiet")
    commands: list[tuple[object, ...]] = [
        ("fit", data, "--out", run, "--base", base, *quick),
        ("generate", run, "--data", data, "--out", out, "--count", 4, "--quiet"),
        ("curate", out, "--reject", "1", "--keep", "2", "--note", "blurred"),
        ("evaluate", "--data", data, "--run", run, "--out", work / "evaluation", "--condition", "real",
         "--condition", "copy-paste", "--condition", "adabldm:fast", "--detector", "unet", "--seeds", 1,
         "--budget", "quick", "--detector-steps", 1, "--count", 2, "--quiet"),
    ]  # fmt: skip
    for command in commands:
        if run_command(*command) != 0:
            raise SystemExit(f"{command[0]} failed")


def keep(work: Path, place: Path) -> None:
    """Copy what is small, with the paths of this machine replaced."""
    for folder in ("run", "generated", "evaluation"):
        for path in sorted((work / folder).rglob("*")):
            inner = path.relative_to(work)
            inside_run = folder == "run" and len(inner.parts) > 2
            if path.suffix not in KEPT or not path.is_file() or LEFT_OUT & set(inner.parts) or inside_run:
                continue
            target = place / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".png":
                shutil.copyfile(path, target)
            else:
                target.write_text(path.read_text(encoding="utf-8").replace(str(work), "/old"), encoding="utf-8")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path)
    place = parser.parse_args().place
    if place.exists():
        raise SystemExit(f"{place}: exists; files of a version are written once.")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        make(work)
        keep(work, place)


if __name__ == "__main__":
    main()
