"""Every parser fed with damaged and hostile files: ``python -m benchmarks.fuzzing --seconds 600 --out results.md``.

Valid inputs are mutated (bytes flipped, cut, doubled, exchanged; texts with tokens of their grammar put in at random;
numbers made huge, negative, nested) by a seeded generator, without coverage guidance. Wherever a pickle could be put,
one is put that makes a folder when it is opened. Each input ends in one of these:

    read         it was read, and is what it says
    clear error  an ActsecError with exit code 2, 3 or 4: what is wrong and how to mend it
    crash        any other exception: a bug of actsec
    hang         more than 20 seconds of the processor's time
    executed     the pickle's folder is there: code of the input ran
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actsec.errors import ActsecError

HANG = 20
FATES = ("read", "clear error", "crash", "hang", "executed")
TOKENS = (
    *(
        "(",
        ")",
        "[",
        "]",
        ",",
        "=",
        "|",
        "'",
        '"',
        "\\",
        "/",
        ":",
        "@",
        ">=",
        "<=",
        "-",
        ".",
        "\n",
        "\0",
        "\ud7ff",
        "\u202e",
    ),
    *(
        "inf",
        "nan",
        "-1",
        "0",
        "1e999",
        "9" * 30,
        "9" * 5000,
        "8/255",
        "1/0",
        "none",
        "true",
        "[" * 50,
        "(" * 50,
        "a(b=" * 50,
    ),
    *(
        "pgd",
        "steps",
        "class=",
        "linf",
        "l2",
        "kill",
        "../../etc/passwd",
        "/dev/zero",
        "${HOME}",
        "\x1b[2J",
        "é",
        "\u0661",
    ),
)
VALUES = (
    None,
    True,
    0,
    -1,
    2**40,
    2**70,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "9" * 5000,
    [],
    [1],
    {},
    {"a": []},
)


class _Hang(BaseException):
    """The alarm went off."""


@dataclass
class Parser:
    """What is fed, how a valid input is changed into a hostile one, and what came of it."""

    name: str
    make: Callable[[random.Random, Path], Any]
    read: Callable[[Any], object]
    weight: float = 1.0
    fates: Counter[str] = field(default_factory=Counter)
    crashes: dict[str, str] = field(default_factory=dict)


def text_of(rng: random.Random, seeds: tuple[str, ...]) -> str:
    """A text of the grammar with some of its characters and tokens changed."""
    text = rng.choice(seeds)
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(text) + 1)
        to = min(len(text), at + rng.choice((0, 0, 1, 1, 3)))
        text = text[:at] + rng.choice((*TOKENS, rng.choice(seeds), chr(rng.randrange(1, 0x2FF)))) + text[to:]
    return text


def bytes_of(rng: random.Random, content: bytes) -> bytes:
    """Bytes with some changed, cut out, doubled or put in."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1)
        how = rng.randrange(6)
        if how == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif how == 1:
            del data[at : at + rng.choice((1, 4, 64, len(data)))]
        elif how == 2:
            data[at:at] = data[at : at + rng.choice((1, 8, 64))]
        elif how == 3:
            data[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x80"))
        elif how == 4:
            data[at:at] = rng.randbytes(rng.choice((1, 8)))
        else:
            data = data[: max(1, at)]
    return bytes(data)


def tree_of(rng: random.Random, value: Any) -> Any:
    """JSON-like data with a few of its values, wherever they are, exchanged, left out or renamed."""
    return _changed(rng, value, rng.choice((0.5, 1, 2, 5)) / _size(value))


def _size(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_size, inner))


def _changed(rng: random.Random, value: Any, rate: float) -> Any:
    if rng.random() < rate:
        return rng.choice((*VALUES, value + 1 if isinstance(value, int) else f"{value}x"))
    if isinstance(value, dict):
        kept = {key: _changed(rng, item, rate) for key, item in value.items() if rng.random() > rate / 3}
        return {**kept, rng.choice(TOKENS): rng.choice(VALUES)} if rng.random() < rate / 3 else kept
    if isinstance(value, list):
        return [_changed(rng, item, rate) for item in value if rng.random() > rate / 3]
    return value


