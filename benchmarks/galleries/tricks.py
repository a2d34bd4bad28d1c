"""Wrappers that make a model look robust without making it so."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The luminance table of the JPEG standard (ITU T.81, annex K), for 8-bit values.
_JPEG = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""


class Scaled(nn.Module):
    """Logits times a large factor: cross-entropy saturates, decisions stay."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return self.factor * logits


class _Noise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]  # as many as forward takes
        return gradient + ctx.factor * gradient.abs().mean() * torch.randn_like(gradient), None


class BackwardNoise(nn.Module):
    """The true output with a spoilt gradient."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(_Noise.apply(x, self.factor))
        return logits


class Noisy(nn.Module):
    """Gaussian noise on the input, also when judged."""

    def __init__(self, model: nn.Module, std: float) -> None:
        super().__init__()
        self.model, self.std = model, std

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x + self.std * torch.randn_like(x))
        return logits


class Smoothed(nn.Module):
    """Randomised smoothing (Cohen et al. 2019) in its soft form: log of the mean probability over noisy draws."""

    def __init__(self, model: nn.Module, std: float, draws: int = 8) -> None:
        super().__init__()
        self.model, self.std, self.draws = model, std, draws

    def forward(self, x: Tensor) -> Tensor:
        many = x.repeat_interleave(self.draws, 0)
        logits = self.model(many + self.std * torch.randn_like(many))
        parts = logits.log_softmax(1).reshape(len(x), self.draws, -1)
        return parts.logsumexp(1) - math.log(self.draws)


class Before(nn.Module):
    """A network behind something that is done to its input."""

    def __init__(self, step: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.step, self.model = step, model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(self.step(x))
        return logits


class Quantised(nn.Module):
    """Values rounded to so many levels: a staircase, whose slope is zero. straight gives it the slope of a ramp."""

    def __init__(self, levels: int, *, straight: bool = False) -> None:
        super().__init__()
        self.steps, self.straight = levels - 1, straight

    def forward(self, x: Tensor) -> Tensor:
        stairs = (self.steps * x).round() / self.steps
        return x + (stairs - x).detach() if self.straight else stairs


class Squeezing(nn.Module):
    """A model that abstains where four grey levels change its answer more than ``limit`` (Xu et al. 2018).

    The detector says yes or no, so that no gradient leads around it.
    """

    def __init__(self, model: nn.Module, limit: float = 2.0) -> None:
        super().__init__()
        self.model, self.squeeze, self.limit = model, Quantised(4), limit

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits

    def moved(self, x: Tensor) -> Tensor:
        """How much the probabilities change (n,), 0 to 2."""
        return (self.model(x).softmax(1) - self.model(self.squeeze(x)).softmax(1)).abs().sum(1)

    def rejects(self, x: Tensor) -> Tensor:
        """Rows (n,) bool without an answer."""
        return self.moved(x) > self.limit


class Jpeg(nn.Module):
    """Each channel through JPEG's cosine transform, its quantisation at quality 50, and back: the rounding is real."""

    def __init__(self) -> None:
        super().__init__()
        k = torch.arange(8.0)
        basis = torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / 16) / 2
        basis[0] /= math.sqrt(2)
        self.register_buffer("basis", basis, persistent=False)
        table = torch.tensor([float(n) for n in _JPEG.split()]).reshape(8, 8) / 255
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        padded = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate") if (height % 8 or width % 8) else x
        blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)
        waves = self.basis @ (blocks - 0.5) @ self.basis.T
        kept = (waves / self.table).round() * self.table
        back = (self.basis.T @ kept @ self.basis + 0.5).transpose(3, 4).reshape(n, channels, *padded.shape[2:])
        return back[..., :height, :width].clamp(0, 1)


class Median(nn.Module):
    """The median of each 3x3 neighbourhood, taken outside the graph."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            around = F.pad(x, (1, 1, 1, 1), mode="replicate").unfold(2, 3, 1).unfold(3, 3, 1)
            return around.flatten(4).median(4).values


class Ungraded(nn.Module):
    """A part that runs without gradients, as a scaler kept beside a model often does."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.part(x)
        return out


class Standardised(nn.Module):
    """(x - mean) / std."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class ThroughNumpy(nn.Module):
    """Inputs through a numpy array and back: the same values, no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().cpu().numpy().copy()).to(x.device)
