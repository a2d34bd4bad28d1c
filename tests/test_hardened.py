"""Hardened models: saved whole, loaded as the same model or not at all, and never executing what nobody vouched for."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import ENVIRONMENT

import actsec
from actsec import registry
from actsec.activations import find
from actsec.describing import fingerprint
from actsec.errors import BadOption, ModelError, StoreError, Unsafe
from actsec.hardening import exporting, hardened
from actsec.hardening.chains import fit_chain
from actsec.loading import recipes
from actsec.loading.recipes import RECIPE, WEIGHTS, inputs
from actsec.planning import toml
from actsec.running import tasks
from actsec.search.oracle import frozen
from actsec.search.tables import Lattice, RawUnits
from actsec.spec import Spec, parse_chain
from actsec.types import Material, Normalization, Split

NETS = """
import torch
from torch import nn
from torch.nn import functional as F

FACTOR = 1.0

def scaled(z):
    return z * FACTOR

class Net(nn.Module):
    def __init__(self, outputs=3, functional=True, field=False):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.hidden, self.last = nn.Linear(64, 8), nn.Linear(8, outputs)
        self.functional, self.field = functional, field

    def forward(self, x):
        h = self.act(self.norm(self.conv(x))).flatten(1)
        h = self.hidden(h)
        h = F.relu(h) if self.functional else self.act(h)
        z = scaled(self.last(h))
        return {"scores": z, "other": x} if self.field else z

def make(outputs=3, functional=True, field=False):
    return Net(outputs, functional, field)

TURN = []

def fickle():
    TURN.append(0)
    return Net(functional=len(TURN) % 2 == 1)
"""


@pytest.fixture
def user(tmp_path):
    """A folder of a user's: code that builds a network."""
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def target_of(user, call="make", **asked):
    torch.manual_seed(3)
    made = actsec.load(f"{user / 'nets.py'}:{call}", input_shape=(1, 4, 4), **asked)
    with torch.no_grad():  # running statistics that differ from their defaults
        made.model.train()(torch.rand(64, 1, 4, 4))
        made.model.eval()
    return made


def data(n=24, classes=3, shape=(1, 4, 4)):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, *shape, generator=generator)
    return Split(x, torch.arange(n) % classes, torch.arange(n))


def made(base, chain):
    split = data(classes=len(base.classes), shape=base.shape)
    material = Material(split, split, 0, tasks.perturb, lambda *_: None)
    target, fits, _ = fit_chain(base, [registry.build("defenses", spec) for spec in parse_chain(chain)], material)
    return target, fits


def saved(user, base, chain, call="make", name="hardened", **more):
    target, fits = made(base, chain)
    hardened.save(user / name, target, base=base, model=f"{user / 'nets.py'}:{call}", chain=chain, fits=fits, **more)
    return target


def same(a, b, n=5):
    """Bit-equal logits; of targets that draw, under the same draws."""
    outputs = []
    for target in (a, b):
        with frozen(target.model), torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(1)
            outputs.append(target.logits(inputs(a, n)))
    return torch.equal(*outputs)


def shortest(name):
    """A defense with as little work as its options allow."""
    fields = {field.name for field in dataclasses.fields(registry.find("defenses", name))}
    little = {"to": Spec("silu"), "eps": 0.1, "std": 0.1, "epochs": 1, "draws": 4, "inner": Spec("fgsm")}
    needed = {field.name for field in dataclasses.fields(registry.find("defenses", name)) if _required(field)}
    options = {
        key: value for key, value in little.items() if key in fields and (key in needed or key in ("epochs", "std"))
    }
    return str(Spec(name, tuple(options.items())))


def _required(field):
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@pytest.mark.parametrize("name", registry.names("defenses"))
def test_every_defense_is_saved_and_loads_bit_equal(name, user):
    base = target_of(user)
    target = saved(user, base, shortest(name))
    back = actsec.load(str(user / "hardened"))
    assert same(target, back)
    assert fingerprint(back) == fingerprint(target)
    assert back.stochastic == target.stochastic
    assert sorted(path.name for path in user.iterdir() if path.name != "__pycache__") == ["hardened", "nets.py"]


