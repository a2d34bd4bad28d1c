import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from actsec.errors import DataError
from actsec.verdict import statistics

counts = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_share_is_wilson_inside_and_clopper_pearson_at_the_ends(case):
    k, n = case
    found = statistics.share(k, n)
    method = "exact" if k in (0, n) else "wilson"
    expected = binomtest(k, n).proportion_ci(0.95, method=method)
    assert (found.k, found.n, found.value) == (k, n, k / n)
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_share_of_nothing_is_refused():
    for k, n in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(DataError, match="not a share"):
            statistics.share(k, n)


def test_zero_successes_in_a_hundred_still_allow_three_and_a_half_percent():
    assert statistics.share(0, 100).high == pytest.approx(0.0362, abs=1e-4)


def test_wilson_covers_what_it_says():
    rng = np.random.default_rng(0)
    k = rng.binomial(200, 0.3, size=4000)
    covered = [statistics.share(each, 200).low <= 0.3 <= statistics.share(each, 200).high for each in k]
    assert 0.935 < np.mean(covered) < 0.965


def test_classes_without_examples_are_left_out_and_the_worst_is_named():
    y = np.array([0, 0, 0, 0, 2, 2])
    correct = np.array([1, 1, 1, 0, 1, 0], bool)
    found = statistics.clean(correct, y, ("cat", "dog", "eel"))
    assert [(c.name, c.share.k, c.share.n) for c in found.per_class] == [("cat", 3, 4), ("eel", 1, 2)]
    assert found.worst_class == "eel"
    assert found.balanced == pytest.approx((0.75 + 0.5) / 2)
    assert found.accuracy.value == pytest.approx(4 / 6)


def test_balanced_is_sklearns():
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(1)
    y, guess = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    assert statistics.balanced(guess == y, y) == pytest.approx(balanced_accuracy_score(y, guess))


def test_mcnemar_is_exact():
    before = np.array([True] * 60 + [False] * 40)
    after = before.copy()
    after[:9] = False
    after[60:62] = True
    found = statistics.paired(before, after)
    # two-sided binomial of 2 in 11 by hand: 2 * (1 + 11 + 55) / 2**11
    assert found.p == pytest.approx(2 * 67 / 2048)
    assert found.difference == pytest.approx(-0.07)


def test_mcnemar_reads_the_discordant_pairs_alone():
    rng = np.random.default_rng(2)
    before, after = rng.random(400) < 0.6, rng.random(400) < 0.5
    alone = before != after
    assert statistics.paired(before, after).p == statistics.paired(before[alone], after[alone]).p


def test_paired_bootstrap_is_the_normal_interval_at_large_n():
    rng = np.random.default_rng(3)
    before = rng.random(5000) < 0.7
    after = before & (rng.random(5000) < 0.9)
    change = after.astype(float) - before
    error = change.std() / np.sqrt(5000)
    found = statistics.paired(before, after, seed=1)
    assert found.low == pytest.approx(change.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(change.mean() + 1.96 * error, abs=0.15 * error)
    numbers = statistics.paired_mean(before.astype(float), after.astype(float), seed=1)
    assert numbers.low == pytest.approx(found.low, abs=0.2 * error)
    assert numbers.p is None


def test_paired_is_a_function_of_the_seed():
    rng = np.random.default_rng(4)
    before, after = rng.random(50) < 0.5, rng.random(50) < 0.5
    assert statistics.paired(before, after, 7) == statistics.paired(before, after, 7)
    assert statistics.paired_mean(before, after, 7) == statistics.paired_mean(before, after, 7)
    assert statistics.paired_mean(before, after, 7) != statistics.paired_mean(before, after, 8)


def test_no_disagreement_is_not_an_interval_of_width_zero():
    same = np.array([True] * 5 + [False] * 5)
    found = statistics.paired(same, same)
    assert found.difference == 0
    assert found.p == 1
    assert found.high == pytest.approx(statistics.share(0, 10).high)
    assert found.low == -found.high


def test_pairing_refuses_different_examples():
    for before, after in (([True], [True, False]), ([], [])):
        with pytest.raises(DataError, match="same examples"):
            statistics.paired(np.array(before, bool), np.array(after, bool))


@pytest.mark.parametrize("chunk", [7, 100, 10**6])
def test_resampling_draws_n_of_n_with_replacement(monkeypatch, chunk):
    monkeypatch.setattr(statistics, "_CELLS", chunk * 50)
    terms = np.stack([np.ones(50), np.arange(50.0)], 1)
    sums = statistics.resampled(terms, seed=0, draws=3000)
    assert sums.shape == (3000, 2)
    assert (sums[:, 0] == 50).all()
    spread = np.sqrt(50) * terms[:, 1].std()
    assert sums[:, 1].mean() == pytest.approx(terms[:, 1].sum(), abs=4 * spread / np.sqrt(3000))
    assert sums[:, 1].std() == pytest.approx(spread, rel=0.06)


def test_verdicts():
    rng = np.random.default_rng(5)
    low, high = rng.random(500) < 0.4, rng.random(500) < 0.6
    assert statistics.compare("b", "a", "robust_accuracy", low, high).verdict == "better"
    assert statistics.compare("b", "a", "robust_accuracy", high, low).verdict == "worse"
    assert statistics.compare("b", "a", "robust_accuracy", low, low).verdict == "no detectable difference"
    assert statistics.compare("b", "a", "robust_accuracy", low, high, comparable=False).verdict == "not comparable"
    falling = statistics.compare("b", "a", "nll", high * 1.0, low * 1.0, lower_is_better=True)
    assert (falling.verdict, falling.p, falling.n) == ("better", None, 500)


def test_four_discordant_pairs_are_no_evidence_though_the_bootstrap_alone_would_say_so():
    before, after = np.zeros(100, bool), np.zeros(100, bool)
    after[:4] = True
    found = statistics.compare("b", "a", "accuracy", before, after)
    assert found.low < 0 < found.difference < found.high
    assert found.p == pytest.approx(0.125)
    assert found.verdict == "no detectable difference"


@given(lost=st.integers(0, 40), won=st.integers(0, 40))
def test_the_paired_interval_holds_zero_whenever_the_exact_test_finds_nothing(lost, won):
    before, after = np.zeros(200, bool), np.zeros(200, bool)
    before[:lost], after[lost : lost + won] = True, True
    found = statistics.paired(before, after)
    assert found.low <= found.difference <= found.high
    if found.p >= 1 - statistics.LEVEL:
        assert found.low <= 0 <= found.high


def test_false_alarms_of_the_verdict_stay_below_five_percent():
    rng = np.random.default_rng(6)
    verdicts = []
    for trial in range(300):
        kind = rng.random(80)
        before = (kind < 0.5) ^ (rng.random(80) < 0.1)
        after = (kind < 0.5) ^ (rng.random(80) < 0.1)
        verdicts.append(statistics.compare("b", "a", "accuracy", before, after, seed=trial).verdict)
    assert np.mean([v != "no detectable difference" for v in verdicts]) <= 0.05
