"""Grouped experts compute what the experts one by one compute, and are saved as those."""

import copy
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gacfx
from gacfx.api import Compressed
from gacfx.calibration.text import Corpus
from gacfx.core.pruning import Width
from gacfx.core.search import Search
from gacfx.errors import UnsupportedModel
from gacfx.modules.experts import UnpackedExperts, packed_again, ungrouped
from gacfx.modules.grouped import GroupedExperts, group_experts_, grouped_product, ungroupable
from tests.families.zoo import FAMILIES
from tests.few import few
from tests.unit.modules.test_experts import Packed, gpt_oss

HOME = "model.layers.0.mlp.experts"
MAKES = {name: FAMILIES[name].make for name in ("mixtral", "qwen3moe", "deepseekv3")}
TIED = Search(value="two-sided", form="pair", limits=("tie-experts",))


def corpus() -> Corpus:
    generator = torch.Generator().manual_seed(0)
    return Corpus(tuple(torch.randint(3, 97, (40,), generator=generator) for _ in range(8)))


def ids(rows: int = 2) -> torch.Tensor:
    return torch.randint(3, 97, (rows, 17), generator=torch.Generator().manual_seed(1))


@cache
def compressed(family: str) -> Compressed:
    return gacfx.compress(MAKES[family](), calibration=corpus(), ratio=0.3, search=TIED)


def model(family: str = "mixtral") -> Any:
    return copy.deepcopy(compressed(family).model)


def grouped(family: str = "mixtral") -> Any:
    made = model(family)
    assert group_experts_(made) == {}
    return made


def logits(of: Any, given: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = of(ids() if given is None else given, use_cache=False).logits
    return found


@pytest.mark.parametrize("family", few(MAKES, "mixtral", "qwen3moe"))
def test_logits_are_those_of_the_experts_one_by_one(family: str) -> None:
    one_by_one, made = model(family), grouped(family)
    assert any(isinstance(each, GroupedExperts) for each in made.modules())
    torch.testing.assert_close(logits(made), logits(one_by_one))
    text = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(made.generate(ids(), **text), one_by_one.generate(ids(), **text))


@pytest.mark.parametrize("family", few(MAKES, "mixtral", "qwen3moe"))
def test_the_tied_plan_has_one_rank_for_each_tensor(family: str) -> None:
    decisions = compressed(family).planned.plan.decisions
    ranks: dict[str, set[str]] = {}
    for name, decision in decisions.items():
        if ".experts." in name:
            home, _, leaf = name.rsplit(".", 2)
            ranks.setdefault(f"{home}.{leaf}", set()).add(str(decision))
    assert ranks and all(len(found) == 1 for found in ranks.values())


def test_nothing_is_left_of_the_experts_one_by_one_but_one_copy_of_each_number() -> None:
    before, made = model(), grouped()
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in before.parameters())
    assert made.get_submodule(HOME).fc1_down_weight.shape[0] == 4
    assert not any(".0.fc1" in name for name, _ in made.named_modules())
    names = {name for name, _ in made.named_parameters() if "experts" in name}
    assert len(names) == 2 * 4  # two layers; down and up of both linears


def test_the_state_dict_is_that_of_the_experts_one_by_one() -> None:
    before, made = model().state_dict(), grouped()
    after = made.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    other = grouped()
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(after)
    assert torch.equal(logits(other), logits(made))


def test_a_state_dict_is_assigned_where_there_is_no_memory() -> None:
    made, state = grouped().to("meta"), model().double().state_dict()
    made.load_state_dict(state, assign=True)
    assert {p.dtype for p in made.parameters()} == {torch.float64}
    made.model.rotary_emb = model().model.rotary_emb
    torch.testing.assert_close(logits(made), logits(model().double()))


def test_a_state_dict_of_other_sizes_or_names_is_refused() -> None:
    made, state = grouped(), model().state_dict()
    name = f"{HOME}.1.fc1.down.weight"
    with pytest.raises(RuntimeError, match="size mismatch"):
        made.load_state_dict({**state, name: state[name][:4]})
    with pytest.raises(RuntimeError, match=rf"Missing key.*{name}"):
        made.load_state_dict({key: value for key, value in state.items() if key != name})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*experts\.9\.fc1"):
        made.load_state_dict({**state, f"{HOME}.9.fc1.down.weight": state[name]})