CHAINS = {
    "swap(to=prelu) | temperature": {},
    "temperature | swap(to=leaky_relu(slope=0.2), sites='act')": {},
    "swap(to=tanh) | swap(to=relu6) | noisy_inference(std=0.05)": {"normalize": "0.5/0.25"},
    "temperature": {
        "normalize": Normalization((0.1,), (1 / 3,)),
        "bounds": (0.0, 255.0),
        "classes": ["ä", 'b"', "c\\"],
    },
    "swap(to=silu)": {"call": "make(outputs=2)", "threshold": 0.3},
    "temperature | swap(to=gelu)": {"call": "make(field=true)", "output": "scores"},
}


@pytest.mark.parametrize("chain", CHAINS)
def test_chains_and_settings_come_back(chain, user):
    asked = dict(CHAINS[chain])
    call = asked.pop("call", "make")
    base = target_of(user, call, **asked)
    target = saved(user, base, chain, call, seed=5, command="actsec defend ...")
    back = actsec.load(str(user / "hardened"))
    assert same(target, back)
    fields = ("shape", "classes", "bounds", "normalization", "threshold", "output", "stochastic")
    assert [getattr(back, name) for name in fields] == [getattr(target, name) for name in fields]
    recipe = hardened.read(user / "hardened")
    assert [spec.name for spec in recipe.specs] == [spec.name for spec in parse_chain(chain)]
    assert recipe.seed == 5


def test_the_units_of_a_table_come_back(user):
    lattices = (Lattice(0, 1.5, 0.7, 1.0, 0.0),)
    base = actsec.load("reference:mlp(width=[4])", input_shape=(2,), classes=2, bounds=(-9.0, 9.0))
    base = base.having(normalization=RawUnits((-2.0, 0.0), (1.5, 1.0), lattices))
    target, fits = made(base, "swap(to=elu)")
    hardened.save(user / "h", target, base=base, model="reference:mlp(width=[4])", chain="swap(to=elu)", fits=fits)
    back = actsec.load(str(user / "h"))
    assert back.normalization == base.normalization
    assert same(back, target)


def test_the_folder_is_readable_and_says_what_it_is(user):
    saved(
        user,
        target_of(user),
        "swap(to=leaky_relu) | temperature",
        seconds=(0.1, 1.5),
        audit="actsec audit --model h --data t.npz",
    )
    readme = (user / "hardened" / "README.md").read_text()
    for words in ("actsec.load(", "has not been audited", "actsec audit --model h --data t.npz", "not a defense"):
        assert words in readme
    assert re.search(r"`temperature`: 24 forwards and 0 backwards of one input, 1.5 s", readme)
    recipe = tomllib.loads((user / "hardened" / RECIPE).read_text())
    assert recipe["model"] == "nets.py:make"
    assert recipe["code"] == {"file": "../nets.py", "sha256": hashlib.sha256(NETS.encode()).hexdigest()}
    assert recipe["fit"][1]["temperature"] > 0
    assert oct((user / "hardened").stat().st_mode)[-3:] == "755"


def test_a_hardened_model_can_be_hardened_again(user):
    base = target_of(user)
    first = saved(user, base, "swap(to=silu)")
    onto = hardened.read(user / "hardened")
    second, fits = made(actsec.load(str(user / "hardened")), "temperature")
    text = f"{user / 'nets.py'}:make"
    hardened.save(user / "again", second, base=base, model=text, chain="temperature", fits=fits, onto=onto)
    back = actsec.load(str(user / "again"))
    assert same(back, second)
    assert not same(back, first)
    assert [each["defense"] for each in hardened.read(user / "again").fit] == ["swap(to=silu)", "temperature"]


def rewritten(folder, change):
    path = folder / RECIPE
    text = path.read_text()
    path.write_text(change(text))
    assert path.read_text() != text
    return folder


def test_tampered_weights_are_refused(user):
    saved(user, target_of(user), "temperature")
    folder = user / "hardened"
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-3] ^= 0x10
    (folder / WEIGHTS).write_bytes(bytes(content))
    with pytest.raises(ModelError, match="is not the file that was saved"):
        actsec.load(str(folder))
    digest = hashlib.sha256(bytes(content)).hexdigest()
    rewritten(folder, lambda text: re.sub('weights = "[0-9a-f]+"', f'weights = "{digest}"', text))
    with pytest.raises(ModelError, match=r"fingerprint differs|answers otherwise"):
        actsec.load(str(folder))
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="no weight file"):
        actsec.load(str(folder))


