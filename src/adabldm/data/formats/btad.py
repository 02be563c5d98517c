"""BTAD: MVTec AD's layout with `ok` for good and `ko` for defects."""

from __future__ import annotations

from pathlib import Path

from adabldm.data.formats.mvtec import MVTecReader

NAME = "btad"


class BTADReader(MVTecReader):
    """Reads train/ok, test/ok, test/ko and ground_truth/ko."""

    name = NAME
    good = "ok"

    def detects(self, root: Path) -> bool:
        """Whether there is a folder train/ok."""
        return (root / "train" / self.good).is_dir()
