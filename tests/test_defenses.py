"""What every defense promises: it is documented, leaves what it was given alone, and rebuilds from its weights."""

import copy
import dataclasses
import functools
import itertools
import json
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from actsec import registry, spec, training
from actsec.activations import find
from actsec.errors import DataError
from actsec.types import Cases, Material, Normalization, Observed, Split, Target

SPECS = {
    "adversarial_training": (
        "adversarial_training(eps=0.1, inner=pgd(steps=2), epochs=1)",
        "adversarial_training(eps=0.1, inner=pgd(steps=2), epochs=1, mix=0.5, start=scratch, validate=0)",
    ),
    "confidence_penalty": ("confidence_penalty(epochs=1)", "confidence_penalty(of=logits, epochs=1, start=scratch)"),
    "fast_training": ("fast_training(eps=0.1, epochs=1, guard_steps=2)",),
    "fooling_training": (
        "fooling_training(epochs=1)",
        "fooling_training(mode=acet, inner=pgd(steps=2), epochs=1)",
    ),
    "label_smoothing": ("label_smoothing(epochs=1)",),
    "isotonic": ("isotonic", "isotonic(curves=each)"),
    "noisy_inference": (
        "noisy_inference(std=0.1)",
        "noisy_inference(std=0.1, finetune=1)",
        "noisy_inference(std=0.2, at=activations)",
        "noisy_inference(std=0.2, at=activations, finetune=1)",
        "noisy_inference(std=0.25, at=learned, eps=0.1, inner=pgd(steps=2), finetune=1)",
    ),
    "smoothing": ("smoothing(std=0.1, draws=4)", "smoothing(std=0.1, draws=4, finetune=1)"),
    "swap": (
        "swap(to=leaky_relu(slope=0.1))",
        "swap(to=gelu, sites=['1', '3'], recalibrate=true)",
        "swap(to=prelu, finetune=1, recalibrate=true)",
    ),
    "temperature": ("temperature",),
    "stable_training": ("stable_training(epochs=1)", "stable_training(dropout=0, clip_norm=none, epochs=1)"),
    "trades": ("trades(eps=0.1, inner=pgd(steps=2), epochs=1)",),
    "training_noise": ("training_noise(epochs=1)",),
    "vector_scaling": ("vector_scaling",),
}
TEXTS = [text for texts in SPECS.values() for text in texts]
CHAINS = [
    *(list(pair) for pair in itertools.permutations(["swap(to=prelu)", "temperature", "noisy_inference(std=0.1)"], 2)),
    ["swap(to=silu, finetune=1)", "adversarial_training(eps=0.1, inner=pgd(steps=2), epochs=1)", "temperature"],
    ["swap(to=gelu)", "swap(to=relu)"],
    ["temperature", "temperature"],
    ["swap(to=prelu)", "smoothing(std=0.1, draws=4)", "isotonic"],
    ["noisy_inference(std=0.1, at=activations)", "vector_scaling", "isotonic(curves=each)"],
    ["label_smoothing(epochs=1)", "trades(eps=0.1, inner=pgd(steps=2), epochs=1)", "fooling_training(epochs=1)"],
    ["stable_training(epochs=1)", "confidence_penalty(epochs=1)", "temperature"],
    ["isotonic", "swap(to=prelu)", "noisy_inference(std=0.25, at=learned, eps=0.1, inner=pgd(steps=2), finetune=1)"],
    ["noisy_inference(std=0.05)", "fast_training(eps=0.1, epochs=1, guard_steps=2)"],
]


@functools.cache
def digits() -> tuple[Split, Split, Split]:
    """Train (900), calibration (400) and test (497) digits as (n, 1, 8, 8) in [0, 1]."""
    data = load_digits()
    x = torch.from_numpy(data.images).float()[:, None] / 16
    y, order = torch.from_numpy(data.target), torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return tuple(Split(x[rows], y[rows], rows) for rows in (order[:900], order[900:1300], order[1300:]))


