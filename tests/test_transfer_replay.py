"""Examples made elsewhere: on another model, and in an earlier run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from attack_models import digits
from runs import TINY, inside, outcomes, result
from torch import nn

import actsec
from actsec import registry, spec
from actsec.attacks import PGD, Replay, Transfer
from actsec.data.streamed import row_ids
from actsec.errors import BadOption, PlanError, StoreError, ThreatError
from actsec.planning import reading
from actsec.planning.jobs import jobs, plan_id, variants
from actsec.planning.plan import Facts
from actsec.running import preparing, runner, scene
from actsec.running.store import Store
from actsec.search import examples, surrogates
from actsec.search.ledger import FOUND
from actsec.search.referee import attack_target, cases_of


@pytest.fixture(scope="module")
def twin():
    """Another network for the same digits, from other weights."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:1200, None] / 16, torch.tensor(data.target)[:1200]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return actsec.load(model, input_shape=(1, 8, 8), classes=10)


@pytest.mark.parametrize("name", ["replay", "transfer"])
def test_they_are_documented_plug_ins(name):
    cls = registry.find("attacks", name)
    assert len(registry.page("attacks", name)) > 200
    assert all(meaning for _, _, _, meaning in spec.table(cls))
    assert cls.knowledge == "black_box"
    text = {"replay": "replay(run='a b/c')", "transfer": "transfer(source='n.py:make', attack=pgd(steps=3))"}[name]
    assert registry.build("attacks", str(registry.canonical("attacks", text))) == registry.build("attacks", text)


def test_only_the_rows_own_admissible_examples_are_proposed_each_once():
    target, x, y = digits()
    cases = replace(cases_of(target, x[:4], y[:4], "linf", 0.1), id=torch.tensor([40, 10, 30, 20]))
    near, far, out = x[:4] + 0.05 * (0.5 - x[:4]).sign(), x[:4] + 0.3 * (0.5 - x[:4]).sign(), x[:4] - 2.0
    ids = cases.id.numpy()
    stored = {
        "id": np.concatenate([ids, ids, ids, ids[:2], ids[1:2], [99]]),
        "x": np.concatenate([x[:4], far, out, near[:2], near[1:2], near[2:3]]),
        "status": np.array([FOUND] * 16),
    }
    found = examples.of_outcomes([stored], "here")
    asked = []
    verdicts = attack_target(
        examples.proposed(found, cases, 64),
        target,
        cases,
        note=lambda n, ask, r: asked.append((n, ask.x)),
        settle=False,
    )
    seen = {int(row): x for index, many in asked for row, x in zip(index, many, strict=True)}
    assert {row: len(many) for row, many in seen.items()} == dict.fromkeys(seen, 1)
    for row in set(seen):
        assert torch.equal(seen[row][0], near[row] if row < 2 else x[row]), row
    assert verdicts.rejected.sum() == 0
    assert verdicts.backwards.sum() == 0
    assert (verdicts.size[[0, 1]] > 0).all()
    assert (verdicts.status[[2, 3]] != FOUND).all()


def test_those_that_fooled_their_own_model_come_first():
    target, x, y = digits()
    cases = cases_of(target, x[:1], y[:1], "linf", 0.5)
    tries = x[:1] + torch.linspace(0.01, 0.05, 5)[:, None, None, None] * (0.5 - x[:1]).sign()
    stored = {"id": np.zeros(5, np.int64), "x": tries.numpy(), "status": np.array([2, 2, FOUND, 2, FOUND])}
    kept = examples.proposed(examples.of_outcomes([stored], "here"), cases, 2)
    assert torch.equal(kept.x[0], tries[[2, 4]])


def test_transfer_from_a_twin_needs_no_gradient_of_the_target(twin):
    target, x, y = digits()

    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = target.model

        def forward(self, x):
            with torch.no_grad():
                return self.inner(x.detach())

    blind = replace(target, model=Blind().eval())
    own = actsec.attack(blind, x, y, "pgd(steps=20)", eps=0.2)
    moved = actsec.attack(blind, x, y, "transfer(attack=pgd(steps=20))", eps=0.2, source=twin)
    assert moved.success.sum() > 30 > own.success.sum()
    assert moved.verdicts.backwards.sum() == 0
    assert np.abs(moved.x - x.numpy()).max() <= 0.2 * (1 + 1e-6)
    again = actsec.attack(blind, x, y, Transfer(attack=spec.parse("pgd(steps=20)")), eps=0.2, source=twin)
    assert np.array_equal(again.x, moved.x)


