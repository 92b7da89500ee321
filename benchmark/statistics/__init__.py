"""What the results show, and what so few seeds cannot show."""

from benchmark.statistics.estimates import (
    Estimate,
    PairedTest,
    holm,
    interval,
    paired_gain,
    paired_test,
)
from benchmark.statistics.summary import (
    MethodSummary,
    ScoredRow,
    Summary,
    paired_difference,
    summarise,
)
from benchmark.statistics.versions import counted

__all__ = [
    "ScoredRow",
    "Estimate",
    "MethodSummary",
    "PairedTest",
    "Summary",
    "counted",
    "holm",
    "interval",
    "paired_difference",
    "paired_gain",
    "paired_test",
    "summarise",
]
