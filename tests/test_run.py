"""The command line on a root of its own: records, resumption, broken methods, interruption."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.errors import DataError
from benchmark.records.store import read_results
from tests.helpers.runs import plan_in, run_in

HEADER = """
import numpy as np, os, signal, time
from benchmark import Facts, Images, Provenance, Unavailable
FACTS = Facts(title="A method of the tests", family="classical")
FROM = Provenance("transformed", "test")

def images(shots, count=1, label=0):
    return Images(np.repeat(shots.images[:1], count, 0), [label] * count, [FROM] * count)

def augment(shots, upstream, meter, rng, params):
"""

FAULTY = {
    "wrong_shape": ("yield Images(np.zeros((1, 8, 8, 3), np.uint8), [0], [FROM])", "32"),
    "not_finite": ("yield Images(np.full((1, 32, 32, 3), np.nan), [0], [FROM])", "finite"),
    "wrong_label": ("yield images(shots, label=3)", "label"),
    "nothing": ("yield from ()", "yielded no image"),
    "raises": ("yield images(shots); raise RuntimeError('midway')", "midway"),
    "exits": ("yield images(shots); raise SystemExit('enough')", "SystemExit: enough"),
    "dies": ("yield images(shots); os._exit(7)", "exit code 7"),
    "hangs_hard": (
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM}); time.sleep(600); "
        "yield images(shots)",
        "no progress for 2 seconds",
    ),
    "hangs": ("yield images(shots); time.sleep(600)", "no image for 2 seconds"),
}
CAPPED = {
    "too_much": ("for label in (0, 1, 2): yield images(shots, 50, label)", "images"),
    "overspends": (
        "once = int(meter.budget.tflops * 4e11)\n"
        "    while True: meter.charge(flops=once, nfe=7); yield images(shots, 1, 1)",
        "tflops",
    ),
}


@pytest.fixture
def bench(tmp_path):
    """A function that runs ``bench`` in a root, with results and cache of this test's own."""

    def call(root: Path, *arguments: str, results: str = "results", **options):
        process = start(root, *arguments, results=results, **options)
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def start(root: Path, *arguments: str, results: str = "results", before=lambda: None):
        """``before`` is called in the command's process, before it becomes the command."""

        def prepare():
            # as under a terminal: a shell's background job is started deaf to interrupts
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            before()

        environment = os.environ | {
            "BENCH_ROOT": str(root),
            "BENCH_RESULTS": str(tmp_path / results),
            "BENCH_CACHE": str(tmp_path / "cache"),
            "COLUMNS": "200",
        }
        command = [sys.executable, "-m", "benchmark.cli", *arguments]
        return subprocess.Popen(
            command,
            env=environment,
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=prepare,
        )

    call.start = start
    call.results = tmp_path
    return call


def method(body: str) -> str:
    return HEADER + "    " + body + "\n"


def scores(folder: Path) -> dict[str, tuple]:
    """What must be equal between two runs: ids, counts and the hashes of both tables."""
    return {
        stored.record.record_id: (
            stored.record.status,
            stored.record.n_correct,
            stored.record.predictions_hash,
            stored.record.ledger_hash,
        )
        for stored in read_results(folder)
    }


RUN = ("run", "--method", "repeat", "--task", "shapes-1shot", "--jobs", "1")


def test_a_run_prints_its_result_and_the_same_command_finds_it(tiny_root, bench):
    root = tiny_root()
    first = bench(root, *RUN)
    assert first.returncode == 0, first.stderr
    assert re.search(r"repeat .*\d+\.\d \[", first.stdout)
    assert str(bench.results / "results") in first.stdout
    stored = read_results(bench.results / "results")
    assert len(stored) == 2 * 2 * 2  # method and control, splits, classifiers
    for entry in stored:
        record, predictions = entry.record, entry.predictions()
        assert record.n_test == len(predictions) == 18
        assert record.n_correct == (predictions.label == predictions.prediction).sum()
        assert record.images_accepted == len(entry.images()) == entry.ledger().accepted.sum()
        assert record.images_accepted == (6 if record.method == "repeat" else 0)
        flagged = entry.flagged()
        assert record.flagged_pairs == len(flagged)
        clean = predictions[~predictions.id.isin(flagged.test_id)]
        assert record.n_clean == len(clean)
        assert record.value_clean == (clean.label == clean.prediction).mean()
    before = scores(bench.results / "results")
    again = bench(root, *RUN, "--json")
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert summary["made"] == 0 and len(summary["records"]) == 8
    assert scores(bench.results / "results") == before
    elsewhere = bench(root, *RUN, "--quiet", results="elsewhere")
    assert elsewhere.returncode == 0 and elsewhere.stderr == ""
    assert scores(bench.results / "elsewhere") == before


