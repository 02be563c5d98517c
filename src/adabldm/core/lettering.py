"""Lines of text in pictures, such as the captions of previews and sheets."""

from __future__ import annotations

import unicodedata

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from adabldm.core.images import Pixels

PAPER, INK = (255, 255, 255), (30, 34, 40)


def text_strip(text: str, width: int, height: int) -> Pixels:
    """A strip with a line of text, cut off with dots where it is too long."""
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=height * 0.6)
    text = shown = _plain(text)
    while text and draw.textlength(shown, font=font) > width - 6:
        text = text[:-1]
        shown = f"{text}..."
    draw.text((3, height / 2), shown, fill=INK, font=font, anchor="lm")
    return np.asarray(image)


def _plain(text: str) -> str:
    """What Pillow's own font can draw, ASCII: accents are dropped, other letters become question marks."""
    letters = unicodedata.normalize("NFKD", " ".join(text.split()))
    return (
        "".join(letter for letter in letters if not unicodedata.combining(letter)).encode("ascii", "replace").decode()
    )
