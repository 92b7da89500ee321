"""What a result's identity is made of: content, never a place, a name of the protocol or prose.

Nothing is run and nothing loaded: files are hashed, so the models here are a few bytes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmark.errors import ConfigError
from benchmark.protocol import load_protocol
from benchmark.registry import load_registry
from benchmark.trial import Seeds, Trial

PAINT = '''
"""Paints."""

from __future__ import annotations

import benchmark
import numpy as np

from ._brush import stroke

FACTS = benchmark.Facts(title="Painted images", family="classical", citation="Nobody (2026)")
LEVEL = 3


class Params(benchmark.Params):
    width: int = benchmark.param(2, help="of a stroke", published=4, ge=1)


class Colour:
    red = 1


def augment(shots, upstream, meter, rng, params):
    """Yields strokes."""
    pixels = stroke(np.zeros((1, 32, 32, 3), np.uint8) + LEVEL, params.width)
    yield benchmark.Images(pixels, [0], [benchmark.Provenance("transformed", "paint")])
'''

BRUSH = '''
"""Strokes."""

import functools
import math

WIDTH = 5


@functools.cache
def stroke(pixels, width):
    """Draws one."""
    return pixels + math.floor(width) + WIDTH
'''

FILES = {"paint": PAINT, "_brush": BRUSH, "_unused": "NUMBER = 1\n"}
TYPED = """
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
"""


@pytest.fixture
def paint_id(tiny_root):
    """A function from changes ``(file, old text, new text)`` to the record_id of ``paint``, each
    time in a root of its own."""
    made = 0

    def identity(*changes: tuple[str, str, str], **added: str) -> str:
        nonlocal made
        made += 1
        files = FILES | added
        for name, old, new in changes:
            assert old in files[name], f"{name} does not hold {old!r}"
            files[name] = files[name].replace(old, new)
        return record_id(tiny_root(f"root-{made}", **files), "paint")

    return identity


def record_id(
    root: Path, method: str = "repeat", upstream: str = "pocket", classifier: str = "linear-probe"
) -> str:
    """Of one shot of shapes, under the root's own budget."""
    protocol, registry = load_protocol(root), load_registry(root)
    assert not registry.broken, registry.broken
    task, call, budget = registry.task("shapes-1shot"), registry.call(method), protocol.defaults
    trial = Trial(task, call, upstream, budget.budget, Seeds(0), protocol, root)
    return trial.record_id(classifier)


# --- a method's code ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("paint", "LEVEL = 3", "# three\nLEVEL = 3  # levels"),
        ("paint", '"""Yields strokes."""', '"""Says more\n\n    than it did."""'),
        ("paint", '    """Yields strokes."""\n', ""),
        ("paint", "rng, params):", "rng, params: Params) -> list[int]:"),
        ("paint", "LEVEL = 3", "LEVEL: int = 3"),
        ("paint", "import numpy as np\n", "import numpy as np\nfrom os import PathLike\n"),
        ("paint", "import numpy as np\n", f"import numpy as np\n{TYPED}"),
        (
            "paint",
            "import benchmark\nimport numpy as np\n",
            "import numpy as np\nimport benchmark\n",
        ),
        ("paint", "import benchmark\nimport numpy as np\n", "import benchmark, numpy as np\n"),
        ("paint", "params.width)", "\n        params.width,\n    )"),
        ("paint", '"transformed", "paint"', "'transformed', 'pa' 'int'"),
        ("paint", "LEVEL = 3", "LEVEL = (0x3)"),
        ("paint", 'help="of a stroke"', 'help="its width"'),
        ("paint", "published=4", "published=5"),
        ("paint", "Painted images", "Images that are painted"),
        ("paint", "Nobody (2026)", "Somebody (2026)"),
        ("_brush", "WIDTH = 5", "# five\nWIDTH: int = 5"),
        ("_brush", '    """Draws one."""\n', ""),
        ("_brush", "import functools\nimport math", "import math\nimport functools"),
        (
            "_brush",
            "stroke(pixels, width)",
            "stroke(\n    pixels: object, width: float\n) -> object",
        ),
        ("_unused", "NUMBER = 1", "NUMBER = 2"),
    ],
)
def test_what_cannot_change_a_result_leaves_the_id(paint_id, file, old, new):
    assert paint_id((file, old, new)) == paint_id()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("paint", "LEVEL = 3", "LEVEL = 4"),
        ("paint", "LEVEL = 3", "LEVEL = 3.0"),
        ("paint", "LEVEL = 3", "LEVEL = '3'"),
        ("paint", "LEVEL = 3", "LEVEL = True"),
        ("paint", "param(2,", "param(3,"),
        ("paint", "ge=1", "ge=0"),
        ("paint", "    yield benchmark", "    pixels = pixels + 1\n    yield benchmark"),
        ("paint", "import numpy as np", "import torch as np"),
        ("paint", "np.uint8) + LEVEL", "np.uint8) - LEVEL"),
        ("paint", "red = 1", "red = 1\n    green = 2"),
        ("paint", "family=", "uses_shots=False, family="),
        ("_brush", "WIDTH = 5", "WIDTH = 6"),
        ("_brush", "+ WIDTH", "- WIDTH"),
        ("_brush", "@functools.cache\n", ""),
    ],
)
def test_what_can_change_a_result_changes_the_id(paint_id, file, old, new):
    assert paint_id((file, old, new)) != paint_id()