def plain_pgd(target, x, y, id, attack, threat, seed, loss=None):
    """The adversary of these tests: twelve lines of L-inf PGD from a random start, in plain torch."""
    steps = attack.get("steps", 40)
    size = attack.get("step_size") or 2.5 * threat.eps / steps
    low, high = target.bounds
    generator = torch.Generator().manual_seed((seed + int(id.sum())) % 2**62)
    modes = [(m, m.training) for m in target.model.modules()]
    cases = Cases(id, x, y, torch.full_like(y, -1), torch.full((len(y),), threat.eps), threat.norm, low, high)
    target.model.eval()
    d = (torch.rand(x.shape, generator=generator) * 2 - 1) * threat.eps
    for _ in range(steps):
        moved = (x + d).clamp(low, high).requires_grad_(True)
        with torch.enable_grad():
            logits = target.logits(moved)
            one = F.cross_entropy(logits, y, reduction="sum") if loss is None else loss(Observed(logits), cases).sum()
        (gradient,) = torch.autograd.grad(one, moved)
        d = (d + size * gradient.sign()).clamp(-threat.eps, threat.eps)
    for module, mode in modes:
        module.training = mode
    return (x + d).clamp(low, high).detach()


def material(train=None, calibration=None, seed=0, perturb=plain_pgd):
    return Material(calibration, train, seed, perturb, lambda text, done, total: None)


def everything(seed=0):
    train, calibration, _ = digits()
    small = Split(train.x[:200], train.y[:200], train.id[:200])
    return material(small, calibration, seed)


def network():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(384, 16),
        nn.ReLU(),
        nn.Linear(16, 10),
    )


@functools.cache
def _trained() -> Target:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = network()
    train = digits()[0]
    training.fit(model, train.x, train.y, training.Recipe(epochs=2))
    normalization = Normalization((0.3,), (0.4,))
    return Target(model, (1, 8, 8), tuple("0123456789"), normalization=normalization)


def trained() -> Target:
    """A fresh copy of a small network with batch norm and dropout, its parameters frozen as a loaded target's are."""
    target = _trained().having(model=copy.deepcopy(_trained().model))
    target.model.requires_grad_(False)
    return target


def snapshot(model: nn.Module):
    tensors = {name: value.clone() for name, value in model.state_dict(keep_vars=False).items()}
    return (
        tensors,
        [module.training for module in model.modules()],
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
    )


def same(before, after):
    assert before[0].keys() == after[0].keys()
    for name, value in before[0].items():
        assert torch.equal(value, after[0][name]), name
    assert before[1:] == after[1:]


def answers(target: Target, seed: int = 5):
    """Logits of 64 test digits; a stochastic target's draw is fixed by the seed."""
    target.model.eval()
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(seed)
        return target.logits(digits()[2].x[:64])


def defended(target: Target, texts: list[str], given: Material) -> Target:
    for text in texts:
        defense = registry.build("defenses", text)
        target = defense.wrap(target)
        defense.fit(target, given)
    return target


def test_the_specs_of_these_tests_cover_every_defense():
    assert set(SPECS) == {name for name in registry.names("defenses") if "/" not in name}


@pytest.mark.parametrize("name", sorted(SPECS))
def test_it_is_documented(name):
    cls = registry.find("defenses", name)
    page = registry.page("defenses", name)
    assert "Known failures:" in page
    assert "Cost" in page
    for option, _, _, meaning in spec.table(cls):
        assert meaning, option
    assert cls.claims.endswith(".")
    assert cls.claims.count(".") == 1
    assert cls.__doc__


@pytest.mark.parametrize("text", TEXTS)
def test_it_says_what_it_is(text):
    defense = registry.build("defenses", text)
    assert defense.needs in ("nothing", "calibration", "train")
    assert defense.kind in ("robustness", "calibration", "stability")
    for attack in defense.adaptive:
        assert registry.canonical("attacks", attack).name == attack.partition("(")[0]
    if defense.kind == "robustness":
        assert defense.adaptive


@pytest.mark.parametrize("text", TEXTS)
def test_its_spec_round_trips_and_it_pickles(text):
    defense = registry.build("defenses", text)
    written = str(registry.canonical("defenses", text))
    assert registry.build("defenses", written) == defense
    assert str(registry.canonical("defenses", written)) == written
    assert pickle.loads(pickle.dumps(defense)) == defense
    assert hash(registry.build("defenses", written)) == hash(defense)
    assert dataclasses.replace(defense) == defense


@pytest.mark.parametrize("text", TEXTS)
def test_wrap_and_fit_leave_the_given_target_and_the_global_random_state_alone(text):
    target, given = trained(), everything()
    before, said = snapshot(target.model), answers(target)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002  # the global one
    defense = registry.build("defenses", text)
    wrapped = defense.wrap(target)
    same(before, snapshot(target.model))
    own = {p.data_ptr() for p in wrapped.model.state_dict().values() if p.numel()}
    assert own.isdisjoint(v.data_ptr() for v in target.model.state_dict().values())
    required = snapshot(wrapped.model)[2]
    defense.fit(wrapped, given)
    same(before, snapshot(target.model))
    assert torch.equal(said, answers(target))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])  # noqa: NPY002  # the global one
    after = snapshot(wrapped.model)
    assert after[2] == required
    assert not any(any(hooks) for hooks in after[3])


