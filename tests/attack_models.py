"""Small targets with a known truth, for the tests of attacks and referee."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actsec.types import Target

CLASSES = tuple("0123456789")


def linear(n: int = 12, d: int = 12, seed: int = 0) -> tuple[Target, Tensor, Tensor, Tensor, Tensor]:
    """A two-class linear model, inputs with half their coordinates on the box, and its margin w.x + b of class 1."""
    draw = torch.Generator().manual_seed(seed)
    w, b = torch.randn(d, generator=draw), torch.randn((), generator=draw) * 0.1
    x = torch.rand(n, d, generator=draw) * 0.8 + 0.1
    x[:, ::2] = torch.randint(0, 2, (n, (d + 1) // 2), generator=draw).float()
    model = nn.Linear(d, 2)
    with torch.no_grad():
        model.weight.copy_(torch.stack([-w / 2, w / 2]))
        model.bias.copy_(torch.stack([-b / 2, b / 2]))
    value = (x.double() @ w.double()) + b.double()
    return Target(model, (d,), ("a", "b")), x, (value > 0).long(), w, b


@cache
def digits(activation: type[nn.Module] = nn.ReLU) -> tuple[Target, Tensor, Tensor]:
    """A small CNN trained for a moment on scikit-learn's digits, and 64 of its test images."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            activation(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            activation(),
            nn.Flatten(),
            nn.Linear(256, 32),
            activation(),
            nn.Linear(32, 10),
        )
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(12):
            for i in torch.split(torch.randperm(1200), 64):
                optimizer.zero_grad()
                F.cross_entropy(model(x[i]), y[i]).backward()
                optimizer.step()
    model.eval()
    model.zero_grad()
    return Target(model, (1, 8, 8), CLASSES), x[1200:1264], y[1200:1264]


def optimum(x: Tensor, w: Tensor, need: Tensor, norm: str) -> Tensor:
    """The least size of delta, x + delta in [0, 1], with |w.delta| = need against the margin's sign; by bisection."""
    x, w = x.double(), w.double()
    direction = -torch.sign(need)[:, None] * w
    room = torch.where(direction > 0, 1 - x, x)

    def gain(t: Tensor) -> Tensor:
        step = torch.minimum(t[:, None] * (direction != 0) if norm == "linf" else t[:, None] * direction.abs(), room)
        return (step * direction.abs()).sum(1)

    low, high = torch.zeros(len(x)).double(), torch.full((len(x),), 1e3).double()
    for _ in range(100):
        middle = (low + high) / 2
        enough = gain(middle) >= need.abs()
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    step = torch.minimum(high[:, None] * direction.abs(), room)
    found = high if norm == "linf" else step.square().sum(1).sqrt()
    return torch.where(gain(torch.full_like(high, 1e3)) > need.abs(), found, torch.inf)
