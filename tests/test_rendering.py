"""The renderer: ten defects on any surface, exact masks, grey stays grey, one stream an example."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adabldm.core.errors import InputError
from adabldm.core.images import write_png
from adabldm.core.seeding import numpy_rng
from adabldm.rendering.fields import Canvas, blob, fractal
from adabldm.rendering.light import Light, from_linear, shade, to_linear
from adabldm.rendering.render import DEFECTS, FILLED, VISIBLE, render, render_in
from adabldm.rendering.sources import Mix, Surfaces, kind_of, read_materials, split_materials
from adabldm.rendering.surfaces import (
    band_noise,
    dead_leaves,
    grating,
    material_window,
    plain,
    procedural,
    recolour,
    with_edge,
)

SIDE = 64


def surface(seed: int, *, grey: bool = False) -> np.ndarray:
    pixels = procedural(numpy_rng("test surface", seed), SIDE)
    return np.repeat(pixels[..., :1], 3, axis=-1) if grey else pixels


@pytest.mark.parametrize("defect", DEFECTS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_mask_is_what_visibly_changed(defect: str, seed: int) -> None:
    clean = surface(seed)
    drawn = render(clean, defect, numpy_rng(seed))
    change = np.abs(drawn.pixels.astype(int) - clean.astype(int)).max(-1)
    assert drawn.pixels.dtype == np.uint8
    assert not change[~drawn.mask].any()
    assert drawn.mask[change >= VISIBLE].all()
    assert drawn.mask.any()
    if defect not in {"dent", "hole"}:  # small gaps are closed, nothing else is added
        assert (change[drawn.mask] >= VISIBLE).mean() > 0.6


def painted(seed: int) -> np.ndarray:
    """A line, a disc or an ellipse somewhere, as somebody would paint it."""
    rng = numpy_rng("painted", seed)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    points = rng.integers(10, SIDE - 10, (2, 2))
    if seed % 2:
        cv2.line(mask, tuple(map(int, points[0])), tuple(map(int, points[1])), 1, int(rng.integers(2, 9)))
    else:
        axes = tuple(map(int, rng.integers(3, 14, 2)))
        cv2.ellipse(mask, tuple(map(int, points[0])), axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return mask > 0


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_painted_mask_is_filled_and_nothing_else_changes(defect: str) -> None:
    shares = []
    for seed in range(8):
        clean, mask = surface(seed, grey=seed % 3 == 0), painted(seed)
        drawn = render_in(clean, mask, defect, numpy_rng(seed))
        change = np.abs(drawn.pixels.astype(int) - clean.astype(int)).max(-1)
        assert not change[~mask].any()
        assert (drawn.mask == mask).all()
        assert (drawn.pixels == render_in(clean, mask, defect, numpy_rng(seed)).pixels).all()
        shares.append(float((change[mask] >= VISIBLE).mean()))
    assert np.mean(shares) >= FILLED - 0.04


@pytest.mark.parametrize("defect", DEFECTS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_grey_surface_stays_grey(defect: str, seed: int) -> None:
    drawn = render(surface(seed, grey=True), defect, numpy_rng(seed))
    assert (drawn.pixels == drawn.pixels[..., :1]).all()


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("level", [4, 128, 250])
def test_every_type_is_visible_on_dark_grey_and_bright_surfaces(defect: str, level: int) -> None:
    clean = np.full((SIDE, SIDE, 3), level, np.uint8)
    for seed in range(4):
        drawn = render(clean, defect, numpy_rng("visible", seed))
        change = np.abs(drawn.pixels[drawn.mask].astype(int) - clean[drawn.mask].astype(int)).max(-1)
        assert change.mean() >= VISIBLE, (defect, level, seed)


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(defect: str) -> None:
    first, again, other = (render(surface(1), defect, numpy_rng(seed)) for seed in (5, 5, 6))
    assert (first.pixels == again.pixels).all()
    assert (first.mask == again.mask).all()
    assert (first.pixels != other.pixels).any()


def test_a_defect_stays_inside_the_given_region() -> None:
    inside = np.zeros((SIDE, SIDE), bool)
    inside[20:50, 10:40] = True
    for defect in DEFECTS:
        drawn = render(surface(2), defect, numpy_rng(defect), inside=inside)
        assert not (drawn.mask & ~inside).any(), defect
        assert drawn.mask.any(), defect


@pytest.mark.parametrize("border", range(4))
def test_a_defect_at_the_border_of_the_picture_goes_on_beyond_it(border: int) -> None:
    clean = np.full((SIDE, SIDE, 3), 120, np.uint8)
    mask = np.rot90(np.arange(SIDE)[:, None] >= SIDE - 12 + np.zeros(SIDE), border)
    for seed in range(6):
        hole, body = (
            np.rot90(render_in(clean, mask, defect, numpy_rng(seed)).pixels.astype(float), -border)
            for defect in ("hole", "contamination")
        )
        assert hole[-1].mean() < 40, "no wall there"
        assert abs(body[-1].mean() - body[-5:-2].mean()) < 25, "no strip of shadow there"


@pytest.mark.parametrize("defect", ["chip", "contamination", "corrosion", "peeling"])
def test_a_foreign_material_lies_in_the_light_of_the_picture(defect: str) -> None:
    """Where a picture is five times as bright on one side, so is what is drawn there, more or less."""
    fall_off = np.linspace(0.08, 0.4, SIDE, dtype=np.float32)
    clean = from_linear(np.broadcast_to(fall_off[None, :, None], (SIDE, SIDE, 3)))
    mask = np.zeros((SIDE, SIDE), bool)
    mask[22:42, 6:58] = True
    ratios = []
    for seed in range(8):
        drawn = to_linear(render_in(clean, mask, defect, numpy_rng(seed)).pixels).mean(-1)
        ratios.append(drawn[24:40, 40:56].mean() / drawn[24:40, 8:24].mean())
    assert np.median(ratios) > 1.6


def test_a_defect_is_as_soft_as_its_surface() -> None:
    grain = numpy_rng("grain").normal(0, 1, (128, 128)).astype(np.float32)
    y, x = np.mgrid[:128, :128]
    disc = (x - 64) ** 2 + (y - 64) ** 2 < 20**2
    steepest = []
    for blur in (0.4, 1.6):
        soft = cv2.GaussianBlur(grain, (0, 0), blur)
        clean = np.repeat(np.uint8(np.clip(140 + 6 * soft / soft.std(), 0, 255))[..., None], 3, axis=-1)
        drawn = [
            render_in(clean, disc, "hole", numpy_rng(seed)).pixels.astype(float)[64, 30:60, 0] for seed in range(6)
        ]
        steepest.append(np.mean([np.abs(np.diff(row)).max() / np.ptp(row) for row in drawn]))
    assert steepest[0] > 1.3 * steepest[1], steepest


def test_the_source_is_not_changed() -> None:
    clean = surface(3)
    before = clean.copy()
    render(clean, "dent", numpy_rng(0))
    assert (clean == before).all()


def test_any_size_of_picture() -> None:
    for height, width in ((32, 32), (40, 90), (300, 200), (520, 530)):
        clean = np.full((height, width, 3), 90, np.uint8)
        drawn = render(clean, "scratch", numpy_rng(height))
        assert drawn.mask.shape == (height, width)
        assert drawn.mask.any()


def test_bad_input_is_refused() -> None:
    clean = surface(0)
    with pytest.raises(InputError, match="expected one of scratch"):
        render(clean, "blowhole", numpy_rng(0))
    with pytest.raises(InputError, match="at least 32"):
        render(clean[:20], "pit", numpy_rng(0))
    with pytest.raises(InputError, match="empty"):
        render(clean, "pit", numpy_rng(0), inside=np.zeros((SIDE, SIDE), bool))


def test_the_caption_names_object_and_defect() -> None:
    assert render(surface(0), "crack", numpy_rng(0), object_name="gear").caption == "gear, a gear with a crack"


@pytest.mark.parametrize("maker", [plain, dead_leaves, grating, band_noise, procedural])
def test_procedural_surfaces_are_pictures_that_depend_on_their_stream_alone(maker: object) -> None:
    first, again = (maker(numpy_rng("a", 1), SIDE) for _ in range(2))  # type: ignore[operator]
    assert first.shape == (SIDE, SIDE, 3)
    assert first.dtype == np.uint8
    assert (first == again).all()


def test_a_material_repeats_without_seams_or_frame() -> None:
    tile = np.full((66, 66, 3), 100, np.uint8)
    tile[[0, -1]], tile[:, [0, -1]] = 255, 255  # the frame of the previews
    for seed in range(6):
        window = material_window(tile, SIDE, numpy_rng(seed), scale=(0.3, 2.0))
        assert (window == 100).all()


def test_recolour_and_edge_give_pictures() -> None:
    clean = surface(4)
    assert recolour(clean, numpy_rng(0)).shape == clean.shape
    assert with_edge(clean, surface(5), numpy_rng(0)).shape == clean.shape


def test_noise_has_unit_variance_and_zero_mean() -> None:
    field = fractal(numpy_rng(0), (96, 128), 4, 32)
    assert field.shape == (96, 128)
    assert abs(float(field.mean())) < 1e-3
    assert float(field.std()) == pytest.approx(1, abs=1e-2)


def test_a_blob_has_the_area_of_its_radius() -> None:
    canvas = Canvas.over(SIDE, SIDE)
    own = blob(canvas, numpy_rng(0), (32, 32), 12, roughness=0.0)
    assert float(canvas.reduce(own > 0).sum()) == pytest.approx(np.pi * 144, rel=0.03)


def test_the_slope_that_faces_the_lamp_is_brighter() -> None:
    canvas = Canvas.over(SIDE, SIDE)
    light = Light((0.8, 0.0, 0.6), 0.2, 0.0, 8.0)  # lamp on the right
    y, x = canvas.grid()
    height = np.asarray(6 * np.exp(-((x - 32) ** 2 + (y - 32) ** 2) / 60), np.float32)
    gain, _ = shade(canvas, height, light)
    assert gain[32, 36] > 1.05  # the hill's right side
    assert gain[32, 28] < 0.95
    assert gain[2, 2] == pytest.approx(1, abs=1e-3)


def test_linear_light_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
    assert (from_linear(to_linear(levels)) == levels).all()


def materials_folder(root: Path) -> Path:
    for index in range(40):
        pixels = procedural(numpy_rng("material", index), 48)
        write_png(
            root / "materials" / f"{'Metal' if index < 30 else f'Kind{chr(65 + index - 30)}'}{index:03d}.png", pixels
        )
    return root / "materials"


def test_materials_are_split_by_name_and_kind(tmp_path: Path) -> None:
    tiles = read_materials(materials_folder(tmp_path))
    split = split_materials([*tiles, *(f"Stone{index:03d}.png" for index in range(200))])
    parts = [set(split.training), set(split.unseen_names), set(split.unseen_kinds)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 240
    assert 3 <= len(parts[1]) <= 25
    assert not {kind_of(Path(name)) for name in parts[2]} & {kind_of(Path(name)) for name in parts[0]}
    assert split == split_materials([*(f"Stone{index:03d}.png" for index in range(200)), *tiles])


def test_materials_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_materials(tmp_path / "none")
    with pytest.raises(InputError, match="no pictures"):
        read_materials(tmp_path)


def test_example_depends_on_seed_and_index_alone(tmp_path: Path) -> None:
    surfaces = Surfaces(read_materials(materials_folder(tmp_path)), ([surface(9), surface(10)],), Mix())
    one = surfaces.example(3, 7, SIDE)
    for index in range(3):
        surfaces.example(3, index, SIDE)
    again, other = surfaces.example(3, 7, SIDE), surfaces.example(4, 7, SIDE)
    assert one.defect == DEFECTS[7]
    assert (one.pixels == again.pixels).all()
    assert (one.pixels != other.pixels).any()
    assert one.caption.endswith(f"with a {one.defect}")
