"""Runs what is missing of a plan; the same command again finishes what is left.

A trial that is already recorded is not run. A method that ignores its meter is ended from here.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, TimeoutError, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from typing import Protocol as Interface

from benchmark.errors import DataError, StorageError
from benchmark.protocol import BudgetSpec
from benchmark.records.environment import environment
from benchmark.records.record import Record, Status
from benchmark.records.store import Store, StoredRecord
from benchmark.run import worker
from benchmark.run.plan import Cell
from benchmark.trial import Trial, job_of
from benchmark.trial.evaluate import failure


@dataclass
class Outcome:
    """What a run leaves: every row of its plan, found or made.

    Attributes:
        stored: rows with a score.
        failed: rows that failed or were skipped, with their reason.
        made: how many of ``stored`` this run made.
    """

    stored: list[StoredRecord] = field(default_factory=list)
    failed: list[Record] = field(default_factory=list)
    made: int = 0


class Listener(Interface):
    """Told what happens, to show it."""

    def planned(self, total: int, found: int) -> None:
        """``found`` of ``total`` rows are there already."""

    def progress(self, worker: int, label: str, what: str, done: int, total: int) -> None:
        """A worker process counts (images, steps)."""

    def finished(self, record: Record) -> None:
        """A row was made, or failed."""


def run(
    cells: Sequence[Cell],
    results: Path,
    listener: Listener,
    jobs: int | None = None,
    threads: int = 1,
    device: str = "auto",
) -> Outcome:
    """Runs what is missing.

    Args:
        cells: from ``plan``.
        results: the results folder.
        jobs: worker processes; None chooses by GPUs, cores and memory.
        threads: CPU threads of each worker. A fixed number keeps results equal to the bit
            whatever ``jobs`` is.

    Raises:
        StorageError: the results folder cannot be written.
        KeyboardInterrupt: workers are ended; what is finished is kept.
    """
    store = Store(results)
    outcome = Outcome()
    missing = []
    for cell in cells:
        found = store.read(_folder(store, cell.trial), cell.classifier, cell.record_id)
        outcome.stored.append(found) if found else missing.append(cell)
    listener.planned(len(cells), len(outcome.stored))
    if missing:
        count = min(jobs or default_jobs(device), len(missing))
        _Run(store, listener, outcome, missing, count, threads, device).go()
    return outcome


def default_jobs(device: str) -> int:
    """One worker per GPU; on a CPU one per core, but no more than one per 3 GiB of memory."""
    import psutil

    if device in ("auto", "cuda") and Path("/proc/driver/nvidia").exists():
        import torch

        if torch.cuda.is_available():
            return torch.cuda.device_count()
    memory = int(psutil.virtual_memory().available // (3 << 30))
    return max(1, min(os.cpu_count() or 1, memory)) if device in ("auto", "cpu") else 1


Half = tuple[Literal["augment", "classify"], Cell]


class _Run:
    """One run over the missing cells: a queue of halves, at most ``jobs`` of them in flight."""

    def __init__(
        self,
        store: Store,
        listener: Listener,
        outcome: Outcome,
        cells: Sequence[Cell],
        jobs: int,
        threads: int,
        device: str,
    ) -> None:
        self.store, self.listener, self.outcome = store, listener, outcome
        self.jobs, self.threads, self.device = jobs, threads, device
        self.root = cells[0].trial.root
        self.waiting: dict[str, list[Cell]] = {}
        for cell in cells:
            self.waiting.setdefault(cell.trial.id, []).append(cell)
        self.queue: deque[Half] = deque(("augment", group[0]) for group in self.waiting.values())
        self.flying: dict[Any, Half] = {}
        self.environment = environment(self.root, device, threads).model_dump(mode="json")

    def go(self) -> None:
        """Until nothing is left, or Ctrl-C."""
        with _progress_socket() as self.receiver, _interrupts() as self.interrupted:
            self.pool = self._start(self.receiver.getsockname()[1])
            try:
                self._prepare()
                while self.queue or self.flying:
                    self._launch()
                    for future in self._wait(self.flying):
                        self._land(self.flying.pop(future), future)
            finally:
                self.pool.stop()
                self.pool.join()

    def _wait(self, futures: Collection[Any]) -> set[Any]:
        """Those that end within a tenth of a second; shows what the workers tell meanwhile."""
        finished, _ = wait(futures, timeout=0.1, return_when=FIRST_COMPLETED)
        with suppress(BlockingIOError):
            while True:
                self.listener.progress(*json.loads(self.receiver.recv(65536)))
        if self.interrupted:
            raise KeyboardInterrupt
        return finished

    def _start(self, port: int) -> Any:
        from pebble import ProcessPool

        os.environ["BENCH_ROOT"] = str(self.root)
        settings = worker.Settings(
            str(self.root), str(self.store.folder), self.threads, self.device, port, os.getpid()
        )
        with _interrupt_blocked():
            pool = ProcessPool(
                max_workers=self.jobs,
                initializer=worker.start,
                initargs=(settings,),
                context=multiprocessing.get_context("spawn"),
            )
            _ = pool.active  # starts its threads and processes here, where Ctrl-C is blocked
        return pool

    def _prepare(self) -> None:
        """Once per upstream, before any trial's clock runs."""
        parts: dict[str, set[str]] = {}
        for group in self.waiting.values():
            trial = group[0].trial
            parts.setdefault(trial.upstream, set()).update(trial.call.method.facts.uses)
        for upstream, used in parts.items():
            arguments = (upstream, tuple(sorted(used)))
            future = self.pool.schedule(worker.prepare, args=arguments)
            while not self._wait([future]):
                pass
            done = future.result()
            if done.status == "storage":
                raise StorageError(done.reason)
            if done.status != "ok":
                raise DataError(f"upstream {upstream!r}: {done.reason}")

    def _launch(self) -> None:
        while self.queue and len(self.flying) < self.jobs:
            what, cell = self.queue.popleft()
            job, trial = job_of(cell.trial), cell.trial
            if what == "augment":
                future = self.pool.schedule(
                    worker.run_augment, args=(job, trial.id), timeout=sum(_allowed(cell))
                )
            else:
                future = self.pool.schedule(
                    worker.run_classify, args=(job, trial.id, cell.classifier, cell.control_id)
                )
            self.flying[future] = (what, cell)

    def _land(self, half: Half, future: Any) -> None:
        what, cell = half
        done = _result(cell, future)
        if done.status == "storage":
            raise StorageError(done.reason)
        if done.status == "busy":
            time.sleep(0.2)
            self.queue.append(half)
        elif done.status != "ok":
            cells = self.waiting[cell.trial.id] if what == "augment" else [cell]
            for lost in cells:
                self._fail(lost, done.status, done.reason)
        elif what == "augment":
            self.queue.extendleft(("classify", judged) for judged in self.waiting[cell.trial.id])
        else:
            self._keep(cell)

    def _keep(self, cell: Cell) -> None:
        folder = _folder(self.store, cell.trial)
        stored = self.store.read(folder, cell.classifier, cell.record_id)
        if stored is None:
            self._fail(cell, "failed", f"{folder / cell.classifier}: the record vanished")
            return
        self.outcome.stored.append(stored)
        self.outcome.made += 1
        self.listener.finished(stored.record)

    def _fail(self, cell: Cell, status: Status, reason: str) -> None:
        record = failure(
            cell.trial, cell.classifier, cell.control_id, status, reason, self.environment
        )
        self.store.write_failure(record)
        self.outcome.failed.append(record)
        self.listener.finished(record)


