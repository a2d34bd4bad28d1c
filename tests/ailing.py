"""Models ailing from a known cause: a small network on digits, planted so that one thing is wrong with it."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import actsec
from actsec import vital_signs
from actsec.data import Dataset, load
from actsec.flow import gradients
from actsec.vitals import Vitals


@dataclass(frozen=True)
class Planted:
    """A model, the training rows it learned from, and the cause that is true of it."""

    model: nn.Module
    x: Tensor
    cause: str
    scale: float = 1.0


@functools.cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor, Dataset]:
    splits = load("digits")
    return (*(torch.from_numpy(a) for s in (splits.train, splits.test) for a in (s.x, s.y)), splits.train)


def network(seed: int, width: tuple[int, ...] = (64, 64), kind: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(seed)
    sizes = (64, *width)
    layers = [m for a, b in zip(sizes, sizes[1:], strict=False) for m in (nn.Linear(a, b), kind())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], 10))


def trained(model: nn.Module, x: Tensor, seed: int, rate: float, epochs: int, adam: bool = False, **more) -> nn.Module:
    torch.manual_seed(seed + 1000)
    y = digits()[1]
    update = torch.optim.Adam(model.parameters(), rate) if adam else torch.optim.SGD(model.parameters(), rate, **more)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            update.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            update.step()
    return model.eval()


def outlying(x: Tensor, scale: float, seed: int) -> Tensor:
    """One row in a hundred is noise of a thousand times the range, as an unnormalised pipeline would hand it on."""
    draws = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(x), generator=draws)[: len(x) // 100]
    x = x.clone()
    x[rows] = scale * torch.rand(len(rows), *x.shape[1:], generator=draws)
    return x


def plant(ailment: str, seed: int, epochs: int = 6) -> Planted:
    """The model of an ailment; those named ``healthy`` have none."""
    x = digits()[0]
    make, learn = functools.partial(network, seed), functools.partial(trained, seed=seed, epochs=epochs)
    tanh = functools.partial(network, seed, kind=nn.Tanh)
    first = "1"
    if ailment == "rate: sgd 1":
        return Planted(learn(make(), x, rate=1.0), x, "learning rate")
    if ailment == "rate: adam .05":
        return Planted(learn(make(), x, rate=0.05, adam=True), x, "learning rate")
    if ailment == "rate: momentum":
        return Planted(learn(make(), x, rate=0.2, momentum=0.9), x, "learning rate")
    if ailment == "outliers x1000":
        rows = outlying(x, 1000.0, seed)
        return Planted(learn(make(), rows, rate=0.1), rows, "outliers in the training data")
    if ailment == "outliers x100, momentum":
        rows = outlying(x, 100.0, seed)
        return Planted(learn(make(), rows, rate=0.1, momentum=0.9), rows, "outliers in the training data")
    if ailment == "bias before training":
        model = make()
        with torch.no_grad():
            model.get_submodule(first).bias[:32] -= 10
        return Planted(learn(model, x, rate=0.1), x, "bias shift")
    if ailment == "bias tampered":
        model = learn(make(), x, rate=0.1)
        with torch.no_grad():
            model.get_submodule("3").bias[::2] -= 20
        return Planted(model, x, "bias shift")
    if ailment == "narrow":
        return Planted(learn(make(width=(16, 8, 4, 4)), x, rate=0.001, adam=True), x, "dead from birth")
    if ailment == "negative weights":
        model = make()
        with torch.no_grad():
            model.get_submodule(first).weight[:32].abs_().neg_()
        return Planted(learn(model, x, rate=0.1), x, "initialisation")
    if ailment == "tanh: wide weights":
        model = tanh()
        with torch.no_grad():
            for layer in (m for m in model if isinstance(m, nn.Linear)):
                layer.weight *= 12
        return Planted(learn(model, x, rate=0.01), x, "initialisation")
    if ailment == "tanh: rate":
        return Planted(learn(tanh(), x, rate=0.1, adam=True), x, "learning rate")
    if ailment == "tanh: inputs x60":
        return Planted(learn(tanh(), 60 * x, rate=0.001), 60 * x, "scale of the inputs", 60.0)
    if ailment == "tanh: bias":
        model = learn(tanh(), x, rate=0.1)
        with torch.no_grad():
            model.get_submodule("3").bias += 8 * torch.where(torch.arange(64) % 3 > 0, 1.0, 0.0)
        return Planted(model, x, "bias shift")
    if ailment == "healthy: sgd":
        return Planted(learn(make(), x, rate=0.1), x, "")
    if ailment == "healthy: adam":
        return Planted(learn(make(), x, rate=0.001, adam=True), x, "")
    if ailment == "healthy: tanh":
        return Planted(learn(tanh(), x, rate=0.1), x, "")
    raise ValueError(ailment)


AILMENTS = (
    "rate: sgd 1", "rate: adam .05", "rate: momentum", "outliers x1000", "outliers x100, momentum",
    "bias before training", "bias tampered", "narrow", "negative weights",
    "tanh: wide weights", "tanh: rate", "tanh: inputs x60", "tanh: bias",
    "healthy: sgd", "healthy: adam", "healthy: tanh",
)  # fmt: skip


def looked(planted: Planted, given: bool = True, rows: int = 300) -> Vitals:
    """The vitals of a planted model; ``given``: its training rows are."""
    _, _, x, y, train = digits()
    bounds, x = (0.0, planted.scale), planted.scale * x
    target = actsec.load(planted.model, input_shape=tuple(x.shape[1:]), classes=10, bounds=bounds)
    data = dataclasses.replace(train, x=planted.x.numpy()) if given else None
    return vital_signs.vital_signs(target, x[:rows], y[:rows], gradients(target, x[:rows], y[:rows]), data)
