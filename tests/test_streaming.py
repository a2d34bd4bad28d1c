"""Image folders are read row by row, to the numbers they would have in memory; workers read what they need."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from runs import inside, outcomes, result

from actsec.data import check, fingerprint, from_arrays, load, sample, split
from actsec.data.folders import again, kept
from actsec.data.streamed import Streamed, row_ids
from actsec.errors import DataError
from actsec.planning import jobs
from actsec.planning.plan import Plan, Trial
from actsec.running import preparing, run_scene, scene
from actsec.running.agenda import Agenda
from actsec.running.store import Store
from actsec.types import Job
from benchmarks.streaming import audited, pictures, plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("pictures") / "photos"
    pictures(place, 120, 8)
    return place


@pytest.fixture
def both(folder):
    """The folder as it is read, and the same images in memory."""
    streamed = load(str(folder))
    files = sorted((folder / "bright").iterdir()) + sorted((folder / "dark").iterdir())
    pixels = np.stack([np.moveaxis(np.asarray(Image.open(file)), 2, 0) for file in files])
    return streamed, from_arrays(pixels, streamed.y, classes=streamed.classes)


def test_streamed_rows_are_those_in_memory_by_every_index(both):
    streamed, whole = both
    assert isinstance(streamed.x, Streamed)
    for index in (0, -1, slice(3, 9), slice(None, None, 7), [5, 2, 5], np.array([110])):
        np.testing.assert_array_equal(streamed.x[index], whole.x[index])
    np.testing.assert_array_equal(streamed.whole(), whole.x)
    np.testing.assert_array_equal(streamed.ids, whole.ids)
    assert streamed.x.shape == whole.x.shape
    assert fingerprint(streamed) == fingerprint(whole)
    assert (streamed.grid, streamed.bounds) == (whole.grid, whole.bounds)
    check(streamed, 2, (3, 8, 8))


def test_samples_and_splits_are_the_same_rows(both):
    streamed, whole = both
    for mine, theirs in (
        (sample(streamed, 30, seed=4), sample(whole, 30, seed=4)),
        *zip(split(streamed, (0.7, 0.3), 1), split(whole, (0.7, 0.3), 1), strict=True),
    ):
        np.testing.assert_array_equal(mine.x[:], theirs.x)
        np.testing.assert_array_equal(row_ids(mine.x[:]), mine.ids)


def test_what_a_worker_is_told_reads_the_same_rows(both):
    taken = sample(both[0], 20, seed=1)
    arrays = kept(taken)
    told = again(arrays)
    np.testing.assert_array_equal(told.x[:], taken.x[:])
    assert fingerprint(told) == fingerprint(taken)
    assert dataclasses.astuple(told)[3] == taken.classes
    assert told.notes == taken.notes
    assert kept(both[1]) is None


def test_a_picture_that_changed_is_named_when_its_row_is_read(tmp_path):
    pictures(tmp_path / "photos", 6, 8)
    data = load(str(tmp_path / "photos"))
    file = tmp_path / "photos" / "dark" / "0000002.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file)
    data.x[:3]
    with pytest.raises(DataError, match=r"dark.0000002\.png changed since the data was first read"):
        data.x[:]
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(file)
    with pytest.raises(DataError, match="changed since"):
        data.x[4]
    assert data.x[5].shape == (3, 8, 8)


def test_a_folder_and_its_array_are_audited_to_the_same_outcomes_and_no_worker_reads_the_rest(both, folder, tmp_path):
    request = plan(tmp_path, folder, 40)
    said = inside("audit", request, "--out", tmp_path / "streamed", "--executor", "serial", "--quiet")
    assert said.code == 0, said.err
    np.savez(tmp_path / "a.npz", x=np.rint(both[1].x * 255).astype(np.uint8), y=both[1].y, classes=both[1].classes)
    other = tmp_path / "array.toml"
    other.write_text(request.read_text().replace(str(folder), str(tmp_path / "a.npz")))
    inside("audit", other, "--out", tmp_path / "array", "--executor", "serial", "--quiet")
    assert outcomes(tmp_path / "streamed") == outcomes(tmp_path / "array")
    assert json.loads(result(tmp_path / "streamed"))["variants"][0]["threats"][0]["worst_case"]["n"] == 40
    # A worker takes the rows from what the run folder says: a file it does not need may even be gone.
    prepared = preparing.prepare(Store.open(tmp_path / "streamed").plan())
    store = Store(tmp_path / "streamed")
    run_scene.leave(prepared.scene, store)
    run_scene.of_run.cache_clear()
    theirs = run_scene.of_run(store.root)
    assert isinstance(theirs.test.x, Streamed)
    np.testing.assert_array_equal(theirs.test.ids, prepared.scene.test.ids)
    np.testing.assert_array_equal(theirs.splits.calibration.ids, prepared.scene.splits.calibration.ids)
    np.testing.assert_array_equal(theirs.test.x[2:5], prepared.scene.test.x[2:5])
    run_scene.of_run.cache_clear()


def test_more_images_than_clean_accuracy_needs_are_attacked_when_asked_for(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(scene, "CLEAN_MOST", 20)
    assert len(scene.load(Plan(data=str(folder))).test) == 20
    assert len(scene.load(Plan(data=str(folder), samples=50)).test) == 50
    assert len(scene.load(Plan(data=str(folder), attacks=(Trial("fgsm", samples=30),))).test) == 30


def test_jobs_become_ready_when_what_they_rest_on_ends_and_are_given_up_when_it_failed():
    def job(name: str, *needs: str) -> Job:
        return Job(name, "attack", {}, needs)

    agenda = Agenda([job("b", "a"), job("c"), job("d", "b", "c"), job("e", "d"), job("f", "c")], ["a"])
    assert [j.id for j in agenda.take()] == ["b", "c"]
    assert agenda.take() == []
    assert len(agenda) == 3
    agenda.finished("c")
    assert [j.id for j in agenda.take()] == ["f"]
    agenda.failed("b")
    assert not agenda.take()
    assert len(agenda) == 0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    few, many = (audited(count, 32, "serial", tmp_path) for count in (3000, 7500))
    assert (few["rows"], many["rows"]) == (2400, 6500)
    # 4,100 more images are 50 MB as float32, and 350 MB with the examples of seven attacks. Below 2,000 the bootstrap
    # holds fewer numbers at once, statistics._CELLS at most.
    assert many["own"] - few["own"] < 30


def test_a_report_that_reads_logits_when_it_needs_them_is_the_same(finished, tmp_path, monkeypatch):
    from actsec.verdict import gathering

    store = Store.open(finished)
    request, facts = store.plan(), store.facts()
    kept = gathering.gather(request, facts, store)
    monkeypatch.setattr(gathering, "KEPT", 0)
    read = gathering.gather(request, facts, store)
    for one, other in zip(kept, read, strict=True):
        for mine, theirs in zip(one.tried, other.tried, strict=True):
            assert "logits" in mine.arrays
            assert "logits" not in theirs.arrays
            assert "x" not in theirs.arrays
            np.testing.assert_array_equal(mine.arrays["logits"], theirs.arrays["logits"])
    first = kept[0].tried[0]
    whole = store.get(first.jobs[1].id)
    np.testing.assert_array_equal(first.attacked(5, store), whole.arrays["x"][1])


def test_the_models_of_a_plan_are_read_once_for_all_its_jobs(finished, monkeypatch):
    asked, read = [], jobs._variants
    monkeypatch.setattr(jobs, "_variants", lambda request: (asked.append(request), read(request))[1])
    store = Store.open(finished)
    request = store.plan()
    assert len(jobs.jobs(request, store.facts())) > len(jobs.variants(request)) > 1
    assert len(asked) == 1
