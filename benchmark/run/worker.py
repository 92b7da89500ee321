"""What runs inside a worker process: one stage of a trial at a time.

A worker keeps its upstreams loaded from trial to trial, owns one device, tells its progress over
a loopback datagram socket (nothing to lock, nothing to block on when a worker is killed), and
ends itself when its parent is gone.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmark.contract import Part
from benchmark.errors import BenchError, StorageError, Unavailable
from benchmark.images import decode, encode_png
from benchmark.protocol import Protocol, load_protocol
from benchmark.records.environment import environment
from benchmark.records.record import Environment
from benchmark.records.store import Store
from benchmark.registry import Registry, load_registry
from benchmark.trial import Job, Trial
from benchmark.trial.augment import augment
from benchmark.trial.evaluate import evaluate

if TYPE_CHECKING:
    from benchmark.meter import Progress
    from benchmark.upstream import Upstream


@dataclass(frozen=True)
class Settings:
    """What every worker of a run is given once.

    Attributes:
        threads: torch's CPU threads; part of what makes a result repeatable to the bit.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<n>``, ``mps``.
        port: loopback port that progress is sent to.
    """

    root: str
    results: str
    threads: int
    device: str
    port: int
    parent: int


@dataclass(frozen=True)
class Done:
    """How a stage of a trial ended. ``busy``: another run is at it, ask again later; ``lost``: the
    images it needs are damaged; ``storage``: nothing can be written, so the run must end."""

    status: Literal["ok", "skipped", "failed", "busy", "lost", "storage"]
    reason: str = ""


class _Worker:
    """The state of this process: made by ``start``, used by the tasks below."""

    def __init__(self, settings: Settings) -> None:
        import torch

        self.settings = settings
        self.root = Path(settings.root)
        self.store = Store(Path(settings.results))
        self.protocol: Protocol = load_protocol(self.root)
        self.registry: Registry = load_registry(self.root)
        self.upstreams: dict[str, Upstream] = {}
        self.device = claim_device(settings.device, self.store.folder)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        torch.set_num_threads(settings.threads)

    def upstream(self, name: str) -> Upstream:
        from benchmark.upstream import open_upstream

        if name not in self.upstreams:
            spec = self.protocol.upstream_named(name)
            self.upstreams[name] = open_upstream(name, spec, self.root, self.device)
        return self.upstreams[name]

    def environment(self) -> Environment:
        return environment(self.root, self.device, self.settings.threads)

    def resolve(self, job: Job) -> Trial:
        return job.resolve(self.registry, self.protocol)

    def progress(self, label: str) -> Progress:
        """At most ten datagrams a second; a lost one costs a flicker of a bar."""
        last = 0.0

        def tell(what: str, done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last > 0.1 or done >= total:
                last = now
                with suppress(OSError):
                    message = json.dumps([os.getpid(), label, what, done, total])
                    self.socket.sendto(message.encode(), ("127.0.0.1", self.settings.port))

        return tell


_worker: _Worker | None = None


def start(settings: Settings) -> None:
    """Run once when the process starts."""
    global _worker
    from tqdm import tqdm

    # Its own lock is a system semaphore, which an ended process would leave behind.
    tqdm.set_lock(threading.RLock())
    threading.Thread(target=_end_with_parent, args=(settings.parent,), daemon=True).start()
    os.environ["BENCH_ROOT"] = settings.root
    _worker = _Worker(settings)


def prepare(upstream: str, parts: tuple[Part, ...]) -> Done:
    """Loads the upstream's parts, builds what is cached on disk (features, index) and counts what
    one image costs, with all cores: it belongs to the upstream, so no trial is charged for it."""
    import torch

    from benchmark.upstream.cost import image_tflops

    worker = _running()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        with _faults() as ended:
            opened = worker.upstream(upstream)
            opened.progress = worker.progress(upstream)
            image_tflops(opened)
            for part in parts:
                with suppress(Unavailable):  # the trials that want it will say so
                    opened.load([part])
        return ended[0]
    finally:
        torch.set_num_threads(worker.settings.threads)


def run_augment(job: Job, images_id: str) -> Done:
    """The first stage; leaves ``augment/`` in the folder of the images."""
    worker = _running()
    with _faults() as ended:
        trial = worker.resolve(job)
        _same(trial.images_id, images_id)
        with worker.store.lock(images_id):
            if worker.store.read_augmented(trial.place, decode) is None:
                tell = worker.progress(_label(trial))
                tell("augment", 0, 1)  # the first image may take long: a method trains before it
                made = augment(
                    trial,
                    worker.upstream(trial.upstream),
                    worker.environment(),
                    tell,
                    worker.store.stall_report(images_id),
                )
                worker.store.write_augmented(trial.place, made, encode_png)
    return ended[0]


def run_evaluate(job: Job, trial_id: str, classifier: str, control_id: str) -> Done:
    """The second stage; leaves the row's folder beside ``augment/``."""
    worker = _running()
    with _faults() as ended:
        trial = worker.resolve(job)
        _same(trial.id, trial_id)
        record_id = trial.record_id(classifier)
        with worker.store.lock(record_id):
            if worker.store.read(trial.place, classifier, record_id) is None:
                made = worker.store.read_augmented(trial.place, decode)
                if made is None:
                    return Done("lost", f"{trial.call.label!r}: its images were damaged twice")
                upstream = worker.upstream(trial.upstream)
                tell = worker.progress(_label(trial))
                report = worker.store.stall_report(record_id)
                record, table = evaluate(
                    trial, classifier, made, upstream, control_id, tell, report
                )
                worker.store.write_record(trial.place, record, table)
    return ended[0]


def claim_device(wanted: str, folder: Path) -> str:
    """The device of this process. With ``auto`` each worker takes a GPU that no other worker of
    the machine holds (a lock that the system releases when the process dies), and shares the
    first where all are taken."""
    import torch

    from benchmark.upstream.loading import pick_device

    if wanted != "auto" or not torch.cuda.is_available():
        return pick_device(wanted)
    from filelock import FileLock, Timeout

    for number in range(torch.cuda.device_count()):
        lock = FileLock(folder / ".locks" / f"cuda-{number}.lock")
        with suppress(Timeout):
            lock.acquire(timeout=0)
            _claimed.append(lock)
            return f"cuda:{number}"
    return "cuda:0"


_claimed: list[Any] = []  # held until the process ends


@contextmanager
def _faults() -> Iterator[list[Done]]:
    """Turns what a stage may raise into a ``Done`` that can be sent to the parent."""
    from filelock import Timeout

    ended = [Done("ok")]
    try:
        yield ended
    except Timeout:
        ended[0] = Done("busy")
    except Unavailable as reason:
        ended[0] = Done("skipped", str(reason))
    except StorageError as error:
        ended[0] = Done("storage", str(error))
    except BenchError as error:
        ended[0] = Done("failed", str(error))
    except MemoryError as error:
        ended[0] = Done("failed", f"out of memory: {error}")


def _same(found: str, expected: str) -> None:
    if found != expected:
        raise BenchError("the method, task or data changed while it was running; run it again")


def _label(trial: Trial) -> str:
    return f"{trial.call.label} x {trial.task.name} x split {trial.seeds.split}"


def _running() -> _Worker:
    if _worker is None:
        raise RuntimeError("worker.start was not called in this process")
    return _worker


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