def test_weights_that_are_a_pickle_are_refused_whatever_the_hash_says(user):
    target = saved(user, target_of(user), "temperature")
    file = user / "hardened" / WEIGHTS
    torch.save(target.model.state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    rewritten(user / "hardened", lambda text: re.sub('weights = "[0-9a-f]+"', f'weights = "{digest}"', text))
    with pytest.raises(ModelError, match="is not the file that was saved"):
        actsec.load(str(user / "hardened"))


def test_changed_code_is_refused_with_the_way_out(user):
    target = saved(user, target_of(user), "swap(to=silu)")
    folder, nets = user / "hardened", user / "nets.py"
    nets.write_text(NETS + "\n# a remark\n")
    with pytest.raises(ModelError, match=r"nets.py changed since") as refused:
        actsec.load(str(folder))
    assert "--weights" in refused.value.mend
    assert same(actsec.load(f"{nets}:make", weights=str(folder)), target)
    nets.write_text(NETS.replace("FACTOR = 1.0", "FACTOR = 1.1"))  # a global, which no fingerprint sees
    with pytest.raises(ModelError, match="answers otherwise"):
        actsec.load(f"{nets}:make", weights=str(folder))
    nets.write_text(NETS.replace("flatten(1)\n", "flatten(1) + 0\n"))
    with pytest.raises(ModelError, match="fingerprint differs"):
        actsec.load(f"{nets}:make", weights=str(folder))
    with pytest.raises(ModelError, match="not the one saved"):
        actsec.load(f"{nets}:make(outputs=3, functional=false)", weights=str(folder))
    nets.rename(user / "moved.py")
    with pytest.raises(ModelError, match="is not there"):
        actsec.load(str(folder))
    (user / "moved.py").write_text(NETS)
    assert same(actsec.load(f"{user / 'moved.py'}:make", weights=str(folder)), target)


def test_the_folder_moves_with_its_code(user):
    target = saved(user, target_of(user), "temperature")
    (user / "place").mkdir()
    for name in ("hardened", "nets.py"):
        (user / name).rename(user / "place" / name)
    assert same(actsec.load(str(user / "place" / "hardened") + "/"), target)


def test_no_recipe_has_code_executed_that_nobody_vouched_for(user):
    saved(user, target_of(user), "temperature")
    folder, mark = user / "hardened", user / "executed"
    evil = f"import os\nos.mkdir({str(mark)!r})\n" + NETS
    (folder / "nets.py").write_text(evil)
    digest = hashlib.sha256(evil.encode()).hexdigest()
    original = (folder / RECIPE).read_text()

    def pointing(file, sha256):
        code = f'[code]\nfile = "{file}"\nsha256 = "{sha256}"'
        return lambda text: re.sub(r'\[code\]\nfile = ".*"\nsha256 = ".*"', code, text)

    for file in ("nets.py", "./nets.py", f"../{folder.name}/nets.py", str(folder / "nets.py")):
        rewritten(folder, pointing(file, digest))
        with pytest.raises(Unsafe, match="brings its own code"):
            actsec.load(str(folder))
    (user / "link.py").symlink_to(folder / "nets.py")
    rewritten(folder, pointing("../link.py", digest))
    with pytest.raises(Unsafe, match="brings its own code"):
        actsec.load(str(folder))
    standard = subprocess.__file__
    known = hashlib.sha256(Path(standard).read_bytes()).hexdigest()
    command = f"subprocess.py:getoutput(cmd='mkdir {mark}')"
    (folder / RECIPE).write_text(original)
    rewritten(folder, lambda text: text.replace('"nets.py:make"', f'"{command}"'))
    rewritten(folder, pointing(standard, known))
    with pytest.raises(Unsafe, match="asks for installed code"):
        actsec.load(str(folder))
    for model in (command.replace(".py", ""), "os:mkdir"):
        (folder / RECIPE).write_text(re.sub(r"\[code\]\n.*\n.*\n", "", original))
        rewritten(folder, lambda text, model=model: text.replace('"nets.py:make"', f'"{model}"'))
        with pytest.raises(Unsafe, match="installed function"):
            actsec.load(str(folder))
    rewritten(folder, lambda text: re.sub('model = ".*"', 'model = "nets.py:make"', text))
    with pytest.raises(ModelError, match="holds no hash"):
        actsec.load(str(folder))
    assert not mark.exists()
    (folder / RECIPE).write_text(original)
    rewritten(folder, pointing("nets.py", digest))
    actsec.load(str(folder), trust=True)
    assert mark.exists()


def test_a_recipe_calls_only_what_its_file_defines(user):
    """What a file imports was not written to be called by a recipe, and a recipe chooses the arguments."""
    nets, mark = user / "nets.py", user / "executed"
    nets.write_text(
        f"from subprocess import getoutput, Popen\nimport functools\nCALL = functools.partial(getoutput)\n{NETS}"
    )
    saved(user, target_of(user), "temperature")
    folder = user / "hardened"
    original = (folder / RECIPE).read_text()
    for call in (
        f"getoutput(cmd='mkdir {mark}')",
        f"Popen(args='mkdir {mark}')",
        f"CALL(cmd='mkdir {mark}')",
        "F",
        "TURN",
    ):
        (folder / RECIPE).write_text(original)
        rewritten(folder, lambda text, call=call: text.replace('"nets.py:make"', f'"nets.py:{call}"'))
        with pytest.raises(Unsafe, match="which is no function or class that") as refused:
            actsec.load(str(folder))
        assert "name it: --model" in refused.value.mend
    assert not mark.exists()
    (folder / RECIPE).write_text(original.replace('"nets.py:make"', '"nets.py:mkae"'))
    with pytest.raises(ModelError, match="has no function 'mkae'"):
        actsec.load(str(folder))


def test_code_that_a_recipe_may_not_call_is_named_beside_the_folder(user):
    (user / "own.py").write_text("from nets import make\n")
    text = f"{user / 'own.py'}:make"
    base = actsec.load(text, input_shape=(1, 4, 4))
    target, fits = made(base, "temperature")
    hardened.save(user / "h", target, base=base, model=text, chain="temperature", fits=fits)
    with pytest.raises(Unsafe):
        actsec.load(str(user / "h"))
    assert same(actsec.load(text, weights=str(user / "h")), target)
    assert f'actsec.load("{text}", weights="{user / "h"}")' in (user / "h" / "README.md").read_text()


def test_nan_is_no_agreement(user):
    saved(user, target_of(user), "temperature")
    nets, folder = user / "nets.py", user / "hardened"
    for factor in ("float('nan')", "float('inf')"):
        nets.write_text(NETS.replace("FACTOR = 1.0", f"FACTOR = {factor}"))
        for stochastic in ("false", "true"):
            rewritten(folder, lambda text, said=stochastic: re.sub("stochastic = .*", f"stochastic = {said} ", text))
            with pytest.raises(ModelError, match=r"not finite|answers the same each time"):
                actsec.load(f"{nets}:make", weights=str(folder))


@pytest.mark.parametrize("b", [[math.nan, 1.0], [1.0, math.inf], [1.0], [1.0, 2.0, 3.0], []])
def test_outputs_apart(b):
    a = torch.tensor([1.0, 2.0])
    assert recipes.apart(a, torch.tensor(b)) == math.inf
    assert recipes.apart(torch.tensor(b), a) == math.inf
    assert recipes.apart(a, torch.tensor([1.0, 2.5])) == 0.25


def test_what_draws_by_itself_is_recorded_and_nothing_else_may_say_so(user):
    folder, nets = user / "hardened", user / "nets.py"
    saved(user, target_of(user), "temperature")
    rewritten(folder, lambda text: text.replace("stochastic = false", "stochastic = true"))
    with pytest.raises(ModelError, match=r"says stochastic = true, and the model .* answers the same each time"):
        actsec.load(str(folder))
    nets.write_text(NETS.replace("return z * FACTOR", "return F.dropout(z)"))
    drawing = target_of(user).having(stochastic=True)
    target, fits = made(drawing, "temperature")
    hardened.save(user / "draws", target, base=drawing, model=f"{nets}:make", chain="temperature", fits=fits)
    assert actsec.load(str(user / "draws")).stochastic
    saved(user, target_of(user), "noisy_inference(std=0.1)", name="noisy")
    rewritten(user / "noisy", lambda text: text.replace("stochastic = true", "stochastic = false"))
    with pytest.raises(ModelError, match=r"says stochastic = false, and the model .* draws at random"):
        actsec.load(str(user / "noisy"))


HOSTILE = {
    "input_shape": ["[]", "[0]", "[-1, 4, 4]", "[1, 999999999999]", "[1, 10000000000000000000000]", '["a"]', "[1.5]"],
    "seed": ["-1", "99999999999999999999999", "nan", "1.5"],
    "bounds": ["[nan, 1.0]", "[-inf, inf]", "[0.0, 1e308]", "[0.0, 1e39]", "[1.0, 0.0]"],
    "classes": ["[]", '["a"]', '["a", "a", "b"]'],
    "model": [r'"nets.py:make\u0000"', r'"\u0000:make"', '":"', '""', '"nets.py:make(outputs=-1)"'],
    "chain": ['""', '"|"', r'"\u0000"', '"temperature | temperature"', '"noisy_inference(std=1e400)"'],
    "outputs": ["[[nan, nan, nan], [nan, nan, nan]]", "[[1e400, 0, 0], [0, 0, 0]]", "[[0.0]]", "[[]]"],
    "mean": ["[]", "[nan]", "[1e400]", "[0.5, 0.5]"],
    "std": ["[]", "[0.0]", "[-1.0]", "[nan]", "[1e-46]"],
    "file": [r'"\u0000"', '"/dev/zero"', f'"../{"a" * 300}"', '"../loop"'],
    "schema": ["[" * 3000 + "]" * 3000, "1\nthreshold = nan", "1\nthreshold = 0.5", '1\noutput = "x"'],
}


@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_values_are_told_in_words(key, user):
    (user / "loop").symlink_to(user / "loop")
    saved(user, target_of(user, normalize="0.5/0.25"), "temperature")
    path = user / "hardened" / RECIPE
    original = path.read_text()
    for value in HOSTILE[key]:
        changed = re.sub(f"(?m)^{key} = .*$", lambda _, value=value: f"{key} = {value}", original, count=1)
        assert changed != original
        path.write_text(changed)
        with pytest.raises(actsec.ActsecError) as refused:
            actsec.load(str(user / "hardened"))
        assert refused.value.exit_code == 2, value
        assert refused.value.mend


def test_a_long_text_is_no_folder():
    with pytest.raises(actsec.ActsecError) as refused:
        actsec.load(f"reference:cnn(channels=[{'4, ' * 200}4], activation=rleu)", input_shape=(1, 8, 8), classes=3)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("schema = 1", "schema = 2"), "reads schema 1"),
        (lambda text: text.replace("schema = 1", "schema = = 1"), "is not TOML"),
        (lambda text: text.replace("bounds = [0.0, 1.0]", "bounds = [0.0]"), "bounds"),
        (lambda text: text.replace("seed = 0", "sede = 0"), "se"),
        (lambda text: re.sub(r"outputs = .*", "outputs = []", text), "answers otherwise"),
        (lambda text: re.sub(r"outputs = \[\[[^,]*", "outputs = [[9.5", text), "answers otherwise"),
        (lambda text: text.replace("| temperature", "| temprature"), "Did you mean 'temperature'"),
        (lambda text: re.sub('fingerprint = ".', 'fingerprint = "x', text), "fingerprint differs"),
        (lambda text: text.replace("sites='*'", "sites='act'"), "fingerprint differs|answers otherwise"),
    ],
)
def test_a_damaged_recipe_is_told_in_words(change, words, user):
    saved(user, target_of(user), "swap(to=silu) | temperature")
    folder = rewritten(user / "hardened", change)
    with pytest.raises(actsec.ActsecError, match=words) as refused:
        actsec.load(str(folder))
    assert refused.value.exit_code == 2
    assert refused.value.mend


