"""Generate a data set of defect images with their masks; a rerun goes on where it stopped, with the same bytes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from adabldm.data.folder import open_data_set
from adabldm.data.generated import GeneratedFolder
from adabldm.editing.presets import Preset, get_preset
from adabldm.errors import InputError
from adabldm.models.store import digest
from adabldm.pipeline import AdaBLDMPipeline, Edited, EditJob, WindowMode
from adabldm.prompts import defect_prompt
from adabldm.report.page import report_generated
from adabldm.sample import Sample
from adabldm.seeding import torch_generator
from adabldm.selection.filters import Limits, rejection
from adabldm.training.parts import foreground_method
from adabldm.workflows.devices import pick_device
from adabldm.workflows.sources import Scene, SceneMaker, check_foreground

ATTEMPTS = 4
"""Tries for one image; when all are rejected, the one with the strongest edit is kept and marked."""


@dataclass(frozen=True)
class GenerateSummary:
    """What a run of `generate` did.

    Attributes:
        folder: of the images.
        made: images that were made now.
        found: images that were there before.
        retried: attempts that were rejected and tried again.
        unaccepted: images kept although every attempt was rejected; `accepted` is false in their manifest line.
        seconds: spent on the images that were made now.
        sheet: the contact sheet.
        page: the HTML page.
    """

    folder: Path
    made: int
    found: int
    retried: int
    unaccepted: int
    seconds: float
    sheet: Path
    page: Path


@dataclass
class _Item:
    """One image on its way: the scene of the present attempt, the best result so far, and what was rejected."""

    index: int
    defect: str
    scene: Scene
    attempt: int = 0
    best: tuple[Scene, Edited, int] | None = None
    accepted: bool = False
    rejected: list[dict[str, Any]] | None = None


def generate(
    run: str | Path,
    data: Path,
    out: Path,
    count: int,
    *,
    defects: Sequence[str] = (),
    prompt: str | None = None,
    preset: str | Preset = "fast",
    adapt: str | None = None,
    guidance: float | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    masks: str = "bank",
    kinds: Mapping[str, Sequence[str]] | None = None,
    placement: str = "auto",
    window: WindowMode = "auto",
    foreground: str | None = None,
    foreground_folder: Path | None = None,
    mask_threshold: int | None = None,
    limits: Limits | None = None,
    workers: int = 2,
    device: str = "auto",
    remarks: Sequence[str] = (),
    say: Callable[[str], None] = print,
    quiet: bool = False,
) -> GenerateSummary:
    """Edit `count` defects into defect-free images of `data` and write them as a data set with a manifest.

    Image i depends on (seed, i) and the settings alone: not on interruptions, order or the number of workers.

    Args:
        run: folder of a fit, or the name of one that ships.
        data: defect-free images to edit, and the real masks.
        out: folder of the new data set.
        count: images in all; those that are there already count.
        defects: types to make, taking turns; all that the run knows if empty.
        prompt: read instead of the one made from object and defect type.
        preset: "fast", "paper", "released", or a `Preset`.
        adapt: decoder adaptation instead of the preset's.
        guidance: w instead of the preset's.
        batch_size: images at once instead of the preset's; another size may move a pixel by one grey level.
        seed: of everything random.
        masks: "bank" (the real ones, rotated, scaled, flipped) or "procedural".
        kinds: procedural kinds by defect type.
        placement: "auto", "inside", "overlap" or "real".
        window: "auto" diffuses windows around the defects, "full" whole images.
        foreground: how the object is found; as in the fit if left out.
        foreground_folder: of ready foreground masks.
        mask_threshold: for masks that are not binary.
        limits: below which a result is rejected and tried again.
        workers: threads that prepare the next batch.
        device: "auto", "cpu", "cuda".
        remarks: sentences for the page's head.
        say: takes remarks.
        quiet: no progress bar.

    Raises:
        InputError: bad arguments or data, or `out` was made by other settings; before anything is written.
        OutputError: full disk; what is finished stays, a rerun goes on.
    """
    if count < 1:
        raise InputError(f"--count {count}: expected at least 1.")
    if workers < 1:
        raise InputError(f"--workers {workers}: expected at least 1.")
    if batch_size is not None and batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: expected at least 1.")
    chosen = get_preset(preset, adapt=adapt, guidance=guidance)
    chosen = replace(chosen, batch_size=batch_size or chosen.batch_size)
    where = pick_device(device)
    pipeline = AdaBLDMPipeline.from_pretrained(run)
    foreground = foreground or pipeline.card.foreground
    check_foreground(foreground, foreground_folder)
    types = list(dict.fromkeys(defects)) or list(pipeline.card.defects)
    for defect in types:
        pipeline.check_defect(defect)
    prompts = {defect: prompt or defect_prompt(pipeline.card.object_name, defect) for defect in types}
    pipeline.check_prompts(list(prompts.values()))
    data_set = open_data_set(data, mask_threshold=mask_threshold, split="train")
    method = foreground_method(data_set, foreground)
    maker = SceneMaker(
        data_set,
        method,
        folder=foreground_folder,
        masks=masks,
        kinds=kinds,
        placement=placement,
        mask_threshold=mask_threshold,
    )
    model = digest(pipeline.parts)
    settings = {
        "model": model,
        "object": pipeline.card.object_name,
        "prompts": prompts,
        "preset": chosen.name,
        **{key: value for key, value in asdict(chosen).items() if key != "name"},
        "seed": seed,
        "masks": masks,
        "kinds": {key: list(value) for key, value in (kinds or {}).items()},
        "placement": placement,
        "window": window,
        "foreground": method,
        "foreground_folder": None if foreground_folder is None else str(foreground_folder.resolve()),
        "mask_threshold": mask_threshold,
        "sources": _name_sources(data_set.root, data_set.good),
        "real_masks": {defect: len(maker.banks[defect].shapes) for defect in types if defect in maker.banks},
    }
    limits = limits or Limits()
    settings["limits"] = asdict(limits)
    # The first scenes are drawn before anything is written: a mask that fits nowhere is the user's to know now.
    for index, defect in enumerate(types[:count]):
        maker.draw(defect, seed, index, 0)
    for sample in data_set.good if method == "folder" else ():
        maker.foreground(sample.image.relative_to(data_set.root).as_posix())
    folder = GeneratedFolder(out)
    folder.open(settings)
    finished = folder.finished()
    if masks == "bank" and (missing := [defect for defect in types if defect not in maker.banks]):
        say(f"note: no real masks of {', '.join(missing)} in {data}; procedural ones are used.")
    pipeline.to(where)
    batches = _batches(count, chosen.batch_size, set(finished))
    began = time.monotonic()
    made = _Tally()
    bar = tqdm(total=count, initial=len([i for i in finished if i < count]), desc="generate", unit="img", disable=quiet)

    def prepare(batch: list[int]) -> list[_Item]:
        chosen_types = [types[index % len(types)] for index in batch]
        return [
            _Item(index, defect, maker.draw(defect, seed, index, 0), rejected=[])
            for index, defect in zip(batch, chosen_types, strict=True)
        ]

    with ThreadPoolExecutor(workers) as pool:
        ahead = [pool.submit(prepare, batch) for batch in batches[:2]]
        for position in range(len(batches)):
            items = ahead.pop(0).result()
            if position + 2 < len(batches):
                ahead.append(pool.submit(prepare, batches[position + 2]))
            _make(pipeline, maker, items, prompts, chosen, window, limits, seed)
            writes = [
                (item, pool.submit(_write, folder, item, pipeline, prompts[item.defect], chosen, seed, model))
                for item in items
                if item.index not in finished and item.index < count
            ]
            for item, write in writes:
                write.result()
                made.add(item)
                bar.update()
    bar.close()
    seconds = time.monotonic() - began
    folder.finish()
    sheet, page = report_generated(
        out,
        data_set.root,
        title=f"{pipeline.card.object_name}: {count} generated defect images",
        intro=[*remarks, f"Preset {chosen.name}, decoder adaptation {chosen.adapt}, seed {seed}, model {model}."],
        foregrounds=maker.foreground,
    )
    return GenerateSummary(
        out, made.images, len(finished), made.retried, made.unaccepted, seconds, sheet, page
    )  # fmt: skip


def _name_sources(root: Path, samples: Sequence[Sample]) -> str:
    names = "\n".join(sample.image.relative_to(root).as_posix() for sample in samples)
    return f"{len(samples)} images, {hashlib.sha256(names.encode()).hexdigest()[:12]}"


@dataclass
class _Tally:
    images: int = 0
    retried: int = 0
    unaccepted: int = 0

    def add(self, item: _Item) -> None:
        self.images += 1
        self.retried += len(item.rejected or [])
        self.unaccepted += not item.accepted


def _batches(count: int, size: int, finished: set[int]) -> list[list[int]]:
    """Fixed batches without the finished ones: one is remade whole, so that its bytes are the same."""
    every = [list(range(start, start + size)) for start in range(0, count, size)]
    return [batch for batch in every if any(index < count and index not in finished for index in batch)]


def _make(
    pipeline: AdaBLDMPipeline,
    maker: SceneMaker,
    items: list[_Item],
    prompts: dict[str, str],
    preset: Preset,
    window: WindowMode,
    limits: Limits,
    seed: int,
) -> None:
    """Edit a batch; what is rejected is tried again with the next stream."""
    pending = items
    for attempt in range(ATTEMPTS):
        for item in pending:
            if attempt:
                item.scene = maker.draw(item.defect, seed, item.index, attempt)
            item.attempt = attempt
        jobs = [
            EditJob(
                item.scene.picture.pixels,
                item.scene.foreground,
                item.scene.mask,
                prompts[item.defect],
                torch_generator("edit", seed, item.index, attempt),
            )
            for item in pending
        ]
        for item, edited in zip(pending, pipeline.edit(jobs, preset, window=window), strict=True):
            reason = rejection(edited.scores, limits)
            if item.best is None or reason is None or edited.scores.contrast > item.best[1].scores.contrast:
                item.best = (item.scene, edited, attempt)
            item.accepted = reason is None
            if reason is not None and item.rejected is not None:
                item.rejected.append({"attempt": attempt, "source": item.scene.path, "reason": reason})
        pending = [item for item in pending if not item.accepted]
        if not pending:
            return


def _write(
    folder: GeneratedFolder,
    item: _Item,
    pipeline: AdaBLDMPipeline,
    prompt: str,
    preset: Preset,
    seed: int,
    model: str,
) -> None:
    assert item.best is not None
    scene, edited, attempt = item.best
    scores = {key: round(float(value), 4) for key, value in vars(edited.scores).items()}
    record = {
        "index": item.index,
        "source": scene.path,
        "defect": item.defect,
        "object": pipeline.card.object_name,
        "prompt": prompt,
        "seed": seed,
        "attempt": attempt,
        "preset": preset.name,
        "adapt": preset.adapt,
        **scores,
        "defect_fidelity": round(edited.defect_fidelity, 4),
        "accepted": item.accepted,
        "rejected": item.rejected,
        "shape": scene.shape,
        "window": [edited.window.top, edited.window.left, edited.window.side],
        "model": model,
    }
    folder.add(item.index, edited.pixels, scene.mask, record, grey=scene.picture.grey)