@pytest.mark.parametrize("chain", [[text] for text in TEXTS] + CHAINS, ids=" | ".join)
def test_wrap_and_the_weights_rebuild_it_bit_for_bit(chain):
    target = trained()
    fitted = defended(target, chain, everything())
    rebuilt = target
    for text in chain:
        rebuilt = registry.build("defenses", text).wrap(rebuilt)
    state = pickle.loads(pickle.dumps(fitted.model.state_dict()))
    rebuilt.model.load_state_dict(state, strict=True)
    assert torch.equal(answers(rebuilt), answers(fitted))
    assert rebuilt.having(model=fitted.model) == fitted
    loaded = pickle.loads(pickle.dumps(fitted.model))
    assert torch.equal(answers(fitted.having(model=loaded)), answers(fitted))


@pytest.mark.parametrize("text", TEXTS)
def test_fitting_is_deterministic_given_the_seed(text):
    defense = registry.build("defenses", text)
    first, second = defense.wrap(trained()), defense.wrap(trained())
    numbers = defense.fit(first, everything())
    torch.rand(3)
    assert defense.fit(second, everything()) == numbers
    same(snapshot(first.model), snapshot(second.model))
    other = defense.wrap(trained())
    defense.fit(other, everything(seed=1))
    learns = defense.needs == "train" and "sites" not in text
    differs = any(
        not torch.equal(a, b)
        for a, b in zip(first.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    )
    assert differs == learns


@pytest.mark.parametrize("text", TEXTS)
def test_it_uses_only_the_split_it_asks_for_and_misses_it_by_name(text):
    defense = registry.build("defenses", text)
    given = everything()
    splits = {"train": given.train, "calibration": given.calibration}
    only = {key: value for key, value in splits.items() if key == defense.needs}
    defense.fit(defense.wrap(trained()), material(**only))
    if defense.needs != "nothing":
        others = {key: value for key, value in splits.items() if key != defense.needs}
        with pytest.raises(DataError) as caught:
            defense.fit(defense.wrap(trained()), material(**others))
        assert "Give a" in str(caught.value)
        empty = Split(given.train.x[:0], given.train.y[:0], given.train.id[:0])
        with pytest.raises(DataError, match="none were given"):
            defense.fit(defense.wrap(trained()), material(**{**others, defense.needs: empty}))


@pytest.mark.parametrize("text", TEXTS)
def test_its_numbers_are_json_and_hold_no_times(text):
    defense = registry.build("defenses", text)
    fitted = defense.fit(defense.wrap(trained()), everything())
    assert json.loads(json.dumps(dict(fitted.numbers), allow_nan=False)) == dict(fitted.numbers)
    assert not any("time" in key or "second" in key for key in fitted.numbers)
    assert {"forwards", "backwards"} <= set(fitted.numbers)
    if fitted.numbers.get("epochs"):
        assert {"weight_decay", "batch_norm", "examples_seen", "final_loss", "stopped"} <= set(fitted.numbers)


@pytest.mark.parametrize("text", TEXTS)
def test_activations_keep_their_names(text):
    target = trained()
    wrapped = registry.build("defenses", text).wrap(target)
    example = digits()[2].x[:2]
    assert [s.name for s in find(wrapped.model, example)] == [s.name for s in find(target.model, example)]


@pytest.mark.parametrize("text", TEXTS)
def test_wrap_keeps_the_train_flag_of_the_model(text):
    target = trained()
    for mode in (True, False):
        target.model.train(mode)
        wrapped = registry.build("defenses", text).wrap(target)
        assert {module.training for module in wrapped.model.modules()} == {mode}


def test_the_folder_at_the_root_is_only_a_signpost():
    ran = subprocess.run(
        [sys.executable, "-c", "import defenses"],
        capture_output=True,
        text=True,
        check=False,
        cwd=registry.importlib.import_module("actsec").__path__[0] + "/..",
    )
    assert ran.returncode == 1
    assert "import actsec.defenses instead" in ran.stderr


def test_classes_are_reached_by_name_without_importing_the_others():
    script = (
        "import sys, actsec.defenses as d; before = set(sys.modules); d.Temperature; "
        "assert 'actsec.defenses.fast_training' not in sys.modules; "
        "assert all(hasattr(d, name) for name in d.__all__); assert not hasattr(d, 'Tempreature'); "
        "assert 'torch' not in before"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
