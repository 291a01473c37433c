"""What the analysis says of real models in their real sizes, captured on the meta device."""

import pytest
import torch
from transformers import LlamaForCausalLM

from gacfx.core.decision import Decision, LowRank, Pivot
from gacfx.core.materialise import Factors
from gacfx.core.plan import Budget, Choice, Plan
from gacfx.core.provenance import Provenance
from gacfx.core.sites import Workload
from gacfx.coupling.analyse import couple
from gacfx.coupling.structures import coupled_structures
from gacfx.hardware import profile as profiles
from gacfx.inspection import Inspection, annotate_graph
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.rewrite.clean import Clean
from gacfx.passes.rewrite.factorize import Factorize
from gacfx.report import tables
from gacfx.tracing.export import export_model
from tests.families.zoo import FAMILIES
from tests.golden.goldens import NARROW, check, inspected, render, shapes

PREFILL = Workload(batch=1, seq=1024)
DECODE = Workload(batch=1, seq=1024, mode="decode")


@pytest.mark.parametrize("name", ["llama-3-8b", "mixtral-8x7b"])
@pytest.mark.parametrize("workload", [PREFILL, DECODE], ids=["prefill", "decode"])
def test_the_table_of_a_real_model(name: str, workload: Workload) -> None:
    seen = inspected(shapes(name), name, workload)
    check(f"{name}_{workload.mode}", render(tables.inspection_view(seen)))


@pytest.mark.parametrize("name", ["llama-3-8b", "mixtral-8x7b"])
def test_the_table_on_80_columns(name: str) -> None:
    seen = inspected(shapes(name), name, PREFILL)
    check(f"{name}_80", render(tables.inspection_view(seen), NARROW))


def test_reasons_below_their_rows_on_80_columns() -> None:
    """A T4 has no flash, and no backend but math takes K and V of fewer heads: a long reason."""
    gm = shapes("llama-3-8b", torch.float16)
    seen = annotate_graph(gm, profiles.load("t4"), DECODE, "llama-3-8b, 2 layers")
    check("llama-3-8b_t4_80", render(tables.inspection_view(seen), NARROW))


Q0, Q1 = (f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1))
UP0, DOWN1 = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"
REPLACED: dict[str, dict[str, Decision]] = {
    "factorized": {Q0: LowRank(1107), Q1: LowRank(1112)},
    "pivots": {Q0: Pivot(1107), Q1: Pivot(1112), UP0: Pivot(2048), DOWN1: Pivot(1111)},
}
"""Odd ranks and even ones; pivots on outputs and, of the tall up_proj, on inputs."""


def replaced(name: str) -> Inspection:
    """Llama-3-8B with some of its weights replaced."""
    gm = shapes("llama-3-8b")
    weights = {
        n.removesuffix(".weight"): p.shape
        for n, p in gm.named_parameters()
        if n.removesuffix(".weight") in REPLACED[name]
    }
    factors, choices = {}, []
    for module, decision in REPLACED[name].items():
        rows, columns = weights[module]
        tensors = {
            key: torch.empty(
                stored.shape, device="meta", dtype=torch.int32 if stored.integer else None
            )
            for key, stored in decision.tensors(rows, columns).items()
        }
        factors[module] = Factors(decision, rows, columns, tensors)
        choices.append(Choice.single(module, rows, columns, decision, 1107.3, 0.0))
    made = Provenance("gfwsvd", "two-sided", "h200", 8, "bf16")
    plan = Plan(tuple(choices), Budget("0.2", "targeted", 0, 0, 0), None, made)
    for step in (AnnotateSites(), Factorize(plan=plan, factors=factors), Clean()):
        step(gm)
    title = "q_proj factorized" if name == "factorized" else name
    return inspected(gm, f"llama-3-8b, {title}", PREFILL)


@pytest.mark.parametrize("name", REPLACED)
def test_an_odd_rank_at_real_size_and_the_next_even_one(name: str) -> None:
    seen = replaced(name)
    check(f"llama-3-8b_{name}", render(tables.inspection_view(seen)))
    check(f"llama-3-8b_{name}_80", render(tables.inspection_view(seen), NARROW))


@pytest.mark.parametrize("name", REPLACED)
@pytest.mark.parametrize("width", [60, 80, 100, 120, 240])
def test_no_width_loses_a_word(width: int, name: str) -> None:
    """Whatever the layout: every name, size, reason and note is there, and every line fits."""
    seen = replaced(name)
    text = render(tables.inspection_view(seen), width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.replace("x", " x ").split())
    for row in seen.folded():
        for said in (row.name, row.sizes, row.reason, row.note):
            assert " ".join(said.replace("x", " x ").split()) in words


def test_what_of_a_real_model_can_be_pruned() -> None:
    gm = shapes("llama-3-8b")
    params = sum(parameter.numel() for parameter in gm.parameters())
    view = tables.groups_view("llama-3-8b, 2 layers", params, coupled_structures(gm))
    check("llama-3-8b_groups", render(view))
    check("llama-3-8b_groups_80", render(view, NARROW))


def test_what_cannot_be_pruned_or_taken_out_stands_with_its_reason() -> None:
    gm = export_model(FAMILIES["deepseekv3"].make())
    view = tables.groups_view("deepseekv3", 69_100, coupled_structures(gm))
    check("deepseekv3_groups", render(view))
    check("deepseekv3_groups_80", render(view, NARROW))


def test_the_coupled_dims_of_a_real_model() -> None:
    dims = couple(shapes("llama-3-8b"))
    check("llama-3-8b_dims", render(tables.dims_view(dims)))
    check("llama-3-8b_dims_80", render(tables.dims_view(dims), NARROW))


def test_one_layer_as_text_with_its_notes() -> None:
    config = FAMILIES["llama"].config()
    config.num_hidden_layers = 1
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval()
    lines = inspected(export_model(model), "tiny", PREFILL).code().splitlines()
    # From the first projection to the last; before it stands the mask, which is no layer's.
    first = next(i for i, line in enumerate(lines) if "self_attn.q_proj.weight" in line)
    last = next(
        i for i, line in enumerate(lines) if line.startswith("    # model.layers.0.mlp.down")
    )
    check("tiny-llama_code", "\n".join(lines[first : last + 1]))
