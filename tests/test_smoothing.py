"""Randomised smoothing: what it answers, what its certificate says, and that no attack ever contradicts it."""

import copy
import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from actsec import registry, training
from actsec.errors import BadOption
from actsec.search.certificates import certify, left, lower_bound, radius_of, voter_of, votes
from actsec.search.referee import attack_target, cases_of
from actsec.spec import parse
from actsec.types import Material, Normalization, Split, Target

ALPHA = 0.001


class Plane(nn.Module):
    """Two classes on the two sides of a plane: [0, steepness * (w x + b)]."""

    def __init__(self, w, b, steepness=1e4):
        super().__init__()
        self.register_buffer("w", torch.tensor(w))
        self.b, self.steepness = b, steepness

    def forward(self, x):
        z = self.steepness * (x @ self.w + self.b)
        return torch.stack([torch.zeros_like(z), z], 1)


def smoothed(target, text="smoothing(std=0.5, draws=8)", material=None):
    defense = registry.build("defenses", text)
    made = defense.wrap(target)
    if material is not None:
        defense.fit(made, material)
    return made


def plane(w=(0.6, -0.8, 0.0), b=0.1, std=0.5, **options):
    return smoothed(Target(Plane(w, b), (len(w),), ("a", "b"), **options), f"smoothing(std={std}, draws=8)")


def material(split):
    return Material(None, split, 0, None, lambda text, done, total: None)


@functools.cache
def digits():
    """A small network trained under the noise behind smoothing(std=0.25), and 40 test digits with their ids."""
    data = load_digits()
    x = torch.from_numpy(data.images).float()[:, None] / 16
    y, order = torch.from_numpy(data.target), torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    train = Split(x[order[:1200]], y[order[:1200]], order[:1200])
    training.fit(model, train.x, train.y, training.Recipe(epochs=3))
    plain = Target(model, (1, 8, 8), tuple("0123456789"))
    made = smoothed(plain, "smoothing(std=0.25, draws=8, finetune=6)", material(train))
    test = order[1200:1240]
    return made, x[test], y[test], test


@given(st.integers(1, 400), st.integers(0, 400), st.floats(1e-4, 0.4))
@settings(max_examples=60, deadline=None)
def test_the_lower_bound_is_where_so_many_successes_are_as_unlikely_as_alpha(n, k, alpha):
    k = min(k, n)
    p = lower_bound(k, n, alpha)
    assert 0 <= p < 1
    assert binom.sf(k - 1, n, p) == pytest.approx(alpha, rel=1e-6) if k else p == 0


def test_all_of_n_give_the_published_largest_radius():
    # Cohen et al. 2019, section 3.2.2: alpha^(1/n) is the most that n unanimous draws can tell.
    assert lower_bound(100_000, 100_000, ALPHA) == pytest.approx(ALPHA ** (1 / 100_000))
    assert radius_of(lower_bound(100_000, 100_000, ALPHA), 1.0) == pytest.approx(3.8115, abs=1e-4)
    assert radius_of(0.5, 1.0) == 0
    assert radius_of(0.2, 1.0) == 0


def test_the_radius_of_a_plane_is_the_distance_to_it_never_more_and_nearly_so_much():
    w, b, std, n = (0.6, -0.8, 0.0), 0.1, 0.5, 3000
    target = plane(w, b, std)
    x = torch.randn(80, 3, generator=torch.Generator().manual_seed(1)) * 0.6
    signed = (x @ torch.tensor(w) + b).double()
    distance = signed.abs()
    found = certify(target, x, torch.arange(80), n0=50, n=n, alpha=ALPHA)
    # 80 certificates that are each wrong with probability 0.001: two wrong ones come once in 300 seeds.
    assert int((found.radius > distance).sum()) <= 1
    sure = found.label >= 0
    assert torch.equal(found.label[sure], (signed[sure] > 0).long())
    exact = torch.from_numpy(norm.cdf(distance.numpy() / std))
    # One-sided: the bound lies below the true probability by what alpha costs at n draws, and by no more than 3 more
    # standard errors.
    least = exact - (3.1 + 3) * (exact * (1 - exact) / n).sqrt() - 10 / n
    clear = exact > 0.7  # nearer to the plane the few first copies may name the other class
    assert bool((found.lower >= least)[clear].all())
    assert 40 < int(clear.sum()) <= int(sure.sum())
    tight = sure & (distance < 1.5 * std)
    assert float((found.radius / distance)[tight & (distance > 0.2)].median()) > 0.85
    assert bool((found.radius[~sure] == 0).all())


