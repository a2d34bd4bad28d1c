"""Running a model over data outside the audit: checks, batches, accuracy, and draws that leave no trace."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actsec.errors import DataError, ModelError


def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 512) -> float:
    """The share of rows of x (n, ...) whose largest logit is y's, in eval mode. Cost: n forwards.

    Leaves the model's train flags and the global random state as they were; a stochastic model is drawn from seed 0.
    """
    place = place_of(model, None)
    x, y = checked(x, y, place)
    with modes_kept(model), private_draws(place):
        model.eval()
        reseed(place, 0)
        return evaluate(model, x, y, batch_size)[1]


def evaluate(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 512) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on checked data, in the mode the model is in."""
    loss, correct = 0.0, 0
    with torch.no_grad():
        for at in range(0, len(x), batch_size):
            labels = y[at : at + batch_size]
            logits = logits_of(model, x[at : at + batch_size], labels)
            loss += float(F.cross_entropy(logits, labels, reduction="sum").double())
            correct += int((logits.argmax(1) == labels).sum())
    return loss / len(x), correct / len(x)


def logits_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """model(x) as (n, C) with a column for every label, or ModelError."""
    logits = model(x)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"the model returns {found} for {len(x)} inputs", "Training needs logits of shape (n, C).")
    if int(y.max()) >= logits.shape[1]:
        raise DataError(
            f"label {int(y.max())} is outside the model's {logits.shape[1]} classes",
            f"Give labels 0 to {logits.shape[1] - 1}, or a model of more classes.",
        )
    return logits


def checked(x: Tensor, y: Tensor, place: torch.device) -> tuple[Tensor, Tensor]:
    """x as float32 and y as int64 on ``place``, or DataError."""
    x, y = inputs_of(x, place), torch.as_tensor(y)
    if y.ndim != 1 or y.is_floating_point() or y.is_complex() or len(y) != len(x):
        raise DataError(
            f"labels of shape {tuple(y.shape)} and type {y.dtype} for {len(x)} inputs", "Give (n,) class numbers."
        )
    if int(y.min()) < 0:
        raise DataError(f"label {int(y.min())} is negative", "Give labels 0, 1, 2, ...")
    return x, y.to(place, torch.int64)


def inputs_of(x: Tensor, place: torch.device) -> Tensor:
    """x as float32 on ``place``, or DataError."""
    x = torch.as_tensor(x)
    if not len(x):
        raise DataError("there are no examples", "Give at least one.")
    if not x.is_floating_point():
        raise DataError(f"inputs of type {x.dtype}", "Give floats in input units; actsec.data scales integers.")
    return x.to(place, torch.float32)


def batches(order: Tensor, size: int) -> list[Tensor]:
    """``order`` cut into batches of ``size``; a last batch of one joins the one before, for batch norm's sake."""
    pieces = list(torch.split(order, size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces


def key(seed: int, name: str) -> int:
    """A 63-bit seed of its own for every (seed, name)."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8], "big") >> 1


def reseed(place: torch.device, seed: int) -> None:
    """Seed the generators that a model on ``place`` draws from, and no others."""
    torch.default_generator.manual_seed(seed)
    if place.type == "cuda":
        with torch.cuda.device(place):
            torch.cuda.manual_seed(seed)
    elif place.type != "cpu":
        torch.get_device_module(place).manual_seed(seed)


def place_of(model: nn.Module, device: torch.device | str | None) -> torch.device:
    """``device``, or where the model's first parameter or buffer is."""
    if device is not None:
        return torch.device(device)
    first = next(model.parameters(), next(model.buffers(), None))
    return first.device if first is not None else torch.device("cpu")


@contextlib.contextmanager
def private_draws(place: torch.device) -> Iterator[None]:
    """Restore the global random state of the CPU and of ``place`` at the end."""
    if place.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            yield
        return
    index = place.index if place.index is not None else torch.get_device_module(place).current_device()
    with torch.random.fork_rng(devices=[index], device_type=place.type):
        yield


@contextlib.contextmanager
def plain_float32(place: torch.device) -> Iterator[None]:
    """True float32 and repeatable kernels: no autocast, no TF32, deterministic cuDNN."""
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    try:
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = False, False, True
        with torch.autocast(place.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Restore every submodule's train flag at the end."""
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
