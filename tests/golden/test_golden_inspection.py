"""What the analysis says of real models in their real sizes, captured on the meta device."""

import pytest
import torch
from transformers import LlamaForCausalLM

from gacfx.core.materialise import Factors
from gacfx.core.plan import Budget, Choice, Plan, Provenance
from gacfx.core.sites import Workload
from gacfx.coupling.analyse import couple
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.rewrite.clean import Clean
from gacfx.passes.rewrite.factorize import Factorize
from gacfx.report import tables
from gacfx.tracing.export import capture
from tests.families.zoo import FAMILIES
from tests.golden.goldens import check, inspected, render, shapes

PREFILL = Workload(batch=1, seq=1024)
DECODE = Workload(batch=1, seq=1024, mode="decode")


@pytest.mark.parametrize("name", ["llama-3-8b", "mixtral-8x7b"])
@pytest.mark.parametrize("workload", [PREFILL, DECODE], ids=["prefill", "decode"])
def test_the_table_of_a_real_model(name: str, workload: Workload) -> None:
    seen = inspected(shapes(name), name, workload)
    check(f"{name}_{workload.mode}", render(tables.inspection_view(seen)))


def test_an_odd_rank_at_real_size_and_the_next_even_one() -> None:
    gm, factors, choices = shapes("llama-3-8b"), {}, []
    for layer, rank in enumerate((1107, 1112)):
        name = f"model.layers.{layer}.self_attn.q_proj"
        factors[name] = Factors(
            torch.empty(rank, 4096, device="meta"), torch.empty(4096, rank, device="meta")
        )
        choices.append(Choice(name, 4096, 4096, rank, 1107.3, 0.0))
    made = Provenance("gfwsvd", "two-sided", "h200", 8, "bf16")
    plan = Plan(tuple(choices), Budget("0.2", "targeted", 0, 0, 0), None, made)
    for step in (AnnotateSites(), Factorize(plan=plan, factors=factors), Clean()):
        step(gm)
    seen = inspected(gm, "llama-3-8b, q_proj factorized", PREFILL)
    check("llama-3-8b_factorized", render(tables.inspection_view(seen)))


def test_the_coupled_dims_of_a_real_model() -> None:
    check("llama-3-8b_dims", render(tables.dims_view(couple(shapes("llama-3-8b")))))


def test_one_layer_as_text_with_its_notes() -> None:
    config = FAMILIES["llama"].config()
    config.num_hidden_layers = 1
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval()
    lines = inspected(capture(model), "tiny", PREFILL).code().splitlines()
    # From the first projection to the last; before it stands the mask, which is no layer's.
    first = next(i for i, line in enumerate(lines) if "self_attn.q_proj.weight" in line)
    last = next(
        i for i, line in enumerate(lines) if line.startswith("    # model.layers.0.mlp.down")
    )
    check("tiny-llama_code", "\n".join(lines[first : last + 1]))
