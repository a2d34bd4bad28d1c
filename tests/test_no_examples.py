"""--no-examples: nothing planted in inputs, paths, names, arguments or variables is in what is handed on."""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
import json
import socket
import subprocess
import sys

import pytest
import sample_result as sample
from runs import inside
from test_gates_and_places import linear

from actsec.planning.plan import Plan, Trial
from actsec.planning.reading import from_table
from actsec.reports import load, manifest
from actsec.reports.redacting import redacted, scrubber
from actsec.running.sharing import FILES, share, without_paths

USER, HOST = "mallory77", "vault-host-9"
FOLDER, TOKEN, VARIABLE, CELL = "patients_of_dr_who", "hunter2hunter2", "s3cr3t/Value+x", "PLANTED_CELL_4711"
PLANTED = (USER, HOST, FOLDER, TOKEN, VARIABLE, CELL)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    monkeypatch.setattr(socket, "gethostname", lambda: f"{HOST}.example.org")
    monkeypatch.setenv("DATA_ACCESS_KEY_SECRET", VARIABLE)


def planted(whole=None):
    """A report with something to hide wherever a text of others can stand."""
    whole = whole or sample.normal()
    path = f"/home/{USER}/{FOLDER}"
    first = dataclasses.replace(
        whole.variants[0],
        notes=(f"read {path}/weights.pt on {HOST}", f"password={TOKEN}", f"got {VARIABLE}"),
        fit={f"{path}/fit.npz": f"see C:\\Users\\{USER}\\{FOLDER}\\x.csv"},
        nonsense=dataclasses.replace(
            whole.variants[0].nonsense, pictures=(sample.r.NonsensePicture(0, CELL, "1", 1.0),)
        ),
    )
    cells = (sample.r.Cell("age", CELL, CELL, 0.1),)
    column = sample.r.Column(CELL, None, 4711.0, 4712.0, 1.0, None, False, None)
    result = dataclasses.replace(
        whole,
        command=f"actsec diagnose --model {path}/net.py:make --hub-token {TOKEN}",
        plan={
            **whole.plan,
            "model": f"{path}/net.py:make",
            "data": f"{FOLDER}/test.npz",
            "attacks": [{"attack": f"transfer(source='{path}/other.safetensors')"}],
            "evidence": ["tester=Ada Lovelace", "system=Door"],
        },
        model={"name": f"{path}/net.py:make", "weights": f"{path}/w.pt"},
        variants=(first, *whole.variants[1:]),
        problems=(sample.r.Problem("ACT-E01", "high", "relu", f"A job failed: cannot open {path}/a b.npz", TOKEN[:0]),),
        not_done=(f"fetching https://{USER}:{TOKEN}@{HOST}/x",),
        limits=(f"{USER}@{HOST} ran this",),
        data=dataclasses.replace(whole.data, notes=(f"from {path}/test.npz",), columns=(column,)),
        examples=tuple(dataclasses.replace(e, cells=cells) for e in whole.examples),
    )
    environment = {**sample.ENVIRONMENT, "seconds_by_label": {f"prepare {path}/net.py:make": 1.0}, "host": HOST}
    return dataclasses.replace(sample.report(result), environment=environment)


def test_what_is_planted_is_there_without_it():
    """The test below can fail: every plant but the ones that no format prints is in the whole report."""
    text = str(load.render(planted(), "json"))
    assert all(json.dumps(each)[1:-1] in text for each in PLANTED)


@pytest.mark.parametrize("form", FILES)
def test_no_format_has_what_was_planted(form, tmp_path):
    report = dataclasses.replace(planted(), folder=str(tmp_path / FOLDER), plan="")
    text = str(load.render(redacted(report), form))
    assert not [each for each in PLANTED if each in text]
    assert "data:image/png" not in text
    if form in ("html", "json", "md"):
        assert "net.py:make" in text  # what was audited stays known
        assert "Ada Lovelace" in text  # and who says so on purpose


def test_the_numbers_stay():
    before, after = planted(), redacted(planted())
    assert [v.threats for v in after.result.variants] == [v.threats for v in before.result.variants]
    assert after.result.gates == before.result.gates
    assert after.examples is None
    assert after.result.plan["no_examples"] is True
    assert "Left out: this report is to hold no inputs" in str(load.render(after, "html"))


