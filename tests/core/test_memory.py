"""Memory at its peak."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_hrdv2.core import memory
from napari_hrdv2.core.memory import peak_memory

MEGABYTE = 10**6


@pytest.mark.skipif(sys.platform != "linux", reason="told by Linux alone")
def test_what_was_freed_counts_and_what_was_there_does_not():
    kept = np.ones(30 * MEGABYTE, np.uint8)
    with peak_memory(torch.device("cpu")) as peak:
        del kept
        passing = np.ones(90 * MEGABYTE, np.uint8)
        del passing
    assert peak.growth is not None
    assert 58 * MEGABYTE < peak.growth < 64 * MEGABYTE
    with peak_memory(torch.device("cpu")) as peak:
        pass
    assert peak.growth is not None
    assert peak.growth < 2 * MEGABYTE


def test_elsewhere_it_is_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "none" / "clear_refs")
    with peak_memory(torch.device("cpu")) as peak:
        pass
    assert peak.growth is None
