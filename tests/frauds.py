"""Models that only look robust, honest ones beside them, and the evidence that an audit would gather of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from actsec.attacks import FGSM, PGD
from actsec.geometry import place, spread
from actsec.running.probe import probe
from actsec.search.referee import attack_target, cases_of
from actsec.types import Ask, Evidence, Target, Threat

CLASSES = tuple("0123456789")


def digits(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    data = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order], y[order]
    return x[:1200], y[:1200], x[1200:1400], y[1200:1400]


def train(activation: Callable[[], nn.Module], eps: float = 0.0, seed: int = 0, epochs: int = 40) -> nn.Module:
    """A small MLP on digits; eps > 0 trains on five PGD steps."""
    x, y, _, _ = digits(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(epochs):
            for index in torch.randperm(len(x)).split(100):
                batch = x[index]
                for _ in range(5 if eps else 0):
                    leaf = batch.detach().requires_grad_()
                    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y[index]), leaf)
                    batch = torch.min(torch.max(batch + eps / 3 * gradient.sign(), x[index] - eps), x[index] + eps)
                    batch = batch.clamp(0, 1).detach()
                optimizer.zero_grad()
                F.cross_entropy(model(batch), y[index]).backward()
                optimizer.step()
    return model.eval()


class Scaled(nn.Module):
    """Logits times a large factor: cross-entropy saturates, decisions stay."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.model(x)


class _Noise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient + ctx.factor * gradient.abs().mean() * torch.randn_like(gradient), None


class BackwardNoise(nn.Module):
    """The true output with a spoilt gradient."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.model(_Noise.apply(x, self.factor))


class KWTA(nn.Module):
    """Only the largest tenth of the units stays on: locally honest, globally broken to pieces (Xiao et al. 2020)."""

    def forward(self, z: Tensor) -> Tensor:
        least = z.topk(max(1, z.shape[1] // 10), 1).values[:, -1:]
        return z * (z >= least)


class Quantised(nn.Module):
    """Inputs rounded to four levels: a staircase."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model((3 * x).round() / 3)


class StraightThrough(Quantised):
    """The staircase with the gradient of a ramp."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + ((3 * x).round() / 3 - x).detach())


class Noisy(nn.Module):
    """Noise added to the input, also when judged."""

    def __init__(self, model: nn.Module, size: float = 0.3) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + self.size * torch.randn_like(x))


@dataclass(frozen=True, slots=True)
class SearchState:
    x: Tensor
    best: Tensor
    score: Tensor
    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class Search:
    """Random search over corners of the ball by the score alone; with keep=False, mere random corners."""

    queries: int = 150
    keep: bool = True

    norms: ClassVar[tuple[str, ...]] = ("linf",)
    knowledge: ClassVar[str] = "black_box"
    roles: ClassVar[tuple[str, ...]] = ("gradient_free",)

    def start(self, cases, draws):
        step = torch.zeros_like(cases.id)
        delta = draws.sign(cases.id, 0, tuple(cases.x.shape[1:])) * spread(cases.eps, cases.x).to(cases.x.dtype)
        x = place(cases, delta)
        return SearchState(x, x, torch.full_like(x[:, 0], -torch.inf), step, step.bool())

    def ask(self, state, cases):
        return Ask(state.x[:, None])

    def tell(self, state, reply, cases, draws):
        score, shape, step = reply.score[:, 0], tuple(cases.x.shape[1:]), state.step + 1
        better = score > state.score
        best = torch.where(better[:, None], state.x, state.best)
        fresh = draws.sign(cases.id, step, shape) * spread(cases.eps, cases.x).to(cases.x.dtype)
        share = 0.3 * (1 - state.step / self.queries)[:, None] + 0.02 if self.keep else 1.0
        change = draws.uniform(cases.id, step, shape, 1) < share
        x = place(cases, torch.where(change, fresh, best - cases.x))
        kept = torch.where(better, score, state.score)
        return replace(state, x=x, best=best, score=kept, step=step, done=step >= self.queries)


def evidence(model: nn.Module, eps: float = 0.1, seed: int = 0, stochastic: bool = False, rows: int = 200) -> Evidence:
    """What the battery asks for, on test digits: all roles but transfer."""
    _, _, x, y = digits(seed)
    x, y = x[:rows], y[:rows]
    target = Target(model, (64,), CLASSES, stochastic=stochastic)

    def left(attack, radius: float = eps):
        cases = cases_of(target, x, y, "linf", radius)
        verdicts = attack_target(attack, target, cases, seed=seed, name=str(attack))
        return (verdicts.wrong < 0.5).numpy()

    clean = left(Search(1), 1e-6)  # the judge's view, averaged over draws where the target is stochastic
    correct = {
        "single_step": left(FGSM()),
        "iterative": left(PGD(steps=20)),
        "doubled": left(PGD(steps=40, restarts=2)),
        "margin": left(PGD(steps=20, loss="margin")),
        "unbounded": left(PGD(steps=20, loss="margin"), 1.0),
        "gradient_free": left(Search()),
        "noise": left(Search(50, keep=False)),
    }
    correct = {role: clean & values for role, values in correct.items()}
    numbers = probe(target, x[:100], y[:100], eps, "linf", seed)
    return Evidence(Threat("linf", eps), clean, correct, numbers, 10, stochastic, 0)
