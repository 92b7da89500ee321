"""Nothing finished is lost: folders, files and tables of images, with faults injected."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark import files
from benchmark.errors import RecordError, StorageError
from benchmark.files import (
    MANIFEST,
    ROW_GROUP,
    is_stored,
    new_file,
    read_image_batches,
    recover,
    set_aside,
    sweep,
    verify_folder,
    write_file,
    write_folder,
    write_images,
)
from benchmark.images import encode_png


def holding(text: str):
    """What fills a folder with one file."""
    return lambda folder: (folder / "x").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run_child(code: str, *arguments: object) -> int:
    """The exit status of a process that runs ``code`` with this package."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[1])}
    return subprocess.run(command, env=environment, timeout=60).returncode


# Writes argv[1] and kills itself as it calls os.replace for the argv[2]-th time.
KILLED = """
import os, signal, sys
from pathlib import Path
from benchmark.files import write_file, write_folder
replace, calls = os.replace, []

def replace_or_die(source, target):
    calls.append(source)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = replace_or_die
final = Path(sys.argv[1])
if final.suffix:
    write_file(final, b"new")
else:
    write_folder(final, lambda folder: (folder / "x").write_text("new"))
"""


@pytest.fixture
def final(tmp_path) -> Path:
    """A finished folder that is to be replaced."""
    write_folder(tmp_path / "final", holding("old"))
    return tmp_path / "final"


@pytest.fixture
def fail_replace(monkeypatch):
    """A function that has one call of ``os.replace`` from now on, counted from 1, raise."""
    replace = os.replace

    def arm(number: int, error: BaseException) -> None:
        calls: list[object] = []

        def failing(source: Path, target: Path) -> None:
            calls.append(source)
            if len(calls) == number:
                raise error
            replace(source, target)

        monkeypatch.setattr(os, "replace", failing)

    return arm


# --- folders ------------------------------------------------------------------------------------


def test_a_folder_is_replaced_and_nothing_else_is_left(final):
    write_folder(final, holding("new"))
    assert (final / "x").read_text() == "new"
    assert names(final.parent) == ["final"]


def test_nothing_is_left_of_a_folder_that_fails(tmp_path):
    def fill(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="disk is full"):
        write_folder(tmp_path / "t" / "final", fill)
    assert names(tmp_path / "t") == []


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(5, "Input/output error"), StorageError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_the_old_folder_stays_where_a_rename_fails(final, fail_replace, number, error, raised):
    fail_replace(number, error)
    with pytest.raises(raised):
        write_folder(final, holding("new"))
    assert (final / "x").read_text() == "old"
    assert names(final.parent) == ["final"]


def test_the_old_folder_comes_back_where_even_its_return_fails(final, monkeypatch):
    replace, calls = os.replace, []

    def failing(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) > 1:
            raise OSError(30, "Read-only file system")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(StorageError, match="Read-only"):
            write_folder(final, holding("new"))
    assert not final.exists()
    recover(final)
    assert (final / "x").read_text() == "old"
    assert names(final.parent) == ["final"]


def test_an_interrupt_at_any_line_leaves_the_old_folder_or_the_new(tmp_path):
    """An interrupt is raised at the first line of the module that runs, then at the second, ..."""
    module, seen = files.__file__, 0

    def interrupted_at(line: int, final: Path) -> bool:
        passed = 0

        def trace(frame, event, argument):
            nonlocal passed
            if frame.f_code.co_filename != module:
                return None
            if event == "line":
                passed += 1
                if passed == line:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            write_folder(final, holding("new"))
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    for line in range(1, 1000):
        final = tmp_path / str(line) / "final"
        write_folder(final, holding("old"))
        interrupted = interrupted_at(line, final)
        recover(final)
        seen += (final / "x").read_text() == "new"
        sweep(final.parent)
        assert names(final.parent) == ["final"] and names(final) == ["x"], f"line {line}"
        if not interrupted:
            break
    assert not interrupted and 1 < seen < line - 1  # interrupts before the exchange, and after


@pytest.mark.parametrize(("number", "left"), [(1, "old"), (2, "old"), (3, "new")])
def test_a_folder_survives_a_kill_between_the_renames(final, number, left):
    """The third takes place when the new folder is in place, before the old one is deleted."""
    assert run_child(KILLED, final, number) == -signal.SIGKILL
    assert final.exists() == (number != 2)
    recover(final)
    assert (final / "x").read_text() == left
    sweep(final.parent)
    assert names(final.parent) == ["final"]


def test_a_writer_recovers_what_was_there_before_it_fails(final):
    run_child(KILLED, final, 2)
    assert not final.exists()
    with pytest.raises(ZeroDivisionError):
        write_folder(final, lambda folder: 1 / 0)
    assert (final / "x").read_text() == "old"


