"""What every attack must keep, and each attack against what is known of it."""

import inspect
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from attack_models import digits
from torch import nn

from actsec import registry, spec
from actsec.attacks import FGSM, PGD, CarliniWagner, DeadReLU, MinimalL2, Noise, Square
from actsec.errors import ActsecError, BadOption, ThreatError
from actsec.losses import Kill, Misclassify
from actsec.search.ledger import ALREADY_WRONG, FOUND, STATUS
from actsec.search.referee import attack_target, cases_of
from actsec.types import Target

STORED = {"replay", "transfer"}  # propose what was made elsewhere: see test_transfer_replay.py
NAMES = tuple(name for name in registry.names("attacks") if name not in STORED)
QUICK = {
    "carlini_wagner": "carlini_wagner(steps=12, search_steps=3, c=0.1)",
    "minimal_l2": "minimal_l2(steps=12, refine=4)",
    "one_pixel": "one_pixel(mode=paper, population=20, generations=3)",
    "square": "square(queries=25)",
    "noise": "noise(draws=10)",
    "dead_relu": "dead_relu(steps=5)",
    "saturation": "saturation(steps=5)",
    "zero_tail": "zero_tail(steps=5)",
    "miscalibration": "miscalibration(steps=5)",
    "pgd": "pgd(steps=5, restarts=2)",
    "apgd": "apgd(steps=6, restarts=2, targets=2, loss=dlr)",
    "fab": "fab(steps=4, targets=3)",
    "autoattack": "autoattack(steps=5, targets=2, queries=8)",
    "cascade": "cascade(steps=4, targets=2, restarts=2, queries=8)",
    "averaged_differences": "averaged_differences(steps=4, directions=3)",
    "bpda": "bpda(steps=4)",
}
LEAVES_THE_BALL = {"autoattack"}
"""FAB, which is part of it, comes to the boundary from outside the ball."""
EPS = {"linf": 0.1, "l2": 0.5, "l1": 2.0, "l0": 1}


def threats(name):
    """Every norm of an attack with a budget that suits it."""
    cls = registry.find("attacks", name)
    return [(norm, None if "minimal" in cls.roles else EPS[norm]) for norm in cls.norms]


def subject(name):
    """A network with units that an attack of this name can reach, and images."""
    return digits({"saturation": nn.Tanh, "zero_tail": nn.GELU}.get(name, nn.ReLU))


def attack_of(name):
    return registry.build("attacks", QUICK.get(name, name))


def goal_of(attack):
    return Kill() if getattr(attack, "goal", "") == "kill" else Misclassify()


