"""Pivots in order: exactly the same function without a gather, or nothing is done at all."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gacfx
from gacfx.core.decision import DENSE, Decision, LowRank, Pivot, PivotInOrder
from gacfx.core.locks import fingerprint
from gacfx.core.materialise import Factors, FactorSet, check_factors
from gacfx.core.plan import Choice, Plan
from gacfx.core.plan_folder import FACTORS_FILE
from gacfx.core.planned import Planned
from gacfx.core.statistics import weight_digest
from gacfx.coupling.feeders import feeders
from gacfx.errors import CheckpointError, DecompositionFailed, GacError, PlanError, UnsupportedModel
from gacfx.graph.notes import targets
from gacfx.modules.in_order import in_order
from gacfx.modules.install import swapped
from gacfx.modules.pivot_in_order import PivotInOrderLinear
from gacfx.passes.planning.measure_curves import dense_weight
from gacfx.tracing.export import export_model
from tests.families.zoo import CORNERS, FAMILIES
from tests.few import few
from tests.passes.graphs import annotated, planned
from tests.svd import Svd

DOWN = {"gpt2": "mlp.c_proj", "opt": "fc2", "gptneox": "mlp.dense_4h_to_h"}
"""Family -> end of the name of its last layer of an MLP; ``mlp.down_proj`` for others."""
NEIGHBOURS = {"dense": DENSE, "pair": LowRank(8), "pivots": Pivot(8)}
CAUSAL = [name for name in FAMILIES if name not in ("bert", "t5", "vit")]
ROUNDING = 1e-12


def model_of(family: str, dtype: torch.dtype = torch.float64) -> Any:
    """With biases that are not zero, so that a lost or misplaced one shows."""
    model = FAMILIES[family].make()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=draw))
    experts = hasattr(model.config, "num_experts_per_tok")
    return model if experts else model.to(dtype)


class Made:
    """A model, a plan of its targets as it is chosen, and the same one with pivots in order."""

    def __init__(
        self, model: nn.Module, choose: Callable[[str], Decision], align: int = 8, **inputs: Any
    ) -> None:
        self.model, self.graph = model, annotated(export_model(model, inputs or None))
        weights = {site.name: dense_weight(self.graph, site) for _, site in targets(self.graph)}
        self.sources = {name: Svd.of(weight, name) for name, weight in weights.items()}
        choices, factors = [], FactorSet()
        for name, source in self.sources.items():
            rows, columns = source.weight_MN.shape
            choices.append(Choice.single(name, rows, columns, choose(name), None, 0.1))
            if not choose(name).is_dense:
                factors[name] = source.factors(choose(name), source.weight_MN.dtype)
        like = planned(self.graph, {}, align=align).plan
        layers = {name: model.get_submodule(name).weight for name in weights}
        digests = {name: weight_digest(weight) for name, weight in layers.items()}  # type: ignore[arg-type]
        budget = replace(like.budget, limit_params=sum(choice.params for choice in choices))
        plan = Plan(tuple(choices), budget, None, like.provenance, fingerprint(model), digests)
        self.normal = Planned(plan, factors)
        self.ordered = self.put_in_order()

    def put_in_order(self) -> Planned:
        """What becomes of the plan."""
        before = feeders(self.graph)
        return Planned(*in_order(*_parts(self.normal), self.sources, self.model, before))

    @property
    def modules(self) -> list[str]:
        """Those that are in order."""
        found = self.ordered.plan.decisions
        return [name for name, decision in found.items() if isinstance(decision, PivotInOrder)]


def _parts(made: Planned) -> tuple[Plan, FactorSet]:
    return made.plan, made.factors


@cache
def family(
    name: str,
    neighbour: Decision = NEIGHBOURS["pivots"],
    dtype: torch.dtype = torch.float64,
    align: int = 8,
) -> Made:
    """Its last layers with pivots, all others under one decision."""
    last = DOWN.get(name, "mlp.down_proj")
    return Made(
        model_of(name, dtype), lambda n: Pivot(24) if n.endswith(last) else neighbour, align
    )


def fresh(*settings: Any) -> Made:
    """The same, with a model that may be changed."""
    made = copy.copy(family(*settings))
    made.model = copy.deepcopy(made.model)
    return made


def apart(one: Callable[..., Any], other: Callable[..., Any], name: str) -> float:
    """Relative distance of the logits."""
    ids = FAMILIES[name].inputs()["input_ids"]
    with torch.no_grad():
        ours, theirs = (model(input_ids=ids, use_cache=False)[0].double() for model in (one, other))
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("neighbour", few(NEIGHBOURS, "pair", "pivots"))
@pytest.mark.parametrize(
    "name", few(["llama", "qwen3", "gpt2", "opt", "gptneox", "gemma3"], "llama", "gpt2")
)
def test_it_is_the_same_function(name: str, neighbour: str) -> None:
    made = family(name, NEIGHBOURS[neighbour])
    assert len(made.modules) == 2
    ordered, normal = (gacfx.apply(made.model, each) for each in (made.ordered, made.normal))
    assert apart(ordered, normal, name) < ROUNDING
    assert apart(ordered, made.model, name) > 1e-6
    layer = ordered.get_submodule(made.modules[0])
    assert isinstance(layer, PivotInOrderLinear) and "order" not in layer.state_dict()


@pytest.mark.parametrize("name", few(CAUSAL, *CORNERS, "opt"))
def test_every_family_is_exact_or_left_alone(name: str) -> None:
    made = Made(model_of(name), lambda _: Pivot(8))
    assert bool(made.modules) == (name not in ("phi3", "mixtral", "qwen3moe"))
    close = 1e-5 if name == "deepseekv3" else ROUNDING
    ordered, normal = (gacfx.apply(made.model, each) for each in (made.ordered, made.normal))
    assert apart(ordered, normal, name) < close
    assert made.ordered.plan.kept_params == made.normal.plan.kept_params
    assert made.ordered.plan.loss_nats == made.normal.plan.loss_nats


@pytest.mark.parametrize("dtype", few([torch.bfloat16, torch.float16], torch.bfloat16))
def test_narrow_dtypes_stay_within_their_rounding(dtype: torch.dtype) -> None:
    made = family("llama", NEIGHBOURS["pivots"], dtype)
    ordered, normal = (gacfx.apply(made.model, each) for each in (made.ordered, made.normal))
    assert made.modules and apart(ordered, normal, "llama") < 0.02
    assert {each.dtype for each in ordered.parameters()} == {dtype}


@pytest.mark.parametrize("neighbour", few(NEIGHBOURS, "pair", "pivots"))
@pytest.mark.parametrize("name", few(["llama", "gpt2", "opt"], "gpt2"))
def test_graph_and_module_compute_the_very_same(name: str, neighbour: str) -> None:
    made = family(name, NEIGHBOURS[neighbour])
    graph = gacfx.apply(made.graph, made.ordered)
    module = export_model(gacfx.apply(made.model, made.ordered))
    assert apart(graph, module, name) == 0.0
    theirs = dict(module.named_parameters(remove_duplicate=False))
    assert all(torch.equal(each, theirs[name]) for name, each in graph.named_parameters())
    assert apart(made.graph, export_model(made.model), name) == 0.0  # left as it was


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_in_place_swapped_and_copied_are_one(name: str) -> None:
    made = fresh(name, DENSE)
    before = dict(made.model.named_parameters())
    modules = dict(made.model.named_modules())
    want = gacfx.apply(made.model, made.ordered)
    with swapped(made.model, made.ordered.factors):
        assert apart(made.model, want, name) == 0.0
    assert dict(made.model.named_modules()) == modules
    assert all(each is before[key] for key, each in made.model.named_parameters())
    gacfx.apply_(made.model, made.ordered)
    assert apart(made.model, want, name) == 0.0
    with pytest.raises(gacfx.GacError):
        gacfx.apply_(made.model, made.ordered)


def test_training_and_gradients_are_kept() -> None:
    made = fresh("opt", DENSE)
    first = "model.decoder.layers.0.fc1"
    made.model.get_submodule(first).requires_grad_(False)
    layer = gacfx.apply(made.model, made.ordered).get_submodule(first)
    assert type(layer) is nn.Linear and not layer.training
    assert not layer.weight.requires_grad and not layer.bias.requires_grad


class Three(nn.Module):
    """Three layers one after the other, so that the one in the middle is on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(24, 48), nn.Linear(48, 40), nn.Linear(40, 24), nn.Linear(24, 5)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, 24] -> [B, S, 5]."""
        for layer in self.layers:
            x = layer(x).tanh()
        return x


@pytest.mark.parametrize("ranks", [(8, 16, 4), (16, 20, 2), (39, 8, 1)])
def test_layers_in_a_row_are_put_in_order_together(ranks: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model, x = Three().double(), torch.randn(3, 17, 24).double()
    asked = dict(zip(("layers.1", "layers.2", "layers.3"), map(Pivot, ranks), strict=True))
    made = Made(model, lambda name: asked.get(name, DENSE), 1, x=x)
    assert made.modules == [*asked]
    normal, ordered = (gacfx.apply(model, each) for each in (made.normal, made.ordered))
    torch.testing.assert_close(ordered(x), normal(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gacfx.apply(made.graph, made.ordered)(x), ordered(x), rtol=0, atol=0)


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_a_plan_folder_brings_it_back(neighbour: str, tmp_path: Path) -> None:
    made = family("gpt2", NEIGHBOURS[neighbour])
    made.ordered.save(tmp_path)
    again = Planned.load(tmp_path)
    assert again.plan == made.ordered.plan
    assert apart(gacfx.apply(made.model, again), gacfx.apply(made.model, made.ordered), "gpt2") == 0


def test_it_runs_less_and_stores_as_much() -> None:
    rows, columns, rank = 40, 88, 24
    normal, ordered = Pivot(rank), PivotInOrder(rank)
    assert ordered.params(rows, columns) == normal.params(rows, columns)
    assert [type(step).__name__ for step in ordered.work(rows, columns, True)] == [
        "Gemm",
        "Copy",
        "Gemm",
    ]
    stored = ordered.tensors(rows, columns).values()
    assert sum(each.shape[0] * each.shape[1] for each in stored) == ordered.params(rows, columns)
    assert ordered.sizes(rows, columns) == (24, 64) and ordered.label == normal.label
    assert ordered.offers(rows, columns, 8)[0] == ()


def test_by_itself_it_cannot_be_made() -> None:
    with pytest.raises(DecompositionFailed, match="together with the layers before it"):
        Svd.of(torch.randn(8, 16)).factors(PivotInOrder(4))


# -- left alone ------------------------------------------------------------------------------------


def test_sizes_that_would_not_be_aligned_are_left_alone() -> None:
    assert family("llama", align=8).modules
    assert not family("llama", align=16).modules  # 88 - 24 = 64, and 24 is no multiple


def test_only_pivots_are_put_in_order() -> None:
    assert not Made(model_of("llama"), lambda _: LowRank(8)).modules
    assert not Made(model_of("llama"), lambda _: DENSE).modules


def test_neighbours_that_are_not_planned_are_left_alone() -> None:
    made = fresh("llama")
    name = "model.layers.0.mlp.gate_proj"
    fewer = tuple(choice for choice in made.normal.plan.choices if choice.group != name)
    factors = {n: f for n, f in made.normal.factors.items() if n != name}
    made.normal = Planned(replace(made.normal.plan, choices=fewer), factors)
    made.ordered = made.put_in_order()
    assert made.modules == ["model.layers.1.mlp.down_proj"]


@pytest.mark.parametrize("where", ["mlp.act_fn", "mlp", "mlp.up_proj"])
def test_whoever_listens_sees_channels_as_they_were(where: str) -> None:
    made = fresh("llama", DENSE)
    made.model.get_submodule(f"model.layers.0.{where}").register_forward_hook(lambda *_: None)
    made.ordered = made.put_in_order()
    assert made.modules == ["model.layers.1.mlp.down_proj"]


def test_pivots_that_cannot_be_made_of_the_inputs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fresh("llama")

    def fail(*_: object, **__: object) -> Mapping[str, Tensor]:
        raise DecompositionFailed("x", "no")

    monkeypatch.setattr("gacfx.modules.in_order.with_pivots", fail)
    made.ordered = made.put_in_order()
    assert made.ordered.plan == made.normal.plan and made.ordered.factors == made.normal.factors


def test_a_kind_that_cannot_reorder_its_outputs_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = fresh("llama", NEIGHBOURS["pair"])
    monkeypatch.setattr(
        "gacfx.modules.low_rank.LowRankLinear.reordered", lambda *_: None, raising=True
    )
    made.ordered = made.put_in_order()
    assert made.ordered.plan == made.normal.plan


# -- what anybody may have written -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "match"),
    [
        (torch.zeros(6, dtype=torch.int32), "every output must be there once"),
        (torch.tensor([0, 1, 2, 3, 4, 6], dtype=torch.int32), "every output must be there once"),
        (torch.tensor([-1, 1, 2, 3, 4, 5], dtype=torch.int32), "every output must be there once"),
        (torch.arange(5, dtype=torch.int32), r"must be torch.int32 of shape \(6,\)"),
        (torch.arange(6), "must be torch.int32"),
        (torch.arange(6.0), "must be torch.int32"),
        (None, "nothing is done to a dense weight"),
    ],
)
def test_what_is_no_order_is_refused(order: Tensor | None, match: str) -> None:
    with pytest.raises(PlanError, match=match):
        Factors(DENSE, 6, 4, {}, order)


def test_an_order_of_what_the_plan_does_not_have_is_refused() -> None:
    made = family("llama", DENSE)
    other = Factors(DENSE, 6, 4, {}, torch.arange(6, dtype=torch.int32))
    with pytest.raises(PlanError, match="elsewhere: is in the factors but not in the plan"):
        check_factors(made.ordered.plan, {**made.ordered.factors, "elsewhere": other})
    name = "model.layers.0.mlp.gate_proj"
    with pytest.raises(PlanError, match="gate_proj: the plan says dense of 88 x 48"):
        check_factors(made.ordered.plan, {**made.ordered.factors, name: other})


def _rewritten(folder: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> None:
    """The factors of a plan folder, changed by hand."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(folder / FACTORS_FILE, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata())
    said = json.loads(metadata["decisions"])
    change(tensors, said)
    metadata["decisions"] = json.dumps(said)
    save_file(tensors, folder / FACTORS_FILE, metadata=metadata)


