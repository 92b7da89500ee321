"""The four tables as pandera checks them, and what is computed from a table alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from benchmark.contract import Provenance
from benchmark.errors import RecordError
from benchmark.records.record import SHA256, Record
from benchmark.schema import canonical_hash

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa


def table_hash(table: pd.DataFrame) -> str:
    """sha256 of a table's content: columns in order, rows in order, independent of the file
    format and of the libraries that wrote it."""
    rows = json.loads(table.to_json(orient="split", index=False, double_precision=10))
    return canonical_hash([rows["columns"], rows["data"]])


def reject_counts(ledger: pd.DataFrame) -> dict[str, int]:
    """Rejected images of a ledger by the first word of their reason: "cap", or the name of a
    filter."""
    reasons = ledger.loc[~ledger["accepted"], "reason"]
    return dict(Counter(reason.partition(":")[0] for reason in reasons))


def records_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Validated rows as a table; ``params``, ``phases``, ``rejects`` and ``environment`` as
    JSON text."""
    import pandas as pd

    rows = []
    for record in records:
        row = record.model_dump(mode="json")
        for key in ("params", "phases", "rejects", "environment"):
            row[key] = json.dumps(row[key], sort_keys=True)
        rows.append(row)
    frame = pd.DataFrame(rows, columns=list(Record.model_fields))
    checked: pd.DataFrame = check("records", frame, "records")
    return checked


def check(name: str, frame: Any, source: object) -> Any:
    """``frame`` validated and coerced by the table ``name`` of ``tables``.

    Raises:
        RecordError: naming every column, check, and offending value.
    """
    import pandera.errors

    try:
        return tables()[name].validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        lines = [f"{source}: {_failure(case)}" for case in error.failure_cases.itertuples()]
        raise RecordError("\n".join(dict.fromkeys(lines))) from None


def _failure(case: Any) -> str:
    """One line of pandera's table of failure cases."""
    where = case.column if isinstance(case.column, str) else case.schema_context
    value = "" if case.failure_case is None else f", got {case.failure_case!r}"
    row = (
        f" in row {int(case.index)}"
        if isinstance(case.index, int | float) and (case.index == case.index)
        else ""
    )
    return f"{where}: {case.check}{value}{row}"


@cache
def tables() -> dict[str, pa.DataFrameSchema]:
    """The four pandera tables by name: ``records``, ``predictions``, ``ledger``,
    ``contamination``."""
    import pandera.pandas as pa

    reasoned = pa.Check(
        lambda frame: frame["accepted"] == (frame["reason"] == ""),
        error="a rejected image has a reason, an accepted one has none",
    )
    counted = pa.Check(
        lambda frame: frame["n_correct"] <= frame["n_test"], error="n_correct exceeds n_test"
    )
    cell = ["task", "method", "upstream", "budget", "classifier", "split", "draw", "training"]
    cell += [f"{part}_hash" for part in ("task", "method", "upstream", "split", "classifier")]
    predictions = {
        "id": _column(str, unique=True),
        "label": _column("int64", pa.Check.ge(0)),
        "prediction": _column("int64", pa.Check.ge(0)),
    }
    return {
        "predictions": pa.DataFrameSchema(predictions, strict=True, ordered=True),
        "ledger": pa.DataFrameSchema(
            _ledger_columns(), strict=True, ordered=True, checks=[reasoned]
        ),
        "contamination": pa.DataFrameSchema(
            _contamination_columns(), strict=True, ordered=True, unique=["index", "test_id"]
        ),
        "records": pa.DataFrameSchema(
            _record_columns(), strict=True, checks=[counted], unique=cell
        ),
    }


def _column(kind: Any, *checks: pa.Check, nullable: bool = False, **more: Any) -> pa.Column:
    import pandera.pandas as pa

    return pa.Column(kind, list(checks), nullable=nullable, coerce=True, **more)


def _record_columns() -> dict[str, pa.Column]:
    import pandera.pandas as pa

    columns = {name: _column(object, nullable=True) for name in Record.model_fields}
    return columns | {
        "record_id": _column(str, pa.Check.str_matches(SHA256), unique=True),
        "status": _column(str, pa.Check.isin(["ok", "capped", "failed", "skipped"])),
        "value": _column(float, pa.Check.in_range(0, 1), nullable=True),
        "val_value": _column(float, pa.Check.in_range(0, 1), nullable=True),
        "value_clean": _column(float, pa.Check.in_range(0, 1), nullable=True),
        "n_test": _column("int64", pa.Check.ge(0)),
        "n_correct": _column("int64", pa.Check.ge(0)),
        **{seed: _column("int64", pa.Check.ge(0)) for seed in ("split", "draw", "training")},
    }


def _ledger_columns() -> dict[str, pa.Column]:
    """In the order in which the ledger is written."""
    import pandera.pandas as pa

    natural, cosine = pa.Check.ge(0), pa.Check.in_range(-1.001, 1.001)
    return {
        "index": _column("int64", natural, unique=True),
        "label": _column("int64", natural),
        "class_name": _column(str),
        "target": _column(str, nullable=True),
        "sha256": _column(str, pa.Check.str_matches(SHA256)),
        "phash": _column(str, pa.Check.str_matches(r"^[0-9a-f]{16}$")),
        **_provenance_columns(),
        "accepted": _column(bool),
        "reason": _column(str),
        "nearest_test_id": _column(str, nullable=True),
        "nearest_test_similarity": _column(float, cosine, nullable=True),
    }


def _provenance_columns() -> dict[str, pa.Column]:
    """A column for every field of ``Provenance``, which alone says what the ledger keeps of where
    an image came from: its types, choices and limits, as pydantic writes them down."""
    from pydantic import TypeAdapter

    fields = TypeAdapter(Provenance).json_schema()["properties"]
    return {name: _field_column(field) for name, field in fields.items()}


def _field_column(field: dict[str, Any]) -> pa.Column:
    import pandera.pandas as pa

    kinds = [kind for kind in field.get("anyOf", [field]) if kind["type"] != "null"]
    kind, nullable = kinds[0], "anyOf" in field
    checks: dict[str, Callable[[Any], pa.Check]] = {
        "enum": pa.Check.isin,
        "minimum": pa.Check.ge,
        "maximum": pa.Check.le,
        "minLength": lambda length: pa.Check.str_length(min_value=length),
    }
    limits = [check(kind[name]) for name, check in checks.items() if name in kind]
    if kind["type"] == "array":  # ids, kept as JSON
        limits, kind = [pa.Check.str_startswith("[")], {"type": "string"}
    dtype = {"integer": "Int64", "number": float, "string": str}[kind["type"]]
    return _column(dtype, *limits, nullable=nullable)


def _contamination_columns() -> dict[str, pa.Column]:
    """One row per accepted image (``index`` of the ledger) and test image that are too near:
    differing bits of the perceptual hashes, root mean square difference of pixels in 0..1, and
    cosine of the features, of the image as it is or ``mirrored``."""
    import pandera.pandas as pa

    return {
        "index": _column("int64", pa.Check.ge(0)),
        "test_id": _column(str, pa.Check.str_length(min_value=1)),
        "reason": _column(str, pa.Check.isin(["pixels", "perceptual", "cosine"])),
        "distance": _column("int64", pa.Check.in_range(0, 64)),
        "rms": _column(float, pa.Check.in_range(0, 1)),
        "mirrored": _column(bool),
        "similarity": _column(float, pa.Check.in_range(-1.001, 1.001)),
    }
