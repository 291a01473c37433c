"""The sizes that are written in a graph: every spelling follows when a dim of a weight shrinks.

Each toy is captured, loses units of one dim everywhere, and must then compute what it computes with
zeros in their place.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from gacfx.coupling.interpreter import Interpreter
from gacfx.coupling.positions import positions
from gacfx.coupling.rules import RULES
from gacfx.coupling.terms import Term, atoms, find, resized
from gacfx.errors import PassError
from gacfx.graph import edit, ops
from gacfx.passes.rewrite import literals
from gacfx.passes.rewrite.literals import rewrite_sizes
from gacfx.tracing.export import export_model

aten = torch.ops.aten
Body = Callable[[Tensor], Tensor]


class Toy(nn.Module):
    """[3, 17, 10] -> up -> body -> down."""

    def __init__(self, up: int, down: int, body: Body) -> None:
        super().__init__()
        self.up, self.body, self.down = nn.Linear(10, up), body, nn.Linear(down, 10)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """The same shape again."""
        out: Tensor = self.down(self.body(self.up(x)))
        return out


def gated(parts: Callable[[Tensor], tuple[Tensor, ...]]) -> Body:
    """A fused gate and up, 12 channels each."""

    def body(x: Tensor) -> Tensor:
        gate, up = parts(x)
        return torch.nn.functional.gelu(gate) * up

    return body


def attention(
    parts: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], repeat: Callable[[Tensor], Tensor]
) -> Body:
    """2 key-value heads of 4, with 3 query heads each, in one fused projection of 40."""

    def body(x: Tensor) -> Tensor:
        q, k, v = parts(x)
        q = q.view(3, 17, 6, 4).transpose(1, 2)
        k, v = (repeat(each.view(3, 17, -1, 4).transpose(1, 2)) for each in (k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).reshape(3, 17, 24)

    return body


def sliced(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x[..., :24], x[..., 24:32], x[..., 32:]


def expanded(x: Tensor) -> Tensor:
    return x[:, :, None].expand(3, 2, 3, 17, 4).reshape(3, 6, 17, 4)


@dataclass(frozen=True)
class Case:
    """One spelling: sizes of up and down around it, and which atom of down's inputs shrinks."""

    up: int
    down: int
    body: Body
    atom: int = 0


WIDTH = {
    "chunk": gated(lambda x: x.chunk(2, dim=-1)),
    "split into equal parts": gated(lambda x: x.split(12, dim=-1)),
    "split into listed parts": gated(lambda x: x.split([12, 12], dim=2)),
    "slices": gated(lambda x: (x[..., :12], x[..., 12:])),
    "slices with a step": gated(lambda x: (x[..., ::2], x[..., 1::2])),
    "slices from the back": gated(lambda x: (x[..., :-12], x[..., -12:24])),
    "slices by keyword": gated(
        lambda x: (aten.slice.Tensor(x, 2, end=12), aten.slice.Tensor(x, dim=2, start=12))
    ),
    "unflatten": gated(lambda x: x.unflatten(-1, (2, 12)).unbind(2)),
    "views": gated(lambda x: tuple(x.reshape(51, 2, 12).view(3, 17, 2, -1).unbind(2))),
}
HEADS = {
    "slices and expand": attention(sliced, expanded),
    "split of three sizes": attention(lambda x: x.split([24, 8, 8], dim=-1), expanded),
    "repeat_interleave": attention(sliced, lambda x: x.repeat_interleave(3, dim=1)),
    "repeat_interleave of a known size": attention(
        sliced, lambda x: aten.repeat_interleave.self_int(x, 3, 1, output_size=6)
    ),
    "broadcast_to": attention(
        sliced, lambda x: torch.broadcast_to(x[:, :, None], (3, 2, 3, 17, 4)).reshape(3, 6, 17, 4)
    ),
    "unflatten and flatten": attention(
        sliced,
        lambda x: (
            x.unsqueeze(2).expand(-1, -1, 3, -1, -1).flatten(1, 2).unflatten(1, (6, 1))[:, :, 0]
        ),
    ),
}
FILL = {
    "zeros": lambda x: x + torch.zeros(3, 17, 12, dtype=x.dtype),
    "ones": lambda x: x * torch.ones(12, dtype=x.dtype),
    "full": lambda x: x * torch.full((17, 12), 2.0, dtype=x.dtype),
    "new_zeros": lambda x: x + x.new_zeros((3, 17, 12)),
    "new_ones": lambda x: x * x.new_ones(1, 12),
    "new_full": lambda x: x * x.new_full((12,), 3.0),
    "new_empty": lambda x: x + x.new_empty(12).fill_(0.0),
    "empty": lambda x: x + torch.empty(12, dtype=x.dtype).fill_(0.0),
    "expand of a number": lambda x: x * torch.ones(1, dtype=x.dtype).expand(3, 17, 12),
}
CASES = {
    **{name: Case(24, 12, body) for name, body in WIDTH.items()},
    **{f"{name}, key-value heads": Case(40, 24, body) for name, body in HEADS.items()},
    **{f"{name}, query heads": Case(40, 24, body, atom=1) for name, body in HEADS.items()},
    **{name: Case(12, 12, body) for name, body in FILL.items()},
}


