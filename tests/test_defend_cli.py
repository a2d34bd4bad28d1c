"""``actsec defend``: what it writes is the audit's own model, every mistake is told before anything is trained."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import ENVIRONMENT, inside
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import actsec
from actsec.hardening import hardened, making
from actsec.planning.plan import Plan
from actsec.running import preparing, restoring, tasks
from actsec.running.store import Store
from actsec.search import oracle

NETS = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10)

    def forward(self, x):
        return self.last(self.act(self.first(x.flatten(1))))

def make():
    return Net()

class Changing(Net):
    def forward(self, x):
        return super().forward(x) + 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A classifier of digits by class means, and its data."""
    from actsec.data import load

    place = tmp_path_factory.mktemp("user")
    (place / "nets.py").write_text(NETS)
    digits = load("digits")
    x, y = torch.from_numpy(digits.train.x), torch.from_numpy(digits.train.y)
    means = torch.stack([x[y == c].mean(0).flatten() for c in range(10)])
    weights = {"first.weight": means, "first.bias": -means.square().sum(1) / 2 + 20}
    weights |= {"last.weight": 2 * torch.eye(10), "last.bias": torch.zeros(10)}
    save_file(weights, place / "w.safetensors")
    for name, n in (("train", 64), ("calibration", 60), ("test", 80)):
        split = getattr(digits, name)
        np.savez(place / f"{name}.npz", x=split.x[:n], y=split.y[:n])
    np.savez(place / "labels.npz", x=digits.test.x[:60], y=digits.test.y[:60] + 3)
    return place


def defend(folder: Path, chain: str, *arguments: object, **changes: str):
    given = {"model": "nets.py:make", "weights": "w.safetensors", "test": "", "train": "", "calibration": "", **changes}
    given["data"] = given.pop("test")
    texts = [part for key, value in given.items() if value for part in (f"--{key}", folder / value)]
    return inside("defend", chain, *texts, "--quiet", *arguments)


DATA = {"test": "test.npz", "train": "train.npz", "calibration": "calibration.npz"}


def test_a_folder_is_made_and_can_be_audited(folder, tmp_path):
    place = tmp_path / "hardened"
    said = defend(folder, "swap(to=leaky_relu, finetune=1) | temperature", "--save", place, **DATA)
    assert said.code == 0, said.err
    assert re.search(r"swap\(to=leaky_relu, finetune=1\): [\d,]+ forwards, 64 backwards, [\d.]+ s", said.out)
    assert re.search(r"clean accuracy [\d.]+% before, [\d.]+% after \(80 of test.npz; \d+ labels changed\)", said.out)
    assert f"saved {place}" in said.out
    command = re.search(r"Not audited\..*: actsec (audit .*)", said.out).group(1)
    recipe = hardened.read(place)
    assert recipe.command.startswith("actsec defend ")
    assert set(recipe.data) == {"train", "calibration"}
    assert recipe.measured["n"] == 80
    planned = inside(*command.split(), "--print-plan")
    assert planned.code == 0, planned.err
    assert f'model = "{place}"' in planned.out
    tried = inside("attack", "fgsm", "--model", place, "--data", folder / "test.npz", "--samples", 5, "--eps", "0.1")
    assert "5 tested" in tried.out


def test_it_is_the_model_that_the_audit_judges(folder, tmp_path):
    """The jobs that make the audit's variant leave the very weights that the folder holds."""
    chain = "swap(to=silu, finetune=1) | temperature"
    assert defend(folder, chain, "--save", tmp_path / "h", "--seed", 3, **DATA).code == 0
    files = {name: str(folder / f"{name}.npz") for name in ("train", "calibration")}
    model = {"model": f"{folder / 'nets.py'}:make", "weights": str(folder / "w.safetensors")}
    asked = Plan(**model, **files, data=str(folder / "test.npz"), defenses=(chain,), seed=3, samples=2)
    prepared = preparing.prepare(asked)
    store = Store.create(tmp_path / "run", prepared.plan, prepared.facts)
    jobs = [job for job in prepared.jobs if job.kind in ("base", "defend")]
    assert [job.kind for job in jobs] == ["base", "defend"]
    assert [tasks.run(job, store.root) for job in jobs] == [None, None]
    judged = restoring.unpack(store.get(jobs[1].id).arrays["weights"])
    made = load_file(tmp_path / "h" / "weights.safetensors")
    assert judged.keys() == made.keys()
    assert all(torch.equal(judged[name], made[name]) for name in made)


