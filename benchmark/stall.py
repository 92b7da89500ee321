"""Ends a method that makes no progress, however it hangs.

Progress is a charge to the meter, a new phase, or an image that is accepted. Nothing else is
limited in time, so a slow machine gives the same result as a fast one.
"""

from __future__ import annotations

import faulthandler
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from benchmark.errors import Stalled

GRACE = 60.0  # seconds between the alarm and the end of the process


class StallGuard:
    """Watches what runs inside ``watching``.

    After ``seconds`` without progress SIGALRM raises ``Stalled`` in the main thread, again every
    second, so that a method that swallows it is hit again. Where that does not help (the method
    sits in a call that holds the interpreter), the process is ended ``grace`` seconds later (up
    to half of that sooner: the hard stop is not set anew at every charge).

    Args:
        seconds: of no progress; infinite: nothing is watched.
        report: file for the stack of a process that is ended; None: it is not ended.
        grace: seconds between the alarm and the end of the process.

    Attributes:
        stalled: whether it rang. A method that swallowed that has still failed.
    """

    def __init__(
        self, seconds: float = math.inf, report: Path | None = None, grace: float = GRACE
    ) -> None:
        self.seconds, self.report, self.grace = seconds, report, grace
        self._last = self._set = -math.inf
        self.stalled = self._watching = False
        self._pauses = 0
        self._file: TextIO | None = None

    def progressed(self) -> None:
        """Says that something was done."""
        self._last = time.monotonic()
        if self.report is not None and self._active and self._last - self._set > self.grace / 2:
            self._set_hard_stop()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """What runs inside must make progress. SIGALRM reaches the main thread alone: elsewhere
        (other threads, Windows) only the hard stop is set.

        Raises:
            Stalled: it made none for too long.
        """
        if math.isinf(self.seconds) or self._watching:
            yield
            return
        with _alarm_rings(self._ring):
            try:
                self._watching = True
                self._start(idle=0.0)
                try:
                    yield
                finally:
                    self._watching = False  # a signal that is on its way is ignored from here on
            finally:
                self._stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What runs inside is the harness' own: it may take as long as it likes, and is no
        progress of the method."""
        idle = time.monotonic() - self._last
        self._pauses += 1
        if self._watching:
            self._stop()
        try:
            yield
        finally:
            self._pauses -= 1
            if self._active:
                self._start(idle)

    @property
    def _active(self) -> bool:
        return self._watching and not self._pauses

    def _start(self, idle: float) -> None:
        """Watches from now on, when there has been no progress for ``idle`` seconds."""
        self._last = time.monotonic() - idle
        if _can_alarm():
            signal.setitimer(signal.ITIMER_REAL, max(self.seconds - idle, 1e-3), 1.0)
        if self.report is not None:
            self._set_hard_stop()

    def _stop(self) -> None:
        if _can_alarm():
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self.report is not None:
            faulthandler.cancel_dump_traceback_later()
            if self._file is not None:
                self._file.close()
                self._file = None
            self.report.unlink(missing_ok=True)

    def _set_hard_stop(self) -> None:
        assert self.report is not None
        if self._file is None:
            self._file = open(self.report, "w")  # stays open: the watchdog writes to it
        self._set = time.monotonic()
        faulthandler.dump_traceback_later(self.seconds + self.grace, exit=True, file=self._file)

    def _ring(self, *_: object) -> None:
        if not self._active:
            return
        idle = time.monotonic() - self._last
        if idle < self.seconds:
            signal.setitimer(signal.ITIMER_REAL, self.seconds - idle, 1.0)
        else:
            self.stalled = True
            raise Stalled(self.seconds)


@contextmanager
def _alarm_rings(ring: Callable[..., None]) -> Iterator[None]:
    """SIGALRM calls ``ring`` inside; whose it was before has it again afterwards, and a timer that
    was running goes on as if it had never stood."""
    if not _can_alarm():
        yield
        return
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    since = time.monotonic()
    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
        if left:
            overdue = 1e-6  # 0 would end the timer
            left = max(left - (time.monotonic() - since), overdue)
            signal.setitimer(signal.ITIMER_REAL, left, interval)


def _can_alarm() -> bool:
    on_main = threading.current_thread() is threading.main_thread()
    return on_main and hasattr(signal, "SIGALRM")
