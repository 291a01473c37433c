"""The coupled structures of a graph that a plan prunes: checked against the plan before anything is
changed, and the sizes that they will have."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gacfx.core.plan import Choice
from gacfx.core.pruning import Gone, Heads, Skip, Sliced, Width
from gacfx.core.structures import Member, Positions, Structure
from gacfx.coupling.structures import Coupled
from gacfx.coupling.terms import Term, find
from gacfx.errors import PlanError, PlanMismatch

Pruned = Width | Heads | Skip
_WHAT = {"width": ("a width", "channels"), "heads": ("heads", "key-value heads")}


@dataclass(frozen=True, eq=False)
class Planned:
    """A structure of the graph, and what the plan makes of it."""

    coupled: Coupled
    decision: Pruned

    @property
    def structure(self) -> Structure:
        """Of the graph."""
        return self.coupled.structure

    def rows(self, member: Member) -> NDArray[np.int64]:
        """Outputs of one of its weights that stay, rising."""
        return self._kept(member.outputs, member.rows)

    def columns(self, member: Member) -> NDArray[np.int64]:
        """Inputs of one of its weights that stay, rising."""
        return self._kept(member.inputs, member.columns)

    def _kept(self, positions: Positions | None, size: int) -> NDArray[np.int64]:
        if positions is None or isinstance(self.decision, Skip):
            return np.arange(size)
        if isinstance(self.decision, Width):
            return positions.kept(self.decision.kept)
        return positions.kept(self.decision.groups, self.decision.heads)


def planned_structures(choices: Iterable[Choice], found: Iterable[Coupled]) -> tuple[Planned, ...]:
    """The structures that are pruned, in the order of the plan.

    Raises:
        PlanError: a weight is sliced that is in no such structure of the plan.
        PlanMismatch: the graph has no such structure, one of other weights or another size, or one
            that may not be pruned like this.
    """
    known, made = {each.structure.name: each for each in found}, []
    for choice in choices:
        if not isinstance(choice.decision, Pruned):
            _check_whole(choice)
        elif choice.group not in known:
            raise PlanMismatch(
                f"prune: the graph has no coupled structure {choice.group}; "
                "give it the dense graph that the plan was made for"
            )
        elif problem := _odd(choice, choice.decision, known[choice.group].structure):
            raise PlanMismatch(f"prune: {choice.group}: {problem}")
        else:
            made.append(Planned(known[choice.group], choice.decision))
    return tuple(made)


def _check_whole(choice: Choice) -> None:
    for module, part in choice.decisions.items():
        if isinstance(part, Sliced | Gone):
            raise PlanError(
                f"prune: {module}: {part} outside of a width, heads or skip of its structure; "
                "make the plan again"
            )


def new_sizes(planned: Iterable[Planned]) -> dict[Term, int]:
    """Term -> its new size, for everything that is pruned.

    Raises:
        PlanMismatch: two structures share units and are given different sizes.
    """
    sizes: dict[Term, int] = {}
    owners: dict[Term, str] = {}
    for each in planned:
        for term, size in _sizes(each).items():
            owner = owners.setdefault(term, each.structure.name)
            if sizes.setdefault(term, size) != size:
                raise PlanMismatch(
                    f"prune: {each.structure.name} and {owner} share their units; "
                    f"they cannot keep {size} and {sizes[term]}"
                )
    return sizes


def _sizes(planned: Planned) -> dict[Term, int]:
    coupled, decision = planned.coupled, planned.decision
    if isinstance(decision, Skip):
        return {}
    if isinstance(decision, Width):
        pairs = [(coupled.unit, len(decision.kept))]
    else:
        pairs = [(coupled.unit, len(decision.groups)), (coupled.head, len(decision.heads[0]))]
    # A unit or head that there is only one of is no atom, and shows in no size.
    return {find(atom): size for atom, size in pairs if atom is not None}


def _odd(choice: Choice, decision: Pruned, structure: Structure) -> str:
    """Why a structure cannot become what the plan says; empty where it can."""
    mine, theirs = sorted(structure.modules), sorted(w.module for w in choice.weights)
    if mine != theirs:
        return f"its weights are {', '.join(mine)}; the plan is for {', '.join(theirs)}"
    if isinstance(decision, Skip):
        why = structure.refused or structure.keeps_block
        return f"the block may not be taken out: {why}" if why else ""
    if structure.refused:
        return f"may not be pruned: {structure.refused}"
    asked, (_, units) = decision.kind, _WHAT[structure.kind]
    if asked != structure.kind:
        return f"has {units}; the plan takes {_WHAT[asked][1]} out"
    kept = decision.kept if isinstance(decision, Width) else decision.groups
    if max(kept) >= structure.units:
        return f"has {structure.units} {units}; the plan keeps number {max(kept)}"
    most = max(map(max, decision.heads)) if isinstance(decision, Heads) else 0
    if most >= structure.heads:
        return f"has {structure.heads} query heads of each; the plan keeps number {most}"
    return ""
