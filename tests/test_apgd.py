"""APGD against closed forms and a plain rewriting of the paper's algorithm; FAB against closed forms; their losses."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from attack_models import CLASSES, digits, linear, optimum
from torch import nn

from actsec.attacks import APGD, FAB, PGD
from actsec.attacks.apgd import checkpoints
from actsec.attacks.fab import onto_plane
from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.losses import DLR, Margin, likely
from actsec.search.ledger import ALREADY_WRONG, FOUND
from actsec.search.referee import attack_target, cases_of
from actsec.types import Cases, Observed, Reply, Target


def truth(norm):
    target, x, y, w, b = linear()
    value = x.double() @ w.double() + b.double()
    best = optimum(x, w, value, norm)
    keep = torch.isfinite(best)
    return target, x[keep], y[keep], w, value[keep], best[keep]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "attack",
    [APGD(20), APGD(20, loss="margin"), APGD(20, loss="dlr", targets=1), APGD(10, loss="margin", begin="tiles")],
)
def test_the_worst_case_of_a_linear_model_is_reached_exactly(attack, norm):
    target, x, y, w, value, best = truth(norm)
    above = attack_target(attack, target, cases_of(target, x, y, norm, best * 1.001))
    assert (above.status == FOUND).all()
    eps = best * 0.9
    below = attack_target(attack, target, cases_of(target, x, y, norm, eps))
    assert (below.status != FOUND).all()
    # What was gained of the margin could not have been gained for less.
    gained = (below.score + value.abs()) * value.sign()
    torch.testing.assert_close(optimum(x, w, gained, norm), eps, rtol=2e-3, atol=0)
    assert above.rejected.sum() == below.rejected.sum() == 0


def test_checkpoints_are_the_papers():
    assert checkpoints(100) == (0, 22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(1000) == (0, 220, 410, 570, 700, 800, 870, 930, 990)
    assert checkpoints(1) == (0,)


def rewritten(x0, first, eps, losses, gradients, steps):
    """Algorithm 1 of Croce & Hein (2020) in L-inf, word by word, one input in float64: the points it asks about."""

    def project(z):
        return z.clamp(x0 - eps, x0 + eps).clamp(0, 1)

    points, eta, x, before = [first], 2 * eps, first, first
    best, best_loss, best_gradient = first, losses[0], gradients[0]
    values, halved_last, best_at_check, marks = [losses[0]], True, losses[0], set(checkpoints(steps)[1:])
    last_check, gradient = 0, gradients[0]
    for k in range(steps):
        if k > 0:
            values.append(losses[k])
            if losses[k] > best_loss:
                best, best_loss, best_gradient = x, losses[k], gradients[k]
            gradient = gradients[k]
            if k in marks:
                rises = sum(values[i + 1] > values[i] for i in range(last_check, k))
                halve = rises <= 0.75 * (k - last_check) or (not halved_last and best_at_check >= best_loss)
                halved_last, best_at_check, last_check = halve, best_loss, k
                if halve:
                    eta, x, gradient = eta / 2, best, best_gradient
        ahead = project(x + eta * gradient.sign())
        share = 0.75 if k else 1.0
        x, before = project(x + share * (ahead - x) + (1 - share) * (x - before)), x
        points.append(x)
    return points, eta


@pytest.mark.parametrize(("rising", "fall"), [(0.3, 1.5), (0.75, 1.5), (0.95, 1.5), (1.0, 0.0), (0.9, 20.0)])
def test_every_point_is_the_papers(rising, fall):
    """On made-up losses that rise at a given share of the steps, or rise below their best, and made-up gradients."""
    draw = torch.Generator().manual_seed(int(rising * 100))
    steps, eps, n, d = 40, 0.1, 6, 5
    x = torch.rand(n, d, generator=draw)
    change = torch.rand(n, steps + 1, generator=draw) * torch.where(
        torch.rand(n, steps + 1, generator=draw) < rising, 1.0, -fall
    )
    losses, gradients = change.cumsum(1), torch.randn(n, steps + 1, d, generator=draw)
    none = torch.zeros(n, dtype=torch.int64)
    cases = Cases(torch.arange(n), x, none, none - 1, torch.full((n,), eps).double(), "linf")
    attack, draws = APGD(steps), Draws(0)
    state = attack.start(cases, draws)
    asked = []
    for k in range(steps + 1):
        asked.append(attack.ask(state, cases).x[:, 0])
        flat = torch.zeros(n, 1)
        reply = Reply(
            torch.zeros(n, 1, 2), flat, flat > 0, flat.double(), flat == 0, losses[:, k, None], gradients[:, k, None]
        )
        state = attack.tell(state, reply, cases, draws)
    assert state.done.all()
    sizes = []
    for i in range(n):
        points, eta = rewritten(
            x[i].double(), asked[0][i].double(), eps, losses[i].tolist(), gradients[i].double(), steps
        )
        torch.testing.assert_close(torch.stack([a[i] for a in asked]).double(), torch.stack(points), rtol=0, atol=1e-6)
        sizes.append(eta)
    assert len(set(sizes)) > 1 or rising in (0.3, 1.0)


def mlp(seed):
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10))
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(10):
            for i in torch.split(torch.randperm(1200), 64):
                optimizer.zero_grad()
                F.cross_entropy(model(x[i]), y[i]).backward()
                optimizer.step()
    return Target(model.eval(), (64,), CLASSES), x[1200:1400], y[1200:1400]


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_never_fewer_than_pgd_at_equal_steps(loss):
    """Images fooled of 200, over four networks."""
    for target, x, y in [digits(), *map(mlp, range(3))]:
        apgd, pgd = (
            (attack_target(a, target, cases_of(target, x, y, "linf", 0.08)).status == FOUND).sum()
            for a in (APGD(20, loss=loss), PGD(20, loss=loss))
        )
        assert apgd >= pgd > 5


def test_targets_are_the_likeliest_other_classes_of_the_input_all_at_once():
    target, x, y = digits()
    x, y = x[:6], y[:6]
    seen = []

    def note(index, ask, reply):
        seen.append((index, ask.x.clone(), ask.target.clone()))

    attack = APGD(3, targets=4, loss="dlr")
    verdicts = attack_target(attack, target, cases_of(target, x, y, "linf", 0.01), note=note, settle=False)
    with torch.no_grad():
        ranked = target.model(x).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[:, :4]
    index, first, _ = seen[0]
    assert torch.equal(first, x[index][:, None].expand_as(first))
    for index, _, aims in seen[1:]:
        assert torch.equal(aims, ranked[index])
    standing = verdicts.status != ALREADY_WRONG
    assert standing.sum() >= 5
    assert (verdicts.forwards[standing] == 4 * (1 + 4)).all()
    assert (verdicts.backwards[standing] == 4 * (1 + 3)).all()
    assert attack.passes((1, 8, 8)) == 20 + 2 * 16


def test_each_candidate_climbs_towards_its_own_class():
    """Towards class j the j-th logit rises against the label's, by more than towards any other class."""
    target, x, y = digits()
    x, y, last = x[:8], y[:8], []
    cases = cases_of(target, x, y, "linf", 0.05)
    attack_target(
        APGD(10, targets=9, loss="margin"), target, cases, settle=False, note=lambda i, a, r: last.append((a.target, r))
    )
    aims, reply = last[-1]
    reached = reply.logits.gather(2, aims[:, None, :].expand(-1, 9, -1))  # (rows, candidate, class)
    assert (reached.argmax(1) == torch.arange(9)).float().mean() > 0.9