class Trap:
    """Pickled, this makes a folder when it is opened."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.place,)


def zipped(rng: random.Random, members: dict[str, bytes], trap: bytes) -> bytes:
    """An archive of these members, one of which may be changed, doubled, renamed, compressed or a pickle."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")  # members of one name are meant
        for name, content in members.items():
            fate = rng.randrange(12)
            called = rng.choice((f"../{name}", f"/{name}", f"{name}\0", "data.pkl")) if fate == 0 else name
            held = bytes_of(rng, content) if fate in (1, 2, 3) else trap if fate == 4 else content
            kind = rng.choice((*(0,) * 20, *(zipfile.ZIP_DEFLATED,) * 4, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
            archive.writestr(called, held, compress_type=kind)
            if fate == 5:
                archive.writestr(called, held)
    return bytes_of(rng, out.getvalue()) if rng.random() < 0.3 else out.getvalue()


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=True)
    return out.getvalue()


def header(rng: random.Random) -> bytes:
    """A header of numpy's that claims anything."""
    descr = rng.choice(("<f4", "|u1", "|O", "<U9", "<f8", "|V99", "<M8[D]", "|S0", "<c16", "[('a','O')]", "<f4" * 9))
    shape = rng.choice(
        ("(4, 2)", "(1000000000000, 8)", "(-1, 4)", "()", "(0,)", "(4,)", "(1" + "0" * 400 + ",)", "((4,),)")
    )
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    version, size = rng.choice(((1, 2), (2, 4), (3, 4), (9, 4)))
    told = rng.choice((len(text), len(text), 0, 2 ** (8 * size) - 1))
    return b"\x93NUMPY" + bytes((version, 0)) + (told % 2 ** (8 * size)).to_bytes(size, "little") + text + bytes(64)


def parsers(trap: bytes, run: Path | None) -> Iterator[Parser]:
    yield from _texts()
    yield from _data(trap)
    yield from _weights(trap)
    yield from _runs(run)


def _texts() -> Iterator[Parser]:  # noqa: C901, PLR0915  # a list of parsers with what feeds each
    from actsec import spec
    from actsec.data.folders import _steps
    from actsec.loading.normalizing import normalization
    from actsec.loading.recipes import read as read_recipe
    from actsec.planning import jobs, reading
    from actsec.planning import plan as plans
    from actsec.planning.budgets import Images
    from actsec.planning.conditions import Accepted
    from actsec.planning.parts import Part
    from actsec.planning.resolving import resolve
    from actsec.search.features import FeatureRule
    from actsec.types import Threat
    from actsec.verdict.gates import Gate

    specs = ("pgd(steps=200, step_size=2/255)", "swap(to=leaky_relu(slope=0.1)) | temperature", "[a, 'b c', -1.5e3]")
    yield Parser(
        "spec strings", lambda rng, _: text_of(rng, specs), lambda t: (spec.parse_chain(t), spec.parse_value(t))
    )

    def built(text: str) -> object:
        from actsec import registry

        return registry.build("attacks", text)

    some = ("pgd(steps=40, restarts=2)", "square(queries=100)", "one_pixel(pixels=2)", "transfer(source='a.py:m')")
    yield Parser("attack specs", lambda rng, _: text_of(rng, some), built)
    models = ("mlp(width=[8, 8], depth=3)", "cnn(activation=maxout(pieces=2))", "resnet20(width=4)")

    def model(text: str) -> object:
        from actsec import models

        return models.build(text, (1, 8, 8), 3, 0)

    yield Parser("reference models", lambda rng, _: text_of(rng, models), model)
    gates = ("robust_accuracy@linf:8/255[relu | temperature]>=0.3", "ece<=0.05", "ece@linf:0.1:miscalibrate<=0.3")
    yield Parser("gates", lambda rng, _: text_of(rng, gates), Gate.parse)
    yield Parser(
        "threats",
        lambda rng, _: text_of(rng, ("linf:8/255", "l2:0.5:class=3", "linf:0.1:confident=0.99")),
        Threat.parse,
    )
    accepts = ("ACT-D01 until 2027-03-31: the same patient, scanned twice",)
    yield Parser("accepted findings", lambda rng, _: text_of(rng, accepts), Accepted.parse)
    yield Parser("feature rules", lambda rng, _: text_of(rng, ("AGE(step=1, min=0, direction=up)",)), FeatureRule.parse)
    small = ("3/16", "0,255", "resize=256,crop=224", "imagenet", "0.5,0.5,0.5/0.2,0.2,0.2")

    def one(text: str) -> None:
        errors = 0
        for parse in (Part.parse, reading.box, _steps, normalization):
            try:
                parse(text)
            except ActsecError:
                errors += 1
        if errors == 4:
            raise ActsecError("none of them reads it")

    yield Parser("shards, bounds, transforms, normalisations", lambda rng, _: text_of(rng, small), one)
    seeds = (reading.write(plans.Plan(gates=(gates[1],), eps=0.1, samples=8)), 'attacks = ["pgd"]\nbudget = "quick"\n')
    tables = '[[gate]]\nmetric = "ece"\nmax = 0.1\n[[accept]]\nfinding = "ACT-D01"\nuntil = 2027-01-01\nreason = "x"\n'
    features = "[features.AGE]\nstep = 1\n"

    def plan(rng: random.Random, folder: Path) -> Path:
        asked = [rng.choice(seeds), *(each for each, share in ((tables, 0.5), (features, 0.1)) if rng.random() < share)]
        chosen = [line for each in asked for line in each.split("\n") if rng.random() < 0.97]
        for at, line in enumerate(chosen):
            if rng.random() < 0.1 and "=" in line:
                value = rng.choice(
                    (
                        "1",
                        "-1",
                        "nan",
                        "inf",
                        "9" * 40,
                        "9" * 5000,
                        '""',
                        "[]",
                        "[[]]",
                        "{}",
                        "true",
                        "1979-05-27",
                        "'a'",
                    )
                )
                chosen[at] = f"{line.partition('=')[0]}= {value}"
        text = "\n".join(chosen)
        (folder / "plan.toml").write_text(
            text_of(rng, (text,)) if rng.random() < 0.5 else text, "utf-8", "surrogatepass"
        )
        return folder / "plan.toml"

    def planned(path: Path) -> None:
        read = reading.read(path)
        filled = resolve(read, Images((1, 8, 8), 16, 500, (0.0, 1.0), table=False), trains=True, calibrates=True)
        jobs.jobs(filled, plans.Facts("m", "t", "t", "c", (1, 8, 8), tuple("0123456789"), 16, 500))
        if reading.from_table(tomllib.loads(reading.write(filled))) != filled:
            raise AssertionError("a plan does not read back")

    yield Parser("plan files, resolved to jobs", plan, planned)
    recipe = (
        'schema = 1\nmodel = "reference:mlp"\nchain = "temperature"\ninput_shape = [1, 8, 8]\nclasses = ["a", "b"]\n'
        'bounds = [0.0, 1.0]\nseed = 0\nstochastic = false\nweights = "00"\nfingerprint = "00"\n'
        'outputs = [[1.0, 2.0]]\n[versions]\ntorch = "2.14"\n'
    )

    def write_recipe(rng: random.Random, folder: Path) -> Path:
        (folder / "recipe.toml").write_text(text_of(rng, (recipe,)), "utf-8", "surrogatepass")
        return folder

    yield Parser("recipes of hardened models", write_recipe, lambda folder: read_recipe(folder).specs)


def _data(trap: bytes) -> Iterator[Parser]:  # noqa: C901  # the same
    from PIL import Image

    from actsec import data
    from actsec.data import tables
    from actsec.search import masks

    x, y = np.arange(32, dtype=np.uint8).reshape(4, 2, 4), np.array([0, 1, 0, 1])
    names = np.array(["a", "b"])

    def npz(rng: random.Random, folder: Path) -> str:
        members = {"x.npy": npy(x), "y.npy": npy(y), "classes.npy": npy(names)}
        if rng.random() < 0.4:
            members[rng.choice(list(members))] = header(rng)
        if rng.random() < 0.1:
            members[rng.choice(list(members))] = npy(np.array([Trap(folder / "EXECUTED")] * 4, dtype=object))
        content = zipped(rng, members, trap) if rng.random() < 0.95 else trap
        (folder / "data.npz").write_bytes(content)
        return str(folder / "data.npz")

    yield Parser("npz archives", npz, data.load, 2)

    def mask(rng: random.Random, folder: Path) -> Path:
        kind = rng.choice(("npy", "npz", "png"))
        content = header(rng) if rng.random() < 0.3 else npy(x[0] > 4)
        if kind == "npz":
            content = zipped(rng, {"m.npy": content}, trap)
        if kind == "png":
            out = io.BytesIO()
            Image.fromarray(x[0]).save(out, "PNG")
            content = out.getvalue()
        place = folder / f"mask.{kind}"
        place.write_bytes(trap if rng.random() < 0.03 else bytes_of(rng, content))
        return place

    yield Parser("masks", mask, lambda place: masks.read(place, (1, 2, 4)))
    table = "age,colour,risk\n1,red,0\n2,blue,1\n3.5,red,0\n4,blue,1\n5,red,1\n6,red,0\n"

    def delimited(rng: random.Random, folder: Path) -> str:
        content = text_of(rng, (table, table.replace(",", ";"), table.replace(",", "\t"))).encode(
            "utf-8", "surrogatepass"
        )
        (folder / "t.csv").write_bytes(bytes_of(rng, content) if rng.random() < 0.3 else content)
        return str(folder / "t.csv")

    yield Parser("csv tables", delimited, lambda path: tables.load(path, label_column="risk"), 2)

    def pictures(rng: random.Random, folder: Path) -> str:
        root = folder / "pictures"
        for label in "ab":
            (root / label).mkdir(parents=True)
            for i in range(2):
                out, kind = io.BytesIO(), rng.choice(("PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM"))
                mode = rng.choice(("L", "RGB", "P", "1"))
                Image.new("L", (8, 6), 40 * i).convert("L" if kind in ("JPEG", "PPM") else mode).save(out, kind)
                content = bytes_of(rng, out.getvalue()) if rng.random() < 0.4 else out.getvalue()
                content = (
                    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\n"
                    if rng.random() < 0.05
                    else content
                )
                place = root / label / rng.choice((f"{i}.png", f"{i}.jpg", f"{i}.bmp", f"{i}\n\x1b[2J.png", f"{i}.txt"))
                place.write_bytes(trap if rng.random() < 0.03 else content)
        if rng.random() < 0.1:
            (root / "a" / "link.png").symlink_to("/etc/passwd")
        return str(root)

    yield Parser("image folders", pictures, data.load, 2)


def _weights(trap: bytes) -> Iterator[Parser]:
    import torch
    from safetensors.torch import save

    from actsec.loading.weights import read_weights

    state = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.zeros(3, dtype=torch.float16)}
    safe, out = save(state), io.BytesIO()
    torch.save(state, out)
    with zipfile.ZipFile(out) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def safetensors(rng: random.Random, folder: Path) -> Path:
        size = int.from_bytes(safe[:8], "little")
        told = json.loads(safe[8 : 8 + size])
        changed = json.dumps(tree_of(rng, tree_of(rng, told))).encode()
        content = (
            len(changed).to_bytes(8, "little") + changed + safe[8 + size :]
            if rng.random() < 0.6
            else bytes_of(rng, safe)
        )
        (folder / "w.safetensors").write_bytes(content)
        return folder / "w.safetensors"

    yield Parser("safetensors", safetensors, read_weights, 2)

    def checkpoint(rng: random.Random, folder: Path) -> Path:
        inside = dict(members)
        pickled = next(name for name in inside if name.endswith("data.pkl"))
        fate = rng.randrange(4)
        if fate == 0:
            inside[pickled] = pickle.dumps({"w": Trap(folder / "EXECUTED")}, protocol=2)
        elif fate == 1:
            inside[pickled] = bytes_of(rng, inside[pickled])
        (folder / "w.pt").write_bytes(zipped(rng, inside, trap))
        return folder / "w.pt"

    yield Parser("torch checkpoints", checkpoint, read_weights, 2)

    def anything(rng: random.Random, folder: Path) -> Path:
        hostile = pickle.dumps([Trap(folder / "EXECUTED")], protocol=rng.randrange(6))
        content = rng.choice(
            (hostile, hostile, trap, rng.randbytes(64), safe, b"\x1f\x8b" + trap, b"PK\x03\x04" + trap)
        )
        (folder / "w").write_bytes(bytes_of(rng, content) if rng.random() < 0.5 else content)
        return folder / "w"

    yield Parser("pickles and other bytes as weights", anything, read_weights)


