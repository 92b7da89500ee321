"""The page's table of families against the contract's."""

from typing import get_args

from benchmark.leaderboard.families import FAMILIES, family, order_of

from benchmark.contract import Family


def test_every_family_of_the_contract_is_shown():
    assert set(FAMILIES) == set(get_args(Family))
    assert len({shown.mark for shown in FAMILIES.values()}) == len(FAMILIES)
    assert len({shown.words for shown in FAMILIES.values()}) == len(FAMILIES)


def test_the_sides_of_the_question():
    sides = {name: shown.side for name, shown in FAMILIES.items() if shown.side != "other"}
    diffusion = dict.fromkeys(("prompt", "edit", "personalize"), "generation")
    assert sides == {"retrieve": "retrieval"} | diffusion
    assert [name for name in FAMILIES if not family(name).competes] == ["oracle", "control"]


def test_a_family_that_is_gone_is_shown_last_and_colours_are_those_of_the_style(root):
    assert family("gone").words == "other" and order_of("gone") == len(FAMILIES)
    style = (root / "leaderboard" / "static" / "page.css").read_text()
    assert all(f"  {shown.colour}: #" in style for shown in FAMILIES.values())
