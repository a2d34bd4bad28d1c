"""Questions asked of a model before any attack, to learn whether its numbers are about what its owner thinks.

A wrong normalisation, labels off by one, a softmax at the end or a dead network all give a robustness number, and it
means nothing. Each has its own message here, with the option that mends it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from actsec.data.streamed import Inputs, Streamed
from actsec.errors import BadOption, DataError, Guessing, ModelError, NoVerdict
from actsec.loading.fitting import check_finite
from actsec.loading.normalizing import show_normalization
from actsec.result import Share
from actsec.running.readings import BYTES, alternatives, readings, stop_if_better
from actsec.search.oracle import frozen
from actsec.target import raw_head, settle
from actsec.types import Normalization, Target
from actsec.verdict.statistics import share

BUDGET = 4e10
"""Floating-point operations a preflight may spend: about two seconds on two cores."""
MOST, LEAST = 256, 32
_CHUNK = 32
AVERAGED = "the model gives other outputs when asked again: it is attacked and judged by averages"


@dataclass(frozen=True, slots=True)
class Preflight:
    """What the look found.

    target has its shape, classes and ``stochastic`` filled in; accuracy is on accuracy.n evenly spaced examples; others
    are the accuracies under other normalisations on the same examples, by the text of ``--normalize``; notes are for
    the user to read, warnings among them.
    """

    target: Target
    accuracy: Share
    others: tuple[tuple[str, Share], ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def preflight(
    target: Target,
    x: Tensor | Inputs,
    y: Tensor | NDArray[np.int64],
    *,
    expect_accuracy: float | None = None,
    other_normalizations: Sequence[str | Normalization | None] | None = None,
) -> Preflight:
    """Check the target on inputs x (n, *shape) and labels y (n,); 32 to 256 evenly spaced rows, by the model's cost.

    Raises, in this order: DataError (labels, range, NaN inputs), ModelError (shape, classes, regression), NoVerdict
    (NaN weights or logits, a constant output), ModelError (probabilities instead of logits, a clearly better
    normalisation), DataError (labels off by one), NoVerdict (accuracy no better than chance, or below what its owner
    expects). An expected accuracy that is reached says that nothing was mistaken, and no other reading stops it. Costs
    about four forwards a row and never a gradient. The model is left as it was.
    """
    labels = _labels(torch.as_tensor(y))
    # What is streamed was 8-bit values, so that a few rows tell the range of all.
    inputs = torch.from_numpy(x[:MOST]) if isinstance(x, Streamed) else torch.as_tensor(x)
    _check_inputs(target, inputs, labels[: len(inputs)] if isinstance(x, Streamed) else labels)
    check_finite(target.model)
    target = settle(target, inputs)
    _check_labels(labels, target.classes)
    rows = torch.linspace(0, len(x) - 1, min(_rows(target, inputs[:1]), len(x))).round().long()
    picked = torch.from_numpy(x[rows.numpy()]) if isinstance(x, Streamed) else inputs[rows]
    sample, truth = picked.to(target.device, torch.float32), labels[rows].numpy()
    warnings = [*_range(target, sample), *_batch_statistics(target.model), *_one_class(labels, target.classes)]
    with frozen(target.model), torch.inference_mode():
        heads = _heads(target, sample)
        logits = _logits(heads)
        _check_outputs(heads, sample)
        warnings += _doubts(heads)
        again = _heads(target, sample[:_CHUNK])
        stochastic = not _same(again, heads[: len(again)])
        if not stochastic and not _alone_as_together(target, sample, heads):
            warnings.append("an example's output depends on the others in its batch: attacks on one move the rest")
        decided = _decide(target, logits)
        # by the largest logit: on inputs of another scale a threshold would compare confidence
        plain = target.having(threshold=None)
        largest = _decide(plain, logits)
        others = {
            name: _decide(plain, _logits(_heads(target.having(normalization=other), sample)))
            for name, other in alternatives(target, other_normalizations)
        }
    if stochastic or target.stochastic:
        warnings.append(f"{AVERAGED}{_training(target.model)}")
        target = target.having(stochastic=True)
    measured = share(int((decided == truth).sum()), len(truth))
    # A model that draws at random may seem to read better when its inputs are scaled: only its noise is scaled away.
    if not target.stochastic and (expect_accuracy is None or measured.high < expect_accuracy):
        stop_if_better(largest == truth, readings(target, largest, truth, others))
    warnings += _against_chance(measured, decided, truth, target.classes)
    if expect_accuracy is not None:
        check_expected(measured, expect_accuracy)
    shares = tuple((name, share(int((found == truth).sum()), len(truth))) for name, found in others.items())
    return Preflight(target, measured, shares, _notes(target, measured, shares, warnings), tuple(warnings))


def check_expected(measured: Share, expected: float) -> None:
    """Raises NoVerdict when the whole 95 % interval of the measured accuracy lies below what the owner expects."""
    if not 0 < expected <= 1:
        raise BadOption(f"expect_accuracy={expected:g} is not a share", "Write 0.93 for 93 %.")
    if measured.high < expected:
        raise NoVerdict(
            f"clean accuracy is {_percent(measured)}, and {expected:.1%} is expected",
            "Preprocessing, weights or labels are not those the figure was measured with: mend them first.",
        )


def _labels(y: Tensor) -> Tensor:
    if y.dim() == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dim() != 1:
        raise DataError(f"labels have shape {tuple(y.shape)}", "Give one class number an example, not one-hot rows.")
    if y.is_floating_point():
        if not bool((y == y.round()).all()):
            raise DataError(
                f"labels such as {float(y[y != y.round()][0]):g} are measurements: actsec audits classifiers, not "
                "regression models",
                "Give class numbers 0, 1, 2, ...",
            )
        y = y.round()
    return y.to("cpu", torch.int64)


def _check_inputs(target: Target, x: Tensor, y: Tensor) -> None:
    if len(x) == 0:
        raise DataError("there are no examples", "Give at least one.")
    if len(x) != len(y):
        raise DataError(f"there are {len(x)} inputs and {len(y)} labels", "Give one label an input.")
    if not bool(torch.isfinite(x).all()):
        raise DataError("inputs contain NaN or infinity", "Clean the data first.")
    low, high = target.bounds
    least, most = float(x.min()), float(x.max())
    slack = 1e-6 * (high - low)
    if least < low - slack or most > high + slack:
        found = f"inputs lie in [{least:g}, {most:g}], the model was declared for [{low:g}, {high:g}]"
        if (low, high) == (0.0, 1.0) and least >= 0 and 1 < most <= 255:
            raise DataError(f"{found}: these are 0-255 images", "Divide them by 255, or give --bounds 0,255.")
        raise DataError(found, f"Rescale the data, or state its range: --bounds {least:g},{most:g}.")


def _check_labels(y: Tensor, classes: tuple[str, ...]) -> None:
    least, most = int(y.min()), int(y.max())
    if least < 0 or most >= len(classes):
        mend = f"Labels run from 0 to {len(classes) - 1}."
        if least == 1 and most == len(classes):
            mend += " These begin at 1: subtract 1."
        raise DataError(f"labels run from {least} to {most}, the model tells {len(classes)} classes apart", mend)


class _Work(TorchFunctionMode):
    """Adds up the arithmetic of a pass: an output value costs a product with one row of its weight, and one more.

    torch's own counter would be exact and imports its compiler, two seconds; the order of magnitude is enough here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        out = func(*args, **named)
        first = out[0] if isinstance(out, tuple) and out else out
        if isinstance(first, Tensor):
            weights = [w for w in (*args, *named.values()) if isinstance(w, nn.Parameter) and w.dim() > 1]
            self.total += first.numel() * (1 + sum(2 * w.numel() // max(len(w), 1) for w in weights))
        return out


def _rows(target: Target, one: Tensor) -> int:
    """How many rows the budget allows: the model's operations for one row, counted, shared among four passes."""
    with frozen(target.model), torch.no_grad(), _Work() as work:
        raw_head(target, one.to(target.device, torch.float32))
    return int(min(max(BUDGET / 4 / max(work.total, 1), LEAST), MOST))


def _heads(target: Target, x: Tensor) -> Tensor:
    """What the model returns, (n, classes) or (n, 1): in equal chunks, the last one filled up with its first row."""
    pieces = []
    for start in range(0, len(x), _CHUNK):
        piece = x[start : start + _CHUNK]
        filled = torch.cat([piece, piece[:1].expand(_CHUNK - len(piece), *piece.shape[1:])])
        pieces.append(raw_head(target, filled)[: len(piece)].float())
    heads = torch.cat(pieces)
    return heads.unsqueeze(1) if heads.dim() == 1 else heads


def _logits(heads: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(heads), heads], 1) if heads.shape[1] == 1 else heads


def _decide(target: Target, logits: Tensor) -> NDArray[np.int64]:
    decided: NDArray[np.int64] = target.decide(logits).cpu().numpy()
    return decided


def _check_outputs(heads: Tensor, x: Tensor) -> None:
    """The outputs are finite, differ between inputs, and are logits."""
    bad = ~torch.isfinite(heads).all(1)
    if bool(bad.any()):
        raise NoVerdict(
            f"the model returns NaN or infinity for {int(bad.sum())} of {len(heads)} examples",
            "Look for overflow, log(0) or a division by zero in its forward; attacks cannot be judged on it.",
        )
    different = len(x) > 1 and bool((x != x[:1]).any())
    if different and bool((heads == heads[:1]).all()):
        raise Guessing(
            "the model returns the same output for every example: it does not see its input",
            "Dead activations, zero weights or a wrong input scale do that; no attack can be judged on it.",
        )
    mend = "Drop the last softmax or sigmoid, or name the field that holds the logits with --output."
    inside = bool(((heads >= 0) & (heads <= 1)).all())
    if heads.shape[1] > 1 and inside and bool(((heads.sum(1) - 1).abs() < 1e-3).all()):
        raise ModelError("the model returns probabilities (softmax outputs); attacks and calibration need logits", mend)
    if heads.shape[1] == 1 and inside and len(heads) > 1:
        raise ModelError(
            "the model returns a probability (sigmoid output); attacks and calibration need its logit", mend
        )


def _doubts(heads: Tensor) -> list[str]:
    if heads.shape[1] > 1 and bool(((heads >= 0) & (heads <= 1)).all()):
        return ["every output lies in [0, 1]: if these are sigmoid outputs, give the values before the sigmoid"]
    return []


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit on the CPU; accelerators add in no fixed order."""
    if a.device.type == "cpu":
        return torch.equal(a, b)
    return bool(torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max())))


def _alone_as_together(target: Target, x: Tensor, heads: Tensor) -> bool:
    """Whether the first row keeps its output when the rest of its batch is replaced."""
    company = x[-1:].expand(_CHUNK - 1, *x.shape[1:])
    alone = raw_head(target, torch.cat([x[:1], company]))[:1].float().reshape(1, -1)
    return bool(torch.allclose(alone, heads[:1], rtol=1e-3, atol=1e-4 * max(float(heads.abs().max()), 1e-6)))


def _range(target: Target, x: Tensor) -> list[str]:
    low, high = target.bounds
    least, most = float(x.min()), float(x.max())
    if most - least < (high - low) / 50:
        return [f"inputs use [{least:g}, {most:g}] of the declared [{low:g}, {high:g}]: is their scale right?"]
    return []


def _batch_statistics(model: nn.Module) -> list[str]:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    found = [n for n, module in model.named_modules() if isinstance(module, kinds) and module.running_mean is None]
    if not found:
        return []
    return [f"{found[0]} keeps no running statistics and normalises by the batch, in eval mode too"]


def _one_class(y: Tensor, classes: tuple[str, ...]) -> list[str]:
    if len(classes) > 1 and int(y.min()) == int(y.max()):
        return [f"every label is {classes[int(y[0])]!r}: the other {len(classes) - 1} classes are not tested"]
    return []


def _training(model: nn.Module) -> str:
    """Which modules stay in training mode where the model was put in eval mode: the first, in words."""
    with frozen(model):
        kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)  # noqa: SLF001  # no public parent
        left = [
            f"{name} ({type(m).__name__})" for name, m in model.named_modules() if m.training and isinstance(m, kinds)
        ]
    return f"; {left[0]} stays in training mode in spite of eval(): is that meant?" if left else ""


def _against_chance(
    measured: Share, decided: NDArray[np.int64], y: NDArray[np.int64], classes: tuple[str, ...]
) -> list[str]:
    """NoVerdict when guessing does as well: at most 1 / classes, or not above it by a one-sided 5 % binomial test."""
    mend = "Check weights, preprocessing and class order; an audit of a guessing model says nothing."
    if len(set(y.tolist())) > 1 and len(set(decided.tolist())) == 1:
        raise Guessing(f"the model says {classes[int(decided[0])]!r} to all of {len(y)} examples", mend)
    guess = 1 / len(classes)
    p = sum(
        math.comb(measured.n, k) * guess**k * (1 - guess) ** (measured.n - k) for k in range(measured.k, measured.n + 1)
    )
    if measured.value <= guess or (p >= 0.05 and measured.n >= LEAST):
        raise Guessing(f"clean accuracy is {_percent(measured)}, no better than guessing ({guess:.1%})", mend)
    if p >= 0.05:
        return [f"{measured.n} examples are too few to tell {_percent(measured)} from guessing ({guess:.1%})"]
    return []


def _notes(
    target: Target, measured: Share, others: tuple[tuple[str, Share], ...], warnings: list[str]
) -> tuple[str, ...]:
    own = show_normalization(target.normalization)
    compared = "".join(
        f", {found.value:.1%} with {'values of 0-255' if name == show_normalization(BYTES) else name}"
        for name, found in others
    )
    twice = [found for name, found in others if name == "none" and found.value > measured.value]
    if twice:
        warnings = [f"{twice[0].value:.1%} without normalisation: does the model normalise by itself?", *warnings]
    return (f"clean accuracy {_percent(measured)} with normalisation {own}{compared}", *warnings)


def _percent(measured: Share) -> str:
    return f"{measured.value:.1%} ({measured.k} of {measured.n})"
