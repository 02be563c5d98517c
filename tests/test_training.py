from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from components import assert_same_weights, awaken, ellipse, make_components, make_scheduler, make_vae, weights
from fabricate import box, texture, write_data_set
from PIL import Image
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from adabldm.core.errors import InputError
from adabldm.core.events import Event, Listener, Note, PreviewWritten, Progress, Task, Workload
from adabldm.core.images import Mask, write_mask, write_png
from adabldm.core.samples import DataSet, Defect, MaskFile, Sample
from adabldm.core.seeding import numpy_rng, torch_generator
from adabldm.core.settings import FIT_PRESETS, FitPreset, FitSettings
from adabldm.core.settings.fit import LoopSettings, Mixture
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import open_data_set
from adabldm.models.components import encode_images, in_half
from adabldm.models.conditioning import encode_prompts
from adabldm.training import stages
from adabldm.training.autoencoder import AutoencoderObjective, fourier_distance, stack_windows
from adabldm.training.diffusion import PROMPT_DROPOUT, DiffusionObjective, DiffusionStage, encode_examples
from adabldm.training.examples import (
    Example,
    SourceImage,
    TrainingImages,
    make_example,
    make_examples,
    paste_defect,
)
from adabldm.training.loop import Preview, finished_steps, train
from adabldm.training.sources import foreground_method, read_data_set

GOOD, BAD = "tile, a tile", "tile, a tile with a spot"
SIDE = 16


def loop(steps: int, batch_size: int, learning_rate: float, **changes: Any) -> LoopSettings:
    return LoopSettings(steps=steps, batch_size=batch_size, learning_rate=learning_rate, **changes)


FAST = loop(8, 2, 1e-3, warmup=2, ema=0.9, checkpoint_every=4, preview_every=4)


