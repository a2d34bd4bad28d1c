"""One pixel: change a single pixel (feature), or ``pixels`` of them, to any value of the box.

mode=search (the default) asks where one gradient and the answers so far promise most (see ``_guided``): an eighth of
the grid of every pixel at every colour of ``levels`` values a channel. mode=fast is the same within a thirty-second.
mode=exhaustive tries that whole grid: on the grid the answer is the truth, with no seed. mode=paper is the differential
evolution of Su et al. 2019 ("One pixel attack for fooling deep neural networks", section III): 400 candidates of
(position, colour) for each pixel, positions uniform, colours N(128, 127) / 255, 100 generations of p[r1] + F * (p[r2] -
p[r3]) with F = 0.5 and no crossover, each child against its own parent. The fitness is the margin, which ranks as the
paper's probability does where the softmax saturates too. Colours that leave the box are clipped and positions
reflected. With ``levels`` the colours snap to the grid. Pixels without room in the box are not asked. Several pixels:
paper changes all at once, search and fast one after the other, the best kept.

Cost in forwards, of which a success saves the rest: pixels * colours (exhaustive: 1,088 for a digit of 8x8, 8,192 for a
colour image of 32x32 at its corners), population * (generations + 1), or for search and fast ``queries`` a pixel and 16
backwards. Known failures: exhaustive, search and fast speak of their grid alone; search, fast and evolution can miss
what exists; several pixels one after the other miss pairs that work only together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from actsec.attacks._guided import BLOCK, Guided
from actsec.attacks._pixels import Grid, grid_of, movable, paint
from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.types import Ask, Cases, Knowledge, Norm, Reply

_BLOCK = 128
_SHARE = {"search": 8, "fast": 32}
"""Which share of the grid a guided search may ask."""
_LEAST = 128
_MOST = 1 << 22


@dataclass(frozen=True, slots=True)
class OnePixel:
    """A guided search of every pixel at every colour, the whole grid, or differential evolution."""

    mode: Annotated[
        Literal["search", "fast", "exhaustive", "paper"],
        "guided search, the same within fewer queries, the whole grid, or the paper's differential evolution",
    ] = "search"
    levels: Annotated[int | None, "values a channel; none is 17 (grey) or 2 (colour), in evolution any value"] = None
    queries: Annotated[
        int | None, "forwards a pixel of search and fast; none is an eighth and a 32nd of the grid, at least 128"
    ] = None
    pixels: Annotated[int, "pixels changed by a candidate; exhaustive knows 1"] = 1
    population: Annotated[int, "candidates of a generation"] = 400
    generations: Annotated[int, "generations after the first"] = 100
    scale: Annotated[float, "the weight F of a difference"] = 0.5

    norms: ClassVar[tuple[Norm, ...]] = ("l0",)
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 2:
            raise BadOption(f"one_pixel(levels={self.levels})", "levels is at least 2, or none.")
        if self.queries is not None and (self.queries < 1 or self.mode not in _SHARE):
            raise BadOption(
                f"one_pixel(mode={self.mode}, queries={self.queries})",
                "queries is at least 1, and only search and fast take it.",
            )
        if self.pixels < 1 or (self.pixels > 1 and self.mode == "exhaustive"):
            raise BadOption(
                f"one_pixel(mode={self.mode}, pixels={self.pixels})", "More than 1 needs another mode than exhaustive."
            )
        if self.population < 4 or self.generations < 0 or not self.scale > 0:
            raise BadOption(
                f"one_pixel(population={self.population}, generations={self.generations}, scale={self.scale})",
                "population is at least 4, generations at least 0, scale above 0.",
            )

    def start(self, cases: Cases, draws: Draws) -> Any:
        return self._within(cases).start(cases, draws)

    def ask(self, state: Any, cases: Cases) -> Ask:
        asked: Ask = self._within(cases).ask(state, cases)
        return asked

    def tell(self, state: Any, reply: Reply, cases: Cases, draws: Draws) -> Any:
        return self._within(cases).tell(state, reply, cases, draws)

    def passes(self, shape: tuple[int, ...]) -> int:
        """What an input of this shape costs at most, in forwards, a backward counting as two."""
        if self.mode == "paper":
            return self.population * (self.generations + 1)
        grid = grid_of(shape, self.levels)
        if self.mode == "exhaustive":
            return math.prod(_Whole(grid).blocks)
        block = min(BLOCK, grid.total)
        return self.pixels * block * (self._questions(grid) + 2)

    def _within(self, cases: Cases) -> Any:
        """The search that the mode names, for inputs of this shape. Raises BadOption where its grid is too large."""
        if self.mode == "paper":
            return _Evolution(self.levels, self.pixels, self.population, self.generations, self.scale)
        grid = grid_of(cases.x.shape[1:], self.levels)
        if self.mode == "exhaustive":
            return _Whole(grid)
        if grid.total > _MOST:
            raise BadOption(
                f"one_pixel(mode={self.mode}, levels={grid.levels}): {grid.total} candidates for inputs of this shape",
                f"At most {_MOST} are kept in mind: give fewer levels, or mode=paper.",
            )
        return Guided(self.levels, self.pixels, self._questions(grid))

    def _questions(self, grid: Grid) -> int:
        """How many blocks of candidates a round of guided search asks; with the base, the grid has total + 1."""
        share = grid.total // _SHARE[self.mode] // BLOCK * BLOCK
        queries = min(self.queries or max(share, _LEAST), grid.total + 1)
        return math.ceil(queries / min(BLOCK, grid.total))


@dataclass(frozen=True, slots=True)
class WalkState:
    """How many blocks of the grid each row has asked."""

    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class _Whole:
    """Every pixel that has room, at every colour: the ends of the box first."""

    grid: Grid

    def start(self, cases: Cases, draws: Draws) -> WalkState:
        del draws
        step = torch.zeros_like(cases.id)
        return WalkState(step, step.bool())

    def ask(self, state: WalkState, cases: Cases) -> Ask:
        grid, (free, order) = self.grid, self._places(cases)
        _, block = self.blocks
        number = state.step[:, None] * block + torch.arange(block, device=state.step.device)
        number = torch.minimum(number, free[:, None] * grid.colours - 1)
        place = order.gather(1, number % free[:, None])
        return Ask(paint(cases, cases.x, place[..., None], self._ends_first(number // free[:, None])[..., None, :]))

    def tell(self, state: WalkState, reply: Reply, cases: Cases, draws: Draws) -> WalkState:
        del reply, draws
        step, block = state.step + 1, self.blocks[1]
        return WalkState(step, step * block >= self._places(cases)[0] * self.grid.colours)

    def _places(self, cases: Cases) -> tuple[Tensor, Tensor]:
        """How many pixels have room (n,), at least one, and all pixels (n, pixels), those with room first."""
        room = movable(cases, self.grid)
        if room is None:
            every = torch.arange(self.grid.pixels, device=cases.x.device).expand(len(cases), -1)
            return torch.full_like(cases.id, self.grid.pixels), every
        return room.sum(1).clamp_min(1), room.logical_not().to(torch.uint8).argsort(dim=1, stable=True)

    def _ends_first(self, number: Tensor) -> Tensor:
        """Colours (..., channels) by number: 0, last, 1, last - 1, ... for the ends succeed most often."""
        levels = self.grid.levels
        digits = [number // levels**i % levels for i in range(self.grid.channels)]
        rank = torch.stack(digits, -1)
        return torch.where(rank % 2 == 0, rank // 2, levels - 1 - rank // 2).float() / (levels - 1)

    @property
    def blocks(self) -> tuple[int, int]:
        """How many questions cover the grid, and how many candidates each holds."""
        questions = math.ceil(self.grid.total / _BLOCK)
        return questions, math.ceil(self.grid.total / questions)


@dataclass(frozen=True, slots=True)
class EvolutionState:
    """The questions asked; the parents and children (n, population, genes) and the parents' scores."""

    step: Tensor
    parents: Tensor
    children: Tensor
    scores: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class _Evolution:
    """Differential evolution over positions and colours, rand/1 without crossover."""

    levels: int | None
    pixels: int
    population: int
    generations: int
    scale: float

    def start(self, cases: Cases, draws: Draws) -> EvolutionState:
        step, shape = torch.zeros_like(cases.id), (self.population, self.pixels)
        places = draws.uniform(cases.id, step, (*shape, 2))
        channels = grid_of(cases.x.shape[1:], self.levels).channels
        colours = draws.normal(cases.id, step, (*shape, channels), 1) * (127 / 255) + 128 / 255
        genes = torch.cat([places, colours.clamp(0, 1)], -1).flatten(2)
        worst = genes.new_full(genes.shape[:2], -torch.inf)
        return EvolutionState(step, genes, genes, worst, step.bool())

    def ask(self, state: EvolutionState, cases: Cases) -> Ask:
        genes = state.children.reshape(len(cases), self.population, self.pixels, -1)
        colours = genes[..., 2:]
        if self.levels is not None:
            colours = (colours * (self.levels - 1)).round() / (self.levels - 1)
        return Ask(paint(cases, cases.x, self._place(genes[..., :2], cases), colours))

    def _place(self, genes: Tensor, cases: Cases) -> Tensor:
        """Pixels (n, population, pixels) at positions in [0, 1]: a line of the image with room, and a pixel of it."""
        grid = grid_of(cases.x.shape[1:], self.levels)
        room = movable(cases, grid)
        if room is None:
            row, column = ((genes[..., i] * n).long().clamp(0, n - 1) for i, n in enumerate((grid.height, grid.width)))
            return row * grid.width + column
        room = room.reshape(-1, grid.height, grid.width)
        row = _nth(room.any(2)[:, None], genes[..., 0].flatten(1)[:, None])[:, 0]
        lines = room.gather(1, row[..., None].expand(-1, -1, grid.width))
        column = _nth(lines, genes[..., 1].flatten(1)[..., None])[..., 0]
        return (row * grid.width + column).reshape(genes.shape[:-1])

    def tell(self, state: EvolutionState, reply: Reply, cases: Cases, draws: Draws) -> EvolutionState:
        step = state.step + 1
        score = torch.where(reply.inside, reply.score, torch.full_like(reply.score, -torch.inf)).to(state.scores.dtype)
        fitter = score > state.scores
        parents = torch.where(fitter[..., None], state.children, state.parents)
        return EvolutionState(
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


def _nth(flags: Tensor, share: Tensor) -> Tensor:
    """Of the true places of flags (n, m, d), the one at each share in [0, 1] of their number: (n, m, k)."""
    count = flags.sum(-1, keepdim=True)
    rank = torch.minimum((share * count).long(), (count - 1).clamp_min(0))
    return flags.logical_not().to(torch.uint8).argsort(dim=-1, stable=True).gather(-1, rank)