def test_the_share_of_votes_is_the_probability_of_the_half_space():
    target, n = plane(), 20_000
    x = torch.tensor([[0.1, 0.1, 0.3], [0.5, 0.0, -1.0], [-0.4, 0.6, 0.0]])
    counts = votes(target, x, torch.tensor([3, 4, 5]), n, 0, "test")
    assert bool((counts.sum(1) == n).all())
    for row, k in zip(x, counts[:, 1].tolist(), strict=True):
        p = norm.cdf(float(row @ torch.tensor([0.6, -0.8, 0.0]) + 0.1) / 0.5)
        assert 1e-6 < binom.cdf(k, n, p) < 1 - 1e-6


def test_normalization_leaves_the_noise_in_input_units():
    w, b, n = (0.6, -0.8, 0.0), 0.1, 20_000
    x = torch.tensor([[[[0.1]], [[0.1]], [[0.3]]]])
    scale = (0.5, 2.0, 1.0)
    model = nn.Sequential(nn.Flatten(), Plane(tuple(a * s for a, s in zip(w, scale, strict=True)), b + 0.6 * 0.2))
    shifted = Normalization((0.2, 0.0, 0.0), scale)
    target = smoothed(Target(model, (3, 1, 1), ("a", "b"), normalization=shifted), "smoothing(std=0.5)")
    k = int(votes(target, x, torch.tensor([0]), n, 0, "test")[0, 1])
    p = norm.cdf((0.06 - 0.08 + 0.1) / 0.5)
    assert 1e-6 < binom.cdf(k, n, p) < 1 - 1e-6


def test_a_row_is_certified_alike_alone_in_company_and_in_any_order():
    target, x, _, ids = digits()
    options = {"n0": 20, "n": 300, "alpha": ALPHA}
    together = certify(target, x[:6], ids[:6], **options)
    alone = certify(target, x[3:4], ids[3:4], **options)
    backwards = certify(target, x[:6].flip(0), ids[:6].flip(0), **options)
    for name in ("label", "votes", "lower", "radius"):
        assert torch.equal(getattr(together, name)[3:4], getattr(alone, name))
        assert torch.equal(getattr(together, name), getattr(backwards, name).flip(0))
    assert not torch.equal(certify(target, x[:6], ids[:6], seed=1, **options).votes, together.votes)


def test_certifying_leaves_the_model_and_the_random_state_alone():
    target, x, _, ids = digits()
    before = {name: value.clone() for name, value in target.model.state_dict().items()}
    state, modes = torch.get_rng_state(), [m.training for m in target.model.modules()]
    certify(target, x[:2], ids[:2], n0=5, n=20, alpha=ALPHA)
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [m.training for m in target.model.modules()]
    assert all(torch.equal(value, before[name]) for name, value in target.model.state_dict().items())


def test_an_answer_is_the_vote_with_the_mean_probability_as_one_vote_more():
    target, x, _, _ = digits()
    model = target.model.eval()
    torch.manual_seed(3)
    said = target.logits(x[:5])
    torch.manual_seed(3)
    many = x[:5].repeat_interleave(8, 0)
    probability = model.model(many + 0.25 * torch.randn_like(many)).double().softmax(-1).reshape(5, 8, 10)
    counts = torch.zeros(5, 10, dtype=torch.float64)
    for draw in probability.argmax(-1).T:
        counts[torch.arange(5), draw] += 1
    expected = (counts + probability.mean(1)) / 9
    assert torch.allclose(said.double().exp(), expected, rtol=1e-4, atol=1e-9)
    assert torch.allclose(said.exp().sum(1), torch.ones(5), atol=1e-5)
    assert bool(torch.isfinite(said).all())