def test_a_sweep_puts_back_what_was_moved_away(final):
    run_child(KILLED, final, 2)
    sweep(final.parent)
    assert (final / "x").read_text() == "old" and names(final.parent) == ["final"]


def test_a_sweep_that_can_put_nothing_back_deletes_nothing(final, fail_replace):
    run_child(KILLED, final, 2)
    fail_replace(1, OSError(5, "Input/output error"))
    sweep(final.parent)
    recover(final)
    assert (final / "x").read_text() == "old"


def test_what_is_there_is_never_exchanged_for_what_was_before(final):
    run_child(KILLED, final, 2)
    (moved,) = final.parent.glob("*-before")
    (final.parent / "final").mkdir()
    recover(final)
    assert moved.exists() and names(final) == []
    sweep(final.parent)
    assert names(final.parent) == ["final"]


def test_a_folder_that_is_a_link_or_a_file_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    for name in ("link", "dangling", "file"):
        write_folder(tmp_path / name, holding(name))
        assert (tmp_path / name / "x").read_text() == name
    assert names(tmp_path) == ["dangling", "elsewhere", "file", "link"]
    assert names(tmp_path / "elsewhere") == []


def test_writers_leave_the_temporaries_of_other_names_alone(tmp_path):
    """``linear`` is the beginning of ``linear-probe``: both are written at once."""
    inside, done, faults = threading.Event(), threading.Event(), []

    def slow(folder: Path) -> None:
        (folder / "x").write_text("probe")
        inside.set()
        done.wait(30)

    def write() -> None:
        try:
            write_folder(tmp_path / "linear-probe", slow)
        except BaseException as error:
            faults.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    inside.wait(30)
    for name in ("linear", "linear-probe-2"):
        write_folder(tmp_path / name, holding(name))
    sweep(tmp_path)
    done.set()
    writer.join()
    assert not faults
    assert names(tmp_path) == ["linear", "linear-probe", "linear-probe-2"]


# --- temporaries --------------------------------------------------------------------------------

WAITING = """
import sys
from pathlib import Path
from benchmark.files import new_file, write_folder

def wait(path):
    (path / "half" if path.is_dir() else path).write_text("half")
    print("ready", flush=True)
    sys.stdin.readline()

final = Path(sys.argv[1])
if final.suffix:
    with new_file(final) as temporary:
        temporary.touch()
        wait(temporary)
else:
    write_folder(final, wait)
"""


@pytest.mark.parametrize("name", ["folder", "file.json"])
def test_a_live_process_keeps_its_temporary_and_a_dead_one_does_not(tmp_path, name):
    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, tmp_path / name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as writer:
        assert writer.stdout.readline() == b"ready\n"
        (temporary,) = tmp_path.iterdir()
        old = 946_684_800  # the year 2000: age does not count while the process lives
        os.utime(temporary, (old, old))
        sweep(tmp_path)
        assert temporary.exists()
        writer.kill()
        os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)  # a zombie is as good as gone
        sweep(tmp_path)
        assert names(tmp_path) == []


def test_a_file_that_a_kill_left_is_swept_by_a_later_process(tmp_path):
    assert run_child(KILLED, tmp_path / "a.json", 1) == -signal.SIGKILL
    assert len(names(tmp_path)) == 1 and not (tmp_path / "a.json").exists()
    assert run_child(KILLED, tmp_path / "b.json", 0) == 0
    assert names(tmp_path) == ["b.json"]


def test_temporaries_of_another_machine_are_left_for_a_day(tmp_path, monkeypatch):
    foreign = tmp_path / f".tmp-a.json-{'0' * 8}-{2**22 + 1}-{'1' * 8}"
    foreign.write_text("half")
    sweep(tmp_path)
    assert foreign.exists()
    now = files.time.time()
    monkeypatch.setattr(files.time, "time", lambda: now + 25 * 3600)
    sweep(tmp_path)
    assert names(tmp_path) == []


def test_a_folder_that_another_machine_moved_away_is_left_for_some_minutes(tmp_path, monkeypatch):
    moved = tmp_path / f".tmp-final-{'0' * 8}-{2**22 + 1}-{'1' * 8}-before"
    moved.mkdir()
    (moved / "x").write_text("old")
    recover(tmp_path / "final")
    sweep(tmp_path)
    assert names(tmp_path) == [moved.name]
    now = files.time.time()
    monkeypatch.setattr(files.time, "time", lambda: now + 3600)
    recover(tmp_path / "final")
    assert (tmp_path / "final" / "x").read_text() == "old" and len(names(tmp_path)) == 1


