"""The run folder: whole or absent, one plan a folder, and what cannot be written said in words."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from runs import inside, outcomes, result

from actsec.errors import StoreError
from actsec.planning import reading
from actsec.planning.plan import Facts, Plan
from actsec.running import preparing, runner
from actsec.running.store import Store
from actsec.types import Outcome

FACTS = Facts(model="m", test="t", train="tr", calibration="c", classes=("a", "b"))
PLAN = Plan(activations=("relu",), defenses=(), samples=4, eps=0.1)
OUTCOME = Outcome("a1", {"n": 3, "text": "é"}, {"x": np.arange(6.0).reshape(2, 3), "a": np.array([True, False])})


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.create(tmp_path / "run", PLAN, FACTS)


def test_an_outcome_reads_back(store):
    store.put(OUTCOME, {"seconds": 1.0})
    found = store.get("a1")
    assert (found.numbers, found.error) == (OUTCOME.numbers, None)
    assert list(found.arrays) == ["a", "x"]
    for name, array in OUTCOME.arrays.items():
        assert np.array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype
    assert store.done("a1")
    assert store.costs() == {"a1": {"seconds": 1.0}}
    assert store.plan() == PLAN
    assert store.facts() == FACTS


def test_equal_outcomes_are_equal_bytes_whatever_the_order_of_arrays(store, tmp_path):
    store.put(OUTCOME, {})
    first = outcomes(store.root)
    store.put(Outcome("a1", OUTCOME.numbers, dict(reversed(OUTCOME.arrays.items()))), {"seconds": 5})
    assert outcomes(store.root) == first


def test_an_error_is_kept_and_tried_again(store):
    store.put(Outcome("a1", {}, error="it broke"), {})
    assert store.get("a1").error == "it broke"
    assert not store.done("a1")


def test_nothing_is_left_behind_but_whole_files(store):
    store.put(OUTCOME, {})
    assert sorted(p.name for p in store.root.rglob("*") if p.is_file()) == [
        "a1.json", "a1.json", "a1.npz", "plan.toml", "run.json",
    ]  # fmt: skip


@pytest.mark.parametrize("cut", [0, 1, 17, -1])
@pytest.mark.parametrize("name", ["a1.npz", "a1.json"])
def test_a_truncated_file_is_no_outcome(store, name, cut):
    store.put(OUTCOME, {})
    path = store.root / "outcomes" / name
    # The last byte of the json is a line end, which nothing is said by.
    path.write_bytes(path.read_bytes()[: cut if cut >= 0 else -2])
    assert store.get("a1") is None
    assert not store.done("a1")


@pytest.mark.parametrize(
    "record", [{}, [], {"job": "other"}, {"job": "a1"}, {"job": "a1", "numbers": {}, "error": None}]
)
def test_a_record_of_something_else_is_no_outcome(store, record):
    store.put(OUTCOME, {})
    (store.root / "outcomes" / "a1.json").write_text(json.dumps(record))
    assert store.get("a1") is None
    assert not store.done("a1")


def test_changed_or_missing_arrays_are_no_outcome(store):
    store.put(OUTCOME, {})
    path = store.root / "outcomes" / "a1.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert store.get("a1") is None
    path.unlink()
    assert store.get("a1") is None


def test_numbers_that_are_none_are_refused_before_anything_is_written(store):
    with pytest.raises(ValueError, match="Out of range float"):
        store.put(Outcome("a1", {"n": float("nan")}, OUTCOME.arrays), {})
    assert not list((store.root / "outcomes").iterdir())


def test_a_folder_holds_one_plan(store):
    assert Store.create(store.root, PLAN, FACTS) == store
    with pytest.raises(StoreError, match="its plan differs"):
        Store.create(store.root, PLAN.having(seed=1), FACTS)
    with pytest.raises(StoreError, match="its test changed since"):
        Store.create(store.root, PLAN, Facts(model="m", test="other", train="tr", calibration="c", classes=("a", "b")))


def test_a_model_that_moved_is_found_where_it_is(store):
    Store.create(store.root, PLAN.having(data="/elsewhere.npz"), FACTS)
    assert store.plan().data == "/elsewhere.npz"


def test_a_folder_without_its_plan_is_refused(store):
    store.put(OUTCOME, {})
    (store.root / "run.json").unlink()
    with pytest.raises(StoreError, match=r"no run\.json"):
        Store.create(store.root, PLAN, FACTS)
    with pytest.raises(StoreError, match=r"run\.json is missing or damaged"):
        store.facts()
    (store.root / "plan.toml").unlink()
    with pytest.raises(StoreError, match="not a run folder"):
        Store.open(store.root)


def test_killed_before_the_first_outcome(store):
    (store.root / "run.json").unlink()
    (store.root / "outcomes" / ".part-abc").write_text("half")
    assert Store.create(store.root, PLAN, FACTS).facts() == FACTS


def test_two_audits_never_share_a_folder_and_rubbish_is_cleared(store):
    (store.root / "outcomes" / ".part-abc").write_text("half")
    with store.held():
        assert not list(store.root.rglob(".part-*"))
        with pytest.raises(StoreError, match="another audit is working"), Store(store.root).held():
            pass
    with store.held():
        pass


def test_a_full_disk_is_said_and_leaves_nothing_half(store, monkeypatch):
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device") as problem:
        store.put(OUTCOME, {})
    assert "finished jobs are kept" in problem.value.mend
    assert not list((store.root / "outcomes").iterdir())


def test_a_full_disk_stops_the_audit(tiny, tmp_path, monkeypatch):
    prepared = preparing.prepare(reading.read(tiny))
    store = Store.create(tmp_path / "run", prepared.plan, prepared.facts)
    real = os.fsync
    written = []

    def full(handle: int) -> None:
        written.append(handle)
        if len(written) > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        runner.run_prepared(prepared, store, executor="serial", workers=None, tell=lambda _: None)
    # three files a job, and states of a training where that takes long
    assert 1 <= len(list((store.root / "outcomes").glob("*.json"))) <= 2


def test_a_folder_that_cannot_be_made(tiny):
    refused = inside("audit", tiny, "--out", "/dev/null/run")
    assert refused.code == 2
    assert "error: cannot write the run folder /dev/null/run: Not a directory" in refused.err
    assert "--out" in refused.err
    assert not refused.out


def test_damage_is_mended_by_resuming(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = outcomes(run)
    arrays = sorted((run / "outcomes").glob("*.npz"))
    records = sorted((run / "outcomes").glob("*.json"))
    arrays[0].write_bytes(arrays[0].read_bytes()[:100])
    records[-1].write_text('{"job":')
    whole = {
        p: p.stat().st_mtime_ns
        for p in (run / "outcomes").iterdir()
        if p.stem not in (arrays[0].stem, records[-1].stem)
    }
    prepared = preparing.prepare(Store.open(run).plan())
    runner.run_prepared(prepared, Store(run), executor="serial", workers=None, tell=lambda _: None)
    assert outcomes(run) == before
    assert result(run) == result(finished)
    assert {path: path.stat().st_mtime_ns for path in whole} == whole


def test_a_foreign_plan_in_the_folder_exits_2(finished, tiny):
    refused = inside("audit", tiny, "--seed", "1", "--out", finished)
    assert refused.code == 2
    assert "holds another run" in refused.err
    assert "Give another --out" in refused.err


def test_data_that_changes_under_a_run_is_refused(tmp_path, tiny):
    from actsec.running import run_scene

    x = np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)
    path = tmp_path / "test.npz"
    np.savez(path, x=x, y=np.arange(40) % 10)
    np.savez(tmp_path / "train.npz", x=x[::-1], y=np.arange(40) % 10)
    request = reading.read(tiny).having(data=str(path), train=str(tmp_path / "train.npz"), defenses=())
    prepared = preparing.prepare(request)
    root: Path = Store.create(tmp_path / "run", prepared.plan, prepared.facts).root
    run_scene.of_run.cache_clear()
    assert len(run_scene.of_run(root).test) == 40
    np.savez(path, x=x[:39], y=np.arange(39) % 10)
    run_scene.of_run.cache_clear()
    with pytest.raises(Exception, match="the test data changed since the run began"):
        run_scene.of_run(root)
    run_scene.of_run.cache_clear()
