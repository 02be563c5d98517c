"""Do the images make a detector better? Conditions, detectors and measures side by side, on real test images."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adabldm.data.claim import claim
from adabldm.data.folder import open_data_set
from adabldm.data.generated import read_manifest
from adabldm.errors import InputError
from adabldm.evaluation.backbone import load_backbone
from adabldm.evaluation.detectors.registry import DETECTORS, Budget, make_detector
from adabldm.evaluation.image_measures import image_measures
from adabldm.evaluation.labelled import Labelled
from adabldm.evaluation.mask_truth import mask_truth
from adabldm.images import Pixels, atomic_file, read_mask, read_picture, write_png
from adabldm.models.store import digest, load_run
from adabldm.report.evaluation import conditions_sheet, detections_sheet, format_markdown, write_report
from adabldm.sample import DataSet, Sample
from adabldm.training.parts import foreground_method
from adabldm.workflows.cells import (
    ANY,
    LABEL_FREE,
    MEAN,
    Cell,
    Comparison,
    RealImages,
    shown_tests,
    train_cells,
)
from adabldm.workflows.conditions import REAL, Condition, file_name, parse_conditions, read_synthetic, write_baseline
from adabldm.workflows.devices import pick_device, pick_dtype
from adabldm.workflows.generate import generate
from adabldm.workflows.sources import SceneMaker

ALL_CONDITIONS = (REAL, "copy-paste", "nsa", "perlin", "adabldm:fast", "adabldm:paper", "adabldm:released")
TAKEN = (MEAN, "all", "mask", "scores")
"""Names that stand beside the defect types in the results."""
SHOWN_SCENES = 8


@dataclass(frozen=True)
class EvaluationSettings:
    """What is compared; the defaults are those of the budget "full".

    Attributes:
        conditions: names, see `workflows.conditions`.
        detectors: names, see `evaluation.detectors.registry`.
        seeds: how often every cell is trained; see `networks`.
        networks: trained detectors of a cell whose maps are averaged: cell s has the networks of the seeds s · networks
            to (s + 1) · networks − 1. More of them cost as much more and find more steadily what is there to be found.
        count: synthetic images of each condition.
        budget: of each detector's training.
        detector_steps: optimiser steps of the trained detectors, instead of the budget's.
        seed: of the synthetic images.
    """

    conditions: tuple[str, ...] = ALL_CONDITIONS
    detectors: tuple[str, ...] = ("unet", "destseg", "patchcore")
    seeds: int = 3
    networks: int = 1
    count: int = 200
    budget: Budget = "full"
    detector_steps: int | None = None
    seed: int = 0


BUDGETS: Mapping[str, EvaluationSettings] = {
    "quick": EvaluationSettings((REAL, "copy-paste", "adabldm:fast"), ("unet",), seeds=1, count=100, budget="quick"),
    "full": EvaluationSettings(),
}


def evaluation_settings(budget: str, **changes: Any) -> EvaluationSettings:
    """A budget's settings with some of its values changed; changes of `None` are left out.

    Raises:
        InputError: unknown budget.
    """
    if budget not in BUDGETS:
        raise InputError(f"--budget {budget}: unknown, expected one of {', '.join(BUDGETS)}.")
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in changes.items() if value is not None
    }
    return replace(BUDGETS[budget], **given)


def evaluate(
    data: Path,
    out: Path,
    *,
    run: str | Path | None = None,
    settings: EvaluationSettings | None = None,
    foreground: str = "auto",
    mask_threshold: int | None = None,
    workers: int = 1,
    device: str = "auto",
    dtype: str = "auto",
    say: Callable[[str], None] = print,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train every detector on every condition and test it on real images; a rerun goes on after the last finished fit.

    Args:
        data: real images: `train/good`, few-shot `train/<defect>`, and `test/` to test on.
        out: synthetic images, results, `evaluation.json`, `evaluation.md` and `index.html` go there. More conditions,
            detectors or seeds may follow into the same folder.
        run: for the conditions `adabldm:PRESET`: folder of a fit, or the name of one that ships.
        settings: what is compared.
        foreground: how the object is found, in all conditions.
        mask_threshold: for masks that are not binary.
        workers: detectors trained at once, each in a process of its own; they share the processor's threads. Another
            number of threads may round differently, and then another network comes out.
        device: "auto", "cpu", "cuda".
        dtype: precision in which the conditions `adabldm:PRESET` are edited; see `generate`.
        say: takes remarks.
        quiet: no progress bars.

    Returns:
        What `evaluation.json` holds: `{"data", "settings", "images": {condition: …}, "detectors": {detector:
        {condition: {type: {measure: {"mean", "std", "values"}}}}}}`; measures in percent, types and their "mean".

    Raises:
        InputError: bad arguments or data, before anything is made; `out` was made by other settings.
        OutputError: full disk; what is finished stays.
    """
    chosen = settings or EvaluationSettings()
    conditions = _check(chosen, run)
    if workers < 1:
        raise InputError(f"--workers {workers}: expected at least 1.")
    where = pick_device(device)
    if dtype != "auto":
        pick_dtype(dtype)
    data_set = open_data_set(data, mask_threshold=mask_threshold, skip_empty=True, require_defects=True)
    _check_splits(data_set)
    types = sorted(data_set.defects)
    model = _check_run(run, types) if run is not None else "none"
    folders = {
        one.name: _check_folder(one, data_set, chosen.count, mask_threshold)
        for one in conditions
        if one.kind == "folder"
    }
    for name in chosen.detectors:
        make_detector(name, chosen.budget, where, steps=chosen.detector_steps)
    backbone = load_backbone()
    maker = SceneMaker(data_set, foreground_method(data_set, foreground), mask_threshold=mask_threshold)
    _check_scenes(maker, conditions, types, chosen)
    owner = {
        "data": str(data.resolve()),
        "images": _listed(data_set),
        "model": model,
        "foreground": maker.method,
        "mask_threshold": mask_threshold,
    }
    grows = ("conditions", "detectors", "seeds")  # more of them go into the same folder
    fixed = {key: value for key, value in asdict(chosen).items() if key not in grows}
    claim(out, {**owner, **fixed}, "evaluate")
    for note in data_set.notes:
        say(f"note: {note}")
    for one in conditions:
        made = out / "images" / one.file_name
        if one.kind == "baseline":
            folders[one.name] = write_baseline(
                one.name, maker, types, chosen.count, made, seed=chosen.seed, quiet=quiet
            )
        elif one.kind == "adabldm":
            assert run is not None
            folders[one.name] = generate(
                run, data, made, chosen.count, defects=types, preset=one.value, seed=chosen.seed, device=device,
                dtype=dtype, foreground=maker.method, mask_threshold=mask_threshold, say=say, quiet=quiet,
            ).folder  # fmt: skip
    real = _real_images(data_set, mask_threshold)
    synthetic = {name: read_synthetic(folder, data, chosen.count, mask_threshold) for name, folder in folders.items()}
    comparison = Comparison(
        out, tuple(types), chosen.budget, chosen.detector_steps, chosen.networks, where, real, synthetic, quiet
    )
    for name, images in synthetic.items():
        comparison.make(
            _images_cell(name),
            lambda own=images, folder=folders[name]: {  # type: ignore[misc]
                **_image_figures(own, real, backbone, types),
                "scores": _manifest_scores(folder, chosen.count),
            },
        )
    names = [one.name for one in conditions]
    cells = [
        Cell(detector, name, seed)
        for seed in range(chosen.seeds)
        for detector in chosen.detectors
        for name in ([ANY] if detector in LABEL_FREE else names)
    ]
    train_cells(comparison, cells, workers)
    report = _report(comparison, chosen, names, str(data))
    _write(comparison, report, names, chosen.detectors[0])
    return report


