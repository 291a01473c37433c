"""Open sizes as numbers: a prime for each symbol, the sizes of the trace beside them, no guards."""

from typing import Any

import pytest
import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from gacfx.graph.symbols import concrete, hint, numbers


@pytest.fixture
def env() -> ShapeEnv:
    return ShapeEnv()


def opened(env: ShapeEnv, *sizes: int, name: str = "x") -> Any:
    """A tensor of these sizes, all of them open."""
    asked: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * len(sizes))
    return FakeTensorMode(shape_env=env).from_tensor(
        torch.empty(sizes), source=ConstantSource(name), symbolic_context=asked
    )


def test_each_symbol_is_a_prime_of_its_own_and_sizes_of_the_trace_are_told_apart(
    env: ShapeEnv,
) -> None:
    batch, seq = opened(env, 6, 64).shape
    assert numbers((batch, seq, 64)) == (1009, 10007, 64), "64 is a size of the model as well"
    assert numbers((batch * seq, seq + 1, batch)) == (1009 * 10007, 10008, 1009)
    assert [hint(size) for size in (batch, seq, batch * seq, 64)] == [6, 64, 384, 64]
    assert not env.guards, "to ask fixes nothing"


def test_symbols_of_another_graph_begin_anew(env: ShapeEnv) -> None:
    first, second = opened(env, 6, 9), opened(ShapeEnv(), 7, 8)
    assert numbers(first.shape) == numbers(second.shape) == (1009, 10007)


def test_more_symbols_than_the_table_has(env: ShapeEnv) -> None:
    shapes = (opened(env, size, size + 20, name=f"x{size}").shape for size in range(2, 17))
    found = numbers([size for shape in shapes for size in shape])
    assert found is not None and len({*found}) == 30
    for number in found:
        assert all(number % low for low in range(2, int(number**0.5) + 1)), number


def test_of_a_size_that_depends_on_data_nothing_is_known(env: ShapeEnv) -> None:
    size = env.create_unbacked_symint()
    assert numbers((3, size)) is None and numbers((3, size * 2)) is None
    assert concrete(size) == hint(size) == 1009, "it has no size of a trace"
    assert numbers((3, 4)) == (3, 4)
