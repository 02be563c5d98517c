"""Files that change on the disk while a studio runs: what is shown, edited and kept is what lies there now."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DEADLINE
from fabricate import save, texture, write_data_set
from fastapi.testclient import TestClient
from PIL import Image

from adabldm.core.errors import InputError
from adabldm.core.images import read_picture
from adabldm.core.mask_files import read_mask
from adabldm.core.settings import StudioSettings
from adabldm.data.generated import read_manifest
from adabldm.service.api import create_app, create_service
from adabldm.studio.app import add_pages
from adabldm.studio.orders import PaintOrder, check_version
from adabldm.studio.state import Studio

SIZE = (96, 128)


@dataclass(frozen=True)
class Pages:
    """What the pages of a studio ask for.

    Attributes:
        client: of its application.
        data: its data set.
        studio: what they work with.
    """

    client: TestClient
    data: Path
    studio: Studio

    def get(self, path: str, **values: Any) -> bytes:
        answer = self.client.get(f"/studio/{path}", params={"data": str(self.data), **values})
        assert answer.status_code == 200, answer.text
        return answer.content

    def told(self, path: str, **values: Any) -> Any:
        return json.loads(self.get(path, **values))

    def pixels(self, path: str, **values: Any) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.get(path, **values))).convert("RGB")).astype(int)

    def post(self, path: str, **values: Any) -> Any:
        answer = self.client.post(f"/studio/{path}", json=values)
        return answer.json()

    def paint(self, picture: str, mask: np.ndarray, **values: Any) -> Any:
        order = {"data": str(self.data), "picture": picture, "mask": sent(mask), "run": "surface", "variants": 1}
        return self.post("paint/edits", **{**order, "defect": "scratch", **values})


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Pages]:
    with opened(tmp_path / "work", write_data_set(tmp_path / "cloth")) as found:
        yield found


@contextmanager
def opened(work: Path, data: Path) -> Iterator[Pages]:
    work.mkdir()
    settings = StudioSettings.create({"work": work, "workers": 1, "data": data})
    settings = settings.changed(root=settings.places())
    service = create_service(settings)
    app = create_app(settings, service)
    studio = add_pages(app, service, settings)
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        yield Pages(client, data, studio)


def painted(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    mask[rows, columns] = True
    return mask


def sent(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_picture_that_was_replaced_is_shown_edited_and_kept_as_it_is_now(pages: Pages) -> None:
    name, mask = "train/good/001.png", painted(slice(40, 60), slice(50, 80))
    pages.paint(name, mask)  # pixels and object are known now
    thumb = pages.pixels("paint/thumb", name=name)
    save(pages.data / name, texture(SIZE, np.random.default_rng(9)) // 3)
    now = read_picture(pages.data / name).pixels.astype(int)
    assert (pages.pixels("paint/picture", name=name) == now).all()
    assert np.abs(pages.pixels("paint/thumb", name=name) - thumb).mean() > 40
    (variant,) = pages.paint(name, mask)["variants"]
    kept = pages.post("paint/keep", id=variant["id"])
    result = read_picture(Path(kept["folder"]) / kept["image"]).pixels.astype(int)
    assert np.abs(result - now)[~mask].mean() < 1


def test_the_object_is_looked_for_again_in_a_picture_that_was_replaced(pages: Pages) -> None:
    name, places = "train/good/001.png", []
    for left in (10, 80):
        picture = np.full((*SIZE, 3), 250, np.uint8)
        picture[20:76, left : left + 38] = texture((56, 38), np.random.default_rng(0)) // 2
        save(pages.data / name, picture)
        found = pages.studio.library.foreground(str(pages.data), name, "grabcut")
        places.append(np.flatnonzero(found.any(axis=0)).mean())
    assert places == pytest.approx([28.5, 98.5], abs=4)


def test_a_mask_that_was_put_back_is_no_problem_once_the_page_is_loaded_again(pages: Pages) -> None:
    mask = pages.data / "ground_truth/spot/000_mask.png"
    aside = pages.data.parent / mask.name
    pages.told("data/pictures")
    mask.rename(aside)
    assert len(pages.told("data/inspect")["problems"]) == 1
    aside.rename(mask)
    assert not any(one["missing"] for one in pages.told("data/pictures")["pictures"])
    assert pages.told("data/inspect")["problems"] == []


def test_real_examples_are_those_of_the_disk_once_the_page_is_loaded_again(pages: Pages) -> None:
    def areas() -> list[int]:
        return [one["pixels"] for one in pages.told("paint/examples", defect="spot")["examples"]]

    path = pages.data / "ground_truth/spot/001_mask.png"
    before, other = areas(), painted(slice(10, 50), slice(10, 70))
    save(path, other.astype(np.uint8) * 255)
    save(pages.data / "train/good/new.png", texture(SIZE, np.random.default_rng(3)))
    assert "train/good/new.png" in pages.told("paint/pictures")["names"]
    assert areas() == [before[0], int(other.sum()), before[2]]


def test_an_unchanged_data_set_is_not_read_again(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    pages.told("data/inspect")
    for path in (pages.data / "ground_truth").rglob("*.png"):
        path.chmod(0o444)  # other than its content, size and time
    read: list[Path] = []
    monkeypatch.setattr("adabldm.studio.library.check_data_set", lambda root, options: read.append(root))
    pages.told("data/pictures")
    assert pages.told("data/inspect")["problems"] == []
    assert read == []


def test_the_pictures_of_real_examples_are_those_that_are_used(pages: Pages) -> None:
    """A new mask shifts the numbers of the others."""
    (first, *_) = pages.told("paint/examples", defect="spot")["examples"]
    before = pages.pixels("paint/example", defect="spot", number=0)
    save(pages.data / "train/good/-first.png", texture(SIZE, np.random.default_rng(9)))
    pages.told("data/pictures")
    order = {"data": str(pages.data), "name": "train/good/-first.png", "defect": "spot"}
    pages.post("data/mask", **order, mask=sent(painted(slice(30, 60), slice(50, 80))))
    (other, second, *_) = pages.told("paint/examples", defect="spot")["examples"]
    assert (other["name"], second["name"]) == ("-first.png", first["name"])
    assert other["version"] != first["version"] == second["version"], "so that a browser does not mistake them"
    assert (pages.pixels("paint/example", defect="spot", number=1) == before).all()
    assert (pages.pixels("paint/example", defect="spot", number=0) != before).any()


def test_an_example_that_is_no_longer_the_one_that_was_shown_is_refused(pages: Pages) -> None:
    library, data = pages.studio.library, str(pages.data)
    shown = library.examples(data, "scratch")[0].version
    chosen = {"data": data, "picture": "", "mask": "", "run": "", "defect": "scratch", "example_version": shown}
    order = PaintOrder.create({**chosen, "example": 0})
    check_version(order, library.examples(data, "scratch"))
    save(pages.data / "ground_truth/scratch/000_mask.png", painted(slice(40, 60), slice(50, 80)) * np.uint8(255))
    with pytest.raises(InputError, match="changed since"):
        check_version(order, library.examples(data, "scratch"))


def generated(pages: Pages, seed: int) -> Any:
    """The events of a job that has made one image into the folder "more"."""
    settings = {"run": "surface", "data": str(pages.data), "out": "generated/more", "count": 1, "seed": seed}
    job = pages.client.post("/v1/jobs", json={"command": "generate", "settings": settings}).json()
    end = time.monotonic() + DEADLINE
    while (state := pages.client.get(f"/v1/jobs/{job['id']}").json()["state"]) != "finished":
        assert state in {"queued", "running"}, state
        assert time.monotonic() < end
        time.sleep(0.2)
    return pages.told("jobs/events", job=job["id"])


def test_the_images_of_a_job_are_not_those_of_a_folder_that_was_deleted(pages: Pages) -> None:
    work = pages.data.parent / "work"
    shown, versions = [], []
    for seed in (0, 1):
        told = generated(pages, seed)
        folder = next(path.parent for path in work.rglob("manifest.jsonl"))
        (image,) = told["images"]
        shown.append(pages.pixels("review/tile", folder=str(folder), **image))
        versions.append(image["version"])
        record = read_manifest(folder)[0]
        assert read_mask(folder / record.mask).any()
        shutil.rmtree(folder)
    assert versions[0] != versions[1]
    assert (shown[0] != shown[1]).any()
