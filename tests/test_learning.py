"""Personalization learns: images that no method saw are denoised better under the condition that
was made for their class than under another class's, and better than before."""

from __future__ import annotations

import pytest

from benchmark.data.split import load_split
from benchmark.home import find_root
from benchmark.registry import load_registry
from benchmark.upstream import open_upstream
from docs.scripts.adaptation import held_out
from tests.helpers.trials import budget, of_classes
from tests.helpers.upstreams import small_spec

ROOT = find_root()
REGISTRY = load_registry(ROOT)
TRAINED = sorted(
    name for name, method in REGISTRY.methods.items() if method.facts.adaptation != "none"
)


@pytest.fixture(scope="module")
def upstream():
    return open_upstream("small", small_spec(ROOT, generator={"batch_size": 64}), ROOT, "cpu")


def shots(task: str, classes: range):
    whole = load_split(REGISTRY.task(task), 0, ROOT).as_shots(with_unused=True)
    return of_classes(whole, classes)


@pytest.mark.parametrize("name", TRAINED)
def test_held_out_images_follow_their_own_condition(name, upstream):
    """Of clothes each class is asked for by one prompt: what a class was given is compared with
    what another class was given."""
    call = REGISTRY.call(f"{name}[fit_steps=10,steps=2]")
    got = held_out(call, shots("fashion-5shot", range(3)), upstream, budget(2), per_class=4)
    assert got.own < got.other, "the conditions of the classes are alike, or exchanged"


@pytest.mark.parametrize("name", TRAINED)
def test_held_out_images_are_denoised_better_than_before(name, upstream):
    """Hearts, happy and unhappy faces of a design that the generator never saw."""
    call = REGISTRY.call(f"{name}[fit_steps=20,steps=2]")
    got = held_out(call, shots("openmoji-5shot", range(17, 20)), upstream, budget(2), per_class=4)
    assert got.own < got.plain, "worse than the untrained generator under the class prompt"
