"""Text from strangers (classes, files, models, columns, a whole report.json) stays text in formats and on screen."""

from __future__ import annotations

import dataclasses
import html
import io
import json
import re
import types
import typing
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import click
import numpy as np
import pytest
import sample_result as sample
from rich.console import Console
from runs import inside

from actsec import result as r
from actsec.command_line.printing import say, say_lines
from actsec.command_line.screen import Screen
from actsec.errors import DataError
from actsec.reports import compared, load, words
from actsec.reports.formats import junit, md, sarif, terminal
from actsec.reports.load import Report
from actsec.verdict.between import Compared, Flips, Held

EVIL = {
    "ansi": "\x1b[31mred\x1b[0m\x1b]0;title\x07\x9b2J\x08\x7f",
    "newlines": "a\nFORGED: passed\r\nFORGED\x0b\x0c\x85\u2028FORGED\u2029FORGED",
    "bidi": "\u202egnp.exe\u202c\u2066x\u2069\u200f\u200b\ufeff\U000e0041",
    "html": "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg/onload=alert(1)><!--",
    "style": "</style></title></svg></desc>'; style='background:url(//evil.example)",
    "cdata": "]]><evil/>&evil;&#0;<![CDATA[<?evil?>",
    "markdown": "a|b`c`|d ~~e~~ **f** _g_ [h](javascript:alert(1)) ![i](//evil.example/i.png) \\| \\`",
    "mentions": "@everyone a@evil.example https://evil.example www.evil.example #12 GH-12 evil/repo#12 <https://e.e>",
    "blocks": "\n# heading\n- item\n1. item\n> quote\n```\ncode\n```\n---\n<details>\n\n| a |\n|---|",
    "templates": "{{7*7}}{% raw %}{0}{model}%s${HOME}$(touch executed)",
    "sarif": "[text](0) [link](https://evil.example) {0} {{1}}",
}
TOGETHER = {
    "terminal": EVIL["ansi"] + EVIL["newlines"] + EVIL["bidi"],
    "markup": EVIL["html"] + EVIL["style"] + EVIL["cdata"] + EVIL["templates"],
    "markdown": EVIL["markdown"] + EVIL["mentions"] + EVIL["blocks"] + EVIL["sarif"],
}
FORMS = ("html", "md", "terminal", "sarif", "junit", "json")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def evil(value, hint, text):
    """The same record with ``text`` before every string in it: equal strings stay equal, and none is left out."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        choices = [choice for choice in inner if choice is not type(None)]
        return value if value is None or len(choices) > 1 else evil(value, choices[0], text)
    if hint is str:
        return text + value
    if origin is tuple:
        return tuple(
            evil(item, inner[0] if len(inner) == 2 else each, text)
            for item, each in zip(value, inner * 999, strict=False)
        )
    if origin is dict or hint is typing.Any:
        return anything(value, text)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return dataclasses.replace(value, **{n: evil(getattr(value, n), h, text) for n, h in hints.items()})
    return value


def anything(value, text):
    if isinstance(value, dict):
        return {text + key: anything(item, text) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(anything(item, text) for item in value)
    return text + value if isinstance(value, str) else value


def full():
    """A result with something in every field that can hold text."""
    made = sample.normal()
    cells = (r.Cell("AGE", "30", "31", 0.1),)
    examples = tuple(dataclasses.replace(example, cells=cells) for example in made.examples)
    columns = (r.Column("AGE", "group", 0.0, 1.0, 1.0, 1.0, False, "up"),)
    first = dataclasses.replace(
        made.variants[0],
        notes=("a note",),
        unresolved=("layer",),
        corruptions=r.Corruptions(8, sample.share(7, 8), (r.Corrupted("blur", 3, "sigma 2", sample.share(5, 8)),)),
    )
    return dataclasses.replace(
        made,
        variants=(first, made.variants[4]),
        examples=examples,
        data=dataclasses.replace(made.data, columns=columns),
        mask="3 of 64 values may change",
        accepted=(r.AcceptedFinding("ACT-D01", "2027-03-31", "known", "accepted"),),
        executed=(r.Executed("model make", "nets.py", "ab" * 32), r.Executed("attack a/b", "m of a 1.0", None)),
        second_opinions=(r.SecondOpinion("linf:0.1", "pgd", "art/PGD", 8, 3, 4, (1,), (), (), 1.0, 0, "it failed"),),
    )


def hostile(text):
    made = evil(full(), r.Result, text)
    # The two fields that only ever hold what the reader's own program writes there decide which sections there are.
    return dataclasses.replace(made, schema=r.SCHEMA, plan={**made.plan, "budget": "quick"})


def report(text):
    images = np.zeros((6, 1, 8, 8), np.float32)
    environment = anything({"python": "3.12", "machine": {"cpu": "x"}, "estimates": {"swap": "1 s"}}, text)
    pictures = {"original": images, "attacked": images, "nonsense": images}
    return Report(hostile(text), environment, pictures, folder=f"runs/{text}")


def test_every_string_of_the_record_is_replaced():
    fixed = {value for hint in literals(r.Result, set()) for value in typing.get_args(hint)}
    before = list(leaves(dataclasses.asdict(full())))
    after = list(leaves(dataclasses.asdict(evil(full(), r.Result, "EVIL"))))
    assert len(before) > 500
    for old, new in zip(before, after, strict=True):
        assert new == "EVIL" + old or (new == old and old in fixed), old


def leaves(value):
    """Every text in a record."""
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, str):
        yield value


def literals(hint, seen):
    """Every Literal in the fields of a record: what may hold only words of ours."""
    if typing.get_origin(hint) is typing.Literal:
        return [hint]
    if dataclasses.is_dataclass(hint) and hint not in seen:
        seen.add(hint)
        return [found for each in typing.get_type_hints(hint).values() for found in literals(each, seen)]
    return [found for each in typing.get_args(hint) for found in literals(each, seen)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TOGETHER)
def test_nothing_breaks_out_of_any_format(name, form):
    text = load.render(report(TOGETHER[name]), form)
    assert isinstance(text, str)
    assert not CONTROL.search(text.replace("\N{WORD JOINER}", "") if form == "md" else text), form
    if form != "terminal":  # which breaks long lines where they must be broken
        assert not re.search(r"^ {0,3}FORGED", text, re.MULTILINE)
    {"html": check_html, "md": check_markdown, "sarif": check_sarif, "junit": check_junit, "json": check_json}.get(
        form, lambda _: None
    )(text)


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(sorted(name for name, _ in attrs))))
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            assert name != "style"
            assert "url(" not in (value or "") or name in ("aria-label", "data-of"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value)

    def handle_comment(self, data):
        raise AssertionError(data)

    def handle_pi(self, data):
        raise AssertionError(data)

    def unknown_decl(self, data):
        raise AssertionError(data)


def check_html(text):
    """The page has the tags that the harmless page has, and no others."""
    harmless = load.render(dataclasses.replace(report(""), result=full()), "html")
    ours = {tag for tag, _ in Tags(harmless).tags}
    assert {tag for tag, _ in Tags(text).tags} <= ours
    scripts = re.findall(r"<script.*?</script>", harmless, re.DOTALL)
    assert len(scripts) == 1, "the one that sorts tables"
    assert text.count(scripts[0]) == 1
    assert not re.search(r"<(script|evil|iframe)", text.replace(scripts[0], ""))


def check_markdown(text):
    prose = "\n".join(line for line in text.split("\n") if not line.startswith("    "))
    assert not re.search(r"<(?!/?(details|summary)>)", prose)
    assert not re.search(r"@(?!\N{WORD JOINER})", prose), "a mention or an address"
    assert not re.search(r"(?<!\\)\]\(", prose), "a link"
    assert not re.search(r"://|www\.", prose), "a bare address"
    assert not re.search(r"(?<!&)#(?=\d)|GH\\?-(?=\d)", prose), "a reference to an issue"
    assert not re.search(r"(?<!\\)`", prose), "code"
    assert not re.search(r"^ {0,3}```", text, re.MULTILINE)
    rows = [line for line in prose.split("\n") if line.startswith("|")]
    assert rows
    width = None
    for before, row in zip(["", *prose.split("\n")], prose.split("\n"), strict=False):
        if row.startswith("|"):
            cells = len(re.findall(r"(?<!\\)(?:\\\\)*\|", row))
            width = cells if not before.startswith("|") else width
            assert cells == width, row[:300]


def check_sarif(text):
    assert text.isascii()
    run = json.loads(text)["runs"][0]
    for each in run["results"]:
        said = each["message"]["text"]
        assert not re.search(r"\]\(", said), "a link"
        assert not re.search(r"\{\d+\}", said.replace("{{", "").replace("}}", "")), "a placeholder"
        assert not CONTROL.search(json.dumps(each, ensure_ascii=False).replace("\\n", ""))
    assert not any(uri.startswith(("javascript", "//", "http")) for uri in re.findall(r'"uri": "(.*?)"', text))


def check_junit(text):
    found = ET.fromstring(text)  # noqa: S314  # what actsec wrote
    ours = {e.tag for e in ET.fromstring(junit.render(Report(full()))).iter()}  # noqa: S314  # the same
    assert {e.tag for e in found.iter()} <= ours | {"failure", "error", "skipped"}


def check_json(text):
    assert text.isascii()
    assert load.from_json(text).result == json_result(text)


def json_result(text):
    return load.from_json(json.dumps(json.loads(text))).result


@pytest.mark.parametrize("name", TOGETHER)
def test_a_terminal_gets_our_colours_and_no_other_control(name):
    sink = io.StringIO()
    terminal.show(report(TOGETHER[name]), Console(file=sink, force_terminal=True, width=100, highlight=False))
    ours = re.sub(r"\x1b\[[0-9;]*m", "", sink.getvalue())
    assert not CONTROL.search(ours)


@pytest.mark.parametrize("form", ["terminal", "md", "json"])
@pytest.mark.parametrize("name", EVIL)
def test_nothing_breaks_out_of_a_comparison(name, form):
    row = r.Comparison("relu", "relu", "ece", 0.1, 0.2, 0.1, 0.0, 0.2, 10, 0.5, "worse")
    plain = Compared(
        1, "a", "b", False, ("a note",), (row,), (Flips("ece", 1, 2),), (Held("ece", 0, "passed", "y"),), 0
    )
    text = compared.render(evil(plain, Compared, EVIL[name]), form)
    assert not CONTROL.search(text.replace("\N{WORD JOINER}", "") if form == "md" else text)
    assert form == "terminal" or not re.search(r"^\s*FORGED", text, re.MULTILINE)
    if form == "md":
        check_markdown(text)


@pytest.mark.parametrize("name", EVIL)
def test_messages_errors_and_progress_are_clean(name, capsys):
    say(EVIL[name])
    say_lines(f"a page\n{EVIL[name].replace(chr(10), '')}")
    screen = Screen()
    screen.note(EVIL[name])
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert not CONTROL.search(text)
        assert "\x1b" not in text
    assert not re.search(r"^FORGED", printed.out, re.MULTILINE)


@pytest.mark.parametrize("name", ["ansi", "newlines", "bidi", "html"])
def test_an_error_about_a_hostile_name_is_clean(name, tmp_path):
    for arguments in (
        ("audit", "--data", str(tmp_path / EVIL[name].replace("/", "").replace("\0", ""))),
        ("audit", "--model", EVIL[name]),
        ("audit", "--model", "reference:" + EVIL[name]),
        ("explain", EVIL[name]),
        ("report", EVIL[name]),
    ):
        said = inside(*arguments)
        assert said.code == 2, said
        assert not CONTROL.search(said.err + said.out), arguments
        assert not re.search(r"^\W*FORGED", said.err, re.MULTILINE)


def test_a_crash_is_one_clean_line(monkeypatch):
    from actsec.command_line import cli

    def crash(*_, **__):
        raise ValueError("\x1b[2J\nFORGED: all gates passed")

    monkeypatch.setattr(cli.cli, "main", crash)
    said = inside("audit")
    assert said.code == 5
    assert not CONTROL.search(said.err)
    assert "\nFORGED" not in said.err


def test_a_plan_that_is_printed_is_clean_and_reads_back(tmp_path):
    import tomllib

    from actsec.planning import plan, reading

    every = "".join(EVIL.values())
    made = plan.Plan(model=f"nets.py:{every}", gates=(every,))
    written = reading.write(made)
    assert not CONTROL.search(written)
    assert reading.from_table(tomllib.loads(written)) == made


def test_classes_that_are_no_text_are_refused():
    from actsec.data import from_arrays

    for names in (["a\udc80", "b"], ["a" * 2000, "b"]):
        with pytest.raises(DataError, match="class"):
            from_arrays(np.zeros((2, 3)), np.array([0, 1]), classes=names)


def test_the_page_shows_what_it_refuses_to_obey():
    shown = html.unescape(load.render(report(EVIL["html"]), "html"))
    assert "</script><script>alert(1)</script>" in shown
    assert "\\u202egnp.exe" in load.render(report(EVIL["bidi"]), "html")
    assert words.clean("a\x1b[31mb") == "ab"
    assert md.escape("#12 GH-12") != "#12 GH-12"
    assert sarif.render(Report(hostile(EVIL["sarif"])))
    assert click.unstyle("x") == "x"
