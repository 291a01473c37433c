"""gacfx between other people's tools: passes in one manager, copies, and int8 on what is left."""

import copy
from importlib.util import find_spec
from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.passes.dialect.common.cse_pass import CSEPass
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.passes.infra.pass_manager import PassManager, this_before_that_pass_constraint

import gacfx
from gacfx.api import read_calibration
from gacfx.calibration.evaluate import evaluate
from gacfx.demo import MODEL
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.rewrite.clean import Clean
from gacfx.passes.rewrite.factorize import Factorize


def count_linears(gm: GraphModule) -> PassResult:
    """Somebody else's pass."""
    print(sum("linear" in str(n.target) for n in gm.graph.nodes), "linears")
    return PassResult(gm, False)


def main() -> None:
    """One plan in a graph, in a module, in a copy of it, and under int8."""
    model, tokenizer = gacfx.load(MODEL)
    text = read_calibration(MODEL / "calibration.jsonl", model, tokenizer, "5k")
    search = gacfx.Search(value="two-sided")  # one value model: quicker than trying three
    planned = gacfx.plan(model, calibration=text, ratio=0.2, search=search)

    annotate, clean = AnnotateSites(), Clean()
    factorize = Factorize(plan=planned.plan, factors=planned.factors)
    before = this_before_that_pass_constraint
    order = [before(annotate, factorize), before(factorize, clean), before(clean, count_linears)]
    passes: list[Any] = [count_linears, clean, factorize, CSEPass(), annotate]
    graph = PassManager(passes, order)(gacfx.capture(model)).graph_module

    small = copy.deepcopy(gacfx.apply(model, planned))
    ids = torch.randint(0, 256, (3, 17))
    with torch.no_grad():
        gap = graph(input_ids=ids, use_cache=False)[0] - small(ids, use_cache=False).logits
    print(f"graph and module differ by {gap.abs().max():.1e}")

    print(f"dense             {evaluate(model, text).nats_per_token:.4f} nats per token")
    print(f"20 % removed      {evaluate(small, text).nats_per_token:.4f}")
    if find_spec("torchao"):
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(small, Int8WeightOnlyConfig())
        print(f"the same in int8  {evaluate(small, text).nats_per_token:.4f}")


if __name__ == "__main__":
    main()
