"""ActivationMonitor: right numbers, nothing changed, every failure survived."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
import os
import pickle
import threading
import warnings
from itertools import count

import pytest
import torch
import torch.nn.functional as F
from runs import ROOT
from torch import nn
from torch.nn.modules import module as torch_modules

import actsec
from actsec import monitoring
from actsec.activations import dead_counts, find
from actsec.errors import BadOption, DataError, ModelError, StoreError
from actsec.health import readings
from actsec.monitoring import monitor as monitor_room
from actsec.monitoring import seeing


class Net(nn.Module):
    """A module used twice, a functional call and one in place, dropout and batch norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.act = nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU()
        self.second, self.drop, self.last = nn.Linear(12, 12), nn.Dropout(0.2), nn.Linear(12, 3)

    def forward(self, x):
        h = self.act(self.norm(self.first(x)))
        h = self.act(self.second(self.drop(h)))
        return self.last(torch.tanh(F.relu(self.second(h) - 0.1, inplace=True)))


SITES = ["act", "act:2", "relu", "tanh"]


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def x():
    return torch.randn(32, 8, generator=torch.Generator().manual_seed(1))


def watching(model, **options):
    """A monitor of every pass, and the list that its reports go to."""
    reports = []
    options = {"budget": math.inf, "callback": reports.append} | options
    return actsec.ActivationMonitor(model, **options), reports


def sites_of(reports):
    return [reading for report in reports for reading in report.readings if reading.kind is not None]


def modes():
    return torch.overrides._len_torch_function_stack()


# --- numbers ------------------------------------------------------------------------------------------------------


def test_shares_are_those_of_dead_counts(net, x):
    net.eval()
    truth = dead_counts(net, x, find(net, x))
    monitor, reports = watching(net, rows=32, window=32)
    with monitor, torch.no_grad():
        for _ in range(2):
            net(x)
    found = {reading.site: reading for reading in sites_of(reports)}
    assert list(found) == SITES
    for name in SITES[:3]:
        assert found[name].dead == pytest.approx(float((truth[name] / 32).mean()), abs=1e-6)
        assert found[name].permanently_dead == pytest.approx(float((truth[name] == 32).double().mean()), abs=1e-6)
        assert (found[name].units, found[name].rows, found[name].not_finite) == (12, 32, 0.0)
    assert found["tanh"].dead is None
    assert found["tanh"].saturated is not None


def test_units_that_die_in_the_middle_are_found_once_enough_rows_say_so(net, x):
    net.eval()
    monitor, reports = watching(net, rows=32, window=32)
    with monitor, torch.no_grad():
        for step in range(14):
            if step == 2:
                net.norm.bias[:6] = -100.0
            net(x)
    shares = [r.permanently_dead for r in sites_of(reports) if r.site == "act"]
    assert shares[0] < 0.5
    assert shares[-1] == 0.5
    first = next(r.step for r in sites_of(reports) if "ACT-A01" in r.findings and r.site == "act")
    assert first == 2 + readings.LONG // 32


def test_a_nan_is_neither_dead_nor_alive(net, x):
    net.eval()
    monitor, reports = watching(net, rows=32, window=32)
    bad = x.clone()
    bad[3] = torch.nan
    with monitor, torch.no_grad():
        for given in (x, x, bad, x):
            net(given)
    act = [r for r in sites_of(reports) if r.site == "act"]
    assert [r.not_finite for r in act] == [0.0, pytest.approx(1 / 32), 0.0]
    assert (act[1].dead, act[1].permanently_dead, act[1].drift, act[1].findings) == (None, None, None, ("ACT-A00",))
    assert act[0].dead == act[2].dead


def test_saturation_is_a_finding_where_the_activation_saturates_above(net, x):
    net.eval()
    with torch.no_grad():
        net.second.bias.fill_(20.0)
    monitor, reports = watching(net, window=16)
    with monitor, torch.no_grad():
        for _ in range(3):
            net(x)
    assert {r.site: r.findings for r in sites_of(reports)}["tanh"] == ("ACT-A03",)


def test_stability_index_by_hand():
    assert readings.stability((0.5, 0.5), (0.5, 0.5)) == 0
    expected = 0.3 * math.log(0.8 / 0.5) + -0.3 * math.log(0.2 / 0.5)
    assert readings.stability((0.8, 0.2), (0.5, 0.5)) == pytest.approx(expected)


def served(net, draw, passes, **options):
    monitor, reports = watching(net.eval(), **options)
    with monitor, torch.no_grad():
        for step in range(passes):
            net(draw(step))
    return monitor, reports


