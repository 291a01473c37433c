"""PivotLinear: the product of the pair in fewer parameters, on either side of the weight."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from gacfx.core.decision import LowRank, Pivot
from gacfx.core.materialise import Factors
from gacfx.errors import DecompositionFailed
from gacfx.modules.carrier import NOTICE
from gacfx.modules.install import compressed_modules, install_
from gacfx.modules.make import make_factors
from gacfx.modules.pivot import PivotLinear, eliminated
from tests.svd import Svd
from tests.unit.checkpoint.tiny_models import factors_for, qwen2, token_ids

# O outputs, D inputs, R rank

WIDE, TALL, SQUARE = (20, 31, 7), (31, 20, 7), (24, 24, 8)
SHAPES = (WIDE, TALL, SQUARE, (5, 2, 1), (2, 5, 1), (64, 48, 47))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@dataclass(frozen=True, eq=False)
class Pair:
    """A weight of low rank, given by its factors."""

    up_OR: Tensor
    down_RD: Tensor
    module: str = "layers.0.q"

    @property
    def weight_MN(self) -> Tensor:  # noqa: N802 - shape suffix
        return self.up_OR @ self.down_RD

    def pair(self, rank: int) -> tuple[Tensor, Tensor]:
        assert rank == self.up_OR.shape[1]
        return self.up_OR, self.down_RD


def pair(rows: int, columns: int, rank: int) -> Pair:
    return Pair(torch.randn(rows, rank).double(), torch.randn(rank, columns).double())


def pivots(source: Pair, dtype: torch.dtype = torch.float64) -> Factors:
    rows, columns = source.weight_MN.shape
    return make_factors(source, Pivot(source.up_OR.shape[1]), rows, columns, dtype)


def layer_of(
    shape: tuple[int, int, int], bias: bool = False, dtype: torch.dtype = torch.float64
) -> tuple[PivotLinear, Tensor, nn.Parameter | None]:
    """The layer, and the weight and bias that it stands for."""
    source = pair(*shape)
    own = nn.Parameter(torch.randn(shape[0], dtype=dtype)) if bias else None
    return PivotLinear.holding(pivots(source, dtype), own), source.weight_MN, own


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_multiplies_by_the_weight_and_adds_the_bias(
    shape: tuple[int, int, int], bias: bool
) -> None:
    layer, weight, own = layer_of(shape, bias)
    for leading in ((), (5,), (2, 3), (2, 1, 3), (0,), (2, 0)):
        x = torch.randn(*leading, shape[1]).double()
        want = nn.functional.linear(x, weight, own)
        torch.testing.assert_close(layer(x), want, rtol=1e-10, atol=1e-10)
    assert layer.bias is own
    assert layer.decision == Pivot(shape[2])


@pytest.mark.parametrize("shape", SHAPES)
def test_it_has_as_many_parameters_as_its_decision_says(shape: tuple[int, int, int]) -> None:
    rows, columns, rank = shape
    layer, *_ = layer_of(shape)
    kept = sum(parameter.numel() for parameter in layer.parameters())
    assert kept == Pivot(rank).params(rows, columns) == rank * (rows + columns - rank)
    assert kept < rank * (rows + columns)


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 0.004)]
)
@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_narrow_dtypes_are_as_good_as_the_pair_in_them(
    shape: tuple[int, int, int], dtype: torch.dtype, most: float
) -> None:
    layer, weight, _ = layer_of(shape, dtype=dtype)
    x = torch.randn(50, shape[1]).double()
    want = x @ weight.T
    error = (layer(x.to(dtype)).double() - want).norm() / want.norm()
    assert error < most
    assert layer.order.dtype == torch.int32


def test_children_are_plain_linears_and_the_state_has_guard_and_order() -> None:
    for shape, product, coefficients, order, bias in (
        (WIDE, (7, 31), (13, 7), 20, "bias"),
        (TALL, (31, 7), (7, 13), 20, "product.bias"),
    ):
        layer, *_ = layer_of(shape, bias=True)
        assert type(layer.product) is type(layer.coefficients) is nn.Linear
        assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == {
            "weight": (0,),
            NOTICE: (0,),
            "order": (order,),
            "product.weight": product,
            "coefficients.weight": coefficients,
            bias: (shape[0],),
        }
        assert "bias=True, for LoRA take target_modules=" in repr(layer)


@pytest.mark.parametrize("shape", [(400, 128, 96), (128, 400, 96), (256, 256, 200)])
def test_coefficients_stay_small(shape: tuple[int, int, int]) -> None:
    source = pair(*shape)
    assert pivots(source).tensors["coefficients"].abs().max() < 5
    scaled = Pair(source.up_OR * torch.logspace(0, -9, shape[2]), source.down_RD)
    assert pivots(scaled).tensors["coefficients"].abs().max() < 5
    side_SR = source.up_OR if shape[0] <= shape[1] else source.down_RD.T
    worst = 0.0
    for _ in range(30):  # pivots of chance
        mixed_SR = side_SR[torch.randperm(len(side_SR))]
        chance = torch.linalg.solve(mixed_SR[: shape[2]], mixed_SR[shape[2] :], left=False)
        worst = max(worst, float(chance.abs().max()))
    assert worst > 50


def test_elimination_expresses_the_rest_by_the_pivots() -> None:
    side_SR = torch.randn(30, 11).double()
    chosen_R, rest_Q, coefficients_QR = eliminated(side_SR)
    assert sorted([*chosen_R.tolist(), *rest_Q.tolist()]) == list(range(30))
    torch.testing.assert_close(coefficients_QR @ side_SR[chosen_R], side_SR[rest_Q])


@pytest.mark.parametrize("shape", [WIDE, TALL])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_weight_of_lower_rank_has_pivots_as_well(shape: tuple[int, int, int], rank: int) -> None:
    rows, columns, asked = shape
    up = torch.randn(rows, rank).double() @ torch.randn(rank, asked).double()
    down = torch.randn(asked, rank).double() @ torch.randn(rank, columns).double()
    source = Pair(up, down)
    made = pivots(source)
    x = torch.randn(9, columns).double()
    torch.testing.assert_close(PivotLinear.holding(made)(x), x @ source.weight_MN.T)


@pytest.mark.parametrize("tall", [False, True])
def test_coefficients_that_grow_are_refused_in_one_line(tall: bool) -> None:
    # The matrix for which partial pivoting is at its worst (Wilkinson): the growth doubles.
    rank = 12
    lower = torch.eye(rank) - torch.ones(rank, rank).tril(-1)
    side_SR = torch.cat([lower, torch.ones(5, rank)]).double()
    other_RL = torch.randn(rank, 40).double()
    source = Pair(other_RL.T, side_SR.T) if tall else Pair(side_SR, other_RL)
    with pytest.raises(DecompositionFailed) as caught:
        pivots(source)
    assert caught.value.module == "layers.0.q"
    assert caught.value.reason.startswith("pivot 12: its largest coefficient is 2.0e+03, over 100")


def test_nan_is_refused_in_one_line() -> None:
    source = pair(*WIDE)
    source.up_OR[3, 2] = torch.nan
    with pytest.raises(DecompositionFailed, match="layers.0.q: pivot 7: "):
        pivots(source)


def test_what_leaves_the_dtype_is_refused() -> None:
    source = Pair(torch.randn(20, 7).double() * 1e4, torch.randn(7, 31).double() * 1e3)
    pivots(source, torch.bfloat16)
    with pytest.raises(DecompositionFailed, match=r"factors of pivot 7 overflow torch\.float16"):
        pivots(source, torch.float16)


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_casts_and_copies_keep_the_order(shape: tuple[int, int, int]) -> None:
    layer, *_ = layer_of(shape, dtype=torch.float32)
    order = layer.order.clone()
    for made in (
        copy.deepcopy(layer).half(),
        copy.deepcopy(layer).bfloat16(),
        copy.deepcopy(layer).to(torch.float64),
        copy.deepcopy(layer),
    ):
        assert made.order.dtype == torch.int32 and torch.equal(made.order, order)
        assert made.product.weight is not layer.product.weight


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_its_state_loads_into_an_empty_one(shape: tuple[int, int, int]) -> None:
    layer, *_ = layer_of(shape, bias=True, dtype=torch.float32)
    bias = nn.Parameter(torch.zeros(shape[0]))
    rows, columns, rank = shape
    empty = PivotLinear.empty(Pivot(rank), rows, columns, bias, device="cpu", dtype=torch.float32)
    state = {name: value for name, value in layer.state_dict().items() if name != NOTICE}
    empty.load_state_dict(state)
    x = torch.randn(4, columns)
    assert torch.equal(empty(x), layer(x)) and empty.bias is bias
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        nn.Linear(columns, rows).load_state_dict(layer.state_dict(), strict=False)


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_gradients_reach_everything(shape: tuple[int, int, int]) -> None:
    layer, *_ = layer_of(shape, bias=True)
    x = torch.randn(4, shape[1], dtype=torch.float64, requires_grad=True)
    layer(x).square().sum().backward()
    for value in (x, *layer.parameters()):
        assert value.grad is not None and bool((value.grad != 0).any())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_it_compiles_whole_and_maps(shape: tuple[int, int, int], backend: str) -> None:
    layer, *_ = layer_of(shape, bias=True, dtype=torch.float32)
    x = torch.randn(3, 4, shape[1])
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    with torch.no_grad():
        assert torch.equal(compiled(x), layer(x))
        torch.testing.assert_close(torch.vmap(layer)(x), layer(x))


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (WIDE, ["linear", "linear", "cat", "index_select", "add"]),
        (TALL, ["index_select", "split_with_sizes", "linear", "add", "linear"]),
    ],
)
def test_it_exports_as_what_it_emits(shape: tuple[int, int, int], wanted: list[str]) -> None:
    layer, *_ = layer_of(shape, bias=True)
    x = torch.randn(5, shape[1]).double()
    graph = torch.export.export(layer, (x,), strict=False).graph
    calls = [str(n.target).split(".")[1] for n in graph.nodes if "aten" in str(n.target)]
    assert calls == wanted


def test_of_the_same_rank_it_is_the_pair() -> None:
    source = Svd.of(torch.randn(24, 40))
    x = torch.randn(6, 40).double()
    made = [source.factors(decision) for decision in (Pivot(9), LowRank(9))]
    up, down = source.pair(9)
    torch.testing.assert_close(PivotLinear.holding(made[0])(x), x @ (up @ down).T)
    low = made[1].tensors
    torch.testing.assert_close(low["up"] @ low["down"], up @ down)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("targets", [["product", "coefficients"], "all-linear"])
def test_lora_goes_on_both_halves(targets: list[str] | str) -> None:
    peft = pytest.importorskip("peft", reason="LoRA needs peft")
    model = qwen2()
    install_(model, factors_for(model, ("q_proj", "up_proj"), kind=Pivot))
    want = model(token_ids()).logits
    lora = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, r=2))
    adapted = {name.rpartition(".")[2] for name in lora.targeted_module_names}
    assert {"product", "coefficients"} <= adapted
    assert torch.equal(lora(token_ids()).logits, want)
    lora(token_ids(), labels=token_ids()).loss.backward()
    found = [p.grad for name, p in lora.named_parameters() if "lora_B" in name]
    assert found and all(grad is not None and bool((grad != 0).any()) for grad in found)
    merged = lora.merge_and_unload()
    assert len(compressed_modules(merged)) == 4
    torch.testing.assert_close(merged(token_ids()).logits, want)


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_a_product_that_is_not_the_pairs_is_refused(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(side_SR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chosen_R, rest_Q, coefficients_QR = eliminated(side_SR)
        return chosen_R, rest_Q, coefficients_QR.float().double()

    monkeypatch.setattr("gacfx.modules.pivot.eliminated", careless)
    with pytest.raises(DecompositionFailed, match=r"its product is .*e-0\d away from that of"):
        pivots(pair(*shape))
