"""Passes that look at candidates: limits, rules, forbidden sizes. They run without a graph, too."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch.fx import GraphModule

from gacfx.core.offered import Offered
from gacfx.core.sites import MatmulSite
from gacfx.graph.gacpass import GacPass
from gacfx.graph.notes import Fact, state, target_sites


@dataclass(frozen=True)
class LimitingPass(GacPass):
    """A pass that may stand among the limits of a search: it says what plans may not do.

    Its work is ``restrict``, which is given what is offered and knows no graph, so that plans are
    made from saved curves by the same code. What is offered belongs to groups: most are one weight
    and have the name of its module; where structures may be pruned, a group is a whole MLP or
    attention, and ``offered.modules(group)`` names its weights in the order of the parts of its
    decisions. A pass that looks at groups, and not at ``sites`` alone, works for both.
    """

    needs = frozenset({Fact.TARGETS, Fact.CANDIDATES})
    drops = frozenset({Fact.PLAN})

    @abstractmethod
    def restrict(self, offered: Offered, sites: Mapping[str, MatmulSite]) -> None:
        """Change what is offered: add limits and rules, or list candidates anew.

        Args:
            offered: candidates of every group; changed in place.
            sites: module -> the product of its dense weight, in the order of the candidates.
        """

    def check(self) -> None:
        """Raise PassError for an option out of its range, before any work."""

    @final
    def run(self, gm: GraphModule) -> bool:
        self.restrict(state(gm), target_sites(gm))
        return False
