"""Swaps, noise and adversarial training: what each changes, by how much, and what stops it."""

import copy
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from runs import ENVIRONMENT
from test_defenses import answers, digits, everything, material, network, plain_pgd, trained
from torch import nn

from actsec import detecting, geometry, registry, training
from actsec.defenses import (
    AdversarialTraining,
    ConfidencePenalty,
    FastTraining,
    FoolingTraining,
    Isotonic,
    LabelSmoothing,
    NoisyInference,
    Smoothing,
    StableTraining,
    Swap,
    Temperature,
    Trades,
    TrainingNoise,
    VectorScaling,
)
from actsec.defenses._holdout import divide
from actsec.defenses._learning import Asked, Count, decisions_of, restarted, seed_of
from actsec.defenses.fooling_training import blur, nonsense
from actsec.defenses.swap import example_of
from actsec.defenses.trades import BESIDE
from actsec.draws import Draws
from actsec.errors import BadOption, ModelError, ThreatError, UnknownName
from actsec.hardening.chains import fit_chain
from actsec.losses import Hardest, LargestConfidence
from actsec.planning import plan
from actsec.running import preparing, tasks
from actsec.running import store as store_module
from actsec.running.store import Store
from actsec.search import crafting
from actsec.search.answering import answer
from actsec.spec import Spec, parse, parse_chain
from actsec.training import Recipe, loop
from actsec.types import JUDGE_DRAWS, Cases, Normalization, Observed, Split, Target, Threat


@functools.cache
def _mlp() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    train = digits()[0]
    training.fit(model, train.x, train.y, Recipe(epochs=10))
    return model


def mlp() -> Target:
    return Target(copy.deepcopy(_mlp()), (1, 8, 8), tuple("0123456789"))


def clean_accuracy(target):
    test = digits()[2]
    return training.accuracy(Asked(target), test.x, test.y)


def pgd_accuracy(target, eps=0.15, steps=20):
    test = digits()[2]
    found = plain_pgd(target, test.x, test.y, test.id, Spec("pgd", (("steps", steps),)), Threat("linf", eps), 99)
    return training.accuracy(Asked(target), found, test.y)


# ---- swap


def test_relu_by_relu_is_bit_equal():
    target = trained()
    wrapped = Swap(Spec("relu")).wrap(target)
    fitted = Swap(Spec("relu")).fit(wrapped, material())
    assert torch.equal(answers(wrapped), answers(target))
    assert fitted.numbers["sites"] == 3
    assert "not a defense" in fitted.notes[0]


def test_an_unknown_activation_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'leaky_relu'"):
        registry.build("defenses", "swap(to=leaky_rellu)")
    with pytest.raises(UnknownName, match="slope"):
        registry.build("defenses", "swap(to=leaky_relu(slop=0.1))")


def test_sites_that_match_nothing_are_refused_with_the_names_of_the_sites():
    with pytest.raises(UnknownName) as caught:
        registry.build("defenses", "swap(to=gelu, sites='layer*')").wrap(trained())
    assert "'layer*'" in str(caught.value)
    assert "1, 3, 7" in str(caught.value)


@pytest.mark.parametrize(("sites", "places"), [("7", {7}), (("1", "3"), {1, 3}), ("[13]", {1, 3}), ("*", {1, 3, 7})])
def test_only_the_chosen_sites_change(sites, places):
    target = trained()
    wrapped = Swap(Spec("silu"), sites=sites).wrap(target)
    by_hand = copy.deepcopy(target.model)
    for place in places:
        by_hand[place] = nn.SiLU()
    assert torch.equal(answers(wrapped), answers(target.having(model=by_hand)))
    assert not torch.equal(answers(wrapped), answers(target))


def test_a_learnable_replacement_has_a_parameter_a_site():
    state = Swap(Spec("prelu")).wrap(trained()).model.state_dict()
    assert len([key for key in state if key.startswith("stands.")]) == 3


def test_recalibration_sets_the_statistics_of_what_batch_norm_now_sees_and_no_weight():
    target, given = trained(), everything()
    swap = Swap(Spec("elu"), recalibrate=True)
    wrapped = swap.wrap(target)
    fitted = swap.fit(wrapped, given)
    seen = nn.functional.elu(target.model[0](target.normalization(given.train.x)))
    norm = wrapped.model.model[2]
    assert torch.allclose(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, seen.transpose(0, 1).flatten(1).var(1), rtol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(target.model.parameters(), wrapped.model.parameters(), strict=True))
    assert fitted.numbers["batch_norm_layers_recalibrated"] == 1
    assert fitted.numbers["forwards"] == len(given.train.y)
    assert any("not a defense" in note for note in fitted.notes)


def test_recalibrating_without_batch_norm_says_that_nothing_was_done():
    swap = Swap(Spec("elu"), recalibrate=True)
    fitted = swap.fit(swap.wrap(mlp()), material(train=digits()[0]))
    assert "no batch-norm layer" in fitted.notes[0]
    assert fitted.numbers["forwards"] == 0


def test_fine_tuning_mends_what_a_straight_swap_breaks():
    straight, tuned = Swap(Spec("sigmoid")), Swap(Spec("sigmoid"), finetune=5, learning_rate=0.01)
    broken, mended = straight.wrap(mlp()), tuned.wrap(mlp())
    train = digits()[0]
    fitted = tuned.fit(mended, material(train=train))
    assert clean_accuracy(broken) < 0.7
    assert clean_accuracy(mended) > 0.9
    assert fitted.numbers["epochs"] == 5
    assert fitted.numbers["examples_seen"] == fitted.numbers["forwards"] == fitted.numbers["backwards"] == 5 * 900


def test_the_example_that_finds_the_sites_lies_in_the_box_and_is_normalised():
    target = mlp().having(bounds=(2.0, 3.0), normalization=Normalization((2.0,), (10.0,)))
    x = example_of(target)
    assert x.shape == (2, 1, 8, 8)
    assert 0 <= x.min() < 0.02
    assert 0.08 < x.max() <= 0.1
    assert torch.equal(x, example_of(target))


