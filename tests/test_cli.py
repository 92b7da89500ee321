"""The command line: its help, options, forecasts, progress, and how it names what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import typer.main
from typer.testing import CliRunner

from benchmark.cli import app, names
from benchmark.cli.console import ProgressListener
from benchmark.records.record import Record, read_record
from tests.helpers.records import GOLDEN, UNSCORED

BY_CLASS = """
import benchmark
FACTS = benchmark.Facts(title="Painted", family="prompt", uses=("generator",), uses_shots=False)

class Params(benchmark.Params):
    steps: int = benchmark.param(4, help="denoising steps", ge=1)

def augment(shots, upstream, meter, rng, params):
    raise NotImplementedError
    yield
"""
RUN = ("run", "-m", "repeat", "-t", "shapes-1shot")
Bench = Callable[..., "object"]


@pytest.fixture
def bench(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A function that runs ``bench`` in a tiny root."""
    monkeypatch.setenv("BENCH_ROOT", str(shapes))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "results"))
    return lambda *arguments: CliRunner().invoke(app, arguments)


def commands(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it, groups too."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def words(text: str) -> str:
    """Without the frames of tables, and with single spaces."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


# --- help ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_every_word_that_the_source_says(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In brackets too, which some markups drop."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 400)
    shown = CliRunner().invoke(app, [*path, "--help"])
    command = COMMANDS[path]
    assert shown.exit_code == 0
    for name, text in [("help", command.help), *((p.name, p.help) for p in command.params)]:
        assert text, f"{name} has no help"
        assert words(text) in words(shown.output), name


def test_there_is_a_command_for_each_task() -> None:
    tops = {path[0] for path in COMMANDS if path}
    assert {"run", "sweep", "new", "check", "site", "doctor", "docs"} <= tops
    assert len(COMMANDS) > 15


def test_run_and_sweep_take_the_same_options() -> None:
    shared = [
        {
            param.name: (param.opts, param.help, param.default)
            for param in COMMANDS[name,].params
            if param.name not in own
        }
        for name, own in (("run", ("method", "task")), ("sweep", ("methods", "tasks")))
    ]
    assert shared[0] == shared[1]
    assert not {"options", "values"} & set(shared[0])
    assert {"splits", "draws", "trainings", "budget", "dry_run", "as_json", "quiet"} <= set(
        shared[0]
    )


def test_names_are_completed(shapes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCH_ROOT", str(shapes))
    assert names.methods("re") == ["repeat"]
    assert names.methods("none,r") == ["none,repeat"]
    assert names.tasks("shapes-3") == ["shapes-3shot"]
    assert names.budgets("") == ["S"] and names.upstreams("p") == ["pocket"]
    assert names.classifiers("l") == ["linear-probe"]
    monkeypatch.setenv("BENCH_ROOT", str(tmp_path))
    assert names.methods("") == []  # no root: the command says so, the shell stays quiet


# --- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((*RUN, "--splits", "x"), ["--splits", "'x'", "'5'", "'0,1,7'", "'7,'"]),
        ((*RUN, "--draws", "1,1"), ["--draws", "'1,1'"]),
        ((*RUN, "--trainings", "0"), ["--trainings", "'0'"]),
        ((*RUN, "--splits", "-1,2"), ["--splits", "'-1,2'"]),
        ((*RUN, "--device", "gpu"), ["--device", "'gpu'", "cuda:0", "mps"]),
        ((*RUN, "--jobs", "0"), ["--jobs", "1"]),
        ((*RUN, "--results", __file__), ["--results", "is a file"]),
        (("site", "absent"), ["'absent'", "no such folder"]),
        (("validate", "bench.toml"), ["'bench.toml'"]),
        (("pack", "absent", "x"), ["'absent'", "no such folder"]),
        (("new", "method", "My-Way"), ["'My-Way'", "small letters", "'my_way'"]),
        (("new", "method", "_help"), ["'_help'", "'help'"]),
        (("new", "method", "lambda"), ["'lambda'", "'lambda_method'"]),
        (("new", "method", "all"), ["'all'"]),
    ],
)
def test_wrong_usage_names_value_and_choices(
    bench: Bench, arguments: tuple[str, ...], told: list[str]
) -> None:
    done = bench(*arguments)
    assert done.exit_code == 2
    shown = words(done.output)
    assert all(word in shown for word in told), shown


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((*RUN, "--budget", "XL"), "unknown budget 'XL'; known: S"),
        (
            (*RUN, "--classifier", "linear-prob"),
            "unknown classifier 'linear-prob'; did you mean 'lin",
        ),
        ((*RUN, "--upstream", "pockt"), "unknown upstream 'pockt'; did you mean 'pocket'"),
        ((*RUN, "--device", "cuda:77"), "'cuda:77': torch sees "),
        (("check", "repaet"), "unknown method 'repaet'; did you mean 'repeat'"),
        (("check", "repeat[nois=1]"), "unknown key 'nois'; did you mean 'noise'"),
        (
            ("check", "repeat", "-t", "shape-1shot"),
            "unknown task 'shape-1shot'; did you mean 'shapes",
        ),
        (("show", "repaet"), "did you mean 'repeat'"),
        (("validate",), "no record; bench run makes results"),
        (("docs", "methods"), "costs.json: cannot be read"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(
    bench: Bench, arguments: tuple[str, ...], told: str
) -> None:
    assert told in str(bench(*arguments).exception)


# --- a dry run ----------------------------------------------------------------------------------


def planned(bench: Bench, *arguments: str) -> dict:
    done = bench("sweep", "--tasks", "shapes-1shot", *arguments, "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def by_method(plan: dict) -> dict[str, dict]:
    return {line["method"]: line for line in plan["methods"]}


def write_costs(root: Path, **methods: dict) -> None:
    """As ``bench docs costs`` leaves them: of a cell whose images cost 10 TFLOPs from plain
    prompts."""
    cell = {"task": "shapes-1shot", "upstream": "pocket", "budget": "S", "seed": 0}
    cost = {"method_hash": "0" * 64, "version": 1, "params": {"steps": 4}, "status": "ok"}
    methods = {name: cost | method for name, method in methods.items()}
    (root / "docs").mkdir()
    path = root / "docs" / "costs.json"
    path.write_text(json.dumps(cell | {"plain_tflops": 10, "methods": methods}))


def test_a_dry_run_counts_what_is_shared_once(bench: Bench, shapes: Path) -> None:
    (shapes / "methods" / "paint.py").write_text(BY_CLASS)
    plan = planned(bench, "--splits", "3", "--draws", "2")
    lines = by_method(plan)
    # three splits, two draws, two classifiers; of what draws nothing by chance one draw
    assert {name: line["rows_to_run"] for name, line in lines.items()} == {
        "none": 12,
        "repeat": 12,
        "paint": 12,
    }
    assert lines["repeat"]["sets"] == 6 and lines["repeat"]["images"] == 6 * 2 * 3
    assert lines["paint"]["sets"] == 2 and lines["paint"]["images"] == 2 * 2 * 3
    assert lines["none"]["images"] == 0
    assert plan["totals"]["rows_to_run"] == len(plan["rows"]) == 36
    assert plan["totals"]["images"] == 36 + 12
    assert {row["state"] for row in plan["rows"]} == {"to run"}


def test_a_dry_run_decodes_no_image(
    bench: Bench, shapes: Path, change_rows: Callable[..., None]
) -> None:
    def damage(rows: list[dict]) -> None:
        for row in rows:
            row["image"] = {"bytes": b"no image", "path": None}

    change_rows(shapes, damage)
    assert planned(bench)["totals"]["rows_to_run"] == 2 * 2 * 2


def test_a_dry_run_predicts_from_counted_costs(bench: Bench, shapes: Path) -> None:
    (shapes / "methods" / "paint.py").write_text(BY_CLASS)
    write_costs(shapes, paint={"phases": {"generate": {"tflops": 30, "nfe": 9}}})
    plan = planned(bench, "--methods", "repeat,paint,paint[steps=9]", "--splits", "2")
    lines = by_method(plan)
    paint, other = lines["paint"], lines["paint[steps=9]"]
    plain = paint["tflops_cap_per_set"] / 400  # the tier's multiple
    assert paint["tflops_per_set"] == pytest.approx(3 * plain)
    assert lines["repeat"]["tflops_per_set"] == 0  # it uses no model
    assert other["tflops_per_set"] is None
    assert plan["totals"]["tflops_predicted"] == pytest.approx(3 * plain)
    assert plan["totals"]["tflops_at_most"] == pytest.approx((3 + 400) * plain)
    shown = bench("sweep", "--tasks", "shapes-1shot", "--dry-run").stdout
    assert f"{3 * plain:,.4g}" in shown and "in all" in shown


def test_a_prediction_never_passes_the_cap(bench: Bench, shapes: Path) -> None:
    (shapes / "methods" / "paint.py").write_text(BY_CLASS)
    write_costs(shapes, paint={"phases": {"fit": {"tflops": 5000, "nfe": 0}}})
    line = by_method(planned(bench, "--methods", "paint"))["paint"]
    assert line["tflops_per_set"] == line["tflops_cap_per_set"] > 0


def test_an_older_version_predicts_nothing(bench: Bench, shapes: Path) -> None:
    (shapes / "methods" / "paint.py").write_text(
        BY_CLASS.replace("uses_shots", "version=2, uses_shots")
    )
    write_costs(shapes, paint={"phases": {}})
    assert by_method(planned(bench, "--methods", "paint"))["paint"]["tflops_per_set"] is None


# --- progress -----------------------------------------------------------------------------------


def row(**changes: object) -> Record:
    values = json.loads((GOLDEN / "record-v2.json").read_text())
    return read_record(json.dumps(values | changes), "made")


def test_in_a_pipe_there_is_a_line_for_each_thing_that_happens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ProgressListener() as listener:
        listener.planned(3, 1)
        listener.loading("pocket: corpus, index")
        listener.loading("")
        listener.progress(7, "a", "augment", 1, 2)  # every 30 seconds, not each
        listener.ended(1)
        listener.finished(row())
        listener.ended(0)
        listener.finished(row(**UNSCORED, status="failed", reason="it [broke]"))
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert lines[:2] == ["3 records planned, 1 found", "loading pocket: corpus, index"]
    assert len(lines) == 4  # however wide
    assert re.search(r"^✓ .* · paint\[steps=2\] .* \(2/3, about \d+ s left\)$", lines[2])
    assert re.search(r"^✗ .* failed: it \[broke\]$", lines[3])
    assert shown.out == ""


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressListener(quiet=True) as listener:
        listener.planned(1, 0)
        listener.loading("pocket")
        listener.ended(0)
        listener.finished(row())
    assert capsys.readouterr() == ("", "")


# --- doctor and docs ----------------------------------------------------------------------------

UPSTREAMS = """
[upstream.unpinned]
title = "Without a revision"
encoder = { model = "hf-hub:somebody/encoder" }

[upstream.away]
title = "On the Hub"
encoder = { model = "local-dir:pocket/clip" }
corpus = { hub = "somebody/corpus", revision = "0123456789012345678901234567890123456789" }
"""


def test_doctor_tells_each_upstream_and_what_to_fetch(bench: Bench, shapes: Path) -> None:
    with (shapes / "bench.toml").open("a") as file:
        file.write(UPSTREAMS)
    done = bench("doctor", "--json")
    assert done.exit_code == 1, done.output
    found = [check for check in json.loads(done.stdout) if check["subject"].startswith("upstream")]
    pocket, unpinned, away = found
    assert (pocket["subject"], pocket["status"]) == ("upstream pocket", "ok")
    assert (unpinned["subject"], unpinned["status"]) == ("upstream unpinned", "wrong")
    assert "somebody/encoder" in unpinned["finding"] and "[upstream.unpinned]" in unpinned["remedy"]
    assert (away["subject"], away["status"]) == ("upstream away", "note")
    revision = "0123456789012345678901234567890123456789"
    command = f"hf download somebody/corpus --revision {revision} --repo-type dataset"
    assert away["remedy"] == command


def test_doctor_tells_missing_data(bench: Bench, shapes: Path) -> None:
    (shapes / "data" / "shapes.parquet").unlink()
    done = bench("doctor")
    assert done.exit_code == 1
    assert "data shapes" in done.stdout and "no such file" in done.stdout


def test_docs_are_written_in_a_checkout(bench: Bench, shapes: Path, tmp_path: Path) -> None:
    write_costs(shapes)
    done = bench("docs", "methods", "--out", str(tmp_path / "methods.md"))
    assert done.exit_code == 0, done.output
    text = words((tmp_path / "methods.md").read_text())
    assert "`repeat`" in text and "`bench docs costs` counts" in text


@pytest.mark.parametrize("command", ["methods", "costs", "sheets"])
def test_docs_are_refused_in_an_installed_package(
    command: str, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_ROOT", str(shapes))
    monkeypatch.setattr("benchmark.cli.docs.is_packaged", lambda root: root == shapes)
    done = CliRunner().invoke(app, ["docs", command])
    assert "read-only copy of an installed package" in str(done.exception)
    assert not (shapes / "docs").exists()
