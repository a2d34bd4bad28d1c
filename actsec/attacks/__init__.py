"""Attacks, one a file; the file name is the name. Each is a frozen dataclass with start, ask and tell.

``from actsec.attacks import FGSM`` works for every class without importing the others.
"""

from __future__ import annotations

if __name__ != "actsec.attacks":
    raise ImportError("this folder is a signpost: import actsec.attacks instead")

_CLASSES = {
    "FGSM": "fgsm",
    "PGD": "pgd",
    "APGD": "apgd",
    "FAB": "fab",
    "MinimalL2": "minimal_l2",
    "CarliniWagner": "carlini_wagner",
    "OnePixel": "one_pixel",
    "DeadReLU": "dead_relu",
    "Saturation": "saturation",
    "ZeroTail": "zero_tail",
    "Miscalibration": "miscalibration",
    "Noise": "noise",
    "Square": "square",
    "Replay": "replay",
    "Transfer": "transfer",
    "AutoAttack": "autoattack",
    "Cascade": "cascade",
    "AveragedDifferences": "averaged_differences",
    "BPDA": "bpda",
}
__all__ = list(_CLASSES)


def __getattr__(name: str) -> object:
    if name not in _CLASSES:
        raise AttributeError(f"module 'actsec.attacks' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"actsec.attacks.{_CLASSES[name]}"), name)