def _check(settings: EvaluationSettings, run: str | Path | None) -> list[Condition]:
    conditions = parse_conditions(settings.conditions)
    limits = {
        "--count": settings.count,
        "--seeds": settings.seeds,
        "--networks": settings.networks,
        "--detector-steps": settings.detector_steps,
    }
    for option, value in limits.items():
        if value is not None and value < 1:
            raise InputError(f"{option} {value}: expected at least 1.")
    if not settings.detectors or len(set(settings.detectors)) != len(settings.detectors):
        raise InputError(f"--detector: expected different ones of {', '.join(DETECTORS)}; leave none or one out.")
    needing = [one.name for one in conditions if one.kind == "adabldm"]
    if needing and run is None:
        raise InputError(f"--run: expected the run that makes the images of {needing[0]}; add it.")
    return conditions


def _check_run(run: str | Path, types: Sequence[str]) -> str:
    components, card = load_run(run)
    unknown = [defect for defect in types if defect not in card.defects]
    if unknown:
        raise InputError(
            f"{run}: knows {', '.join(card.defects)}, but the data set has {', '.join(unknown)} too; fit a run to "
            "this data set."
        )
    return digest(components)


def _check_splits(data_set: DataSet) -> None:
    """Refuse a test that is missing, or that shows training images again."""
    problems = [
        f"{data_set.root / 'test' / defect}: no real test images (beside those in train/{defect}), expected some to "
        "test the detectors on; move about ten of each type to train/<type> and keep the rest in test/<type>."
        for defect in sorted(data_set.defects)
        if not data_set.test_defects.get(defect)
    ]
    if not data_set.test_good:
        problems.append(
            f"{data_set.root / 'test' / 'good'}: no defect-free test images, expected some; put them there."
        )
    problems += [
        f"{data_set.root / 'train' / defect}: a defect type of this name cannot be told from the report's own entries "
        f"({', '.join(TAKEN)}); rename it."
        for defect in sorted(data_set.defects)
        if defect in TAKEN
    ]
    trained = [*data_set.good, *(sample for samples in data_set.defects.values() for sample in samples)]
    tested = [*data_set.test_good, *(sample for samples in data_set.test_defects.values() for sample in samples)]
    first = {_content(sample): sample for sample in trained}
    problems += (
        [
            f"{sample.image}: the same picture as {first[content].image}, which is trained on; remove one of them."
            for sample in tested
            if (content := _content(sample)) in first
        ]
        if not problems
        else []
    )
    if problems:
        raise InputError(problems)


