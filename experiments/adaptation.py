"""Decoder adaptation on real images: background, seam and defect fidelity of every method against its cost.

The study behind 2026-11-23-decoder-adaptation.md; most of the methods were rejected and exist here only. Those that
ship are compared by `adabldm bench --adapt`.

    python experiments/adaptation.py [--run magnetic-tile] [--data DIR] [--count 16] [--quick]
        [--json FILE] [--plot FILE] [--crops DIR]

Edits `--count` windows once with `fast` up to z*, then gives the same latents to every adaptation, and measures what
would be saved: background PSNR in the window outside the mask, seam, defect fidelity (adapted against unadapted
decoding inside the mask), processor seconds an image (one thread, so that a busy machine does not count) and operations
of the networks an image (`torch.utils.flop_counter`, backward passes included). Everything from z* to the picture
counts, the first decoding too. The seam of the real defects in the test folders is printed beside them: that is what an
edit should come near to, not 1.

`--data` (or the environment variable ADABLDM_DATA) is a data set in the MVTec AD layout, or a folder of several, in
which the one whose name begins with the run's is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from adabldm.core.errors import InputError
from adabldm.core.images import Pixels, resize_pixels, write_png
from adabldm.core.prompts import defect_prompt
from adabldm.core.samples import DataSet
from adabldm.core.scores import background_psnr, seam
from adabldm.core.seeding import torch_generator
from adabldm.core.settings.base import Settings
from adabldm.core.settings.edit import PRESETS, Adaptation, EditPreset, Finetune, Poisson, Residual, Ridge, Texture
from adabldm.core.tensors import to_pixels
from adabldm.core.windows import Window, bounding_box, crop
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import open_data_set
from adabldm.editing import editor as editor_module
from adabldm.editing.adaptation import Decoding, adapt, texture_ratio
from adabldm.editing.blending import dilate
from adabldm.editing.editor import EditJob, Editor, Prepared, finish, prepare
from adabldm.editing.source import Source
from adabldm.models.components import decode_latents
from adabldm.models.store import load_run
from adabldm.production.scenes import SceneMaker
from adabldm.training.sources import foreground_method

BATCH = 8
MARKS = (5, 10, 25, 50, 100, 200)
"""Steps after which fine-tuning is measured."""
PAPER = Finetune(steps=200)
RELEASED = Finetune(steps=200, outside=100.0, inside=1.0, reduction="mean")
WANTED = 45.0
"""dB outside the mask at which the early stop ends."""
RANK = 4


@dataclass(frozen=True)
class Case:
    """Windows of one resolution, ready to be adapted: z*, E(x_OK), x_OK and M, all batches."""

    latents: Tensor
    background: Tensor
    image: Tensor
    mask: Tensor

    def part(self, picks: slice) -> Case:
        """Some of the windows."""
        return Case(self.latents[picks], self.background[picks], self.image[picks], self.mask[picks])


@dataclass(frozen=True, eq=False)
class Edit:
    """One edited window: its defect type, the window before the edit, and the latents to adapt."""

    defect: str
    prepared: Prepared
    case: Case

    @property
    def job(self) -> EditJob:
        """The picture."""
        return self.prepared.job


Method = Callable[[nn.Module, Case], Iterator[tuple[str, Tensor]]]
"""Yields (label, adapted pictures BCHW), several times where more work gives more."""


def _decoding(vae: nn.Module, case: Case) -> Decoding:
    """What a method of the library is given: E(x_OK) is known from the edit."""
    return Decoding(vae, case.latents, case.image, case.mask, source=Source(vae, case.image, case.background))


# What costs one or two passes of the autoencoder


def shipped(label: str, adaptation: Adaptation) -> Method:
    """A method of the library."""

    def method(vae: nn.Module, case: Case) -> Iterator[tuple[str, Tensor]]:
        yield label, adapt(adaptation, _decoding(vae, case))[0]

    return method


def restoring(label: str, join: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Method:
    """A method that compares the source with its own decoding, D(E(x_OK)); one decoding more than D(z*)."""

    def method(vae: nn.Module, case: Case) -> Iterator[tuple[str, Tensor]]:
        decoded = decode_latents(vae, case.latents)
        yield label, join(case.image, case.mask, decoded, decode_latents(vae, case.background))

    return method


def plain(vae: nn.Module, case: Case) -> Iterator[tuple[str, Tensor]]:
    """D(z*)."""
    yield "none", decode_latents(vae, case.latents)


def pasted(vae: nn.Module, case: Case) -> Iterator[tuple[str, Tensor]]:
    """D(z*) inside the mask, x_OK outside: what the seam looks like when nothing joins the two."""
    yield "hard paste", torch.where(case.mask > 0, decode_latents(vae, case.latents), case.image)


def faded(reach: float, image: Tensor, mask: Tensor, decoded: Tensor, restored: Tensor) -> Tensor:
    """`texture`, with the whole change of the picture falling to 0 within about `reach` pixels of the mask."""
    weight = falling(mask, reach)
    kept = texture_ratio(decoded, restored, mask)
    return image + weight * (decoded - restored - (1 - kept) * (image - restored))


def softened(reach: float, image: Tensor, mask: Tensor, decoded: Tensor, restored: Tensor) -> Tensor:
    """`texture` with a soft mask of another width."""
    share = falling(mask, reach) * (1 - texture_ratio(decoded, restored, mask))
    return decoded + (image - restored) * (1 - share)


def falling(mask: Tensor, reach: float) -> Tensor:
    """B1HW in [0, 1]: 1 on the mask, falling to 0 within about `reach` pixels."""
    radius = max(1, round(reach / 2))
    offsets = torch.arange(-radius, radius + 1, dtype=mask.dtype)
    weights = torch.cos(offsets / (radius + 1) * torch.pi / 2) ** 2
    weights = weights / weights.sum()
    grown = F.pad(dilate(mask, radius), (radius,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(grown, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
    return torch.maximum(blurred, mask).clamp(0, 1)


# Fine-tuning: parameters of all images of a batch are stacked and trained at once


class Decode(nn.Module):
    """z* to pictures, as a module that `torch.func` can call with other weights."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        """BCHW to BCHW."""
        return decode_latents(self.vae, latents)

    def trainable(self) -> list[str]:
        """Names of the decoder's parameters."""
        parts = ("vae.decoder.", "vae.post_quant_conv.")
        return [name for name, _ in self.named_parameters() if name.startswith(parts)]


