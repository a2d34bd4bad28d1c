"""What the benchmark of trained defenses says of its numbers."""

import json

import pytest

from benchmarks.training import Room, t_interval, verdict


def test_the_interval_over_seeds_is_students():
    mean, low, high = t_interval([0.01, 0.02, 0.03])
    half = 4.302652729911275 * 0.01 / 3**0.5  # t(0.975, 2) * s / sqrt(n)
    assert (mean, low, high) == pytest.approx((0.02, 0.02 - half, 0.02 + half))
    wider = t_interval([0.01, 0.02, 0.03], comparisons=4)
    assert wider[2] - wider[1] > high - low


def test_a_verdict_needs_an_interval_on_one_side():
    assert verdict((0.1, 0.01, 0.2)) == "more robust than relu"
    assert verdict((-0.1, -0.2, -0.01)) == "less robust than relu"
    assert verdict((0.1, -0.01, 0.3)) == "no detectable difference"


def test_what_is_stored_is_not_made_again(tmp_path):
    made = []
    for _ in range(2):
        found = Room(tmp_path).once("one", lambda: made.append(1) or {"value": 3})
        assert found == {"value": 3}
    assert made == [1]
    assert json.loads((tmp_path / "training.json").read_text()) == {"one": {"value": 3}}
