"""A method that makes no progress is ended, whatever it does against it; one that works is not."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.errors import BudgetStop, MethodError, Stalled
from benchmark.meter import Budget, Meter
from benchmark.records.environment import environment
from benchmark.records.record import Record
from benchmark.run.scheduler import Outcome
from benchmark.stall import StallGuard
from tests.helpers import roots
from tests.helpers.runs import plan_in, run_in

SECONDS = 1.5  # without progress, then a method is ended
STEP = 0.2  # of a method that works: far from it, also on a busy machine

HEADER = """
import time
import benchmark
import numpy as np

FACTS = benchmark.Facts(title="Waits", family="classical", uses_shots=False, stochastic=False)
TOLD = benchmark.Provenance("transformed", "wait")
BLACK = np.zeros((1, 32, 32, 3), np.uint8)


def augment(shots, upstream, meter, rng, params):
"""
SLEEPS = (
    HEADER
    + """
    yield benchmark.Images(BLACK, [0], [TOLD])
    time.sleep(600)
"""
)
SWALLOWS = (
    HEADER
    + """
    while True:
        try:
            time.sleep(600)  # it hangs here
        except BaseException:
            pass
    yield
"""
)
CHARGES = (
    HEADER
    + f"""
    for _ in range({round(2 * SECONDS / STEP)}):
        time.sleep({STEP})
        meter.charge(nfe=1)
    yield benchmark.Images(BLACK, [0], [TOLD])
"""
)
YIELDS = (
    HEADER
    + f"""
    for label in [0, 1, 2] * {round(SECONDS / STEP)}:
        time.sleep({STEP})
        yield benchmark.Images(BLACK, [label], [TOLD])
"""
)
MIXES = (
    HEADER.replace("uses_shots", "mixes_batches=True, adds_images=False, uses_shots")
    + """
    yield from ()


def mix(images, targets, meter, rng, params):
    while True:
        try:
            time.sleep(600)  # the hook hangs here
        except BaseException:
            pass
"""
)
METHODS = {
    "sleeps": SLEEPS,
    "swallows": SWALLOWS,
    "mixes": MIXES,
    "charges": CHARGES,
    "yields": YIELDS,
}


# --- in a real run ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcome(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """All of these methods in one run: those that hang come first."""
    folder = tmp_path_factory.mktemp("stall")
    roots.write_root(folder / "root", root / "pocket", METHODS)
    bench = folder / "root" / "bench.toml"
    limits = f"stall_seconds = {SECONDS}\nstall_grace_seconds = 2\n"
    text = bench.read_text().replace('control = "none"\n', f'control = "none"\n{limits}')
    bench.write_text(text.replace("images_per_class = 2", "images_per_class = 5"))
    cells = plan_in(folder / "root", list(METHODS), splits=[0])
    return run_in(folder / "root", cells, folder / "results")


def failed(outcome: Outcome, method: str) -> Record:
    (record,) = [record for record in outcome.failed if record.method == method]
    assert record.status == "failed" and record.value is None
    return record


def test_a_method_that_sleeps_is_ended_and_nothing_of_it_is_kept(outcome):
    reason = failed(outcome, "sleeps").reason
    assert "'sleeps'" in reason and f"{SECONDS:g} seconds" in reason


@pytest.mark.parametrize(
    ("method", "line"), [("swallows", "# it hangs here"), ("mixes", "# the hook hangs here")]
)
def test_a_method_that_withstands_the_alarm_is_ended_with_its_process(outcome, method, line):
    number = next(
        number for number, text in enumerate(METHODS[method].splitlines(), 1) if line in text
    )
    reason = failed(outcome, method).reason
    assert f"'{method}'" in reason and f"{SECONDS:g} seconds" in reason
    assert f'{method}.py", line {number} in ' in reason


def test_the_others_of_the_run_finish(outcome):
    assert {stored.record.method for stored in outcome.stored} == {"none", "charges", "yields"}
    assert {record.method for record in outcome.failed} == {"sleeps", "swallows", "mixes"}


@pytest.mark.parametrize("method", ["charges", "yields"])
def test_a_method_that_makes_progress_may_take_longer(outcome, method):
    (record,) = [stored.record for stored in outcome.stored if stored.record.method == method]
    assert record.status == "ok" and record.seconds > SECONDS


# --- in this process ----------------------------------------------------------------------------


@pytest.fixture
def meter() -> Meter:
    return Meter(Budget(2, 1e-3), 3, guard=StallGuard(0.3))


@pytest.fixture
def alarm() -> Iterator[list[int]]:
    """What rings while somebody else's handler and timer are set, as pytest's own may be."""
    rung: list[int] = []
    timer = signal.setitimer(signal.ITIMER_REAL, 0)
    handler = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    yield rung
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, *timer)


@pytest.mark.parametrize("stalls", [False, True])
def test_the_handler_and_the_timer_of_before_come_back(meter, alarm, stalls):
    handler = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 500, 70)
    with pytest.raises(Stalled) if stalls else meter.phase("generate"), meter.watching():
        assert signal.getsignal(signal.SIGALRM) != handler
        if stalls:
            time.sleep(60)
    assert signal.getsignal(signal.SIGALRM) is handler
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    assert 400 < left <= 500 and interval == 70
    assert not alarm


def test_a_timer_that_ran_out_meanwhile_rings_afterwards(meter, alarm):
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with meter.watching():
        time.sleep(0.1)
        assert not alarm
    time.sleep(0.05)
    assert alarm == [1]


def test_without_a_timer_of_before_there_is_none_afterwards(meter, alarm):
    with meter.watching(), meter.paused():
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_the_alarm_rings_again_where_it_was_swallowed(meter):
    caught = 0
    with pytest.raises(Stalled), meter.watching():
        for _ in range(2):
            try:
                time.sleep(60)
            except Stalled:
                caught += 1
        time.sleep(60)
    assert caught == 2


def test_a_charge_that_is_refused_is_no_progress(meter):
    """Who swallows the stop and asks again is not at work."""
    with pytest.raises(Stalled), meter.watching():
        while True:
            try:
                meter.charge(flops=10**12)
            except BudgetStop:
                time.sleep(0.01)


def test_what_is_paused_may_take_its_time_and_is_no_progress(meter):
    with meter.watching():
        for _ in range(3):
            with meter.paused():
                time.sleep(0.5)
                with meter.paused():
                    time.sleep(0.1)
    with pytest.raises(Stalled), meter.watching():
        for _ in range(600):
            time.sleep(0.1)
            with meter.paused():
                pass


REJECTS = """
import numpy as np
from benchmark import Facts, Images, Provenance

