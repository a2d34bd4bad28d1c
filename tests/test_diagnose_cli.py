"""``actsec diagnose``: dead, saturated, vanishing and overconfident models are called so, and healthy ones are not."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from runs import inside
from safetensors.torch import save_file
from torch import nn

import actsec
from actsec.errors import StoreError
from actsec.result import Calibration, Clean, Share, SiteHealth
from actsec.running import checkup
from actsec.symptoms._seen import Seen
from actsec.verdict import activity

NETS = """
import torch
from torch import nn

class Dead(nn.Module):
    def __init__(self, kind="relu", depth=1, sure=1.0):
        super().__init__()
        acts = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "identity": nn.Identity}
        self.first, self.act = nn.Linear(64, 20), acts[kind]()
        self.deep = nn.Sequential(*(m for _ in range(depth - 1) for m in (nn.Linear(20, 20), acts[kind]())))
        self.last, self.sure = nn.Linear(20, 10), sure

    def forward(self, x):
        return self.sure * self.last(self.deep(self.act(self.first(x.flatten(1)))))

def make(kind="relu", depth=1, sure=1.0):
    return Dead(kind, depth, sure)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A classifier of digits by class means, ten of whose twenty hidden units never wake."""
    from actsec.data import load

    place = tmp_path_factory.mktemp("user")
    (place / "nets.py").write_text(NETS)
    digits = load("digits")
    x, y = torch.from_numpy(digits.train.x), torch.from_numpy(digits.train.y)
    means = torch.stack([x[y == c].mean(0).flatten() for c in range(10)])
    first = {"first.weight": torch.cat([means, means]), "first.bias": -means.square().sum(1).repeat(2) / 2}
    first["first.bias"] += torch.tensor([20.0] * 10 + [-1000.0] * 10)
    last = {"last.weight": torch.eye(10).repeat(1, 2), "last.bias": torch.zeros(10)}
    save_file({**first, **last}, place / "dead.safetensors")
    np.savez(place / "test.npz", x=digits.test.x[:300], y=digits.test.y[:300])
    return place


def diagnose(folder, call="make", *arguments, weights="dead.safetensors"):
    model = ["--model", f"{folder / 'nets.py'}:{call}", "--weights", folder / weights]
    return inside("diagnose", *model, "--data", folder / "test.npz", "--quiet", *arguments)


def test_dead_units_are_counted_and_named(folder):
    said = diagnose(folder)
    assert said.code == 0, said.err
    assert "300 images watched, no attack made" in said.out
    assert "activations: 1 relu; 0 unresolved" in said.out
    found = json.loads(diagnose(folder, "make", "--json").out)
    (site,) = found["sites"]
    assert (site["name"], site["units"], site["permanently_dead"], site["dead"]) == ("act", 20, 0.5, 0.5)
    assert [each["rule"] for each in found["findings"] if each["rule"] == "ACT-A01"] == ["ACT-A01"]
    assert found["findings"][0]["claim"].startswith("50% of the units of site act are dead on all 300 images")
    assert found["exit_code"] == 0
    assert found["n"] == 300
    assert found["clean"]["accuracy"]["n"] == 300


def test_json_is_everything_and_nothing_but_json(folder):
    found = json.loads(diagnose(folder, "make", "--json", "--samples", 50).out)
    assert set(found) == set(activity.Checkup.__dataclass_fields__)
    assert found["n"] == 50
    assert [layer["name"] for layer in found["layers"]] == ["first", "last"]
    assert found["calibration"]["bins"] == 15


def test_an_overconfident_model_is_called_so(folder):
    def rules(call):
        found = json.loads(diagnose(folder, call, "--json").out)
        return {each["rule"]: each["claim"] for each in found["findings"]}, found

    sure, found = rules("make(sure=50.0)")
    assert "overconfident: mean confidence" in sure["ACT-A05"]
    assert "sure of its mistakes" in sure["ACT-A07"]
    assert found["calibration"]["mean_confidence"] > 0.98
    unsure, found = rules("make(sure=0.1)")
    assert "underconfident" in unsure["ACT-A05"]
    assert "ACT-A07" not in unsure


def test_gates_and_exit_codes(folder):
    said = diagnose(folder, "make", "--gate", "permanently_dead<=0.5", "--gate", "gradient_ratio>=1e-3")
    assert said.code == 0, said.err
    assert "gate permanently_dead<=0.5: passed (it is 0.5, all " in said.out
    assert "by its value, for it has no interval" in said.out
    said = diagnose(folder, "make", "--gate", "permanently_dead<=0.4")
    assert said.code == 1
    assert "failed (it is 0.5, all " in said.out
    said = diagnose(folder, "make", "--gate", "saturated<=0.4")
    assert said.code == 3
    assert "no verdict (it was not measured)" in said.out


def test_every_metric_of_a_checkup_can_be_a_gate():
    from actsec.verdict import activity

    activity.check_gates([f"{metric}<=0.5" for metric in activity.METRICS])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--gate", "dead<0.4"), 2, ["cannot read the gate", "Write dead<=0.4,"]),
        (("--gate", "clean_accuracy>=95"), 2, ["lies in [0, 1]", "Write 0.95 for 95 %"]),
        (("--gate", "daed<=0.4"), 2, ["Did you mean 'dead'?"]),
        (("--gate", "robust_accuracy@linf:0.1>=0.3"), 2, ["for `actsec audit` to decide", "permanently_dead"]),
        (("--gate", "balanced_accuracy>=0.3"), 2, ["for `actsec audit` to decide", "permanently_dead"]),
        (("--gate", "ece[relu]<=0.3"), 2, ["cannot read the gate", "METRIC<=LIMIT"]),
        (("--samples", "0"), 2, ["samples = 0"]),
        (("--samples", "many"), 2, ["--samples 'many'"]),
        (("--attacks", "pgd"), 2, ["No such option"]),
        (("--expect-accuracy", "0.9999"), 3, ["is expected"]),
    ],
)
def test_mistakes(arguments, code, words, folder):
    said = diagnose(folder, "make", *arguments)
    assert said.code == code, said.err
    assert all(word in said.err for word in words), said.err
    assert not said.out


def test_a_gate_on_a_share_is_decided_by_its_interval_as_in_an_audit(folder):
    """The same k of n, three limits: above, within and below the Wilson interval of the report's own numbers."""
    found = json.loads(diagnose(folder, "make", "--json").out)["clean"]["accuracy"]
    low, high, value = found["low"], found["high"], found["value"]
    assert 0 < low < value < high < 1
    for limit, code, word in (
        (low - 0.01, 0, "passed (it is"),
        ((low + value) / 2, 3, "contains the limit: about "),
        (high + 0.005, 1, "failed (it is"),
    ):
        said = diagnose(folder, "make", "--gate", f"clean_accuracy>={limit:.4f}")
        assert said.code == code, said.out
        assert word in said.out
        assert f"(n = {found['n']})" in said.out