def normal(step, shift=0.0, scale=1.0):
    return scale * torch.randn(16, 8, generator=torch.Generator().manual_seed(step)) + shift


def test_drift_is_found_where_it_is_and_not_where_it_is_not(net):
    _, reports = served(net, lambda step: normal(step, scale=3.0 if step >= 200 else 1.0), 240)
    drifted = [r for r in sites_of(reports) if "ACT-A20" in r.findings]
    measured = [r for r in sites_of(reports) if r.drift is not None]
    assert len([r for r in measured if r.step <= 200]) >= 80
    assert [r for r in drifted if r.step <= 200] == []
    assert {r.site for r in drifted} >= {"act"}


def test_a_saved_baseline_is_the_one_measured_against(net, tmp_path):
    monitor, _ = served(net, normal, 40)
    monitor.save_baseline(tmp_path / "base.json")
    _, reports = served(net, lambda step: normal(step, 1.5), 12, baseline=tmp_path / "base.json")
    assert "ACT-A20" in next(r for r in sites_of(reports) if r.site == "act").findings
    _, same = served(net, lambda step: normal(step + 999), 12, baseline=monitor.baseline())
    assert [r for r in sites_of(same) if r.findings] == []
    assert sites_of(same)[0].drift is not None


def test_no_drift_is_claimed_of_a_model_that_learns(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    monitor, reports = watching(net.eval(), window=16)
    with monitor:
        for step in range(20):
            net(normal(step)).square().mean().backward()
            optimizer.step()
    assert sites_of(reports)
    assert {r.drift for r in sites_of(reports)} == {None}


@pytest.mark.parametrize(
    "given",
    ["no such file", {}, {"format": "actsec activation baseline 1", "sites": {"act": {}}}]
    + [
        {"format": "actsec activation baseline 1", "sites": {"act": {"kind": "relu", "noise": 0, **rest}}}
        for rest in ({"edges": [1.0, 0.0], "shares": [0.5, 0.25, 0.25]}, {"edges": [0.0], "shares": [0.5, math.nan]})
    ],
)
def test_a_baseline_that_is_none_is_refused(net, given):
    with pytest.raises(DataError):
        actsec.ActivationMonitor(net, baseline=given)


def test_a_baseline_of_another_model_says_so(net):
    profile = {"kind": "tanh", "edges": [0.0], "shares": [0.5, 0.5], "noise": 0.0}
    base = {"format": "actsec activation baseline 1", "sites": {"act": profile, "elsewhere": profile}}
    monitor, reports = served(net, normal, 4, baseline=base)
    said = {item.name: item.reason for item in monitor.unresolved}
    assert "the baseline's is tanh" in said["act"]
    assert "not seen to call it" in said["elsewhere"]
    assert {r.drift for r in sites_of(reports)} <= {None}


# --- nothing changes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [math.inf, 0.05])
def test_training_is_bit_equal_and_nothing_is_left(net, x, budget):
    def train(model, monitor=None):
        torch.manual_seed(3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for step in range(12):
            model.train(step % 4 != 3)
            optimizer.zero_grad()
            F.cross_entropy(model(x), torch.arange(32) % 3).backward()
            optimizer.step()
        return [*model.state_dict().values(), *(p.grad for p in model.parameters()), torch.get_rng_state()]

    plain = train(copy.deepcopy(net))
    monitor, _ = watching(net, budget=budget)
    with monitor:
        watched = train(net)
    assert all(map(torch.equal, plain, watched))
    assert monitor.watched > 0
    assert not net._forward_hooks
    assert not net._forward_pre_hooks
    assert not torch_modules._global_forward_pre_hooks
    assert not torch_modules._global_forward_hooks
    assert modes() == 0


GUARDS = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("guard", GUARDS)
def test_output_is_bit_equal_under(net, x, guard):
    net.eval()
    monitor, reports = watching(net, window=16)
    with GUARDS[guard]():
        plain = net(x)
    with monitor:
        for _ in range(3):
            with GUARDS[guard]():
                assert torch.equal(net(x), plain)
        with torch.no_grad():  # after inference mode, whose tensors nobody may write into
            net(x)
    assert monitor.unresolved == ()
    assert [r.site for r in sites_of(reports)][:4] == SITES


def test_half_precision_and_keyword_inputs(x):
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(8, 4)

        def forward(self, *, given):
            return {"logits": F.gelu(self.first(given["x"])).sum(1)}

    model = Keyword().to(torch.bfloat16)
    monitor, reports = watching(model, window=16)
    with monitor:
        for _ in range(3):
            model(given={"x": x.to(torch.bfloat16)})
    assert {r.site for r in sites_of(reports)} == {"gelu"}


def test_copies_and_pickles_of_a_watched_model_are_free_of_it(net, x):
    monitor, _ = watching(net)
    with monitor:
        net(x)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):  # made here
            other(x)
        assert monitor.passes == 1


# --- cost ---------------------------------------------------------------------------------------------------------


def test_k_follows_from_the_measured_cost(net, x, monkeypatch):
    """A clock that each forward moves by 1 s, and each watched one by 2 s more."""
    now = [0.0]
    monkeypatch.setattr(monitor_room, "perf_counter", lambda: now[0])
    monitor, reports = watching(net.eval(), budget=0.05)
    look = seeing.look
    monkeypatch.setattr(seeing, "look", lambda *given: (now.__setitem__(0, now[0] + 0.5), look(*given))[1])
    slow = net.first.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + 1.0))
    with monitor, torch.no_grad():
        for _ in range(400):
            net(x)
    slow.remove()
    # 4 sites x 0.5 s on a pass of 1 s: one in 2 / (0.8 x 0.05) = 50, and the pass itself
    assert monitor.every == 51
    assert monitor.watched == pytest.approx(400 / 51, abs=1.5)
    note = reports[-1].readings[-1].note
    assert note.startswith(f"detached after 400 passes, {monitor.watched} watched, one in 51 by the budget; ")
    rows = 16 * (monitor.watched - 1)  # the first pass finds the calls
    assert f"a baseline takes 512 rows at fixed weights, {rows} were watched" in note
    assert f"dead units could not be judged: that takes 256 rows, {rows} were watched" in note


