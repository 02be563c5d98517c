"""Fit a run to the user's images: training windows, domain stage, control stage."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from adabldm.core.appearance import KEPT, describe, evenly
from adabldm.core.errors import InputError, OutputError
from adabldm.core.events import Listener, Note, Workload, ignore
from adabldm.core.interrupts import stop_requests
from adabldm.core.names import check_defect_name
from adabldm.core.processes import check_guarded
from adabldm.core.prompts import defect_prompt, good_prompt
from adabldm.core.records import Reading, RunCard
from adabldm.core.samples import DataSet
from adabldm.core.seeding import numpy_rng
from adabldm.core.settings import FieldProblem, FitPreset, FitSettings, SettingsError
from adabldm.core.settings.common import Recipe
from adabldm.data.claim import BASE_WEIGHTS, claim
from adabldm.data.content import content_digest, content_marks
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import open_data_set
from adabldm.data.regions import decisive_regions
from adabldm.data.remote import at_hand
from adabldm.masks.over_edge import notes_on_outlines
from adabldm.models.clean_latents import reads_latents
from adabldm.models.components import Components, check_autoencoder, vae_factor, window_multiple
from adabldm.models.conditioning import check_prompts
from adabldm.models.devices import pick_device
from adabldm.models.lora import lora_digest
from adabldm.models.store import digest, finish_saving, load_base, pinned, read_card, save_run
from adabldm.production.drawn_examples import drawn_views, usual_recipes
from adabldm.production.familiar import difference_of, remark_on
from adabldm.production.learnt import RealChanges
from adabldm.production.previews import JUDGED, SHOWN, RealWindows, base_preview, control_preview
from adabldm.production.redrawing import measured
from adabldm.production.scenes import SceneMaker, SceneOptions
from adabldm.training.diffusion import Cache, encode_examples
from adabldm.training.examples import TrainingImages, make_examples
from adabldm.training.loop import Preview, finished_steps
from adabldm.training.sources import foreground_method, read_data_set
from adabldm.training.stages import (
    CONTROL,
    DOMAIN,
    ENCODE,
    StageContext,
    fit_tasks,
    seeded_controlnet,
    train_control,
    train_domain,
    usual_micro_batch,
)
from adabldm.training.team import ALONE, Team, joined_team, launched_together
from adabldm.workflows.fit_together import fit_together

SETTINGS = "fit.json"
PREVIEWED_CAPTIONS = 8


@dataclass(frozen=True)
class _Plan:
    """All that a fit needs, checked, before anything is written."""

    preset: FitPreset
    data_set: DataSet
    images: TrainingImages
    scenes: SceneOptions
    components: Components
    device: torch.device
    card: RunCard
    changes: RealChanges


def fit(settings: FitSettings, listen: Listener = ignore) -> Path:
    """Fit one model for all defect types of the data set.

    Components, previews, logs and checkpoints go to the run's folder. A kill at any moment loses at most the steps
    since the last checkpoint: run the same command with `resume`.

    Args:
        settings: what is trained, and how.
        listen: is told remarks, the progress of the whole fit and the previews.

    Returns:
        the run's folder.

    Raises:
        InputError: bad data, base or settings, before anything is trained or written.
        OutputError: full disk; what is checkpointed stays, a rerun with `resume` goes on.
    """
    check_guarded("fit")
    settings = settings.changed(data=at_hand(settings.data, listen))
    if settings.gpus > 1 and not launched_together():
        return fit_together(settings, listen, fit)
    with joined_team(settings.device) as team:
        return _fit(settings, listen if team.leads else ignore, team)


def _fit(settings: FitSettings, listen: Listener, team: Team) -> Path:
    """The part of one process; the leading one holds the folder and writes."""
    out, watched = settings.out, listen
    with ExitStack() as stack:
        with team.together():
            if team.leads:
                _check_resume(settings)
        with team.together():
            plan = _prepare(settings, team, listen)
        with team.together():
            if team.leads:
                growing = _growing(settings)
                held = stack.enter_context(claim(out, plan.card.settings, "fit", name=SETTINGS, growing=growing))
                finish_saving(out)
                watched = held.watched(listen)
        with team.together():
            plan = _ended_early(plan, settings) if settings.finish else plan
        outlines = notes_on_outlines(plan.data_set, plan.card.foreground) if team.leads else ()
        for note in (*plan.data_set.notes, *outlines, *_changed_images(plan, out)):
            listen(Note(note))
        listen(Note(f"{_summary(plan)}; foreground: {plan.card.foreground}"))
        with stop_requests() as stop:
            _train(plan, settings, watched, stop, team)
        with team.together():
            if team.leads:
                card = measured(plan.components, _trained_card(plan, out), plan.changes, plan.data_set.types)
                _save(replace(plan, card=card), out)
    following = shlex.join(["adabldm", "generate", str(out), "--data", str(settings.data)])
    listen(Note(f"the run is in {out}; next: {following} --out … --count 100"))
    return out


def _trained_card(plan: _Plan, out: Path) -> RunCard:
    """The card with the steps that the control stage has taken; it may have ended early."""
    steps = {**(plan.card.steps or {}), CONTROL: finished_steps(out, CONTROL, plan.preset.control.steps)}
    return plan.card.model_copy(update={"steps": steps})


def _check_resume(settings: FitSettings) -> None:
    there = (settings.out / SETTINGS).exists()
    if there and not (settings.resume or settings.finish):
        raise InputError(
            f"--out {settings.out}: holds a fit already; add --resume to go on with it, or choose another --out."
        )
    if settings.finish and not there:
        raise InputError(f"--out {settings.out}: holds no fit, expected an interrupted one; leave out --finish.")


def _growing(settings: FitSettings) -> tuple[str, ...]:
    """Settings that may have grown since the fit began: steps, but the control stage needs a UNet that stays."""
    begun = finished_steps(settings.out, CONTROL, sys.maxsize) > 0
    own = (f"{CONTROL}.steps", f"{CONTROL}.patience")
    return own if begun else (f"{DOMAIN}.steps", *own)


def _ended_early(plan: _Plan, settings: FitSettings) -> _Plan:
    """The plan with the steps that the checkpoints have, so that nothing is left to train.

    Raises:
        InputError: the control stage has no checkpoint.
    """
    preset, out = plan.preset, settings.out
    domain, control = (
        finished_steps(out, name, loop.steps) for name, loop in ((DOMAIN, preset.domain), (CONTROL, preset.control))
    )
    if control == 0:
        raise InputError(
            f"{out}: there is no checkpoint of the control stage, without which no defect can be drawn; go on with "
            "--resume for a while."
        )
    if preset.domain_mode != "none" and domain < preset.domain.steps:
        raise InputError(f"{out}: the checkpoint of the domain stage is missing or damaged; go on with --resume.")
    preset = preset.changed(
        domain=preset.domain.changed(steps=domain), control=preset.control.changed(steps=control), examples=1
    )
    steps = {DOMAIN: domain, CONTROL: control}
    return replace(plan, preset=preset, card=plan.card.model_copy(update={"steps": steps}))


def _prepare(settings: FitSettings, team: Team = ALONE, listen: Listener = ignore) -> _Plan:
    """Read and check everything; `listen` is told how many images were read.

    Raises:
        InputError: something cannot be used.
    """
    settings.fit_preset()  # what is wrong with it is said before anything is read
    device = team.device or pick_device(settings.device)
    reading = Reading.of(settings)
    drawing = settings.masks == "procedural" and bool(settings.defect)
    options = ReadOptions.of(
        reading,
        object_name=settings.object,
        shots=settings.shots,
        require_defects=not drawing,
        split="train",
        roi=settings.roi,
    )
    data_set = open_data_set(settings.data, options, listen)
    recipes = _recipes(settings, data_set)
    types = tuple(sorted({*data_set.types, *recipes}))
    components = load_base(settings.base_name(), settings.lora, settings.prediction)
    base = pinned(settings.base_name())
    check_autoencoder(components.vae)
    preset = settings.fit_preset(own_branch=components.controlnet is not None)
    resolution = _resolution(components, preset)
    check_prompts(components, _captions(data_set.object_name, types))
    method = foreground_method(data_set, settings.foreground or "auto")
    images = read_data_set(data_set, method, folder=settings.foreground_folder)
    scenes = SceneOptions(folder=settings.foreground_folder, recipes=recipes, vary=settings.variation())
    drawn = drawn_views(data_set, method, scenes, tuple(recipes), preset.control.seed)
    images = replace(images, defects={**images.defects, **drawn})
    values = {
        "object_name": data_set.object_name,
        "defects": types,
        "base": base,
        "resolution": resolution,
        "foreground": method,
        "preset": preset.name,
        "steps": {
            DOMAIN: 0 if preset.domain_mode == "none" else preset.domain.steps,
            CONTROL: preset.control.steps,
        },
        "recipes": recipes,
        "reading": reading,
        "levels": data_set.levels,
        "settings": {
            "data": str(settings.data.resolve()),
            "content": content_digest((*data_set.good, *data_set.defective)),
            "object": data_set.object_name,
            **_chosen(settings, base, components),
            "foreground": method,
            **_used(settings, reading),
            **_drawn(settings, recipes),
            **preset.plain(),
        },
        **_seen(data_set, images),
    }
    card = RunCard.parse(values, str(settings.data), "rename the object or its defect types")
    return _Plan(preset, data_set, images, scenes, components, device, card, RealChanges(data_set))


def _changed_images(plan: _Plan, out: Path) -> tuple[str, ...]:
    """A remark if a finished run, which is resumed, was fitted on images of something else."""
    try:
        before = read_card(out)
    except InputError:  # there is none, or it is damaged and written anew
        return ()
    return remark_on(difference_of(before, plan.data_set), before, plan.data_set)


def _seen(data_set: DataSet, images: TrainingImages) -> dict[str, Any]:
    """Fields of a card that tell which images the fit saw, and what they look like."""
    marks = {"seen_good": data_set.good, "seen_defects": data_set.defective}
    return {
        **{name: "".join(content_marks(samples)) for name, samples in marks.items()},
        "appearance": tuple(describe(one.pixels) for one in evenly(images.good, KEPT)),
    }


def _recipes(settings: FitSettings, data_set: DataSet) -> dict[str, tuple[Recipe, ...]]:
    """Shapes of the types that have no example and are drawn.

    Raises:
        InputError: there are such types, but none are to be drawn.
    """
    names = sorted(set(settings.defect) - set(data_set.types))
    for name in names:
        check_defect_name(name)
    if names and settings.masks != "procedural":
        raise InputError(
            f"--defect {name}: no example in {data_set.root}, expected images of it with masks; add some, or give "
            "--masks procedural to have it drawn."
            for name in names
        )
    return {name: settings.recipes.get(name) or usual_recipes(name) for name in names}


def _used(settings: FitSettings, reading: Reading) -> dict[str, Any]:
    """JSON values of what decides which images are used, and where on them."""
    return {**reading.decisive(), "shots": settings.shots, **decisive_regions(settings.roi)}


def _drawn(settings: FitSettings, recipes: Mapping[str, Sequence[Recipe]]) -> dict[str, Any]:
    """JSON values of what decides drawn defects; none without any."""
    if not recipes:
        return {}
    plain = {name: [one.plain() for one in found] for name, found in recipes.items()}
    return {"recipes": plain, **settings.variation().decisive_variation()}


def _chosen(settings: FitSettings, base: str, components: Components) -> dict[str, Any]:
    """JSON values of what decides a base: its name, what was given beside it, and of a folder or file its weights."""
    loras = [lora_digest(one) for one in settings.lora]
    return {
        "base": base,
        **({BASE_WEIGHTS: digest(components)} if Path(base).expanduser().exists() else {}),
        **({"lora": loras} if loras else {}),
        **({"prediction": settings.prediction} if settings.prediction else {}),
    }


def _captions(name: str, types: Sequence[str]) -> list[str]:
    return [good_prompt(name), *(defect_prompt(name, defect) for defect in types)]


def _summary(plan: _Plan) -> str:
    data_set = plan.data_set
    counts = [f"{len(found)} {defect}" for defect, found in data_set.instances.items()]
    drawn = [f"{defect} (drawn)" for defect in plan.card.recipes]
    return f"{data_set.object_name}: {len(data_set.good)} defect-free images, {', '.join([*counts, *drawn])}"


def _resolution(components: Components, preset: FitPreset) -> int:
    """Side of the training windows in px; a base that does not say its own, or says two, has it from now on.

    Raises:
        SettingsError: the base cannot work at it, or neither says one.
    """
    side, factor = components.unet.config["sample_size"], vae_factor(components.vae)
    if not preset.resolution and side is None:
        raise SettingsError((FieldProblem("resolution", "missing, and the base does not say its own; give it"),))
    resolution = preset.resolution or int(max(side) if isinstance(side, list | tuple) else side) * factor
    multiple = window_multiple(components)
    if resolution % multiple:
        problem = f"{resolution} px was given, expected a multiple of {multiple} px for this base"
        raise SettingsError((FieldProblem("resolution", problem),))
    if not isinstance(side, int):  # previews are drawn at it
        components.unet.register_to_config(sample_size=resolution // factor)
    return resolution


def _train(plan: _Plan, settings: FitSettings, listen: Listener, stop: Callable[[], bool], team: Team) -> None:
    """Encode the windows, then train both stages; the components are on the CPU afterwards."""
    components, preset, card = plan.components, plan.preset, plan.card
    workload = Workload(fit_tasks(preset, settings.out), listen)
    cache = _encode(plan, workload, stop, team)
    for module in components.modules().values():
        module.to(plan.device)
    at_once = settings.micro_batch or usual_micro_batch(components, card.resolution, plan.device)
    context = StageContext(components, cache, preset, at_once, settings.out, workload, listen, stop, team)
    real = RealWindows.of(plan.images, card.resolution)
    captions = _captions(card.object_name, card.defects)[:PREVIEWED_CAPTIONS]
    beside = [real.show(defect, 0) for defect in (None, *card.defects)][:PREVIEWED_CAPTIONS]
    train_domain(context, lambda: Preview(base_preview(components, captions, beside)))
    if components.controlnet is None:
        components.controlnet = seeded_controlnet(components, preset.control.seed).to(plan.device)
    maker = SceneMaker(plan.data_set, card.foreground, plan.scenes)
    count = JUDGED if preset.control.patience else SHOWN
    train_control(context, lambda: control_preview(components, card, maker, count, real, plan.changes))
    for module in components.modules().values():
        module.cpu()


def _encode(plan: _Plan, workload: Workload, stop: Callable[[], bool], team: Team) -> Cache:
    def advance(windows: int) -> None:
        if stop():
            raise KeyboardInterrupt
        workload.advance(ENCODE, windows)

    preset = plan.preset
    rng = numpy_rng(preset.control.seed, "examples")
    clean = reads_latents(plan.components)
    examples = make_examples(plan.images, preset.examples, plan.card.resolution, rng, preset.mixture, clean=clean)
    plan.components.freeze()
    plan.components.vae.to(plan.device)
    workload.begin(ENCODE)
    return encode_examples(plan.components, examples, on_encoded=advance, team=team)


def _save(plan: _Plan, out: Path) -> None:
    """Write the run beside an earlier one, which it then replaces."""
    try:
        save_run(plan.components, out, plan.card)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"{out}: the run could not be written ({error}); free some space, then run the same command again with "
            "--resume."
        ) from error