@pytest.mark.parametrize("command", [("resume",), ("merge", "--out", "merged")])
def test_a_checkup_is_no_run_to_go_on_with(folder, tmp_path, command):
    run = tmp_path / "checkup"
    assert diagnose(folder, "make", "--out", run).code == 0
    said = inside(*command, run)
    assert said.code == 2
    assert f"{run} was written by `actsec diagnose --out`" in said.err
    assert f"actsec report {run}" in said.err


def test_the_report_is_rendered_again_from_its_folder(folder, tmp_path):
    run = tmp_path / "run"
    said = diagnose(folder, "make", "--out", run, "--gate", "dead<=0.1")
    assert said.code == 1, said.err
    assert f"Report: {run / 'report.html'}" in said.out
    html = (run / "report.html").read_text()
    for words in ("Activations", "permanently dead", "No attack was made", "ACT-A01", "dead&lt;=0.1"):
        assert words in html
    assert "<span>checkup</span>" in html
    assert "robustness audit" not in html
    assert "as planned" not in html.partition("<main>")[0]
    assert '<section id="findings"' in html
    for never in ("sanity", "robustness", "defenses", "examples"):
        assert f'<section id="{never}"' not in html, "a checkup has no section of what it never does"
    assert inside("report", run, "--out", tmp_path / "again.html").code == 0
    assert (tmp_path / "again.html").read_text() == html
    assert "dead on all 300 images" in " ".join(inside("report", run, "--format", "terminal").out.split())
    again = diagnose(folder, "make", "--out", run)
    assert again.code == 2
    assert "exists already" in again.err


def test_a_report_is_there_whole_or_not_at_all(folder, tmp_path, monkeypatch):
    from actsec.reports import load

    def fails_at_html(report, form):
        if form == "html":
            raise StoreError("no room", "Make some.")
        return render(report, form)

    render = load.render
    monkeypatch.setattr(load, "render", fails_at_html)
    said = diagnose(folder, "make", "--out", tmp_path / "run")
    assert said.code == 2, said.err
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    (tmp_path / "run").mkdir()
    assert diagnose(folder, "make", "--out", tmp_path / "run").code == 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["report.html", "report.json"]


def test_help_speaks_of_what_it_measures():
    said = inside("diagnose", "--help").out
    for metric in activity.METRICS:
        assert metric in said
    for words in ("robust_accuracy", "images attacked", "--eps", "--attacks"):
        assert words not in said
    assert "robust_accuracy" in inside("audit", "--help").out


def test_a_model_without_activations_has_no_verdict(folder):
    said = diagnose(folder, "make(kind=identity)")
    assert said.code == 3
    assert "ACT-A06 high: no activation that sees the input was found" in said.out


def test_a_reference_model_is_trained_and_looked_at():
    said = inside("diagnose", "--model", "reference:mlp(width=[8], activation=relu)", "--samples", 50, "--quiet")
    assert said.code == 0, said.err
    assert "activations: 1 relu" in said.out


def deep(kind, depth, seed=0):
    torch.manual_seed(seed)
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(16, 16), kind()]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return actsec.load(model.eval(), input_shape=(16,), classes=3)


