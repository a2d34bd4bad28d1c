"""The plan: TOML and back, resolved once and for all, job ids that depend on content alone."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import TINY, inside, outcomes, result

from actsec.errors import ActsecError, BadOption, PlanError, ThreatError, UnknownName
from actsec.planning import budgets, reading, resolving
from actsec.planning.jobs import headline_threats, jobs, plan_id, rows_tested, variants
from actsec.planning.plan import Facts, Plan, Trial
from actsec.planning.reading import from_table
from actsec.spec import parse
from actsec.types import Threat

FACTS = Facts(model="m", test="t", train="tr", calibration="c", shape=(1, 8, 8), classes=tuple("0123456789"), grid=16)


def table(text: str) -> Plan:
    import tomllib

    return from_table(tomllib.loads(text))


def resolve(request: Plan, **more) -> Plan:
    images = budgets.Images((1, 8, 8), 16, 539, reading.box(request.bounds))
    return resolving.resolve(request, images, **{"trains": True, "calibrates": True, **more})


def ids(request: Plan, facts: Facts = FACTS, kind: str = "") -> set[str]:
    return {job.id for job in jobs(request, facts) if not kind or job.kind == kind}


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
numbers = st.floats(allow_nan=False)
trials = st.builds(
    Trial, texts.filter(bool), texts, st.integers(0, 10**6), texts, st.lists(texts, max_size=2).map(tuple)
)
plans = st.builds(
    Plan,
    model=texts,
    weights=st.none() | texts,
    data=texts,
    train=st.none() | texts,
    activations=st.lists(texts, max_size=3).map(tuple),
    attacks=st.lists(trials, max_size=3).map(tuple),
    defenses=st.none() | st.lists(texts, max_size=3).map(tuple),
    eps=st.none() | numbers,
    samples=st.none() | st.integers(-(2**60), 2**60),
    seed=st.integers(0, 2**60),
    threshold=st.none() | numbers,
    random_weights=st.booleans(),
    gates=st.lists(texts, max_size=2).map(tuple),
)


@given(plans)
def test_what_is_written_reads_back(made):
    assert table(reading.write(made)) == made


REQUESTS = {
    "nothing": Plan(),
    "tiny": table(TINY),
    "standard, grey eps": Plan(eps=8 / 255, budget="standard", samples=50),
    "large eps": Plan(eps=0.7),
    "grey levels": Plan(bounds="0,255"),
    "per class": Plan(per_class=3),
    "one attack": Plan(attacks=(Trial("carlini_wagner"), Trial("dead_relu"), Trial("one_pixel", samples=5))),
    "noise elsewhere": Plan(attacks=(Trial("noise", "l0:1", role="noise"),)),
    "own model": Plan(model="nets.py:make", weights="w.safetensors", data="x.npz"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_resolved_plan_resolves_to_itself(name):
    once = resolve(REQUESTS[name])
    assert resolve(once) == once
    assert table(reading.write(once)) == once
    assert ids(resolve(table(reading.write(once)))) == ids(once)


def test_resolving_changes_nothing_that_is_written():
    once = resolve(table(TINY))
    for written, filled in zip(table(TINY).attacks, once.attacks, strict=False):
        assert filled.attack == str(parse(written.attack))
        assert filled.role == written.role
    assert len(once.attacks) == len(table(TINY).attacks)
    assert (once.samples, once.shard, once.activations, once.defenses) == (8, 4, ("relu",), ("temperature",))


def test_every_check_is_planned_at_the_headline_threat():
    roles = {t.role for t in resolve(REQUESTS["noise elsewhere"]).attacks if t.threat == "linf:0.1"}
    assert roles >= {"noise", "single_step", "iterative", "doubled", "margin", "gradient_free"}


def test_everything_is_in_the_units_of_the_bounds():
    grey = resolve(Plan(bounds="0,255"))
    assert grey.eps == 25.5
    assert [t.threat for t in grey.attacks if t.role == "unbounded"] == ["linf:255"]
    assert not ids(grey, kind="attack") & ids(resolve(Plan(eps=25.5, bounds="0,256")), kind="attack")
    assert resolve(Plan(bounds="-1,1")).eps == 0.2
    for wrong in ("255", "1,0", "a,b", "0,inf", "0,1,2"):
        with pytest.raises(BadOption, match="is not a range"):
            reading.box(wrong)


def test_the_curve_stays_in_the_box():
    assert all((Threat.parse(t.threat).eps or 0) <= 1 for t in resolve(Plan(eps=0.7)).attacks)


CONTENT = {
    "seed": (lambda p: p.having(seed=1), FACTS),
    "data": (lambda p: p, dataclasses.replace(FACTS, test="other")),
    "weights": (lambda p: p, dataclasses.replace(FACTS, model="other")),
    "threads": (lambda p: p.having(threads=2), FACTS),
}


@pytest.mark.parametrize("what", CONTENT)
def test_content_changes_ids(what):
    before = resolve(REQUESTS["own model"])
    change, facts = CONTENT[what]
    kept = ids(before) & ids(change(before), facts)
    made_before_the_data = ids(before, kind="base") | ids(before, kind="defend") if what == "data" else set()
    assert kept == made_before_the_data


@pytest.mark.parametrize(
    "change",
    [
        {"attack": "pgd(steps=4)"},
        {"attack": "pgd(steps=2, loss=margin)"},
        {"threat": "linf:0.2"},
        {"samples": 7},
    ],
)
def test_each_part_of_a_trial_changes_its_ids(change):
    base = resolve(table(TINY))
    trial = Trial("pgd(steps=2)", "linf:0.1", 8, "attack")
    before, after = (
        ids(base.having(attacks=(t,)), kind="attack") for t in (trial, dataclasses.replace(trial, **change))
    )
    # Seven images in shards of four share the first shard with eight.
    assert len(before & after) == (2 if "samples" in change else 0)
    assert before != after


def test_paths_gates_and_wording_change_no_id():
    base = resolve(REQUESTS["own model"])
    moved = base.having(model="/elsewhere/nets.py:make", weights="/elsewhere/w.safetensors", data="/elsewhere/x.npz")
    assert ids(moved) == ids(base)
    assert plan_id(moved, FACTS) == plan_id(base, FACTS)
    gated = base.having(gates=("clean_accuracy>=0.5",))
    assert ids(gated) == ids(base)
    assert plan_id(gated, FACTS) == plan_id(base, FACTS)
    spelled = base.having(
        attacks=tuple(dataclasses.replace(t, attack=t.attack.replace(", ", ",")) for t in base.attacks)
    )
    assert ids(spelled) == ids(base)


def test_what_a_trial_is_for_is_part_of_the_plan_but_of_no_job():
    base = resolve(table(TINY))
    other = base.having(
        attacks=tuple(dataclasses.replace(t, role=t.role.replace("noise", "attack")) for t in base.attacks)
    )
    assert ids(other) == ids(base)
    assert plan_id(other, FACTS) != plan_id(base, FACTS)


def test_plans_share_the_jobs_of_a_shared_base():
    one = resolve(table(TINY))
    two = resolve(table(TINY).having(activations=("gelu", "relu"), defenses=()))
    assert ids(one, kind="base") < ids(two, kind="base")
    written_out = resolve(table(TINY).having(activations=("leaky_relu(slope=0.01)",)))
    short = resolve(table(TINY).having(activations=("leaky_relu",)))
    assert ids(written_out) == ids(short)
    elsewhere = resolve(table(TINY).having(model="reference:mlp(width=[8], activation=gelu)", activations=("relu",)))
    assert ids(elsewhere, kind="base") == ids(one, kind="base")


def test_jobs_come_after_what_they_need_and_once():
    found = jobs(resolve(Plan()), FACTS)
    seen: set[str] = set()
    for job in found:
        assert set(job.needs) <= seen
        assert job.id not in seen
        seen.add(job.id)


def test_trials_for_some_variants_only():
    base = resolve(table(TINY))
    trial = Trial("pgd(steps=2)", "linf:0.1", 8, "attack", ("relu",))
    made = jobs(resolve(base.having(attacks=(trial,))), FACTS)
    assert {job.variant for job in made if job.recipe.get("attack", "").startswith("pgd(steps=2,")} >= {"relu"}
    assert rows_tested(base.having(attacks=(trial,)), "relu", Threat("linf", 0.1)) == 8
    assert rows_tested(base.having(attacks=(trial,)), "relu | temperature", Threat("linf", 0.1)) == 0


def test_the_headline_comes_first_and_experiments_have_none():
    found = headline_threats(resolve(Plan(samples=20)))
    assert list(map(str, found)) == ["linf:0.1", "l2", "l0:1"]


def test_the_first_variant_is_the_audited_one():
    found = variants(resolve(Plan(defenses=("temperature", "temperature"))))
    assert [v.name for v in found] == ["relu", "leaky_relu", "gelu", "tanh", "relu | temperature"]
    assert [v.audited for v in found] == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("request_", "error", "said"),
    [
        (Plan(budget="quik"), UnknownName, "Did you mean 'quick'?"),
        (Plan(samples=5, per_class=5), PlanError, "both given"),
        (Plan(samples=0), BadOption, "samples = 0"),
        (Plan(seed=-1), BadOption, "seed = -1"),
        (Plan(eps=-0.1), ThreatError, "not a positive number"),
        (Plan(attacks=(Trial("pdg"),)), UnknownName, "'pgd'"),
        (Plan(attacks=(Trial("pgd", "l7:1"),)), ThreatError, "unknown norm 'l7'"),
        (Plan(attacks=(Trial("pgd", "linf"),)), ThreatError, "it needs an eps"),
        (Plan(attacks=(Trial("carlini_wagner", "l2:1"),)), ThreatError, "takes no eps"),
        (Plan(attacks=(Trial("carlini_wagner", "linf"),)), ThreatError, "works in l2, not in linf"),
        (Plan(attacks=(Trial("pgd", "linf:3"),)), ThreatError, "larger than the range of inputs, 1"),
        (Plan(attacks=(Trial("pgd", variants=("rellu",)),)), UnknownName, "'relu'"),
        (Plan(activations=("rellu",)), UnknownName, "'relu'"),
        (Plan(defenses=("temprature",)), UnknownName, "'temperature'"),
        (Plan(normalize="imagenet"), PlanError, "trained in the run"),
        (Plan(model="nets.py:make", activations=("relu",)), PlanError, "only reference models"),
    ],
)
def test_what_cannot_be_planned_is_refused(request_, error, said):
    with pytest.raises(error) as problem:
        resolve(request_)
    assert said in str(problem.value)


def test_a_defense_without_its_data_is_refused_when_named_and_left_out_otherwise():
    with pytest.raises(PlanError, match="temperature needs calibration data"):
        resolve(Plan(defenses=("temperature",)), calibrates=False)
    assert "temperature" not in resolve(Plan(), calibrates=False).defenses
    own = resolve(REQUESTS["own model"], trains=False).defenses
    assert own == ("temperature", "swap(to=leaky_relu)")


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("atacks = ['pgd']", UnknownName, "Did you mean 'attacks'?"),
        ("samples = 'many'", PlanError, "samples = 'many'"),
        ("samples = true", PlanError, "samples = True"),
        ("eps = 'big'", BadOption, "is not a number such as 0.1 or 8/255"),
        ("eps = true", PlanError, "eps = True"),
        ("random_weights = 1", PlanError, "random_weights = 1"),
        ("activations = [1]", PlanError, "activations = [1]"),
        ("[[attacks]]\nthreat = 'l2'", PlanError, "is not an attack"),
        ("[[attacks]]\nattack = 'pgd'\nstep = 3", UnknownName, "key of an attack"),
        ("[[attacks]]\nattack = 'pgd'\nsamples = '3'", PlanError, "not a whole number"),
        ("[[attacks]]\nattack = 'pgd'\nsamples = -3", PlanError, "samples = -3"),
        ("attacks = [3]", PlanError, "3 is not an attack"),
    ],
)
def test_wrong_toml_is_named(text, error, said):
    with pytest.raises(error) as problem:
        table(text)
    assert said in str(problem.value)


def test_toml_reads_fractions_and_single_texts():
    assert table("eps = '8/255'").eps == 8 / 255
    assert table("eps = 1").eps == 1.0
    assert table("activations = 'relu'").activations == ("relu",)
    assert table("attacks = 'pgd'").attacks == (Trial("pgd"),)


def test_files_that_are_no_plan(tmp_path):
    with pytest.raises(PlanError, match="cannot read the plan"):
        reading.read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(PlanError, match="is not TOML"):
        reading.read(tmp_path / "bad.toml")
    with pytest.raises(ActsecError):
        reading.read(tmp_path)


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        ({"eps": "8/255"}, "eps", 8 / 255),
        ({"samples": "20"}, "samples", 20),
        ({"eps": "1"}, "eps", 1.0),
        ({"defenses": ("none",)}, "defenses", ()),
        ({"attacks": ("pgd", "fgsm")}, "attacks", (Trial("pgd"), Trial("fgsm"))),
        ({"random_weights": True}, "random_weights", True),
        ({"model": "12"}, "model", "12"),
    ],
)
def test_the_command_line_over_a_plan(options, key, value):
    found = getattr(reading.override(Plan(), options), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("options", [{"eps": "big"}, {"eps": "1;"}, {"samples": "3.5"}, {"seed": ""}, {"eps": "true"}])
def test_an_option_that_is_no_number_is_named(options):
    (name,) = options
    with pytest.raises(BadOption, match=f"--{name}"):
        reading.override(Plan(), options)


def test_the_printed_plan_given_back_is_the_same_run(tiny, finished, tmp_path):
    printed = inside("audit", tiny, "--print-plan")
    assert printed.code == 0, printed.err
    (tmp_path / "again.toml").write_text(printed.out)
    again = inside("audit", tmp_path / "again.toml", "--out", tmp_path / "run", "--executor", "serial", "--quiet")
    assert again.code == 0, again.err
    assert outcomes(tmp_path / "run") == outcomes(finished)
    assert result(tmp_path / "run") == result(finished)
    assert (tmp_path / "run" / "plan.toml").read_text() == printed.out


def test_lists_on_the_command_line_are_cut_at_commas_outside_brackets():
    options = {
        "activations": ("relu, leaky_relu(slope=0.1)", "elu"),
        "defenses": ("swap(to=silu, finetune=2) | temperature",),
    }
    made = reading.override(Plan(), options)
    assert made.activations == ("relu", "leaky_relu(slope=0.1)", "elu")
    assert made.defenses == ("swap(to=silu, finetune=2) | temperature",)
