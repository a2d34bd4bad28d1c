"""Balls and boxes: projections are nearest, steps are steepest, placed candidates are admissible."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from actsec import geometry
from actsec.draws import Draws
from actsec.errors import ThreatError
from actsec.types import Cases

NORMS = ["linf", "l2", "l1", "l0"]


def cases(norm, eps, n=6, shape=(7,), seed=0, bounds=(0.0, 1.0)):
    draw = torch.Generator().manual_seed(seed)
    low, high = bounds
    x = low + (high - low) * torch.rand(n, *shape, generator=draw)
    flat = x.view(n, -1)
    flat[:, ::3] = flat[:, ::3].round() if bounds == (0.0, 1.0) else flat[:, ::3]
    zero = torch.zeros(n, dtype=torch.int64)
    radius = torch.full((n,), float(eps), dtype=torch.float64)
    return Cases(torch.arange(n), x, zero, zero - 1, radius, norm, low, high)


def radius_of(norm, eps):
    return max(1, round(eps * 4)) if norm == "l0" else eps


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(NORMS), st.floats(1e-3, 3), st.integers(0, 10_000), st.floats(1e-4, 30))
def test_projection_is_inside_idempotent_and_leaves_the_inside_alone(norm, eps, seed, spread):
    delta = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(seed)) * spread
    eps = radius_of(norm, eps)
    radius = torch.full((5,), float(eps), dtype=torch.float64)
    once = geometry.project(delta, norm, radius)
    assert (geometry.size(once, norm) <= radius * (1 + 1e-6)).all()
    torch.testing.assert_close(geometry.project(once, norm, radius), once, rtol=1e-6, atol=1e-7)
    within = geometry.size(delta, norm) <= radius
    assert torch.equal(once[within], delta[within])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(NORMS),
    st.floats(1e-4, 3),
    st.integers(0, 10_000),
    st.floats(1e-4, 30),
    st.sampled_from([(0.0, 1.0), (-3.0, 5.0), (0.0, 255.0)]),
)
def test_placed_candidates_are_always_admissible(norm, eps, seed, spread, bounds):
    here = cases(norm, radius_of(norm, eps), seed=seed, shape=(2, 4, 4), bounds=bounds)
    delta = torch.randn(6, 3, 2, 4, 4, generator=torch.Generator().manual_seed(seed + 1)) * spread
    placed = geometry.place(here, delta)
    clean = here.x[:, None].expand_as(placed)
    size = geometry.distance(placed.flatten(0, 1), clean.flatten(0, 1), norm).reshape(6, 3)
    assert geometry.inside(placed, here, size).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_placing_finds_the_nearest_admissible_point(norm):
    here = cases(norm, 0.4, n=3, shape=(5,))
    wanted = torch.randn(3, 5, generator=torch.Generator().manual_seed(3)) * 0.6
    placed = geometry.place(here, wanted)
    for x, v, found in zip(here.x.double().numpy(), wanted.double().numpy(), placed.double().numpy(), strict=True):
        low, high = -x, 1 - x
        if norm == "linf":
            low, high = np.maximum(low, -0.4), np.minimum(high, 0.4)
        ball = [] if norm == "linf" else [{"type": "ineq", "fun": lambda d: 0.16 - d @ d, "jac": lambda d: -2 * d}]
        best = minimize(
            lambda d, v=v: ((d - v) ** 2).sum(),
            np.zeros(5),
            jac=lambda d, v=v: 2 * (d - v),
            bounds=list(zip(low, high, strict=True)),
            constraints=ball,
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        np.testing.assert_allclose(found - x, best.x, atol=1e-5)


def test_l1_projection_is_nearest():
    delta = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = geometry.project(delta, "l1", torch.full((4,), 0.7, dtype=torch.float64))
    corners = torch.randn(4, 20_000, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    others = corners / corners.abs().sum(-1, keepdim=True) * 0.7
    nearest = (others - delta[:, None]).square().sum(-1).amin(1)
    assert ((found - delta).square().sum(1) <= nearest).all()
    assert torch.allclose(found.abs().sum(1), torch.full((4,), 0.7, dtype=torch.float64))


def test_l0_projection_keeps_whole_pixels():
    delta = torch.zeros(1, 3, 2, 2)
    delta[0, :, 0, 1] = torch.tensor([0.1, 0.2, 0.3])
    delta[0, 0, 1, 0] = 0.3
    kept = geometry.project(delta, "l0", torch.tensor([1.0], dtype=torch.float64))
    assert torch.equal(kept[0, :, 0, 1], delta[0, :, 0, 1])
    assert geometry.size(kept, "l0") == 1
    assert geometry.size(delta, "l0") == 2
    assert geometry.size(delta.flatten(1), "l0") == 4  # a vector counts features


@pytest.mark.parametrize("norm", NORMS)
def test_the_steepest_step_rises_fastest(norm):
    gradient = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    step = geometry.steepest(gradient, norm)
    assert torch.allclose(geometry.size(step, norm), torch.ones(3, dtype=torch.float64), atol=1e-6)
    rise = (step * gradient).sum(1)
    power = {"linf": 1, "l2": 2, "l1": float("inf"), "l0": float("inf")}[norm]
    torch.testing.assert_close(rise, torch.linalg.vector_norm(gradient, power, dim=1))


def test_steepest_survives_tiny_zero_and_broken_gradients():
    gradient = torch.stack([torch.full((4,), 1e-38), torch.zeros(4), torch.tensor([1.0, torch.nan, 0, 0])])
    step = geometry.steepest(gradient, "l2")
    assert torch.allclose(step[0], torch.full((4,), 0.5), atol=1e-4)
    assert torch.equal(step[1:], torch.zeros(2, 4))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_farthest_beats_random_admissible_points_on_a_linear_function(norm):
    here = cases(norm, 0.6)
    gradient = torch.randn(6, 7, generator=torch.Generator().manual_seed(5))
    best = ((geometry.farthest(here, gradient) - here.x) * gradient).sum(1)
    tried = geometry.place(here, torch.randn(6, 4000, 7, generator=torch.Generator().manual_seed(6)))
    others = ((tried - here.x[:, None]) * gradient[:, None]).sum(-1).amax(1)
    assert (best >= others - 1e-6).all()


def test_a_bounded_attack_refuses_an_endless_budget():
    with pytest.raises(ThreatError, match="fgsm needs a budget"):
        geometry.bounded(cases("linf", float("inf")), "fgsm")


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_lie_in_the_ball_and_fill_it(norm):
    here = cases(norm, radius_of(norm, 0.5), n=2000, shape=(3,), bounds=(-9.0, 9.0))
    size = geometry.size(geometry.random_start(here, Draws(0), 0), norm)
    assert (size <= here.eps * (1 + 1e-6)).all()
    if norm in ("linf", "l2"):
        assert abs((size / here.eps).pow(3).mean().item() - 0.5) < 0.03  # a uniform point has uniform size**d


def test_mixed_budgets_do_not_touch_each_other():
    here = cases("l2", 0.1, n=2)
    mixed = Cases(here.id, here.x, here.y, here.target, torch.tensor([0.1, torch.inf], dtype=torch.float64), "l2")
    delta = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    placed = geometry.place(mixed, delta)
    assert torch.equal(placed[0], geometry.place(here, delta)[0])
    assert torch.equal(placed[1], (here.x + delta)[1].clamp(0, 1))
