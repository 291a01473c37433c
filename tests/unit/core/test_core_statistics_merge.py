"""Statistics of two texts together are those of both texts at once."""

import torch

from gacfx.calibration.gather import gather
from gacfx.calibration.text import Corpus, split, tokenize
from gacfx.core.stored_moments import merge
from tests import tiny

NAMES = [
    "model.layers.0.mlp.gate_proj",
    "model.layers.0.mlp.up_proj",
    "model.layers.1.mlp.down_proj",
]


def corpus() -> Corpus:
    return tokenize(tiny.texts(6), tiny.tokenizer(), 96)


def test_merged_parts_equal_the_whole() -> None:
    model, whole = tiny.llama(), corpus()
    parts = [gather(model, part, NAMES, seed=3) for part in split(whole)]
    merged = merge(parts[0], parts[1], whole.digest)
    want = gather(model, whole, NAMES, seed=3)
    assert (merged.tokens, merged.text_digest) == (want.tokens, want.text_digest)
    assert merged.digests == want.digests
    # By tokens that are read, while losses are of tokens that are predicted: nearly the same.
    losses = merged.dense_nats_per_token, want.dense_nats_per_token
    assert abs(losses[0] / losses[1] - 1) < 1e-4
    assert parts[0].dense_nats_per_token != parts[1].dense_nats_per_token
    for name in NAMES:
        mine, theirs = merged.moments[name], want.moments[name]
        torch.testing.assert_close(
            mine.projected_moment, theirs.projected_moment, rtol=1e-9, atol=0
        )
        torch.testing.assert_close(mine.side_moment, theirs.side_moment, rtol=1e-9, atol=1e-18)
        torch.testing.assert_close(mine.input_abs_mean, theirs.input_abs_mean, rtol=1e-9, atol=0)
        assert abs(mine.grad_square_mean / theirs.grad_square_mean - 1) < 1e-9


def test_weights_that_are_fed_alike_go_on_sharing_one_moment() -> None:
    model = tiny.llama()
    parts = [gather(model, part, NAMES) for part in split(corpus())]
    merged = merge(parts[0], parts[1], "")
    gate, up = (merged.moments[name].side_moment for name in NAMES[:2])
    assert gate is up
