"""The notation: what prints reads back, errors say where, options arrive as their field asks."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actsec.errors import BadOption, SpecError, UnknownName
from actsec.spec import Spec, build, full, parse, parse_chain, parse_value, show, table

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_./:@+-]{0,8}", fullmatch=True)
option_names = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False),
    st.integers(-3000, 3000).map(lambda levels: levels / 255),
    st.text(max_size=12),
    names,
)


def specs(values: st.SearchStrategy) -> st.SearchStrategy[Spec]:
    options = st.dictionaries(option_names, values, max_size=3).map(lambda found: tuple(found.items()))
    return st.builds(Spec, names.filter(parse_safe), options)


def parse_safe(name: str) -> bool:
    """Whether the notation takes the text as one name: ``inf/2`` is a number."""
    return show(name) == name or name.lower() in {"none", "true", "false"}


def same(a: object, b: object) -> bool:
    """Equal, and of one type throughout: 1, 1.0 and True are three values."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Spec) and isinstance(b, Spec):
        return a.name == b.name and same(a.options, b.options)
    return type(a) is type(b) and a == b and not (a == 0 and str(a) != str(b))


# A nested spec without options and a word are the same text, and read as the word.
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), specs(inner).filter(lambda spec: spec.options)),
    max_leaves=6,
)


@given(specs(values))
@example(Spec("a", (("x", "inf"), ("y", "inf/2"), ("z", "None"), ("w", "it's \\ \n"))))
@example(Spec("a", (("x", -0.0), ("y", math.inf), ("z", -math.inf), ("w", 1e300))))
def test_what_prints_reads_back(spec):
    assert same(parse(str(spec)), spec)


@given(values)
def test_values_read_back(value):
    assert same(parse_value(show(value)), value)


@given(st.lists(specs(values), min_size=1, max_size=3))
def test_chains_read_back(chain):
    assert same(parse_chain(" | ".join(map(str, chain))), tuple(chain))


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused_in_words(text):
    try:
        parse(text)
    except SpecError as problem:
        assert problem.mend  # noqa: PT017  # both ways are right, silence is not


@given(st.integers(1, 2549))
def test_grey_levels_print_as_fractions(levels):
    text = show(levels / 255)
    assert text == (f"{levels}/255" if levels % 51 else repr(levels / 255))
    assert parse_value(text) == levels / 255


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("pgd(steps=200", "the end"),
        ("pgd(steps 200)", "'200'"),
        ("pgd(steps=)", "')'"),
        ("pgd(200)", "'200'"),
        ("pgd) x", "')' is left over"),
        ("pgd(steps=1, steps=2)", "'steps' is given twice"),
        ("pgd(steps=12abc)", "'12abc)'"),
        ("pgd(steps=1;)", "';)'"),
        ("", "the end"),
        ("pgd(eps=8/0)", "division by zero"),
        ("8/255", "'8/255'"),
        ("a |", "the end"),
    ],
)
def test_an_error_names_the_place(text, place):
    with pytest.raises(SpecError) as problem:
        parse_chain(text) if "|" in text else parse(text)
    assert place in problem.value.problem
    assert "name(option=value" in problem.value.mend


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    steps: Annotated[int, "how many"]
    size: Annotated[float | None, "how far"] = None
    loss: Literal["ce", "margin"] = "ce"
    early: bool = False
    inner: Spec = Spec("pgd")  # noqa: RUF009  # immutable
    layers: tuple[int, ...] = (1, 2)
    label: str = ""


def make(text):
    return build(Made, parse(text), "attack")


def test_options_arrive_as_their_field_asks():
    made = make("m(steps=3, size=2/255, loss=margin, early=true, inner=fgsm(eps=1), layers=[4, 5], label='a b')")
    assert made == Made(3, 2 / 255, "margin", early=True, inner=parse("fgsm(eps=1)"), layers=(4, 5), label="a b")
    assert type(make("m(steps=3, size=1)").size) is float
    assert make("m(steps=3, size=none)").size is None
    assert make("m(steps=3, size='8/255')").size == 8 / 255
    assert make("m(steps=3, inner=fgsm)").inner == Spec("fgsm")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("m(steps=3.5)", "steps=...): 3.5 is not a whole number"),
        ("m(steps=true)", "true is not a whole number"),
        ("m(steps=many)", "many is not a whole number"),
        ("m(steps=3, size=big)", "big is not a number or none"),
        ("m(steps=3, size=true)", "true is not a number or none"),
        ("m(steps=3, loss=hinge)", "hinge is not one of ce, margin"),
        ("m(steps=3, early=1)", "1 is not true or false"),
        ("m(steps=3, layers=[1, a])", "[1, a] is not a list of a whole number"),
        ("m(steps=3, layers=4)", "4 is not a list of a whole number"),
        ("m(steps=3, label=3)", "3 is not a text"),
        ("m", "needs 'steps'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_wanted(text, said):
    with pytest.raises(BadOption, match=r".") as problem:
        make(text)
    assert said in problem.value.problem
    assert problem.value.exit_code == 2


def test_an_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(UnknownName) as problem:
        make("m(stepz=3)")
    assert "option of attack 'm' 'stepz'" in problem.value.problem
    assert "Did you mean 'steps'?" in problem.value.mend


def test_true_is_not_the_choice_one():
    @dataclasses.dataclass(frozen=True)
    class One:
        which: Literal[1, 2] = 1

    with pytest.raises(BadOption):
        build(One, parse("one(which=true)"), "attack")


def test_full_writes_every_option_and_builds_the_same():
    made = make("m(steps=3)")
    written = full(made, "m")
    assert [option for option, _ in written.options] == [field.name for field in dataclasses.fields(Made)]
    assert build(Made, parse(str(written)), "attack") == made


def test_the_table_of_options_for_help():
    rows = {row[0]: row[1:] for row in table(Made)}
    assert rows["steps"] == ("a whole number", "required", "how many")
    assert rows["size"] == ("a number or none", "none", "how far")
    assert rows["layers"][1] == "[1, 2]"


def test_having_adds_and_replaces():
    assert str(parse("a(x=1)").having(x=2, y=3)) == "a(x=2, y=3)"
    assert parse("a(x=1)").get("x") == 1
    assert parse("a").get("x", 5) == 5
