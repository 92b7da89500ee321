"""What is declared: the protocol, task cards, methods and their parameters."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

import benchmark
from benchmark.data.card import load_tasks
from benchmark.errors import ConfigError, UnknownNameError, did_you_mean
from benchmark.home import find_root
from benchmark.protocol import load_protocol
from benchmark.registry import load_registry, split_call
from benchmark.schema import declare, faults

Edit = Callable[[Path, str, str], None]
FACTS = 'from benchmark import Facts\nFACTS = Facts(title="A method", family="control")\n'
AUGMENT = "def augment(shots, upstream, meter, rng, params):\n    yield from ()\n"
MIX = "def mix(images, targets, meter, rng, params):\n    return images, targets\n"


def faults_of(function: Callable[..., object], *arguments: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        function(*arguments)
    assert str(caught.value).count(caught.value.source) >= len(caught.value.faults)
    return caught.value.faults


# --- bench.toml -------------------------------------------------------------------------------


def test_the_protocol_of_this_repository_loads(root: Path) -> None:
    protocol = load_protocol(root)
    sizes = [protocol.budget_named(name).images_per_class for name in ("S", "M", "L")]
    assert sizes == sorted(sizes)
    with pytest.raises(UnknownNameError, match="unknown budget 'XL'; did you mean 'L'"):
        protocol.budget_named("XL")


def test_every_fault_is_told_at_once_with_file_and_key(shapes: Path, edit: Edit) -> None:
    path = shapes / "bench.toml"
    edit(path, "compute = 400", 'compute = "much"')
    edit(path, "splits = [0, 1]", "splits = [1, 1]")
    edit(path, "weight_decays = [0.0, 1e-2]", "weight_decay_s = [0.0]")
    edit(path, "steps = 6", "steps = 0")
    edit(path, 'title = "The pocket upstream"\n', "")
    edit(path, "data_files", "datafiles")
    told = faults_of(load_protocol, shapes)
    assert len(told) == 6
    for start in (
        "budget.S.compute: ",
        "defaults.splits: seeds must be distinct and not negative (got [1, 1])",
        "unknown key 'classifier.linear-probe.weight_decay_s'; did you mean 'weight_decays'?",
        "classifier.resnet-scratch.steps: Input should be greater than or equal to 1 (got 0)",
        "missing key 'upstream.pocket.title'",
        "unknown key 'upstream.pocket.corpus.datafiles'; did you mean 'data_files'?",
    ):
        assert any(line.startswith(start) for line in told), start
    with pytest.raises(ConfigError, match=str(path)):
        load_protocol(shapes)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("[budget.S]", "[budgets.S]", "unknown key 'budgets'; did you mean 'budget'?"),
        ('budget = "S"', 'budget = "XS"', "defaults: unknown budget 'XS'; did you mean 'S'?"),
        ('"linear-probe"]', '"linear"]', "unknown classifier 'linear'; did you mean 'linear-pro"),
        ('kind = "probe"', 'kind = "prob"', "classifier.linear-probe: "),
        ('kind = "probe"\n', "", "classifier.linear-probe: "),
        ("images_per_class = 2", "images_per_class = 2.5", "budget.S.images_per_class: "),
        ("compute = 400", "compute = inf", "budget.S.compute: "),
        ("lr = 1e-2", "lr = nan", "classifier.linear-probe.lr: "),
        ("batch_size = 8\nlr", "batch_size = 7\nlr", "classifier.resnet-scratch.batch_size: "),
        ("[defaults]", "[defaults", "not valid TOML: "),
        ("title = \"The pocket upstream\"", "title = 3", "upstream.pocket.title: "),
    ],
)  # fmt: skip
def test_a_fault_names_its_key(shapes: Path, edit: Edit, old: str, new: str, fault: str) -> None:
    edit(shapes / "bench.toml", old, new)
    assert any(fault in line for line in faults_of(load_protocol, shapes))


def test_a_classifier_may_be_called_like_a_kind(shapes: Path, edit: Edit) -> None:
    edit(shapes / "bench.toml", "linear-probe", "probe")
    assert load_protocol(shapes).classifier["probe"].kind == "probe"
    edit(shapes / "bench.toml", "resnet-scratch", "finetune")  # of the kind "scratch"
    edit(shapes / "bench.toml", "weight_decays", "weightdecays")
    edit(shapes / "bench.toml", "layers", "layer")
    told = sorted(faults_of(load_protocol, shapes))
    assert told[0].startswith("unknown key 'classifier.finetune.layer'; did you mean 'layers'?")
    assert told[1].startswith("unknown key 'classifier.probe.weightdecays'; did you mean 'weight_d")
    edit(shapes / "bench.toml", 'kind = "probe"', 'kind = "prob"')
    assert any(line.startswith("classifier.probe: ") for line in faults_of(load_protocol, shapes))


def test_a_missing_protocol_is_told(tmp_path: Path) -> None:
    assert faults_of(load_protocol, tmp_path) == ["no such file"]
    (tmp_path / "bench.toml").write_bytes(b"\xff\xfe")
    assert faults_of(load_protocol, tmp_path)[0].startswith("not valid TOML: ")


# --- the root ---------------------------------------------------------------------------------


def test_the_root_is_found_from_within_and_by_name(
    shapes: Path, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("BENCH_ROOT", raising=False)
    assert find_root(shapes / "data") == shapes
    assert find_root(tmp_path) == root  # the checkout that the package lies in
    monkeypatch.setenv("BENCH_ROOT", str(shapes))
    assert find_root(root) == shapes
    monkeypatch.setenv("BENCH_ROOT", str(tmp_path))
    assert faults_of(find_root)[0].endswith("holds no bench.toml")


# --- task cards -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("title =", "titel =", "unknown key 'titel'; did you mean 'title'?"),
        ('licence = "CC0-1.0"', "", "missing key 'licence'"),
        ('name = "shapes"', 'name = "Shapes!"', "name: "),
        ("shots = [1, 3]", "shots = [3, 3]", "shots must be distinct and at least 1"),
        ("shots = [1, 3]", "shots = [0]", "shots must be distinct and at least 1"),
        ("shots = [1, 3]", "shots = []", "shots: "),
        ("flip = true", 'metric = "top5"\nflip = true', "unknown value 'top5'; did you mean"),
        ('prompts = ["an emoji of {name}"]', 'prompts = ["{x}"]', "the only placeholder is {name}"),
        ('prompts = ["an emoji of {name}"]', 'prompts = ["a {"]', "the only placeholder is {name}"),
        ('queries = ["an emoji of {name}"]', 'queries = ["{}"]', "the only placeholder is {name}"),
        ('queries = ["an emoji of {name}"]', "queries = []", "queries: "),
        ("label = 2,", "label = 1,", "classes: label given twice: 1"),
        ("blue square", "red circle", "classes: name given twice: red circle"),
        ('name = "red circle"', 'nmae = "x"', "unknown key 'classes.0.nmae'; did you mean 'name'?"),
        ('rule = "carve"', 'rule = "given"', "the rule 'carve' needs either test_fraction or"),
        ("split.test_fraction = 0.5\n", "", "the rule 'carve' needs either test_fraction or"),
        ("test_fraction = 0.5", "test_fraction = 1", "split.test_fraction: "),
        ("train.path =", 'train.hub = "a/b"\ntrain.path =', "train: give either path or hub"),
        ("train.path = ", 'train.hub = ', "train: a data set of the Hub needs its 40-digit"),
        ("train.rows = 36", "train.rows = 0", "train.rows: "),
    ],
)  # fmt: skip
def test_a_fault_of_a_card(shapes: Path, edit: Edit, old: str, new: str, fault: str) -> None:
    card = shapes / "tasks" / "shapes.toml"
    edit(card, old, new)
    assert any(fault in line for line in faults_of(load_tasks, card))
    registry = load_registry(shapes)
    assert not registry.tasks and [entry.name for entry in registry.broken] == ["shapes"]
    assert fault in registry.broken[0].reason
    with pytest.raises(ConfigError, match="task 'shapes-1shot' is broken"):
        registry.task("shapes-1shot")


def test_a_template_names_the_class(shapes: Path, edit: Edit) -> None:
    card = shapes / "tasks" / "shapes.toml"
    edit(card, 'prompts = ["an emoji of {name}"]', 'prompts = ["an emoji"]')
    assert "must hold {name}" in faults_of(load_tasks, card)[0]


def test_members_fill_the_templates_in_turn(shapes: Path, edit: Edit) -> None:
    card = shapes / "tasks" / "shapes.toml"
    edit(card, 'name = "red circle"', 'name = "red circle", members = ["disc", "ball"]')
    edit(card, 'queries = ["an emoji of {name}"]', 'queries = ["{name}", "a {name}"]')
    red, green, _ = load_tasks(card)[0].classes
    assert red.prompts == ("an emoji of disc", "an emoji of ball")
    assert red.queries == ("disc", "ball", "a disc", "a ball")
    assert green.queries == ("green circle", "a green circle")
    assert red.members == ("disc", "ball") and green.members == ("green circle",)
    assert red.templates == ("an emoji of {name}",)


def test_a_class_may_say_what_it_is(shapes: Path, edit: Edit) -> None:
    card = shapes / "tasks" / "shapes.toml"
    edit(
        card, 'name = "red circle"', 'name = "red circle", hypernym = "shape", definition = "round"'
    )
    red, green, _ = load_tasks(card)[0].classes
    assert (red.hypernym, red.definition) == ("shape", "round")
    assert (green.hypernym, green.definition) == ("", "")


def test_a_task_is_known_by_its_card_and_shots(shapes: Path, edit: Edit) -> None:
    card = shapes / "tasks" / "shapes.toml"
    before = {task.name: task.hash for task in load_tasks(card)}
    assert list(before) == ["shapes-1shot", "shapes-3shot"] and len(set(before.values())) == 2
    edit(card, "shots = [1, 3]", "shots = [2, 3, 1]")
    more = {task.name: task.hash for task in load_tasks(card)}
    assert list(more) == ["shapes-1shot", "shapes-2shot", "shapes-3shot"]
    assert before.items() < more.items()  # another number of shots leaves the others as they are
    edit(card, "flip = true", "flip = false")
    assert not set(before.values()) & {task.hash for task in load_tasks(card)}


def test_two_cards_may_not_register_one_task(shapes: Path) -> None:
    text = (shapes / "tasks" / "shapes.toml").read_text()
    (shapes / "tasks" / "again.toml").write_text(text)
    told = faults_of(load_registry, shapes)
    assert told == ["task 'shapes-1shot' is registered by another card too"]


# --- methods ----------------------------------------------------------------------------------

BROKEN = {
    "syntax": ("def augment(:\n", "SyntaxError"),
    "raises": (FACTS + AUGMENT + "1 / 0\n", "ZeroDivisionError: division by zero (raises.py:5)"),
    "needs": ("import not_a_package\n", "No module named 'not_a_package' (needs.py:1)"),
    "exits": ("import sys\nsys.exit(3)\n", "SystemExit: 3 (exits.py:2)"),
    "factless": (AUGMENT, "FACTS is missing"),
    "idle": (FACTS, "the function augment(shots, upstream, meter, rng, params) is missing"),
    "greedy": (
        FACTS + "def augment(shots, test):\n    yield\n",
        "augment(shots, test): the arguments must be (shots, upstream, meter, rng, params)",
    ),
    "mixless": (
        FACTS.replace('l")', 'l", mixes_batches=True)') + AUGMENT,
        "the function mix(images, targets, meter, rng, params) is missing",
    ),
    "mixing": (FACTS + AUGMENT + MIX, "mix is there, but FACTS does not say mixes_batches = True"),
    "muddled": (
        FACTS.replace('l")', 'l", mixes_batches=True)')
        + AUGMENT
        + MIX.replace("targets, meter", "labels"),
        "mix(images, labels, rng, params): the arguments must be (images, targets, meter, rng, pa",
    ),
    "typo": (
        'from benchmark import Facts\nFACTS = Facts(title="Typo", famly="control")\n' + AUGMENT,
        "Facts: unknown key 'famly'; did you mean 'family'?",
    ),
    "misfiled": (
        FACTS.replace('"control"', '"controll"') + AUGMENT,
        "Facts: family: unknown value 'controll'; did you mean 'control'? known: control, ",
    ),
    "placed": (FACTS.replace("A method", "x") + AUGMENT, "(got 'x') (placed.py:2)"),
    "drawn": (
        FACTS + AUGMENT + 'from benchmark import Provenance\nPLAIN = Provenance("drawn", "me")\n',
        "Provenance: origin: unknown value 'drawn'; known: generated, retrieved, real, transformed "
        "(drawn.py:6)",
    ),
    "demanding": (
        FACTS + AUGMENT + "import benchmark\nclass Params(benchmark.Params):\n    steps: int\n",
        "Params: 'steps' has no default: give it with benchmark.param(...)",
    ),
    "loose": (FACTS + AUGMENT + "Params = dict\n", "Params must be a subclass of benchmark.Params"),
}  # fmt: skip


def test_every_fault_of_facts_is_told_at_once(tiny_root: Callable[..., Path]) -> None:
    source = FACTS.replace('family="control"', 'family="x", paper="arXiv", adds_image=1')
    (entry,) = load_registry(tiny_root(several=source + AUGMENT)).broken
    told = entry.reason.splitlines()
    assert len(told) == 3 and all(line.startswith("Facts: ") for line in told)
    assert all(line.endswith("(several.py:2)") for line in told)
    assert "'arXiv'" in told[1] and "did you mean 'adds_images'?" in told[2]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_method_is_listed_with_its_reason_and_harms_no_other(
    tiny_root: Callable[..., Path], name: str
) -> None:
    source, reason = BROKEN[name]
    registry = load_registry(tiny_root(**{name: source}))
    assert list(registry.methods) == ["none", "repeat"] and list(registry.tasks)
    (entry,) = registry.broken
    assert (entry.kind, entry.name, entry.path.name) == ("method", name, f"{name}.py")
    assert reason in entry.reason
    with pytest.raises(ConfigError, match=f"method '{name}' is broken"):
        registry.call(f"{name}[x=1]")


def test_names_are_looked_up_with_a_suggestion(shapes: Path) -> None:
    registry = load_registry(shapes, load_protocol(shapes))
    with pytest.raises(UnknownNameError, match="unknown method 'repaet'; did you mean 'repeat'"):
        registry.method("repaet")
    with pytest.raises(UnknownNameError, match="known: shapes-1shot, shapes-3shot"):
        registry.task("cub-5shot")
    assert did_you_mean("zzz", []) == "; known: none"


def test_the_control_of_the_protocol_must_be_there(shapes: Path) -> None:
    (shapes / "methods" / "none.py").unlink()
    with pytest.raises(UnknownNameError, match="unknown method 'none'"):
        load_registry(shapes, load_protocol(shapes))


def test_a_batch_hook_is_loaded_with_its_method(tiny_root: Callable[..., Path]) -> None:
    mixing = FACTS.replace('l")', 'l", mixes_batches=True)') + AUGMENT + MIX
    registry = load_registry(tiny_root(mixing=mixing))
    assert not registry.broken and registry.method("none").mix is None
    mix = registry.method("mixing").mix
    assert mix is not None and mix(1, 2, None, None, None) == (1, 2)


def test_helpers_are_no_methods_but_part_of_them(tiny_root: Callable[..., Path]) -> None:
    facts = FACTS.replace('"A method"', "TITLE")
    source = "from ._title import TITLE\n" + facts + AUGMENT.replace("()", "TITLE")
    title = 'from ._words import BY\nTITLE = f"{BY} a helper"\n'
    folder = tiny_root(helped=source, _title=title, _words='BY = "By"\n')
    registry = load_registry(folder)
    assert list(registry.methods) == ["helped", "none", "repeat"] and not registry.broken
    assert registry.method("helped").facts.title == "By a helper"
    hashes = [(registry.method("helped").hash, registry.method("none").hash)]
    for helper, text in (("_title", title.replace("a h", "one h")), ("_words", 'BY = "Of"\n')):
        (folder / "methods" / f"{helper}.py").write_text(text)
        after = load_registry(folder)
        hashes.append((after.method("helped").hash, after.method("none").hash))
    helped, none = zip(*hashes, strict=True)
    assert len(set(helped)) == 3, "a helper, or a helper's helper, changed and the method did not"
    assert len(set(none)) == 1, "a method changed with a helper it does not use"


def test_two_roots_in_one_process_do_not_mix(tiny_root: Callable[..., Path], root: Path) -> None:
    def titled(title: str) -> str:
        return FACTS.replace("A method", title) + AUGMENT

    one, two = tiny_root("one", mine=titled("First")), tiny_root("two", mine=titled("Second"))
    for folder, title in ((one, "First"), (two, "Second"), (one, "First")):
        method = load_registry(folder).method("mine")
        assert (method.facts.title, method.path) == (title, folder / "methods" / "mine.py")
    assert "mine" not in load_registry(root).methods


def test_entries_of_another_root_reach_a_spawned_process(tiny_root: Callable[..., Path]) -> None:
    folder = tiny_root(mine=FACTS + AUGMENT)
    code = (
        "import importlib, pickle\n"
        "module = importlib.import_module('benchmark.entries.methods.mine')\n"
        "assert pickle.loads(pickle.dumps(module.augment)) is module.augment\n"
        "print(module.__file__)"
    )
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "BENCH_ROOT": str(folder), "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(folder / "methods" / "mine.py")


# --- parameters -------------------------------------------------------------------------------


def test_a_call_is_split_into_name_and_parameters() -> None:
    assert split_call("none") == ("none", {})
    assert split_call(" a [x=1, y = two words ]") == ("a", {"x": "1", "y": "two words"})
    assert split_call("a[x=b=c]") == ("a", {"x": "b=c"})


@pytest.mark.parametrize(
    "text",
    ["", "a[", "a]", "a[]", "a[x]", "a[=1]", "[x=1]", "a[x=1", "a[x=1,]", "a[x=1]b", "a[x=1]]",
     "a[x=1][y=2]", "a[x=1,x=2]"],
)  # fmt: skip
def test_a_malformed_call_is_refused(text: str) -> None:
    (fault,) = faults_of(split_call, text)
    assert repr(text) in fault


def test_parameters_are_checked(shapes: Path) -> None:
    registry = load_registry(shapes)
    assert registry.call("repeat").params.noise == 8
    assert registry.call("repeat[noise=64]").params.noise == 64
    for given, fault in (
        ("noise=65", "noise: Input should be less than or equal to 64 (got '65')"),
        ("noise=-1", "noise: Input should be greater than or equal to 0 (got '-1')"),
        ("noise=loud", "noise: Input should be a valid integer"),
        ("noise=", "noise: Input should be a valid integer"),
        ("nois=8", "unknown key 'nois'; did you mean 'noise'? known: noise"),
    ):
        (told,) = faults_of(registry.call, f"repeat[{given}]")
        assert told.startswith(fault)
    assert len(faults_of(registry.call, "repeat[noise=loud,volume=3]")) == 2
    assert faults_of(registry.call, "none[x=1]") == ["unknown key 'x'; known: none"]


def test_a_label_tells_the_changed_parameters_and_names_the_same_call(shapes: Path) -> None:
    registry = load_registry(shapes)
    assert registry.call("repeat[noise=8]").label == registry.call("repeat").label == "repeat"
    label = registry.call("repeat[noise=09]").label
    assert label == "repeat[noise=9]"
    assert registry.call(label) == registry.call("repeat[noise=9]")


def test_parameters_keep_the_published_default() -> None:
    class Params(benchmark.Params):
        guidance_scale: float = benchmark.param(3.0, help="w", published=7.5, ge=0, le=30)
        steps: int = benchmark.param(50, help="steps", ge=1)

    extra = {key: field.json_schema_extra for key, field in Params.model_fields.items()}
    assert extra == {"guidance_scale": {"published": 7.5}, "steps": {"published": 50}}
    for value in ("nan", "inf", "-1", "31"):
        (fault,) = faults_of(declare, Params, {"guidance_scale": value}, "method x")
        assert fault.startswith("guidance_scale: ")
    with pytest.raises(ValueError, match="frozen"):
        Params().steps = 3


def test_a_provenance_knows_its_fields() -> None:
    with pytest.raises(ValidationError) as caught:
        benchmark.Provenance("real", "shots", licnce="MIT")  # type: ignore[call-arg]
    (fault,) = faults(caught.value, benchmark.Provenance)
    assert fault.startswith("unknown key 'licnce'; did you mean 'licence'? known: origin, ")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            {"family": "retreive"},
            "family: unknown value 'retreive'; did you mean 'retrieve'? known: ",
        ),
        ({"title": "x"}, "title: "),
        ({"paper": "arXiv 2304.10253"}, "paper: "),
        ({"version": 0}, "version: "),
        ({"filters": ["scores"]}, "filters.0: "),
        ({"adds_image": False}, "unknown key 'adds_image'; did you mean 'adds_images'?"),
    ],
)
def test_facts_are_checked(change: dict[str, object], fault: str) -> None:
    facts = {"title": "A method", "family": "control", **change}
    (told,) = faults_of(declare, benchmark.Facts, facts, "method x")
    assert told.startswith(fault)