def test_it_is_saved_by_both_and_loaded_as_ever(tmp_path: Path) -> None:
    made = compressed("qwen3moe")
    other = Compressed(**{**vars(made), "model": grouped("qwen3moe")})
    gacfx.save(other, tmp_path / "save")
    other.model.save_pretrained(tmp_path / "pretrained")
    for folder in ("save", "pretrained"):
        loaded, _ = gacfx.load(tmp_path / folder)
        assert isinstance(loaded.get_submodule(HOME), UnpackedExperts)
        assert torch.equal(logits(loaded), logits(made.model))


def test_unpacking_leads_back_over_the_same_tensors() -> None:
    made = grouped()
    back: Any = gacfx.unpacked(made)
    assert torch.equal(logits(back), logits(model()))
    back.get_submodule(f"{HOME}.2.fc1.down").weight.data.zero_()
    assert not made.get_submodule(HOME).fc1_down_weight[2].any()
    assert isinstance(made.get_submodule(HOME), GroupedExperts)
    own = GroupedExperts.ungrouped(made.get_submodule(HOME), copies=True)
    held = {p.untyped_storage().data_ptr() for p in made.parameters()}
    assert held.isdisjoint(p.untyped_storage().data_ptr() for p in own.parameters())
    assert torch.equal(
        own.get_parameter("1.fc2.up.weight"), made.get_submodule(HOME).fc2_up_weight[1]
    )
    dense = MAKES["mixtral"]()
    assert ungrouped(dense) is dense, "experts that nobody compressed stay packed"


def test_it_moves_to_another_dtype_and_back() -> None:
    made = grouped().double()
    torch.testing.assert_close(logits(made), logits(model().double()))
    assert {p.dtype for p in gacfx.unpacked(made).parameters()} == {torch.float64}
    assert logits(made.bfloat16()).isfinite().all()
    assert "48 x 88 in torch.bfloat16" in repr(made.get_submodule(HOME))


