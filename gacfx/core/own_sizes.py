"""A method's own sizes: how a plan of them is asked for, and how it is told from one that was
searched.

    OWN_RANKS      the ranks of the method's ``allocate``, one formula, no search
    OWN_WIDTHS     the widths of its ``own_sizes``: a window with nothing else in it
"""

from dataclasses import fields, replace
from typing import Literal, get_args

from gacfx.core.plan import Plan
from gacfx.core.search import DEFAULT_SEARCH, Search
from gacfx.errors import PlanError

Sizes = Literal["planned", "own"]
SIZES = get_args(Sizes)

OWN_VALUE = "upstream"
"""What a plan of a method's own ranks has in place of a value model."""
OWN_RANKS = Search(align=1)
"""What such a plan says of its search."""
OWN_WIDTHS = replace(Search.paper("only"), align=1, window=1)
"""The search for a method's own widths: nothing else is in the window."""


def is_own(plan: Plan) -> bool:
    """Whether its sizes are those of the method alone."""
    made = plan.provenance
    return made.value_model == OWN_VALUE or made.search == OWN_WIDTHS


def sizes_search(sizes: str, search: Search, *, method: str, prunes: bool) -> Search:
    """The search behind ``sizes``: what is asked for, or that of a method's own sizes.

    Args:
        sizes: ``planned`` or ``own``.
        search: that is asked for.
        method: its name, for messages.
        prunes: whether it makes widths.

    Raises:
        PlanError: no such sizes, or own ones beside something that would have to be searched.
    """
    if sizes not in SIZES:
        raise PlanError(f"no sizes {sizes!r}; known: {', '.join(SIZES)}")
    if sizes == "planned":
        return search
    own = OWN_WIDTHS if prunes else OWN_RANKS
    plain = replace(search, prune="none") if prunes and search.prune == "only" else search
    if plain not in (own, replace(own, prune="none")):
        asked = [
            each.name
            for each in fields(Search)
            if getattr(plain, each.name) != getattr(DEFAULT_SEARCH, each.name)
        ]
        if asked:
            raise PlanError(
                f"sizes 'own' are those that {method} chooses by itself, and nothing is searched; "
                f"leave out {', '.join(asked)}, or take sizes 'planned'"
            )
    return own