def _result(cell: Cell, future: Any) -> worker.Done:
    """What a half ended with, an ended or dead process included."""
    from pebble import ProcessExpired

    try:
        done: worker.Done = future.result()
        return done
    except TimeoutError:
        seconds, grace = _allowed(cell)
        return worker.Done(
            "failed",
            f"method {cell.trial.call.label!r} ignored its budget of {seconds:g} seconds "
            f"and was ended {grace:g} seconds later; nothing it made is kept",
        )
    except ProcessExpired as error:
        return worker.Done("failed", f"its process died with exit code {error.exitcode}")
    except Exception as error:  # a fault of the harness: shown, recorded, and the run goes on
        text = "".join(getattr(error, "traceback", None) or [])
        return worker.Done("failed", f"internal error: {type(error).__name__}: {error}\n{text}")


def _allowed(cell: Cell) -> tuple[float, float]:
    """Seconds of the budget, and of grace."""
    protocol = cell.trial.protocol
    budget: BudgetSpec = protocol.budget_named(cell.trial.budget)
    return budget.seconds, protocol.defaults.grace_seconds


def _folder(store: Store, trial: Trial) -> Path:
    return store.trial_folder(trial.task.name, trial.call.label, trial.id)


@contextmanager
def _progress_socket() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        yield receiver


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM to be looked at between two steps. Raised wherever they come,
    they are lost where Python ignores exceptions (in callbacks of imports and of the collector);
    a second one is raised at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def receive(number: int, _: object) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _interrupt_blocked() -> Iterator[None]:
    """Threads and processes started inside inherit a blocked SIGINT: Ctrl-C reaches this
    process alone, which then ends its workers in order."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