def test_swap_says_what_it_needs():
    assert Swap(Spec("elu")).needs == "nothing"
    assert Swap(Spec("elu"), recalibrate=True).needs == "train"
    assert Swap(Spec("elu"), finetune=1).needs == "train"
    with pytest.raises(BadOption, match="finetune"):
        Swap(Spec("elu"), finetune=-1)
    with pytest.raises(ModelError, match="has not wrapped"):
        Swap(Spec("elu")).fit(trained(), material())


# ---- noise


def test_training_noise_is_training_with_that_recipe():
    target, given = trained(), everything(seed=3)
    defense = TrainingNoise(eta=0.3, epochs=2, learning_rate=0.02)
    wrapped = defense.wrap(target)
    fitted = defense.fit(wrapped, given)
    twin, quiet = copy.deepcopy(target), copy.deepcopy(target)
    for other, eta in ((twin, 0.3), (quiet, 0.0)):
        other.model.requires_grad_(True)
        recipe = Recipe(epochs=2, optimizer="sgd", learning_rate=0.02, gradient_noise=eta, seed=3)
        training.fit(Asked(other), given.train.x, given.train.y, recipe)
    assert torch.equal(answers(wrapped), answers(twin))
    assert not torch.equal(answers(wrapped), answers(quiet))
    updates = 2 * 4  # 200 examples in batches of 64
    assert fitted.numbers["noise_std_first"] == pytest.approx(0.3**0.5)
    assert fitted.numbers["noise_std_last"] == pytest.approx((0.3 / updates**0.55) ** 0.5)
    assert TrainingNoise.kind == "stability"


def test_the_noise_at_inference_has_its_standard_deviation_in_input_units():
    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return {"logits": x.flatten(1) * self.weight}

    normalization = Normalization((0.5, 0.2), (0.25, 2.0))
    target = Target(Seen(), (2, 3, 1), tuple("abcdef"), normalization=normalization)
    wrapped = NoisyInference(std=0.1).wrap(target)
    assert wrapped.stochastic
    assert not target.stochastic
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        x = torch.rand(1, 2, 3, 1).expand(20000, -1, -1, -1)
        with torch.no_grad():
            z = (wrapped.logits(x) - target.logits(x)).reshape(20000, 2, 3).transpose(0, 1).flatten(1)
    n = z.shape[1]
    for noise, scale in zip(z, (0.25, 2.0), strict=True):
        expected = 0.1 / scale
        assert abs(float(noise.mean())) < 4 * expected / n**0.5
        assert abs(float(noise.std()) / expected - 1) < 4 / (2 * n) ** 0.5
    assert set(wrapped.model.state_dict()) == {"model.weight"}
    assert not torch.equal(wrapped.logits(x[:1]), wrapped.logits(x[:1]))


def test_training_under_noise_raises_accuracy_under_noise():
    defense = NoisyInference(std=0.5, finetune=15, learning_rate=5e-3)
    straight, tuned = NoisyInference(std=0.5).wrap(mlp()), defense.wrap(mlp())
    fitted = defense.fit(tuned, material(train=digits()[0]))
    test = digits()[2]
    shares = [(decisions_of(t, test.x, 0).argmax(-1) == test.y).double().mean(0) for t in (tuned, straight)]
    gain = shares[0] - shares[1]
    assert float(gain.mean()) > 3 * float(gain.std()) / len(gain) ** 0.5
    assert fitted.numbers["epochs"] == 15
    assert NoisyInference(std=0.5).needs == "nothing"
    assert defense.needs == "train"


# ---- adversarial training


def test_adversarial_training_raises_accuracy_under_pgd():
    target = mlp()
    defense = AdversarialTraining(eps=0.15, epochs=6, validate=0)
    wrapped = defense.wrap(target)
    fitted = defense.fit(wrapped, material(train=digits()[0]))
    assert pgd_accuracy(wrapped) > pgd_accuracy(target) + 0.2
    assert clean_accuracy(wrapped) > 0.85
    n = 900 * 6
    assert fitted.numbers["examples_attacked"] == n
    assert fitted.numbers["forwards"] == fitted.numbers["backwards"] == n * 8  # 7 of the attack, 1 of the update
    assert fitted.numbers["threat"] == "linf:0.15"
    assert fitted.numbers["inner"] == "pgd(steps=7)"
    assert fitted.numbers["batch_norm"] == "none"


def test_the_mix_leaves_the_other_rows_clean_and_differs_by_epoch():
    seen = []

    def perturb(target, x, y, id, attack, threat, seed, loss=None):
        seen.append((seed, set(id.tolist())))
        return plain_pgd(target, x, y, id, attack, threat, seed)

    train = digits()[0]
    defense = AdversarialTraining(eps=0.1, epochs=2, mix=0.3, validate=0, inner=parse("pgd(steps=1)"))
    fitted = defense.fit(defense.wrap(mlp()), material(train=train, perturb=perturb))
    first, second = (set().union(*(ids for s, ids in seen if s == seed_of(0, "inner", e))) for e in (0, 1))
    assert len(first) + len(second) == fitted.numbers["examples_attacked"]
    assert abs(len(first) / 900 - 0.3) < 4 * (0.3 * 0.7 / 900) ** 0.5
    assert first != second
    assert first <= set(train.id.tolist())