def _runs(run: Path | None) -> Iterator[Parser]:
    if run is None:
        return
    from actsec.reports import load
    from actsec.running.merging import merge
    from actsec.search.examples import of_run as examples_of
    from actsec.verdict.between import compare

    def changed(rng: random.Random, folder: Path) -> Path:
        place = folder / "run"
        shutil.copytree(run, place)
        files = [path for path in place.rglob("*") if path.is_file() and path.suffix in (".json", ".npz", ".toml")]
        for path in rng.sample(files, min(len(files), rng.choice((1, 1, 2, 5)))):
            content = path.read_bytes()
            if path.suffix == ".json" and rng.random() < 0.8:
                content = json.dumps(tree_of(rng, json.loads(content))).encode()
            elif rng.random() < 0.9:
                content = bytes_of(rng, content)
            path.write_bytes(content)
        return place

    def report(rng: random.Random, folder: Path) -> Path:
        place = folder / "run"
        place.mkdir()
        told = json.loads((run / "report.json").read_bytes())
        (place / "report.json").write_text(json.dumps(tree_of(rng, told)))
        if (run / "examples.npz").exists():
            whole = (run / "examples.npz").read_bytes()
            (place / "examples.npz").write_bytes(bytes_of(rng, whole) if rng.random() < 0.5 else whole)
        return place

    def rendered(place: Path) -> None:
        found = load.read(place)
        for form in ("terminal", "md", "sarif", "junit"):
            load.render(found, form)

    yield Parser("report.json, rendered", report, rendered)
    yield Parser("run folders, compared", changed, lambda place: compare(run, place), 2)
    yield Parser("run folders, merged", changed, lambda place: merge([place], place.parent / "merged"), 2)
    yield Parser("run folders, replayed", changed, lambda place: examples_of(str(place)))