def test_crafting_goes_on_past_the_first_success(twin):
    target, x, y = digits()
    cases = cases_of(target, x, y, "linf", 0.2)
    hard = surrogates.craft(spec.parse("pgd(steps=20)"), twin, cases, 0)
    soft = attack_target(PGD(20), twin, cases)
    assert (hard.score >= soft.score).all()

    def carried(made):
        left = {"id": cases.id.numpy(), "x": made.x.numpy(), "status": made.status.numpy()}
        stored = examples.proposed(examples.of_outcomes([left], "twin"), cases, 64)
        return int((attack_target(stored, target, cases).status == FOUND).sum())

    assert carried(hard) > carried(soft)


def test_transfer_says_what_it_lacks(twin):
    target, x, y = digits()
    with pytest.raises(ThreatError, match="source"):
        actsec.attack(target, x, y, "transfer", eps=0.1)
    with pytest.raises(ThreatError, match="pgd works in linf, l2, l1, not in l0"):
        actsec.attack(target, x, y, "transfer", threat="l0:1", source=twin)
    with pytest.raises(BadOption, match="weights"):
        registry.build("attacks", "transfer(weights='w.safetensors')")
    with pytest.raises(BadOption, match="most"):
        registry.build("attacks", "replay(run='a', most=0)")


WITH_TRANSFER = f"""{TINY}
[[attacks]]
attack = "transfer(attack=pgd(steps=3))"
[[attacks]]
attack = "transfer"
"""


@pytest.fixture(scope="module")
def carried(tmp_path_factory) -> Path:
    """The tiny plan with both ways to transfer, run to its end."""
    folder = tmp_path_factory.mktemp("carried")
    text = WITH_TRANSFER.replace('["temperature"]', '["temperature", "swap(to=leaky_relu)"]')
    (folder / "plan.toml").write_text(text)
    runner.audit(reading.read(folder / "plan.toml"), folder / "run", executor="serial")
    return folder / "run"


def test_an_audit_transfers_from_the_first_model_to_every_other(carried):
    record = json.loads((carried / "report.json").read_text())["result"]
    by_variant = {v["id"]: {a["attack"]: a for a in v["threats"][0]["attacks"]} for v in record["variants"]}
    assert not any("transfer" in name for name in by_variant["relu"])
    for name in ("relu | temperature", "relu | swap(to=leaky_relu)"):
        for attack in ("transfer(attack=pgd(steps=3))", "transfer"):
            row = by_variant[name][attack]
            assert row["error"] is None
            assert row["n"] == 8
            assert row["role"] == "transfer"
            assert row["backwards"] == 0
    checks = {v["id"]: {c["rule"]: c for c in v["threats"][0]["checks"]} for v in record["variants"]}
    assert checks["relu"]["ACT-M07"]["status"] == "not_done"
    assert checks["relu | temperature"]["ACT-M07"]["status"] != "not_done"
    # Temperature changes no decision, so that all that fooled the base fools it too.
    base, warm = (next(v for v in record["variants"] if v["id"] == name) for name in ("relu", "relu | temperature"))
    assert by_variant["relu | temperature"]["transfer"]["still_correct"]["k"] == base["threats"][0]["worst_case"]["k"]
    assert warm["threats"][0]["worst_case"]["k"] <= base["threats"][0]["worst_case"]["k"]


def test_the_jobs_of_a_transfer_wait_for_their_source_and_share_it(carried):
    store = Store.open(carried)
    made = jobs(store.plan(), store.facts())
    order = {job.id: i for i, job in enumerate(made)}
    crafted = [job for job in made if job.kind == "craft"]
    assert len(crafted) == 2  # shards of the first model, for both variants
    for job in made:
        assert all(order[need] < order[job.id] for need in job.needs)
    users = [job for job in made if job.kind == "attack" and crafted[0].id in job.needs]
    assert sorted(job.variant for job in users) == ["relu | swap(to=leaky_relu)", "relu | temperature"]
    stored = [job for job in made if str(job.recipe.get("attack", "")).startswith("transfer") and job not in users]
    assert all(len(job.needs) > 1 for job in stored)


def test_nothing_to_transfer_to_is_a_mistake_of_the_plan():
    text = TINY.replace('defenses = ["temperature"]', "defenses = []") + '[[attacks]]\nattack = "transfer"\n'
    import tomllib

    with pytest.raises(PlanError, match="what was found on it"):
        preparing.prepare(reading.from_table(tomllib.loads(text)))


def replayed(finished, run, out, **changes):
    """A plan like the tiny one in which the run is replayed."""
    import tomllib

    table = tomllib.loads(TINY) | changes
    table["attacks"] = [*table["attacks"], {"attack": f"replay(run='{run}')", "samples": 8}]
    return runner.audit(reading.from_table(table), out, executor="serial")


