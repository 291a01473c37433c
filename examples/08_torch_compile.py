"""Try a plan inside a graph of torch.compile, and read what the compiled graph really calls."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import gacfx
from gacfx.core.search import Search
from gacfx.demo import MODEL
from gacfx.errors import PlanMismatch


def main() -> None:
    """Plan, compile, compare with the rewritten model, read the report, change a weight."""
    model, tokenizer = gacfx.load(MODEL)
    text: dict[str, Any] = {"calibration": MODEL / "calibration.jsonl", "calibration_tokens": "5k"}
    search = Search(value="two-sided")  # one value model: quicker than trying three
    planned = gacfx.plan(model, tokenizer, **text, ratio=0.3, search=search)
    ids = torch.randint(0, 256, (2, 33))
    with TemporaryDirectory() as folder, torch.no_grad():
        report = Path(folder) / "graphs.json"
        # "inductor" is the default; "aot_eager" needs no C++ compiler.
        options: Any = {"plan": planned, "inner": "aot_eager", "report": report, "gpu": "a100"}
        compiled: Any = torch.compile(model, backend="gacfx", options=options)
        ours = compiled(ids, use_cache=False).logits
        theirs = gacfx.apply(model, planned)(ids, use_cache=False).logits
        print(f"largest difference from the rewritten model: {(ours - theirs).abs().max():.1e}")

        graph = json.loads(report.read_text())["graphs"][0]
        print(f"on {graph['gpu']}, sites by tier: {graph['tiers']}")
        for row in graph["rows"][:4]:
            print(f"{row['name']:36} {row['sizes']:16} {row['kernel']:8} {row['reason']}")

        changed = next(iter(planned.plan.decisions))
        model.get_submodule(changed).weight.mul_(1.01)
        try:
            compiled(ids, use_cache=False)
        except PlanMismatch as error:
            print(error)


if __name__ == "__main__":
    main()
