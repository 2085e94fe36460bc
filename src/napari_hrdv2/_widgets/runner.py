"""Runs a session's jobs in another thread, one at a time."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from napari.qt.threading import create_worker
from napari.utils.notifications import notification_manager
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

_WAIT_ON_CLOSE_S = 3.0
# Signals of a worker, and what hears them.
_SLOTS = {
    "yielded": "_on_yielded",
    "returned": "_on_returned",
    "warned": "_on_warned",
    "finished": "_on_finished",
}


class Job(Protocol):
    """What can be run: a generator, in any thread, and cancelled at its next step."""

    def run(self) -> Generator[Any, None, Any]:
        """Do the work."""

    def cancel(self) -> None:
        """Give up."""

    @property
    def is_cancelled(self) -> bool:
        """Whether it was given up."""


class JobRunner(QObject):
    """Runs jobs in another thread and tells of them in this one.

    Attributes
    ----------
    yielded
        A step is done, with what the job yielded.
    returned
        A job was not cancelled and is done, with what it returned or the exception that ended
        it.
    ended
        There is nothing more to hear of a job, cancelled or not.

    Examples
    --------
    >>> runner = JobRunner(widget)  # doctest: +SKIP
    >>> runner.start(session.look(image))  # doctest: +SKIP
    """

    yielded = Signal(object)
    returned = Signal(object)
    ended = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._job: Job | None = None
        self._worker: Any = None

    @property
    def is_busy(self) -> bool:
        """Whether a job is running, or a cancelled one not yet at its next step."""
        return self._worker is not None

    def start(self, job: Job) -> None:
        """Run a job; none must be running."""
        worker = create_worker(_outcome, job)
        self._job, self._worker = job, worker
        for name, slot in _SLOTS.items():
            getattr(worker, name).connect(getattr(self, slot))
        worker.start()

    def cancel(self) -> None:
        """Stop the job at its next step."""
        if self._job is not None:
            self._job.cancel()
            self._worker.quit()

    def abandon(self) -> None:
        """Stop the job for good, and wait for it as long as nobody notices."""
        worker = self._worker
        if worker is None:
            return
        self.cancel()
        for name, slot in _SLOTS.items():
            with suppress(TypeError, RuntimeError):  # what is being destroyed is disconnected
                getattr(worker, name).disconnect(getattr(self, slot))
        self._worker = self._job = None
        end = time.monotonic() + _WAIT_ON_CLOSE_S
        while worker.is_running and time.monotonic() < end:
            time.sleep(0.01)

    def _on_yielded(self, step: object) -> None:
        if self._job is not None and not self._job.is_cancelled:
            self.yielded.emit(step)

    def _on_returned(self, outcome: object) -> None:
        if self._job is not None and not self._job.is_cancelled:
            self.returned.emit(outcome.error if isinstance(outcome, _Failure) else outcome)

    def _on_warned(self, warning: tuple[Any, ...]) -> None:
        # Napari 0.9.2 means to do this for every worker and fails; it tells nothing twice.
        notification_manager.receive_warning(*warning)

    def _on_finished(self) -> None:
        if self._worker is not None and not self._worker.is_running:
            self._worker = self._job = None
            self.ended.emit()


class _Failure(NamedTuple):
    """An error on its way out of a worker, which takes a bare one it returns for raised."""

    error: Exception


def _outcome(job: Job) -> Generator[Any, None, Any]:
    """Run a job; an error is an outcome too.

    Superqt's workers never finish after a RuntimeError, which is what torch raises.
    """
    try:
        return (yield from job.run())
    except Exception as error:
        return _Failure(error)
