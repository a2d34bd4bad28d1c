"""The referee believes nobody: what it is told, what it counts, what it leaves untouched."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from attack_models import CLASSES, digits
from torch import nn

from actsec import rows
from actsec.attacks import FGSM, PGD, MinimalL2, Noise, OnePixel, Square
from actsec.draws import Draws
from actsec.losses import Hardest, Kill, Misclassify
from actsec.search.ledger import ALREADY_WRONG, FAILED, FOUND, NORMS_KEPT
from actsec.search.oracle import Oracle, frozen
from actsec.search.referee import attack_target, cases_of, drive
from actsec.types import Ask, Target


@dataclass(frozen=True, slots=True)
class Told:
    """Candidates prepared in advance, one a question."""

    step: Any
    done: Any


@dataclass(frozen=True)
class Scripted:
    """An attack that proposes what a test wants: make(cases, step) gives (n, k, *shape)."""

    make: Any
    questions: int = 1
    norms: ClassVar = ("linf", "l2", "l0")
    knowledge: ClassVar = "white_box"
    roles: ClassVar = ()

    def start(self, cases, draws):
        return Told(torch.zeros_like(cases.id), torch.zeros_like(cases.id).bool())

    def ask(self, state, cases):
        return Ask(self.make(cases, state.step))

    def tell(self, state, reply, cases, draws):
        return Told(state.step + 1, state.step + 1 >= self.questions)


def strip(verdicts):
    return {name: getattr(verdicts, name) for name in verdicts.__slots__}


def assert_same(first, second):
    for name, value in strip(first).items():
        other = getattr(second, name)
        assert same(value, other) if isinstance(value, torch.Tensor) else value == other, name


def same(first, second):
    """Bit-equal, NaN in the same places."""
    return torch.equal(first.isnan(), second.isnan()) and torch.equal(first.nan_to_num(0), second.nan_to_num(0))


def test_inadmissible_candidates_are_counted_and_never_accepted():
    target, x, y = digits()

    def cheat(cases, step):
        far = torch.rand(cases.x.shape, generator=torch.Generator().manual_seed(0))
        return torch.stack([far, cases.x + 2, cases.x - 2, torch.full_like(cases.x, torch.nan)], 1)

    for norm, eps in (("linf", 0.05), ("l2", 0.2), ("l0", 1)):
        verdicts = attack_target(Scripted(cheat), target, cases_of(target, x, y, norm, eps))
        asked = verdicts.status != ALREADY_WRONG
        assert (verdicts.rejected[asked] == 4).all()
        assert (verdicts.status[asked] == FAILED).all()
        assert torch.equal(verdicts.x, x)
        assert torch.isinf(verdicts.smallest[asked]).all()


def test_an_attack_cannot_mark_its_own_homework():
    target, x, y = digits()
    fooled = []

    @dataclass(frozen=True)
    class Boastful(Scripted):
        def tell(self, state, reply, cases, draws):
            fooled.append(reply.success.sum().item())
            reply.success.fill_(True)
            reply.score.fill_(9.0)
            return super().tell(state, reply, cases, draws)

    nudge = Boastful(lambda cases, step: (cases.x + 1e-4).clamp(0, 1)[:, None])
    verdicts = attack_target(nudge, target, cases_of(target, x, y, "linf", 0.1), settle=False)
    assert sum(fooled) == 0
    assert (verdicts.status != FOUND).all()


def test_what_is_wrong_from_the_beginning_is_not_attacked():
    target, x, y = digits()
    y = y.clone()
    y[:5] = (y[:5] + 1) % 10
    verdicts = attack_target(PGD(3), target, cases_of(target, x, y, "linf", 0.05))
    wrong = target.decide(target.logits(x)) != y
    assert wrong.sum() >= 5
    assert torch.equal(verdicts.status == ALREADY_WRONG, wrong)
    assert (verdicts.forwards[wrong] == 0).all()
    assert (verdicts.forwards[~wrong] > 0).all()
    assert torch.equal(verdicts.x[wrong], x[wrong])
    assert (verdicts.smallest[wrong] == 0).all()


@pytest.mark.parametrize("attack", [FGSM(), PGD(4, random_start=False), Noise(2), Square(5)], ids=type)
def test_failure_returns_the_best_attempt(attack):
    target, x, y = digits()
    verdicts = attack_target(attack, target, cases_of(target, x, y, "linf", 0.01))
    failed = verdicts.status == FAILED
    assert failed.sum() > 40
    assert (verdicts.size[failed] > 0).all()
    assert (verdicts.size[failed] <= 0.01 * (1 + 1e-6)).all()
    assert (verdicts.x[failed].flatten(1).amax(1) > 0).all()
    fresh = target.logits(verdicts.x)
    best = fresh.scatter(1, y[:, None], -torch.inf).amax(1) - fresh.gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(verdicts.score[failed], best.detach()[failed], rtol=1e-4, atol=1e-4)


def test_the_best_of_several_candidates_is_kept():
    target, x, y = digits()
    shades = torch.tensor([0.1, 0.0, 0.3, 0.2])

    def toward_grey(cases, step):
        return cases.x[:, None] + (0.5 - cases.x)[:, None] * shades.view(1, -1, 1, 1, 1)

    verdicts = attack_target(Scripted(toward_grey), target, cases_of(target, x, y, "linf", 0.4))
    with torch.no_grad():
        tried = x[:, None] + (0.5 - x)[:, None] * shades.view(1, -1, 1, 1, 1)
        logits = target.logits(tried.flatten(0, 1)).reshape(len(x), 4, 10)
    own = logits.gather(2, y[:, None, None].expand(-1, 4, 1))[..., 0]
    gap = logits.scatter(2, y[:, None, None].expand(-1, 4, 1), -torch.inf).amax(2) - own
    failed = (gap <= 0).all(1)
    assert failed.sum() > 20
    gap[:, 1] = -torch.inf  # the clean input is no attempt
    expected = tried[torch.arange(len(x)), gap.argmax(1)]
    torch.testing.assert_close(verdicts.x[failed], expected[failed])


class Biased(nn.Module):
    def __init__(self, inner, bias):
        super().__init__()
        self.inner, self.bias = inner, bias

    def forward(self, x):
        z = self.inner(x)
        return z - self.bias * nn.functional.one_hot(z.argmax(1), z.shape[1])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_stand_in_is_believed_in_nothing(norm):
    """A copy that errs elsewhere than the original: verdicts hold on the original, refusals are counted."""
    target, x, y = digits()
    stand_in = replace(target, model=Biased(target.model, 0.5))
    cases = cases_of(target, x, y, norm, 0.1 if norm == "linf" else None)
    attack = PGD(10, loss="margin") if norm == "linf" else MinimalL2(30)
    with frozen(target.model), frozen(stand_in.model):
        verdicts = drive(attack, Oracle(stand_in), Misclassify(), cases, Draws(0), judge=Oracle(target), width=32)
    assert verdicts.refused > 0
    clean = target.decide(target.logits(x)) != y
    assert torch.equal(verdicts.status == ALREADY_WRONG, clean)
    now = target.decide(target.logits(verdicts.x)) != y
    assert torch.equal(now & ~clean, verdicts.status == FOUND)


def test_a_slightly_biased_stand_in_changes_no_verdict():
    target, x, y = digits()
    stand_in = replace(target, model=Biased(target.model, 1e-3))
    cases = cases_of(target, x, y, "linf", 0.1)
    with frozen(target.model), frozen(stand_in.model):
        verdicts = drive(PGD(10), Oracle(stand_in), Misclassify(), cases, Draws(0), judge=Oracle(target))
    assert torch.equal(verdicts.status, attack_target(PGD(10), target, cases).status)


class Noisy(nn.Module):
    """Adds noise to its input: a randomised defense."""

    def __init__(self, inner, sigma):
        super().__init__()
        self.inner, self.sigma = inner, sigma

    def forward(self, x):
        return self.inner(x + self.sigma * torch.randn_like(x))


def test_a_stochastic_target_is_judged_by_its_mean_over_fresh_draws():
    target, x, y = digits()
    noisy = Target(Noisy(target.model, 0.2).eval(), target.shape, target.classes, stochastic=True)
    before = torch.get_rng_state()
    verdicts = attack_target(PGD(4), noisy, cases_of(noisy, x[:24], y[:24], "linf", 0.1), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert ((verdicts.wrong > 0) & (verdicts.wrong < 1)).any()
    assert set((verdicts.wrong * 20).round().tolist()) <= set(map(float, range(21)))
    asked = verdicts.status != ALREADY_WRONG
    assert (verdicts.forwards[asked] == 5 * 20).all()  # nothing settles early, every question is averaged
    again = attack_target(PGD(4), noisy, cases_of(noisy, x[:24], y[:24], "linf", 0.1), seed=1)
    assert_same(verdicts, again)
    other = attack_target(PGD(4), noisy, cases_of(noisy, x[:24], y[:24], "linf", 0.1), seed=2)
    assert not torch.equal(verdicts.wrong, other.wrong)
    with torch.no_grad():
        share = torch.stack([noisy.logits(verdicts.x).argmax(1) != y[:24] for _ in range(400)]).float().mean(0)
    assert (verdicts.wrong - share).abs().mean() < 0.08


class Busy(nn.Module):
    """Everything an audit must leave alone: batch norm, dropout, a buffer that is replaced, mixed train flags."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(144, 10)
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.seen = self.seen + len(x)
        self.count.add_(1)
        x.mul_(1.0)  # writes into its input
        return self.head(self.drop(self.act(self.norm(self.conv(x)))).flatten(1))


