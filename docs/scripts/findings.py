"""Print the tables of docs/findings.md from submissions or results folders.

    python docs/scripts/findings.py submissions

For every task, one row per method: its paired gain over the control with each classifier, in
points with 95 % intervals, and what it spent. Then, for every method that trains the generator,
the paired difference to the same method without training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.leaderboard.board import format_interval

from benchmark.home import find_root
from benchmark.records.store import read_results
from benchmark.registry import load_registry
from benchmark.statistics import Estimate, MethodSummary, ScoredRow, paired_difference, summarise

# The same method without training, where it is not plain prompting.
UNTRAINED = {"da_fusion": "real_guidance", "diff_mix": "real_guidance"}
PLAIN = "prompt_simple"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    stored = read_results(*parser.parse_args().folders)
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
    """Methods of one task, by their mean gain over the classifiers."""
    registry = load_registry(find_root())
    classifiers = sorted({line.classifier for line in lines})
    rows: dict[str, dict[str, MethodSummary]] = {}
    for line in lines:
        rows.setdefault(line.method, {})[line.classifier] = line
    heads = ["method", "family", *(f"{name}: %, gain" for name in classifiers)]
    heads += ["rank", "TFLOPs", "flagged"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))

    def total_gain(row: dict[str, MethodSummary]) -> float:
        return sum(line.gain.value if line.gain else 0.0 for line in row.values())

    for method, row in sorted(rows.items(), key=lambda item: -total_gain(item[1])):
        ordered = [row[name] for name in classifiers]
        first = ordered[0]
        family = registry.methods[first.records[0].method_name].facts.family
        texts = [f"`{method}`", family]
        texts += [f"{100 * line.accuracy.value:.1f}, {in_points(line.gain)}" for line in ordered]
        texts.append(" ".join("–".join(map(str, line.rank or ("",))) for line in ordered))
        texts.append(f"{first.tflops:.2f}")
        texts.append(str(sum(record.flagged_pairs for record in first.records)))
        print("| " + " | ".join(texts) + " |")


def print_trained(cells: list[ScoredRow], lines: list[MethodSummary]) -> None:
    """Paired differences of trained methods to untrained ones, in points."""
    registry = load_registry(find_root())
    contests = sorted({(line.task, line.classifier) for line in lines})
    by_key = {(line.task, line.classifier, line.method): line for line in lines}
    heads = ["method", "against", *(" ".join(contest) for contest in contests)]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for method in sorted({line.method for line in lines}):
        name = method.partition("[")[0]
        if registry.methods[name].facts.adaptation == "none":
            continue
        other = UNTRAINED.get(name, PLAIN)
        texts = [f"`{method}`", f"`{other}`"]
        for contest in contests:
            pair = by_key.get((*contest, method)), by_key.get((*contest, other))
            texts.append(in_points(paired_difference(cells, *pair)) if all(pair) else "")
        print("| " + " | ".join(texts) + " |")


def in_points(estimate: Estimate | None) -> str:
    """An estimate in points, with its interval."""
    if estimate is None:
        return "–"
    value, _, around = format_interval(estimate).partition(" ")
    return f"**{value}** {around}"


if __name__ == "__main__":
    main()