def _content(sample: Sample) -> str:
    return _digest(read_picture(sample.image).pixels)


def _digest(pixels: Pixels) -> str:
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _check_scenes(
    maker: SceneMaker, conditions: Sequence[Condition], types: Sequence[str], settings: EvaluationSettings
) -> None:
    """Refuse training images that `generate` would refuse later, and masks that fit nowhere."""
    if any(one.kind == "adabldm" for one in conditions):
        open_data_set(maker.data_set.root, mask_threshold=maker.mask_threshold, split="train")
    if any(one.kind in {"adabldm", "baseline"} for one in conditions):
        for index, defect in enumerate(types[: settings.count]):
            maker.draw(defect, settings.seed, index, 0)


def _check_folder(condition: Condition, data_set: DataSet, count: int, mask_threshold: int | None) -> Path:
    """A folder of somebody's images: enough of them, and none of them a test image."""
    folder = Path(condition.value)
    images = read_synthetic(folder, data_set.root, count, mask_threshold)
    known = {_content(sample) for samples in data_set.test_defects.values() for sample in samples}
    if any(_digest(image.pixels) in known for image in images):
        raise InputError(f"{folder}: holds test images of {data_set.root}; leave them out.")
    return folder


def _listed(data_set: DataSet) -> str:
    """How many real images there are, with a digest of their names: other images make other results."""
    defects = [*data_set.defects.values(), *data_set.test_defects.values()]
    samples = [*data_set.good, *data_set.test_good, *(sample for own in defects for sample in own)]
    names = [sample.image.relative_to(data_set.root).as_posix() for sample in samples]
    return f"{len(names)} images, {hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:12]}"


def _real_images(data_set: DataSet, mask_threshold: int | None) -> RealImages:
    def read(samples: Sequence[Sample]) -> list[Labelled]:
        return [
            Labelled(
                read_picture(sample.image).pixels,
                None if sample.mask is None else read_mask(sample.mask, threshold=mask_threshold),
                sample.defect,
            )
            for sample in samples
        ]

    def all_types(by_type: Mapping[str, Sequence[Sample]]) -> list[Sample]:
        return [sample for defect in sorted(by_type) for sample in by_type[defect]]

    return RealImages(
        read([*data_set.good, *all_types(data_set.defects)]),
        read([*data_set.test_good, *all_types(data_set.test_defects)]),
    )