def test_votes_decide_even_against_the_mean_probability():
    class Table(nn.Module):
        """Whatever is asked: two of three copies lean to class 0, the third is sure of class 1."""

        def forward(self, x):
            return torch.tensor([[0.1, 0.0], [0.1, 0.0], [0.0, 9.0]]).repeat(len(x) // 3, 1) + 0 * x

    target = smoothed(Target(Table(), (2,), ("a", "b")), "smoothing(std=0.1, draws=3)")
    target.model.eval()
    said = target.logits(torch.zeros(4, 2))
    assert said.argmax(1).tolist() == [0] * 4
    mean = torch.tensor([[0.1, 0.0], [0.1, 0.0], [0.0, 9.0]]).softmax(1).mean(0)
    assert float(mean[1]) > 0.5
    assert torch.allclose(said[0].exp(), (torch.tensor([2.0, 1.0]) + mean) / 4)


def test_its_gradient_is_that_of_the_mean_probability():
    target, x, y, _ = digits()
    target.model.eval()
    leaf = x[:4].clone().requires_grad_(True)
    torch.manual_seed(4)
    (given_out,) = torch.autograd.grad(F.nll_loss(target.logits(leaf), y[:4], reduction="sum"), leaf)
    torch.manual_seed(4)
    many = leaf.repeat_interleave(8, 0)
    mean = target.model.model(many + 0.25 * torch.randn_like(many)).softmax(-1).reshape(4, 8, 10).mean(1)
    (expected,) = torch.autograd.grad(F.nll_loss(mean.log(), y[:4], reduction="sum"), leaf)
    assert torch.allclose(given_out, expected, rtol=1e-3, atol=1e-6)
    assert float(given_out.abs().amax((1, 2, 3)).min()) > 0


def test_a_saturated_network_still_has_finite_logits_and_gradients():
    made = smoothed(Target(Plane((1.0, 0.0), 0.0, steepness=1e6), (2,), ("a", "b")), "smoothing(std=0.1, draws=4)")
    made.model.eval()
    leaf = torch.tensor([[0.5, 0.0], [0.0, 0.0], [-3.0, 1.0]], requires_grad=True)
    said = made.logits(leaf)
    (gradient,) = torch.autograd.grad((said[:, 0] - said[:, 1]).sum(), leaf)
    assert bool(torch.isfinite(said).all())
    assert bool(torch.isfinite(gradient).all())
    assert said.argmax(1)[[0, 2]].tolist() == [1, 0]


def test_in_training_it_is_the_model_on_one_noisy_copy():
    target, x, _, _ = digits()
    model = copy.deepcopy(target.model).train()
    torch.manual_seed(5)
    said = model(x)
    torch.manual_seed(5)
    assert torch.equal(said, model.model(x + 0.25 * torch.randn_like(x)))


def test_a_threshold_moves_into_the_votes():
    low = Target(Plane((1.0, 0.0), 0.0, steepness=1.0), (2,), ("a", "b"), threshold=0.9)
    made = smoothed(low, "smoothing(std=0.3, draws=8)")
    assert made.threshold is None
    n, x = 20_000, torch.tensor([[2.0, 0.0]])
    k = int(votes(made, x, torch.tensor([0]), n, 0, "test")[0, 1])
    p = norm.cdf((2.0 - math.log(9)) / 0.3)  # the copies above a probability of 0.9
    assert 1e-6 < binom.cdf(k, n, p) < 1 - 1e-6


def test_what_attacks_are_told_of_its_cost():
    made = smoothed(digits()[0], "smoothing(std=0.1, draws=5)")
    assert made.stochastic
    assert made.draws == 5 * 8
    assert digits()[0].draws == 8


def test_no_certified_digit_falls_to_any_attack():
    target, x, y, ids = digits()
    n = 600
    made = certify(target, x, ids, n0=50, n=n, alpha=ALPHA)
    right = made.label == y
    radii = (0.1, 0.25, 0.5)
    held = left(target, x, y, ids, radii, attack=parse("pgd(steps=12)"), n=n)
    shares = []
    for eps, still in zip(radii, held, strict=True):
        sure = right & (made.radius > eps)
        assert not bool((sure & ~still).any())
        shares.append((int(sure.sum()), int(still.sum())))
    # The certificate says something, and so does the attack: both fall with eps, the one below the other.
    assert shares[0][0] > 20
    assert shares[0][0] > shares[-1][0]
    assert shares[-1][0] < shares[-1][1] < 40
    # The smallest change that fooled an answer must not fool the vote where it lies within a certified radius.
    found = attack_target(
        registry.build("attacks", "minimal_l2(steps=30)"), target, cases_of(target, x, y, "l2", None, ids), repeats=2
    )
    nearer = right & (found.size < made.radius)
    kept = votes(target, found.x[nearer], ids[nearer], n, 0, "smallest").argmax(1)
    assert torch.equal(kept, y[nearer])


def test_the_voter_is_found_behind_what_keeps_its_decision_and_nowhere_else():
    target, _, _, _ = digits()

    def behind(text, over=target):
        return registry.build("defenses", text).wrap(over)

    assert voter_of(target) is target.model
    assert voter_of(behind("temperature")) is not None
    assert voter_of(behind("isotonic", behind("temperature"))) is not None
    assert voter_of(behind("isotonic(curves=each)")) is None
    assert voter_of(behind("vector_scaling")) is None
    assert voter_of(behind("noisy_inference(std=0.1)")) is None
    assert voter_of(behind("swap(to=gelu)")) is None
    assert voter_of(target.having(model=target.model.model)) is None
    with pytest.raises(TypeError, match="no vote"):
        votes(behind("vector_scaling"), torch.zeros(1, 1, 8, 8), torch.tensor([0]), 4, 0, "")


@pytest.mark.parametrize(
    "text", ["smoothing(std=0)", "smoothing(std=inf)", "smoothing(std=1, draws=0)", "smoothing(std=1, finetune=-1)"]
)
def test_what_cannot_be_is_refused(text):
    with pytest.raises(BadOption, match="smoothing"):
        registry.build("defenses", text)


def test_art_counts_the_same_votes():
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    target, x, _, ids = digits()
    n = 2000
    ours = votes(target, x[:8], ids[:8], n, 0, "test").numpy()
    theirs = PyTorchRandomizedSmoothing(
        model=copy.deepcopy(target.model.model).eval(),
        loss=nn.CrossEntropyLoss(),
        input_shape=(1, 8, 8),
        nb_classes=10,
        clip_values=None,
        sample_size=100,
        scale=0.25,
        alpha=ALPHA,
        device_type="cpu",
    )
    state = np.random.get_state()  # noqa: NPY002  # ART draws from the global one
    np.random.seed(0)  # noqa: NPY002  # the same
    counted = np.stack([theirs._prediction_counts(row.numpy(), n=n) for row in x[:8]])
    np.random.set_state(state)  # noqa: NPY002  # the same
    # Two samples of n of the same distribution: every count differs by chance alone.
    pooled = (ours + counted) / (2 * n)
    spread = np.sqrt(np.maximum(2 * n * pooled * (1 - pooled), 1))
    assert ours.sum() == counted.sum() == 8 * n
    assert bool((np.abs(ours - counted) < 5 * spread).all())


def test_an_audit_certifies_shows_and_resumes(tmp_path):
    from actsec.planning.plan import Plan, Trial
    from actsec.reports import load
    from actsec.running import preparing, runner

    tiny = Plan(
        model="reference:mlp(width=[8])",
        activations=("relu",),
        defenses=("smoothing(std=0.2, draws=2, finetune=2)", "smoothing(std=0.2, draws=2) | vector_scaling"),
        corruptions=(),
        samples=4,
        attacks=(
            Trial("fgsm", role="single_step"),
            Trial("pgd(steps=2)", role="iterative"),
            Trial("pgd(steps=2, loss=margin)", role="margin"),
            Trial("pgd(steps=3)", role="doubled"),
            Trial("pgd(steps=3)", "linf:1", role="unbounded"),
            Trial("noise(draws=2)", role="noise"),
            Trial("square(queries=4)", role="gradient_free"),
        ),
    )
    result, store = runner.audit(tiny, tmp_path / "run", executor="serial")
    base, sure, spoilt = result.variants
    assert base.certificate is None
    assert spoilt.certificate.reason.startswith("a defense after smoothing")
    found = sure.certificate
    assert (found.n, found.std, found.draws, found.votes, found.alpha) == (4, 0.2, 1000, 2, 0.001)
    assert [at.eps for at in found.radii] == [0.05, 0.1, 0.2, 0.3, 0.4]
    assert all(at.certified.k <= at.attacked.k and not at.contradicted for at in found.radii)
    text = load.render(load.read(tmp_path / "run"), "md")
    assert "Clopper and Pearson" in text
    assert f"{found.clean.k} of 4" in text
    assert "no certificate" in text
    # Nothing is done twice, and every number follows from the stored outcome.
    stored = sorted((tmp_path / "run" / "outcomes").iterdir())
    times = [path.stat().st_mtime_ns for path in stored]
    again, _ = runner.audit(tiny, tmp_path / "run", executor="serial")
    assert again == result
    assert [path.stat().st_mtime_ns for path in stored] == times
    ((job, outcome),) = [
        (job, found)
        for job in preparing.prepare(tiny).jobs
        if job.kind == "certify" and "vector" not in job.variant and (found := store.get(job.id)) is not None
    ]
    held = np.zeros_like(outcome.arrays["held"])
    cost = {"kind": "certify", "label": "", "seconds": 0.0, "peak_mib": 0}
    store.put(dataclasses.replace(outcome, arrays={**outcome.arrays, "held": held}), cost)
    changed, _ = runner.audit(tiny, tmp_path / "run", executor="serial")
    told = changed.variants[1].certificate
    assert all(at.attacked.k == 0 and at.contradicted == at.certified.k for at in told.radii)
    assert "fault of actsec" in load.render(load.read(tmp_path / "run"), "md")
    assert job.recipe["radii"] == [0.05, 0.1, 0.2, 0.3, 0.4]
