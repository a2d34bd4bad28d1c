"""actsec: an adversarial-robustness audit for PyTorch classifiers that looks at the activation functions.

    target = actsec.load("nets.py:make", weights="w.safetensors")
    outcome = actsec.attack(target, x, y, "fgsm", eps=8/255)
    hardened = actsec.defend(target, "temperature", calibration=(x, y))
    run = actsec.audit(target, (x, y), train=(x_train, y_train)); run.report("report.html")

Importing this imports no torch; each name is loaded when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actsec.api import Run, audit, defend, diagnose, fitted
    from actsec.attacked import Attacked, attack
    from actsec.curves import Curve, curve
    from actsec.errors import ActsecError
    from actsec.monitoring import ActivationMonitor
    from actsec.nonsense import Fooled, fool
    from actsec.spec import Spec
    from actsec.target import load
    from actsec.types import Target, Threat

__version__ = "0.1.0"

_HOME = {
    "ActivationMonitor": "monitoring",
    "ActsecError": "errors",
    "Attacked": "attacked",
    "Curve": "curves",
    "Fooled": "nonsense",
    "Run": "api",
    "Spec": "spec",
    "Target": "types",
    "Threat": "types",
    "attack": "attacked",
    "audit": "api",
    "curve": "curves",
    "defend": "api",
    "diagnose": "api",
    "fitted": "api",
    "fool": "nonsense",
    "load": "target",
}

__all__ = [
    "ActivationMonitor",
    "ActsecError",
    "Attacked",
    "Curve",
    "Fooled",
    "Run",
    "Spec",
    "Target",
    "Threat",
    "__version__",
    "attack",
    "audit",
    "curve",
    "defend",
    "diagnose",
    "fitted",
    "fool",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"actsec.{_HOME[name]}"), name)
    if name in ("attacks", "defenses", "activations", "diagnostics", "hardening", "nonsense", "reports"):
        return import_module(f"actsec.{name}")
    raise AttributeError(f"module 'actsec' has no attribute {name!r}")
