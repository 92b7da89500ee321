"""Every error that augbench raises on purpose.

BenchError                 shown as one message, exit code 2 unless said otherwise
├── ConfigError            bench.toml, a task card or a method's facts are wrong
├── UnknownNameError       no such task, method, upstream, budget, classifier, parameter
├── MissingExtraError      an optional package is needed and not installed
├── DataError              a data or weight file is missing, truncated or not what its card says
├── MethodError            a method broke its contract (the trial fails, exit code 1)
├── RecordError            a stored result does not validate
└── StorageError           the disk is full or a folder cannot be written (exit code 1)

BudgetStop                 not an error: a cap was reached, what was made is kept and scored
Stalled                    a method made no progress for too long (the trial fails)
Unavailable                not an error: a method cannot work on this task, with the reason
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """An error the user can fix; the message says what, where and how."""

    exit_code = 2


class ConfigError(BenchError):
    """A declaration does not validate. ``faults`` holds one line per fault, all of them."""

    def __init__(self, source: object, faults: Iterable[str]) -> None:
        self.source = str(source)
        self.faults = list(faults)
        super().__init__("\n".join(f"{self.source}: {fault}" for fault in self.faults))


class UnknownNameError(BenchError):
    """A name that nothing is registered under; the nearest ones are offered."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(f"unknown {kind} {name!r}{did_you_mean(name, self.known)}")


class MissingExtraError(BenchError):
    """An optional dependency is missing; the message says which extra brings it."""

    def __init__(self, package: str, extra: str, why: str) -> None:
        super().__init__(f"{why} needs the package {package!r}: pip install 'augbench[{extra}]'")


class DataError(BenchError):
    """A file of data or weights is missing, unreadable, or differs from what was declared."""

    exit_code = 1


class MethodError(BenchError):
    """A method yielded what its contract does not allow, nothing at all, or raised."""

    exit_code = 1


class RecordError(BenchError):
    """A result row, prediction table or image ledger does not validate."""


class StorageError(BenchError):
    """Results cannot be written: full disk, missing permission."""

    exit_code = 1


class BudgetStop(BaseException):
    """Raised by the meter at a cap. Not an ``Exception``, so that a method's own
    ``except Exception`` cannot swallow it: the harness catches it, keeps what was yielded
    and scores it."""

    def __init__(self, unit: str, used: float, cap: float) -> None:
        self.unit, self.used, self.cap = unit, used, cap
        super().__init__(f"budget reached: {unit} {used:.6g} of {cap:.6g}")


class Stalled(BaseException):
    """Raised where a method neither charges its meter nor yields for too long. Not an
    ``Exception``, for the reason that ``BudgetStop`` is none. What was made is not scored: how
    much that is would depend on the machine."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"no charge and no image for {seconds:g} seconds")


class Unavailable(Exception):
    """Raised by a method that cannot be run on a task. The trial is recorded as skipped with
    this reason; it is not a failure and not a score."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'? known: a, b, x"``, with the guess only where one is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{guess} known: {', '.join(known) or 'none'}"