def test_another_version_is_accepted_when_the_answers_are_the_same(user):
    target = saved(user, target_of(user), "temperature")
    folder = rewritten(user / "hardened", lambda text: re.sub('torch = ".*"', 'torch = "1.0"', text))
    rewritten(folder, lambda text: re.sub('fingerprint = ".', 'fingerprint = "x', text))
    notes = []
    assert same(actsec.load(str(folder), tell=notes.append), target)
    assert any("under torch" in note and "outputs are the same" in note for note in notes)
    rewritten(folder, lambda text: re.sub(r"outputs = \[\[[^,]*", "outputs = [[9.5", text))
    with pytest.raises(ModelError, match=r"saved with 1\.0"):
        actsec.load(str(folder))


def test_what_contradicts_the_recipe_is_refused(user):
    saved(user, target_of(user, normalize="0.5/0.5"), "temperature")
    folder = str(user / "hardened")
    for asked, words in (
        ({"normalize": "0.5/0.25"}, "brings its own"),
        ({"threshold": 0.5}, "threshold = 0.5"),
        ({"output": "scores"}, "output = scores"),
        ({"random_weights": True}, "random_weights"),
        ({"weights": "w.safetensors"}, "weights = w.safetensors"),
    ):
        with pytest.raises(BadOption, match=words):
            actsec.load(folder, **asked)
    for asked, words in (
        ({"input_shape": (3, 4, 4)}, "inputs of shape"),
        ({"bounds": (0.0, 255.0)}, r"inputs in \[0, 1\]"),
        ({"classes": 4}, "3 classes apart, the data has 4"),
    ):
        with pytest.raises(ModelError, match=words):
            actsec.load(folder, **asked)
    again = actsec.load(folder, normalize="0.5/0.5", bounds=(0.0, 1.0), classes=["a", "b", "c"], input_shape=(1, 4, 4))
    assert again.classes == ("a", "b", "c")
    with pytest.raises(BadOption, match="folder of a hardened model"):
        actsec.load(torch.nn.Linear(2, 2), weights=folder)


