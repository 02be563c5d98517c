"""The commands of the general base: `train-surface`, `surface-figures` and `surface-sheet`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("materials", type=Path, help="folder of tileable pictures of materials")
    parser.add_argument(
        "folders", type=Path, nargs="*", help="folders of pictures of defect-free parts, training splits only"
    )


def build_train_surface(commands: Any) -> None:
    """Add `train-surface`."""
    parser = commands.add_parser(
        "train-surface", help="train the general base on rendered defects; the same command resumes it"
    )
    _add_pictures(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the base")
    parser.add_argument("--autoencoder-steps", type=int, metavar="N")
    parser.add_argument("--diffusion-steps", type=int, metavar="N")
    parser.add_argument("--windows", type=int, metavar="N", help="windows of the autoencoder's training")
    parser.add_argument("--examples", type=int, metavar="N", help="rendered examples; more may be added to a run")
    parser.add_argument("--conditioning", help="what the control branch reads: trimap or trimap+latents (default)")
    parser.add_argument(
        "--autoencoder",
        metavar="BASE",
        help="take the autoencoder of this base instead of training one, such as general",
    )
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: auto)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.set_defaults(call=_train_surface)


def _train_surface(options: argparse.Namespace) -> int:
    from adabldm.workflows.surface import surface_settings, train_surface

    settings = surface_settings(
        autoencoder_steps=options.autoencoder_steps,
        diffusion_steps=options.diffusion_steps,
        windows=options.windows,
        examples=options.examples,
        conditioning=options.conditioning,
        ready=options.autoencoder,
        seed=options.seed,
    )
    out = train_surface(
        options.materials,
        options.folders,
        options.out,
        settings,
        device=options.device,
        say=_say,
        quiet=options.quiet,
    )
    print(out)
    return 0


def build_surface_figures(commands: Any) -> None:
    """Add `surface-figures`."""
    parser = commands.add_parser(
        "surface-figures", help="how well a base's autoencoder repeats unseen surfaces and thin defects (JSON)"
    )
    parser.add_argument("model", help="a base: tiny, or a folder with at least vae/")
    _add_pictures(parser)
    parser.add_argument("--count", type=int, default=24, metavar="N", help="windows of each set (default: 24)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: auto)")
    parser.set_defaults(call=_surface_figures)


def _surface_figures(options: argparse.Namespace) -> int:
    from adabldm.workflows.surface import surface_figures

    found = surface_figures(
        options.model, options.materials, options.folders, count=options.count, device=options.device
    )
    print(json.dumps(found, indent=2))
    return 0


def build_surface_sheet(commands: Any) -> None:
    """Add `surface-sheet`."""
    parser = commands.add_parser(
        "surface-sheet", help="a picture of rendered defects of every type, or of what a base makes of them"
    )
    _add_pictures(parser)
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--model", help="folder of a general base: draw unseen surfaces with it, too")
    parser.add_argument("--count", type=int, default=6, metavar="N", help="pictures of each type (default: 6)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: auto)")
    parser.set_defaults(call=_surface_sheet)


def _surface_sheet(options: argparse.Namespace) -> int:
    from adabldm.workflows.surface_pictures import surface_sheet

    surface_sheet(
        options.materials,
        options.folders,
        options.out,
        model=options.model,
        count=options.count,
        seed=options.seed,
        device=options.device,
    )
    print(options.out)
    return 0


BUILDERS: tuple[Callable[[Any], None], ...] = (build_train_surface, build_surface_figures, build_surface_sheet)
