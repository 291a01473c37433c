"""What a configuration says of the longest sequence, in itself or in its part about text."""

from types import SimpleNamespace
from typing import Any

import pytest

from gacfx.core.model_class import positions


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"max_position_embeddings": 64, "n_ctx": 32}, 32),
        ({"n_positions": 16, "seq_length": 48}, 16),
        ({"max_position_embeddings": None, "n_ctx": 0}, None),
        ({}, None),
    ],
)
def test_the_longest_sequence_is_the_least_that_is_said(
    config: dict[str, Any], found: int | None
) -> None:
    plain = SimpleNamespace(**config)
    whole = SimpleNamespace(n_ctx=8, get_text_config=lambda: plain)
    assert positions(SimpleNamespace(config=plain)) == found
    assert positions(SimpleNamespace(config=whole)) == found
    assert positions(SimpleNamespace()) is None
