"""Every command of the README and the documentation is run, block after block, as it stands there.

A page's ``bash`` blocks run in order in one folder, which holds what a reader has: nets.py, w.safetensors, data and a
finished run. Blocks of another language with a title are written to the file of that name before. A comment before a
block says what is particular about it::

    <!-- slow -->             run by the slow tests alone
    <!-- exit 1 -->           the exit code that the block ends with, and should
    <!-- not run: why -->     it needs what a test has not: counted and listed below
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import ENVIRONMENT, ROOT
from safetensors.torch import save_file
from warm import commands

FENCE = re.compile(
    r'(?P<said>(?:^[ ]*<!--.*?-->\n+)*)^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
SHELL = {"bash", "sh", "shell", "console"}
NOT_RUN = {
    "README.md": 2,
    "docs/command_line.md": 2,
    "docs/running.md": 2,
    "docs/offline.md": 3,
    "docs/plugins.md": 1,
    "docs/tutorial.md": 1,
}
"""How many blocks of a page are not run. Each gives its reason where it stands."""
NETS = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
"""
PLAN = """
model = "nets.py:make"
weights = "w.safetensors"
data = "test.npz"
eps = 0.1
samples = 40
defenses = []
corruptions = []
attacks = ["fgsm", "pgd(steps=3)", "noise(draws=2)"]
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands and what the comments before it say."""

    page: str
    line: int
    language: str
    title: str
    text: str
    said: str

    @property
    def slow(self) -> bool:
        return "<!-- slow -->" in self.said

    @property
    def reason(self) -> str:
        found = re.search(r"<!-- not run: (.+?) -->", self.said, re.DOTALL)
        return found[1] if found else ""

    @property
    def exit_code(self) -> int:
        found = re.search(r"<!-- exit (\d+) -->", self.said)
        return int(found[1]) if found else 0

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    return [
        Block(
            page,
            text[: found.start("language")].count("\n") + 1,
            found["language"],
            found["title"] or "",
            found["text"],
            found["said"],
        )
        for found in FENCE.finditer(text)
    ]


PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
SHELLED = [page for page in PAGES if any(block.language in SHELL for block in blocks(page))]
SLOW = [page for page in SHELLED if any(block.slow and not block.reason for block in blocks(page))]


@pytest.fixture(scope="session")
def path() -> str:
    """PATH with an ``actsec`` that need not import torch first."""
    with commands() as programs:
        yield f"{programs}:{ENVIRONMENT['PATH']}"


@pytest.fixture(scope="session")
def yours(path, tmp_path_factory) -> Path:
    """What a reader has: a trained model, its data, a plan, two finished runs of it and a hardened folder."""
    from actsec.data import load

    place = tmp_path_factory.mktemp("yours")
    digits = load("digits")
    x, y = torch.from_numpy(digits.train.x), torch.from_numpy(digits.train.y)
    torch.manual_seed(0)
    network: dict[str, object] = {}
    exec(NETS, network)  # noqa: S102  # the file that is written below
    model = network["make"]()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    (place / "nets.py").write_text(NETS)
    (place / "plan.toml").write_text(PLAN)
    save_file(model.state_dict(), place / "w.safetensors")
    np.savez(place / "train.npz", x=digits.train.x[:300], y=digits.train.y[:300])
    np.savez(place / "cal.npz", x=digits.train.x[300:400], y=digits.train.y[300:400])
    np.savez(place / "test.npz", x=digits.test.x[:120], y=digits.test.y[:120])
    shell(
        "actsec audit plan.toml --out runs/main --quiet; cp -r runs/main runs/mine; cp -r runs/main runs/candidate\n"
        "actsec defend temperature --model nets.py:make --weights w.safetensors --calibration cal.npz --save hardened/",
        place,
        path,
    )
    return place


def shell(text: str, place: Path, path: str, code: int = 0) -> None:
    command = ["bash", "-e", "-u", "-o", "pipefail", "-c", text]
    environment = {**ENVIRONMENT, "PATH": path}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    said = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert done.returncode == code, f"{text}\nends with {done.returncode}, not {code}:\n{said}"


def play(page: str, place: Path, path: str, *, slow: bool) -> int:
    """Run a page's blocks in order; how many were run."""
    count = 0
    for block in blocks(page):
        if block.title:
            file = place / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
        elif block.language in SHELL and not block.reason and (slow or not block.slow):
            shell(block.text, place, path, block.exit_code)
            count += 1
    return count


def folder_of(page: str, yours: Path, tmp_path: Path) -> Path:
    """What the reader of a page begins with: the tutorial's has nothing."""
    if page == "docs/tutorial.md":
        return tmp_path
    place = Path(shutil.copytree(yours, tmp_path / "yours"))
    if page == "README.md":  # it makes its own
        shutil.rmtree(place / "hardened")
    return place


@pytest.mark.parametrize("page", SHELLED)
def test_the_commands_of_a_page_run(page, yours, path, tmp_path):
    wanted = sum(block.language in SHELL and not block.reason and not block.slow for block in blocks(page))
    assert play(page, folder_of(page, yours, tmp_path), path, slow=False) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_the_slow_commands_of_a_page_run_too(page, yours, path, tmp_path):
    assert play(page, folder_of(page, yours, tmp_path), path, slow=True) > 0


def test_what_is_not_run_is_counted_and_says_why(capsys):
    left = [block for page in SHELLED for block in blocks(page) if block.language in SHELL and block.reason]
    with capsys.disabled():
        print("".join(f"\nnot run: {block}: {block.reason}" for block in left))  # noqa: T201  # the list is the point
    assert {page: sum(block.page == page for block in left) for page in {block.page for block in left}} == NOT_RUN
    assert all(len(block.reason) > 20 for block in left)


def test_no_command_hides_in_a_block_that_is_not_looked_at():
    """A line that begins with actsec in a block of no language would never be run."""
    for page in PAGES:
        for block in blocks(page):
            if block.language in ("", "text"):
                assert not re.search(r"^(\$ )?(actsec|pip|python3?) ", block.text, re.MULTILINE), block


def test_the_comparison_with_peers_says_what_was_measured():
    """Every time and every count of fallen images stands in the benchmark's tables, word for word."""
    page = (ROOT / "docs" / "comparison.md").read_text()
    measured = page[page.index("## What was measured") : page.index("Where we miss")]
    tables = (ROOT / "benchmarks" / "results" / "table.md").read_text()
    cells = {cell for line in tables.splitlines() for cell in re.split(r"[| ]+", line)}
    times = re.findall(r"([\d.]+) s\b", "".join(line for line in measured.splitlines() if line.startswith("|")))
    assert len(times) > 10
    assert set(times) <= cells
    for k, n in ((97, 128), (103, 128), (98, 128), (85, 128), (94, 128), (256, 256), (63, 64)):
        assert f"({k}/{n})" in tables


def test_blocks_are_found_with_what_is_said_of_them(tmp_path, monkeypatch):
    text = (
        "# A\n<!-- slow -->\n<!-- exit 3 -->\n```bash\na\n```\n\n"
        '```python title="n.py"\nb\n```\n<!-- not run: no -->\n\n```bash\nc\n```\n'
    )
    (tmp_path / "page.md").write_text(text)
    monkeypatch.setattr("test_docs.ROOT", tmp_path)
    first, second, third = blocks("page.md")
    assert (first.slow, first.exit_code, first.text, first.line) == (True, 3, "a\n", 4)
    assert (second.title, second.language) == ("n.py", "python")
    assert (third.reason, third.slow) == ("no", False)
