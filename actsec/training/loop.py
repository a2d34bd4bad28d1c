"""The one training loop."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actsec.errors import BadOption, ModelError
from actsec.training.evaluating import (
    batches,
    checked,
    evaluate,
    key,
    logits_of,
    place_of,
    plain_float32,
    private_draws,
    reseed,
)
from actsec.training.recipe import Recipe
from actsec.training.updates import SGD, Adam


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


Progress = Callable[[int, int, float, float], None]
"""Called after each epoch with (epoch from 1, epochs, loss, accuracy)."""

AfterEpoch = Callable[[nn.Module, int], "bool | str | None"]
"""Called after each epoch with (model in eval mode, epoch from 1); True or a text stops the training."""


def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    *,
    ids: Tensor | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    perturb: Perturb | None = None,
    progress: Progress | None = None,
    after_epoch: AfterEpoch | None = None,
    device: torch.device | str | None = None,
) -> History:
    """Train ``model`` in place on x (n, ...) float32 and y (n,) int64 by cross-entropy; logits are (n, C).

    Trains the parameters that require gradients, in float32, with the current number of threads, on ``device`` (the
    model's own when None; the model is moved there). ``ids`` (n,) int64 name the rows for ``perturb``: 0..n-1 if None.
    With ``patience``, training stops after so many epochs without a lower validation loss and the weights of the best
    epoch are restored. Afterwards the model is in eval mode and holds no gradients.

    Raises ModelError, naming epoch and step, when the loss, the gradient, a parameter or a buffer stops being finite
    (the update is not made), when nothing can be trained, or when the logits do not fit the labels; DataError on data
    that does not fit. Cost: n forwards and n backwards an epoch, n_validation forwards more with validation data.
    """
    place = place_of(model, device)
    model.to(place)
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ModelError("no parameter of the model requires gradients", "Call model.requires_grad_(True) on a copy.")
    if recipe.patience is not None and validation is None:
        raise BadOption(f"patience={recipe.patience} needs validation data", "Give validation=(x, y) or patience=none.")
    x, y = checked(x, y, place)
    held = checked(*validation, place) if validation is not None else None
    rows = torch.arange(len(x), device=place) if ids is None else ids.to(place)
    with private_draws(place), plain_float32(place), torch.enable_grad():
        return _Loop(model, trained, recipe, perturb, place).run(x, y, rows, held, progress, after_epoch)


class _Loop:
    """The state of one training: optimizer, generators and counters."""

    def __init__(
        self,
        model: nn.Module,
        trained: list[nn.Parameter],
        recipe: Recipe,
        perturb: Perturb | None,
        place: torch.device,
    ) -> None:
        self.model, self.trained, self.recipe, self.perturb, self.place = model, trained, recipe, perturb, place
        self.optimizer = _optimizer(recipe, trained)
        self.order = torch.Generator().manual_seed(key(recipe.seed, "order"))
        self.noise = torch.Generator().manual_seed(key(recipe.seed, "gradient noise"))
        self.step = self.forwards = self.backwards = 0

    def run(
        self,
        x: Tensor,
        y: Tensor,
        rows: Tensor,
        held: tuple[Tensor, Tensor] | None,
        progress: Progress | None,
        after_epoch: AfterEpoch | None,
    ) -> History:
        recipe, model = self.recipe, self.model
        curve: list[tuple[float, float]] = []
        held_curve: list[tuple[float, float]] = []
        best, kept, stopped = math.inf, 0, "finished"
        best_state: dict[str, Tensor] = {}
        for epoch in range(recipe.epochs):
            curve.append(self.epoch(x, y, rows, epoch))
            model.eval()
            if held is not None:
                held_curve.append(evaluate(model, *held))
                self.forwards += len(held[0])
            if progress is not None:
                progress(epoch + 1, recipe.epochs, *curve[-1])
            if recipe.patience is not None and held_curve[-1][0] < best:
                best, kept = held_curve[-1][0], epoch
                best_state = {key: value.clone() for key, value in model.state_dict().items()}
            verdict = after_epoch(model, epoch + 1) if after_epoch is not None else None
            if verdict:
                stopped = verdict if isinstance(verdict, str) else "stopped by after_epoch"
                break
            if recipe.patience is not None and epoch - kept >= recipe.patience:
                stopped = "patience"
                break
        if best_state:
            model.load_state_dict(best_state)
        else:
            kept = len(curve) - 1
        model.eval()
        self.drop_gradients()
        loss, accuracy = zip(*curve, strict=True)
        held_loss, held_accuracy = zip(*held_curve, strict=True) if held_curve else ((), ())
        return History(
            loss, accuracy, held_loss, held_accuracy, len(curve), kept + 1, stopped, self.forwards, self.backwards
        )

    def epoch(self, x: Tensor, y: Tensor, rows: Tensor, epoch: int) -> tuple[float, float]:
        """One pass over the data; returns mean loss and accuracy over the examples as they were trained on."""
        parts = batches(torch.randperm(len(x), generator=self.order), self.recipe.batch_size)
        loss, correct = torch.zeros(2, dtype=torch.float64, device=self.place)
        for index in parts:
            at = index.to(self.place)
            where = f"epoch {epoch + 1}, update {self.step + 1}"
            batch_loss, hits = self.update(x[at], y[at], rows[at], epoch, where, len(parts) * self.recipe.epochs)
            loss += batch_loss.double() * len(at)
            correct += hits
        values = [*self.model.parameters(), *self.model.buffers()]
        if not all(bool(value.isfinite().all()) for value in values if value.is_floating_point()):
            raise self.diverged(f"a weight or buffer is not finite after epoch {epoch + 1}")
        return float(loss) / len(x), float(correct) / len(x)

    def update(self, x: Tensor, y: Tensor, rows: Tensor, epoch: int, where: str, steps: int) -> tuple[Tensor, Tensor]:
        recipe, model = self.recipe, self.model
        if self.perturb is not None:
            model.eval()
            reseed(self.place, key(recipe.seed, f"perturb {self.step}"))
            x = self.perturb(model, x, y, rows, epoch).detach()
        model.train()
        self.drop_gradients()
        reseed(self.place, key(recipe.seed, f"update {self.step}"))
        logits = logits_of(model, x, y)
        loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
        if not math.isfinite(float(loss.detach())):
            raise self.diverged(f"the loss is {float(loss.detach())} at {where}")
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        gradients = [p.grad for p in self.trained if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not math.isfinite(float(norm)):
            raise self.diverged(f"the gradient's norm is {float(norm)} at {where}")
        if recipe.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.trained, recipe.clip_norm, norm)
        if recipe.gradient_noise:  # after clipping, so that its variance is the stated one
            for gradient in gradients:
                gradient.add_(self.noise_like(gradient))
        self.optimizer.step(recipe.rate(self.step, steps))
        self.step += 1
        self.forwards += len(x)
        self.backwards += len(x)
        return loss.detach(), (logits.argmax(1) == y).sum()

    def noise_like(self, gradient: Tensor) -> Tensor:
        """Drawn on the CPU, so that every device sees the same noise."""
        drawn = torch.randn(gradient.shape, generator=self.noise, dtype=gradient.dtype)
        return drawn.to(gradient.device) * self.recipe.noise_std(self.step)

    def drop_gradients(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None

    def diverged(self, what: str) -> ModelError:
        """The gradients are dropped; the weights are those before the update that was not made."""
        self.model.eval()
        self.drop_gradients()
        lower = self.recipe.learning_rate / 10
        return ModelError(
            f"training diverged: {what}",
            f"Lower learning_rate (to {lower:g}, say), set clip_norm=1, or check the range of the inputs.",
        )


def _optimizer(recipe: Recipe, trained: list[nn.Parameter]) -> Adam | SGD:
    if recipe.optimizer == "adam":
        return Adam(trained, recipe.weight_decay)
    return SGD(trained, recipe.momentum, recipe.weight_decay)