def test_names_of_classes_are_held_to(user):
    saved(user, target_of(user, classes=["cat", "dog", "cow"]), "temperature")
    folder = str(user / "hardened")
    assert actsec.load(folder).classes == ("cat", "dog", "cow")
    with pytest.raises(ModelError, match="'dog' where the data has 'cow'"):
        actsec.load(folder, classes=["cat", "cow", "dog"])


def test_nothing_half_written_is_left_and_nothing_is_replaced(user, monkeypatch):
    base = target_of(user)
    target, _ = made(base, "temperature")

    def save(name, **more):
        hardened.save(user / name, target, base=base, model=f"{user / 'nets.py'}:make", chain="temperature", **more)

    for stop in (KeyboardInterrupt, OSError(28, "No space left on device")):
        monkeypatch.setattr(hardened, "load", lambda *_, stop=stop, **__: (_ for _ in ()).throw(stop))
        with pytest.raises((KeyboardInterrupt, StoreError)):
            save("hardened")
        assert sorted(path.name for path in user.iterdir() if path.name != "__pycache__") == ["nets.py"]
    monkeypatch.undo()
    (user / "full").mkdir()
    (user / "full" / "mine").write_text("mine")
    with pytest.raises(StoreError, match="exists already"):
        save("full")
    with pytest.raises(StoreError, match="is a file"):
        save("nets.py")
    with pytest.raises(StoreError, match="cannot write"):
        save("nets.py/inside")
    (user / "empty").mkdir()
    save("empty")
    save("new/deep")
    assert same(actsec.load(str(user / "new" / "deep")), actsec.load(str(user / "empty")))
    assert [path.name for path in (user / "full").iterdir()] == ["mine"]


