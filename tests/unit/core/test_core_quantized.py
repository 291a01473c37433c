"""Weights that are no plain tensors, by a class that torch itself has; torchao's own are tried in
tests/unit/compose."""

from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

import gacfx
from gacfx import api
from gacfx.calibration import running
from gacfx.core.finite import not_finite
from gacfx.core.placed import placed_on
from gacfx.core.quantized import held_otherwise, held_text, parts_of
from gacfx.errors import CheckpointError, UnsupportedModel
from gacfx.report.tables import inspection_view
from tests import tiny

UP = "model.layers.1.mlp.up_proj"


def doubled() -> Any:
    """A Llama with one weight that is two tensors."""
    model = tiny.llama()
    model.get_submodule(UP).weight = nn.Parameter(two(model.get_submodule(UP).weight.detach()))
    return model


def two(tensor: Tensor) -> Tensor:
    made: Tensor = TwoTensor(tensor, tensor.clone())
    return made


def test_plain_models_hold_plain_weights() -> None:
    assert held_otherwise(tiny.llama()) == {} and held_text(tiny.llama()) == ""


def test_the_weight_and_its_class_are_named() -> None:
    assert held_otherwise(doubled()) == {f"{UP}.weight": "TwoTensor of torch"}
    assert held_text(doubled()) == "1 of 21 as TwoTensor of torch"


def test_tensors_in_tensors_are_taken_apart() -> None:
    plain = torch.ones(2)
    assert list(parts_of(plain)) == [plain]
    inside = list(parts_of(two(two(plain))))
    assert len(inside) == 4 and {type(each) for each in inside} == {Tensor}


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_a_part_that_is_not_finite_is_found(spoilt: float) -> None:
    model = doubled()
    assert not_finite(model) is None
    model.get_submodule(UP).weight.b[3, 3] = spoilt
    assert not_finite(model) == f"{UP}.weight"


def test_such_a_model_is_refused_by_every_door_that_changes_weights() -> None:
    model = doubled()
    planned = api.plan(tiny.llama(), tiny.tokenizer(), calibration=tiny.texts(), ratio="0.2")
    for door in (
        lambda: api.plan(model, tiny.tokenizer(), calibration=tiny.texts()),
        lambda: api.compress(model, tiny.tokenizer(), calibration=tiny.texts()),
        lambda: gacfx.apply(model, planned),
        lambda: gacfx.pad_(model),
    ):
        with pytest.raises(CheckpointError, match=f"^{UP}.weight: is no plain tensor, but TwoTens"):
            door()


def test_it_computes_in_its_own_dtype_and_stays_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "multiplies_bfloat16", lambda: False)
    plain, model = tiny.llama().bfloat16(), doubled().bfloat16()
    assert running.computing_dtype(plain) is torch.float32
    assert running.computing_dtype(model) is None
    weights = list(model.parameters())
    with placed_on(weights, None):
        pass
    refused = pytest.raises(UnsupportedModel, match="holds TwoTensor of torch, which cannot be so")
    with refused, placed_on(weights, torch.device("cpu")):
        raise AssertionError("not reached")


def test_it_is_inspected_as_what_it_stands_for() -> None:
    seen, plain = gacfx.inspect(doubled()), gacfx.inspect(tiny.llama())
    assert seen.rows == plain.rows and seen.params == plain.params
    assert (plain.stored, seen.stored) == ("", "1 of 21 as TwoTensor of torch")
    assert seen.to_dict()["stored"] == seen.stored
    line = "quantized (1 of 21 as TwoTensor of torch): what follows is for fp32"
    assert line in shown(seen) and "quantized" not in shown(plain)
    assert all(parameter.is_meta for parameter in seen.graph.parameters())


def shown(seen: Any) -> str:
    console = Console(width=120)
    with console.capture() as found:
        console.print(inspection_view(seen))
    return found.get()


def test_inputs_of_ones_own_are_met_by_a_graph_without_values() -> None:
    from gacfx.tracing.export import export_model

    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)).eval()
    first: Any = model[0]
    first.weight = nn.Parameter(two(first.weight.detach()))
    gm = export_model(model, {"input": torch.ones(2, 5)})
    assert {tuple(p.shape) for p in gm.parameters()} == {(7, 5), (7,), (3, 7), (3,)}
