"""``import augbench``: a run, its results as a table, two methods against each other; and the
commands that read the same results."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import augbench
from benchmark.cli import app
from benchmark.errors import DataError, RecordError, UnknownNameError
from benchmark.run.plan import Conditions
from tests.helpers.roots import write_root

TASK = "shapes-1shot"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Path]:
    """A root with results: two methods with their control, on two splits by one classifier."""
    folder = tmp_path_factory.mktemp("public") / "tiny"
    write_root(folder, root / "pocket", {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_ROOT", str(folder))
        patch.delenv("BENCH_RESULTS", raising=False)
        for method in ("repeat", "repeat[noise=0]"):
            made = augbench.run(
                method, TASK, splits=[0, 1], classifiers=["linear-probe"], jobs=1, quiet=True
            )
            assert {row.method for row in made} == {method, "none"} and len(made) == 4
        yield folder


def test_it_is_light_and_names_what_it_offers() -> None:
    assert augbench.__all__ == sorted(augbench.__all__)
    assert all(hasattr(augbench, name) for name in augbench.__all__)
    code = (
        "import sys, augbench; print(augbench.__version__)\n"
        "sys.exit(str({'torch', 'pandas', 'numpy', 'scipy', 'diffusers'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == augbench.__version__ and done.stderr.strip() == ""


def test_a_run_takes_every_condition_by_name() -> None:
    parameters = inspect.signature(augbench.run).parameters
    assert {field.name for field in fields(Conditions)} < set(parameters)
    assert not any(part.kind is part.VAR_KEYWORD for part in parameters.values())


def test_results_are_a_table_of_rows(tiny: Path) -> None:
    frame = augbench.results().to_pandas()
    assert len(frame) == 6 and set(frame["task"]) == {TASK}
    assert sorted(set(frame["split"])) == [0, 1]
    assert set(frame["draw"]) == set(frame["training"]) == {0}
    assert frame["value"].between(0, 1).all()
    control = frame[frame["method"] == "none"].set_index("split")["value"]
    expected = frame["value"] - frame["split"].map(control)
    pd.testing.assert_series_equal(frame["gain"], expected, check_names=False)
    assert (frame.loc[frame["method"] == "none", "gain"] == 0).all()


def test_results_are_a_sequence_of_records(tiny: Path) -> None:
    found = augbench.results(tiny / "results")
    assert [found[place].record_id for place in range(6)] == [row.record_id for row in found]
    assert isinstance(found[:2], augbench.Results) and len(found[:2]) == 2
    assert "6 records, 6 with a score" in repr(found)


def test_two_methods_are_compared_in_pairs(tiny: Path) -> None:
    (one,) = augbench.compare("repeat", "repeat[noise=0]", TASK)
    (other,) = augbench.compare("repeat[noise=0]", "repeat", TASK)
    frame = augbench.results().to_pandas().pivot(index="split", columns="method", values="value")
    difference = (frame["repeat"] - frame["repeat[noise=0]"]).mean()
    assert (one.task, one.classifier, one.budget) == (TASK, "linear-probe", "S")
    assert one.difference is not None and other.difference is not None
    assert one.difference.value == pytest.approx(difference)
    assert one.difference.value == pytest.approx(-other.difference.value)
    assert one.difference.low <= one.difference.value <= one.difference.high
    assert one.difference.n_splits == 2


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda: augbench.run("repaet", TASK), UnknownNameError, "did you mean 'repeat'"),
        (lambda: augbench.run("repeat", "shapes"), UnknownNameError, "unknown task 'shapes'"),
        (lambda: augbench.compare("repeat", "non", TASK), UnknownNameError, "mean 'none'"),
        (lambda: augbench.compare("repeat", "none", "shapes"), UnknownNameError, TASK),
        (lambda: augbench.results("absent"), DataError, "absent: no such folder"),
    ],
)
def test_errors_name_the_nearest(tiny: Path, call, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        call()


# --- the commands, on the same results ----------------------------------------------------------


def bench(*arguments: str, exit_code: int = 0) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == exit_code, done.output
    return done.output


RUN = ("run", "-m", "repeat", "-t", TASK, "--classifier", "linear-probe", "--quiet")


def test_a_run_names_the_folder_once(tiny: Path) -> None:
    shown = bench(*RUN, "--splits", "2")
    assert "0 records made, 4 found, 0 without a score" in shown
    assert shown.count(str(tiny / "results")) == 1 and "record.json" not in shown
    assert "means over splits with 95 % intervals" in shown and "*" not in shown


def test_an_interval_over_one_split_says_what_it_does_not_cover(tiny: Path) -> None:
    shown = bench(*RUN, "--splits", "1")
    assert "95 %" not in shown and "means over splits" not in shown
    assert "]*" in shown and "says nothing of other splits" in " ".join(shown.split())


def test_the_paths_are_for_programs(tiny: Path) -> None:
    told = json.loads(bench(*RUN, "--splits", "2", "--json"))
    assert told["folder"] == str(tiny / "results") and len(told["paths"]) == 4
    assert all(Path(path).is_file() for path in told["paths"])


def test_what_is_found_is_not_made_in_a_dry_run(tiny: Path) -> None:
    told = json.loads(bench(*RUN, "--splits", "3", "--dry-run", "--json"))
    assert told["totals"]["found"] == 4 and told["totals"]["rows_to_run"] == 2
    sets = {line["method"]: line["sets"] for line in told["methods"]}
    assert sets["repeat"] == 1


def test_the_site_says_what_it_read_and_its_verdict(tiny: Path) -> None:
    (tiny / "submissions").mkdir(exist_ok=True)
    shown = bench("site").splitlines()
    assert f"{tiny / 'results'}: 6 records" in shown
    assert any(line.startswith(f"{tiny / 'submissions'}: not read") for line in shown)
    assert "No contest yet" in shown[-2]
    assert shown[-1] == str(tiny / "site" / "index.html") and Path(shown[-1]).is_file()
    named = bench("site", str(tiny / "results"), str(tiny / "submissions"))
    assert f"{tiny / 'submissions'}: 0 records" in named and "not read" not in named


def test_an_empty_folder_is_not_in_order(tiny: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["validate", str(tmp_path)])
    assert isinstance(done.exception, RecordError) and str(tmp_path) in str(done.exception)
    assert "6 records in order" in bench("validate")
