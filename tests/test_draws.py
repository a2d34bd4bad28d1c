"""Random numbers by address: right in distribution, the same in every batch."""

import pytest
import torch
from scipy import stats

from actsec.draws import Draws

ROWS = torch.arange(500)


@pytest.mark.parametrize(
    ("kind", "cdf"), [("uniform", stats.uniform.cdf), ("normal", stats.norm.cdf)], ids=["uniform", "normal"]
)
def test_distributions(kind, cdf):
    values = getattr(Draws(7, "x"), kind)(ROWS, 3, (100,)).double().flatten().numpy()
    assert stats.kstest(values, cdf).pvalue > 0.01


def test_signs_and_integers_are_fair():
    signs = Draws(1).sign(ROWS, 0, (200,))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(signs.mean().item()) < 4 / (500 * 200) ** 0.5
    counts = Draws(1).integers(ROWS, 0, (200,), 7).flatten().bincount()
    assert len(counts) == 7
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


@pytest.mark.parametrize("kind", ["uniform", "normal", "sign", "bits"])
def test_a_row_does_not_depend_on_its_batch_or_order(kind):
    draw = getattr(Draws(3, "y"), kind)
    step = torch.arange(500) % 5
    together = draw(ROWS, step, (4,), 2)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(ROWS[order], step[order], (4,), 2), together[order])
    assert torch.equal(torch.cat([draw(ROWS[i : i + 1], step[i : i + 1], (4,), 2) for i in range(500)]), together)


def test_addresses_are_independent():
    a = Draws(0, "a").normal(ROWS, 0, (50,))
    others = {
        "seed": Draws(1, "a").normal(ROWS, 0, (50,)),
        "name": Draws(0, "b").normal(ROWS, 0, (50,)),
        "named": Draws(0, "a").named("c").normal(ROWS, 0, (50,)),
        "step": Draws(0, "a").normal(ROWS, 1, (50,)),
        "stream": Draws(0, "a").normal(ROWS, 0, (50,), 1),
        "row": Draws(0, "a").normal(ROWS + 1, 0, (50,)),
        "position": Draws(0, "a").normal(ROWS, 0, (51,))[:, 1:],
    }
    for what, b in others.items():
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(correlation) < 5 / a.numel() ** 0.5, what


def test_normals_are_finite_and_seeded():
    assert torch.isfinite(Draws(0).normal(ROWS, 0, (1000,))).all()
    assert torch.equal(Draws(0, "n").bits(torch.tensor([5]), 9, (2,)), Draws(0, "n").bits(torch.tensor([5]), 9, (2,)))