def run(name, n=12, **options):
    target, x, y = subject(name)
    attack = attack_of(name)
    return [
        attack_target(attack, target, cases_of(target, x[:n], y[:n], norm, eps), goal_of(attack), **options)
        for norm, eps in threats(name)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_conformance(name):
    cls = registry.find("attacks", name)
    assert len(registry.page("attacks", name)) > 200
    assert cls.__doc__
    assert all(meaning for _, _, _, meaning in spec.table(cls))
    assert {"norms", "knowledge", "roles"} <= set(dir(cls))
    written = registry.canonical("attacks", QUICK.get(name, name))
    assert registry.build("attacks", str(written)) == attack_of(name)
    assert pickle.loads(pickle.dumps(attack_of(name))) == attack_of(name)
    for function in (cls.parts,) if hasattr(cls, "parts") else (cls.start, cls.ask, cls.tell):
        assert not inspect.iscoroutinefunction(function)


@pytest.mark.parametrize("name", NAMES)
def test_equal_runs_are_bit_equal_and_admissible(name):
    for first, second, (norm, eps) in zip(run(name, seed=3), run(name, seed=3), threats(name), strict=True):
        for field in ("status", "x", "score", "size", "forwards", "backwards", "found_at", "smallest"):
            assert torch.equal(getattr(first, field), getattr(second, field)), (norm, field)
        assert first.rejected.sum() == 0 or name in LEAVES_THE_BALL
        assert ((first.x >= 0) & (first.x <= 1)).all()
        if eps is not None:
            assert (first.size <= eps * (1 + 1e-6)).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_state_holds_rows_alone(name):
    """Whatever the width and the batch, bit for bit."""
    fields = ("status", "x", "score", "size", "forwards", "backwards", "found_at", "rejected", "smallest", "logits")
    reference = run(name, n=35, width=35, batch=256)
    for width, batch in ((1, 32), (7, 7), (33, 40)):
        for first, second in zip(reference, run(name, n=35, width=width, batch=batch), strict=True):
            for field in fields:
                assert torch.equal(getattr(first, field), getattr(second, field)), (width, batch, field)


@pytest.mark.parametrize("eps", [2 / 255, 8 / 255, 0.1, 0.3])
def test_fgsm_is_the_five_lines_bit_for_bit(eps):
    target, x, y = digits()
    leaf = x.clone().requires_grad_(True)
    F.cross_entropy(target.model(leaf), y, reduction="sum").backward()
    expected = (x + eps * leaf.grad.sign()).clamp(0, 1)
    target.model.zero_grad()
    verdicts = attack_target(FGSM(), target, cases_of(target, x, y, "linf", eps))
    asked = verdicts.status != ALREADY_WRONG
    assert asked.sum() > 50
    admissible = (expected.double() - x.double()).abs() <= eps * (1 + 1e-6)
    assert admissible.float().mean() > 0.9
    assert torch.equal(verdicts.x[asked][admissible[asked]], expected[asked][admissible[asked]])
    fooled = target.model(expected).argmax(1) != y
    assert torch.equal((verdicts.status == FOUND)[asked], fooled[asked])


def test_targeted_fgsm_steps_down_the_loss_of_the_target():
    target, x, y = digits()
    aim = (y + 3) % 10
    leaf = x.clone().requires_grad_(True)
    F.cross_entropy(target.model(leaf), aim, reduction="sum").backward()
    expected = (x - 0.1 * leaf.grad.sign()).clamp(0, 1)
    target.model.zero_grad()
    cases = replace(cases_of(target, x, y, "linf", 0.1), target=aim)
    verdicts = attack_target(FGSM(), target, cases)
    asked = verdicts.status != ALREADY_WRONG
    torch.testing.assert_close(verdicts.x[asked], expected[asked], rtol=0, atol=1e-7)
    assert torch.equal((verdicts.status == FOUND)[asked], (target.model(expected).argmax(1) == aim)[asked])


def test_stronger_attacks_are_stronger():
    target, x, y = digits()

    def found(attack, norm, eps, **changes):
        verdicts = attack_target(attack, target, cases_of(target, x, y, norm, eps), **changes)
        return (verdicts.status == FOUND).sum().item()

    for norm, eps in (("linf", 0.1), ("l2", 0.6)):
        counts = [found(a, norm, eps) for a in (Noise(30), Square(150), PGD(20, loss="margin"))]
        assert counts == sorted(counts)
        assert counts[0] < counts[2]


def test_minimal_l2_and_carlini_wagner_agree_and_every_success_lies_on_the_boundary():
    target, x, y = digits()
    cases = cases_of(target, x[:12], y[:12], "l2", None)
    fast, slow = (
        attack_target(a, target, cases) for a in (MinimalL2(), CarliniWagner(steps=200, search_steps=6, c=0.1))
    )
    tried = fast.status != ALREADY_WRONG
    assert torch.equal(tried, slow.status != ALREADY_WRONG)
    assert (fast.status[tried] == FOUND).all()
    assert (slow.status[tried] == FOUND).all()
    ratio = (slow.size / fast.size)[tried]
    assert 0.99 <= ratio.median() <= 1.02
    shorter = x[:12] + (fast.x - x[:12]) * 0.995
    assert (target.decide(target.logits(shorter)) == y[:12])[tried].all()


@pytest.mark.slow
def test_doubling_the_iterations_of_carlini_wagner_moves_its_median_by_less_than_one_percent():
    target, x, y = digits()
    cases = cases_of(target, x[:10], y[:10], "l2", None)
    once, twice = (attack_target(CarliniWagner(steps=s), target, cases).size.median() for s in (400, 800))
    assert abs(twice / once - 1) < 0.01


@pytest.mark.parametrize("targeted", [False, True])
def test_confidence_is_a_margin_that_the_goal_can_demand(targeted):
    target, x, y = digits()
    cases = cases_of(target, x[:8], y[:8], "l2", None)
    if targeted:
        cases = replace(cases, target=(y[:8] + 1) % 10)
    attack = CarliniWagner(steps=250 if targeted else 120, search_steps=4, c=1.0, confidence=3.0)
    verdicts = attack_target(attack, target, cases, Misclassify(confidence=3.0))
    found = verdicts.status == FOUND
    assert found.sum() >= 6
    logits = verdicts.logits[found]
    label = (cases.target if targeted else cases.y)[found][:, None]
    gap = logits.gather(1, label)[:, 0] - logits.scatter(1, label, -torch.inf).amax(1)
    assert ((gap if targeted else -gap) >= 3.0).all()


def test_carlini_wagner_moves_pixels_that_lie_on_the_box():
    target, x, y = digits()
    x, y = x[:16], y[:16]
    verdicts = attack_target(
        CarliniWagner(steps=250, search_steps=3, c=0.3), target, cases_of(target, x, y, "l2", None)
    )
    found = verdicts.status == FOUND
    on_box = (x == 0) | (x == 1)
    assert (verdicts.x - x).abs()[found][on_box[found]].max() > 0.1


def test_dead_relu_kills_more_than_noise_and_pgd():
    target, x, y = digits()
    cases = cases_of(target, x[:24], y[:24], "linf", 0.2)
    rise = [
        attack_target(a, target, cases, Kill()).score.mean().item() for a in (DeadReLU(20), PGD(20), Noise(20, "sign"))
    ]
    assert rise[0] > 0.02
    assert rise[0] > 1.5 * max(rise[1:])


def test_dead_relu_is_not_applicable_where_nothing_can_die():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LeakyReLU(), nn.Linear(8, 2))
    target = Target(model, (1, 8, 8), ("a", "b"))
    cases = cases_of(target, torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64), "linf", 0.1)
    with pytest.raises(ThreatError, match="leaky_relu cannot be killed"):
        attack_target(DeadReLU(), target, cases, Kill())


