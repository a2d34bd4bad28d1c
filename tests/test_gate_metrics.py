"""Gates speak of every metric that has an interval, of one variant and one class; open ones say what would decide."""

from __future__ import annotations

import dataclasses
import math
import tomllib

import numpy as np
import pytest
import sample_result as sample
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from actsec import result as r
from actsec.errors import PlanError, UnknownName
from actsec.planning.conditions import gate_texts
from actsec.planning.plan import Plan
from actsec.planning.reading import from_table
from actsec.verdict import calibration, statistics
from actsec.verdict.gates import Gate, check_classes, check_gates, gate_results
from actsec.verdict.metrics import METRICS, Value, measured, needed

WHOLE = r.Interval(0.1, 0.3)
KILL, MOVED = "linf:0.1:kill", "linf:0.1:miscalibrate"


def full() -> r.Variant:
    """An audited model of which every metric was measured."""
    made = sample.variant("relu", 931, 500)
    known = {"brier_interval": WHOLE, "nll_interval": WHOLE, "confidence_when_wrong_interval": r.Interval(0.8, 0.95)}
    clean, attacked = (dataclasses.replace(c, **known) for c in made.calibration)
    moved = r.Miscalibration(
        MOVED, "worst", "miscalibration", 1000, sample.share(931, 1000), 0, clean, attacked, None,
        sample.share(900, 1000), None, 20.0, 20.0,
    )  # fmt: skip
    l2 = dataclasses.replace(made.threats[1], smallest=r.Smallest(0.4, 0.35, 0.46, 931))
    rows = (r.Corrupted("blur", 3, "sigma 2", sample.share(700, 1000)),)
    radius = r.CertifiedRadius(0.5, sample.share(40, 100), sample.share(60, 100), 0)
    return dataclasses.replace(
        made,
        clean=dataclasses.replace(made.clean, missed=sample.share(7, 100), rejected=sample.share(2, 1000)),
        calibration=(clean, attacked),
        threats=(dataclasses.replace(made.threats[0], missed=sample.share(60, 100)), l2),
        miscalibrations=(moved,),
        corruptions=r.Corruptions(1000, sample.share(931, 1000), rows),
        certificate=r.Certificate("", 100, radii=(radius,)),
        sites=tuple(dataclasses.replace(s, saturated=0.2) for s in made.sites),
    )


AT = {"threat": "linf:0.1", "kill": KILL, "corruption": "blur:3", "radius": "l2:0.5"}


def at(name: str) -> str | None:
    return "l2" if name == "smallest_change" else AT.get(METRICS[name].at)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_measured_lies_in_its_interval_and_decides_a_gate_on_either_side(name):
    found = measured(METRICS[name], full(), at(name), None)
    assert found is not None
    assert found.low <= found.value <= found.high
    assert found.n > 0
    where = f"@{at(name)}" if at(name) else ""
    outcomes = []
    for limit in (found.low - 0.001, found.high + 0.001):
        if METRICS[name].top is None or 0 <= limit <= METRICS[name].top:
            (gate,) = gate_results(Plan(gates=(f"{name}{where}>={limit:.9f}",)), (full(),))
            outcomes.append((gate.outcome, limit < found.value))
            assert gate.n == found.n
    assert outcomes
    assert all(outcome == ("passed" if below else "failed") for outcome, below in outcomes)


def test_the_values_are_those_of_the_record():
    model, threat = full(), full().threats[0]

    def value(name, of=None):
        found = measured(METRICS[name], model, at(name), of)
        return found.value, found.low, found.high, found.n

    def whole(share):
        return share.value, share.low, share.high, share.n

    assert value("noise_accuracy") == whole(threat.attacks[-1].still_correct)
    assert value("attack_success") == whole(statistics.share(931 - 500, 931))
    assert value("smallest_change") == (0.4, 0.35, 0.46, 931)
    assert value("net_kill") == (0.184, 0.161, 0.207, 200)
    assert value("robust_accuracy", "3") == whole(threat.per_class[3].share)
    assert value("clean_accuracy", "0") == whole(model.clean.per_class[0].share)
    assert value("confidence_when_fooled")[:3] == (0.911, 0.8, 0.95)
    assert value("dead")[0] == pytest.approx(0.24)
    assert measured(METRICS["ece"], model, MOVED, None).value == model.miscalibrations[0].after.ece


