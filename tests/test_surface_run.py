"""The run that needs no examples: generic defects rendered on good images, from the command line and from Python."""

from pathlib import Path

import numpy as np
import pytest
from conftest import run_command
from hypothesis import given, settings
from hypothesis import strategies as st

from adabldm.core.errors import InputError
from adabldm.core.images import read_picture, write_png
from adabldm.core.mask_files import read_mask
from adabldm.core.seeding import numpy_rng
from adabldm.data.generated import read_manifest
from adabldm.evaluation.baselines import generic_type
from adabldm.pipeline import AdaBLDMPipeline
from adabldm.rendering.render import DEFECTS, VISIBLE
from adabldm.rendering.shapes import SIDES, VIEWS, own_shape
from adabldm.rendering.surfaces import procedural


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good pictures and nothing else."""
    root = tmp_path_factory.mktemp("good")
    for index in range(3):
        write_png(root / "train" / "good" / f"{index}.png", procedural(numpy_rng("good", index), 160))
    return root


@pytest.fixture(scope="module")
def made(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("surface") / "out"
    assert run_command("generate", "surface", "--data", good, "--out", out, "--count", 10, "--quiet") == 0
    return out


def test_all_ten_types_on_good_images_alone(good: Path, made: Path) -> None:
    records = read_manifest(made)
    assert sorted(record.defect for record in records.values()) == sorted(DEFECTS)
    for record in records.values():
        result, mask = read_picture(made / record.image).pixels, read_mask(made / record.mask)
        change = np.abs(result.astype(int) - read_picture(good / record.source).pixels.astype(int)).max(-1)
        assert not change[~mask].any()
        assert (change[mask] >= VISIBLE).mean() > 0.6
        assert record.model.startswith("renderer")


def test_the_same_command_gives_the_same_bytes(good: Path, made: Path, tmp_path: Path) -> None:
    arguments = ("--data", good, "--count", 10, "--quiet", "--batch-size", 3)
    assert run_command("generate", "surface", *arguments, "--out", tmp_path / "out") == 0
    for record in read_manifest(made).values():
        assert (tmp_path / "out" / record.image).read_bytes() == (made / record.image).read_bytes()


def test_a_painted_mask_from_python() -> None:
    pipeline = AdaBLDMPipeline.from_pretrained("surface")
    image = procedural(numpy_rng("python"), 96)
    mask = np.zeros((96, 96), bool)
    mask[30:50, 20:70] = True
    output = pipeline(image=image, mask=mask, defect="dent", output_type="np", seed=4)
    change = np.abs(output.images[0].astype(int) - image.astype(int)).max(-1)
    assert (change[mask] >= VISIBLE).mean() > 0.8
    assert not change[~mask].any()
    with pytest.raises(InputError, match="reads none"):
        pipeline(image=image, mask=mask, prompt="a dent")
    with pytest.raises(InputError, match="'bent'"):
        pipeline(image=image, mask=mask, defect="bent")


def test_the_pipeline_is_saved_and_loaded(tmp_path: Path) -> None:
    AdaBLDMPipeline.from_pretrained("surface").save_pretrained(tmp_path / "saved")
    assert AdaBLDMPipeline.from_pretrained(tmp_path / "saved").card.defects == DEFECTS


def test_what_needs_networks_refuses_the_run(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "out"
    arguments = ("generate", "surface", "--data", good, "--out", made, "--count", 1)
    assert run_command(*arguments, "--prompt", "a dent") == 2
    assert "reads no prompts" in capsys.readouterr().err
    assert run_command("bench", "surface") == 2
    assert "has no networks" in capsys.readouterr().err


@settings(max_examples=30, deadline=None)
@given(defect=st.sampled_from(DEFECTS), room=st.integers(20, 400), seed=st.integers(0, 2**32))
def test_a_shape_fits_the_object(defect: str, room: int, seed: int) -> None:
    mask = own_shape(defect, room, numpy_rng(seed)).mask
    assert mask.any()
    assert all(line.any() for line in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    assert max(mask.shape) <= max(SIDES[0], VIEWS[1] * room) + 2


def test_names_of_defects_stand_for_generic_types() -> None:
    rng = numpy_rng("names")
    names = {"blowhole": "pit", "break": "crack", "fray": "peeling", "pitting": "pit", "Rust_spots": "corrosion"}
    assert {name: generic_type(name, rng) for name in names} == names
    assert {generic_type("spur", rng) for _ in range(200)} == set(DEFECTS)
