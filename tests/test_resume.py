"""Nothing finished is lost: kill -9 and Ctrl-C at any moment, then resume, and the result is the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import ENVIRONMENT, TINY, actsec, outcomes, result

from actsec import errors
from actsec.planning import reading
from actsec.running import executing, finishing, preparing, progress, runner
from actsec.running.store import Store

LONGER = TINY.replace("samples = 8", "samples = 240").replace("shard = 4", "shard = 20").replace("steps=3", "steps=20")


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command line in a process group of its own."""
    command = [sys.executable, "-m", "actsec", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT, start_new_session=True)


def stored(folder: Path) -> dict[Path, int]:
    """Every finished outcome and when it was written."""
    store = Store(folder)
    found = (folder / "outcomes").glob("[!.]*.json") if folder.exists() else ()
    return {path: path.stat().st_mtime_ns for path in found if store.done(path.stem)}


def wait_for(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    while len(list((folder / "outcomes").glob("[!.]*.json"))) < count and process.poll() is None:
        time.sleep(0.002)


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9 for the whole group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_killed_three_times_and_resumed(tiny, finished, tmp_path):
    run, dice = tmp_path / "run", random.Random(0)
    for count in (dice.randint(1, 4), dice.randint(8, 16), dice.randint(20, 26)):
        process = start("audit", tiny, "--out", run, "--executor", "serial", "--quiet")
        before = stored(run)
        wait_for(run, count, process)
        kill(process)
        after = stored(run)
        assert {path: after[path] for path in before} == before
        assert len(after) >= count
    kept = stored(run)
    assert len(kept) < len(stored(finished))
    resumed = actsec("resume", run, "--executor", "serial", "--quiet")
    assert resumed.returncode == 0, resumed.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert outcomes(run) == outcomes(finished)
    assert result(run) == result(finished)
    assert not list(run.rglob(".part-*"))


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_killed_twenty_times_and_resumed(executor, tmp_path):
    (tmp_path / "plan.toml").write_text(LONGER)
    undisturbed = actsec(
        "audit", tmp_path / "plan.toml", "--out", tmp_path / "whole", "--executor", "serial", "--quiet"
    )
    assert undisturbed.returncode == 0, undisturbed.stderr
    every, run, dice = len(stored(tmp_path / "whole")), tmp_path / "run", random.Random(1)
    for i in range(20):
        process = start("audit", tmp_path / "plan.toml", "--out", run, "--executor", executor, "--quiet")
        before = stored(run)
        if i % 4:
            wait_for(run, min(len(before) + dice.randint(1, every // 20), every - 1), process)
        time.sleep(dice.random() * (0.1 if i % 4 else 2.0))
        kill(process)
        after = stored(run)
        assert {path: after[path] for path in before} == before
    kept = stored(run)
    assert 0 < len(kept) <= every
    resumed = actsec("resume", run, "--quiet")
    assert resumed.returncode == 0, resumed.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert outcomes(run) == outcomes(tmp_path / "whole")
    assert result(run) == result(tmp_path / "whole")


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(executor, tmp_path):
    (tmp_path / "plan.toml").write_text(LONGER)
    run = tmp_path / "run"
    process = start("audit", tmp_path / "plan.toml", "--out", run, "--executor", executor, "--workers", 1)
    wait_for(run, 6, process)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert f"actsec resume {run}" in said
    assert "what is known so far" in said
    assert "Traceback" not in said
    found = Store(run)
    kept = stored(run)
    assert 6 <= len(kept) < len(preparing.prepare(found.plan()).jobs)
    assert '"status": "partial"' in (run / "report.json").read_text()
    assert "not finished" in (run / "report.html").read_text()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_second_ctrl_c_while_the_first_is_answered_ends_the_workers(finished, tmp_path):
    class Interrupted:
        """Workers whose first job never ends."""

        here, lost = False, 0
        closed: tuple[bool, ...] = ()

        def submit(self, job):
            pass

        def next(self):
            raise KeyboardInterrupt

        def close(self, *, kill=False):
            self.closed = (*self.closed, kill)

    def tell(step):
        if step.note == progress.STOPPING:
            raise KeyboardInterrupt

    run, executor = tmp_path / "run", Interrupted()
    shutil.copytree(finished, run)
    next((run / "outcomes").glob("*.json")).unlink()
    prepared = preparing.prepare(Store.open(run).plan())
    with pytest.raises(errors.Interrupted, match="every finished job is stored"):
        executing.execute(prepared, Store(run), executor, tell)
    assert executor.closed == (True,)


def test_interrupted_while_reading_nothing_is_lost_and_nothing_is_said_wrong(tiny, tmp_path):
    process = start("audit", tiny, "--out", tmp_path / "run")
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode in (130, -signal.SIGINT), said


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.3, 0.6, 0.97])
def test_a_partial_report_can_be_written_at_any_moment(share, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    prepared = preparing.prepare(Store.open(run).plan())
    every = prepared.jobs
    for job in every[round(share * len(every)) :]:
        (run / "outcomes" / f"{job.id}.json").unlink()
    found = finishing.finish(prepared, Store(run), complete=False)
    assert found.status == "partial"
    assert found.exit_code == 3
    assert found.not_done
    assert "not finished" in found.headline[0]
    assert '"partial"' in (run / "report.json").read_text()


def test_failed_jobs_are_tried_again(tiny, finished, tmp_path, monkeypatch):
    from actsec.running import tasks

    def broken(job, loaded, store):
        raise RuntimeError("not today")

    with monkeypatch.context() as patch:
        patch.setitem(tasks._KINDS, "probe", broken)
        found, store = runner.audit(reading.read(tiny), tmp_path / "run", executor="serial")
    assert found.status == "partial"
    assert found.exit_code == 3
    assert any(p.rule == "ACT-E01" and "RuntimeError: not today" in p.claim for p in found.problems)
    kept = stored(store.root)
    prepared = preparing.prepare(store.plan())
    again = runner.run_prepared(prepared, store, executor="serial", workers=None, tell=lambda _: None)
    assert again.status == "complete"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert result(tmp_path / "run") == result(finished)


def test_what_rests_on_a_failed_job_is_not_run(tiny, tmp_path, monkeypatch):
    from actsec.running import tasks

    def broken(job, loaded, store):
        raise RuntimeError("no model")

    told = []
    monkeypatch.setitem(tasks._KINDS, "base", broken)
    prepared = preparing.prepare(reading.read(tiny))
    store = Store.create(tmp_path / "run", prepared.plan, prepared.facts)
    found = runner.run_prepared(prepared, store, executor="serial", workers=None, tell=told.append)
    assert len(list((store.root / "outcomes").iterdir())) == 1
    assert [p.error for p in told if p.error] == [
        f"RuntimeError: no model (test_resume.py:{broken.__code__.co_firstlineno + 1})"
    ]
    assert (told[-1].done, told[-1].total) == (len(prepared.jobs), len(prepared.jobs))
    assert found.exit_code == 3
    assert "could not be audited" in found.headline[1]