class LastBlock(nn.Module):
    """The decoder from its last block on: its inputs do not change while it is tuned, so they are kept."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.tiny = isinstance(vae, AutoencoderTiny)
        decoder = vae.decoder
        layers = (
            list(decoder.layers[-2:])
            if self.tiny
            else [decoder.up_blocks[-1], decoder.conv_norm_out, decoder.conv_act, decoder.conv_out]
        )
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """BCHW to BCHW."""
        decoded = self.layers(features)
        return decoded * 2 - 1 if self.tiny else decoded

    def trainable(self) -> list[str]:
        """Names of all parameters."""
        return [name for name, _ in self.named_parameters()]

    def inputs(self, vae: nn.Module, latents: Tensor) -> Tensor:
        """What the last block is given when these latents are decoded."""
        seen: list[Tensor] = []
        handle = self.layers[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        decode_latents(vae, latents)
        handle.remove()
        return seen[0]


def tuned(
    label: str,
    settings: Finetune,
    marks: tuple[int, ...] = MARKS,
    *,
    kind: str = "all",
    last_block: bool = False,
    stop_at: float | None = None,
) -> Method:
    """AdamW on the loss of `adaptation.finetune`, every image with parameters of its own.

    Args:
        label: of the rows; "{}" takes the number of steps.
        settings: of the loss, and the learning rate.
        marks: steps after which the pictures are measured.
        kind: "all" parameters, a "low rank" update of each convolution, or an "affine" one (scale and shift of each
            convolution's outputs).
        last_block: tune the last block only, on inputs that are kept.
        stop_at: background PSNR in dB at which all images must have arrived; only the last pictures are measured then.
    """

    def method(vae: nn.Module, case: Case) -> Iterator[tuple[str, Tensor]]:
        module: Any = LastBlock(vae) if last_block else Decode(vae)
        inputs = module.inputs(vae, case.latents) if last_block else case.latents
        shared = dict(module.named_parameters())
        own = start(shared, module.trainable(), kind, len(inputs))

        def decode(mine: dict[str, Tensor], one: Tensor) -> Tensor:
            decoded: Tensor = functional_call(module, corrected(shared, mine, kind), (one[None],))
            return decoded[0]

        optimizer = torch.optim.AdamW(own.values(), lr=settings.learning_rate)
        first: Tensor | None = None
        for step in range(max(marks) + 1):
            with torch.enable_grad():
                decoded = vmap(decode)(own, inputs)
                first = decoded.detach() if first is None else first
                outside = (decoded - case.image).square() * (1 - case.mask)
                inside = (decoded - first).square() * case.mask
                each = (settings.outside * outside + settings.inside * inside).flatten(1)
                loss = each.sum(1).sum() if settings.reduction == "sum" else each.mean(1).sum()
            if stop_at is not None and (step == max(marks) or reached(outside.detach(), case.mask, stop_at)):
                yield label, decoded.detach()
                return
            if stop_at is None and step in marks:
                yield label.format(step), decoded.detach()
            if step < max(marks):
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

    return method


def start(shared: dict[str, Tensor], names: list[str], kind: str, count: int) -> dict[str, Tensor]:
    """The parameters that are trained, stacked over `count` images; the decoder starts unchanged."""
    own: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for name in names:
        weight = shared[name].detach()
        if kind == "all":
            own[name] = weight.expand(count, *weight.shape).clone()
        elif weight.ndim == 4 and kind == "affine":
            own[f"{name}:scale"] = torch.zeros(count, len(weight))
        elif weight.ndim == 1 and kind == "affine":
            own[f"{name}:shift"] = torch.zeros(count, len(weight))
        elif weight.ndim == 4:
            fan = weight[0].numel()
            own[f"{name}:down"] = (torch.randn(RANK, fan, generator=generator) / fan**0.5).expand(count, -1, -1).clone()
            own[f"{name}:up"] = torch.zeros(count, len(weight), RANK)
    for value in own.values():
        value.requires_grad_(True)
    return own


def corrected(shared: dict[str, Tensor], own: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The decoder's parameters with one image's correction in them."""
    if kind == "all":
        return {**shared, **own}
    result = dict(shared)
    for key, value in own.items():
        name, part = key.rsplit(":", 1)
        if part == "scale":
            result[name] = shared[name] * (1 + value)[:, None, None, None]
        elif part == "shift":
            result[name] = shared[name] + value
        elif part == "up":
            result[name] = shared[name] + (value @ own[f"{name}:down"]).view_as(shared[name])
    return result


def reached(outside: Tensor, mask: Tensor, wanted: float) -> bool:
    """Whether all pictures have the wanted PSNR outside the mask (peak 2)."""
    error = outside.sum((1, 2, 3)) / (3 * (1 - mask).sum((1, 2, 3)).clamp_min(1))
    return bool((10 * torch.log10(4 / error.clamp_min(1e-10)) >= wanted).all())


def methods(quick: bool) -> list[tuple[int, Method]]:
    """(windows at once, method) of everything that is compared; `quick` leaves out fine-tuning."""
    cheap: list[Method] = [
        plain,
        pasted,
        shipped("residual", Residual()),
        shipped("texture", Texture()),
        *(restoring(f"texture, soft mask {reach} px", partial(softened, reach)) for reach in (2, 12)),
        *(restoring(f"texture, faded in {reach} px", partial(faded, reach)) for reach in (2, 4, 8)),
        shipped("poisson", Poisson()),
        *(
            shipped(f"poisson, grown {grow} px, reach {reach:g}", Poisson(grow=grow, reach=reach))
            for grow, reach in ((0, 1.5), (0, 3), (0, 6), (0, 50), (1, 3), (2, 3))
        ),
        shipped("ridge", Ridge()),
    ]
    if quick:
        return [(BATCH, method) for method in cheap]
    short, strong = (10, 50), Finetune(learning_rate=1e-3, outside=1.0, inside=1.0)
    at_once = [
        tuned("last block, cached, {} steps", strong, short, last_block=True),
        tuned(f"low rank {RANK}, {{}} steps", strong, short, kind="low rank"),
        tuned("affine, {} steps", strong, short, kind="affine"),
        tuned("finetune, paper, all at once, {} steps", PAPER, (5, 10)),
    ]
    single = [
        tuned("finetune, paper, {} steps", PAPER),
        tuned("finetune, released, {} steps", RELEASED),
        tuned(f"finetune until {WANTED:g} dB", strong, (50,), stop_at=WANTED),
    ]
    return [*((BATCH, method) for method in [*cheap, *at_once]), *((1, method) for method in single)]


# Scenes, measures


def find_data(folder: str | None, run: str) -> Path:
    """The data set that belongs to a run.

    Raises:
        InputError: none is named, or it is not there.
    """
    if not folder:
        raise InputError("no data: name the folder of real images with --data DIR or in ADABLDM_DATA.")
    root, wanted = Path(folder), Path(run).name.replace("-", "_")
    inside = sorted(root.glob(f"{wanted}*")) if root.is_dir() else []
    for candidate in (root, *inside):
        if (candidate / "train" / "good").is_dir():
            return candidate
    raise InputError(f"{root}: no data set there, expected train/good in it or in {wanted}*; correct --data.")


PLAIN = EditPreset.model_validate({**dict(PRESETS["fast"]), "look": None, "adaptation": {"method": "none"}})
"""`fast`, drawn by the model alone."""


def make_edits(run: str, data_set: DataSet, count: int, seed: int) -> tuple[nn.Module, list[Edit]]:
    """The autoencoder, and scenes edited with `fast` up to z*."""
    components, card = load_run(run)
    editor = Editor(components, card.resolution)
    maker, edits = SceneMaker(data_set, foreground_method(data_set, card.foreground)), []
    for index in range(count):
        defect = card.defects[index % len(card.defects)]
        prompt = defect_prompt(card.object_name, defect)
        job = maker.draw(defect, seed, index, 0).job(prompt, torch_generator("edit", seed, index))
        seen: list[Decoding] = []

        def keep(adaptation: Settings, decoding: Decoding) -> tuple[Tensor, Tensor]:
            del adaptation
            seen.append(decoding)  # noqa: B023
            return decoding.decoded, decoding.decoded

        with patch.object(editor_module, "adapt", keep):
            editor.edit([job], PLAIN)
        (one,) = seen
        assert one.source is not None
        prepared = prepare(job, PLAIN, card.resolution, "auto")
        edits.append(Edit(defect, prepared, Case(one.latents, one.source.latents, one.image, one.mask)))
        say(f"edited {index + 1} of {count}: {defect}, {prepared.resolution} px")
    return components.vae, edits


def finished(edit: Edit, adapted: Tensor, unadapted: Tensor) -> tuple[Pixels, dict[str, float]]:
    """What the editor would save, and its measures; pictures are 1CHW."""
    job, case, window = edit.job, edit.case, edit.prepared.cut.window
    kept = float(texture_ratio(adapted, case.image, case.mask))
    edited = finish(edit.prepared, to_pixels(adapted[0]), to_pixels(unadapted[0]), kept, PLAIN)
    inside = [crop(each, window) for each in (edited.pixels, job.pixels, job.mask)]
    return edited.pixels, {
        "background_psnr": background_psnr(*inside),
        "seam": edited.scores.seam,
        "defect_fidelity": edited.defect_fidelity,
    }


def batches(edits: list[Edit], size: int) -> Iterator[list[Edit]]:
    """Edits of one resolution, at most `size` at once."""
    by_side = defaultdict(list)
    for edit in edits:
        by_side[edit.case.image.shape[-1]].append(edit)
    for same in by_side.values():
        for first in range(0, len(same), size):
            yield same[first : first + size]


def stack(edits: list[Edit]) -> Case:
    """One case of many."""
    columns = [[getattr(edit.case, name) for edit in edits] for name in ("latents", "background", "image", "mask")]
    return Case(*(torch.cat(column) for column in columns))


def run_method(
    vae: nn.Module, edits: list[Edit], size: int, method: Method, pictures: dict[tuple[str, int], Pixels]
) -> list[dict[str, Any]]:
    """Rows of one method: means over the edits, and the seam of every edit."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for batch in batches(edits, size):
        case = stack(batch)
        with torch.no_grad():
            first = decode_latents(vae, case.latents)
            # The counter takes a convolution in groups for a full one, so operations are counted on one image.
            alone = case.part(slice(0, 1))
            operations = {label: flops for label, _, _, flops in watch(method(vae, alone))} if size > 1 else {}
            for label, adapted, spent, flops in watch(method(vae, case)):
                for index, edit in enumerate(batch):
                    one = slice(index, index + 1)
                    pixels, scores = finished(edit, adapted[one], first[one])
                    pictures[label, edits.index(edit)] = pixels
                    scores |= {"seconds": spent / len(batch), "gflop": operations.get(label, flops) / 1e9}
                    for key, value in scores.items():
                        found[label][key].append(value)
                    found[label][edit.defect].append(scores["seam"])
    rows = []
    for label, values in found.items():
        rows.append({"method": label, "batch": size, **{key: statistics.fmean(own) for key, own in values.items()}})
        say(", ".join(f"{key} {own:.4g}" if isinstance(own, float) else str(own) for key, own in rows[-1].items()))
    return rows


def watch(steps: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor, float, int]]:
    """(label, pictures, processor seconds so far, operations so far); what the reader does between is not counted."""
    counter, spent, operations = FlopCounterMode(display=False), 0.0, 0
    while True:
        with counter:
            began = time.process_time()
            result = next(steps, None)
            spent += time.process_time() - began
        if result is None:
            return
        operations += counter.get_total_flops()
        yield *result, spent, operations


def real_seams(data_set: DataSet) -> dict[str, dict[str, float]]:
    """The seam of the real defects, by type; of the test folders where there are any."""
    result, everything = {}, []
    for defect, instances in (data_set.test_instances or data_set.instances).items():
        values = [seam(one.sample.picture().pixels, one.defect.mask.read()) for one in instances]
        result[defect] = {"mean": statistics.fmean(values), "median": statistics.median(values), "images": len(values)}
        everything += values
    means = [row["mean"] for row in result.values()]
    result["mean of the types"] = {
        "mean": statistics.fmean(means), "median": statistics.median(everything), "images": len(everything)
    }  # fmt: skip
    return result


# What comes out


def table(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """A Markdown table of `columns`: key to format."""
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(format(row[key], how) for key, how in columns.items()) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def draw(facts: dict[str, Any], path: Path) -> None:
    """Three panels over processor seconds an image: background PSNR, seam, defect fidelity."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in facts["methods"]:
        families[re.split(r",? \d", row["method"])[0]].append(row)
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    panels = (("background_psnr", "background PSNR, dB"), ("seam", "seam"), ("defect_fidelity", "defect fidelity, dB"))
    for number, (axis, (key, title)) in enumerate(zip(axes, panels, strict=True)):
        for index, (family, rows) in enumerate(families.items()):
            style = "-o" if "steps" in rows[0]["method"] else "o"
            style = "*" if family == "poisson" else style
            marker = {"markersize": 14 if style == "*" else 5, "alpha": 0.85, "color": pyplot.get_cmap("tab20")(index)}
            axis.plot([row["seconds"] for row in rows], [row[key] for row in rows], style, label=family, **marker)
        if key == "seam":
            axis.axhline(
                facts["real_seam"]["mean of the types"]["mean"], color="black", ls="--", lw=1, label="real defects"
            )
        axis.set(xscale="log", xlabel="processor seconds an image", title=title)
        axis.grid(alpha=0.3)
        if number == 1:
            handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75)


