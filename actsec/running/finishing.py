"""From a run folder to its result and reports."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import platform
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from actsec import registry
from actsec.planning import costs
from actsec.planning.jobs import variants
from actsec.planning.plan import Plan
from actsec.result import Result
from actsec.running import restoring
from actsec.running.clock import estimate
from actsec.running.preparing import FIRST_SIGHT, Prepared
from actsec.running.store import Store
from actsec.types import Threat

if TYPE_CHECKING:
    from actsec.reports.load import Report


def finish(prepared: Prepared, store: Store, *, complete: bool, lost: int = 0) -> Result:
    """Assemble the result and write report.json, examples.npz and report.html. A partial run gives a partial report."""
    from actsec.hardening.chains import threads
    from actsec.reports import manifest
    from actsec.reports.load import Report, write
    from actsec.running.conduct import seeded
    from actsec.search.features import echo_eps
    from actsec.target import echo_eps as echoed
    from actsec.verdict.assembling import assemble

    with threads(prepared.plan.threads), seeded(FIRST_SIGHT):
        base = restoring.base_target(prepared.scene, variants(prepared.plan)[0])

    def echo(threat: Threat) -> str:
        if threat.eps is None:
            return "the smallest change that works"
        table = prepared.scene.test.table
        return echoed(threat.eps, base, threat.norm) if table is None else echo_eps(threat.eps, table, threat.norm)

    result, images = assemble(prepared.scene, prepared.facts, store, complete=complete, echo=echo)
    environment = {**_environment(store), "workers_lost": lost}
    environment["passes"] = _passes(prepared, store)
    environment["estimates"] = _prices(prepared, result, environment["training_seconds_per_pass"])
    if prepared.plan.no_examples:
        return _handed_on(Report(result, environment, None, str(store.root)), prepared.plan, store)
    record = {"result": dataclasses.asdict(result), "environment": environment}
    store.put_file("report.json", (json.dumps(record, sort_keys=True, allow_nan=False, indent=1) + "\n").encode())
    if images:
        buffer = io.BytesIO()
        np.savez(buffer, **images)  # type: ignore[arg-type]  # arrays by name
        store.put_file("examples.npz", buffer.getvalue())
    write(Report(result, environment, images or None, str(store.root)), store.root / "report.html", "html")
    store.put_file(manifest.NAME, manifest.text(store.root).encode())
    return result


def _handed_on(whole: Report, plan: Plan, store: Store) -> Result:
    """Write the reports of a run that keeps inputs, paths and names to itself, and the folder that may be handed on."""
    from actsec.reports import manifest
    from actsec.reports.load import to_json, write
    from actsec.reports.redacting import redacted
    from actsec.running.sharing import share

    (store.root / "examples.npz").unlink(missing_ok=True)
    told = redacted(whole)
    store.put_file("report.json", to_json(told).encode())
    write(told, store.root / "report.html", "html")
    share(told, plan, store.root)
    store.put_file(manifest.NAME, manifest.text(store.root).encode())
    return told.result


def _environment(store: Store) -> dict[str, Any]:
    """What differs from run to run: hardware, versions, times. Never part of the result."""
    from importlib.metadata import version

    found = [cost for cost in store.costs().values() if _is_cost(cost)]
    passes = sum(c.get("passes", 0) for c in found)
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "packages": {name: version(name) for name in ("torch", "numpy", "scikit-learn", "scipy")},
        **({"plug-ins": theirs} if (theirs := registry.packages()) else {}),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "job_seconds": round(sum(c["seconds"] for c in found), 1),
        "jobs": len(found),
        "peak_mib": max((c["peak_mib"] for c in found), default=0),
        "seconds_by_kind": _by_kind(found),
        "seconds_by_label": {c["label"]: c["seconds"] for c in found if c["kind"] in ("base", "defend")},
        "seconds_per_pass": sum(c["seconds"] for c in found if c.get("passes")) / passes if passes else None,
        "training_seconds_per_pass": next((c["seconds_per_pass"] for c in found if "seconds_per_pass" in c), None),
        "fixes": {
            c["variant"]: {"seconds": c["seconds"], "latency_ratio": c.get("latency_ratio")}
            for c in found
            if c["kind"] == "defend" and "variant" in c
        },
    }


def _passes(prepared: Prepared, store: Store) -> dict[str, int]:
    """Passes of one image that the attacks took, a backward counting as two, and what they would have at most."""
    found, known = store.costs(), {job.id: job for job in prepared.jobs if job.kind in ("attack", "craft")}
    taken = {job_id: int(cost["passes"]) for job_id, cost in found.items() if cost.get("passes") and job_id in known}
    return {
        "attacks": sum(taken.values()),
        "attacks, had nothing stopped early": round(sum(estimate(prepared, known[job_id]) for job_id in taken)),
    }


def _is_cost(record: dict[str, Any]) -> bool:
    """Whether a cost reads as it was written: one that somebody edited is left out of the times."""
    numbers = [record.get("seconds"), record.get("peak_mib"), record.get("latency_ratio") or 0.0]
    numbers += [record.get(key, 0.0) for key in ("passes", "seconds_per_pass")]
    texts = [record.get("kind"), record.get("label"), record.get("variant", "")]
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(number, (int, float)) and abs(number) < 1e15 for number in numbers
    )


def _prices(prepared: Prepared, result: Result, seconds_per_pass: float | None) -> dict[str, str]:
    """How long the untested defenses would take to fit here, at the speed measured."""
    if seconds_per_pass is None:
        return {}
    on = "" if prepared.scene.splits.train is not None else " for each 10,000 training images"
    passes = {advice.variant: advice.passes for advice in result.advice if advice.label == "not tested"}
    return {name: f"about {costs.words(n * seconds_per_pass)}{on}" for name, n in passes.items() if n}


def _by_kind(found: Iterable[dict[str, Any]]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for cost in found:
        totals[cost["kind"]] = round(totals.get(cost["kind"], 0.0) + cost["seconds"], 1)
    return totals
