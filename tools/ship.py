"""Put a trained base and fitted runs into the package, in 16 bits, without what the base holds already.

    python tools/ship.py base BASE                      # -> models/shipped/tiny
    python tools/ship.py run RUN NAME                   # -> models/shipped/NAME
    python tools/ship.py describe NAME DATA             # features of the images that a shipped run was fitted on
    python tools/ship.py samples [--count 12]           # draws the demo's sample images with the shipped base

Everything shipped together must stay below 40 MB; the last line printed is the total.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from adabldm.core.appearance import KEPT, describe, evenly
from adabldm.core.images import write_png
from adabldm.core.prompts import good_prompt
from adabldm.core.seeding import torch_generator
from adabldm.core.tensors import to_pixels
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import open_data_set
from adabldm.models.store import load_base, load_run, read_card, save_components, write_card, write_model_index
from adabldm.production.previews import draw_pictures

SHIPPED = Path(__file__).resolve().parent.parent / "src" / "adabldm" / "models" / "shipped"
LIMIT_MB = 40


def _forget_origins(folder: Path) -> None:
    """Remove from the configs the folder that they were loaded from: it means nothing elsewhere."""
    for path in folder.rglob("config.json"):
        values = json.loads(path.read_text())
        values.pop("_name_or_path", None)
        path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def ship_base(folder: Path) -> None:
    """Copy a base in 16 bits."""
    save_components(load_base(str(folder)), SHIPPED / "tiny", half=True)
    _forget_origins(SHIPPED / "tiny")


def ship_run(folder: Path, name: str) -> None:
    """Copy a run's control branch and card; its UNet must be the shipped base's."""
    card = read_card(folder)
    components, _ = load_run(folder)
    base = load_base("tiny")
    for key, value in base.unet.state_dict().items():
        if not torch.equal(value, components.unet.state_dict()[key]):
            raise SystemExit(f"{folder}: its UNet differs from the shipped base's ({key}); fit with --domain none.")
    shutil.rmtree(SHIPPED / name, ignore_errors=True)
    save_components(components, SHIPPED / name, only=("controlnet",), half=True)
    _forget_origins(SHIPPED / name)
    write_model_index(components, SHIPPED / name)
    settings = {key: value for key, value in card.settings.items() if key not in {"data", "base"}}
    write_card(SHIPPED / name, card.model_copy(update={"base": "tiny", "settings": settings}))


def describe_images(name: str, data: Path) -> None:
    """Write what the good images that a shipped run was fitted on look like into its card."""
    card = read_card(SHIPPED / name)
    good = open_data_set(data, ReadOptions(split="train")).good
    seen = tuple(describe(sample.picture().pixels) for sample in evenly(good, KEPT))
    write_card(SHIPPED / name, card.model_copy(update={"appearance": seen}))


def draw_samples(count: int, object_name: str = "magnetic tile", size: tuple[int, int] = (320, 224)) -> None:
    """Draw defect-free pictures from pure noise with the shipped base: the demo's sources."""
    components = load_base("tiny")
    shutil.rmtree(SHIPPED / "samples", ignore_errors=True)
    for index in range(count):
        streams = [torch_generator("sample image", index)]
        images = draw_pictures(components, [good_prompt(object_name)], size, streams, steps=30, guidance=1.5)
        grey = to_pixels(images[0]).mean(axis=2).round().astype(np.uint8)
        write_png(SHIPPED / "samples" / f"tile_{index:02d}.png", grey)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("base").add_argument("folder", type=Path)
    run = commands.add_parser("run")
    run.add_argument("folder", type=Path)
    run.add_argument("name")
    describing = commands.add_parser("describe")
    describing.add_argument("name")
    describing.add_argument("data", type=Path)
    commands.add_parser("samples").add_argument("--count", type=int, default=12)
    options = parser.parse_args()
    if options.command == "base":
        ship_base(options.folder)
    elif options.command == "run":
        ship_run(options.folder, options.name)
    elif options.command == "describe":
        describe_images(options.name, options.data)
    else:
        draw_samples(options.count)
    total = sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) / 2**20
    print(f"{total:.1f} MB shipped, at most {LIMIT_MB}")
    if total > LIMIT_MB:
        raise SystemExit("too large")


if __name__ == "__main__":
    main()
