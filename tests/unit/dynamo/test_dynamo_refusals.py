"""Other weights, other models, parts of a model, gradients: the right result or a clear refusal."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.fx import GraphModule

import gacfx
from gacfx.dynamo import values
from gacfx.errors import PlanMismatch
from tests import tiny
from tests.few import few
from tests.unit.dynamo.compiled import SEARCHES, compiled, corpus, ids, planned, through

CompileFailed = torch._dynamo.exc.BackendCompilerFailed


def refused(run: Callable[[], Any], *said: str) -> None:
    """torch.compile shows the error of a backend inside its own."""
    with pytest.raises(CompileFailed) as error:
        run()
    text = str(error.value)
    assert all(re.search(each, text) for each in said), text


def test_a_second_model_with_the_same_weights() -> None:
    first, second, plan = tiny.llama(), tiny.llama(), planned()
    compiled(first, plan)(ids())
    assert torch.equal(compiled(second, plan)(ids()), gacfx.apply(second, plan)(ids()).logits)


def test_a_second_model_with_other_weights() -> None:
    first, second, plan = tiny.llama(), tiny.llama(seed=1), planned()
    compiled(first, plan)(ids())
    with pytest.raises(PlanMismatch, match=r"q_proj\.weight: the call brings other values"):
        compiled(second, plan)(ids())


@pytest.mark.parametrize(
    "how", few(["in place", "another parameter", "its data"], "in place", "its data")
)
def test_a_weight_that_changes_after_compiling(how: str) -> None:
    model, plan = tiny.llama(), planned()
    run = compiled(model, plan)
    run(ids())
    module = next(iter(plan.plan.decisions))
    layer = model.get_submodule(module)
    if how == "in place":
        layer.weight.mul_(1.5)
    elif how == "another parameter":
        layer.weight = torch.nn.Parameter(layer.weight * 1.5)
    else:
        layer.weight.data = layer.weight * 1.5
    with pytest.raises(PlanMismatch, match=rf"{module}\.weight: the call brings other values"):
        run(ids())


def test_a_weight_in_the_memory_and_under_the_id_of_one_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(values, "_state", lambda _: (0, 0))
    held: Any = [torch.zeros(3)]
    replaced = values.Replaced({0: ("up.weight", held[0])}, values.Digests())
    replaced.check(held)
    first, others = id(held.pop()), list[torch.Tensor]()
    while not others or (id(others[-1]) != first and len(others) < 10_000):
        others.append(torch.ones(3))
    assert id(others[-1]) == first
    with pytest.raises(PlanMismatch, match=r"up\.weight: the call brings other values"):
        replaced.check(others[-1:])


def test_weights_that_the_plan_leaves_alone_may_change() -> None:
    model, plan = tiny.llama(), planned()
    run, want = compiled(model, plan), gacfx.apply(model, plan)
    run(ids())
    for each in (model, want):
        each.model.norm.weight.mul_(1.5)
    assert torch.equal(run(ids()), want(ids()).logits)


def test_a_weight_that_is_written_with_the_values_that_it_had() -> None:
    model, plan = tiny.llama(), planned()
    run = compiled(model, plan)
    want = run(ids())
    model.load_state_dict(model.state_dict())
    assert torch.equal(run(ids()), want)


def test_weights_that_changed_before_compiling() -> None:
    model = tiny.llama()
    module = next(iter(planned().plan.decisions))
    model.get_submodule(module).weight.mul_(1.5)
    refused(lambda: compiled(model, planned())(ids()), rf"{module}: .* not what the factors were")


def test_another_dtype_than_the_plan() -> None:
    model = tiny.llama().bfloat16()
    refused(lambda: compiled(model, planned())(ids()), r"q_proj: .*bf16\).*, fp32\)")


def test_another_model() -> None:
    other = tiny.llama(hidden=48, width=88)
    refused(lambda: compiled(other, planned())(ids()), "not what the factors were made of")
    two_more = tiny.llama(layers=4, seed=3)
    refused(lambda: compiled(two_more, planned())(ids()), "not what the factors were made of")


def test_a_plan_with_a_weight_that_the_graph_does_not_have() -> None:
    model = tiny.llama()
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    refused(
        lambda: compiled(model, planned())(ids()),
        r"model\.layers\.1\.self_attn\.q_proj: the compiled graph has not all of the plan's",
        r"\(7 of 14\)",
        r"'partial': True",
    )


def by_layer(**more: Any) -> Callable[[], Any]:
    model = tiny.llama()
    for layer in model.model.layers:
        layer.compile(backend="gacfx", options={"plan": planned(), "inner": "eager", **more})
    return lambda: model(ids(), use_cache=False)


def test_layers_that_are_compiled_one_by_one() -> None:
    refused(by_layer(), r"only a part of the model is compiled")
    with pytest.raises(PlanMismatch, match=r"layers that are compiled one by one share one graph"):
        by_layer(partial=True)()


def test_one_part_alone() -> None:
    model, plan = tiny.llama(), planned("all at once")
    want = gacfx.apply(model, plan)
    states = torch.randn(2, 11, 64)
    run = through(model.model.layers[1].mlp, plan=plan, partial=True)
    assert torch.equal(run(states), want.model.layers[1].mlp(states))
    assert not torch.equal(run(states), model.model.layers[1].mlp(states))


def test_one_linear_alone() -> None:
    model, plan, states = tiny.llama(), planned("low-rank"), torch.randn(2, 11, 64)
    name = next(name for name in plan.plan.decisions if name.endswith("up_proj"))
    linear = model.get_submodule(name)
    refused(lambda: through(linear, plan=plan)(states), r"only a part of the model is compiled")
    got = through(linear, plan=plan, partial=True)(states)
    assert torch.equal(got, gacfx.apply(model, plan).get_submodule(name)(states))
    assert not torch.equal(got, linear(states))
    other = through(torch.nn.Linear(64, 176), plan=plan, partial=True)
    assert other(states).shape == (2, 11, 176), "it is no weight of the plan"


def test_a_part_of_a_structure() -> None:
    layer = tiny.llama().model.layers[0].mlp.up_proj
    run = through(layer, plan=planned("heads and widths"), partial=True)
    refused(lambda: run(torch.randn(2, 11, 64)), r"weights that are pruned together must be in one")


def test_two_models_in_one_graph() -> None:
    first, second = tiny.llama(), tiny.llama()

    def both(tokens: torch.Tensor) -> Any:
        return first(tokens, use_cache=False).logits + second(tokens, use_cache=False).logits

    run = through(both, plan=planned())
    refused(lambda: run(ids()), r"none of the plan's weights", r"two models are in one graph")


def breaking(model: Any) -> Any:
    layer = model.model.layers[1]
    inner = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        torch._dynamo.graph_break()
        return inner(*args, **kwargs)

    layer.forward = forward
    return model


def test_a_graph_break() -> None:
    refused(lambda: compiled(breaking(tiny.llama()), planned())(ids()), r"a graph break split it")
    got = compiled(breaking(tiny.llama()), planned(), partial=True)(ids())
    assert torch.equal(got, gacfx.apply(tiny.llama(), planned())(ids()).logits)


def test_training() -> None:
    with torch.enable_grad():
        for model in (tiny.llama(), tiny.llama().train()):
            torch._dynamo.reset()
            refused(lambda m=model: compiled(m, planned())(ids()), r"would get no gradient")  # type: ignore[misc]
        model = tiny.llama().requires_grad_(False)
        last = model.get_submodule([*planned().factors][-1]).requires_grad_(True)
        torch._dynamo.reset()
        refused(lambda: compiled(model, planned())(ids()), r"would get no gradient")
        last.requires_grad_(False)
        want = gacfx.apply(model, planned())(ids()).logits
        torch._dynamo.reset()
        assert torch.equal(compiled(model, planned())(ids()), want)


def test_heads_that_a_cache_fixes() -> None:
    model = tiny.llama()
    made = through(model, plan=planned("heads and widths"))
    refused(lambda: made(ids()), r"the number of heads is fixed", r"call the model with use_cache")


def test_an_inner_backend_that_fails() -> None:
    def inner(gm: GraphModule, inputs: Sequence[Any]) -> Any:
        raise ValueError("the inner backend says no")

    model = tiny.llama()
    refused(lambda: compiled(model, planned(), inner)(ids()), r"the inner backend says no")
    assert torch.equal(model(ids()).logits, tiny.llama()(ids()).logits)


def test_tied_weights() -> None:
    model = tiny.llama(tie_word_embeddings=True)
    plan = gacfx.plan(model, calibration=corpus(), ratio=0.4, search=SEARCHES["pivot"])
    assert torch.equal(compiled(model, plan)(ids()), gacfx.apply(model, plan)(ids()).logits)
