"""All one-pixel changes of a digit on its grid are 64 x 17: the truth is small enough to enumerate."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from attack_models import CLASSES, digits
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from actsec import geometry
from actsec.attacks import OnePixel
from actsec.attacks._guided import BLOCK
from actsec.attacks._pixels import grid_of
from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.search.ledger import ALREADY_WRONG, FOUND
from actsec.search.referee import attack_target, cases_of
from actsec.types import Target


@cache
def truth():
    """Which of the images some one-pixel change on the 17 levels fools, by plain enumeration."""
    target, x, y = digits()
    exists = []
    with torch.no_grad():
        for image, label in zip(x, y, strict=True):
            tries = image.expand(64, 17, 1, 8, 8).clone()
            for pixel in range(64):
                tries[pixel, :, 0, pixel // 8, pixel % 8] = torch.arange(17) / 16
            exists.append(bool((target.model(tries.flatten(0, 1)).argmax(1) != label).any()))
    return target, x, y, torch.tensor(exists)


def test_exhaustive_finds_all_that_exists_and_nothing_else():
    target, x, y, exists = truth()
    verdicts = attack_target(OnePixel("exhaustive"), target, cases_of(target, x, y, "l0", 1))
    clean = verdicts.status == ALREADY_WRONG
    assert 5 <= (exists & ~clean).sum() < len(x) - 5
    assert torch.equal(verdicts.status == FOUND, exists & ~clean)
    assert (geometry.distance(verdicts.x, x, "l0") <= 1).all()
    assert verdicts.forwards.max() <= 64 * 17 + 9


def test_evolution_on_the_grid_finds_most_and_invents_nothing():
    target, x, y, exists = truth()
    attack = OnePixel(mode="paper", levels=17, population=100, generations=15)
    verdicts = attack_target(attack, target, cases_of(target, x, y, "l0", 1))
    exists = exists & (verdicts.status != ALREADY_WRONG)
    found = verdicts.status == FOUND
    assert not (found & ~exists).any()
    assert found.sum() >= 0.9 * exists.sum()
    changed = verdicts.x != x
    assert torch.equal((verdicts.x * 16)[changed], (verdicts.x * 16).round()[changed])


@pytest.mark.parametrize("mode", ["search", "fast", "exhaustive", "paper"])
def test_colour_images_and_feature_vectors(mode):
    torch.manual_seed(0)
    for shape, size in (((3, 4, 5), 60), ((9,), 9)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(size, 3))
        target = Target(model, shape, CLASSES[:3])
        x = torch.rand(8, *shape)
        y = target.decide(target.logits(x))
        attack = OnePixel(mode=mode, population=60, generations=5)
        verdicts = attack_target(attack, target, cases_of(target, x, y, "l0", 1))
        assert verdicts.rejected.sum() == 0
        assert (geometry.distance(verdicts.x, x, "l0") <= 1).all()
        assert (verdicts.status == FOUND).any()


def test_exhaustive_tries_every_corner_of_every_colour_pixel_once():
    target = Target(nn.Identity(), (3, 2, 3), CLASSES)
    x = torch.full((1, 3, 2, 3), 0.5)
    cases, attack = cases_of(target, x, torch.zeros(1, dtype=torch.int64), "l0", 1), OnePixel("exhaustive")
    tried = attack.ask(attack.start(cases, Draws(0)), cases).x[0]
    assert len(tried) == 2 * 3 * 8
    assert len(tried.flatten(1).unique(dim=0)) == 48
    assert (geometry.size(tried - x, "l0") == 1).all()


def test_several_pixels_need_the_budget():
    target, x, y, _ = truth()
    attack = OnePixel(mode="paper", pixels=3, population=40, generations=2)
    three = attack_target(attack, target, cases_of(target, x[:16], y[:16], "l0", 3))
    assert three.rejected.sum() == 0
    one = attack_target(attack, target, cases_of(target, x[:16], y[:16], "l0", 1))
    assert one.rejected.sum() > 0
    assert (geometry.distance(one.x, x[:16], "l0") <= 1).all()


def asked_of(attack, target, cases):
    """The verdicts, and all candidates (m, *shape) that each row was asked."""
    asked = [[] for _ in range(len(cases))]

    def note(index, ask, reply):
        for row, candidates in zip(index.tolist(), ask.x, strict=True):
            asked[row].append(candidates)

    verdicts = attack_target(attack, target, cases, note=note)
    return verdicts, [torch.cat(parts) if parts else cases.x[:0] for parts in asked]


def test_an_eighth_of_the_grid_finds_most_and_invents_nothing():
    target, x, y, exists = truth()
    verdicts = attack_target(OnePixel(), target, cases_of(target, x, y, "l0", 1))
    exists = exists & (verdicts.status != ALREADY_WRONG)
    found = verdicts.status == FOUND
    assert not (found & ~exists).any()
    assert found.sum() >= 0.9 * exists.sum()
    assert verdicts.forwards.max() <= 64 * 17 / 8
    assert verdicts.backwards.max() <= BLOCK
    assert verdicts.rejected.sum() == 0
    fast = attack_target(OnePixel("fast", queries=64), target, cases_of(target, x, y, "l0", 1))
    assert torch.equal(fast.status == FOUND, found & (verdicts.forwards <= 64))


def test_a_search_with_queries_for_the_whole_grid_is_the_truth_and_asks_nothing_twice():
    target, x, y, exists = truth()
    verdicts, asked = asked_of(OnePixel(queries=2000), target, cases_of(target, x, y, "l0", 1))
    attacked = verdicts.status != ALREADY_WRONG
    assert torch.equal(verdicts.status == FOUND, exists & attacked)
    for row in (attacked & ~exists).nonzero().flatten().tolist():
        changes = 64 * 17 - int((x[row] * 16 == (x[row] * 16).round()).sum())
        assert len(asked[row].flatten(1).unique(dim=0)) == changes + 1
        assert len(asked[row]) < changes + 1 + BLOCK


def test_where_the_gradient_is_zero_the_answers_lead():
    """A step function of the input: no gradient anywhere, and one pixel in 1,024 is enough, amid others that help."""
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    hill = torch.exp(-((rows - 21) ** 2 + (columns - 6) ** 2).sqrt() / 8)

    class Steps(nn.Module):
        def forward(self, x):
            return torch.stack([torch.full((len(x),), 0.99), ((x[:, 0] > 0.5) * hill).sum((1, 2))], 1) + 0 * x.sum()

    target = Target(Steps(), (1, 32, 32), ("a", "b"))
    x = torch.zeros(3, 1, 32, 32)
    cases = cases_of(target, x, torch.zeros(3, dtype=torch.int64), "l0", 1)
    verdicts = attack_target(OnePixel("fast"), target, cases)
    assert (verdicts.status == FOUND).all()
    assert (verdicts.x[:, 0, 21, 6] > 0.5).all()


@pytest.mark.parametrize("mode", ["search", "fast", "exhaustive", "paper"])
def test_pixels_without_room_are_never_asked(mode):
    target, x, y, _ = truth()
    free = torch.zeros(8, 8, dtype=torch.bool)
    free[3:6, 2:7] = True
    cases = cases_of(target, x, y, "l0", 1)
    cases = replace(cases, low=torch.where(free, 0.0, x), high=torch.where(free, 1.0, x))
    verdicts, asked = asked_of(OnePixel(mode, population=60, generations=5), target, cases)
    for row, candidates in enumerate(asked):
        changed = (candidates != x[row]).any(0)[0]
        assert not (changed & ~free).any()
    exact = attack_target(OnePixel("exhaustive"), target, cases)
    assert exact.forwards.max() < 15 * 17 + 128
    assert 0 < (exact.status == FOUND).sum() < len(x) / 2
    assert not ((verdicts.status == FOUND) & (exact.status != FOUND)).any()
    if mode in ("search", "exhaustive"):
        assert (verdicts.status == FOUND).sum() >= 0.8 * (exact.status == FOUND).sum()
    if mode != "paper":
        failed = (verdicts.status != FOUND) & (verdicts.status != ALREADY_WRONG)
        assert all((asked[row] != x[row]).any(0)[0].sum() >= 13 for row in failed.nonzero().flatten().tolist())


def test_a_row_whose_every_pixel_is_fixed_ends_at_once():
    target, x, y, _ = truth()
    cases = cases_of(target, x[:4], y[:4], "l0", 1)
    for mode in ("search", "exhaustive"):
        verdicts = attack_target(OnePixel(mode), target, replace(cases, low=x[:4].clone(), high=x[:4].clone()))
        assert (verdicts.status != FOUND).all()
        assert verdicts.forwards.max() <= 128
        assert torch.equal(verdicts.x, x[:4])


def test_targeted_rows_reach_their_target_where_the_grid_does():
    target, x, y, _ = truth()
    cases = replace(cases_of(target, x, y, "l0", 1), target=(y + 5) % 10)
    exact, search = (attack_target(OnePixel(mode), target, cases) for mode in ("exhaustive", "search"))
    found = search.status == FOUND
    assert 0 < found.sum() >= 0.8 * (exact.status == FOUND).sum()
    assert torch.equal(search.logits.argmax(1)[found], cases.target[found])


@pytest.mark.parametrize(
    "attack", [OnePixel(), OnePixel("fast", pixels=2, queries=48), OnePixel("exhaustive", levels=3)], ids=str
)
def test_rows_do_not_depend_on_their_neighbours(attack):
    target, x, y, _ = truth()
    x, y = x[:35], y[:35]
    cases = cases_of(target, x, y, "l0", attack.pixels)
    fixed = torch.arange(8)[:, None] % 2 == 0  # every other line, and bright pixels do not become brighter
    cases = replace(cases, low=torch.where(fixed, x, 0.0), high=torch.where(fixed | (x > 0.9), x, 1.0))
    whole = attack_target(attack, target, cases)
    for width, batch in ((1, 32), (7, 50), (33, 256)):
        parts = attack_target(attack, target, cases, width=width, batch=batch)
        for field in ("status", "x", "score", "forwards", "backwards", "found_at", "logits"):
            assert torch.equal(getattr(whole, field), getattr(parts, field)), (width, field)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), pixels=st.integers(1, 3), shape=st.sampled_from([(3, 5, 4), (1, 4, 6), (14,)]))
def test_on_a_linear_model_the_gradient_is_the_answer_for_any_number_of_pixels(seed, pixels, shape):
    """The best change of m pixels is the m best gains, in closed form; found by the first questions of every round."""
    draw = torch.Generator().manual_seed(seed)
    x, w = torch.rand(6, *shape, generator=draw), torch.randn(shape, generator=draw)
    gain = torch.where(w > 0, w * (1 - x), -w * x)
    gain = (gain.sum(1) if len(shape) == 3 else gain).flatten(1).sort(1, descending=True).values
    need = gain[:, :pixels].sum(1).double() * torch.where(torch.arange(6) % 2 == 0, 0.99, 1.01)
    model = nn.Linear(w.numel(), 2)
    for row in range(6):
        with torch.no_grad():
            model.weight.copy_(torch.stack([-w.flatten(), w.flatten()]) / 2)
            model.bias.copy_((need[row] + (x[row] * w).sum()) * torch.tensor([0.5, -0.5]))
        target = Target(nn.Sequential(nn.Flatten(), model), shape, ("a", "b"))
        cases = cases_of(target, x[row : row + 1], torch.zeros(1, dtype=torch.int64), "l0", pixels)
        verdicts = attack_target(OnePixel("fast", levels=2, queries=32, pixels=pixels), target, cases)
        assert (verdicts.status == FOUND).item() == (row % 2 == 0)
        assert verdicts.size.item() <= pixels


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 5), (9,), (2,)])
@pytest.mark.parametrize("mode", ["search", "fast", "exhaustive", "paper"])
def test_the_price_is_an_upper_limit_that_is_reached(mode, shape):
    model = nn.Sequential(nn.Flatten(), nn.Linear(grid_of(shape, 2).channels * grid_of(shape, 2).pixels, 2))
    nn.init.zeros_(model[1].weight)
    target = Target(model, shape, ("a", "b"))
    x = torch.rand(2, *shape)
    attack = OnePixel(mode, population=9, generations=4)
    verdicts = attack_target(attack, target, cases_of(target, x, target.decide(target.logits(x)), "l0", 1))
    spent = verdicts.forwards + 2 * verdicts.backwards
    assert (spent <= attack.passes(shape)).all()
    assert (spent >= 0.8 * attack.passes(shape)).all()


@pytest.mark.parametrize(
    "options", [{"mode": "exhaustive", "pixels": 2}, {"mode": "paper", "queries": 9}, {"queries": 0}, {"levels": 1}]
)
def test_options_that_contradict_are_named(options):
    with pytest.raises(BadOption, match="one_pixel"):
        OnePixel(**options)


def test_a_grid_too_large_to_keep_in_mind_is_refused():
    target = Target(nn.Identity(), (3, 8, 8), CLASSES)
    cases = cases_of(target, torch.rand(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64), "l0", 1)
    with pytest.raises(BadOption, match=r"levels=64.*16777216 candidates"):
        OnePixel(levels=64).start(cases, Draws(0))
