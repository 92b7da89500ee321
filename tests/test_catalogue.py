"""The page of methods is what the entries say, and spend is what was counted."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from benchmark.leaderboard.catalogue import catalogue
from typer.testing import CliRunner

from benchmark.errors import ConfigError, UnknownNameError
from benchmark.meter import Meter
from benchmark.records.cost import CostTable, MethodCost, read_costs
from benchmark.registry import load_registry
from benchmark.run.cost import stub_denoiser
from benchmark.upstream import open_upstream
from tests.helpers.trials import budget, fashion, of_classes
from tests.helpers.upstreams import small_spec

PAINT = """
import benchmark

FACTS = benchmark.Facts(
    title="Painted | by numbers",
    family="edit",
    adaptation="LoRA",
    query="class name",
    paper="https://example.org/paint",
    citation="Painter (2026), Tests",
    filters=("score", "duplicate"),
)


class Params(benchmark.Params):
    strength: float = benchmark.param(0.5, help="how far from | the shot", published=0.8, gt=0)
    steps: int = benchmark.param(4, help="brush strokes", ge=1)
    layers: tuple[str, ...] = benchmark.param(("a", "b"), help="where", published=())


def augment(shots, upstream, meter, rng, params):
    with meter.phase("fit"):
        meter.charge(flops=250_000_000_000)
    for label in range(len(shots.classes)):
        with meter.phase("generate"):
            meter.charge(flops=500_000_000_000, nfe=params.steps)
        row = shots.rows(label)
        told = [benchmark.Provenance("generated", "paint@1", nfe=params.steps)]
        yield benchmark.Images(shots.images[row][:1], [label], told)
"""
FIT = "    with meter.phase"
NEEDS_PAINT = """    import os
    if "PAINT" not in os.environ:
        raise RuntimeError("out of paint")