def test_what_is_learnt_from_is_what_the_attack_returned_row_by_row():
    train = digits()[0]
    few = Split(train.x[:64], train.y[:64], train.id[:64])
    learnt, attacked = [], []

    class Watched(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            if self.training:
                learnt.extend(x.detach().clone())
            return self.model(x)

        def __deepcopy__(self, memo):
            return Watched(copy.deepcopy(self.model, memo))

    def perturb(target, x, y, id, attack, threat, seed, loss=None):
        assert not target.model.training
        attacked.extend(id.tolist())
        return x + 10 + id.view(-1, 1, 1, 1)

    defense = AdversarialTraining(eps=0.1, epochs=1, mix=0.5, validate=0)
    wrapped = defense.wrap(mlp().having(model=Watched(mlp().model)))
    defense.fit(wrapped, material(train=few, perturb=perturb))
    assert 0 < len(attacked) < 64
    expected = [x + 10 + i if i in attacked else x for x, i in zip(few.x, few.id.tolist(), strict=True)]
    assert len(learnt) == 64
    assert sorted(row.double().sum().item() for row in learnt) == sorted(row.double().sum().item() for row in expected)


def test_from_scratch_the_given_weights_do_not_matter():
    outcomes = []
    for model in (_mlp(), nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))):
        for start in ("scratch", "given"):
            defense = AdversarialTraining(eps=0.1, epochs=1, start=start, inner=parse("pgd(steps=1)"))
            wrapped = defense.wrap(mlp().having(model=copy.deepcopy(model)))
            defense.fit(wrapped, material(train=digits()[0]))
            outcomes.append(answers(wrapped))
    assert torch.equal(outcomes[0], outcomes[2])
    assert not torch.equal(outcomes[1], outcomes[3])
    assert not torch.equal(outcomes[0], outcomes[1])


def test_a_module_without_a_default_start_is_refused_and_left_alone():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    model = nn.Sequential(network(), Odd())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"1 \(Odd\)"):
        restarted(model, 0)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize(
    "text",
    [
        "adversarial_training(eps=0.1, mix=0)",
        "adversarial_training(eps=0.1, epochs=0)",
        "adversarial_training",
        "fast_training(eps=0.1, holdout=0)",
        "fast_training(eps=0.1, step=3)",
        "fast_training(eps=0.1, drop=1)",
        "fast_training(eps=0.1, guard_steps=1)",
        "noisy_inference(std=0)",
        "noisy_inference(std=inf)",
        "noisy_inference(std=0.1, finetune=-1)",
        "training_noise(eta=0)",
        "training_noise(learning_rate=0)",
        "adversarial_training(eps=0.1, validate=0.6)",
        "adversarial_training(eps=0.1, patience=0)",
        "adversarial_training(eps=0.1, patience=2, validate=0)",
        "trades(eps=0.1, beta=0)",
        "trades(eps=0.1, validate=-1)",
        "label_smoothing(epsilon=0)",
        "label_smoothing(epsilon=1)",
        "confidence_penalty(beta=-1)",
        "fooling_training(weight=0)",
        "stable_training(dropout=1)",
        "stable_training(clip_norm=0)",
    ],
)
def test_options_out_of_range_are_refused(text):
    with pytest.raises(BadOption) as caught:
        registry.build("defenses", text)
    assert caught.value.mend


@pytest.mark.parametrize("text", ["adversarial_training(eps=0)", "fast_training(eps=-1)"])
def test_a_radius_that_is_none_is_refused(text):
    with pytest.raises(ThreatError, match="eps"):
        registry.build("defenses", text)


def test_forwards_and_backwards_are_counted_in_examples():
    model = network().eval()
    count = Count()
    with count.of(Target(model, (1, 8, 8), tuple("0123456789"))):
        x = torch.rand(5, 1, 8, 8, requires_grad=True)
        model(x).sum().backward()
        with torch.no_grad():
            model(x)
    model(x)
    assert (count.forwards, count.backwards) == (10, 5)
    assert not model._forward_hooks


# ---- fast training and its guard


def test_fast_training_raises_accuracy_under_pgd():
    target = mlp()
    defense = FastTraining(eps=0.15, epochs=6)
    wrapped = defense.wrap(target)
    fitted = defense.fit(wrapped, material(train=digits()[0]))
    assert pgd_accuracy(wrapped) > pgd_accuracy(target) + 0.2
    assert fitted.numbers["stopped"] == "finished"
    assert fitted.numbers["epochs"] == fitted.numbers["kept_epoch"] == 6
    assert fitted.numbers["inner"] == "pgd(steps=1, step_size=0.1875)"
    assert fitted.numbers["examples_held_out"] == 90
    assert len(fitted.numbers["holdout_pgd"]) == 7
    assert len(fitted.numbers["holdout_gradient_alignment"]) == 7
    # 11 of the guard's attacks and 2 of the alignment, padded to 96 rows; it looks before the first epoch as well
    assert fitted.numbers["backwards"] == 6 * 810 * 2 + 7 * (90 * 11 + 96 * 2)


def scripted(fails_from, single_too=False):
    """An adversary that finds nothing until an epoch, and then everything; and the weights at each guard's look."""
    states = []

    def perturb(target, x, y, id, attack, threat, seed, loss=None):
        training_batch = seed != seed_of(0, "guard")
        iterated = attack.get("steps") != 1
        epoch = len(states)
        if iterated:
            states.append({key: value.clone() for key, value in target.model.state_dict().items()})
        if training_batch or epoch < fails_from or (not iterated and not single_too):
            return x
        return x.roll(1, 0) if not bool((y == y.roll(1)).all()) else x

    return perturb, states


def test_the_guard_stops_at_a_collapse_and_brings_the_best_weights_back():
    perturb, states = scripted(fails_from=3)
    defense = FastTraining(eps=0.1, epochs=8, learning_rate=1e-3)
    wrapped = defense.wrap(mlp())
    fitted = defense.fit(wrapped, material(train=digits()[0], perturb=perturb))
    assert fitted.numbers["epochs"] == 3
    assert fitted.numbers["stopped"].startswith("catastrophic overfitting in epoch 3")
    kept = fitted.numbers["kept_epoch"]
    pgd = fitted.numbers["holdout_pgd"]
    assert len(states) == 4
    assert kept == max(range(3), key=lambda epoch: (pgd[epoch], epoch))
    assert all(torch.equal(value, states[kept][key]) for key, value in wrapped.model.state_dict().items())
    assert any(not torch.equal(value, states[3][key]) for key, value in wrapped.model.state_dict().items())
    assert pgd[3] < 0.5 < min(pgd[:3])