def test_weights_alone_for_defenses_that_keep_the_architecture(folder, tmp_path):
    file = tmp_path / "w.safetensors"
    chain = "adversarial_training(epochs=1, inner=fgsm) | training_noise(epochs=1)"
    said = defend(folder, chain, "--save", file, "--eps", "0.1", train="train.npz")
    assert said.code == 0, said.err
    assert "not measured: no test data was named (--data)" in said.out
    assert f"--weights {file}" in said.out
    before = load_file(folder / "w.safetensors")
    after = load_file(file)
    assert before.keys() == after.keys()
    assert not torch.equal(before["first.weight"], after["first.weight"])
    actsec.load(f"{folder / 'nets.py'}:make", weights=str(file), input_shape=(1, 8, 8))


def test_an_exported_program(folder, tmp_path):
    said = defend(folder, "temperature", "--export", tmp_path / "m.pt2", calibration="calibration.npz")
    assert said.code == 0, said.err
    assert f"exported {tmp_path / 'm.pt2'}" in said.out
    assert zip_magic(tmp_path / "m.pt2")


def zip_magic(path: Path) -> bool:
    return path.read_bytes()[:2] == b"PK"


def test_a_reference_model_is_trained_first_and_stands_alone(tmp_path):
    model = ["--model", "reference:mlp(width=[4], activation=tanh)"]
    said = inside("defend", "temperature", *model, "--save", tmp_path / "h", "--quiet")
    assert said.code == 0, said.err
    back = actsec.load(str(tmp_path / "h"))
    assert hardened.read(tmp_path / "h").code is None
    assert "which is executed" not in (tmp_path / "h" / "README.md").read_text()
    assert back.shape == (1, 8, 8)
    accuracy = float(re.search(r"clean accuracy ([\d.]+)% before", said.out).group(1))
    assert accuracy > 30


def test_a_hardened_model_is_hardened_again(folder, tmp_path):
    assert defend(folder, "swap(to=silu)", "--save", tmp_path / "one", calibration="calibration.npz").code == 0
    again = ["--model", tmp_path / "one", "--calibration", folder / "calibration.npz", "--save", tmp_path / "two"]
    said = inside("defend", "temperature", *again, "--quiet")
    assert said.code == 0, said.err
    assert [spec.name for spec in hardened.read(tmp_path / "two").specs] == ["swap", "temperature"]
    moved = ["--model", folder / "nets.py:make", "--weights", tmp_path / "two", "--data", folder / "test.npz"]
    assert inside("attack", "fgsm", *moved, "--samples", 5, "--eps", "0.1").code == 0


