"""Small data sets in the forms in which people have theirs: the same blobs and scratches in each."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fabricate import texture
from numpy.typing import NDArray
from PIL import Image, ImageDraw

HEIGHT, WIDTH = SIZE = 90, 120
Array = NDArray[Any]
STAINS = ([(20, 20, 45, 44)], [(60, 30, 80, 70)], [(15, 50, 40, 62), (85, 10, 100, 25)], [(50, 20, 62, 60)])
SCRATCHES = (None, None, ((60, 78), (110, 84)), ((8, 8), (40, 14)))


def _stain(boxes: Sequence[tuple[int, int, int, int]]) -> Array:
    image = Image.new("L", (WIDTH, HEIGHT))
    for box in boxes:
        ImageDraw.Draw(image).ellipse(box, fill=255)
    return np.asarray(image) > 0


def _scratch(ends: Any) -> Array:
    image = Image.new("L", (WIDTH, HEIGHT))
    if ends:
        ImageDraw.Draw(image).line(ends, fill=255, width=6)
    return np.asarray(image) > 0


STAIN_MASKS = [_stain(boxes) for boxes in STAINS]
SCRATCH_MASKS = [_scratch(ends) for ends in SCRATCHES]
BOTH = [stain | scratch for stain, scratch in zip(STAIN_MASKS, SCRATCH_MASKS, strict=True)]
GOOD = [texture(SIZE, np.random.default_rng(seed)) for seed in range(3)]


def _bad(number: int) -> Array:
    pixels = texture(SIZE, np.random.default_rng(10 + number))
    pixels[STAIN_MASKS[number]] //= 3
    pixels[SCRATCH_MASKS[number]] = 235
    return pixels


BAD = [_bad(number) for number in range(4)]


for _shared in (*STAIN_MASKS, *SCRATCH_MASKS, *BOTH, *GOOD, *BAD):
    _shared.setflags(write=False)  # a test that changes them would change what other tests see


def save(pixels: Array, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def grey(mask: Array, value: int = 255) -> Array:
    return (mask * value).astype(np.uint8)


def shapes(number: int) -> list[tuple[str, list[list[int]]]]:
    """(type, corners) of each part in an image."""
    found = []
    for kind, masks in (("stain", STAIN_MASKS), ("scratch", SCRATCH_MASKS)):
        contours, _ = cv2.findContours(grey(masks[number]), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        found += [(kind, contour[:, 0].tolist()) for contour in contours]
    return found


def mvtec(root: Path, write: Callable[[Path, int], None], *, suffix: str = ".png", turn: Any = None) -> None:
    change = turn or (lambda pixels: pixels)
    for number, pixels in enumerate(GOOD):
        save(change(pixels), root / f"train/good/{number:03d}{suffix}")
    for number, pixels in enumerate(BAD):
        save(change(pixels), root / f"test/flaw/{number:03d}{suffix}")
        write(root / "ground_truth/flaw", number)


def masks_in_folders(root: Path) -> None:
    def write(folder: Path, n: int) -> None:
        for part, masks in enumerate((STAIN_MASKS, SCRATCH_MASKS)):
            if masks[n].any():
                save(grey(masks[n], 236 + part), folder / f"{n:03d}/{part:03d}.png")

    mvtec(root, write)


def _written(draw: Callable[[int], Array], name: str = "{:03d}_mask.png", **options: Any) -> Callable[[Path], None]:
    return lambda root: mvtec(root, lambda folder, n: save(draw(n), folder / name.format(n), **options))


def _alpha(number: int) -> Array:
    return np.dstack([np.full((*SIZE, 3), 255, np.uint8), grey(BOTH[number])])


def _red_on_white(number: int) -> Array:
    pixels = np.full((*SIZE, 3), 255, np.uint8)
    pixels[BOTH[number]] = (255, 0, 0)
    return pixels


def more_masks_than_images(root: Path) -> None:
    _written(lambda n: grey(BOTH[n]))(root)
    save(grey(BOTH[0]), root / "ground_truth/flaw/900_mask.png")


def twelve_bit(root: Path) -> None:
    mvtec(root, lambda folder, n: save(grey(BOTH[n]), folder / f"{n:03d}_mask.png"),
          turn=lambda pixels: pixels[..., 0].astype(np.uint16) * 16)  # fmt: skip


def turned_by_exif(root: Path) -> None:
    _written(lambda n: grey(BOTH[n]))(root)
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in [*root.glob("train/good/*.png"), *root.glob("test/flaw/*.png")]:
        save(np.rot90(np.asarray(Image.open(path))), path.with_suffix(".jpg"), exif=exif, quality=95)
        path.unlink()


def as_visa(root: Path) -> None:
    for n, pixels in enumerate(GOOD):
        save(pixels, root / f"Data/Images/Normal/{n:04d}.JPG")
    for n, pixels in enumerate(BAD):
        save(pixels, root / f"Data/Images/Anomaly/{n:03d}.JPG")
        save(grey(BOTH[n], 1), root / f"Data/Masks/Anomaly/{n:03d}.png")


def as_btad(root: Path) -> None:
    _written(lambda n: grey(BOTH[n]), "{:03d}.png")(root)
    shutil.move(root / "train/good", root / "train/ok")
    shutil.move(root / "test/flaw", root / "test/ko")
    shutil.move(root / "ground_truth/flaw", root / "ground_truth/ko")


def as_ksdd2(root: Path) -> None:
    for n, pixels in enumerate(GOOD + BAD):
        mask = BOTH[n - len(GOOD)] if n >= len(GOOD) else np.zeros(SIZE, np.bool_)
        save(pixels, root / f"train/{10000 + n}.png")
        save(grey(mask), root / f"train/{10000 + n}_GT.png")


def ok_ng_mask(root: Path) -> None:
    for n, pixels in enumerate(GOOD):
        save(pixels, root / f"OK/{n}.png")
    for n, pixels in enumerate(BAD):
        save(pixels, root / f"NG/ng{n}.png")
        save(grey(BOTH[n]), root / f"MASK/ng{n}.png")


def labelme(root: Path) -> None:
    for n, pixels in enumerate(GOOD):
        save(pixels, root / f"g{n}.png")
    for n, pixels in enumerate(BAD):
        save(pixels, root / f"b{n}.png")
        found = [{"label": kind, "points": corners, "shape_type": "polygon"} for kind, corners in shapes(n)]
        write_json(root / f"b{n}.json", labelme_file(f"b{n}.png", found))


def labelme_file(image: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"version": "5.5.0", "shapes": found, "imagePath": image, "imageHeight": HEIGHT, "imageWidth": WIDTH}


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))


def coco(root: Path) -> None:
    images, annotations = [], []
    for n, pixels in enumerate(GOOD + BAD):
        save(pixels, root / f"images/{n:03d}.png")
        images.append({"id": n + 100, "file_name": f"{n:03d}.png", "height": HEIGHT, "width": WIDTH})
        for kind, corners in shapes(n - len(GOOD)) if n >= len(GOOD) else []:
            flat = [value for corner in corners for value in corner]
            annotations.append(
                {"id": len(annotations), "image_id": n + 100, "category_id": 3 if kind == "stain" else 7,
                 "segmentation": [flat], "bbox": [1, 2, 30, 40]}
            )  # fmt: skip
    annotations[0]["segmentation"] = {"size": list(SIZE), "counts": run_lengths(STAIN_MASKS[0])}
    categories = [{"id": 3, "name": "stain"}, {"id": 7, "name": "scratch"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(root / "annotations.json", content)


def run_lengths(mask: Array) -> list[int]:
    flat = np.concatenate([[False], mask.T.reshape(-1)])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], ends, [mask.size]])).astype(int).tolist()


def yolo(root: Path) -> None:
    (root / "labels/train").mkdir(parents=True)
    (root / "data.yaml").write_text("names:\n  0: stain\n  1: scratch\n")
    for n, pixels in enumerate(GOOD):
        save(pixels, root / f"images/train/g{n}.png")
    for n, pixels in enumerate(BAD):
        save(pixels, root / f"images/train/b{n}.png")
        lines = [
            f"{('stain', 'scratch').index(kind)} "
            + " ".join(f"{(x + 0.5) / WIDTH:.6f} {(y + 0.5) / HEIGHT:.6f}" for x, y in corners)
            for kind, corners in shapes(n)
        ]
        (root / f"labels/train/b{n}.txt").write_text("\n".join(lines))


def voc(root: Path) -> None:
    for n, pixels in enumerate(GOOD):
        save(pixels, root / f"JPEGImages/g{n}.png")
    (root / "Annotations").mkdir()
    for n, pixels in enumerate(BAD):
        save(pixels, root / f"JPEGImages/b{n}.png")
        index, names = np.zeros(SIZE, np.uint8), []
        for kind, corners in shapes(n):
            names.append(f"<object><name>{kind}</name></object>")
            cv2.fillPoly(index, [np.array(corners, np.int32)], len(names))
        save(index, root / f"SegmentationObject/b{n}.png")
        text = f"<annotation><filename>b{n}.png</filename>{''.join(names)}</annotation>"
        (root / f"Annotations/b{n}.xml").write_text(text)


def voc_classes(root: Path) -> None:
    """Masks of classes only, a list of their names, and no XML files."""
    for n, pixels in enumerate(GOOD):
        save(pixels, root / f"JPEGImages/g{n}.png")
    for n, pixels in enumerate(BAD):
        save(pixels, root / f"JPEGImages/b{n}.png")
        picture = Image.fromarray(np.where(SCRATCH_MASKS[n], 2, STAIN_MASKS[n] * 1).astype(np.uint8))
        picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        (root / "SegmentationClass").mkdir(exist_ok=True)
        picture.save(root / f"SegmentationClass/b{n}.png")
    (root / "class_names.txt").write_text("__ignore__\n_background_\nstain\nscratch\n")


def voc_class_objects(root: Path) -> None:
    """Masks of classes, and boxes of the objects in XML files."""
    voc_classes(root)
    (root / "class_names.txt").unlink()
    (root / "Annotations").mkdir()
    for n in range(len(BAD)):
        objects = ""
        for kind, corners in shapes(n):
            (x0, y0), (x1, y1) = np.min(corners, axis=0), np.max(corners, axis=0)
            sides = (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1 + 1), ("ymax", y1 + 1))
            box = "".join(f"<{tag}>{side}</{tag}>" for tag, side in sides)
            objects += f"<object><name>{kind}</name><bndbox>{box}</bndbox></object>"
        text = f"<annotation><filename>b{n}.png</filename>{objects}</annotation>"
        (root / f"Annotations/b{n}.xml").write_text(text)


def labelme_masks(root: Path) -> None:
    """LabelMe's shapes of the type "mask"; the JSON files lie in another folder than the images."""
    for n, pixels in enumerate(GOOD):
        save(pixels, root / f"images/g{n}.png")
    (root / "json").mkdir()
    for n, pixels in enumerate(BAD):
        save(pixels, root / f"images/b{n}.png")
        found = []
        for kind, corners in shapes(n):
            (x0, y0), (x1, y1) = np.min(corners, axis=0).tolist(), np.max(corners, axis=0).tolist()
            masks = STAIN_MASKS if kind == "stain" else SCRATCH_MASKS
            file = io.BytesIO()
            Image.fromarray(grey(masks[n][y0 : y1 + 1, x0 : x1 + 1], 1)).save(file, "PNG")
            found.append({"label": kind, "points": [[x0, y0], [x1, y1]], "shape_type": "mask",
                          "mask": base64.b64encode(file.getvalue()).decode()})  # fmt: skip
        write_json(root / f"json/b{n}.json", labelme_file(f"b{n}.png", found))


