"""Parts of a plan run anywhere and put together are one run, byte for byte; what does not belong is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from runs import TINY, inside, outcomes, result

from actsec.errors import BadOption, StoreError
from actsec.planning import reading
from actsec.planning.parts import Part
from actsec.running import preparing
from actsec.running.merging import merge
from actsec.running.store import Store
from actsec.types import Job

OF = 3


@pytest.fixture(scope="module")
def parts(tiny, tmp_path_factory) -> list[Path]:
    """The tiny plan in three parts."""
    root = tmp_path_factory.mktemp("parts")
    for number in range(1, OF + 1):
        said = inside(
            "audit", tiny, "--shard", f"{number}/{OF}", "--out", root / str(number), "--executor", "serial", "--quiet"
        )
        assert said.code == 0, said.err
        assert f"part {number}/{OF}:" in said.out
    return [root / str(number) for number in range(1, OF + 1)]


@pytest.fixture
def copies(parts, tmp_path) -> list[Path]:
    return [Path(shutil.copytree(part, tmp_path / part.name)) for part in parts]


def test_a_part_is_a_number_of_a_number():
    assert Part.parse("3/16") == Part(3, 16)
    assert str(Part.parse(" 1 / 1 ")) == "1/1"
    for text in ("0/3", "4/3", "a/3", "3/", "/3", "-1/3", "1.5/3", "1/2/3"):
        with pytest.raises(BadOption, match="is no part"):
            Part.parse(text)


@pytest.mark.parametrize("of", [1, 2, 5, 16, 400])
def test_parts_cover_every_job_each_of_its_own_once(of):
    model, other = Job("m", "base", {}), Job("d", "defend", {}, ("m",))
    attacks = [Job(f"a{i}", "attack", {}, ("m",)) for i in range(20)]
    transfers = [Job(f"t{i}", "attack", {}, ("d", f"a{i}")) for i in range(9)]
    every = (model, other, *attacks, *transfers, Job("c", "clean", {}, ("d",)))
    found = [Part(number, of).jobs(every) for number in range(1, of + 1)]
    assert {job.id for part in found for job in part} == {job.id for job in every}
    for part in found:
        place = {job.id: i for i, job in enumerate(part)}
        assert all(place[need] < place[job.id] for job in part for need in job.needs)
        # Own work is dealt out evenly; what it rests on comes with it.
        assert len(part) <= -(-30 // of) * 2 + 2
    assert found == [Part(number, of).jobs(every) for number in range(1, of + 1)]
    counts = Counter(job.id for part in found for job in part)
    assert all(counts[f"t{i}"] == counts["c"] == 1 for i in range(9))


def test_parts_put_together_are_the_undisturbed_run(parts, finished, tmp_path):
    said = inside("merge", *reversed(parts), "--out", tmp_path / "merged")
    assert said.code == 0, said.err
    assert "missing" not in said.err
    assert outcomes(tmp_path / "merged") == outcomes(finished)
    assert result(tmp_path / "merged") == result(finished)
    assert (tmp_path / "merged" / "report.html").is_file()
    # Each part did its share: the tiny plan has one base and one defense, which all need.
    assert all(len(outcomes(part)) < 0.6 * len(outcomes(finished)) for part in parts)


def test_a_missing_part_is_named_and_made_by_resuming(parts, finished, tmp_path):
    said = inside("merge", *parts[:2], "--out", tmp_path / "merged")
    assert said.code == 3
    assert f"--shard 3/{OF} was not given" in said.err
    assert "fgsm" in said.err or "pgd" in said.err
    assert '"status": "partial"' in (tmp_path / "merged" / "report.json").read_text()
    resumed = inside("resume", tmp_path / "merged", "--executor", "serial", "--quiet")
    assert resumed.code == 0, resumed.err
    assert outcomes(tmp_path / "merged") == outcomes(finished)
    assert result(tmp_path / "merged") == result(finished)


def test_a_part_is_taken_up_as_a_part(copies):
    before = outcomes(copies[0])
    victim = next((copies[0] / "outcomes").glob("*.json"))
    victim.unlink()
    said = inside("resume", copies[0], "--executor", "serial", "--quiet")
    assert (said.code, outcomes(copies[0])) == (0, before)
    assert "part 1/3" in said.out


def test_damage_is_not_carried_over(copies, tmp_path):
    every = {job.id: job for job in preparing.prepare(Store.open(copies[0]).plan()).jobs}
    own = [path.stem for path in (copies[2] / "outcomes").glob("*.json") if every[path.stem].kind == "attack"]
    content = copies[2] / "outcomes" / f"{own[0]}.npz"
    content.write_bytes(content.read_bytes()[:100])
    found = merge(copies, tmp_path / "merged")
    assert [line for line in found.missing if own[0] in line] == list(found.missing)
    assert (found.result.status, found.result.exit_code) == ("partial", 3)


def test_what_lost_its_weights_is_not_taken(copies, tmp_path):
    prepared = preparing.prepare(Store.open(copies[2]).plan())
    base = next(job for job in prepared.jobs if job.kind == "base")
    part = Part(3, OF).jobs(prepared.jobs)
    (copies[2] / "outcomes" / f"{base.id}.npz").unlink()
    found = merge(copies, tmp_path / "merged")
    shared = {job.id for number in (1, 2) for job in Part(number, OF).jobs(prepared.jobs)}
    rests = {job.id for job in part if base.id in job.needs and job.id not in shared}
    assert rests
    assert {line.rpartition("(")[2].rstrip(")") for line in found.missing} == rests


def test_two_answers_to_one_question_are_refused(copies, tmp_path):
    store = Store(copies[1])
    base = next(job for job in preparing.prepare(store.plan()).jobs if job.kind == "base")
    outcome = store.get(base.id)
    store.put(dataclasses.replace(outcome, numbers={**outcome.numbers, "stochastic": True}), {})
    with pytest.raises(StoreError, match="different outcomes of prepare"):
        merge(copies, tmp_path / "merged")


def test_other_plans_are_refused_by_name(parts, copies, tiny, tmp_path):
    prepared = preparing.prepare(reading.read(tiny).having(seed=1))
    other = Store.create(tmp_path / "other", prepared.plan, prepared.facts)
    with pytest.raises(StoreError, match=f"{other.root} holds another run than {parts[0]}: its .*differs"):
        merge([*parts, other.root], tmp_path / "merged")
    record = json.loads((copies[0] / "run.json").read_text())
    (copies[0] / "run.json").write_text(json.dumps({**record, "plan_id": "0" * 24}))
    with pytest.raises(StoreError, match="was edited"):
        merge(copies, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_other_gates_are_refused(copies, tmp_path):
    text = (copies[1] / "plan.toml").read_text().replace("gates = []", 'gates = ["clean_accuracy>=0.1"]')
    (copies[1] / "plan.toml").write_text(text)
    with pytest.raises(StoreError, match="differ in gates"):
        merge(copies, tmp_path / "merged")


def test_a_failed_job_of_a_part_is_a_finding(copies, tiny, tmp_path, monkeypatch):
    from actsec.running import tasks

    def broken(job, loaded, store):
        raise RuntimeError("not here")

    monkeypatch.setitem(tasks._KINDS, "probe", broken)
    prepared = preparing.prepare(Store.open(copies[0]).plan())
    probes = {job.id for job in prepared.jobs if job.kind == "probe"}
    where = next(copy for copy in copies if probes & {p.stem for p in (copy / "outcomes").glob("*.json")})
    for job_id in probes:
        (where / "outcomes" / f"{job_id}.json").unlink(missing_ok=True)
    assert inside("resume", where, "--executor", "serial", "--quiet").code == 3
    found = merge(copies, tmp_path / "merged")
    assert any("not here" in p.claim for p in found.result.problems if p.rule == "ACT-E01")
    assert found.result.exit_code == 3


def test_images_in_a_job_are_still_told(tmp_path):
    (tmp_path / "plan.toml").write_text(TINY)
    said = inside("audit", tmp_path / "plan.toml", "--shard", "2", "--print-plan")
    assert "shard = 2\n" in said.out
    assert inside("audit", tmp_path / "plan.toml", "--shard", "4/3").code == 2
