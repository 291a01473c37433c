"""The README.md of a compressed checkpoint: how to load it, what was done to it."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from gacfx.core.own_sizes import is_own
from gacfx.core.plan import Plan
from gacfx.core.rise import rise_of, rise_text

HEALED = "healed"
"""Entry of ``gacfx_report.json``: a table for each healing, the first one first."""
_CARD = """\
---
library_name: transformers
tags: [gacfx, compressed{tags}]
---
# {title}

A model compressed with gacfx: {compressed} of {targeted} targeted weights are compressed{kinds}.

**Import gacfx before loading.** Without it, transformers stops with a size mismatch. Do not follow
its advice to set `ignore_mismatched_sizes`: that gives random weights, and this folder cannot
prevent it.

```python
import gacfx  # registers the loader
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{title}")
tokenizer = AutoTokenizer.from_pretrained("{title}")
```

Programs that cannot be edited load it under `gacfx run -- COMMAND ...`.

| | |
|---|---|
| method | {method} |
| parameters of the targeted weights | {kept:,} of {dense:,} ({removed}) |
{active}| budget | {limit:,} ({asked}) |
| chosen for | {gpu}, {dtype} |
| loss | {loss} |
{healed}
`gacfx verify` says of a copy whether every file is what was written (`gacfx_files.json`).
`plan/plan.json` has every decision with its reason, `plan/factors.safetensors` the tensors of the
compressed weights in the model's dtype.
"""


def model_card(title: str, plan: Plan, report: Mapping[str, Any] | None = None) -> str:
    """Markdown with the front matter that the hub reads.

    Args:
        title: name of the folder.
        plan: that the model carries out.
        report: what ``gacfx_report.json`` says; of it the healings.
    """
    budget, origin, rise = plan.budget, plan.provenance, rise_of(plan)
    kinds = sorted(Counter(decision.kind for decision in plan.decisions.values()).items())
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds)
    return _CARD.format(
        title=title,
        tags="".join(f", {kind}" for kind, _ in kinds),
        compressed=len(plan.decisions),
        targeted=len(plan.weights),
        kinds=f" ({counts})" if counts else "",
        method=origin.method + (", its own sizes, not aligned" if is_own(plan) else ""),
        kept=plan.kept_params,
        dense=budget.targeted_params,
        removed=_change(plan.kept_params / max(budget.targeted_params, 1)),
        active=_active(plan),
        limit=budget.limit_params,
        asked=budget.asked,
        gpu=origin.gpu,
        dtype=origin.dtype,
        loss="not measured" if rise is None else rise_text(rise),
        healed="".join(map(_healed, healings_in(report or {}))),
    )


def healings_in(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a report says of healings, the first one first; entries without their numbers are left
    out."""
    found = report.get(HEALED)
    return [each for each in found if _is_healing(each)] if isinstance(found, list) else []


def _is_healing(said: object) -> bool:
    if not isinstance(said, dict):
        return False
    sides = (said.get("before"), said.get("after"))
    found = [said.get("tokens"), *(side.get("kl") for side in sides if isinstance(side, dict))]
    return len(found) == 3 and all(type(each) in (int, float) for each in found)


def _healed(said: Mapping[str, Any]) -> str:
    """A row of a healing, behind which the loss above is that of the model before."""
    before, after = said["before"]["kl"], said["after"]["kl"]
    return (
        f"| healed | on {said['tokens']:,} tokens: KL to the dense model {before:.4f} -> "
        f"{after:.4f} nats/token on held-back text |\n"
    )


def _change(kept: float) -> str:
    return f"{1 - kept:.1%} removed" if kept <= 1 else f"{kept - 1:.1%} more"


def _active(plan: Plan) -> str:
    """A row of what runs, where prompts pick it."""
    if plan.active_params == plan.kept_params:
        return ""
    share = plan.active_params / max(plan.budget.targeted_params, 1)
    return (
        f"| run for a prompt | {plan.active_params:,} ({1 - share:.1%} fewer), which a router "
        "picks |\n"
    )
