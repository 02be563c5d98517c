"""What is to be made: settings become a plan, and a plan becomes batches of jobs; all of them can be pickled."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adabldm.core.depth import Levels
from adabldm.core.errors import InputError
from adabldm.core.events import Listener, ignore
from adabldm.core.prompts import defect_prompt
from adabldm.core.records import Reading, RunCard
from adabldm.core.samples import DataSet
from adabldm.core.seeding import numpy_rng
from adabldm.core.settings import EditPreset, FieldProblem, GenerateSettings, SettingsError
from adabldm.core.settings.common import ExportOptions, Recipe
from adabldm.core.settings.generate import parse_shard
from adabldm.core.settings.variation import VariationSettings
from adabldm.data.bases import bases_digest, read_bases
from adabldm.data.content import content_digest, folder_digest
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import open_data_set
from adabldm.data.regions import decisive_regions, whole_paths
from adabldm.editing.look import settled
from adabldm.editing.stage_plan import check_steps
from adabldm.models.components import Components
from adabldm.models.conditioning import check_prompts
from adabldm.models.devices import edit_dtype, pick_device
from adabldm.models.store import RENDERING, digest, find_run, load_run, read_card
from adabldm.production.scenes import SceneMaker, SceneOptions
from adabldm.rendering.render import RENDERER
from adabldm.training.sources import foreground_method

BATCH_SIZE = 8
"""Usual number of images that are edited at once."""
PUBLISHED = frozenset({"paper", "released"})
"""Presets whose defects are placed as published, anywhere on the object, where nothing else is asked for."""
NOT_KEPT = frozenset(
    {
        *(info.alias or name for name, info in ExportOptions.model_fields.items()),
        "out",
        "count",
        "remarks",
        "export",
        "export_out",
        "workers",
        "ray",
        "ray_cores",
        "threads",
        "shard",
        "device",
        "good",
        "split",
        "replace_rejected",
        "restore_deleted",
    }
)
"""Settings that do not matter to a single image."""
FEW_STEPS = 20
"""Presets of more steps than this are usually edited one by one."""


def usual_batch_size(preset: EditPreset) -> int:
    """Images that are edited at once where nothing else is asked for."""
    return BATCH_SIZE if preset.plan.steps <= FEW_STEPS else 1


@dataclass(frozen=True)
class ImageJob:
    """One image to make: with the plan, this decides every byte of it.

    Attributes:
        index: number of the image.
        defects: types of the defects to make in it, in this order.
    """

    index: int
    defects: tuple[str, ...]

    @property
    def defect(self) -> str:
        """The type of its first defect."""
        return self.defects[0]


def defects_in(vary: VariationSettings, types: Sequence[str], seed: int, index: int) -> tuple[str, ...]:
    """The types of the defects of one image: the first takes its turn, the others are like it or drawn at random.

    Args:
        vary: how many there are, and whether they are mixed.
        types: all types, in the order in which they take turns.
        seed: seed of all random draws.
        index: number of the image.
    """
    first = types[index % len(types)]
    fewest, most = vary.variation(first).number
    if most == 1:
        return (first,)
    rng = numpy_rng("defects", seed, index)
    others = int(rng.integers(fewest, most + 1)) - 1
    return first, *(types[int(rng.integers(len(types)))] if vary.mix else first for _ in range(others))


@dataclass(frozen=True)
class Batch:
    """Images that are edited at once.

    A batch is always edited whole, also where some of its images exist already, because a convolution may round
    differently in a batch of another size.

    Attributes:
        jobs: one for each image.
        wanted: indices of the images that are missing.
    """

    jobs: tuple[ImageJob, ...]
    wanted: frozenset[int]


@dataclass(frozen=True)
class ProductionPlan:
    """A production, decided completely; workers in other processes get it with their batches.

    Attributes:
        settings: as given.
        preset: with all changes.
        object_name: what the images show.
        prompts: by defect type, in the order in which the types take turns.
        model: digest of the networks' weights.
        foreground: method by which the object is found; never "auto".
        sources: how many defect-free images there are, with a digest of their names.
        real_masks: number of real masks by defect type, for types that have some.
        dtype: precision of the networks: "float32", "bfloat16" or "float16".
        reading: how the data set is read: as the settings say, else as in the fit.
        recipes: shapes of procedural masks by defect type: as the settings say, else as in the fit.
        levels: of images of more than 8 bits: the run's if it has some, else the data set's.
        placement: policy as it was decided: by type, if "auto" found types whose places follow their surroundings;
            "auto" stands for "anywhere", as in earlier versions.
        content: digest of the data set's images and masks that are used.
        learnt: digest of what the run's card knows of real defects, for types without an example in the data set.
        onto: how many pictures with defects are edited, with a digest of their content; `None` for defect-free ones.
    """

    settings: GenerateSettings
    preset: EditPreset
    object_name: str
    prompts: dict[str, str]
    model: str
    foreground: str
    sources: str
    real_masks: dict[str, int]
    dtype: str
    reading: Reading
    recipes: dict[str, tuple[Recipe, ...]]
    levels: Levels | None = None
    placement: str | dict[str, str] = "auto"
    content: str = ""
    onto: str | None = None
    learnt: str | None = None

    @property
    def types(self) -> tuple[str, ...]:
        """The defect types, in the order in which they take turns."""
        return tuple(self.prompts)

    @property
    def batch_size(self) -> int:
        """Images that are edited at once."""
        return self.settings.batch_size or usual_batch_size(self.preset)

    def job(self, index: int) -> ImageJob:
        """The job of one image."""
        return ImageJob(index, defects_in(self.settings, self.types, self.settings.seed, index))

    @property
    def lists_instances(self) -> bool:
        """Whether records list the defects of their image."""
        vary = self.settings
        return self.onto is not None or any(vary.variation(defect).number != (1, 1) for defect in self.types)

    def wanted(self, rejected: Collection[int] = ()) -> frozenset[int]:
        """Indices of the images that are asked for here, without rejected ones; with a `shard` only its own.

        If rejected images are to be replaced, each has the next free index of its defect type that is not rejected too.

        Args:
            rejected: indices of the images that were rejected or deleted.
        """
        count, turns, away = self.settings.count, len(self.types), set(rejected)
        found = set(range(count)) - away
        if self.settings.replace_rejected:
            free = [
                itertools.filterfalse(away.__contains__, itertools.count(count + turn, turns)) for turn in range(turns)
            ]
            found |= {next(free[(index - count) % turns]) for index in away & set(range(count))}
        return frozenset(filter(self._in_shard, found))

    def _in_shard(self, index: int) -> bool:
        """Whether an image belongs to the part that is made here; parts take turns with whole batches."""
        if self.settings.shard is None:
            return True
        number, parts = parse_shard(self.settings.shard)
        return index // self.batch_size % parts == number - 1

    def batches(self, finished: Collection[int] = (), rejected: Collection[int] = ()) -> list[Batch]:
        """All batches that have an image which is missing.

        Args:
            finished: indices of the images that exist.
            rejected: indices of the images that were rejected; they are not made again.
        """
        size = self.batch_size
        missing = self.wanted(rejected) - set(finished)
        firsts = sorted({index - index % size for index in missing})
        every = [range(first, first + size) for first in firsts]
        return [Batch(tuple(map(self.job, indices)), missing.intersection(indices)) for indices in every]

    def decisive(self) -> dict[str, Any]:
        """JSON values of everything that decides the pixels: the generated folder's `settings.json`.

        Later settings stand in it only where they have not their default, so that earlier folders can be gone on with.
        """
        values = self.settings.plain()
        folder = self.settings.foreground_folder
        later = {
            **self.settings.decisive_variation(),
            "onto": self.onto,
            "best_of": self.settings.best_of if self.settings.best_of > 1 else None,
            "shrink_mask": self.settings.shrink_mask or None,
            "foreground_masks": None if folder is None else folder_digest(folder),
            "content": self.content,
            "learnt": self.learnt,
        }
        return {
            "model": self.model,
            "object": self.object_name,
            "types": list(self.types),
            "prompts": self.prompts,
            "preset": self.preset.plain(),
            "seed": self.settings.seed,
            "window": self.settings.window,
            "foreground": self.foreground,
            "sources": self.sources,
            "real_masks": self.real_masks,
            "limits": values["limits"],
            "masks": self.settings.masks,
            "recipes": {name: [one.plain() for one in found] for name, found in self.recipes.items()},
            "placement": self.placement,
            "foreground_folder": None if folder is None else str(folder.resolve()),
            **self.reading.decisive(),
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            **({} if self.levels is None else {"levels": list(self.levels)}),
            **decisive_regions(self.settings.roi),
            **{key: value for key, value in later.items() if value is not None},
        }

    def made_with(self) -> dict[str, Any]:
        """JSON values of the settings with which the folder was made, so that an image of it can be made again.

        Where run and data lay is among them; what decides is their content (`decisive`).
        """
        values = {key: value for key, value in self.settings.plain().items() if key not in NOT_KEPT}
        for name in ("data", "onto", "foreground_folder"):
            path = getattr(self.settings, name)
            values[name] = None if path is None else str(path.resolve())
        values["roi"] = whole_paths(self.settings.roi)
        run = Path(self.settings.run).expanduser()
        return {**values, "run": str(run.resolve()) if run.is_dir() else self.settings.run, "dtype": self.dtype}


@dataclass(frozen=True)
class Supplies:
    """What production works with: the run and the data set. They stay in their process; every process loads its own.

    Attributes:
        components: the run's networks; `None` if it renders its defects.
        card: of the run.
        maker: draws scenes from the data set.
    """

    components: Components | None
    card: RunCard
    maker: SceneMaker


def training_options(
    reading: Reading, shots: int | None, roi: tuple[str, ...], types: tuple[str, ...] = ()
) -> ReadOptions:
    """How production reads a data set; `types` are those that it may make without an example."""
    return ReadOptions.of(reading, split="train", shots=shots, roi=roi, types=types)


def plan_production(
    settings: GenerateSettings, listen: Listener = ignore, data_set: DataSet | None = None
) -> tuple[ProductionPlan, Supplies]:
    """Load the run and the data set, check them, and decide everything.

    Args:
        settings: what is made.
        listen: is told how many images were read.
        data_set: of the settings, if it was read already, with `training_options`.

    Raises:
        InputError: settings, run or data that cannot be used.
    """
    preset = settings.edit_preset()
    dtype = edit_dtype(
        settings.dtype, pick_device(settings.device), finetunes=preset.adaptation.method == "finetune"
    )  # fmt: skip
    components, card = _load(settings, preset)
    method = settings.foreground or card.foreground
    _check_foreground(method, settings.foreground_folder)
    types = tuple(dict.fromkeys(settings.defect)) or card.defects
    _check_types(types, card)
    prompts = _prompts(settings, card, types, components)
    settings.check_types(types)
    reading, recipes = Reading.of(settings, card.reading), {**card.recipes, **settings.recipes}
    data_set = _shown_as_in(card, data_set or _read(settings, reading, types, listen))
    onto = None if settings.onto is None else read_bases(settings.onto, reading, listen)
    scenes = SceneOptions(
        settings.foreground_folder,
        settings.masks,
        recipes,
        settings.placement,
        settings,
        onto,
        rendered=components is None,
        may_follow=preset.name not in PUBLISHED,
        known=card.changes,
    )
    maker = SceneMaker(data_set, foreground_method(data_set, method), scenes)
    names = [data_set.relative(sample) for sample in data_set.good]
    plan = ProductionPlan(
        settings=settings,
        preset=settled(preset, card.calibration),
        object_name=card.object_name,
        prompts=prompts,
        model=RENDERER if components is None else digest(components),
        foreground=maker.method,
        sources=f"{len(names)} images, {hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:12]}",
        real_masks={defect: len(maker.banks[defect].shapes) for defect in types if defect in maker.banks},
        dtype=str(dtype).removeprefix("torch."),
        reading=reading,
        recipes=recipes,
        levels=data_set.levels,
        placement=_decided(settings, maker, types),
        content=content_digest((*data_set.good, *data_set.defective)),
        onto=None if onto is None else bases_digest(onto),
        learnt=maker.changes.digest([defect for defect in types if defect not in maker.instances]),
    )
    return plan, Supplies(components, card, maker)


def _decided(settings: GenerateSettings, maker: SceneMaker, types: Collection[str]) -> str | dict[str, str]:
    """See `ProductionPlan.placement`."""
    if settings.placement not in {"auto", "anywhere"}:
        return settings.placement
    following = {defect for defect in types if maker.follows(defect)}
    return {one: "like-real" if one in following else "anywhere" for one in types} if following else "auto"


def _load(settings: GenerateSettings, preset: EditPreset) -> tuple[Components | None, RunCard]:
    """A run's networks, if it has any, and its card.

    Raises:
        InputError: the run cannot be loaded.
        SettingsError: a prompt for a run that reads none, or more steps than it has timesteps.
    """
    card = read_card(find_run(settings.run))
    if card.method != RENDERING:
        components, card = load_run(settings.run)
        check_steps(preset.plan, int(components.scheduler.config["num_train_timesteps"]))
        return components, card
    if settings.prompt is not None:
        problem = f"{settings.prompt!r} was given, but run {settings.run} reads no prompts; choose a type with --defect"
        raise SettingsError((FieldProblem("prompt", problem),))
    return None, card


def check_scenes(plan: ProductionPlan, maker: SceneMaker) -> None:
    """Draw the first scene of every type: a mask that fits on no source is reported before anything is written.

    Raises:
        PlacementError: a defect fits nowhere.
        InputError: a ready foreground mask cannot be used.
    """
    for index, defect in enumerate(plan.types[: plan.settings.count]):
        maker.draw(defect, plan.settings.seed, index, 0)
    if maker.method == "folder":
        for sample in maker.data_set.good:
            maker.foreground(maker.data_set.relative(sample))


def _read(settings: GenerateSettings, reading: Reading, types: tuple[str, ...], listen: Listener) -> DataSet:
    return open_data_set(settings.data, training_options(reading, settings.shots, settings.roi, types), listen)


def _prompts(
    settings: GenerateSettings, card: RunCard, types: Sequence[str], components: Components | None
) -> dict[str, str]:
    """The prompt of each type; refuses those that the text encoder does not take."""
    prompts = {defect: settings.prompt or defect_prompt(card.object_name, defect) for defect in types}
    if components is not None:
        check_prompts(components, list(prompts.values()))
    return prompts


def _shown_as_in(card: RunCard, data_set: DataSet) -> DataSet:
    """The data set with the levels of the fit."""
    if card.levels is None or data_set.levels is None:
        return data_set
    return data_set.shown_with(card.levels)


def _check_foreground(method: str, folder: Path | None) -> None:
    """The checks of `GenerateSettings` again, once the run has said how the object is found."""
    if method == "folder" and folder is None:
        problem = "none was given, but the object is found in ready masks; give the folder that holds them"
        raise SettingsError((FieldProblem("foreground_folder", problem),))
    if method != "folder" and folder is not None:
        problem = f"{folder} is read with --foreground folder only, and the run says {method}; give that too"
        raise SettingsError((FieldProblem("foreground_folder", problem),))


def _check_types(types: Collection[str], card: RunCard) -> None:
    unknown = [defect for defect in types if defect not in card.defects]
    if unknown:
        known = ", ".join(card.defects) or "none"
        raise InputError(f"defect type {defect!r}: unknown to this run, expected one of {known}." for defect in unknown)
