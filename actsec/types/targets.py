"""The model under audit, as attacks and defenses are given it, and what is seen inside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from actsec.errors import BadOption
from actsec.types.threats import Ends

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


BATCH = 256
"""The most rows of one call of a model where memory allows: more of them were not measured to be faster."""

MEMORY = 2048
"""MiB that the activations of one call may take where nothing else is said."""

JUDGE_DRAWS = 20
"""Draws that a target which draws is judged by."""


@dataclass(frozen=True, slots=True)
class Normalization:
    """Per-channel (x - mean) / std, applied by the Target and nowhere else."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    label: ClassVar[str] = ""
    """What it is called where its numbers would say little."""

    def __call__(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return (x - x.new_tensor(self.mean).view(shape)) / x.new_tensor(self.std).view(shape)


@dataclass(frozen=True, slots=True)
class Target:
    """The model under audit: raw inputs inside ``bounds`` to logits (n, classes), and its own decision rule.

    model is in eval mode while it is asked. One logit per input is read as [0, z]. threshold, for two classes only,
    says class 1 when its probability is above it; otherwise the largest logit decides.
    """

    model: nn.Module
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    bounds: tuple[float, float] = (0.0, 1.0)
    name: str = "model"
    normalization: Normalization | None = None
    threshold: float | None = None
    stochastic: bool = False
    output: str | None = None
    """Which field of a dict or attribute of an object holds the logits; None finds ``logits`` or the first tensor."""
    batch: int = BATCH
    """The most rows of one call, at least 1: what memory allows. From 32 on no number's bits depend on it."""
    draws: int = 1
    """Noisy copies of an input that one answer averages over already, as many rows at each activation call."""
    rejects: Callable[[Tensor], Tensor] | None = None
    """A detector that abstains: inputs (n, *shape) in input units to bool (n,), or to scores (n,) that reject above 0.

    An adversary must be wrong and accepted; an untouched input that is rejected counts as not correct."""

    def __post_init__(self) -> None:
        if self.threshold is not None and (len(self.classes) != 2 or not 0 < self.threshold < 1):
            raise BadOption(f"threshold {self.threshold}", "A threshold lies in (0, 1) and needs exactly two classes.")

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, classes), float32, of inputs (n, *shape) in input units. One forward."""
        z = read_head(self.model(self.normalization(x) if self.normalization else x), self.output).float()
        if z.dim() == 1 or (z.dim() == 2 and z.shape[1] == 1):
            z = z.reshape(-1, 1)
            z = pad_zero(z)
        return z

    def decision_logits(self, logits: Tensor) -> Tensor:
        """Logits shifted so that the largest one is the decision, whatever the threshold."""
        if self.threshold is None:
            return logits
        shift = math.log(self.threshold / (1 - self.threshold))
        return logits - logits.new_tensor([0.0, shift])

    def decide(self, logits: Tensor) -> Tensor:
        """Labels (..., ) int64 by the target's own rule."""
        return self.decision_logits(logits).argmax(-1)

    def rejection(self, x: Tensor) -> Tensor | None:
        """The detector's scores (n,) float32 of inputs (n, *shape): above 0 rejects. None without a detector."""
        if self.rejects is None:
            return None
        score = self.rejects(x).reshape(len(x))
        # Told yes or no, a search still needs a number on each side.
        return score.float() if score.is_floating_point() else score.float() * 2 - 1

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter or buffer lies; the CPU when it has none."""
        import torch

        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            return tensor.device
        return torch.device("cpu")

    def having(self, **changes: Any) -> Target:
        """A copy with these fields replaced."""
        return replace(self, **changes)


def pad_zero(z: Tensor) -> Tensor:
    """One logit per row (n, 1) as two: [0, z], so that its sigmoid is the softmax of class 1."""
    import torch

    return torch.cat([torch.zeros_like(z), z], dim=1)


def read_head(output: Any, field_name: str | None = None) -> Tensor:
    """The logits in what a model returned: a tensor, a tuple's first tensor, a dict's or object's ``logits``."""
    import torch

    if field_name is not None:
        output = output[field_name] if isinstance(output, Mapping) else getattr(output, field_name)
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        tensors = [v for v in output.values() if isinstance(v, torch.Tensor)]
        found = output.get("logits", output.get("out", tensors[0] if tensors else None))
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, Sequence):
        found = next((v for v in output if isinstance(v, torch.Tensor)), None)
    else:
        found = None
    if not isinstance(found, torch.Tensor):
        from actsec.errors import ModelError

        raise ModelError(
            f"the model returned {type(output).__name__}, in which no logits were found",
            "Return a tensor (n, classes), or name the field with --output.",
        )
    return found


@dataclass(frozen=True, slots=True)
class SiteValues:
    """What one activation call saw: its pre-activation (m, *units), on the autograd graph when one is recorded."""

    name: str
    kind: str
    pre: Tensor
    ends: tuple[Ends, ...] = ()
    """Where its units are dead, saturated or numerically zero: see actsec.activations.regions."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What a forward pass of m rows gave: decision logits (m, classes), and the activation calls when watched.

    rejection (m,) are the scores of the target's detector, above 0 where it abstains; None without one.
    """

    logits: Tensor
    sites: tuple[SiteValues, ...] = ()
    rejection: Tensor | None = None
