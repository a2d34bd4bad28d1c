import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from actsec.errors import DataError, ModelError
from actsec.verdict.calibration import calibration, diagram, ece, null_ece, paired_ece, softmax


def sample(n=500, classes=4, sharpness=2.0, seed=0):
    rng = np.random.default_rng(seed)
    p = softmax(sharpness * rng.normal(size=(n, classes)))
    return p, rng.integers(0, classes, n)


def calibrated(n, seed):
    """Two-class probabilities whose labels are drawn from them."""
    rng = np.random.default_rng(seed)
    top = 0.5 + 0.5 * rng.beta(4, 2, n)
    return np.stack([1 - top, top], 1), (rng.random(n) < top).astype(int)


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("seed", [0, 1])
def test_ece_and_mce_are_torchmetrics(bins, seed):
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns of its own dependencies
        functional = pytest.importorskip("torchmetrics.functional.classification")
    p, y = sample(seed=seed)
    found = calibration(p, y, "clean", bins)
    for ours, norm in ((found.ece, "l1"), (found.mce, "max")):
        theirs = functional.multiclass_calibration_error(
            torch.tensor(p), torch.tensor(y), num_classes=4, n_bins=bins, norm=norm
        )
        assert ours == pytest.approx(float(theirs), abs=2e-6)  # theirs is float32


def test_brier_and_nll_are_sklearns():
    p, y = sample(classes=5)
    found = calibration(p, y, "clean")
    assert found.brier == pytest.approx(brier_score_loss(y, p, scale_by_half=False, labels=list(range(5))), rel=1e-12)
    assert found.nll == pytest.approx(log_loss(y, p, labels=list(range(5))), rel=1e-12)


def test_nll_of_a_certain_mistake_is_finite_and_brier_is_two():
    found = calibration(np.array([[1.0, 0.0]]), np.array([1]), "clean")
    assert found.nll == pytest.approx(36.0437, abs=1e-3)
    assert (found.brier, found.ece, found.mce) == (2.0, 1.0, 1.0)
    assert found.confidence_when_wrong == 1.0
    assert (found.wrong_above_90.k, found.wrong_above_90.n) == (1, 1)


@pytest.mark.parametrize(("confidence", "counted"), [(0.95, 1), (0.901, 1), (0.9, 0), (0.85, 0)])
def test_confidently_wrong_is_above_nine_tenths_of_all_examples(confidence, counted):
    p = np.array([[confidence, 1 - confidence]] * 2)
    found = calibration(p, np.array([0, 1]), "clean")
    assert (found.wrong_above_90.k, found.wrong_above_90.n) == (counted, 2)


def test_a_confidence_of_one_falls_into_the_last_bin():
    rows = diagram(np.array([1.0, 0.95]), np.array([True, False]), 10)
    assert len(rows) == 10
    assert (rows[9].n, rows[9].accuracy, rows[9].confidence) == (2, 0.5, 0.975)


@given(st.integers(1, 40), st.integers(0, 40))
def test_bins_are_closed_below_and_open_above(bins, index):
    edge = np.linspace(0, 1, bins + 1)[index % bins]
    rows = diagram(np.array([edge]), np.array([True]), bins)
    assert [b for b, row in enumerate(rows) if row.n] == [index % bins]
    assert rows[index % bins].low == edge


def test_by_hand():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]])
    found = calibration(p, np.array([0, 1, 1, 1]), "clean", bins=5)
    # bin [.8, 1]: accuracy .5 against .9; bin [.6, .8): accuracy 1 against .7
    assert found.ece == pytest.approx(0.5 * 0.4 + 0.5 * 0.3)
    assert found.mce == pytest.approx(0.4)
    assert found.mean_confidence == pytest.approx(0.8)
    assert found.confidence_when_wrong == pytest.approx(0.9)
    assert sum(row.n for row in found.reliability) == 4


def test_nothing_wrong_has_no_confidence_when_wrong():
    found = calibration(np.array([[0.9, 0.1]]), np.array([0]), "clean")
    assert found.confidence_when_wrong is None
    assert found.wrong_above_90.k == 0