def test_a_fall_that_the_single_step_shares_is_no_collapse():
    perturb, states = scripted(fails_from=2, single_too=True)
    defense = FastTraining(eps=0.1, epochs=3, learning_rate=1e-3)
    wrapped = defense.wrap(mlp())
    fitted = defense.fit(wrapped, material(train=digits()[0], perturb=perturb))
    assert fitted.numbers["stopped"] == "finished"
    assert fitted.numbers["kept_epoch"] == fitted.numbers["epochs"] == 3
    assert all(torch.equal(value, states[3][key]) for key, value in wrapped.model.state_dict().items())
    assert fitted.notes == ()


def test_a_model_that_only_ever_fooled_the_single_step_is_not_stopped_but_told_apart():
    perturb, _ = scripted(fails_from=0)
    defense = FastTraining(eps=0.1, epochs=2, learning_rate=1e-3)
    fitted = defense.fit(defense.wrap(mlp()), material(train=digits()[0], perturb=perturb))
    assert fitted.numbers["stopped"] == "finished"
    assert max(fitted.numbers["holdout_pgd"]) < 0.3
    assert "higher under the single step" in fitted.notes[0]


def test_the_hold_out_is_disjoint_keyed_by_row_and_never_trained_on():
    train = digits()[0]
    rest, held = divide(train, 0.1, 0, "x")
    assert len(held.y) == 90
    assert sorted([*rest.id.tolist(), *held.id.tolist()]) == sorted(train.id.tolist())
    shuffled = torch.randperm(900, generator=torch.Generator().manual_seed(5))
    again = divide(Split(train.x[shuffled], train.y[shuffled], train.id[shuffled]), 0.1, 0, "x")[1]
    assert set(again.id.tolist()) == set(held.id.tolist())
    assert set(divide(train, 0.1, 1, "x")[1].id.tolist()) != set(held.id.tolist())
    where = {row: place for place, row in enumerate(train.id.tolist())}
    assert all(torch.equal(x, train.x[where[row]]) for x, row in zip(held.x, held.id.tolist(), strict=True))


class Wavy(nn.Module):
    """A small network that can also see waves with the period of the radius: they look the same at x and x +- eps."""

    eps = 0.125

    def __init__(self):
        super().__init__()
        self.plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.waves = nn.Linear(128, 10)
        nn.init.zeros_(self.waves.weight)
        nn.init.zeros_(self.waves.bias)

    def forward(self, x):
        angle = 2 * torch.pi * x.flatten(1) / self.eps
        return self.plain(x) + self.waves(torch.cat([angle.sin(), angle.cos()], 1))


