"""A tiny model for every kind of decision, and what exports of it should give."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import gacfx
from gacfx.api import load_profile
from gacfx.calibration.text import Corpus
from gacfx.core.decision import LowRank, Pivot
from gacfx.core.materialise import Factors, FactorSet
from gacfx.core.pruning import Skip, Sliced
from gacfx.core.structures import Structure
from gacfx.modules.dense import dense_weight
from gacfx.modules.install import install_
from gacfx.study import Study
from tests.families.narrow import attention, decision_of, mlp, plan_of, sliced
from tests.families.odd import ODD
from tests.families.zoo import FAMILIES, VOCAB
from tests.svd import Svd
from tests.unit.checkpoint.tiny_models import factors_for
from tests.unit.modules import test_in_order

POSITIONS = 64
SIZES = ((1, 1), (1, 2), (3, 17), (2, 40), (5, POSITIONS))
"""(batch, length) of what is compared."""


def ids_of(batch: int, length: int) -> Tensor:
    draw = torch.Generator().manual_seed(batch * 100 + length)
    return torch.randint(3, VOCAB, (batch, length), generator=draw)


def logits_of(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(ids, use_cache=False).logits
    return found


def dense(family: str = "llama") -> Any:
    return test_in_order.model_of(family, torch.float32)


def low_rank() -> Any:
    model = dense()
    install_(model, factors_for(model, ("q_proj", "down_proj"), kind=LowRank))
    return model


def pivot() -> Any:
    """On outputs, o_proj, and on inputs, up_proj."""
    model = dense()
    install_(model, factors_for(model, ("o_proj", "up_proj"), kind=Pivot))
    return model


def pivot_in_order() -> Any:
    """down_proj, whose inputs come from reordered pairs."""
    made = test_in_order.family("llama", LowRank(8), torch.float32)
    assert len(made.modules) == 2
    return gacfx.apply(made.model, made.ordered)


def narrow() -> Any:
    """An MLP of half its width, and in the other layer one key-value head of two query heads."""
    model = dense()
    block, heads = mlp(model, "llama", 1), attention(model, "llama", 0)
    chosen = [(block, decision_of(block, tuple(range(0, 88, 2))))]
    chosen.append((heads, decision_of(heads, (1,), ((0, 2),))))
    gacfx.apply_(model, plan_of(model, *chosen))
    return model


def narrow_low_rank(*layers: int) -> Any:
    """MLPs of half their width, and low ranks of what is left."""
    model = dense()
    factors: FactorSet = {}
    for layer in layers or (0, 1):
        block = mlp(model, "llama", layer)
        factors |= _with_ranks(model, block)
    install_(model, factors)
    return model


def _with_ranks(model: Any, block: Structure) -> FactorSet:
    made: FactorSet = {}
    cut, _ = sliced(model, block, decision_of(block, tuple(range(0, 88, 2))))
    for name, each in cut.items():
        assert isinstance(each.decision, Sliced)
        part = Sliced(each.decision.outputs, each.decision.inputs, LowRank(9))
        tensors = Svd.of(each.tensors["weight"]).factors(LowRank(9), torch.float32).tensors
        made[name] = Factors(part, each.rows, each.columns, dict(tensors), each.order)
    return made


def narrow_and_skipped() -> Any:
    """One attention with one key-value head of two query heads, and one that is gone."""
    model = dense()
    heads, gone = attention(model, "llama", 0), attention(model, "llama", 1)
    decided = decision_of(heads, (1,), ((0, 2),))
    gacfx.apply_(model, plan_of(model, (heads, decided), (gone, Skip())))
    return model


def skipped() -> Any:
    """The first attention and the last MLP."""
    model = dense()
    blocks = attention(model, "llama", 0), mlp(model, "llama", 1)
    gacfx.apply_(model, plan_of(model, *((each, Skip()) for each in blocks)))
    return model


def padded() -> Any:
    """Heads of 10 with zeros up to 16, and a wider MLP."""
    model = ODD["llama"].make()
    assert gacfx.pad_(model, align=8).needs_gacfx
    return model


def conv1d() -> Any:
    """GPT-2, with biases."""
    model = dense("gpt2")
    factors = factors_for(model, ("attn.c_attn", "mlp.c_proj"), kind=LowRank)
    factors |= factors_for(model, ("mlp.c_fc", "attn.c_proj"), kind=Pivot)
    assert dense_weight(model.transformer.h[0].mlp.c_fc).shape == (88, 48)
    install_(model, factors)
    return model


def _by_itself(method: str, kind: str) -> Any:
    """The dense model with the sizes that a method has by itself."""
    model, draw = dense(), torch.Generator().manual_seed(0)
    text = Corpus(tuple(torch.randint(3, VOCAB, (40,), generator=draw) for _ in range(6)))
    study = Study.make(model, text, method=method, force=True)
    made = study.upstream("0.3", profile=load_profile("h200"))
    assert kind in {each.kind for each in made.plan.decisions.values()}
    return gacfx.apply(model, made)


def grouped_low_rank() -> Any:
    """Keys and values by groups of heads."""
    return _by_itself("palu:heads-per-group=2", "grouped-low-rank")


def shared_basis() -> Any:
    """Two layers that share their bases."""
    return _by_itself("basis-sharing", "shared-basis")


KINDS: dict[str, Callable[[], Any]] = {
    "low rank": low_rank,
    "pivot": pivot,
    "pivot in order": pivot_in_order,
    "narrow": narrow,
    "narrow, low rank": narrow_low_rank,
    "skipped": skipped,
    "narrow and skipped": narrow_and_skipped,
    "padded": padded,
    "gpt2": conv1d,
    "grouped low rank": grouped_low_rank,
    "shared basis": shared_basis,
}
SOME = ("pivot", "narrow")
"""In every run; the others take up to half a minute each."""
EACH = [k if k in SOME else pytest.param(k, marks=pytest.mark.exhaustive) for k in KINDS]


@cache
def model_of(kind: str) -> Any:
    """The same model for every test; nobody changes it."""
    return KINDS[kind]()


def dense_llama() -> Any:
    return FAMILIES["llama"].make()
