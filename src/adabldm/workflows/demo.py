"""The demo: the shipped tiny model edits defects into sample images that the project itself made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from adabldm.errors import InputError
from adabldm.trimap.procedural import Recipe
from adabldm.workflows.generate import GenerateSummary, generate

RUN = "magnetic-tile"
REMARK = (
    "The defect-free sources of this demo were drawn by the tiny model itself and the masks by a random procedure: "
    "they show how the tool works, not how real parts look."
)
RECIPES = {
    "blowhole": (Recipe("blob", (0.05, 0.14)),),
    "break": (Recipe("polygon", (0.16, 0.44)),),
    "crack": (Recipe("scratch", (0.2, 0.6)),),
    "fray": (Recipe("blob", (0.3, 0.7)), Recipe("polygon", (0.3, 0.7))),
    "uneven": (Recipe("blob", (0.6, 0.95)),),
}
"""Shapes of about the sizes that the real defects have."""


def sample_images() -> list[Path]:
    """The defect-free sample images in the package: drawn by the tiny model itself."""
    folder = Path(str(files("adabldm.models"))) / "shipped" / "samples"
    return sorted(folder.glob("*.png"))


def copy_samples(data: Path) -> Path:
    """Lay the sample images out as a data set and return its folder."""
    good = data / "train" / "good"
    good.mkdir(parents=True, exist_ok=True)
    for path in sample_images():
        shutil.copyfile(path, good / path.name)
    return data


def demo(
    out: Path,
    count: int = 20,
    *,
    seed: int = 0,
    say: Callable[[str], None] = print,
    quiet: bool = False,
) -> GenerateSummary:
    """Make `count` defect images of all types of the shipped magnetic-tile run, offline.

    Args:
        out: `out/data` holds the sources, `out/images` the results with contact sheet and page.
        count: images in all.
        seed: of everything random.
        say: takes remarks.
        quiet: no progress bar.

    Raises:
        InputError: bad count, or `out` holds something else.
    """
    if count < 1:
        raise InputError(f"--count {count}: expected at least 1.")
    good = out / "data" / "train" / "good"
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file, expected a folder; choose another name.")
    if out.exists() and any(out.iterdir()) and not good.is_dir():
        raise InputError(f"--out {out}: not empty and not made by the demo; choose another --out.")
    return generate(
        RUN,
        copy_samples(out / "data"),
        out / "images",
        count,
        seed=seed,
        masks="procedural",
        recipes=RECIPES,
        remarks=[REMARK],
        say=say,
        quiet=quiet,
    )
