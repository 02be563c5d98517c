"""The project as a whole: what ships, and what importing it needs."""

import subprocess
import sys
from pathlib import Path

from adabldm.models.store import load_base, load_run, shipped, shipped_runs

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "src" / "adabldm" / "models" / "shipped"


def test_shipped_weights_stay_small_and_are_safetensors() -> None:
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40 * 2**20
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"}]
    assert shipped("tiny") is not None


def test_shipped_runs_load_with_the_defects_they_promise() -> None:
    assert shipped_runs() == ["hazelnut", "magnetic-tile", "surface"]
    assert load_run("magnetic-tile")[1].defects == ("blowhole", "break", "crack", "fray", "uneven")
    assert load_run("hazelnut")[1].defects == ("colour",)


def test_control_branches_differ_between_runs_but_share_the_base() -> None:
    (tile, _), (nut, _) = load_run("magnetic-tile"), load_run("hazelnut")
    base = load_base("tiny")
    assert all((tile.unet.state_dict()[key] == value).all() for key, value in base.unet.state_dict().items())
    assert tile.controlnet is not None
    assert nut.controlnet is not None
    other = nut.controlnet.state_dict()
    assert any((other[key] != value).any() for key, value in tile.controlnet.state_dict().items())


def test_the_core_runs_without_torchvision() -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import adabldm.app.cli, adabldm.pipeline, adabldm.workflows.generate, adabldm.workflows.fit\n"
        "print('torchvision imported' if sys.modules['torchvision'] else 'clean')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "clean"


def test_importing_the_command_line_loads_no_network_library() -> None:
    code = "import sys, adabldm.app.cli; print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_networks_are_made_of_is_imported_when_one_is_loaded() -> None:
    """These libraries take seconds, also where a setting is wrong or defects are rendered."""
    code = (
        "import sys\n"
        "import adabldm.workflows.fit, adabldm.workflows.generate, adabldm.service.api\n"
        "heavy = {'diffusers', 'transformers', 'torch._dynamo'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "from adabldm.models.store import load_run\n"
        "load_run('magnetic-tile')\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "['diffusers', 'torch._dynamo', 'transformers']"]
