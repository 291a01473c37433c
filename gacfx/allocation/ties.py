"""One decision for all layers of one kind of projection, or all experts of a layer, as rules."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping

from gacfx.core.offered import Offered
from gacfx.core.sites import MatmulSite
from gacfx.errors import PassError
from gacfx.knapsack.limits import SameLabel

LAYERS, EXPERTS = "tie-layers", "tie-experts"


def tie_layers(sites: Mapping[str, MatmulSite], offered: Offered) -> None:
    """Add the rules: weights whose names differ by layer numbers only, of one shape.

    Raises:
        PassError: no candidate is offered to all weights of a kind.
    """
    found = ((kind_of(group), group) for group in _free(offered))
    _tie(found, sites, offered, f"{LAYERS}: uniform wants", "drop uniform")


def tie_experts(sites: Mapping[str, MatmulSite], offered: Offered) -> None:
    """Add the rules: weights of the experts of one layer that differ by the expert's number.

    Raises:
        PassError: no candidate is offered to all experts of a layer.
    """
    routed = (group for group in _free(offered) if _routed(sites, offered, group))
    found = ((expert_of(group), group) for group in routed)
    _tie(found, sites, offered, f"{EXPERTS}: wants", f"drop {EXPERTS}")


def _tie(
    found: Iterable[tuple[str, str]],
    sites: Mapping[str, MatmulSite],
    offered: Offered,
    wants: str,
    drop: str,
) -> None:
    """Hold groups of one kind and of the same shapes to one candidate.

    Args:
        found: (kind, group).
        sites: module -> its product.
        offered: given the rules.
        wants: who wants that, for a message.
        drop: what may be given up instead of a bound.
    """
    assert offered.candidates is not None
    kinds = defaultdict[tuple[str, Hashable], list[str]](list)
    for kind, group in found:
        own = [sites[module] for module in offered.modules(group)]
        kinds[kind, tuple((site.n.times, site.k.times) for site in own)].append(group)
    for (kind, _), alike in kinds.items():
        labels = ({each.label for each in offered.candidates[group]} for group in alike)
        if not set.intersection(*labels):
            raise PassError(
                f"{wants} one rank for the {len(alike)} weights {kind}, and "
                f"no rank is within the bounds of them all; loosen a bound or {drop}"
            )
        if len(alike) > 1:
            offered.rule(SameLabel(tuple(alike)))


def _free(offered: Offered) -> Iterable[str]:
    """Groups that have a choice: one that can only stay dense has its reason, and must not hold
    back the others."""
    found = (offered.candidates or {}).items()
    return (group for group, each in found if not all(one.is_dense for one in each))


def _routed(sites: Mapping[str, MatmulSite], offered: Offered, group: str) -> bool:
    """A group of one expert: a router sends it a share of the tokens."""
    return all(sites[module].m.per > 1 for module in offered.modules(group))


def kind_of(module: str) -> str:
    """``model.layers.*.mlp.up_proj`` for any layer.

    ``model.layers.*.mlp.0`` as well: a number at the end tells one linear of a layer from another.
    """
    *path, last = module.split(".")
    return ".".join([*("*" if part.isdigit() else part for part in path), last])


def expert_of(module: str) -> str:
    """``model.layers.0.mlp.experts.*.fc1`` for any expert of that layer, or ``...experts.*``."""
    path = module.split(".")
    number = max((place for place, part in enumerate(path) if part.isdigit()), default=-1)
    return ".".join("*" if place == number else part for place, part in enumerate(path))
