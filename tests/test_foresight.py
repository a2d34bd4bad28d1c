"""Predicted costs: from a few images to all of them, and the threads that workers take."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from runs import inside
from test_gates_and_places import linear

from actsec.errors import PlanError
from actsec.planning import foresight, plan, reading
from actsec.planning.foresight import Pace, forecast
from actsec.planning.plan import Plan
from actsec.running import places, preparing, runner
from actsec.running.store import Store
from benchmarks.many_jobs import ROLES

THREADS = """
    import os, pathlib
    pathlib.Path({folder!r}, f"{{os.getpid()}}-{{torch.get_num_threads()}}").touch()
    return model
"""


def test_passes_follow_from_the_first_images_exactly_where_all_cost_the_same(tmp_path, monkeypatch):
    request = reading.read(linear(tmp_path))
    monkeypatch.chdir(tmp_path)
    trials = tuple(plan.Trial(attack, "", 40, role) for attack, role in ROLES.items())
    prepared = preparing.prepare(request.having(samples=40, attacks=trials, defenses=()))
    few, every = forecast(prepared, 8), forecast(prepared, 40)
    store = Store.create(tmp_path / "run", prepared.plan, prepared.facts)
    runner.run_prepared(prepared, store, executor="serial", workers=None, tell=lambda _: None)
    taken = sum(cost["passes"] for cost in store.costs().values() if cost["kind"] == "attack")
    assert every.passes == taken
    assert every.spread == 0
    assert abs(few.passes - taken) <= 0.3 * taken
    assert taken <= few.at_most
    told = json.loads((store.root / "report.json").read_text())["environment"]["passes"]
    assert told == {"attacks": taken, "attacks, had nothing stopped early": few.at_most}


def test_a_job_of_more_rows_costs_what_its_calls_cost():
    # Ten questions of one candidate each, of four images that all stand: calls are filled up to 32 rows.
    arrays = {"forwards": np.full(4, 10), "trace": np.zeros((4, 10, 3))}
    pace = Pace(call=1.0, row=0.5, ready=2.0)
    assert foresight._of_shard(arrays, 2.0 + 10 * (1 + 16), pace, 32) == pytest.approx(2 + 10 * 17)
    assert foresight._of_shard(arrays, 2.0 + 10 * (1 + 16), pace, 64) == pytest.approx(2 + 10 * (1 + 32))
    # Half of them stop after the first: of 128 images 64 go on.
    arrays = {"forwards": np.array([1, 1, 10, 10]), "trace": np.zeros((4, 10, 3))}
    expected = 2 + (1 + 64) + 9 * (1 + 32)
    assert foresight._of_shard(arrays, 2.0 + 10 * 17, pace, 128) == pytest.approx(expected)


def test_models_that_are_trained_in_the_run_have_no_forecast():
    with pytest.raises(PlanError, match="trained in the run"):
        forecast(SimpleNamespace(plan=Plan(), scene=None))


def test_the_printed_plan_stays_a_plan_and_the_forecast_is_beside_it(tmp_path, monkeypatch):
    place = linear(tmp_path)
    monkeypatch.chdir(tmp_path)
    said = inside("audit", place, "--samples", "8", "--attacks", "fgsm", "--print-plan")
    assert said.code == 0
    (tmp_path / "again.toml").write_text(said.out)
    assert reading.read(tmp_path / "again.toml").attacks
    assert "passes of one image" in said.err
    quiet = inside("audit", place, "--samples", "8", "--attacks", "fgsm", "--print-plan", "--quiet")
    assert (quiet.out, quiet.err) == (said.out, "")


def test_workers_take_the_threads_of_the_plan_and_no_more_cores_than_there_are(tmp_path, monkeypatch):
    place = linear(tmp_path)
    (tmp_path / "seen").mkdir()
    code = (tmp_path / "net.py").read_text()
    (tmp_path / "net.py").write_text(code.replace("    return model\n", THREADS.format(folder=str(tmp_path / "seen"))))
    monkeypatch.chdir(tmp_path)
    for threads in (1, 2):
        prepared = preparing.prepare(reading.read(place).having(threads=threads, samples=8, shard=4))
        assert places.workers_here(prepared.plan) * threads <= max(os.cpu_count() or 1, threads)
        for old in (tmp_path / "seen").iterdir():
            old.unlink()
        store = Store.create(tmp_path / f"run{threads}", prepared.plan, prepared.facts)
        runner.run_prepared(prepared, store, executor="processes", workers=None, tell=lambda _: None)
        seen = {tuple(map(int, file.name.split("-"))) for file in (tmp_path / "seen").iterdir()}
        theirs = {pair for pair in seen if pair[0] != os.getpid()}
        assert {count for _, count in theirs} == {threads}
        assert len({process for process, _ in theirs}) * threads <= max(os.cpu_count() or 1, threads)
