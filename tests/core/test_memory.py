"""Memory at its peak."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from napari_hrdv2.core import memory
from napari_hrdv2.core.memory import peak_memory

MEGABYTE = 10**6


# In a process of its own: what other tests freed, an allocator may hand out again.
WORK = """
import numpy as np, torch
from napari_hrdv2.core.memory import peak_memory

kept = np.ones(30_000_000, np.uint8)
with peak_memory(torch.device("cpu")) as peak:
    del kept
    passing = np.ones(90_000_000, np.uint8)
    del passing
print(peak.growth)
with peak_memory(torch.device("cpu")) as peak:
    pass
print(peak.growth)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="told by Linux alone")
def test_what_was_freed_counts_and_what_was_there_does_not():
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    growth, nothing = map(int, done.stdout.split())
    assert 58 * MEGABYTE < growth < 64 * MEGABYTE
    assert nothing < 2 * MEGABYTE


def test_elsewhere_it_is_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "none" / "clear_refs")
    with peak_memory(torch.device("cpu")) as peak:
        pass
    assert peak.growth is None
