"""Budgets: compute is a multiple of plain generation, whatever the task and the upstream."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark.data.card import ClassCard, Task
from benchmark.errors import Unavailable
from benchmark.meter import Budget, Meter
from benchmark.protocol import Protocol, load_protocol
from benchmark.records.record import Record
from benchmark.registry import Registry, load_registry
from benchmark.trial import Seeds, Trial
from benchmark.trial.augment import budget_of
from benchmark.upstream import Upstream, open_upstream
from benchmark.upstream.cost import image_tflops
from tests.helpers import roots, trials
from tests.helpers.runs import plan_in, run_in


@pytest.fixture(scope="module")
def protocol(root: Path) -> Protocol:
    return load_protocol(root)


@pytest.fixture(scope="module")
def registry(root: Path) -> Registry:
    return load_registry(root)


@pytest.fixture(scope="module")
def pocket(root: Path, protocol: Protocol) -> Upstream:
    return open_upstream("pocket", protocol.upstream_named("pocket"), root, "cpu")


def bare(upstream: Upstream, *parts: str) -> Upstream:
    """The same without some parts."""
    spec = upstream.spec.model_copy(update=dict.fromkeys(parts))
    return Upstream("bare", spec, upstream.root, upstream.device)


def of_many_classes(task: Task, count: int) -> Task:
    classes = [ClassCard(label=label, name=f"thing {label}") for label in range(count)]
    return replace(task, card=task.card.model_copy(update={"classes": classes}))


# --- tiers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["S", "M", "L"])
@pytest.mark.parametrize(
    ("name", "classes"), [("fashion-5shot", None), ("flags-1shot", None), ("fashion-5shot", 200)]
)
def test_a_tier_is_the_same_multiple_for_every_task(
    registry, protocol, pocket, tier, name, classes
):
    task = registry.task(name)
    if classes:
        task = of_many_classes(task, classes)
    call, root = registry.call("prompt_simple"), registry.root
    budget = budget_of(Trial(task, call, "pocket", tier, Seeds(0), protocol, root), pocket)
    images = protocol.budget_named(tier).images_per_class
    plain = images * len(task.classes) * image_tflops(pocket)
    assert budget.images_per_class == images
    assert budget.tflops / plain == pytest.approx(protocol.budget_named("S").compute, rel=1e-12)


def test_one_plain_image_costs_what_the_simplest_method_is_charged(root, registry, pocket):
    method = registry.method("prompt_simple")
    shots = trials.of_classes(trials.fashion(root), range(1))
    meter = Meter(Budget(1), 1)
    with pocket.metered(meter):
        made = list(method.augment(shots, pocket, meter, np.random.default_rng(0), method.params()))
    assert sum(len(images.pixels) for images in made) == 1
    assert meter.total().tflops == pytest.approx(image_tflops(pocket), rel=1e-9)


# --- what an upstream lacks ---------------------------------------------------------------------


def test_without_a_generator_there_is_no_cap(registry, protocol, pocket):
    call, root = registry.call("retrieve_text"), registry.root
    task = registry.task("fashion-5shot")
    trial = Trial(task, call, "pocket", "S", Seeds(0), protocol, root)
    upstream = bare(pocket, "generator")
    assert image_tflops(upstream) is None
    assert budget_of(trial, upstream) == Budget(protocol.budget_named("S").images_per_class)
    assert budget_of(trial, upstream).tflops == math.inf


@pytest.mark.parametrize(
    ("part", "ask"),
    [
        ("generator", lambda upstream: upstream.generator),
        ("generator", lambda upstream: upstream.load(("encoder", "generator"))),
        ("corpus", lambda upstream: upstream.corpus),
        ("corpus", lambda upstream: upstream.load(("corpus",))),
        ("corpus", lambda upstream: upstream.index),
        ("corpus", lambda upstream: upstream.features),
    ],
)
def test_a_part_that_is_not_there_is_named(pocket, part, ask):
    with pytest.raises(Unavailable, match=f"^upstream 'bare' has no {part}$"):
        ask(bare(pocket, part))


# --- what is kept of the count ------------------------------------------------------------------


@pytest.fixture
def kept(own_cache, pocket) -> tuple[float, Path]:
    """What an image costs, and the file that keeps it."""
    value = image_tflops(pocket)
    (path,) = (own_cache / "image-tflops").iterdir()
    return value, path


def test_a_count_is_kept(kept, pocket):
    value, path = kept
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert image_tflops(bare(pocket, "corpus")) == value > 0
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    "forge",
    [
        lambda value, check: json.dumps([value * 10, check]),
        lambda value, check: json.dumps([value * (1 + 1e-15), check]),
        lambda value, check: json.dumps([value]),
        lambda value, check: json.dumps([value, check, check]),
        lambda value, check: json.dumps({"value": value, "check": check}),
        lambda value, check: json.dumps([None, check]),
        lambda value, check: str(value),
        lambda value, check: "[NaN, null]",
        lambda value, check: "[" * 100_000,
        lambda value, check: json.dumps([value, check])[:-1],
        lambda value, check: "",
    ],
)
def test_a_count_that_was_changed_is_counted_again(kept, pocket, forge):
    value, path = kept
    right = path.read_text()
    path.write_text(forge(*json.loads(right)))
    assert image_tflops(pocket) == value
    assert path.read_text() == right


def test_a_count_of_another_sampling_is_another(own_cache, pocket):
    drawing = pocket.spec.generator.model_copy(
        update={"sampling": pocket.spec.generator.sampling.model_copy(update={"steps": 24})}
    )
    spec = pocket.spec.model_copy(update={"generator": drawing})
    other = Upstream("other", spec, pocket.root, "cpu")
    assert 1.5 < image_tflops(other) / image_tflops(pocket) < 2
    assert len(list((own_cache / "image-tflops").iterdir())) == 2


# --- in a real run ------------------------------------------------------------------------------

USES = """
import benchmark

