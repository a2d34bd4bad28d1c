"""Row operations on records: frozen dataclasses whose tensor fields have one row per adversary.

An attack's state is such a record, so the referee can drop settled rows and let waiting ones in without knowing the
attack. Fields that are not tensors, records or tuples of them must be equal in every row.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


def take(record: R, index: Tensor) -> R:
    """The record with only the rows at ``index`` (int64 index or bool mask)."""
    taken: R = _map(record, lambda tensors: tensors[0][index], record)
    return taken


def join(first: R, second: R) -> R:
    """The rows of both records, first above second."""
    joined: R = _map(first, lambda tensors: torch.cat(list(tensors)), first, second)
    return joined


def _map(model: Any, change: Any, *records: Any) -> Any:
    if isinstance(model, Tensor):
        return change(records)
    if isinstance(model, tuple):
        return tuple(_map(model[i], change, *(r[i] for r in records)) for i in range(len(model)))
    if dataclasses.is_dataclass(model) and not isinstance(model, type):
        names = [f.name for f in dataclasses.fields(model)]
        changed = {name: _map(getattr(model, name), change, *(getattr(r, name) for r in records)) for name in names}
        return dataclasses.replace(model, **changed)
    return model
