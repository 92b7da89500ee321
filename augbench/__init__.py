"""augbench in a notebook: the verbs of the command line, with results as tables.

    import augbench

    found = augbench.run("retrieve_text", "fashion-5shot", splits=[0, 1, 2])
    found.to_pandas()
    augbench.compare("retrieve_text", "prompt_simple", task="fashion-5shot")

Methods, tasks, upstreams and budgets are those of the root: ``$BENCH_ROOT``, else the nearest
parent of the working directory that holds ``bench.toml``, else what is installed. Errors are
``benchmark.BenchError``. A script calls ``run`` under ``if __name__ == "__main__":``, since worker
processes import it again.
"""

from __future__ import annotations

from augbench.results import Comparison, Results, compare, results
from augbench.running import run
from benchmark import __version__

__all__ = ["Comparison", "Results", "__version__", "compare", "results", "run"]
