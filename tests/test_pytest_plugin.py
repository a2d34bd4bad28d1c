"""assert_robust: decided by the interval, k/n and a command in its message; no verdict is a failure of its own kind."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from torch import nn

from actsec.errors import BadOption, ThreatError
from actsec.testing import NotRobust, Undecided, assert_robust

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parent.parent
ARGUMENTS = () if entry_points(group="pytest11", name="actsec") else ("-p", "actsec.pytest_plugin")


class Line(nn.Module):
    """Two classes by the sign of the first feature less 0.5: an example at distance d falls exactly at eps > d."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = 10 * (x[:, 0] - 0.5)
        return torch.stack([-score, score], 1)


class Flat(Line):
    """The same without a gradient: an attack that follows it does nothing, noise works."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.detach()) + 0 * x.sum()


def examples(near, far):
    """``near`` examples at distance 0.05 from the boundary, ``far`` at 0.3, classes alternating."""
    distance = torch.cat([torch.full((near,), 0.05), torch.full((far,), 0.3)])
    y = torch.arange(near + far) % 2
    x = torch.stack([0.5 + (2 * y - 1) * distance, torch.full_like(distance, 0.5)], 1)
    return x, y


def test_it_passes_when_the_interval_lies_above_the_limit():
    share = assert_robust(Line(), examples(50, 150), "fgsm", eps=0.1, at_least=0.6)
    assert (share.k, share.n) == (150, 200)


def test_it_fails_with_k_of_n_the_interval_and_what_to_type():
    with pytest.raises(NotRobust) as caught:
        assert_robust(Line(), examples(150, 50), "fgsm", eps=0.1, at_least=0.6)
    said = str(caught.value)
    assert "50 of 200 still correct (25.0%, 95 % interval 19.5% to 31.4%), 200 before" in said
    assert "at least 60.0%" in said
    assert "actsec.audit(model, (x, y), eps=0.1).report('report.html')" in said


def test_mistakes_before_any_attack_are_named_first():
    x, y = examples(50, 150)
    wrong = torch.cat([y[:80], 1 - y[80:]])
    with pytest.raises(Undecided, match="cannot be told from chance"):
        assert_robust(Line(), (x, wrong), "fgsm", eps=0.1, at_least=0.6)

    class Tenth(Line):
        """The same with eight classes that never win: 40 % is far above chance, and most are wrong."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([super().forward(x), torch.full((len(x), 8), -100.0)], 1)

    with pytest.raises(NotRobust, match="most are wrong untouched: look at normalisation"):
        assert_robust(Tenth(), (x, wrong), "fgsm", eps=0.1, at_least=0.6)


def test_no_verdict_says_how_many_examples_would_decide():
    with pytest.raises(Undecided) as caught:
        assert_robust(Line(), examples(80, 120), "fgsm", eps=0.1, at_least=0.55)
    said = str(caught.value)
    assert "the interval holds the limit" in said
    more = int(said.split("about ")[1].split(maxsplit=1)[0])
    from actsec.verdict.statistics import share

    assert share(round(0.6 * more), more).low >= 0.55
    assert share(round(0.6 * more / 1.1), round(more / 1.1)).low < 0.55


def test_an_attack_that_noise_beats_proves_nothing():
    with pytest.raises(Undecided, match="the attack does not work here"):
        assert_robust(Flat(), examples(150, 50), "fgsm", eps=0.1, at_least=0.6)


def test_a_model_at_chance_has_no_robustness():
    x, y = examples(50, 50)
    with pytest.raises(Undecided, match="chance"):
        assert_robust(Line(), (x, torch.zeros_like(y)), "fgsm", eps=0.1, at_least=0.0)


def test_mistakes_are_explained():
    with pytest.raises(BadOption, match="no share"):
        assert_robust(Line(), examples(1, 1), "fgsm", eps=0.1, at_least=30)
    with pytest.raises(ThreatError, match="needs an eps"):
        assert_robust(Line(), examples(1, 1), "fgsm", at_least=0.3)


def test_a_threat_and_fewer_samples():
    share = assert_robust(Line(), examples(10, 150), "pgd(steps=5)", threat="l2:0.1", samples=100, at_least=0.5)
    assert (share.k, share.n) == (90, 100)


SUITE = """
import torch
from test_model import Line, examples

def test_holds(assert_robust):
    assert_robust(Line(), examples(50, 150), "fgsm", eps=0.1, at_least=0.6)

def test_falls(assert_robust):
    assert_robust(Line(), examples(150, 50), "fgsm", eps=0.1, at_least=0.6)

def test_undecided(assert_robust):
    assert_robust(Line(), examples(80, 120), "fgsm", eps=0.1, at_least=0.55)

def test_other():
    assert 1 == 2
"""


@pytest.fixture
def suite(pytester):
    source = Path(__file__).read_text()
    model = source[source.index("class Line") : source.index("class Flat")]
    data = source[source.index("def examples") : source.index("def test_it_passes")]
    pytester.makepyfile(
        test_model=f"from __future__ import annotations\nimport torch\nfrom torch import nn\n{model}\n{data}"
    )
    pytester.makepyfile(test_suite=SUITE)
    return pytester


def test_the_plugin_counts_no_verdict_apart_and_fails_the_session(suite):
    done = suite.runpytest(*ARGUMENTS, "-p", "no:cacheprovider", "test_suite.py")
    assert done.ret == 1
    counts = done.parseoutcomes()
    assert (counts["passed"], counts["failed"]) == (1, 2)
    done.stdout.fnmatch_lines(["*50 of 200 still correct*", "*to dig: actsec.audit(*"])
    done.stdout.fnmatch_lines(["*NO VERDICT*", "test_suite.py::test_undecided", "*no verdict: the interval holds*"])
    assert "1 no verdict" in done.stdout.str()
    assert "def assert_robust" not in done.stdout.str()


def test_the_letter_and_the_word(suite):
    done = suite.runpytest(*ARGUMENTS, "-v", "-k", "undecided", "test_suite.py")
    assert done.ret == 1
    done.stdout.fnmatch_lines(["*test_undecided NO VERDICT*"])


def test_it_is_registered_and_imports_nothing_heavy():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"actsec": "actsec.pytest_plugin"}
    script = "import sys\nimport actsec.pytest_plugin\nassert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