@pytest.mark.parametrize("name", [".tmp-notes", ".tmp-a-before", "x.tmp-a-1-2", "plain"])
def test_names_that_are_not_its_own_are_not_swept(tmp_path, name):
    (tmp_path / name).mkdir()
    sweep(tmp_path)
    assert names(tmp_path) == [name]


def test_recovery_of_nothing_is_nothing(tmp_path):
    recover(tmp_path / "none" / "final")
    recover(tmp_path / "final")
    sweep(tmp_path / "none")
    assert names(tmp_path) == []


def test_a_file_is_whole_or_as_it_was(tmp_path, fail_replace):
    path = tmp_path / "a" / "x.json"
    write_file(path, b"old")
    with pytest.raises(ZeroDivisionError), new_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    fail_replace(1, OSError(13, "Permission denied"))
    with pytest.raises(StorageError, match="Permission denied"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old" and names(path.parent) == ["x.json"]


# --- damage -------------------------------------------------------------------------------------


def test_what_is_damaged_is_set_aside_under_a_free_name(tmp_path):
    for number in range(3):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x").write_text(str(number))
        set_aside(tmp_path / "a")
    assert names(tmp_path) == ["a.damaged", "a.damaged.2", "a.damaged.3"]
    assert [(tmp_path / name / "x").read_text() for name in names(tmp_path)] == ["0", "1", "2"]
    with pytest.raises(StorageError):
        set_aside(tmp_path / "a")


@pytest.mark.parametrize(
    ("path", "stored"),
    [
        ("t/linear-probe/record.json", True),
        ("t/damaged/record.json", True),
        ("t/.tmp-linear-probe-0-1-2/record.json", False),
        ("t/linear-probe.damaged/record.json", False),
        ("t/linear-probe.damaged.12/record.json", False),
    ],
)
def test_searches_pass_over_what_is_not_stored(path, stored):
    assert is_stored(Path(path)) == stored


@pytest.fixture
def listed(tmp_path) -> Path:
    """A folder with a manifest."""

    def fill(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "a.parquet").write_bytes(bytes(1000))
        (folder / "sub" / "ü.json").write_text("{}")

    write_folder(tmp_path / "listed", fill, manifest=True)
    assert verify_folder(tmp_path / "listed") == []
    return tmp_path / "listed"


def flip(path: Path, place: int = 500) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda folder: flip(folder / "a.parquet"), "a.parquet: differs from its checksum"),
        (
            lambda folder: os.truncate(folder / "a.parquet", 10),
            "a.parquet: 10 bytes, expected 1000",
        ),
        (lambda folder: (folder / "sub" / "ü.json").unlink(), "ü.json: missing"),
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json: missing or damaged"),
        (lambda folder: os.truncate(folder / MANIFEST, 30), "manifest.json: missing or damaged"),
    ],
)
def test_a_changed_folder_does_not_verify(listed, change, fault):
    change(listed)
    (found,) = verify_folder(listed)
    assert fault in found


def test_a_fifo_in_place_of_a_file_is_not_opened(listed):
    (listed / "a.parquet").unlink()
    os.mkfifo(listed / "a.parquet")
    assert verify_folder(listed) == [f"{listed / 'a.parquet'}: missing"]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"files": 1}',
        '{"files": {"a": 1}}',
        '{"files": {"a": {"sha256": "", "size": "x"}}}',
        '{"files": {"../listed/a.parquet": {"sha256": "", "size": 1}}}',
        '{"files": {"/etc/passwd": {"sha256": "", "size": 1}}}',
        '{"files": {"a\\u0000": {"sha256": "", "size": 1}}}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_manifest_of_another_shape_is_a_fault(listed, text):
    (listed / MANIFEST).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert len(verify_folder(listed)) == 1


def test_a_folder_without_a_manifest_does_not_verify(final):
    assert len(verify_folder(final)) == 1


# --- tables of images ---------------------------------------------------------------------------


