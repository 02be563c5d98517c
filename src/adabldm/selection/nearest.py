"""How near a made defect is to the real ones of its type, by the features of a frozen backbone.

It is what the ranking of Blended Latent Diffusion (Avrahami et al., arXiv 2206.02779) does with CLIP, and the "nearest
neighbour score" of defect generators: of several candidates the one is kept that looks most like the real ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from adabldm.core.images import Mask, Pixels, resize_mask, resize_pixels
from adabldm.core.samples import Instance, picture_reader
from adabldm.core.tensors import to_tensor
from adabldm.core.windows import crop, window_around
from adabldm.models.backbone import Backbone, load_backbone

SIDE = 128
"""Side in pixels that windows are resized to."""


class NearestReal:
    """Distances of made defects to the real ones.

    Args:
        instances: real defects by type.

    Raises:
        InputError: the package with the backbone's weights is not installed.
    """

    def __init__(self, instances: Mapping[str, Sequence[Instance]]) -> None:
        self._instances = instances
        self._backbone = load_backbone()
        self._picture = picture_reader()
        self._described = lru_cache(maxsize=None)(self._describe_real)

    def distance(self, pixels: Pixels, mask: Mask, defect: str, own: Instance | None = None) -> float | None:
        """Cosine distance, in [0, 2], to the nearest real defect of the type; `None` where there is none.

        Args:
            pixels: the picture, uint8 HxWx3.
            mask: where the defect is.
            defect: its type.
            own: the real defect that it was made from: it does not count where there are others, or else a plain copy
                would always be the nearest.
        """
        others = [one for one in self._instances.get(defect, ()) if one != own] or ([] if own is None else [own])
        if not others:
            return None
        found = describe(self._backbone, pixels, mask)
        return float(min(1.0 - float(found @ self._described(one)) for one in others))

    def _describe_real(self, instance: Instance) -> Tensor:
        return describe(self._backbone, self._picture(instance.sample).pixels, instance.defect.mask.read())


@torch.inference_mode()
def describe(backbone: Backbone, pixels: Pixels, mask: Mask) -> Tensor:
    """Features of a defect, of length 1: the means of the backbone's maps over the mask, and of its whole window.

    Args:
        backbone: frozen network.
        pixels: the picture, uint8 HxWx3.
        mask: where the defect is, not empty.
    """
    window = window_around(mask)
    image = to_tensor(resize_pixels(crop(pixels, window), (SIDE, SIDE)))[None]
    inside = resize_mask(crop(mask, window), (SIDE, SIDE))
    maps, pooled = backbone.maps_and_features(image)
    weights = torch.from_numpy(inside).float()[None, None]
    parts = [F.normalize(pooled[0], dim=0)]
    for values in maps:
        share = F.adaptive_avg_pool2d(weights, (values.shape[-2], values.shape[-1]))
        parts.append(F.normalize((values * share).sum((2, 3))[0] / share.sum().clamp_min(1e-6), dim=0))
    return F.normalize(torch.cat(parts), dim=0)
