"""Where defects may be: a mask for all images, a folder of masks, outlines in annotation files, and by type."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import FIT, Adabldm, manifest, run_command
from numpy.typing import NDArray
from PIL import Image

from adabldm.core.errors import InputError
from adabldm.core.mask_files import read_mask
from adabldm.core.samples import DataSet
from adabldm.core.seeding import numpy_rng
from adabldm.data.formats import ReadOptions
from adabldm.data.inspection import check_data_set, open_data_set
from adabldm.data.regions import decisive_regions, whole_paths
from adabldm.masks.placement import PlacementError
from adabldm.production.scenes import SceneMaker, SceneOptions
from adabldm.training.examples import paste_defect
from adabldm.training.sources import read_data_set

SIZE = (96, 128)
LEFT = np.zeros(SIZE, np.bool_)
LEFT[10:86, 5:70] = True
RIGHT = LEFT[:, ::-1]


def written(path: Path, mask: NDArray[np.bool_]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return path


def masks_of(data_set: DataSet, defect: str, placement: str = "auto", count: int = 6) -> list[NDArray[np.bool_]]:
    maker = SceneMaker(data_set, "texture", SceneOptions(placement=placement))  # type: ignore[arg-type]
    return [maker.draw(defect, 0, index, 0).mask for index in range(count)]


@pytest.mark.parametrize("placement", ["auto", "like-real"])
def test_one_mask_is_enough_for_all_images_and_has_a_type_if_wanted(data: Path, tmp_path: Path, placement: str) -> None:
    left, right = written(tmp_path / "left.png", LEFT), written(tmp_path / "right.png", RIGHT)
    data_set = open_data_set(data, ReadOptions(roi=(str(left), f"spot={right}")))
    for defect, region in (("scratch", LEFT), ("spot", RIGHT)):
        masks = masks_of(data_set, defect, placement, 2 if placement == "like-real" else 6)
        assert not any((mask & ~region).any() for mask in masks)
    free = masks_of(open_data_set(data), "spot")
    assert any((mask & ~RIGHT).any() for mask in free)


def test_a_mask_of_another_scale_is_scaled(data: Path, tmp_path: Path) -> None:
    half = written(tmp_path / "half.png", LEFT[::2, ::2])
    sample = open_data_set(data, ReadOptions(roi=(str(half),))).good[0]
    region = sample.region("spot", SIZE)
    assert region is not None
    assert (region ^ LEFT).mean() < 0.02


def test_a_folder_of_masks_goes_by_name(data: Path, tmp_path: Path) -> None:
    good = sorted((data / "train" / "good").iterdir())
    for index, path in enumerate(good):
        written(tmp_path / "roi" / f"{path.stem}{'_mask' if index % 2 else ''}.png", LEFT if index % 2 else RIGHT)
    data_set = open_data_set(data, ReadOptions(roi=(str(tmp_path / "roi"),)))
    maker = SceneMaker(data_set, "texture")
    order = [data_set.relative(sample) for sample in data_set.good]
    seen = set()
    for index in range(8):
        scene = maker.draw("spot", 0, index, 0)
        odd = order.index(scene.path) % 2
        seen.add(odd)
        assert not (scene.mask & ~(LEFT if odd else RIGHT)).any()
    assert seen == {0, 1}


def test_regions_are_told_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by their place, which is kept so that it holds in every working folder."""
    monkeypatch.chdir(tmp_path)
    left, moved = written(tmp_path / "left.png", LEFT), written(tmp_path / "moved" / "x.png", LEFT)
    folder = written(tmp_path / "few" / "000.png", LEFT).parent

    def digest(*given: str) -> object:
        return decisive_regions(given)["regions"]

    assert decisive_regions(()) == {}
    assert whole_paths(["left.png", "spot=few"]) == [str(left), f"spot={folder}"]
    assert digest("left.png") == digest(str(moved))
    seen = {digest("left.png"), digest("spot=left.png"), digest("few"), digest("left.png", "few")}
    written(left, RIGHT)
    assert len({*seen, digest("left.png")}) == 5


@pytest.mark.parametrize(
    ("roi", "problem"),
    [
        ("absent.png", "no such file or folder"),
        ("", "--roi '': no path, expected a mask image or a folder of masks"),
        ("spot=", "--roi 'spot=': no path"),
        ("dent={left}", "no such defect type, expected one of scratch, spot"),
        ("{square}", r"of the \d+ images \d+ have another form, such as 000.png \(96 x 128\)"),
        ("{empty}", "the mask is empty"),
        ("{few}", "no mask for 5 defect-free images, such as 001.png"),
        ("{small}", "48 x 64 px .* expected 96 x 128 px"),
    ],
)
def test_regions_that_do_not_fit_are_refused(data: Path, tmp_path: Path, roi: str, problem: str) -> None:
    places = {
        "left": written(tmp_path / "left.png", LEFT),
        "square": written(tmp_path / "square.png", np.ones((50, 50), np.bool_)),
        "empty": written(tmp_path / "empty.png", np.zeros(SIZE, np.bool_)),
        "few": written(tmp_path / "few" / "000.png", LEFT).parent,
        "small": written(tmp_path / "small" / "000.png", LEFT[::2, ::2]).parent,
    }
    with pytest.raises(InputError, match=problem):
        open_data_set(data, ReadOptions(roi=(roi.format(**places),)))


def test_a_region_that_is_refused_counts_for_no_image(adabldm: Adabldm, data: Path, tmp_path: Path) -> None:
    square = written(tmp_path / "square.png", np.ones((50, 50), np.bool_))
    shown = adabldm("inspect", data, "--roi", square)
    assert (shown.code, "have another form" in shown.out, "Regions say" in shown.out) == (2, True, False)