def test_a_planted_collapse_is_caught_and_the_best_epoch_returned():
    """A step of 2 eps always ends in a corner, where the waves are those of the clean input: PGD ends elsewhere."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        start = mlp().having(model=Wavy())
    train = material(train=digits()[0], perturb=tasks.perturb)
    robust = AdversarialTraining(eps=Wavy.eps, epochs=5, validate=0)
    start = robust.wrap(start)
    robust.fit(start, train)
    guarded, unguarded, calm = (
        FastTraining(eps=Wavy.eps, step=step, epochs=8, drop=drop) for step, drop in ((2, 0.2), (2, 0.99), (1.25, 0.2))
    )
    found = {}
    for defense in (guarded, unguarded, calm):
        wrapped = defense.wrap(start)
        found[defense] = (defense.fit(wrapped, train), pgd_accuracy(wrapped, Wavy.eps))
    fitted, accuracy = found[guarded]
    pgd = fitted.numbers["holdout_pgd"]
    assert fitted.numbers["stopped"].startswith("catastrophic overfitting in epoch")
    assert fitted.numbers["kept_epoch"] == max(range(len(pgd)), key=lambda epoch: (pgd[epoch], epoch))
    assert fitted.numbers["kept_epoch"] < fitted.numbers["epochs"]
    assert accuracy > found[unguarded][1] + 0.15
    assert fitted.numbers["holdout_gradient_alignment"][-1] < 0.3 < fitted.numbers["holdout_gradient_alignment"][0]
    assert found[calm][0].numbers["stopped"] == "finished"
    assert min(found[calm][0].numbers["holdout_gradient_alignment"]) > 0.3


# ---- the epoch chosen on rows held out


def breaking(epochs):
    """An adversary of the guard that breaks everything at the looks named and nothing at others; and the weights."""
    states = []

    def perturb(target, x, y, id, attack, threat, seed, loss=None):
        if seed != seed_of(0, "guard"):
            return x
        states.append({key: value.clone() for key, value in target.model.state_dict().items()})
        return 1 - x if len(states) in epochs else x

    return perturb, states


@pytest.mark.parametrize("defense", [AdversarialTraining, Trades])
def test_the_best_epoch_on_the_rows_held_out_is_kept(defense):
    perturb, states = breaking(epochs={1, 3, 4})
    made = defense(eps=0.1, epochs=4, learning_rate=1e-3)
    wrapped = made.wrap(mlp())
    fitted = made.fit(wrapped, material(train=digits()[0], perturb=perturb))
    course = fitted.numbers["holdout_robust_accuracy"]
    assert len(course) == len(states) == 4
    assert min(course[1], 0.9) > max(course[0], course[2], course[3])
    assert fitted.numbers["kept_epoch"] == 2
    assert fitted.numbers["examples_held_out"] == 90
    # What is told of the training is of that epoch: so is a training that ends there at the same rate.
    constant = [dataclasses.replace(made, schedule="constant", epochs=epochs) for epochs in (4, 2)]
    losses = []
    for one in constant:
        perturb, _ = breaking(epochs={1, 3, 4})
        numbers = one.fit(one.wrap(mlp()), material(train=digits()[0], perturb=perturb)).numbers
        losses.append((numbers["kept_epoch"], numbers["final_loss"], numbers["final_accuracy"]))
    assert losses[0] == losses[1]
    assert all(torch.equal(value, states[1][key]) for key, value in wrapped.model.state_dict().items())
    assert any(not torch.equal(value, states[3][key]) for key, value in wrapped.model.state_dict().items())


def test_patience_ends_a_training_that_no_longer_rises():
    perturb, states = breaking(epochs=set(range(2, 20)))
    defense = AdversarialTraining(eps=0.1, epochs=9, patience=2)
    fitted = defense.fit(defense.wrap(mlp()), material(train=digits()[0], perturb=perturb))
    assert fitted.numbers["stopped"] == "robust accuracy on the rows held out has not risen for 2 epochs"
    assert (fitted.numbers["epochs"], fitted.numbers["kept_epoch"], len(states)) == (3, 1, 3)


def test_without_rows_held_out_the_last_epoch_is_kept_and_every_row_learnt():
    defense = AdversarialTraining(eps=0.1, epochs=2, validate=0, inner=parse("pgd(steps=1)"))
    fitted = defense.fit(defense.wrap(mlp()), material(train=digits()[0]))
    assert (fitted.numbers["kept_epoch"], fitted.numbers["examples_held_out"]) == (2, 0)
    assert fitted.numbers["examples_seen"] == 1800


# ---- TRADES


def test_trades_climbs_the_divergence_from_what_the_clean_rows_said():
    """On one linear layer the divergence, its gradient and so the first step are known in closed form."""
    target = Target(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (1, 8, 8), tuple("0123456789"))
    train = digits()[0]
    seen = []

    def perturb(target, x, y, id, attack, threat, seed, loss):
        moved = (x + torch.arange(64).view(1, 8, 8) / 64).requires_grad_(True)
        cases = Cases(id, x, y, torch.full_like(y, -1), torch.ones(len(y)), "linf")
        (gradient,) = torch.autograd.grad(loss(Observed(target.logits(moved)), cases).sum(), moved)
        with torch.no_grad():
            said, clean = loss.log_p[torch.searchsorted(loss.ids, id)], target.logits(x).log_softmax(1)
            p, q = said.exp(), target.logits(moved).softmax(1)
            value = (p * (p / q).log()).sum(1)
            expected = (q - p) @ target.model[1].weight
            # p is what is said 3 % of the radius away at most, where log p differs by no more than this.
            most = 2 * BESIDE * 0.1 * target.model[1].weight.abs().sum(1).max()
        assert 0 < (said - clean).abs().max() < most
        torch.testing.assert_close(gradient.flatten(1), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(loss(Observed(target.logits(moved)), cases), value, rtol=1e-4, atol=1e-6)
        seen.append(len(y))
        return x

    defense = Trades(eps=0.1, epochs=1, validate=0)
    defense.fit(defense.wrap(target), material(train=train, perturb=perturb))
    assert sum(seen) == 900


def test_trades_inner_attack_climbs_also_from_the_input_itself():
    """There the divergence has no slope but rounding: the corner that fgsm picks is better than a random one."""
    train, found = digits()[0], {}

    def perturb(target, x, y, id, attack, threat, seed, loss):
        made = tasks.perturb(target, x, y, id, attack, threat, seed, loss)
        blind = (x + 0.1 * Draws(1, "blind").sign(id, 0, (1, 8, 8))).clamp(0, 1)
        for name, at in (("made", made), ("blind", blind)):
            with torch.no_grad():
                p, q = (target.logits(each).log_softmax(1) for each in (x, at))
            found.setdefault(name, []).append((p.exp() * (p - q)).sum(1))
        return x

    defense = Trades(eps=0.1, epochs=1, validate=0, inner=parse("fgsm"))
    defense.fit(defense.wrap(mlp()), material(train=train, perturb=perturb))
    made, blind = (torch.cat(found[name]) for name in ("made", "blind"))
    assert made.mean() > 5 * blind.mean()


def test_trades_minimises_cross_entropy_and_beta_times_the_divergence():
    train, defense = digits()[0], Trades(eps=0.1, beta=3.0, epochs=1, batch_size=900, validate=0)
    wrapped = defense.wrap(mlp())
    before = copy.deepcopy(wrapped)
    fitted = defense.fit(wrapped, material(train=train, perturb=lambda target, x, *_: (x + 0.3).clamp(0, 1)))
    with torch.no_grad():
        clean, moved = before.logits(train.x), before.logits((train.x + 0.3).clamp(0, 1))
    divergence = nn.functional.kl_div(moved.log_softmax(1), clean.softmax(1), reduction="batchmean")
    expected = nn.functional.cross_entropy(clean, train.y) + 3 * divergence
    assert fitted.numbers["final_loss"] == pytest.approx(float(expected), rel=1e-4)
    assert divergence > 0.01
    assert fitted.numbers["beta"] == 3


def test_trades_raises_accuracy_under_pgd_the_more_the_larger_beta():
    found = []
    for beta in (0.1, 6.0):
        defense = Trades(eps=0.15, beta=beta, epochs=6, validate=0, start="scratch", inner=parse("pgd(steps=5)"))
        wrapped = defense.wrap(mlp())
        defense.fit(wrapped, material(train=digits()[0], perturb=tasks.perturb))
        found.append(pgd_accuracy(wrapped))
    assert found[1] > found[0]
    assert found[1] > pgd_accuracy(mlp()) + 0.2


# ---- output regularisation, nonsense, stability


@pytest.mark.parametrize(
    ("defense", "recipe"),
    [
        (LabelSmoothing(epsilon=0.3, epochs=2), {"label_smoothing": 0.3}),
        (ConfidencePenalty(beta=0.7, epochs=2), {"confidence_penalty": 0.7}),
        (ConfidencePenalty(beta=0.7, of="logits", epochs=2), {"logit_penalty": 0.7}),
        (
            StableTraining(epochs=2, dropout=0.4, clip_norm=0.5, logit_penalty=0.1),
            {"dropout": 0.4, "clip_norm": 0.5, "logit_penalty": 0.1},
        ),
    ],
)
def test_they_are_training_with_that_recipe(defense, recipe):
    target, given = trained(), everything(seed=3)
    wrapped = defense.wrap(target)
    fitted = defense.fit(wrapped, given)
    outcomes = []
    for options in (recipe, {}):
        other = copy.deepcopy(target)
        other.model.requires_grad_(True)
        training.fit(
            Asked(other), given.train.x, given.train.y, Recipe(epochs=2, learning_rate=1e-3, seed=3, **options)
        )
        outcomes.append(answers(other))
    assert torch.equal(answers(wrapped), outcomes[0])
    assert not torch.equal(answers(wrapped), outcomes[1])
    assert {key: fitted.numbers[key] for key in recipe} == recipe
    assert defense.kind != "robustness"


@pytest.mark.parametrize("defense", [LabelSmoothing(epsilon=0.3), ConfidencePenalty(beta=1.0)])
def test_output_regularisation_lowers_confidence_and_keeps_most_labels(defense):
    target, test = mlp(), digits()[2]
    wrapped = defense.wrap(target)
    defense.fit(wrapped, material(train=digits()[0]))
    before, after = (decisions_of(t, test.x, 0)[0] for t in (target, wrapped))
    assert after.softmax(1).amax(1).mean() < before.softmax(1).amax(1).mean() - 0.05
    assert (before.argmax(1) == after.argmax(1)).double().mean() > 0.9


def test_nonsense_is_in_the_box_keyed_by_row_and_of_three_kinds():
    train = digits()[0]
    draws = Draws(0, "x")
    made = nonsense(train.x, train.id, draws, 0, (0.0, 1.0))
    assert made.shape == train.x.shape
    assert made.min() >= 0
    assert made.max() <= 1
    some = torch.arange(0, 900, 7)
    assert torch.equal(nonsense(train.x[some], train.id[some], draws, 0, (0.0, 1.0)), made[some])
    assert not torch.equal(nonsense(train.x, train.id, draws, 1, (0.0, 1.0)), made)
    flat = (made.flatten(1).std(1) == 0).double().mean()
    assert abs(float(flat) - 1 / 3) < 4 * (2 / 9 / 900) ** 0.5
    wide = nonsense(2 + train.x, train.id, draws, 0, (2.0, 3.0))
    torch.testing.assert_close(wide, 2 + made, rtol=0, atol=1e-4)  # stretching magnifies rounding
    rows = nonsense(train.x.flatten(1), train.id, draws, 0, (0.0, 1.0))
    assert rows.shape == (900, 64)
    same = (rows.sort(1).values == train.x.flatten(1).sort(1).values).all(1).double().mean()
    assert abs(float(same) - 1 / 3) < 4 * (2 / 9 / 900) ** 0.5


def test_smoothing_an_image_keeps_the_flat_and_blurs_by_sigma():
    spike = torch.zeros(1, 1, 31, 31)
    spike[..., 15, 15] = 1
    for sigma in (1.0, 2.5):
        blurred = blur(31, torch.tensor([[sigma]]))[0] @ spike[0, 0] @ blur(31, torch.tensor([[sigma]]))[0].T
        offset = torch.arange(31) - 15.0
        assert float(blurred.sum()) == pytest.approx(1, abs=0.01)
        assert float((blurred.sum(1) * offset.square()).sum()) == pytest.approx(sigma**2, rel=0.02)
    weights = blur(9, torch.tensor([[1.3]]))[0]
    torch.testing.assert_close(weights.sum(1), torch.ones(9))


@pytest.mark.parametrize("mode", ["ceda", "acet"])
def test_training_against_fooling_images_lowers_confidence_on_nonsense_not_on_digits(mode):
    target, test = mlp(), digits()[2]
    defense = FoolingTraining(mode=mode, epochs=4, learning_rate=5e-3, inner=parse("pgd(steps=3)"))
    wrapped = defense.wrap(target)
    fitted = defense.fit(wrapped, material(train=digits()[0], perturb=tasks.perturb))
    assert fitted.numbers["nonsense_confidence_before"] > fitted.numbers["nonsense_confidence_after"] + 0.1
    fresh = nonsense(test.x, test.id, Draws(9, "fresh"), 0, (0.0, 1.0))
    sure = [float(decisions_of(t, fresh, 0)[0].softmax(1).amax(1).mean()) for t in (target, wrapped)]
    assert sure[0] > sure[1] + 0.1
    assert clean_accuracy(wrapped) > clean_accuracy(target) - 0.05
    near = tasks.perturb(
        wrapped, fresh, test.y, test.id, parse("pgd(steps=10)"), Threat("linf", 0.1), 1, LargestConfidence()
    )
    assert decisions_of(wrapped, near, 0)[0].softmax(1).amax(1).mean() > sure[1]  # the attack climbs what it says
    assert (near - fresh).abs().max() <= 0.1 * (1 + 1e-6)


def test_acet_withstands_the_search_for_confidence_better_than_ceda():
    test, found = digits()[2], []
    for mode in ("ceda", "acet"):
        defense = FoolingTraining(mode=mode, epochs=6, learning_rate=5e-3, inner=parse("pgd(steps=5)"))
        wrapped = defense.wrap(mlp())
        defense.fit(wrapped, material(train=digits()[0], perturb=tasks.perturb))
        fresh = nonsense(test.x, test.id, Draws(9, "fresh"), 0, (0.0, 1.0))
        near = tasks.perturb(
            wrapped, fresh, test.y, test.id, parse("pgd(steps=20)"), Threat("linf", 0.1), 1, LargestConfidence()
        )
        found.append(float(decisions_of(wrapped, near, 0)[0].softmax(1).amax(1).mean()))
    assert found[1] < found[0] - 0.2


# ---- interrupted in the middle of a training

CHAIN = (
    "adversarial_training(eps=0.1, inner=pgd(steps=2), epochs=9) | "
    "trades(eps=0.1, inner=pgd(steps=2), epochs=9) | fast_training(eps=0.1, epochs=3) | temperature"
)
DRIVER = """
import sys
from pathlib import Path
from actsec.running import preparing, store, tasks
store.SAVE_SECONDS = 0
root = Path(sys.argv[1])
prepared = preparing.prepare(store.Store.open(root).plan())
for job in prepared.jobs:
    if job.kind in ("base", "defend") and not store.Store(root).done(job.id):
        tasks.run(job, root, prepared.scene)
