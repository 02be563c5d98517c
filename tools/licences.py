"""Print the page with the licences of everything that the package needs or holds.

python tools/licences.py > docs/reference/licences.md
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "src" / "adabldm" / "models" / "shipped"
HEAD = """# Licences

AdaBLDM is published under the Apache License 2.0. This page is made by `make licences`.

## Weights and pictures in the package

Each folder below `adabldm/models/shipped` holds a file `LICENSE.txt` with the source of what it was trained on.

| folder | licence |
|---|---|
"""
PACKAGES = """
## Packages

The packages that AdaBLDM needs, by the extra that asks for them, in the versions of `constraints.txt`. What these
packages need in turn is listed in the software bill of materials (`make sbom`).

| package | extra | licence |
|---|---|---|
"""


def needed() -> dict[str, str]:
    """The extra, or "core", by the package's normalised name."""
    found: dict[str, str] = {}
    for line in requires("adabldm") or []:
        match = re.match(r"([A-Za-z0-9_.-]+)", line)
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        assert match is not None
        name = re.sub(r"[-_.]+", "-", match.group(1)).lower()
        if name != "adabldm":
            found.setdefault(name, extra.group(1) if extra else "core")
    return found


def main() -> None:
    """Print the page."""
    lines = [HEAD]
    for path in sorted(SHIPPED.glob("*/LICENSE.txt")):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        lines.append(f"| `{path.parent.name}` | {first} |\n")
    lines.append(PACKAGES)
    command = [sys.executable, "-m", "piplicenses", "--format=json", "--from=mixed"]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    licences = {re.sub(r"[-_.]+", "-", one["Name"]).lower(): one["License"] for one in listed}
    for name, extra in sorted(needed().items(), key=lambda item: (item[1] != "core", item[1], item[0])):
        licence = " ".join(licences.get(name, "not installed here").split())
        lines.append(f"| {name} | {extra} | {licence} |\n")
    print("".join(lines), end="")


if __name__ == "__main__":
    main()