FACTS = Facts(title="Rejects all", family="classical", filters=("score",))


def augment(shots, upstream, meter, rng, params):
    image = np.zeros((1, 32, 32, 3), np.uint8)
    while True:
        yield Images(image, [0], [Provenance("transformed", "test")], ["score: never enough"])
"""
SWALLOWS_ONCE = """
import time
import numpy as np
from benchmark import Facts, Images, Provenance

FACTS = Facts(title="Goes on all the same", family="classical")


def augment(shots, upstream, meter, rng, params):
    try:
        time.sleep(60)
    except BaseException:
        pass
    while True:
        yield Images(shots.images[:1], [0], [Provenance("transformed", "test")])
"""


@pytest.mark.parametrize("source", [REJECTS, SWALLOWS_ONCE])
def test_neither_rejected_images_nor_a_swallowed_alarm_go_on(tiny_root, source):
    from benchmark.trial.augment import augment
    from benchmark.upstream import open_upstream

    root = tiny_root(bad=source)
    bench = root / "bench.toml"
    quick = 'control = "none"\nstall_seconds = 0.5'
    bench.write_text(bench.read_text().replace('control = "none"', quick))
    trial = plan_in(root, ["bad"], splits=[0])[-1].trial
    upstream = open_upstream("pocket", trial.protocol.upstream_named("pocket"), root, "cpu")
    with pytest.raises(MethodError, match="'bad' was ended: no charge and no image for 0.5"):
        augment(trial, upstream, environment(root, "cpu", 1), lambda *_: None)


@pytest.mark.parametrize("slow", ["harness", "method"])
def test_writing_images_down_is_not_the_methods_time(tiny_root, slow):
    """``augment`` calls ``progress`` where it adds to the ledger."""
    from benchmark.trial.augment import augment
    from benchmark.upstream import open_upstream

    body = YIELDS if slow == "harness" else SLEEPS
    root = tiny_root(waits=body.replace(f"time.sleep({STEP})", ""))
    bench = root / "bench.toml"
    bench.write_text(
        bench.read_text().replace('control = "none"', 'control = "none"\nstall_seconds = 0.5')
    )
    trial = plan_in(root, ["waits"], splits=[0])[-1].trial
    upstream = open_upstream("pocket", trial.protocol.upstream_named("pocket"), root, "cpu")
    given = trial, upstream, environment(root, "cpu", 1)
    if slow == "method":
        with pytest.raises(MethodError, match=r"'waits' was ended: .* for 0\.5 seconds"):
            augment(*given, lambda *_: None)
    else:
        made = augment(*given, lambda *_: time.sleep(0.7))
        assert made.facts.images_accepted == 6