def test_parameters_name_another_trial(tiny_root, bench):
    root = tiny_root()
    one = ("--splits", "0,", "--classifier", "linear-probe")
    done = bench(root, *RUN[:2], "repeat[noise=3]", *RUN[3:], *one)
    assert done.returncode == 0, done.stderr
    records = [stored.record for stored in read_results(bench.results / "results")]
    assert sorted(record.method for record in records) == ["none", "repeat[noise=3]"]
    assert {record.params.get("noise") for record in records} == {None, 3}


def test_faulty_methods_fail_alone_and_are_shown(tiny_root, bench, edit):
    bodies = {name: method(body) for name, (body, _) in (FAULTY | CAPPED).items()}
    bodies["elsewhere"] = method("raise Unavailable('only for flags'); yield")
    root = tiny_root(**bodies)
    limits = "stall_seconds = 2\nstall_grace_seconds = 5"
    edit(root / "bench.toml", 'control = "none"', f'control = "none"\n{limits}')
    names = ",".join([*bodies, "repeat"])
    command = (
        "sweep",
        "--methods",
        names,
        "--tasks",
        "shapes-1shot",
        "--splits",
        "0,",
        "--classifier",
        "linear-probe",
        "--jobs",
        "2",
    )
    done = bench(root, *command)
    assert done.returncode == 1, done.stderr
    stored = {entry.record.method: entry for entry in read_results(bench.results / "results")}
    assert set(stored) == {*bodies, "repeat", "none"}
    for name, (_, word) in FAULTY.items():
        record = stored[name].record
        assert (record.status, record.value) == ("failed", None)
        assert word in record.reason and name in done.stderr
    for name, (_, unit) in CAPPED.items():
        record = stored[name].record
        assert (record.status, record.cap) == ("capped", unit)
        assert record.value is not None and record.images_accepted > 0
    assert stored["elsewhere"].record.status == "skipped"
    assert stored["elsewhere"].record.reason == "only for flags"
    assert (stored["too_much"].ledger().reason != "").sum() == 3 * 48
    assert stored["too_much"].record.rejects == {"cap": 3 * 48}
    assert stored["overspends"].record.nfe == 14
    assert "time.sleep" in (root / "methods" / "hangs_hard.py").read_text()
    assert "hangs_hard.py" in stored["hangs_hard"].record.reason, "where it hung"

    # A failure is never reused: fixed, it is run again, and the rest is found.
    (root / "methods" / "raises.py").write_text(method("yield images(shots)"))
    fixed = json.loads(
        bench(
            root,
            "run",
            "--method",
            "raises",
            "--task",
            "shapes-1shot",
            "--splits",
            "0,",
            "--classifier",
            "linear-probe",
            "--json",
        ).stdout
    )
    assert fixed["made"] == 1


def test_a_part_that_is_missing_does_not_hide_that_another_is_damaged(tiny_root, tmp_path, edit):
    """Methods that generate are skipped; what those that search need is looked at all the same."""
    uses = 'family="classical", uses=("{}",)'
    parts = {part: method("yield images(shots)") for part in ("generator", "index")}
    for part in parts:
        parts[part] = parts[part].replace('family="classical"', uses.format(part))
    root = tiny_root(**parts)
    (root / "damaged.parquet").write_bytes(b"PAR1 but not more")
    edit(root / "bench.toml", "pocket/corpus/train.parquet", "damaged.parquet")
    text = (root / "bench.toml").read_text()
    start = text.index("[upstream.pocket.generator]")
    (root / "bench.toml").write_text(text[:start] + text[text.index("[budget.S]") :])
    cells = plan_in(root, list(parts), splits=[0])
    with pytest.raises(DataError, match="damaged.parquet"):
        run_in(root, cells, tmp_path / "results")
    assert not list((tmp_path / "results").rglob("*.json"))


