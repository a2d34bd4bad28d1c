"""ART's attacks inside the audit: the threat is never given twice, nothing leaks, and our referee has the last word."""

import logging
import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from attack_models import digits
from torch import nn

import actsec
from actsec import registry, spec
from actsec.art import names as art_names
from actsec.draws import Draws
from actsec.errors import BadOption, ThreatError, UnknownName
from actsec.planning.budgets import Images
from actsec.planning.jobs import VariantPlan
from actsec.planning.plan import Plan, Trial
from actsec.planning.reading import from_table, write
from actsec.planning.resolving import resolve
from actsec.reports.answers import second
from actsec.result import Result
from actsec.running import runner, second_opinion
from actsec.search import proposals
from actsec.search.ledger import ALREADY_WRONG, FOUND
from actsec.search.referee import attack_target, cases_of
from actsec.types import Outcome, Proposal, Proposer, Target, Threat
from actsec.verdict.gathering import Gathered, Tried, compared

PGD = "art/ProjectedGradientDescent(eps_step=0.02, max_iter=10)"


def judged(text, norm="linf", eps=0.1, n=16, change=lambda cases: cases, target=None):
    """The verdicts of ART's attack on the first digits, as an audit makes them."""
    known, x, y = digits()
    target = target or known
    cases = change(cases_of(target, x[:n], y[:n], norm, eps))
    attack = proposals.ready(registry.build("attacks", text), target, cases, Draws(0, text))
    return proposals.paid(attack, attack_target(attack, target, cases)), cases


@pytest.mark.parametrize(
    ("text", "norm", "eps"),
    [
        (PGD, "linf", 0.1),
        ("art/ProjectedGradientDescent(eps_step=0.3, max_iter=10)", "l2", 0.8),
        ("art/FastGradientMethod", "linf", 0.003),
        ("art/FastGradientMethod", "l1", 1.0),
        ("art/SquareAttack(max_iter=20)", "linf", 0.2),
        ("art/PixelAttack(max_iter=1)", "l0", 1),
        ("art/AutoProjectedGradientDescent(max_iter=6, nb_random_init=1)", "l2", 0.8),
    ],
)
def test_what_art_makes_is_inside_the_ball_that_the_threat_says(text, norm, eps):
    verdicts, _ = judged(text, norm, eps)
    assert verdicts.rejected.sum() == 0
    tried = verdicts.status != ALREADY_WRONG
    assert tried.sum() > 10
    assert (verdicts.size <= eps * (1 + 1e-6)).all()
    if norm in ("linf", "l2"):
        assert verdicts.size.max() > eps * 0.99  # all of the budget was given, but for rounding
    assert (verdicts.forwards[tried] > 1).all()


def test_our_referee_agrees_with_a_plain_forward():
    target, _, y = digits()
    verdicts, _ = judged(PGD)
    found = verdicts.status == FOUND
    assert found.any()
    assert torch.equal(target.model(verdicts.x).argmax(1) != y[:16], found | (verdicts.status == ALREADY_WRONG))
    assert set(verdicts.backwards.tolist()) == {10}  # ten steps of the 15 rows that were right, shared by 16


def test_the_smallest_change_is_asked_without_a_budget():
    verdicts, _ = judged("art/CarliniL2Method(batch_size=16, max_iter=5)", "l2", None)
    assert registry.build("attacks", "art/CarliniL2Method").roles == ("minimal",)
    assert (verdicts.status == FOUND).sum() > 10
    plan = Plan(attacks=(Trial("art/DeepFool", "l2:0.5"),), samples=4)
    with pytest.raises(ThreatError, match="it looks for the smallest change"):
        resolve(plan, Images((1, 8, 8), 16, 100), trains=True, calibrates=True)


def test_a_proposal_outside_is_rejected_and_counted_never_repaired():
    class Careless:
        norms, knowledge, roles = ("linf",), "white_box", ()

        def propose(self, target, cases, draws):
            none = torch.zeros_like(cases.id)
            far, out = (cases.x + 0.2).clamp(0, 1), cases.x - 0.05
            return Proposal(torch.stack([far, out], 1), none, none)

    assert isinstance(Careless(), Proposer)
    target, x, y = digits()
    cases = cases_of(target, x[:8], y[:8], "linf", 0.1)
    stored = proposals.ready(Careless(), target, cases, Draws(0))
    verdicts = attack_target(stored, target, cases, settle=False)
    asked = verdicts.status != ALREADY_WRONG
    assert (verdicts.rejected[asked] == 2).all()
    assert torch.equal(verdicts.x, x[:8])
    assert not (verdicts.status == FOUND).any()