def test_a_region_beside_the_object_is_refused(data: Path, tmp_path: Path) -> None:
    tiny = np.zeros(SIZE, np.bool_)
    tiny[3:6, 3:6] = True
    data_set = open_data_set(data, ReadOptions(roi=(str(written(tmp_path / "tiny.png", tiny)),)))
    with pytest.raises(PlacementError, match="too large"):
        SceneMaker(data_set, "texture").draw("spot", 0, 0, 0)


def labelme(root: Path, data: Path, outlined: int) -> Path:
    """`data` as LabelMe drew it: a spot in three images, and a region `roi` in some of the defect-free ones."""
    good = sorted((data / "train" / "good").iterdir())
    for index, path in enumerate(good):
        root.mkdir(exist_ok=True)
        shutil.copy(path, root / f"good_{path.name}")
        box = {"label": "roi:spot", "shape_type": "rectangle", "points": [[5, 10], [69, 85]]}
        if index < outlined:
            content = {"imagePath": f"good_{path.name}", "imageHeight": 96, "imageWidth": 128, "shapes": [box]}
            (root / f"good_{path.stem}.json").write_text(json.dumps(content))
    for path in sorted((data / "train" / "spot").iterdir()):
        shutil.copy(path, root / f"spot_{path.name}")
        rows, columns = np.nonzero(read_mask(data / "ground_truth" / "spot" / f"{path.stem}_mask.png"))
        corners = [[int(columns.min()), int(rows.min())], [int(columns.max()), int(rows.min())],
                   [int(columns.max()), int(rows.max())]]  # fmt: skip
        shape = {"label": "spot", "shape_type": "polygon", "points": corners}
        content = {"imagePath": f"spot_{path.name}", "imageHeight": 96, "imageWidth": 128, "shapes": [shape]}
        (root / f"spot_{path.stem}.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("outlined", [1, 2])
def test_a_class_named_roi_is_no_defect_but_says_where_defects_may_be(
    data: Path, tmp_path: Path, outlined: int
) -> None:
    inspection = check_data_set(labelme(tmp_path / "cloth", data, outlined))
    assert inspection.problems == ()
    data_set = inspection.data_set
    assert data_set.types == ("spot",)
    assert len(data_set.good) == 6
    with_region = [sample for sample in data_set.good if sample.has_region("spot")]
    # A single one counts for all images of its size; several count for themselves.
    assert len(with_region) == (6 if outlined == 1 else 2)
    maker = SceneMaker(data_set, "texture")
    scenes = [maker.draw("spot", 0, index, 0) for index in range(5)]
    assert not any((scene.mask & ~LEFT).any() for scene in scenes)
    assert {scene.path for scene in scenes} <= {data_set.relative(sample) for sample in with_region}


def test_pasted_defects_of_a_fit_lie_in_the_region(data: Path, tmp_path: Path) -> None:
    left = written(tmp_path / "left.png", LEFT)
    images = read_data_set(open_data_set(data, ReadOptions(roi=(f"spot={left}",))), "texture")
    rng, found = numpy_rng("paste"), 0
    for source in images.defects["spot"] * 4:
        pasted = paste_defect(source, images.good[0], rng)
        if pasted is not None:
            assert pasted.mask is not None
            assert (pasted.mask & LEFT).sum() >= 0.9 * pasted.mask.sum()
            found += 1
    assert found > 6
    assert images.good[0].region("scratch") is None


def test_fit_generate_evaluate_and_inspect_take_the_option(
    adabldm: Adabldm, run: Path, data: Path, base: Path, tmp_path: Path
) -> None:
    left, out, sheet = written(tmp_path / "left.png", LEFT), tmp_path / "out", tmp_path / "sheet.png"
    options = ("--roi", f"spot={left}")
    result = adabldm(
        "generate", run, "--data", data, "--out", out, "--count", 4, "--defect", "spot", "--quiet", *options
    )
    assert result.code == 0, result.err
    for line in manifest(out):
        assert not (read_mask(out / line["mask"]) & ~LEFT).any()
    assert json.loads((out / "settings.json").read_text())["roi"] == [f"spot={left}"]
    moved = written(tmp_path / "moved" / "edge.png", LEFT)
    left.unlink()
    lost = adabldm("reproduce", out, 1)
    assert (lost.code, f"--roi {left}: no such file or folder" in lost.err) == (2, True)
    assert adabldm("reproduce", out, 1, "--roi", f"spot={moved}").code == 0
    other = written(tmp_path / "other.png", RIGHT)
    changed = adabldm("reproduce", out, 1, "--roi", f"spot={other}")
    assert (changed.code, "regions was" in changed.err) == (2, True)
    written(left, LEFT)
    shown = adabldm("inspect", data, "--show", sheet, *options)
    assert "Regions say where defects of type spot may be on" in shown.out
    plain = tmp_path / "plain.png"
    assert adabldm("inspect", data, "--show", plain).code == 0
    with Image.open(sheet) as first, Image.open(plain) as second:
        assert (np.asarray(first) != np.asarray(second)).any()
    assert run_command("fit", data, "--out", tmp_path / "run", "--base", base, *FIT, *options) == 0
    refused = adabldm("evaluate", "--data", data, "--out", tmp_path / "e", "--condition", "real", "--roi", "no.png")
    assert refused.code != 0
    assert "--roi no.png: no such file or folder" in refused.err
    assert not (tmp_path / "e").exists()