def pictures(count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    return [encode_png(image) for image in rng.integers(0, 256, (count, 4, 4, 3), np.uint8)]


def read_all(path: Path, *columns: str) -> dict[str, list]:
    batches = list(read_image_batches(path, columns))
    return {name: [value for batch in batches for value in batch[name]] for name in columns}


def test_images_are_written_and_read_in_row_groups(tmp_path):
    path, images = tmp_path / "images.parquet", pictures(2_500)
    columns = {"index": range(2_500), "label": [7] * 2_500, "target": [None, "é"] * 1_250}
    write_images(path, columns, iter(images))
    held = pq.ParquetFile(path).metadata
    assert [held.row_group(group).num_rows for group in range(3)] == [ROW_GROUP, ROW_GROUP, 500]
    assert held.num_row_groups == 3
    assert read_all(path, "index", "label", "target", "image") == {
        "index": list(range(2_500)),
        "label": columns["label"],
        "target": columns["target"],
        "image": images,
    }
    assert [len(batch["image"]) for batch in read_image_batches(path)] == [1000, 1000, 500]


def test_large_images_come_in_smaller_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROW_GROUP_BYTES", 250)
    path = tmp_path / "images.parquet"
    images = [bytes(100), bytes(100), bytes(100), bytes(400), bytes(1)]
    write_images(path, {"index": range(5)}, images)
    assert [len(batch["image"]) for batch in read_image_batches(path, ["image"])] == [2, 1, 1, 1]
    assert read_all(path, "image")["image"] == images


def test_a_table_in_one_row_group_is_read_in_batches(tmp_path):
    path, images = tmp_path / "images.parquet", pictures(1_500)
    rows = [{"index": n, "image": {"bytes": data, "path": None}} for n, data in enumerate(images)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert [len(batch["image"]) for batch in read_image_batches(path, ["image"])] == [1000, 500]
    assert read_all(path, "index", "image") == {"index": list(range(1_500)), "image": images}


def test_images_are_an_image_column_of_datasets(tmp_path):
    import datasets

    columns = {"index": range(2), "label": [0, 1], "target": ["a", None]}
    write_images(tmp_path / "images.parquet", columns, pictures(2))
    table = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "images.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert table[1]["image"].size == (4, 4)
    assert table.features == {
        "index": datasets.Value("int64"),
        "label": datasets.Value("int64"),
        "target": datasets.Value("string"),
        "image": datasets.Image(),
    }


def test_no_image_is_a_table_too(tmp_path):
    write_images(tmp_path / "images.parquet", {"index": [], "label": []}, [])
    assert list(read_image_batches(tmp_path / "images.parquet")) == []


@pytest.mark.parametrize("count", [2, 4])
def test_columns_and_images_are_of_one_length(tmp_path, count):
    with pytest.raises(ValueError, match="length"):
        write_images(tmp_path / "images.parquet", {"index": range(3)}, pictures(count))


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.9])
def test_a_truncated_table_of_images_is_named(tmp_path, keep):
    path = tmp_path / "images.parquet"
    write_images(path, {"index": range(50), "label": range(50)}, pictures(50))
    os.truncate(path, int(keep * path.stat().st_size) if isinstance(keep, float) else keep)
    with pytest.raises(RecordError, match=r"images\.parquet: cannot be read"):
        list(read_image_batches(path))


def test_a_missing_table_or_column_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"none\.parquet"):
        list(read_image_batches(tmp_path / "none.parquet"))
    write_images(tmp_path / "images.parquet", {"index": range(2)}, pictures(2))
    with pytest.raises(RecordError, match="no column 'label'"):
        list(read_image_batches(tmp_path / "images.parquet"))


@pytest.mark.parametrize(
    "image", [None, {"bytes": None, "path": "x"}, "text", {"path": "x"}, {"bytes": 3}]
)
def test_a_column_that_holds_no_images_is_a_fault(tmp_path, image):
    pq.write_table(pa.table({"image": pa.array([image])}), tmp_path / "images.parquet")
    with pytest.raises(RecordError, match=r"images\.parquet"):
        list(read_image_batches(tmp_path / "images.parquet", ["image"]))


@pytest.mark.skipif(not os.environ.get("BENCH_LARGE"), reason="writes 2.5 GB: set BENCH_LARGE")
def test_more_than_two_gigabytes_of_images(tmp_path):
    """Above 2**31 bytes a column is no longer one arrow array. In a process of its own, whose
    memory is limited to what some row groups need."""
    code = """
import hashlib, sys
from pathlib import Path
import numpy as np, psutil
from benchmark.files import read_image_batches, write_images

count, path = 2_400, Path(sys.argv[1])
rng, written, read = np.random.default_rng(0), hashlib.sha256(), hashlib.sha256()

def images():
    for _ in range(count):
        data = rng.bytes(2**20)
        written.update(data)
        yield data

write_images(path, {"index": range(count)}, images())
assert path.stat().st_size > 2**31
for batch in read_image_batches(path, ["image"]):
    assert sum(map(len, batch["image"])) <= 2**26
    for data in batch["image"]:
        read.update(data)
assert read.digest() == written.digest()
import resource
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
print(f"peak {peak:.0f} MiB")
assert peak < 1_200, peak
"""
    assert run_child(code, tmp_path / "images.parquet") == 0
