"""Models whose activations cannot be watched, change from input to input, or are NaN: said clearly, never counted."""

from __future__ import annotations

import copy
import math
import tempfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import actsec
from actsec.activations import dead_counts, find, sites
from actsec.errors import ModelError, ThreatError
from actsec.health import tally
from actsec.planning.jobs import variants
from actsec.planning.reading import read
from actsec.running import attacking, preparing
from actsec.types import Target

NAMES = tuple("abc")


class Net(nn.Module):
    """Ten hidden units, the first of them dead on every input in [0, 1]."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.last = nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3)
        with torch.no_grad():
            self.first.bias[0] = -100.0

    def forward(self, x):
        return self.last(self.act(self.first(x)))


class Branch(Net):
    """Relu on most batches; tanh where the first input of the batch is large."""

    def forward(self, x):
        z = self.first(x)
        return self.last(torch.tanh(z) if x[0, 0] > 0.9 else F.relu(z))


class Loop(Net):
    def forward(self, x):
        z = F.relu(self.first(x))
        for _ in range(int(x[0, 0] < 0.5)):
            z = F.relu(z - 0.1)
        return self.last(z)


class Nan(Net):
    """NaN at an activation where the first input is large, and nowhere in the logits."""

    def forward(self, x):
        h = self.act(self.first(x))
        hidden = F.relu(torch.log(0.9 - x[:, :1]).expand(-1, 10))
        return self.last(h + 0 * torch.nan_to_num(hidden))


class Child(nn.Module):
    def __init__(self):
        super().__init__()
        net = Net()
        self.body, self.act, self.last = torch.jit.script(nn.Sequential(net.first, nn.ReLU())), nn.ReLU(), net.last

    def forward(self, x):
        return self.last(self.act(self.body(x) - 0.1))


def compiled_in_place(net, child=False):
    (net.act if child else net).compile(backend="eager")
    return net


def scripted():
    return torch.jit.script(Net().eval())


UNSEEN = {
    "scripted": (scripted, "compiled by torch.jit"),
    "traced": (lambda: torch.jit.trace(Net().eval(), torch.rand(2, 6)), "compiled by torch.jit"),
    "compiled": (lambda: torch.compile(Net().eval(), backend="eager"), "OptimizedModule"),
    "compiled in place": (lambda: compiled_in_place(Net().eval()), "its own compile"),
    "compiled child": (lambda: compiled_in_place(Net().eval(), child=True), "its own compile"),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:The .grad attribute")


@pytest.fixture
def x():
    torch.manual_seed(1)
    given = torch.rand(40, 6) * 0.8
    given[:, 0] = 0.6
    return given


Y = torch.arange(40) % 3


def target(model, **options):
    return Target(model.eval(), (6,), NAMES, **options)


def mixed(x):
    """The second batch of 32 goes the other way."""
    other = x.clone()
    other[32:, 0] = 0.95
    return other


# --- compiled and scripted ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNSEEN)
def test_what_cannot_be_seen_is_refused_and_says_what_still_works(name, x):
    make, words = UNSEEN[name]
    model = make()
    asked = {
        "sites": lambda: sites(target(model)),
        "health": lambda: tally.site_health(target(model), x, Y),
        "swap": lambda: actsec.defend(target(model), "swap(to=tanh)"),
        "dead_relu": lambda: actsec.attack(target(model), x, Y, "dead_relu(steps=2)", eps=0.1),
        "monitor": lambda: actsec.ActivationMonitor(model),
    }
    for what, ask in asked.items():
        with pytest.raises(ModelError, match=words) as refusal:
            ask()
        assert "work on it as it is" in refusal.value.mend, what


def test_attacks_work_on_a_scripted_model_and_find_what_they_find_on_the_original(x):
    found = [actsec.attack(target(m), x, Y, "fgsm", eps=0.3).x for m in (Net(), scripted())]
    assert torch.equal(*map(torch.as_tensor, found))


def test_a_model_compiled_in_place_is_seen_as_the_copy_that_the_refusal_names(x):
    model = compiled_in_place(Net().eval())
    assert [site.name for site in find(copy.deepcopy(model), x)] == ["act"]


def test_a_scripted_child_is_unresolved_and_the_rest_is_watched(x):
    model = Child().eval()
    found = tally.observed(target(model), x, Y)
    assert [site["name"] for site in found.sites] == ["act"]
    assert [(item.name, "scripted" in item.reason) for item in found.unresolved] == [("body", True)]


def test_copies_of_a_scripted_child_can_be_frozen(x):
    """copy.deepcopy leaves their parameters on the graph, so that requires_grad could not be set."""
    tempered = actsec.defend(target(Child()), "temperature", calibration=(x, Y))
    assert tally.observed(tempered, x, Y).sites[0]["units"] == 10


NETS = """
import torch
from torch import nn
from test_bad_activations import Net

