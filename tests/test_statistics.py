"""Intervals, paired gains and tests: known answers, coverage, and attacks on their input."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmark.errors import RecordError
from benchmark.records.record import Record
from benchmark.schema import canonical_hash
from benchmark.statistics import (
    ScoredRow,
    holm,
    interval,
    paired_difference,
    paired_gain,
    paired_test,
    summarise,
)
from benchmark.statistics import estimates as core

LABELS = np.repeat([0, 1, 2], [40, 30, 10])
IDS = np.array([f"test/{row:03}" for row in range(len(LABELS))])
RNG = np.random.default_rng(0)


def some_correct(seeds: int = 4, share: float = 0.6) -> np.ndarray:
    return np.random.default_rng(1).random((seeds, len(LABELS))) < share


# --- intervals --------------------------------------------------------------------------------


def test_what_is_always_right_has_no_interval():
    found = interval(np.ones((3, 50)))
    assert (found.value, found.low, found.high) == (1, 1, 1)
    assert (found.n_splits, found.n_test) == (3, 50)


def test_one_seed_gives_the_binomial_interval_of_its_images():
    correct = np.arange(1000)[None] < 700
    found = interval(correct)
    half = 1.96 * np.sqrt(0.7 * 0.3 / 1000)
    assert found.value == pytest.approx(0.7)
    assert (found.low, found.high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.003)
    assert found.n_splits == 1


def test_seeds_that_agree_on_no_image_widen_the_interval():
    """Each seed is all right or all wrong: images tell nothing, the four seeds everything."""
    correct = np.repeat([[1], [1], [0], [1]], 500, axis=1)
    found = interval(correct)
    assert found.value == 0.75
    assert (found.low, found.high) == (0.25, 1.0)


def test_the_variance_is_that_of_seeds_plus_that_of_images():
    """Additive effects without interaction: the two bootstrap variances add up."""
    seeds, images = RNG.normal(0, 1, (8, 1)), RNG.normal(0, 5, (1, 300))
    resampled = core.over_splits(
        core.image_bootstrap(seeds + images, [np.arange(300)], 20_000, 0), range(8), 0
    )
    expected = seeds.var() / 8 + images.var() / 300
    assert resampled.var() == pytest.approx(expected, rel=0.05)


def test_classes_weigh_the_same_in_the_mean_per_class():
    correct = np.stack([LABELS == 2, LABELS != 2])  # recalls (0, 0, 1) and (1, 1, 0)
    found = interval(correct, LABELS, metric="mean_per_class")
    assert found.value == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert interval(correct).value == pytest.approx(0.5)


def test_a_class_that_is_not_drawn_is_left_out_of_a_resample():
    """One image of class 1 is missing in about 37 % of resamples: never counted as a zero."""
    labels = np.array([0] * 9 + [1])
    found = interval(np.ones((1, 10)), labels, metric="mean_per_class")
    assert (found.low, found.high) == (1, 1)


def test_the_mean_per_class_follows_its_definition_in_every_resample():
    correct, n = some_correct(), len(LABELS)
    found = core.image_bootstrap(correct, core.strata_of(correct, LABELS, "mean_per_class"), 6, 0)
    # where one image alone is right, its accuracy is the share of the resample that it is
    shares = core.image_bootstrap(np.eye(n), core.strata_of(np.eye(n), None, "top1"), 6, 0)
    for resample, share in enumerate(shares):
        rows = np.repeat(np.arange(n), (share * n).round().astype(int))
        assert len(rows) == n
        for seed in range(len(correct)):
            table = pd.DataFrame({"label": LABELS[rows], "correct": correct[seed, rows]})
            expected = table.groupby("label")["correct"].mean().mean()
            assert found[resample, seed] == pytest.approx(expected)


def test_memory_is_bounded_and_the_chunks_do_not_show(monkeypatch):
    correct = some_correct()
    arguments = correct, core.strata_of(correct, None, "top1"), core.RESAMPLES, 0

    def peak():
        tracemalloc.start()
        try:
            core.image_bootstrap(*arguments)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    whole, memory = interval(correct), peak()
    monkeypatch.setattr(core, "CHUNK", 7 * len(LABELS))
    chunked = interval(correct)
    assert peak() < memory / 5
    assert (chunked.low, chunked.high) == pytest.approx((whole.low, whole.high), abs=0.01)


def test_the_same_call_gives_the_same_interval_whatever_numpy_was_seeded_with():
    np.random.seed(1)
    first = interval(some_correct())
    np.random.seed(2)
    assert interval(some_correct()) == first
    assert interval(some_correct(), seed=1) != first


@pytest.mark.parametrize(
    ("correct", "labels", "metric", "word"),
    [
        (np.ones(5), None, "top1", r"\[S, N\]"),
        (np.ones((0, 5)), None, "top1", r"\(0, 5\)"),
        (np.ones((2, 0)), None, "top1", r"\(2, 0\)"),
        (np.ones((2, 5)), None, "mean_per_class", "labels"),
        (np.ones((2, 5)), np.zeros(4), "mean_per_class", r"\(4,\)"),
    ],
)
def test_wrong_shapes_are_named(correct, labels, metric, word):
    with pytest.raises(ValueError, match=word):
        interval(correct, labels, metric=metric)


# --- paired gains -----------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_identical_predictions_gain_exactly_nothing(metric):
    found = paired_gain(some_correct(), some_correct(), LABELS, metric=metric)
    assert (found.value, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_an_advantage_on_every_image_is_certain(metric):
    found = paired_gain(np.ones((5, 80)), np.zeros((5, 80)), LABELS, metric=metric)
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_pairing_removes_what_both_have_in_common():
    """The same hard images and the same bad splits: far narrower than the accuracies."""
    control = some_correct(5, 0.5)
    method = control.copy()
    method[:, ::20] = True
    gain, accuracy = paired_gain(method, control), interval(method)
    assert gain.high - gain.low < (accuracy.high - accuracy.low) / 2


def test_gains_change_sign_with_their_order():
    method, control = some_correct(3, 0.7), some_correct(3, 0.5)[:, ::-1]
    forward, back = paired_gain(method, control), paired_gain(control, method)
    assert (forward.value, forward.low, forward.high) == pytest.approx(
        (-back.value, -back.high, -back.low)
    )


def test_gains_need_one_shape():
    with pytest.raises(ValueError, match=r"\(2, 80\).*\(1, 80\)"):
        paired_gain(some_correct(2), some_correct(1))


@pytest.mark.parametrize("sd_seed", [0.0, 0.05])
def test_nominal_95_percent_intervals_cover_the_true_gain(sd_seed):
    """200 experiments with crossed random effects: of seeds, of images, and of every pair."""
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        base = 0.5 + rng.normal(0, 0.03, (5, 1)) + rng.uniform(-0.2, 0.2, (1, 200))
        better = 0.06 + rng.normal(0, sd_seed, (5, 1)) + rng.uniform(-0.1, 0.1, (1, 200))
        method, control = rng.random((2, 5, 200)) < np.stack([base + better, base])
        gain = paired_gain(method, control, resamples=400)
        covered += gain.low <= 0.06 <= gain.high
    assert 0.85 <= covered / 200 <= 0.995


# --- tests over splits -------------------------------------------------------------------------


@pytest.mark.parametrize("n_splits", [1, 2, 5, 8])
def test_gains_of_one_sign_reach_the_smallest_p(n_splits):
    found = paired_test(np.linspace(0.01, 0.02, n_splits))
    assert found.p_value == found.smallest_p == 2.0 ** (1 - n_splits)
    assert found.n_splits == n_splits


def test_the_sign_flip_test_counts_signs_at_least_as_extreme():
    """Of 8 sign patterns of (1, 2, 3), sums of at least 4 in size: 6, 4, -4, -6."""
    assert paired_test([-1, 2, 3]).p_value == pytest.approx(4 / 8)


def test_many_splits_are_tested_with_random_signs():
    gains = np.random.default_rng(0).normal(0.1, 1, 20)
    found, again = paired_test(gains), paired_test(gains)
    assert found == again and found.smallest_p == 2.0**-19
    exact = paired_test(gains[:16])
    flipped = 1 - 2 * np.random.default_rng(5).integers(0, 2, (20_000, 16))
    share = (abs(flipped @ gains[:16]) >= abs(gains[:16].sum())).mean()
    assert exact.p_value == pytest.approx(share, abs=0.02)
    assert 0 < found.p_value < 1 and paired_test(np.full(20, 0.1)).p_value < 1e-3


def test_no_difference_is_no_evidence():
    assert paired_test([0.0, 0.0, 0.0]).p_value == 1


def test_a_test_needs_a_split():
    with pytest.raises(ValueError, match="S >= 1"):
        paired_test([])


def test_holm_follows_its_steps():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.6, 0.6]) == [1, 1]
    assert holm([]) == []


# --- lines ------------------------------------------------------------------------------------


def cell(method="none", split=0, share=0.5, control="none", **changes) -> ScoredRow:
    """A cell of the task toy-1shot whose control is the method ``control`` of the same split."""
    rng = np.random.default_rng([split, len(method)])
    predictions = np.where(rng.random(len(LABELS)) < share, LABELS, (LABELS + 1) % 3)
    correct = int((predictions == LABELS).sum())
    versions = [changes.get(key, "") for key in ("method_hash", "task_hash", "created")]
    name = [method, split, changes.get("budget", "S"), *versions, changes.get("draw", 0)]
    values = {
        "record_id": canonical_hash(name),
        "trial_id": canonical_hash([name, "trial"]),
        "control_id": canonical_hash([control, split, *name[2:-1], 0]),
        "status": "ok",
        "task": "toy-1shot",
        "method": method,
        "method_name": method,
        "family": "prompt",
        "params": {},
        "upstream": "toy",
        "budget": "S",
        "classifier": "probe",
        "split": split,
        "draw": 0,
        "training": 0,
        "images_id": canonical_hash([name, "images"]),
        "compute_cap": 5,
        "shots": 1,
        "n_classes": 3,
        "metric": "top1",
        "n_test": len(LABELS),
        "n_correct": correct,
        "value": correct / len(LABELS),
        "images_per_class_cap": 10,
        "tflops": 2.0 + split,
        "tflops_cap": 30,
        "predictions_hash": "7" * 64,
        "created": "2026-01-01T00:00:00+00:00",
        "environment": {
            "bench": "0",
            "python": "3",
            "platform": "x",
            "device": "cpu",
            "threads": 1,
            "packages": {},
        },
    }
    hashes = ("task", "method", "upstream", "split", "classifier")
    values |= {f"{part}_hash": "1" * 64 for part in hashes} | changes
    if values["metric"] == "mean_per_class":
        values["value"] = 0.5
    return ScoredRow(Record(**values), IDS, LABELS, predictions)


def contest(splits: int = 5) -> list[ScoredRow]:
    shares = {"none": 0.5, "better": 0.7, "best": 0.95}
    return [cell(name, split, share) for name, share in shares.items() for split in range(splits)]


def lines_of(cells, **options):
    found = summarise(cells, resamples=500, **options)
    return {line.method: line for line in found.lines}, found.left_out


def test_a_contest_becomes_one_line_per_method():
    lines, left_out = lines_of(contest())
    assert list(lines) == ["best", "better", "none"] and not left_out
    best, none = lines["best"], lines["none"]
    assert best.accuracy.value == pytest.approx(np.mean([row.value for row in best.records]))
    assert best.gain.value == pytest.approx(best.accuracy.value - none.accuracy.value)
    assert best.gain.low > 0 and best.gain.n_splits == 5
    assert best.tflops == pytest.approx(4.0)
    assert best.test.p_value == best.test.smallest_p == 0.0625
    assert best.p_holm == 0.125  # of two methods
    assert (best.rank, none.rank) == ((1, 1), (3, 3))


def test_the_control_has_no_gain_over_itself():
    none = lines_of(contest())[0]["none"]
    assert none.is_control and none.gain is None and none.test is None and none.p_holm is None


def test_a_line_agrees_with_the_estimates_of_its_arrays():
    cells = contest(3)
    best = lines_of(cells)[0]["best"]
    method, control = (
        np.stack([c.predictions == c.labels for c in cells if c.record.method == name])
        for name in ("best", "none")
    )
    assert best.accuracy == interval(method, resamples=500)
    gain = paired_gain(method, control, resamples=500)
    assert (best.gain.low, best.gain.high) == pytest.approx((gain.low, gain.high))


def test_a_line_does_not_depend_on_the_others_or_on_their_order():
    cells = contest()
    alone = [c for c in cells if c.record.method != "better"]
    assert lines_of(alone)[0]["best"].gain == lines_of(cells[::-1])[0]["best"].gain


def test_a_missing_control_leaves_no_gain():
    lines, _ = lines_of([c for c in contest() if c.record.method != "none"])
    assert lines["best"].gain is None and lines["best"].rank is None
    assert lines["best"].accuracy.n_splits == 5


def test_gains_count_the_splits_that_have_a_control():
    cells = [c for c in contest() if c.record.method != "none" or c.record.split < 2]
    best = lines_of(cells)[0]["best"]
    assert (best.accuracy.n_splits, best.gain.n_splits, best.test.n_splits) == (5, 2, 2)


def test_failed_and_skipped_rows_are_told_with_their_reasons():
    failed = cell("best", 9, status="failed", reason="it broke", value=None)
    skipped = cell("best", 8, status="skipped", reason="no reserve", value=None)
    lines, left_out = lines_of([*contest(), failed, skipped])
    assert lines["best"].accuracy.n_splits == 5
    assert [reason for _, reason in left_out] == ["failed: it broke", "skipped: no reserve"]


def test_budgets_are_contests_of_their_own():
    found = summarise([*contest(2), *(cell("none", s, budget="M") for s in range(2))], resamples=50)
    assert [(line.budget, line.method) for line in found.lines] == [
        ("M", "none"),
        ("S", "best"),
        ("S", "better"),
        ("S", "none"),
    ]


def test_the_metric_of_the_task_is_used():
    cells = [cell(name, s, 0.6, metric="mean_per_class") for name in ("none", "x") for s in (0, 1)]
    lines, _ = lines_of(cells)
    correct = np.stack([c.predictions == LABELS for c in cells if c.record.method == "x"])
    recalls = [correct[:, LABELS == label].mean() for label in range(3)]
    assert lines["x"].accuracy.value == pytest.approx(np.mean(recalls))
    assert lines["x"].accuracy.value != pytest.approx(correct.mean())


def test_versions_of_a_method_are_never_mixed():
    old = [cell("best", s, method_hash="2" * 64, control_id="9" * 64) for s in (5, 6)]
    lines, left_out = lines_of([*contest(), *old])
    assert [row.split for row in lines["best"].records] == [0, 1, 2, 3, 4]
    assert {reason for _, reason in left_out} == {"another version of the method"}
    renewed = [cell("best", s, method_hash="2" * 64, created="2027") for s in range(5)]
    lines, left_out = lines_of([*contest(), *renewed])
    assert {row.method_hash for row in lines["best"].records} == {"2" * 64}
    assert len(left_out) == 5


def test_a_lone_row_of_another_task_version_does_not_displace_the_contest():
    stray = cell("best", 7, task_hash="2" * 64, created="2027")
    lines, left_out = lines_of([*contest(), stray])
    assert len(lines) == 3
    assert left_out == [(stray.record, "another version of the task or protocol")]


def test_a_trial_made_twice_counts_once():
    again = cell("best", 0, 0.9, created="2027", control_id="9" * 64)
    lines, left_out = lines_of([*contest(), again])
    assert lines["best"].accuracy.n_splits == 5
    assert [(row.created, why) for row, why in left_out] == [
        ("2026-01-01T00:00:00+00:00", "a newer row of the same trial")
    ]


def test_test_images_may_come_in_any_order():
    cells = contest()
    turned = [
        replace(c, ids=c.ids[::-1], labels=c.labels[::-1], predictions=c.predictions[::-1])
        for c in cells
    ]
    assert summarise(cells[:5] + turned[5:], resamples=50) == summarise(cells, resamples=50)


def attacked(method: str, split: int, **changes) -> list[ScoredRow]:
    return [
        replace(c, **changes) if (c.record.method, c.record.split) == (method, split) else c
        for c in contest()
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ids": np.char.add(IDS, "x")}, ["different images", "160 ids differ"]),
        ({"ids": np.array([*IDS[:-1], IDS[0]])}, ["different images", "test/079"]),
        ({"labels": (LABELS + 1) % 3}, ["different labels", "test/000"]),
        ({"predictions": LABELS}, ["80 right predictions", "n_correct"]),
        ({"predictions": LABELS[:-1]}, ["(79,)", "n_test = 80"]),
        ({"ids": IDS[:0], "labels": LABELS[:0], "predictions": LABELS[:0]}, ["(0,)"]),
    ],
)
@pytest.mark.parametrize("method", ["best", "none"])
def test_predictions_that_cannot_be_paired_are_refused(changes, words, method):
    with pytest.raises(RecordError) as caught:
        summarise(attacked(method, 3, **changes), resamples=20)
    for word in [*words, "toy-1shot", "split 3", method]:
        assert word in str(caught.value)


def test_a_control_of_another_split_is_refused():
    wrong = cell("worse", 1, control_id=cell("none", 0).record.record_id)
    with pytest.raises(RecordError, match="'worse' names a control of another split, 0"):
        summarise([*contest(), wrong], resamples=20)


def test_two_methods_are_compared_over_the_splits_they_share():
    cells = [c for c in contest() if c.record.method != "better" or c.record.split > 1]
    lines, _ = lines_of(cells)
    found = paired_difference(cells, lines["best"], lines["better"], resamples=500)
    expected = [
        cell("best", s, 0.95).record.value - cell("better", s, 0.7).record.value for s in (2, 3, 4)
    ]
    assert found.value == pytest.approx(np.mean(expected)) and found.n_splits == 3
    assert found.low > 0
    same = paired_difference(cells, lines["best"], lines["best"], resamples=500)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_methods_without_a_common_split_are_not_compared():
    cells = [c for c in contest(2) if (c.record.method == "best") == (c.record.split == 1)]
    lines, _ = lines_of(cells)
    assert paired_difference(cells, lines["best"], lines["none"]) is None


def test_draws_and_trainings_of_a_split_are_averaged():
    """Two draws of split 0 weigh as much as the one of split 1."""
    rows = [cell("best", 0, 0.9), cell("best", 0, 0.3, draw=1), cell("best", 1, 0.6)]
    (line,) = summarise(rows, resamples=100).lines
    values = [item.record.value for item in rows]
    expected = np.mean([np.mean(values[:2]), values[2]])
    assert line.accuracy.value == pytest.approx(expected) and line.accuracy.n_splits == 2
    assert [record.seeds for record in line.records] == [(0, 0, 0), (0, 1, 0), (1, 0, 0)]


def test_a_draw_is_paired_with_the_control_of_its_split():
    cells = [cell("none", 0), cell("best", 0, 0.9), cell("best", 0, 0.8, draw=1)]
    best = lines_of(cells)[0]["best"]
    values = [item.record.value for item in cells]
    assert best.gain.value == pytest.approx(np.mean(values[1:]) - values[0])
    assert best.gain.n_splits == 1


def test_rows_of_an_older_protocol_count_only_where_there_are_no_newer_ones():
    old = [cell(method, split, protocol_version=2, created="2027") for method in ("none", "best")
           for split in range(5)]  # fmt: skip
    lines, left_out = lines_of([*old, *contest(2)])
    assert lines["best"].accuracy.n_splits == 2 and len(left_out) == len(old)
    assert {why for _, why in left_out} == {"another version of the task or protocol"}
    lines, left_out = lines_of(old)
    assert lines["best"].accuracy.n_splits == 5 and not left_out


def test_a_prediction_table_is_a_cell():
    one = cell()
    table = pd.DataFrame({"id": IDS, "label": LABELS, "prediction": one.predictions})
    made = ScoredRow.of(one.record, table)
    assert summarise([made], resamples=20) == summarise([one], resamples=20)


def test_nothing_gives_nothing():
    assert summarise([]).lines == [] and summarise([]).left_out == []
