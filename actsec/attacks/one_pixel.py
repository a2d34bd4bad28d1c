"""One pixel: change a single pixel (feature), to any value of the box.

mode=exhaustive tries every pixel at every colour of a grid of ``levels`` values a channel: on that grid the answer is
the truth, with no seed. mode=paper is the differential evolution of Su et al. 2019 ("One pixel attack for fooling deep
neural networks", section III): 400 candidates of (position, colour) for each pixel, positions uniform, colours N(128,
127) / 255, 100 generations of p[r1] + F * (p[r2] - p[r3]) with F = 0.5 and no crossover, each child against its own
parent. The fitness is the margin, which ranks as the paper's probability does where the softmax saturates too. Colours
that leave the box are clipped and positions reflected. With ``levels`` the colours snap to the grid.

Cost: pixels * colours forwards (exhaustive: 1,088 for a digit of 8x8, 8,192 for a colour image of 32x32 at its
corners), or population * (generations + 1); a success ends a row early. Known failures: exhaustive speaks of its grid
alone and of one pixel; evolution can miss what exists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.types import Ask, Cases, Knowledge, Norm, Reply

_BLOCK = 128
_GREY_LEVELS, _COLOUR_LEVELS = 17, 2


@dataclass(frozen=True, slots=True)
class OnePixelState:
    """The questions asked; for evolution the parents and children (n, population, genes) and the parents' scores."""

    step: Tensor
    parents: Tensor
    children: Tensor
    scores: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class OnePixel:
    """Every pixel at every colour of a grid, or differential evolution over positions and colours."""

    mode: Annotated[Literal["exhaustive", "paper"], "the whole grid, or the paper's differential evolution"] = (
        "exhaustive"
    )
    levels: Annotated[
        int | None, "values a channel; none is 17 (grey) or 2 (colour) when exhaustive, any value in evolution"
    ] = None
    pixels: Annotated[int, "pixels changed by a candidate; exhaustive knows 1"] = 1
    population: Annotated[int, "candidates of a generation"] = 400
    generations: Annotated[int, "generations after the first"] = 100
    scale: Annotated[float, "the weight F of a difference"] = 0.5

    norms: ClassVar[tuple[Norm, ...]] = ("l0",)
    knowledge: ClassVar[Knowledge] = "black_box"
    roles: ClassVar[tuple[str, ...]] = ("gradient_free",)

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 2:
            raise BadOption(f"one_pixel(levels={self.levels})", "levels is at least 2, or none.")
        if self.pixels < 1 or (self.pixels > 1 and self.mode == "exhaustive"):
            raise BadOption(f"one_pixel(mode={self.mode}, pixels={self.pixels})", "More than 1 needs mode=paper.")
        if self.population < 4 or self.generations < 0 or not self.scale > 0:
            raise BadOption(
                f"one_pixel(population={self.population}, generations={self.generations}, scale={self.scale})",
                "population is at least 4, generations at least 0, scale above 0.",
            )

    def start(self, cases: Cases, draws: Draws) -> OnePixelState:
        step, shape = torch.zeros_like(cases.id), (self.population, self.pixels)
        channels, _, _ = _layout(cases)
        if self.mode == "exhaustive":
            genes = cases.x.new_zeros(len(step), 1, 1)
            return OnePixelState(step, genes, genes, genes[:, :, 0], step.bool())
        places = draws.uniform(cases.id, step, (*shape, 2))
        colours = draws.normal(cases.id, step, (*shape, channels), 1) * (127 / 255) + 128 / 255
        genes = torch.cat([places, colours.clamp(0, 1)], -1).flatten(2)
        worst = genes.new_full(genes.shape[:2], -torch.inf)
        return OnePixelState(step, genes, genes, worst, step.bool())

    def ask(self, state: OnePixelState, cases: Cases) -> Ask:
        if self.mode == "exhaustive":
            return Ask(_paint(cases, *self._from_grid(state.step, cases)))
        channels, height, width = _layout(cases)
        genes = state.children.reshape(len(cases), self.population, self.pixels, 2 + channels)
        row, column = ((genes[..., i] * n).long().clamp(0, n - 1) for i, n in enumerate((height, width)))
        colours = genes[..., 2:]
        if self.levels is not None:
            colours = (colours * (self.levels - 1)).round() / (self.levels - 1)
        return Ask(_paint(cases, row * width + column, colours))

    def tell(self, state: OnePixelState, reply: Reply, cases: Cases, draws: Draws) -> OnePixelState:
        step = state.step + 1
        if self.mode == "exhaustive":
            return replace(state, step=step, done=step >= self._blocks(cases)[0])
        score = torch.where(reply.inside, reply.score, torch.full_like(reply.score, -torch.inf)).to(state.scores.dtype)
        fitter = score > state.scores
        parents = torch.where(fitter[..., None], state.children, state.parents)
        return OnePixelState(
            step=step,
            parents=parents,
            children=self._breed(parents, step, cases, draws),
            scores=torch.where(fitter, score, state.scores),
            done=step > self.generations,
        )

    def _breed(self, parents: Tensor, step: Tensor, cases: Cases, draws: Draws) -> Tensor:
        """p[r1] + F * (p[r2] - p[r3]) with three different parents; positions reflected, colours clipped."""
        p, one = self.population, (self.population,)
        first = draws.integers(cases.id, step, one, p, 0)
        gap = 1 + draws.integers(cases.id, step, one, p - 1, 1)
        other = 1 + draws.integers(cases.id, step, one, p - 2, 2)
        other = other + (other >= gap)
        a, b, c = (
            parents.gather(1, (index % p)[..., None].expand_as(parents))
            for index in (first, first + gap, first + other)
        )
        genes = (a + self.scale * (b - c)).reshape(len(cases), p, self.pixels, -1)
        places, colours = genes[..., :2], genes[..., 2:].clamp(0, 1)
        places = 1 - (places.abs() - 1).abs()
        return torch.cat([places.clamp(0, 1), colours], -1).flatten(2)

    def _from_grid(self, step: Tensor, cases: Cases) -> tuple[Tensor, Tensor]:
        """Positions (n, k, 1) and colours (n, k, 1, channels) of each row's block of the grid; box ends first."""
        channels, height, width = _layout(cases)
        _, block = self._blocks(cases)
        number = (step[:, None] * block + torch.arange(block, device=step.device)).clamp_max(self._total(cases) - 1)
        place, colour = number % (height * width), number // (height * width)
        levels = self._levels(channels)
        rank = torch.arange(levels, device=step.device)
        # 0, last, 1, last - 1, ...: the ends succeed most often.
        value = torch.where(rank % 2 == 0, rank // 2, levels - 1 - rank // 2)
        digits = torch.stack([value[colour // levels**i % levels] for i in range(channels)], -1)
        return place[..., None], (digits.to(cases.x.dtype) / (levels - 1))[..., None, :]

    def _levels(self, channels: int) -> int:
        return self.levels or (_GREY_LEVELS if channels == 1 else _COLOUR_LEVELS)

    def _total(self, cases: Cases) -> int:
        channels, height, width = _layout(cases)
        return int(height * width * self._levels(channels) ** channels)

    def _blocks(self, cases: Cases) -> tuple[int, int]:
        """How many questions cover the grid, and how many candidates each holds."""
        questions = math.ceil(self._total(cases) / _BLOCK)
        return questions, math.ceil(self._total(cases) / questions)


def _layout(cases: Cases) -> tuple[int, int, int]:
    """Channels, height and width; anything but an image is one channel and one row of features."""
    shape = tuple(cases.x.shape[1:])
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (1, 1, math.prod(shape))


def _paint(cases: Cases, place: Tensor, colour: Tensor) -> Tensor:
    """Candidates (n, k, *shape): x with pixels at place (n, k, pixels) set to colour (n, k, pixels, channels)."""
    channels, height, width = _layout(cases)
    n, k = place.shape[:2]
    canvas = cases.x.reshape(n, 1, channels, height * width).repeat(1, k, 1, 1)
    value = cases.low + (cases.high - cases.low) * colour
    canvas.scatter_(3, place[:, :, None].expand(-1, -1, channels, -1), value.transpose(2, 3))
    return canvas.reshape(n, k, *cases.x.shape[1:])
