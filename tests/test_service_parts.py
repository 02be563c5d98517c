"""Parts of the service that need no server: folders, uploads and the guard's rules."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from adabldm.core.settings import EditSettings, SettingsError
from adabldm.service.jobs import COMMANDS
from adabldm.service.roots import PATHS, ForbiddenError, Roots, confine
from adabldm.service.security import is_loopback
from adabldm.service.uploads import TooLargeError, UploadLimits, from_base64, read_image, read_mask

LIMITS = UploadLimits(bytes=10**6, megapixels=0.01)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Roots:
    """Two roots with a folder each, a link to a secret beside them, and a loop of links."""
    above = tmp_path_factory.mktemp("above")
    for name in ("one/parts", "two/more/deep", "secret", "one-more"):
        (above / name).mkdir(parents=True)
    (above / "one" / "out").symlink_to(above / "secret")
    (above / "one" / "across").symlink_to(above / "two")
    (above / "one" / "loop").symlink_to(above / "one" / "loop")
    (above / "two" / "more" / "mark").write_text("")
    return Roots([above / "one", above / "two"])


def test_every_setting_that_names_a_folder_is_confined() -> None:
    for command, kind in COMMANDS.items():
        paths = {name for name, info in kind.model_fields.items() if "Path" in str(info.annotation)}
        assert paths
        assert paths - set(PATHS[command]) == set()


@pytest.mark.parametrize(
    ("field", "value", "meant"),
    [
        ("roi", "parts", "{}"),
        ("roi", "pit=parts", "pit={}"),
        ("roi", "pit=../secret", None),
        ("roi", "out", None),
        ("lora", "parts/a.safetensors=0.5", "{}/a.safetensors=0.5"),
        ("lora", "../secret/a.safetensors", None),
    ],
)
def test_paths_inside_other_settings_are_confined(roots: Roots, field: str, value: str, meant: str | None) -> None:
    if meant is None:
        with pytest.raises(SettingsError, match=f"{field}: .*lies in no folder"):
            confine("fit", {field: [value]}, roots, {})
    else:
        expected = meant.format(roots.first / "parts")
        assert confine("fit", {field: [value]}, roots, {}) == {field: [expected]}


STEPS = st.sampled_from(["..", ".", "", "parts", "more", "out", "across", "secret", "one-more", "~", "loop", "é"])


@example(["loop", "..", "out"], False)
@given(st.lists(STEPS, max_size=6), st.booleans())
def test_what_is_resolved_lies_in_a_root(roots: Roots, steps: list[str], absolute: bool) -> None:
    name = "/".join(([str(roots.first)] if absolute else []) + steps)
    try:
        found = roots.resolve(name)
    except ForbiddenError:
        return
    assert any(found == root or root in found.parents for root in roots.folders)
    assert found == found.resolve()


@pytest.mark.parametrize(
    "name", ["", "\0", "..", "out", "out/x", "../one-more", "/", "/etc/passwd", "x" * 9999, "loop/x"]
)
def test_what_lies_elsewhere_is_refused(roots: Roots, name: str) -> None:
    with pytest.raises(ForbiddenError, match="start the service with another --root"):
        roots.resolve(name, "data")


def test_names_lead_back_to_their_folders(roots: Roots) -> None:
    first, second = roots.folders
    assert roots.resolve("more") == second / "more"
    assert roots.resolve("new/run") == first / "new" / "run"
    assert roots.resolve("across/more") == second / "more"
    assert list(roots.find("mark")) == [second / "more"]
    for place in (first / "parts", second / "more", first / "new"):
        assert roots.resolve(roots.name(place)) == place
    roots.check_links(second, "data")
    with pytest.raises(ForbiddenError, match="a link that leads out"):
        roots.check_links(first, "data")
    with pytest.raises(SettingsError, match="root: .*nothing is no folder"):
        Roots([first / "nothing"])


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind)
    return file.getvalue()


@given(st.binary(max_size=200), st.integers(0, 200), st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "WEBP"]))
def test_broken_uploads_are_refused_by_their_field(junk: bytes, place: int, kind: str) -> None:
    whole = encoded(Image.new("L", (20, 20), 9), kind)
    try:
        image = read_image(whole[:place] + junk + whole[place + len(junk) :], "mask", LIMITS)
        fields = ["mask"] if image.width * image.height <= LIMITS.megapixels * 1e6 else []
    except SettingsError as error:
        fields = [one.field for one in error.fields]
    assert fields == ["mask"]


def test_size_is_checked_before_the_picture_is_decoded() -> None:
    assert read_image(encoded(Image.new("L", (100, 100))), "image", LIMITS).size == (100, 100)
    half = encoded(Image.new("L", (101, 100)))[:60]  # cannot be decoded, but its header can be read
    with pytest.raises(TooLargeError, match="101 x 100 pixels were sent, expected at most 0.01 million"):
        read_image(half, "image", LIMITS)


def test_masks_and_base64() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    assert (read_mask(encoded(Image.fromarray(mask)), "mask", LIMITS) == (mask > 0)).all()
    assert read_mask(encoded(Image.fromarray(mask), "JPEG"), "mask", LIMITS).sum() == 32**2
    with pytest.raises(SettingsError, match="mask: the mask is empty"):
        read_mask(encoded(Image.fromarray(mask * 0)), "mask", LIMITS)
    text = base64.b64encode(b"pixels").decode()
    assert from_base64(text, "image") == from_base64(f"data:image/png;base64,{text}", "image") == b"pixels"
    with pytest.raises(SettingsError, match="image: not base64"):
        from_base64("§", "image")


def test_only_this_machine_is_loopback() -> None:
    hosts = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "192.0.2.1", "name")
    assert [host for host in hosts if is_loopback(host)] == ["127.0.0.1", "::1", "localhost"]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "defect: missing"),
        ({"example": True, "prompt": "a dent"}, "example: true was given, but no defect type"),
        ({"defect": "dent", "preset": "file.toml"}, "preset: file.toml was given, expected one of fast"),
        ({"defect": "dent", "seed": 1.5}, "seed: 1.5 was given, expected a whole number"),
    ],
)
def test_an_edit_says_what_is_wrong_with_it(values: dict[str, object], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        EditSettings.create({"run": "run", **values})


def test_files_of_another_place_are_no_part_of_the_roots(roots: Roots, tmp_path: Path) -> None:
    assert not roots.allows(tmp_path)
    assert roots.allows(roots.first / "parts")