CASES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "masks in folders": (masks_in_folders, "mvtec", "flaw"),
    "instance numbers": (_written(lambda n: grey(STAIN_MASKS[n], 1) + grey(SCRATCH_MASKS[n] & ~STAIN_MASKS[n], 2)),
                         "mvtec", "flaw"),
    "1 and 255": (_written(lambda n: grey(STAIN_MASKS[n], 1) | grey(SCRATCH_MASKS[n], 255)), "mvtec", "flaw"),
    "10 and 255": (_written(lambda n: grey(STAIN_MASKS[n], 10) | grey(SCRATCH_MASKS[n], 255)), "mvtec", "flaw"),
    "JPEG": (_written(lambda n: grey(BOTH[n]), "{:03d}_mask.jpg", quality=75), "mvtec", "flaw"),
    "alpha": (_written(_alpha), "mvtec", "flaw"),
    "inverted": (_written(lambda n: 255 - grey(BOTH[n])), "mvtec", "flaw"),
    "red on white": (_written(_red_on_white), "mvtec", "flaw"),
    "more masks than images": (more_masks_than_images, "mvtec", "flaw"),
    "twelve bits": (twelve_bit, "mvtec", "flaw"),
    "EXIF": (turned_by_exif, "mvtec", "flaw"),
    "VisA": (as_visa, "visa", "anomaly"),
    "BTAD": (as_btad, "btad", "ko"),
    "KolektorSDD2": (as_ksdd2, "ksdd2", "defect"),
    "OK, NG, MASK": (ok_ng_mask, "folders", "ng"),
    "LabelMe": (labelme, "labelme", ""),
    "COCO": (coco, "coco", ""),
    "YOLO": (yolo, "yolo-seg", ""),
    "VOC": (voc, "voc", ""),
    "VOC, classes": (voc_classes, "voc", ""),
    "VOC, classes and boxes": (voc_class_objects, "voc", ""),
    "LabelMe, masks": (labelme_masks, "labelme", ""),
}  # fmt: skip
"""Writer, name of the layout, and the one defect type (none where stains and scratches are told apart)."""