def test_decisions_by_threshold_are_judged_as_decided():
    p = np.array([[0.7, 0.3], [0.7, 0.3]])
    found = calibration(p, np.array([1, 1]), "clean", decided=np.array([1, 1]))
    assert found.mean_confidence == pytest.approx(0.3)
    assert found.ece == pytest.approx(0.7)
    assert found.confidence_when_wrong is None


@pytest.mark.parametrize("n", [100, 1000])
def test_the_null_is_the_ece_of_calibrated_models(n):
    # Fixed confidences, fresh labels: what null_ece claims to simulate.
    p, _ = calibrated(n, 0)
    confidence = p.max(1)
    rng = np.random.default_rng(9)
    fresh = np.array([ece(confidence, rng.random(n) < confidence) for _ in range(300)])
    null = null_ece(confidence)
    assert null.mean() == pytest.approx(fresh.mean(), abs=4 * fresh.std() / np.sqrt(300))
    assert np.mean(fresh > np.quantile(null, 0.95)) == pytest.approx(0.05, abs=0.04)


def test_the_null_shrinks_with_n_and_an_overconfident_model_exceeds_it():
    small, large = (calibration(*calibrated(n, 1), "clean") for n in (100, 5000))
    assert large.null_mean < small.null_mean / 4
    p, y = sample(n=300, sharpness=8.0)
    assert calibration(p, y, "clean").ece > calibration(p, y, "clean").null_p95


def test_the_null_is_the_same_in_chunks(monkeypatch):
    confidence = calibrated(64, 0)[0].max(1)
    whole = null_ece(confidence, seed=3)
    monkeypatch.setattr("actsec.verdict.calibration._CELLS", 64 * 7)
    assert np.allclose(null_ece(confidence, seed=3), whole, rtol=0, atol=1e-15)


def test_softmax_in_float64():
    assert softmax(np.array([[1000.0, 0.0]])).tolist() == [[1.0, 0.0]]
    p = softmax(np.random.default_rng(0).normal(size=(10, 3)) * 50)
    assert p.dtype == np.float64
    assert np.allclose(p.sum(1), 1, atol=1e-15)
    assert softmax(np.array([[0.0, np.log(3.0)]]))[0] == pytest.approx([0.25, 0.75])


def test_outputs_that_are_not_finite_are_refused():
    with pytest.raises(ModelError, match="1 of 2 outputs"):
        calibration(np.array([[np.nan, 0.5], [0.5, 0.5]]), np.array([0, 0]), "clean")
    with pytest.raises(DataError, match="labels"):
        calibration(np.ones((3, 2)) / 2, np.zeros(4, int), "clean")
    with pytest.raises(DataError, match="labels"):
        calibration(np.ones((0, 2)), np.zeros(0, int), "clean")


def test_paired_ece_finds_what_temperature_mends_and_nothing_where_nothing_changed():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1000, 3)) * 1.5
    y = np.array([rng.choice(3, p=row) for row in softmax(logits)])
    sharp, right = softmax(4 * logits), logits.argmax(1) == y
    before, after = (sharp.max(1), right), (softmax(logits).max(1), right)
    found = paired_ece(before, after)
    assert found.difference == pytest.approx(ece(*after) - ece(*before))
    assert found.low <= found.difference <= found.high < 0
    same = paired_ece(before, before)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    assert paired_ece(before, after, seed=1) == paired_ece(before, after, seed=1)


@pytest.mark.parametrize("excess", [(0.0, 0.0), (0.15, 0.05)])
def test_paired_ece_covers_the_true_difference(excess):
    # Accuracy is confidence minus the excess, everywhere: that is the true ECE.
    rng, n, covered = np.random.default_rng(1), 200, []
    for trial in range(80):
        confidence = 0.5 + 0.5 * rng.beta(4, 2, n)
        before, after = ((confidence, rng.random(n) < confidence - each) for each in excess)
        found = paired_ece(before, after, seed=trial)
        covered.append(found.low <= excess[1] - excess[0] <= found.high)
    assert np.mean(covered) >= 0.93
