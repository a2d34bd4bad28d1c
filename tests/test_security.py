"""Files of strangers are bounded and named before they are opened; what runs is said; nothing runs unasked."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import torch
from numpy.lib import format as npy
from PIL import Image
from runs import ENVIRONMENT, actsec, inside

from actsec import models, registry
from actsec.data import archives, folders, load, tables
from actsec.errors import BadOption, DataError, ModelError, SpecError, Unsafe, UsageError
from actsec.loading import building
from actsec.loading.weights import read_weights
from actsec.planning import plan, reading
from actsec.search import masks
from actsec.spec import parse, parse_value


class Malice:
    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


def archive(path, members, kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w") as made:
        for name, content in members:
            made.writestr(name, content, compress_type=kind)
    return str(path)


def array(value):
    out = io.BytesIO()
    npy.write_array(out, value, allow_pickle=False)
    return out.getvalue()


X, Y = array(np.zeros((2, 3), np.float32)), array(np.array([0, 1]))


# archives


def test_an_array_that_unpacks_a_hundredfold_is_refused_before_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "RATIO_FROM", 10**6)
    big = array(np.zeros((2, 10**6), np.float32))
    path = archive(tmp_path / "bomb.npz", [("x.npy", big), ("y.npy", Y)], zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="at most 100 times the stored size") as problem:
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert "np.savez, not np.savez_compressed" in problem.value.mend
    assert "bomb.npz" in problem.value.problem
    np.savez(tmp_path / "stored.npz", x=np.zeros((2, 10**6), np.float32), y=[0, 1])
    assert load(str(tmp_path / "stored.npz")).x.shape == (2, 10**6)


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path):
    bomb = npy.magic(2, 0) + struct.pack("<I", 2**26) + bytes(2**26)
    path = archive(tmp_path / "bomb.npz", [("x.npy", bomb), ("y.npy", Y)], zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="header claims 67,108,864 bytes, 10,000 are read"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("../../x.npy", X), ("/y.npy", Y)], "no array 'x'"),
        ([("x.npy", X), ("y.npy", Y), ("x.npy", X)], "two members of one name"),
        ([("inner.npz", zlib.compress(X)), ("y.npy", Y)], "no array 'x'"),
        ([("x.npy", X), ("y.npy", Y), ("classes.npy", array(np.zeros(2, "U9000000")))], "the limit is 0.1 GiB"),
        ([("x.npy", X), ("y.npy", array(np.array([0, 2**40])))], "the limit is 100,000 classes"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_are_not_what_numpy_writes(tmp_path, members, said):
    path = archive(tmp_path / "data.npz", members)
    with pytest.raises(DataError, match=said):
        load(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.npz"], "something was unpacked"


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_allocate_as_they_are_told_are_refused(tmp_path, kind):
    with pytest.raises(DataError, match="compressed in a way that numpy does not write"):
        load(archive(tmp_path / "data.npz", [("x.npy", X), ("y.npy", Y)], kind))


@pytest.mark.parametrize("shape", ["(1" + "0" * 300 + ", 2)", "(-2, -3)", "(0, 1000000000000)", "((2, 3),)"])
def test_absurd_shapes_end_in_words(tmp_path, shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    content = npy.magic(1, 0) + struct.pack("<H", len(text)) + text + bytes(24)
    (tmp_path / "m.npy").write_bytes(content)
    with pytest.raises(DataError):
        load(archive(tmp_path / "data.npz", [("x.npy", content), ("y.npy", Y)]))
    with pytest.raises(DataError):
        masks.read(tmp_path / "m.npy", (2, 3))


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "data.npz")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        load(str(tmp_path / "data.npz"))


# pictures and folders


def pictures(root, count=2):
    for label in "ab":
        (root / label).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (4, 4), 50 * i).save(root / label / f"{i}.png")
    return root


def test_links_out_of_the_folder_are_refused_and_those_inside_are_read(tmp_path):
    root = pictures(tmp_path / "pictures")
    secret = tmp_path / "secret.png"
    Image.new("L", (4, 4), 200).save(secret)
    (root / "a" / "inside.png").symlink_to(root / "a" / "0.png")
    assert len(load(str(root))) == 5
    (tmp_path / "alias").symlink_to(root)
    assert len(load(str(tmp_path / "alias"))) == 5, "the folder itself may be a link: the user named it"
    (root / "a" / "out.png").symlink_to(secret)
    with pytest.raises(DataError, match=r"out\.png is a link out of .*secret\.png") as problem:
        load(str(root))
    assert "copy there" in problem.value.mend
    (root / "a" / "out.png").unlink()
    (tmp_path / "others").mkdir()
    secret.rename(tmp_path / "others" / "0.png")
    (root / "c").symlink_to(tmp_path / "others")
    with pytest.raises(DataError, match="c is a link out of"):
        load(str(root))


def png(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 15_000, 100_000])
def test_a_picture_of_too_many_pixels_is_never_decoded(tmp_path, side):
    root = pictures(tmp_path / "pictures")
    (root / "a" / "0.png").write_bytes(png(side, side))
    with pytest.raises(DataError, match="the limit is 89,478,485") as problem:
        load(str(root))
    assert "0.png" in problem.value.problem
    with pytest.raises(DataError, match="the limit is 89,478,485"):
        masks.read(root / "a" / "0.png", (1, 4, 4))


def test_a_transform_cannot_ask_for_more_pixels(tmp_path):
    root = pictures(tmp_path / "pictures")
    with pytest.raises(BadOption, match="the limit is 89,478,485"):
        load(str(root), resize="resize=100000,crop=4")
    with pytest.raises(BadOption, match="cannot be read"):
        load(str(root), resize="resize=" + "9" * 5000)


def test_only_three_formats_are_decoded_whatever_a_file_is_called(tmp_path):
    """Pillow hands EPS to Ghostscript, a program."""
    root = pictures(tmp_path / "pictures")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n%%EOF\n"
    with Image.open(io.BytesIO(eps)) as picture:
        assert picture.format == "EPS", "without the list of formats Pillow opens it"
    for content in (eps, b"GIF89a" + bytes(20), b"II*\0" + bytes(40)):
        (root / "a" / "0.png").write_bytes(content)
        with pytest.raises(DataError, match="not an image that can be read"):
            load(str(root))
        with pytest.raises(DataError, match="not an image that can be read"):
            masks.read(root / "a" / "0.png", (1, 4, 4))
    assert folders.FORMATS == ("PNG", "JPEG", "BMP")


# tables


def test_a_table_of_a_million_columns_is_refused_at_its_header(tmp_path):
    names = ",".join(f"c{i}" for i in range(10**6))
    (tmp_path / "t.csv").write_text(f"{names}\n{','.join('1' * 10**6)}\n")
    with pytest.raises(DataError, match="1,000,000 columns, the limit is 10,000"):
        tables.load(str(tmp_path / "t.csv"), label_column="c0")


def test_a_long_number_takes_no_quadratic_time(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{'1' * 120_000}x,{i % 2}\n" for i in range(2)) * 2)
    with pytest.raises(UsageError):
        tables.load(str(tmp_path / "t.csv"), label_column="b")


# texts


@pytest.mark.parametrize(
    "text", ["a(b=" * 30 + "1" + ")" * 30, "[" * 10_000, "9" * 101, "1" * 9_000 + "x", "pgd(steps=" + "9" * 9000 + ")"]
)
def test_deep_and_long_specs_are_refused_in_words(text):
    with pytest.raises(SpecError):
        parse_value(text)


def test_nesting_within_the_limit_reads_back():
    text = "a(b=" * 19 + "1" + ")" * 19
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 5000, "seed = " + "9" * 5000, "x" * (2**20 + 2), "model = '\udcff'"], ids=range(4)
)
def test_plans_that_would_exhaust_the_reader(tmp_path, text):
    (tmp_path / "plan.toml").write_text(text, errors="surrogateescape")
    with pytest.raises(UsageError):
        reading.read(tmp_path / "plan.toml")
    with pytest.raises(UsageError):
        reading.read("/dev/zero")


# architectures


@pytest.mark.parametrize(
    "spec",
    [
        "mlp(depth=100000)",
        "mlp(depth=1000000000000)",
        "mlp(width=[1000000000])",
        "mlp(width=[20000, 20000])",
        "cnn(channels=[1000000, 1000000])",
        "cnn(hidden=1000000000)",
        "resnet20(width=1000000)",
        "mlp(activation=maxout(pieces=1000000000))",
    ],
)
def test_a_huge_reference_network_is_refused_before_it_is_allocated(spec):
    tracemalloc.start()
    try:
        with pytest.raises(BadOption, match="the limit is"):
            models.build(spec, (1, 8, 8), 10, 0)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("activation", ["relu", "maxout(pieces=3)"])
@pytest.mark.parametrize(
    "spec", ["mlp", "mlp(width=[7], depth=4)", "cnn", "cnn(channels=[3, 5], hidden=9)", "resnet20(width=4)"]
)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 17, 31)])
def test_weights_are_counted_as_they_are_built(spec, activation, shape):
    full = parse(spec).having(activation=parse(activation))
    made = models.build(full, shape, 10, 0)
    built = sum(p.numel() for name, p in made.named_parameters() if p.dim() > 1)
    assert models.weights(models.options(full), shape, 10) == built


@pytest.mark.parametrize(
    "call",
    ["resnet18(num_classes=100000000)", "resnet18(width_per_group=100000)", "regnet_x_400mf(num_classes=10000000)"],
)
def test_a_huge_torchvision_network_is_refused_before_it_is_allocated(call):
    with pytest.raises((BadOption, ModelError)) as problem:
        building.torchvision_model(parse(call))
    if "width_per_group" not in call:  # the small ResNets refuse another width themselves
        assert "the limit is" in problem.value.problem or "is above 100,000" in problem.value.problem


# what executes


@pytest.mark.parametrize("value", ["1", "y", "yes", "true"])
def test_switches_of_the_environment_weaken_nothing(tmp_path, value):
    """torch.load would open the file with weights_only=False under the first of them, where nothing is passed."""
    trap = tmp_path / "EXECUTED"
    torch.save({"w": Malice(trap)}, tmp_path / "w.pt")
    (tmp_path / "nets.py").write_text("import torch\ndef make(): return torch.nn.Linear(3, 2)\n")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).random((60, 3)), y=np.arange(60) % 2)
    code = (
        "import sys, torch, os; torch.serialization.add_safe_globals([os.mkdir]);"
        "from actsec.command_line.cli import main;"
        "sys.argv = ['actsec', 'audit', '--model', 'nets.py:make', '--weights', 'w.pt', '--data', 'x.npz']; main()"
    )
    both = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": value, "TORCH_FORCE_WEIGHTS_ONLY_LOAD": value}
    for switches in (dict(list(both.items())[:1]), both) if value == "1" else (dict(list(both.items())[:1]),):
        environment = {**ENVIRONMENT, **switches}
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )
        assert ran.returncode == 4, ran.stderr
        assert not trap.exists()


def test_the_switch_does_what_is_said_where_nothing_is_passed(tmp_path, monkeypatch):
    """Without this the test above would show nothing."""
    trap = tmp_path / "EXECUTED"
    torch.save({"w": Malice(trap)}, tmp_path / "w.pt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.warns(UserWarning, match="forcing weights_only=False"):
        torch.load(tmp_path / "w.pt")
    assert trap.exists()


def test_what_others_declared_safe_is_not_called(tmp_path, monkeypatch):
    trap = tmp_path / "EXECUTED"
    torch.save({"w": Malice(trap)}, tmp_path / "w.pt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with torch.serialization.safe_globals([(os.mkdir, "posix.mkdir"), os.mkdir]):
        declared = set(torch.serialization.get_safe_globals())
        with pytest.raises(Unsafe, match="mkdir"):
            read_weights(tmp_path / "w.pt")
        assert set(torch.serialization.get_safe_globals()) == declared
    assert not trap.exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"


@pytest.mark.parametrize("model", ["os:system(command='mkdir EXECUTED')", "builtins:exec", "subprocess:getoutput"])
def test_a_plan_cannot_call_pythons_own_library(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unsafe, match="Python's own library"):
        building.build(model, input_shape=(1, 8, 8), classes=10, seed=0)
    assert not (tmp_path / "EXECUTED").exists()


@pytest.mark.parametrize("where", ["import", "call", "item"])
def test_code_that_ends_the_process_does_not_end_it_with_0(tmp_path, where):
    leave = "raise SystemExit(0)"
    body = {
        "import": leave,
        "call": f"def make():\n    {leave}",
        "item": f"class D:\n    def __len__(_): return 3\n    def __getitem__(_, i): {leave}\ndef make(): return D()",
    }[where]
    (tmp_path / "own.py").write_text(body + "\n")
    said = inside("audit", "--data", f"{tmp_path / 'own.py'}:make")
    assert said.code == 2, said
    assert said.err.startswith("error: ")


def test_bytecode_beside_a_data_file_is_not_executed(tmp_path):
    import py_compile

    own = tmp_path / "own.py"
    own.write_text("import os\nos.mkdir('EXECUTED')\n")
    planted = py_compile.compile(own, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    own.write_text("import numpy as np\ndef make(): return [(np.zeros(2), 0), (np.ones(2), 1)]\n")
    code = f"from actsec.data import load; print(len(load({f'{own}:make'!r})))"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT, check=False
    )
    assert planted is not None
    assert ran.stdout == "2\n", ran.stderr
    assert not (tmp_path / "EXECUTED").exists()


STRANGER = '''
from dataclasses import dataclass
from actsec.attacks.fgsm import FGSM as Ours

class FGSM(Ours):
    """Ours under another name."""
'''


def test_the_report_names_the_code_that_ran(tmp_path, monkeypatch):
    import hashlib

    from actsec.loading import executed

    (tmp_path / "stranger.py").write_text(STRANGER)
    info = tmp_path / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[actsec.attacks]\nfgsm = stranger:FGSM\n[actsec.lints]\nodd = stranger:X\n")
    (tmp_path / "nets.py").write_text("import torch\ndef make(width=3): return torch.nn.Linear(3, 2)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for cached in (registry.names, registry.find):
        cached.cache_clear()
    try:
        asked = plan.Plan(
            model=f"{tmp_path}/nets.py:make(width=4)",
            data=f"{tmp_path}/nets.py:rows",
            attacks=(
                plan.Trial("stranger/fgsm"),
                plan.Trial("transfer(source='torch.nn:Linear', attack=stranger/fgsm)"),
            ),
            defenses=("temperature",),
        )
        found = {each.what: each for each in executed.of(asked)}
    finally:
        for cached in (registry.names, registry.find):
            cached.cache_clear()
    sha = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("nets.py", "stranger.py")}
    assert found["model make(width=4)"].origin == "nets.py"
    assert found["model make(width=4)"].sha256 == sha["nets.py"]
    assert found["data rows"].sha256 == sha["nets.py"]
    assert found["attack stranger/fgsm"].origin == "stranger of stranger 1.0"
    assert found["attack stranger/fgsm"].sha256 == sha["stranger.py"]
    assert found["lint stranger/odd"].sha256 == sha["stranger.py"]
    assert found["surrogate Linear"].origin == f"torch.nn of torch {torch.__version__.partition('+')[0]}" or found[
        "surrogate Linear"
    ].origin.startswith("torch.nn of torch ")
    monkeypatch.undo()  # the package is no longer there
    assert executed.of(plan.Plan()) == ()


def test_a_plugin_that_fails_is_named_with_its_package(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("raise SystemExit(0)\n")
    info = tmp_path / "broken-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[actsec.attacks]\nit = broken:It\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for cached in (registry.names, registry.find):
        cached.cache_clear()
    try:
        with pytest.raises(UsageError, match=r"attack broken/it of broken 2\.0 fails when it is imported"):
            registry.build("attacks", "broken/it")
    finally:
        for cached in (registry.names, registry.find):
            cached.cache_clear()


# run folders of strangers


def test_a_run_folder_is_data(finished, tmp_path):
    """Reading a report or an outcome opens no pickle, whatever the folder's files claim."""
    import hashlib
    import json
    import shutil

    from actsec.reports.load import read
    from actsec.running.store import Store

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    trap = tmp_path / "EXECUTED"
    hostile = io.BytesIO()
    np.savez(hostile, status=np.array([Malice(trap)], dtype=object))
    store = Store.open(run)
    record = next(path for path in (run / "outcomes").glob("*.json") if json.loads(path.read_text())["arrays"])
    for content in (hostile.getvalue(), pickle.dumps(Malice(trap)), b"PK"):
        record.with_suffix(".npz").write_bytes(content)
        told = json.loads(record.read_text())
        told["arrays"] = hashlib.sha256(content).hexdigest()
        record.write_text(json.dumps(told))
        assert store.get(record.stem) is None, "what does not read is made again"
    (run / "examples.npz").write_bytes(hostile.getvalue())
    with pytest.raises(UsageError, match="Python objects"):
        read(run)
    assert not trap.exists()


@pytest.mark.parametrize(
    "edit", [{"seconds": {}}, {"seconds": None}, {"passes": "9"}, {"kind": 3}, {"peak_mib": float("nan")}]
)
def test_a_cost_that_somebody_edited_is_left_out_of_the_times(tmp_path, edit):
    """Found by fuzzing: the report of a merged run broke off."""
    import json

    from actsec.running.finishing import _environment
    from actsec.running.store import Store

    (tmp_path / "costs").mkdir()
    good = {"kind": "attack", "label": "pgd", "passes": 18, "peak_mib": 565, "seconds": 0.5}
    for name, record in (("a", good), ("b", {**good, **edit})):
        (tmp_path / "costs" / f"{name}.json").write_text(json.dumps(record))
    told = _environment(Store(tmp_path))
    assert told["jobs"] == 1
    assert told["job_seconds"] == 0.5


def test_the_command_line_refuses_a_hostile_pickle_with_4(tmp_path):
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Malice(tmp_path / "EXECUTED")))
    ran = actsec("audit", "--model", "reference:mlp", "--weights", "w.pt", cwd=tmp_path)
    assert ran.returncode == 4
    assert "posix.mkdir" in ran.stderr
    assert not (tmp_path / "EXECUTED").exists()