"""


def test_killed_and_interrupted_in_the_middle_of_trainings_the_weights_are_the_same_bits(tmp_path, monkeypatch):
    """kill -9 in the first training of a chain, Ctrl-C in the second: both are taken up where they stood."""
    made = plan.Plan(model="reference:mlp(width=[8])", activations=("relu",), defenses=(CHAIN,), samples=8)
    prepared = preparing.prepare(made)
    jobs = [job for job in prepared.jobs if job.kind in ("base", "defend")]
    assert [job.kind for job in jobs] == ["base", "defend"]
    whole, run = (Store.create(tmp_path / name, prepared.plan, prepared.facts) for name in ("whole", "run"))
    for job in jobs:
        assert tasks.run(job, whole.root, prepared.scene) is None
    for number, how in ((0, signal.SIGKILL), (1, signal.SIGINT)):
        kept = run.root / "training" / f"{jobs[1].id}-{number}"
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, run.root], env=ENVIRONMENT, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while not kept.exists() and process.poll() is None:
            time.sleep(0.001)
        os.killpg(process.pid, how)
        process.communicate()
        assert kept.exists()
        assert not run.done(jobs[1].id)
    epochs = []
    whole_epoch = loop._Loop.epoch

    def counted(self, x, y, rows, epoch):
        epochs.append((self.recipe.epochs, epoch))
        return whole_epoch(self, x, y, rows, epoch)

    monkeypatch.setattr(loop._Loop, "epoch", counted)
    assert tasks.run(jobs[1], run.root, prepared.scene) is None
    # What was stored is not done again; the last epoch of the first training may have ended after its state was read.
    assert (9, 0) not in epochs
    assert len(epochs) < 9 + 3
    first, second = (store.get(jobs[1].id) for store in (whole, run))
    assert first.numbers == second.numbers
    assert first.arrays["weights"].tobytes() == second.arrays["weights"].tobytes()
    assert not list((run.root / "training").iterdir())


def test_a_damaged_state_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "SAVE_SECONDS", 0)
    kept = Store(tmp_path).training("job", 0)
    kept.save(lambda: b"state")
    assert kept.load() == b"state"
    (tmp_path / "training" / "job-0").write_bytes(b"x" * 40)
    assert kept.load() is None
    monkeypatch.setattr(store_module, "SAVE_SECONDS", 1000)
    kept.save(lambda: pytest.fail("too soon"))
    Store(tmp_path).forget_training("job")
    assert kept.load() is None


@pytest.mark.parametrize(
    ("attack", "threat"),
    [
        ("pgd(steps=4)", "linf:0.1"),
        ("pgd(steps=3, loss=margin, restarts=2)", "l2:1"),
        ("fgsm", "linf:0.1"),
        ("apgd(steps=8)", "linf:0.1"),
        ("square(queries=10)", "linf:0.1"),
    ],
)
def test_training_examples_are_those_of_the_referees_full_answer(attack, threat, monkeypatch):
    train = digits()[0]
    x, y, ids = train.x[:40], train.y[:40], train.id[:40]
    quick = tasks.perturb(mlp(), x, y, ids, parse(attack), Threat.parse(threat), 3)
    full = lambda oracle, ask, cases: answer(oracle, Hardest(), ask, cases, ())  # noqa: E731  # one line says it
    monkeypatch.setattr(crafting, "_told", full)
    assert torch.equal(quick, tasks.perturb(mlp(), x, y, ids, parse(attack), Threat.parse(threat), 3))
    assert not torch.equal(quick, x)


def test_a_course_of_attacks_cannot_train():
    train = digits()[0]
    with pytest.raises(BadOption, match="several attacks"):
        tasks.perturb(mlp(), train.x, train.y, train.id, parse("cascade"), Threat("linf", 0.1), 0)


@pytest.mark.parametrize("attack", ["square(queries=30)", "noise(draws=30)", "averaged_differences(steps=5)"])
def test_examples_of_an_attack_without_gradients_are_the_best_it_asked_about(attack):
    """The true class loses by the most there; with a loss it is that loss which is highest."""
    train = digits()[0]
    x, y, ids = train.x[:40], train.y[:40], train.id[:40]
    threat = Threat("l2" if attack.startswith("averaged") else "linf", 0.8 if attack.startswith("averaged") else 0.1)
    target = mlp()
    found = tasks.perturb(target, x, y, ids, parse(attack), threat, 3)
    sure = tasks.perturb(target, x, y, ids, parse(attack), threat, 3, LargestConfidence())

    def lost(at):
        with torch.no_grad():
            z = target.logits(at)
        own = z.gather(1, y[:, None])[:, 0]
        return z.scatter(1, y[:, None], -torch.inf).amax(1) - own

    def certain(at):
        with torch.no_grad():
            return target.logits(at).log_softmax(1).amax(1)

    assert (lost(found) >= lost(x)).double().mean() > 0.9
    assert lost(found).mean() > lost(x).mean() + 0.1
    assert certain(sure).mean() > certain(found).mean()
    assert geometry.distance(found, x, threat.norm).max() <= threat.eps * (1 + 1e-6)


# ---- what it costs


def passes(model):
    """Rows through the innermost model and back, counted by hooks of the test's own."""
    seen = [0, 0]

    def forward(_, given, z):
        seen[0] += len(z)
        if z.requires_grad:
            z.register_hook(lambda gradient: seen.__setitem__(1, seen[1] + len(gradient)))

    model.register_forward_hook(forward)
    return seen


