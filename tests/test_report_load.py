"""Reading and writing runs: strict, exact, and clear about what is wrong."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import sample_result as sample

from actsec.errors import StoreError, UnknownName
from actsec.reports import load
from actsec.result import SCHEMA

ALL = [sample.normal, sample.masked, sample.partial, sample.hostile]


@pytest.mark.parametrize("make", ALL)
def test_json_reads_back_to_the_same_record_and_bytes(make):
    report = sample.report(make())
    text = load.to_json(report)
    again = load.from_json(text)
    assert load.to_json(again) == text
    assert again.result == report.result
    assert text.isascii()


def test_the_result_half_does_not_depend_on_the_environment():
    report = sample.report(sample.normal())
    other = dataclasses.replace(report, environment={"seconds": 1.0})
    assert json.loads(load.to_json(report))["result"] == json.loads(load.to_json(other))["result"]
    assert load.result_json(report.result) == load.result_json(other.result)


def test_whole_numbers_in_float_fields_are_written_as_floats():
    result = sample.normal()
    clean = dataclasses.replace(result.variants[0].clean, balanced=1)
    changed = dataclasses.replace(result, variants=(dataclasses.replace(result.variants[0], clean=clean),))
    assert '"balanced": 1.0' in load.to_json(sample.report(changed))


def stored(tmp_path, result=None):
    report = sample.report(result or sample.normal())
    (tmp_path / "report.json").write_text(load.to_json(report))
    if report.examples is not None:
        np.savez(tmp_path / "examples.npz", **report.examples)
    return report


def test_a_folder_reads_back_whole(tmp_path):
    report = stored(tmp_path)
    found = load.read(tmp_path)
    assert found.result == report.result
    assert found.environment == report.environment
    assert found.folder == str(tmp_path)
    for name in ("original", "attacked"):
        np.testing.assert_array_equal(found.examples[name], report.examples[name])


@pytest.mark.parametrize("form", ["html", "md", "json"])
def test_rendering_from_the_run_and_from_the_folder_is_the_same(tmp_path, form):
    report = dataclasses.replace(stored(tmp_path), folder=str(tmp_path))
    assert load.render(load.read(tmp_path), form) == load.render(report, form)


def broken(tmp_path, change):
    stored(tmp_path)
    record = json.loads((tmp_path / "report.json").read_text())
    change(record)
    (tmp_path / "report.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["result"].update(schema=SCHEMA + 1), f"schema {SCHEMA + 1}"),
        (lambda d: d["result"].update(extra=1), "result.extra"),
        (lambda d: d["result"].update(exit_code="1"), "result.exit_code"),
        (lambda d: d["result"].pop("data"), "result.data"),
        (lambda d: d["result"]["variants"][0]["clean"].update(balanced=float("nan")), "NaN is not a number"),
        (lambda d: d["result"].update(status="done"), "result.status"),
        (lambda d: d.pop("result"), 'no "result"'),
    ],
)
def test_a_report_that_does_not_fit_is_refused_by_name(tmp_path, change, said):
    broken(tmp_path, change)
    with pytest.raises(StoreError) as caught:
        load.read(tmp_path)
    assert said in caught.value.problem
    assert caught.value.mend


def test_missing_damaged_and_torn_files_are_explained(tmp_path):
    with pytest.raises(StoreError, match=r"holds no report\.json"):
        load.read(tmp_path)
    (tmp_path / "report.json").write_text('{"result": {')
    with pytest.raises(StoreError, match="not JSON"):
        load.read(tmp_path)


def test_examples_that_would_execute_code_are_refused(tmp_path):
    stored(tmp_path)
    evil = np.empty(1, dtype=object)
    evil[0] = {"any": "object"}
    np.savez(tmp_path / "examples.npz", original=evil, attacked=evil)
    with pytest.raises(StoreError, match=r"examples\.npz"):
        load.read(tmp_path)


def test_too_few_example_images_are_refused(tmp_path):
    report = stored(tmp_path)
    np.savez(tmp_path / "examples.npz", **{k: v[:2] for k, v in report.examples.items()})
    with pytest.raises(StoreError, match="6 examples are named"):
        load.read(tmp_path)


def test_nan_is_never_written():
    result = sample.normal()
    clean = dataclasses.replace(result.variants[0].clean, balanced=float("nan"))
    changed = dataclasses.replace(result, variants=(dataclasses.replace(result.variants[0], clean=clean),))
    with pytest.raises(StoreError, match="NaN"):
        load.to_json(sample.report(changed))


def test_write_replaces_a_file_whole_and_explains_a_bad_place(tmp_path):
    report = sample.report(sample.normal())
    path = tmp_path / "report.html"
    path.write_text("old")
    load.write(report, path, "html")
    assert path.read_text(encoding="utf-8") == load.render(report, "html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(StoreError, match="cannot write"):
        load.write(report, tmp_path / "no" / "report.html", "html")
    with pytest.raises(UnknownName, match="html"):
        load.render(report, "htm")


def test_no_torch_is_imported():
    script = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "import sample_result as s\n"
        "from actsec.reports import load\n"
        "for form in ('html', 'md', 'json', 'terminal', 'sarif', 'junit'): load.render(s.report(s.normal()), form)\n"
        "heavy = {'torch', 'torchvision', 'art', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    here = str(__import__("pathlib").Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", script, here], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_signpost_at_the_root_refuses_to_be_a_package(tmp_path):
    source = load.__file__.rpartition("/")[0]
    (tmp_path / "reports").symlink_to(source)
    done = subprocess.run(
        [sys.executable, "-c", "import reports"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "import actsec.reports instead" in done.stderr
