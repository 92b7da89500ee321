"""The meter: counts are exact, caps are never overspent, time is guarded."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmark.errors import BudgetStop
from benchmark.flops import count_flops, watch
from benchmark.home import find_root
from benchmark.meter import Budget, Meter

DIFFUSION = find_root(Path(__file__)) / "pocket" / "stable-diffusion"


def meter(tflops: float = 1.0) -> Meter:
    return Meter(Budget(images_per_class=1, tflops=tflops), n_classes=2)


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when ``now`` is changed."""
    hands = SimpleNamespace(now=100.0)
    monkeypatch.setattr("benchmark.meter.time.perf_counter", lambda: hands.now)
    return hands


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel.from_pretrained(DIFFUSION / "unet", dtype=torch.float32)
    return model.requires_grad_(False).eval()


def unet_call(rows: int) -> tuple[tuple, dict]:
    torch.manual_seed(0)
    states = torch.randn(rows, 32, 192)
    return (torch.randn(rows, 4, 8, 8), torch.tensor(7)), {"encoder_hidden_states": states}


# --- charging -----------------------------------------------------------------------------------


def test_a_charge_goes_to_the_innermost_phase():
    m = meter()
    m.charge(flops=1)
    with m.phase("fit"):
        m.charge(flops=10, nfe=1)
        with m.phase("filter"):
            m.charge(flops=100)
        m.charge(images=3)
    spent = m.spent()
    assert {name: spend.tflops * 1e12 for name, spend in spent.items()} == {
        "augment": 1,
        "fit": 10,
        "filter": 100,
    }
    assert (spent["fit"].nfe, spent["fit"].images) == (1, 3)
    assert m.total().tflops == pytest.approx(111e-12)


def test_a_cap_can_be_reached_and_not_passed():
    m = meter(tflops=1e-12 * 100)
    m.charge(flops=100, nfe=5)
    assert m.tflops_left == 0
    with pytest.raises(BudgetStop) as stop:
        m.charge(flops=1)
    assert (stop.value.unit, stop.value.used, stop.value.cap) == ("tflops", 1e-10, 1e-10)
    m.charge(nfe=10**9, images=10**6)  # counted, not capped
    assert m.total().nfe == 10**9 + 5 and m.total().tflops == 1e-10


def test_without_a_cap_nothing_is_refused():
    m = Meter(Budget(images_per_class=1), n_classes=2)
    m.charge(flops=10**30)
    assert m.tflops_left == math.inf and m.total().tflops == 1e18


def test_a_cap_that_is_a_product_holds_what_it_is_a_product_of():
    """0.1 * 3 images of 10^12 FLOPs: rounding must not refuse the last."""
    m = meter(tflops=3 * 0.1)
    for _ in range(3):
        m.charge(flops=10**11)
    with pytest.raises(BudgetStop):
        m.charge(flops=10**6)


def test_a_refused_charge_adds_nothing_at_all():
    m = meter(tflops=5e-12)
    with pytest.raises(BudgetStop):
        m.charge(flops=6, nfe=6, images=1)
    assert m.total() == meter().total()


def test_an_except_exception_of_a_method_does_not_swallow_the_stop():
    m = meter(tflops=1e-12)
    with pytest.raises(BudgetStop):
        try:
            m.charge(flops=2)
        except Exception:  # what a careless method does
            pytest.fail("swallowed")


# --- the clock ----------------------------------------------------------------------------------


def test_the_clock_runs_in_phases_and_stands_while_paused(clock):
    m = meter()
    clock.now += 1
    with m.phase("fit"):
        clock.now += 2
        with m.paused():
            clock.now += 4
            m.charge(flops=5, nfe=10**9)
        clock.now += 8
        with m.phase("filter"):
            clock.now += 16
            assert m.total().seconds == 26
    clock.now += 32
    with m.watching():
        clock.now += 0.5
    seconds = {name: spend.seconds for name, spend in m.spent().items()}
    assert seconds == {"fit": 10, "filter": 16, "augment": 0.5}
    assert m.total().nfe == 0


def test_an_abandoned_phase_does_not_outlive_the_one_around_it():
    m = meter()

    def method():
        with m.phase("generate"):
            yield 1
            yield 2

    with m.phase("outer"):
        made = method()
        next(made)  # still suspended inside its phase
    m.charge(nfe=1)
    assert m.spent()["augment"].nfe == 1
    made.close()