def some_examples(count: int = 6) -> list[Example]:
    """Windows with and without a dark spot."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(count):
        pixels = texture((SIDE, SIDE), rng)
        trimap = np.full((SIDE, SIDE), 0.5, np.float32)
        if index % 2:
            mask = ellipse(trimap.shape, (6 + index / 2, 8), (2.5, 3.5))  # type: ignore[arg-type]
            pixels[mask], trimap[mask] = 30, 1.0
        found.append(Example(pixels, trimap, BAD if index % 2 else GOOD))
    return found


def make_objective(
    stage: str = "domain", *, kind: type[DiffusionObjective] = DiffusionObjective, seed: int = 0, **options: Any
) -> DiffusionObjective:
    """The objective of a stage on tiny components, as `fit` makes it."""
    components = make_components(seed=seed, prediction=options.pop("prediction", "v_prediction"))
    cache = encode_examples(components, options.pop("examples", None) or some_examples())
    trained = "unet" if stage == "domain" else "controlnet"
    components.modules()[trained].requires_grad_(True)
    preview = options.pop("preview", None)
    settings = DiffusionStage(stage, train=(trained,), control=stage == "control", **options)
    return kind(components, cache, settings, preview)


Losses = Iterator[tuple[Tensor, dict[str, float]]]


def only(losses: Losses) -> tuple[Tensor, dict[str, float]]:
    (addend,) = losses
    return addend


class SameBatch(DiffusionObjective):
    """Every step sees the same examples, noise and timesteps; `seen` holds the losses of all steps."""

    seen: list[float]

    def losses(self, batch_size: int, progress: float, generator: torch.Generator) -> Losses:
        loss, figures = only(super().losses(batch_size, progress, torch_generator("the same")))
        self.__dict__.setdefault("seen", []).append(float(loss.detach()))
        yield loss, figures


def progress_of(events: list[Event]) -> list[int]:
    """Steps that were reported as done."""
    return [event.done for event in events if isinstance(event, Progress)]


def at_step(wanted: int, act: Callable[[], None]) -> Listener:
    def listen(event: Event) -> None:
        if isinstance(event, Progress) and event.done == wanted:
            act()

    return listen


def trained(objective: DiffusionObjective) -> nn.Module:
    (module,) = objective.modules.values()
    return module


# The diffusion objective


def test_examples_are_encoded_once(tmp_path: Path) -> None:
    components, examples = make_components(), some_examples(5)
    cache = encode_examples(components, examples, batch_size=2)
    assert cache.prompts == (GOOD, BAD)
    assert cache.captions.tolist() == [0, 1, 0, 1, 0]
    assert (cache.trimaps.dtype, cache.trimaps.shape) == (torch.uint8, (5, 1, SIDE, SIDE))
    np.testing.assert_array_equal(cache.trimaps[3, 0].numpy(), np.rint(examples[3].trimap * 2))
    image = torch.from_numpy(examples[3].pixels.transpose(2, 0, 1).copy()).float()[None] / 127.5 - 1
    with torch.no_grad():
        torch.testing.assert_close(
            cache.latents[3:4].float(), encode_images(components.vae, image), rtol=1e-3, atol=1e-3
        )


def captured_loss(objective: DiffusionObjective, batch: int = 3) -> dict[str, Any]:
    """One loss, and what the real UNet and control branch read and gave on the way."""
    seen: dict[str, Any] = {}

    def note(name: str) -> Any:
        def hook(_: Any, arguments: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
            seen[name] = {"noisy": arguments[0], "timesteps": arguments[1], **options, "output": output}

        return hook

    modules = objective.components.modules()
    handles = [
        modules[name].register_forward_hook(note(name), with_kwargs=True) for name in ("unet", "controlnet")
    ]  # fmt: skip
    loss, figures = only(objective.losses(batch, 0.0, torch_generator("loss")))
    for handle in handles:
        handle.remove()
    return {**seen, "loss": float(loss.detach()), "tensor": loss, "figures": figures}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("weight", [1.0, 5.0])
def test_the_loss_is_the_weighted_squared_error(prediction: str, weight: float) -> None:
    """Computed again latent by latent, the noise from z_t = √ᾱ z_0 + √(1 − ᾱ) ε; one example only, so z_0 is known."""
    example = some_examples()[1]
    objective = make_objective("control", prediction=prediction, mask_weight=weight, examples=[example])
    seen = captured_loss(objective)
    clean = objective.cache.latents[0].double()
    alphas = objective.components.scheduler.alphas_cumprod.double()
    total = weights_sum = plain = 0.0
    for sample in range(3):
        alpha = alphas[int(seen["unet"]["timesteps"][sample])]
        noise = (seen["unet"]["noisy"][sample].double() - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        target = {
            "epsilon": noise,
            "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * clean,
            "sample": clean,
        }[prediction]
        error = (seen["unet"]["output"].sample[sample].detach().double() - target) ** 2
        for row in range(SIDE // 2):
            for column in range(SIDE // 2):
                inside = (example.trimap[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] == 1).any()
                own = weight if inside else 1.0
                total += own * float(error[:, row, column].mean())
                weights_sum += own
        plain += float(error.mean()) / 3
    assert seen["loss"] == pytest.approx(total / weights_sum, rel=1e-3)
    assert seen["figures"]["mse"] == pytest.approx(plain, rel=1e-3)
    assert (abs(seen["loss"] - plain) < 1e-3 * plain) == (weight == 1.0)


def test_the_control_stage_gives_the_control_branch_the_empty_prompt_and_the_trimap() -> None:
    objective = make_objective("control", examples=[some_examples()[1]])
    seen = captured_loss(objective)
    with torch.no_grad():
        texts = encode_prompts(objective.components, ["", BAD]).embeddings
    control, unet = seen["controlnet"], seen["unet"]
    for sample in range(3):
        torch.testing.assert_close(control["encoder_hidden_states"][sample], texts[0])
        kept = [torch.allclose(unet["encoder_hidden_states"][sample], text, atol=1e-5) for text in texts]
        assert sum(kept) == 1
        np.testing.assert_array_equal(control["controlnet_cond"][sample, 0].numpy(), some_examples()[1].trimap)
    assert torch.equal(control["noisy"], unet["noisy"])
    assert (unet["timesteps"] // (1000 / 3)).tolist() == [0, 1, 2], "a timestep from each third"


def test_a_tenth_of_the_prompts_is_dropped() -> None:
    objective = make_objective(examples=[some_examples()[1]])
    with torch.no_grad():
        empty = encode_prompts(objective.components, [""]).embeddings[0]
    dropped: list[bool] = []

    def count(_: Any, __: Any, options: dict[str, Any]) -> None:
        dropped.extend((text - empty).abs().max().item() < 1e-5 for text in options["encoder_hidden_states"])

    objective.components.unet.register_forward_pre_hook(count, with_kwargs=True)
    # Latents of 4x4: only the prompts count here.
    objective.cache = replace(objective.cache, latents=objective.cache.latents[..., :4, :4])
    with torch.no_grad():
        for step in range(8):
            only(objective.losses(100, 0.0, torch_generator("dropout", step)))
    assert len(dropped) == 800
    assert PROMPT_DROPOUT == 0.1
    assert 0.065 < sum(dropped) / 800 < 0.14


def test_micro_batches_add_up_to_the_loss_and_gradients_of_the_batch() -> None:
    objective = make_objective("control", mask_weight=5.0)
    awaken(objective.components.unet)
    network = trained(objective)
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))

    def taken() -> tuple[float, float, dict[str, Tensor]]:
        network.zero_grad()
        loss = mse = 0.0
        for addend, figures in objective.losses(5, 0.0, torch_generator("addends")):
            addend.backward()  # type: ignore[no-untyped-call]
            loss, mse = loss + float(addend.detach()), mse + figures["mse"]
        gradients = {key: value.grad for key, value in network.named_parameters() if value.grad is not None}
        return loss, mse, {key: gradient.clone() for key, gradient in gradients.items()}

    whole = taken()
    objective.stage = replace(objective.stage, micro_batch=2)
    added = taken()
    assert sizes == [5, 2, 2, 1]
    assert added[:2] == pytest.approx(whole[:2], rel=1e-5)
    assert whole[2].keys() == added[2].keys()
    for key, gradient in whole[2].items():
        torch.testing.assert_close(added[2][key], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("stage", ["domain", "control"])
def test_gradients_reach_what_the_stage_trains_and_nothing_else(stage: str) -> None:
    objective = make_objective(stage)
    only(objective.losses(4, 0.0, torch_generator(0)))[0].backward()  # type: ignore[no-untyped-call]
    wanted = {"domain": "unet", "control": "controlnet"}[stage]
    for name, module in objective.components.modules().items():
        with_gradient = [p.grad is not None and bool(p.grad.any()) for p in module.parameters()]
        if name == wanted:
            assert sum(with_gradient) > 0.95 * len(with_gradient)
        else:
            assert not any(with_gradient), name
            assert not any(parameter.requires_grad for parameter in module.parameters()), name


def test_frozen_networks_may_wait_in_half_precision() -> None:
    """As on a GPU: the control stage under autocast, with all that it does not train in bfloat16."""
    objective = make_objective("control")
    components = objective.components
    awaken(components.unet)
    frozen = [components.unet, components.vae, components.text_encoder]
    before = [weights(module) for module in frozen]
    single = float(only(objective.losses(4, 0.0, torch_generator("half")))[0].detach())
    with in_half(frozen):
        assert {parameter.dtype for module in frozen for parameter in module.parameters()} == {torch.bfloat16}
        with torch.autocast("cpu", torch.bfloat16):
            loss = only(objective.losses(4, 0.0, torch_generator("half")))[0]
        loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(single, rel=0.02)
    assert trained(objective).conv_in.weight.grad.dtype == torch.float32  # type: ignore[union-attr]
    for module, own in zip(frozen, before, strict=True):
        assert_same_weights(weights(module), own)


def test_what_a_stage_does_not_train_is_frozen_by_it() -> None:
    components = make_components()
    for module in components.modules().values():
        module.requires_grad_(True)
    cache = encode_examples(components, some_examples(2))
    DiffusionObjective(components, cache, DiffusionStage("control", train=("controlnet",)))
    flags = {name: {p.requires_grad for p in module.parameters()} for name, module in components.modules().items()}
    assert flags == {"vae": {False}, "text_encoder": {False}, "unet": {False}, "controlnet": {True}}


def test_the_text_encoder_can_be_trained_with_the_unet() -> None:
    components = make_components()
    cache = encode_examples(components, some_examples())
    components.unet.requires_grad_(True)
    components.text_encoder.requires_grad_(True)
    objective = DiffusionObjective(components, cache, DiffusionStage("base", train=("unet", "text_encoder")))
    only(objective.losses(4, 0.0, torch_generator(0)))[0].backward()  # type: ignore[no-untyped-call]
    embedding: Any = components.text_encoder.get_input_embeddings()
    assert embedding.weight.grad.abs().max() > 0


# The loop


def test_one_batch_can_be_overfitted(tmp_path: Path) -> None:
    objective = make_objective(kind=SameBatch)
    settings = loop(80, 2, 4e-3, warmup=5, ema=0.0, checkpoint_every=1000, preview_every=1000)
    events: list[Event] = []
    mean = train(objective, settings, tmp_path, listen=events.append)
    losses = objective.seen
    assert len(losses) == 80
    assert losses[-1] < losses[0] / 8
    assert mean == pytest.approx(sum(losses) / 80)
    shown = [event.figures["loss"] for event in events if isinstance(event, Progress) and event.figures]
    assert shown == pytest.approx([sum(losses[:step]) / step for step in range(1, 81)])


def test_the_control_branch_learns_what_the_trimap_says(tmp_path: Path) -> None:
    """The UNet is frozen and random: whatever gets better comes through the control branch."""
    objective = make_objective("control", kind=SameBatch)
    frozen = weights(objective.components.unet)
    settings = loop(60, 2, 4e-3, warmup=5, ema=0.0, checkpoint_every=1000, preview_every=1000)
    train(objective, settings, tmp_path)
    assert objective.seen[-1] < 0.75 * objective.seen[0]
    assert_same_weights(frozen, weights(objective.components.unet))


@torch.no_grad()
def test_the_unet_reads_the_prompt() -> None:
    """Other words, another prediction, far above rounding; also with the random weights that training starts from."""
    components = make_components()
    latents = torch.randn(1, 4, 8, 8, generator=torch_generator("noise"))
    texts = encode_prompts(components, [GOOD, BAD, ""]).embeddings
    drawn = [components.unet(latents, 999, encoder_hidden_states=text[None]).sample for text in texts]
    again = components.unet(latents, 999, encoder_hidden_states=texts[:1]).sample
    assert torch.equal(drawn[0], again)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (drawn[first] - drawn[second]).abs().max() > 1e-3


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stage", ["domain", "control"])
@pytest.mark.parametrize("at", [1, 7])
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path, stage: str, at: int) -> None:
    whole = make_objective(stage)
    train(whole, FAST, tmp_path / "whole")

    def stop() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        train(make_objective(stage), FAST, tmp_path / "resumed", listen=at_step(at, stop))
    resumed = make_objective(stage)
    events: list[Event] = []
    train(resumed, FAST, tmp_path / "resumed", listen=events.append)
    assert progress_of(events) == list(range(0 if at < 4 else 4, 9)), "earlier steps count as done"
    assert_same_weights(weights(trained(whole)), weights(trained(resumed)))
    ends = [load_file(tmp_path / name / "checkpoints" / f"{stage}.safetensors") for name in ("whole", "resumed")]
    assert_same_weights(*ends)
    untouched = weights(trained(make_objective(stage)))
    assert any(not torch.equal(value, untouched[key]) for key, value in weights(trained(whole)).items())


@pytest.mark.parametrize("steps", [8, 5])
def test_a_finished_stage_is_loaded_and_not_trained(tmp_path: Path, steps: int) -> None:
    """Also where fewer steps are asked for than were made."""
    first, again = make_objective(), make_objective()
    train(first, FAST, tmp_path)
    events: list[Event] = []
    assert train(again, FAST.changed(steps=steps), tmp_path, listen=events.append) == 0.0
    assert progress_of(events) == [steps]
    assert_same_weights(weights(trained(first)), weights(trained(again)))
    assert not any(module.training for module in trained(again).modules())


def test_steps_count_in_the_work_of_the_whole_command(tmp_path: Path) -> None:
    events: list[Event] = []
    workload = Workload([Task("encode", 4, "window"), Task("domain", 8, "step", 3.0)], events.append)
    workload.begin("encode")
    workload.advance("encode", 4)
    train(make_objective(), FAST, tmp_path, workload=workload, listen=events.append)
    reports = [event for event in events if isinstance(event, Progress) and event.task == "domain"]
    assert [event.done for event in reports] == list(range(9))
    assert reports[0].fraction == pytest.approx(4 / 28)
    assert (reports[-1].fraction, reports[-1].seconds_left) == (1.0, 0.0)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "bare"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    train(make_objective(), FAST.changed(steps=2), tmp_path)
    path = tmp_path / "checkpoints" / "domain.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-5000])
    elif damage == "bare":  # the weights alone
        save_file(load_file(path), path)
    else:
        path.write_bytes(b"" if damage == "empty" else b"no checkpoint at all")
    with pytest.raises(InputError, match=r"domain\.safetensors: the checkpoint"):
        train(make_objective(), FAST, tmp_path)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    train(make_objective(), FAST.changed(steps=2), tmp_path)
    path = tmp_path / "checkpoints"
    (path / "domain.safetensors").rename(path / "control.safetensors")
    objective = make_objective("control")
    before = weights(trained(objective))
    with pytest.raises(InputError, match="another architecture; use its own base, or another --out"):
        train(objective, FAST, tmp_path)
    assert_same_weights(before, weights(trained(objective)))


def test_previews_and_logs_are_written_and_told(tmp_path: Path) -> None:
    shown: list[Tensor] = []

    def preview() -> Preview:
        shown.append(trained(objective).conv_out.bias.detach().clone())  # type: ignore[union-attr, operator]
        return Preview(np.full((8, 16, 3), len(shown), np.uint8))

    objective = make_objective(preview=preview)
    found: list[tuple[str, int, int]] = []

    def listen(event: Event) -> None:
        if isinstance(event, PreviewWritten):
            found.append((event.path.name, event.step, int(np.asarray(Image.open(event.path)).max())))

    train(objective, FAST.changed(steps=22, preview_every=8), tmp_path, listen=listen)
    assert found == [("domain-000008.png", 8, 1), ("domain-000016.png", 16, 2), ("domain-000022.png", 22, 3)]
    assert sorted(path.name for path in (tmp_path / "previews").iterdir()) == [name for name, *_ in found]
    assert finished_steps(tmp_path, "domain", 22) == 22
    final: Any = trained(objective)
    assert torch.equal(shown[-1], final.conv_out.bias), "previews show the averaged weights"
    events = EventAccumulator(str(tmp_path / "logs" / "domain"))
    events.Reload()
    assert {"loss", "mse"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [10, 20]
    assert [event.step for event in events.Images("preview")] == [8, 16, 22]
    assert all(math.isfinite(event.value) for event in events.Scalars("loss"))


class Slope:
    """One weight with a gradient of 1: AdamW without decay moves it by exactly the learning rate."""

    name = "slope"

    def __init__(self) -> None:
        self.weight = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        nn.init.zeros_(self.weight.weight)
        self.modules: Mapping[str, nn.Module] = {"line": self.weight}

    def losses(self, batch_size: int, progress: float, generator: torch.Generator) -> Losses:
        yield self.weight.weight.sum(), {}

    def preview(self) -> Preview:
        return Preview(np.zeros((8, 8, 3), np.uint8))


class Judged(Slope):
    """Its previews are believable to a share that depends on the step at which the weight says that it is."""

    def __init__(self, shares: Mapping[int, float]) -> None:
        super().__init__()
        self.shares, self.seen = shares, list[int]()

    def preview(self) -> Preview:
        self.seen.append(round(float(self.weight.weight.detach()) / -0.01))
        return Preview(np.zeros((8, 8, 3), np.uint8), self.shares[self.seen[-1]])


SHARES = {5: 0.25, 10: 0.75, 15: 0.75, 20: 0.5, 25: 0.5, 30: 1.0}
PATIENT = loop(
    30, 1, 0.01, schedule="constant", ema=0.0, weight_decay=0.0, preview_every=5, checkpoint_every=7, patience=2
)


def test_a_stage_ends_early_when_its_previews_get_no_better(tmp_path: Path) -> None:
    judged, told = Judged(SHARES), list[str]()
    train(judged, PATIENT, tmp_path, listen=lambda event: told.extend([event.text] if isinstance(event, Note) else []))
    assert judged.seen == [5, 10, 15, 20]
    assert finished_steps(tmp_path, "slope", 30) == 20
    assert told == [
        "slope: ended after step 20 of 30, because 75% of the previewed defects were believable after step 10 and no "
        "more since then"
    ]
    again = Judged(SHARES)
    assert train(again, PATIENT, tmp_path) == 0.0
    assert again.seen == []
    assert float(again.weight.weight.detach()) == float(judged.weight.weight.detach())


def test_more_patience_goes_on_where_a_stage_ended(tmp_path: Path) -> None:
    train(Judged(SHARES), PATIENT, tmp_path)
    longer, whole = Judged(SHARES), Judged(SHARES)
    train(longer, PATIENT.changed(patience=4), tmp_path)
    assert longer.seen == [25, 30]
    train(whole, PATIENT.changed(patience=4), tmp_path / "whole")
    assert float(longer.weight.weight.detach()) == float(whole.weight.weight.detach())
    assert json.loads((tmp_path / "previews" / "slope.json").read_text()) == {str(k): v for k, v in SHARES.items()}


@pytest.mark.parametrize("last", [3, 5, 8, 12, 15, 19, 20])
def test_an_interrupted_stage_ends_where_an_uninterrupted_one_does(tmp_path: Path, last: int) -> None:
    steps = iter(range(1, 100))
    with suppress(KeyboardInterrupt):
        train(Judged(SHARES), PATIENT, tmp_path, stop=lambda: next(steps) == last)
    resumed, whole = Judged(SHARES), Judged(SHARES)
    train(resumed, PATIENT, tmp_path)
    train(whole, PATIENT, tmp_path / "whole")
    assert finished_steps(tmp_path, "slope", 30) == finished_steps(tmp_path / "whole", "slope", 30) == 20
    assert float(resumed.weight.weight.detach()) == float(whole.weight.weight.detach())


@pytest.mark.parametrize("last", [7, 12, 14])
def test_a_stage_that_was_finished_early_goes_on_as_one_that_was_not(tmp_path: Path, last: int) -> None:
    steps, shares = iter(range(1, 100)), dict.fromkeys(range(31), 0.5) | SHARES
    with pytest.raises(KeyboardInterrupt):
        train(Judged(shares), PATIENT, tmp_path, stop=lambda: next(steps) == last)
    finished, resumed, whole = Judged(shares), Judged(shares), Judged(shares)
    train(finished, PATIENT.changed(steps=last), tmp_path)
    assert finished.seen == [last]
    train(resumed, PATIENT, tmp_path)
    train(whole, PATIENT, tmp_path / "whole")
    assert finished_steps(tmp_path, "slope", 30) == finished_steps(tmp_path / "whole", "slope", 30) == 20
    assert float(resumed.weight.weight.detach()) == float(whole.weight.weight.detach())
    kept = [json.loads((root / "previews" / "slope.json").read_text()) for root in (tmp_path, tmp_path / "whole")]
    assert kept[0] == kept[1]


def test_shares_between_the_previews_of_an_earlier_version_count_for_nothing(tmp_path: Path) -> None:
    steps = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt):
        train(Judged(SHARES), PATIENT, tmp_path, stop=lambda: next(steps) == 14)
    (tmp_path / "previews" / "slope.json").write_text('{"5": 0.25, "10": 0.75, "12": 0.5, "13": 0.5}')
    train(Judged(SHARES), PATIENT, tmp_path)
    assert finished_steps(tmp_path, "slope", 30) == 20


def test_what_was_seen_of_steps_that_are_trained_again_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews" / "slope.json").write_text('{"5": 1.0, "10": 0.1, "15": 0.1}')
    judged = Judged(SHARES)
    train(judged, PATIENT, tmp_path)
    assert judged.seen == [5, 10, 15, 20]


@pytest.mark.parametrize("text", ["", "[1]", '{"ten": 1}', '{"10": [1]}', '{"10": NaN}', '{"10": 1'])
def test_damaged_shares_are_judged_again(tmp_path: Path, text: str) -> None:
    steps = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt):
        train(Judged(SHARES), PATIENT, tmp_path, stop=lambda: next(steps) == 12)
    (tmp_path / "previews" / "slope.json").write_text(text)
    train(Judged(SHARES), PATIENT, tmp_path)
    assert finished_steps(tmp_path, "slope", 30) == 25, "what was seen before is not known: 0.75, 0.5, 0.5"


def test_a_stage_that_is_never_good_goes_on_to_its_last_step(tmp_path: Path) -> None:
    poor = Judged({at: 0.45 if at == 5 else 0.1 for at in SHARES})
    train(poor, PATIENT.changed(patience=1), tmp_path)
    assert poor.seen == list(SHARES)


def path_of(settings: LoopSettings, folder: Path) -> tuple[list[float], float]:
    """The weight before the first step and after every step, and the one that is kept."""
    slope, positions = Slope(), list[float]()

    def listen(event: Event) -> None:
        if isinstance(event, Progress):
            positions.append(float(slope.weight.weight.detach()))

    train(slope, settings, folder, listen=listen)
    return positions, float(slope.weight.weight.detach())


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(tmp_path: Path) -> None:
    settings = loop(50, 1, 0.01, warmup=10, ema=0.0, weight_decay=0.0, preview_every=1000)
    positions, kept = path_of(settings, tmp_path)
    rates = -np.diff(positions)
    expected = [0.01 * (step + 1) / 10 for step in range(10)]
    expected += [0.01 * (0.02 + 0.98 * (1 + math.cos(math.pi * (step - 10) / 40)) / 2) for step in range(10, 50)]
    np.testing.assert_allclose(rates, expected, rtol=1e-4)
    assert rates.argmax() in (9, 10)
    assert rates[30] == pytest.approx(0.01 * 0.51, rel=1e-3)
    assert rates[-1] < 0.03 * 0.01
    assert kept == positions[-1]


def test_a_constant_learning_rate_is_constant(tmp_path: Path) -> None:
    settings = loop(12, 1, 0.01, schedule="constant", ema=0.0, weight_decay=0.0, preview_every=1000)
    np.testing.assert_allclose(-np.diff(path_of(settings, tmp_path)[0]), 0.01, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.5, 0.95])
def test_the_moving_average_is_kept_in_the_end(tmp_path: Path, decay: float) -> None:
    settings = loop(30, 1, 0.01, schedule="constant", ema=decay, weight_decay=0.0, preview_every=7)
    positions, kept = path_of(settings, tmp_path)
    average = 0.0
    for step, position in enumerate(positions[1:], start=1):
        own = min(decay, (1 + step) / (10 + step))  # a short memory at first
        average = own * average + (1 - own) * position
    assert kept == pytest.approx(average, rel=1e-9)
    assert kept > positions[-1]


# Pasted defects


def plain_image(
    colour: tuple[int, int, int], size: tuple[int, int] = (100, 120), mask: Mask | None = None
) -> SourceImage:
    pixels = np.full((*size, 3), colour, np.uint8)
    return SourceImage(pixels, np.ones(size, bool), "spot" if mask is not None else None, mask)


RED, BLUE = (200, 20, 30), (10, 40, 220)


@pytest.mark.parametrize("seed", range(6))
def test_hard_pasting_takes_the_defect_from_the_source_and_leaves_the_rest(seed: int) -> None:
    mask = ellipse((100, 120), (40, 50), (8, 14))
    source = plain_image(RED, mask=mask)
    rng = np.random.default_rng(99)
    target = SourceImage(rng.integers(0, 256, (90, 80, 3), dtype=np.uint8), np.ones((90, 80), bool))
    before = target.pixels.copy()
    pasted = paste_defect(source, target, np.random.default_rng(seed), soft=False)
    assert pasted is not None
    assert pasted.mask is not None
    assert pasted.defect == "spot"
    assert (pasted.pixels[pasted.mask] == RED).all()
    np.testing.assert_array_equal(pasted.pixels[~pasted.mask], target.pixels[~pasted.mask])
    np.testing.assert_array_equal(target.pixels, before)
    growth = pasted.mask.sum() / mask.sum()
    assert 0.85**2 * 0.9 < growth < 1.15**2 * 1.1


def test_pasted_defects_are_turned_and_scaled() -> None:
    source = plain_image(RED, mask=ellipse((100, 120), (40, 50), (4, 16)))
    target = plain_image(BLUE)
    shapes = []
    for seed in range(40):
        pasted = paste_defect(source, target, np.random.default_rng(seed), soft=False)
        assert pasted is not None
        assert pasted.mask is not None
        rows, columns = np.nonzero(pasted.mask)
        shapes.append((np.ptp(rows) > np.ptp(columns), int(pasted.mask.sum())))
    upright = sum(tall for tall, _ in shapes)
    assert 10 < upright < 30
    assert len({area for _, area in shapes}) > 15


@pytest.mark.parametrize("seed", range(4))
def test_soft_pasting_takes_over_the_brightness_and_feathers_one_pixel(seed: int) -> None:
    mask = ellipse((100, 120), (40, 50), (8, 14))
    source = plain_image((60, 60, 60), mask=mask)
    source.pixels[mask] = (100, 90, 60)
    target = plain_image((120, 130, 140))
    pasted = paste_defect(source, target, np.random.default_rng(seed), soft=True)
    assert pasted is not None
    assert pasted.mask is not None
    core = np.asarray(ellipse(pasted.mask.shape, _centre(pasted.mask), (4, 4)))  # type: ignore[arg-type]
    assert np.abs(pasted.pixels[core].astype(int) - (160, 160, 140)).max() <= 3, "40, 30, 0 above the place"
    feathered = cv2.dilate(pasted.mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert (pasted.pixels[~feathered] == (120, 130, 140)).all()
    assert (pasted.pixels[feathered & ~pasted.mask] != (120, 130, 140)).any()


def _centre(mask: Mask) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(rows.mean()), float(columns.mean())


@pytest.mark.parametrize("border", ["top", "bottom", "left", "right", "corner"])
def test_defects_at_a_border_stay_there_as_they_are(border: str) -> None:
    size = (100, 120)
    centres = {"top": (0, 60), "bottom": (99, 60), "left": (50, 0), "right": (50, 119), "corner": (99, 119)}
    mask = ellipse(size, centres[border], (12, 9))
    rng = np.random.default_rng(1)
    source = SourceImage(rng.integers(0, 256, (*size, 3), dtype=np.uint8), np.ones(size, bool), "chip", mask)
    for seed, target_size in enumerate([(100, 120), (70, 200), (140, 64)]):
        target = plain_image(BLUE, target_size)
        pasted = paste_defect(source, target, np.random.default_rng(seed), soft=False)
        assert pasted is not None
        assert pasted.mask is not None
        found = pasted.mask
        touches = {
            "top": found[0].any(), "bottom": found[-1].any(), "left": found[:, 0].any(), "right": found[:, -1].any(),
        }  # fmt: skip
        wanted = {"bottom", "right"} if border == "corner" else {border}
        assert {name for name, touched in touches.items() if touched} >= wanted
        np.testing.assert_array_equal(pasted.pixels[found], source.pixels[mask])
        assert (pasted.pixels[~found] == BLUE).all()


def test_defects_land_on_the_object_or_nowhere() -> None:
    source = plain_image(RED, mask=ellipse((100, 120), (40, 50), (6, 8)))
    target = plain_image(BLUE)
    target.foreground[:] = False
    assert paste_defect(source, target, np.random.default_rng(0)) is None
    target.foreground[:, 60:] = True
    found = [paste_defect(source, target, np.random.default_rng(seed)) for seed in range(12)]
    masks = [pasted.mask for pasted in found if pasted is not None and pasted.mask is not None]
    assert len(masks) > 8
    for mask in masks:
        assert (mask & target.foreground).sum() >= 0.95 * mask.sum()
    large = plain_image(RED, (300, 300), mask=ellipse((300, 300), (150, 150), (120, 120)))
    assert paste_defect(large, target, np.random.default_rng(0)) is None


@pytest.mark.parametrize("seed", range(3))
def test_other_defects_beside_it_are_no_surroundings_of_a_pasted_defect(seed: int) -> None:
    """Its brightness is that above its surroundings, which a dark neighbour does not change."""
    mask, others = box((40, 50), (40, 50)), box((36, 54), (52, 58))
    pixels = np.full((96, 128, 3), 100, np.uint8)
    pixels[mask], pixels[others] = 160, 0
    target, rng = plain_image((150, 150, 150)), np.random.default_rng(seed)
    pasted = paste_defect(SourceImage(pixels, np.ones_like(mask), "spot", mask, others), target, rng)
    alone = paste_defect(plain_image((100, 100, 100), (96, 128), mask), target, np.random.default_rng(seed))
    assert pasted is not None
    assert alone is not None
    assert pasted.mask is not None
    assert np.array_equal(pasted.mask, alone.mask), "the same draws"
    assert np.median(pasted.pixels[pasted.mask]) == 210, "60 above its surroundings, as before"


# Windows to train on


def images(object_name: str = "tile") -> TrainingImages:
    rng = np.random.default_rng(3)
    size = (90, 110)
    good = [SourceImage(texture(size, rng), np.ones(size, bool)) for _ in range(3)]
    defects = {}
    for name, reach in (("spot", (7, 9)), ("dent", (4, 12))):
        mask = ellipse(size, (40, 60), reach)
        pixels = texture(size, rng)
        pixels[mask] = 20
        defects[name] = [SourceImage(pixels, np.ones(size, bool), name, mask)]
    return TrainingImages(object_name, good, defects)


USUAL, REAL, NONE = Mixture(), Mixture(real=1.0, pasted=0.0), Mixture(real=0.0, pasted=0.0)


def test_examples_show_what_their_trimap_and_prompt_say() -> None:
    metal = images("metal_tile")
    examples = list(make_examples(metal, 24, 32, numpy_rng(0), REAL))
    assert [example.prompt for example in examples] == [
        f"metal tile, a metal tile with a {name}" for name in ("dent", "spot")
    ] * 12
    for example in examples:
        assert (example.pixels.shape, example.pixels.dtype) == ((32, 32, 3), np.uint8)
        assert (example.trimap.shape, example.trimap.dtype) == ((32, 32), np.float32)
        assert set(np.unique(example.trimap)) == {0.5, 1.0}
        inside = example.trimap == 1
        assert example.pixels[inside].mean() < example.pixels[~inside].mean() - 40
    for example in make_examples(metal, 6, 32, numpy_rng(0), NONE):
        assert example.prompt == "metal tile, a metal tile"
        assert (example.trimap == 0.5).all()


def test_examples_follow_the_seed_and_the_mixture() -> None:
    runs = [list(make_examples(images(), 60, 32, numpy_rng(seed), USUAL)) for seed in (1, 1, 2)]
    for first, second in zip(runs[0], runs[1], strict=True):
        np.testing.assert_array_equal(first.pixels, second.pixels)
        np.testing.assert_array_equal(first.trimap, second.trimap)
        assert first.prompt == second.prompt
    assert any((a.pixels != b.pixels).any() for a, b in zip(runs[0], runs[2], strict=True))
    with_defect = sum(" with " in example.prompt for example in runs[0] + runs[2]) / 120
    assert 0.6 < with_defect < 0.9, "0.45 real and 0.3 pasted"
    without = replace(images(), defects={})
    assert all(" with " not in example.prompt for example in make_examples(without, 5, 32, numpy_rng(0), USUAL))


def test_a_window_is_not_mirrored_unless_asked() -> None:
    """A bright half on the left stays on the left."""
    pixels = np.zeros((80, 80, 3), np.uint8)
    pixels[:, :40] = 200
    image = SourceImage(pixels, np.ones((80, 80), bool), "spot", ellipse((80, 80), (40, 40), (25, 25)))
    for flips in (False, True):
        sides = [
            example.pixels[:, 0].mean() > example.pixels[:, -1].mean()
            for example in (make_example(image, "tile", 32, numpy_rng(seed), flips=flips) for seed in range(12))
        ]
        assert all(sides) != flips


def test_a_window_names_its_own_defect_and_never_calls_another_one_good() -> None:
    pixels = np.full((96, 128, 3), 120, np.uint8)
    mask, others = box((40, 56), (40, 60)), box((40, 56), (64, 70))
    pixels[mask], pixels[others] = 0, 255
    source = SourceImage(pixels, np.ones_like(mask), "dent", mask, others)
    for seed in range(8):
        example = make_example(source, "tile", 64, numpy_rng(seed))
        assert example.prompt == "tile, a tile with a dent"
        bright = example.pixels[..., 0] > 0.95 * example.pixels.max()
        assert example.pixels.max() > 200, "the other defect is in the window"
        assert (example.trimap[bright] == 1).all()


def test_a_data_set_becomes_training_images(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "tile", size=(64, 64), test=True)
    data_set = open_data_set(root, ReadOptions())
    assert foreground_method(data_set, "texture") == "texture"
    assert foreground_method(data_set, "auto") in {"texture", "grabcut"}
    found = read_data_set(data_set, "texture", limit=4)
    assert len(found.good) == 3, "every second of six"
    assert len(read_data_set(data_set, "texture", memory=2 * 4 * 64 * 64).good) == 2, "no more than memory holds"
    assert {name: len(views) for name, views in found.defects.items()} == {"scratch": 3, "spot": 3}
    for view in found.defects["spot"]:
        assert view.defect == "spot"
        assert view.mask is not None
        assert view.mask.any()
        assert view.every is None
        assert view.foreground.all()
    for view in found.good:
        assert (view.defect, view.mask) == (None, None)


def test_an_image_with_several_defects_gives_a_view_of_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks = {"a": box((10, 20), (10, 20)), "b": box((40, 50), (40, 50)), "c": box((70, 80), (70, 80))}
    write_png(tmp_path / "good.png", texture((96, 128), rng))
    write_png(tmp_path / "bad.png", texture((96, 128), rng))
    for name, mask in masks.items():
        write_mask(tmp_path / f"{name}.png", mask)
    defects = tuple(Defect(kind, MaskFile(tmp_path / f"{name}.png")) for name, kind in zip("abc", "xyx", strict=True))
    data_set = DataSet(
        tmp_path, "tile", (Sample(tmp_path / "good.png"),), (Sample(tmp_path / "bad.png", defects),)
    )  # fmt: skip
    found = read_data_set(data_set, "texture")
    assert {kind: len(views) for kind, views in found.defects.items()} == {"x": 2, "y": 1}
    views = [found.defects["x"][0], found.defects["y"][0], found.defects["x"][1]]
    everything = masks["a"] | masks["b"] | masks["c"]
    for view, mask in zip(views, masks.values(), strict=True):
        assert view.mask is not None
        assert np.array_equal(view.mask, mask)
        assert view.every is not None
        assert np.array_equal(view.every, everything)
        assert view.every is views[0].every, "one for all views: an image may have hundreds of defects"
        assert view.pixels is views[0].pixels, "read once"


# The autoencoder of the tiny base


def test_the_autoencoder_learns_to_give_windows_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    windows = stack_windows([texture((32, 32), rng) for _ in range(4)])
    assert (windows.shape, windows.dtype) == ((4, 3, 32, 32), torch.uint8)
    vae = make_vae("tiny")
    objective = AutoencoderObjective(vae, windows, windows[:2], crop=24)
    before = objective.psnr()
    settings = loop(40, 4, 5e-3, warmup=5, ema=0.0, checkpoint_every=1000, preview_every=1000)
    train(objective, settings, tmp_path)
    assert objective.psnr() > before + 2
    assert objective.preview().picture.shape == (64, 64, 3)
    late, early = (only(objective.losses(4, progress, torch_generator(0)))[1] for progress in (0.7, 0.1))
    assert ("critic" in late, "critic" in early) == (True, False)


def test_fourier_distance_sees_texture_and_not_its_place() -> None:
    image = torch.rand(1, 3, 16, 16, generator=torch_generator(0))
    assert float(fourier_distance(image, image)) == 0
    assert float(fourier_distance(image, image.roll((3, 5), (2, 3)))) < 1e-6
    blurred = nn.functional.avg_pool2d(image, 3, stride=1, padding=1)
    assert float(fourier_distance(image, blurred)) > 0.05


# Presets


def test_the_published_preset_is_the_published_training() -> None:
    preset = FIT_PRESETS["published"]
    control = preset.control
    assert preset.domain_mode == "none"
    assert (control.learning_rate, control.schedule, control.batch_size) == (1e-5, "constant", 4)
    assert control.steps == 20_000 * 10 // 4
    assert (preset.examples, preset.resolution, preset.mask_weight) == (20_000, 256, 1.0)
    assert preset.mixture == Mixture(real=0.0, pasted=1.0, soft=False, flips=False)


def chosen(**options: Any) -> FitPreset:
    return FitSettings.create(data=Path("data"), out=Path("out"), **options).fit_preset()


def test_fit_presets_can_be_changed() -> None:
    preset = chosen(domain_steps=0, control_steps=7, batch_size=3, seed=5, examples=9)
    assert (preset.domain_mode, preset.control.steps, preset.examples) == ("none", 7, 9)
    assert (preset.control.batch_size, preset.control.seed, preset.domain.seed) == (3, 5, 5)
    assert preset.resolution == FIT_PRESETS["quick"].resolution
    assert chosen(preset="standard") == FIT_PRESETS["standard"]
    assert chosen(set=("control.learning_rate=1e-3",)).control.learning_rate == 1e-3


@pytest.mark.parametrize(
    "options",
    [{"preset": "slow"}, {"control_steps": 0}, {"domain_steps": -1}, {"examples": 0}, {"resolution": 8}],
)
def test_bad_fit_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        chosen(**options)


def test_the_work_of_a_fit_has_the_stages_that_train(tmp_path: Path) -> None:
    whole, control = (stages.fit_tasks(FIT_PRESETS[name], tmp_path) for name in ("quick", "published"))
    assert [(task.name, task.total) for task in whole] == [("encode", 1500), ("domain", 400), ("control", 900)]
    assert [(task.name, task.total) for task in control] == [("encode", 20_000), ("control", 50_000)]
    train(make_objective(), FAST, tmp_path)
    (tmp_path / "checkpoints" / "control.safetensors").write_bytes(b"damaged")
    tasks = stages.fit_tasks(FIT_PRESETS["quick"], tmp_path)
    assert [(task.name, task.done) for task in tasks] == [("encode", 0), ("domain", 8), ("control", 0)]


def test_awakened_branches_differ_from_new_ones() -> None:
    control: Any = make_components(awake=False).controlnet
    before = weights(control)
    awaken(control)
    assert any(not torch.equal(value, before[key]) for key, value in weights(control).items())
    assert make_scheduler(zero_snr=True).alphas_cumprod[-1] == 0
