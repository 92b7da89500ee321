"""Leaderboards of a few rows."""

from benchmark.leaderboard.board import Board, Contest, Row, Section, order_rows

from benchmark.statistics import Estimate


def gain(value, low, high, splits=5):
    return Estimate(value / 100, low / 100, high / 100, splits, 400)


def row(name, family, value=None, **more):
    given = None if value is None else gain(value, value - 1, value + 1)
    shown = {"accuracy": given and gain(60 + value, 59 + value, 61 + value), "gain": given}
    return Row(name, f"The {name}", family, **shown | more)


def section(*rows, difference=None, task="toy-1shot", classifier="probe"):
    contest = Contest(task, "up", "S", classifier)
    return Section(contest, "Toys", order_rows(rows), difference)


def board(*sections):
    return Board(
        sections,
        date="2026-11-22",
        archived=False,
        records=9,
        scored=9,
        splits=5,
        control="No augmentation",
    )


BOTH = (row("r", "retrieve", 9), row("g", "prompt", 6), row("none", "control", control=True))
