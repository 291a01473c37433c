"""prune in the graphs of the whole zoo: slicing is masking, for every structure that allows it.

In float64 to 1e-6 and better; families with experts in float32 to 1e-5, as grouped products have no
float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from gacfx import pipelines
from gacfx.core.materialise import FactorSet
from gacfx.core.plan import Choice, Weight
from gacfx.core.pruning import Heads, Skip, Width
from gacfx.core.structures import Structure
from gacfx.coupling.structures import coupled_structures
from gacfx.graph import edit, ops
from gacfx.graph.pipeline import Pipeline
from gacfx.modules.install import install_
from gacfx.passes.verify.check_numerics import relative_error
from gacfx.tracing.export import export_model
from tests.families.narrow import decision_of, masked, sliced
from tests.families.zoo import CORNERS, FAMILIES
from tests.few import few
from tests.passes.graphs import planned

Pruned = tuple[Structure, Width | Heads | Skip]

EXPERTS = ("mixtral", "qwen3moe", "deepseekv3")
"""They are run in float32."""

COUNTS = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "gemma3", "phi3"), (4, 4)),
    **dict.fromkeys(("gpt2", "gptneox", "vit"), (4, 4)),
    **dict.fromkeys(("mixtral", "qwen3moe"), (2, 2)),
    "t5": (4, 4),
    "opt": (4, 2),
    "deepseekv3": (4, 2),
    "bert": (4, 0),
}
"""Family -> structures that lose units, blocks that can be taken out, of two layers."""


@dataclass(frozen=True, eq=False)
class Captured:
    """A model, its graph, what both are fed, and its structures."""

    model: nn.Module
    inputs: dict[str, Tensor | bool]
    graph: GraphModule
    structures: tuple[Structure, ...]
    dense: Tensor
    tolerance: float

    def of(self, run: nn.Module) -> Tensor:
        """The first output."""
        with torch.no_grad():
            found = run(**self.inputs)[0]
        assert isinstance(found, Tensor)
        return found


@cache
def captured(name: str, attention: str = "sdpa") -> Captured:
    """With biases that are not zero, as fresh ones are, so that a lost one shows."""
    torch.set_num_threads(1)
    family, experts = FAMILIES[name], name in EXPERTS
    model: Any = family.make()
    model.set_attn_implementation(attention)
    inputs = dict(family.export_kwargs())
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=draw) / 10)
    if not experts:
        model = model.double()
        inputs = {
            key: each.double() if isinstance(each, Tensor) and each.is_floating_point() else each
            for key, each in inputs.items()
        }
    graph = export_model(model, inputs)
    with torch.no_grad():
        dense = model(**inputs)[0]
    tolerance = 1e-5 if experts else 1e-6
    return Captured(model, inputs, graph, coupled_structures(graph), dense, tolerance)


def prunable(found: Captured) -> list[Structure]:
    """Those that may lose units."""
    return [structure for structure in found.structures if not structure.refused]


def fewer(count: int, by: int = 3) -> tuple[int, ...]:
    """All but every third, from the second one on; the only one stays."""
    return tuple(at for at in range(count) if at % by != 1) if count > 1 else (0,)


def units_off(structure: Structure, by: int = 3) -> Width | Heads:
    """A third of the channels, or of the key-value heads with all that is theirs."""
    return decision_of(structure, fewer(structure.units, by))


def head_off(structure: Structure) -> Heads:
    """One query head of each key-value head, another one each time."""
    every, heads = range(structure.units), range(structure.heads)
    kept = tuple(tuple(h for h in heads if h != unit % structure.heads) for unit in every)
    made = decision_of(structure, tuple(every), kept)
    assert isinstance(made, Heads)
    return made


def one_by_one(found: Captured) -> Iterator[Pruned]:
    """Each structure alone, in every way that it may be pruned."""
    for structure in prunable(found):
        yield structure, units_off(structure)
        if structure.heads > 1:
            yield structure, head_off(structure)
        if not structure.keeps_block:
            yield structure, Skip()


def pruned(found: Captured, *chosen: Pruned) -> GraphModule:
    """The graph after the passes of a rewrite."""
    choices, factors = [], FactorSet()
    for structure, decision in chosen:
        weights = tuple(Weight(m.module, m.rows, m.columns) for m in structure.members)
        choices.append(Choice(structure.name, weights, decision, None, 0.0))
        factors |= sliced(found.model, structure, decision)[0]
    made = edit.fork(found.graph)
    plan = replace(planned(made, {}).plan, choices=tuple(choices))
    Pipeline.parse(pipelines.REWRITE).bind(plan=plan, factors=factors).run(made)
    return made


def check(found: Captured, *chosen: Pruned) -> GraphModule:
    """The pruned graph, once it computes what the dense model does with zeros in its weights."""
    made, other = pruned(found, *chosen), found.model
    for structure, decision in chosen:
        other = masked(other, structure, decision)
    ours, want = found.of(made), found.of(other)
    what = [f"{structure.name}: {decision}" for structure, decision in chosen]
    assert relative_error(ours, want) <= found.tolerance, what
    assert relative_error(want, found.dense) > 1e-4, what
    _check_sizes(made, chosen)
    return made


def _check_sizes(made: GraphModule, chosen: tuple[Pruned, ...]) -> None:
    """The coupling of the graph that was made finds the structures in their new sizes."""
    after = {structure.name: structure for structure in coupled_structures(made)}
    for structure, decision in chosen:
        if isinstance(decision, Skip):
            assert structure.name not in after
            prefix = f"{structure.name}."
            assert not [n for n, _ in made.named_parameters() if n.startswith(prefix)]
            continue
        one = after[structure.name]
        if isinstance(decision, Width):
            assert (one.units, one.heads) == (len(decision.kept), 1)
        else:
            assert (one.units, one.heads) == (len(decision.groups), len(decision.heads[0]))


SOME = [
    name
    if name in ("llama", "gpt2", "phi3", "deepseekv3", "t5")
    else pytest.param(name, marks=pytest.mark.exhaustive)
    for name in FAMILIES
]


@pytest.mark.parametrize("family", SOME)
def test_every_structure_by_itself(family: str) -> None:
    found, blocks, cut = captured(family), 0, set[str]()
    for structure, decision in one_by_one(found):
        check(found, (structure, decision))
        blocks += isinstance(decision, Skip)
        cut.add(structure.name)
    assert (len(cut), blocks) == COUNTS[family]


@pytest.mark.parametrize("family", few(["llama", "phi3", "gpt2", "gptneox"], "llama", "gptneox"))
def test_attention_in_products_and_softmax_too(family: str) -> None:
    found, cut = captured(family, "eager"), set[str]()
    assert not [node for node in found.graph.graph.nodes if ops.op_of(node) is ops.Op.ATTENTION]
    for structure, decision in one_by_one(found):
        check(found, (structure, decision))
        cut.add(structure.name)
    assert len(cut) == COUNTS[family][0]


@pytest.mark.parametrize("family", few(FAMILIES, *CORNERS))
def test_all_structures_at_once_each_in_its_own_size(family: str) -> None:
    found = captured(family)
    chosen: list[Pruned] = []
    for number, structure in enumerate(prunable(found)):
        several = structure.heads > 1 and number % 4 == 0
        decision = head_off(structure) if several else units_off(structure, 2 + number)
        chosen.append((structure, decision))
    assert len({str(decision) for _, decision in chosen}) > 1
    check(found, *chosen)


SKIPPED = [name for name, (_, blocks) in COUNTS.items() if blocks]


@pytest.mark.parametrize("family", few(SKIPPED, "llama", "gpt2", "deepseekv3", "t5"))
def test_blocks_are_skipped_while_others_shrink(family: str) -> None:
    found = captured(family)
    structures = prunable(found)
    first = next(structure for structure in structures if not structure.keeps_block)
    check(found, *((each, Skip() if each is first else units_off(each)) for each in structures))


@pytest.mark.parametrize("family", few(SKIPPED, "llama", "gpt2", "deepseekv3", "t5"))
def test_every_block_that_may_go_is_gone(family: str) -> None:
    found = captured(family)
    check(found, *((s, Skip()) for s in prunable(found) if not s.keeps_block))


SAME = [name for name in FAMILIES if name not in ("t5", *EXPERTS)]


@pytest.mark.parametrize("family", few(SAME, *CORNERS))
def test_the_graph_is_the_one_of_the_pruned_module(family: str) -> None:
    """Operators, sizes that are written in them, and numbers, to the last bit."""
    found = captured(family)
    chosen = [
        (each, head_off(each) if each.heads > 2 else units_off(each)) for each in prunable(found)
    ]
    model, factors = FAMILIES[family].make().double(), FactorSet()
    blocks: dict[str, Any] = {}
    model.load_state_dict(found.model.state_dict())
    for structure, decision in chosen:
        more, own = sliced(model, structure, decision)
        factors |= more
        blocks |= own
    install_(model, factors, blocks)
    module, graph = export_model(model, found.inputs), pruned(found, *chosen)
    assert calls(graph) == calls(module)
    assert torch.equal(found.of(graph), found.of(module))


def calls(gm: GraphModule) -> list[str]:
    """Operator, numbers in its arguments and shape of every node, in order."""
    return [
        f"{node.target} {[a for a in node.args if isinstance(a, int | list)]} {ops.shape(node)}"
        for node in gm.graph.nodes
        if node.op == "call_function"
    ]
