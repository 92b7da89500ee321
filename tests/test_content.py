"""Hashes of content: what counts, and that a damaged memo is not believed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from benchmark import content
from benchmark.content import file_hash, folder_hash
from benchmark.errors import DataError


@pytest.fixture
def forget(own_cache):
    """A function that empties this process' memory of hashes; the memos on the disk stay."""
    content.forget()
    yield content.forget
    content.forget()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write(folder: Path, contents: dict[str, str]) -> Path:
    """A folder of text files."""
    for name, text in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


# --- files --------------------------------------------------------------------------------------


def test_a_file_is_its_bytes(tmp_path, forget):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("a")
    assert file_hash(tmp_path / "a") == file_hash(tmp_path / "b") == sha256(b"abc")


def test_a_file_is_read_once_while_nothing_about_it_changes(tmp_path, forget, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    file_hash(path)
    monkeypatch.setattr(content, "sha256_of", lambda _: pytest.fail("read again"))
    forget()
    assert file_hash(path) == sha256(b"abc")


@pytest.mark.parametrize("replaced", [True, False])
def test_a_change_that_hides_its_time_and_size_is_seen(tmp_path, forget, replaced):
    """The inode's own time of change cannot be set back, and a new file has another inode."""
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    state = path.stat()
    file_hash(path)
    if replaced:
        (tmp_path / "b").write_bytes(b"xyz")
        os.replace(tmp_path / "b", path)
    else:
        while path.stat().st_ctime_ns == state.st_ctime_ns:  # the file system's clock ticks
            path.write_bytes(b"xyz")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (3, state.st_mtime_ns)
    assert file_hash(path) == sha256(b"xyz")


def memo_of(cache: Path) -> Path:
    (memo,) = (cache / "hashes").iterdir()
    return memo


@pytest.mark.parametrize(
    "forged",
    [
        "0" * 64,
        "",
        "[]",
        '{"sha256": 1}',
        json.dumps(["0" * 64, "0" * 64]),
        json.dumps(["x" * 64, "0" * 64]),
        json.dumps([["0" * 64], 1]),
        json.dumps([None, None]),
        "[" * 100_000,
        "\udcff" * 64,
    ],
)
def test_a_memo_that_is_not_right_is_made_again(tmp_path, own_cache, forget, forged):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    file_hash(path)
    memo = memo_of(own_cache)
    whole = memo.read_bytes()
    memo.write_bytes(forged.encode("utf-8", "surrogateescape"))
    forget()
    assert file_hash(path) == sha256(b"abc")
    assert memo.read_bytes() == whole


@pytest.mark.parametrize("keep", range(0, 130, 13))
def test_a_truncated_memo_is_made_again(tmp_path, own_cache, forget, keep):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    file_hash(path)
    os.truncate(memo_of(own_cache), keep)
    forget()
    assert file_hash(path) == sha256(b"abc")


def test_the_memo_of_another_file_is_not_believed(tmp_path, own_cache, forget):
    write(tmp_path, {"a": "abc", "b": "xyz"})
    file_hash(tmp_path / "a")
    memo = memo_of(own_cache)
    whole = memo.read_bytes()
    memo.unlink()
    file_hash(tmp_path / "b")
    memo_of(own_cache).write_bytes(whole)
    forget()
    assert file_hash(tmp_path / "b") == sha256(b"xyz")


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, own_cache, forget):
    own_cache.write_text("a file where the folder should be")
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == sha256(b"abc")


def test_what_is_not_a_readable_file_is_named(tmp_path, forget):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("fifo", "loop", "dangling", "missing", "."):
        with pytest.raises(DataError, match=name.replace(".", str(tmp_path.name))):
            file_hash(tmp_path / name)


# --- folders ------------------------------------------------------------------------------------

MODEL = {"config.json": "{}", "unet/weights": "w", "unet/config.json": "{}", "vae/weights": "v"}


def test_a_folder_is_its_names_and_contents_wherever_it_lies(tmp_path, forget):
    first = write(tmp_path / "a", MODEL)
    shutil.copytree(first, tmp_path / ".hidden" / "README" / "b.md")
    assert folder_hash(first) == folder_hash(tmp_path / ".hidden" / "README" / "b.md")
    assert folder_hash(first) == folder_hash(Path(os.path.relpath(first)))


@pytest.mark.parametrize(
    "change",
    [{"config.json": "[]"}, {"vae/weights": "w"}, {"more": ""}, {"readme.json": ""}, {"md": ""}],
)
def test_another_content_or_name_is_another_folder(tmp_path, forget, change):
    first, second = write(tmp_path / "a", MODEL), write(tmp_path / "b", MODEL | change)
    assert folder_hash(first) != folder_hash(second)


def test_contents_do_not_change_places(tmp_path, forget):
    first, second = (
        write(tmp_path / "a", {"x": "1", "y": "2"}),
        write(tmp_path / "b", {"x": "2", "y": "1"}),
    )
    assert folder_hash(first) != folder_hash(second)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("README.md", False),
        ("unet/README", False),
        ("readme.txt", False),
        ("LICENSE", False),
        ("LICENSE-MIT.txt", False),
        ("licence", False),
        ("model_card.md", False),
        (".gitattributes", False),
        (".cache/huggingface/download/weights.lock", False),
        ("unet/.DS_Store", False),
        ("README.safetensors", True),
        ("LICENSE.bin", True),
        ("docs/usage.txt", True),
        ("tokenizer.json", True),
    ],
)
def test_what_no_loader_reads_does_not_count(tmp_path, forget, name, counts):
    folder = write(tmp_path / "a", MODEL)
    before = folder_hash(folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("new")
    assert (folder_hash(folder) != before) == counts


def test_a_snapshot_of_the_hubs_cache_has_the_hash_of_a_plain_copy(tmp_path, forget):
    """blobs/<hash> hold the contents, snapshots/<revision>/... are links to them."""
    plain = write(tmp_path / "plain", MODEL | {"README.md": "card"})
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    for path in (path for path in plain.rglob("*") if path.is_file()):
        blob = repository / "blobs" / sha256(path.read_bytes())
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        link = snapshot / path.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    assert folder_hash(snapshot) == folder_hash(plain)
    blob = (snapshot / "unet" / "weights").resolve()
    blob.unlink()
    with pytest.raises(DataError, match="unet/weights"):
        folder_hash(snapshot)  # a blob that was not downloaded is not passed over


def test_folders_that_are_links_are_followed_but_not_in_circles(tmp_path, forget):
    plain, linked = write(tmp_path / "a", MODEL), tmp_path / "b"
    linked.mkdir()
    for path in plain.iterdir():
        (linked / path.name).symlink_to(path)
    assert folder_hash(linked) == folder_hash(plain)
    (plain / "unet" / "up").symlink_to(plain)
    with pytest.raises(DataError, match="link to a folder that holds it"):
        folder_hash(plain)


@pytest.mark.parametrize("names", [{}, {"README.md": "x"}])
def test_a_folder_without_anything_to_load_is_refused(tmp_path, forget, names):
    write(tmp_path / "a", names)
    with pytest.raises(DataError, match="nothing in it"):
        folder_hash(tmp_path / "a")