@pytest.mark.parametrize(
    ("passes", "train", "says"),
    [
        (4, 0, "a baseline takes 64 rows at fixed weights, 48 were watched"),
        (5, 0, "no window of 16 rows was watched after the baseline"),
        (6, 0, None),
        (0, 20, "no row was watched in eval mode (304 in train mode)"),
    ],
)
def test_the_closing_note_says_what_could_not_be_judged(net, x, passes, train, says):
    monitor, reports = watching(net, window=16)
    with monitor, torch.no_grad():
        for training, many in ((True, train), (False, passes)):
            net.train(training)
            for _ in range(many):
                net(x)
    note = reports[-1].readings[-1].note
    assert f"{passes + train} watched" in note
    assert "by the budget" not in note
    assert ("drift could not be judged" in note) == (says is not None)
    assert says is None or says in note
    assert ("dead units could not" in note) == (16 * (passes + train - 1) < 256)


def test_a_monitor_that_watched_no_pass_judged_nothing(net, x):
    monitor, reports = watching(net.eval(), budget=0.05)
    with monitor:
        net(x)
    assert reports[-1].readings[-1].note == (
        "detached after 1 passes, 0 watched; drift could not be judged: no call was looked at"
    )


def test_the_monitor_is_where_it_was():
    from actsec.monitoring import ActivationMonitor, Report

    assert actsec.ActivationMonitor is ActivationMonitor
    assert {field.name for field in dataclasses.fields(Report)} == {"step", "readings"}
    assert monitoring.ActivationMonitor is ActivationMonitor


# --- what fails does not fail the loop ----------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_full_disk_is_one_warning(net, x):
    monitor, reports = watching(net, to="/dev/full", window=16)
    with pytest.warns(RuntimeWarning, match="cannot be written") as warned, monitor:  # noqa: PT031  # the loop is it
        for _ in range(6):
            net(x)
    assert len(warned) == 1
    assert len(reports) > 2


def test_a_line_that_broke_off_does_not_spoil_the_next(net, x, tmp_path, monkeypatch):
    monitor, _ = watching(net, to=tmp_path / "lines", window=16)
    tries = count()

    class Short(io.FileIO):
        def write(self, data):
            if next(tries) == 1:
                raise OSError(28, "No space left on device")
            return super().write(data[:100] if next(tries) == 1 else data)

    monkeypatch.setattr("actsec.monitoring.writing.FileIO", Short)
    with warnings.catch_warnings(), monitor:
        warnings.simplefilter("ignore")
        for _ in range(5):
            net(x)
    whole = [line for line in (tmp_path / "lines").read_text().splitlines() if line.endswith("}")]
    assert len([json.loads(line) for line in whole if line.startswith("{")]) >= 8


