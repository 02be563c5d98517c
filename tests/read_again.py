"""Read exported folders with the libraries that the formats belong to, and print what they find as JSON.

It runs in an environment of its own (`ADABLDM_READERS`), because these libraries need torchvision; it imports nothing
of this project.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any


def folder(root: Path) -> dict[str, Any]:
    """anomalib's `Folder` on a generated folder as it lies."""
    from anomalib.data import Folder

    types = sorted(path.name for path in (root / "ground_truth").iterdir())
    split = "test" if (root / "test").is_dir() else "train"
    data = Folder(
        name="made", root=root, normal_dir="train/good", abnormal_dir=[f"{split}/{name}" for name in types],
        mask_dir=[f"ground_truth/{name}" for name in types], num_workers=0, train_batch_size=4, eval_batch_size=4,
    )  # fmt: skip
    return _anomalib(data)


def mvtec_ad(root: Path) -> dict[str, Any]:
    """anomalib's `MVTecAD` on a folder as it lies."""
    from anomalib.data import MVTecAD

    return _anomalib(
        MVTecAD(root=root.parent, category=root.name, num_workers=0, train_batch_size=4, eval_batch_size=4)
    )


def _anomalib(data: Any) -> dict[str, Any]:
    data.prepare_data()
    data.setup()
    batch = next(iter(data.test_dataloader()))
    samples = [data.train_data.samples, *([data.val_data.samples] if data.val_data is not data.test_data else [])]
    test = data.test_data.samples
    tested = (
        [test] if data.val_data is data.test_data or len(data.val_data.samples) == len(test) else [test, samples[-1]]
    )
    rows = [row for frame in tested for row in frame.to_dict("records")]
    bad = [row for row in rows if row["label_index"] == 1]
    masks = [item.gt_mask for frame in (data.test_data, data.val_data) for item in frame if item.gt_mask is not None]
    twice = 2 if data.val_data is data.test_data or len(data.val_data.samples) == len(test) else 1
    return {
        "train": len(data.train_data.samples),
        "normal_only": bool((data.train_data.samples["label_index"] == 0).all()),
        "abnormal": len(bad),
        "pairs": sorted([Path(row["image_path"]).stem, Path(row["mask_path"]).stem] for row in bad),
        "mask_shape": list(batch.gt_mask.shape[1:]),
        "mask_pixels": int(batch.gt_mask.sum()),
        "all_mask_pixels": sum(int(mask.sum()) for mask in masks) // twice,
    }


def ultralytics(root: Path) -> dict[str, Any]:
    """Ultralytics' checker of data sets, and the data set class that its trainer uses."""
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    checked = check_det_dataset(str(root / "data.yaml"), autodownload=False)
    found: dict[str, Any] = {"names": checked["names"]}
    for split in ("train", "val"):
        data = YOLODataset(img_path=checked[split], data=checked, task="segment", augment=False, rect=False)
        labels = data.get_labels()
        found[split] = {
            "images": len(labels),
            "instances": Counter(int(cls) for one in labels for cls in one["cls"].ravel()),
            "polygons": sum(len(one["segments"]) for one in labels),
        }
    return found


def supervision(root: Path) -> dict[str, Any]:
    """Supervision's reader of COCO."""
    from supervision import DetectionDataset

    data = DetectionDataset.from_coco(
        str(root / "train"), str(root / "annotations" / "instances_train.json"), force_masks=True
    )
    return {"images": len(data), "pixels": {Path(path).stem: int(one.mask.any(0).sum()) for path, _, one in data}}


if __name__ == "__main__":
    readers = {one.__name__: one for one in (folder, mvtec_ad, ultralytics, supervision)}
    result = readers[sys.argv[1]](Path(sys.argv[2]))
    print("\n" + json.dumps(result))
