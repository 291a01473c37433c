"""What a file may say of blocks: numbers of heads, or that they are skipped."""

from typing import Any

import pytest

from gacfx.core.blocks import (
    MOST_HEADS,
    HeadCounts,
    block_state,
    read_block_state,
    write_block_state,
)
from gacfx.core.config_json import check_sizes, read_blocks, version_for
from gacfx.core.decision import DENSE, LowRank, Pivot
from gacfx.core.kinds import read_decision, write_decision
from gacfx.core.pruning import Each, Heads, Skip, Sliced, Width
from gacfx.errors import CheckpointError, PlanError

HEADS = Heads((DENSE, DENSE), (0, 3), ((0, 1), (1, 2)))


def test_they_come_back() -> None:
    for state in (HeadCounts(2, 6), Skip()):
        assert read_block_state(write_block_state(state)) == state
    assert block_state(HEADS) == HeadCounts(2, 4)
    assert str(HeadCounts(2, 4)) == str(HEADS) == "heads 4/2"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (3, "a block is a table with its kind, not 3"),
        ({}, "a block has the kind 'heads', 'padded-heads' or 'skip', not None"),
        ({"kind": "width"}, "a block has the kind 'heads', 'padded-heads' or 'skip', not 'width'"),
        ({"kind": ["heads"]}, r"not \['heads'\]"),
        ({"kind": "skip", "heads": 2}, "skip: heads is no field of it"),
        ({"kind": "heads", "heads": 2}, "heads: groups is missing"),
        ({"kind": "heads", "heads": 2, "groups": 1, "kept": 0}, "heads: kept is no field of it"),
        ({"kind": "heads", "heads": 2.0, "groups": 1}, "heads: heads: 2.0 is no whole number"),
        ({"kind": "heads", "heads": True, "groups": 1}, "heads: heads: True is no whole number"),
        ({"kind": "heads", "heads": 2, "groups": 0}, "0 key-value heads are outside 1"),
        ({"kind": "heads", "heads": -2, "groups": 1}, "-2 query heads are outside 1"),
        ({"kind": "heads", "heads": MOST_HEADS + 1, "groups": 1}, "query heads are outside 1 .. 6"),
        (
            {"kind": "heads", "heads": 7, "groups": 2},
            "7 query heads cannot be shared out to 2 key-value heads",
        ),
    ],
)
def test_blocks_that_are_refused(raw: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        read_block_state(raw)
    with pytest.raises(CheckpointError, match=f"config.json: a.b: .*{message}"):
        read_blocks({"format_version": 3, "blocks": {"a.b": raw}})


SLICE = write_decision(Sliced(3, 4, LowRank(2)))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"format_version": 2, "blocks": {"a": {"kind": "skip"}}}, "version 2 has no blocks"),
        ({"format_version": 1, "blocks": {"a": {"kind": "skip"}}}, "version 1 has no blocks"),
        ({"format_version": 3, "blocks": [1]}, r"gacfx blocks must be a table, not \[1\]"),
        ({"format_version": 3, "blocks": {"a b": {"kind": "skip"}}}, "'a b' is no module name"),
        (
            {"format_version": 2, "modules": {"a": SLICE}},
            "a: format version 2 has nothing that is sliced",
        ),
        ({"format_version": 3, "modules": {"a": {"kind": "gone"}}}, "a weight goes with its block"),
        ({"format_version": 3, "modules": {"a": {**SLICE, "rest": 3}}}, "3 is no decision"),
        ({"format_version": 3, "modules": {"a": {**SLICE, "rest": []}}}, r"\[\] is no decision"),
        ({"format_version": 3, "modules": {"a": {**SLICE, "outputs": "9"}}}, "'9' is no whole"),
        ({"format_version": 3, "modules": {"a": {**SLICE, "kept": 1}}}, "kept is no field of it"),
    ],
)
def test_tables_that_are_refused(block: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_sizes({"quantization_config": block}, "config.json")


def test_the_version_is_the_oldest_that_can_say_it() -> None:
    assert version_for({"a": Pivot(3)}, {}) == 2
    assert version_for({"a": Sliced(2, 3)}, {}) == 3
    assert version_for({}, {"a": Skip()}) == 3


def test_other_blocks_are_nobodys() -> None:
    assert read_blocks({"quant_method": "bitsandbytes", "blocks": 3}) == {}
    assert read_blocks(None) == {}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"kind": "each", "parts": [3]}, "3 is no decision"),
        ({"kind": "each", "parts": 3}, "3 is no list"),
        ({"kind": "each", "parts": {"kind": "dense"}}, "is no list"),
        ({"kind": "width", "parts": [], "kept": [{"kind": "dense"}]}, "is no whole number"),
        ({"kind": "heads", "parts": [], "groups": [0], "heads": [0]}, "0 is no list"),
    ],
)
def test_fields_of_other_types_are_refused(raw: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        read_decision(raw)


def test_decisions_with_parts_come_back() -> None:
    for decision in (HEADS, Width((Sliced(2, 3), DENSE), (0, 4)), Each((LowRank(2), DENSE))):
        assert read_decision(write_decision(decision)) == decision
