"""Runs what is missing of a plan; the same command again finishes what is left.

A trial that is already recorded is not run.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args
from typing import Protocol as Interface

from benchmark.contract import Part
from benchmark.errors import DataError, StorageError
from benchmark.records.environment import environment
from benchmark.records.record import Record, Status
from benchmark.records.store import Store, StoredRecord
from benchmark.run import worker
from benchmark.run.engines import Engine, WorkerDied
from benchmark.run.plan import Cell
from benchmark.trial import job_of
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
    """Hears what happens, to show it."""

    def planned(self, total: int, found: int) -> None:
        """``found`` of ``total`` rows are there already."""

    def loading(self, what: str) -> None:
        """``what`` is being loaded (an upstream, its parts); "" once all is."""

    def ended(self, left: int) -> None:
        """A stage of a trial (images made, or a classifier trained) ended; ``left`` are left."""

    def progress(self, worker: int, label: str, what: str, done: int, total: int) -> None:
        """A worker process counts (images, steps)."""

    def finished(self, record: Record) -> None:
        """A row was made, or failed."""


def run(
    cells: Sequence[Cell],
    results: Path,
    listener: Listener,
    engine: Engine,
    threads: int = 1,
    device: str = "auto",
) -> Outcome:
    """Runs what is missing.

    Args:
        cells: from ``plan``.
        results: the results folder.
        engine: where; it is started and stopped here.
        threads: CPU threads of each worker. A fixed number keeps results equal to the bit
            however many workers there are.

    Raises:
        StorageError: the results folder cannot be written.
        KeyboardInterrupt: workers are ended; what is finished is kept.
    """
    store = Store(results)
    outcome = Outcome()
    missing = []
    for cell in cells:
        found = store.read(cell.trial.place, cell.classifier, cell.record_id)
        outcome.stored.append(found) if found else missing.append(cell)
    listener.planned(len(cells), len(outcome.stored))
    if missing:
        _Run(store, listener, outcome, missing, engine, threads, device).go()
    return outcome


StageName = Literal["augment", "evaluate"]
Stage = tuple[StageName, Cell]


class _Run:
    """One run over the missing cells.

    A stage is in one of three places: ``queue``, ``flying`` (in a worker), or landed. The images
    of a set are made by the first of the cells that share it; the others wait in ``waiting`` under
    its ``images_id`` and are evaluated when it has landed. A stage that finds another run at work
    on the same images or row (``busy``) goes back to the end of the queue; one that finds its
    images damaged (``lost``) has them made again.
    """

    def __init__(
        self,
        store: Store,
        listener: Listener,
        outcome: Outcome,
        cells: Sequence[Cell],
        engine: Engine,
        threads: int,
        device: str,
    ) -> None:
        self.store, self.listener, self.outcome = store, listener, outcome
        self.engine, self.threads, self.device = engine, threads, device
        self.root = cells[0].trial.root
        self.waiting: dict[str, list[Cell]] = {}
        for cell in cells:
            self.waiting.setdefault(cell.trial.images_id, []).append(cell)
        self.queue: deque[Stage] = deque(("augment", group[0]) for group in self.waiting.values())
        self.flying: dict[Future[worker.Done], Stage] = {}
        self.remade: set[str] = set()
        self.environment = environment(self.root, device, threads)

    def go(self) -> None:
        """Until nothing is left, or Ctrl-C."""
        with _progress_socket() as self.receiver, _interrupts() as self.interrupted:
            try:
                self.engine.start(self._settings())
                self._prepare()
                while self.queue or self.flying:
                    self._launch()
                    for future in self._wait(self.flying):
                        self._land(self.flying.pop(future), future)
            finally:
                self.engine.stop()

    def _settings(self) -> worker.Settings:
        port = self.receiver.getsockname()[1]
        place = (str(self.root), str(self.store.folder))
        return worker.Settings(*place, self.threads, self.device, port, os.getpid())

    def _wait(self, futures: Collection[Future[worker.Done]]) -> set[Future[worker.Done]]:
        """Those that end within a tenth of a second; shows what the workers tell meanwhile."""
        finished, _ = wait(futures, timeout=0.1, return_when=FIRST_COMPLETED)
        with suppress(BlockingIOError):
            while True:
                self.listener.progress(*json.loads(self.receiver.recv(65536)))
        if self.interrupted:
            raise KeyboardInterrupt
        return finished

    def _prepare(self) -> None:
        """Once per upstream, before any trial's clock runs. A part that an upstream lacks is no
        fault: the trials that want it are skipped."""
        parts: dict[str, set[Part]] = {}
        for group in self.waiting.values():
            trial = group[0].trial
            used = parts.setdefault(trial.upstream, {"encoder"})  # by it images are examined
            used.update(trial.call.method.facts.uses)
        for upstream, used in parts.items():
            names = ", ".join(part for part in get_args(Part) if part in used)
            self.listener.loading(f"{upstream}: {names}")
            future = self.engine.submit(worker.prepare, upstream, tuple(sorted(used)))
            while not self._wait([future]):
                pass
            try:
                done = future.result()
            except WorkerDied as error:
                raise DataError(
                    f"upstream {upstream!r}: a worker died loading it: {error}"
                ) from None
            if done.status == "storage":
                raise StorageError(done.reason)
            if done.status not in ("ok", "skipped"):
                raise DataError(f"upstream {upstream!r}: {done.reason}")
        self.listener.loading("")

    def _launch(self) -> None:
        while self.queue and len(self.flying) < self.engine.workers:
            stage, cell = self.queue.popleft()
            job = job_of(cell.trial)
            if stage == "augment":
                future = self.engine.submit(worker.run_augment, job, cell.trial.images_id)
            else:
                names = (cell.trial.id, cell.classifier, cell.control_id)
                future = self.engine.submit(worker.run_evaluate, job, *names)
            self.flying[future] = (stage, cell)

    def _land(self, flown: Stage, future: Future[worker.Done]) -> None:
        stage, cell = flown
        done = self._result(stage, cell, future)
        if done.status == "storage":
            raise StorageError(done.reason)
        if done.status == "busy":
            time.sleep(0.2)
            self.queue.append(flown)
            return
        self.listener.ended(self._left())
        if done.status == "lost" and cell.record_id not in self.remade:
            self.remade.add(cell.record_id)  # once: a disk that damages all it holds is a failure
            self.queue.append(("augment", cell))
        elif done.status != "ok":
            status = done.status if done.status == "skipped" else "failed"
            for lost in self._group(cell) if stage == "augment" else [cell]:
                self._fail(lost, status, done.reason)
        elif stage == "augment":
            self.queue.extendleft(("evaluate", next_) for next_ in reversed(self._group(cell)))
        else:
            self._keep(cell)

    def _left(self) -> int:
        """Stages that have not ended, of trials that wait for their images too."""
        return len(self.queue) + len(self.flying) + sum(map(len, self.waiting.values()))

    def _group(self, cell: Cell) -> list[Cell]:
        """The cells that wait for the images that this one has had made; itself, where they are
        made a second time for it alone."""
        return self.waiting.pop(cell.trial.images_id, [cell])

    def _keep(self, cell: Cell) -> None:
        stored = self.store.read(cell.trial.place, cell.classifier, cell.record_id)
        if stored is None:
            folder = self.store.row_folder(cell.trial.place, cell.classifier, cell.record_id)
            self._fail(cell, "failed", f"{folder}: the record vanished")
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

    def _result(self, stage: StageName, cell: Cell, future: Future[worker.Done]) -> worker.Done:
        """What a stage ended with, an ended or dead worker included."""
        try:
            return future.result()
        except WorkerDied as error:
            made = cell.trial.images_id if stage == "augment" else cell.record_id
            if stack := _read_once(self.store.stall_report(made)):
                seconds = cell.trial.protocol.defaults.stall_seconds
                return worker.Done(
                    "failed",
                    f"method {cell.trial.call.label!r} made no progress for {seconds:g} seconds, "
                    f"heard no alarm, and its process was ended; nothing it made is kept\n{stack}",
                )
            return worker.Done("failed", f"its process died: {error}")
        except Exception as error:  # a fault of the harness: shown, recorded, and the run goes on
            text = "".join(getattr(error, "traceback", None) or [])
            return worker.Done("failed", f"internal error: {type(error).__name__}: {error}\n{text}")


def _read_once(report: Path) -> str:
    """The stack of a process that was ended because it hung; "" where there is none."""
    try:
        return report.read_text()
    except OSError:
        return ""
    finally:
        report.unlink(missing_ok=True)


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