FACTS = benchmark.Facts(title="Uses a part", family="prompt", uses=({uses}))


def augment(shots, upstream, meter, rng, params):
    {body}
    raise AssertionError("it is never run")
    yield
"""
METHODS = {
    "paints": USES.format(uses='"generator",', body="pass"),
    "finds": USES.format(uses='"index",', body="pass"),
    "surprised": USES.format(uses="", body="upstream.generator"),
}
BARE = """
[upstream.bare]
title = "An encoder alone"
encoder = { model = "local-dir:pocket/clip" }
"""


@pytest.fixture(scope="module")
def records(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Record]:
    """By upstream and method: on an encoder alone, and on the whole pocket."""
    folder = tmp_path_factory.mktemp("budgets")
    own = folder / "root"
    roots.write_root(own, root / "pocket", METHODS)
    (own / "bench.toml").write_text((own / "bench.toml").read_text() + BARE)
    cells = plan_in(own, [*METHODS, "repeat"], splits=[0], upstream="bare")
    cells += plan_in(own, ["repeat"], splits=[0])
    outcome = run_in(own, cells, folder / "results")
    found = [*outcome.failed, *(stored.record for stored in outcome.stored)]
    assert len(found) == len(cells) == 7
    return {(record.upstream, record.method): record for record in found}


@pytest.mark.parametrize(
    ("method", "part"), [("paints", "generator"), ("finds", "corpus"), ("surprised", "generator")]
)
def test_a_method_that_uses_what_is_not_there_is_skipped(records, method, part):
    record = records["bare", method]
    assert record.status == "skipped" and record.value is None
    assert record.reason == f"upstream 'bare' has no {part}"
    assert record.compute_cap == 400 and record.tflops_cap is None


@pytest.mark.parametrize("method", ["none", "repeat"])
def test_a_record_says_what_its_caps_were(records, method):
    for upstream in ("bare", "pocket"):
        record = records[upstream, method]
        assert record.status == "ok"
        assert record.images_per_class_cap == 2 and record.compute_cap == 400
    assert records["bare", method].tflops_cap is None


def test_the_cap_in_a_record_is_its_multiple_of_plain_generation(records, root):
    spec = load_protocol(root).upstream_named("pocket")
    few = {"steps": 4, "guidance_scale": 2.0, "scheduler": None}
    drawing = spec.generator.model_copy(
        update={"sampling": spec.generator.sampling.model_copy(update=few)}
    )
    upstream = Upstream("tiny", spec.model_copy(update={"generator": drawing}), root, "cpu")
    expected = 400 * 2 * 3 * image_tflops(upstream)
    assert records["pocket", "repeat"].tflops_cap == pytest.approx(expected, rel=1e-12)
