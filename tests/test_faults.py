"""Faults put in on purpose: each is named, gives no verdict that is not deserved, and costs nothing that was done."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import ENVIRONMENT, inside, outcomes, result
from test_gates_and_places import NET, linear

from actsec.errors import StoreError
from actsec.planning import plan, reading
from actsec.running import preparing, progress, runner
from actsec.running.store import Store

FAULTY = """
    return Faulty(model)

class Faulty(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        import os, random
        torch.calls = getattr(torch, "calls", 0) + 1
        FAULT
        return self.inner(x)
"""
QUIET = "pass"


def faulty(folder: Path, fault: str, attack: str = "pgd(steps=3)") -> plan.Plan:
    """A plan whose model does something beside answering, once the environment names it."""
    request = reading.read(linear(folder)).having(eps=0.02, attacks=(plan.Trial(attack),))
    (folder / "net.py").write_text(NET.replace("    return model\n", FAULTY.replace("FAULT", fault)))
    return request


def audited(request: plan.Plan, folder: Path):
    prepared = preparing.prepare(request)
    store = Store.create(folder, prepared.plan, prepared.facts)
    return runner.run_prepared(prepared, store, executor="serial", workers=None, tell=lambda _: None), store


def claims(found, rule: str) -> list[str]:
    return [problem.claim for problem in found.problems if problem.rule == rule]


def test_nan_from_the_700th_batch_on_is_named_and_no_verdict(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "calls", 0, raising=False)
    # The attack alone asks more often than that.
    request = faulty(tmp_path, "x = x * float('nan') if torch.calls >= 700 else x", "pgd(steps=700, loss=margin)")
    found, _ = audited(request, tmp_path / "run")
    assert torch.calls > 700
    assert found.exit_code == 3
    said = " ".join(p.claim for p in found.problems).lower()
    assert "nan" in said or "not finite" in said or "no number" in said, found.problems


@pytest.mark.parametrize(
    ("since", "said"),
    [
        (-1, "forward pass that changes weights"),
        (150, "changed its own weights while it was measured: inner.1.bias"),
    ],
)
def test_changed_weights_are_named_and_no_verdict(since, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "calls", 0, raising=False)
    drift = f"self.inner[1].bias.data.add_(1e-3 if torch.calls > {since} and 'DRIFT' in os.environ else 0.0)"
    request = faulty(tmp_path, drift, "pgd(steps=200, loss=margin)")
    prepared = preparing.prepare(request)
    store = Store.create(tmp_path / "run", prepared.plan, prepared.facts)
    torch.calls = 0
    monkeypatch.setenv("DRIFT", "1")
    found = runner.run_prepared(prepared, store, executor="serial", workers=None, tell=lambda _: None)
    assert found.exit_code == 3
    assert any(said in claim for claim in claims(found, "ACT-E01")), found.problems
    assert not any(store.done(job.id) for job in prepared.jobs if job.kind == "attack")


def test_a_changed_number_of_threads_is_named_and_no_verdict(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    request = faulty(tmp_path, "torch.set_num_threads(3) if not torch.is_grad_enabled() else None")
    found, _ = audited(request, tmp_path / "run")
    assert torch.get_num_threads() == before
    assert found.exit_code == 3
    assert any("changed the number of threads from 1 to 3" in claim for claim in claims(found, "ACT-E01"))


def test_threads_set_where_the_file_is_read_change_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = faulty(tmp_path, QUIET)
    whole, _ = audited(request, tmp_path / "whole")
    (tmp_path / "net.py").write_text("import torch\ntorch.set_num_threads(2)\n" + (tmp_path / "net.py").read_text())
    _, store = audited(request, tmp_path / "run")
    torch.set_num_threads(1)
    assert not claims(whole, "ACT-E01")
    one, other = (json.loads(result(root)) for root in (tmp_path / "whole", store.root))
    (before,), (after,) = one.pop("executed"), other.pop("executed")
    assert before["sha256"] != after["sha256"], "another file, and the report says so"
    assert one == other


@pytest.mark.parametrize(
    ("fault", "name"),
    [("x = x + 1e-4 * float(np.random.rand())", "NumPy"), ("x = x + 1e-4 * random.random()", "Python")],
)
def test_draws_from_a_global_generator_are_repeatable_and_named(fault, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = faulty(tmp_path, fault)
    for number, run in enumerate(("a", "b")):
        prepared = preparing.prepare(request)
        store = Store.create(tmp_path / run, prepared.plan, prepared.facts)
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002  # what a model draws from
        before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        found = runner.run_prepared(prepared, store, executor="serial", workers=None, tell=lambda _: None)
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
        assert claims(found, "ACT-E02") == [f"The model draws from the global generator of {name}"]
    assert outcomes(tmp_path / "a") == outcomes(tmp_path / "b")
    assert result(tmp_path / "a") == result(tmp_path / "b")


def test_a_reseeded_torch_generator_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole, _ = audited(faulty(tmp_path, QUIET), tmp_path / "whole")
    state = torch.random.get_rng_state()
    found, _ = audited(faulty(tmp_path, "torch.manual_seed(0)"), tmp_path / "run")
    assert torch.equal(torch.random.get_rng_state(), state)
    # The file is another, so every id is: what was measured is the same.
    assert (found.variants, found.exit_code) == (whole.variants, whole.exit_code)


def test_permission_lost_mid_run_is_named_and_nothing_done_is_lost(tiny, finished, tmp_path, monkeypatch):
    prepared = preparing.prepare(reading.read(tiny))
    store = Store.create(tmp_path / "run", prepared.plan, prepared.facts)
    real, made = tempfile.mkstemp, []

    def refused(**options):
        made.append(options)
        if len(made) > 20:
            raise PermissionError(13, os.strerror(13))
        return real(**options)

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkstemp", refused)
        with pytest.raises(StoreError, match=r"cannot write the run folder .*Permission denied"):
            runner.run_prepared(prepared, store, executor="serial", workers=None, tell=lambda _: None)
    kept = {job.id for job in prepared.jobs if store.done(job.id)}
    assert 3 < len(kept) < len(prepared.jobs)
    times = {path: path.stat().st_mtime_ns for path in (store.root / "outcomes").iterdir() if path.stem in kept}
    runner.run_prepared(prepared, store, executor="serial", workers=None, tell=lambda _: None)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert (outcomes(store.root), result(store.root)) == (outcomes(finished), result(finished))


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_a_file_that_may_not_grow_is_a_full_disk(executor, tiny, finished, tmp_path):
    """The system itself refuses the write (RLIMIT_FSIZE), in this process and in its workers."""
    limit = sorted(path.stat().st_size for path in (finished / "outcomes").iterdir())[-3] - 1
    command = [sys.executable, "-m", "actsec", "audit", tiny, "--out", tmp_path / "run", "--executor", executor]
    done = subprocess.run(
        [*command, "--workers", "1", "--quiet"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "cannot write the run folder" in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").rglob(".part-*"))
    assert inside("resume", tmp_path / "run", "--executor", "serial", "--quiet").code == 0
    assert outcomes(tmp_path / "run") == outcomes(finished)
    assert result(tmp_path / "run") == result(finished)


def test_deleted_and_truncated_outcomes_are_named_and_measured_again(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    records = sorted((run / "outcomes").glob("*.json"))
    arrays = sorted((run / "outcomes").glob("*.npz"), key=lambda path: path.stem != records[1].stem)
    records[0].unlink()
    records[1].with_suffix(".npz").unlink(missing_ok=True)
    arrays[-1].write_bytes(arrays[-1].read_bytes()[:-7])
    hurt = {records[0].stem, arrays[-1].stem} | ({records[1].stem} if arrays[0].stem == records[1].stem else set())
    prepared, told = preparing.prepare(Store.open(run).plan()), []
    runner.run_prepared(prepared, Store(run), executor="serial", workers=None, tell=told.append)
    (note,) = [p.note for p in told if p.note]
    assert note.startswith(progress.DAMAGED)
    assert {part.rpartition("(")[2].rstrip(")") for part in note.removeprefix(progress.DAMAGED).split("), ")} == hurt
    assert (outcomes(run), result(run)) == (outcomes(finished), result(finished))
    assert json.loads((run / "report.json").read_text())["result"]["status"] == "complete"


def test_a_model_that_leaks_is_named_and_its_numbers_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole, _ = audited(faulty(tmp_path, QUIET), tmp_path / "whole")
    found, _ = audited(faulty(tmp_path, "torch.kept = [*getattr(torch, 'kept', []), x]"), tmp_path / "run")
    monkeypatch.delattr(torch, "kept")
    assert not claims(whole, "ACT-E03")
    (claim,) = claims(found, "ACT-E03")
    assert claim.startswith("The model holds 512 bytes more after each of a few calls")  # two digits of 64 floats
    assert found.exit_code == whole.exit_code
    # Weights and files differ in nothing but the line that keeps.
    assert found.variants == whole.variants


def test_a_model_that_counts_its_calls_and_keeps_what_it_said_is_audited(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fault = "self.calls = getattr(self, 'calls', 0) + 1; self.history = [*getattr(self, 'history', []), x]"
    found, _ = audited(faulty(tmp_path, fault), tmp_path / "run")
    assert not claims(found, "ACT-E01")
    assert len(claims(found, "ACT-E03")) == 1
    assert found.exit_code == 0