@pytest.mark.parametrize(
    "defense",
    [
        FastTraining(eps=0.1, epochs=2, guard_steps=2),
        FoolingTraining(epochs=1),
        FoolingTraining(mode="acet", inner=parse("pgd(steps=2)"), epochs=1),
        AdversarialTraining(eps=0.1, epochs=1, inner=parse("pgd(steps=2)")),
    ],
)
@pytest.mark.parametrize("smoothed", [False, True])
def test_every_pass_is_counted_and_each_copy_of_a_smoothed_answer(defense, smoothed):
    train = digits()[0]
    few = Split(train.x[:150], train.y[:150], train.id[:150])
    target = Smoothing(std=0.1, draws=3).wrap(mlp()) if smoothed else mlp()
    wrapped = defense.wrap(target)
    seen = passes(wrapped.model.model if smoothed else wrapped.model)
    numbers = defense.fit(wrapped, material(train=few, perturb=tasks.perturb)).numbers
    assert [numbers["forwards"], numbers["backwards"]] == seen


def test_the_fixed_twin_of_a_learned_activation_is_counted():
    alone, both = (Swap(Spec("prelu"), finetune=1, twin=twin) for twin in (False, True))
    counts = []
    for swap in (alone, both):
        numbers = swap.fit(swap.wrap(mlp()), material(train=digits()[0])).numbers
        counts.append((numbers["forwards"], numbers["backwards"]))
    assert counts == [(900, 900), (1800, 1800)]