def test_a_class_and_a_variant_are_named():
    text = "robust_accuracy{cat | dog}@linf:8/255[relu | temperature]>=0.3"
    assert Gate.parse(text) == Gate("robust_accuracy", "linf:8/255", "relu | temperature", True, 0.3, "cat | dog")
    table = 'metric = "robust_accuracy@linf:8/255"\nclass = "cat | dog"\nvariant = "relu | temperature"\nmin = 0.3'
    assert gate_texts(tomllib.loads(table)) == (text,)
    assert from_table({"gate": [tomllib.loads(table)]}).gates == (text,)
    check_classes(Plan(gates=("clean_accuracy{cat}>=0.3",)), ("cat", "dog"))
    with pytest.raises(UnknownName, match="Did you mean 'cat'"):
        check_classes(Plan(gates=("clean_accuracy{cta}>=0.3",)), ("cat", "dog"))


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("robust_acuracy@linf:0.1>=0.3", UnknownName, "Did you mean 'robust_accuracy'"),
        ("corruption_accuracy>=0.3", PlanError, "needs a corruption"),
        ("net_kill@linf:0.1<=0.3", PlanError, "says nothing of linf:0.1"),
        ("robust_accuracy@linf:0.1:kill>=0.3", PlanError, "says nothing of"),
        ("brier@linf:0.1<=0.3", PlanError, "brier@linf:0.1:miscalibrate"),
        ("ece{cat}<=0.3", PlanError, "not measured class by class"),
        ("robust_accuracy@linf:0.1>=30", PlanError, "Write 0.3 for 30 %"),
        ("dead@linf:0.1<=0.3", PlanError, "takes no threat"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(text, error, said):
    with pytest.raises(error, match=said.replace("(", r"\(")):
        Gate.parse(text)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("ece<0.05", "ece<=0.05"),
        ("clean_accuracy > .9", "clean_accuracy>=0.9"),
        ("robust_accuracy@linf:8/255=>0.3", "robust_accuracy@linf:8/255>=0.3"),
        ("robust_accuracy@linf:0.1[relu]>=30%", "robust_accuracy@linf:0.1[relu]>=0.3"),
        ("ece=<0.05", "ece<=0.05"),
    ],
)
def test_a_gate_that_was_nearly_written_is_written(written, meant):
    with pytest.raises(PlanError) as caught:
        Gate.parse(written)
    assert caught.value.mend.startswith(f"Write {meant},")
    Gate.parse(meant)


def test_what_the_plan_does_not_test_is_refused_before_any_work():
    plan = Plan(corruptions=("blur(severity=3)",))
    check_gates(plan.having(gates=("corruption_accuracy@blur:3>=0.3",)), (), ())
    with pytest.raises(PlanError, match="blur:5 is not tested"):
        check_gates(plan.having(gates=("corruption_accuracy@blur:5>=0.3",)), (), ())


def test_limits_above_one_are_for_metrics_that_go_there():
    assert Gate.parse("smallest_change@l2>=3").limit == 3
    assert Gate.parse("nll<=2.5").limit == 2.5
    with pytest.raises(PlanError):
        Gate.parse("brier<=2.5")


@given(st.integers(0, 300), st.integers(1, 300), st.integers(1, 99))
def test_the_samples_named_put_the_interval_beyond_the_limit_and_fewer_do_not(k, n, percent):
    """Exhaustively: the first n at which the interval of the same share excludes the limit."""
    k, limit = min(k, n), percent / 100
    found = statistics.share(k, n)
    if not found.low < limit < found.high:
        return
    samples = needed(Value(found.value, found.low, found.high, n), limit)
    if found.value == limit:
        assert samples is None
        return

    def beyond(m):
        # The Wilson interval of a share, at a count that need not be whole: the share is what is kept.
        p, z2 = found.value, 1.959963984540054**2
        if k in (0, n):
            edge = 0.025 ** (1 / m)
            return 1 - edge <= limit if k == 0 else edge >= limit
        middle, half = p + z2 / (2 * m), math.sqrt(z2 * (p * (1 - p) / m + z2 / (4 * m * m)))
        return not (middle - half) / (1 + z2 / m) < limit < (middle + half) / (1 + z2 / m)

    assert beyond(samples + 1)
    assert samples == n + 1 or not beyond(samples - 2)


