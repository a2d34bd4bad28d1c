"""What a variant's confidence on nonsense says. Nothing here imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec.types import Outcome

Array = NDArray[Any]


def share_above(outcome: Outcome, level: float) -> Array:
    """Nonsense inputs (n,) bool whose confidence is above ``level``: the same inputs in the same order for all."""
    return np.asarray(outcome.arrays["confidence"] > level)
