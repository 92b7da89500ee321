"""The tables of docs/findings.md, from submissions or results folders.

    python perf/findings.py submissions

Per task a row for every method: its paired gain over the control with each classifier, in points
with 95 % intervals, and what it spent; then, for every method that trains the generator, the
paired difference to what it would be without.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.leaderboard.board import format_interval

from benchmark.home import find_root
from benchmark.records.store import read_results
from benchmark.registry import load_registry
from benchmark.statistics import Estimate, MethodSummary, ScoredRow, paired_difference, summarise

# What a method adds to: itself without its training, else the plain prompts.
UNADAPTED = {"da_fusion": "real_guidance", "diff_mix": "real_guidance"}
PLAIN = "prompt_simple"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    asked = parser.parse_args()
    stored = read_results(*asked.folders)
    cells = [
        ScoredRow.of(item.record, item.predictions())
        for item in stored
        if item.record.status in ("ok", "capped")
    ]
    lines = summarise(cells).lines
    for task in sorted({line.task for line in lines}):
        print(f"\n### {task}\n")
        print_task([line for line in lines if line.task == task])
    print("\n### Trained against untrained\n")
    print_trained(cells, lines)


def print_task(lines: list[MethodSummary]) -> None:
    """Methods by their mean gain over the classifiers."""
    registry = load_registry(find_root())
    judges = sorted({line.classifier for line in lines})
    rows: dict[str, dict[str, MethodSummary]] = {}
    for line in lines:
        rows.setdefault(line.method, {})[line.classifier] = line
    heads = ["method", "family", *(f"{judge}: %, gain" for judge in judges)]
    heads += ["rank", "TFLOPs", "flagged"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))

    def merit(found: dict[str, MethodSummary]) -> float:
        return sum(line.gain.value if line.gain else 0.0 for line in found.values())

    for method, found in sorted(rows.items(), key=lambda row: -merit(row[1])):
        record = next(iter(found.values())).records[0]
        family = registry.methods[record.method_name].facts.family
        told = [f"`{method}`", family]
        for judge in judges:
            line = found[judge]
            told.append(f"{100 * line.accuracy.value:.1f}, {gained(line.gain)}")
        told.append(" ".join("–".join(map(str, found[judge].rank or ("",))) for judge in judges))
        told.append(f"{found[judges[0]].tflops:.2f}")
        told.append(str(sum(record.flagged_pairs for record in found[judges[0]].records)))
        print("| " + " | ".join(told) + " |")


def print_trained(cells: list[ScoredRow], lines: list[MethodSummary]) -> None:
    """Paired differences, in points."""
    registry = load_registry(find_root())
    contests = sorted({(line.task, line.classifier) for line in lines})
    known = {(line.task, line.classifier, line.method): line for line in lines}
    heads = ["method", "against", *(" ".join(contest) for contest in contests)]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for method in sorted({line.method for line in lines}):
        name = method.partition("[")[0]
        if registry.methods[name].facts.adaptation == "none":
            continue
        other = UNADAPTED.get(name, PLAIN)
        told = [f"`{method}`", f"`{other}`"]
        for contest in contests:
            first, second = known.get((*contest, method)), known.get((*contest, other))
            told.append(gained(paired_difference(cells, first, second)) if first and second else "")
        print("| " + " | ".join(told) + " |")


def gained(estimate: Estimate | None) -> str:
    """In points, with the interval."""
    if estimate is None:
        return "–"
    value, _, around = format_interval(estimate).partition(" ")
    return f"**{value}** {around}"


if __name__ == "__main__":
    main()