def test_the_folder_to_hand_on_is_whole_and_clean(tmp_path):
    plan = Plan(
        model=f"/home/{USER}/{FOLDER}/net.py:make",
        data=f"{FOLDER}/test.npz",
        attacks=(Trial(f"transfer(source='/home/{USER}/{FOLDER}/o.pt')", "linf:0.1"),),
        evidence=("tester=Ada Lovelace",),
    )
    place = share(redacted(planted()), plan, tmp_path)
    assert {f.name for f in place.iterdir()} == {*FILES.values(), "plan.toml", manifest.NAME}
    for file in place.iterdir():
        assert not [each for each in PLANTED if each in file.read_text()], file
    assert "Ada Lovelace" in (place / "plan.toml").read_text()
    for line in (place / manifest.NAME).read_text().splitlines():
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((place / name).read_bytes()).hexdigest() == digest
    checked = subprocess.run(["sha256sum", "-c", "--quiet", manifest.NAME], cwd=place, check=False)
    assert checked.returncode == 0


def test_a_plan_without_paths_keeps_what_is_no_path():
    plan = Plan(model="torchvision:resnet18", eps=8 / 255, gates=("robust_accuracy@linf:8/255>=0.3",))
    assert without_paths(plan) == plan


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("linf:8/255 and 25/539", "linf:8/255 and 25/539"),
        ("art/ProjectedGradientDescent(eps_step=0.1)", "art/ProjectedGradientDescent(eps_step=0.1)"),
        ("see https://arxiv.org/abs/1902.06705", "see https://arxiv.org/abs/1902.06705"),
        ("the secret of robustness", "the secret of robustness"),
        ("cannot read /var/lib/x.npz: no", "cannot read x.npz: no"),
        ("~/a/b.csv ../c/d.npz e/f/g.pt", "b.csv d.npz g.pt"),
        ("api_key: 'two words' next", "api_key: [secret] next"),
        ("relu | swap(to=leaky_relu)", "relu | swap(to=leaky_relu)"),
    ],
)
def test_what_is_a_path_or_a_secret(text, said):
    assert scrubber()(text) == said


def test_paths_with_spaces_are_known_from_the_plan():
    scrub = scrubber(["/home/some one/my models/net.py:make"])
    assert scrub("prepare /home/some one/my models/net.py:make") == "prepare net.py:make"


def test_a_real_run_hands_on_nothing_and_its_copies_neither(tmp_path, monkeypatch):
    home = tmp_path / FOLDER
    plan = linear(home)
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["actsec", "--hub-token", TOKEN])
    run = home / "run"
    said = inside("audit", plan, "--model", f"{home}/net.py:make", "--data", f"{home}/test.npz", "--out", run,
                  "--no-examples", "--executor", "serial", "--quiet")  # fmt: skip
    assert said.code in (0, 3), said.err
    assert not [each for each in PLANTED if each in said.out]
    assert not (run / "examples.npz").exists()
    shown = [run / "report.json", run / "report.html", *(run / "share").iterdir()]
    for form in ("sarif", "junit", "md", "html", "json"):
        again = inside("report", run, "--format", form, "--out", "-")
        assert not [each for each in PLANTED if each in again.out]
    for file in shown:
        assert not [each for each in (*PLANTED, str(tmp_path)) if each in file.read_text()], file
    assert from_table(json.loads((run / "share/report.json").read_text())["result"]["plan"]).no_examples


def test_a_run_that_is_there_is_rendered_without_what_it_holds(finished, tmp_path):
    import shutil

    run = tmp_path / FOLDER
    shutil.copytree(finished, run)
    assert inside("report", run, "--no-examples").out.strip() == str(run / "share/report.html")
    text = (run / "share/report.html").read_text()
    assert FOLDER not in text
    assert "data:image/png" not in text
    assert (run / "examples.npz").exists() == (finished / "examples.npz").exists()


def test_examples_of_the_sample_are_in_its_whole_page():
    assert "data:image/png" in str(load.render(planted_images(), "html"))


def planted_images():
    return sample.report(sample.normal())
