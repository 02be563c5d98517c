"""Training of the general base: its autoencoder, its control branch that reads the clean latents, and the commands."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from components import make_vae, shared_tokenizer, text_encoder, tiny_unet

from adabldm.app.cli import main
from adabldm.core.errors import InputError
from adabldm.core.events import Event, Note
from adabldm.core.images import write_png
from adabldm.core.seeding import numpy_rng
from adabldm.core.settings import SurfaceFiguresSettings, SurfaceSheetSettings, TrainSurfaceSettings
from adabldm.core.settings.surface import Conditioning, SurfaceRecipe
from adabldm.models import general, tiny
from adabldm.models.clean_latents import (
    CONDITIONINGS,
    TRIMAP,
    TRIMAP_AND_LATENTS,
    condition,
    conditioning_channels,
    conditioning_of,
    new_control_branch,
)
from adabldm.models.components import Components
from adabldm.models.store import load_general
from adabldm.production.surface_drawings import Drawing, draw_defects, put_back
from adabldm.rendering.render import DEFECTS, Rendered
from adabldm.rendering.sources import Surfaces
from adabldm.rendering.surfaces import procedural
from adabldm.training.surface_autoencoder import mean_psnr, surviving_contrast
from adabldm.training.surface_diffusion import SurfaceObjective, draw_shards, encode_shards, surface_example
from adabldm.training.surface_windows import autoencoder_windows, read_folder, read_pool, unseen_defect, unseen_windows
from adabldm.workflows.surface import ready_autoencoder, surface_figures, surface_sheet, train_surface

SIDE = 64


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(materials, parts): 60 tileable pictures and 3 larger ones."""
    root = tmp_path_factory.mktemp("pictures")
    for index in range(60):
        write_png(root / "materials" / f"Metal{index:03d}.png", procedural(numpy_rng("m", index), 64))
    for index in range(3):
        write_png(root / "parts" / "good" / f"{index}.png", procedural(numpy_rng("p", index), 200))
    return root / "materials", root / "parts" / "good"


def small_components(conditioning: str = TRIMAP_AND_LATENTS) -> Components:
    words = shared_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        components = Components(make_vae("tiny", 4), text_encoder(words), words, tiny_unet(4), tiny.scheduler())
        components.controlnet = new_control_branch(components, conditioning)
    return components


def test_a_grown_autoencoder_computes_the_same_at_first() -> None:
    small, large = tiny.autoencoder(16), general.autoencoder(24)
    general.grow_autoencoder(small, large)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        assert torch.equal(large.encoder(images)[:, :4], small.encoder(images))
        assert torch.allclose(large.decoder(large.encoder(images)), small.decoder(small.encoder(images)), atol=1e-5)
        assert float(large.encoder(images)[:, 4:].std()) > 0.01  # the new latent channels are alive


def test_an_autoencoder_does_not_grow_smaller() -> None:
    with pytest.raises(InputError, match="wider"):
        general.grow_autoencoder(tiny.autoencoder(32), general.autoencoder(24))
    with pytest.raises(InputError, match="blocks"):
        general.grow_autoencoder(general.autoencoder(16), tiny.autoencoder(24))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_what_the_control_branch_reads_follows_from_its_channels(conditioning: str) -> None:
    components = small_components(conditioning)
    assert conditioning_of(components) == conditioning
    trimaps, clean = torch.rand(2, 1, 32, 32), torch.randn(2, 4, 16, 16)
    shown = condition(components, trimaps, clean)
    assert shown.shape[1] == conditioning_channels(components, conditioning) == (1 if conditioning == TRIMAP else 8)
    assert shown.shape[-1] == (32 if conditioning == TRIMAP else 16)
    with pytest.raises(InputError, match="expected one of trimap"):
        new_control_branch(components, "mask")


def test_new_control_branch_starts_without_effect_but_hears_its_input() -> None:
    components = small_components()
    branch = components.controlnet
    assert branch is not None
    embedded = branch.controlnet_cond_embedding(torch.randn(1, 8, 16, 16))
    assert float(embedded.detach().std()) > 0.1
    text = torch.zeros(1, 3, 16)
    down, mid = branch(torch.randn(1, 4, 16, 16), 5, text, torch.randn(1, 8, 16, 16), return_dict=False)
    assert not any(part.any() for part in [*down, mid])


