"""Recipes: survivors only, every part for every number of classes, no blind spot, and a real network's hard digits."""

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from attack_models import digits
from fast_lin import certified
from torch import nn

from actsec import registry
from actsec.attacks import AutoAttack, Cascade, Square
from actsec.attacks.apgd import APGD
from actsec.attacks.fab import FAB
from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.planning import budgets, resolving
from actsec.planning.plan import Plan, Trial
from actsec.search.ledger import ALREADY_WRONG, FOUND
from actsec.search.referee import attack_target, cases_of
from actsec.types import Recipe, Target, Threat

SHARED = Path(os.environ.get("ACTSEC_SHARED", Path(__file__).parents[2] / "shared")) / "data"
SMALL = {"cascade": Cascade(6, 2, 2, 10), "autoattack": AutoAttack(6, 3, 10)}


def of_few_classes(classes):
    """A small network with its boundaries in the middle of the box, and inputs."""
    torch.manual_seed(classes)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, classes))
    model[-1].bias.data -= model(torch.full((1, 6), 0.5))[0].detach()
    x = torch.rand(40, 6)
    return Target(model.eval(), (6,), tuple("abcd"[:classes])), x, model(x).argmax(1)


@pytest.mark.parametrize("name", SMALL)
def test_nobody_is_asked_about_once_broken(name):
    target, x, y = digits()
    broken, again = torch.zeros(len(x)).bool(), []

    def note(index, ask, reply):
        again.append(bool(broken[index].any()))
        broken[index[reply.success.any(1)]] = True

    verdicts = attack_target(SMALL[name], target, cases_of(target, x, y, "linf", 0.08), note=note)
    found = verdicts.status == FOUND
    assert torch.equal(broken, found)
    assert 10 < found.sum() < 55
    assert not any(again)
    assert verdicts.forwards[found].max() < verdicts.forwards[~found & (verdicts.status != ALREADY_WRONG)].min()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_every_part_runs_however_few_the_classes(name, classes):
    target, x, y = of_few_classes(classes)
    recipe = SMALL[name]
    parts = recipe.parts(cases_of(target, x, y, "linf", 1e-4), classes)
    assert len(parts) == len(recipe.parts(cases_of(target, x, y, "linf", 1e-4), 10))
    verdicts = attack_target(recipe, target, cases_of(target, x, y, "linf", 1e-4))
    standing = verdicts.status != FOUND
    assert standing.sum() > 30
    # FAB asks no more than it says; the others ask exactly that.
    spent = (verdicts.forwards + 2 * verdicts.backwards)[standing]
    fab = sum(part.passes((6,)) for part in parts if isinstance(part, FAB))
    exact = sum(part.passes((6,)) for part in parts) - fab
    assert spent.max() <= exact + fab
    assert spent.min() >= exact + (3 * min(3, classes - 1) * (6 + 2) if fab else 0)
    wide = attack_target(recipe, target, cases_of(target, x, y, "linf", 0.3))
    assert (wide.status == FOUND).sum() > 30


def test_the_parts_are_what_is_published():
    target, x, y = digits()
    ce, aimed, minimal, square = AutoAttack().parts(cases_of(target, x, y, "linf", 0.1), 10)
    assert (ce, aimed) == (APGD(100), APGD(100, loss="dlr", targets=9))
    assert (minimal, square) == (FAB(100, 9), Square(5000))
    assert AutoAttack().parts(cases_of(target, x, y, "linf", 0.1), 3)[1].targets == 2


@pytest.mark.parametrize("name", SMALL)
def test_cost_is_what_it_says(name):
    target, x, y = digits()
    recipe = SMALL[name]
    verdicts = attack_target(recipe, target, cases_of(target, x, y, "linf", 1e-3))
    spent = (verdicts.forwards + 2 * verdicts.backwards)[verdicts.status != ALREADY_WRONG]
    assert spent.max() <= recipe.passes((1, 8, 8))
    if name == "cascade":
        assert spent.min() == recipe.passes((1, 8, 8))
        assert Cascade().passes((1, 8, 8)) == 1104


@pytest.mark.parametrize("factor", [1e3, 1e-6])
def test_the_scale_of_the_logits_hides_nothing(factor):
    target, x, y = digits()

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = target.model

        def forward(self, x):
            return factor * self.inner(x)

    scaled = Target(Scaled().eval(), target.shape, target.classes)
    for recipe in SMALL.values():
        plain, other = (
            attack_target(recipe, t, cases_of(t, x, y, "linf", 0.08)).status == FOUND for t in (target, scaled)
        )
        assert abs(int(plain.sum()) - int(other.sum())) <= 1
        assert plain.sum() > 10


