"""Losses behind prompts, against a model that picks by hand, window by window."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from gacfx.calibration.text import Corpus
from gacfx.errors import CalibrationError, UnsupportedModel
from gacfx.modules.routing_hooks import attach_, detach_, router_of
from gacfx.routing import evaluate
from gacfx.routing.evaluate import Row, evaluate_picks
from tests.unit.modules.routed_models import (
    by_hand_,
    plain_llama,
    pooled,
    prompt,
    routed_llama,
    router_for,
)

PROMPT = 12
SIZES = {"layers": 1}
LENGTHS = (20, 33, 20, 27, 13)


def window(kind: int, length: int, seed: int) -> Tensor:
    """Of kind 1 or 2, or of none."""
    found: Tensor = prompt(kind, length, seed)[0]
    return found


def texts_of(seed: int) -> dict[str, Corpus]:
    """Windows of one kind, and of all."""
    mixed = [window(at % 3, length, seed + at) for at, length in enumerate(LENGTHS * 2)]
    first = [window(1, length, seed + at) for at, length in enumerate(LENGTHS)]
    return {"mixed": Corpus(tuple(mixed)), "first": Corpus(tuple(first))}


def routed(seed: int) -> Any:
    return routed_llama(seed, torch.float32, **SIZES)


def dense_of(seed: int) -> Any:
    return plain_llama(seed, torch.float32, **SIZES)


def behind(model: Any, ids_T: Tensor) -> Tensor:
    """Log-probabilities of the tokens behind the prompt, float64 [T, V]."""
    with torch.no_grad():
        logits_TV = model(ids_T[None]).logits[0]
    found: Tensor = logits_TV.double().log_softmax(-1)[PROMPT - 1 : -1]
    return found


def kind_of(ids_T: Tensor) -> int:
    """By which half of the vocabulary its prompt is in; 0 where it is in both."""
    low = {int(token) < 130 for token in ids_T[:PROMPT]}
    return 0 if len(low) == 2 else 1 if low == {True} else 2


def by_hand(seed: int, corpus: Corpus) -> Mapping[str, float]:
    """Means over all tokens behind all prompts."""
    dense = dense_of(seed)
    sums, tokens = dict.fromkeys(("static", "routed", "dense", "static_kl", "routed_kl"), 0.0), 0
    for ids_T in corpus.documents:
        next_T1, want_TV = ids_T[PROMPT:, None], behind(dense, ids_T)
        sums["dense"] -= float(want_TV.gather(1, next_T1).sum())
        for name, kind in (("static", 0), ("routed", kind_of(ids_T))):
            model = by_hand_(pooled(seed, torch.float32, **SIZES), kind)
            found_TV = behind(model, ids_T)
            sums[name] -= float(found_TV.gather(1, next_T1).sum())
            sums[f"{name}_kl"] += float((want_TV.exp() * (want_TV - found_TV)).sum())
        tokens += len(ids_T) - PROMPT
    return {name: each / tokens for name, each in sums.items()}


@pytest.mark.parametrize("seed", [0, 1])
def test_losses_are_those_of_the_picks_by_hand(seed: int) -> None:
    texts = texts_of(seed)
    rows = evaluate_picks(routed(seed), texts, dense=dense_of(seed), prompt_tokens=PROMPT)
    assert [row.text for row in rows] == ["mixed", "first"]
    for row, corpus in zip(rows, texts.values(), strict=True):
        want = by_hand(seed, corpus)
        got = {
            "static": row.static_nats,
            "routed": row.routed_nats,
            "dense": row.dense_nats,
            "static_kl": row.static_kl,
            "routed_kl": row.routed_kl,
        }
        assert got == pytest.approx(want, rel=1e-5)
        assert abs(want["static"] - want["routed"]) > 2e-4 * want["static"]
        assert row.prompts == len(corpus.documents)
        assert row.tokens == sum(len(ids_T) - PROMPT for ids_T in corpus.documents)


def test_kinds_are_counted_and_named() -> None:
    texts = texts_of(3)
    kinds = [kind_of(ids_T) for ids_T in texts["mixed"].documents]
    count = {kind: kinds.count(kind) for kind in (1, 2, 0)}
    assert min(count.values()) > 0
    for names, wanted in (
        ((), ["kind 1", "kind 2", "static prefix"]),
        (("code",), ["code", "kind 2", "static prefix"]),
        (("code", "prose", "more"), ["code", "prose", "static prefix"]),
    ):
        mixed, first = evaluate_picks(routed(3), texts, prompt_tokens=PROMPT, kinds=names)
        assert list(mixed.kinds.items()) == list(zip(wanted, count.values(), strict=True))
        assert first.kinds == {wanted[0]: len(LENGTHS)}


def test_windows_no_longer_than_a_prompt_are_left_out() -> None:
    texts, model = texts_of(4), routed(4)
    more = Corpus((*texts["mixed"].documents, window(1, PROMPT, 0), window(2, PROMPT - 1, 0)))
    found, want = (
        evaluate_picks(model, {"mixed": each}, prompt_tokens=PROMPT)
        for each in (more, texts["mixed"])
    )
    assert found == want


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, model = texts_of(5), routed(5)
    found = list[list[Row]]()
    for size in (1, 8):
        monkeypatch.setattr(evaluate, "BATCH", size)
        found.append(evaluate_picks(model, texts, prompt_tokens=PROMPT))
    for one, many in zip(*found, strict=True):
        assert one.kinds == many.kinds
        assert one.routed_nats == pytest.approx(many.routed_nats, rel=1e-5)


def test_without_the_dense_model_what_needs_it_is_none() -> None:
    texts, model = texts_of(6), routed(6)
    alone = evaluate_picks(model, texts, prompt_tokens=PROMPT)
    beside = evaluate_picks(model, texts, dense=dense_of(6), prompt_tokens=PROMPT)
    for one, other in zip(alone, beside, strict=True):
        missing = {"dense_nats": None, "static_kl": None, "routed_kl": None}
        assert one.to_dict() == {**other.to_dict(), **missing}


def test_the_router_is_at_work_again_afterwards() -> None:
    model = routed(7)
    router = router_of(model)
    assert router is not None
    before = copy.deepcopy(model.state_dict())
    evaluate_picks(model, texts_of(7), prompt_tokens=PROMPT)
    assert router.automatic and router.installed is None
    assert all(torch.equal(model.state_dict()[name], each) for name, each in before.items())
    ids = prompt(2, 20)
    with torch.no_grad():
        found = model(ids).logits
        want = by_hand_(pooled(7, torch.float32, **SIZES), 2)(ids).logits
    torch.testing.assert_close(found, want)


def test_a_router_at_rest_stays_at_rest() -> None:
    model = routed(8)
    router = router_of(model)
    assert router is not None
    router.automatic = False
    evaluate_picks(model, texts_of(8), prompt_tokens=PROMPT)
    assert not router.automatic


def test_progress_counts_windows() -> None:
    seen, texts = list[tuple[str, int, int]](), texts_of(9)
    evaluate_picks(routed(9), texts, prompt_tokens=PROMPT, progress=lambda *now: seen.append(now))
    assert seen[-1] == ("evaluate", 15, 15) and {name for name, _, _ in seen} == {"evaluate"}


def test_what_cannot_be_evaluated_is_refused() -> None:
    model, texts = routed(0), texts_of(0)
    with pytest.raises(CalibrationError, match=r"^mixed: no window has more than the 33 tokens"):
        evaluate_picks(model, texts, prompt_tokens=33)
    detach_(model)
    with pytest.raises(UnsupportedModel, match="has no router, so prompts pick nothing"):
        evaluate_picks(model, texts, prompt_tokens=PROMPT)
    attach_(model, router_for(model))
    evaluate_picks(model, texts, prompt_tokens=PROMPT)
