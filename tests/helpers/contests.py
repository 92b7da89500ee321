"""Results of a contest that a retrieval leads, with all that a page shows of them."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import pandas as pd

from benchmark.data.split import load_split
from benchmark.images import encode_png
from benchmark.records.augmented import Augmented
from benchmark.records.record import read_record
from benchmark.records.store import Place, Store
from benchmark.records.tables import check, table_hash
from benchmark.registry import load_registry
from tests.helpers.records import UNSCORED, augment_facts, contamination, golden, ledger

FIND = """
import benchmark

FACTS = benchmark.Facts(title="Found in the corpus", family="retrieve", query="class name")


def augment(shots, upstream, meter, rng, params):
    raise NotImplementedError
"""


PAINT = FIND.replace("Found in the corpus", "<script>alert(1)</script>").replace(
    "retrieve", "prompt"
)


# Right answers of 400, per method; the control last.
SCORES = {"find": 300, "paint": 240, "none": 200}


FAMILIES = {"find": "retrieve", "paint": "prompt", "none": "control", "repeat": "classical"}


ORIGINS = {"find": "retrieved", "paint": "generated"}


N_TEST = 400


def write_contest(root, folder):
    for classifier in ("linear-probe", "resnet-scratch"):
        for method, right in SCORES.items():
            for seed in range(3):
                write_trial(folder, root, method, seed, right - seed, classifier)
    broken = {"status": "failed", "reason": "it raised <ValueError> & stopped"}
    write_trial(folder, root, "repeat", 1, None, **broken)


def write_trial(folder, root, method, seed, right, classifier="linear-probe", **changes):
    """A trial with its artefacts, as the runner would leave it; ``right=None`` is a failure."""
    task, split_hash = drawn(root, seed)
    cell = (task.name, classifier, seed)
    values = {
        "record_id": sha(method, cell),
        "trial_id": sha(method, seed),
        "images_id": sha(method, seed, "images"),
        "control_id": sha("none", cell),
        "status": "ok",
        "reason": "",
        "cap": "",
        "task": task.name,
        "method": method,
        "method_name": method,
        "family": FAMILIES[method],
        "classifier": classifier,
        "split": seed,
        "draw": 0,
        "training": 0,
        "n_classes": 3,
        "n_test": N_TEST,
        "split_hash": split_hash,
        "tflops": {"find": 0.5, "paint": 12.0}.get(method, 0.0),
        "tflops_cap": 30.0,
    } | changes
    store = Store(folder)
    if right is None:
        values |= UNSCORED | {"ledger_hash": None, "images_accepted": 0}
        store.write_failure(read_record(golden(**values), "made"))
        return
    predictions = made_predictions(right)
    made = made_images(task, method, values["images_id"])
    values |= {"n_correct": right, "value": right / N_TEST, "images_accepted": len(made.pixels)}
    values |= {"predictions_hash": table_hash(predictions)}
    values |= made.facts.model_dump(include={"ledger_hash", "contamination_hash"})
    values |= {"flagged_pairs": len(made.flagged), "n_clean": N_TEST - len(made.flagged)}
    if len(made.flagged):  # the one flagged test image is among those classified rightly
        values |= {"value_clean": (right - 1) / (N_TEST - 1)}
    else:
        values |= {"value_clean": values["value"]}
    record = read_record(golden(**values), "made")
    place = Place(task.name, method, record.images_id)
    store.write_augmented(place, made, encode_png)
    store.write_record(place, record, predictions)


def made_predictions(right):
    """The first ``right`` of 400 test images are classified rightly."""
    labels = np.arange(N_TEST) % 3
    guesses = np.where(np.arange(N_TEST) < right, labels, (labels + 1) % 3)
    ids = [f"test/{index}" for index in range(N_TEST)]
    frame = pd.DataFrame({"id": ids, "label": labels, "prediction": guesses})
    return check("predictions", frame, "made")


def made_images(task, method, images_id):
    """Four plain images per class; the first of a retrieval lies on a test image."""
    count = 12 if method in ORIGINS else 0
    rows = []
    for index in range(count):
        told = {"nearest_test_id": "shapes/00", "nearest_test_similarity": 0.5}
        if method == "find":
            told |= {"corpus_id": f"clip-art/{index}", "licence": "CC-BY-4.0", "similarity": 0.8}
        prompt = 'a "red" <b>circle</b>'
        facts = {"origin": ORIGINS[method], "label": index % 3, "prompt": prompt, **told}
        rows.append(ledger(index=index, class_name=task.classes[index % 3].name, **facts))
    frame = pd.concat(rows, ignore_index=True) if rows else ledger().iloc[:0]
    frame = check("ledger", frame, "made")
    colours = np.arange(count, dtype=np.uint8)[:, None, None, None] * 20
    pixels = np.broadcast_to(colours, (count, 32, 32, 3)).copy()
    flagged = contamination(index=0, test_id="test/0").iloc[: int(method == "find")]
    flagged = check("contamination", flagged, "made")
    facts = augment_facts(frame, flagged, images_id=images_id)
    return Augmented(facts, frame, pixels, np.arange(count) % 3, flagged)


@cache
def drawn(root, seed):
    task = load_registry(root).task("shapes-3shot")
    return task, load_split(task, seed, root).hash


def sha(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()
