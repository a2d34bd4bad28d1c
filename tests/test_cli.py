"""What a person may type: every mistake is answered in words, with the place, the mend and its exit code."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import ENVIRONMENT, ROOT, actsec, inside
from safetensors.torch import save_file

from actsec.planning import plan
from actsec.running import preparing
from actsec.running.store import Store

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, then="logits", outputs=10):
        super().__init__()
        self.linear, self.then = nn.Linear(64, outputs), then

    def forward(self, x):
        z = self.linear(x.flatten(1))
        raw = z if bool((x >= 0).all()) else z.roll(1, -1)
        return {"logits": z, "raw": raw, "softmax": z.softmax(-1), "zero": 0 * z}[self.then]

def make(then="logits", outputs=10):
    return Net(then, outputs)
"""


class Evil:
    """A pickle that would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A linear classifier of digits, its data, and what can be wrong with them."""
    from actsec.data import load

    place = tmp_path_factory.mktemp("user")
    (place / "nets.py").write_text(NETS)
    digits = load("digits")
    means = torch.stack([torch.from_numpy(digits.train.x[digits.train.y == c]).mean(0).flatten() for c in range(10)])
    weights = {"linear.weight": means * 2, "linear.bias": -means.square().sum(1)}
    x, y = digits.test.x[:200], digits.test.y[:200]
    save_file(weights, place / "w.safetensors")
    save_file({name: torch.full_like(value, torch.nan) for name, value in weights.items()}, place / "nan.safetensors")
    save_file({"fc.weight": torch.zeros(10, 32)}, place / "other.safetensors")
    np.savez(place / "test.npz", x=x, y=y)
    np.savez(place / "labels.npz", x=x, y=y + 3)
    np.savez(place / "grey.npz", x=x * 255, y=y)
    np.savez(place / "empty.npz", x=x[:0], y=y[:0])
    np.savez(place / "nan.npz", x=np.where(x > 0.9, np.nan, x).astype(np.float32), y=y)
    np.savez(place / "objects.npz", x=np.array([Evil(place / "executed"), None], dtype=object), y=y[:2])
    (place / "evil.pt").write_bytes(pickle.dumps(Evil(place / "executed")))
    torch.save(Evil(place / "executed"), place / "evil2.pt")
    torch.save(dict(weights), place / "w.pt")
    (place / "key.toml").write_text("sampels = 3\n")
    (place / "bad.toml").write_text("samples = = 3\n")
    return place


def audit(folder: Path, *arguments: object, **changes: str):
    """An audit of the user's model, with some options another way."""
    given = {"model": "nets.py:make", "weights": "w.safetensors", "data": "test.npz", **changes}
    texts = [part for key, value in given.items() if value for part in (f"--{key}", place(folder, value))]
    quick = ["--attacks", "pgd(steps=2)", "--samples", 4, "--executor", "serial"]
    quick += [] if "--defenses" in arguments else ["--defenses", "none"]
    return inside("audit", *texts, *quick, *arguments)


def place(folder: Path, value: str) -> str:
    return str(folder / value) if value.partition(":")[0].endswith((".py", ".npz", ".safetensors", ".pt")) else value