def test_a_recipe_breaks_what_its_parts_break_alone_on_average():
    """Not image by image, for each part draws its own numbers: in all, over three seeds."""
    target, x, y = digits()
    cases = cases_of(target, x, y, "linf", 0.08)
    recipe = SMALL["cascade"]
    whole = sum((attack_target(recipe, target, cases, seed=s).status == FOUND).sum() for s in range(3))
    for part in recipe.parts(cases, 10):
        assert whole >= sum((attack_target(part, target, cases, seed=s).status == FOUND).sum() for s in range(3))


def test_square_goes_on_from_the_best_attempt_of_a_recipe():
    target, x, y = digits()
    cases = cases_of(target, x[:8], y[:8], "linf", 0.05)
    better = (x[:8] + 0.05 * torch.sign(torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)))).clamp(
        0, 1
    )
    given = replace(cases, start=better)
    first = Square(5, begin="best").start(given, Draws(0))
    torch.testing.assert_close(first.x, better, rtol=0, atol=1e-6)
    assert not torch.equal(Square(5).start(given, Draws(0)).x, first.x)
    assert torch.equal(Square(5, begin="best").start(cases, Draws(0)).x, Square(5).start(cases, Draws(0)).x)


@pytest.mark.parametrize("budget", budgets.BUDGETS)
def test_an_audit_runs_the_cascade_at_its_headline_threat(budget):
    images = budgets.Images((1, 8, 8), 16, 500)
    plan = resolving.resolve(Plan(model="m.py:f", budget=budget), images, trains=False, calibrates=True)
    (trial,) = (t for t in plan.attacks if t.attack.startswith("cascade"))
    assert Threat.parse(trial.threat) == Threat("linf", plan.eps)
    assert trial.role == "attack"
    assert trial.samples == plan.samples
    assert isinstance(registry.build("attacks", trial.attack), Recipe)
    assert {t.role for t in plan.attacks} >= {"noise", "single_step", "iterative", "doubled", "margin", "gradient_free"}


def test_a_recipe_that_the_user_names_gets_its_threat_and_its_checks():
    images = budgets.Images((3, 32, 32), 255, 500)
    plan = Plan(model="m.py:f", attacks=(Trial("autoattack"), Trial("fab")))
    resolved = resolving.resolve(plan, images, trains=False, calibrates=True)
    recipe, minimal, *checks = resolved.attacks
    assert (recipe.threat, recipe.role) == ("linf:8/255", "attack")
    assert (minimal.threat, minimal.role) == ("linf", "minimal")
    assert {t.role for t in checks} >= {"iterative", "gradient_free", "unbounded"}


@pytest.mark.parametrize("text", ["cascade(restarts=0)", "autoattack(targets=0)"])
def test_bad_options_are_named(text):
    with pytest.raises(BadOption, match=text.split("(")[0]):
        registry.build("attacks", text)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the trained models are not beside the project")
@pytest.mark.parametrize("seed", range(3))
def test_the_cascade_breaks_what_autoattack_breaks_on_a_robust_network(seed):
    """Of the first 1,000 MNIST digits AutoAttack-standard breaks these 15, whichever of its seeds 0, 1, 2 is taken."""
    from safetensors.torch import load_file

    spec = importlib.util.spec_from_file_location("shared_models", SHARED / "models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.mnist_cnn_provably_robust()
    model.load_state_dict(load_file(SHARED / "mnist_cnn_provably_robust.safetensors"))
    broken = [29, 266, 382, 444, 477, 517, 624, 683, 717, 743, 803, 833, 846, 882, 998]
    ids = torch.tensor([*broken, *range(20)])
    with np.load(SHARED / "mnist_test_2k.npz") as data:
        x, y = torch.from_numpy(data["x"]).float()[ids] / 255, torch.from_numpy(data["y"]).long()[ids]
    target = Target(model.eval(), (1, 28, 28), tuple("0123456789"))
    verdicts = attack_target(Cascade(), target, cases_of(target, x, y, "linf", 0.1, ids), seed=seed, name="cascade")
    fell = verdicts.status == FOUND
    assert fell[: len(broken)].all()
    assert not bool((fell & certified(model, x, y, 0.1, dtype=torch.float32)).any())