def test_a_replay_of_the_same_model_fools_all_that_were_fooled(finished, tmp_path):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    moved = shutil.copytree(finished, tmp_path / "moved")
    first, store = replayed(finished, finished, tmp_path / "a")
    record = next(a for a in first.variants[0].threats[0].attacks if a.name == "replay")
    assert record.error is None
    assert record.backwards == 0
    old = json.loads((finished / "report.json").read_text())["result"]["variants"][0]["threats"][0]["worst_case"]
    assert record.still_correct.k == old["k"]
    second, other = replayed(finished, moved, tmp_path / "b")
    names = [{job.id for job in jobs(s.plan(), s.facts())} for s in (store, other)]
    assert names[0] == names[1]
    assert first.plan_id == second.plan_id
    assert outcomes(tmp_path / "a") == outcomes(tmp_path / "b")
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_the_hash_of_a_replay_rests_on_what_the_run_holds(finished, tmp_path):
    store = Store.open(finished)
    other = shutil.copytree(finished, tmp_path / "other")
    name = next(iter(examples._records(str(other))))[0]
    held = store.get(name)
    content = held.arrays | {"x": np.clip(held.arrays["x"] + 0.01, 0, 1)}
    Store(other).put(replace(held, arrays=content), {})
    assert examples.digest(str(finished)) != examples.digest(str(other))
    assert examples.digest(str(finished)) == examples.digest(str(shutil.copytree(finished, tmp_path / "same")))


def test_replay_in_one_attack_and_on_the_command_line(finished, tmp_path):
    said = inside("attack", f"replay(run='{finished}')", "--model", "reference:mlp(width=[8])", "--samples", 8)
    assert said.code == 0, said.err
    assert "8 tested" in said.out
    loaded = scene.load(Store.open(finished).plan()).test
    target = actsec.load(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), input_shape=(1, 8, 8), classes=10)
    x, asked = loaded.x[:8], []
    # What it says untouched is right by definition, whatever its weights: every row is attacked.
    y = target.decide(target.logits(torch.from_numpy(x)))
    actsec.attack(target, x, y, Replay(str(finished)), eps=0.1, note=lambda n, ask, r: asked.append(ask.x))
    near = torch.cat(asked).shape[1]
    assert near > 1
    minimal = actsec.attack(target, x, y, Replay(str(finished), most=1000), threat="linf")
    assert minimal.verdicts.forwards.max() > near  # those of the unbounded attack are inside


def test_foreign_folders_and_damaged_runs_are_refused(finished, tmp_path):
    target, x, y = digits()

    def replay(run):
        return actsec.attack(target, x, y, Replay(str(run)), eps=0.1)

    with pytest.raises(StoreError, match="nowhere is not a run folder"):
        replay(tmp_path / "nowhere")
    (tmp_path / "outcomes").mkdir()
    (tmp_path / "plan.toml").write_text("")
    with pytest.raises(StoreError, match="holds no attacked examples"):
        replay(tmp_path)
    loaded = scene.load(Store.open(finished).plan()).test
    assert not set(row_ids(x.numpy()).tolist()) & set(loaded.ids[:8].tolist())
    with pytest.raises(ThreatError, match="none of the 64 examples"):
        replay(finished)
    flat = actsec.load(nn.Linear(64, 10), input_shape=(64,), classes=10)
    with pytest.raises(ThreatError, match=r"shape \(1, 8, 8\), not \(64,\)"):
        actsec.attack(flat, x.flatten(1), y, Replay(str(finished)), eps=0.1)
    broken = shutil.copytree(finished, tmp_path / "broken")
    name = next(iter(examples._records(str(broken))))[0]
    (broken / "outcomes" / f"{name}.npz").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(StoreError, match="not what the run wrote"):
        replay(broken)
    older = shutil.copytree(finished, tmp_path / "older")
    for name, _ in examples._records(str(older)):
        held = Store(older).get(name)
        Store(older).put(replace(held, arrays={k: v for k, v in held.arrays.items() if k != "id"}), {})
    with pytest.raises(StoreError, match="does not say which rows"):
        replay(older)


def test_a_run_that_changed_since_is_not_replayed_as_if_it_had_not(finished, tmp_path):
    moved = shutil.copytree(finished, tmp_path / "moved")
    replayed(finished, moved, tmp_path / "run")
    name = next(iter(examples._records(str(moved))))[0]
    (moved / "outcomes" / f"{name}.json").unlink()
    with pytest.raises(StoreError, match="another run"):
        replayed(finished, moved, tmp_path / "run")


def test_facts_without_names_keep_their_plan_id(finished):
    store = Store.open(finished)
    facts = store.facts()
    assert isinstance(facts, Facts)
    assert facts.contents == ()
    assert plan_id(store.plan(), facts) == json.loads(result(finished))["plan_id"]
    assert variants(store.plan())[0].name == "relu"
