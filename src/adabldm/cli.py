"""The command line: parse, call a workflow, print."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adabldm import __version__
from adabldm.errors import AdaBLDMError, InputError
from adabldm.surface_commands import BUILDERS as SURFACE_BUILDERS

FOREGROUNDS = ("auto", "grabcut", "texture", "folder")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    _add_mask_threshold(group)
    group.add_argument("--foreground", choices=FOREGROUNDS, help="how the object is found (default: auto)")
    group.add_argument(
        "--foreground-folder", type=Path, metavar="DIR", help="ready object masks, for --foreground folder"
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: auto)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _add_mask_threshold(parser: Any) -> None:
    parser.add_argument(
        "--mask-threshold", type=int, metavar="N", help="grey level above which a mask is defect (0-254)"
    )


def _build_inspect(commands: Any) -> None:
    parser = commands.add_parser("inspect", help="what a data set holds, and every problem in it")
    parser.add_argument("data", type=Path, help="folder in the MVTec AD layout")
    parser.add_argument("--object", dest="object_name", help="what the images show (default: the folder's name)")
    _add_mask_threshold(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(call=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from adabldm.workflows import inspect as workflow

    if not options.data.is_dir():
        raise InputError(f"{options.data}: no such folder, expected one in the MVTec AD layout; check the path.")
    found = workflow.inspect(options.data, object_name=options.object_name, mask_threshold=options.mask_threshold)
    print(
        json.dumps(workflow.to_json(found), indent=2, ensure_ascii=False)
        if options.json
        else workflow.format_table(found)
    )
    if found.problems:
        many = f"{len(found.problems)} problems" if len(found.problems) > 1 else "a problem"
        raise InputError(f"{options.data}: {many}, listed in the report; repair the data set before `adabldm fit`.")
    return 0


def _build_fit(commands: Any) -> None:
    parser = commands.add_parser("fit", help="fit a run to your images: domain stage, then control stage")
    parser.add_argument("data", type=Path, help="folder in the MVTec AD layout")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--base", default="tiny", help="tiny, a diffusers folder or a hub id (default: tiny)")
    parser.add_argument("--preset", default="quick", help="quick, standard or paper (default: quick)")
    parser.add_argument("--object", dest="object_name", help="what the images show (default: the folder's name)")
    parser.add_argument("--resume", action="store_true", help="go on with an earlier fit of the same settings")
    parser.add_argument("--shots", type=int, metavar="N", help="use at most N defect images a type")
    parser.add_argument(
        "--micro-batch", type=int, metavar="N", help="windows at a time: fewer need less memory (default: automatic)"
    )
    group = parser.add_argument_group("instead of the preset's values")
    group.add_argument(
        "--domain", dest="domain_mode", choices=("auto", "full", "lora", "none"), help="what the domain stage trains"
    )
    group.add_argument("--domain-steps", type=int, metavar="N")
    group.add_argument("--control-steps", type=int, metavar="N")
    group.add_argument("--examples", type=int, metavar="N", help="training windows")
    group.add_argument("--resolution", type=int, metavar="PX", help="side of the windows")
    group.add_argument("--batch-size", type=int, metavar="N")
    group.add_argument("--checkpoint-every", type=int, metavar="N")
    group.add_argument("--preview-every", type=int, metavar="N")
    group.add_argument("--seed", type=int, metavar="N")
    _add_data_options(parser)
    _add_common(parser)
    parser.set_defaults(call=_fit)


def _fit(options: argparse.Namespace) -> int:
    from adabldm.training.presets import get_fit_preset
    from adabldm.workflows.fit import fit

    changes = {
        key: getattr(options, key)
        for key in (
            "domain_mode", "domain_steps", "control_steps", "examples", "resolution",
            "batch_size", "checkpoint_every", "preview_every", "seed",
        )
    }  # fmt: skip
    out = fit(
        options.data,
        options.out,
        base=options.base,
        preset=get_fit_preset(options.preset, **changes),
        object_name=options.object_name,
        foreground=options.foreground or "auto",
        foreground_folder=options.foreground_folder,
        mask_threshold=options.mask_threshold,
        shots=options.shots,
        resume=options.resume,
        micro_batch=options.micro_batch,
        device=options.device,
        say=_say,
        quiet=options.quiet,
    )
    print(out)
    return 0


def _build_generate(commands: Any) -> None:
    parser = commands.add_parser("generate", help="make defect images with masks and a manifest")
    parser.add_argument("run", help="folder that fit made, or a run that ships: magnetic-tile, hazelnut")
    parser.add_argument("--data", type=Path, required=True, help="defect-free images to edit, and the real masks")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new data set")
    parser.add_argument("--count", type=int, required=True, help="images in all")
    parser.add_argument(
        "--defect", action="append", default=[], metavar="TYPE", help="make this type only (repeatable)"
    )
    parser.add_argument("--prompt", help="read this instead of '{object}, a {object} with a {defect}'")
    parser.add_argument(
        "--preset", default="fast", help="fast, paper or released, or one with changes as fast,start=0 (default: fast)"
    )
    parser.add_argument("--adapt", help="residual, texture, poisson, finetune, ridge or none (default: the preset's)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the preset's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at once (default: the preset's)")
    parser.add_argument("--masks", default="bank", help="bank: the real masks; procedural: drawn (default: bank)")
    parser.add_argument("--placement", choices=("auto", "inside", "overlap", "real"), default="auto")
    parser.add_argument(
        "--window", choices=("auto", "full"), default="auto", help="diffuse a window or the whole image"
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="threads that read and write (default: 2)")
    _add_dtype(parser)
    _add_data_options(parser)
    _add_common(parser)
    parser.set_defaults(call=_generate)


def _generate(options: argparse.Namespace) -> int:
    from adabldm.workflows.generate import generate

    summary = generate(
        options.run,
        options.data,
        options.out,
        options.count,
        defects=options.defect,
        prompt=options.prompt,
        preset=options.preset,
        adapt=options.adapt,
        guidance=options.guidance,
        batch_size=options.batch_size,
        seed=options.seed,
        masks=options.masks,
        placement=options.placement,
        window=options.window,
        foreground=options.foreground,
        foreground_folder=options.foreground_folder,
        mask_threshold=options.mask_threshold,
        workers=options.workers,
        device=options.device,
        dtype=options.dtype,
        say=_say,
        quiet=options.quiet,
    )
    _print_summary(summary)
    return 0


def _print_summary(summary: Any) -> None:
    each = f", {summary.seconds / summary.made:.2f} s each" if summary.made else ""
    _say(f"{summary.made} images made{each}, {summary.found} were there; {summary.retried} attempts rejected")
    if summary.unaccepted:
        _say(f"{summary.unaccepted} images kept though all attempts were rejected: their `accepted` is false")
    _say(f"contact sheet: {summary.sheet}")
    _say(f"page: {summary.page}")
    print(summary.folder.resolve())


def _build_demo(commands: Any) -> None:
    parser = commands.add_parser("demo", help="see it work, offline, with the shipped tiny model")
    parser.add_argument("--out", type=Path, default=Path("adabldm-demo"), help="default: adabldm-demo")
    parser.add_argument("--count", type=int, default=20, help="images (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(call=_demo)


def _demo(options: argparse.Namespace) -> int:
    from adabldm.workflows.demo import demo

    _print_summary(demo(options.out, options.count, seed=options.seed, say=_say, quiet=options.quiet))
    return 0


def _build_bench(commands: Any) -> None:
    parser = commands.add_parser("bench", help="the presets side by side: time, stages, operations, memory, scores")
    parser.add_argument("run", nargs="?", default="magnetic-tile", help="default: magnetic-tile")
    parser.add_argument("--data", type=Path, help="sources and real masks (default: the demo's own images)")
    parser.add_argument(
        "--preset", action="append", default=[], metavar="NAME", help="only this one, as for generate (repeatable)"
    )
    parser.add_argument("--adapt", help="one decoder adaptation for all presets")
    parser.add_argument("--count", type=int, default=8, help="images for each preset (default: 8)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kid", action="store_true", help="compare with real defects (needs adabldm[evaluate])")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="write the results side by side")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="write a Chrome trace of the first preset's batch")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: auto)")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16 (default: float32)")
    parser.set_defaults(call=_bench)


def _bench(options: argparse.Namespace) -> int:
    import tempfile

    if options.kid:
        _require_evaluation_packages("bench --kid")
    from adabldm.workflows.bench import bench, format_table
    from adabldm.workflows.demo import RECIPES, copy_samples

    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or copy_samples(Path(scratch))
        result = bench(
            options.run,
            data,
            presets=options.preset or ("fast", "paper", "released"),
            count=options.count,
            masks="bank" if options.data else "procedural",
            recipes=None if options.data else RECIPES,
            seed=options.seed,
            device=options.device,
            dtype=options.dtype,
            adapt=options.adapt,
            kid=options.kid,
            sheet=options.sheet,
            trace=options.profile,
            say=_say,
        )
    print(json.dumps(result, indent=2) if options.json else format_table(result))
    return 0


def _add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        default="auto",
        help="precision of the edits: float32, bfloat16, float16 or auto: bfloat16 on GPUs and processors that compute "
        "in it (default: auto)",
    )


def _build_evaluate(commands: Any) -> None:
    parser = commands.add_parser("evaluate", help="do the images make a detector better? conditions side by side")
    parser.add_argument("--data", type=Path, required=True, help="real images, training and test split")
    parser.add_argument("--run", help="folder that fit made, or a run that ships; for adabldm:PRESET")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--budget", default="full", help="quick (3 conditions, U-Net, 1 seed) or full (default: full)")
    group = parser.add_argument_group("instead of the budget's values")
    group.add_argument(
        "--condition",
        action="append",
        metavar="NAME",
        help="real, copy-paste, nsa, perlin, adabldm:PRESET or folder:PATH (repeatable)",
    )
    group.add_argument("--detector", action="append", metavar="NAME", help="unet, destseg, patchcore (repeatable)")
    group.add_argument("--detector-steps", type=int, metavar="N", help="optimiser steps of the trained detectors")
    group.add_argument("--seeds", type=int, metavar="N", help="trainings of each detector")
    group.add_argument("--networks", type=int, metavar="N", help="networks of each training, their maps averaged")
    group.add_argument("--count", type=int, metavar="N", help="synthetic images of each condition")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic images")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="detectors trained at once; without a GPU, as many as cores are fastest (default: 1)",
    )
    _add_dtype(parser)
    parser.add_argument("--foreground", choices=FOREGROUNDS[:3], default="auto", help="how the object is found")
    _add_mask_threshold(parser)
    _add_common(parser)
    parser.set_defaults(call=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    _require_evaluation_packages("evaluate")
    from adabldm.report.evaluation import format_markdown
    from adabldm.workflows.evaluate import evaluate, evaluation_settings

    settings = evaluation_settings(
        options.budget,
        conditions=options.condition,
        detectors=options.detector,
        detector_steps=options.detector_steps,
        seeds=options.seeds,
        networks=options.networks,
        count=options.count,
        seed=options.seed,
    )
    report = evaluate(
        options.data,
        options.out,
        run=options.run,
        settings=settings,
        foreground=options.foreground,
        mask_threshold=options.mask_threshold,
        workers=options.workers,
        device=options.device,
        dtype=options.dtype,
        say=_say,
        quiet=options.quiet,
    )
    _say(format_markdown(report))
    _say(f"page: {options.out / 'index.html'}")
    print(options.out.resolve())
    return 0


def _require_evaluation_packages(command: str) -> None:
    from importlib.util import find_spec

    needed = {"monai": "monai", "torchmetrics": "torchmetrics", "sklearn": "scikit-learn"}
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        raise InputError(f"{command} needs {', '.join(missing)}; install them: pip install 'adabldm[evaluate]'.")


def _build_train_base(commands: Any) -> None:
    parser = commands.add_parser("train-base", help="train a tiny base from nothing, as the shipped one was")
    parser.add_argument("data", type=Path, nargs="+", help="folders in the MVTec AD layout")
    parser.add_argument("--object", dest="object_names", action="append", default=[], help="what each folder shows")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--autoencoder-steps", type=int, metavar="N")
    parser.add_argument("--diffusion-steps", type=int, metavar="N")
    parser.add_argument("--examples", type=int, metavar="N", help="windows for the diffusion")
    parser.add_argument("--seed", type=int, default=0)
    _add_common(parser)
    parser.set_defaults(call=_train_base)


def _train_base(options: argparse.Namespace) -> int:
    from adabldm.workflows.base import base_settings, train_base

    settings = base_settings(options.autoencoder_steps, options.diffusion_steps, options.examples, options.seed)
    print(
        train_base(
            options.data,
            options.out,
            settings,
            object_names=options.object_names,
            device=options.device,
            say=_say,
            quiet=options.quiet,
        )
    )
    return 0


BUILDERS: tuple[Callable[[Any], None], ...] = (
    _build_demo,
    _build_inspect,
    _build_fit,
    _build_generate,
    _build_evaluate,
    _build_bench,
    _build_train_base,
    *SURFACE_BUILDERS,
)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="adabldm",
        description="Make realistic images of industrial defects, with exact masks, from a few real ones.",
    )
    top.add_argument("--version", action="version", version=f"adabldm {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for build in BUILDERS:
        build(commands)
    return top


def _quieten_libraries() -> None:
    """Keep the libraries' chatter away from the user; a user's own settings win."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("transformers").setLevel(logging.ERROR)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when all is well, 2 for bad input (a sentence for each problem on standard error), 130 when interrupted.
    """
    options = parser().parse_args(arguments)
    _quieten_libraries()
    try:
        code: int = options.call(options)
    except AdaBLDMError as error:
        for line in str(error).splitlines():
            print(f"adabldm: {line}", file=sys.stderr)
        return 2
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(
            f"adabldm: {place}{error.strerror or error}; check the path, its permissions and the free space.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("adabldm: interrupted; run the same command again to go on (fit: with --resume).", file=sys.stderr)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
