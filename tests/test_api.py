"""The importable audit: the examples of the documentation, objects as well as names, and nothing heavy on import."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import numpy as np
import pytest
import torch
from runs import ENVIRONMENT, TINY, outcomes
from torch import nn

import actsec
from actsec.attacks import FGSM, PGD
from actsec.data import load as load_data
from actsec.defenses import Temperature
from actsec.errors import BadOption, ModelError, PlanError, StoreError, ThreatError, UnknownName, UsageError
from actsec.running import preparing
from actsec.running.store import Store

OPTIONS = {
    "samples": 6,
    "attacks": ["fgsm", "pgd(steps=2)"],
    "defenses": ["temperature"],
    "eps": 0.1,
    "budget": "quick",
}


@pytest.fixture(scope="module")
def splits():
    return load_data("digits")


@pytest.fixture(scope="module")
def module(splits) -> nn.Module:
    """A linear classifier that knows the class means, in train mode as its owner left it."""
    means = torch.stack([torch.from_numpy(splits.train.x[splits.train.y == c]).mean(0).flatten() for c in range(10)])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(64))
        model[1].bias.zero_()
        model[3].weight.copy_(20 * means)
        model[3].bias.copy_(-10 * means.square().sum(1))
    return model.train()


@pytest.fixture
def target(module, splits):
    return actsec.load(module, input_shape=(1, 8, 8), classes=10)


def state(module: nn.Module):
    return (
        {name: value.clone() for name, value in module.state_dict().items()},
        [m.training for m in module.modules()],
        [p.requires_grad for p in module.parameters()],
        torch.get_rng_state(),
        torch.get_num_threads(),
    )


def same_state(a, b) -> bool:
    return (
        all(torch.equal(a[0][name], b[0][name]) for name in a[0])
        and a[1:3] == b[1:3]
        and torch.equal(a[3], b[3])
        and a[4] == b[4]
    )


def test_attack_as_documented(target, splits, module):
    x, y = splits.test.x[:40], splits.test.y[:40]
    before = state(module)
    outcome = actsec.attack(target, x, y, "fgsm", eps=8 / 255)
    assert same_state(before, state(module))
    assert outcome.x.shape == x.shape
    assert np.abs(outcome.x - x).max() <= 8 / 255 * (1 + 1e-6)
    assert outcome.x.min() >= 0
    assert outcome.x.max() <= 1
    with torch.no_grad():
        right = target.decide(target.logits(torch.from_numpy(x))).numpy() == y
        after = target.decide(target.logits(torch.from_numpy(outcome.x))).numpy() == y
    assert np.array_equal(outcome.success, right & ~after)
    assert outcome.correct_before == right.sum()
    assert outcome.still_correct.k == (right & after).sum()
    assert outcome.sentence.startswith(
        f"fgsm at linf:8/255: 40 tested, {right.sum()} correct before, {(right & after).sum()} still correct after"
    )


def test_attacks_come_as_texts_objects_and_tensors(target, splits):
    x, y = splits.test.x[:10], splits.test.y[:10]
    by_text = actsec.attack(target, x, y, "pgd(steps=3)", eps=0.1)
    by_object = actsec.attack(target, torch.from_numpy(x), torch.from_numpy(y), PGD(steps=3), threat="linf:0.1")
    assert np.array_equal(by_text.x, by_object.x)
    assert not np.array_equal(by_text.x, actsec.attack(target, x, y, "pgd(steps=3)", eps=0.1, seed=1).x)
    assert np.array_equal(
        actsec.attack(target, x, y, FGSM(), eps=0.1).x, actsec.attack(target, x, y, "fgsm", eps=0.1).x
    )


def test_the_smallest_change_that_works(target, splits):
    found = actsec.attack(target, splits.test.x[:10], splits.test.y[:10], "minimal_l2")
    assert found.success.any()
    moved = np.sqrt(((found.x - splits.test.x[:10]) ** 2).sum((1, 2, 3)))
    assert np.allclose(found.size[found.success], moved[found.success], rtol=1e-5)
    assert "half of them fall to a change of l2 size" in found.sentence


def test_an_attack_that_cannot_run_says_why(target, splits):
    x, y = splits.test.x[:4], splits.test.y[:4]
    with pytest.raises(ThreatError, match="needs an eps"):
        actsec.attack(target, x, y, "fgsm")
    with pytest.raises(ThreatError, match="not in l1"):
        actsec.attack(target, x, y, "square", threat="l1:1")
    with pytest.raises(UnknownName, match="pdg"):
        actsec.attack(target, x, y, "pdg", eps=0.1)


def test_defend_as_documented(target, splits, module):
    before = state(module)
    calibration = (splits.calibration.x, splits.calibration.y)
    hardened = actsec.defend(target, "temperature", calibration=calibration)
    assert same_state(before, state(module))
    x = torch.from_numpy(splits.test.x[:50])
    with torch.no_grad():
        z, cooled = target.logits(x), hardened.logits(x)
    assert torch.equal(z.argmax(-1), cooled.argmax(-1))
    assert not torch.equal(z, cooled)
    by_object, (fit,) = actsec.fitted(target, Temperature(), calibration=calibration)
    with torch.no_grad():
        assert torch.equal(by_object.logits(x), cooled)
    assert fit.numbers
    outcome = actsec.attack(hardened, splits.test.x[:5], splits.test.y[:5], "fgsm", eps=0.1)
    assert len(outcome.success) == 5


def test_defenses_chain_and_ask_for_their_data(target, splits):
    calibration = (torch.from_numpy(splits.calibration.x), torch.from_numpy(splits.calibration.y))
    both = actsec.defend(target, "swap(to=leaky_relu) | temperature", calibration=calibration)
    with torch.no_grad():
        assert both.logits(torch.from_numpy(splits.test.x[:2])).shape == (2, 10)
    with pytest.raises(BadOption, match="Temperature needs calibration data"):
        actsec.defend(target, "temperature")


def test_diagnose(target, splits):
    found = actsec.diagnose(target, splits.test.x[:60], splits.test.y[:60])
    assert [site["kind"] for site in found["sites"]] == ["relu"]
    assert found["probe"]


def test_audit_of_objects_as_documented(module, splits, tmp_path):
    before = state(module)
    data, train = (splits.test.x[:80], splits.test.y[:80]), (splits.train.x[:60], splits.train.y[:60])
    run = actsec.audit(module, data, train=train, out=tmp_path / "run", **OPTIONS)
    assert same_state(before, state(module))
    assert run.result.status == "complete"
    assert run.result.model["name"] == "object:Sequential"
    assert run.result.data.classes == tuple("0123456789")
    page = run.report(tmp_path / "report.html")
    assert page.read_text().startswith("<!DOCTYPE html>") or "<html" in page.read_text()[:200]
    kept = outcomes(run.folder)
    again = actsec.audit(module, data, train=train, out=tmp_path / "run", **OPTIONS)
    assert again.result == run.result
    assert outcomes(run.folder) == kept
    with torch.no_grad():
        module[3].bias[0] += 1
    try:
        with pytest.raises(StoreError, match="its model changed"):
            actsec.audit(module, data, train=train, out=tmp_path / "run", **OPTIONS)
    finally:
        with torch.no_grad():
            module[3].bias[0] -= 1
    with pytest.raises(UsageError, match="given as a Python object"):
        preparing.prepare(Store.open(run.folder).plan())


def test_a_target_is_audited_as_it_is_described(module, splits, tmp_path):
    names = tuple("abcdefghij")
    target = actsec.load(module, input_shape=(1, 8, 8), classes=names)
    run = actsec.audit(
        target, (splits.test.x[:30], splits.test.y[:30]), out=tmp_path / "run", **{**OPTIONS, "defenses": []}
    )
    assert run.result.data.classes == names
    assert {c.name for c in run.result.variants[0].clean.per_class} <= set(names)


def test_audit_of_names_is_the_command_lines(finished, tmp_path):
    table = tomllib.loads(TINY)
    run = actsec.audit(table.pop("model"), out=tmp_path / "run", **table)
    assert outcomes(run.folder) == outcomes(finished)
    assert run.result.plan["samples"] == 8


def test_wrong_requests_are_refused(module, splits, tmp_path):
    data = (splits.test.x[:10], splits.test.y[:10])
    with pytest.raises(UnknownName, match="sampels"):
        actsec.audit("reference:cnn", sampels=3)
    with pytest.raises(PlanError, match="stays in this process"):
        actsec.audit(module, data, out=tmp_path / "run", executor="processes", **{**OPTIONS, "defenses": []})
    with pytest.raises(BadOption, match="Give all as names or as arrays"):
        actsec.audit(module, data, train="train.npz")
    with pytest.raises(BadOption, match="Give all as names or as arrays"):
        actsec.audit(module, "digits", train=data)
    with pytest.raises(ModelError):
        actsec.audit(nn.Linear(3, 10), data, **{**OPTIONS, "defenses": []})


def test_importing_actsec_imports_no_torch():
    code = (
        "import sys, actsec\n"
        "from actsec import registry, spec, errors, types\n"
        "from actsec.command_line import cli\n"
        "from actsec.planning import plan\n"
        "from actsec.running import executors, store\n"
        "from actsec.verdict import policy\n"
        "import actsec.reports.load\n"
        "assert 'torch' not in sys.modules\n"
        "assert actsec.attack and 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)


def test_everything_promised_is_there():
    for name in actsec.__all__:
        assert getattr(actsec, name) is not None
    with pytest.raises(AttributeError, match="gibberish"):
        _ = actsec.gibberish
    assert actsec.attacks.PGD is PGD
