"""What is attacked: a trained model and its test images, by name.

    resnet20                      CIFAR-10, trained by others (shared data)
    mnist_robust                  MNIST, a certified small CNN (shared data)
    digits: cnn(activation=gelu)  a reference model of actsec trained here, on scikit-learn's digits
    resnet20 * 1000               the same model with its logits multiplied: cross-entropy's gradient vanishes

Shared data lies where the environment variable ACTSEC_SHARED says, else in ../shared beside the repository.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from actsec import models, training
from actsec.data import Splits, load

ROOT = Path(__file__).resolve().parent.parent
_SHARED = {
    "resnet20": ("cifar10_resnet20", "cifar10_resnet20.safetensors", "cifar10_test_2k.npz"),
    "mnist_robust": ("mnist_cnn_provably_robust", "mnist_cnn_provably_robust.safetensors", "mnist_test_2k.npz"),
}


class Absent(Exception):
    """The scene's files are not on this machine."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A frozen model in eval mode and its test images x (n, *shape) in [0, 1], y (n,)."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    classes: int

    def first(self, n: int, *, correct: bool = True) -> tuple[Tensor, Tensor]:
        """The first n images in the order of the file, only those classified correctly unless told otherwise."""
        if not correct:
            return self.x[:n], self.y[:n]
        kept: list[int] = []
        for rows in torch.split(torch.arange(len(self.x)), 128):
            with torch.no_grad():
                right = self.model(self.x[rows]).argmax(1) == self.y[rows]
            kept += rows[right.cpu()].tolist()
            if len(kept) >= n:
                break
        return self.x[kept[:n]], self.y[kept[:n]]


class Whole(nn.Module):
    """A model that can only be asked as a whole (ART would call the layers of an nn.Sequential one by one).

    With a factor its logits are multiplied: the same decisions, a saturated softmax.
    """

    def __init__(self, model: nn.Module, factor: float | None = None) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits if self.factor is None else logits * self.factor


def scene(name: str, cache: Path, device: str = "cpu") -> Scene:
    """The scene of that name on a device; models trained here are kept in the folder ``cache``. Raises Absent."""
    plain, _, factor = name.partition(" * ")
    model, x, y, classes = _digits(plain, cache) if plain.startswith("digits: ") else _shared(plain)
    whole = Whole(model, float(factor) if factor else None)
    return Scene(name, whole.eval().requires_grad_(False).to(device), x.to(device), y.to(device), classes)


def parameters(model: nn.Module) -> int:
    """How many numbers the model has learned."""
    return sum(p.numel() for p in model.parameters())


def shared_folder() -> Path:
    """Where the shared data lies, whether or not it does."""
    given = os.environ.get("ACTSEC_SHARED")
    return (Path(given) if given else ROOT.parent / "shared") / "data"


def _shared(name: str) -> tuple[nn.Module, Tensor, Tensor, int]:
    folder = shared_folder()
    function, weights, data = _SHARED[name]
    if not (folder / weights).exists():
        raise Absent(f"{name} is not there: set ACTSEC_SHARED to the folder that holds data/{weights}")
    described = importlib.util.spec_from_file_location("benchmark_models", folder / "models.py")
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    model: nn.Module = getattr(module, function)()
    model.load_state_dict(load_file(folder / weights))
    with np.load(folder / data, allow_pickle=False) as file:
        x, y = torch.from_numpy(file["x"]).float() / 255, torch.from_numpy(file["y"]).long()
    return model, x, y, 10


def _digits(name: str, cache: Path) -> tuple[nn.Module, Tensor, Tensor, int]:
    spec = name.removeprefix("digits: ")
    splits = load("digits")
    assert isinstance(splits, Splits)
    assert splits.train is not None
    model = models.build(spec, splits.train.x.shape[1:], 10, seed=0)
    kept = cache / f"{models.canonical(spec)}.safetensors".replace("/", "_")
    if kept.exists():
        model.load_state_dict(load_file(kept))
    else:
        x, y = torch.from_numpy(splits.train.x), torch.from_numpy(splits.train.y)
        training.fit(model, x, y, training.Recipe())
        cache.mkdir(parents=True, exist_ok=True)
        save_file(dict(model.state_dict()), kept)
    return model, torch.from_numpy(splits.test.x), torch.from_numpy(splits.test.y), 10
