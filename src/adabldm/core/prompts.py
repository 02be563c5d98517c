"""Prompts of the models, in one form for training and for editing."""

from __future__ import annotations

EMPTY = ""


def _article(noun: str) -> str:
    return "an" if noun[:1].lower() in "aeiou" else "a"


def readable(name: str) -> str:
    """A folder name as words: "magnetic_tile" becomes "magnetic tile"."""
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def good_prompt(object_name: str) -> str:
    """Caption of a defect-free image."""
    return f"{readable(object_name)}, {_article(object_name)} {readable(object_name)}"


def defect_prompt(object_name: str, defect: str) -> str:
    """Caption of a defect image: "{object}, a {object} with a {defect}" (AdaBLDM, training pairs)."""
    return f"{good_prompt(object_name)} with {_article(defect)} {readable(defect)}"
