"""Moments in a store: they come back as they were, those of older files too."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from gacfx.core.statistics import Moments, Statistics
from gacfx.core.store import MemoryStore
from gacfx.core.stored_moments import StoredMoments, merge, moments_tensors

DRAW = torch.Generator().manual_seed(3)
W_MN, X_TN, G_TM = (
    torch.randn(*shape, generator=DRAW, dtype=torch.float64) for shape in ((6, 4), (50, 4), (50, 6))
)
WHOLE = Moments.from_samples(W_MN, X_TN, G_TM, both_sides=True)


def stored(moments: Moments) -> Moments:
    store = MemoryStore()
    store.put("set", moments_tensors("part", {"q": moments}))
    return StoredMoments(store, "part", {"q": "set"})["q"]


@pytest.mark.parametrize("gathered", [True, False])
def test_every_field_comes_back(gathered: bool) -> None:
    kept = WHOLE if gathered else replace(WHOLE, grad_output_mean=None, long_moment=None)
    found = stored(kept)
    for field in fields(Moments):
        one, other = getattr(found, field.name), getattr(kept, field.name)
        if isinstance(other, Tensor):
            torch.testing.assert_close(one, other, rtol=1e-15, atol=0)
        else:
            assert one == other


def test_a_file_of_four_numbers_is_read() -> None:
    made = moments_tensors("part", {"q": WHOLE})
    made["part|q|numbers"] = made["part|q|numbers"][:4]
    store = MemoryStore()
    store.put("set", made)
    found = StoredMoments(store, "part", {"q": "set"})["q"]
    assert found.grad_output_mean is None
    assert (found.grad_square_mean, found.tokens_seen) == (WHOLE.grad_square_mean, 50)


def test_texts_weigh_by_their_tokens_and_one_without_the_mean_leaves_none() -> None:
    cut = Moments.from_samples(W_MN, X_TN[:10], G_TM[:10])
    rest = Moments.from_samples(W_MN, X_TN[10:], G_TM[10:])
    one, other = (
        Statistics({"q": part}, part.tokens_seen, "", 0, 1.0, windows=1) for part in (cut, rest)
    )
    mixed = merge((one, other), "").moments["q"]
    assert mixed.grad_output_mean == pytest.approx(WHOLE.grad_output_mean, rel=1e-12)
    old = replace(one, moments={"q": replace(cut, grad_output_mean=None)})
    for pair in ((old, other), (other, old)):
        assert merge(pair, "").moments["q"].grad_output_mean is None
