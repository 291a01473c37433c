"""Every causal family goes the whole road: compressed, verified, saved, reloaded, generating."""

from pathlib import Path
from typing import Any

import pytest
import torch

import gacfx
from gacfx.calibration.text import Corpus
from gacfx.core.search import Search
from tests.families.zoo import CORNERS, FAMILIES, VOCAB
from tests.few import few

SEARCH = Search(value="two-sided")
CAUSAL = [name for name in FAMILIES if name not in ("bert", "t5", "vit")]


def corpus() -> Corpus:
    random = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(3, VOCAB, (40,), generator=random) for _ in range(8)))


@pytest.mark.parametrize("name", few(CAUSAL, *CORNERS))
def test_family_is_compressed_saved_and_reloaded(name: str, tmp_path: Path) -> None:
    model: Any = FAMILIES[name].make()
    made = gacfx.compress(model, calibration=corpus(), ratio=0.15, search=SEARCH)
    plan = made.planned.plan
    assert plan.ranks
    assert all(size % 8 == 0 for size in plan.sizes)
    again, _ = gacfx.load(gacfx.save(made, tmp_path / "small"))
    ids = FAMILIES[name].inputs(2, 11)["input_ids"]
    with torch.no_grad():
        ours, theirs = (m(ids, use_cache=False)[0] for m in (model, again))
    assert torch.equal(ours, theirs)
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    settings["attention_mask"] = torch.ones_like(ids)
    written = [m.generate(ids, **settings) for m in (model, again)]
    assert torch.equal(*written)


@pytest.mark.parametrize("name", ["bert", "t5", "vit"])
def test_a_model_that_is_no_causal_language_model_is_refused(name: str) -> None:
    with pytest.raises(gacfx.GacError, match="no causal language model"):
        gacfx.plan(FAMILIES[name].make(), calibration=corpus(), search=SEARCH)