"""
RAISES = PAINT.replace(FIT, NEEDS_PAINT + FIT, 1)
SKIPS = PAINT.replace(FIT, '    raise benchmark.Unavailable("no brush")\n' + FIT, 1)
GREEDY = PAINT.replace("250_000_000_000", "5_000_000_000_000")
CELL = {"task": "shapes-3shot", "upstream": "pocket", "budget": "S", "seed": 0}


def rows(text, name):
    return [line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line]


def test_the_committed_page_is_made_from_the_entries(root):
    """Mended by ``make docs``."""
    page = (root / "docs" / "methods.md").read_text(encoding="utf-8")
    assert page == catalogue(load_registry(root), read_costs(root / "docs" / "costs.json"))


def test_a_method_is_told_with_its_facts_and_parameters(tiny_root):
    text = catalogue(load_registry(tiny_root(paint=PAINT)), CostTable(**CELL))
    first, strength, steps, layers = rows(text, "paint")
    for part in (
        "[`paint`](../methods/paint.py) Painted \\| by numbers",
        "[Painter (2026), Tests](https://example.org/paint)",
        "LoRA | class name | score, duplicate | not measured",
    ):
        assert part in first
    assert "| **`0.5`** | `0.8` | how far from \\| the shot |" in strength
    assert "| `4` | `4` |" in steps
    assert "| **`a, b`** | `none` |" in layers
    assert "## control" in text and "## edit" in text and "## retrieve" not in text
    widths = {line.replace("\\|", "").count("|") for line in rows(text, "paint")[1:]}
    assert widths == {6}


def test_spend_is_shown_by_phase_and_only_while_it_holds(tiny_root):
    root = tiny_root(paint=PAINT)
    registry = load_registry(root)
    method = registry.method("paint")
    spent = MethodCost(
        method_hash=method.hash,
        version=1,
        params=method.params().model_dump(mode="json"),
        status="capped",
        cap="tflops",
        reason="budget reached",
        phases={"fit": {"tflops": 1.5, "nfe": 0}, "generate": {"tflops": 0.25, "nfe": 4000}},
    )

    def shown(**changes):
        methods = {"paint": spent.model_copy(update=changes)}
        return rows(catalogue(registry, CostTable(**CELL, methods=methods)), "paint")[0]

    assert "1.75 (fit 1.5, generate 0.25); stopped by its cap of tflops | 4,000 |" in shown()
    assert "stopped" not in shown(cap="images")
    assert "failed: out of paint" in shown(status="failed", reason="out of paint", phases={})
    assert "not measured" in shown(version=2)
    assert "not measured" in shown(params={"strength": 0.6, "steps": 4})
    assert "1.75" in shown(method_hash="0" * 64)  # a comment was changed


def test_a_broken_method_is_not_left_out(tiny_root):
    with pytest.raises(ConfigError, match="odd: .*FACTS"):
        catalogue(load_registry(tiny_root(odd="x = 1")), CostTable(**CELL))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ('{"task": "a", "upstream": "b", "budget": "c", "seed": -1}', "seed"),
        (json.dumps(CELL | {"methods": {"a": {"tflops": 3}}}), "unknown key"),
    ],
)
def test_a_file_of_spend_is_validated(tmp_path, text, words):
    (tmp_path / "costs.json").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_costs(tmp_path / "costs.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_costs(tmp_path / "absent.json")


def test_spend_is_measured_once_and_failures_again(tiny_root, tmp_path, monkeypatch):
    from benchmark.cli import app

    root = tiny_root(paint=PAINT, raises=RAISES, skips=SKIPS, greedy=GREEDY)
    (root / "docs").mkdir()
    path = root / "docs" / "costs.json"
    path.write_text(json.dumps(CELL | {"methods": {"gone": measured()}}))
    monkeypatch.setenv("BENCH_ROOT", str(root))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "results"))

    def run(*arguments):
        done = CliRunner().invoke(app, ["docs", "costs", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout, read_costs(path).methods

    told, found = run()
    assert sorted(found) == ["greedy", "none", "paint", "raises", "repeat", "skips"]
    exact = {name: (p.tflops, p.nfe) for name, p in found["paint"].phases.items()}
    assert exact == {"fit": (0.25, 0), "generate": (1.5, 12)}
    assert found["paint"].images_accepted == 3 and found["repeat"].phases == {}
    assert (found["raises"].status, found["skips"].reason) == ("failed", "no brush")
    assert "out of paint" in found["raises"].reason
    assert (found["greedy"].status, found["greedy"].cap) == ("capped", "tflops")
    assert "paint: 1.75 TFLOPs, 12 NFE, ok" in told

    # Again: only the failure is run, which is mended by now; the page takes it over.
    before = path.stat().st_ino
    monkeypatch.setenv("PAINT", "bought")
    _, again = run("--methods", "paint")
    assert path.stat().st_ino == before and again == found
    _, again = run()
    assert again["raises"].phases == found["paint"].phases
    assert {**again, "raises": None} == {**found, "raises": None}
    page = CliRunner().invoke(app, ["docs", "methods"])
    assert page.exit_code == 0, page.output
    assert "1.75 (fit 0.25, generate 1.5) | 12 |" in (root / "docs" / "methods.md").read_text()
    wrong = CliRunner().invoke(app, ["docs", "costs", "--methods", "pain"])
    assert isinstance(wrong.exception, UnknownNameError) and "'paint'" in str(wrong.exception)


def measured():
    return {"method_hash": "0" * 64, "version": 1, "params": {}, "status": "ok"}


@pytest.mark.parametrize("name", ["prompt_simple", "real_guidance", "textual_inversion"])
def test_a_denoiser_that_answers_with_zeros_is_counted_in_full(root, name):
    upstream = open_upstream("small", small_spec(root), root, "cpu")
    method, shots = load_registry(root).method(name), of_classes(fashion(root), range(2))
    steps = [key for key in method.params.model_fields if key.endswith("steps")]
    params, spent = method.params(**dict.fromkeys(steps, 2)), []
    for unseeing in (stub_denoiser(upstream), nullcontext()):
        meter = Meter(budget(2), 2)
        with upstream.metered(meter), unseeing:
            list(method.augment(shots, upstream, meter, np.random.default_rng(0), params))
        spent.append({phase: (used.tflops, used.nfe) for phase, used in meter.spent().items()})
    assert spent[0] == spent[1] and spent[0]["generate"][1] > 0