def test_stored_candidates_keep_their_rows_whatever_the_chunk():
    class Own:
        norms, knowledge, roles = ("linf",), "white_box", ()

        def propose(self, target, cases, draws):
            none = torch.zeros_like(cases.id)
            return Proposal((cases.x * 0.95)[:, None], none, none)

    target, x, y = digits()
    cases = cases_of(target, x, y, "linf", 0.1, torch.randperm(len(x), generator=torch.Generator().manual_seed(1)))
    stored = proposals.ready(Own(), target, cases, Draws(0))
    for width in (1, 7, 64):
        verdicts = attack_target(stored, target, cases, width=width)
        asked = verdicts.status != ALREADY_WRONG
        assert torch.equal(verdicts.x[asked], (x * 0.95)[asked])


def test_nothing_is_left_behind(capfd):
    target, _, _ = digits()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    model.train()
    target = Target(model, (1, 8, 8), target.classes)
    parameters = {k: v.clone() for k, v in model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002  # the generator ART draws from
    level = logging.getLogger("art").level
    judged(PGD, target=target)
    judged("art/CarliniL2Method(max_iter=2)", "l2", None, n=4, target=target)
    assert all(torch.equal(parameters[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.training
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002  # the generator ART draws from
    assert states[2] == random.getstate()
    assert logging.getLogger("art").level == level
    assert capfd.readouterr() == ("", "")


def test_the_seed_decides_and_the_callers_generators_do_not():
    text = "art/ProjectedGradientDescent(eps_step=0.02, max_iter=2, num_random_init=1)"
    first, _ = judged(text)
    np.random.seed(11)  # noqa: NPY002  # the generator ART draws from
    torch.manual_seed(12)
    again, _ = judged(text)
    assert torch.equal(first.x, again.x)
    target, x, y = digits()
    cases = cases_of(target, x[:16], y[:16], "linf", 0.1)
    other = proposals.ready(registry.build("attacks", text), target, cases, Draws(1, text))
    assert not torch.equal(other.x[:, 0], first.x)


def test_targets_are_arts_own_and_untargeted_rows_beside_them():
    aim = lambda cases: replace(cases, target=torch.where(cases.id % 2 == 0, (cases.y + 1) % 10, -1))  # noqa: E731
    verdicts, cases = judged("art/ProjectedGradientDescent(eps_step=0.05, max_iter=20)", eps=0.4, change=aim)
    label = verdicts.logits.argmax(1)
    aimed = (cases.target >= 0) & (verdicts.status == FOUND)
    assert aimed.sum() >= 3
    assert torch.equal(label[aimed], cases.target[aimed])
    with pytest.raises(ThreatError, match="art/DeepFool knows no target class"):
        judged("art/DeepFool", "l2", None, change=aim)


def test_every_row_may_have_its_own_budget():
    target, x, y = digits()
    eps = torch.linspace(0.02, 0.2, 16)
    outcome = actsec.attack(target, x[:16], y[:16], PGD, eps=eps.numpy())
    size = torch.from_numpy(outcome.size)
    asked = outcome.verdicts.status != ALREADY_WRONG
    assert (size <= eps.double() * (1 + 1e-6)).all()
    assert (size[asked] > eps[asked].double() * 0.98).all()


def test_a_mask_reaches_art():
    target, x, y = digits()
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:6] = True
    outcome = actsec.attack(target, x[:16], y[:16], PGD, eps=0.3, mask=mask)
    moved = outcome.x != x[:16].numpy()
    assert not moved[:, :, ~mask].any()
    assert moved[:, :, mask].any()
    assert outcome.verdicts.rejected.sum() == 0


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("art/ProjectedGradientDescnt", UnknownName, "Did you mean 'ProjectedGradientDescent'"),
        ("art/ProjectedGradientDescent(max_iters=3)", UnknownName, "Did you mean 'max_iter'"),
        ("art/ProjectedGradientDescent(eps=0.1)", BadOption, "the budget comes from the threat"),
        ("art/ProjectedGradientDescent(norm=2)", BadOption, "the norm comes from the threat"),
        ("art/CarliniL2Method(targeted=true)", BadOption, "class=3"),
        ("art/PixelAttack(th=1)", BadOption, "l0:1"),
        ("art/ProjectedGradientDescent(max_iter=ten)", BadOption, "is not a whole number"),
        ("art/PoisoningAttackBackdoor", ThreatError, "ART has it under poisoning"),
        ("art/CopycatCNN", ThreatError, "ART has it under extraction"),
        ("art/ProjectedGradientDescentTensorFlowV2", ThreatError, "does not attack PyTorch classifiers"),
        ("art/CarliniWagnerASR", ThreatError, "does not attack PyTorch classifiers"),
        ("art/Wasserstein", ThreatError, "a ball that no threat has"),
        ("art/FrameSaliencyAttack", ThreatError, "needs 'attacker'"),
        ("art/GRAPHITEBlackbox", BadOption, "needs 'noise_size'"),
    ],
)
def test_mistakes_are_named(text, kind, says):
    with pytest.raises(kind) as problem:
        registry.build("attacks", text)
    assert says in str(problem.value)


def test_what_art_refuses_is_said_in_its_words():
    with pytest.raises(ThreatError, match="art/ProjectedGradientDescent cannot run here: ValueError"):
        judged("art/ProjectedGradientDescent(max_iter=-3)")
    with pytest.raises(ThreatError, match="art/AdversarialPatch "):
        judged("art/AdversarialPatch(max_iter=1)", "l2", None, n=2)
    target, x, y = digits()
    with pytest.raises(ThreatError, match="works in linf, not in l2"):
        actsec.attack(target, x[:2], y[:2], "art/BasicIterativeMethod", threat="l2:0.5")


def test_names_are_written_as_they_are_read():
    made = registry.build("attacks", PGD)
    full = registry.canonical("attacks", PGD)
    assert registry.build("attacks", str(full)) == made
    assert str(registry.brief("attacks", full)) == PGD
    assert pickle.loads(pickle.dumps(made)) == made
    assert from_table({"attacks": [f"{PGD} at linf:0.1:class=3"]}).attacks == (Trial(PGD, "linf:0.1:class=3"),)


@pytest.mark.parametrize("name", art_names.names())
def test_every_attack_of_art_is_described_or_refused(name):
    if name in {"FrameSaliencyAttack", "LaserAttack", "SNAL"}:
        with pytest.raises(ThreatError):
            registry.find("attacks", f"art/{name}")
        return
    made = registry.find("attacks", f"art/{name}")
    options = {option for option, *_ in spec.table(made)}
    assert not options & set(art_names.FROM_THREAT)
    assert made.norms
    assert len(registry.page("attacks", f"art/{name}")) > 100


def test_training_with_art_is_refused():
    with pytest.raises(BadOption, match="needs the finished model"):
        registry.build("defenses", "adversarial_training(inner=art/FastGradientMethod, eps=0.1, epochs=1)")


@pytest.mark.parametrize(
    ("attack", "threat", "theirs"),
    [
        ("fgsm", "linf:0.1", "art/FastGradientMethod"),
        ("pgd(steps=20)", "linf:0.1", "art/ProjectedGradientDescent(eps_step=0.0125, max_iter=20, num_random_init=1"),
        ("pgd(loss=margin)", "linf:0.1", "art/AutoProjectedGradientDescent"),
        ("square(queries=30)", "linf:0.1", "art/SquareAttack(max_iter=30"),
        ("square(queries=30)", "l2:0.5", "art/SquareAttack(max_iter=30"),
        ("minimal_l2", "l2", "art/CarliniL2Method"),
        ("one_pixel", "l0:1", "art/PixelAttack"),
    ],
)
def test_every_native_attack_has_its_counterpart(attack, threat, theirs):
    made = second_opinion.counterpart(Trial(attack, threat, 20, "attack"))
    assert str(made).startswith(theirs)
    registry.build("attacks", made)


@pytest.mark.parametrize(
    "trial", [Trial("noise", "linf:0.1", 5, "noise"), Trial("dead_relu", "linf:0.1:kill", 5, "kill")]
)
def test_noise_and_kills_have_none(trial):
    assert second_opinion.counterpart(trial) is None


TWICE = {
    "model": "reference:mlp(width=[8])",
    "activations": ["relu"],
    "defenses": [],
    "samples": 12,
    "second_opinion": True,
    "attacks": [
        {"attack": "fgsm"},
        {"attack": "pgd(steps=1, step_size=0.0001, random_start=false)", "threat": "linf:0.1", "role": "attack"},
    ],
}


@pytest.fixture(scope="module")
def audited(tmp_path_factory) -> Result:
    folder = tmp_path_factory.mktemp("second") / "run"
    return runner.audit(from_table(TWICE), folder, executor="serial")[0]


def test_a_second_opinion_tells_image_by_image(audited):
    found = {opinion.ours: opinion for opinion in audited.second_opinions}
    assert all(o.error is None for o in found.values())
    for opinion in found.values():
        assert opinion.n == opinion.both + opinion.neither + len(opinion.only_ours) + len(opinion.only_theirs)
        assert set(opinion.missed) <= set(opinion.only_theirs)
    weak = next(o for name, o in found.items() if name.startswith("pgd(steps=1,"))
    assert weak.theirs.startswith("art/ProjectedGradientDescent(eps_step=0.0001, max_iter=1")
    assert weak.neither == weak.n  # a step so short breaks nothing, in ART neither
    equal = found["fgsm"]
    assert not equal.only_ours
    assert not equal.only_theirs
    assert equal.both > 0
    assert any("Second opinion: on" in line for line in audited.headline)


def test_what_only_art_breaks_counts_in_the_worst_case(audited):
    threat = audited.variants[0].threats[0]
    theirs = [a for a in threat.attacks if a.role == second_opinion.ROLE]
    assert theirs
    assert threat.worst_case.k <= min(a.still_correct.k for a in theirs)
    assert all(a.counts for a in theirs)


def test_the_plan_is_resolved_once(audited):
    resolved = Plan(**{**audited.plan, "attacks": tuple(Trial(**t) for t in audited.plan["attacks"])})
    again = resolve(resolved, Images((1, 8, 8), 16, 539), trains=True, calibrates=True)
    assert again.attacks == resolved.attacks
    assert "second_opinion = true" in write(resolved)


def test_disagreements_are_counted_by_row():
    """Rows: wrong already, both, only ours, only theirs and nobody else, only theirs but broken by another, neither."""
    names = ("fgsm", "art/FastGradientMethod(batch_size=32)", "pgd(steps=5)")
    statuses = ([0, 1, 1, 2, 2, 2], [0, 1, 2, 1, 1, 2], [0, 2, 2, 2, 1, 2])
    roles = ("single_step", second_opinion.ROLE, "iterative")
    trials = [Trial(name, "linf:0.1", 6, role) for name, role in zip(names, roles, strict=True)]
    tried = tuple(
        Tried(trial, {"status": np.array(s), "wrong": np.array(s) < 2, "smallest": np.full((6, 3), np.inf),
                      "rejected": np.array([0, 0, 0, 0, 0, 3])}, (), None, missing=False)
        for trial, s in zip(trials, statuses, strict=True)
    )  # fmt: skip
    clean = Outcome("", {}, {"test_wrong": np.array([1, 0, 0, 0, 0, 0])})
    gathered = Gathered(VariantPlan("relu", "reference:mlp"), clean, None, None, tried, ())
    (opinion,) = (
        o
        for o in second_opinion.opinions(gathered, Plan(second_opinion=True, attacks=tuple(trials)))
        if o.ours == "fgsm"
    )
    assert (opinion.n, opinion.both, opinion.neither) == (5, 1, 1)
    assert opinion.only_ours == (2,)
    assert opinion.only_theirs == (3, 4)
    assert opinion.missed == (3,)
    assert opinion.rejected == 3
    assert "1 of them broken by no attack of ours" in second([opinion])
    at = Threat("linf", 0.1)
    assert gathered.wrong_under(at, 6).tolist() == [1, 1, 1, 1, 1, 0]
    alone = Gathered(VariantPlan("tanh", "reference:mlp"), clean, None, None, (tried[0], tried[2]), ())
    shared, others = compared(gathered, alone)
    assert gathered.wrong_under(at, 6, shared).tolist() == [1, 1, 1, 0, 1, 0], "what only one model faced is left out"
    assert others == alone.tried