MISTAKES = {
    "nothing to keep": ("temperature", (), {}, 2, ["nothing would be kept", "--save FOLDER"]),
    "an unknown defense": ("temprature", ("--save", "H"), {}, 2, ["Did you mean 'temperature'?"]),
    "an unreadable chain": ("temperature |", ("--save", "H"), {}, 2, ["cannot read", "name(option=value"]),
    "an unknown activation": ("swap(to=leeky_relu)", ("--save", "H"), {}, 2, ["Did you mean 'leaky_relu'?"]),
    "no such site": ("swap(to=silu, sites='layer*')", ("--save", "H"), {}, 2, ["activation site", "act"]),
    "no training data": ("swap(to=silu, finetune=1)", ("--save", "H"), {}, 2, ["needs train data", "--train"]),
    "no calibration data": (
        "temperature",
        ("--save", "H"),
        {"calibration": "", "train": "train.npz"},
        2,
        ["temperature needs calibration data", "--calibration"],
    ),
    "no data at all": ("swap(to=silu)", ("--save", "H"), {"calibration": ""}, 2, ["no data was named", "--data"]),
    "another architecture in one file": (
        "swap(to=silu) | temperature",
        ("--save", "H.safetensors"),
        {},
        2,
        ["--save", "swap changes the architecture", "--save hardened/"],
    ),
    "weights as a pickle": ("temperature", ("--save", "H.pt"), {}, 2, ["written as safetensors"]),
    "an export of no kind": ("temperature", ("--export", "H.onnx"), {}, 2, ["--export", ".pt2"]),
    "a place that cannot be written": ("temperature", ("--save", "/dev/null/h"), {}, 2, ["cannot write /dev/null/h"]),
    "a file that cannot be written": ("temperature", ("--export", "/dev/null/h.pt2"), {}, 2, ["cannot write"]),
    "labels outside": ("temperature", ("--save", "H"), {"calibration": "labels.npz"}, 2, ["labels run from 3 to 12"]),
    "no such model": ("temperature", ("--save", "H"), {"model": "nest.py:make"}, 2, ["nest.py"]),
    "an option of the audit": ("temperature", ("--save", "H", "--attacks", "pgd"), {}, 2, ["No such option"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_before_anything_is_trained(name, folder, tmp_path, monkeypatch):
    chain, arguments, changes, code, words = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("actsec.hardening.making.fit_chain", lambda *_: pytest.fail("it was fitted"))
    said = defend(folder, chain, *arguments, **{"calibration": "calibration.npz", **changes})
    assert said.code == code, said.err
    assert all(word in said.err for word in words), said.err
    assert "Traceback" not in said.err
    assert "internal error" not in said.err
    assert not said.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("memory", "batch"), [(2048, 256), (1, 32)])
def test_calls_keep_to_the_memory_given(memory, batch, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(oracle, "kept_by_row", lambda *_: 1 << 14)
    seen, fit_chain = [], making.fit_chain
    monkeypatch.setattr(making, "fit_chain", lambda base, *rest: seen.append(base.batch) or fit_chain(base, *rest))
    given = ("--save", tmp_path / "h", "--memory", memory)
    assert defend(folder, "temperature", *given, calibration="calibration.npz").code == 0
    assert seen == [batch]


def test_what_cannot_be_exported_is_told_before_anything_is_trained(folder, tmp_path, monkeypatch):
    (tmp_path / "odd.py").write_text(
        f"import torch\nimport numpy as np\n{NETS}\nclass Odd(Net):\n    def forward(self, x):\n"
        "        return super().forward(torch.from_numpy(np.sin(x.detach().numpy())))\n"
    )
    monkeypatch.setattr("actsec.hardening.making.fit_chain", lambda *_: pytest.fail("it was fitted"))
    said = defend(
        folder,
        "temperature",
        *("--export", tmp_path / "m.pt2"),
        model=tmp_path / "odd.py:Odd",
        calibration="calibration.npz",
    )
    assert said.code == 2
    assert "torch.export cannot follow" in said.err
    assert said.err.count("\n") < 5  # and not the whole graph
    assert not (tmp_path / "m.pt2").exists()


def test_a_reference_model_is_not_trained_for_what_cannot_be_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("actsec.training.fit", lambda *_, **__: pytest.fail("it was trained"))
    said = inside(
        "defend", "swap(to=silu)", "--model", "reference:mlp", "--save", tmp_path / "w.safetensors", "--quiet"
    )
    assert said.code == 2
    assert "swap changes the architecture" in said.err


def test_what_was_written_is_said_although_the_rest_failed(folder, tmp_path, monkeypatch):
    from actsec.errors import StoreError

    def full(*_):
        raise StoreError("cannot write m.pt2: No space left on device", "Make room.")

    monkeypatch.setattr("actsec.hardening.exporting.write", full)
    places = ("--save", tmp_path / "h", "--export", tmp_path / "m.pt2")
    said = defend(folder, "temperature", *places, calibration="calibration.npz")
    assert said.code == 2
    assert f"saved {tmp_path / 'h'}" in said.out
    assert "exported" not in said.out
    assert hardened.read(tmp_path / "h").chain == "temperature"


def test_what_is_saved_says_that_files_which_execute_were_allowed(folder, tmp_path):
    given = {"calibration": "calibration.npz"}
    for trust, words in (((), False), (("--trust-model",), True)):
        place = tmp_path / f"h{len(trust)}"
        said = defend(folder, "temperature", *trust, "--save", place, **given)
        assert said.code == 0, said.err
        assert hardened.read(place).trusted is words
        assert ("made with `--trust-model`" in (place / "README.md").read_text()) is words
    digest = hashlib.sha256((folder / "w.safetensors").read_bytes()).hexdigest()
    assert hardened.read(place).base_weights == digest
    again = inside("defend", "temperature", "--model", place, *_texts(folder, given), "--save", tmp_path / "two")
    assert again.code == 0, again.err
    assert hardened.read(tmp_path / "two").trusted
    file = tmp_path / "alone.safetensors"
    said = defend(
        folder, "training_noise(epochs=1)", "--trust-model", "--save", file, "--eps", "0.1", train="train.npz"
    )
    assert said.code == 0, said.err
    with safe_open(file, "pt") as stored:
        assert stored.metadata()["trusted"] == "true"


def _texts(folder, files):
    return [part for key, value in files.items() for part in (f"--{key}", folder / value)]


def test_a_place_that_is_not_the_folder_is_told_where_the_folder_is(folder, tmp_path):
    place = tmp_path / "hardened"
    assert defend(folder, "temperature", "--save", place, calibration="calibration.npz").code == 0
    data, code = ("--data", folder / "test.npz"), ("--model", folder / "nets.py:make")
    for given, words in (
        (("--weights", place), ["is the folder of a hardened model", "Give it as --model"]),
        (("--model", place / "recipe.toml"), ["is one file of a hardened model", f"--model {place}/"]),
        (("--model", place / "weights.safetensors"), ["is one file of a hardened model", f"--model {place}/"]),
        (("--model", tmp_path / "hardend"), ["there is no folder", f"Did you mean {place}/?"]),
        (("--model", f"{tmp_path}/other/"), ["there is no folder", "the folder of a hardened model"]),
        (("--model", folder / "w.safetensors"), ["builds no model", "--weights FILE"]),
        ((*code, "--weights", place / "recipe.toml"), ["is one file of a hardened model", f"--weights {place}"]),
        ((*code, "--weights", tmp_path), ["is not a file"]),
    ):
        said = inside("audit", *given, *data, "--print-plan")
        assert said.code == 2, said.err
        assert all(word in said.err for word in words), said.err


def test_a_recipe_that_calls_what_its_file_imports_is_refused_as_unsafe(folder, tmp_path):
    (tmp_path / "nets.py").write_text(f"from subprocess import getoutput\n{NETS}")
    place = tmp_path / "h"
    said = defend(
        folder, "temperature", "--save", place, model=tmp_path / "nets.py:make", calibration="calibration.npz"
    )
    assert said.code == 0, said.err
    recipe, mark = place / "recipe.toml", tmp_path / "executed"
    recipe.write_text(recipe.read_text().replace('"nets.py:make"', f"\"nets.py:getoutput(cmd='mkdir {mark}')\""))
    for command in (["audit"], ["attack", "fgsm", "--eps", "0.1"], ["diagnose"]):
        said = inside(*command, "--model", place, "--data", folder / "test.npz")
        assert said.code == 4, said.err
        assert "asks for getoutput" in said.err
    assert not mark.exists()


def test_what_exists_is_not_replaced(folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    said = defend(folder, "temperature", "--save", tmp_path / "mine", calibration="calibration.npz")
    assert said.code == 2
    assert "exists already and is not empty" in said.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_tampered_folder_is_refused_by_every_command(folder, tmp_path):
    place = tmp_path / "h"
    assert defend(folder, "temperature", "--save", place, calibration="calibration.npz").code == 0
    weights = place / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    model = ("--model", place, "--data", folder / "test.npz")
    commands = (["audit"], ["attack", "fgsm", "--eps", "0.1"], ["diagnose"], ["defend", "temperature", "--save", "x"])
    for command in commands:
        said = inside(*command, *model)
        assert said.code == 2, said.err
        assert "is not the file that was saved" in said.err
    weights.write_bytes(b"\x80\x04K\x01.")
    assert inside("audit", *model).code == 4


def test_code_in_the_folder_is_refused_as_unsafe(folder, tmp_path):
    place = tmp_path / "h"
    assert defend(folder, "temperature", "--save", place, calibration="calibration.npz").code == 0
    recipe = place / "recipe.toml"
    (place / "nets.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})")
    recipe.write_text(re.sub('file = ".*"', 'file = "nets.py"', recipe.read_text()))
    said = inside("audit", "--model", place, "--data", folder / "test.npz")
    assert said.code == 4
    assert "brings its own code" in said.err
    assert not (tmp_path / "executed").exists()


def test_data_of_another_kind_is_refused(folder, tmp_path):
    place = tmp_path / "h"
    assert defend(folder, "temperature", "--save", place, calibration="calibration.npz").code == 0
    said = inside("diagnose", "--model", place, "--data", folder / "test.npz", "--bounds", "0,255")
    assert said.code == 2
    assert "inputs in [0, 1]" in said.err
    said = inside("diagnose", "--model", place, "--data", folder / "test.npz", "--weights", folder / "w.safetensors")
    assert said.code == 2
    assert "brings its own" in said.err


def test_ctrl_c_leaves_nothing(folder, tmp_path):
    """A long training, stopped once it says how long it will take."""
    words = ["defend", "training_noise(epochs=100000)", "--model", folder / "nets.py:make"]
    words += ["--weights", folder / "w.safetensors", "--train", folder / "train.npz", "--save", tmp_path / "h"]
    command = [sys.executable, "-u", "-m", "actsec", *map(str, words)]
    environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        said = ""
        until = time.monotonic() + 240
        while "left training_noise" not in said and time.monotonic() < until:
            said += process.stderr.readline()
        assert re.search(r"\d+/100000 epochs about \d+ (s|min) left training_noise: loss", said), said
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted: nothing was written" in err
    assert not out
    assert not list(tmp_path.iterdir())


def test_the_clock_counts_epochs_and_the_rows_between():
    from actsec.hardening.chains import _Clock, _watched

    told = []
    clock = _Clock("pgd", 10, 4, told.append)
    model = nn.Linear(2, 2)
    with _watched(model, clock) as tell:
        clock.looked -= 10
        model.train()(torch.zeros(5, 2))
        assert told[-1].done == 0
        assert told[-1].left == pytest.approx((clock.looked - clock.began) * 7, rel=1e-6)  # an eighth is done
        clock.looked -= 10
        model.eval()(torch.zeros(500, 2))  # an attack in eval mode is no progress of its own
        assert told[-1].left == pytest.approx((clock.looked - clock.began) * 7, rel=1e-6)
        tell("adversarial_training: loss 1.0", 3, 4)
        assert (told[-1].done, told[-1].total, told[-1].label) == (3, 4, "pgd: loss 1.0")
        assert told[-1].left == pytest.approx((clock.looked - clock.began) / 3, rel=1e-6)
    assert not model._forward_pre_hooks


def test_every_field_of_the_plan_that_a_defense_needs_is_an_option():
    said = inside("defend", "--help").out
    for key in ("model", "weights", "data", "train", "calibration", "seed", "bounds", "normalize", "threshold", "eps"):
        assert f"--{key}" in said
    for key in ("--attacks", "--gate", "--samples", "--corruptions"):
        assert key not in said


def test_a_hardened_model_faces_what_its_own_defenses_say_it_must(folder, tmp_path):
    place = tmp_path / "h"
    chain = "adversarial_training(epochs=1, inner=fgsm, eps=0.1)"
    assert defend(folder, chain, "--save", place, train="train.npz").code == 0
    said = inside("audit", "--model", place, "--data", folder / "test.npz", "--samples", 5, "--print-plan")
    assert said.code == 0, said.err
    (trial,) = (t for t in tomllib.loads(said.out)["attacks"] if t.get("role") == "adaptive")
    assert trial["attack"] == "pgd(steps=50, restarts=2, loss=margin)"
    assert trial["variants"][0] == "model"
    plain = [*("--model", folder / "nets.py:make"), *("--weights", folder / "w.safetensors")]
    said = inside("audit", *plain, "--data", folder / "test.npz", "--samples", 5, "--defenses", "none", "--print-plan")
    assert "adaptive" not in said.out


def test_a_model_behind_its_own_detector_is_hardened_and_loads_with_it(folder, tmp_path):
    (tmp_path / "shy.py").write_text(
        f"{NETS}\nclass Shy(Net):\n    def rejects(self, x):\n"
        "        return x.flatten(1).mean(1) - 0.5 + self.last.weight.mean()\n"
    )
    target = actsec.load(f"{tmp_path / 'shy.py'}:Shy", weights=folder / "w.safetensors", input_shape=(1, 8, 8))
    told = defend(
        folder, "training_noise(epochs=1) | temperature", "--save", tmp_path / "h",
        model=tmp_path / "shy.py:Shy", test="test.npz", train="train.npz", calibration="calibration.npz",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert "target.rejection(x)" in (tmp_path / "h" / "README.md").read_text()
    data = np.load(folder / "test.npz")
    x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    with torch.no_grad():
        refused, wrong = target.rejection(x) > 0, target.decide(target.logits(x)) != y
        assert 0 < int(refused.sum()) < len(y)
        before = float((~refused & ~wrong).double().mean())
        hard = actsec.load(f"{tmp_path / 'shy.py'}:Shy", weights=str(tmp_path / "h"))
        assert not torch.equal(hard.rejection(x), target.rejection(x)), "on the trained weights"
        after = float(((hard.rejection(x) <= 0) & (hard.decide(hard.logits(x)) == y)).double().mean())
    measured = tomllib.loads((tmp_path / "h" / "recipe.toml").read_text())["measured"]
    assert measured["clean_accuracy_before"] == pytest.approx(before)
    assert measured["clean_accuracy_after"] == pytest.approx(after)
    export = defend(
        folder, "temperature", "--export", tmp_path / "m.pt2", model=tmp_path / "shy.py:Shy", test="test.npz"
    )
    assert export.code == 2
    assert "would accept everything" in export.err
