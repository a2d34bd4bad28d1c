"""One notation for everything that has a name and options: ``pgd(steps=200)``.

The same text stands in TOML, on the command line, in logs, in the report and in the hash of a job. A plug-in is a
frozen dataclass; its fields are its options. This file alone knows how one becomes the other.

    value  := none | true | false | number | fraction | 'text' | word | spec | [value, ...]
    spec   := name | name(option=value, ...)
    chain  := spec | spec '|' chain
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from actsec.errors import BadOption, SpecError, unknown

Value = Union[None, bool, int, float, str, "Spec", tuple["Value", ...]]
"""What an option may be. Immutable, so that a spec can be compared, hashed and printed."""

T = TypeVar("T")

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|inf\b)(?:\s*/\s*\d+(?:\.\d+)?)?)(?![\w.])
    | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    | (?P<name>[A-Za-z_][\w./:@+-]*)
    | (?P<mark>[(),=\[\]|])
    )""",
    re.VERBOSE,
)
DEPTH = 20
"""Of specs and lists inside one another."""
_DIGITS = 100  # of one number: Python takes seconds and then refuses to read a million
_LONGEST = 10_000  # characters of a text: what comes to more is no request of a person's

_WORDS: dict[str, Value] = {"none": None, "true": True, "false": False}


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """A name and its options, in the order given. Prints as the text that parses back to it."""

    name: str
    options: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        if not self.options:
            return self.name
        return f"{self.name}({', '.join(f'{key}={show(value)}' for key, value in self.options)})"

    def get(self, option: str, default: Value = None) -> Value:
        """The value of ``option``, or ``default`` when the spec does not set it."""
        return dict(self.options).get(option, default)

    def having(self, **options: Value) -> Spec:
        """A copy with these options added or replaced."""
        return Spec(self.name, tuple({**dict(self.options), **options}.items()))


def show(value: Value) -> str:
    """The text of a value; floats that are k/255 exactly are written so, unless they are short."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if math.isfinite(value) and value != round(value):
            levels = round(value * 255)
            if 0 < abs(levels) < 2550 and levels / 255 == value and len(repr(value)) > 7:
                return f"{levels}/255"
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, str):
        # Plain when the reader would take the whole text as one name: "inf/2" reads as a number, "None" as none.
        token = _TOKEN.match(value)
        plain = (
            token is not None and token.lastgroup == "name" and token["name"] == value and value.lower() not in _WORDS
        )
        return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)


def parse(text: str) -> Spec:
    """Read one spec. Raises SpecError with the place where reading stopped."""
    reader = _Reader(text)
    spec = reader.spec()
    reader.end()
    return spec


def parse_chain(text: str) -> tuple[Spec, ...]:
    """Read specs joined by ``|``: ``swap(to=silu) | temperature``."""
    reader = _Reader(text)
    chain = [reader.spec()]
    while reader.peek() == "|":
        reader.take("|")
        chain.append(reader.spec())
    reader.end()
    return tuple(chain)


def parse_value(text: str) -> Value:
    """Read one value: ``8/255``, ``true``, ``[a, b]``, ``leaky_relu(slope=0.1)``."""
    reader = _Reader(text)
    value = reader.value()
    reader.end()
    return value


class _Reader:
    """A one-token look-ahead reader over the grammar in the module's docstring."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.at, self.depth = text, [], 0, 0
        if len(text) > _LONGEST:
            raise SpecError(f"cannot read {text[:40]!r}...: {len(text):,} characters, at most {_LONGEST:,}", _GRAMMAR)
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                raise SpecError(
                    f"cannot read {text!r} at {text[position:].strip()[:20]!r}",
                    f"{_GRAMMAR} A path goes in quotes: replay(run='runs/mine').",
                )
            kind = match.lastgroup or ""
            self.tokens.append((kind, match[kind]))
            position = match.end()

    tokens: list[tuple[str, str]]

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else "end"

    def take(self, expected: str = "") -> str:
        found = self.peek()
        if (expected and found != expected) or not found:
            wanted = f"{expected!r}" if expected else "more text"
            raise SpecError(f"cannot read {self.text!r}: expected {wanted}, found {found or 'the end'!r}", _GRAMMAR)
        self.at += 1
        return found

    def end(self) -> None:
        if self.kind() != "end":
            raise SpecError(f"cannot read {self.text!r}: {self.peek()!r} is left over", _GRAMMAR)

    def spec(self) -> Spec:
        if self.kind() != "name":
            raise SpecError(f"cannot read {self.text!r}: expected a name, found {self.peek() or 'the end'!r}", _GRAMMAR)
        name, options = self.take(), {}
        if self.peek() == "(":
            self.take("(")
            while self.peek() != ")":
                if self.kind() != "name":
                    raise SpecError(f"cannot read {self.text!r}: expected option=value at {self.peek()!r}", _GRAMMAR)
                option = self.take()
                if option in options:
                    raise SpecError(f"cannot read {self.text!r}: option {option!r} is given twice", _GRAMMAR)
                self.take("=")
                options[option] = self.value()
                if self.peek() != ")":
                    self.take(",")
            self.take(")")
        return Spec(name, tuple(options.items()))

    def value(self) -> Value:
        self.depth += 1
        if self.depth > DEPTH:
            raise SpecError(f"cannot read {self.text[:80]!r}...: more than {DEPTH} specs inside one another", _GRAMMAR)
        found = self._value()
        self.depth -= 1
        return found

    def _value(self) -> Value:
        kind = self.kind()
        if kind == "number":
            return _number(self.take())
        if kind == "text":
            return re.sub(r"\\(.)", r"\1", self.take()[1:-1])
        if self.peek() == "[":
            self.take("[")
            items: list[Value] = []
            while self.peek() != "]":
                items.append(self.value())
                if self.peek() != "]":
                    self.take(",")
            self.take("]")
            return tuple(items)
        spec = self.spec()
        return spec if spec.options else _WORDS.get(spec.name.lower(), spec.name)


