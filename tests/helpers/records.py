"""Valid rows for tests to change: the golden record, a line of a ledger, a flagged pair."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.records.augmented import AugmentFacts
from benchmark.records.record import SCHEMA_VERSION, read_record
from benchmark.records.tables import reject_counts, table_hash

GOLDEN = Path(__file__).parents[1] / "golden"


# What a record without a score must not hold.
UNSCORED = {
    "cap": "",
    "n_test": 0,
    "n_correct": 0,
    "value": None,
    "n_clean": None,
    "value_clean": None,
    "flagged_pairs": None,
    "predictions_hash": None,
    "contamination_hash": None,
}


def golden(**changes: Any) -> str:
    """The golden record of the newest version as JSON, with some values changed."""
    values = json.loads((GOLDEN / f"record-v{SCHEMA_VERSION}.json").read_text())
    return json.dumps(values | changes)


def ledger(**changes: Any) -> pd.DataFrame:
    """One row of an image ledger."""
    row = {
        "index": 0,
        "label": 1,
        "class_name": "cat",
        "target": None,
        "sha256": "0" * 64,
        "phash": "0" * 16,
        "origin": "generated",
        "source": "model@1",
        "prompt": "a cat",
        "seed": 5,
        "nfe": 40,
        "guidance_scale": 3.0,
        "corpus_id": None,
        "rank": None,
        "similarity": None,
        "licence": None,
        "parents": "[]",
        "accepted": True,
        "reason": "",
        "nearest_test_id": None,
        "nearest_test_similarity": None,
    }
    return pd.DataFrame([row | changes])


def contamination(**changes: Any) -> pd.DataFrame:
    """One flagged pair of an augmented image and a test image."""
    row = {
        "index": 0,
        "test_id": "t1",
        "reason": "perceptual",
        "distance": 2,
        "rms": 0.07,
        "mirrored": True,
        "similarity": 0.98,
    }
    return pd.DataFrame([row | changes])


def augment_facts(images: pd.DataFrame, flagged: pd.DataFrame, **changes: Any) -> AugmentFacts:
    """What ``augment.json`` says of a ledger and its flagged pairs; else as the golden record."""
    record = read_record(golden(), "golden")
    rejects = reject_counts(images)
    facts = {
        "images_id": record.images_id,
        "status": "capped",
        "cap": "tflops",
        "reason": record.reason,
        "tflops_cap": record.tflops_cap,
        "phases": record.phases,
        "peak_memory_mb": record.peak_memory_mb,
        "peak_gpu_memory_mb": record.peak_gpu_memory_mb,
        "images_accepted": int(images["accepted"].sum()),
        "images_rejected": sum(rejects.values()),
        "rejects": rejects,
        "ledger_hash": table_hash(images),
        "contamination_hash": table_hash(flagged),
        "environment": record.environment,
    }
    return AugmentFacts(**facts | changes)