MISTAKES = {
    "no weights file": ((), {"weights": "w2.safetensors"}, 2, ["w2.safetensors"]),
    "no data file": ((), {"data": "tset.npz"}, 2, ["tset.npz", "Did you mean", "test.npz"]),
    "no model file": ((), {"model": "net.py:make"}, 2, ["net.py"]),
    "no such function": ((), {"model": "nets.py:mak"}, 2, ["'mak'", "make"]),
    "no such option": ((), {"model": "nets.py:make(outptus=3)"}, 2, ["outptus", "outputs"]),
    "another architecture": ((), {"weights": "other.safetensors"}, 2, ["another architecture", "[10, 32]", "[10, 64]"]),
    "a pickle": ((), {"weights": "evil.pt"}, 4, ["execute"]),
    "a torch pickle": ((), {"weights": "evil2.pt"}, 4, ["mkdir", "--trust-model"]),
    "labels outside": ((), {"data": "labels.npz"}, 2, ["labels run from 3 to 12", "10 classes"]),
    "images in 0-255": ((), {"data": "grey.npz"}, 2, ["255"]),
    "no bounds": (("--bounds", "255"), {}, 2, ["--bounds '255' is not a range"]),
    "bounds of whole numbers": (("--bounds", "0,255"), {"data": "digits"}, 2, ["--bounds 0,255", "whole numbers"]),
    "wrong normalisation": (("--normalize", "0.5/0.5"), {"model": "nets.py:make(then=raw)"}, 2, ["0.5/0.5", "none"]),
    "softmax outputs": ((), {"model": "nets.py:make(then=softmax)"}, 2, ["probabilities", "logits"]),
    "regression": ((), {"model": "nets.py:make(outputs=1)", "weights": ""}, 2, ["regression"]),
    "other classes": ((), {"model": "nets.py:make(outputs=7)", "weights": ""}, 2, ["labels", "7 classes"]),
    "NaN weights": ((), {"weights": "nan.safetensors"}, 3, ["linear.weight"]),
    "a constant model": ((), {"model": "nets.py:make(then=zero)"}, 3, ["same"]),
    "an untrained model": ((), {"weights": ""}, 3, ["guessing"]),
    "empty data": ((), {"data": "empty.npz"}, 2, ["the data is empty"]),
    "NaN data": ((), {"data": "nan.npz"}, 2, ["nan or infinity"]),
    "objects in data": ((), {"data": "objects.npz"}, 4, ["execute"]),
    "unknown attack": (("--attacks", "pdg"), {}, 2, ["unknown attack 'pdg'", "Did you mean 'pgd'?"]),
    "unknown option of an attack": (("--attacks", "pgd(step=3)"), {}, 2, ["'step'", "'steps'"]),
    "unreadable attack": (("--attacks", "pgd(steps=3"), {}, 2, ["expected", "the end"]),
    "unknown defense": (("--defenses", "temprature"), {}, 2, ["Did you mean 'temperature'?"]),
    "training without data": (("--defenses", "adversarial_training"), {}, 2, ["train", "--train"]),
    "activations of an own model": (("--activations", "relu"), {}, 2, ["swap(to=gelu)"]),
    "bad eps": (("--eps", "big"), {}, 2, ["--eps 'big'", "8/255"]),
    "negative eps": (("--eps", "-0.1"), {}, 2, ["not a positive number"]),
    "infinite eps": (("--eps", "inf"), {}, 2, ["not a positive number"]),
    "budget typo": (("--budget", "quik"), {}, 2, ["Did you mean 'quick'?"]),
    "samples in words": (("--samples", "many"), {}, 2, ["--samples 'many'", "whole number"]),
    "no samples": (("--samples", "0"), {}, 2, ["samples = 0", "at least 1"]),
    "an unknown device": (("--device", "gpu"), {}, 2, ["gpu", "cpu"]),
    "threshold of ten classes": (("--threshold", "0.5"), {}, 2, ["two classes"]),
    "accuracy below what is expected": (("--expect-accuracy", "0.999"), {}, 3, ["99.9%", "is expected"]),
    "accuracy in percent": (("--expect-accuracy", "93"), {}, 2, ["0.93"]),
    "untested threat": (("--gate", "robust_accuracy@l2:3>=0.5"), {}, 2, ["l2:3 is not tested", "linf:0.1"]),
    "unknown metric": (("--gate", "accuracy>=0.5"), {}, 2, ["unknown metric 'accuracy'", "clean_accuracy"]),
    "no threat": (("--gate", "robust_accuracy>=0.5"), {}, 2, ["needs a threat"]),
    "unreadable gate": (("--gate", "robust_accuracy@linf:0.1"), {}, 2, ["cannot read the gate", "METRIC>=LIMIT"]),
    "gate in percent": (("--gate", "clean_accuracy>=90"), {}, 2, ["0.9 for 90 %"]),
    "min without gate": (("--min", "0.3"), {}, 2, ["--gate METRIC"]),
    "gate of an unknown variant": (("--gate", "ece[modle]<=0.1"), {}, 2, ["'model'"]),
    "no plan file": (("none.toml",), {}, 2, ["cannot read the plan none.toml"]),
    "not writable": (("--out", "/dev/null/run"), {}, 2, ["cannot write the run folder /dev/null/run", "--out"]),
    "unknown option": (("--sampels", "3"), {}, 2, ["--sampels", "--samples"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_in_words(name, folder, tmp_path):
    arguments, changes, code, words = MISTAKES[name]
    said = audit(folder, "--out", tmp_path / "never", *arguments, **changes)
    assert said.code == code, said.err
    for word in words:
        assert word in said.err, said.err
    assert "Traceback" not in said.err
    assert "internal error" not in said.err
    assert not said.out
    assert not (folder / "executed").exists()
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("key.toml", ["unknown plan key 'sampels'", "Did you mean 'samples'?"]), ("bad.toml", ["is not TOML"])],
)
def test_a_wrong_plan_file(folder, name, words):
    said = inside("audit", folder / name)
    assert said.code == 2
    assert all(word in said.err for word in words), said.err


def test_a_pickle_is_never_executed_by_a_real_process(folder):
    said = actsec(
        "audit", "--model", folder / "nets.py:make", "--weights", folder / "evil.pt", "--data", folder / "test.npz"
    )
    assert said.returncode == 4, said.stderr
    assert said.stderr.startswith("error: ")
    assert not (folder / "executed").exists()
    assert "Traceback" not in said.stderr


def test_the_executed_mark_is_real(folder, tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def test_the_users_model_end_to_end(folder, tmp_path):
    run = tmp_path / "run"
    said = audit(folder, "--out", run, "--gate", "clean_accuracy", "--min", 0.5, weights="w.pt")
    assert said.code == 0, said.err
    assert "in the worst case at linf:0.1" in " ".join(said.out.split())
    found = json.loads((run / "report.json").read_text())["result"]
    assert found["gates"][0]["outcome"] == "passed"
    assert found["gates"][0]["gate"] == "clean_accuracy>=0.5"
    assert found["data"]["classes"] == list("0123456789")
    assert found["model"]["name"] == str(folder / "nets.py:make")
    again = inside("resume", run, "--executor", "serial")
    assert again.code == 0
    assert json.loads((run / "report.json").read_text())["result"] == found


def test_inputs_in_another_range(folder, tmp_path):
    run = tmp_path / "run"
    said = audit(folder, "--out", run, "--bounds", "0,255", data="grey.npz")
    assert said.code in (0, 3), said.err
    assert "linf:25.5 is 25.5 of [0, 255] = 25.5 grey levels" in " ".join(said.out.split())
    found = json.loads((run / "report.json").read_text())["result"]
    assert found["data"]["bounds"] == [0, 255]
    assert "linf:255" in {trial["threat"] for trial in found["plan"]["attacks"]}


def gated(finished: Path, where: Path, *gates: str):
    """The finished run under a plan with gates: only the report is made."""
    request = Store(finished).plan().having(gates=gates)
    prepared = preparing.prepare(request)
    store = Store.create(where, prepared.plan, prepared.facts)
    shutil.copytree(finished / "outcomes", where / "outcomes", dirs_exist_ok=True)
    shutil.copytree(finished / "costs", where / "costs", dirs_exist_ok=True)
    return inside("resume", store.root, "--executor", "serial", "--quiet")


@pytest.mark.parametrize(
    ("gates", "code", "words"),
    [
        ((), 0, "No gate set: exit 0 means finished"),
        (("clean_accuracy>=0.3",), 0, "passed"),
        (("clean_accuracy>=0.999",), 1, "failed"),
        (("robust_accuracy@linf:0.1>=0.5",), 3, "images would decide"),
        (("clean_accuracy>=0.999", "robust_accuracy@linf:0.1>=0.5"), 1, "failed"),
    ],
)
def test_the_exit_code_of_gates(finished, tmp_path, gates, code, words):
    said = gated(finished, tmp_path / "run", *gates)
    assert said.code == code, said.err + said.out
    assert words in " ".join(said.out.split())


def test_one_attack_and_its_images(folder, tmp_path):
    arguments = (
        "--model",
        folder / "nets.py:make",
        "--weights",
        folder / "w.safetensors",
        "--data",
        folder / "test.npz",
    )
    said = inside("attack", "pgd(steps=2)", *arguments, "--samples", 20, "--eps", "0.2", "--save", tmp_path / "adv")
    assert said.code == 0, said.err
    assert said.out.startswith("pgd(steps=2) at linf:0.2: 20 tested, ")
    with np.load(tmp_path / "adv.npz") as stored:
        assert np.abs(stored["x"] - stored["original"]).max() <= 0.2 * (1 + 1e-6)
        before, after = map(int, re.search(r"(\d+) correct before, (\d+) still correct after", said.out).groups())
        assert stored["success"].sum() == before - after > 0
    assert inside("attack", "pdg", *arguments).code == 2
    assert inside("attack", "pgd", *arguments, "--eps", "0.1", "--samples", 2, "--save", "/dev/null/x").code == 2
    assert inside("attack", "pgd", *arguments[:2], "--weights", folder / "nan.safetensors").code == 3


@pytest.mark.parametrize("given", [("--gpus", "1"), ("--address", "auto"), ("--executor", "serial", "--gpus", "0.5")])
def test_what_only_ray_knows_is_refused_before_anything_is_read(given, monkeypatch):
    monkeypatch.setattr("actsec.running.preparing.prepare", lambda *_: pytest.fail("the model was read"))
    said = inside("audit", *given)
    assert said.code == 2
    assert "are for --executor ray" in said.err


def test_ray_that_is_not_installed_is_told_before_anything_is_read(monkeypatch):
    monkeypatch.setattr("actsec.running.preparing.prepare", lambda *_: pytest.fail("the model was read"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    said = inside("audit", "--executor", "ray")
    assert said.code == 2
    assert "pip install 'actsec[ray]'" in said.err


@pytest.mark.parametrize("option", ["--save", "--save-whole"])
def test_where_attacked_images_go_is_checked_before_the_attack(option, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("actsec.attacked.attack", lambda *_, **__: pytest.fail("it was attacked"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "taken.npz").mkdir()
    model = ("--model", folder / "nets.py:make", "--weights", folder / "w.safetensors", "--data", folder / "test.npz")
    for place, words in (
        ("mine", "is a folder"),
        ("new/", "is a folder"),
        ("taken", "is a folder"),
        ("mine/../taken.npz", "is a folder"),
        ("/dev/null/x", "cannot write"),
    ):
        said = inside(
            "attack", "fgsm", *model, "--eps", "0.1", option, f"{tmp_path}/{place}" if words[0] == "i" else place
        )
        assert said.code == 2, said.err
        assert words in said.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "taken.npz"]


@pytest.mark.parametrize(
    "kind", ["attacks", "defenses", "activations", "diagnostics", "lints", "poisons", "symptoms", "models", "data"]
)
def test_lists(kind):
    said = inside("list", kind)
    assert said.code == 0
    assert len(said.out.splitlines()) >= 2
    known = {"attacks": "pgd", "defenses": "temperature", "activations": "relu", "models": "reference:cnn"}
    assert known.get(kind, "") in said.out


def test_the_help_knows_the_budgets_sizes():
    from actsec.planning.budgets import BUDGETS

    words = " ".join(inside("audit", "--help").out.split())
    assert "{}, {} or {}]".format(*(budget.samples for budget in BUDGETS.values())) in words


def test_explain():
    assert "steps (a whole number" in inside("explain", "pgd").out
    assert "max(0, x)" in inside("explain", "relu").out or "relu" in inside("explain", "relu").out
    assert inside("explain", "ACT-M01").out
    rule = inside("explain", "ACT-A01").out
    assert rule.endswith("\nLimits:\n  most: 0.25\n")
    assert "Options:" not in rule
    assert "expected calibration error" in inside("explain", "ECE").out
    said = inside("explain", "pdg")
    assert said.code == 2
    assert "pgd" in said.err


@pytest.mark.parametrize("form", ["html", "md", "json", "terminal"])
def test_a_report_is_rendered_again_without_torch(form, finished, tmp_path):
    out = tmp_path / f"r.{form}"
    code = (
        "import sys; from actsec.command_line.cli import main\n"
        f"sys.argv = ['actsec', 'report', {str(finished)!r}, '--format', {form!r}, '--out', {str(out)!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)
    assert len(out.read_text()) > 500


def test_reports_of_nothing(tmp_path, finished):
    assert inside("report", tmp_path).code == 2
    said = inside("report", finished, "--format", "pdf")
    assert said.code == 2
    assert "unknown format 'pdf'" in said.err
    assert inside("report", finished, "--out", "/dev/null/x").code == 2
    assert inside("resume", tmp_path).code == 2


def test_help_and_plain_lists_import_no_torch():
    code = (
        "import sys; from actsec.command_line.cli import main\n"
        "for words in (['--help'], ['audit', '--help'], ['--version'], ['list', 'attacks'], ['list', 'defenses'],\n"
        "              ['list', 'activations'], ['list', 'diagnostics'], ['list', 'models'], ['list', 'data']):\n"
        "    sys.argv = ['actsec', *words]\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code, words\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_field_of_the_plan_is_an_option():
    said = inside("audit", "--help").out
    for key in plan.Plan.__dataclass_fields__:
        assert f"--{ {'gates': 'gate', 'features': 'feature'}.get(key, key.replace('_', '-')) }" in said


def test_a_bug_of_ours_is_one_line_and_exit_5(monkeypatch):
    def broken(*_):
        raise RuntimeError("oh no")

    monkeypatch.setattr(preparing, "prepare", broken)
    said = inside("audit")
    assert said.code == 5
    assert "internal error: RuntimeError: oh no (test_cli.py:" in said.err
    assert "Traceback" not in said.err


def test_the_links_at_the_root_are_signposts():
    for name in ("attacks", "defenses", "reports"):
        code = f"import {name}"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert f"ImportError: this folder is a signpost: import actsec.{name} instead" in done.stderr
    code = "try: from attacks.fgsm import FGSM\nexcept ImportError: print('refused')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "refused\n"
