"""What ``--no-examples`` leaves out: inputs, paths, names of users and hosts, secrets. For every format alike.

A redacted report is made from the whole one before any format sees it, so no format can forget. What goes:

inputs      examples and nonsense pictures, with what a table's cells were; the least and largest of its columns
paths       every directory: the last part of a path stays, for it names the model and the data
people      the user and the host of this machine, as words of their own; not what [evidence] states on purpose
secrets     values of environment variables that are named like one, of options and keys that are, and URLs' passwords

Class names, attacks and numbers stay: they are the result. A path or name is found where it is written as one; a secret
that looks like neither and is in no variable or option named like one cannot be told from a word.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import os
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actsec.reports.load import Report, of_values

SECRET, USER, HOST = "[secret]", "[user]", "[host]"
PATHS = ("model", "weights", "data", "train", "calibration", "mask")
"""Plan keys that may name a file."""
COMMON = frozenset({"root", "user", "test", "data", "admin", "model", "train", "runner", "localhost", "digits", "wine"})
"""Names that say nothing of a person or a place, and are words of every report."""
_NAMED = re.compile(r"token|secret|passw|pwd|api_?key|credential|private|auth|cookie", re.IGNORECASE)
_OPTION = re.compile(
    r"(?P<key>[\w-]*(?:token|secret|passw(?:or)?d|api[_-]?key|credential)[\w-]*)(?P<sign>\s*[=:]\s*|\s+)"
    r"(?P<value>\"[^\"]*\"|'[^']*'|[^\s,;)\]&]+)",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"(\w+://)[^/\s@]+@")
_ROOTED = re.compile(r"(?<![\w.:/\\])(?:~|\.{1,2})?/(?:[^\s'\"<>|,;()\[\]{}=:/]+/)+(?=[^\s'\"<>|,;()\[\]{}=/])")
_WINDOWS = re.compile(r"\b[A-Za-z]:\\(?:[^\\\s'\"<>|]+\\)*")
_FILE = re.compile(
    r"(?<![\w.:/])(?:[\w.@+-]+/)+(?=[\w.@+-]+\.(?:npz|npy|csv|py|pt|pth|pt2|safetensors|toml|png|jpe?g|json|onnx)\b)"
)


@dataclass(frozen=True, slots=True)
class Scrub:
    """Takes texts to texts. known are whole paths, longest first, and what becomes of each."""

    known: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()

    def __call__(self, text: str) -> str:
        """The text without paths, names and secrets."""
        for secret in self.secrets:
            text = text.replace(secret, SECRET)
        text = _LOGIN.sub(rf"\1{SECRET}@", text)
        text = _OPTION.sub(_hidden, text)
        for path, short in self.known:
            text = text.replace(path, short)
        for pattern in (_WINDOWS, _ROOTED, _FILE):
            text = pattern.sub("", text)
        for name, said in self.names:
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", said, text, flags=re.IGNORECASE)
        return text


def _hidden(match: re.Match[str]) -> str:
    """A key and its value, the value gone; a word such as secret in running text keeps what follows it."""
    if not match["sign"].strip() and not match["key"].startswith("-"):
        return match[0]
    return f"{match['key']}{match['sign']}{SECRET}"


def scrubber(named: Iterable[str] = ()) -> Scrub:
    """For this machine. named are texts of the plan that may be paths, with or without a ``:factory``."""
    known = {text: _last(text) for text in named if "/" in text or "\\" in text}
    known |= {f"{folder}/": "" for folder in (str(Path.cwd()), str(Path.home())) if len(folder) > 1}
    secrets = {value for key, value in os.environ.items() if _NAMED.search(key) and len(value) >= 6}
    secrets = {value for value in secrets if not value.startswith(("/", "unix:"))}  # a socket or a file, told as a path
    return Scrub(
        tuple(sorted(known.items(), key=lambda item: -len(item[0]))),
        tuple(sorted(secrets, key=len, reverse=True)),
        tuple(_people()),
    )


def _people() -> list[tuple[str, str]]:
    users = {os.environ.get(key, "") for key in ("USER", "LOGNAME", "USERNAME")} | {Path.home().name}
    with contextlib.suppress(OSError, KeyError):  # a user without a name, as in some containers
        users.add(getpass.getuser())
    hosts = {socket.gethostname(), socket.gethostname().partition(".")[0], os.environ.get("HOSTNAME", "")}
    found = [(name, USER) for name in users] + [(name, HOST) for name in hosts]
    told = [(name, said) for name, said in found if len(name) > 2 and name.lower() not in COMMON]
    return sorted(dict.fromkeys(told), key=lambda item: -len(item[0]))


def _last(path: str) -> str:
    """The last part of a path, with the factory behind it."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def redacted(report: Report, scrub: Scrub | None = None) -> Report:
    """The report without inputs, paths, names and secrets. Its numbers are the same."""
    result, plan = report.result, report.result.plan
    made = scrub or scrubber(str(plan[key]) for key in PATHS if plan.get(key) is not None)
    bare = dataclasses.replace(
        result,
        plan={**plan, "no_examples": True},
        command=" ".join(result.command.split()[:2]) if not result.command.endswith("plan.toml") else result.command,
        examples=(),
        data=dataclasses.replace(result.data, columns=()),
        variants=tuple(
            dataclasses.replace(v, nonsense=dataclasses.replace(v.nonsense, pictures=()) if v.nonsense else None)
            for v in result.variants
        ),
    )
    stated = plan.get("evidence", ())
    record = _walk(dataclasses.asdict(bare), made)
    record["plan"]["evidence"] = list(stated)  # stated on purpose, for this page
    environment = _walk(dict(report.environment), made)
    folder = "share" if report.folder else ""
    found = of_values({"result": record, "environment": environment})
    return Report(found.result, found.environment, None, report.folder, report.plan, shown=folder)


def _walk(value: Any, scrub: Callable[[str], str]) -> Any:
    """Every text of a JSON value scrubbed, keys among them."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {scrub(key): _walk(inner, scrub) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_walk(inner, scrub) for inner in value]
    return value
