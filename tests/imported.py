"""What commands in processes of their own need; the server of these processes imports it once."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["DIFFUSERS_VERBOSITY"] = os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch

import adabldm.workflows.evaluate
import adabldm.workflows.fit
import adabldm.workflows.generate  # noqa: F401
from adabldm.app.cli import main as main

torch.set_num_threads(1)
