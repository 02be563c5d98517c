from __future__ import annotations

import shutil
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from conftest import contents
from fabricate import defect_mask, save, texture

from adabldm.core.errors import InputError
from adabldm.core.events import ImageFinished
from adabldm.core.images import Mask, read_picture
from adabldm.core.records import Decision, ImageRecord
from adabldm.data.decisions import append_decisions
from adabldm.data.generated import GeneratedFolder, read_manifest, read_some
from adabldm.evaluation.labelled import Labelled, Mark
from adabldm.masks.trimap import make_trimap
from adabldm.report.evaluation import SEARCHED_SCENES, SHOWN_SCENES, shown_scenes
from adabldm.report.generated import GeneratedReport, LiveReport
from adabldm.report.page import PageImage, write_page
from adabldm.report.pictures import SheetRow, contact_sheet, fitted_size, outline
from adabldm.report.tally import Tally, evenly

VOID = {"meta", "img", "link", "br"}


class Page(HTMLParser):
    """Checks that elements nest, and collects links, texts and alternative texts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.alts: list[str | None] = []
        self.ids: list[str] = []
        self.words = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [value for key, value in attrs if key in ("src", "href") and value]
        self.alts += [values.get("alt")] if tag == "img" else []
        self.ids += [value for key, value in attrs if key == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def files(self) -> set[str]:
        return {unquote(link) for link in self.links if not link.startswith(("data:", "#"))}


def sheet_row(height: int = 60, width: int = 90, value: int = 0) -> SheetRow:
    mask = np.zeros((height, width), bool)
    mask[20:30, 40:50] = True
    foreground = np.zeros_like(mask)
    foreground[10:] = True
    source = np.full((height, width, 3), (10, 200, value), np.uint8)
    result = np.where(mask[..., None], np.uint8([250, 10, 10]), source)
    return SheetRow(source, make_trimap(foreground, mask), result, mask, f"scratch 00000{value}.png")


def generated(folder: Path, sources: Path, count: int = 5, size: tuple[int, int] = (64, 80), **extra: Any) -> Path:
    run = GeneratedFolder(folder)
    rng = np.random.default_rng(0)
    for index in range(count):
        defect = ("scratch", "oil & dirt #1")[index % 2]
        source, mask = texture(size, rng), defect_mask(defect, size, rng)
        save(sources / "train/good" / f"ünd {index}.png", source)
        result = source.copy()
        result[mask] = 230
        values: dict[str, Any] = {
            "image": "", "mask": "", "index": index, "source": f"train/good/ünd {index}.png", "defect": defect,
            "object": "tile", "prompt": f"a <b>tile</b> with \"{defect}\"", "seed": index, "preset": "fast",
            "adapt": "residual", "background_psnr": 50.0 + index, "seam": 1.25, "edit_strength": 12.0,
            "model": "0123abc", **extra,
        }  # fmt: skip
        run.add(ImageRecord(**values), result, mask)
    return folder


def test_sheet_shows_every_picture_in_its_cell() -> None:
    row = sheet_row()
    sheet = contact_sheet([row], cell=90)
    assert sheet.dtype == np.uint8
    margin, step, top = 12, 90 + 6, 12 + 24 + 24
    assert sheet.shape == (top + 90 + 6 + 12, margin * 2 + 6 * 90 + 5 * 6, 3)
    cells = [sheet[top : top + 90, margin + step * i : margin + step * i + 90] for i in range(6)]
    source, trimap, result, mask = (cell[15:75] for cell in cells[:4])  # 60 of 90 rows: letterboxed
    np.testing.assert_array_equal(source, row.source)
    np.testing.assert_array_equal(result, row.result)
    np.testing.assert_array_equal(mask[..., 0] == 255, row.mask)
    np.testing.assert_array_equal(trimap[..., 1], np.rint(row.trimap * 255))
    assert len(np.unique(trimap)) == 3
    assert (cells[0][:15] == cells[0][0, 0]).all()
    assert (cells[4] == row.source[0, 0]).all()
    assert (cells[5][..., 0] > 128).sum() > 2 * (cells[2][..., 0] == 250).sum()  # the detail is closer


def test_many_rows_stand_in_blocks() -> None:
    one, eight, nine, sixteen = (contact_sheet([sheet_row()] * count, cell=32) for count in (1, 8, 9, 16))
    assert one.shape[1] == eight.shape[1]
    assert sixteen.shape[1] == nine.shape[1] == 2 * (one.shape[1] - 24) + 24 + 30
    assert sixteen.shape[0] == eight.shape[0] > nine.shape[0]
    block = eight.shape[1] - 24
    np.testing.assert_array_equal(sixteen[:, 12 : 12 + block], sixteen[:, 12 + block + 30 : -12])


def test_sheet_takes_a_stream_a_title_and_any_text() -> None:
    plain = contact_sheet(sheet_row(value=value) for value in range(3))
    row = SheetRow(**{**vars(sheet_row()), "label": "Kratzer — 傷 " * 20})
    titled = contact_sheet(iter([row, row, row]), title="Größe")
    assert titled.shape == (plain.shape[0] + 40, *plain.shape[1:])
    assert titled[:40].min() < 128
    plain_title = contact_sheet([row, row, row], title="Gro?e")
    np.testing.assert_array_equal(titled, plain_title)  # the font has ASCII only


def test_thin_defects_of_big_images_stay_on_the_sheet() -> None:
    mask = np.zeros((1200, 1600), bool)
    mask[:, 700] = True
    image = np.zeros((1200, 1600, 3), np.uint8)
    sheet = contact_sheet([SheetRow(image, make_trimap(~mask, mask), image, mask, "")], cell=100)
    shown = sheet[60:160, 12 + 3 * 106 : 12 + 3 * 106 + 100]
    assert ((shown == 255).all(axis=2).sum(axis=1) > 0)[13:87].all()


def test_sheet_refuses_nothing_and_unequal_sizes() -> None:
    with pytest.raises(InputError, match="no images"):
        contact_sheet([])
    row = sheet_row()
    with pytest.raises(InputError, match=r"scratch 000000\.png"):
        contact_sheet([SheetRow(row.source[:50], row.trimap, row.result, row.mask, row.label)])


def test_outline_leaves_the_defect_and_the_rest() -> None:
    row = sheet_row()
    outlined = outline(row.result, row.mask, (1, 2, 3))
    changed = (outlined != row.result).any(axis=2)
    expected = np.zeros_like(row.mask)
    expected[19:31, 39:51] = True
    np.testing.assert_array_equal(changed, expected & ~row.mask)
    assert (outlined[changed] == (1, 2, 3)).all()
    assert (row.result != (1, 2, 3)).all()  # the input is not touched


@pytest.mark.parametrize(("size", "fitted"), [((50, 100), (32, 64)), ((8, 4), (64, 32)), ((1, 500), (1, 64))])
def test_fitted_size_keeps_proportions(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert fitted_size(size, 64) == fitted


def test_page_escapes_text_and_quotes_links(tmp_path: Path) -> None:
    name = 'a"b <c>/100% #1 ü:?.png'
    image = PageImage("image-0", name, "m.png", "<i>pit</i>", 'a "tile" & <script>alert(1)</script>', source="s&t.png")
    path = tmp_path / "new" / "index.html"
    write_page(path, title="</title>T", intro=["x < y"], images=[image], facts={"a&b": "<td>"}, sheet="my sheet.png")
    page = Page(path)
    assert page.files == {name, "m.png", "s&t.png", "my sheet.png"}
    assert all(link.isascii() and not set(link) & set(' "<>#?:') for link in page.links)
    for text in ("</title>T", "x < y", "a&b", "<td>", "<i>pit</i>", "<script>alert(1)</script>"):
        assert text in page.words
    assert "<script" not in path.read_text(encoding="utf-8")


def test_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    images = [
        PageImage(f"image-{defect}", f"{defect}.png", "m.png", defect, "p", scores={"seam": 1.23456})
        for defect in ("pit", "scratch")
    ]
    write_page(tmp_path / "index.html", title="T", intro=[], images=images, facts={})
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "http" not in text
    assert "url(" not in text
    page = Page(tmp_path / "index.html")
    anchors = {link[1:] for link in page.links if link.startswith("#")}
    assert anchors | {"image-pit", "image-scratch"} == set(page.ids)
    assert len(anchors) == 2
    assert all(alt is not None for alt in page.alts)
    assert "1.23" in page.words
    assert "image pit" in page.words, "the name that decisions and records use is read on the page"


def write_reports(folder: Path, sources: Path, title: str = "T", **more: Any) -> tuple[Path, Path]:
    report = GeneratedReport(folder, sources, title, **more)
    report.write(read_manifest(folder).values())
    return report.sheet, report.page


def test_report_of_a_generated_folder(tmp_path: Path) -> None:
    folder = generated(tmp_path / "out", tmp_path / "data")
    before = set(folder.rglob("*"))
    sheet, html = write_reports(
        folder, tmp_path / "data", title="Tiles", intro=["Made here."], facts={"seconds per image": "0.8"}
    )
    assert set(folder.rglob("*")) - before == {folder / "reports", sheet, html, folder / "reports" / "decisions.css"}
    page = Page(html)
    assert all((html.parent / name).is_file() for name in page.files)
    assert {f"../train/oil & dirt #1/{index:06d}.png" for index in (1, 3)} < page.files
    assert sum(link.startswith("data:image/jpeg;base64,") for link in page.links) == 10  # sources and outlines
    for text in ("Tiles", "Made here.", "0.8", "fast", "residual", "0123abc", "<b>tile</b>", "median seam", "52"):
        assert text in page.words
    height, width = read_picture(sheet).size
    assert (height, width) == (40 + 24 + 24 + 5 * (24 + 192 + 6), 24 + 6 * 192 + 5 * 6)


def test_sources_inside_the_folder_are_linked(tmp_path: Path) -> None:
    folder = generated(tmp_path / "out", tmp_path / "out" / "data", count=2)
    _, html = write_reports(folder, folder / "data")
    page = Page(html)
    assert "../data/train/good/ünd 0.png" in page.files
    assert all((html.parent / name).is_file() for name in page.files)


def test_rejected_images_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = generated(tmp_path / "out", tmp_path / "data")
    append_decisions(folder, [Decision(index=index, decision="reject") for index in (1, 4)])
    sheet, html = write_reports(folder, tmp_path / "data")
    shown = {name for name in Page(html).files if name.startswith("../train") and name.endswith(".png")}
    assert {Path(name).stem for name in shown} == {"000000", "000002", "000003"}
    assert read_picture(sheet).size[0] == 40 + 24 + 24 + 3 * (24 + 192 + 6)
    style = html.with_name("decisions.css").read_text(encoding="utf-8")
    assert "2 images are rejected and left out: 1, 4." in style
    append_decisions(folder, [Decision(index=index, decision="reject") for index in range(5)])
    write_reports(folder, tmp_path / "data")
    assert not sheet.exists()
    assert not any("../train" in name for name in Page(html).files)


def test_images_that_missed_the_limits_are_marked(tmp_path: Path) -> None:
    folder = generated(tmp_path / "out", tmp_path / "data", count=2, accepted=False)
    _, html = write_reports(folder, tmp_path / "data")
    assert Page(html).words.count("missed the limits") == 3  # two images, and how many there are


def test_reports_while_images_are_made_end_as_if_written_once(tmp_path: Path) -> None:
    folder = generated(tmp_path / "out", tmp_path / "data", count=6)
    records, live = read_manifest(folder), GeneratedReport(folder, tmp_path / "data", "T")
    listen = LiveReport(live, [records[0]], 6, every=0)
    seen = []
    for index in (2, 1, 3, 4, 5):
        listen(ImageFinished(folder, records[index]))
        seen.append(live.page.read_text(encoding="utf-8"))
    assert "In work: 2 of 6 images so far." in seen[0]
    assert 'http-equiv="refresh"' in seen[0]
    live.write(records.values())
    once = contents(folder / "reports")
    shutil.rmtree(folder / "reports")
    write_reports(folder, tmp_path / "data")
    assert contents(folder / "reports") == once
    assert 'http-equiv="refresh"' not in live.page.read_text(encoding="utf-8")
    rarely = LiveReport(live, [], 6, every=1000)
    rarely(ImageFinished(folder, records[0]))
    assert contents(folder / "reports") == once


def test_a_live_report_keeps_a_few_dozen_bytes_an_image(tmp_path: Path) -> None:
    folder = generated(tmp_path / "out", tmp_path / "data", count=1)
    (record,) = read_manifest(folder).values()
    listen = LiveReport(GeneratedReport(folder, tmp_path / "data", "T"), [], 2000, every=1000)
    tracemalloc.start()
    try:
        for index in range(2000):
            listen(ImageFinished(folder, record.model_copy(update={"index": index, "seam": index / 7})))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2000 * 150


def test_a_tally_knows_the_last_of_each_image(tmp_path: Path) -> None:
    folder = generated(tmp_path / "out", tmp_path / "data", count=4)
    records = list(read_manifest(folder).values())
    again = Tally([records[2].model_copy(update={"seam": 9.0, "accepted": False}), *reversed(records)])
    assert again.count == 4
    assert [one.index for one in again.entries(rejected=[1])] == [0, 2, 3]
    once = Tally(records)
    assert again.facts(again.entries(), 4) == once.facts(once.entries(), 4)
    assert once.facts(once.entries([0, 1, 2]), 1)["median background PSNR (dB)"] == "53"


def test_some_records_are_read_from_a_manifest_that_is_being_written(tmp_path: Path) -> None:
    folder = generated(tmp_path / "out", tmp_path / "data", count=4)
    with (folder / "manifest.jsonl").open("ab") as file:
        file.write(b'{"index": 4, "ima')
    records = read_manifest(folder)
    assert read_some(folder, {1, 3}) == {index: records[index] for index in (1, 3)}
    with pytest.raises(InputError, match="no record of image 4"):
        read_some(folder, [4, 1])


def test_foregrounds_are_asked_by_source(tmp_path: Path) -> None:
    folder = generated(tmp_path / "out", tmp_path / "data", count=2)
    asked: list[str] = []

    def foreground(record: ImageRecord) -> Mask:
        asked.append(record.source)
        return np.zeros((64, 80), bool)

    write_reports(folder, tmp_path / "data", foregrounds=foreground)
    assert sorted(asked) == ["train/good/ünd 0.png", "train/good/ünd 1.png"]


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    folder = generated(tmp_path / "out", tmp_path / "data", count=1)
    with pytest.raises(InputError, match="no such file"):
        write_reports(folder, tmp_path / "elsewhere")


def record_of(index: int, defect: str) -> ImageRecord:
    return ImageRecord(
        image=f"{index}.png", mask=f"{index}_mask.png", index=index, source="0.png", defect=defect, object="tile",
        prompt="", seed=0, preset="nsa", adapt="none", model="none",
    )  # fmt: skip


def test_what_a_baseline_does_not_know_is_left_out(tmp_path: Path) -> None:
    folder = generated(tmp_path / "out", tmp_path / "data", count=2, seam=None, edit_strength=None)
    _, html = write_reports(folder, tmp_path / "data")
    words = Page(html).words
    assert "median background PSNR" in words
    assert "median seam" not in words


def test_types_take_turns() -> None:
    records = [record_of(index, "pit" if index < 90 else "scratch") for index in range(100)]
    chosen = evenly(records, 24)
    assert [record.index for record in chosen] == [*range(14), *range(90, 100)]
    assert evenly(records, 200) == records


def test_scenes_that_are_the_same_in_all_conditions_are_shown_first() -> None:
    mask = np.zeros((40, 40), np.bool_)
    mask[4:9, 20:34] = True

    def image(number: int, *, moved: bool) -> Labelled:
        return Labelled(np.full((40, 40, 3), number, np.uint8), (Mark("spot", mask.T if moved else mask),))

    def images(count: int, moved: set[int]) -> list[Labelled]:
        return [image(number, moved=number in moved) for number in range(count)]

    few = {"nsa": images(5, set()), "adabldm:fast": images(4, {0, 2})}
    assert shown_scenes(few) == [1, 3, 0, 2]
    many = {"nsa": images(60, set()), "perlin": images(60, set(range(4))), "adabldm:fast": images(60, {1, 5, 9})}
    assert shown_scenes(many) == [4, 6, 7, 8, 10, 11, 12, 13]
    everywhere = {"nsa": images(60, set()), "adabldm:fast": images(60, set(range(SEARCHED_SCENES)))}
    assert shown_scenes(everywhere) == list(range(SHOWN_SCENES))
