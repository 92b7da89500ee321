"""Results folders written as the runner writes them: real splits, ledgers, images, predictions."""

import json

import numpy as np
import pandas as pd

from benchmark.contract import Images, Provenance
from benchmark.data.split import load_split
from benchmark.images import encode_png
from benchmark.records.augmented import Augmented
from benchmark.records.packed import RECORDS
from benchmark.records.record import read_record
from benchmark.records.store import Place, Store
from benchmark.records.tables import check, table_hash
from benchmark.registry import load_registry
from benchmark.schema import canonical_hash
from benchmark.trial.ledger import Ledger
from tests.helpers.records import UNSCORED, augment_facts, contamination, golden
from tests.helpers.trials import budget

CLASSIFIERS = ("linear-probe", "resnet-scratch")


def write_results(root, folder):
    """Two methods on two splits under two classifiers, with a failure, on the task of ``shapes``:
    written as trials are, with real splits, ledgers, images and predictions."""
    for split in (0, 1):
        for method in ("none", "repeat"):
            write_trial(root, folder, method, split)
    lost = UNSCORED | {"status": "failed", "reason": "it broke"}
    failed = record_of("broken", 0, "linear-probe", **lost)
    Store(folder).write_failure(failed)
    return folder


def write_trial(root, folder, method, seed):
    """One method on the split of ``seed``, under two classifiers."""
    registry = load_registry(root)
    task = registry.tasks["shapes-3shot"]
    split = load_split(task, seed, root)
    ledger = Ledger(method, split, budget(images_per_class=2))
    rng = np.random.default_rng(seed)
    for _ in range(3 if method == "repeat" else 0):  # the third of a class is rejected
        pixels = rng.integers(0, 256, (3, 32, 32, 3), np.uint8)
        told = [Provenance("transformed", "noise", seed=2**62 + 1, nfe=seed)] * 3
        ledger.add(Images(pixels, [0, 1, 2], told))
    frame, (pixels, labels) = ledger.frame(), ledger.accepted()
    rejected = int((~frame["accepted"]).sum())
    flagged = contamination(test_id=split.test.ids[0]).iloc[: int(method == "repeat")]
    flagged = check("contamination", flagged, "made")
    store = Store(folder)
    for number, classifier in enumerate(CLASSIFIERS):
        guesses = split.test.labels.copy()
        guesses[: number + seed] += 1
        table = {"id": list(split.test.ids), "label": split.test.labels, "prediction": guesses % 3}
        predictions = pd.DataFrame(table)
        right = len(predictions) - number - seed
        clean = slice(len(flagged), None)
        clean = (guesses % 3 == split.test.labels)[clean]
        record = record_of(
            method,
            seed,
            classifier,
            task=task.name,
            task_hash=task.hash,
            split_hash=split.hash,
            n_classes=3,
            n_test=len(predictions),
            n_correct=right,
            value=right / len(predictions),
            images_accepted=len(labels),
            n_clean=len(clean),
            value_clean=float(clean.mean()),
            flagged_pairs=len(flagged),
            images_rejected=rejected,
            rejects={"cap": rejected} if rejected else {},
            ledger_hash=table_hash(frame),
            contamination_hash=table_hash(flagged),
            predictions_hash=table_hash(predictions),
        )
        place = Place(task.name, method, record.images_id)
        facts = augment_facts(frame, flagged, images_id=record.images_id)
        made = Augmented(facts, frame, pixels, labels, flagged)
        store.write_augmented(place, made, encode_png)
        store.write_record(place, record, predictions)


def record_of(method, seed, classifier, **changes):
    trial, recipe = canonical_hash([method, seed]), canonical_hash(classifier)
    names = {
        "trial_id": trial,
        "images_id": canonical_hash([method, seed, "images"]),
        "record_id": canonical_hash([trial, recipe]),
        "control_id": canonical_hash([canonical_hash(["none", seed]), recipe]),
        "classifier_hash": recipe,
        "classifier": classifier,
        "method": method,
        "method_name": method,
        "family": "control" if method == "none" else "classical",
        "split": seed,
        "draw": 0,
        "training": 0,
    }
    return read_record(golden(**names | changes), "made")


def change_line(folder, where, **changes):
    path = folder / RECORDS
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    chosen = [line for line in lines if all(line[key] == value for key, value in where.items())]
    assert chosen
    for line in chosen:
        line |= changes
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
