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
from actsec.draws import Draws
from actsec.errors import BadOption, DataError, ModelError
from actsec.search.oracle import Oracle, frozen
from actsec.spec import show
from actsec.training import Memory, Recipe
from actsec.types import JUDGE_DRAWS, Material, Split, Target, read_head

TOLD = ("optimizer", "schedule", "learning_rate", "weight_decay", "batch_size")
WHERE_USED = ("label_smoothing", "confidence_penalty", "logit_penalty", "dropout", "clip_norm", "gradient_noise")
"""What of a recipe stands among the numbers of a training: always, and where it is in use."""

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
    """Decision logits (draws, n, classes), float32, in eval mode: one draw of a target that draws nothing.

    Of a stochastic target as many as hold the judge's JUDGE_DRAWS noisy copies of a row, where an answer may average
    over several already. The model and the global random state are left as they were. Cost: draws * target.draws * n
    forwards.
    """
    repeats = -(-JUDGE_DRAWS // target.draws) if target.stochastic else 1
    with frozen(target.model):
        return Oracle(target, repeats=repeats, seed=seed, name="defense").decisions(x.to(target.device))


def recipe_of(defense: Any, seed: int) -> Recipe:
    """The recipe spelled by a defense's options of the same names; what it has no option for is as in Recipe.

    ``finetune`` are epochs, for which ``fine_tuned`` vouches. Raises BadOption.
    """
    own = {f.name for f in fields(defense)}
    # A recipe's patience is with the loss on validation data, a defense's with robust accuracy.
    given = {f.name: getattr(defense, f.name) for f in fields(Recipe) if f.name in own and f.name != "patience"}
    if "finetune" in own:
        given["epochs"] = defense.finetune
    try:
        return Recipe(**given, seed=seed)
    except BadOption as problem:
        name = type(defense).__module__.rpartition(".")[2]
        raise BadOption(f"{name}: {problem.problem}", problem.mend) from problem


def fine_tuned(defense: Any, *others: str) -> bool:
    """Whether a defense trains after it is wrapped: its recipe is looked at then.

    Raises BadOption for epochs below 0, and where there are none for an option that only training uses, one of Recipe's
    or of ``others``, that is not at its default.
    """
    name = type(defense).__module__.rpartition(".")[2]
    require(defense.finetune >= 0, f"{name}(finetune=...)", defense.finetune, "0 or a number of epochs")
    if defense.finetune:
        recipe_of(defense, 0)
        return True
    idle = {f.name for f in fields(Recipe)} | set(others)
    for option in fields(defense):
        if option.name in idle and (value := getattr(defense, option.name)) != option.default:
            said = f"{name}(finetune=0) trains nothing, and so takes no {option.name} ({show(value)} was given)"
            raise BadOption(said, f"Give finetune=5 or so, or leave {option.name} out.")
    return False


def partly(perturb: Perturb, share: float, draws: Draws, memory: Memory) -> Perturb:
    """``perturb`` on that share of the rows, drawn anew every epoch; the others stay as they are.

    How many were perturbed is counted under ``attacked`` in the memory.
    """
    memory.numbers.setdefault("attacked", 0)

    def made(x: Tensor, y: Tensor, ids: Tensor, epoch: int) -> Tensor:
        chosen = draws.uniform(ids, epoch, (1,))[:, 0] < share
        memory.numbers["attacked"] += int(chosen.sum())
        if not bool(chosen.any()):
            return x
        found = perturb(x[chosen], y[chosen], ids[chosen], epoch)
        return x.masked_scatter(chosen.view(-1, *(1,) * (x.dim() - 1)).expand_as(x), found.to(x.dtype))

    return made


@dataclass(slots=True)
class Count:
    """Examples that went forwards and backwards through a model, an attack's included: two of a memory's numbers.

    An answer that averages over noisy copies counts as so many examples.
    """

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
    def of(self, target: Target) -> Iterator[Count]:
        """Count while the block runs. The hook is gone afterwards."""

        def forward(model: nn.Module, _: Any, result: Any) -> None:
            logits = read_head(result, target.output)
            # In train mode a smoothed model is the model on one copy.
            examples = len(logits) * (1 if model.training else target.draws)
            self.memory.numbers["forwards"] = self.forwards + examples

            def backward(_: Tensor) -> None:
                self.memory.numbers["backwards"] = self.backwards + examples

            if logits.requires_grad:
                logits.register_hook(backward)  # type: ignore[no-untyped-call]  # torch leaves it untyped

        handle = target.model.register_forward_hook(forward)
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
    settle: Callable[[], int] | None = None,
    memory: Memory | None = None,
) -> dict[str, Any]:
    """Train every floating-point parameter of the target's model in place; returns the numbers of the training.

    perturb makes the examples to learn from, objective says by what; after_epoch, given the epoch from 1, ends the
    training with its text; settle puts the weights to keep into the model and says of which epoch they are, 0 being
    the given ones. Loss and accuracy are those of that epoch, None of epoch 0. What they remember is in memory, so
    that the training goes on where the material's checkpoint stands. Which parameters require gradients is put back.
    forwards and backwards count examples through the model, those of perturb and after_epoch included.
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
        with count.of(target):
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
    kept = settle() if settle is not None else history.epochs_run
    normalised = any(isinstance(module, _BatchNorm) for module in target.model.modules())
    return {
        "epochs": history.epochs_run,
        "stopped": history.stopped,
        "examples_seen": history.epochs_run * len(split.y),
        "forwards": count.forwards,
        "backwards": count.backwards,
        "kept_epoch": kept,
        "final_loss": history.loss[kept - 1] if kept else None,
        "final_accuracy": history.accuracy[kept - 1] if kept else None,
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
