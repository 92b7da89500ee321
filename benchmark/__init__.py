"""augbench: generate or retrieve? The standing contest of few-shot data augmentation.

What a method file needs is named here; the rest of the package is the harness.
"""

from benchmark.contract import Class, Facts, Images, Params, Provenance, Shots, param
from benchmark.errors import BenchError, BudgetStop, Unavailable
from benchmark.meter import Meter
from benchmark.upstream import Upstream

__version__ = "0.1.0"

__all__ = [
    "BenchError",
    "BudgetStop",
    "Class",
    "Facts",
    "Images",
    "Meter",
    "Params",
    "Provenance",
    "Shots",
    "Unavailable",
    "Upstream",
    "param",
]
