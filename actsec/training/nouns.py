"""What a training is given besides model, data and recipe, and what it gives back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

FINISHED = "finished"


@dataclasses.dataclass(frozen=True, slots=True)
class History:
    """What a training did. Times are not in it: they are a fact about the machine.

    ``loss`` and ``accuracy`` per epoch, over the examples as trained on (perturbed ones under adversarial training) and
    in train mode; ``validation_*`` in eval mode, empty without validation data. ``stopped``: "finished", "patience", or
    the text of the ``after_epoch`` hook. ``kept_epoch`` (from 1): the epoch whose weights the model holds. ``forwards``
    and ``backwards`` count examples through the model, without those of ``perturb`` and ``after_epoch``.
    """

    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    validation_loss: tuple[float, ...]
    validation_accuracy: tuple[float, ...]
    epochs_run: int
    kept_epoch: int
    stopped: str
    forwards: int
    backwards: int


class Perturb(Protocol):
    """An attack inside training: x_adv (n, ...) for a batch, of x's shape and dtype.

    Called with the model in eval mode (batch norm on running statistics, no dropout), its parameters requiring
    gradients as in training; gradients it leaves on them are dropped. ``ids`` (n,) int64, ``epoch`` from 0.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, epoch: int) -> Tensor: ...


class Objective(Protocol):
    """What a batch is learnt by, in place of the cross-entropy of the perturbed examples.

    Given ``ask``, the model in train mode (inputs to logits, n rows each time), the batch x, what ``perturb`` made of
    it and y: the logits (n, C) whose cross-entropy on y is minimised, and a scalar that is added to it.
    """

    def __call__(
        self, ask: Callable[[Tensor], Tensor], x: Tensor, found: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]: ...


Progress = Callable[[int, int, float, float], None]
"""Called after each epoch with (epoch from 1, epochs, loss, accuracy)."""

AfterEpoch = Callable[[nn.Module, int], "bool | str | None"]
"""Called after each epoch with (model in eval mode, epoch from 1); True or a text stops the training."""
