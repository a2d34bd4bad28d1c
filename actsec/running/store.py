"""The run folder: results are the state. Outcomes are written once, whole, under the hash of what made them.

    RUN/plan.toml            the resolved plan; the command that reproduces the run reads it
    RUN/run.json             what the plan's names stood for: content hashes; the directory its paths start from
    RUN/outcomes/ID.npz      the arrays of a job, written first
    RUN/outcomes/ID.json     its numbers and the digest of its arrays: exists only when the job is finished
    RUN/training/ID-K        where the K-th training of a job stands, after its digest; gone when the job is finished
    RUN/costs/ID.json        seconds and memory, kept apart because they differ from run to run
    RUN/report.*             rendered from the outcomes

There is no list of finished jobs to disagree with: a job is done when its outcome reads back whole. A file is written
under a temporary name in the same folder, flushed to disk and renamed, so a kill at any moment leaves it whole or
absent. Two audits never work in one folder at a time: the second is refused, and a lock dies with its process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from actsec.data.archives import read_arrays
from actsec.errors import StoreError
from actsec.planning.jobs import plan_id
from actsec.planning.plan import Facts, Plan
from actsec.planning.reading import read, write
from actsec.types import Outcome

SAVE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Store:
    """A run folder. Cheap to make, safe to send to a worker."""

    root: Path

    @staticmethod
    def create(root: str | Path, plan: Plan, facts: Facts, part: str | None = None) -> Store:
        """Open a run folder for a resolved plan; an existing one must hold the same plan. Raises StoreError.

        part such as ``3/16`` is what `actsec resume` goes on with.

        The plan is written anew, so that a model or data that moved is found where it is now, and other gates are
        decided on the outcomes there are.
        """
        store = Store(Path(root))
        with _explained(store.root):
            for folder in ("outcomes", "costs"):
                (store.root / folder).mkdir(parents=True, exist_ok=True)
            run = {"plan_id": plan_id(plan, facts), "facts": dataclasses.asdict(facts)}
            known = store._read_json("run.json")
            if known is None and any((store.root / "outcomes").glob("[!.]*")):
                raise StoreError(f"{store.root} holds outcomes but no run.json", "Give another --out.")
            if known is not None and known.get("plan_id") != run["plan_id"]:
                changed = _difference(known.get("facts", {}), json.loads(_canonical(run))["facts"])
                raise StoreError(
                    f"{store.root} holds another run: {changed}", "Give another --out, or delete the folder."
                )
            content = write(plan).encode()
            if known is None or (store.root / "plan.toml").read_bytes() != content:
                store._put("plan.toml", content)
            record = _canonical({**run, "directory": str(Path.cwd()), "part": part})
            if known is None or (store.root / "run.json").read_bytes() != record:
                store._put("run.json", record)
        return store

    @staticmethod
    def open(root: str | Path) -> Store:
        """Open an existing run folder. Raises StoreError when it is none."""
        store = Store(Path(root))
        if not (store.root / "plan.toml").is_file():
            raise StoreError(*store._instead())
        return store

    def _instead(self) -> tuple[str, str]:
        """What a folder without a plan is, and what to do with it."""
        kept = self._read_json("report.json")
        result = kept.get("result") if isinstance(kept, dict) else None
        plan = result.get("plan") if isinstance(result, dict) else None
        if isinstance(plan, dict) and "budget" not in plan:  # as reports.order tells
            return (
                f"{self.root} was written by `actsec diagnose --out`: a checkup, finished, without jobs or plan.toml",
                f"`actsec report {self.root}` renders it again; `actsec diagnose` makes another.",
            )
        if isinstance(result, dict):
            return (
                f"{self.root} holds a report alone, and no plan.toml to go on with",
                f"`actsec report {self.root}` renders it; give the folder that the audit itself wrote.",
            )
        if (self.root / "recipe.toml").is_file():
            return (
                f"{self.root} was written by `actsec defend --save`: a hardened model, not a run",
                f"`actsec audit --model {self.root}` audits it.",
            )
        return f"{self.root} is not a run folder: it holds no plan.toml", "Give the folder an audit wrote."

    @contextlib.contextmanager
    def at_home(self) -> Iterator[Store]:
        """This run in the working directory that its plan's relative paths start from; here where that is gone."""
        known = self._read_json("run.json") or {}
        home = Path(str(known.get("directory") or "."))
        if not home.is_dir() or home.samefile("."):
            yield self
            return
        root = self.root.resolve()
        with contextlib.chdir(home):
            yield Store(root)

    def plan(self) -> Plan:
        """The plan of the run."""
        return read(self.root / "plan.toml")

    def plan_id(self) -> str | None:
        """The id of the plan when the run began; None when that is lost."""
        known = (self._read_json("run.json") or {}).get("plan_id")
        return None if known is None else str(known)

    def part(self) -> str | None:
        """Which part of the plan is run here, such as ``3/16``; None for the whole."""
        known = (self._read_json("run.json") or {}).get("part")
        return None if known is None else str(known)

    def facts(self) -> Facts:
        """What the plan's names stood for when the run began. Raises StoreError when that is lost."""
        known = self._read_json("run.json")
        if known is None or not isinstance(known.get("facts"), dict):
            raise StoreError(
                f"{self.root / 'run.json'} is missing or damaged", "Delete the folder and run the audit again."
            )
        try:
            facts: Facts = _adapter().validate_python(known["facts"])
        except ValueError as problem:  # pydantic's ValidationError is one
            raise StoreError(
                f"{self.root / 'run.json'} does not read: {' '.join(str(problem).split())[:300]}",
                "It was edited, or another actsec wrote it: run the audit again.",
            ) from None
        return facts

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other audits out of the folder, and clear away what a killed one was writing. Raises StoreError."""
        with _explained(self.root):
            lock = (self.root / ".lock").open("ab")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StoreError(
                    f"another audit is working in {self.root}", "Wait for it, stop it, or give another --out."
                ) from None
            for partial in self.root.rglob(".part-*"):
                partial.unlink(missing_ok=True)
            yield

    def put(self, outcome: Outcome, cost: Mapping[str, Any]) -> None:
        """Write an outcome, arrays first. Writing the same outcome again changes nothing.

        Raises StoreError when the folder cannot be written, ValueError for numbers that are not finite.
        """
        record = {"job": outcome.job, "numbers": outcome.numbers, "error": outcome.error}
        _canonical(record)
        with _explained(self.root):
            digest = None
            if outcome.arrays:
                buffer = io.BytesIO()
                # Members in a fixed order and with numpy's fixed time stamps, so that equal arrays are equal bytes.
                np.savez(buffer, **{key: outcome.arrays[key] for key in sorted(outcome.arrays)})  # type: ignore[arg-type]
                content = buffer.getvalue()
                digest = hashlib.sha256(content).hexdigest()
                self._put(f"outcomes/{outcome.job}.npz", content)
            self._put(f"costs/{outcome.job}.json", _canonical(dict(cost)))
            self._put(f"outcomes/{outcome.job}.json", _canonical({**record, "arrays": digest}))

    def get(self, job_id: str, without: Collection[str] = ()) -> Outcome | None:
        """A finished outcome, or None when it is absent or damaged (it is then recomputed).

        ``without`` names arrays that are verified with the rest and left unread.
        """
        found = self._whole(job_id)
        if found is None:
            return None
        record, content = found
        arrays: dict[str, Any] = {}
        if content is not None:
            try:
                arrays = read_arrays(io.BytesIO(content), len(content), without)  # written without compression
            except ValueError:
                return None
        return Outcome(job_id, record["numbers"], arrays, record["error"])

    def files(self, job_id: str) -> dict[str, bytes]:
        """The files of a whole outcome by name, in the order they are to be written; none when it is damaged."""
        found = self._whole(job_id)
        if found is None:
            return {}
        arrays = {} if found[1] is None else {f"outcomes/{job_id}.npz": found[1]}
        with contextlib.suppress(OSError):
            arrays[f"costs/{job_id}.json"] = (self.root / "costs" / f"{job_id}.json").read_bytes()
        return {**arrays, f"outcomes/{job_id}.json": (self.root / "outcomes" / f"{job_id}.json").read_bytes()}

    def put_files(self, files: Mapping[str, bytes]) -> None:
        """Write what ``files`` of another run folder gave. Raises StoreError when the folder cannot be written."""
        with _explained(self.root):
            for name, content in files.items():
                self._put(name, content)

    def done(self, job_id: str) -> bool:
        """Whether the job has a whole outcome that is not an error: errors are tried again on resume."""
        found = self._whole(job_id)
        return found is not None and found[0]["error"] is None

    def damaged(self, job_id: str) -> bool:
        """Whether there are traces of an outcome that does not read back: cut short, changed, or deleted in part."""
        names = (f"outcomes/{job_id}.json", f"outcomes/{job_id}.npz", f"costs/{job_id}.json")
        return self._whole(job_id) is None and any((self.root / name).exists() for name in names)

    def _whole(self, job_id: str) -> tuple[dict[str, Any], bytes | None] | None:
        """The record and the bytes of the arrays, when both are as they were written."""
        record = self._read_json(f"outcomes/{job_id}.json")
        if record is None or record.get("job") != job_id or not {"numbers", "arrays", "error"} <= set(record):
            return None
        if record["arrays"] is None:
            return record, None
        try:
            content = (self.root / "outcomes" / f"{job_id}.npz").read_bytes()
        except OSError:
            return None
        return (record, content) if hashlib.sha256(content).hexdigest() == record["arrays"] else None

    def training(self, job_id: str, number: int) -> Training:
        """Where the state of a job's training is kept while the job runs."""
        return Training(self, f"training/{job_id}-{number}")

    def forget_training(self, job_id: str) -> None:
        """Remove what ``training`` kept: the job's outcome holds the weights."""
        for kept in (self.root / "training").glob(f"{job_id}-*"):
            kept.unlink(missing_ok=True)

    def costs(self) -> dict[str, Any]:
        """Seconds and memory by job id."""
        found = {
            path.stem: self._read_json(f"costs/{path.name}") for path in sorted((self.root / "costs").glob("*.json"))
        }
        return {key: value for key, value in found.items() if value is not None}

    def put_file(self, name: str, content: bytes) -> Path:
        """Write a file of the run folder whole, replacing an older one."""
        with _explained(self.root):
            self._put(name, content)
        return self.root / name

    def _put(self, name: str, content: bytes) -> None:
        path = self.root / name
        handle, temporary = tempfile.mkstemp(prefix=".part-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _read_json(self, name: str) -> dict[str, Any] | None:
        try:
            record = json.loads((self.root / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return record if isinstance(record, dict) else None


@dataclass(slots=True)
class Training:
    """The state of one training in a run folder, its digest first; see types.Checkpoint.

    A state is written whole or not at all, and no more often than every SAVE_SECONDS: an interruption costs at most
    that time, or an epoch where one takes longer.
    """

    store: Store
    name: str
    last: float = field(default_factory=time.monotonic)

    def load(self) -> bytes | None:
        """What was saved last; None where nothing was, or where it is damaged."""
        try:
            content = (self.store.root / self.name).read_bytes()
        except OSError:
            return None
        size = hashlib.sha256().digest_size
        return content[size:] if hashlib.sha256(content[size:]).digest() == content[:size] else None

    def save(self, made: Callable[[], bytes]) -> None:
        """Keep a state in place of the one before. Raises StoreError when the folder cannot be written."""
        if time.monotonic() - self.last < SAVE_SECONDS:
            return
        content = made()
        with _explained(self.store.root):
            (self.store.root / self.name).parent.mkdir(exist_ok=True)
            self.store._put(self.name, hashlib.sha256(content).digest() + content)  # noqa: SLF001  # a part of the store
        self.last = time.monotonic()


@contextlib.contextmanager
def reading(root: str | Path) -> Iterator[None]:
    """For run folders from elsewhere: outcomes whose numbers are not there, or of another kind, are a StoreError."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as problem:
        raise StoreError(
            f"what the run folder {root} holds does not fit together ({type(problem).__name__}: {problem})",
            "It was edited, or another actsec wrote it: run the audit again. If neither is so, it is a bug in actsec.",
        ) from problem


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Facts)


def _canonical(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, allow_nan=False, indent=1) + "\n").encode()


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    changed = [key for key in now if now[key] != before.get(key)]
    return f"its {' and '.join(changed)} changed since" if changed else "its plan differs"


class _explained(contextlib.AbstractContextManager["_explained"]):  # noqa: N801  # reads as a word in a with statement
    """Turns an operating-system error into a StoreError that names the folder and the mend."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if isinstance(problem, OSError):
            raise StoreError(
                f"cannot write the run folder {self.root}: {problem.strerror or problem}",
                "Give an --out that can be written, or free some space; finished jobs are kept.",
            ) from problem
