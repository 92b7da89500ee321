"""The batch hook: what it is given, what it may return, what it costs, how it ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.classify import probe
from benchmark.errors import MethodError
from benchmark.meter import Meter
from benchmark.protocol import load_protocol
from benchmark.records.augmented import AugmentFacts
from benchmark.records.environment import environment
from benchmark.registry import load_registry
from benchmark.stall import StallGuard
from benchmark.trial import Seeds, Trial
from benchmark.trial.augment import augment
from benchmark.trial.evaluate import evaluate
from benchmark.trial.mixing import Mixer
from benchmark.upstream import Upstream, open_upstream
from tests.helpers.trials import budget

FACTS = """
import benchmark
FACTS = benchmark.Facts(
    title="Mixing", family="classical", adds_images=False, mixes_batches=True
)
CALLS = []

def augment(shots, upstream, meter, rng, params):
    with meter.phase("fit"):
        meter.charge(flops=10**9)
    yield from ()

def mix(images, targets, meter, rng, params):
    CALLS.append((tuple(images.shape), float(images.max()), targets.clone(), rng.random()))
"""
SWAP = FACTS + "    return images.flip(0), targets.flip(0)\n"
TinyRoot = Callable[..., Path]


@pytest.fixture(scope="module")
def upstream(root) -> Upstream:
    return open_upstream("pocket", load_protocol(root).upstream_named("pocket"), root, "cpu")


def trial_of(folder: Path, method: str) -> Trial:
    protocol = load_protocol(folder)
    registry = load_registry(folder, protocol)
    task = registry.task("shapes-3shot")
    return Trial(task, registry.call(method), "pocket", "S", Seeds(0), protocol, folder)


def evaluated(trial: Trial, upstream: Upstream, classifier: str = "resnet-scratch"):
    made = augment(trial, upstream, environment(trial.root, "cpu", 1), lambda *_: None)
    return evaluate(trial, classifier, made, upstream, trial.id, lambda *_: None)


def calls(trial: Trial) -> list:
    return trial.call.method.mix.__globals__["CALLS"]


def mixer(trial: Trial, stall_seconds: float = math.inf, **caps: float) -> Mixer:
    meter = Meter(budget(2, **caps), 3, guard=StallGuard(stall_seconds))
    return Mixer(trial.call, meter, np.random.default_rng(0))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.eye(3)[
        [0, 1, 2, 0]
    ]


def facts() -> AugmentFacts:
    """Of a first stage that made no image."""
    return AugmentFacts(
        images_id="0" * 64,
        status="ok",
        phases={},
        peak_memory_mb=1,
        peak_gpu_memory_mb=0,
        images_accepted=0,
        images_rejected=0,
        rejects={},
        ledger_hash="0" * 64,
        contamination_hash="0" * 64,
        environment=environment(Path(), "cpu", 1),
    )


# --- within a trial ---------------------------------------------------------------------------


def test_every_batch_of_a_network_passes_the_hook(tiny_root: TinyRoot, upstream):
    trial = trial_of(tiny_root(swap=SWAP), "swap")
    record, predictions = evaluated(trial, upstream)
    seen = calls(trial)
    assert [shape for shape, *_ in seen] == [(8, 3, 32, 32)] * 6
    assert all(0 < top <= 1 for _, top, *_ in seen)
    assert all(torch.equal(rows.sum(dim=1), torch.ones(8)) for *_, rows, _ in seen)
    assert len({draw for *_, draw in seen}) == 6
    assert record.status == "ok" and set(record.phases) == {"fit", "augment", "mix"}
    assert record.phases["mix"].seconds > 0 and record.phases["mix"].images == 0
    assert record.phases["fit"].tflops == record.tflops == 0.001
    again, same = evaluated(trial, upstream)
    assert same.equals(predictions) and [draw for *_, draw in calls(trial)[6:]] == [
        draw for *_, draw in seen[:6]
    ]


def test_a_probe_sees_a_fixed_number_of_mixed_batches(tiny_root: TinyRoot, upstream):
    trial = trial_of(tiny_root(swap=SWAP), "swap")
    evaluated(trial, upstream, "linear-probe")  # of 20 steps
    assert len(calls(trial)) == probe.MIXED_BATCHES < 20


def test_what_a_network_learns_is_what_the_hook_returned(tiny_root: TinyRoot, upstream, edit):
    """Targets moved by one class, and nothing else: so are most of the predictions."""
    folder = tiny_root(moved=FACTS + "    return images, targets.roll(1, dims=1)\n", swap=SWAP)
    edit(folder / "bench.toml", "steps = 6", "steps = 80")
    _, plain = evaluated(trial_of(folder, "swap"), upstream)
    _, moved = evaluated(trial_of(folder, "moved"), upstream)
    as_moved = (plain["prediction"] + 1) % 3 == moved["prediction"]
    assert as_moved.mean() > 0.5 > (plain["prediction"] == moved["prediction"]).mean()


def test_a_cap_ends_the_hook_and_the_record_says_so(tiny_root: TinyRoot, upstream):
    spend = "    meter.charge(flops=int(meter.budget.tflops * 4e11))\n    return images, targets\n"
    trial = trial_of(tiny_root(greedy=FACTS + spend), "greedy")
    record, _ = evaluated(trial, upstream)
    assert len(calls(trial)) == 3  # two fifths each: the third is refused
    assert (record.status, record.cap) == ("capped", "tflops")
    assert record.tflops == pytest.approx(0.8 * record.tflops_cap + 0.001, rel=1e-6)
    assert "tflops" in record.reason


def test_an_error_in_the_hook_fails_the_trial_with_its_line(tiny_root: TinyRoot, upstream):
    trial = trial_of(tiny_root(broken=FACTS + "    return 1 / 0\n"), "broken")
    with pytest.raises(MethodError, match=r"'broken' raised ZeroDiv.* \(broken.py:15\)"):
        evaluated(trial, upstream)


def test_a_hook_that_would_end_the_program_fails_its_trial(tiny_root: TinyRoot):
    mix = mixer(trial_of(tiny_root(leaves=FACTS + "    raise SystemExit(0)\n"), "leaves"))
    with pytest.raises(MethodError, match="'leaves' raised SystemExit: 0"):
        mix(*batch())


# --- by itself --------------------------------------------------------------------------------


def test_a_batch_that_a_cap_cut_short_passes_as_it_was(tiny_root: TinyRoot):
    half = "    images.zero_()\n    meter.charge(flops=7)\n    return images, targets\n"
    mix = mixer(trial_of(tiny_root(half=FACTS + half), "half"), tflops=10e-12)
    images, targets = batch()
    assert mix(images, targets)[0].max() == 0 and mix.stopped is None
    found = mix(images, targets)
    assert mix.stopped and mix.stopped.unit == "tflops"
    assert torch.equal(found[0], batch()[0]) and torch.equal(found[1], batch()[1])
    ended = mix.added_to(facts())
    assert (ended.status, ended.cap, ended.phases["mix"].tflops) == ("capped", "tflops", 7e-12)


def test_a_hook_that_hangs_fails_its_trial(tiny_root: TinyRoot):
    hang = "    import time\n    time.sleep(60)\n"
    mix = mixer(trial_of(tiny_root(hang=FACTS + hang), "hang"), stall_seconds=0.05)
    with pytest.raises(MethodError, match="'hang', mix, was ended: .* for 0.05 seconds"):
        mix(*batch())


def test_what_was_spent_before_counts():
    first = Meter(budget(2, tflops=1), 3)
    with first.phase("generate"):
        first.charge(flops=123456789, nfe=4, images=2)
    second = Meter(budget(2, tflops=1), 3, first.spent())
    assert second.spent() == first.spent()
    assert second.tflops_left == pytest.approx(1 - 123456789e-12)


RETURNS = {
    "nothing": ("None", r"expected \(images, targets\), two tensors, got NoneType"),
    "images alone": ("images", "two tensors, got Tensor"),
    "three": ("(images, targets, 1)", "got tuple of Tensor, Tensor, int"),
    "arrays": ("(images.numpy(), targets)", "got tuple of ndarray, Tensor"),
    "fewer images": ("(images[1:], targets)", r"images: expected float \[4, 3, 8, 8\], got"),
    "bytes": ("((images * 255).byte(), targets)", "images: .* got torch.uint8"),
    "labels": ("(images, targets.argmax(1))", r"targets: expected float \[4, 3\], got torch.int64"),
    "bright images": ("(images + 1, targets)", "images: expected 0..1, got 1"),
    "NaN": ("(images * float('nan'), targets)", "images: expected 0..1, got nan"),
    "heavy rows": ("(images, targets * 2)", r"targets\[0\]: .* a sum of 2"),
    "no rows": ("(images, targets * 0)", r"targets\[0\]: .* a sum of 0"),
}


@pytest.mark.parametrize("name", RETURNS)
def test_what_is_no_batch_is_refused_by_name(tiny_root: TinyRoot, name):
    returned, message = RETURNS[name]
    mix = mixer(trial_of(tiny_root(odd=FACTS + f"    return {returned}\n"), "odd"))
    with pytest.raises(MethodError, match=f"^method 'odd', mix, batch 0: .*{message}"):
        mix(*batch())


def test_rounding_is_forgiven_and_negative_rows_pass(tiny_root: TinyRoot):
    source = "    return images.double() * (1 + 1e-6), -targets.half()\n"
    images, targets = mixer(trial_of(tiny_root(fine=FACTS + source), "fine"))(*batch())
    assert images.dtype == targets.dtype == torch.float32
    assert images.max() <= 1 and torch.equal(targets, -batch()[1])
