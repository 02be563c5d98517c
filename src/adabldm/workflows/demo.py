"""The demo: the run `surface` draws ten generic defects on eight surfaces that ship."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path

from adabldm.core.events import Listener, ignore
from adabldm.core.records.files import read_json
from adabldm.core.settings import DemoSettings, GenerateSettings
from adabldm.data.claim import SETTINGS, claim
from adabldm.rendering.render import RENDERER
from adabldm.workflows.generate import GenerateSummary, generate
from adabldm.workflows.samples import lay_out, surface_pictures

RUN = "surface"
REMARK = (
    "The surfaces of this demo are CC0 pictures of materials, continued by their mirror images, and the defects are "
    "generic ones; a run that is fitted to your examples draws what your defects look like."
)


def demo(settings: DemoSettings, listen: Listener = ignore) -> GenerateSummary:
    """Make images of ten generic defects on the surfaces that ship, offline.

    Args:
        settings: `out/data` will hold the sources, `out/images` the results with contact sheet and page.
        listen: see `generate`.

    Raises:
        InputError: `out` holds something else.
        OutputError: full disk.
    """
    with nullcontext() if _made_before_claims(settings.out) else claim(settings.out, {"model": RENDERER}, "demo"):
        return generate(
            GenerateSettings(
                run=RUN,
                data=lay_out(surface_pictures(), settings.out / "data"),
                out=settings.out / "images",
                count=settings.count,
                seed=settings.seed,
                remarks=(REMARK,),
            ),
            listen,
        )


def _made_before_claims(out: Path) -> bool:
    """Whether a demo of this run, but of a version that left no settings in its folder, goes on there."""
    if (out / SETTINGS).exists() or not (out / "data").is_dir():
        return False
    with suppress(OSError, ValueError):
        made = read_json((out / "images" / SETTINGS).read_bytes())
        return isinstance(made, dict) and made.get("model") == RENDERER
    return False
