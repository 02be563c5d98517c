"""Defect-free images of a generated folder: every source has a file of its own there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fabricate import save, texture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adabldm.core.samples import DataSet, Sample
from adabldm.data.good import good_names, place_good

PARTS = st.sampled_from(["a", "A", "b", "a_b", "b_a", "a.x"])
PATHS = st.lists(
    st.builds(
        lambda folders, stem, suffix: "/".join([*folders, stem + suffix]),
        st.lists(PARTS, max_size=2), PARTS, st.sampled_from([".png", ".jpg"]),
    ),
    unique=True,
)  # fmt: skip


@given(PATHS)
def test_names_differ_by_more_than_suffix_and_case(paths: list[str]) -> None:
    names = good_names(paths)
    assert len({Path(name).stem.casefold() for name in names}) == len(paths)
    assert [Path(name).suffix for name in names] == [Path(path).suffix for path in paths]
    assert not any("/" in name for name in names)


def test_a_single_name_stays() -> None:
    assert good_names(["OK/a.png", "OK/b.png", "new/b.jpg"]) == ["a.png", "OK_b.png", "new_b.jpg"]


def test_turned_photographs_are_written_as_viewers_show_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    pixels = texture((40, 64), np.random.default_rng(0))
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    plain = save(tmp_path / "plain.png", pixels)
    data_set = DataSet(tmp_path, "part", (Sample(tmp_path / "turned.jpg"), Sample(plain)))
    out = tmp_path / "out"
    for _ in range(2):
        assert not place_good(out, data_set, "link")
        assert sorted(path.name for path in (out / "train" / "good").iterdir()) == ["plain.png", "turned.png"]
    assert Image.open(out / "train" / "good" / "turned.png").size == (40, 64)
    assert (out / "train" / "good" / "plain.png").samefile(plain)
