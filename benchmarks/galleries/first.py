"""The first gallery: what the battery's thresholds were chosen on. Issue 4 names its models."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.galleries.exhibits import Exhibit
from benchmarks.galleries.learning import Cooled, fit_soft, noise, pgd, soft_labels
from benchmarks.galleries.nets import KWTA, normalised, replaced
from benchmarks.galleries.rooms import TRAINED_HERE, Stage
from benchmarks.galleries.tricks import (
    BackwardNoise,
    Before,
    Jpeg,
    Median,
    Noisy,
    Quantised,
    Scaled,
    Smoothed,
    Squeezing,
    Standardised,
    ThroughNumpy,
    Ungraded,
)
from benchmarks.scenes import scene

DISTILLED_AT = 40.0


def _behind(stage: Stage, key: str, step: nn.Module) -> nn.Module:
    """A network trained behind the step; the ResNet-20 gets it put in front of what it learned."""
    if not stage.room.trains:
        return Before(step, stage.plain())
    return stage.fitted(key, Before(step, stage.untrained()))


def _distilled(stage: Stage) -> nn.Module:
    """Papernot et al. (2016): teacher and student are trained at a temperature that is gone when the student serves."""
    student = stage.untrained()

    def fit() -> None:
        teacher = stage.fitted("teacher", Cooled(stage.untrained(), DISTILLED_AT), epochs=3 * stage.room.epochs)
        soft = soft_labels(teacher, stage.x)
        fit_soft(Cooled(student, DISTILLED_AT), stage.x, soft, 3 * stage.room.epochs, stage.seed)

    return stage.kept("student", student, fit)


def _detector(stage: Stage) -> nn.Module:
    """A twentieth of clean training images are turned away."""
    model = Squeezing(stage.plain().eval())
    with torch.no_grad():
        model.limit = float(model.moved(stage.x[:1000]).quantile(0.95))
    return model


def _no_grad_scaler(stage: Stage) -> nn.Module:
    if stage.room.trains:
        step = Ungraded(Standardised(float(stage.train.x.mean()), float(stage.train.x.std())))
        return _behind(stage, "scaler", step)
    model = stage.plain()
    model.normalize = Ungraded(model.normalize)  # type: ignore[arg-type]  # its own normalisation, a module
    return model


FRAUDS = (
    Exhibit("logits_x100", "fraud", "logits times 100", lambda s: Scaled(s.plain(), 100)),
    Exhibit("logits_x1000", "fraud", "logits times 1000", lambda s: Scaled(s.plain(), 1000)),
    Exhibit("temperature_0.001", "fraud", "logits divided by T = 0.001", lambda s: Cooled(s.plain(), 0.001)),
    Exhibit("distilled", "fraud", "defensive distillation at T = 40, served at T = 1", _distilled, rooms=TRAINED_HERE),
    Exhibit("backward_noise_10", "fraud", "ten parts of noise in the gradient", lambda s: BackwardNoise(s.plain(), 10)),
    Exhibit("backward_noise_100", "fraud", "a hundred parts of noise in it", lambda s: BackwardNoise(s.plain(), 100)),
    Exhibit(
        "kwta",
        "fraud",
        "k-winners-take-all in place of relu, a tenth of the units",
        lambda s: s.fitted("kwta", replaced(s.untrained(), nn.ReLU, KWTA)),
        rooms=TRAINED_HERE,
    ),
    Exhibit("quantised_4", "fraud", "input rounded to 4 levels", lambda s: Before(Quantised(4), s.plain())),
    Exhibit("quantised_8", "fraud", "input rounded to 8 levels", lambda s: Before(Quantised(8), s.plain())),
    Exhibit(
        "bit_depth_straight",
        "fraud",
        "input rounded to 3 bits, with the gradient of the identity",
        lambda s: Before(Quantised(8, straight=True), s.plain()),
    ),
    Exhibit("jpeg", "fraud", "JPEG's rounding in front", lambda s: _behind(s, "jpeg", Jpeg())),
    Exhibit("median_no_grad", "fraud", "a 3x3 median without gradient", lambda s: _behind(s, "median", Median())),
    Exhibit("no_grad_scaler", "fraud", "inputs standardised under no_grad", _no_grad_scaler),
    Exhibit("numpy_round_trip", "fraud", "inputs through numpy", lambda s: Before(ThroughNumpy(), s.plain())),
    Exhibit("detector", "fraud", "abstains by feature squeezing, yes or no", _detector),
    Exhibit(
        "noisy_input",
        "fraud",
        "noise on the input, trained with it where trained here",
        lambda s: (
            s.fitted("noisy", Noisy(s.untrained(), s.room.noise)) if s.room.trains else Noisy(s.plain(), s.room.noise)
        ),
        ("randomised",),
    ),
)

HONEST = (
    Exhibit("relu", "honest", "the room's network; the ResNet-20 as it was given", lambda s: s.plain()),
    *(
        Exhibit(name, "honest", f"the same with {name}", lambda s, name=name: s.plain(name), rooms=TRAINED_HERE)
        for name in ("tanh", "gelu", "silu", "relu6", "sigmoid")
    ),
    Exhibit(
        "adversarial",
        "honest",
        "trained on 5 steps of PGD within eps",
        lambda s: s.hardened("adversarial", pgd(s.room.eps)),
        rooms=TRAINED_HERE,
    ),
    Exhibit(
        "smoothed",
        "honest",
        "randomised smoothing of a network trained on noise",
        lambda s: Smoothed(s.fitted("noise", s.untrained(), noise(s.room.noise)), s.room.noise),
        ("randomised",),
        rooms=TRAINED_HERE,
        images=50,
    ),
    Exhibit(
        "provable",
        "honest",
        "the provably robust CNN of Wong & Kolter (2018), trained by others",
        lambda s: scene("mnist_robust", s.folder).model.model,
        rooms=("mnist",),
    ),
    Exhibit(
        "batch_norm_dropout",
        "honest",
        "batch norm and dropout, in eval mode",
        lambda s: s.fitted("normalised", normalised(s)),
        rooms=TRAINED_HERE,
    ),
    Exhibit("temperature_2", "honest", "logits divided by 2", lambda s: Cooled(s.plain(), 2)),
    Exhibit(
        "label_smoothing",
        "honest",
        "trained with label smoothing 0.1",
        lambda s: s.fitted("label-smoothing", s.untrained(), label_smoothing=0.1),
        rooms=TRAINED_HERE,
    ),
)

FIRST = (*FRAUDS, *HONEST)