def test_an_open_gate_names_the_samples_and_where_to_get_them():
    made = dataclasses.replace(full(), threats=(sample.linf(15, 28, 30), *full().threats[1:]))
    (gate,) = gate_results(Plan(gates=("robust_accuracy@linf:0.1>=0.45",)), (made,))
    assert (gate.outcome, gate.n) == ("no verdict", 30)
    assert gate.samples == math.ceil(1.959963984540054**2 * 0.45 * 0.55 / 0.05**2) == 381
    assert "about 381 images would decide (30 were tested; --samples)" in gate.why
    (far,) = gate_results(Plan(gates=("robust_accuracy@linf:0.1>=0.49",)), (made,))
    assert "more test data: there are 1000" in far.why
    (even,) = gate_results(Plan(gates=("robust_accuracy@linf:0.1>=0.5",)), (made,))
    assert even.samples is None
    assert "the limit itself" in even.why


def test_samples_of_one_class_are_told_in_images_of_all():
    one = Value(0.5, 0.3, 0.7, 20, of=200)
    assert needed(one, 0.4) == math.ceil(needed(dataclasses.replace(one, of=0), 0.4) * 10) or needed(one, 0.4) > 200
    assert needed(one, 0.4) > 5 * needed(dataclasses.replace(one, of=0), 0.4)


def test_masking_voids_passes_and_never_failures_whatever_the_direction():
    made = full()
    void = dataclasses.replace(made.threats[0], believable=False, why="its gradients lie")
    made = dataclasses.replace(made, threats=(void, made.threats[1]))

    def outcome(text):
        return gate_results(Plan(gates=(text,)), (made,))[0].outcome

    assert outcome("robust_accuracy@linf:0.1>=0.9") == "failed"
    assert outcome("robust_accuracy@linf:0.1>=0.1") == "no verdict"
    assert outcome("attack_success@linf:0.1<=0.1") == "failed"
    assert outcome("attack_success@linf:0.1<=0.9") == "no verdict"
    assert outcome("attack_success@linf:0.1>=0.9") == "no verdict"  # more might have fallen
    assert outcome("clean_accuracy>=0.5") == "passed"


@pytest.mark.parametrize("n", [6, 7, 10, 25, 100])
def test_the_ends_of_a_median_hold_it_with_95_percent_and_the_next_inner_ones_do_not(n):
    low, high = (int(x) for x in statistics.median_ends(np.arange(n)))
    assert low + high == n - 1

    def covers(rank):
        return 1 - 2 * binom.cdf(rank, n, 0.5)

    assert covers(low) >= 0.95
    assert covers(low + 1) < 0.95


def test_the_intervals_of_a_calibration_cover_and_are_of_its_own_means():
    rng, held = np.random.default_rng(0), 0
    for draw in range(40):
        p = rng.beta(5, 2, 300)
        y = (rng.random(300) > p).astype(int)  # class 0 with probability p
        found = calibration.calibration(np.column_stack([p, 1 - p]), y, "clean", seed=draw)
        truth = float(np.mean(2 * p * (1 - p)))  # E[2 (1[y=1] - (1 - p))^2] given these p
        held += found.brier_interval.low <= truth <= found.brier_interval.high
        assert found.brier_interval.low <= found.brier <= found.brier_interval.high
        assert found.nll_interval.low <= found.nll <= found.nll_interval.high
        ends = found.confidence_when_wrong_interval
        assert ends.low <= found.confidence_when_wrong <= ends.high
    assert held >= 34  # of 40, at 95 %: below this with probability 0.002