def _image_figures(images: list[Labelled], real: RealImages, backbone: Any, types: Sequence[str]) -> dict[str, Any]:
    """Image measures over all types and for each, and how far the masks tell the truth."""
    figures: dict[str, Any] = {}
    for defect in (None, *types):
        own = [one for one in images if defect in (None, one.defect)]
        measured = image_measures(
            backbone, own, real.defects(real.test, defect), real.defects(real.train, defect), seed=0
        )
        figures[defect or "all"] = asdict(measured)
    truths = [
        mask_truth(one.pixels, one.source, one.mask)
        for one in images
        if one.source is not None and one.mask is not None
    ]
    figures["mask"] = {
        key: round(statistics.fmean(getattr(truth, key) for truth in truths), 4) if truths else None
        for key in ("iou", "precision", "recall")
    }
    return figures


def _images_cell(condition: str) -> str:
    return f"images-{file_name(condition)}"


def _report(
    comparison: Comparison, settings: EvaluationSettings, conditions: Sequence[str], data: str
) -> dict[str, Any]:
    """Everything that is finished, with mean and standard deviation over the seeds."""
    detectors: dict[str, Any] = {}
    for detector in settings.detectors:
        detectors[detector] = {
            name: _over_seeds(
                [comparison.read(Cell(detector, name, seed).name)["measures"] for seed in range(settings.seeds)]
            )
            for name in ([ANY] if detector in LABEL_FREE else conditions)
        }
    return {
        "data": data,
        "test_images": len(comparison.real.test),
        "types": list(comparison.types),
        "settings": asdict(settings),
        "images": {name: comparison.read(_images_cell(name)) for name in conditions if name != REAL},
        "detectors": detectors,
    }


def _over_seeds(cells: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean and sample standard deviation of every measure (0 for a single seed)."""
    return {
        defect: {
            key: {
                "mean": round(statistics.fmean(cell[defect][key] for cell in cells), 3),
                "std": round(statistics.stdev(cell[defect][key] for cell in cells), 3) if len(cells) > 1 else 0.0,
                "values": [cell[defect][key] for cell in cells],
            }
            for key in cells[0][defect]
        }
        for defect in cells[0]
    }


def _manifest_scores(folder: Path, count: int) -> dict[str, float | None]:
    """Means of the manifest's scores over its first images; `None` where the folder does not say."""
    records = list(read_manifest(folder).values())[:count]
    means: dict[str, float | None] = {}
    for key in ("background_psnr", "seam", "defect_fidelity", "edit_strength"):
        values = [float(record[key]) for record in records if isinstance(record.get(key), int | float)]
        means[key] = round(statistics.fmean(values), 3) if values and all(map(math.isfinite, values)) else None
    return means


def _write(comparison: Comparison, report: dict[str, Any], conditions: Sequence[str], detector: str) -> None:
    """`evaluation.json`, `evaluation.md`, the two sheets (of `detector`) and `index.html`."""
    out, tested = comparison.out, comparison.real.test
    with atomic_file(out / "evaluation.json") as file:
        file.write((json.dumps(report, indent=1) + "\n").encode())
    with atomic_file(out / "evaluation.md") as file:
        file.write(format_markdown(report).encode())
    sheets = {}
    if comparison.synthetic:
        sheet = conditions_sheet({name: images[:SHOWN_SCENES] for name, images in comparison.synthetic.items()})
        write_png(out / "conditions.png", sheet)
        sheets["The same scenes in every condition"] = "conditions.png"
    picks = shown_tests(tested)
    columns = {
        name: [read_picture(out / "maps" / Cell(detector, name, 0).name / f"{index:05d}.png").pixels for index in picks]
        for name in ([ANY] if detector in LABEL_FREE else conditions)
    }
    write_png(out / "detections.png", detections_sheet([tested[index] for index in picks], columns))
    sheets[f"Real test images and what {detector} sees in them, after training on each condition"] = "detections.png"
    write_report(out / "index.html", report, sheets)
