"""Names of the parts of an edit, which every profiler of torch shows: "adabldm.unet" and so on."""

from __future__ import annotations

from torch.profiler import record_function

PREFIX = "adabldm."
STAGES = ("prepare", "text", "encode", "control", "unet", "decode", "adapt", "put_back", "score")
"""In the order of an edit; a stage inside another one (a decoding in `adapt`) is part of it."""


def stage(name: str) -> record_function:
    """Mark a block as the stage `name`; costs some microseconds when nobody profiles."""
    return record_function(PREFIX + name)
