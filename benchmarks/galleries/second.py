"""The second gallery: chosen and written before the battery was run on any of it, to test thresholds frozen before."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.galleries.exhibits import Exhibit
from benchmarks.galleries.learning import fit_soft, pgd
from benchmarks.galleries.nets import built, replaced
from benchmarks.galleries.rooms import EACH_DATA, TRAINED_HERE, Stage
from benchmarks.galleries.tricks import Before


class SaturatedHead(nn.Module):
    """Logits through a steep sigmoid, measured from the largest: the order stays, the slope underflows."""

    def __init__(self, model: nn.Module, steepness: float) -> None:
        super().__init__()
        self.model, self.steepness = model, steepness

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(x)
        return 10 * torch.sigmoid(self.steepness * (z - z.amax(1, keepdim=True)))


class HashDither(nn.Module):
    """Noise drawn from a hash of the image: the same on every call, another for every other image."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return x + self.std * torch.stack([self._noise(image) for image in x.detach()])

    @staticmethod
    def _noise(image: Tensor) -> Tensor:
        digest = hashlib.blake2b(image.cpu().contiguous().numpy().tobytes(), digest_size=8).digest()
        draws = np.random.default_rng(int.from_bytes(digest, "big")).standard_normal(tuple(image.shape))
        return torch.from_numpy(draws).to(image)


class _Climb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return (4 * z).round().clamp_min(0) / 4

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]  # as many as forward takes
        (z,) = ctx.saved_tensors
        return gradient * (z > 0)


class LookupTable(nn.Module):
    """A relu read from a table of steps of a quarter, with a faint slope of its own that leads attacks astray.

    Trained with the slope of relu, served with its own: 0.001 everywhere, also where the relu is off.
    """

    def forward(self, z: Tensor) -> Tensor:
        if self.training:
            stairs: Tensor = _Climb.apply(z)
            return stairs
        return _Climb.apply(z.detach()) + 1e-3 * (z - z.detach())


class HalfDetached(nn.Module):
    """Every second unit passes no gradient."""

    def forward(self, z: Tensor) -> Tensor:
        z = torch.relu(z)
        if self.training:
            return z
        shown = torch.arange(z.shape[1], device=z.device).view(1, -1, *[1] * (z.dim() - 2)) % 2 == 0
        return torch.where(shown, z, z.detach())


class RoundedLogits(nn.Module):
    """Logits to two decimals, as a service may return them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return (100 * logits).round() / 100


class OneOfTwo(nn.Module):
    """Every call is answered by one of two networks, by the toss of a coin."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.first(x) if torch.rand(()) < 0.5 else self.second(x)
        return logits


class FalseScent(nn.Module):
    """A steep linear term on every logit that is taken away again outside the graph: the gradient follows it."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...], size: float) -> None:
        super().__init__()
        self.model = model
        draws = torch.randn(math.prod(shape), 10, generator=torch.Generator().manual_seed(0))
        self.register_buffer("slope", size * draws / math.sqrt(math.prod(shape)))

    def forward(self, x: Tensor) -> Tensor:
        term = x.flatten(1) @ self.slope
        logits: Tensor = self.model(x)
        return logits + term - term.detach()


class Thermometer(nn.Module):
    """Each value as eight channels that say which eighths it exceeds (Buckman et al. 2018)."""

    def __init__(self, levels: int = 8) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        marks = torch.arange(self.levels, device=x.device) / self.levels
        return (x[:, :, None] > marks.view(1, 1, -1, 1, 1)).to(x.dtype).flatten(1, 2)


class Attention(nn.Module):
    """A small vision transformer: patches, a learned place for each, two layers of four heads, their mean."""

    def __init__(self, shape: tuple[int, ...], width: int = 32) -> None:
        super().__init__()
        channels, height, _ = shape
        patch = {8: 2, 28: 7, 32: 4}[height]
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, (height // patch) ** 2, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.head(self.norm(self.layers(tokens)).mean(1))
        return logits


def _layer_normed(stage: Stage) -> nn.Module:
    """The room's network with layer norm on the last hidden units."""

    def make() -> nn.Module:
        *before, last = stage.untrained().children()
        assert isinstance(last, nn.Linear)
        return nn.Sequential(*before, nn.LayerNorm(last.in_features), last)

    return stage.fitted("layer-norm", built(stage, make))


def _thermometer(stage: Stage) -> nn.Module:
    """The room's network on eight times the channels."""
    first: nn.Module
    network = stage.untrained()
    layers = list(network.children())
    at = next(i for i, layer in enumerate(layers) if isinstance(layer, (nn.Conv2d, nn.Linear)))
    first = layers[at]
    if isinstance(first, nn.Conv2d):
        layers[at] = built(
            stage,
            lambda: nn.Conv2d(8 * first.in_channels, first.out_channels, 3, first.stride, 1),
        )
    else:
        layers[at] = built(stage, lambda: nn.Linear(8 * first.in_features, first.out_features))
    return stage.fitted("thermometer", Before(Thermometer(), nn.Sequential(*layers)))


