"""Padding as values: what they refuse, where their zeros are, and their files."""

from typing import Any

import pytest

from gacfx.core.blocks import read_block_state, write_block_state
from gacfx.core.config_json import read_block, read_blocks, version_for
from gacfx.core.kinds import read_decision, write_decision
from gacfx.core.padding import ZERO, Padded, PaddedHeads
from gacfx.errors import CheckpointError, PlanError

HEADS = {"kind": "padded-heads", "head_dim": 8, "layout": "halves"}


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("end", (0, 1, 2, 3, 4, 5, ZERO, ZERO)),
        ("pairs", (0, 1, 2, 3, 4, 5, ZERO, ZERO)),
        ("halves", (0, 1, 2, ZERO, 3, 4, 5, ZERO)),
    ],
)
def test_where_the_zeros_are(layout: Any, expected: tuple[int, ...]) -> None:
    assert PaddedHeads(8, layout).positions(6) == expected


def test_what_a_padded_weight_says_of_itself() -> None:
    padded = Padded(16, 8)
    assert padded.params(10, 8) == 128
    assert padded.sizes(10, 8) == (16,)
    assert padded.tensors(10, 8)["weight"].shape == (16, 8)
    assert padded.problem(10, 8) == ""
    assert padded.problem(16, 8) == "nothing is added"
    assert padded.problem(17, 8) == "16 outputs are fewer than 17"
    assert padded.problem(10, 9) == "8 inputs are fewer than 9"
    assert read_decision(write_decision(padded)) == padded


def test_heads_that_cannot_be() -> None:
    assert PaddedHeads(8, "end").misfit(7) == ""
    assert "cannot be padded to 8" in PaddedHeads(8, "end").misfit(8)
    assert "cannot have 8" in PaddedHeads(8, "halves").misfit(7)


def test_heads_come_back_from_a_file() -> None:
    state = PaddedHeads(8, "halves")
    assert write_block_state(state) == HEADS
    assert read_block_state(HEADS) == state
    assert version_for({}, {"a": state}) == 3
    assert version_for({"a": Padded(8, 8)}, {}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "middle"}, "layout must be one of end, halves, pairs"),
        ({"layout": ["end"]}, "layout must be one of"),
        ({"head_dim": 0}, "head_dim 0 is outside"),
        ({"head_dim": 8.0}, "8.0 is no whole number"),
        ({"heads": 2}, "heads is no field of it"),
    ],
)
def test_heads_of_a_file_that_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        read_block_state({**HEADS, **change})


def test_version_2_has_no_padding() -> None:
    said = {"kind": "padded", "outputs": 8, "inputs": 8}
    with pytest.raises(CheckpointError, match="version 2 has nothing that is padded"):
        read_block({"format_version": 2, "modules": {"a": said}})
    with pytest.raises(CheckpointError, match="version 2 has no blocks"):
        read_blocks({"format_version": 2, "blocks": {"a": HEADS}})
