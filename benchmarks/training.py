"""What a fit costs and how good its defects are: the presets `standard` and `published` one after the other.

    python benchmarks/training.py --data magnetic_tile --out fits [--share 0.1] [--count 50] [--base tiny]

Each preset is fitted with `--share` of its steps and training windows (1: all; the published procedure then takes
most of a day on two CPU cores), and timed, encoding included. `fast` then draws `--count` defects from noise with each
run, on the same scenes, and their KID against the real test defects is printed beside the time. A finished fit
is kept: the same command goes on with the next one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

from adabldm.app.progress import ProgressBar
from adabldm.core.errors import InputError
from adabldm.core.images import atomic_file
from adabldm.core.settings import BenchSettings, FitPreset, FitSettings
from adabldm.core.settings.fit import LoopSettings
from adabldm.workflows.bench import bench
from adabldm.workflows.fit import fit

EDITING: dict[str, Any] = {"preset": ("fast",), "set": ("look=none",)}
"""The edits begin from noise, so that the picture shows what training taught and nothing of the real defects."""
SCORES = ("kid", "kid_std", "seam", "defect_fidelity", "visible_change")


def shortened(preset: FitPreset, share: float) -> FitPreset:
    """The preset with that share of its steps, warm-up and training windows, at least one of each it has."""

    def part(number: int) -> int:
        return max(1, round(number * share)) if number else 0

    def loop(settings: LoopSettings) -> LoopSettings:
        return settings.changed(steps=part(settings.steps), warmup=part(settings.warmup))

    return preset.changed(domain=loop(preset.domain), control=loop(preset.control), examples=part(preset.examples))


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Fit a preset and judge it, if that was not done with the same settings."""
    out = options.out / name
    preset = shortened(FitSettings(data=options.data, out=out, preset=name).fit_preset(), options.share)
    record, made = options.out / f"{name}.json", {"share": options.share, "base": options.base, "count": options.count}
    if record.exists():
        found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        if {key: found.get(key) for key in made} != made:
            raise InputError(f"{record}: made with other settings; use the same ones, or another --out.")
        return found
    shutil.rmtree(out, ignore_errors=True)  # a fit that was killed: its time is not known
    began = time.perf_counter()
    with ProgressBar(quiet=options.quiet) as listen:
        fit(FitSettings(data=options.data, out=out, base=options.base, preset=preset, device=options.device), listen)
        seconds = time.perf_counter() - began
        settings = BenchSettings(
            run=str(out), data=options.data, count=options.count, device=options.device, kid=True, **EDITING
        )
        (row,) = bench(settings, listen)["presets"]
    steps = {"domain_steps": preset.domain.steps, "control_steps": preset.control.steps}
    found = {"preset": name, **made, **steps, "seconds": round(seconds, 1), **{key: row[key] for key in SCORES}}
    with atomic_file(record) as file:
        file.write((json.dumps(found, indent=1) + "\n").encode())
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the fits")
    parser.add_argument("--share", type=float, default=1.0, help="share of the presets' steps and windows")
    parser.add_argument("--count", type=int, default=50, help="images for each fit")
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--preset", action="append", help="repeatable; default: standard, published")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [measured(name, options) for name in options.preset or ["standard", "published"]]
    for row in rows:
        row["time_ratio"] = round(row["seconds"] / rows[-1]["seconds"], 4)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
