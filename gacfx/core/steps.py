"""Steps: what makes the sets of a store, and of which others, as in a makefile.

steps = [Step(makes=("moments.3", "grads.3"), needs=("hidden.3", "grads.4"), run=...)]
make(store, steps, ["moments.3"])

A set that is there is not made again. One that was lost is, with all that it takes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gacfx.core.store import Store


@dataclass(frozen=True, slots=True)
class Step:
    """How some sets are made."""

    makes: tuple[str, ...]
    needs: tuple[str, ...]
    run: Callable[[], None]
    """Puts every set that the step makes into the store."""
    spends: tuple[str, ...] = ()
    """Sets that nothing needs any more once this step is done."""


def make(store: Store, steps: Iterable[Step], wanted: Iterable[str]) -> None:
    """See to it that ``wanted`` sets are there.

    Args:
        store: where they are to be.
        steps: one for each set that may have to be made.
        wanted: in the order in which they are made.
    """
    makers = {name: step for step in steps for name in step.makes}
    for name in wanted:
        # A stack in the place of recursion: a model may have more layers than Python has frames.
        stack = [name]
        while stack:
            if stack[-1] in store:
                stack.pop()
                continue
            step = makers[stack[-1]]
            if missing := [need for need in step.needs if need not in store]:
                stack.extend(reversed(missing))
                continue
            step.run()
            for spent in step.spends:
                store.drop(spent)
