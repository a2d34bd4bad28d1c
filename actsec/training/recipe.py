"""A recipe: everything that decides a training besides model and data. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from actsec.errors import BadOption

Optimizer = Literal["adam", "sgd"]
Schedule = Literal["one_cycle", "cosine", "constant"]


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. The defaults suit the small CNN on the digits."""

    epochs: Annotated[int, "passes over the data"] = 20
    batch_size: Annotated[int, "examples an update"] = 64
    optimizer: Annotated[Optimizer, "the update rule"] = "adam"
    learning_rate: Annotated[float, "the highest learning rate of the schedule"] = 5e-3
    schedule: Annotated[Schedule, "one_cycle: up over the first fifth, then down by a cosine to 0"] = "one_cycle"
    momentum: Annotated[float, "sgd's momentum; adam has its own"] = 0.9
    weight_decay: Annotated[float, "L2 penalty, added to the gradient"] = 0.0
    activation_decay: Annotated[float, "the same of learned activations: a decayed PReLU drifts to ReLU"] = 0.0
    label_smoothing: Annotated[float, "share of a label spread evenly over all classes"] = 0.0
    confidence_penalty: Annotated[float, "beta: what a nat of entropy of the output takes off the loss"] = 0.0
    logit_penalty: Annotated[float, "beta: what a unit of the logits' mean square adds to the loss"] = 0.0
    dropout: Annotated[float, "share of the hidden units before linear layers dropped in training"] = 0.0
    gradient_noise: Annotated[float, "eta of the noise of variance eta / (1 + step)^gamma on every gradient"] = 0.0
    gradient_noise_decay: Annotated[float, "gamma of that noise"] = 0.55
    clip_norm: Annotated[float | None, "largest 2-norm of the whole gradient"] = None
    patience: Annotated[int | None, "epochs without a lower validation loss before stopping"] = None
    seed: Annotated[int, "of shuffling, dropout and gradient noise"] = 0

    def __post_init__(self) -> None:
        for option in ("epochs", "batch_size", "learning_rate", "clip_norm", "patience"):
            value = getattr(self, option)
            if value is not None and not 0 < value < math.inf:
                raise BadOption(f"{option}={value} is not a positive number", f"Give {option} above 0.")
        for option in (
            "weight_decay",
            "activation_decay",
            "confidence_penalty",
            "logit_penalty",
            "gradient_noise",
            "gradient_noise_decay",
        ):
            if not 0 <= getattr(self, option) < math.inf:
                raise BadOption(f"{option}={getattr(self, option)} is negative or infinite", f"Give {option} >= 0.")
        for option in ("momentum", "label_smoothing", "dropout"):
            if not 0 <= getattr(self, option) < 1:
                raise BadOption(f"{option}={getattr(self, option)} is outside [0, 1)", f"Give 0 <= {option} < 1.")
        for option, allowed in (("optimizer", get_args(Optimizer)), ("schedule", get_args(Schedule))):
            if getattr(self, option) not in allowed:
                raise BadOption(
                    f"{option}={getattr(self, option)!r} is not known", f"Give one of {', '.join(allowed)}."
                )

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of update ``step`` (from 0) out of ``steps``."""
        if self.schedule == "constant":
            return self.learning_rate
        warm = max(1, steps // 5) if self.schedule == "one_cycle" else 0
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2

    def noise_std(self, step: int) -> float:
        """Standard deviation of the gradient noise at ``step`` (from 0): Neelakantan et al. 2015, equation 1."""
        return math.sqrt(self.gradient_noise / (1 + step) ** self.gradient_noise_decay)


COMPARED = ("epochs", "optimizer", "schedule", "learning_rate", "weight_decay", "batch_size", "batch_norm", "start")
"""What trainings must share before a difference between them is laid to anything else (Pang et al. 2020)."""


def unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """In what two trainings differ that should be equal, from the numbers they told: ``epochs 5 and 15``, or nothing.

    Only options that both told are compared.
    """
    pairs = ((name, one[name], other[name]) for name in COMPARED if name in one and name in other)
    return ", ".join(f"{name} {first} and {second}" for name, first, second in pairs if first != second)