def test_a_factory_that_never_builds_the_same_is_refused(user):
    base = target_of(user, "fickle")
    target, _ = made(base, "swap(to=silu)")
    with pytest.raises(ModelError, match=r"another model|does not build|differ|otherwise"):
        hardened.save(user / "h", target, base=base, model=f"{user / 'nets.py'}:fickle", chain="swap(to=silu)")
    assert not (user / "h").exists()


SHY = """
LIMIT = 0.5

class Shy(Net):
    def rejects(self, x):
        return self(x).amax(1) - LIMIT
"""
TRAINED = "training_noise(epochs=1, learning_rate=0.1)"


@pytest.mark.parametrize("chain", ["temperature", "swap(to=silu)", "swap(to=silu) | swap(to=gelu)", TRAINED])
def test_a_model_that_abstains_is_saved_with_its_detector(user, chain):
    (user / "nets.py").write_text(NETS + SHY)
    base = target_of(user, "Shy")
    target, fits = made(base, chain)
    recipe = hardened.save(user / "h", target, base=base, model=f"{user / 'nets.py'}:Shy", chain=chain, fits=fits)
    loaded = actsec.load(str(user / "h"), trust=True)
    x = torch.rand(20, *base.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.rejection(x), target.rejection(x))
        moved = not torch.equal(loaded.rejection(x), base.rejection(x))
    assert moved == (chain == TRAINED), "it runs on the weights that were trained"
    assert len(recipe.rejections) == 2
    assert "target.rejection(x)" in (user / "h" / "README.md").read_text()
    # Put on once more, and asked: the detector of the model inside all wrappers.
    again, _ = made(loaded, "temperature")
    with torch.no_grad():
        assert torch.equal(again.rejection(x), loaded.rejection(x))
    assert any(module is again.rejects.__self__ for module in again.model.modules())


