"""How much memory this process takes."""

from __future__ import annotations

import re
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# What Linux takes for: forget the peak.
_RESET_PEAK = "5"


def is_measurable() -> bool:
    """Whether this system tells; Linux does."""
    return _CLEAR.exists()


def resident(what: str) -> float:
    """Resident memory of this process in bytes: ``VmRSS`` now, ``VmHWM`` at its peak.

    Parameters
    ----------
    what
        Name of the entry in ``/proc/self/status``.
    """
    found = re.search(rf"{what}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None
    return 1024 * float(found[1])


def reset_peak() -> None:
    """Count the peak from now on."""
    _CLEAR.write_text(_RESET_PEAK)
