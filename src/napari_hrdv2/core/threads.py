"""Work that keeps to one thread."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def single_thread() -> AbstractContextManager[object]:
    """Keep the products and loops of the calling thread to itself; others keep theirs.

    What takes milliseconds gains little from further threads, and waits for them many times as
    long while the backbone has all cores.
    """
    limiter: AbstractContextManager[object] = _controller().limit(limits=1)
    return limiter
