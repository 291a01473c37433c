"""What planning needs to know of a graph: its targets and their curves, as plain values."""

from collections import Counter

from torch.fx import GraphModule

from gacfx.core.curve_file import Curves, Facts, Target, structure_arrays
from gacfx.core.provenance import Provenance
from gacfx.core.shared_curves import shared_key
from gacfx.errors import PlanError, UnsupportedModel
from gacfx.graph.notes import matmuls, note, state, target_nodes, target_sites, targets
from gacfx.graph.ops import dtype_text


def target_names(gm: GraphModule) -> list[str]:
    """Names of the targeted modules.

    Raises:
        UnsupportedModel: there is none; lists the reasons.
    """
    names = list(target_nodes(gm))
    if not names:
        reasons = "; ".join(sorted(set(refused_sites(gm).values())))
        raise UnsupportedModel(f"no weight can be compressed: {reasons or 'no matmul found'}")
    return names


def targeted_params(gm: GraphModule) -> int:
    """Parameters of all targeted weights of a graph, dense."""
    return sum(s.k.times * s.n.times for s in target_sites(gm).values())


def refused_sites(gm: GraphModule) -> dict[str, str]:
    """Module -> why it is not part of the plan."""
    found = {}
    for node, site in matmuls(gm):
        known = note(node)
        if known.targeted is False and site.weight is not None and known.refusals:
            found[site.name] = known.refusals[-1].reason
    return found


def dense_reasons(gm: GraphModule) -> dict[str, str]:
    """Target -> why it has no other candidate than the dense weight."""
    return {s.name: note(n).refusals[-1].reason for n, s in targets(gm) if note(n).refusals}


def graph_curves(gm: GraphModule, provenance: Provenance) -> Curves:
    """The curves that a graph holds right now, without locks.

    Raises:
        PlanError: it holds none.
    """
    known = state(gm).curves or {}
    weights, own = [], set()
    for site in target_sites(gm).values():
        if site.name not in known:
            raise PlanError(f"{site.name}: has no curve yet; run measure-curves first")
        curve = known[site.name]
        own.add(site.weight)
        weights.append(
            Target(
                module=site.name,
                rows=curve.rows,
                columns=curve.columns,
                value_model=curve.value_model,
                m=site.m,
                count=site.count,
                bias=site.bias,
                layout=site.layout,
                dtype=site.dtype,
                failed=curve.failed,
                runs=site.runs,
                groups=curve.groups,
            )
        )
    others = Counter[str]()
    for name, parameter in gm.named_parameters():
        if name not in own:
            others[dtype_text(parameter.dtype)] += parameter.numel()
    facts = Facts(
        weights=tuple(weights),
        targeted_params=targeted_params(gm),
        model_params=sum(p.numel() for p in gm.parameters()),
        others=dict(sorted(others.items())),
        provenance=provenance,
        refusals=refused_sites(gm),
        structures=tuple(each.facts for each in state(gm).structure_curves),
        ranked={s.name: tuple(s.ranks) for s in state(gm).structure_curves if s.ranks},
        shared=tuple(each.facts for each in state(gm).shared_curves),
        unshared=dict(state(gm).unshared),
    )
    losses = {m: curve.loss_nats for m, curve in known.items() if not curve.failed}
    for each in state(gm).structure_curves:
        losses |= structure_arrays(each)
    losses |= {shared_key(each.name): each.losses for each in state(gm).shared_curves}
    return Curves(facts, losses)