def test_more_targets_than_classes_begin_again_and_own_targets_stay():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    empty, y = torch.zeros(2, 1), torch.tensor([0, 2])
    cases = Cases(torch.arange(2), empty, y, torch.tensor([-1, 1]), torch.ones(2).double(), "linf")
    assert likely(logits, cases, 5).tolist() == [[2, 1, 2, 1, 2], [1] * 5]


def test_rows_with_a_target_of_their_own_reach_it():
    target, x, y = digits()
    aim = (y + 1) % 10
    cases = replace(cases_of(target, x[:24], y[:24], "linf", 0.25), target=aim[:24])
    for attack in (APGD(30, loss="margin"), APGD(30, loss="dlr", targets=3), FAB(20, 1)):
        verdicts = attack_target(attack, target, cases)
        found = verdicts.status == FOUND
        assert found.sum() >= 8, attack
        assert (target.decide(verdicts.logits) == aim[:24])[found].all()


def test_tiles_are_constant_corners():
    target, x, y = digits()
    half = torch.full_like(x[:8], 0.5)
    cases = cases_of(target, half, y[:8], "linf", 0.1)
    state = APGD(begin="tiles").start(cases, Draws(0))
    delta = state.climb.x[:, 0] - half
    torch.testing.assert_close(delta.abs(), torch.full_like(delta, 0.1), rtol=0, atol=1e-6)
    blocks = delta.reshape(8, 4, 2, 4, 2)
    assert torch.equal(blocks, blocks[:, :, :1, :, :1].expand_as(blocks))
    assert len({tuple(row.flatten().sign().tolist()) for row in delta}) == 8


def published_dlr(z, y, t=None):
    """The authors' code, one row."""
    order = z.sort().values
    if t is not None:
        return -(z[y] - z[t]) / (order[-1] - 0.5 * (order[-3] + order[-4]) + 1e-12)
    other = order[-2] if order[-1] == z[y] else order[-1]
    return -(z[y] - other) / (order[-1] - order[-3] + 1e-12)


