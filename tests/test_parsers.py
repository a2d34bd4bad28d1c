"""Properties of every parser: whatever it is fed, it reads it or says in words what is wrong, and executes nothing.

The inputs are those of ``benchmarks/fuzzing.py``, a few of each here; the sessions with counts are its own.
"""

from __future__ import annotations

import pickle
import random
import shutil
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actsec import spec
from actsec.errors import ActsecError
from actsec.planning import toml
from actsec.types import Threat
from benchmarks import fuzzing

NAMES = (
    *("spec strings", "attack specs", "reference models", "gates", "threats", "accepted findings", "feature rules"),
    *(
        "shards, bounds, transforms, normalisations",
        "recipes of hardened models",
        "npz archives",
        "masks",
        "csv tables",
    ),
    *("image folders", "safetensors", "torch checkpoints", "pickles and other bytes as weights"),
)


@pytest.fixture(scope="module")
def parsers(tmp_path_factory):
    place = tmp_path_factory.mktemp("trap") / "EXECUTED"
    return place, {each.name: each for each in fuzzing.parsers(pickle.dumps(fuzzing.Trap(place)), None)}


def test_every_parser_is_here(parsers):
    assert set(parsers[1]) == {*NAMES, "plan files, resolved to jobs"}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_what_is_fed_is_read_or_refused_in_words(parsers, tmp_path, name, seed):
    trap, every = parsers
    folder = tmp_path / "input"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy and PIL remark on damaged headers before they refuse them
        given_ = every[name].make(random.Random(seed), folder)
        try:
            every[name].read(given_)
        except ActsecError:
            pass  # in words: its constructor asks for the problem
        finally:
            ran = trap.exists() or any(folder.rglob("EXECUTED"))
            shutil.rmtree(folder)
    assert not ran


def test_a_trap_that_is_opened_is_seen(tmp_path):
    """Without this the properties above would show nothing."""
    pickle.loads(pickle.dumps(fuzzing.Trap(tmp_path / "EXECUTED")))
    assert (tmp_path / "EXECUTED").is_dir()


def test_a_crash_is_counted_as_one(tmp_path):
    def crash(_):
        raise KeyError("x")

    def refuse(_):
        raise spec.SpecError("no")

    def execute(folder):
        (Path(folder) / "EXECUTED").mkdir()

    fates = {}
    for read in (crash, refuse, execute, str):
        parser = fuzzing.Parser("made up", lambda _, folder: folder, read)
        fates[read.__name__] = fuzzing.fate_of(parser, random.Random(0), tmp_path)
        shutil.rmtree(tmp_path / "EXECUTED", ignore_errors=True)
    assert fates == {"crash": "crash", "refuse": "clear error", "execute": "executed", "str": "read"}


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_reads_back_from_toml(text):
    import tomllib

    written = toml.document({"a": text, "b": [text], "c": {text or "k": text}})
    assert tomllib.loads(written) == {"a": text, "b": [text], "c": {text or "k": text}}
    assert all(c.isprintable() or c == "\n" for c in written)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="linf20:/.8class=kmfd5-+e ", max_size=40))
def test_a_threat_that_is_read_prints_as_it_is_read(text):
    try:
        found = Threat.parse(text)
    except ActsecError:
        return
    assert Threat.parse(str(found)) == found
