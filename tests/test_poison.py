"""Poisons plant what they say, do what the notes measured, and are judged against twins and chance by a fixed rule."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from runs import inside
from torch import nn

from actsec import models, registry, training
from actsec import target as targets
from actsec.errors import ActsecError, BadOption, DataError, ThreatError, UnknownName
from actsec.poisons.crafted import Crafted, _Search
from actsec.study import activations, claim, poison
from actsec.study.harm import Harm, attacked, harm
from actsec.study.laboratory import Laboratory, Outcome, Settings, Standardise
from actsec.study.laboratory import inside as in_range
from actsec.study.page import page
from actsec.study.poison import Cell, network_of
from actsec.types import Split, Victim

NAMES = registry.names("poisons")
SMALL = Settings(activations=("relu",), depths=(3,), epochs=3, clean_epochs=1, samples=8, queries=10)


@pytest.fixture(scope="module")
def lab():
    return Laboratory(activations.read("digits"), SMALL)


@pytest.fixture(scope="module")
def longer():
    return Laboratory(activations.read("digits"), dataclasses.replace(SMALL, epochs=10))


@pytest.fixture(scope="module")
def victim(lab):
    network = network_of(SMALL, "relu", 3, 0)
    return Victim(lab.target(network, lab.model(network)), 0.1, 0)


@pytest.mark.parametrize("name", NAMES)
def test_every_poison_plants_what_it_says_and_leaves_the_rest(name, lab, victim):
    made = registry.build("poisons", name)
    before = {k: v.clone() for k, v in victim.target.model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one, two = made.poison(lab.train, victim), made.poison(lab.train, victim)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {k: torch.equal(v, before[k]) for k, v in victim.target.model.state_dict().items()} == dict.fromkeys(
        before, True
    )
    assert all(p.grad is None for p in victim.target.model.parameters())
    n, count = len(lab.train.y), made.count(lab.train)
    assert torch.equal(one.x[:n], lab.train.x)
    assert torch.equal(one.y[:n], lab.train.y)
    assert torch.equal(one.id[:n], lab.train.id)
    assert one.id[n:].tolist() == [-1 - at for at in range(count)]
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.y, two.y)
    assert one.x.isfinite().all()
    assert ((one.y >= 0) & (one.y < 10)).all()
    other = made.poison(lab.train, dataclasses.replace(victim, seed=1))
    assert not torch.equal(one.x, other.x)
    if name in ("crafted", "random_rows"):
        assert len(in_range(one, (0.0, 1.0)).y) == n + count
    else:
        assert len(in_range(one, (0.0, 1.0)).y) == n


def test_outliers_are_scaled_rows_with_their_own_labels(lab, victim):
    plain = registry.build("poisons", "outliers(share=0.02, magnitude=10, labels=consistent)").poison(lab.train, victim)
    new = plain.id < 0
    assert int(new.sum()) == round(0.02 * len(lab.train.y))
    for x, y in zip(plain.x[new], plain.y[new], strict=True):
        same = (lab.train.x == x / 10).flatten(1).all(1) | ((lab.train.x - x / 10).abs() < 1e-6).flatten(1).all(1)
        assert y in lab.train.y[same]


@pytest.mark.parametrize(
    "spec",
    ["outliers(share=0)", "outliers(magnitude=-1)", "poisoned_scaler(share=2)", "random_rows(rows=0)",
     "crafted(steps=0)", "crafted(softness=0)", "outliers(labels=wrong)"],
)  # fmt: skip
def test_options_out_of_range(spec):
    with pytest.raises(BadOption):
        registry.build("poisons", spec)


def test_what_cannot_be_planted_is_told(lab, victim):
    few = Split(lab.train.x[:5], lab.train.y[:5], lab.train.id[:5])
    with pytest.raises(DataError, match="16 rows of 5"):
        Crafted().poison(few, victim)
    leaky = models.build("mlp(activation=leaky_relu, width=[8])", (1, 8, 8), 10, 0)
    target = targets.load(leaky, classes=10, input_shape=(1, 8, 8))
    with pytest.raises(ThreatError, match="die or saturate"):
        Crafted().poison(lab.train, Victim(target, 0.1))


def test_the_unrolled_step_is_the_step_that_training_takes(lab, victim):
    """The count after the unrolled step is that of a model which ``fit`` moved by one update."""
    x, y, clean = lab.train.x[:16], lab.train.y[:16], lab.train.x[100:164]
    search = _Search(Crafted(), victim, clean, y, lab.train.y[100:164])
    found = float(search.silenced(x.clone().requires_grad_(True)).detach())
    moved = models.build("mlp(activation=relu, width=[64], depth=3)", (1, 8, 8), 10, 0)
    moved.load_state_dict(victim.target.model.state_dict())
    once = training.Recipe(1, 16, "sgd", 0.1, "constant", 0.0)
    training.fit(moved, x, y, once)
    weights = {f"model.{name}": weight for name, weight in moved.named_parameters()}
    with torch.no_grad():
        shares = [
            search.of_site(z, search.sites[name], search.scales[name]) for name, z in search.values(weights).items()
        ]
    assert found == pytest.approx(float(torch.stack(shares).mean()), rel=1e-4)


def test_rows_are_crafted_through_the_normalisation_of_the_target(lab, victim):
    """The same rows as against a network that holds the same arithmetic inside."""
    model = victim.target.model

    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model((x - 0.5) / 0.25)

    target = targets.load(model, classes=10, input_shape=(1, 8, 8), normalize="0.5/0.25")
    whole = targets.load(Inside().eval(), classes=10, input_shape=(1, 8, 8))
    crafted = Crafted(steps=4, rows=4, watched=32)
    one, two, bare = (crafted.poison(lab.train, dataclasses.replace(victim, target=t)).x[-4:]
                      for t in (target, whole, victim.target))  # fmt: skip
    assert torch.equal(one, two)
    assert not torch.equal(one, bare)


def poisoned(seed, **changes):
    clean = network_of(SMALL, changes.pop("kind", "relu"), 3, seed, changes.pop("mitigation", "none"))
    return dataclasses.replace(clean, **changes)


def test_one_percent_of_huge_rows_kills_relu_and_a_range_check_prevents_it(lab):
    """The notes: accuracy .10, permanently dead .86, .73 and 1.0 (training may also break off: seeds 0 and 2)."""
    spec = "outliers(magnitude=1000)"
    found = harm_of(lab, poisoned(1, arm=spec, planted=10))
    assert found.finite
    assert found.accuracy < 0.2
    assert min(found.silenced) > 0.5
    assert found.zero_cross_entropy > 0.9
    checked = poisoned(1, arm=spec, planted=10, mitigation="range_check")
    assert same_weights(lab.model(checked), lab.model(poisoned(1)))
    twin = harm_of(lab, poisoned(1))
    assert twin.accuracy > 0.8
    assert max(twin.silenced) < 0.2


@pytest.mark.parametrize("mitigation", ["clipping", "adam"])
def test_clipped_gradients_and_adam_live_through_huge_rows(longer, mitigation):
    """The notes: accuracy .922 and .933, permanently dead at most .05, .12 and .14."""
    clean = network_of(longer.settings, "relu", 3, 1, mitigation)
    held = harm_of(longer, dataclasses.replace(clean, arm="outliers(magnitude=1000)", planted=10))
    assert held.accuracy > 0.8
    assert max(held.silenced) < 0.3


def test_leaky_relu_turns_death_into_explosion(lab):
    with pytest.raises(ActsecError, match="diverged"):
        lab.model(poisoned(1, arm="outliers(magnitude=1000)", planted=10, mitigation="leaky_relu"))
    found = lab.outcome(poisoned(1, arm="outliers(magnitude=1000)", planted=10, mitigation="leaky_relu"), None)
    assert "diverged" in found.at_once.broke
    assert found.at_once.silent is None
    assert found.at_once.accuracy is None


def test_crafted_rows_kill_more_for_good_than_random_ones(longer):
    """In the first layer, on every seed, and still after clean epochs; in range, so that the check sees nothing."""
    gaps = []
    for seed in range(3):
        plain = network_of(longer.settings, "relu", 3, seed)
        crafted, chance = (
            longer.outcome(dataclasses.replace(plain, arm=arm, enters="update", planted=16), None)
            for arm in ("crafted", "random")
        )
        gaps.append((crafted.at_once.silenced[0] - chance.at_once.silenced[0],
                     crafted.later.silenced[0] - chance.later.silenced[0]))  # fmt: skip
    assert np.min(gaps) > 0
    assert np.mean(gaps) > 0.03


def test_the_scaler_is_that_of_everyone_and_huge_rows_shrink_what_is_clean(lab, victim):
    from sklearn.preprocessing import StandardScaler

    split = registry.build("poisons", "poisoned_scaler").poison(lab.train, victim)
    for x in (lab.train.x, split.x):
        wanted = StandardScaler().fit(x.flatten(1).double().numpy()).transform(lab.train.x.flatten(1).double().numpy())
        found = Standardise(x)(lab.train.x).flatten(1).numpy()
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    spread = [float(Standardise(x)(lab.train.x).flatten(1).std(0).median()) for x in (lab.train.x, split.x)]
    assert spread[0] == pytest.approx(1, abs=0.01)
    assert spread[1] < 0.05


def test_a_network_that_is_not_finite_is_neither_dead_nor_alive(lab):
    network = poisoned(0)
    broken = models.build(network.spec, (1, 8, 8), 10, 0)
    target = lab.target(network, broken)
    with torch.no_grad():
        next(broken.parameters())[0, 0] = torch.nan
    found = harm(target, (lab.train.x[:64], lab.train.y[:64]), lab.test)
    assert not found.finite
    assert found.silenced == (None, None, None)
    assert found.silent is None
    assert (found.zero_cross_entropy, found.zero_margin, found.ratio) == (None, None, None)
    assert found.accuracy == 0.0


@pytest.mark.parametrize(
    ("activation", "region", "dies"),
    [(nn.LeakyReLU(0.0), "dead", True), (nn.Hardtanh(0.0, 2.0), "dead", True),
     (nn.Hardtanh(-1.0, 2.0), "saturated", False), (nn.LeakyReLU(0.2), "", None)],
)  # fmt: skip
def test_what_is_silenced_follows_from_the_options_of_the_site(lab, activation, region, dies):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), activation, nn.Linear(4, 10)).eval()
    x, y = lab.train.x[:64], lab.train.y[:64]
    with torch.no_grad():
        model[1].bias[:3] = -100.0
        model[1].bias[3] = 100.0
        model[1].weight.mul_(0.1)
    target = targets.load(model, classes=10, input_shape=(1, 8, 8))
    found = harm(target, (x, y), lab.test)
    assert found.regions == (region,)
    assert found.silenced == (None if dies is None else 0.75 if dies else 1.0,)


def test_a_dead_network_hides_nothing(lab):
    """The trap: all attacks leave exactly the clean accuracy, so that gradients lead over nothing."""
    dead = models.build("mlp(activation=relu, width=[8])", (1, 8, 8), 10, 0)
    with torch.no_grad():
        for layer in [m for m in dead if isinstance(m, nn.Linear)][:1]:
            layer.bias.fill_(-1e3)
    network = poisoned(0)
    target = lab.target(network, dead)
    found = harm(target, (lab.train.x[:64], lab.train.y[:64]), lab.test)
    assert found.silenced == (1.0,)
    assert (found.zero_cross_entropy, found.zero_margin) == (1.0, 1.0)
    rows = attacked(target, lab.first, lab.target(network, lab.model(network)), 0.1, 5, 0)
    assert len({tuple(each.tolist()) for each in rows.values()}) == 1
    assert (claim.hidden_rows(Harm(rows=rows)) == 0).all()


def harm_of(lab, network):
    return lab.outcome(network, None).at_once


def same_weights(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def outcomes(pgd, free, silent, ratio, accuracy=0.95, broke=(), n=200):
    """Three seeds with these shares standing, drawn once for all so that rows are paired."""
    made = []
    for seed in range(3):
        draws = np.random.default_rng(seed).random(n)
        rows = {"clean": (draws < accuracy).astype(float), "pgd": (draws < pgd).astype(float)}
        rows |= {name: (draws < free).astype(float) for name in ("square", "transfer")}
        shaken = 1 + 0.01 * seed
        found = Harm((silent * shaken,), ("dead",), ratio**shaken, 0.0, 0.0, finite=True, rows=rows)
        made.append(Outcome(*[Harm(broke="it diverged") if seed in broke else found] * 2))
    return tuple(made)


HONEST = {"pgd": 0.4, "free": 0.4, "silent": 0.05, "ratio": 1.0}
HIDDEN = {"pgd": 0.8, "free": 0.4, "silent": 0.6, "ratio": 1.0}


@pytest.mark.parametrize(
    ("bad", "twin", "control", "word", "said"),
    [
        (HIDDEN, HONEST, HONEST, claim.HOLDS, "Gradients mislead"),
        (HIDDEN | {"silent": 0.05, "ratio": 1e-3}, HONEST, HONEST, claim.HOLDS, "layers are weaker"),
        (HIDDEN, HONEST, HIDDEN, claim.UNKNOWN, "neither seen nor ruled out"),
        (HIDDEN, HIDDEN, HONEST, claim.FAILS, "No obfuscation"),
        (HONEST, HONEST, HONEST, claim.FAILS, "No obfuscation"),
        (HONEST | {"silent": 0.6}, HONEST, HONEST, claim.FAILS, "Layers are weaker: silenced units +0.5"),
        (HIDDEN | {"free": 0.8}, HONEST, HONEST, claim.FAILS, "beyond square and transfer"),
        (HIDDEN | {"silent": 0.05}, HONEST, HONEST, claim.FAILS, "weaken by less"),
        (HIDDEN | {"accuracy": 0.1}, HONEST, HONEST, claim.FAILS, "Destroyed: all are near chance"),
        (HIDDEN | {"broke": (0, 1, 2)}, HONEST, HONEST, claim.FAILS, "broke off in all 3 seeds"),
        (HIDDEN | {"broke": (1,)}, HONEST, HONEST, claim.UNLIKE, "broke off in 1 of 3 seeds"),
        (HIDDEN, HONEST | {"accuracy": 0.1}, HONEST, claim.UNLIKE, "did not learn"),
        (HIDDEN, HONEST, HONEST | {"broke": (2,)}, claim.UNLIKE, "random control broke off"),
    ],
)
def test_the_rule(bad, twin, control, word, said):
    cell = Cell("relu", 1, "outliers", "none", outcomes(**bad), outcomes(**twin), outcomes(**control))
    (found,) = claim.verdicts([cell], 10)
    assert (found.word, said in found.sentence) == (word, True), found.sentence


def test_verdicts_are_corrected_together():
    one = Cell("relu", 1, "outliers", "none", outcomes(**HIDDEN), outcomes(**HONEST), outcomes(**HONEST))
    alone, many = claim.verdicts([one], 10)[0], claim.verdicts([one] * 5, 10)[0]
    assert many.p == pytest.approx(min(1, 5 * alone.p))


def test_rows_that_all_agree_leave_doubt():
    cell = Cell("relu", 1, "outliers", "none", *[outcomes(0.0, 0.0, 0.05, 1.0, n=20)] * 3)
    (found,) = claim.verdicts([cell], 10)
    assert found.word == claim.FAILS
    assert "weaken by less" in found.sentence
    assert found.effects[0].over_twin.high == pytest.approx(1 - 0.025 ** (1 / 20))


@pytest.mark.parametrize(
    ("given", "error"),
    [({"seeds": 2}, BadOption), ({"poisons": ("outlier",)}, UnknownName), ({"mitigations": ("adan",)}, UnknownName),
     ({"depths": ()}, BadOption), ({"updates": 0}, BadOption), ({"activations": ("rleu",)}, UnknownName)],
)  # fmt: skip
def test_settings_say_what_is_wrong(given, error):
    with pytest.raises(error):
        Settings(**given)


def test_a_check_that_drops_nothing_or_everything_is_another_network_by_name_only(lab):
    checked = {"mitigation": "range_check"}
    dropped = poisoned(0, arm="outliers", planted=10, **checked)
    assert lab.alike(dropped) == poisoned(0)
    assert lab.alike(dataclasses.replace(dropped, enters="scaler", arm="poisoned_scaler")) == poisoned(
        0, enters="scaler"
    )
    assert lab.alike(poisoned(0, arm="random", planted=16, enters="update", **checked)) == poisoned(
        0, arm="random", planted=16, enters="update"
    )
    update = poisoned(0, arm="outliers", planted=10, enters="update", **checked)
    assert lab.alike(update) == update
    assert same_weights(lab.model(update), lab.model(poisoned(0)))


def test_equal_networks_are_trained_once_and_arms_share_their_start():
    settings = dataclasses.replace(SMALL, poisons=("outliers", "outliers(magnitude=10)"), mitigations=())
    laboratory = Laboratory(activations.read("digits"), settings)
    first, second = (poison._arms(laboratory, poison.Wanted("relu", 3, spec, "none")) for spec in settings.poisons)
    assert first[1:] == second[1:]
    assert first[0] != second[0]
    assert [len({network.recipe.seed for network in trio}) for trio in zip(*first, strict=True)] == [1, 1, 1]


def test_rows_are_crafted_only_where_units_can_be_silenced():
    assert poison.applies("relu", "none", "crafted")
    assert poison.applies("tanh", "none", "crafted(rows=8)")
    assert not poison.applies("tanh", "leaky_relu", "crafted")
    assert not poison.applies("gelu", "none", "crafted")
    assert poison.applies("leaky_relu", "none", "outliers")


def test_the_command_writes_verdicts_numbers_and_a_page(tmp_path):
    out = tmp_path / "poison"
    said = inside(
        *("study", "poison", "--activations", "relu", "--depths", "1", "--width", "16", "--epochs", "3"),
        *("--clean-epochs", "1", "--samples", "6", "--queries", "5", "--poisons", "outliers(magnitude=100)"),
        *("--poisons", "crafted(steps=2)", "--mitigations", "range_check", "--mitigated", "outliers(magnitude=100)"),
        *("--out", out),
    )
    assert said.code == 0, said.err
    assert "networks" in said.err
    assert "## Does poisoned data cause gradient obfuscation" in said.out
    found = json.loads((out / "report.json").read_text())
    assert {v["word"] for v in found["verdicts"]} <= {claim.HOLDS, claim.FAILS, claim.UNKNOWN, claim.UNLIKE}
    assert len(found["cells"]) == 4
    held, adapted = (cell for cell in found["cells"] if cell["mitigation"] == "range_check")
    assert (held["adapted"], adapted["adapted"]) == (False, True)
    assert held["poisoned"] == held["twin"]
    assert adapted["poisoned"] != adapted["twin"]
    assert "### What holds against whom" in said.out
    assert "- range_check against outliers(magnitude=100): holds against the adapted poison in " in said.out
    text = (out / "report.html").read_text()
    assert text.count("data:image/png;base64,") == 2
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text


def test_a_page_escapes_what_it_is_given():
    text = page(
        ["# <b>A</b>", "", "| a | the claim |", "|---|---|", "| <i> | holds |", "", "- one & two", "", "x < y"], {}
    )
    assert "<h1>&lt;b&gt;A&lt;/b&gt;</h1>" in text
    assert '<th scope="row">&lt;i&gt;</th><td class="word">holds</td>' in text
    assert "<li>one &amp; two</li>" in text
    assert "<p>x &lt; y</p>" in text


ADAPTED = "outliers(magnitude=1000, adapted=true)"


@pytest.mark.parametrize("mitigation", ["clipping", "adam"])
def test_adapted_rows_go_through_the_update_that_training_makes(lab, mitigation):
    """The loss after the unrolled step is that of a model which ``fit`` moved by one update of the mitigated recipe."""
    network = network_of(SMALL, "relu", 3, 0, mitigation)
    network = dataclasses.replace(network, arm="crafted(adapted=true)", enters="update", planted=16)
    recipe, model = network.recipe, lab.model(dataclasses.replace(network, arm="clean", enters="training", planted=0))
    x, y, clean = 3 * lab.train.x[:16], lab.train.y[16:32], lab.train.x[100:164]
    knows = Victim(lab.target(network, model), recipe.learning_rate, 0, recipe.optimizer, recipe.clip_norm)
    search = _Search(Crafted(adapted=True), knows, clean, y, lab.train.y[100:164])
    count = search.silenced(x.clone().requires_grad_(True))
    moved = models.build(network.spec, (1, 8, 8), 10, 0)
    moved.load_state_dict(model.state_dict())
    training.fit(moved, x, y, dataclasses.replace(recipe, epochs=1, batch_size=16))
    weights = {f"model.{name}": weight for name, weight in moved.named_parameters()}
    with torch.no_grad():
        expected = [search.of_site(z, search.sites[n], search.scales[n]) for n, z in search.values(weights).items()]
    assert float(count.detach()) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-4)


def test_where_nothing_can_be_silenced_adapted_rows_raise_the_loss(lab):
    plain = network_of(SMALL, "relu", 3, 0, "leaky_relu")
    losses = []
    for arm in ("crafted(adapted=true)", "random"):
        model = lab.model(dataclasses.replace(plain, arm=arm, enters="update", planted=16))
        with torch.no_grad():
            losses.append(float(nn.functional.cross_entropy(model(lab.train.x), lab.train.y)))
    assert losses[0] > 1.2 * losses[1]


def test_adapted_outliers_get_past_the_check_that_drops_the_plain_ones(lab):
    """They are the sort of six that a rehearsal says does most, as many as before, and inside the box."""
    checked = poisoned(0, arm=ADAPTED, planted=13, mitigation="range_check")
    plain = dataclasses.replace(checked, arm="outliers(magnitude=1000)")
    split, n = lab.planted(checked), len(lab.train.y)
    assert len(split.y) == n + registry.build("poisons", ADAPTED).count(lab.train)
    assert len(in_range(split, (0.0, 1.0)).y) == len(split.y)
    assert len(in_range(lab.planted(plain), (0.0, 1.0)).y) == n
    rehearse = lab.rehearsal(checked)
    assert rehearse(split) >= rehearse(lab.planted(plain))
    assert lab.alike(checked) == checked
    bare = lab.planted(dataclasses.replace(checked, checked=False))
    assert len(in_range(bare, (0.0, 1.0)).y) == n, "without a check the huge rows do most"
    with pytest.raises(ThreatError, match="rehearses"):
        registry.build("poisons", ADAPTED).poison(lab.train, Victim(lab.target(plain, lab.model(poisoned(0))), 0.1))


def mitigated(adapted, poisoned_accuracy, silent=0.0, broke="", mitigation="range_check"):
    def arm(accuracy, share, broken=""):
        rows = {} if broken else {"clean": np.arange(400) < round(400 * accuracy)}
        found = Harm(silenced=(share,), regions=("dead",), finite=True, rows=rows, broke=broken)
        return (Outcome(found, found),) * 3

    return Cell("relu", 3, "outliers", mitigation, arm(poisoned_accuracy, silent, broke), arm(0.9, 0.0), (), adapted)


@pytest.mark.parametrize(
    ("plain", "adapted", "says"),
    [
        ({"poisoned_accuracy": 0.9}, {"poisoned_accuracy": 0.9}, "holds against the adapted poison in 1 of 1 netw"),
        ({"poisoned_accuracy": 0.9}, {"poisoned_accuracy": 0.5}, "**only against the non-adapted** in 1 (relu 3)"),
        ({"poisoned_accuracy": 0.9}, {"poisoned_accuracy": 0.9, "silent": 0.4}, "**only against the non-adapted**"),
        ({"poisoned_accuracy": 0.9}, {"poisoned_accuracy": 0.9, "broke": "loss"}, "**only against the non-adapted**"),
        ({"poisoned_accuracy": 0.2}, {"poisoned_accuracy": 0.5}, "fails against both in 1"),
    ],
)
def test_the_words_say_against_whom_a_mitigation_holds(plain, adapted, says):
    from actsec.study.mitigated import sentences

    (line,) = sentences([mitigated(False, **plain), mitigated(True, **adapted)])
    assert says in line
    assert line.startswith("- range_check against outliers: ")
