"""Plain attributes of a model, put back: a forward pass may count its calls, append to a list, note a size.

Left as it is written, such an attribute would make a model that was looked at another one, by its fingerprint, than the
same model loaded afresh, and one that keeps its outputs could not be copied. Attacks on what a user holds do not use
this: a counter of queries counts them.
"""

from __future__ import annotations

import contextlib
import copy
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

PLAIN = (bool, int, float, str, tuple, type(None), torch.Size, torch.dtype)
"""Values that are settings: a fingerprint has them too."""
_BOXES = (list, dict, set, deque)


def public(name: str) -> bool:
    """Whether a module's attribute is of its user's making by name: neither private nor torch's own switch."""
    return not name.startswith("_") and name != "training"


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put back, afterwards, the public attributes of every submodule that are plain values or hold others.

    Rebound ones are bound again, lists, dicts, sets and deques get their former members, plain ones that were added
    go. Tensors, modules and private attributes are left alone.
    """
    before = [(vars(module), _state(module)) for module in model.modules()]
    try:
        yield
    finally:
        for now, was in before:
            for name in [name for name, value in now.items() if name not in was and _seen(name, value)]:
                del now[name]
            for name, (value, members) in was.items():
                if isinstance(value, _BOXES):
                    value.clear()
                    value.extend(members) if isinstance(value, (list, deque)) else value.update(members)
                now[name] = value


def _state(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    return {
        name: (value, copy.copy(value) if isinstance(value, _BOXES) else None)
        for name, value in vars(module).items()
        if _seen(name, value)
    }


def _seen(name: str, value: object) -> bool:
    return public(name) and isinstance(value, (*PLAIN, *_BOXES))
