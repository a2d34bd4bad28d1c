"""The one training loop, and what belongs to it.

Every training in actsec (reference models, fine-tuning after a swap, adversarial training, poisoned twins) is ``fit``
with a ``Recipe``. Bit-deterministic for a given seed, device and thread count: batches and gradient noise come from
generators of their own, dropout and other draws are keyed by (seed, update), and the global random state is left as it
was. Importing this package imports no torch until ``fit`` or an evaluation is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from actsec.training.recipe import Recipe

if TYPE_CHECKING:
    from actsec.training.batchnorm import recalibrate_batchnorm
    from actsec.training.checkpoint import Memory
    from actsec.training.evaluating import accuracy
    from actsec.training.loop import fit
    from actsec.training.nouns import AfterEpoch, History, Objective, Perturb, Progress

_LAZY = {
    "AfterEpoch": "nouns",
    "History": "nouns",
    "Memory": "checkpoint",
    "Objective": "nouns",
    "Perturb": "nouns",
    "Progress": "nouns",
    "accuracy": "evaluating",
    "fit": "loop",
    "recalibrate_batchnorm": "batchnorm",
}

__all__ = [
    "AfterEpoch",
    "History",
    "Memory",
    "Objective",
    "Perturb",
    "Progress",
    "Recipe",
    "accuracy",
    "fit",
    "recalibrate_batchnorm",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