_GRAMMAR = "Write name(option=value, ...), for example pgd(steps=200, step_size=2/255)."


def _number(text: str) -> int | float:
    if len(text) > _DIGITS:
        raise SpecError(f"cannot read the number {text[:20]}...: it has {len(text)} characters", _GRAMMAR)
    if "/" in text:
        above, below = text.split("/")
        if float(below) == 0:
            raise SpecError(f"cannot read {text!r}: division by zero", _GRAMMAR)
        return float(above) / float(below)
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def build(cls: type[T], spec: Spec, what: str) -> T:
    """Make the dataclass ``cls`` from a spec. Raises UnknownName or BadOption, naming the option and the mend."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]  # any dataclass will do
    given: dict[str, Any] = {}
    for option, value in spec.options:
        if option not in fields:
            raise unknown(f"option of {what} {spec.name!r}", option, fields)
        given[option] = _fit(hints[option], value, f"{spec.name}({option}=...)")
    missing = [
        name
        for name, field in fields.items()
        if name not in given and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise BadOption(f"{what} {spec.name!r} needs {missing[0]!r}", f"Write {spec.name}({missing[0]}=...).")
    return cls(**given)


def full(instance: Any, name: str) -> Spec:
    """The spec of a built plug-in with every option written out, so that a changed default changes a job's hash."""
    return Spec(name, tuple((f.name, getattr(instance, f.name)) for f in dataclasses.fields(instance) if f.init))


def table(cls: type) -> list[tuple[str, str, str, str]]:
    """Rows (option, type, default, meaning) of a plug-in, for help texts and docs."""
    hints = typing.get_type_hints(cls, include_extras=True)
    rows = []
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        meaning = get_args(hint)[1] if get_origin(hint) is Annotated else ""
        default = "required" if field.default is dataclasses.MISSING else show(field.default)
        if field.default_factory is not dataclasses.MISSING:
            default = show(field.default_factory())
        rows.append((field.name, _type_name(hint), default, meaning))
    return rows


def _fit(hint: Any, value: Value, where: str) -> Any:
    """``value`` as the annotation asks, or BadOption. An int is a float; a word is a spec where one is asked."""
    fitted = _fitted(hint, value)
    if fitted is _UNFIT:
        raise BadOption(f"{where}: {show(value)} is not {_type_name(hint)}", f"Give {_type_name(hint)}.")
    return fitted


_UNFIT: Any = object()


def _fitted(hint: Any, value: Value) -> Any:
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return next((fitted for choice in inner if (fitted := _fitted(choice, value)) is not _UNFIT), _UNFIT)
    if origin is Literal:
        # True equals 1, so that the type must agree too.
        return value if any(value == choice and type(value) is type(choice) for choice in inner) else _UNFIT
    if origin is tuple:
        items = [_fitted(inner[0], item) for item in value] if isinstance(value, tuple) else [_UNFIT]
        return _UNFIT if any(item is _UNFIT for item in items) else tuple(items)
    if hint is Spec and isinstance(value, str):
        return parse(value)
    if hint is float:
        return _fitted_float(value)
    return value if type(value) is hint else _UNFIT


def _fitted_float(value: Value) -> Any:
    if isinstance(value, str) and (match := _TOKEN.fullmatch(value)) and match["number"]:
        value = _number(match["number"])
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value):
        return float(value)
    return _UNFIT


def _type_name(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Annotated:
        return _type_name(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(choice) for choice in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if origin is tuple:
        return f"a list of {_type_name(get_args(hint)[0])}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
    return names.get(hint, "a spec such as name(option=value)")
