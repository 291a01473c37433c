"""Which tokens count in moments: positions left out, gradients cut, and what cannot be."""

# T tokens, M outputs, N inputs

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.calibration.counting import Call, Counting
from gacfx.calibration.gather import gather, gather_texts
from gacfx.calibration.labels import generator_of, sample_labels
from gacfx.calibration.shards import Shard
from gacfx.calibration.text import Corpus, split
from gacfx.core.statistics import Moments
from gacfx.core.store import MemoryStore
from gacfx.core.stored_moments import merge
from gacfx.errors import CalibrationError
from tests.unit.calibration.samples import Toy, corpus, linears, llama
from tests.unit.calibration.test_calibration_gather import same

Rows = dict[str, tuple[Tensor, Tensor]]
"""Module -> inputs [T, N] and gradients [T, M] of one document."""


@contextmanager
def recorded(modules: dict[str, nn.Module], found: dict[str, list[Any]]) -> Iterator[None]:
    def look(name: str, args: tuple[Any, ...], output: Tensor) -> None:
        output.retain_grad()
        found[name] = [args[0], output]

    hooks = [
        module.register_forward_hook(lambda _m, args, out, name=name: look(name, args, out))
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def rows(model: nn.Module, ids_T: Tensor, modules: dict[str, nn.Module]) -> Rows:
    """What each module is given at every token, and the gradient at its output."""
    found: dict[str, list[Any]] = {}
    with recorded(modules, found):
        made = model(ids_T[None])
    logits_TV = (made if isinstance(made, Tensor) else made.logits)[0]
    labels_T = sample_labels(logits_TV.detach(), generator_of(0, ids_T))
    nn.functional.cross_entropy(logits_TV, labels_T, reduction="sum").backward()
    return {
        name: (x[0].detach(), y.grad[0]) for name, (x, y) in found.items() if y.grad is not None
    }


def expected(text: Corpus, counting: Counting, module: str, model: nn.Module) -> Moments:
    modules = linears(model)
    inputs, grads = [], []
    for ids_T in text.documents:
        x_TN, g_TM = rows(model, ids_T, modules)[module]
        counts = slice(counting.first, len(ids_T) - counting.last)
        x_TN, g_TM = x_TN[counts], g_TM[counts]
        if counting.clip is not None:
            norms_T1 = g_TM.norm(dim=1, keepdim=True)
            g_TM = g_TM * (counting.clip * norms_T1.mean() / norms_T1).clamp_max(1)
        inputs.append(x_TN)
        grads.append(g_TM)
    layer: Any = model.get_submodule(module)
    return Moments.from_samples(layer.weight.detach(), torch.cat(inputs), torch.cat(grads))


COUNTINGS = [
    Counting(first=1),
    Counting(last=3),
    Counting(first=2, last=1),
    Counting(clip=0.8),
    Counting(first=2, clip=0.5),
]


@pytest.mark.parametrize("counting", COUNTINGS, ids=str)
@pytest.mark.parametrize("module", ["mlp.up_proj", "mlp.down_proj", "self_attn.q_proj"])
def test_moments_are_those_of_the_tokens_that_count(counting: Counting, module: str) -> None:
    model, text, name = llama(), corpus(40, 33, 36), f"model.layers.0.{module}"
    wanted = expected(text, counting, name, model)
    found = gather(model, replace(text, counting=counting), linears(model), both_sides={name})
    seen = found.moments[name]
    for field in ("projected_moment", "side_moment", "input_abs_mean", "input_square_mean"):
        one, other = getattr(seen, field), getattr(wanted, field)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))
    assert seen.grad_square_mean == pytest.approx(wanted.grad_square_mean, rel=1e-9)
    tokens = sum(len(ids_T) - counting.first - counting.last for ids_T in text.documents)
    assert (found.tokens, seen.tokens_seen) == (tokens, tokens)


def test_losses_are_those_of_all_tokens() -> None:
    model, text = llama(), corpus(40, 33)
    some = gather(model, replace(text, counting=Counting(first=5, clip=1.0)), linears(model))
    every = gather(model, text, linears(model))
    assert some.dense_nats_per_token == pytest.approx(every.dense_nats_per_token)


@pytest.mark.parametrize("counting", COUNTINGS[2:], ids=str)
def test_layer_by_layer_it_is_the_same(counting: Counting) -> None:
    model = llama()
    texts = split(replace(corpus(40, 33, 36, 35), counting=counting))
    names = list(linears(model))
    whole = gather_texts(model, texts, names)
    layered = gather_texts(model, texts, names, store=MemoryStore())
    for one, other in zip(whole, layered, strict=True):
        assert one.tokens == other.tokens
        for name in names:
            same(one.moments[name], other.moments[name])


