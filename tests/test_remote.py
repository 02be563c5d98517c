"""Data and results in an object store, against moto's server: the same bytes, and only what changed is carried."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import GENERATE, Adabldm, contents

from adabldm.data.remote import Store

pytest.importorskip("s3fs", reason="s3fs is not installed; pip install 'adabldm[remote]'")
server = pytest.importorskip("moto.server", reason="moto is not installed")

SECRET = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def bucket(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An S3 server with the data set in the bucket "parts"; s3fs finds it by the environment."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (SECRET | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
            patch.setenv(name, value)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        import s3fs

        files = s3fs.S3FileSystem()
        files.mkdir("parts")
        files.put(str(data), f"parts/{data.name}", recursive=True)
        yield files
        running.stop()


def in_store(files: Any, folder: str) -> dict[str, bytes]:
    files.invalidate_cache()
    return {name.removeprefix(f"{folder}/"): files.cat_file(name) for name in files.find(folder)}


def test_images_go_from_store_to_store(adabldm: Adabldm, bucket: Any, run: Path, data: Path, generated: Path) -> None:
    own = f"s3://parts/{data.name}"
    options = ("generate", run, "--data", own, "--out", "s3://parts/more", *GENERATE)
    first = adabldm(*options)
    assert first.code == 0, first.err
    assert f"{len(contents(data))} files fetched" in first.err
    found, wanted = in_store(bucket, "parts/more"), contents(generated)
    moved = {name for name in wanted if name.startswith(("reports", ".adabldm", "settings.json"))}  # they name places
    assert found.keys() == wanted.keys() - {".adabldm.lock"}
    assert all(found[name] == wanted[name] for name in wanted.keys() - moved)
    name = next(name for name in found if name.startswith("train/") and "/good/" not in name)
    bucket.rm_file(f"parts/more/{name}")
    again = adabldm(*options, "--restore-deleted")
    assert again.code == 0, again.err
    assert ": 0 files fetched" in again.err
    assert "1 images made" in again.err
    assert in_store(bucket, "parts/more")[name] == wanted[name]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://nothing-here/x", "s3://nothing-here/x"),
        ("s3://parts/empty", "holds no files"),
        ("nonsense://x/y", "remote"),
    ],
)
def test_addresses_that_cannot_be_read(
    adabldm: Adabldm, bucket: Any, run: Path, tmp_path: Path, address: str, words: str
) -> None:
    assert os.environ["AWS_ENDPOINT_URL"]
    result = adabldm("generate", run, "--data", address, "--out", tmp_path / "more", *GENERATE)
    assert result.code == 2
    assert result.err.count("adabldm: ") == 1
    assert words in result.err
    assert not (tmp_path / "more").exists()


def test_what_others_write_meanwhile_stays_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that was changed here and there, the one from here counts; all else is everybody's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    address = f"memory://{tmp_path.name}/out"
    store = Store(address)

    def write(**files: bytes) -> None:
        for name, content in files.items():
            store._files.pipe_file(f"{store._root}/{name}", content)

    def found() -> dict[str, bytes]:
        return {name: store._files.cat_file(f"{store._root}/{name}") for name in store.listing()}

    write(manifest=b"1", decisions=b"keep 1", image=b"i", deleted=b"d", both=b"both")
    assert store.fetch() == 5
    write(decisions=b"keep 1, reject 2", notes=b"by a colleague", both=b"changed there")
    (store.mirror / "manifest").write_bytes(b"1 and 2")
    (store.mirror / "both").write_bytes(b"changed here too")
    (store.mirror / "made").write_bytes(b"new")
    (store.mirror / "deleted").unlink()
    store.send_changed("manifest")
    wanted = {"manifest": b"1 and 2", "decisions": b"keep 1, reject 2", "image": b"i", "notes": b"by a colleague",
              "both": b"changed here too", "made": b"new"}  # fmt: skip
    assert found() == wanted
    again = Store(address)
    assert again.fetch() == 2
    assert {path.name: path.read_bytes() for path in again.mirror.iterdir()} == wanted
    (again.mirror / "made").write_bytes(b"killed before it was sent")
    last = Store(address)
    assert last.fetch() == 0
    last.send_changed()
    assert found() == {**wanted, "made": b"killed before it was sent"}