@pytest.mark.parametrize(("draws", "answered"), [(4, 5), (16, 2), (40, 1)])
def test_a_smoothed_target_is_asked_for_as_many_copies_as_the_judge_draws(draws, answered):
    target, calibration = Smoothing(std=0.1, draws=draws).wrap(mlp()), digits()[1]
    assert decisions_of(target, calibration.x[:3], 0).shape == (answered, 3, 10)
    assert answered * draws >= JUDGE_DRAWS > (answered - 1) * draws
    for defense in (Temperature(), VectorScaling(), Isotonic()):
        fitted = defense.fit(defense.wrap(target), material(calibration=calibration))
        assert fitted.numbers["forwards"] == answered * draws * len(calibration.y)


# ---- chains


class Unfitted:
    """A defense that must never come to be fitted."""

    needs = "nothing"

    def wrap(self, target):
        return target

    def fit(self, target, material):
        raise AssertionError("fitted before the whole chain was looked at")


@pytest.mark.parametrize("inner", ["cascade", "art/DeepFool", "nobody"])
@pytest.mark.parametrize("text", ["adversarial_training(eps=0.1, inner={})", "trades(eps=0.1, inner={})"])
def test_an_inner_attack_that_cannot_train_is_refused_before_anything_is_fitted(text, inner):
    with pytest.raises((BadOption, UnknownName), match=inner):
        registry.build("defenses", text.format(inner))
    made = (AdversarialTraining if text.startswith("adv") else Trades)(eps=0.1, inner=parse(inner))
    with pytest.raises((BadOption, UnknownName), match=inner):
        fit_chain(mlp(), (Unfitted(), made), material(train=digits()[0]))


class Own(nn.Module):
    """A model that brings its detector along."""

    def __init__(self):
        super().__init__()
        self.model = mlp().model

    def forward(self, x):
        return self.model(x)

    def rejects(self, x):
        return self(x).amax(1) - 2


@pytest.mark.parametrize(
    "text",
    [
        "temperature",
        "swap(to=silu)",
        "noisy_inference(std=0.1)",
        "smoothing(std=0.1, draws=2)",
        "swap(to=silu) | isotonic",
    ],
)
def test_a_model_that_is_its_own_detector_takes_it_along(text):
    model = Own()
    target = mlp().having(model=model, rejects=model.rejects)
    x = digits()[1].x[:20]
    expected = target.rejection(x)
    defended = target
    for spec in parse_chain(text):
        defended = detecting.behind(defended, registry.build("defenses", spec))
    owner = defended.rejects.__self__
    assert owner is not model
    assert any(module is owner for module in defended.model.modules())
    assert torch.equal(defended.rejection(x), expected)
    with torch.no_grad():  # what a training would do to the weights
        for parameter in defended.model.parameters():
            parameter.add_(0.1)
    assert not torch.equal(defended.rejection(x), expected)
    assert torch.equal(target.rejection(x), expected)


def test_a_detector_that_stands_alone_stays_and_one_that_asks_the_model_from_outside_is_refused():
    model = Own()
    target = mlp().having(model=model, rejects=model.rejects)

    class Beside:
        def __init__(self, asked):
            self.asked = asked

        def score(self, x):
            return self.asked(x).amax(1) - 2

    outside = (lambda x: model(x).amax(1), Beside(model).score, functools.partial(torch.add, model))
    for rejects in outside:
        with pytest.raises(ModelError, match="stands outside the model and asks it") as caught:
            fit_chain(target.having(rejects=rejects), (Temperature(),), material(calibration=digits()[1]))
        assert "--defenses none" in caught.value.mend
        assert "method rejects" in caught.value.mend
    free = target.having(rejects=lambda x: x.flatten(1).mean(1) - 0.9)
    defended, fits, seconds = fit_chain(free, (Temperature(),), material(calibration=digits()[1]))
    assert defended.rejects is free.rejects
    assert len(fits) == len(seconds) == 1
