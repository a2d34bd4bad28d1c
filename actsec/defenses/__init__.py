"""Defenses, one a file; the file name is the name. Each is a frozen dataclass with wrap and fit, and they chain.

``from actsec.defenses import Temperature`` works for every class without importing the others.
"""

from __future__ import annotations

if __name__ != "actsec.defenses":
    raise ImportError("this folder is a signpost: import actsec.defenses instead")

_CLASSES = {
    "AdversarialTraining": "adversarial_training",
    "FastTraining": "fast_training",
    "NoisyInference": "noisy_inference",
    "Swap": "swap",
    "Temperature": "temperature",
    "TrainingNoise": "training_noise",
}
__all__ = list(_CLASSES)


def __getattr__(name: str) -> object:
    if name not in _CLASSES:
        raise AttributeError(f"module 'actsec.defenses' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"actsec.defenses.{_CLASSES[name]}"), name)