GATE = "model.layers.0.mlp.gate_proj"
ORDER = f"{GATE}.outputs:order"


def _no_permutation(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
    tensors[ORDER][3] = tensors[ORDER][4]


def _missing(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
    del tensors[ORDER]


def _unsaid(_: dict[str, Tensor], said: dict[str, Any]) -> None:
    del said[GATE]["reordered"]


def _unknown(tensors: dict[str, Tensor], said: dict[str, Any]) -> None:
    tensors["model.nowhere.outputs:order"] = tensors.pop(ORDER)
    said["model.nowhere"] = said.pop(GATE)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (_no_permutation, PlanError, "every output must be there once"),
        (_missing, CheckpointError, "gate_proj.outputs:order is missing"),
        (_unsaid, CheckpointError, "gate_proj.outputs:order belongs to no decision"),
        (_unknown, PlanError, "model.nowhere: is in the factors but not in the plan"),
    ],
)
def test_a_hostile_folder_is_refused(
    change: Callable[..., None], error: type[GacError], match: str, tmp_path: Path
) -> None:
    family("llama", DENSE).ordered.save(tmp_path)
    Planned.load(tmp_path)
    _rewritten(tmp_path, change)
    with pytest.raises(error, match=match):
        Planned.load(tmp_path)


def test_a_layer_with_hooks_is_not_reordered_over_them() -> None:
    made = family("llama", DENSE)
    model = copy.deepcopy(made.model)
    model.get_submodule(GATE).register_forward_hook(lambda *_: None)
    with pytest.raises(UnsupportedModel, match="has hooks, which would be lost"):
        gacfx.apply_(model, made.ordered)
    assert apart(model, made.model, "llama") == 0.0