def test_windows_and_examples_depend_on_the_index_alone_and_are_kept(tmp_path: Path) -> None:
    surfaces = Surfaces({"Metal001.png": procedural(numpy_rng(1), 64)})
    few = autoencoder_windows(surfaces, 0, 3, SIDE)
    more = autoencoder_windows(surfaces, 0, 6, SIDE, tmp_path / "windows.npy")
    assert more.shape == (6, 4, SIDE, SIDE)
    assert torch.equal(more[:3], few)
    assert int(more[:, 3].max()) <= 1
    again = autoencoder_windows(Surfaces({}), 0, 6, SIDE, tmp_path / "windows.npy")  # read, not drawn
    assert torch.equal(again, more)


def test_shards_are_kept_and_encode_with_their_captions(tmp_path: Path) -> None:
    surfaces = Surfaces({"Metal001.png": procedural(numpy_rng(1), 64)})
    components = small_components()
    paths = draw_shards(surfaces, tmp_path, 0, 12, 32)
    before = paths[0].stat().st_mtime_ns
    assert draw_shards(surfaces, tmp_path, 0, 12, 32) == paths
    assert paths[0].stat().st_mtime_ns == before
    cache, again = encode_shards(components, paths), encode_shards(components, paths)
    assert cache.latents.shape == cache.clean.shape == (12, 4, 16, 16)
    assert torch.equal(cache.latents, again.latents)
    example = surface_example(surfaces, 0, 3, 32)
    assert cache.prompts[int(cache.captions[3])] == example.caption
    assert (cache.masks[3, 0].numpy().astype(bool) == example.mask).all()


def test_the_objective_reaches_all_that_it_trains(tmp_path: Path) -> None:
    components = small_components()
    surfaces = Surfaces({"Metal001.png": procedural(numpy_rng(1), 64)})
    cache = encode_shards(components, draw_shards(surfaces, tmp_path, 0, 8, 32))
    objective = SurfaceObjective(components, cache, cache, log=tmp_path / "figures.jsonl")
    for seed in range(4):
        loss, figures = next(objective.losses(4, 0.0, torch.Generator().manual_seed(seed)))
        loss.backward()
        assert 0 < float(loss.detach()) < 20
        assert figures["mse"] > 0
    assert components.controlnet is not None
    for module in (components.unet, components.text_encoder, components.controlnet.controlnet_down_blocks):
        assert sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in components.vae.parameters())
    assert objective.unseen_losses() == objective.unseen_losses()
    objective.preview()
    assert "mse unseen inside" in (tmp_path / "figures.jsonl").read_text()


def test_drawing_changes_nothing_outside_the_mask_and_keeps_grey() -> None:
    components = small_components()
    clean = np.repeat(procedural(numpy_rng(2), 32)[..., :1], 3, axis=-1)
    mask = np.zeros((32, 32), bool)
    mask[10:20, 12:22] = True
    generator = torch.Generator().manual_seed(0)
    (drawn,) = draw_defects(components, [Drawing(clean, mask, "a pit")], [generator], steps=2)
    far = np.ones_like(mask)
    far[6:24, 8:26] = False
    assert (drawn[far] == clean[far]).all()
    assert (drawn[mask] != clean[mask]).any()
    assert (drawn == drawn[..., :1]).all()


def test_drawing_from_a_picture_stays_nearer_to_it_than_from_noise() -> None:
    components = small_components()
    clean = procedural(numpy_rng(2), 32)
    mask = np.ones((32, 32), bool)
    begun = Drawing(clean, mask, "a pit", clean)
    few, many = (
        draw_defects(components, [begun], [torch.Generator().manual_seed(0)], steps=10, guidance=1.0, strength=strength)
        for strength in (0.1, 1.0)
    )
    assert np.abs(few[0].astype(int) - clean).mean() < np.abs(many[0].astype(int) - clean).mean()
    with pytest.raises(InputError, match="all of them one or none"):
        draw_defects(components, [begun, Drawing(clean, mask, "a pit")], [torch.Generator()] * 2)


def test_put_back_keeps_the_source_where_the_model_repeats_it() -> None:
    clean = procedural(numpy_rng(3), 32)
    repeated = procedural(numpy_rng(4), 32)
    assert (put_back(clean, np.ones((32, 32), bool), repeated, repeated) == clean).all()


