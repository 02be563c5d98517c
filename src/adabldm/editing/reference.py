"""The real defect whose mask is used, brought into the picture that is edited: what `fast` begins from.

Images are uint8 RGB, HxWx3; masks are bool, HxW.
"""

from __future__ import annotations

import cv2
import numpy as np

from adabldm.images import Mask, Pixels
from adabldm.trimap.bank import Linear
from adabldm.windows import bounding_box

REACH = 1 / 32
"""Share of a window's side over which the tone at the mask's border is carried into the defect (falls to 1/e)."""
KEPT = 1
"""Pixels outside the mask that come from the real defect's picture entirely: the mask's border is a real one."""
RIM = 2
"""Pixels beyond them over which the real defect's surroundings fade into the picture."""


def lay_over(real: Pixels, real_mask: Mask, linear: Linear, target: Mask) -> Pixels:
    """The image of a real defect, moved so that the defect lies on `target`; of the target's size, reflected outside.

    Args:
        real: the real defect's image.
        real_mask: its mask.
        linear: 2x2 matrix on (x, y) by which the real mask became the shape of `target` (`DefectShape.linear`).
        target: the placed mask.
    """
    matrix = np.array(linear)
    rows, columns = np.nonzero(real_mask)
    turned = np.stack([columns, rows], axis=1) @ matrix.T
    top, left, bottom, right = bounding_box(target)
    wanted = np.array([left + right - 1, top + bottom - 1]) / 2
    shift = wanted - (turned.min(axis=0) + turned.max(axis=0)) / 2
    return np.asarray(
        cv2.warpAffine(
            real,
            np.column_stack([matrix, shift]),
            (target.shape[1], target.shape[0]),
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REFLECT_101,
        ),
        dtype=np.uint8,
    )


def compose(image: Pixels, reference: Pixels, mask: Mask, gain: float = 1.0, strength: float = 1.0) -> Pixels:
    """The picture with the real defect in its mask, without a visible border.

    The real surroundings are kept over `KEPT` pixels outside the mask and fade into the picture over `RIM` more. The
    mean difference of the two pictures farther outside is taken from the defect, falling off with the depth: a cheap
    form of screened Poisson blending (Bhat et al., ECCV 2008). Pixels farther outside are the picture's.

    Args:
        image: a square window of the source, SxSx3.
        reference: the real defect laid over it (`lay_over`).
        mask: where the defect is.
        gain: exposure of the reference over that of the image.
        strength: factor of all that the defect changes; the picture shows through below 1.
    """
    reach = max(2.0, image.shape[0] * REACH)
    defect = reference.astype(np.float32) / gain
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    outside = (distance > KEPT).astype(np.float32)
    missing = cv2.GaussianBlur((image - defect) * outside[..., None], (0, 0), reach)
    weight = np.maximum(cv2.GaussianBlur(outside, (0, 0), reach), 1e-3)
    depth = cv2.distanceTransform((distance <= KEPT).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    border = np.exp(-depth / reach)[..., None]
    corrected = defect + missing * border / weight[..., None]
    share = strength * np.clip(1 - (distance - KEPT) / (RIM + 1), 0, 1)[..., None]
    return np.asarray(np.clip(np.rint(image + share * (corrected - image)), 0, 255), dtype=np.uint8)
