"""Which coordinates the adversary may change: ``--mask FILE``.

A .npy or .npz file with one boolean array, or a picture that is black and white, of the input's shape or, for images,
of its height and width (then for every channel). Where it is False the box of each row is the input itself, so that
every attack keeps it and the referee rejects what does not.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actsec.data.archives import read_lone
from actsec.data.folders import opened
from actsec.errors import DataError
from actsec.types import Cases

Mask = NDArray[np.bool_]
_HOW = "Store a boolean array: np.save('mask.npy', mask), True where pixels may change."
_LIMIT = 1 << 30
"""Bytes that no mask needs."""


def read(path: str | Path, shape: tuple[int, ...]) -> Mask:
    """The mask in a file, of an input's shape. Raises DataError, or Unsafe for an array of Python objects."""
    place = Path(path)
    if place.suffix.lower() in (".npy", ".npz"):
        return fitted(read_lone(place, _LIMIT, _HOW), shape, str(path))
    if not place.is_file():
        raise DataError(f"there is no mask {path}", "Check the path.")
    with opened(place) as picture:
        try:
            values = np.asarray(picture.convert("L"))
        except Exception as problem:  # damaged pixels make Pillow's decoders raise anything
            raise DataError(f"the mask {path} cannot be read: {problem}", _HOW) from problem
    return fitted(values, shape, str(path))


def fitted(values: Any, shape: tuple[int, ...], name: str = "mask") -> Mask:
    """An array as a mask of an input's shape. Raises DataError."""
    found = np.asarray(values)
    levels = set(np.unique(found).tolist()) if found.dtype.kind in "biuf" else {"?"}
    if not levels <= {0, 1} and not levels <= {0, 255}:
        raise DataError(f"the mask {name} is not black and white: it holds {len(levels)} values", _HOW)
    if found.shape == shape[1:] and len(shape) == 3:
        found = np.broadcast_to(found, shape)
    if found.shape != shape:
        wanted = f"{shape} or {shape[1:]}" if len(shape) == 3 else f"{shape}"
        raise DataError(f"the mask {name} has shape {found.shape}, the inputs need {wanted}", _HOW)
    if not found.any():
        raise DataError(f"the mask {name} is False everywhere: nothing may change", _HOW)
    return np.ascontiguousarray(found != 0)


def fingerprint(mask: Mask) -> str:
    """A hash of what the mask says, whatever file it came from."""
    return hashlib.sha256(str(mask.shape).encode() + np.packbits(mask).tobytes()).hexdigest()


def applied(cases: Cases, mask: Mask | None) -> Cases:
    """The cases with the box of every masked coordinate closed around the input."""
    if mask is None:
        return cases
    free = torch.from_numpy(mask).to(cases.x.device)

    def end(box: float | Tensor) -> Tensor:
        return torch.where(free, torch.as_tensor(box, dtype=cases.x.dtype, device=cases.x.device), cases.x)

    return replace(cases, low=end(cases.low), high=end(cases.high))


def words(mask: Mask) -> str:
    """How much may change, for people."""
    return f"{int(mask.sum())} of {mask.size} values may change, the others are masked"
