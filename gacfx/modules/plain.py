"""Which layers are a plain linear product, ``x @ W.T`` and perhaps a bias, whoever spelled it.

    nn.Linear, Conv1D of transformers                     they are
    class FalconLinear(nn.Linear)                         its forward says so: input @ self.weight.T
    class Llama4Router(nn.Linear)                         gives more than the product: it is not

A subclass is asked, not trusted: at its own sizes its forward may ask nothing of torch but a
product and a sum, and a small one that does just that gives what ``nn.Linear`` gives.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from gacfx.modules.dense import conv1d

_FUNCTIONS = ("nn.functional.linear", "matmul", "add", "t", "transpose")
_METHODS = ("matmul", "__matmul__", "add", "__add__", "__radd__", "t", "transpose")
_KNOWN = frozenset(
    (
        *(f"torch.{name}" for name in _FUNCTIONS),
        *(f"torch.Tensor.{name}" for name in (*_METHODS, "T.__get__", "mT.__get__")),
    )
)
"""What a product in other words may ask of torch."""
_SMALL = 5
"""Inputs and outputs of the layer that is computed with."""
_VALUES = (int, float, str, bool, type(None))
_Key = tuple[type[nn.Module], int, int, bool, torch.dtype, tuple[tuple[str, Any], ...]]


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is ``nn.Linear``, a Conv1D of transformers, or a subclass of ``nn.Linear``
    that computes the same and holds nothing else."""
    return type(layer) in (nn.Linear, conv1d()) or is_respelled(layer)


def is_respelled(layer: nn.Module) -> bool:
    """Whether a layer is of a subclass of ``nn.Linear`` that computes what that does.

    Layers that hold other parameters, buffers, modules or objects are not, nor are those of a
    weight that another program holds otherwise.
    """
    if not isinstance(layer, nn.Linear) or type(layer) is nn.Linear or hasattr(layer, "placed"):
        return False
    usual = vars(_probe(nn.Linear, 1, 1, True, torch.float32)).keys()
    more = {name: value for name, value in vars(layer).items() if name not in usual}
    held = (*layer._parameters.values(), *layer._buffers.values())
    own = [each for each in held if each is not None]
    if layer._modules or layer._buffers or not layer._parameters.keys() <= {"weight", "bias"}:
        return False
    if any(type(each) is not nn.Parameter or not each.is_floating_point() for each in own):
        return False
    if any(type(value) not in _VALUES for value in more.values()):
        return False
    rows, columns = layer.weight.shape
    key = (type(layer), columns, rows, layer.bias is not None, layer.weight.dtype)
    return _computes_the_same((*key, tuple(sorted(more.items()))))


@contextmanager
def as_linears(model: nn.Module) -> Iterator[None]:
    """Inside, subclasses of ``nn.Linear`` that compute what it computes are ``nn.Linear``, so that
    a graph shows each as the one operator that it stands for; afterwards as before."""
    classes = [(m, type(m)) for m in model.modules() if is_respelled(m)]
    try:
        for module, _ in classes:
            module.__class__ = nn.Linear
        yield
    finally:
        for module, cls in classes:
            module.__class__ = cls


@cache
def _computes_the_same(key: _Key) -> bool:
    """Whatever its forward raises, it is no plain product."""
    cls, columns, rows, biased, dtype, more = key
    draw = torch.Generator().manual_seed(0)
    try:
        for training in (False, True):
            layer = _probe(cls, columns, rows, biased, dtype, "meta", dict(more)).train(training)
            done = _done(layer, torch.empty(3, 7, columns, dtype=dtype, device="meta"))
            small = _probe(cls, _SMALL, _SMALL, biased, torch.float64, "cpu", dict(more))
            for each in small.parameters():
                each.data = torch.randn(each.shape, generator=draw, dtype=each.dtype)
            x = torch.randn(2, 3, _SMALL, generator=draw, dtype=torch.float64)
            with torch.no_grad():
                ours, found = nn.functional.linear(x, small.weight, small.bias), small(x)
            alike = done == _done(small.train(training), x) and set(done) <= _KNOWN
            if not (alike and torch.allclose(found, ours, rtol=1e-12, atol=1e-12)):
                return False
    except Exception:  # code of any package: what cannot be run is not understood
        return False
    return True


class _Recording(TorchFunctionMode):
    """Notes what is asked of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The call itself."""
        self.done.append(resolve_name(func) or repr(func))
        return func(*args, **(kwargs or {}))


def _done(layer: nn.Module, x: Tensor) -> list[str]:
    """What the forward of a layer asks of torch, in order."""
    recording = _Recording()
    with torch.no_grad(), recording:
        layer(x)
    return recording.done


def _probe(
    cls: type[nn.Module],
    columns: int,
    rows: int,
    biased: bool,
    dtype: torch.dtype,
    device: str = "meta",
    more: dict[str, Any] | None = None,
) -> nn.Linear:
    """A layer of a class that holds what ``nn.Linear`` holds; not made by the class itself, whose
    arguments may be any."""
    layer = nn.Linear(columns, rows, bias=biased, device=device, dtype=dtype).eval()
    vars(layer).update(more or {})
    layer.__class__ = cls  # type: ignore[assignment]  # nn.Module has no layout of its own
    return layer
