"""The one training loop."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actsec.activations.following import is_activation
from actsec.errors import BadOption, ModelError
from actsec.training.checkpoint import Memory, packed, unpacked
from actsec.training.dropout import dropout
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
from actsec.training.nouns import FINISHED, AfterEpoch, History, Objective, Perturb, Progress
from actsec.training.recipe import Recipe
from actsec.training.updates import SGD, Adam
from actsec.types import Checkpoint


def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    *,
    ids: Tensor | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    perturb: Perturb | None = None,
    objective: Objective | None = None,
    progress: Progress | None = None,
    after_epoch: AfterEpoch | None = None,
    memory: Memory | None = None,
    checkpoint: Checkpoint | None = None,
    device: torch.device | str | None = None,
) -> History:
    """Train ``model`` in place on x (n, ...) float32 and y (n,) int64 by cross-entropy; logits are (n, C).

    Trains the parameters that require gradients, in float32, with the current number of threads, on ``device`` (the
    model's own when None; the model is moved there). ``ids`` (n,) int64 name the rows for ``perturb``: 0..n-1 if None.
    With ``patience``, training stops after so many epochs without a lower validation loss and the weights of the best
    epoch are restored. Afterwards the model is in eval mode and holds no gradients.

    ``checkpoint`` is given the whole state after each epoch, ``memory`` included: what ``perturb`` and ``after_epoch``
    remember. A training that finds its own state there (the same recipe, rows and parameters) goes on from it and ends
    in the same bits; any other state is left unread. The caller's start is then without effect on the weights.

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
        loop = _Loop(model, trained, recipe, place, perturb, objective, memory or Memory(), checkpoint)
        with dropout(model, recipe.dropout):
            return loop.run(x, y, rows, held, progress, after_epoch)


@dataclasses.dataclass(slots=True)
class _Done:
    """What of a training's course is JSON: counters, curves, and the best epoch so far (from 0)."""

    step: int = 0
    forwards: int = 0
    backwards: int = 0
    curve: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    held: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    best: float | None = None
    kept: int = 0
    stopped: str = FINISHED


class _Loop:
    """The state of one training: optimizer, generators and counters."""

    def __init__(
        self,
        model: nn.Module,
        trained: list[nn.Parameter],
        recipe: Recipe,
        place: torch.device,
        perturb: Perturb | None,
        objective: Objective | None,
        memory: Memory,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.model, self.trained, self.recipe, self.place = model, trained, recipe, place
        self.perturb, self.objective, self.memory, self.checkpoint = perturb, objective, memory, checkpoint
        self.optimizer = _optimizer(recipe, model, trained)
        self.order = torch.Generator().manual_seed(key(recipe.seed, "order"))
        self.noise = torch.Generator().manual_seed(key(recipe.seed, "gradient noise"))
        self.done, self.best_state = _Done(), dict[str, Tensor]()

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
        self.resume(len(x))
        done = self.done
        for epoch in range(len(done.curve), recipe.epochs):
            if done.stopped != FINISHED:
                break
            done.curve.append(self.epoch(x, y, rows, epoch))
            model.eval()
            if held is not None:
                self.validate(held, epoch)
            if progress is not None:
                progress(epoch + 1, recipe.epochs, *done.curve[-1])
            verdict = after_epoch(model, epoch + 1) if after_epoch is not None else None
            if verdict:
                done.stopped = verdict if isinstance(verdict, str) else "stopped by after_epoch"
            elif recipe.patience is not None and epoch - done.kept >= recipe.patience:
                done.stopped = "patience"
            self.save(len(x))
        if self.best_state:
            model.load_state_dict(self.best_state)
        else:
            done.kept = len(done.curve) - 1
        model.eval()
        self.drop_gradients()
        loss, accuracy = zip(*done.curve, strict=True)
        held_loss, held_accuracy = zip(*done.held, strict=True) if done.held else ((), ())
        counted = len(done.curve), done.kept + 1, done.stopped, done.forwards, done.backwards
        return History(loss, accuracy, held_loss, held_accuracy, *counted)

    def validate(self, held: tuple[Tensor, Tensor], epoch: int) -> None:
        done = self.done
        done.held.append(evaluate(self.model, *held))
        done.forwards += len(held[0])
        if self.recipe.patience is not None and (done.best is None or done.held[-1][0] < done.best):
            done.best, done.kept = done.held[-1][0], epoch
            self.best_state = {key: value.clone() for key, value in self.model.state_dict().items()}

    def save(self, rows: int) -> None:
        """Hand the state after an epoch to the checkpoint."""
        if self.checkpoint is None:
            return
        numbers = {"of": self.identity(rows), "done": dataclasses.asdict(self.done), "memory": self.memory.numbers}
        generators = {"order": self.order.get_state(), "noise": self.noise.get_state()}
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state(), "generators": generators}
        parts |= {"best": self.best_state, "memory": self.memory.tensors}
        self.checkpoint.save(lambda: packed(numbers, parts))

    def resume(self, rows: int) -> None:
        """Take up the state that the checkpoint holds, if it is of this training."""
        content = None if self.checkpoint is None else self.checkpoint.load()
        if content is None:
            return
        numbers, parts = unpacked(content)
        if numbers["of"] != self.identity(rows):
            return
        self.model.load_state_dict(parts["model"])
        self.optimizer.restore(parts.get("optimizer", {}))
        self.order.set_state(parts["generators"]["order"])
        self.noise.set_state(parts["generators"]["noise"])
        self.best_state = parts.get("best", {})
        self.done = _Done(**numbers["done"])
        for kept, found in ((self.memory.numbers, numbers["memory"]), (self.memory.tensors, parts.get("memory", {}))):
            kept.clear()
            kept.update(found)

    def identity(self, rows: int) -> dict[str, Any]:
        """What a stored state must share with this training, in JSON."""
        shapes = [list(p.shape) for p in self.trained]
        return {"recipe": dataclasses.asdict(self.recipe), "rows": rows, "shapes": shapes}

    def epoch(self, x: Tensor, y: Tensor, rows: Tensor, epoch: int) -> tuple[float, float]:
        """One pass over the data; returns mean loss and accuracy over the examples as they were trained on."""
        parts = batches(torch.randperm(len(x), generator=self.order), self.recipe.batch_size)
        loss, correct = torch.zeros(2, dtype=torch.float64, device=self.place)
        for index in parts:
            at = index.to(self.place)
            where = f"epoch {epoch + 1}, update {self.done.step + 1}"
            batch_loss, hits = self.update(x[at], y[at], rows[at], epoch, where, len(parts) * self.recipe.epochs)
            loss += batch_loss.double() * len(at)
            correct += hits
        values = [*self.model.parameters(), *self.model.buffers()]
        if not all(bool(value.isfinite().all()) for value in values if value.is_floating_point()):
            raise self.diverged(f"a weight or buffer is not finite after epoch {epoch + 1}")
        return float(loss) / len(x), float(correct) / len(x)

    def update(self, x: Tensor, y: Tensor, rows: Tensor, epoch: int, where: str, steps: int) -> tuple[Tensor, Tensor]:
        recipe, model, step, found = self.recipe, self.model, self.done.step, x
        if self.perturb is not None:
            model.eval()
            reseed(self.place, key(recipe.seed, f"perturb {step}"))
            found = self.perturb(model, x, y, rows, epoch).detach()
        model.train()
        self.drop_gradients()
        reseed(self.place, key(recipe.seed, f"update {step}"))
        loss, logits = self.loss(x, found, y)
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
        self.optimizer.step(recipe.rate(step, steps))
        self.done.step += 1
        return loss.detach(), (logits.argmax(1) == y).sum()

    def loss(self, x: Tensor, found: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised, and the logits (n, C) that the batch's accuracy is told by."""

        def ask(given: Tensor) -> Tensor:
            self.done.forwards += len(given)
            self.done.backwards += len(given)
            return logits_of(self.model, given, y)

        recipe = self.recipe
        logits, more = (ask(found), None) if self.objective is None else self.objective(ask, x, found, y)
        loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
        if recipe.confidence_penalty:
            loss = loss - recipe.confidence_penalty * entropy(logits).mean()
        if recipe.logit_penalty:
            loss = loss + recipe.logit_penalty * logits.square().mean()
        return loss if more is None else loss + more, logits

    def noise_like(self, gradient: Tensor) -> Tensor:
        """Drawn on the CPU, so that every device sees the same noise."""
        drawn = torch.randn(gradient.shape, generator=self.noise, dtype=gradient.dtype)
        return drawn.to(gradient.device) * self.recipe.noise_std(self.done.step)

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


def entropy(logits: Tensor) -> Tensor:
    """The entropy of softmax(logits) a row (n,), in nats."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def _optimizer(recipe: Recipe, model: nn.Module, trained: list[nn.Parameter]) -> Adam | SGD:
    learned = {id(p) for module in model.modules() if is_activation(module) for p in module.parameters()}
    decays = [recipe.activation_decay if id(p) in learned else recipe.weight_decay for p in trained]
    if recipe.optimizer == "adam":
        return Adam(trained, decays)
    return SGD(trained, recipe.momentum, decays)