@pytest.mark.parametrize("goal", [Misclassify(), Kill()], ids=["misclassify", "kill"])
def test_the_model_is_bit_equal_afterwards(goal):
    _, x, y = digits()
    torch.manual_seed(0)
    model = Busy()
    model(x[:8]).sum().backward()
    model.train()
    model.norm.eval()
    model.head.bias.requires_grad_(False)
    model.conv.register_forward_hook(lambda *_: None)
    buffers = {name: id(b) for name, b in model.named_buffers()}
    values = {k: v.clone() for k, v in model.state_dict().items()}
    grads = {name: (p.grad, p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None}
    flags = [m.training for m in model.modules()]
    needs = [p.requires_grad for p in model.parameters()]
    hooks = [dict(m._forward_hooks) for m in model.modules()]
    state = torch.get_rng_state()
    target, clean = Target(model, (1, 8, 8), CLASSES), x.clone()
    with torch.inference_mode():
        attack_target(PGD(3), target, cases_of(target, x, y, "linf", 0.1), goal)
    attack_target(Noise(3), target, cases_of(target, x, y, "linf", 0.1), goal)
    assert torch.equal(x, clean)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    assert {name: id(b) for name, b in model.named_buffers()} == buffers
    for name, p in model.named_parameters():
        if name in grads:
            assert p.grad is grads[name][0]
            assert torch.equal(p.grad, grads[name][1])
    assert [m.training for m in model.modules()] == flags
    assert [p.requires_grad for p in model.parameters()] == needs
    assert [dict(m._forward_hooks) for m in model.modules()] == hooks
    model.train()
    model(x[:8].clone()).sum().backward()  # still trainable: no inference tensor was left behind


def test_the_model_is_put_back_when_an_attack_breaks():
    target, x, y = digits()
    target.model.train()

    def broken(cases, step):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        attack_target(Scripted(broken), target, cases_of(target, x, y, "linf", 0.1))
    assert all(m.training for m in target.model.modules())
    assert all(p.requires_grad for p in target.model.parameters())
    target.model.eval()


@pytest.mark.parametrize(
    ("attack", "norm", "eps"),
    [(PGD(20), "linf", 0.02), (Square(100), "linf", 0.02), (OnePixel(mode="paper", population=8), "l0", 1)],
    ids=["pgd", "square", "one_pixel"],
)
@pytest.mark.parametrize("queries", [1, 10, 37])
def test_the_query_budget_is_kept(attack, norm, eps, queries):
    target, x, y = digits()
    cases = cases_of(target, x[:20], y[:20], norm, eps)
    verdicts = attack_target(attack, target, cases, queries=queries)
    assert verdicts.forwards.max() <= queries
    failed = verdicts.status == FAILED
    candidates = 8 if norm == "l0" else 1
    affordable = queries // candidates * candidates
    assert (verdicts.forwards[failed] == min(affordable, 21 if isinstance(attack, PGD) else affordable)).all()


def test_broken_logits_are_never_a_success():
    class Broken(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, x):
            fine = torch.stack([1 - x.sum(1), x.sum(1)], 1)
            return torch.where((x != 0).any(1, keepdim=True), fine * self.value, fine)

    x, y = torch.zeros(6, 3), torch.zeros(6, dtype=torch.int64)
    for value in (torch.nan, torch.inf):
        target = Target(Broken(value), (3,), ("a", "b"))
        for attack in (FGSM(), PGD(3), Noise(5), Square(5)):
            verdicts = attack_target(attack, target, cases_of(target, x, y, "linf", 0.9))
            assert (verdicts.status == FAILED).all(), (value, attack)
            assert torch.isinf(verdicts.smallest).all()


def test_one_logit_and_threshold_targets():
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    x = torch.rand(60, 6)
    with torch.no_grad():
        model.weight.mul_(4)
        model.bias.copy_(-(x @ model.weight[0]).median())
    probability = torch.sigmoid(model(x))[:, 0].detach()
    for threshold in (None, 0.3, 0.7):
        target = Target(model, (6,), ("no", "yes"), threshold=threshold)
        y = (probability > (threshold or 0.5)).long()
        cases = cases_of(target, x, y, "linf", 0.15)
        verdicts = attack_target(PGD(10), target, cases)
        assert (verdicts.status != ALREADY_WRONG).all()
        w = model.weight.detach()[0]
        push = torch.where(y[:, None] == 1, -w.sign(), w.sign()) * 0.15
        extreme = torch.sigmoid(((x + push).clamp(0, 1) @ w) + model.bias.detach())
        breakable = (extreme > (threshold or 0.5)).long() != y
        assert breakable.any()
        assert torch.equal(verdicts.status == FOUND, breakable), threshold


def test_smallest_counts_every_candidate_for_every_norm():
    target, x, y = digits()
    verdicts = attack_target(PGD(10, loss="margin"), target, cases_of(target, x, y, "linf", 0.2), settle=False)
    found = verdicts.status == FOUND
    assert found.sum() > 20
    linf = verdicts.smallest[:, NORMS_KEPT.index("linf")]
    assert (linf[found] <= verdicts.size[found]).all()
    assert torch.isfinite(verdicts.smallest[found]).all()
    assert torch.isinf(verdicts.smallest[verdicts.status == FAILED]).all()


def test_a_goal_that_does_not_settle_attacks_every_row_to_the_end():
    target, x, y = digits()
    verdicts = attack_target(PGD(5), target, cases_of(target, x, y, "linf", 0.1), Hardest())
    assert (verdicts.forwards == 6).all()
    assert (verdicts.backwards == 5).all()
    settled = attack_target(PGD(5), target, cases_of(target, x, y, "linf", 0.1))
    both = (settled.status == FAILED) & (verdicts.size > 0)
    torch.testing.assert_close(verdicts.score[both], settled.score[both])


def test_rows_are_taken_and_joined_through_records():
    @dataclass(frozen=True)
    class Inner:
        a: Any

    @dataclass(frozen=True)
    class Outer:
        b: Any
        inner: Inner
        many: tuple[Any, ...]
        option: int = 3

    record = Outer(torch.arange(4), Inner(torch.arange(4) * 2), (torch.arange(4) * 3,))
    some = rows.take(record, torch.tensor([2, 0]))
    assert some.inner.a.tolist() == [4, 0]
    both = rows.join(some, rows.take(record, record.b > 2))
    assert (both.b.tolist(), both.many[0].tolist(), both.option) == ([2, 0, 3], [6, 0, 9], 3)


def test_progress_is_told():
    target, x, y = digits()
    told = []
    attack_target(PGD(3), target, cases_of(target, x, y, "linf", 0.1), width=16, tell=lambda *a: told.append(a))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 50
