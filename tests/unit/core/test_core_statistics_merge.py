"""Statistics of several texts together are those of all of them at once."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gacfx.calibration.gather import gather, gather_texts
from gacfx.calibration.text import Corpus, split, tokenize
from gacfx.core.statistics import Moments, Statistics
from gacfx.core.store import MemoryStore
from gacfx.core.stored_moments import StoredMoments, merge, moments_tensors
from gacfx.core.work_folder import WorkFolder
from tests import tiny
from tests.families.zoo import FAMILIES, VOCAB

NAMES = [
    "model.layers.0.mlp.gate_proj",
    "model.layers.0.mlp.up_proj",
    "model.layers.1.mlp.down_proj",
]
TENSORS = (
    *("projected_moment", "side_moment", "long_moment"),
    *("input_abs_mean", "input_abs_max", "input_square_mean"),
)


class Experts(nn.Module):
    """The experts of a Mixtral as weights of their own, each called with the tokens it gets."""

    def __init__(self, fused: Any) -> None:
        super().__init__()
        self.each = nn.ModuleList()
        for gate_up, down in zip(fused.gate_up_proj, fused.down_proj, strict=True):
            one, two = (nn.Linear(w.shape[1], w.shape[0], bias=False) for w in (gate_up, down))
            one.weight, two.weight = nn.Parameter(gate_up.detach()), nn.Parameter(down.detach())
            self.each.append(nn.Sequential(one, nn.GLU(), two))

    def forward(self, hidden_TD: Tensor, chosen_TK: Tensor, weights_TK: Tensor) -> Tensor:
        made_TD = torch.zeros_like(hidden_TD)
        for number, expert in enumerate(self.each):
            token_T, place_T = torch.where(chosen_TK == number)
            if len(token_T):
                part_TD = expert(hidden_TD[token_T]) * weights_TK[token_T, place_T, None]
                made_TD = made_TD.index_add(0, token_T, part_TD)
        return made_TD


def mixtral() -> Any:
    model: Any = FAMILIES["mixtral"].make()
    for layer in model.model.layers:
        layer.mlp.experts = Experts(layer.mlp.experts)
    return model.double().eval()  # so that it matters to 1e-15 which documents are read together


def linears(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and "head" not in n]


def corpus(*lengths: int) -> Corpus:
    random = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(3, VOCAB, (n,), generator=random) for n in lengths))


def thirds(text: Corpus) -> tuple[Corpus, ...]:
    return tuple(Corpus(text.documents[at::3]) for at in range(3))


def difference(one: Moments, other: Moments) -> float:
    """Largest relative error of all parts."""
    assert one.shape == other.shape
    assert one.tokens_seen == other.tokens_seen
    found = [abs(one.grad_square_mean - other.grad_square_mean) / (other.grad_square_mean or 1)]
    assert one.grad_output_mean is not None and other.grad_output_mean is not None
    apart = abs(one.grad_output_mean - other.grad_output_mean)
    found.append(apart / (other.grad_output_mean or 1))
    for name in TENSORS:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            found.append(float((a - b).norm()) / (float(b.norm()) or 1))
    return max(found)


@pytest.mark.parametrize("make", [lambda: tiny.llama(vocab_size=VOCAB).double(), mixtral])
@pytest.mark.parametrize("stored", [False, True])
def test_three_parts_equal_the_whole(make: Any, stored: bool, tmp_path: Any) -> None:
    model, whole = make(), corpus(60, 40, 33, 51, 37, 48, 35)
    names = linears(model)
    both = [name for name in names if "layers.1" in name]
    want = gather(model, whole, names, both_sides=both, seed=3)
    parts: tuple[Statistics, ...] = tuple(
        gather(model, part, names, both_sides=both, seed=3) for part in thirds(whole)
    )
    if stored:
        with WorkFolder(tmp_path / "work", {}) as store:
            parts = gather_texts(model, thirds(whole), names, both_sides=both, seed=3, store=store)
    merged = merge(parts, whole.digest)
    assert list(merged.moments) == list(want.moments)
    assert (merged.tokens, merged.text_digest) == (want.tokens, want.text_digest)
    assert (merged.digests, merged.windows) == (want.digests, 7)
    assert merged.dense_nats_per_token == pytest.approx(want.dense_nats_per_token, rel=1e-12)
    for name in names:
        assert difference(merged.moments[name], want.moments[name]) < 1e-10, name


def test_experts_see_some_of_the_tokens() -> None:
    """So that the test above tells weights by tokens seen from those by all tokens."""
    model, whole = mixtral(), corpus(60, 40, 33)
    names = [name for name in linears(model) if "experts" in name]
    assert len(names) == 16
    for part in thirds(whole):
        found = gather(model, part, names).moments.values()
        seen = {moments.tokens_seen for moments in found}
        assert len(seen) > 1 and max(seen) < part.tokens


def test_an_expert_that_no_token_reached_in_one_part_or_in_any() -> None:
    weight = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_TN, g_TM = torch.randn(20, 4).double(), torch.randn(20, 6).double()
    seen = Moments.from_samples(weight, x_TN, g_TM, both_sides=True)
    name = "expert"
    idle = Statistics({name: _idle(seen)}, 30, "", 0, 1.0)
    both = merge((Statistics({name: seen}, 20, "", 0, 1.0), idle), "").moments[name]
    assert torch.equal(both.input_moment, seen.input_moment)
    torch.testing.assert_close(both.grad_moment, seen.grad_moment * 0.4)
    never = merge((idle, idle), "").moments[name]
    assert never.problem() == "no calibration token reached this weight"
    assert both.input_abs_max is not None and seen.input_abs_max is not None
    assert torch.equal(both.input_abs_max, seen.input_abs_max)


def test_the_largest_input_of_several_texts_is_that_of_the_largest() -> None:
    weight = torch.ones(2, 3, dtype=torch.float64)
    texts = [torch.tensor([[3.0, -1, 0], [0, 0, 0]]), torch.tensor([[-1.0, 4, 0], [2, 2, 0.5]])]
    parts = [
        Statistics({"a": Moments.from_samples(weight, x_TN.double(), x_TN[:, :2])}, n, "", 0, 1.0)
        for x_TN, n in zip(texts, (2, 200), strict=True)
    ]
    found = merge(parts, "").moments["a"].input_abs_max
    assert found is not None and found.tolist() == [3, 4, 0.5]
    old = replace(parts[1].moments["a"], input_abs_max=None)
    assert (
        merge((parts[0], replace(parts[1], moments={"a": old})), "").moments["a"].input_abs_max
        is None
    )  # a maximum of some of the text is none of all of it


def test_statistics_that_an_older_gacfx_kept_are_read_without_the_largest_inputs() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, x_TN, g_TM = (
        torch.randn(*shape, generator=draw, dtype=torch.float64)
        for shape in ((6, 4), (20, 4), (20, 6))
    )
    made = Moments.from_samples(weight, x_TN, g_TM)
    store = MemoryStore()
    tensors = moments_tensors("0", {"a": made})
    store.put("new", tensors)
    store.put("old", {key: found for key, found in tensors.items() if "abs_max" not in key})
    new, old = (StoredMoments(store, "0", {"a": name})["a"] for name in ("new", "old"))
    assert made.input_abs_max is not None and new.input_abs_max is not None
    assert torch.equal(new.input_abs_max, made.input_abs_max)
    assert old.input_abs_max is None and not old.problem()
    assert torch.equal(old.input_abs_mean, made.input_abs_mean)


def _idle(like: Moments) -> Moments:
    nothing: dict[str, Any] = {name: torch.zeros_like(getattr(like, name)) for name in TENSORS}
    return Moments(like.rows, like.columns, grad_square_mean=0.0, tokens_seen=0, **nothing)


def test_weights_that_are_fed_alike_go_on_sharing_one_moment() -> None:
    model, text = tiny.llama(), tokenize(tiny.texts(6), tiny.tokenizer(), 96)
    parts = [gather(model, part, NAMES) for part in (*split(text), *split(text, 0.5))]
    merged = merge(parts, "")
    gate, up = (merged.moments[name].side_moment for name in NAMES[:2])
    assert gate is up
    assert gate is not merged.moments[NAMES[2]].side_moment