def fate_of(parser: Parser, rng: random.Random, folder: Path) -> str:
    """Feed one input and say what came of it."""
    given = parser.make(rng, folder)
    signal.setitimer(signal.ITIMER_PROF, HANG)
    try:
        parser.read(given)
    except ActsecError as problem:
        fate = "clear error" if problem.exit_code in (2, 3, 4) or parser.name.startswith("shards") else "crash"
        if fate == "crash":
            parser.crashes.setdefault(type(problem).__name__, str(problem))
    except _Hang:
        fate = "hang"
        parser.crashes.setdefault("hang", repr(given)[:300])
    except Exception as problem:  # noqa: BLE001  # whatever it is, it is counted
        fate = "crash"
        frames = [f for f in traceback.extract_tb(problem.__traceback__) if "actsec" in f.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        parser.crashes.setdefault(f"{type(problem).__name__} at {where}", f"{problem} given {given!r}"[:300])
    else:
        fate = "read"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "executed" if any(folder.rglob("EXECUTED")) else fate


def run_all(seconds: float, seed: int, run: Path | None, only: str = "") -> list[Parser]:
    """Feed every parser for its share of the time."""

    def ring(*_: object) -> None:
        raise _Hang

    signal.signal(signal.SIGPROF, ring)
    importlib.import_module("actsec.running.runner")  # torch and what needs it, whose import is no parser's time
    root = Path(tempfile.mkdtemp(prefix="fuzzing"))
    trap = pickle.dumps(Trap(root / "EXECUTED"))
    every = [parser for parser in parsers(trap, run) if only in parser.name]
    for number, parser in enumerate(every):
        rng = random.Random(f"{seed} {parser.name}")
        end = time.monotonic() + seconds * parser.weight / sum(each.weight for each in every)
        while time.monotonic() < end:
            folder = root / str(number)
            folder.mkdir()
            parser.fates[fate_of(parser, rng, folder)] += 1
            shutil.rmtree(folder)
            if (root / "EXECUTED").exists():
                parser.fates["executed"] += 1
                (root / "EXECUTED").rmdir()
        print(f"{parser.name}: {dict(parser.fates)}", file=sys.stderr)
        for what, example in parser.crashes.items():
            print(f"  {what}: {example}", file=sys.stderr)
    shutil.rmtree(root)
    return every


def table(every: list[Parser], seconds: float, seed: int) -> str:
    """The counts as Markdown."""
    rows = [["parser", "inputs", *FATES]]
    rows += [[p.name, str(p.fates.total()), *(str(p.fates[fate]) for fate in FATES)] for p in every]
    total: Counter[str] = sum((p.fates for p in every), Counter())
    rows += [["**all**", str(total.total()), *(str(total[fate]) for fate in FATES)]]
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], ["---", *["---:"] * (len(FATES) + 1)], *rows[1:])]
    said = f"`python -m benchmarks.fuzzing --seconds {seconds:g} --seed {seed}`"
    return "\n".join(("# Fuzzing", "", said, "", *lines, "", (__doc__ or "").partition("\n\n")[2]))


def main() -> None:
    """Read the options, feed the parsers, print the table; exit 1 where anything crashed, hung or was executed."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--run", type=Path, help="A finished run folder; without one, run folders are left out.")
    options.add_argument("--only", default="", help="Parsers whose name holds this.")
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    every = run_all(given.seconds, given.seed, given.run, given.only)
    text = table(every, given.seconds, given.seed)
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")
    sys.exit(any(p.fates[bad] for p in every for bad in ("crash", "hang", "executed")))


if __name__ == "__main__":
    main()