def scripted():
    return torch.jit.script(Net())

def linear():
    net = Net()
    net.act = nn.Identity()
    return net
"""
PLAN = """
model = "{folder}/nets.py:{call}"
data = "{folder}/{call}.npz"
samples = 16
random_weights = true
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("bad")
    torch.manual_seed(1)
    x = torch.rand(60, 6)
    net = Net()
    (place / "nets.py").write_text(NETS)
    linear = copy.deepcopy(net)
    linear.act = nn.Identity()
    with torch.no_grad():
        for call, model in (("scripted", net), ("linear", linear)):
            np.savez(place / f"{call}.npz", x=x.numpy(), y=model(x).argmax(1).numpy())
    return place


@pytest.mark.parametrize(("call", "why"), [("scripted", "compiled by torch.jit"), ("linear", "no activation call")])
def test_an_audit_leaves_out_the_defenses_that_do_not_fit_unless_they_were_chosen(folder, call, why):
    text = PLAN.format(folder=folder, call=call)
    (folder / "own.toml").write_text(text)
    prepared = preparing.prepare(read(folder / "own.toml"))
    assert [note for note in prepared.notes if note.startswith("swap(to=leaky_relu) is left out: ") and why in note]
    assert [str(v.chain) for v in variants(prepared.scene.plan) if "swap" in str(v.chain)] == []
    (folder / "chosen.toml").write_text(text + 'defenses = ["swap(to=tanh)"]')
    with pytest.raises(ModelError, match=why):
        preparing.prepare(read(folder / "chosen.toml"))


# --- no activations -----------------------------------------------------------------------------------------------


def test_a_model_without_activations_has_none_and_says_so(x):
    model = nn.Linear(6, 3)
    assert len(sites(target(model))) == 0
    assert tally.observed(target(model), x, Y) == tally.Observed([], ())
    assert tally.dead_share(target(model), x) is None
    with pytest.raises(ThreatError, match="a model without activations"):
        actsec.attack(target(model), x, Y, "dead_relu(steps=2)", eps=0.1)
    with pytest.raises(ModelError, match="no activation call"):
        actsec.defend(target(model), "swap(to=tanh)")
    reports = []
    with actsec.ActivationMonitor(model, callback=reports.append, budget=math.inf):
        model(x)
    assert next(r.findings for report in reports for r in report.readings) == ("ACT-A06",)


# --- dynamic control flow -----------------------------------------------------------------------------------------


def test_calls_that_come_up_later_are_found_and_counted_on_their_inputs_alone(x):
    found = tally.observed(target(Branch()), mixed(x), Y, batch=32)
    assert {site["name"]: site["units"] for site in found.sites} == {"relu": 10, "tanh": 10}
    said = {item.name: item.reason for item in found.unresolved}
    assert "called on 32 of 40 inputs" in said["relu"]
    assert "called on 8 of 40 inputs" in said["tanh"]
    assert tally.dead_share(target(Branch()), mixed(x), batch=32) is None


def test_units_are_not_compared_over_calls_that_change(x):
    looped, whole = target(Loop()), x.clone()
    whole[:, 0] = 0.45
    # found with two calls; at a budget that leads across the bar there is one
    with pytest.raises(ModelError, match="other activations on other inputs: 'relu:2'"):
        actsec.attack(looped, whole, Y, "dead_relu(steps=5)", eps=0.3)


def test_a_swap_never_guesses_at_a_call_that_nobody_looked_at(x):
    swapped = actsec.defend(target(Branch()), "swap(to=silu)")
    both = torch.cat([mixed(x)[32:], x])
    with pytest.raises(ModelError, match="not called when its activations were looked for"):
        [swapped.logits(piece) for piece in (both[:8], both[8:])]


# --- NaN ----------------------------------------------------------------------------------------------------------