@pytest.mark.parametrize("value", ["1.5", "1j", "b'x'", "..."])
def test_a_constant_is_not_the_text_that_it_is_written_as(paint_id, value):
    constant = paint_id(("paint", "LEVEL = 3", f"LEVEL, OTHER = 3, {value}"))
    assert paint_id(("paint", "LEVEL = 3", f"LEVEL, OTHER = 3, {value!r}")) != constant


def test_a_text_of_any_characters_has_a_hash(paint_id):
    assert paint_id(("paint", "LEVEL = 3", 'LEVEL, OTHER = 3, "\\ud800"')) != paint_id()


def test_the_fields_of_a_class_are_more_than_annotations(paint_id):
    """Their order is that of a dataclass' arguments; their types do not count, as elsewhere."""
    one, typed, other = (
        paint_id(("paint", "red = 1", fields))
        for fields in (
            "red: int\n    green: int",
            "red: float\n    green: float",
            "green: int\n    red: int",
        )
    )
    assert one == typed != other


def test_a_helper_of_a_helper_counts(paint_id):
    imports = ("_brush", "import math", "import math\nfrom ._hair import HAIR")
    uses = ("_brush", "+ WIDTH", "+ WIDTH * HAIR")
    one, same, other = (
        paint_id(imports, uses, _hair=text) for text in ("HAIR = 1", "HAIR = 1  # one", "HAIR = 2")
    )
    assert one == same != other


def test_a_helper_that_is_passed_on_counts(paint_id):
    """The file between uses nothing of it; or it is there for what it does when it is imported."""
    for line in ("from ._hair import HAIR", "from . import _hair"):
        passes = ("_brush", "import math", f"import math\n{line}")
        one, other = (paint_id(passes, _hair=text) for text in ("HAIR = 1", "HAIR = 2"))
        assert one != other, line


def test_a_folder_of_helpers_counts(tiny_root):
    imports = PAINT.replace("from ._brush import stroke", "from ._brushes.round import stroke")
    found = []
    for number, brush in enumerate((BRUSH, "# another\n" + BRUSH, BRUSH.replace("5", "6"))):
        root = tiny_root(f"root-{number}")
        folder = root / "methods" / "_brushes"
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "round.py").write_text(brush)
        (root / "methods" / "paint.py").write_text(imports)
        found.append(record_id(root, "paint"))
    assert found[0] == found[1] != found[2]


# --- corpus, encoder, generator -----------------------------------------------------------------

ENCODER = 'encoder = {{ model = "local-dir:pocket/clip" }}'
# What a part is made of, and how bench.toml names it where it lies in a folder.
PARTS = {
    "corpus": (
        ["train-0.parquet", "train-1.parquet"],
        ENCODER + '\ncorpus = {{ data_files = ["{0}/*.parquet"] }}',
    ),
    "corpus in the Hub's layout": (
        ["data/train-00000-of-00001.parquet"],
        ENCODER + '\ncorpus = {{ hub = "{0}" }}',
    ),
    "encoder": (
        ["open_clip_config.json", "open_clip_model.safetensors"],
        'encoder = {{ model = "local-dir:{0}" }}',
    ),
    "encoder's weights": (
        ["clip.pt"],
        'encoder = {{ model = "ViT-B-32", pretrained = "{0}/clip.pt" }}',
    ),
    "generator": (
        ["model_index.json", "unet/config.json", "unet/model.safetensors"],
        ENCODER + '\ngenerator = {{ model = "{0}", size = 32 }}',
    ),
}


