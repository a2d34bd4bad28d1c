"""Poisons of training data, one a file; the file name is the name. Each turns a train split into a train split.

``from actsec.poisons import Outliers`` works for every class without importing the others. None trains anything: what a
poison does is told by training twins, ``actsec study poison``.
"""

from __future__ import annotations

_CLASSES = {
    "Crafted": "crafted",
    "Outliers": "outliers",
    "PoisonedScaler": "poisoned_scaler",
    "RandomRows": "random_rows",
}
__all__ = list(_CLASSES)


def __getattr__(name: str) -> object:
    if name not in _CLASSES:
        raise AttributeError(f"module 'actsec.poisons' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"actsec.poisons.{_CLASSES[name]}"), name)
