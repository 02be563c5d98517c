"""Put trained bases and fitted runs into the package, without what the base holds already.

    python tools/ship.py base BASE                      # -> models/shipped/tiny, 16 bits
    python tools/ship.py general BASE                   # -> models/shipped/general, 8 bits, autoencoder 16 bits
    python tools/ship.py run RUN NAME                   # -> models/shipped/NAME
    python tools/ship.py shrink NAME                    # a shipped run's control branch from 16 to 8 bits
    python tools/ship.py describe NAME DATA             # measures a run's data, and how it draws them
    python tools/ship.py samples [--count 12]           # draws tiles with the shipped base

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
from adabldm.models.eight_bit import save_eight_bit
from adabldm.models.store import (
    COMPONENT_NAMES,
    load_base,
    load_general,
    load_run,
    read_card,
    save_components,
    write_card,
    write_model_index,
)
from adabldm.production.previews import draw_pictures
from adabldm.production.redrawing import measured

SHIPPED = Path(__file__).resolve().parent.parent / "src" / "adabldm" / "models" / "shipped"
LIMIT_MB = 40
EIGHT_BIT = ("text_encoder", "unet", "controlnet")


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


def ship_general(folder: Path) -> None:
    """Copy a general base with its control branch: the autoencoder in 16 bits, the other networks in 8."""
    components, place = load_general(str(folder)), SHIPPED / "general"
    for name in COMPONENT_NAMES:
        shutil.rmtree(place / name, ignore_errors=True)
    save_components(components, place, half=True)
    for name in EIGHT_BIT:
        shrink(place / name, components.modules()[name])
    _forget_origins(place)


def shrink_run(name: str) -> None:
    """Store the control branch of a run that ships in 8 bits."""
    components, card = load_run(name)
    assert components.controlnet is not None
    shrink(SHIPPED / name / "controlnet", components.controlnet)
    write_card(SHIPPED / name, card)


def shrink(folder: Path, module: torch.nn.Module) -> None:
    """Store a saved network's weights in 8 bits instead."""
    for path in folder.glob("*.safetensors"):
        path.unlink()
    save_eight_bit(module, folder)


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
    assert components.controlnet is not None
    shrink(SHIPPED / name / "controlnet", components.controlnet)
    _forget_origins(SHIPPED / name)
    write_model_index(components, SHIPPED / name)
    settings = {key: value for key, value in card.settings.items() if key not in {"data", "base"}}
    write_card(SHIPPED / name, card.model_copy(update={"base": "tiny", "settings": settings}))


def describe_data(name: str, data: Path) -> None:
    """Write into a shipped run's card what its data look like, and how it draws their defects."""
    components, card = load_run(name)
    data_set = open_data_set(data, ReadOptions(split="train"))
    seen = tuple(describe(sample.picture().pixels) for sample in evenly(data_set.good, KEPT))
    known = measured(components, card.model_copy(update={"appearance": seen}), data_set)
    write_card(SHIPPED / name, known.model_copy(update={"redrawn": ()}))  # its first steps are those of docs/results.md


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
    commands.add_parser("general").add_argument("folder", type=Path)
    run = commands.add_parser("run")
    run.add_argument("folder", type=Path)
    run.add_argument("name")
    commands.add_parser("shrink").add_argument("name")
    describing = commands.add_parser("describe")
    describing.add_argument("name")
    describing.add_argument("data", type=Path)
    commands.add_parser("samples").add_argument("--count", type=int, default=12)
    options = parser.parse_args()
    if options.command == "base":
        ship_base(options.folder)
    elif options.command == "general":
        ship_general(options.folder)
    elif options.command == "run":
        ship_run(options.folder, options.name)
    elif options.command == "shrink":
        shrink_run(options.name)
    elif options.command == "describe":
        describe_data(options.name, options.data)
    else:
        draw_samples(options.count)
    total = sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) / 2**20
    print(f"{total:.1f} MB shipped, at most {LIMIT_MB}")
    if total > LIMIT_MB:
        raise SystemExit("too large")


if __name__ == "__main__":
    main()