def declare_upstream(root: Path, name: str, text: str) -> None:
    with open(root / "bench.toml", "a") as file:
        file.write(f'\n[upstream.{name}]\ntitle = "Called {name}"\n{text}\n')


def write_part(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content of " + name.encode())


@pytest.mark.parametrize("kind", PARTS)
def test_an_upstream_is_its_content_wherever_it_lies(shapes, tmp_path, kind):
    names, text = PARTS[kind]
    elsewhere = tmp_path / "other disk" / "models"
    for name, folder in (("first", shapes / "here"), ("second", elsewhere)):
        write_part(folder, names)
        declare_upstream(shapes, name, text.format(folder))
    declare_upstream(shapes, "third", text.format("here"))
    before = record_id(shapes, upstream="first")
    assert record_id(shapes, upstream="second") == before
    assert record_id(shapes, upstream="third") == before

    (elsewhere / "README.md").write_text("Read me")
    (elsewhere / ".cache").mkdir()
    (elsewhere / ".cache" / "download.lock").write_text("")
    assert record_id(shapes, upstream="second") == before


@pytest.mark.parametrize(
    ("kind", "file"), [(kind, file) for kind, (files, _) in PARTS.items() for file in files]
)
def test_one_changed_byte_of_an_upstream_is_another(shapes, kind, file):
    names, text = PARTS[kind]
    for name in ("first", "second"):
        write_part(shapes / name, names)
        declare_upstream(shapes, name, text.format(name))
    path = shapes / "second" / file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert record_id(shapes, upstream="first") != record_id(shapes, upstream="second")


def test_the_pockets_corpus_may_be_copied_under_another_name(shapes):
    """The real one, as a user would move it to a larger disk."""
    bench = (shapes / "bench.toml").read_text()
    (shapes / "copy").mkdir()
    shutil.copy(shapes / "pocket/corpus/train.parquet", shapes / "copy/images.parquet")
    bench = bench.replace("upstream.pocket", "upstream.mine").replace('"pocket"', '"mine"')
    before = record_id(shapes)
    bench = bench.replace("pocket/corpus/train.parquet", "copy/images.parquet")
    (shapes / "bench.toml").write_text(bench)
    assert record_id(shapes, upstream="mine") == before
    with open(shapes / "copy/images.parquet", "ab") as file:
        file.write(b"\0")
    assert record_id(shapes, upstream="mine") != before


HUB = {
    "corpus": ENCODER + '\ncorpus = {{ hub = "owner/data"{0} }}',
    "encoder": 'encoder = {{ model = "hf-hub:owner/clip"{0} }}',
    "generator": ENCODER + '\ngenerator = {{ model = "owner/diffusion", size = 32{0} }}',
}


@pytest.mark.parametrize("kind", HUB)
def test_a_repository_is_its_id_at_a_revision_of_forty_digits(shapes, kind):
    declare_upstream(shapes, "loose", HUB[kind].format(""))
    for name in "ab":
        declare_upstream(shapes, name, HUB[kind].format(f', revision = "{name * 40}"'))
    with pytest.raises(ConfigError, match=f"{kind} '.*owner/.*\n?.*40-digit revision"):
        record_id(shapes, upstream="loose")
    assert record_id(shapes, upstream="a") != record_id(shapes, upstream="b")
    declare_upstream(shapes, "branch", HUB[kind].format(', revision = "main"'))
    with pytest.raises(ConfigError, match="revision"):
        record_id(shapes, upstream="branch")


def test_a_tag_of_open_clip_names_no_revision(shapes):
    declare_upstream(shapes, "tag", 'encoder = { model = "ViT-B-32", pretrained = "openai" }')
    with pytest.raises(ConfigError, match="'ViT-B-32'[^$]*'openai'[^$]*40-digit revision"):
        record_id(shapes, upstream="tag")


# --- classifiers --------------------------------------------------------------------------------

FINETUNE = """
[classifier.{name}]
kind = "finetune"
steps = 2
batch_size = 4
lr = 1e-4
weight_decay = 0.05
model = "{model}"
{more}
"""


def declare_classifier(root: Path, name: str, model: str, more: str = "") -> None:
    with open(root / "bench.toml", "a") as file:
        file.write(FINETUNE.format(name=name, model=model, more=more))


def test_published_weights_of_a_classifier_need_their_revision(shapes):
    declare_classifier(shapes, "loose", "timm:hf-hub:owner/vit")
    declare_classifier(shapes, "named", "timm:resnet18")
    pin = f'revision = "{"a" * 40}"'
    declare_classifier(shapes, "nowhere", "timm:resnet18", pin)  # timm's list knows no revisions
    for name in ("loose", "named", "nowhere"):
        with pytest.raises(ConfigError, match="40-digit revision"):
            record_id(shapes, classifier=name)
    declare_classifier(shapes, "pinned", "timm:hf-hub:owner/vit", pin)
    declare_classifier(shapes, "other", "timm:hf-hub:owner/vit", pin.replace("a", "b"))
    assert record_id(shapes, classifier="pinned") != record_id(shapes, classifier="other")


def test_the_weights_of_a_classifier_are_their_content(shapes):
    for name, content in (("a.pt", b"one"), ("b.pt", b"one"), ("c.pt", b"two")):
        (shapes / name).write_bytes(content)
    found = []
    for weights in ("a.pt", "b.pt", "c.pt"):
        folder = shapes.parent / weights
        shutil.copytree(shapes, folder, symlinks=True)
        declare_classifier(folder, "tuned", "timm:resnet18", f'weights = "{weights}"')
        found.append(record_id(folder, classifier="tuned"))
    assert found[0] == found[1] != found[2]


# --- the protocol and the card ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ([("budget.S", "budget.quick"), ('budget = "S"', 'budget = "quick"')], True),
        ([('title = "The pocket upstream"', 'title = "Another title"')], True),
        ([("\nbatch_size = 8\nsampling", "\nbatch_size = 4\nsampling")], True),
        ([('control = "none"', 'control = "none"\nstall_seconds = 5')], True),
        ([("splits = [0, 1]", "splits = [0]")], True),
        ([("sampling = { steps = 4", "sampling = { steps = 5")], False),
        ([("guidance_scale = 2.0", "guidance_scale = 3.0")], False),
        (
            [("guidance_scale = 2.0 }", 'guidance_scale = 2.0, scheduler = "DDIMScheduler" }')],
            False,
        ),
        ([("size = 32", "size = 64")], False),
        ([("images_per_class = 2", "images_per_class = 3")], False),
        ([("compute = 400", "compute = 401")], False),
        ([("steps = 20", "steps = 21")], False),
    ],
)
def test_numbers_of_the_protocol_count_and_its_names_do_not(shapes, edit, changes, same):
    before = record_id(shapes)
    for old, new in changes:
        edit(shapes / "bench.toml", old, new)
    assert (record_id(shapes) == before) == same


@pytest.mark.parametrize("key", ["title", "description", "citation", "homepage", "licence"])
def test_prose_of_a_card_is_not_in_the_id(shapes, key):
    card = shapes / "tasks" / "shapes.toml"
    before = record_id(shapes)
    lines = card.read_text().splitlines()
    row = next(row for row, line in enumerate(lines) if line.startswith(f"{key} ="))
    lines[row] = f'{key} = "https://example.org/another"'
    card.write_text("\n".join(lines))
    assert record_id(shapes) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('prompts = ["an emoji', 'prompts = ["a drawing'),
        ('queries = ["an emoji', 'queries = ["a drawing'),
        ('name = "red circle"', 'name = "scarlet circle"'),
        ("flip = true", "flip = false"),
        ("val_per_class = 1", "val_per_class = 2"),
        ("image_size = 32", "image_size = 16"),
    ],
)
def test_what_a_card_decides_is_in_the_id(shapes, edit, old, new):
    before = record_id(shapes)
    edit(shapes / "tasks" / "shapes.toml", old, new)
    assert record_id(shapes) != before
