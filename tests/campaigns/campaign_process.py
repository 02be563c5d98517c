"""The process in which a campaign's command runs; the fork server imports this once, with all that commands need."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["DIFFUSERS_VERBOSITY"] = os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
from campaign import limit_files

import adabldm.workflows.evaluate
import adabldm.workflows.fit
import adabldm.workflows.generate  # noqa: F401
from adabldm.app.cli import main

torch.set_num_threads(1)


def carry_out(arguments: Sequence[str], said: str, largest_file: int | None) -> None:
    """Run a command; its standard error goes to the file `said`."""
    with Path(said).open("wb", buffering=0) as file:
        os.dup2(file.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if largest_file is not None:
        limit_files(largest_file)
    sys.exit(main(list(arguments)))
