"""The record of a comparison of presets: what `bench --json` prints."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from adabldm.core.records.files import VersionedRecord


class BenchRow(BaseModel):
    """What one preset costs and reaches; scores are means over the images."""

    model_config = ConfigDict(frozen=True, extra="allow")

    preset: str = Field(description="Name of the preset.")
    adapt: str = Field(description="Method of decoder adaptation.")
    batch_size: int = Field(description="Images that are edited at once.")
    seconds_per_image: float = Field(description="Seconds of an image, measured without a profiler.")
    peak_memory_mb: int = Field(description="Peak memory in MB: of the GPU if there is one, else of the process.")
    background_psnr: float = Field(description="PSNR in the window outside the mask, in dB.")
    seam: float = Field(description="Step across the mask's boundary, 1 = invisible.")
    defect_fidelity: float = Field(description="Adapted against unadapted decoding inside the mask, in dB.")
    edit_strength: float = Field(description="Change inside the mask over that around it.")
    visible_change: float = Field(description="Mean change inside the mask, in grey levels.")
    kid: float | None = Field(None, description="Kernel Inception distance to the real defects.")
    kid_std: float | None = Field(None, description="Standard deviation of KID over random subsets.")
    tflop_per_image: float = Field(description="Floating-point operations of an image, in units of 10^12.")
    matmul_share: float | None = Field(None, description="Share of the GPU's matrix rate that diffusion reaches.")
    stages: dict[str, float] = Field(description="Seconds of an image in each stage of the edit.")
    time_ratio: float = Field(description="Seconds over those of released, or of the last preset without it.")
    operations_ratio: float = Field(description="Operations over those of the same preset.")


class BenchReport(VersionedRecord):
    """Presets side by side."""

    what: ClassVar[str] = "report of a benchmark"

    machine: str = Field(description="Processor, threads and device.")
    dtype: str = Field(description="Precision of the networks.")
    torch: str = Field(description="Version of PyTorch.")
    run: str = Field(description="The run, as it was given.")
    model: str = Field(description="Digest of the model's weights.")
    images: int = Field(description="Images of each preset.")
    resolution: int = Field(description="Side of the windows at the model, in px.")
    seed: int = Field(description="Seed of all random draws.")
    kid_backbone: str | None = Field(None, description="Network that KID depends on.")
    kid_real: str | None = Field(None, description="Real images that KID compares with.")
    matmul_tflops: float | None = Field(None, description="Measured matrix rate of a GPU in bfloat16, 10^12 a second.")
    presets: tuple[BenchRow, ...] = Field(description="A row for each preset.")

    def plain(self) -> dict[str, Any]:
        """JSON values; figures that were not asked for are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
