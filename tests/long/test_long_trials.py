"""A hundred thousand random small problems: everybody's answers agree, none is wrong.

make test-long                                     100,000 problems, ten minutes on two cores
make test-long LONG_PROBLEMS=1000000 LONG_SEED=7   more, and others
"""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.trials.problems import KINDS
from tests.trials.trial import trials

SHARE = {
    "one budget": 40,
    "equal groups": 20,
    "two budgets": 20,
    "uniform": 10,
    "rules": 8,
    "several limits": 1,
    "curves": 1,
}
"""Per cent of all problems; an integer program or a big table takes longer than the others"""
_SHARD = 500


def shards() -> Iterator[tuple[str, int, int]]:
    """(kind, number of the shard, problems in it)."""
    asked = int(os.environ.get("LONG_PROBLEMS", "0"))
    for kind, share in SHARE.items():
        problems = -(-asked * share // 100)
        for shard, first in enumerate(range(0, problems, _SHARD)):
            yield kind, shard, min(_SHARD, problems - first)


def test_every_kind_has_a_share() -> None:
    assert SHARE.keys() == KINDS.keys()
    assert sum(SHARE.values()) == 100


@pytest.mark.parametrize(("kind", "shard", "count"), list(shards()))
def test_trials(
    kind: str,
    shard: int,
    count: int,
    long_seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    done = trials(kind, 10**6 * long_seed + shard, count)
    record_property("trials", {"kind": kind, **done})
    assert done["problems"] == count
    assert done["tampered and refused"] > 0 or count < 100