def test_figures_of_an_autoencoder(pictures: tuple[Path, Path]) -> None:
    pool = read_pool(pictures[0], [pictures[1]])
    assert "parts" in pool.unseen
    examples = [unseen_defect(pool, index, SIDE) for index in range(4)]
    assert [example.defect for example in examples] == list(DEFECTS[:4])
    vae = make_vae("tiny", 4)
    windows = unseen_windows(pool.unseen["parts"], "parts", 2, SIDE)
    assert 0 < mean_psnr(vae, windows) < 40
    assert -1 < surviving_contrast(vae, examples) < 1

    class Same(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def encoder(self, images: torch.Tensor) -> torch.Tensor:
            return images

        decoder = encoder

    assert surviving_contrast(Same(), examples) == pytest.approx(1)
    assert mean_psnr(Same(), windows) > 70


def test_annotated_pictures_are_left_out(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_png(tmp_path / f"{name}.png", procedural(numpy_rng(name), 32))
    (tmp_path / "b.json").write_text("{}")
    assert len(read_folder(tmp_path)) == 2
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(InputError, match="at least two"):
        read_folder(tmp_path)


def test_settings_are_checked_all_at_once() -> None:
    given = {"materials": "m", "out": "o"}
    assert TrainSurfaceSettings.create(given).recipe() == SurfaceRecipe()
    assert TrainSurfaceSettings.create(given, diffusion_steps=7, seed=3).recipe().diffusion.seed == 3
    with pytest.raises(InputError) as caught:
        TrainSurfaceSettings.create(given, windows=0, conditioning="mask", seed=-1)
    assert len(str(caught.value).splitlines()) == 3


def test_what_control_branches_read_has_one_list_of_names() -> None:
    assert get_args(Conditioning) == CONDITIONINGS


def test_the_workflow_trains_resumes_and_loads(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    usual = SurfaceRecipe(windows=4, examples=4, resolution=SIDE, figures=1, unseen=2, shown=1)
    recipe = usual.changed(
        autoencoder=usual.autoencoder.changed(steps=2, batch_size=2, preview_every=2),
        diffusion=usual.diffusion.changed(steps=1, batch_size=2, preview_every=2),
    )
    settings = TrainSurfaceSettings(materials=pictures[0], folders=(pictures[1],), out=tmp_path, device="cpu")
    events: list[Event] = []
    train_surface(settings, events.append, recipe=recipe)
    assert (tmp_path / "checkpoints" / "surface-autoencoder.safetensors").is_file()
    assert (tmp_path / "previews" / "surface-000001.png").is_file()
    recipe = recipe.changed(diffusion=recipe.diffusion.changed(steps=2))
    train_surface(settings, events.append, recipe=recipe)
    assert any("taken from" in event.text for event in events if isinstance(event, Note))
    components = load_general(str(tmp_path))
    assert conditioning_of(components) == TRIMAP_AND_LATENTS
    asked = SurfaceFiguresSettings(
        model=str(tmp_path), materials=pictures[0], folders=(pictures[1],), count=1, device="cpu"
    )
    assert set(surface_figures(asked)) >= {"PSNR materials (names)", "PSNR parts", "contrast scratch"}


def test_a_ready_autoencoder_skips_the_first_stage(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    usual = SurfaceRecipe(examples=2, resolution=SIDE, figures=1, unseen=1, shown=1, ready="general")
    recipe = usual.changed(diffusion=usual.diffusion.changed(steps=1, batch_size=1, preview_every=2))
    train_surface(TrainSurfaceSettings(materials=pictures[0], out=tmp_path, device="cpu"), recipe=recipe)
    assert not (tmp_path / "checkpoints" / "surface-autoencoder.safetensors").exists()
    own, shipped = load_general(str(tmp_path)).vae.state_dict(), ready_autoencoder("general").state_dict()
    assert all(torch.equal(own[key], value) for key, value in shipped.items())


def test_the_commands_refuse_bad_input(pictures: tuple[Path, Path], tmp_path: Path, capsys: object) -> None:
    materials = str(pictures[0])
    assert main(["train-surface", materials, "--out", str(tmp_path), "--windows", "0"]) == 2
    assert main(["train-surface", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert main(["surface-figures", str(tmp_path), materials]) == 2
    assert main(["surface-sheet", materials, "--out", str(tmp_path / "a.png"), "--model", "tiny"]) == 2


def test_a_sheet_of_rendered_defects(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    surface_sheet(SurfaceSheetSettings(materials=pictures[0], folders=(pictures[1],), out=out, count=1))
    assert (tmp_path / "sheet.png").is_file()


def test_clean_examples_are_among_the_training_examples() -> None:
    surfaces = Surfaces({"Metal001.png": procedural(numpy_rng(1), 64)})
    examples: list[Rendered] = [surface_example(surfaces, 0, index, 32) for index in range(40)]
    clean = [example for example in examples if not example.mask.any()]
    assert 1 <= len(clean) <= 15
    assert all((example.pixels == example.clean).all() and "with" not in example.caption for example in clean)
