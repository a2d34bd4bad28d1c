"""Where a gallery hangs: a data set, an architecture, a budget; and the models trained there, each once.

digits_mlp, digits_cnn   scikit-learn's digits, reference networks trained here in seconds
mnist                    MNIST, the reference CNN trained here on 6,000 images
cifar                    CIFAR-10, a wider reference CNN trained here on 5,000 images
resnet20                 CIFAR-10, the ResNet-20 of the shared data, trained by others
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from actsec import models, training
from actsec.data import Dataset, Splits, load, sample
from benchmarks.scenes import Absent, scene, shared_folder

TESTED = 320
"""Test images given to an audit, a fifth of which it keeps for calibration; it attacks the first of the rest."""


@dataclass(frozen=True, slots=True)
class Room:
    """A data set and what is trained on it. images are attacked within linf eps; noise is what small noise means.

    warm: adversarial training starts from the plain weights at a lower rate. From fresh ones it learned on CIFAR-10 to
    say one class to everything, which the audit refused, and which is no honest model to be wrong about.
    """

    name: str
    base: str
    eps: float
    images: int
    epochs: int
    noise: float
    files: tuple[str, str] | None = None
    warm: bool = False

    @property
    def trains(self) -> bool:
        """Whether its networks are trained here."""
        return self.base != "resnet20"


_CIFAR = ("cifar10_train_5k.npz", "cifar10_test_2k.npz")
ROOMS = {
    room.name: room
    for room in (
        Room("digits_mlp", "mlp(width=[64, 64])", eps=0.1, images=150, epochs=20, noise=0.25),
        Room("digits_cnn", "cnn", eps=0.1, images=150, epochs=20, noise=0.25),
        Room("mnist", "cnn", 0.1, 150, 6, 0.25, ("mnist_train_6k.npz", "mnist_test_2k.npz")),
        Room("cifar", "cnn(channels=[32, 64], hidden=128)", 8 / 255, 150, 10, 0.1, _CIFAR, warm=True),
        Room("resnet20", "resnet20", 8 / 255, 100, 0, 0.05, _CIFAR),
    )
}
TRAINED_HERE = tuple(room.name for room in ROOMS.values() if room.trains)
EVERYWHERE = tuple(ROOMS)
EACH_DATA = ("digits_mlp", "mnist", "cifar")
"""One room for each data set, for exhibits that bring their own network: they would be the same in the other room."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A room under one seed: its data, its seed of training and attack, and the folder of what is trained."""

    room: Room
    seed: int
    folder: Path
    train: Dataset
    test: Dataset

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input (channels, height, width)."""
        return tuple(self.train.x.shape[1:])

    @property
    def x(self) -> Tensor:
        """Training images (n, *shape) in [0, 1]."""
        return torch.from_numpy(self.train.x)

    @property
    def y(self) -> Tensor:
        """Their labels (n,)."""
        return torch.from_numpy(self.train.y)

    def untrained(self, activation: str = "relu") -> nn.Module:
        """The room's network with an activation and fresh weights."""
        name, _, options = self.room.base.partition("(")
        rest = options.removesuffix(")")
        text = f"{name}({', '.join(filter(None, (rest, f'activation={activation}')))})"
        return models.build(text, self.shape, 10, self.seed)

    def plain(self, activation: str = "relu") -> nn.Module:
        """The room's network, trained as anyone would; the ResNet-20 as it was given."""
        if not self.room.trains:
            return scene("resnet20", self.folder).model.model
        return self.fitted(f"plain-{activation}", self.untrained(activation))

    def fitted(
        self, key: str, model: nn.Module, perturb: training.Perturb | None = None, **recipe: float | str
    ) -> nn.Module:
        """The model trained by the room's recipe and the changes to it, or its weights where ``key`` is kept."""
        chosen = {"epochs": self.room.epochs, "seed": self.seed, **recipe}
        return self.kept(
            key,
            model,
            lambda: training.fit(model, self.x, self.y, training.Recipe(**chosen), perturb=perturb),  # type: ignore[arg-type]  # options by name
        )

    def hardened(self, key: str, perturb: training.Perturb) -> nn.Module:
        """The room's network, trained on what ``perturb`` makes of the images."""
        if not self.room.warm:
            return self.fitted(key, self.untrained(), perturb)
        return self.fitted(f"{key}-warm", self.plain(), perturb, learning_rate=1e-3)

    def kept(self, key: str, model: nn.Module, fit: Callable[[], object]) -> nn.Module:
        """The model with the weights kept under ``key``, or those that ``fit`` leaves in it, which are kept."""
        path = self.folder / "models" / f"{self.room.name}-{self.seed}-{key}.safetensors"
        if path.exists():
            model.load_state_dict(load_file(path))
            return model.eval()
        fit()
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".")
        os.close(handle)
        save_file({name: value.contiguous().clone() for name, value in model.state_dict().items()}, name)
        Path(name).replace(path)  # whole or absent, whoever else trains the same
        return model.eval()


def stage(name: str, seed: int, folder: Path) -> Stage:
    """The stage of a room's name. Raises Absent where its files are not on this machine."""
    room = ROOMS[name]
    if room.files is None:
        splits = load("digits", seed=seed)
        assert isinstance(splits, Splits)
        assert splits.train is not None
        return Stage(room, seed, folder, splits.train, sample(splits.test, TESTED, seed))
    parts = []
    for file in room.files:
        path = shared_folder() / file
        if not path.exists():
            raise Absent(f"{name} is not there: set ACTSEC_SHARED to the folder that holds data/{file}")
        read = load(str(path))
        assert isinstance(read, Dataset)
        parts.append(read)
    return Stage(room, seed, folder, parts[0], sample(parts[1], TESTED, seed))