def test_the_difference_of_logits_ratio_is_the_published_one_and_the_margin_where_it_has_too_few_classes():
    z = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    y = z.argmax(1)
    y[:10] = (y[:10] + 1) % 6
    empty, none = torch.zeros(50, 1), torch.full_like(y, -1)
    cases = Cases(torch.arange(50), empty, y, none, torch.ones(50).double(), "linf")
    expected = torch.stack([published_dlr(row, label) for row, label in zip(z, y, strict=True)])
    torch.testing.assert_close(DLR()(Observed(z), cases), expected)
    torch.testing.assert_close(DLR()(Observed(1000 * z), cases), expected, rtol=1e-4, atol=1e-6)
    aim = (y + 2) % 6
    led = slice(10, None)  # while the label leads, as in the paper
    expected = torch.stack([published_dlr(row, a, b) for row, a, b in zip(z, y, aim, strict=True)])
    torch.testing.assert_close(DLR()(Observed(z), replace(cases, target=aim))[led], expected[led])
    for classes, own in ((2, none), (2, 1 - y.clamp_max(1)), (3, (y.clamp_max(2) + 1) % 3)):
        few = replace(cases, y=y.clamp_max(classes - 1), target=own)
        assert torch.equal(DLR()(Observed(z[:, :classes]), few), Margin()(Observed(z[:, :classes]), few))


def test_losses_that_saturation_does_not_blind():
    target, x, y = digits()

    class Sharp(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = target.model

        def forward(self, x):
            return 1e3 * self.inner(x)

    sharp = Target(Sharp().eval(), target.shape, target.classes)
    cases = cases_of(sharp, x, y, "linf", 0.1)
    blind, dlr, aimed = (
        (attack_target(a, sharp, cases).status == FOUND).sum()
        for a in (APGD(10), APGD(10, loss="dlr"), APGD(10, loss="dlr", targets=2))
    )
    plain = (attack_target(APGD(10, loss="margin"), target, cases).status == FOUND).sum()
    assert min(dlr, aimed) >= 0.95 * plain > blind


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_step_onto_a_plane_is_the_smallest_within_the_box(norm):
    draw = torch.Generator().manual_seed(0)
    x, w = torch.rand(60, 7, generator=draw), torch.randn(60, 7, generator=draw)
    w[:5, 2] = 0
    gap, none = torch.randn(60, generator=draw).double(), torch.zeros(60, dtype=torch.int64)
    cases = Cases(torch.arange(60), x, none, none, torch.ones(60).double(), norm)
    step = onto_plane(cases, x, w, gap).double()
    assert ((x + step >= -1e-6) & (x + step <= 1 + 1e-6)).all()
    reach = (w.abs() * torch.where(w * -gap.sign()[:, None] > 0, 1 - x, x)).sum(1)
    met = reach > gap.abs()
    assert 30 < met.sum() < 60
    assert (gap + (w.double() * step).sum(1))[met].abs().max() < 1e-6
    assert ((w.double() * step).sum(1).abs() - reach)[~met].abs().max() < 1e-6
    if norm == "l1":  # a linear programme
        from scipy.optimize import linprog

        for i in met.nonzero().flatten()[:20].tolist():
            rows = torch.cat([w[i], -w[i]]).double().numpy()[None]
            bounds = [(0, 1 - v) for v in x[i].tolist()] + [(0, v) for v in x[i].tolist()]
            least = linprog([1.0] * 14, A_eq=rows, b_eq=[-float(gap[i])], bounds=bounds).fun
            assert abs(step[i].abs().sum().item() - least) < 1e-5
    else:
        least = torch.stack([optimum(x[i : i + 1], w[i], gap[i : i + 1], norm)[0] for i in range(60)])
        size = step.abs().amax(1) if norm == "linf" else step.norm(dim=1)
        torch.testing.assert_close(size[met], least[met], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_finds_the_smallest_change_of_a_linear_model(norm):
    target, x, y, _, _, best = truth(norm)
    verdicts = attack_target(FAB(30, 1), target, cases_of(target, x, y, norm, None))
    assert (verdicts.status == FOUND).all()
    ratio = verdicts.size / best
    assert ratio.max() <= 1.01
    assert ratio.min() >= 1 - 1e-5


def test_fab_is_told_the_box_and_not_the_ball():
    """Its points outside are rejected and counted; within eps it finds what it finds without one."""
    target, x, y = digits()
    free = attack_target(FAB(15, 3), target, cases_of(target, x, y, "linf", None))
    bound = attack_target(FAB(15, 3), target, cases_of(target, x, y, "linf", 0.08))
    assert bound.rejected.sum() > 0
    assert torch.equal(bound.status == FOUND, (free.status == FOUND) & (free.size <= 0.08 * (1 + 1e-6)))


@pytest.mark.parametrize("options", [{"steps": 0}, {"restarts": 0}, {"targets": -1}, {"first_step": 0.0}])
def test_bad_options_are_named(options):
    with pytest.raises(BadOption, match="apgd"):
        APGD(**options)


def test_bad_options_of_fab_are_named():
    with pytest.raises(BadOption, match="fab"):
        FAB(targets=0)
