"""Whether the networks' values are those of trained networks: a NaN would become a black blob with perfect scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from adabldm.core.errors import ModelError
from adabldm.models.components import Components
from adabldm.models.conditioning import TextConditioning
from adabldm.models.denoiser import ControlFeatures, Denoiser

LIMITS = {
    "embeddings of the prompts": 1e3,
    "latents of the sources": 1e3,
    "features of the control branch": 1e4,
    "predictions of the UNet": 1e3,
    "latents of the edit": 1e3,
    "decoded pixels": 1e3,
}
"""Largest magnitudes. With the shipped runs they stay below 5, 5, 20, 4, 5 and 2."""


class Signals:
    """The largest magnitudes of an edit. Nothing is compared before `check`, so that a GPU is not waited for."""

    def __init__(self) -> None:
        self._peaks: dict[str, Tensor] = {}

    def see(self, name: str, *values: Tensor) -> None:
        """Take note of values; `name` is one of `LIMITS`."""
        for one in values:
            low, high = torch.aminmax(one.detach())
            peak = torch.maximum(-low.float(), high.float())
            self._peaks[name] = peak if name not in self._peaks else torch.maximum(self._peaks[name], peak)

    def check(self) -> None:
        """Refuse an edit.

        Raises:
            ModelError: values that are not finite, or far too large.
        """
        names = [name for name in LIMITS if name in self._peaks]
        if not names:
            return
        for name, peak in zip(names, torch.stack([self._peaks[name] for name in names]).tolist(), strict=True):
            if not math.isfinite(peak) or peak > LIMITS[name]:
                found = (
                    f"up to {peak:.3g}, expected at most {LIMITS[name]:.0f}" if math.isfinite(peak) else "not finite"
                )
                raise ModelError(
                    f"the {name} are {found}, so that no edit can be made with this model; restore or fit it again, or "
                    "use --dtype float32 if it was another."
                )


class WatchedDenoiser(Denoiser):
    """A denoiser whose values are taken note of.

    Args:
        components: the networks.
        signals: takes note.
        remember: see `Denoiser`.
    """

    def __init__(self, components: Components, signals: Signals, *, remember: bool = False) -> None:
        super().__init__(components, remember=remember)
        self.signals = signals

    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor | int,
        conditioning: TextConditioning,
        control: ControlFeatures | None = None,
    ) -> Tensor:
        """See `Denoiser`."""
        prediction = super().predict(latents, timesteps, conditioning, control)
        self.signals.see("embeddings of the prompts", conditioning.embeddings)
        self.signals.see("predictions of the UNet", prediction)
        self.signals.see("latents of the edit", latents)
        return prediction

    def control(
        self,
        latents: Tensor,
        timesteps: Tensor | int,
        empty: TextConditioning,
        trimaps: Tensor,
        clean: Tensor | None = None,
    ) -> ControlFeatures:
        """See `Denoiser`."""
        features = super().control(latents, timesteps, empty, trimaps, clean)
        self.signals.see("features of the control branch", *features.down, features.mid)
        return features
