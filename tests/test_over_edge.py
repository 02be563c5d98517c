"""Defects that change the outline of an object: recognised in real data, and drawn by the run surface at edges."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import run_command

from adabldm.core.images import read_picture, write_mask, write_png
from adabldm.core.mask_files import read_mask
from adabldm.core.seeding import numpy_rng
from adabldm.data.generated import read_manifest
from adabldm.masks.over_edge import over_edge
from adabldm.rendering.broken import break_off, reaches_edge

SIDE = 120


def plate(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A red plate on a blue table, uint8 SIDExSIDEx3, and its pixels."""
    foreground = np.zeros((SIDE, SIDE), bool)
    foreground[30:90, 25:95] = True
    pixels = np.where(foreground[..., None], (190, 60, 50), (40, 70, 150)) + numpy_rng("plate", seed).normal(
        0, 4, (SIDE, SIDE, 1)
    )
    return np.clip(pixels, 0, 255).astype(np.uint8), foreground


def disc(x: int, y: int, radius: int) -> np.ndarray:
    return cv2.circle(np.zeros((SIDE, SIDE), np.uint8), (x, y), radius, 1, -1) > 0


def test_behind_a_broken_edge_the_background_shows() -> None:
    pixels, foreground = plate(0)
    mask = disc(95, 60, 16)
    drawn = break_off(pixels, mask, foreground, numpy_rng(0))
    assert (drawn[~mask] == pixels[~mask]).all()
    assert (drawn == break_off(pixels, mask, foreground, numpy_rng(0))).all()
    near_background = disc(92, 60, 5)
    table = np.median(pixels[~foreground], axis=0)
    assert np.abs(np.median(drawn[near_background & foreground], axis=0) - table).max() < 12
    face = mask & foreground & ~disc(95, 60, 14)  # along what is left of the part
    assert np.abs(np.median(drawn[face], axis=0) - table).max() > 30


@pytest.mark.parametrize(("x", "reaches"), [(60, False), (76, False), (90, True), (95, True)])
def test_a_mask_within_the_part_breaks_nothing_off(x: int, reaches: bool) -> None:
    assert reaches_edge(disc(x, 60, 14), plate(0)[1]) == reaches


@pytest.mark.parametrize(("x", "reaches"), [(60, False), (80, False), (95, True), (104, True), (116, False)])
def test_a_mask_that_shows_the_table_reaches_over_the_edge(x: int, reaches: bool) -> None:
    foreground = plate(0)[1]
    assert over_edge(disc(x, 60, 8), foreground) == reaches


@pytest.fixture(scope="module")
def broken_plates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six good plates, four with a piece broken off and four with a spot."""
    root = tmp_path_factory.mktemp("plates")
    for index in range(14):
        pixels, foreground = plate(index)
        mask = disc(95, 60, 12) if index < 10 else disc(60, 60, 8)
        kind = "good" if index < 6 else "broken" if index < 10 else "spot"
        write_png(root / "train" / "good" / f"{index}.png", pixels) if kind == "good" else None
        if kind != "good":
            drawn = break_off(pixels, mask, foreground, numpy_rng(index)) if kind == "broken" else pixels
            spotted = np.where((mask & (kind == "spot"))[..., None], np.uint8(20), drawn)
            write_png(root / "test" / kind / f"{index}.png", spotted)
            write_mask(root / "ground_truth" / kind / f"{index}_mask.png", mask)
    return root


def test_inspect_says_which_types_change_the_outline(broken_plates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("inspect", broken_plates) == 0
    text = capsys.readouterr().out
    assert text.count("reach over the object's edge") == 1
    assert "broken: 4 of 4 masks" in text


def test_overlap_breaks_pieces_off(broken_plates: Path, tmp_path: Path) -> None:
    arguments = ("--data", broken_plates, "--count", 12, "--defect", "chip", "--placement", "overlap", "--quiet")
    assert run_command("generate", "surface", *arguments, "--out", tmp_path / "out", "--masks", "procedural") == 0
    bluer = 0
    for record in read_manifest(tmp_path / "out").values():
        mask = read_mask(tmp_path / "out" / record.mask)
        change = read_picture(tmp_path / "out" / record.image).pixels.astype(int) - read_picture(
            broken_plates / record.source
        ).pixels.astype(int)
        bluer += int((change[mask][:, 2] > 50).sum() > 20)
    assert bluer >= 1
