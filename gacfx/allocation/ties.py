"""One decision for all layers of one kind of projection, as rules between weights."""

from collections import defaultdict
from collections.abc import Mapping

from gacfx.core.offered import Offered
from gacfx.core.sites import MatmulSite
from gacfx.errors import PassError
from gacfx.knapsack.limits import SameLabel

BY = "tie-layers"


def tie_layers(sites: Mapping[str, MatmulSite], offered: Offered) -> None:
    """Add the rules: weights whose names differ by layer numbers only, of one shape.

    Raises:
        PassError: no candidate is offered to all weights of a kind.
    """
    assert offered.candidates is not None
    kinds = defaultdict(list)
    for group, candidates in offered.candidates.items():
        own = [sites[module] for module in offered.modules(group)]
        shapes = tuple((site.n.times, site.k.times) for site in own)
        # A group that can only stay dense has its reason; it must not hold back the others.
        if not all(each.is_dense for each in candidates):
            kinds[kind_of(group), shapes].append(group)
    for (kind, _), alike in kinds.items():
        labels = ({each.label for each in offered.candidates[group]} for group in alike)
        if not set.intersection(*labels):
            raise PassError(
                f"{BY}: uniform wants one rank for the {len(alike)} weights {kind}, and "
                "no rank is within the bounds of them all; loosen a bound or drop uniform"
            )
        if len(alike) > 1:
            offered.rule(SameLabel(tuple(alike)))


def kind_of(module: str) -> str:
    """``model.layers.*.mlp.up_proj`` for any layer.

    ``model.layers.*.mlp.0`` as well: a number at the end tells one linear of a layer from another.
    """
    *path, last = module.split(".")
    return ".".join([*("*" if part.isdigit() else part for part in path), last])
