"""FLOPs of a module's passes: counted on the ``meta`` device, once per input shape.

A multiply-add is 2. The count depends on shapes alone, so it is exact and the same on every
machine; ``watch`` charges it to a meter before each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from torch import Tensor, nn

    from benchmark.meter import Meter


def watch(module: nn.Module, meter_of: Callable[[], Meter | None], denoiser: bool = False) -> Any:
    """Charges every forward pass of ``module`` to the meter that ``meter_of`` returns (None:
    nothing is charged). Where gradients are on and something requires one, the backward pass is
    charged with it. A copy of the module is watched too.

    Args:
        denoiser: its calls count as NFE, one per row of the first tensor given to it.

    Returns:
        A handle; ``handle.remove()`` ends it.
    """

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        meter = meter_of()
        if meter is None:
            return
        import torch

        tensors = _tensors((args, kwargs))
        train = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in [*tensors, *module.parameters()]
        )
        rows = next(len(tensor) for tensor in tensors if tensor.ndim) if denoiser else 0
        meter.charge(flops=count_flops(module, args, kwargs, train), nfe=rows)

    return module.register_forward_pre_hook(before, with_kwargs=True)


def count_flops(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], train: bool
) -> int:
    """FLOPs of ``module(*args, **kwargs)``, a multiply-add being 2.

    Counted without computing anything, on copies of weights and inputs on the ``meta`` device
    (on the CPU, torch's counter does not know the fused attention and would count it as 0), and
    remembered per module, shapes and parameters. A module that cannot run there, because its
    control flow depends on data, is run once more on its own device with the unfused attention.
    Random generators, buffers and gradients are left as they were, and no hook is called.

    Args:
        train: count the backward pass as well, for weights and inputs that require gradients.

    Raises:
        Exception: whatever the module itself raises for these inputs.
    """
    known = _counts.setdefault(module, {})
    key = (train, module.training, *_signature(module), *_shapes((args, kwargs)))
    if key not in known:
        import torch

        tensors = [*_tensors((args, kwargs)), *module.parameters()]
        devices = {tensor.device for tensor in tensors if tensor.is_cuda}
        with _without_hooks(module), torch.random.fork_rng(devices):
            try:
                known[key] = _count(module, args, kwargs, train, _on_meta)
            except Exception:  # whatever it is: what the module really raises is raised below
                known[key] = _count(module, args, kwargs, train, _with_data)
    return known[key]


_counts: WeakKeyDictionary[nn.Module, dict[Hashable, int]] = WeakKeyDictionary()


def _count(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    train: bool,
    alias: Callable[[Tensor], Tensor],
) -> int:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils._pytree import tree_map_only
    from torch.utils.flop_counter import FlopCounterMode

    def copied(tensor: Tensor) -> Tensor:
        return alias(tensor).requires_grad_(train and tensor.requires_grad)

    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    state = {name: copied(tensor) for name, tensor in state.items()}
    args, kwargs = tree_map_only(torch.Tensor, copied, (args, kwargs))
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.set_grad_enabled(train):
        out = torch.func.functional_call(module, state, args, kwargs)
        if train:
            torch.autograd.backward([leaf.sum() for leaf in _tensors(out) if leaf.requires_grad])
    return int(counter.get_total_flops())


@contextmanager
def _without_hooks(module: nn.Module) -> Iterator[None]:
    """Hooks, ours and others', belong to real passes only. One that a module gives itself at its
    first pass stays: transformers collects hidden states with such hooks."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    held = [getattr(part, kind) for part in module.modules() for kind in kinds]
    before = [dict(hooks) for hooks in held]
    try:
        for hooks in held:
            hooks.clear()
        yield
    finally:
        for hooks, kept in zip(held, before, strict=True):
            added = dict(hooks)
            hooks.clear()
            hooks.update(kept | added)


def _on_meta(tensor: Tensor) -> Tensor:
    """The same shape without data; single precision, since precision does not change a count
    and mixed ones would need autocast, which ``meta`` has not."""
    import torch

    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty_like(tensor, dtype=dtype, device="meta")


def _with_data(tensor: Tensor) -> Tensor:
    """A copy: the module may write to its buffers, and gradients must not reach its weights."""
    return tensor.detach().clone()


def _signature(module: nn.Module) -> Iterator[Hashable]:
    """Changes when layers are added, such as adapters, or frozen."""
    for parameter in module.parameters():
        yield parameter.shape, parameter.requires_grad


def _shapes(tree: Any) -> Iterator[Hashable]:
    """The shapes of tensors, switches by value, the types of all else: a time step does not
    change a count."""
    import torch
    from torch.utils._pytree import tree_flatten

    leaves, structure = tree_flatten(tree)
    yield repr(structure)
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            yield leaf.shape, leaf.is_floating_point(), leaf.requires_grad
        else:
            yield leaf if isinstance(leaf, bool | str | None) else type(leaf).__qualname__


def _tensors(tree: Any) -> list[Tensor]:
    import torch
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
