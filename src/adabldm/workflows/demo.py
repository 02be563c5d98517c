"""The demo: the shipped tiny model edits defects into sample images that the project itself made."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path

from adabldm.core.events import Listener, ignore
from adabldm.core.settings import DemoSettings, GenerateSettings
from adabldm.core.settings.common import Recipe
from adabldm.data.claim import SETTINGS, claim
from adabldm.workflows.generate import GenerateSummary, generate

RUN = "magnetic-tile"
REMARK = (
    "The defect-free sources of this demo were drawn by the tiny model itself and the masks by a random procedure: "
    "they show how the tool works, not how real parts look."
)
RECIPES = {
    "blowhole": (Recipe(kind="blob", share=(0.05, 0.14)),),
    "break": (Recipe(kind="polygon", share=(0.16, 0.44)),),
    "crack": (Recipe(kind="scratch", share=(0.2, 0.6)),),
    "fray": (Recipe(kind="blob", share=(0.3, 0.7)), Recipe(kind="polygon", share=(0.3, 0.7))),
    "uneven": (Recipe(kind="blob", share=(0.6, 0.95)),),
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


def demo(settings: DemoSettings, listen: Listener = ignore) -> GenerateSummary:
    """Make defect images of all types of the shipped magnetic-tile run, offline.

    Args:
        settings: `out/data` will hold the sources, `out/images` the results with contact sheet and page.
        listen: see `generate`.

    Raises:
        InputError: `out` holds something else.
        OutputError: full disk.
    """
    with nullcontext() if _made_before_claims(settings.out) else claim(settings.out, {}, "demo"):
        return generate(
            GenerateSettings(
                run=RUN,
                data=copy_samples(settings.out / "data"),
                out=settings.out / "images",
                count=settings.count,
                seed=settings.seed,
                masks="procedural",
                recipes=RECIPES,
                remarks=(REMARK,),
            ),
            listen,
        )


def _made_before_claims(out: Path) -> bool:
    """Whether a demo of a version that left no settings in its folder goes on there."""
    return not (out / SETTINGS).exists() and (out / "images" / SETTINGS).is_file() and (out / "data").is_dir()