def test_square_works_on_vectors_and_keeps_its_budget():
    torch.manual_seed(0)
    target = Target(nn.Linear(9, 3), (9,), ("a", "b", "c"), bounds=(-2.0, 2.0))
    x = torch.rand(40, 9) * 4 - 2
    y = target.decide(target.logits(x))
    for norm, eps in (("linf", 0.5), ("l2", 1.0)):
        verdicts = attack_target(Square(60), target, cases_of(target, x, y, norm, eps), settle=False)
        assert verdicts.forwards.unique().tolist() == [60]
        best = attack_target(PGD(loss="margin"), target, cases_of(target, x, y, norm, eps))
        assert (verdicts.status == FOUND).sum() >= 0.6 * (best.status == FOUND).sum() > 3


@pytest.mark.parametrize("kind", ["uniform", "sign"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l0"])
def test_noise_is_what_it_says(kind, norm):
    target, x, y = digits()
    eps = {"linf": 0.1, "l2": 0.5, "l0": 3}[norm]
    verdicts = attack_target(Noise(1, kind), target, cases_of(target, x, y, norm, eps))
    asked = verdicts.status != ALREADY_WRONG
    delta, size = (verdicts.x - x)[asked], verdicts.size[asked]
    assert (size <= eps * (1 + 1e-6)).all()
    if norm == "l0":
        if kind == "uniform":
            assert (size >= 2).all()  # three random values; one may hit the pixel's own
        else:  # many pixels already lie at the end that was drawn
            assert set(verdicts.x[asked][delta != 0].unique().tolist()) <= {0.0, 1.0}
    elif kind == "sign" and norm == "linf":
        inner = ((x > 0.1) & (x < 0.9))[asked]
        assert torch.allclose(delta[inner].abs(), torch.tensor(0.1), atol=1e-6)
    else:
        assert delta.flatten(1).std(1).min() > 0


@pytest.mark.parametrize(
    "text",
    [
        "pgd(steps=0)",
        "pgd(step_size=0)",
        "noise(draws=0)",
        "square(p=2)",
        "minimal_l2(gamma=1)",
        "carlini_wagner(step_size=0)",
        "one_pixel(levels=1)",
        "one_pixel(mode=exhaustive, pixels=2)",
        "one_pixel(population=3)",
        "dead_relu(width=0)",
        "dead_relu(share=0)",
        "saturation(steps=0)",
        "zero_tail(step_size=0)",
        "fgsm(loss=hinge)",
    ],
)
def test_bad_options_are_named(text):
    with pytest.raises(BadOption, match=text.split("(")[0]):
        registry.build("attacks", text)


@pytest.mark.parametrize("text", ["pgd", "apgd", "noise", "square", "dead_relu"])
def test_attacks_in_a_ball_ask_for_its_size(text):
    target, x, y = digits()
    attack = registry.build("attacks", text)
    with pytest.raises(ThreatError, match=f"{text} needs a budget"):
        attack_target(attack, target, cases_of(target, x[:2], y[:2], "linf", None), goal_of(attack))


def test_every_status_has_a_name():
    assert len(STATUS) == 4
    assert issubclass(ThreatError, ActsecError)
