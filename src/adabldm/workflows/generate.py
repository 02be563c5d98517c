"""Generate a data set of defect images with their masks; a rerun goes on where it stopped, with the same bytes."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from adabldm.data.folder import open_data_set
from adabldm.data.generated import GeneratedFolder
from adabldm.editing.plan import make_plan
from adabldm.editing.presets import Preset, get_preset
from adabldm.errors import InputError
from adabldm.models.store import digest
from adabldm.pipeline import AdaBLDMPipeline, Edited, WindowMode
from adabldm.prompts import defect_prompt
from adabldm.report.page import report_generated
from adabldm.seeding import torch_generator
from adabldm.selection.filters import Limits, rejection
from adabldm.training.parts import foreground_method
from adabldm.trimap.procedural import Recipe
from adabldm.workflows.devices import generate_dtype, pick_device
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
    best: tuple[Scene, Edited, int] | None = None
    accepted: bool = False
    rejected: list[dict[str, Any]] = field(default_factory=list)


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
    recipes: Mapping[str, Sequence[Recipe]] | None = None,
    placement: str = "auto",
    window: WindowMode = "auto",
    foreground: str | None = None,
    foreground_folder: Path | None = None,
    mask_threshold: int | None = None,
    limits: Limits | None = None,
    workers: int = 2,
    device: str = "auto",
    dtype: str = "auto",
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
        recipes: of procedural shapes, by defect type.
        placement: "auto", "inside", "overlap" or "real".
        window: "auto" diffuses windows around the defects, "full" whole images.
        foreground: how the object is found; as in the fit if left out.
        foreground_folder: of ready foreground masks.
        mask_threshold: for masks that are not binary.
        limits: below which a result is rejected and tried again.
        workers: threads that prepare the next batch.
        device: "auto", "cpu", "cuda".
        dtype: precision of the networks: "float32", "bfloat16", "float16"; "auto" is bfloat16 on GPUs and on
            processors that compute in it, single on others and where the decoder is fine-tuned.
        remarks: sentences for the page's head.
        say: takes remarks.
        quiet: no progress bar.

    Raises:
        InputError: bad arguments or data, or `out` was made by other settings; before anything is written.
        OutputError: full disk; what is finished stays, a rerun goes on.
    """
    for option, value in (("--count", count), ("--workers", workers), ("--batch-size", batch_size)):
        if value is not None and value < 1:
            raise InputError(f"{option} {value}: expected at least 1.")
    chosen = get_preset(preset, adapt=adapt, guidance=guidance)
    chosen = replace(chosen, batch_size=batch_size or chosen.batch_size)
    where = pick_device(device)
    precision = generate_dtype(dtype, where, chosen)
    pipeline = AdaBLDMPipeline.from_pretrained(run)
    foreground = foreground or pipeline.card.foreground
    check_foreground(foreground, foreground_folder)
    types = list(dict.fromkeys(defects)) or list(pipeline.card.defects)
    for defect in types:
        pipeline.check_defect(defect)
    prompts = {defect: prompt or defect_prompt(pipeline.card.object_name, defect) for defect in types}
    pipeline.check_prompts(list(prompts.values()))
    data_set = open_data_set(data, mask_threshold=mask_threshold, split="train")
    maker = SceneMaker(
        data_set,
        foreground_method(data_set, foreground),
        folder=foreground_folder,
        masks=masks,
        recipes=recipes,
        placement=placement,
        mask_threshold=mask_threshold,
    )
    production = _Production(
        pipeline, maker, types, prompts, chosen, window, limits or Limits(), seed, digest(pipeline.parts)
    )
    production.check(count)
    folder = GeneratedFolder(out)
    folder.open(
        {
            **production.settings(),
            "masks": masks,
            "recipes": {key: [asdict(recipe) for recipe in value] for key, value in (recipes or {}).items()},
            "placement": placement,
            "foreground_folder": None if foreground_folder is None else str(foreground_folder.resolve()),
            "mask_threshold": mask_threshold,
            "dtype": str(precision).removeprefix("torch."),
        }
    )
    finished = set(folder.finished())
    if masks == "bank" and (missing := [defect for defect in types if defect not in maker.banks]):
        say(f"note: no real masks of {', '.join(missing)} in {data}; procedural ones are used.")
    if guidance is not None and maker.banks and not any(step.guided for step in make_plan(chosen)[chosen.start :]):
        say(
            f"note: --guidance changes nothing where an edit begins from a real defect: preset {chosen.name} begins at "
            f"step {chosen.start}, after its guided steps; add --preset fast,start=0 to begin from noise."
        )
    pipeline.to(where, precision)
    began = time.monotonic()
    made = production.run(folder, count, finished, workers=workers, quiet=quiet)
    seconds = time.monotonic() - began
    folder.finish()
    sheet, page = report_generated(
        out,
        data_set.root,
        title=f"{pipeline.card.object_name}: {count} generated defect images",
        intro=[
            *remarks,
            f"Preset {chosen.name}, decoder adaptation {chosen.adapt}, seed {seed}, model {production.model}.",
        ],
        foregrounds=maker.foreground,
    )
    return GenerateSummary(
        out, made["images"], len(finished), made["retried"], made["unaccepted"], seconds, sheet, page
    )


