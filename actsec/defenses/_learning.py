"""What the defenses share: the split they ask for, the target as a module to train, and counts of what it cost."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from actsec import training
from actsec.errors import BadOption, DataError, ModelError
from actsec.oracle import Oracle, frozen
from actsec.training import Recipe
from actsec.types import Material, Split, Target, read_head

DRAWS = 20
"""Forwards of each row that a stochastic target is asked for, as many as the judge uses."""

Perturb = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""x, y, ids and the epoch from 0 to the examples to learn from."""


def split_of(material: Material, which: Literal["calibration", "train"], defense: str) -> Split:
    """The split a defense learns from. Raises DataError when it is missing or empty."""
    split = material.calibration if which == "calibration" else material.train
    if split is None or not len(split.y):
        name = {"calibration": "calibration examples", "train": "training data"}[which]
        mend = {"calibration": "a calibration split", "train": "a training split (--train)"}[which]
        raise DataError(f"{defense} learns from {name}, and none were given", f"Give {mend} with labels.")
    return split


def copied(target: Target) -> Target:
    """The same target over a deep copy of its model."""
    return target.having(model=deepcopy(target.model))


def seed_of(seed: int, *parts: object) -> int:
    """A seed in [0, 2^63) of its own for each purpose."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, (seed, *parts))).encode()).digest()[:8], "big") >> 1


def require(holds: bool, option: str, value: object, wanted: str) -> None:
    """Raise BadOption naming the option, its value and what it should be, unless ``holds``."""
    if not holds:
        raise BadOption(f"{option}={value} is not {wanted}", f"Give {wanted}.")


class Asked(nn.Module):
    """A target as a module to train: raw inputs (n, *shape) to float32 logits (n, classes)."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.model, self.target = target.model, target

    def forward(self, x: Tensor) -> Tensor:
        return self.target.logits(x)


def decisions_of(target: Target, x: Tensor, seed: int) -> Tensor:
    """Decision logits (draws, n, classes), float32, in eval mode: DRAWS draws of a stochastic target, otherwise one.

    The model and the global random state are left as they were. Cost: draws * n forwards.
    """
    with frozen(target.model):
        oracle = Oracle(target, repeats=DRAWS if target.stochastic else 1, seed=seed, name="defense")
        return oracle.decisions(x.to(target.device))


@dataclass(slots=True)
class Count:
    """Examples that went forwards and backwards through a model, an attack's included."""

    forwards: int = 0
    backwards: int = 0
    _open: list[Any] = field(default_factory=list)

    @contextlib.contextmanager
    def of(self, model: nn.Module, output: str | None) -> Iterator[Count]:
        """Count while the block runs. The hook is gone afterwards."""

        def backward(gradient: Tensor) -> None:
            self.backwards += len(gradient)

        def forward(_: nn.Module, __: Any, result: Any) -> None:
            logits = read_head(result, output)
            self.forwards += len(logits)
            if logits.requires_grad:
                logits.register_hook(backward)  # type: ignore[no-untyped-call]  # torch leaves it untyped

        handle = model.register_forward_hook(forward)
        try:
            yield self
        finally:
            handle.remove()


def learn(
    target: Target,
    split: Split,
    recipe: Recipe,
    material: Material,
    label: str,
    *,
    perturb: Perturb | None = None,
    after_epoch: Callable[[int], str | None] | None = None,
) -> dict[str, Any]:
    """Train every floating-point parameter of the target's model in place; returns the numbers of the training.

    perturb makes the examples to learn from; after_epoch, given the epoch from 1, ends the training with its text.
    Which parameters require gradients is put back. forwards and backwards count examples through the model, those of
    perturb and after_epoch included.
    """
    asked = Asked(target)
    trainable = [(p, p.requires_grad) for p in target.model.parameters() if p.is_floating_point()]
    if not trainable:
        raise ModelError(f"{label} has nothing to train: the model has no parameters", "Give a model with weights.")

    def progress(epoch: int, epochs: int, loss: float, accuracy: float) -> None:
        material.tell(f"{label}: loss {loss:.4f}, accuracy {accuracy:.3f}", epoch, epochs)

    count = Count()
    try:
        for parameter, _ in trainable:
            parameter.requires_grad_(True)
        with count.of(target.model, target.output):
            history = training.fit(
                asked,
                split.x,
                split.y,
                recipe,
                ids=split.id,
                perturb=None if perturb is None else lambda _, x, y, ids, epoch: perturb(x, y, ids, epoch),
                progress=progress,
                after_epoch=None if after_epoch is None else lambda _, epoch: after_epoch(epoch),
            )
    finally:
        for parameter, required in trainable:
            parameter.requires_grad_(required)
    normalised = any(isinstance(module, _BatchNorm) for module in target.model.modules())
    return {
        "epochs": history.epochs_run,
        "stopped": history.stopped,
        "examples_seen": history.epochs_run * len(split.y),
        "forwards": count.forwards,
        "backwards": count.backwards,
        "final_loss": history.loss[-1],
        "final_accuracy": history.accuracy[-1],
        "optimizer": recipe.optimizer,
        "schedule": recipe.schedule,
        "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "batch_size": recipe.batch_size,
        "batch_norm": "batch statistics while learning, running ones while attacking" if normalised else "none",
    }


def restarted(model: nn.Module, seed: int) -> None:
    """Draw every parameter anew in place, by each layer's own default initialisation, keyed by the seed.

    Raises ModelError naming a module whose parameters have no such default; nothing is changed then. A model that its
    factory initialises in another way starts from torch's defaults instead.
    """
    resets: list[Callable[[], None]] = []
    for name, module in model.named_modules():
        reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        if callable(reset):
            resets.append(reset)
        elif next(module.parameters(recurse=False), None) is not None:
            raise ModelError(
                f"{name or 'the model'} ({type(module).__name__}) has parameters and no reset_parameters, so it cannot "
                "be started from scratch",
                "Train from the given weights with start=given, or give the class a reset_parameters method.",
            )
    devices = sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=str)
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for reset in resets:
            reset()
