"""Activation functions: the catalogue, and the calls of them inside a model.

Importing this package imports no torch: what needs it is loaded when first asked for.

    names, activation, make        the catalogue (formula, options, computed properties)
    sites, find, watch, replace    the activation calls of a target or a model
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from actsec.activations.catalogue import Activation, activation, formula, make, names

if TYPE_CHECKING:
    from actsec.activations.finding import Unresolved
    from actsec.activations.listing import Site, Sites, find, sites
    from actsec.activations.properties import Properties
    from actsec.activations.replacing import Swapped, replace
    from actsec.activations.watching import Call, Recorder, dead_counts, watch

_LAZY = {
    "Properties": "properties",
    "Swapped": "replacing",
    "replace": "replacing",
    "Site": "listing",
    "Sites": "listing",
    "Unresolved": "finding",
    "find": "listing",
    "sites": "listing",
    "Call": "watching",
    "Recorder": "watching",
    "dead_counts": "watching",
    "watch": "watching",
}

__all__ = [
    "Activation",
    "Call",
    "Properties",
    "Recorder",
    "Site",
    "Sites",
    "Swapped",
    "Unresolved",
    "activation",
    "dead_counts",
    "find",
    "formula",
    "make",
    "names",
    "replace",
    "sites",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