def test_a_nan_is_neither_dead_nor_alive(x):
    bad = x.clone()
    bad[3, 0] = 0.95
    whole = target(Nan())
    clean, broken = (tally.observed(whole, given, Y).sites for given in (x, bad))
    assert [site["finite"] for site in clean] == [True, True]
    by_name = {site["name"]: site for site in broken}
    assert by_name["act"]["dead"] is not None
    kept = {key: by_name["relu"][key] for key in ("dead", "permanently_dead", "saturated", "gradient_norm", "finite")}
    assert kept == {"dead": None, "permanently_dead": None, "saturated": None, "gradient_norm": None, "finite": False}
    assert tally.dead_share(whole, bad) is None
    assert dead_counts(whole.model, bad, find(whole.model, bad))["relu"] is None
    assert tally.kill_profile(whole, x, bad).net is None
    with pytest.raises(ModelError, match="neither dead nor alive"):
        actsec.attack(whole, bad, Y, "dead_relu(steps=2)", eps=0.01)


def test_no_attack_counts_a_unit_as_killed_by_making_it_nan(x):
    """Within this budget some inputs cross over to NaN: none of those may be what the attack returns."""
    near = x.clone()
    near[:, 0] = 0.85
    whole = target(Nan())
    found = actsec.attack(whole, near, Y, "dead_relu(steps=10)", eps=0.1)
    assert bool((torch.as_tensor(found.x)[:, 0] < 0.9).all())
    assert tally.kill_profile(whole, near, torch.as_tensor(found.x)).net is not None
    assert "PGD not done" in found.sentence


# --- wrappers and half precision ----------------------------------------------------------------------------------


def distributed(model):
    where = f"file://{tempfile.mkdtemp()}/store"
    torch.distributed.init_process_group("gloo", init_method=where, rank=0, world_size=1)
    return nn.parallel.DistributedDataParallel(model)


@pytest.mark.parametrize("wrap", [nn.DataParallel, distributed])
def test_wrappers_give_the_names_and_numbers_of_the_model_inside(wrap, x):
    plain = tally.observed(target(Net()), x, Y)
    try:
        wrapped = wrap(Net())
        assert tally.observed(target(wrapped), x, Y) == plain
        assert [site.name for site in sites(target(wrapped))] == ["act"]
        reports = []
        with actsec.ActivationMonitor(wrapped, callback=reports.append, budget=math.inf):
            for _ in range(3):
                wrapped(x)
        assert {r.site for report in reports for r in report.readings} == {"act", None}
        if wrap is nn.DataParallel:  # a process group cannot be copied
            swapped = actsec.defend(target(wrapped), "swap(to=identity)")
            linear = wrapped.module.last(wrapped.module.first(x))
            assert torch.allclose(swapped.logits(x), linear, atol=1e-6)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def test_several_devices_run_in_other_threads_and_are_refused():
    model = nn.DataParallel(Net())
    model.device_ids = [0, 1]
    for ask in (lambda: find(model, torch.rand(2, 6)), lambda: actsec.ActivationMonitor(model)):
        with pytest.raises(ModelError, match="spread over 2 devices") as refusal:
            ask()
        assert "model.module" in refusal.value.mend


class Half(Net):
    """Half precision inside, as autocast makes it."""

    def __init__(self, dtype):
        super().__init__()
        self.to(dtype)
        self.dtype = dtype

    def forward(self, x):
        return super().forward(x.to(self.dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_counted_as_it_computes(dtype, x):
    model = Half(dtype).eval()
    whole = target(model)
    (site,) = tally.observed(whole, x, Y).sites
    with torch.no_grad():
        dead = (model.first(x.to(dtype)) <= 0).double()
    assert site["dead"] == pytest.approx(float(dead.mean()))
    assert site["permanently_dead"] == float((dead.mean(0) == 1).double().mean())
    assert site["gradient_norm"] is not None
    assert math.isfinite(site["gradient_norm"])
    found = actsec.attack(whole, x, Y, "dead_relu(steps=5)", eps=0.3)
    with torch.no_grad():
        forced = (model.first(torch.as_tensor(found.x).to(dtype)) <= 0).double()
    profile = tally.kill_profile(whole, x, torch.as_tensor(found.x))
    assert profile.net is not None
    assert profile.net.mean() > 0
    assert float((forced - dead).mean()) == pytest.approx(profile.net.mean())


def test_a_half_that_overflows_is_not_finite(x):
    model = Half(torch.float16).eval()
    with torch.no_grad():
        model.first.weight.fill_(60000)
    (site,) = tally.observed(target(model), x, Y).sites
    assert (site["finite"], site["dead"]) == (False, None)


def test_the_reason_for_leaving_an_attack_out_is_the_refusal(x):
    assert "compiled by torch.jit" in attacking._inapplicable(target(scripted()), x[:2], "dead")
    assert attacking._inapplicable(target(Net()), x[:2], "dead") == ""
