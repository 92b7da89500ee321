"""``bench doctor``: will it run here, and if not, what to do."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Literal

from benchmark.cli.arguments import Json
from benchmark.cli.checks import Check, report
from benchmark.errors import BenchError
from benchmark.home import PROTOCOL_FILE, cache_folder, find_root, is_packaged, results_folder
from benchmark.protocol import UpstreamSpec, load_protocol
from benchmark.records.environment import package_versions
from benchmark.registry import load_registry
from benchmark.upstream.hashes import HUB_ENCODER, local_path, upstream_hash

_MIN_FREE_GB = 1.0


def doctor(as_json: Json = False) -> None:
    """Check packages, devices, faiss, entries, models, data, disk; exit code 1 if trials cannot
    run."""
    report(examine(), as_json)


def examine() -> list[Check]:
    """Every check, in order; one that raises is reported as wrong and the rest go on."""
    checks: list[Check] = []
    for part in _PARTS:
        checks += _guarded(part)
    return checks


def _guarded(part: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return list(part())
    except BenchError as error:
        return [Check(part.__name__.strip("_"), "wrong", str(error))]
    except Exception as error:  # the doctor must finish its round
        return [Check(part.__name__.strip("_"), "wrong", f"{type(error).__name__}: {error}")]


def _root() -> Iterator[Check]:
    root = find_root()
    kind = "packaged copy" if is_packaged(root) else "folder"
    yield Check("root", "ok", f"{root} ({kind})")


def _entries() -> Iterator[Check]:
    protocol = load_protocol(find_root())
    registry = load_registry(find_root(), protocol)
    found = f"{len(registry.tasks)} tasks, {len(registry.methods)} methods"
    yield Check("entries", "ok", found)
    for entry in registry.broken:
        what = f"{entry.kind} {entry.name} is broken: {entry.reason}"
        yield Check("entries", "wrong", what, f"mend {entry.path}")


def _upstreams() -> Iterator[Check]:
    """Each by itself: one that is broken hides no other."""
    root = find_root()
    for name, spec in load_protocol(root).upstream.items():
        try:
            digest = upstream_hash(spec, root)[:12]
        except BenchError as error:
            remedy = f"mend [upstream.{name}] in {root / PROTOCOL_FILE}"
            yield Check(f"upstream {name}", "wrong", str(error), remedy)
            continue
        lacking = [part for part in _parts_on_the_hub(spec, root) if not part.is_here()]
        if not lacking:
            yield Check(f"upstream {name}", "ok", f"{digest}, its files are here")
        yield from (part.lacking(f"upstream {name}") for part in lacking)


def _data() -> Iterator[Check]:
    """Of tasks: local files, and data sets of the Hub."""
    root, local = find_root(), 0
    cards = {task.card.name: task.card for task in load_registry(root).tasks.values()}
    for name, card in cards.items():
        for source in filter(None, (card.train, card.test)):
            if source.hub:
                part = _OnTheHub("data", source.hub, source.revision, is_data=True)
                if part.is_here():
                    local += 1
                else:
                    yield part.lacking(f"data {name}")
            elif (root / str(source.path)).is_file():
                local += 1
            else:
                yield Check(f"data {name}", "wrong", f"{root / str(source.path)}: no such file")
    yield Check("data", "ok", f"{local} tables are here")


@dataclass(frozen=True)
class _OnTheHub:
    """A repository at a revision."""

    what: str
    name: str
    revision: str | None
    is_data: bool = False

    def is_here(self) -> bool:
        """Whether the local cache has a snapshot of it; its files are not looked at."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        kind = "dataset" if self.is_data else "model"
        try:
            snapshot_download(
                self.name, revision=self.revision, repo_type=kind, local_files_only=True
            )
        except LocalEntryNotFoundError:
            return False
        return True

    def lacking(self, subject: str) -> Check:
        """Not an error: it is fetched when it is first used, where the Hub can be reached."""
        data = " --repo-type dataset" if self.is_data else ""
        return Check(
            subject,
            "note",
            f"{self.what} {self.name} is not in the local cache; it is fetched at first use",
            f"hf download {self.name} --revision {self.revision}{data}",
        )


def _parts_on_the_hub(spec: UpstreamSpec, root: Path) -> Iterator[_OnTheHub]:
    corpus, encoder, generator = spec.corpus, spec.encoder, spec.generator
    if corpus and corpus.hub and local_path(corpus.hub, root) is None:
        yield _OnTheHub("corpus", corpus.hub, corpus.revision, is_data=True)
    if encoder.model.startswith(HUB_ENCODER):
        name = encoder.model.removeprefix(HUB_ENCODER)
        if local_path(name, root) is None:
            yield _OnTheHub("encoder", name, encoder.revision)
    if generator and local_path(generator.model, root) is None:
        yield _OnTheHub("generator", generator.model, generator.revision)


def _packages() -> Iterator[Check]:
    versions = ", ".join(f"{name} {number}" for name, number in package_versions().items())
    yield Check("packages", "ok", versions)
    for module in ("torch", "torchvision", "timm", "open_clip", "diffusers", "datasets"):
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken binary raises nearly anything
            yield Check("packages", "wrong", f"{module} does not import: {error}")


def _devices() -> Iterator[Check]:
    import psutil
    import torch

    memory = psutil.virtual_memory().total / 2**30
    yield Check("cpu", "ok", f"{os.cpu_count()} cores, {memory:.0f} GiB of memory")
    if not torch.cuda.is_available():
        yield Check("gpu", "note", "no CUDA device; trials run on the CPU")
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        found = f"cuda:{number} {device.name}, {device.total_memory / 2**30:.0f} GiB"
        yield Check("gpu", "ok", found)


def _faiss() -> Iterator[Check]:
    owners = packages_distributions().get("faiss", [])
    if not owners:
        yield Check(
            "faiss",
            "note",
            "not installed: exact search in torch is used",
            "pip install 'augbench[cpu]' or 'augbench[gpu]'",
        )
    elif len(set(owners)) > 1:
        yield Check(
            "faiss",
            "wrong",
            f"{' and '.join(sorted(set(owners)))} overwrite each other",
            "uninstall all of them, then install one",
        )
    else:
        import faiss
        import torch  # noqa: F401  before faiss: two CUDA versions in one process

        gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
        yield Check("faiss", "ok", f"{owners[0]} {faiss.__version__}, {gpus} GPUs")


def _folders() -> Iterator[Check]:
    for name, folder in (("cache", cache_folder()), ("results", results_folder(find_root()))):
        place = _existing(folder)
        free = shutil.disk_usage(place).free / 2**30
        writable = os.access(place, os.W_OK)
        status: Literal["ok", "wrong"] = "ok" if writable and free > _MIN_FREE_GB else "wrong"
        finding = f"{folder}: {free:.0f} GiB free" + ("" if writable else ", not writable")
        yield Check(name, status, finding)


def _browser() -> Iterator[Check]:
    found = [
        name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)
    ]
    text = found[0] if found else "none found; only the page's own tests need one"
    yield Check("browser", "ok" if found else "note", text)


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


_PARTS = (
    _root,
    _entries,
    _upstreams,
    _data,
    _packages,
    _devices,
    _faiss,
    _folders,
    _browser,
)
