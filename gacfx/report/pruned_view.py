"""Structured pruning as people say it: sizes of what they are of, what is left, and counts.

width 192 of 384, with gate_proj pivot 72, up_proj pivot 72
heads 8 of 32, kv 2
"""

from collections.abc import Iterable, Mapping

from gacfx.core.decision import Decision
from gacfx.core.plan import Choice, Plan
from gacfx.core.pruning import Each, Heads, Skip, Sliced, Width
from gacfx.graph.layers import ranges, split_layer


def size_text(choice: Choice) -> str:
    """``pivot 96``, ``width 192 of 384``, ``heads 8 of 32, kv 2``, or ``skip``."""
    decision = choice.decision
    if isinstance(decision, Width):
        return f"width {len(decision.kept)}{_of(choice, len(decision.kept))}"
    if isinstance(decision, Heads):
        queries, groups = decision.queries, len(decision.groups)
        said = f"heads {queries}{_of(choice, queries)}"
        return said if queries == groups else f"{said}, kv {groups}"
    return str(decision.label)


def _of(choice: Choice, units: int) -> str:
    """`` of 384``: how many there are; empty where the weights do not say."""
    for weight in choice.weights:
        part = choice.decisions[weight.module]
        if isinstance(part, Sliced) and part.inputs < weight.columns:
            dense, rest = divmod(units * weight.columns, part.inputs)
            return "" if rest else f" of {dense}"
    return ""


def said(decision: Decision) -> str:
    """``pivot 96``, ``width 192: pivot 72, dense, dense``, ``whole: pivot 8, dense, dense``."""
    if decision.is_dense:
        return "dense"
    return f"whole: {decision}" if isinstance(decision, Each) else str(decision)


def rests_text(choice: Choice) -> str:
    """``with gate_proj pivot 72, up_proj pivot 72``; empty where all that is left stays dense."""
    if not isinstance(choice.decision, Width | Heads | Each):
        return ""
    said = []
    for module, part in choice.decisions.items():
        rest = part.rest if isinstance(part, Sliced) else part
        if not rest.is_dense:
            said.append(f"{short_name(choice, module)} {rest}")
    return f"with {', '.join(said)}" if said else ""


def short_name(choice: Choice, module: str) -> str:
    """A member of a group without what its name begins with."""
    return module.removeprefix(f"{choice.group}.").rpartition(".")[2]


def counts_text(plan: Plan) -> str:
    """``5 blocks narrower, 1 attention with fewer heads, 2 blocks skipped, 13 low ranks``."""
    kinds = [type(choice.decision) for choice in plan.choices]
    said = (
        (kinds.count(Width), "block narrower", "blocks narrower"),
        (kinds.count(Heads), "attention with fewer heads", "attentions with fewer heads"),
        (kinds.count(Skip), "block skipped", "blocks skipped"),
        (len(plan.ranks), "low rank", "low ranks"),
    )
    found = [f"{number} {one if number == 1 else many}" for number, one, many in said if number]
    return ", ".join(found)


def folded(reasons: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """(``mlp 0-3, self_attn 2``, reason) for each reason, of module -> reason."""
    groups: dict[str, dict[str, list[int]]] = {}
    for module, reason in reasons.items():
        _, layer, name = split_layer(module)
        groups.setdefault(reason, {}).setdefault(name, []).extend([int(layer)] if layer else [])
    for reason, names in groups.items():
        said = (f"{name} {ranges(layers)}".rstrip() for name, layers in names.items())
        yield ", ".join(said), reason
