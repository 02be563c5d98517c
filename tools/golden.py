"""Digests of what a fixed set of commands computes, to show that a change of the code changes no result.

    python tools/golden.py --record golden.json      # with the code before the change installed
    python tools/golden.py --compare golden.json     # with the code after it

Everything is computed on one thread in single precision. Digests cover the bytes of pictures, masks and weights, the
values of manifest lines (keys that both versions know) and the figures of an evaluation. They hold for one kind of
processor and one version of PyTorch, because the last bit of a convolution depends on both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

FIT = ("--domain-steps", 3, "--control-steps", 3, "--examples", 6, "--batch-size", 2)
FROM_NOISE = {"old": ("--preset", "fast,start=0"), "new": ("--preset", "fast", "--set", "look=none")}
OLD_NAMES = {"fast look=none": "fast,start=0"}
"""What records of the old code call presets whose names have changed since."""
RECORD_KEYS = (
    "index", "image", "mask", "source", "defect", "object", "prompt", "seed", "attempt", "preset", "adapt",
    "background_psnr", "seam", "edit_strength", "visible_change", "contrast", "defect_fidelity", "accepted", "rejected",
    "shape", "reference", "strength", "tone", "exposure", "resolution", "window", "model",
)  # fmt: skip


def main() -> int:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--record", type=Path, metavar="FILE")
    group.add_argument("--compare", type=Path, metavar="FILE")
    parser.add_argument("--style", choices=("old", "new"), default="new", help="syntax of the command line")
    parser.add_argument("--only", action="append", metavar="WORD", help="run only the parts whose name has this word")
    options = parser.parse_args()
    wanted = json.loads(options.compare.read_text()) if options.compare else {}
    with tempfile.TemporaryDirectory() as folder:
        found = digests(Path(folder), options.style, options.only)
    if options.record:
        options.record.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        return 0
    wrong = sorted(name for name in found if found[name] != wanted.get(name))
    if not options.only:
        wrong += sorted(set(wanted) - set(found))
    print(f"{len(found)} digests compared, {len(wrong)} differ", *wrong, sep="\n  ")
    return int(bool(wrong))


def digests(folder: Path, style: str, only: list[str] | None) -> dict[str, str]:
    """All digests by name."""
    import torch
    from conftest import write_base
    from fabricate import write_data_set

    torch.set_num_threads(1)
    found: dict[str, str] = {}
    base = write_base(folder / "base")
    data = write_data_set(folder / "woven_cloth")
    grey = write_data_set(folder / "grey_cloth", grey=True, test=True, size=(160, 120), seed=3)
    run = folder / "run"

    def wants(name: str) -> bool:
        return not only or any(word in name for word in only)

    def command(*arguments: object) -> None:
        call = [sys.executable, "-m", "adabldm", *map(str, arguments), "--quiet"]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(call[2:])}:\n{done.stderr}")

    command("fit", data, "--out", run, "--base", base, *FIT)
    if wants("fit"):
        found["fit"] = _files(run, "*.safetensors", "previews/*.png")
        command("fit", data, "--out", folder / "lora", "--base", base, *FIT, "--domain", "lora", "--micro-batch", 1)
        found["fit lora"] = _files(folder / "lora", "*.safetensors")
    cases: dict[str, tuple[object, ...]] = {
        "fast bank": (run, "--data", data, "--count", 10, "--preset", "fast"),
        "fast noise bank": (run, "--data", data, "--count", 4, *FROM_NOISE[style]),
        "fast procedural": (run, "--data", data, "--count", 4, "--masks", "procedural"),
        "paper bank": (run, "--data", data, "--count", 2, "--preset", "paper"),
        "released procedural": (run, "--data", data, "--count", 2, "--preset", "released", "--masks", "procedural"),
        "full window": (run, "--data", data, "--count", 3, "--window", "full", "--placement", "overlap"),
        "real places": (run, "--data", data, "--count", 3, "--placement", "real", "--defect", "spot"),
        "grey": (run, "--data", grey, "--count", 4, "--guidance", 3, "--seed", 5, "--batch-size", 3),
        "shipped colour": ("hazelnut", "--data", folder / "nuts", "--count", 4),
        "shipped tile": ("magnetic-tile", "--data", grey, "--count", 6, "--prompt", "a tile with a crack"),
    }
    cases |= {
        f"adapt {method}": (run, "--data", data, "--count", 2, "--adapt", method)
        for method in ("residual", "texture", "finetune", "ridge", "none")
    }
    write_data_set(folder / "nuts", defects={"colour": 3}, size=(200, 220), seed=2)
    for name, arguments in cases.items():
        if wants(name):
            out = folder / name.replace(" ", "-")
            command("generate", *arguments, "--out", out, "--dtype", "float32")
            found[name] = _generated(out)
    if wants("demo"):
        command("demo", "--out", folder / "demo", "--count", 5)
        found["demo"] = _generated(folder / "demo" / "images")
    if wants("evaluate"):
        conditions = [
            part for name in ("real", "copy-paste", "nsa", "perlin", "adabldm:fast") for part in ("--condition", name)
        ]
        command(
            "evaluate", "--data", grey, "--run", run, "--out", folder / "proof", *conditions, "--detector", "unet",
            "--detector-steps", 2, "--seeds", 1, "--count", 4, "--dtype", "float32",
        )  # fmt: skip
        report = json.loads((folder / "proof" / "evaluation.json").read_text())
        found["evaluate"] = _json([report["detectors"], report["images"]])
        for made in sorted((folder / "proof" / "images").iterdir()):
            found[f"evaluate {made.name}"] = _files(made, "**/*.png", without=("sheet",))
    if wants("train-base"):
        command(
            "train-base", data, "--out", folder / "new", "--autoencoder-steps", 2, "--diffusion-steps", 2,
            "--examples", 8,
        )  # fmt: skip
        found["train-base"] = _files(folder / "new", "*.safetensors")
    if wants("python"):
        found |= _python(run, style)
    return found


def _python(run: Path, style: str) -> dict[str, str]:
    import numpy as np
    from fabricate import box, texture

    from adabldm.pipeline import AdaBLDMPipeline

    pipeline = AdaBLDMPipeline.from_pretrained(run)
    pictures = [texture((96, 128), np.random.default_rng(seed)) for seed in range(3)]
    masks = [box((20, 40), (30, 60)), box((50, 53), (20, 100)), box((0, 30), (100, 128))]
    trimap = masks[0] * 0.5 + 0.5
    found = {}
    for preset in ("fast", "paper", "released"):
        result = pipeline(image=pictures, mask=masks, defect="scratch", preset=preset, seed=7, output_type="np")
        found[f"python {preset}"] = _json([[_bytes(image.tobytes()) for image in result.images], result.scores])
    result = pipeline(
        pictures[0][..., 0], trimap=trimap, prompt="a spot", guidance_scale=4.0, adapt="residual", window="full"
    )
    found["python trimap"] = _bytes(np.asarray(result.images[0]).tobytes())
    return found


def _generated(folder: Path) -> str:
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    lines = [{**line, "preset": OLD_NAMES.get(line["preset"], line["preset"])} for line in lines]
    values = [
        [[key, _old_place(str(line[key])) if key == "image" else line.get(key)] for key in RECORD_KEYS]
        for line in lines
    ]
    pictures = [_bytes((folder / line[key]).read_bytes()) for line in lines for key in ("image", "mask")]
    return _json([values, pictures])


def _files(folder: Path, *patterns: str, without: tuple[str, ...] = ()) -> str:
    files = sorted({path for pattern in patterns for path in folder.rglob(pattern) if "checkpoints" not in path.parts})
    kept = [path for path in files if not any(word in path.as_posix() for word in without)]
    return _json([[_old_place(path.relative_to(folder).as_posix()), _bytes(path.read_bytes())] for path in kept])


def _old_place(path: str) -> str:
    """Generated images stand in `train` now; they stood in `test` when the digests were recorded."""
    return f"test/{path.removeprefix('train/')}" if path.startswith("train/") else path


def _json(value: Any) -> str:
    return _bytes(json.dumps(value, sort_keys=True).encode())


def _bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
