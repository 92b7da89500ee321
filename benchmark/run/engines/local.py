"""Worker processes on this machine: one for each GPU, or for each core."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark.run import worker
from benchmark.run.engines import WorkerDied


class LocalEngine:
    """A pool of spawned processes.

    Args:
        workers: how many; None chooses by GPUs, cores and memory.
        device: as ``Settings.device``, for that choice.

    Raises:
        ConfigError: this machine has no such device.
    """

    def __init__(self, workers: int | None = None, device: str = "auto") -> None:
        if device not in ("auto", "cpu"):
            from benchmark.upstream.loading import pick_device

            pick_device(device)
        self._workers = workers or default_workers(device)
        self._pool: Any = None

    @property
    def workers(self) -> int:
        """See ``Engine``."""
        return self._workers

    def start(self, settings: worker.Settings) -> None:
        """See ``Engine``."""
        from pebble import ProcessPool

        os.environ["BENCH_ROOT"] = settings.root
        with _interrupt_blocked():
            self._pool = ProcessPool(
                max_workers=self._workers,
                initializer=worker.start,
                initargs=(settings,),
                context=multiprocessing.get_context("spawn"),
            )
            _ = self._pool.active  # starts threads and processes here, where Ctrl-C is blocked

    def submit(self, function: Callable[..., worker.Done], *arguments: Any) -> Future[worker.Done]:
        """See ``Engine``."""
        from pebble import ProcessExpired

        outer: Future[worker.Done] = Future()

        def finished(inner: Any) -> None:
            if outer.cancelled():
                return
            try:
                outer.set_result(inner.result())
            except ProcessExpired as error:
                outer.set_exception(WorkerDied(f"exit code {error.exitcode}"))
            except BaseException as error:
                outer.set_exception(error)

        self._pool.schedule(function, args=arguments).add_done_callback(finished)
        return outer

    def stop(self) -> None:
        """See ``Engine``."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()


def default_workers(device: str) -> int:
    """One worker per GPU; on a CPU one per core, but no more than one per 3 GiB of memory."""
    import psutil

    if device in ("auto", "cuda") and Path("/proc/driver/nvidia").exists():
        import torch

        if torch.cuda.is_available():
            return torch.cuda.device_count()
    memory = int(psutil.virtual_memory().available // (3 << 30))
    return max(1, min(os.cpu_count() or 1, memory)) if device in ("auto", "cpu") else 1


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
