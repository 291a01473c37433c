"""The formats of benchmarks/equal_bytes.py: bytes counted by hand, and torchao's own numbers."""

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.equal_bytes import PLANS, searches
from benchmarks.rounding import BF16, INT4, INT8, Format, store_
from tests.unit.compose import compressed

FORMATS = (INT8, *INT4)


@pytest.mark.parametrize(
    ("form", "nbytes"),
    [
        (BF16, 2 * 6 * 100),
        (INT8, 600 + 2 * 6),
        (INT4[0], 300 + 2 * 6 * 4),  # groups of 32, 32, 32 and 4
        (INT4[1], 300 + 2 * 6 * 2),
        (INT4[2], 300 + 2 * 6 * 1),
    ],
    ids=lambda each: getattr(each, "name", None),
)
def test_scales_are_counted(form: Format, nbytes: int) -> None:
    assert form.nbytes(6, 100) == nbytes
    assert form.nbytes(6, 0) == 0


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@pytest.mark.parametrize("columns", [100, 256])
def test_numbers_move_by_half_a_step_of_their_group_at_most(form: Format, columns: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, columns)
    found = form.rounded(weight)
    group = form.group or columns
    for at in range(0, columns, group):
        part, was = found[:, at : at + group], weight[:, at : at + group]
        step = was.abs().amax(1, keepdim=True) / (2 ** (form.bits - 1) - 0.5)
        # The scale itself is rounded, to 8 bits.
        assert bool(((part - was).abs() <= 0.5 * step + was.abs() / 2**8).all())
    assert found.shape == weight.shape and not torch.equal(found, weight)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_they_are_those_of_torchao_to_the_last_bit(form: Format) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed: make test-quant")
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup

    torch.manual_seed(0)
    layer = nn.Linear(256, 60, bias=False)
    wanted = form.rounded(layer.weight.detach())
    setting = IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{form.bits}"),
        granularity=PerGroup(form.group) if form.group else PerAxis(0),
        scale_dtype=torch.bfloat16,
    )
    quantize_(layer, setting)
    assert torch.equal(layer.weight.dequantize(), wanted)


def test_zeros_stay_zeros() -> None:
    assert not INT4[0].rounded(torch.zeros(3, 40)).any()


def test_every_weight_in_the_place_of_a_linear_is_stored_and_counted() -> None:
    dense, model = compressed.dense(), compressed.small()
    names, before = list(compressed.linears(dense)), model.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    nbytes = store_(model, names, INT8)
    inside: list[Any] = [m.weight for m in compressed.linears(model).values()]
    orders = [v for n, v in before.items() if n.endswith(".order")]
    assert len(orders) == 2
    assert nbytes == sum(w.numel() + 2 * w.shape[0] for w in inside) + 4 * sum(map(len, orders))
    assert len(inside) == 18
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {f"{name}.weight" for name in compressed.linears(model)}


def test_dense_weights_of_a_model_take_their_share() -> None:
    model = compressed.dense()
    linears = compressed.linears(model)
    whole = sum(m.weight.numel() for m in linears.values())
    assert store_(model, linears, BF16) == 2 * whole


def test_every_plan_of_the_table_has_its_search() -> None:
    found = searches("two-sided")
    assert tuple(found) == PLANS and len(set(map(str, found.values()))) == len(PLANS)