def test_a_chosen_expert_that_lies_elsewhere_adds_nothing() -> None:
    packed = Packed()
    nn.init.normal_(packed.up_proj)
    one_by_one = UnpackedExperts.of(packed, copies=True)
    hidden, shares = torch.randn(5, 6), torch.rand(5, 2)
    chosen = torch.tensor([[0, 2], [2, 0], [0, 2], [3, 0], [2, 3]])
    with torch.no_grad():
        want = one_by_one(hidden, chosen, shares)
    reason = ungroupable(one_by_one)
    assert reason == "fc1.weight: rows of 6 numbers are 24 bytes, and grouped products take " + (
        "whole multiples of 16"
    )
    with pytest.raises(UnsupportedModel, match="rows of 6 numbers"):
        GroupedExperts(one_by_one)
    wide = UnpackedExperts(one_by_one.rule[0], 3)
    for number in range(3):
        expert = nn.Module()
        for leaf, (inputs, outputs) in {"fc1": (8, 12), "fc2": (12, 8)}.items():
            expert.add_module(leaf, nn.Linear(inputs, outputs))
        wide.add_module(str(number), expert)
    hidden = torch.randn(5, 8)
    with torch.no_grad():
        want = wide(hidden, chosen, shares)
        torch.testing.assert_close(GroupedExperts(wide)(hidden, chosen, shares), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_grouped_product_is_one_product_for_each_expert(dtype: torch.dtype) -> None:
    x_SI, weight_EOI = torch.randn(11, 16, dtype=dtype), torch.randn(4, 8, 16, dtype=dtype)
    ends = [3, 3, 8, 10]
    made = grouped_product(x_SI, weight_EOI, torch.tensor(ends, dtype=torch.int32))
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        exact = x_SI[start:end].double() @ weight_EOI[number].T.double()
        error = (made[start:end].double() - exact).norm()
        assert error <= 8 * torch.finfo(dtype).eps * exact.norm()


@pytest.mark.parametrize(
    "odd", ["ranks", "rows", "dtype", "trains", "pivot", "hook", "child", "meta"]
)
def test_what_cannot_be_grouped_is_told_and_left_alone(odd: str) -> None:
    made = model()
    experts: Any = made.get_submodule(HOME)
    fc1 = experts.get_submodule("1.fc1")
    if odd == "ranks":
        fc1.down, fc1.up = nn.Linear(48, 8, bias=False), nn.Linear(8, 176, bias=False)
        fc1.rank = 8
    elif odd == "rows":
        for number in range(4):
            each = experts.get_submodule(f"{number}.fc1")
            each.down, each.up = nn.Linear(48, 6, bias=False), nn.Linear(6, 176, bias=False)
            each.rank = 6
    elif odd == "dtype":
        fc1.double()
    elif odd == "trains":
        fc1.requires_grad_(False)
    elif odd == "pivot":
        plan = gacfx.plan(
            MAKES["mixtral"](),
            calibration=corpus(),
            ratio=0.3,
            search=Search(value="two-sided", form="pivot", limits=("tie-experts",)),
        )
        made = gacfx.apply(MAKES["mixtral"](), plan)
    elif odd == "hook":
        fc1.down.register_forward_hook(lambda *_: None)
    elif odd == "child":
        fc1.up = nn.Sequential(fc1.up)
    else:
        fc1.to("meta")
    said = {
        "ranks": r"fc1: expert 0 is rank \d+, 176 x 48 in torch.float32, expert 1 rank 8, .*tie",
        "rows": r"fc1\.up\.weight: rows of 6 numbers are 24 bytes",
        "dtype": r"fc1: expert 0 is .* in torch.float32, expert 1 .* in torch.float64",
        "trains": r"fc1: expert 0 is \(down.weight trained on cpu.*, expert 1 \(down.weight frozen",
        "pivot": "is a PivotLinear, which has no grouped form; plan with form pair",
        "hook": "has hooks",
        "child": "its linears were replaced",
        "meta": "has no values",
    }[odd]
    left = group_experts_(made)
    assert HOME in left
    assert re.search(said, left[HOME])
    assert isinstance(made.get_submodule(HOME), UnpackedExperts)


@pytest.mark.parametrize("prune", ["both", pytest.param("only", marks=pytest.mark.exhaustive)])
def test_experts_of_one_width_are_grouped(prune: Any) -> None:
    search = replace(TIED, prune=prune, align=8)
    made = gacfx.compress(MAKES["qwen3moe"](), calibration=corpus(), ratio=0.3, search=search)
    blocks = [c for c in made.planned.plan.choices if isinstance(c.decision, Width)]
    assert any(".experts." in choice.group for choice in blocks)
    want = logits(made.model)
    assert group_experts_(made.model) == {}
    assert made.model.get_submodule(HOME).fc2_weight.shape[2] < 40
    torch.testing.assert_close(logits(made.model), want)


@pytest.mark.parametrize("odd", ["model", None])
def test_what_is_no_model_is_refused(odd: Any) -> None:
    for ask in (group_experts_, gacfx.unpacked):
        with pytest.raises(UnsupportedModel):
            ask(odd)


def test_experts_that_nobody_compressed_stay_in_their_tensors() -> None:
    dense = MAKES["mixtral"]()
    names = list(dense.state_dict())
    assert group_experts_(dense) == {} and list(dense.state_dict()) == names


def test_gradients_reach_the_tensors_of_all_experts() -> None:
    made, one_by_one = grouped().train(), model().train()
    for each in (made, one_by_one):
        each(ids(), labels=ids(), use_cache=False).loss.backward()
    got = made.get_submodule(HOME).fc2_up_weight.grad
    for number in range(4):
        want = one_by_one.get_submodule(f"{HOME}.{number}.fc2.up").weight.grad
        torch.testing.assert_close(got[number], torch.zeros_like(got[0]) if want is None else want)


def test_inspection_sees_grouped_products() -> None:
    rows = {row.name: row for row in gacfx.inspect(grouped("qwen3moe")).rows}
    row = rows[f"{HOME}.fc1_down_weight"]
    assert row.kernel.startswith("grouped") and "(4)" in row.sizes


@pytest.mark.parametrize("dtype", few([torch.float32, torch.bfloat16], torch.bfloat16))
def test_it_is_compiled_as_one_graph(dtype: torch.dtype) -> None:
    made = grouped().to(dtype)
    torch._dynamo.reset()
    run: Any = torch.compile(made, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(logits(run), logits(made), atol=2e-2, rtol=2e-2)


@torch.no_grad()
def test_plain_experts_are_packed_again() -> None:
    oss: Any = gpt_oss()
    home = oss.model.layers[0].mlp.experts
    made = packed_again(UnpackedExperts.of(home, copies=True))
    found = dict(made.named_parameters())
    assert found.keys() == dict(home.named_parameters()).keys()
    assert all(torch.equal(found[name], p) for name, p in home.named_parameters())
    with pytest.raises(UnsupportedModel, match="fc1: is compressed in some expert"):
        packed_again(model().get_submodule(HOME))
