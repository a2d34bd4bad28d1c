"""Ray runs the same jobs to the same bytes; what dies on it is tried again, alone."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import ENVIRONMENT, actsec, inside, outcomes, result
from safetensors.torch import save_file
from test_gates_and_places import NET, linear

from actsec.errors import Interrupted, PlanError, StoreError
from actsec.planning import plan, reading
from actsec.running import places, preparing, progress, runner, tasks
from actsec.running.executors import DIED_TWICE
from actsec.running.store import Store
from benchmarks.streaming import pictures
from benchmarks.streaming import plan as folder_plan

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'actsec[ray]'")
pytestmark = [
    # Ray leaves sockets and log files of its own to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

DIES = """
    import os, pathlib, signal
    here = pathlib.Path(__file__).parent
    died = len(list(here.glob("died-*")))
    if os.getpid() != int((here / "driver").read_text()) and died < int((here / "deaths").read_text()):
        (here / f"died-{died}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return model
"""


@pytest.fixture(scope="module")
def cluster():
    """A cluster on this machine that the tests share, as a program that uses Ray already would."""
    from actsec.running.ray_executor import _ray

    _ray().init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


def audit(request: plan.Plan, folder: Path, tell=lambda _: None):
    prepared = preparing.prepare(request)
    store = Store.create(folder, prepared.plan, prepared.facts)
    return runner.run_prepared(prepared, store, executor="ray", workers=2, tell=tell), store


def test_ray_and_serial_leave_the_same_bytes(cluster, tiny, finished, tmp_path):
    told = []
    found, store = audit(reading.read(tiny), tmp_path / "run", told.append)
    assert found.status == "complete"
    assert outcomes(store.root) == outcomes(finished)
    assert result(store.root) == result(finished)
    assert ([p.done for p in told][-1], told[-1].total) == (told[-1].total, len(preparing.prepare(store.plan()).jobs))
    assert ray.is_initialized()  # a cluster joined before is left as it is
    report = json.loads((store.root / "report.json").read_text())
    assert report["environment"]["workers_lost"] == 0
    assert report["environment"]["jobs"] == told[-1].total


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_job_whose_worker_dies_is_tried_once_more(deaths, cluster, tmp_path):
    request = reading.read(linear(tmp_path)).having(data=f"{tmp_path}/test.npz", model=f"{tmp_path}/net.py:make")
    text = NET.replace("means.npy", f"{tmp_path}/means.npy").replace("    return model\n", DIES)
    (tmp_path / "net.py").write_text(text)
    (tmp_path / "driver").write_text(str(os.getpid()))
    (tmp_path / "deaths").write_text("0")
    prepared = preparing.prepare(request)
    whole = Store.create(tmp_path / "whole", prepared.plan, prepared.facts)
    runner.run_prepared(prepared, whole, executor="serial", workers=None, tell=lambda _: None)
    (tmp_path / "deaths").write_text(str(deaths))
    told = []
    found, store = audit(request, tmp_path / "run", told.append)
    # The base comes first and alone: its job dies once, or for good, and takes what rests on it along.
    notes = [p.note for p in told if p.note]
    assert notes == [progress.LOST] * (1 if deaths == 1 else len(notes))
    if deaths == 1:
        assert outcomes(store.root) == outcomes(whole.root)
        assert result(store.root) == result(whole.root)
    else:
        assert [p.claim for p in found.problems if p.rule == "ACT-E01"] == [f"A job failed: {DIED_TWICE}"]
        assert found.exit_code == 3
    assert json.loads((store.root / "report.json").read_text())["environment"]["workers_lost"] == deaths


def test_interrupted_on_ray_what_runs_is_stored(cluster, tiny, finished, tmp_path):
    import signal

    def tell(step: progress.Progress) -> None:
        if step.done == 5 and not step.note:
            os.kill(os.getpid(), signal.SIGTERM)

    prepared = preparing.prepare(reading.read(tiny))
    store = Store.create(tmp_path / "run", prepared.plan, prepared.facts)
    with pytest.raises(Interrupted):
        runner.run_prepared(prepared, store, executor="ray", workers=2, tell=tell)
    kept = sum(store.done(job.id) for job in prepared.jobs)
    assert 5 <= kept < len(prepared.jobs)
    runner.run_prepared(prepared, store, executor="serial", workers=None, tell=lambda _: None)
    assert result(store.root) == result(finished)


def test_the_rows_of_an_image_folder_travel_to_workers_that_cannot_read_it(cluster, tmp_path):
    pictures(tmp_path / "photos", 60, 8)
    request = reading.read(folder_plan(tmp_path, tmp_path / "photos", 24)).having(shard=12)
    prepared = preparing.prepare(request)
    store = Store.create(tmp_path / "run", prepared.plan, prepared.facts)
    made = places.make_executor("ray", 2, prepared, store.root)
    made.submit(prepared.jobs[0])
    assert made.next()[1] is None
    attack = next(job for job in prepared.jobs if job.kind == "attack" and job.recipe["rows"] == [12, 24])
    (tmp_path / "photos").rename(tmp_path / "away")
    made.submit(attack)
    assert made.next()[1] is None
    made.close()
    (tmp_path / "away").rename(tmp_path / "photos")
    whole = Store.create(tmp_path / "whole", prepared.plan, prepared.facts)
    for job in (prepared.jobs[0], attack):
        assert tasks.run(job, whole.root, prepared.scene) is None
    assert outcomes(store.root) == outcomes(whole.root)


def test_a_worker_that_raises_is_told(cluster, tiny, tmp_path):
    prepared = preparing.prepare(reading.read(tiny))
    store = Store.create(tmp_path / "run", prepared.plan, prepared.facts)
    made = places.make_executor("ray", 2, prepared, store.root)
    attack = next(job for job in prepared.jobs if job.kind == "attack")
    made.submit(attack)  # without the weights that it needs
    job, error = made.next()
    assert job.id == attack.id
    assert "the weights of" in error
    made.close()


def test_a_worker_with_other_libraries_ends_the_run(cluster, tiny, tmp_path):
    prepared = preparing.prepare(reading.read(tiny))
    made = places.make_executor("ray", 2, prepared, Store.create(tmp_path / "run", prepared.plan, prepared.facts).root)
    made._versions = "actsec 0.0, torch 0.0"
    made.submit(prepared.jobs[0])
    with pytest.raises(StoreError, match=r"a Ray worker has actsec .*, the run began with actsec 0\.0"):
        made.next()
    made.close()


@pytest.mark.slow
def test_a_cluster_elsewhere_is_given_what_the_plan_names(tmp_path, monkeypatch):
    """Workers of a cluster that was started in another directory find a model by its relative path."""
    project = linear(tmp_path / "project").parent
    (tmp_path / "elsewhere").mkdir()
    # A file that the model's code opened by itself would stay here: weights are named by the plan.
    means = torch.from_numpy(np.load(project / "means.npy"))
    save_file({"1.weight": means, "1.bias": torch.zeros(10)}, project / "w.safetensors")
    (project / "net.py").write_text("from shapes import made as make\n")
    (project / "shapes.py").write_text(
        "from torch import nn\n\ndef made():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    (project / "plan.toml").write_text('weights = "w.safetensors"\n' + (project / "plan.toml").read_text())
    here = ray.util.get_node_ip_address()  # a head listens on this address alone, and so is asked there
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A cluster that other machines may reach wants a token: one of its own, told to those who join it.
    for name, value in (("USAGE_STATS_ENABLED", "0"), ("AUTH_MODE", "token"), ("AUTH_TOKEN", secrets.token_hex(32))):
        monkeypatch.setitem(ENVIRONMENT, f"RAY_{name}", value)
    tool = Path(sys.executable).with_name("ray")
    head = [
        tool,
        "start",
        "--head",
        f"--port={port}",
        f"--node-ip-address={here}",
        "--num-cpus=2",
        "--include-dashboard=false",
        "--block",
    ]
    process = subprocess.Popen(
        head, cwd=tmp_path / "elsewhere", env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection((here, port), 0.1):
            break
        time.sleep(0.1)
    try:
        done = actsec(
            "audit", "plan.toml", "--out", "run", "--executor", "ray", "--address", f"{here}:{port}", "--quiet",
            cwd=project,
        )  # fmt: skip
        assert done.returncode in (0, 3), done.stderr
        serial = actsec("audit", "plan.toml", "--out", "serial", "--executor", "serial", "--quiet", cwd=project)
        assert outcomes(project / "run") == outcomes(project / "serial"), done.stderr
        assert done.returncode == serial.returncode
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_what_ray_cannot_do_is_refused(tiny, tmp_path, monkeypatch):
    assert inside("audit", tiny, "--address", "auto", "--out", tmp_path / "run").code == 2
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PlanError, match="Ray is not installed"):
        audit(reading.read(tiny), tmp_path / "run")
