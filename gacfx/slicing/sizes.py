"""How many coordinates fit: (parameters, axes that are the hidden size, limit) -> hidden size.

The count is a polynomial of the size that rises with it, so the largest multiple of ``align``
within the limit is the answer, and the next multiple is the proof: it is over. Architectures may
take some sizes only: that of a Llama is a multiple of its heads.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from gacfx.errors import InfeasibleBudget, PlanError
from gacfx.knapsack.problem import kept_budget


@dataclass(frozen=True, slots=True)
class Size:
    """A hidden size, and why it is the one."""

    hidden: int
    params: int
    """Of the whole model with it, a head of its own included."""
    next_hidden: int | None
    """The next size that could be; None where that is above the dense one."""
    next_params: int | None
    """Parameters with it, which are more than allowed."""
    limit: int
    """Parameters that the budget allows."""
    dense_params: int
    """Of the dense model, where a tied head counts once."""
    untied_params: int
    """What a head that was the embedding costs at this size, beside it; 0 for one that was not."""
    align: int


def params_at(
    shapes: Mapping[str, Sequence[int]], roles: Mapping[str, Sequence[int]], d: int
) -> int:
    """Parameters with a hidden size of ``d``.

    Args:
        shapes: of every parameter that the small model has.
        roles: parameter -> axes that are the hidden size.
        d: the hidden size.
    """
    return sum(
        prod(d if axis in roles.get(name, ()) else length for axis, length in enumerate(shape))
        for name, shape in shapes.items()
    )


def largest_size(
    shapes: Mapping[str, Sequence[int]],
    roles: Mapping[str, Sequence[int]],
    *,
    dense: int,
    hidden: int,
    ratio: float | str,
    align: int,
    tied: str = "",
    refuses: Callable[[int], str] = lambda _: "",
) -> Size:
    """The largest hidden size within a budget.

    Args:
        shapes: of every parameter that the small model has, by name.
        roles: parameter -> axes that are the hidden size.
        dense: parameters of the dense model.
        hidden: its hidden size.
        ratio: share of them to remove; text is read exactly.
        align: sizes are multiples of this.
        tied: parameter that the small model has and the dense one shares with its embedding.
        refuses: why the architecture has no such hidden size; empty where it has.

    Raises:
        PlanError: a ratio or an ``align`` that cannot be, or sizes that are all refused.
        InfeasibleBudget: even the smallest size is over.
    """
    limit = kept_budget(dense, ratio)
    if type(align) is not int or not 1 <= align <= hidden:
        raise PlanError(f"align {align!r}: give a whole number from 1 to {hidden}, the hidden size")
    refused: dict[int, str] = {}

    def allowed(d: int) -> bool:
        if d not in refused:
            refused[d] = refuses(d)
        return not refused[d]

    sizes = range(align, hidden + 1, align)
    within = [d for d in sizes if params_at(shapes, roles, d) <= limit]
    size = next(filter(allowed, reversed(within)), None)
    above = next((d for d in sizes[len(within) :] if allowed(d)), None)
    if size is None and above is None:
        raise PlanError(
            f"no multiple of {align} up to {hidden} is a hidden size that this architecture "
            f"accepts: {refused[sizes[-1]]}; give another align (--align)"
        )
    if size is None:
        assert above is not None
        least = params_at(shapes, roles, above)
        raise InfeasibleBudget(
            f"a hidden size of {above}, the smallest multiple of {align} that there is, already "
            f"has {least} parameters, and {limit} are allowed; remove less, or take a smaller "
            "align (--align)",
            needed=least,
            budget=limit,
        )
    return Size(
        hidden=size,
        params=params_at(shapes, roles, size),
        next_hidden=above,
        next_params=None if above is None else params_at(shapes, roles, above),
        limit=limit,
        dense_params=dense,
        untied_params=params_at({tied: shapes[tied]}, roles, size) if tied else 0,
        align=align,
    )
