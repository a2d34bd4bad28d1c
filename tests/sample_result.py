"""Made-up results for the report tests: nothing was run, and the numbers agree with one another only."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from actsec import result as r
from actsec.reports.answers import headline
from actsec.reports.load import Report

CLASSES = tuple(str(i) for i in range(10))
HOSTILE = (
    "</script><script>alert(1)</script>",
    "\x1b[31mred\x1b[0m\x07",
    "\u202egnp.exe\u2066x\u2069",
    "{{7*7}}{% raw %}",
    '"><img src=x onerror=alert(1)>',
    "a|b`c*d_e[f](javascript:alert(1))\n# g",
    "@everyone https://evil.example/x",
    "'; style='background:url(//evil.example)",
    "\u05d0\u05d1\u05d2",
    "plain",
)


def share(k: int, n: int) -> r.Share:
    p, z = k / n, 1.959963984540054
    if k in (0, n):
        low, high = (0.0, 1 - 0.025 ** (1 / n)) if k == 0 else (0.025 ** (1 / n), 1.0)
        return r.Share(k, n, p, low, high)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return r.Share(k, n, p, middle - half, middle + half)


def per_class(total: int, n: int, classes: tuple[str, ...], tilt: int) -> tuple[r.ClassShare, ...]:
    each = n // len(classes)
    rows = []
    for i, name in enumerate(classes):
        k = round(total / n * each) + ((i * 7 + tilt) % 5 - 2) * (1 if 0 < total < n else 0)
        rows.append(r.ClassShare(name, share(min(max(k, 0), each), each)))
    return tuple(rows)


def clean(k: int, n: int, classes: tuple[str, ...] = CLASSES) -> r.Clean:
    rows = per_class(k, n, classes, 1)
    worst = min(rows, key=lambda row: row.share.value)
    return r.Clean(share(k, n), sum(row.share.value for row in rows) / len(rows), rows, worst.name)


def calibration(condition: str, n: int, accuracy: float, confidence: float, bins: int = 15) -> r.Calibration:
    rows, spread = [], 0.16
    weights = [math.exp(-(((i + 0.5) / bins - confidence) ** 2) / (2 * spread**2)) for i in range(bins)]
    for i, weight in enumerate(weights):
        count = round(n * weight / sum(weights))
        if count:
            centre = (i + 0.5) / bins
            rows.append(
                r.Bin(i / bins, (i + 1) / bins, count, centre, min(1.0, max(0.0, centre + accuracy - confidence)))
            )
    gap = sum(b.n * abs(b.accuracy - b.confidence) for b in rows) / sum(b.n for b in rows)
    wrong = round(n * (1 - accuracy))
    return r.Calibration(
        condition,
        n,
        bins,
        gap,
        0.0214,
        0.0312,
        min(1.0, gap * 2.1),
        0.1102,
        0.2331,
        confidence,
        0.911 if wrong else None,
        share(wrong // 2, n),
        tuple(rows),
        max(gap - 0.012, 0.0),
        gap + 0.012,
    )


def attack(text: str, role: str, left: int, correct: int, n: int, **more: Any) -> r.AttackResult:
    base = r.AttackResult(
        text,
        text.partition("(")[0],
        role,
        n,
        share(left, n),
        share(correct - left, correct),
        None,
        "works at a fixed eps",
        0.914 if left < correct else None,
        40.0,
        20.0,
        0,
        0,
        False,
        True,
    )
    return dataclasses.replace(base, **more)


def check(rule: str, title: str, status: str, claim: str, **numbers: Any) -> r.Check:
    advice = "Run an adaptive attack before trusting this." if status in ("red", "warn") else ""
    return r.Check(rule, title, status, claim, numbers, advice, status == "red")  # type: ignore[arg-type]  # fixture


CHECKS = (
    check("ACT-S01", "iterative beats single-step", "ok", "pgd leaves 41 of 1000 correct, fgsm 118", pgd=41, fgsm=118),
    check("ACT-S02", "margin against cross-entropy", "ok", "both losses agree within 3 of 1000", difference=3),
    check("ACT-S03", "unbounded attack reaches 0 %", "ok", "0 of 1000 correct at eps 1", left=0),
    check("ACT-S04", "gradient-free search", "warn", "square search finds 2 that gradients miss", extra=2),
    check("ACT-S05", "random noise", "ok", "noise leaves 925 of 1000 correct", left=925),
    check("ACT-S06", "zero gradients", "ok", "gradients are zero on 0 of 1000 inputs", zero=0.0),
    check("ACT-S07", "doubling the steps", "not_done", "not run at budget quick"),
    check("ACT-S08", "transfer", "not_applicable", "needs a second model"),
)


def curve(correct: int, n: int, eps: float, left: int) -> tuple[r.CurvePoint, ...]:
    rate = math.log(max(correct, 1) / max(left, 0.7)) / eps
    points = []
    for i in range(9):
        at = eps * i / 4
        k = round(correct * math.exp(-rate * at)) if i else correct
        points.append(r.CurvePoint(at, share(k, n), share(max(correct - i * 2, 0), n)))
    return tuple(points)


def linf(left: int, correct: int, n: int, classes: tuple[str, ...] = CLASSES, **more: Any) -> r.ThreatResult:
    base = r.ThreatResult(
        "linf:0.1",
        "linf",
        0.1,
        "0.1 of [0, 1] = 25.5 grey levels",
        share(left, n),
        per_class(left, n, classes, 3),
        (
            attack("fgsm", "single_step", min(left + 77, correct), correct, n, forwards=2.0, backwards=1.0),
            attack("pgd(steps=40)", "iterative", left + 2, correct, n, refused=1),
            attack("pgd(loss=margin, steps=40)", "margin", left + 1, correct, n),
            attack("noise(draws=32)", "noise", correct - 6, correct, n, baseline=True, backwards=0.0),
        ),
        curve(correct, n, 0.1, left),
        CHECKS,
        "clean",
        True,
        "",
    )
    return dataclasses.replace(base, **more)


def minimal(correct: int, n: int, size: float | None, classes: tuple[str, ...] = CLASSES) -> r.ThreatResult:
    rows = (
        attack(
            "carlini_wagner(steps=200)",
            "minimal",
            n - correct and 0,
            correct,
            n,
            median_size=size,
            size_reason="" if size is not None else "fewer than half of the attempts succeeded",
        ),
    )
    return r.ThreatResult(
        "l2",
        "l2",
        None,
        "the smallest L2 change that works",
        share(0, n),
        per_class(0, n, classes, 0),
        rows,
        curve(correct, n, 1.2, 8),
        CHECKS[4:7],
        "clean",
        True,
        "",
    )


def sites(kind: str, dead: float | None) -> tuple[r.SiteHealth, ...]:
    names = ("features.1", "features.4", "features.7", "head.1")
    return tuple(
        r.SiteHealth(
            f"{name}:{i}",
            kind,
            64 << i,
            None if dead is None else min(dead * (i + 1), 1.0),
            None if dead is None else dead * i / 4,
            0.31 - 0.05 * i if kind in ("tanh", "sigmoid") else None,
            0.8 / (i + 1),
            True,
        )
        for i, name in enumerate(names)
    )


def kill(dead: float | None, kind: str) -> r.Kill:
    if dead is None:
        return r.Kill(
            "linf:0.1:kill",
            False,
            f"{kind} cannot be killed",
            0,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            (),
        )
    rows = tuple(
        r.SiteKill(s.name, s.kind, s.units, s.dead or 0.0, min((s.dead or 0) + 0.18, 1), 0.2, 0.02)
        for s in sites(kind, dead)
    )
    return r.Kill(
        "linf:0.1:kill",
        True,
        "",
        200,
        0.184,
        0.161,
        0.207,
        0.011,
        0.062,
        0.31,
        0.02,
        share(121, 200),
        share(3, 200),
        rows,
    )


def nonsense(sure: int, classes: tuple[str, ...], limit: int = 32, pictures: int = 0) -> r.Nonsense:
    """Of 800 nonsense inputs ``sure`` are answered above 90 %; along ``limit`` of 32 rays certainty is the limit."""
    names = ("uniform noise", "gaussian noise", "permuted pixels", "blank")
    kinds = tuple(
        r.NonsenseKind(
            name, 0.7 - i / 20, share(sure // 4, 200), share(sure // 9, 200), 0.91, 0.94 - i / 50, classes[i],
            share(80 + i, 200), 3 * (i == 3),
        )
        for i, name in enumerate(names)
    )  # fmt: skip
    far = r.FarField(
        (1.0, 10.0, 100.0, 1e4, 1e6),
        (0.724, 0.949, 0.999, 1.0, 1.0) if limit else (0.724, 0.61, 0.59, 0.587, 0.587),
        tuple(share(k, 32) for k in ((2, 20, 31, 32, 32) if limit else (2, 0, 0, 0, 0))),
        share(limit, 32),
        share(limit, limit) if limit else None,
        "float64",
    )
    found = tuple(share(k if limit else 0, 10) for k in (0, 4, 10))
    each = tuple(r.FooledClass(c, 0.187 if limit else None, 0.992 if limit else 0.83, 0.11, 0.995) for c in classes)
    fooling = r.Fooling("fooling(steps=30)", 0.99, (0.1, 0.25, 1.0), found, found, each)
    drawn = tuple(r.NonsensePicture(i, names[i % 4], classes[i], 0.999 - i / 100) for i in range(pictures))
    return r.Nonsense(800, share(sure, 800), share(900, 1000), kinds, far, fooling, drawn)


def variant(name: str, correct: int, left: int, n: int = 1000, **more: Any) -> r.Variant:
    mortal = name == "relu"
    classes = more.pop("classes", CLASSES)
    base = r.Variant(
        name,
        f"cnn(activation={name})",
        f"reference:cnn(activation={name})",
        "",
        name,
        name == "relu",
        "",
        "",
        61_706,
        "sha256:" + "ab" * 32,
        {},
        (),
        clean(correct, n, classes),
        (
            calibration("clean", n, correct / n, min(correct / n + 0.03, 0.97)),
            calibration("attacked: pgd(steps=40) at linf:0.1", n, (left + 2) / n, 0.88),
        ),
        (linf(left, correct, n, classes), minimal(correct, n, 0.412, classes)),
        sites(name, 0.06 if mortal else None),
        (),
        (kill(0.06 if mortal else None, name),),
        nonsense=nonsense(166, classes, 0 if name == "tanh" else 32, 6 if mortal else 0),
    )
    return dataclasses.replace(base, **more)


def defended(chain: str, kind: str, correct: int, left: int, claims: str, **more: Any) -> r.Variant:
    made = variant(
        "relu",
        correct,
        left,
        id=f"relu | {chain}",
        title=f"relu | {chain}",
        base="reference:cnn(activation=relu)",
        chain=chain,
        kind=kind,
        claims=claims,
        audited=False,
        classes=more.pop("classes", CLASSES),
        fit={"epochs": 8, "examples": 600, "temperature": 1.62},
    )
    return dataclasses.replace(made, **more)


def comparison(variant: str, metric: str, before: float, after: float, verdict: str) -> r.Comparison:
    gap = after - before
    p = None if metric == "ece" else 0.0003 if abs(gap) > 0.05 else 0.41
    return r.Comparison(variant, "relu", metric, before, after, gap, gap - 0.02, gap + 0.02, 1000, p, verdict)  # type: ignore[arg-type]  # fixture


def told(result: r.Result) -> r.Result:
    """The result with the headline that an audit would have given it."""
    return dataclasses.replace(result, headline=headline(result))


def normal(classes: tuple[str, ...] = CLASSES) -> r.Result:
    return told(_normal(classes))


def _normal(classes: tuple[str, ...]) -> r.Result:
    relu = variant("relu", 931, 41, classes=classes)
    variants = (
        relu,
        variant("leaky_relu", 928, 47, classes=classes),
        variant("gelu", 940, 96, classes=classes),
        variant("tanh", 919, 133, classes=classes),
        defended(
            "temperature",
            "calibration",
            931,
            41,
            "rescales confidence; changes no label",
            classes=classes,
            calibration=(
                calibration("clean", 1000, 0.931, 0.935),
                calibration("attacked: pgd(steps=40) at linf:0.1", 1000, 0.043, 0.71),
            ),
        ),
        defended("swap(to=leaky_relu)", "robustness", 902, 40, "no unit can die", classes=classes),
        defended("adversarial_training", "robustness", 902, 521, "trains on attacked inputs", classes=classes),
    )
    at = "relu | adversarial_training"
    return r.Result(
        r.SCHEMA,
        "0.1.0",
        {"budget": "quick", "seed": 0, "samples": 1000, "threats": ["linf:0.1", "l2"]},
        "sha256:" + "c0ffee" * 10,
        "actsec audit --activations relu,leaky_relu,gelu,tanh --seed 0",
        "complete",
        (),
        "four models, one seed each: differences are between these models, not between activations",
        {
            "name": "reference:cnn(activation=relu)",
            "source": "reference",
            "parameters": 61_706,
            "sha256": "ab" * 32,
            "layers": {"conv": 3, "linear": 1},
        },
        r.Data(
            "digits",
            (1, 8, 8),
            classes,
            (0.0, 1.0),
            16,
            (
                r.SplitInfo("train", 600, dict.fromkeys(classes, 60), "11" * 32),
                r.SplitInfo("calibration", 197, dict.fromkeys(classes, 19), "22" * 32),
                r.SplitInfo("test", 1000, dict.fromkeys(classes, 100), "33" * 32),
            ),
            ("values lie on a grid of 17 levels",),
        ),
        variants,
        (
            comparison(at, "clean_accuracy", 0.931, 0.902, "worse"),
            comparison(at, "robust_accuracy@linf:0.1", 0.041, 0.521, "better"),
            comparison(
                "relu | swap(to=leaky_relu)", "robust_accuracy@linf:0.1", 0.041, 0.040, "no detectable difference"
            ),
            comparison("relu | temperature", "ece", 0.031, 0.006, "better"),
        ),
        (
            r.Advice(
                at,
                "recommended",
                "Worst case rises from 4.1 % to 52.1 % at linf:0.1; untouched falls 2.9 points.",
                "8 epochs, 41 s",
                (
                    comparison(at, "robust_accuracy@linf:0.1", 0.041, 0.521, "better"),
                    comparison(at, "robust_accuracy@l0:1", 0.7, 0.81, "better"),
                    comparison(at, "clean_accuracy", 0.931, 0.902, "worse"),
                    comparison(at, "smallest_change@l2", 0.412, 0.833, "better"),
                    comparison(at, "ece", 0.031, 0.029, "no detectable difference"),
                    comparison(at, "confidence_when_wrong@linf:0.1", 0.911, 0.702, "better"),
                    comparison(at, "dead_units", 0.06, 0.09, "worse"),
                ),
                0.0009,
                118_960,
                0,
            ),
            r.Advice(
                "relu | temperature",
                "calibration only",
                "ECE falls from 0.031 to 0.006; no label changes.",
                "1 s",
                (
                    comparison("relu | temperature", "robust_accuracy@linf:0.1", 0.041, 0.6, "not comparable"),
                    comparison("relu | temperature", "ece", 0.031, 0.006, "better"),
                ),
                1.0,
                197,
                1,
            ),
            r.Advice("relu | swap(to=leaky_relu)", "no detectable effect", "Worst case 4.1 % to 4.0 %.", "1 s"),
        ),
        (
            r.Problem(
                "ACT-D01", "high", "relu", "18.4 % more units can be forced dead at linf:0.1", "Swap and fine-tune."
            ),
            r.Problem("ACT-C02", "medium", "relu", "confident when fooled: 0.914", "Do not gate on confidence."),
        ),
        (
            r.GateResult(
                "robust_accuracy@linf:0.1>=0.3", "relu", 0.041, 0.03, 0.0551, 0.3, "failed", "0.041 lies below 0.3"
            ),
        ),
        ("transfer attack", "doubled iterations"),
        tuple(
            r.Example(
                i,
                "relu",
                "pgd(steps=40)",
                "linf:0.1",
                classes[i],
                classes[i],
                0.98 - i / 50,
                classes[(i + 3) % len(classes)],
                0.93 - i / 40,
                0.1,
            )
            for i in range(min(6, len(classes)))
        ),
        1,
        ("Empirical: an attack not tried may do better.", "One training seed per model."),
    )


def masked() -> r.Result:
    whole = normal()
    red = (
        check("ACT-S04", "gradient-free search", "red", "search fools 214 that gradients miss", extra=214),
        check("ACT-S06", "zero gradients", "red", "gradients are zero on 713 of 1000 inputs", zero=0.713),
        check("ACT-S09", "finite differences", "error", "the probe crashed: division by zero"),
    )
    threat = dataclasses.replace(
        whole.variants[0].threats[0],
        worst_case=share(713, 1000),
        checks=red,
        state="masked",
        believable=False,
        why="gradient-free search fools 214 inputs that gradients miss",
    )
    first = dataclasses.replace(whole.variants[0], threats=(threat, *whole.variants[0].threats[1:]))
    gate = dataclasses.replace(whole.gates[0], outcome="no verdict", why="the number cannot be believed", value=None)
    made = dataclasses.replace(
        whole,
        variants=(first, *whole.variants[1:]),
        gates=(gate,),
        exit_code=3,
    )
    return told(made)


def partial() -> r.Result:
    whole = normal()
    threat = dataclasses.replace(
        linf(41, 931, 1000),
        attacks=(
            attack("fgsm", "single_step", 118, 931, 1000),
            attack("pgd(steps=40)", "iterative", 118, 931, 1000, error="out of memory at shard 3", counts=False),
        ),
        checks=(check("ACT-S01", "iterative beats single-step", "not_done", "no iterative attack finished"),),
        curve=(),
        per_class=(),
        state="unchecked",
    )
    only = dataclasses.replace(
        whole.variants[0],
        threats=(threat,),
        calibration=(),
        sites=(),
        kills=(),
        nonsense=None,
        unresolved=("clamp at features.9",),
    )
    made = dataclasses.replace(
        whole,
        status="partial",
        variants=(only,),
        comparisons=(),
        advice=(),
        problems=(),
        gates=(),
        examples=(),
        not_done=("pgd(steps=40) on linf:0.1", "every defense", "calibration"),
        exit_code=0,
        heading="",
    )
    return told(made)


def hostile() -> r.Result:
    whole = normal(HOSTILE)
    first = dataclasses.replace(
        whole.variants[0],
        title=HOSTILE[0],
        activation=HOSTILE[4],
        notes=HOSTILE,
        unresolved=HOSTILE,
        sites=tuple(dataclasses.replace(s, name=HOSTILE[i]) for i, s in enumerate(whole.variants[0].sites)),
        fit={HOSTILE[0]: HOSTILE[4]},
    )
    return dataclasses.replace(
        whole,
        variants=(first, *whole.variants[1:]),
        headline=HOSTILE,
        heading=HOSTILE[0],
        command=HOSTILE[1],
        model={"name": HOSTILE[3], "source": HOSTILE[5], HOSTILE[4]: HOSTILE[0]},
        limits=HOSTILE,
        not_done=HOSTILE,
        data=dataclasses.replace(whole.data, name=HOSTILE[4], notes=HOSTILE),
        problems=tuple(r.Problem(text, "high", text, text, text) for text in HOSTILE),
        advice=tuple(dataclasses.replace(a, sentence=HOSTILE[4]) for a in whole.advice),
    )


def images(result: r.Result) -> dict[str, np.ndarray[Any, Any]]:
    """Blobs on the data's shape, and the same shifted by +-0.1."""
    m = len(result.examples)
    rows, columns = np.mgrid[0:8, 0:8] / 7
    original = np.stack([[np.exp(-((rows - 0.2 - i / 12) ** 2 + (columns - 0.5) ** 2) * 9)] for i in range(m)])
    sign = np.sign(np.random.default_rng(0).standard_normal(original.shape))
    attacked = np.clip(original + 0.1 * sign, 0, 1)
    noise = np.random.default_rng(1).random((6, 1, 8, 8))
    made = {"original": original, "attacked": attacked, "nonsense": noise}
    return {name: array.astype(np.float32) for name, array in made.items()}


ENVIRONMENT: dict[str, Any] = {
    "started": "2026-01-01T00:00:00Z",
    "seconds": 71.3,
    "device": "cpu",
    "threads": 1,
    "python": "3.11.7",
    "versions": {"torch": "2.14.1", "numpy": "2.3.0"},
    "platform": "linux",
    "fixes": {"relu | adversarial_training": {"seconds": 41.2, "latency_ratio": 1.01}},
}


def report(result: r.Result) -> Report:
    return Report(result, ENVIRONMENT, images(result) if result.examples else None)