def test_lines_and_callback_say_the_same(net, x, tmp_path):
    path, stream = tmp_path / "lines.jsonl", io.StringIO()
    for to in (path, stream):
        monitor, reports = watching(net.eval(), to=to, window=16)
        with monitor:
            for _ in range(3):
                net(x)
        text = path.read_text() if to is path else stream.getvalue()
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["site"] for line in lines] == [r.site for report in reports for r in report.readings]
        assert list(lines[0]) == list(readings.Reading.__dataclass_fields__)
        note, *unjudged = lines[-1]["note"].split("; ")
        assert note == "detached after 3 passes, 3 watched"
        assert unjudged[0] == "drift could not be judged: a baseline takes 64 rows at fixed weights, 32 were watched"
        assert unjudged[1].startswith("permanently dead units could not be judged: that takes 256 rows, ")
    assert not stream.closed


def test_what_a_callback_raises_ends_the_loop_and_leaves_nothing(net, x):
    def stop(report):
        raise KeyError(report.step)

    monitor = actsec.ActivationMonitor(net, callback=stop, budget=math.inf, window=16)
    monitor.attach()
    net(x)
    with pytest.raises(KeyError, match="2"):
        net(x)
    monitor.callback = None
    monitor.detach()
    assert modes() == 0
    assert not net._forward_hooks


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_a_forward_that_fails_leaves_nothing(net, x, fault):
    def fail(*_):
        raise fault

    monitor, reports = watching(net.eval(), window=16)
    with monitor:
        net(x)
        handle = net.second.register_forward_hook(fail)
        with pytest.raises(fault):
            net(x)
        handle.remove()
        net(x)
        net(x)
    assert modes() == 0
    assert not net._forward_hooks
    assert {r.site for r in sites_of(reports)} == set(SITES)


def test_a_look_that_fails_is_unresolved_and_the_model_goes_on(net, x, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(seeing, "look", fail)
    monitor, reports = watching(net.eval())
    with monitor:
        for _ in range(2):
            net(x)
    assert {item.name for item in monitor.unresolved} == set(SITES)
    assert {r.findings for r in reports[-1].readings if r.site} == {("ACT-A02",)}


def test_threads_share_a_model(net, x):
    net.eval()
    with torch.no_grad():
        plain = net(x)
    monitor, reports = watching(net, window=16)
    wrong = []

    def serve():
        with torch.no_grad():
            wrong.extend(not torch.equal(net(x), plain) for _ in range(40))

    with monitor:
        threads = [threading.Thread(target=serve) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == [False] * 160
    assert monitor.passes == 160
    assert {r.site for r in sites_of(reports)} == set(SITES)
    assert {r.not_finite for r in sites_of(reports)} == {0.0}


def test_calls_that_come_up_later_are_watched(x):
    class Branch(Net):
        def forward(self, x):
            z = self.first(x)
            return self.last(F.silu(z) if x[0, 0] > 5 else F.relu(z))

    model = Branch().eval()
    monitor, reports = watching(model, window=16)
    with monitor:
        for step in range(12):
            model(x + 10 * (step % 2)).sum()
    assert {r.site for r in sites_of(reports)} == {"relu", "silu"}
    assert monitor.unresolved == ()


def test_a_model_compiled_later_is_not_seen_and_that_is_said(net, x):
    net.eval()
    plain = net(x)
    monitor = actsec.ActivationMonitor(net, budget=math.inf).attach()
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager")
    assert torch.allclose(compiled(x), plain)
    with pytest.warns(RuntimeWarning, match="saw no forward pass: the model is compiled"):
        monitor.detach()


def test_mistakes_are_told(net, tmp_path):
    for options in ({"budget": 0}, {"rows": 0}, {"window": 1.5}, {"budget": math.nan}):
        with pytest.raises(BadOption, match=next(iter(options))):
            actsec.ActivationMonitor(net, **options)
    with pytest.raises(ModelError, match=r"torch\.nn\.Module"):
        actsec.ActivationMonitor("model")
    with pytest.raises(StoreError, match="cannot be written"):
        actsec.ActivationMonitor(net, tmp_path / "no" / "such").attach()
    with pytest.raises(DataError, match="no baseline yet"):
        actsec.ActivationMonitor(net).save_baseline(tmp_path / "base.json")


def test_the_example_of_the_page_runs(net, x, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "monitor.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    alarms = []
    names = {
        "model": net,
        "loader": [(x, torch.arange(32) % 3)] * 20,
        "loss": F.cross_entropy,
        "optimizer": torch.optim.SGD(net.parameters(), lr=0.1),
        "requests": [x] * 20,
        "answer": lambda logits: None,
        "alarm": alarms.append,
    }
    exec(code, names)  # noqa: S102  # our own page
    for name in ("training", "serving"):
        lines = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert "detached after 20 passes" in lines[-1]["note"]
    assert alarms
    assert len(code.strip().splitlines()) <= 13