def test_the_gradient_ratio_is_that_of_autograd():
    target = deep(nn.Tanh, 3)
    x, y = torch.rand(32, 16), torch.arange(32) % 3
    layers, ratio = checkup.gradients(target, x, y)
    nn.functional.cross_entropy(target.model(x), y).backward()
    norms = [float(m.weight.grad.norm()) for m in target.model if isinstance(m, nn.Linear)]
    assert [layer.gradient_norm for layer in layers] == pytest.approx(norms, rel=1e-5)
    assert ratio == pytest.approx(norms[0] / norms[-1], rel=1e-5)
    assert [layer.name for layer in layers] == ["0", "2", "4", "6"]


def test_layers_stand_in_the_order_of_their_calls():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(4, 3), nn.Linear(16, 4)
            self.unused = nn.Linear(2, 2)

        def forward(self, x):
            return self.last(torch.relu(self.first(x)))

    target = actsec.load(Backwards().eval(), input_shape=(16,), classes=3)
    layers, ratio = checkup.gradients(target, torch.rand(70, 16), torch.arange(70) % 3)
    assert [layer.name for layer in layers] == ["first", "last"]
    assert ratio > 0
    assert all(p.grad is None and p.requires_grad for p in target.model.parameters())


def test_deep_sigmoids_vanish_and_deep_tanh_does_not():
    """The reference values of the notes: at depth 10 and Glorot's initialisation G is 9.7e-9 and about 2."""
    x, y = torch.rand(64, 16), torch.arange(64) % 3
    ratios = {kind: checkup.gradients(deep(kind, 10), x, y)[1] for kind in (nn.Sigmoid, nn.Tanh)}
    assert ratios[nn.Sigmoid] < activity.VANISHING
    assert 0.1 < ratios[nn.Tanh] < 30
    claims = told((site(),), frozenset(), (), ratios[nn.Sigmoid], share(90), calibrated(), 10)
    assert [each.rule for each in claims] == ["ACT-A04"]
    assert "vanish" in claims[0].claim
    assert not told((site(),), frozenset(), (), ratios[nn.Tanh], share(90), calibrated(), 10)


def told(*seen):
    """What the rules say of a checkup without vitals."""
    return activity.findings(Seen(*seen))


def site(**changes):
    told = {"name": "a", "kind": "relu", "units": 4, "dead": 0.5, "permanently_dead": 0.0, "saturated": None}
    return SiteHealth(**{**told, "gradient_norm": 1.0, "finite": True, **changes})


def share(k, n=100):
    return Share(k, n, k / n, 0.0, 1.0)


def clean():
    return Clean(share(50), 0.5, (), "a")


def calibrated(**changes):
    told = {"condition": "clean", "n": 100, "bins": 15, "ece": 0.02, "null_mean": 0.02, "null_p95": 0.04, "mce": 0.1}
    more = {"brier": 0.1, "nll": 0.1, "mean_confidence": 0.9, "confidence_when_wrong": 0.6}
    return Calibration(**{**told, **more, "wrong_above_90": share(0), "reliability": (), **changes})


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"permanently_dead": 0.26}, "ACT-A01"),
        ({"permanently_dead": 0.25}, None),
        ({"saturated": 0.51}, "ACT-A03"),
        ({"saturated": 0.5}, None),
        ({"finite": False}, "ACT-A00"),
    ],
)
def test_limits_of_sites(changes, rule):
    found = told((site(**changes),), frozenset("a"), (), 1.0, share(90), calibrated(), 10)
    assert [each.rule for each in found] == ([rule] if rule else [])


def test_half_lines_that_are_flat_by_nature_are_no_finding():
    flat = site(kind="leaky_relu", saturated=0.9)
    assert not told((flat,), frozenset(), (), 1.0, share(90), calibrated(), 10)


@pytest.mark.parametrize(("ratio", "rules"), [(0.9e-3, 1), (1e-3, 0), (1e3, 0), (1.1e3, 1), (None, 0)])
def test_limits_of_gradients(ratio, rules):
    found = told((site(),), frozenset(), (), ratio, share(90), calibrated(), 10)
    assert len(found) == rules


def test_unresolved_calls_are_said():
    found = told((site(),), frozenset(), ("h: a clamp at 0",), 1.0, share(90), calibrated(), 10)
    assert "h: a clamp at 0" in found[0].claim


def test_lines_hold_every_site_and_finding():
    sites = (site(name="first"), site(name="second", finite=False, gradient_norm=None))
    found = told(sites, frozenset(), ("x: y",), math.inf, share(50), calibrated(ece=0.4), 10)
    whole = activity.Checkup(
        "m", "d", 10, {"relu": 2}, 9, "f", clean(), calibrated(), sites, ("x: y",), {"gate": 1}, (), None, found, (), 3
    )
    text = "\n".join(activity.lines(whole))
    for words in ("first", "second", "NOT FINITE", "not measured", "1 gate left out", "unresolved x: y"):
        assert words in text
    assert all(each.claim in text for each in found)