def test_a_part_counts_as_the_whole_does() -> None:
    text = replace(corpus(40, 33, 36, 35), counting=Counting(first=2, clip=3.0))
    parts = [*split(text), *Shard(1, 2).of((text,)), text.sample(33), text.part([1])]
    assert {part.counting for part in parts} == {text.counting}
    assert text.counted_tokens == text.tokens - 8


def test_what_counts_is_in_the_digest_of_a_text() -> None:
    text = corpus(40, 33)
    assert replace(text, counting=Counting()).digest == text.digest
    others = [replace(text, counting=each).digest for each in COUNTINGS]
    assert len({text.digest, *others}) == 1 + len(COUNTINGS)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"first": -1}, "first -1"),
        ({"last": 1.5}, "last 1.5"),
        ({"first": True}, "first True"),
        ({"clip": 0.0}, "clip 0.0"),
        ({"clip": True}, "clip True"),
        ({"clip": float("nan")}, "clip nan"),
        ({"clip": float("inf")}, "clip inf"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(CalibrationError, match=said):
        Counting(**asked)


def test_a_text_of_which_nothing_counts_is_refused() -> None:
    text = replace(corpus(40, 33), counting=Counting(first=30, last=10))
    with pytest.raises(CalibrationError, match="leave nothing"):
        gather(llama(), text, ["model.layers.0.mlp.up_proj"])


def test_a_short_window_may_count_nothing_beside_a_longer_one() -> None:
    model, name = llama(), "model.layers.0.mlp.up_proj"
    both = replace(corpus(60, 33), counting=Counting(first=33))
    alone = replace(both.part([0]), counting=Counting(first=33))
    same(gather(model, both, [name]).moments[name], gather(model, alone, [name]).moments[name])


def test_a_module_that_is_not_told_which_token_is_which_is_named() -> None:
    text = replace(corpus(40), counting=Counting(first=1))
    with pytest.raises(CalibrationError, match=r"wide: is called with 20 rows .* 40 tokens"):
        gather(Toy("every second"), text, ["wide", "narrow"])
    clipped = replace(text, counting=Counting(clip=2.0))
    with pytest.raises(CalibrationError, match=r"wide: is called with 20 rows .* 40 tokens"):
        gather(Toy("every second"), clipped, ["wide"])


def test_losses_of_parts_weigh_by_their_predicted_tokens() -> None:
    model, names = llama(), ["model.layers.0.mlp.up_proj"]
    text = replace(corpus(60, 33), counting=Counting(first=6))
    parts = [gather(model, text.part([place]), names) for place in (0, 1)]
    whole = gather(model, text, names)
    merged = merge(parts, "")
    assert merged.dense_nats_per_token == pytest.approx(whole.dense_nats_per_token)
    assert (merged.tokens, merged.left_out) == (whole.tokens, whole.left_out) == (81, 12)


def test_gradients_are_cut_by_their_own_window_however_rows_lie() -> None:
    grads_BTM = torch.randn(2, 5, 3, dtype=torch.float64)
    grads_BTM[1] *= 100
    together = Call("x", None, 1.0, (2, 5))
    flat = Call("x", None, 1.0, (2, 5)).cut(grads_BTM.flatten(0, 1))
    alone = [Call("x", None, 1.0, (1, 5)).cut(each[None]) for each in grads_BTM]
    torch.testing.assert_close(together.cut(grads_BTM), torch.cat(alone))
    torch.testing.assert_close(flat, torch.cat(alone))


def test_equal_rules_are_one_rule() -> None:
    text = corpus(40)
    one, other = Counting(clip=3), Counting(clip=3.0)
    assert replace(text, counting=one).digest == replace(text, counting=other).digest


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("first=4", Counting(first=4)),
        ("last=2,clip=3", Counting(last=2, clip=3.0)),
        ("clip=0.5, first=1", Counting(first=1, clip=0.5)),
    ],
)
def test_a_rule_is_read(text: str, wanted: Counting) -> None:
    assert Counting.parse(text) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "''"),
        ("4", "'4'"),
        ("first=4,first=5", "first=5"),
        ("middle=4", "middle=4"),
        ("first=x", "'x' is no number"),
        ("first=1.5", "'1.5' is no number"),
        ("first=-1", "first -1"),
        ("clip=0", "clip 0.0"),
        ("clip=nan", "clip nan"),
    ],
)
def test_a_bad_rule_is_refused(text: str, said: str) -> None:
    with pytest.raises(CalibrationError, match=said):
        Counting.parse(text)
