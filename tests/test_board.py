"""What the page says: verdicts from intervals, and the order of rows."""

import pytest
from benchmark.leaderboard.board import Note, order_rows

from tests.helpers.boards import BOTH, board, gain, row, section


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (gain(3.1, 1.2, 5.0), "Retrieval leads generation by +3.1 points [+1.2, +5.0] over 5"),
        (gain(-3.1, -5.0, -1.2), "Generation leads retrieval by +3.1 points [+1.2, +5.0] over 5"),
        (gain(0.4, -0.5, 1.3), "Nothing can be said yet on toy-1shot (budget S, probe)"),
        (gain(3.1, 1.2, 5.0, splits=1), "one split says nothing of others"),
        (gain(0.0, 0.0, 0.0), "the interval holds zero"),
    ],
)
def test_the_headline_follows_the_interval(difference, words):
    assert words in board(section(*BOTH, difference=difference)).headline


def test_the_winner_is_named_first():
    lost = section(*BOTH, difference=gain(-3, -4, -2))
    assert lost.verdict.startswith(
        "Generation leads: The g against The r, +3.0 points [+2.0, +4.0]"
    )
    won = section(*BOTH, difference=gain(3, 2, 4))
    assert won.verdict.startswith("Retrieval leads: The r against The g, +3.0 points [+2.0, +4.0]")


@pytest.mark.parametrize(
    ("wins", "losses", "opens", "headline"),
    [
        (2, 0, 0, "Retrieval leads generation in all 2 contests, by 3.0 points."),
        (0, 2, 1, "Generation leads retrieval in 2 of 3 contests, by 4.0 points; 1 is undecided."),
        (2, 1, 0, "Retrieval leads generation in 2 of 3 contests, by 3.0 points; "
                  "generation leads in 1."),
        (1, 1, 2, "Neither side leads: each wins 1 of 4 contests; 2 are undecided."),
        (0, 0, 2, "Nothing can be said yet: no side leads in any of 2 contests."),
    ],
)  # fmt: skip
def test_the_headline_counts_contests(wins, losses, opens, headline):
    differences = [gain(3, 2, 4)] * wins + [gain(-4, -5, -3)] * losses + [gain(0, -1, 1)] * opens
    assert board(*(section(*BOTH, difference=each) for each in differences)).headline == headline


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([BOTH[0], BOTH[2]], "no diffusion method has a gain"),
        ([BOTH[1], BOTH[2]], "no retrieval method has a gain"),
        ([BOTH[2]], "no retrieval and no diffusion method has a gain"),
        ([BOTH[0], row("g", "prompt", notes=(Note("failed", "x", (0,)),))], "no diffusion method"),
        (BOTH, "The r and The g share no split"),
    ],
)
def test_a_missing_side_is_told(rows, words):
    told = board(section(*rows))
    assert told.headline.startswith("No contest yet") and words in told.headline


def test_only_methods_that_compete_are_level_with_the_leader():
    rows = order_rows(
        [
            row("ceiling", "oracle", 20),
            row("best", "edit", 9),
            row("near", "retrieve", 7.5),
            row("far", "prompt", 3),
            row("lost", "hybrid"),
        ]
    )
    assert [each.method for each in rows] == ["ceiling", "best", "near", "far", "lost"]
    assert [each.method for each in rows if each.level] == ["best", "near"]
