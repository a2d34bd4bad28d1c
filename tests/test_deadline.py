"""A job that hangs fails alone and by name; SIGTERM and Ctrl-C let what is running finish."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest
from runs import outcomes, result
from test_executors import jobs, work
from test_executors import run as run_jobs
from test_gates_and_places import NET, linear

from actsec.errors import BadOption, Interrupted, NoVerdict, PlanError
from actsec.planning import reading
from actsec.running import executors, preparing, progress, runner, tasks
from actsec.running.deadline import TimedOut, deadline
from actsec.running.executors import Processes
from actsec.running.store import Store

LIMIT = 12.0
"""Seconds: far more than any job of these plans takes on a busy machine."""

HANGS_ONCE = """
    return Hanging(model)

class Hanging(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        from multiprocessing import parent_process
        import pathlib, time
        marker = pathlib.Path("hung")
        if pathlib.Path("hang").read_text() == "now" and len(x) > 32 and not marker.exists():
            marker.touch()
            while True:
                try:
                    time.sleep(300)
                except Exception:
                    pass
        return self.inner(x)
"""


def test_the_block_ends_and_everything_is_put_back():
    def swallow() -> None:
        while True:
            with contextlib.suppress(Exception):  # a model that goes on whatever happens
                time.sleep(30)

    handler, (outer, _) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    with pytest.raises(TimedOut), deadline(0.05):
        swallow()
    with deadline(30.0), deadline(None):
        pass
    assert signal.getsignal(signal.SIGALRM) is handler
    # pytest's own limit on this test still runs.
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (outer > 0)


def test_elsewhere_than_in_the_main_thread_a_limit_is_refused():
    found = []

    def inside() -> None:
        try:
            with deadline(1.0):
                found.append("ran")
        except PlanError as problem:
            found.append(problem.problem)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == ["--timeout 1: only the main thread of a process can be interrupted"]


def test_a_limit_of_nothing_is_refused(tiny):
    with pytest.raises(BadOption, match="timeout = 0"):
        preparing.prepare(reading.read(tiny).having(timeout=0.0))


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_a_model_that_hangs_fails_its_job_alone(executor, tmp_path, monkeypatch):
    request = reading.read(linear(tmp_path))
    (tmp_path / "net.py").write_text(NET.replace("    return model\n", HANGS_ONCE))
    (tmp_path / "hang").write_text("never")
    monkeypatch.chdir(tmp_path)
    prepared = preparing.prepare(request.having(timeout=LIMIT))
    store = Store.create(tmp_path / "run", prepared.plan, prepared.facts)
    (tmp_path / "hang").write_text("now")
    told = []
    found = runner.run_prepared(prepared, store, executor=executor, workers=1, tell=told.append)
    assert (tmp_path / "hung").exists()
    (failed,) = [p for p in told if p.error]
    assert "did not end within 12 s (--timeout)" in failed.error
    assert [p.rule for p in found.problems if "did not end within" in p.claim] == ["ACT-E01"]
    assert (found.status, found.exit_code) == ("partial", 3)
    assert sum(store.done(job.id) for job in prepared.jobs) == len(prepared.jobs) - 1
    # It hung once: resumed, the run is what it would have been.
    again = runner.run_prepared(prepared, store, executor="serial", workers=None, tell=told.append)
    assert again.status == "complete"
    whole = Store.create(tmp_path / "whole", prepared.plan, prepared.facts)
    runner.run_prepared(prepared, whole, executor="serial", workers=None, tell=told.append)
    assert outcomes(store.root) == outcomes(whole.root)
    assert result(store.root) == result(whole.root)


def test_a_model_that_hangs_at_first_sight_gives_no_verdict(tmp_path, monkeypatch):
    request = reading.read(linear(tmp_path))
    (tmp_path / "net.py").write_text(NET.replace("    return model\n", HANGS_ONCE.replace("len(x) > 32 and ", "")))
    (tmp_path / "hang").write_text("now")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoVerdict, match="did not end within 1 s"):
        preparing.prepare(request.having(timeout=1.0))


def test_a_worker_that_cannot_be_interrupted_is_killed_and_the_others_jobs_are_done(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "GRACE", 0.0)
    found = run_jobs(Processes(work, tmp_path, 2, timeout=LIMIT), jobs("ok", "sleep", "ok", "ok"))
    assert "did not end within 12 s" in found.pop("sleep-1")
    assert set(found.values()) == {None}
    assert len(found) == 3


def test_what_a_dead_worker_had_is_a_named_finding(tiny, tmp_path, monkeypatch):
    class Dead:
        here, lost = True, 1

        def __init__(self) -> None:
            self.queue = []

        def submit(self, job):
            self.queue.append(job)

        def next(self):
            return self.queue.pop(), "its worker died twice"

        def close(self, *, kill=False):
            self.queue.clear()

    monkeypatch.setattr(runner, "make_executor", lambda *_: Dead())
    prepared = preparing.prepare(reading.read(tiny))
    store = Store.create(tmp_path / "run", prepared.plan, prepared.facts)
    found = runner.run_prepared(prepared, store, executor="processes", workers=1, tell=lambda _: None)
    assert [p.claim for p in found.problems if p.rule == "ACT-E01"][:1] == ["A job failed: its worker died twice"]
    assert found.exit_code == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_job_finish(number, tiny, finished, tmp_path, monkeypatch):
    real, told = tasks._KINDS["probe"], []

    def signalled(job, loaded, store):
        os.kill(os.getpid(), number)
        return real(job, loaded, store)

    prepared = preparing.prepare(reading.read(tiny))
    store = Store.create(tmp_path / "run", prepared.plan, prepared.facts)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setitem(tasks._KINDS, "probe", signalled)
        with pytest.raises(Interrupted, match="what is known so far"):
            runner.run_prepared(prepared, store, executor="serial", workers=None, tell=told.append)
    assert signal.getsignal(number) is before
    assert [p.note for p in told if p.note] == [progress.STOPPING]
    probe = next(job for job in prepared.jobs if job.kind == "probe")
    assert store.done(probe.id)
    assert 0 < sum(store.done(job.id) for job in prepared.jobs) < len(prepared.jobs)
    assert '"status": "partial"' in (store.root / "report.json").read_text()
    runner.run_prepared(prepared, store, executor="serial", workers=None, tell=told.append)
    assert result(store.root) == result(finished)


def test_a_second_signal_ends_the_running_job(tiny, tmp_path, monkeypatch):
    def signalled(job, loaded, store):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        raise AssertionError("never reached")

    monkeypatch.setitem(tasks._KINDS, "probe", signalled)
    prepared = preparing.prepare(reading.read(tiny))
    store = Store.create(tmp_path / "run", prepared.plan, prepared.facts)
    with pytest.raises(Interrupted):
        runner.run_prepared(prepared, store, executor="serial", workers=None, tell=lambda _: None)
    assert not store.done(next(job for job in prepared.jobs if job.kind == "probe").id)
