"""Settings of `train-surface`, `surface-figures` and `surface-sheet`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from adabldm.core.settings.base import Settings
from adabldm.core.settings.common import DATA, TRAINING, MachineSettings, setting
from adabldm.core.settings.fit import LoopSettings

Conditioning = Literal["trimap", "trimap+latents"]


class SurfaceRecipe(Settings):
    """How the general base is trained."""

    autoencoder: LoopSettings = Field(
        LoopSettings(
            steps=7000, batch_size=12, learning_rate=1e-3, ema=0.998, weight_decay=0.0,
            checkpoint_every=250, preview_every=1000,
        ),
        description="First stage; crops of 64 px.",
    )  # fmt: skip
    diffusion: LoopSettings = Field(
        LoopSettings(steps=12000, batch_size=8, learning_rate=4e-4, warmup=200),
        description="Second stage: text encoder, UNet and control branch together.",
    )
    windows: int = Field(8000, ge=1, description="Windows that the autoencoder is trained on.")
    examples: int = Field(10000, ge=1, description="Rendered examples of the second stage.")
    conditioning: Conditioning = Field("trimap+latents", description="What the control branch reads.")
    start: str | None = Field(
        "tiny", description="Base whose autoencoder the first stage grows from; random weights if left out."
    )
    ready: str | None = Field(None, description="Base whose autoencoder is taken as it is, instead of a first stage.")
    networks: str | None = Field(None, description="Base whose other networks the second stage starts from.")
    resolution: int = Field(128, ge=64, multiple_of=16, description="Side of all windows in px.")
    figures: int = Field(
        12, ge=1, description="Unseen windows of each set, and unseen defects of each type, measured at every preview."
    )
    unseen: int = Field(80, ge=1, description="Examples on unseen surfaces for the loss at every preview.")
    shown: int = Field(10, ge=1, description="Examples that the second stage's previews draw.")
    seed: int = Field(0, ge=0, description="Seed of all random draws.")


class SurfacePictures(MachineSettings):
    """The pictures that surfaces are cut from."""

    materials: Path = setting("Folder of tileable pictures of materials.", DATA, positional=True)
    folders: tuple[Path, ...] = setting(
        "Folders of pictures of defect-free parts, training splits only.", DATA, (), positional=True
    )


class TrainSurfaceSettings(SurfacePictures):
    """What `train-surface` trains, and how."""

    out: Path = setting("Folder of the base.", DATA)
    autoencoder_steps: int | None = setting("Steps of the autoencoder.", TRAINING, None, ge=1)
    diffusion_steps: int | None = setting("Steps of text encoder, UNet and control branch.", TRAINING, None, ge=1)
    windows: int | None = setting("Windows of the autoencoder's training.", TRAINING, None, ge=1)
    examples: int | None = setting("Rendered examples; more may be added to a run.", TRAINING, None, ge=1)
    conditioning: Conditioning = setting(
        "What the control branch reads: trimap or trimap+latents.", TRAINING, "trimap+latents"
    )
    autoencoder: str | None = setting(
        "Base whose autoencoder is taken instead of training one, such as general.", TRAINING, None
    )
    networks: str | None = setting(
        "Base whose UNet, control branch and text encoder the second stage starts from, such as general; "
        "random weights if left out.", TRAINING, None,
    )  # fmt: skip
    seed: int = setting("Seed of all random draws.", TRAINING, 0, ge=0)

    def recipe(self) -> SurfaceRecipe:
        """The usual recipe with the changes that were asked for."""
        usual = SurfaceRecipe()
        return usual.changed_where_given(
            autoencoder=usual.autoencoder.changed_where_given(steps=self.autoencoder_steps, seed=self.seed),
            diffusion=usual.diffusion.changed_where_given(steps=self.diffusion_steps, seed=self.seed),
            windows=self.windows,
            examples=self.examples,
            conditioning=self.conditioning,
            ready=self.autoencoder,
            networks=self.networks,
            seed=self.seed,
        )


class SurfaceFiguresSettings(MachineSettings):
    """What `surface-figures` measures."""

    model: str = setting("Base: a shipped name, or a folder with at least vae/.", DATA, positional=True)
    materials: Path = setting("Folder of tileable pictures of materials, as in training.", DATA, positional=True)
    folders: tuple[Path, ...] = setting(
        "Folders of pictures, as in training: the same pictures are held out.", DATA, (), positional=True
    )
    count: int = setting("Windows of each set, and defects of each type.", DATA, 24, ge=1)


class SurfaceSheetSettings(SurfacePictures):
    """What `surface-sheet` draws."""

    out: Path = setting("PNG file to write.", DATA)
    model: str | None = setting("Folder of a general base: draw unseen surfaces with it, too.", DATA, None)
    count: int = setting("Pictures of each type.", DATA, 6, ge=1)
    seed: int = setting("Seed of all random draws.", DATA, 0, ge=0)
