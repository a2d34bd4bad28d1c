"""How much may be read into memory at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from actsec.errors import DataError

LIMIT = 8 * 2**30
"""Largest array read, in bytes, stored or as float32, whichever is more."""


def check_size(key: str, shape: tuple[int, ...], dtype: np.dtype[Any], limit: int) -> None:
    """Refuse an array whose declared size is above ``limit`` bytes, before anything is allocated."""
    count = 1
    for side in shape:
        count *= side
    size = count * max(dtype.itemsize, 4)
    if size > limit:
        needed = f"{size / 2**30:.1f}" if size < 2**80 else "more than 2**50"
        raise DataError(
            f"{key} of shape {str(shape)[:100]} needs {needed} GiB, the limit is {limit / 2**30:.1f} GiB",
            "Give fewer examples, or raise limit (in bytes).",
        )
