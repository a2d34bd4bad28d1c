"""Defenses, one a file; the file name is the name. Each is a frozen dataclass with wrap and fit, and they chain.

``from actsec.defenses import Temperature`` works for every class without importing the others.
"""

from __future__ import annotations

if __name__ != "actsec.defenses":
    raise ImportError("this folder is a signpost: import actsec.defenses instead")

_CLASSES = {
    "AdversarialTraining": "adversarial_training",
    "ConfidencePenalty": "confidence_penalty",
    "FastTraining": "fast_training",
    "FoolingTraining": "fooling_training",
    "Isotonic": "isotonic",
    "LabelSmoothing": "label_smoothing",
    "NoisyInference": "noisy_inference",
    "Smoothing": "smoothing",
    "StableTraining": "stable_training",
    "Swap": "swap",
    "Temperature": "temperature",
    "Trades": "trades",
    "TrainingNoise": "training_noise",
    "VectorScaling": "vector_scaling",
}
__all__ = list(_CLASSES)


def __getattr__(name: str) -> object:
    if name not in _CLASSES:
        raise AttributeError(f"module 'actsec.defenses' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"actsec.defenses.{_CLASSES[name]}"), name)