def _two(stage: Stage) -> nn.Module:
    """Two networks of different activations."""
    return OneOfTwo(stage.plain("relu"), stage.plain("tanh"))


def _from_forest(stage: Stage) -> nn.Module:
    """A network that learned what a random forest says."""
    from sklearn.ensemble import RandomForestClassifier

    student = built(
        stage,
        lambda: nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(stage.shape), 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        ),
    )

    def fit() -> None:
        flat = stage.x.flatten(1).numpy()
        forest = RandomForestClassifier(100, random_state=stage.seed).fit(flat, stage.train.y)
        soft = torch.from_numpy(forest.predict_proba(flat)).float()
        fit_soft(student, stage.x, soft, max(10, stage.room.epochs), stage.seed)

    return stage.kept("forest", student, fit)


def _weak(stage: Stage) -> nn.Module:
    """The room's network, trained on forty images."""
    model = stage.untrained()

    def fit() -> None:
        rows = torch.arange(40)
        soft = nn.functional.one_hot(stage.y[rows], 10).float()
        fit_soft(model, stage.x[rows], soft, 40, stage.seed)

    return stage.kept("weak", model, fit)


def _linear(stage: Stage) -> nn.Module:
    model = built(stage, lambda: nn.Sequential(nn.Flatten(), nn.Linear(math.prod(stage.shape), 10)))
    return stage.fitted("linear", model)


def _wide(stage: Stage) -> nn.Module:
    size = math.prod(stage.shape)
    model = built(stage, lambda: nn.Sequential(nn.Flatten(), nn.Linear(size, 1024), nn.ReLU(), nn.Linear(1024, 10)))
    return stage.fitted("wide", model, learning_rate=1e-3)


def _l2_adversarial(stage: Stage) -> nn.Module:
    """Trained against l2 changes of about the length of the room's eps on a tenth of the pixels."""
    eps = stage.room.eps * math.sqrt(math.prod(stage.shape) / 4)
    return stage.hardened("l2-adversarial", pgd(eps, "l2"))


FRAUDS = (
    Exhibit("saturated_head", "fraud", "logits through a steep sigmoid", lambda s: SaturatedHead(s.plain(), 100)),
    Exhibit(
        "hash_dither",
        "fraud",
        "noise from a hash of the image",
        lambda s: Before(HashDither(s.room.noise / 2), s.plain()),
    ),
    Exhibit(
        "lookup_table",
        "fraud",
        "activations read from a table, with a faint false slope",
        lambda s: s.fitted("lookup", replaced(s.untrained(), nn.ReLU, LookupTable)),
        rooms=TRAINED_HERE,
    ),
    Exhibit(
        "half_detached",
        "fraud",
        "every second hidden unit passes no gradient",
        lambda s: replaced(s.plain(), nn.ReLU, lambda: HalfDetached().eval()),
        rooms=TRAINED_HERE,
    ),
    Exhibit("rounded_logits", "fraud", "logits rounded to two decimals", lambda s: RoundedLogits(s.plain())),
    Exhibit(
        "one_of_two",
        "fraud",
        "each call is answered by one of two networks, by chance",
        _two,
        ("randomised",),
        rooms=TRAINED_HERE,
    ),
    Exhibit(
        "false_scent",
        "fraud",
        "a steep linear term in the gradient and not in the output",
        lambda s: FalseScent(s.plain(), s.shape, 100),
    ),
    Exhibit("thermometer", "fraud", "thermometer encoding of the input", _thermometer, rooms=TRAINED_HERE),
)

HONEST = (
    *(
        Exhibit(
            name, "honest", f"the room's network with {name}", lambda s, name=name: s.plain(name), rooms=TRAINED_HERE
        )
        for name in ("mish", "hardswish", "elu")
    ),
    Exhibit("linear", "honest", "a linear classifier", _linear, rooms=EACH_DATA),
    Exhibit("wide_mlp", "honest", "one hidden layer of 1,024 units", _wide, rooms=EACH_DATA),
    Exhibit("l2_adversarial", "honest", "adversarially trained in l2", _l2_adversarial, rooms=TRAINED_HERE),
    Exhibit("layer_norm", "honest", "layer norm before the logits", _layer_normed, rooms=TRAINED_HERE),
    Exhibit(
        "attention",
        "honest",
        "a small vision transformer",
        lambda s: s.fitted(
            "attention", built(s, lambda: Attention(s.shape)), learning_rate=2e-3, epochs=2 * s.room.epochs
        ),
        rooms=EACH_DATA,
    ),
    Exhibit("weak", "honest", "trained on forty images", _weak, rooms=TRAINED_HERE),
    Exhibit("from_forest", "honest", "an MLP that learned from a random forest", _from_forest, rooms=EACH_DATA),
)

SECOND = (*FRAUDS, *HONEST)