@dataclass(frozen=True)
class _Production:
    """Everything that the images of a run have in common; see `generate` for the fields."""

    pipeline: AdaBLDMPipeline
    maker: SceneMaker
    types: list[str]
    prompts: dict[str, str]
    preset: Preset
    window: WindowMode
    limits: Limits
    seed: int
    model: str

    def check(self, count: int) -> None:
        """Draw the first scenes before anything is written: a mask that fits nowhere is the user's to know now."""
        for index, defect in enumerate(self.types[:count]):
            self.maker.draw(defect, self.seed, index, 0)
        if self.maker.method == "folder":
            for sample in self.maker.data_set.good:
                self.maker.foreground(self.maker.relative(sample))

    def settings(self) -> dict[str, Any]:
        """What decides the pixels, for the folder's `settings.json`."""
        banks = self.maker.banks
        names = [self.maker.relative(sample) for sample in self.maker.data_set.good]
        return {
            "model": self.model,
            "object": self.pipeline.card.object_name,
            "prompts": self.prompts,
            "preset": self.preset.name,
            **{key: value for key, value in asdict(self.preset).items() if key != "name"},
            "seed": self.seed,
            "window": self.window,
            "foreground": self.maker.method,
            "sources": f"{len(names)} images, {hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:12]}",
            "real_masks": {defect: len(banks[defect].shapes) for defect in self.types if defect in banks},
            "limits": asdict(self.limits),
        }

    def run(
        self, folder: GeneratedFolder, count: int, finished: set[int], *, workers: int, quiet: bool
    ) -> Counter[str]:
        """Make and write the images that are missing; threads draw the next scenes and write the last results.

        Returns:
            How many "images" were made, attempts "retried" and results "unaccepted".
        """
        batches = _batches(count, self.preset.batch_size, finished)
        missing = set(range(count)) - finished
        made: Counter[str] = Counter()
        with (
            tqdm(total=count, initial=count - len(missing), desc="generate", unit="img", disable=quiet) as bar,
            ThreadPoolExecutor(workers) as pool,
        ):
            ahead = [pool.submit(self._prepare, batch) for batch in batches[:2]]
            for position in range(len(batches)):
                items = ahead.pop(0).result()
                if position + 2 < len(batches):
                    ahead.append(pool.submit(self._prepare, batches[position + 2]))
                self._edit(items)
                wanted = [item for item in items if item.index in missing]
                for write in [pool.submit(self._write, folder, item) for item in wanted]:
                    write.result()
                    bar.update()
                for item in wanted:
                    made.update(images=1, retried=len(item.rejected), unaccepted=not item.accepted)
        return made

    def _prepare(self, batch: list[int]) -> list[_Item]:
        types = {index: self.types[index % len(self.types)] for index in batch}
        return [_Item(index, types[index], self.maker.draw(types[index], self.seed, index, 0)) for index in batch]

    def _edit(self, items: list[_Item]) -> None:
        """Edit a batch; what is rejected is tried again with the next stream."""
        pending = items
        for attempt in range(ATTEMPTS):
            if attempt:
                for item in pending:
                    item.scene = self.maker.draw(item.defect, self.seed, item.index, attempt)
            jobs = [
                item.scene.job(self.prompts[item.defect], torch_generator("edit", self.seed, item.index, attempt))
                for item in pending
            ]
            for item, edited in zip(pending, self.pipeline.edit(jobs, self.preset, window=self.window), strict=True):
                reason = rejection(edited.scores, self.limits)
                if item.best is None or reason is None or edited.scores.contrast > item.best[1].scores.contrast:
                    item.best = (item.scene, edited, attempt)
                item.accepted = reason is None
                if reason is not None:
                    item.rejected.append({"attempt": attempt, "source": item.scene.path, "reason": reason})
            pending = [item for item in pending if not item.accepted]
            if not pending:
                return

    def _write(self, folder: GeneratedFolder, item: _Item) -> None:
        assert item.best is not None
        scene, edited, attempt = item.best
        record = {
            "index": item.index,
            "source": scene.path,
            "defect": item.defect,
            "object": self.pipeline.card.object_name,
            "prompt": self.prompts[item.defect],
            "seed": self.seed,
            "attempt": attempt,
            "preset": self.preset.name,
            "adapt": self.preset.adapt,
            **{key: round(float(value), 4) for key, value in vars(edited.scores).items()},
            "defect_fidelity": round(edited.defect_fidelity, 4),
            "accepted": item.accepted,
            "rejected": item.rejected,
            "shape": scene.shape.source,
            "reference": self._reference(scene),
            "strength": round(edited.strength, 4),
            "tone": round(edited.tone, 4),
            "exposure": round(scene.exposure if self.preset.match_exposure else 1.0, 4),
            "resolution": edited.resolution,
            "window": [edited.window.top, edited.window.left, edited.window.side],
            "model": self.model,
        }
        folder.add(item.index, edited.pixels, scene.mask, record, grey=scene.picture.grey)

    def _reference(self, scene: Scene) -> str | None:
        """The real image whose defect the edit began from, relative to DATA."""
        sample = scene.shape.sample
        return self.maker.relative(sample) if sample is not None and self.preset.start else None


def _batches(count: int, size: int, finished: set[int]) -> list[list[int]]:
    """Fixed batches without the finished ones: one is remade whole, so that its bytes are the same."""
    every = [list(range(start, start + size)) for start in range(0, count, size)]
    return [batch for batch in every if any(index < count and index not in finished for index in batch)]
