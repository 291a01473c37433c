"""Use gacfx passes under torch.fx's own PassManager, and compile the rewritten graph."""

from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.passes.infra.pass_manager import PassManager

import gacfx
from gacfx.core.search import Search
from gacfx.demo import MODEL
from gacfx.passes.analysis.annotate_sites import AnnotateSites
from gacfx.passes.rewrite.clean import Clean
from gacfx.passes.rewrite.factorize import Factorize


def count_linears(gm: GraphModule) -> PassResult:
    """Somebody else's pass: an ordinary function."""
    linears = sum(n.target is torch.ops.aten.linear.default for n in gm.graph.nodes)
    print(f"{linears} linears")
    return PassResult(gm, False)


def main() -> None:
    """Plan, rewrite under PassManager, compile, compare."""
    model, tokenizer = gacfx.load(MODEL)
    text: dict[str, Any] = {"calibration": MODEL / "calibration.jsonl", "calibration_tokens": "5k"}
    search = Search(value="two-sided")  # one value model: quicker than trying three
    planned = gacfx.plan(model, tokenizer, **text, ratio=0.3, search=search)
    graph = gacfx.capture(model)
    factorize = Factorize(plan=planned.plan, factors=planned.factors)
    passes: list[Any] = [count_linears, AnnotateSites(), factorize, Clean(), count_linears]
    result = PassManager(passes, run_checks_after_each_pass=True)(graph)
    ids = torch.randint(0, 256, (3, 17))
    compiled: Any = torch.compile(result.graph_module, backend="aot_eager")
    with torch.no_grad():
        ours = compiled(input_ids=ids, use_cache=False)[0]
        theirs = gacfx.apply(model, planned)(ids, use_cache=False).logits
    print(f"largest difference from the module: {(ours - theirs).abs().max():.1e}")


if __name__ == "__main__":
    main()
