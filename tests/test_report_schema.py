"""The published schema: derived from the records, up to date in the docs, and met by every report."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import sample_result as sample
from runs import inside

from actsec.reports import load
from actsec.reports.schema import schema
from actsec.result import SCHEMA

PUBLISHED = Path(__file__).resolve().parent.parent / "docs" / "report.schema.json"


def validator():
    return pytest.importorskip("jsonschema", reason="pip install jsonschema").Draft202012Validator(schema())


def refuse(constant):
    raise AssertionError(f"{constant} in a report")


def test_the_schema_in_the_docs_is_the_one_derived():
    assert PUBLISHED.read_text() == inside("schema").out, "actsec schema > docs/report.schema.json"
    assert json.loads(PUBLISHED.read_text()) == schema()
    assert schema()["$id"].endswith(f":{SCHEMA}")


def test_the_schema_is_a_schema():
    checker = validator()
    checker.check_schema(schema())


@pytest.mark.parametrize("make", [sample.normal, sample.masked, sample.partial, sample.hostile])
def test_every_made_up_report_validates(make):
    made = json.loads(load.to_json(sample.report(make())), parse_constant=refuse)
    assert [error.message for error in validator().iter_errors(made)] == []


def test_the_report_of_a_run_validates(finished):
    made = json.loads((finished / "report.json").read_text(), parse_constant=refuse)
    assert [error.message for error in validator().iter_errors(made)] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["result"].update(schema=SCHEMA + 1),
        lambda d: d["result"].update(extra=1),
        lambda d: d["result"].update(exit_code="1"),
        lambda d: d["result"].pop("data"),
        lambda d: d["result"].update(status="done"),
        lambda d: d["result"]["variants"][0]["clean"]["accuracy"].update(k=0.5),
        lambda d: d["result"]["data"].update(bounds=[0.0]),
        lambda d: d.pop("environment"),
    ],
)
def test_what_does_not_fit_is_refused_by_schema_and_reader_alike(change):
    from actsec.errors import StoreError

    record = json.loads(load.to_json(sample.report(sample.normal())))
    change(record)
    assert not validator().is_valid(record)
    with pytest.raises(StoreError):
        load.from_json(json.dumps(record))


def test_every_field_of_every_record_is_described_by_name():
    from actsec import result
    from actsec.health import vitals

    defs = schema()["$defs"]
    named = {**vars(vitals), **vars(result)}
    assert {name for name, c in vars(result).items() if isinstance(c, type) and dataclasses.is_dataclass(c)} <= set(
        defs
    )
    for name, described in defs.items():
        assert [f.name for f in dataclasses.fields(named[name])] == list(described["properties"])
        assert described["description"]


def test_the_command_needs_no_torch():
    script = "import sys\nfrom actsec.reports.schema import schema\nschema()\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
