"""Make one generated image again from its record, and compare it with the files byte by byte."""

from __future__ import annotations

import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from adabldm.core.errors import InputError
from adabldm.core.events import Listener, Note, guarded, ignore
from adabldm.core.images import write_image, write_labels, write_mask
from adabldm.core.prompts import defect_prompt
from adabldm.core.records import ImageRecord, write_record
from adabldm.core.settings import FieldProblem, GenerateSettings, ReproduceSettings, SettingsError
from adabldm.data.claim import ASIDE, SETTINGS, differences
from adabldm.data.generated import MANIFEST, read_records
from adabldm.data.upgrade import LATER_LIMITS, upgrade_settings
from adabldm.production.plan import Batch, plan_production
from adabldm.production.produce import Producer
from adabldm.production.results import Produced

MOVABLE = ("run", "data", "onto", "foreground_folder")
"""Settings that name a place, with an option to say where it is now."""
KEPT = (
    "seed", "window", "masks", "recipes", "placement", "limits", "mask_threshold", "dtype", "batch_size", "foreground",
    "foreground_folder",
)  # fmt: skip
"""Settings that folders of earlier versions tell."""


def reproduce(settings: ReproduceSettings, listen: Listener = ignore) -> str:
    """Make an image again.

    Its whole batch is edited, because the last bit of a convolution may depend on the size of the batch.

    Args:
        settings: which image, and where run and data are now.
        listen: is told notes, and how many images were read.

    Returns:
        One sentence that says what is the same.

    Raises:
        InputError: folder, run or data are not those that the image was made from, or what was made differs from it;
            in the second case `out` holds it.
        OutputError: `out` cannot be written.
    """
    listen = guarded(listen)
    root, index = settings.folder, settings.index
    record, stored = _read(root, index)
    plan, supplies = plan_production(_settings(settings, stored), listen)
    decisive = plan.decisive()
    changes = differences(stored, {**{key: one for key, one in stored.items() if key == "split"}, **decisive})
    if changes:
        raise InputError(
            f"{root}: was made from something else ({'; '.join(changes)}); restore it, or say where it is now with "
            "--run and --data."
        )
    first = index - index % plan.batch_size
    batch = Batch(tuple(map(plan.job, range(first, first + plan.batch_size))), frozenset({index}))
    (produced,) = Producer(plan, supplies).produce([batch])
    with nullcontext(settings.out) if settings.out is not None else tempfile.TemporaryDirectory() as place:
        files = _write(produced, record, Path(place))
        different, absent = _compare(root, files)
    own = {key: one for key, one in produced.record.plain().items() if key not in ("image", "mask", "labels")}
    known = record.plain()
    keys = [key for key in known if key in own and key != "schema" and known[key] != json.loads(json.dumps(own[key]))]
    where = "" if settings.out is None else f"; it was written to {settings.out}"
    if different or keys:
        raise InputError(
            f"image {index} of {root}: made again, but {', '.join([*different, *keys])} differ{where}; expected the "
            "same bytes: the same device, precision and versions of adabldm and torch give them."
        )
    if absent:
        listen(Note(f"{root}: {', '.join(absent)} of image {index} missing, so that there is nothing to compare with."))
    same = [name for name in files if name not in absent]
    return f"image {index}: {', '.join([*same, 'record'])} are the same, byte by byte{where}."


def _read(root: Path, index: int) -> tuple[ImageRecord, dict[str, Any]]:
    """An image's record, and the settings of its folder."""
    if not (root / MANIFEST).is_file() or not (root / SETTINGS).is_file():
        raise InputError(f"{root}: no {MANIFEST} and {SETTINGS} in it, expected a folder that `generate` made.")
    records = read_records(root)
    if index not in records:
        last = max(records, default=None)
        raise InputError(f"{root}: there is no image {index}, expected a number in its {MANIFEST} (up to {last}).")
    try:
        stored = json.loads((root / SETTINGS).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{root / SETTINGS}: cannot be read ({error}); restore it.") from error
    if not isinstance(stored, dict) or not isinstance(stored.get("preset"), dict | str):
        raise InputError(f"{root / SETTINGS}: not written by generate, expected its settings; restore it.")
    if "schema" not in stored:
        stored = upgrade_settings("generate", stored)
    if stored.get("command") != "generate":
        raise InputError(f"{root}: made by {stored.get('command')}, expected a folder that `generate` made.")
    return records[index], stored


def _settings(settings: ReproduceSettings, stored: dict[str, Any]) -> GenerateSettings:
    """The settings with which the folder was made, at the places of today."""
    values = dict(stored.get(ASIDE) or _of_earlier_version(stored))
    values["limits"] = {**LATER_LIMITS, **values.get("limits", {})}
    for name in MOVABLE:
        given = getattr(settings, name)
        place = values.get(name) if given is None else str(given)
        if place is None and name in ("run", "data"):
            raise SettingsError([FieldProblem(name, "not told by this folder of an earlier version; give it")])
        gone = place is not None and Path(place).is_absolute() and not Path(place).exists()
        if gone and given is None:
            problem = f"{place} is not there any more, expected what the folder was made from; say where it is now"
            raise SettingsError([FieldProblem(name, problem)])
        values[name] = place
    values["roi"] = settings.roi or values.get("roi", ())
    preset = {"preset": stored["preset"], "set": [], "adapt": None, "guidance": None}
    own = {"out": settings.folder, "count": settings.index + 1, "device": settings.device, "workers": 1, "ray": None}
    return GenerateSettings.create({**values, **preset, **own})


def _of_earlier_version(stored: dict[str, Any]) -> dict[str, Any]:
    """As far as a folder tells it that was made before settings were kept beside what decides."""
    values = {key: stored[key] for key in KEPT if key in stored}
    prompts, types = stored["prompts"], stored["types"]
    usual = {defect: defect_prompt(stored["object"], defect) for defect in types}
    return {**values, "defect": types, "prompt": None if prompts == usual else next(iter(prompts.values()))}


def _write(produced: Produced, record: ImageRecord, place: Path) -> dict[str, tuple[Path, str]]:
    """Write what was made; by name, the file and the path of the folder's own one."""
    files = {"image": (place / Path(record.image).name, record.image)}
    write_image(files["image"][0], produced.pixels)
    files["mask"] = (place / Path(record.mask).name, record.mask)
    write_mask(files["mask"][0], produced.mask)
    if produced.labels is not None and record.labels is not None:
        files["labels"] = (place / Path(record.labels).name, record.labels)
        write_labels(files["labels"][0], produced.labels)
    paths = {"image": record.image, "mask": record.mask, "labels": record.labels}
    write_record(place / f"{record.index:06d}.json", produced.record.model_copy(update=paths))
    return files


def _compare(root: Path, files: dict[str, tuple[Path, str]]) -> tuple[list[str], list[str]]:
    """Names of the files that differ from the folder's, and of those that the folder lacks."""
    absent = [name for name, (_, own) in files.items() if not (root / own).is_file()]
    different = [
        name
        for name, (made, own) in files.items()
        if name not in absent and made.read_bytes() != (root / own).read_bytes()
    ]
    return different, absent