def test_a_detector_that_changed_outside_the_fingerprint_is_seen(user):
    (user / "nets.py").write_text(NETS + SHY)
    base = target_of(user, "Shy")
    target, _ = made(base, "swap(to=silu)")
    hardened.save(user / "h", target, base=base, model=f"{user / 'nets.py'}:Shy", chain="swap(to=silu)")
    other = user / "other.py"
    other.write_text((user / "nets.py").read_text().replace("LIMIT = 0.5", "LIMIT = 0.9"))
    with pytest.raises(ModelError, match="answers otherwise"):
        actsec.load(f"{other}:Shy", weights=str(user / "h"))


def test_what_would_leave_a_detector_behind_is_refused(user):
    (user / "nets.py").write_text(NETS + SHY)
    base = target_of(user, "Shy")
    for act in (lambda: exporting.export(base), lambda: exporting.plain(base)):
        with pytest.raises(ModelError, match="would accept everything"):
            act()
    loose = base.having(rejects=lambda x: x.flatten(1).mean(1) - 0.9)
    with pytest.raises(ModelError, match="which no folder holds") as caught:
        hardened.save(user / "h", loose, base=loose, model=f"{user / 'nets.py'}:Shy", chain="temperature")
    assert "method rejects" in caught.value.mend
    assert not (user / "h").exists()


def test_a_folder_without_a_recipe(tmp_path):
    with pytest.raises(ModelError, match=r"without a recipe.toml"):
        actsec.load(str(tmp_path))


def test_the_weights_of_a_folder_are_not_taken_without_its_recipe(user):
    """They fit the undefended architecture, which would be audited in the defended one's name."""
    saved(user, target_of(user), "swap(to=silu)")
    with pytest.raises(ModelError, match="its defenses are left out") as caught:
        actsec.load(f"{user / 'nets.py'}:make", weights=str(user / "hardened" / "weights.safetensors"))
    assert caught.value.mend == f"Give its folder: --weights {user / 'hardened'}/"


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False)
values = st.recursive(
    st.booleans() | texts | numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(texts, values, max_size=5))
def test_toml_reads_back(content):
    assert tomllib.loads(toml.document(content)) == content


BLOCKED = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "actsec":
            raise ImportError("actsec is not installed")
sys.meta_path.insert(0, Refuse())
try:
    import actsec
except ImportError:
    print("blocked")
