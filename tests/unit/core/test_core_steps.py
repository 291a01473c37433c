"""Steps: what is missing is made, in the order of its needs, and nothing else."""

import torch

from gacfx.core.steps import Step, make
from gacfx.core.store import MemoryStore


class Kitchen:
    """Steps that put their sets into a store and say so."""

    def __init__(self) -> None:
        self.store, self.done = MemoryStore(), list[str]()
        self.steps = [
            self._step(("flour",), ()),
            self._step(("dough",), ("flour",)),
            self._step(("bread", "crumbs"), ("dough",), spends=("dough",)),
            self._step(("toast",), ("bread",)),
        ]

    def _step(
        self, makes: tuple[str, ...], needs: tuple[str, ...], spends: tuple[str, ...] = ()
    ) -> Step:
        def run() -> None:
            assert all(need in self.store for need in needs)
            self.done.append(makes[0])
            for name in makes:
                self.store.put(name, {"x": torch.zeros(1)})

        return Step(makes, needs, run, spends)

    def make(self, *wanted: str) -> list[str]:
        self.done.clear()
        make(self.store, self.steps, wanted)
        return self.done


def test_what_is_needed_is_made_first_and_once() -> None:
    kitchen = Kitchen()
    assert kitchen.make("toast", "crumbs") == ["flour", "dough", "bread", "toast"]
    assert kitchen.make("toast", "crumbs") == []


def test_what_was_spent_is_gone_and_not_missed() -> None:
    kitchen = Kitchen()
    kitchen.make("bread")
    assert "dough" not in kitchen.store
    assert kitchen.make("toast") == ["toast"]


def test_what_was_lost_is_made_again_with_all_that_it_takes() -> None:
    kitchen = Kitchen()
    kitchen.make("toast")
    kitchen.store.drop("crumbs")
    assert kitchen.make("toast", "crumbs") == ["dough", "bread"]


def test_a_long_chain_needs_no_deep_stack() -> None:
    store, done = MemoryStore(), list[int]()

    def run(number: int) -> None:
        done.append(number)
        store.put(str(number), {})

    steps = [
        Step((str(n),), (str(n - 1),) if n else (), lambda n=n: run(n))  # type: ignore[misc]
        for n in range(5000)
    ]
    make(store, steps, ["4999"])
    assert done == list(range(5000))


def test_a_step_whose_sets_are_all_needed_runs_once() -> None:
    kitchen = Kitchen()
    kitchen.steps.append(kitchen._step(("stuffing",), ("bread", "crumbs")))
    assert kitchen.make("stuffing") == ["flour", "dough", "bread", "stuffing"]
