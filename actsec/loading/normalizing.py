"""Normalisations by name: ``imagenet``, ``0.5/0.25``, ``0.485,0.456,0.406/0.229,0.224,0.225``."""

from __future__ import annotations

import math

from actsec.errors import BadOption
from actsec.types import Normalization

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = Normalization((0.5,), (0.5,))
NAMED = {"imagenet": IMAGENET}
_HOW = "Write imagenet, torchvision, none, or MEAN/STD such as 0.5/0.25 or 0.485,0.456,0.406/0.229,0.224,0.225."


def normalization(text: str | Normalization | None) -> Normalization | None:
    """The normalisation a text names; None for None and ``none``. Raises BadOption."""
    made = text
    if isinstance(text, str):
        if text.strip().lower() == "none":
            return None
        made = NAMED.get(text.strip().lower()) or _read(text)
    if isinstance(made, Normalization):
        numbers = (*made.mean, *made.std)
        paired = len(made.mean) == len(made.std) > 0
        if not paired or not all(map(math.isfinite, numbers)) or min(made.std) <= 0:
            raise BadOption(f"normalisation {show_normalization(made)} is not usable", f"Every std is above 0. {_HOW}")
    elif made is not None:
        raise BadOption(f"normalize={text!r}", _HOW)
    return made


def show_normalization(value: Normalization | None) -> str:
    """The shortest text that ``normalization`` reads back to the same value."""
    if value is None:
        return "none"
    if value.label:
        return value.label
    for name, known in NAMED.items():
        if value == known:
            return name
    return "/".join(
        ",".join(f"{number:g}" if float(f"{number:g}") == number else repr(number) for number in numbers)
        for numbers in (value.mean, value.std)
    )


def _read(text: str) -> Normalization:
    halves = text.split("/")
    try:
        mean, std = (tuple(float(number) for number in half.split(",")) for half in halves)
    except ValueError as error:
        raise BadOption(f"cannot read the normalisation {text!r}", _HOW) from error
    channels = max(len(mean), len(std))
    if not {len(mean), len(std)} <= {1, channels}:
        raise BadOption(f"normalisation {text!r} has {len(mean)} means and {len(std)} stds", _HOW)
    return Normalization(mean * (channels // len(mean)), std * (channels // len(std)))
