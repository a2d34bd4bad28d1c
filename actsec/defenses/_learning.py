"""What the defenses share: the split they ask for, the target as a module to train, and counts of what it cost."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from actsec import training
from actsec.errors import BadOption, DataError, ModelError
from actsec.oracle import Oracle, frozen
from actsec.training import Memory, Recipe
from actsec.types import Material, Split, Target, read_head

TOLD = ("optimizer", "schedule", "learning_rate", "weight_decay", "batch_size")
WHERE_USED = ("label_smoothing", "confidence_penalty", "logit_penalty", "dropout", "clip_norm", "gradient_noise")
"""What of a recipe stands among the numbers of a training: always, and where it is in use."""

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


def recipe_of(defense: Any, seed: int) -> Recipe:
    """The recipe spelled by a defense's options of the same names; what it has no option for is as in Recipe."""
    # A recipe's patience is with the loss on validation data, a defense's with robust accuracy.
    shared = ({f.name for f in fields(Recipe)} & {f.name for f in fields(defense)}) - {"patience"}
    return Recipe(**{name: getattr(defense, name) for name in shared}, seed=seed)


@dataclass(slots=True)
class Count:
    """Examples that went forwards and backwards through a model, an attack's included: two of a memory's numbers."""

    memory: Memory = field(default_factory=Memory)

    @property
    def forwards(self) -> int:
        """Examples that went through the model."""
        return int(self.memory.numbers.get("forwards", 0))

    @property
    def backwards(self) -> int:
        """Examples whose gradient came back."""
        return int(self.memory.numbers.get("backwards", 0))

    @contextlib.contextmanager
    def of(self, model: nn.Module, output: str | None) -> Iterator[Count]:
        """Count while the block runs. The hook is gone afterwards."""

        def backward(gradient: Tensor) -> None:
            self.memory.numbers["backwards"] = self.backwards + len(gradient)

        def forward(_: nn.Module, __: Any, result: Any) -> None:
            logits = read_head(result, output)
            self.memory.numbers["forwards"] = self.forwards + len(logits)
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
    objective: training.Objective | None = None,
    after_epoch: Callable[[int], str | None] | None = None,
    memory: Memory | None = None,
) -> dict[str, Any]:
    """Train every floating-point parameter of the target's model in place; returns the numbers of the training.

    perturb makes the examples to learn from, objective says by what; after_epoch, given the epoch from 1, ends the
    training with its text. What they remember is in memory, so that the training goes on where the material's
    checkpoint stands. Which parameters require gradients is put back. forwards and backwards count examples through
    the model, those of perturb and after_epoch included.
    """
    memory = memory if memory is not None else Memory()
    asked = Asked(target)
    trainable = [(p, p.requires_grad) for p in target.model.parameters() if p.is_floating_point()]
    if not trainable:
        raise ModelError(f"{label} has nothing to train: the model has no parameters", "Give a model with weights.")

    def progress(epoch: int, epochs: int, loss: float, accuracy: float) -> None:
        material.tell(f"{label}: loss {loss:.4f}, accuracy {accuracy:.3f}", epoch, epochs)

    count = Count(memory)
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
                objective=objective,
                progress=progress,
                after_epoch=None if after_epoch is None else lambda _, epoch: after_epoch(epoch),
                memory=memory,
                checkpoint=material.checkpoint,
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
        **{name: getattr(recipe, name) for name in TOLD},
        **{name: value for name in WHERE_USED if (value := getattr(recipe, name))},
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
