"""Start-up of the command line: seconds of `bench --help` and `bench list`, and their ratio to an
empty Python process. Target: under 0.4 s each, without importing torch.

    python perf/startup.py [--repeats 7]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def seconds(arguments: list[str], repeats: int) -> float:
    """Median wall-clock seconds of a Python process; the first run, which fills caches, is not
    counted."""
    environment = os.environ | {"BENCH_ROOT": str(ROOT), "PYTHONPATH": str(ROOT)}
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments], check=True, capture_output=True, env=environment
        )
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    empty = seconds(["-c", "pass"], repeats)
    commands = {}
    for command in ("--help", "list"):
        median = seconds(["-m", "benchmark.cli", command], repeats)
        commands[command] = {"seconds": round(median, 3), "ratio": round(median / empty, 1)}
        print(f"bench {command:7} {median:.3f} s   {median / empty:.1f} x an empty Python process")
    print(json.dumps({"startup": commands}))


if __name__ == "__main__":
    main()
