"""Networks that the reference models do not offer, for images (channels, height, width) and ten classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.galleries.rooms import Stage


def built(stage: Stage, make: Callable[[], nn.Module]) -> nn.Module:
    """What ``make`` builds from the stage's seed, with the global random state left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.seed)
        return make()


def replaced(model: nn.Module, kind: type[nn.Module], make: Callable[[], nn.Module]) -> nn.Module:
    """The model with every module of a kind replaced in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, make())
    return model


class KWTA(nn.Module):
    """Only the largest share of a row's units stays on: k-winners-take-all (Xiao et al. 2020)."""

    def __init__(self, share: float = 0.1) -> None:
        super().__init__()
        self.share = share

    def forward(self, z: Tensor) -> Tensor:
        flat = z.flatten(1)
        least = flat.topk(max(1, round(self.share * flat.shape[1])), 1).values[:, -1:]
        return (flat * (flat >= least)).reshape(z.shape)


def normalised(stage: Stage) -> nn.Module:
    """The room's network with batch norm before every hidden activation and dropout before the logits."""

    def make() -> nn.Module:
        channels, height, width = stage.shape
        if stage.room.base.startswith("mlp"):
            inputs = math.prod(stage.shape)
            hidden = (*_normed(nn.Linear(inputs, 64), nn.BatchNorm1d(64)), nn.Dropout(0.2))
            return nn.Sequential(nn.Flatten(), *hidden, *_normed(nn.Linear(64, 64), nn.BatchNorm1d(64)), _head(64))
        stride = 2 if min(height, width) >= 16 else 1
        high, wide = (math.ceil(math.ceil(side / stride) / 2) for side in (height, width))
        return nn.Sequential(
            *_normed(nn.Conv2d(channels, 16, 3, stride, 1), nn.BatchNorm2d(16)),
            *_normed(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32)),
            nn.Flatten(),
            nn.Dropout(0.2),
            *_normed(nn.Linear(32 * high * wide, 64), nn.BatchNorm1d(64)),
            _head(64),
        )

    return built(stage, make)


def _normed(layer: nn.Module, norm: nn.Module) -> Iterator[nn.Module]:
    yield from (layer, norm, nn.ReLU())


def _head(width: int) -> nn.Module:
    return nn.Sequential(nn.Dropout(0.3), nn.Linear(width, 10))