import torch
x, wanted = torch.load("x.pt", weights_only=True)
"""


def without_actsec(folder, code):
    """Python in which actsec cannot be imported, printing whether every answer is as it should be."""
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BLOCKED + code], cwd=folder, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["blocked", "True"]


def test_exported_and_plain_models_run_without_actsec(user):
    base = target_of(user, "make(functional=false)")
    target, _ = made(base, "swap(to=leaky_relu) | swap(to=softplus) | temperature")
    exporting.write(user / "model.pt2", target)
    x = inputs(target, 7)
    torch.save(exporting.plain(target).state_dict(), user / "plain.pt")
    with torch.no_grad():
        torch.save((x, target.logits(x)), user / "x.pt")
    without_actsec(
        user,
        'module = torch.export.load("model.pt2").module()\n'
        "right = [torch.allclose(module(x[:n]), wanted[:n], atol=1e-5) for n in (1, 2, 7)]\n"
        "import sys; sys.path.insert(0, '.')\nimport nets\nfrom torch import nn\n"
        "model, state = nets.make(functional=False), torch.load('plain.pt', weights_only=True)\n"
        "model.act, by = nn.Softplus(), state.pop('temperature')\n"
        "model.load_state_dict({key.removeprefix('model.'): value for key, value in state.items()})\n"
        "right.append(torch.allclose(model.eval()(x) / by, wanted, atol=1e-5))\n"
        "print(all(right) and len(right) == 4)\n",
    )


def test_a_stochastic_model_stays_so_when_exported(user):
    target, _ = made(target_of(user), "noisy_inference(std=0.3)")
    module, x = exporting.export(target).module(), inputs(target, 4)
    assert not torch.equal(module(x), module(x))


def test_what_cannot_be_exported_is_told(user):
    (user / "odd.py").write_text(
        "import numpy as np\nimport torch\nfrom torch import nn\n\nclass Odd(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.last = nn.Linear(16, 3)\n\n"
        "    def forward(self, x):\n"
        "        return self.last(torch.relu(torch.from_numpy(np.sin(x.detach().numpy())).flatten(1)))\n"
    )
    target = actsec.load(f"{user / 'odd.py'}:Odd", input_shape=(1, 4, 4))
    with pytest.raises(ModelError, match=r"torch.export cannot follow") as refused:
        exporting.write(user / "odd.pt2", target)
    assert "--save" in refused.value.mend
    assert not (user / "odd.pt2").exists()


def test_plain_modules_hold_no_class_of_actsec(user):
    base = target_of(user, "make(functional=false)", normalize="0.5/0.25")
    for chain in ("swap(to=leaky_relu) | temperature", "temperature | swap(to=silu)", "temperature"):
        target, _ = made(base, chain)
        module = exporting.plain(target)
        assert not any(type(m).__module__.startswith("actsec") for m in module.modules())
        x = inputs(target, 9)
        with torch.no_grad():
            assert torch.equal(module(x), target.logits(x))
        with frozen(target.model):
            kinds = [site.kind for site in find(target.model, x)]
        assert [site.kind for site in find(module, x)] == kinds
        parameters = [p.requires_grad_(True) for p in module.parameters()]
        module(x).sum().backward()
        assert all(p.grad is not None for p in parameters)
    state = module.state_dict()
    assert {"mean", "std", "model.temperature", "model.model.last.weight"} <= set(state)


@pytest.mark.parametrize(
    ("call", "chain", "words"),
    [
        ("make", "swap(to=silu)", "as a function"),
        ("make(functional=false)", "swap(to=prelu)", "parameter of its own"),
        ("make(functional=false)", "noisy_inference(std=0.1)", "no module of torch's"),
        ("make(functional=false)", "swap(to=kwta)", "module of actsec's"),
        ("make(functional=false)", "swap(to=silu, sites='act:2')", "answers otherwise"),
    ],
)
def test_what_no_plain_module_can_say_is_told(call, chain, words, user):
    target, _ = made(target_of(user, call), chain)
    with pytest.raises(ModelError, match=words):
        exporting.plain(target)


def test_the_model_is_left_as_it_was(user):
    target, _ = made(target_of(user), "swap(to=prelu) | temperature")
    before = {name: value.clone() for name, value in target.model.state_dict().items()}
    flags = [p.requires_grad for p in target.model.parameters()]
    state = torch.get_rng_state()
    exporting.write(user / "m.pt2", target)
    assert torch.equal(state, torch.get_rng_state())
    base, state = target_of(user), torch.get_rng_state()
    chain = "swap(to=prelu) | temperature"
    hardened.save(user / "h", target, base=base, model=f"{user / 'nets.py'}:make", chain=chain)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in target.model.state_dict().items())
    assert flags == [p.requires_grad for p in target.model.parameters()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in target.model.modules())
