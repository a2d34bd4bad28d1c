"""Where a job runs changes no byte; a worker that dies costs its own job alone; nobody outlives the parent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from runs import ENVIRONMENT, TINY, actsec, inside, outcomes, result

from actsec.errors import PlanError, StoreError, UnknownName
from actsec.running.executors import Processes, Serial
from actsec.types import Job


def work(job: Job, root: Path) -> str | None:
    """What a worker does, by the job's kind."""
    if job.kind == "fail":
        raise RuntimeError("no")
    if job.kind == "full":
        raise StoreError("no space", "make some")
    if job.kind == "sleep":
        (root / f"{job.id}.pid").write_text(str(os.getpid()))
        time.sleep(300)
    marker = root / f"{job.id}.died"
    if job.kind == "die" or (job.kind == "die once" and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if job.kind == "deaf":
        return str(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    (root / f"{job.id}.done").touch()
    return "an error" if job.kind == "error" else None


def jobs(*kinds: str) -> list[Job]:
    return [Job(f"{kind}-{i}", kind, {}) for i, kind in enumerate(kinds)]


def run(executor, some: list[Job]) -> dict[str, str | None]:
    """Everything submitted at once, taken as it comes; no job may come twice."""
    for job in some:
        executor.submit(job)
    found: dict[str, str | None] = {}
    for _ in some:
        job, error = executor.next()
        assert job.id not in found
        found[job.id] = error
    executor.close()
    return found


@pytest.mark.parametrize("make", [Serial, partial(Processes, workers=2)])
def test_every_job_comes_back_once_with_its_error(make, tmp_path):
    found = run(make(work, tmp_path), jobs("ok", "error", "ok", "ok"))
    assert found == {"ok-0": None, "error-1": "an error", "ok-2": None, "ok-3": None}
    assert len(list(tmp_path.glob("*.done"))) == 4


def test_a_raised_error_is_told_and_a_full_disk_stops(tmp_path):
    executor = Processes(work, tmp_path, 1)
    executor.submit(jobs("fail")[0])
    assert executor.next()[1] == "RuntimeError: no"
    executor.submit(jobs("full")[0])
    with pytest.raises(StoreError, match="no space"):
        executor.next()
    executor.close()


def test_workers_never_hear_ctrl_c(tmp_path):
    assert run(Processes(work, tmp_path, 1), jobs("deaf")) == {"deaf-0": "True"}


def test_a_worker_killed_once_is_replaced_and_its_job_done(tmp_path):
    executor = Processes(work, tmp_path, 2)
    found = run(executor, jobs("ok", "die once", "ok", "ok", "ok", "ok"))
    assert set(found.values()) == {None}
    assert len(found) == 6
    assert executor.lost == 1


def test_a_job_that_always_kills_its_worker_fails_alone(tmp_path):
    executor = Processes(work, tmp_path, 2)
    found = run(executor, jobs("ok", "die", "ok", "ok", "die", "ok", "ok"))
    assert "died twice" in found.pop("die-1")
    assert "died twice" in found.pop("die-4")
    assert set(found.values()) == {None}
    assert len(found) == 5


def alive(pid: int) -> bool:
    """Whether a process runs: a zombie nobody waits for does not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def gone(pids: list[int]) -> bool:
    for _ in range(600):
        if not any(map(alive, pids)):
            return True
        time.sleep(0.05)
    return False


def worker_pids(root: Path, count: int) -> list[int]:
    for _ in range(1200):
        texts = [path.read_text() for path in root.glob("*.pid")]
        if len(texts) == count and all(texts):
            return [int(text) for text in texts]
        time.sleep(0.05)
    raise AssertionError("the workers never began")


def test_closing_with_kill_ends_running_jobs(tmp_path):
    executor = Processes(work, tmp_path, 2)
    for job in jobs("sleep", "sleep"):
        executor.submit(job)
    pids = worker_pids(tmp_path, 2)
    executor.close(kill=True)
    assert gone(pids)


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    code = (
        "from pathlib import Path\n"
        "import test_executors as t\n"
        "if __name__ == '__main__':\n"
        f"    executor = t.Processes(t.work, Path({str(tmp_path)!r}), 2)\n"
        "    [executor.submit(job) for job in t.jobs('sleep', 'sleep')]\n"
        "    executor.next()\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    path = f"{ENVIRONMENT['PYTHONPATH']}:{Path(__file__).parent}"
    parent = subprocess.Popen([sys.executable, script], env={**ENVIRONMENT, "PYTHONPATH": path})
    pids = worker_pids(tmp_path, 2)
    assert all(map(alive, pids))
    parent.kill()
    parent.wait()
    assert gone(pids)


def test_processes_and_serial_leave_the_same_bytes(tiny, finished, tmp_path):
    done = actsec("audit", tiny, "--out", tmp_path / "run", "--workers", 2, "--quiet")
    assert done.returncode == 0, done.stderr
    assert outcomes(tmp_path / "run") == outcomes(finished)
    assert result(tmp_path / "run") == result(finished)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert set(report) == {"result", "environment"}
    assert report["environment"]["workers_lost"] == 0


NET = """
import os, signal
from multiprocessing import parent_process
from pathlib import Path
import torch
from torch import nn

def make():
    marker = Path(__file__).with_suffix(".died")
    if parent_process() is not None and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        model[1].weight.copy_(torch.load(Path(__file__).with_name("w.pt"), weights_only=True))
        model[1].bias.zero_()
    return model
"""


def test_a_worker_killed_by_the_model_is_told_and_changes_nothing(tmp_path):
    import torch

    from actsec.data import load

    digits = load("digits").train
    means = torch.stack([torch.from_numpy(digits.x[digits.y == c]).mean(0).flatten() for c in range(10)])
    torch.save(means - means.mean(0), tmp_path / "w.pt")
    (tmp_path / "net.py").write_text(NET)
    text = TINY.replace("reference:mlp(width=[8])", f"{tmp_path}/net.py:make").replace('activations = ["relu"]', "")
    (tmp_path / "plan.toml").write_text(text)
    serial = inside("audit", tmp_path / "plan.toml", "--out", tmp_path / "a", "--executor", "serial")
    killed = actsec("audit", tmp_path / "plan.toml", "--out", tmp_path / "b", "--workers", 1)
    assert (tmp_path / "net.died").exists()
    assert serial.code == killed.returncode, killed.stderr
    assert "a worker died" in killed.stderr
    assert "a worker died" not in serial.err
    assert outcomes(tmp_path / "a") == outcomes(tmp_path / "b")
    assert result(tmp_path / "a") == result(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "report.json").read_text())["environment"]["workers_lost"] == 1


def test_an_unknown_executor_and_objects_in_workers_are_refused(finished):
    from actsec.running import places, preparing, scene
    from actsec.running.store import Store

    prepared = preparing.prepare(Store.open(finished).plan())
    with pytest.raises(UnknownName, match="executor"):
        places.make_executor("threads", None, prepared, finished)
    held = preparing.Prepared(
        scene.Scene(prepared.plan, prepared.scene.splits, (), scene.Given(splits=prepared.scene.splits)),
        prepared.facts,
        (),
    )
    with pytest.raises(PlanError, match="stays in this process"):
        places.make_executor("processes", 1, held, finished)
