"""A plan inside a compiled graph computes what the model with the plan put into it computes."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import GraphModule

import gacfx
from gacfx.dynamo.options import Options
from gacfx.errors import GacError, PipelineError
from tests import tiny
from tests.few import few
from tests.unit.dynamo.compiled import SEARCHES, compiled, ids, planned, through


@pytest.mark.parametrize("kind", few(SEARCHES, "low-rank", "all at once"))
def test_every_kind_of_decision_is_carried_out(kind: str) -> None:
    model, plan = tiny.llama(), planned(kind)
    assert plan.plan.decisions
    got, want = compiled(model, plan)(ids()), gacfx.apply(model, plan)(ids()).logits
    assert torch.equal(got, want)
    assert not torch.equal(got, model(ids()).logits)


@pytest.mark.parametrize(
    ("kind", "inner", "dynamic"),
    [
        ("all at once", "inductor", True),  # once for both shapes: C++ takes long
        pytest.param("all at once", "inductor", None, marks=pytest.mark.exhaustive),
        pytest.param("all at once", "aot_eager", None, marks=pytest.mark.exhaustive),
        pytest.param("pivot", "aot_eager", None, marks=pytest.mark.exhaustive),
        pytest.param("pivot", "inductor", None, marks=pytest.mark.exhaustive),
    ],
)
def test_every_inner_backend_gets_a_graph_that_it_can_compile(
    kind: str, inner: str, dynamic: bool | None
) -> None:
    model, plan = tiny.llama(), planned(kind)
    run, want = compiled(model, plan, inner, dynamic=dynamic), gacfx.apply(model, plan)
    for tokens in (ids(), ids(3, 14)):
        torch.testing.assert_close(run(tokens), want(tokens).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    [
        "all at once",
        *(pytest.param(n, marks=pytest.mark.exhaustive) for n in ("low-rank", "pivot")),
    ],
)
def test_sizes_that_are_open_stay_open(kind: str) -> None:
    graphs: list[GraphModule] = []

    def inner(gm: GraphModule, inputs: Sequence[Any]) -> Any:
        graphs.append(gm)
        return gm

    model, plan = tiny.llama(), planned(kind)
    run, want = compiled(model, plan, inner, dynamic=True), gacfx.apply(model, plan)
    for tokens in (ids(), ids(3, 14), ids(5, 9)):
        assert torch.equal(run(tokens), want(tokens).logits)
    assert len(graphs) == 1


def test_the_weights_that_the_plan_replaces_are_no_inputs() -> None:
    seen: list[Sequence[Any]] = []

    def inner(gm: GraphModule, inputs: Sequence[Any]) -> Any:
        seen.append(inputs)
        return gm

    model, plan = tiny.llama(), planned("low-rank")
    compiled(model, plan, inner)(ids())
    gone = {id(model.get_submodule(module).weight) for module in plan.plan.decisions}
    assert gone and gone.isdisjoint(map(id, seen[0]))
    kept = sum(t.numel() for t in seen[0] if isinstance(t, torch.Tensor) and t.is_floating_point())
    made = sum(p.numel() for p in gacfx.apply(model, plan).parameters())
    buffers = model.model.rotary_emb.inv_freq.numel()
    assert kept == made + buffers


def test_half_precision() -> None:
    model, plan = tiny.llama().bfloat16(), planned("pivot", torch.bfloat16)
    assert torch.equal(compiled(model, plan)(ids()), gacfx.apply(model, plan)(ids()).logits)


def test_under_autocast_and_in_inference_mode() -> None:
    model, plan = tiny.llama(), planned()
    want = gacfx.apply(model, plan)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(model, plan)(ids()), want(ids()).logits)
    with torch.inference_mode():
        assert torch.equal(compiled(model, plan)(ids()), want(ids()).logits)


@pytest.mark.parametrize("cache", few(["static", None], "static"))
def test_generation_is_token_for_token_that_of_the_rewritten_model(cache: str | None) -> None:
    model, plan = tiny.llama(), planned()
    asked = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(ids())}
    want = gacfx.apply(model, plan).generate(ids(), **asked)
    dense = model.generate(ids(), **asked)
    model.forward = through(model.forward, plan=plan)
    got = model.generate(ids(), cache_implementation=cache, **asked)
    assert torch.equal(got, want) and not torch.equal(got, dense)


def test_a_plan_in_a_folder_and_one_that_is_written_anew(tmp_path: Path) -> None:
    model, first, second = tiny.llama(), planned("low-rank"), planned("pivot")
    for plan in (first, second):
        plan.save(tmp_path / "plan", overwrite=True)
        torch._dynamo.reset()
        got = compiled(model, str(tmp_path / "plan"))(ids())
        assert torch.equal(got, gacfx.apply(model, plan)(ids()).logits)


def test_a_backend_of_its_own() -> None:
    model, plan = tiny.llama(), planned()
    made: Any = torch.compile(model, backend=gacfx.make_backend(plan, "eager"))
    got = made(ids(), use_cache=False).logits
    assert torch.equal(got, gacfx.apply(model, plan)(ids()).logits)


def test_without_a_plan_the_graph_goes_on_as_it_is() -> None:
    seen: list[GraphModule] = []

    def inner(gm: GraphModule, inputs: Sequence[Any]) -> Any:
        seen.append(gm)
        return gm

    model = tiny.llama()
    assert torch.equal(compiled(model, inner=inner)(ids()), model(ids()).logits)
    targets = {node.target for node in seen[0].graph.nodes}
    assert torch._C._nn.linear in targets, "it is another graph than Dynamo's"


def test_the_model_itself_is_as_it_was() -> None:
    model = tiny.llama()
    before = copy.deepcopy(model.state_dict())
    compiled(model, planned("all at once"))(ids())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_torch_knows_the_backend() -> None:
    assert "gacfx" in torch._dynamo.list_backends()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"plann": None}, r"no option 'plann'; it has: gpu, inner, partial, plan, report"),
        ({"inner": "nope"}, r"inner='nope': torch\.compile has no such backend.*inductor"),
        ({"inner": "gacfx"}, r"inner='gacfx' is no backend that gacfx could hand"),
        ({"inner": 3}, r"inner=3 is no backend"),
        ({"partial": 1}, r"partial=1 is neither True nor False"),
        ({"report": "graphs.txt"}, r"report='graphs\.txt': give the path of a \.json file"),
    ],
)
def test_options_that_there_are_not(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        Options.of(asked)


@pytest.mark.parametrize("plan", [3, "no/such/folder"])
def test_plans_that_are_none(plan: Any) -> None:
    with pytest.raises(GacError, match=r"is no plan with factors|no/such/folder"):
        gacfx.make_backend(plan)