def test_killed_again_and_again_the_same_command_finishes(tiny_root, bench):
    root = tiny_root()
    command = (*RUN, "--quiet")
    assert bench(root, *command, results="undisturbed").returncode == 0
    moments = random.Random(0)
    for _ in range(int(os.environ.get("BENCH_KILLS", "3"))):
        process = bench.start(root, *command)
        time.sleep(moments.uniform(0.5, 14.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert bench(root, *command).returncode == 0
    assert scores(bench.results / "results") == scores(bench.results / "undisturbed")
    left = [path for path in (bench.results / "results").rglob("*") if ".tmp-" in path.name]
    assert left == []


@pytest.mark.parametrize("phase", ["start", "augment", "evaluate"])
def test_an_interrupt_ends_the_run_in_order(tiny_root, bench, phase):
    root = tiny_root(slow=method("yield images(shots); time.sleep(60)"))
    command = ("run", "-m", "slow", "-t", "shapes-1shot", "--splits", "0,", "--jobs", "1")
    process = bench.start(root, *command)
    assert "4 records planned" in process.stderr.readline()
    wanted = {"start": "", "augment": "augment", "evaluate": "record.json"}[phase]
    deadline = time.monotonic() + 300
    while wanted and not list((bench.results / "results").rglob(wanted)):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "continues" in err and "Traceback" not in err
    for stored in read_results(bench.results / "results"):
        assert len(stored.predictions()) == stored.record.n_test


def test_two_runs_at_once_in_one_folder(tiny_root, bench):
    root = tiny_root()
    processes = [bench.start(root, *RUN, "--json") for _ in range(2)]
    told = []
    for process in processes:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        told.append(json.loads(out))
    assert told[0]["records"] == told[1]["records"]
    assert len(read_results(bench.results / "results")) == 8


def test_a_full_disk_is_told_and_leaves_nothing(tiny_root, bench):
    import resource

    root = tiny_root()
    limit = (6000, 6000)  # bytes a file may hold: a real write fails, as on a full disk

    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    done = bench(root, *RUN, before=full)
    assert done.returncode == 1
    assert "disk is full" in done.stderr and "Traceback" not in done.stderr
    assert not list((bench.results / "results").rglob("record.json"))
    assert bench(root, *RUN, "--quiet").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "-m", "repeet", "-t", "shapes-1shot"), ["unknown method 'repeet'", "'repeat'"]),
        (("run", "-m", "repeat", "-t", "shape-1shot"), ["unknown task", "'shapes-1shot'"]),
        (("run", "-m", "repeat[nose=1]", "-t", "shapes-1shot"), ["'nose'", "'noise'"]),
        (("run", "-m", "repeat[noise=99]", "-t", "shapes-1shot"), ["noise", "99", "64"]),
        (("run", "-m", "repeat[noise", "-t", "shapes-1shot"), ["name[key=value"]),
        ((*RUN, "--budget", "XL"), ["unknown budget 'XL'", "S"]),
        ((*RUN, "--classifier", "resnet"), ["unknown classifier", "'resnet-scratch'"]),
        ((*RUN, "--upstream", "pockt"), ["unknown upstream", "'pocket'"]),
        ((*RUN, "--splits", "none"), ["'--splits'", "'none'"]),
        ((*RUN, "--splits", "1,1"), ["'--splits'", "'1,1'"]),
        (("show", "repeet"), ["'repeat'"]),
        (("runn",), ["runn"]),
    ],
)
def test_wrong_usage_is_one_clear_message(tiny_root, bench, arguments, words):
    done = bench(tiny_root(), *arguments)
    assert done.returncode == 2
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_a_dry_run_makes_nothing(tiny_root, bench):
    done = bench(tiny_root(), *RUN, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["rows"]) == 8
    assert not (bench.results / "results").exists()


def test_missing_data_is_an_error_with_its_path(tiny_root, bench):
    root = tiny_root()
    (root / "data" / "shapes.parquet").unlink()
    done = bench(root, *RUN)
    assert done.returncode == 1
    assert "shapes.parquet" in done.stderr and "Traceback" not in done.stderr


def test_help_and_list_start_without_torch(tiny_root):
    root = tiny_root()
    code = (
        "import sys; from benchmark import cli\n"
        "sys.argv = ['bench', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'pandas', 'datasets', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    for arguments in (["--help"], ["list"], ["show", "repeat"]):
        environment = os.environ | {"BENCH_ROOT": str(root)}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[1],
        )
        assert done.returncode == 0, done.stderr
