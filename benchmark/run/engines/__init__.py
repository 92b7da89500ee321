"""Where the stages of trials run: behind one small interface, so that the scheduler knows neither
processes nor machines."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from benchmark.run.worker import Done, Settings


class Engine(Protocol):
    """A set of workers. Each runs one function at a time and keeps its upstreams loaded."""

    @property
    def workers(self) -> int:
        """How many functions may run at once."""
        ...

    def start(self, settings: Settings) -> None:
        """Makes the workers; ``benchmark.run.worker.start(settings)`` is run in each."""
        ...

    def submit(self, function: Callable[..., Done], *arguments: Any) -> Future[Done]:
        """Runs a function of ``benchmark.run.worker`` in a free worker. The future raises
        ``WorkerDied`` where its worker ended before the function did; another takes its place."""
        ...

    def stop(self) -> None:
        """Ends all workers at once, whatever they are doing."""
        ...


class WorkerDied(Exception):
    """A worker process ended while it ran a function: killed, out of memory, or crashed."""