def test_peak_memory_is_of_this_trial():
    before = meter().peak_memory_mb
    m = meter()
    torch.ones(40 * 2**20 // 4).sum()
    assert 0 < before < 100_000
    assert m.peak_memory_mb >= before


# --- counting -----------------------------------------------------------------------------------


def test_a_linear_layer_is_two_flops_per_weight_and_row():
    layer = nn.Linear(30, 50)
    inputs = torch.randn(7, 30)
    forward = 2 * 7 * 30 * 50
    assert count_flops(layer, (inputs,), {}, train=False) == forward
    assert count_flops(layer, (inputs,), {}, train=True) == 2 * forward  # weights alone
    assert count_flops(layer, (inputs.requires_grad_(),), {}, train=True) == 3 * forward
    layer.requires_grad_(False)
    assert count_flops(layer, (inputs,), {}, train=True) == 2 * forward  # inputs alone


def test_a_convolution_is_two_flops_per_tap():
    layer = nn.Conv2d(3, 8, kernel_size=5, padding=2, stride=2)
    assert count_flops(layer, (torch.randn(4, 3, 16, 16),), {}, False) == (
        2 * 4 * 8 * 8 * 8 * 3 * 5 * 5
    )


class Attention(nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(q, k, k)


def test_attention_is_two_products_though_the_cpu_fuses_them():
    q, k = torch.randn(2, 3, 10, 16), torch.randn(2, 3, 20, 16)
    assert count_flops(Attention(), (q, k), {}, False) == 2 * (2 * 2 * 3 * 10 * 20 * 16)


def test_a_count_does_not_depend_on_precision():
    layer, inputs = nn.Linear(8, 8), torch.randn(3, 8)
    expected = count_flops(layer, (inputs,), {}, False)
    assert count_flops(copy.deepcopy(layer).bfloat16(), (inputs,), {}, False) == expected


def test_a_unet_costs_per_row(unet):
    one, two, four = (count_flops(unet, *unet_call(rows), train=False) for rows in (1, 2, 4))
    assert four == 2 * two == 4 * one > 1e8


def test_a_time_step_is_not_counted_anew(unet, monkeypatch):
    (latents, _), states = unet_call(2)
    known = count_flops(unet, (latents, 5), states, False)
    monkeypatch.setattr(type(unet), "forward", None)  # fails where it is called
    assert count_flops(unet, (latents, 900), states, False) == known
    with pytest.raises(TypeError):
        count_flops(unet, (latents[:1], 900), {}, False)


def test_new_layers_are_counted():
    model = nn.Sequential(nn.Linear(4, 4))
    inputs = (torch.randn(1, 4),)
    before = count_flops(model, inputs, {}, False)
    model.append(nn.Linear(4, 4))
    assert count_flops(model, inputs, {}, False) == 2 * before


class DataDependent(nn.Module):
    """Cannot run on meta: its control flow reads a value; it draws noise and keeps a count."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x = x + torch.randn_like(x) * 0
        return self.linear(x) if x.sum().item() < 1e9 else x


def test_what_cannot_run_on_meta_is_counted_where_it_is():
    model, inputs = DataDependent(), torch.ones(5, 6)
    state = torch.random.get_rng_state()
    assert count_flops(model, (inputs,), {}, True) == 2 * 2 * 5 * 6 * 6
    assert model.calls == 0 and model.linear.weight.grad is None
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_wrong_input_raises_the_modules_own_error():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        count_flops(nn.Linear(4, 4), (torch.randn(1, 5),), {}, False)


# --- watching -----------------------------------------------------------------------------------


def test_a_watched_denoiser_charges_flops_and_rows(unet):
    m = meter()
    args, kwargs = unet_call(3)
    handle = watch(unet, lambda: m, denoiser=True)
    try:
        with torch.no_grad():
            watched = unet(*args, **kwargs).sample
            unet(*args, **kwargs)
    finally:
        handle.remove()
    with torch.no_grad():
        plain = unet(*args, **kwargs).sample
    assert torch.equal(watched, plain)
    assert m.total().nfe == 6
    assert m.total().tflops * 1e12 == pytest.approx(
        2 * count_flops(unet, *unet_call(3), train=False)
    )


def test_the_work_is_charged_before_it_is_done():
    m, ran = meter(tflops=1e-12), []
    layer = nn.Linear(9, 9)
    watch(layer, lambda: m)
    layer.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(BudgetStop):
        layer(torch.randn(1, 9))
    assert not ran and m.total().tflops == 0


def test_a_hook_that_a_module_gives_itself_when_it_is_counted_stays():
    class Lazy(nn.Linear):
        ready = False

        def forward(self, given):
            if not self.ready:
                self.register_forward_hook(lambda *_: ran.append("own"))
                self.ready = True
            return super().forward(given)

    m, ran = meter(), []
    layer = Lazy(9, 9)
    handle = layer.register_forward_hook(lambda *_: ran.append("other"))
    watch(layer, lambda: m)
    layer(torch.randn(1, 9))  # counted
    assert ran[-2:] == ["other", "own"]
    for expected in (["other", "own"], ["own"]):
        ran.clear()
        layer(torch.randn(1, 9))
        assert ran == expected
        handle.remove()


@pytest.mark.parametrize(("frozen", "grad", "passes"), [(0, 1, 2), (1, 1, 1), (0, 0, 1)])
def test_training_is_charged_where_something_is_trained(frozen, grad, passes):
    m, layer = meter(), nn.Linear(5, 5).requires_grad_(not frozen)
    watch(layer, lambda: m)
    with torch.set_grad_enabled(bool(grad)):
        layer(torch.randn(2, 5))
    assert round(m.total().tflops * 1e12) == passes * 2 * 2 * 5 * 5


def test_nothing_is_charged_without_a_meter():
    m, on = meter(), [False]
    layer = nn.Linear(5, 5)
    watch(layer, lambda: m if on[0] else None)
    layer(torch.randn(1, 5))
    assert m.total().tflops == 0
    on[0] = True
    copy.deepcopy(layer)(torch.randn(1, 5))  # a copy that a method trains is watched too
    assert m.total().tflops > 0
