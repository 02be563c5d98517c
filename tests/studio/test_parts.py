"""The parts below the studio's pages, without a browser."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SmallDisk, run_command
from fabricate import save, texture, write_data_set
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adabldm.core.changes import Expected
from adabldm.core.errors import InputError, OutputError
from adabldm.core.images import read_picture
from adabldm.core.mask_files import read_mask
from adabldm.core.records import Calibration, Decision, FromNoise, Redrawn
from adabldm.core.scores import score
from adabldm.core.settings import PRESETS, EditPreset, StudioSettings
from adabldm.core.settings.presets import edit_preset
from adabldm.data.decisions import append_decisions, read_decisions
from adabldm.data.formats import ReadOptions, find_reader
from adabldm.data.generated import read_manifest
from adabldm.data.inspection import check_data_set
from adabldm.editing.look import settled
from adabldm.evaluation.conditions import read_synthetic
from adabldm.selection.rules import Candidate
from adabldm.service.api import Service, create_app, create_service
from adabldm.service.engine import EditEngine, EngineOptions
from adabldm.service.roots import ForbiddenError, Roots, check_records
from adabldm.service.runs import Runs
from adabldm.studio.app import add_pages
from adabldm.studio.keeping import Keeper
from adabldm.studio.library import Library, Listed
from adabldm.studio.masks import REPLACED, save_mask
from adabldm.studio.orders import PaintOrder, changes_of, decode_mask, examples_for
from adabldm.studio.painting import Painter
from adabldm.studio.pictures import Cache
from adabldm.studio.words import beside_real, verdicts
from adabldm.studio.workspace import Workspace

SCORES = ("background_psnr", "seam", "edit_strength", "visible_change", "contrast", "defect_fidelity")
MASK = np.zeros((96, 128), np.bool_)
MASK[40:50, 60:80] = True


def png(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def order(**values: object) -> PaintOrder:
    return PaintOrder.create({"data": "d", "picture": "p", "mask": "", "run": "r", "defect": "scratch", **values})


@given(st.fixed_dictionaries({name: st.none() | st.floats(0, 200) for name in SCORES}))
def test_scores_in_words_get_no_better_when_a_score_gets_worse(scores: dict[str, float | None]) -> None:
    worth = {"good": 2, "fair": 1, "bad": 0}

    def least(values: dict[str, float | None]) -> int:
        return min((worth[one.level] for one in verdicts(values)), default=2)

    before = least(scores)
    for name, value in scores.items():
        if value is not None:
            worse = value * 2 if name == "seam" else value / 2
            assert least({**scores, name: worse}) <= before


def test_words_name_their_figures() -> None:
    found = verdicts({"seam": 1.04, "visible_change": 12.0, "contrast": 2.5, "background_psnr": 100.0})
    assert [one.text for one in found] == ["Clearly visible", "No visible seam", "Nothing changed outside the mask"]
    assert "1.0 times" in found[1].figure
    assert [one.text for one in verdicts({"visible_change": 3.0, "contrast": 0.2})] == ["Hardly visible"]


@pytest.mark.parametrize(
    ("colour", "part", "level", "text"),
    [
        ((-60, -60, -60), 1.0, "good", "Strength, edge and colour"),
        ((-7, -7, -7), 1.0, "bad", "Fainter than real"),
        ((-60, -60, -60), 0.7, "fair", "Part of the mask"),
        ((-90, 0, -90), 1.0, "bad", "A colour that no real"),
    ],
)
def test_a_defect_is_compared_with_real_ones(colour: tuple[int, int, int], part: float, level: str, text: str) -> None:
    def made(colour: tuple[int, int, int], part: float, expected: Expected | None = None) -> Candidate:
        source = np.random.default_rng(3).integers(115, 145, (96, 96, 3)).astype(np.uint8)
        mask = np.zeros((96, 96), np.bool_)
        mask[30:60, 40:70] = True
        result = source.astype(int)
        result[30 : 30 + round(30 * part), 40:70] += colour
        pixels = np.clip(result, 0, 255).astype(np.uint8)
        return Candidate(pixels, source, mask, score(pixels, source, mask), "pit", expected)

    real = Expected([made((-60, -60, -60), 1.0).change] * 8)
    found = beside_real(made(colour, part, real))
    assert (level, True) in [(one.level, one.text.startswith(text)) for one in found]
    faint = Expected([made((-12, -12, -12), 1.0).change] * 8)
    assert beside_real(made((-60, -60, -60), 1.0, faint))[0].text == "Stronger than real defects"


def first_steps(preset: EditPreset, calibration: Calibration) -> tuple[int, int]:
    """Of spots and of areas."""
    look = settled(preset, calibration).look
    assert look is not None
    return look.start or 0, look.area_start or 0


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("begin", ["real", "noise"])
@given(change=st.integers(0, 3), strength=st.sampled_from([0.3, 0.7, 1.0, 1.6, 3.0]))
def test_every_place_of_the_sliders_is_a_preset(preset: str, begin: str, change: int, strength: float) -> None:
    known = Calibration(from_noise=(FromNoise(scale=2.0, visible=1.0, share=1.0),))
    changed = edit_preset(
        preset, changes_of(order(preset=preset, begin=begin, change=change, strength=strength), known)
    )
    if begin == "noise" and strength != 1:
        own = PRESETS[preset].guidance.scale
        assert changed.guidance.scale == max(1.0, round((2.0 if own is None else own) * strength, 2))
    assert (changed.look is None) == (begin == "noise")
    if changed.look is not None:
        assert changed.look.strengths == (strength, strength)
        freer = edit_preset(preset, changes_of(order(preset=preset, change=min(3, change + 1)), known))
        assert freer.look is not None
        for free, own in zip(first_steps(freer, known), first_steps(changed, known), strict=True):
            assert free <= own


def test_the_size_of_a_change_goes_out_from_the_steps_of_the_run() -> None:
    """A run that draws its spots again at the last step only, and its areas one step earlier."""
    redrawn = [Redrawn(start=start, area=False, kept=1.0, alike=0.95 if start == 5 else 0.5) for start in (3, 4, 5)]
    redrawn += [Redrawn(start=start, area=True, kept=1.0, alike=0.95 if start >= 4 else 0.5) for start in (3, 4, 5)]
    known, unknown = Calibration(redrawn=tuple(redrawn)), Calibration()
    steps = {
        calibration: [
            first_steps(edit_preset("fast", changes_of(order(change=change), calibration)), calibration)
            for change in range(4)
        ]
        for calibration in (known, unknown)
    }
    assert steps[known] == [(5, 5), (5, 4), (4, 3), (2, 2)]
    assert steps[unknown] == [(5, 5), (3, 5), (2, 3), (1, 1)]


def test_a_mask_that_was_sent_is_checked() -> None:
    assert (decode_mask(png(MASK), MASK.shape) == MASK).all()
    assert (decode_mask(f"data:image/png;base64,{png(MASK)}", MASK.shape) == MASK).all()
    for text, size, part in (
        (png(MASK), (96, 96), "96 x 128 px, expected 96 x 96"),
        (png(~MASK & MASK), MASK.shape, "empty"),
        ("!!!", MASK.shape, "not a readable PNG"),
        (base64.b64encode(b"GIF89a").decode(), MASK.shape, "not a readable PNG"),
    ):
        with pytest.raises(InputError, match=part):
            decode_mask(text, size)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    root = tmp_path_factory.mktemp("library")
    write_data_set(root / "cloth", defects={"scratch": 3, "spot": 3})
    roots = Roots((root,))
    return Library(Workspace(roots, Runs((), roots), root / "work"))


def test_variants_begin_from_the_examples_that_fit_the_mask(library: Library) -> None:
    data = str(library.workspace.roots.first / "cloth")
    assert library.types(data) == {"scratch": 3, "spot": 3}
    every = (*library.examples(data, "scratch"), *library.examples(data, "spot"))
    spots = {one.shape.source for one in library.examples(data, "spot")}
    wide = np.zeros((96, 128), np.bool_)
    wide[30:50, 40:68] = True
    assert [one.shape.source in spots for one in examples_for(wide, every, None, 3)] == [True] * 3
    scratches = library.examples(data, "scratch")
    assert examples_for(wide, scratches, 1, 2) == [scratches[1]] * 2
    with pytest.raises(InputError, match="example 7"):
        examples_for(wide, scratches, 7, 1)


def test_new_pictures_are_offered_once_a_listing_is_no_longer_fresh(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = library.workspace.roots.first / "cloth"
    before = library.good_pictures(str(data), again=True)
    new = data / "train" / "good" / "new.png"
    new.write_bytes((data / "train" / "good" / "000.png").read_bytes())
    try:
        monkeypatch.setattr("adabldm.studio.library.FRESH", 1e9)
        assert library.good_pictures(str(data), again=True) == before, "a slow listing serves for a while"
        monkeypatch.setattr("adabldm.studio.library.FRESH", 0.0)
        assert set(library.good_pictures(str(data), again=True)) == {*before, "train/good/new.png"}
    finally:
        new.unlink()


def test_places_are_found_and_no_others(library: Library, tmp_path: Path) -> None:
    workspace = library.workspace
    assert [place.label for place in workspace.data_sets()] == ["cloth"]
    with pytest.raises(InputError, match="lies in no folder"):
        library.good_pictures(str(tmp_path))
    with pytest.raises(InputError, match="not a file of"):
        library.path(str(workspace.roots.first / "cloth"), "../cloth/train/good/000.png/../../../../x")
    for name in ("../x", "", ".hidden", "a/b", "x" * 80):
        with pytest.raises(InputError, match="choose another name"):
            workspace.new_folder("kept", name)


@given(st.lists(st.integers(0, 60), max_size=40))
def test_what_is_kept_in_memory_is_bounded(weights: list[int]) -> None:
    cache: Cache[int, int] = Cache(5, float, 100)
    for key, weight in enumerate(weights):
        cache.put(key, weight)
        kept = [one for one in range(key + 1) if cache.find(one) is not None]
        assert kept == list(range(key + 1 - len(kept), key + 1)), "the newest ones"
        held = weights[key + 1 - len(kept) : key + 1]
        assert len(held) <= 5
        assert sum(held) <= 100
        assert len(kept) in {5, key + 1} or sum(held) + weights[key - len(kept)] > 100, (
            "no more was dropped than had to"
        )


def test_links_lead_nowhere_else(tmp_path: Path) -> None:
    secret = write_data_set(tmp_path / "secret", good=1)
    for name in ("folder", "file"):
        data = write_data_set(tmp_path / "root" / name, good=2)
        place = data / "train" / "good" / "link.png"
        if name == "folder":
            (data / "train" / "dent").symlink_to(secret / "train" / "good")
        else:
            place.symlink_to(secret / "train" / "good" / "000.png")
        roots = Roots((tmp_path / "root",))
        found = Library(Workspace(roots, Runs((), roots), tmp_path / "root" / "work"))
        with pytest.raises(ForbiddenError, match="is a link that leads out"):
            found.listed(str(data))
        with pytest.raises(ForbiddenError, match="is a link that leads out"):
            found.inspection(str(data), training=False)
    images = tmp_path / "root" / "images"
    images.mkdir()
    check_records(roots, images)
    (images / "decisions.jsonl").symlink_to(tmp_path / "secret" / "decisions.jsonl")
    with pytest.raises(ForbiddenError, match="its decisions.jsonl is a link"):
        check_records(roots, images)


def test_the_first_run_fits_the_pictures(library: Library, tmp_path: Path, run: Path) -> None:
    roots = Roots((tmp_path,))

    def first(**given: object) -> str:
        runs = Runs([run] if given.get("run") else (), roots)
        return Workspace(roots, runs, tmp_path / "work", **given).run_places()[0].path  # type: ignore[arg-type]

    assert first() == first(data=tmp_path) == "surface", "it draws on any surface"
    assert first(data=tmp_path, run="run") == "run"
    shutil.copytree(run, tmp_path / "mine")
    assert first(data=tmp_path) == "mine"


def listed(root: Path) -> Listed:
    reader = find_reader(root)
    samples = reader.list_samples(root, ReadOptions(require_good=False)).samples
    return Listed(root, reader.name, {one.image.relative_to(root).as_posix(): one for one in samples}, 0)


def saved(root: Path, name: str, defect: str) -> tuple[Path, Path]:
    """Save a mask for a picture, which a data set that is read again has then."""
    data = listed(root)
    found = save_mask(data, data.sample(name), defect, MASK)
    inspection = check_data_set(root)
    assert inspection.problems == ()
    again = inspection.data_set.instances[defect]
    (own,) = [one for one in again if one.sample.image == found.image]
    assert (own.defect.mask.read() == MASK).all()
    return found.image, found.mask


def test_a_good_picture_becomes_an_example_in_mvtecs_layout(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "cloth")
    image, mask = saved(root, "train/good/002.png", "dent")
    assert image == root / "train/dent/002.png"
    assert not (root / "train/good/002.png").exists()
    assert mask == root / "ground_truth/dent/002_mask.png"
    before = read_mask(root / "ground_truth/spot/000_mask.png")
    saved(root, "train/spot/000.png", "spot")
    assert (read_mask(root / REPLACED / "ground_truth/spot/000_mask.png") == before).all()
    saved(root, "train/spot/000.png", "spot")
    assert (read_mask(root / REPLACED / "ground_truth/spot/000_mask.1.png") == MASK).all()


def test_masks_go_where_each_layout_expects_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    places = {
        "visa": ("Data/Images/Normal/{}.png", "Data/Images/Normal/1.png", "anomaly"),
        "ksdd2": ("train/{}.png", "train/1.png", "defect"),
        "plain": ("OK/{}.png", "NG/9.png", "ng"),
    }
    for layout, (good, name, defect) in places.items():
        root = tmp_path / layout
        for number in range(3):
            save(root / good.format(number), texture((96, 128), rng))
        if layout == "plain":
            save(root / name, texture((96, 128), rng))
        if layout == "ksdd2":
            for number in range(3):
                save(root / f"train/{number}_GT.png", np.zeros((96, 128), np.uint8))
        saved(root, name, defect)


@dataclass(frozen=True)
class Pages:
    """A studio whose pages are asked for without a browser or a port."""

    client: TestClient
    service: Service

    def ok(self, way: str, address: str, **options: Any) -> Any:
        """What it answers, as JSON."""
        answer = self.client.request(way, f"/studio/{address}", **options)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def studio(work: Path, **values: object) -> Iterator[Pages]:
    work.mkdir(parents=True, exist_ok=True)
    given = StudioSettings.create({"work": work, "workers": 1, **values})
    given = given.changed(root=given.places())
    service = create_service(given)
    app = create_app(given, service)
    add_pages(app, service, given)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield Pages(client, service)


def write_mask(path: Path) -> Path:
    mask = np.zeros((96, 128), np.uint8)
    mask[10:20, 10:20] = 255
    return save(path, mask)


LAYOUTS = {
    "mvtec": ("train/good/{}.png", "test/crack/{}.png", "ground_truth/crack/{}_mask.png"),
    "other suffix": ("train/good/{}.png", "test/crack/{}.bmp", "ground_truth/crack/{}.png"),
    "same folder": ("train/good/{}.png", "train/crack/{}.png", "ground_truth/crack/{}_mask.png"),
    "btad": ("train/ok/{}.png", "test/crack/{}.png", "ground_truth/crack/{}.png"),
    "plain": ("OK/{}.png", "NG/{}.png", "GT/{}.png"),
    "own folders": ("OK/{}.png", "crack/{}.png", "GT/crack/{}.png"),
    "visa": ("Data/Images/Normal/{}.png", "Data/Images/Anomaly/{}.png", "Data/Masks/Anomaly/{}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_true_mask_of_another_picture_stays(tmp_path: Path, layout: str) -> None:
    root, rng = tmp_path / "parts", np.random.default_rng(0)
    good, bad, mask = LAYOUTS[layout]
    for number in range(3):
        save(root / good.format(number), texture((96, 128), rng))
        save(root / bad.format(number), texture((96, 128), rng))
        write_mask(root / mask.format(number))
    real = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path != root / good.format(1)}
    defect = "anomaly" if layout == "visa" else "crack"
    with studio(tmp_path / "work", data=root) as pages:
        sent = {"data": str(root), "name": good.format(1), "defect": defect, "mask": png(MASK)}
        answer = pages.ok("POST", "data/mask", json=sent)
    assert {path: path.read_bytes() for path in real} == real
    assert (answer["moved"], answer["replaced"]) == (True, None)
    assert not (root / good.format(1)).exists()
    inspection = check_data_set(root)
    assert inspection.problems == ()
    (own,) = [one for one in inspection.data_set.instances[defect] if one.sample.image == root / answer["name"]]
    assert (own.defect.mask.read() == MASK).all()


def test_a_mask_that_is_left_over_is_replaced_and_the_picture_moves(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "cloth")
    left = write_mask(root / "ground_truth/dent/002_mask.png").read_bytes()
    image, _ = saved(root, "train/good/002.png", "dent")
    assert image == root / "train/dent/002.png"
    assert (root / REPLACED / "ground_truth/dent/002_mask.png").read_bytes() == left


def test_two_pictures_that_share_a_mask_are_renamed_first(tmp_path: Path) -> None:
    root, rng = tmp_path / "parts", np.random.default_rng(0)
    for name in ("OK/0.png", "NG/1.png", "dent/1.png"):
        save(root / name, texture((96, 128), rng))
    for _ in range(2):  # without a mask, and with one of both
        data = listed(root)
        with pytest.raises(InputError, match="rename the picture first"):
            save_mask(data, data.sample("NG/1.png"), "ng", MASK)
        write_mask(root / "GT/1.png")


def test_a_layout_of_annotation_files_is_not_rewritten(tmp_path: Path) -> None:
    root = tmp_path / "labelme"
    image = save(root / "a.png", texture((96, 128), np.random.default_rng(0)))
    (root / "a.json").write_text('{"shapes": [], "imagePath": "a.png", "imageWidth": 128, "imageHeight": 96}')
    data = listed(root)
    with pytest.raises(InputError, match="annotation files"):
        save_mask(data, data.sample(image.name), "dent", MASK)


def test_a_decision_is_taken_back(tmp_path: Path) -> None:
    steps = ("keep", "reject", "undecided")
    append_decisions(tmp_path, [Decision(index=4, decision=step) for step in steps])
    append_decisions(tmp_path, [Decision(index=5, decision="keep")])
    assert {index: one.decision for index, one in read_decisions(tmp_path).items()} == {5: "keep"}


def test_a_decision_that_is_undone_has_its_note_and_its_rule(tmp_path: Path, generated: Path) -> None:
    root = shutil.copytree(generated, tmp_path / "more")
    first = (Decision(index=0, decision="reject", note="blurred"), Decision(index=1, decision="reject", rule="seam 4"))
    append_decisions(root, first)
    with studio(tmp_path / "work", folder=root, root=[root]) as pages:
        sent = {"folder": str(root), "indices": [0, 1, 2], "decision": "keep"}
        answer = pages.ok("POST", "review/decide", json=sent)
        assert read_decisions(root)[0] == Decision(index=0, decision="keep")
        for index, former in enumerate(answer["before"]):
            given = {key: (former or {}).get(key) for key in ("note", "rule")}
            given["decision"] = former["decision"] if former else "undecided"
            pages.ok("POST", "review/decide", json={"folder": str(root), "indices": [index], **given})
    assert read_decisions(root) == {one.index: one for one in first}


def test_evaluations_show_no_file_behind_a_link(tmp_path: Path) -> None:
    place = tmp_path / "root" / "compared"
    place.mkdir(parents=True)
    secret = save(tmp_path / "secret.png", texture((96, 128), np.random.default_rng(0)))
    (tmp_path / "secret.json").write_text('{"data": "secret"}')
    (place / "evaluation.json").write_text("{}")
    (place / "conditions.png").symlink_to(secret)
    sheet = {"folder": str(place), "name": "conditions.png"}
    with studio(tmp_path / "root" / "work", root=[tmp_path / "root"]) as pages:
        for dark in (False, True):
            answer = pages.client.get("/studio/evaluate/sheet", params={**sheet, "dark": dark})
            assert (answer.status_code, "its conditions.png is a link" in answer.text) == (403, True)
        (place / "conditions.png").unlink()
        shutil.copy(secret, place / "conditions.png")
        assert pages.client.get("/studio/evaluate/sheet", params=sheet).status_code == 200
        (place / "evaluation.json").unlink()
        (place / "evaluation.json").symlink_to(tmp_path / "secret.json")
        answer = pages.client.get("/studio/evaluate/report", params={"folder": str(place)})
        assert (answer.status_code, "its evaluation.json is a link" in answer.text) == (403, True)


def test_uploads_of_other_sizes_have_other_names(tmp_path: Path) -> None:
    white = [Image.new(*form, "white") for form in (("L", (64, 128)), ("L", (128, 64)), ("RGB", (64, 128)))]
    with studio(tmp_path / "work") as pages:
        for image in white:
            file = io.BytesIO()
            image.save(file, format="PNG")
            found = pages.ok("POST", "paint/uploads", content=file.getvalue())
            with Image.open(tmp_path / "work" / "uploads" / found["name"]) as kept:
                assert (kept.size, kept.mode) == (image.size, image.mode)
    assert len(list((tmp_path / "work" / "uploads").iterdir())) == 3


def test_what_is_kept_shows_its_own_source_among_several_data_sets(tmp_path: Path) -> None:
    first, second = (write_data_set(tmp_path / "root" / name, seed=seed) for seed, name in enumerate("ab"))
    work, name = tmp_path / "root" / "work", "train/good/000.png"
    painted = {"picture": name, "mask": png(MASK), "run": "surface", "defect": "scratch", "variants": 1}
    with studio(work, root=[tmp_path / "root"], data=first) as pages:
        for index, data in enumerate((second, first)):
            asked = {**painted, "data": str(data)}
            (variant,) = pages.ok("POST", "paint/edits", json=asked)["variants"]
            kept = pages.ok("POST", "paint/keep", json={"id": variant["id"]})
            folder = Path(kept["folder"])
            record = read_manifest(folder)[index]
            own = read_picture(data / name).pixels
            assert (read_picture(folder / record.source).pixels == own).all()
            shown = {"folder": str(folder), "index": index}
            answers = [
                pages.client.get("/studio/review/source", params={**shown, "data": str(one)}).content
                for one in (first, second, "")
            ]
            assert answers == [answers[0]] * 3
            seen = read_synthetic(folder, first, index + 1)[index].source
            assert seen is not None
            assert (seen == own).all()


def test_settings_name_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("studio", "--data", tmp_path / "nothing") == 2
    assert "--data" in capsys.readouterr().err
    given = StudioSettings.create(data=tmp_path, work=tmp_path / "work")
    assert given.places() == (tmp_path / "work", tmp_path)


@pytest.mark.parametrize("gone", ["image", "mask", "both"])
def test_a_number_is_not_given_twice_when_a_kept_variant_is_deleted(
    library: Library, tmp_path: Path, gone: str
) -> None:
    given = order(data=str(library.workspace.roots.first / "cloth"), picture="train/good/000.png", mask=png(MASK))
    with EditEngine(Runs(), EngineOptions(workers=1)) as engine:
        first, second = Painter(library, engine).paint(given.changed(run="surface", variants=2)).variants
    roots = Roots((tmp_path,))
    keeper = Keeper(Workspace(roots, Runs((), roots), tmp_path / "work"))
    keeper.keep(first)
    folder, last = keeper.keep(first)
    for name in {"image": [last.image], "mask": [last.mask], "both": [last.image, last.mask]}[gone]:
        (folder / name).unlink()
    record = keeper.keep(second)[1]
    assert record.index == 2
    assert read_manifest(folder).keys() == {0, 2}
    assert (read_picture(folder / record.image).pixels == second.pixels).all()


def test_a_full_disk_refuses_to_keep_and_loses_nothing(
    library: Library, small_disk: Callable[[str], SmallDisk]
) -> None:
    disk = small_disk("160k")
    given = order(
        data=str(library.workspace.roots.first / "cloth"), picture="train/good/000.png", mask=png(MASK), run="surface"
    )
    with EditEngine(Runs(), EngineOptions(workers=1)) as engine:
        (variant,) = Painter(library, engine).paint(given.changed(variants=1)).variants
    roots = Roots((disk.place,))
    keeper = Keeper(Workspace(roots, Runs((), roots), disk.place / "work"))
    kept = [keeper.keep(variant)[1]]

    def fill() -> None:
        while True:
            kept.append(keeper.keep(variant)[1])

    with pytest.raises(OutputError, match="No space left"):
        fill()
    folder = disk.place / "work" / "kept" / "kept"
    assert list(read_manifest(folder).values()) == kept
    for record in kept:
        assert (read_picture(folder / record.image).pixels == variant.pixels).all()
        assert (read_mask(folder / record.mask) == MASK).all()
    disk.grow("8m")
    assert keeper.keep(variant)[1].index == len(kept)
