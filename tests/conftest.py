from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from runs import TINY

torch.set_num_threads(1)  # several tests run at once
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would the audits that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """The tiny plan as a file."""
    path = tmp_path_factory.mktemp("plan") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory) -> Path:
    """The folder of the tiny plan, run to its end in this process. Tests copy it before they change it."""
    from actsec.planning import reading
    from actsec.running import runner

    folder = tmp_path_factory.mktemp("run") / "tiny"
    runner.audit(reading.read(tiny), folder, executor="serial")
    return folder