def write_crops(edits: list[Edit], pictures: dict[tuple[str, int], Pixels], folder: Path) -> None:
    """A strip for each edit: source, mask, then every method, at the mask (real images: keep them to yourself)."""
    labels = list(dict.fromkeys(label for label, _ in pictures))
    for index, edit in enumerate(edits):
        top, left, bottom, right = bounding_box(edit.job.mask)
        side = min(max(bottom - top, right - left) + 20, 110)
        place = Window((top + bottom - side) // 2, (left + right - side) // 2, side)
        cells = [edit.job.pixels, np.repeat(edit.job.mask[..., None], 3, axis=2).astype(np.uint8) * 255]
        cells += [pictures[label, index] for label in labels]
        write_png(
            folder / f"{index:02d}_{edit.defect}.png",
            np.hstack([resize_pixels(crop(c, place), (256, 256)) for c in cells]),
        )
    (folder / "columns.txt").write_text("\n".join(["source", "mask", *labels]), encoding="utf-8")


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="magnetic-tile", help="a fitted run, or one that ships")
    parser.add_argument("--data", default=os.environ.get("ADABLDM_DATA"), help="real images (default: ADABLDM_DATA)")
    parser.add_argument("--count", type=int, default=16, help="windows that are edited")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="leave out fine-tuning")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="write the plot here")
    parser.add_argument("--crops", type=Path, help="write crops of the results into this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        root = find_data(options.data, options.run)
        data_set = open_data_set(root, ReadOptions(skip_empty=True))
        vae, edits = make_edits(options.run, data_set, options.count, options.seed)
    except InputError as error:
        say(str(error))
        return 2
    facts: dict[str, Any] = {
        "run": options.run, "data": root.name, "images": options.count, "seed": options.seed,
        "torch": torch.__version__,
        "real_seam": real_seams(data_set), "methods": [],
    }  # fmt: skip
    pictures: dict[tuple[str, int], Pixels] = {}
    for size, method in methods(options.quick):
        facts["methods"] += run_method(vae, edits, size, method, pictures)
        if options.json:
            options.json.write_text(json.dumps(facts, indent=2), encoding="utf-8")
    columns = {"method": "", "batch": "", "background_psnr": ".1f", "seam": ".2f", "defect_fidelity": ".1f"}
    print(table(facts["methods"], {**columns, "seconds": ".3f", "gflop": ".2f"}))
    print("\nSeam by defect type, mean:\n")
    types = sorted({edit.defect for edit in edits})
    real = {"method": "real defects", **{key: row["mean"] for key, row in facts["real_seam"].items()}}
    print(table([real, *facts["methods"]], {"method": "", **dict.fromkeys(types, ".2f")}))
    if options.plot:
        draw(facts, options.plot)
    if options.crops:
        write_crops(edits, pictures, options.crops)
    return 0


if __name__ == "__main__":
    sys.exit(main())