@pytest.mark.parametrize("name", CASES)
def test_slicing_is_masking(name: str) -> None:
    case = CASES[name]
    gm, x = captured(case)
    before, wanted = shrunk(gm, case.atom, zeros=True)(x=x), shrunk(gm, case.atom)(x=x)
    assert (before - gm(x=x)).abs().max() > 1e-3
    torch.testing.assert_close(wanted, before, rtol=1e-12, atol=1e-12)


def captured(case: Case) -> tuple[GraphModule, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(3, 17, 10, dtype=torch.float64)
    return export_model(Toy(case.up, case.down, case.body).eval(), {"x": x}), x


def shrunk(source: GraphModule, at: int, *, zeros: bool = False) -> GraphModule:
    """A copy without the second unit of an atom of down's inputs; or with zeros in its place."""
    gm = edit.fork(source)
    interpreter = Interpreter(gm)
    interpreter.run()
    atom = list(dict.fromkeys(atoms(interpreter.params["down.weight"][1])))[at]
    assert not atom.frozen
    kept = [unit for unit in range(atom.size) if unit != 1]
    for name, axes in interpreter.params.items():
        tensor = gm.get_parameter(name).detach().clone()
        for axis, term in enumerate(axes):
            found = positions(term, atom, None)
            assert found is not None
            stays = torch.from_numpy(found.kept(kept))
            gone = torch.ones(term.size, dtype=torch.bool).index_fill(0, stays, False)
            if zeros:
                tensor.index_fill_(axis, gone.nonzero()[:, 0], 0.0)
            else:
                tensor = tensor.index_select(axis, stays)
        edit.set_parameter(gm, name, tensor)
    if not zeros:
        rewrite_sizes(gm, interpreter.values, {atom: len(kept)})
        gm.graph.lint()
        gm.recompile()
    return gm


def test_the_graph_that_is_made_is_the_one_that_would_be_captured() -> None:
    """Numbers alone, of a fused projection that loses a query head of each group."""
    gm, _ = captured(CASES["split of three sizes, query heads"])
    wanted = [[3, 17, 4, 4], [3, 17, -1, 4], [3, 17, -1, 4], [3, 2, 2, 17, 4], [3, 4, 17, 4]]
    wanted += [[3, 2, 2, 17, 4], [3, 4, 17, 4], [3, 17, 16]]
    made = shrunk(gm, 1)
    lists = [
        list(node.args[1])
        for node in made.graph.nodes
        if ops.short_name(node) in ("view", "reshape", "expand")
    ]
    assert sorted(lists) == sorted(wanted)
    splits = [n.args[1] for n in made.graph.nodes if ops.short_name(n) == "split_with_sizes"]
    assert splits == [[16, 8, 8]]


def test_ends_of_slices_follow_and_open_ends_stay_open() -> None:
    body = gated(lambda x: (x[..., -24:12], x[..., 12:24] + aten.slice.Tensor(x, 2, 12)))
    made = shrunk(captured(Case(24, 12, body))[0], 0)
    slices = [node.args[2:] for node in made.graph.nodes if ops.short_name(node) == "slice"]
    assert slices == [(0, 11), (11, 22), (11,)]


def test_parts_of_unlike_sizes_are_listed() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(10, 24)
            self.one, self.two = nn.Linear(12, 10), nn.Linear(12, 10)

        def forward(self, x: Tensor) -> Tensor:
            one, two = self.up(x).split(12, dim=-1)
            out: Tensor = self.one(one) + self.two(two)
            return out

    gm = export_model(Two(), {"x": torch.randn(3, 17, 10)})
    interpreter = Interpreter(gm)
    interpreter.run()
    rewrite_sizes(gm, interpreter.values, {find(interpreter.params["one.weight"][1]): 7})
    (split,) = [n for n in gm.graph.nodes if "split" in ops.short_name(n)]
    assert (split.target, split.args[1:]) == (aten.split_with_sizes.default, ([7, 12], -1))


def test_nothing_is_written_where_nothing_changes() -> None:
    gm, _ = captured(CASES["slices and expand, query heads"])
    text = str(gm.graph)
    interpreter = Interpreter(gm)
    interpreter.run()
    rewrite_sizes(gm, interpreter.values, {Term(6): 4})
    assert str(gm.graph) == text


def test_numbers_of_other_axes_stay() -> None:
    """The batch is as large as the number of units, and does not follow it."""
    gm, _ = captured(Case(12, 12, lambda x: x.reshape(51, 3, 4).reshape(3, 17, 12)))
    made = shrunk(gm, 0)
    assert [n.args[1] for n in made.graph.nodes if ops.short_name(n) == "reshape"] == [
        [51, 2, 4],
        [3, 17, 8],
    ]


def test_a_number_that_cuts_what_changes_names_the_node() -> None:
    gm, _ = captured(CASES["slices"])
    interpreter = Interpreter(gm)
    interpreter.run()
    atom = find(interpreter.params["down.weight"][1])
    node = next(n for n in gm.graph.nodes if ops.short_name(n) == "slice")
    for changed in ((node.args[0], 2, 0, 5), (node.args[0], 2, 0, 12, 3)):
        node.args = changed
        with pytest.raises(PassError, match=r"^slice_\d+ = aten.slice.Tensor: .* that changes$"):
            rewrite_sizes(gm, interpreter.values, {atom: 7})


FREE = {"conv1d", "conv2d", "conv3d", "embedding", "select", "topk"}
FREE |= {"layer_norm", "native_layer_norm", "rms_norm"}
"""Operators whose numbers freeze their axes, or mix them, so that no size there ever changes."""


def test_every_operator_that_is_followed_has_its_numbers_rewritten_or_none() -> None:
    """A new rule for an operator with sizes in its arguments must say here what becomes of them."""
    names = [name.removeprefix("aten.") for name in RULES if name.startswith("aten.")]
    have = {name for name in names if counts(name)}
    assert have - literals._REWRITES.keys() == FREE
    assert literals._REWRITES.keys() <= have


def counts(name: str) -> bool:
    """An overload of the operator takes numbers of elements, or of positions."""
    packet = getattr(aten, name)
    texts = (str(getattr(packet, overload)._schema) for overload in packet.overloads())
    # torch itself writes SymInt where a number may depend on a size.
    return any("SymInt" in text or "int chunks" in text for text in texts)


def test_evaluated_sizes_are_the_sizes_of_the_graph() -> None:
    gm, _ = captured(CASES["slices and expand, query heads"])
    made = shrunk(gm, 1)
    again = Interpreter(edit.fork(gm))
    again.run()
    atom = list(dict.fromkeys(atoms(again.params["down.weight"][1])))[1]
    assert {
        name: tuple(resized(t, {atom: 2}) for t in axes) for name, axes in again.params.items()
    } == {name: tuple(parameter.shape) for name, parameter in made.named_parameters()}
