"""Normalisations: operators that do the same and have their arguments in different places."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gacfx.coupling.analyse import couple
from tests.unit.coupling.test_coupling_rules import Body, analyse, export, reasons, told

aten = torch.ops.aten


@pytest.mark.parametrize(
    "norm",
    [
        lambda x, w: F.layer_norm(x, (4,), w["scale"], w["shift"], 1e-5),
        lambda x, w: aten.native_layer_norm(x, [4], w["scale"], w["shift"], 1e-5)[0],
        lambda x, w: F.rms_norm(x, (4,), w["scale"], 1e-6) + w["shift"],
        lambda x, w: aten._fused_rms_norm(x, [4], w["scale"], 1e-6)[0] + w["shift"],
        lambda x, w: nn.RMSNorm(4, elementwise_affine=False)(x) * w["scale"] + w["shift"],
    ],
)
def test_scale_and_shift_lie_along_the_channels(
    norm: Callable[[Tensor, dict[str, Tensor]], Tensor],
) -> None:
    def body(w: dict[str, Tensor], x: Tensor) -> Tensor:
        return norm(F.embedding(x, w["table"]), w) @ w["out"]

    dims = analyse(body, table=(11, 4), scale=(4,), shift=(4,), out=(4, 6))
    assert told(dims) == "table: d0[11!] | d1[4], scale: d1[4], shift: d1[4], out: d1[4] | d2[6]"
    assert dims.notes == ()


def test_what_goes_beside_a_normalised_tensor_has_its_other_axes() -> None:
    def body(w: dict[str, Tensor], x: Tensor) -> Tensor:
        _, mean, deviation = aten.native_layer_norm(w["a"], [6], None, None, 1e-5)
        out: Tensor = (mean + deviation) * w["b"]
        return out

    dims = analyse(body, a=(4, 6), b=(4, 7))
    assert (told(dims), dims.notes) == ("a: d0[4] | d1[6], b: d0[4] | d2[7]", ())


@pytest.mark.parametrize(
    "body",
    [
        lambda w, x: F.batch_norm(w["x"], None, None, w["scale"], w["shift"], training=True),
        lambda w, x: F.batch_norm(
            w["x"], w["mean"].detach(), w["mean"].exp().detach(), w["scale"], w["shift"]
        ),
        lambda w, x: F.instance_norm(w["x"], None, None, w["scale"], w["shift"]),
    ],
)
def test_channels_that_are_normalised_each_by_itself_stay_free(body: Body) -> None:
    dims = analyse(body, x=(3, 8, 5), scale=(8,), shift=(8,), mean=(8,))
    assert told(dims).startswith("x: d0[3] | d1[8] | d2[5], scale: d1[8], shift: d1[8]")
    assert dims.notes == ()


def test_channels_that_are_normalised_in_groups_stay() -> None:
    dims = analyse(
        lambda w, x: F.group_norm(w["x"], 2, w["scale"], w["shift"]),
        x=(3, 8, 5),
        scale=(8,),
        shift=(8,),
    )
    assert told(dims) == "x: d0[3] | d1[8!] | d2[5], scale: d1[8!], shift: d1[8!]"
    assert reasons(dims) == ["", "normalised in 2 groups", ""]


def test_statistics_of_a_module_freeze_its_channels() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.norm = nn.Conv1d(4, 8, 1), nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(self.up(x)).sum()
            return y

    dims = couple(export(Normalised().eval(), torch.zeros(3, 4, 5)))
    (frozen,) = {dim.frozen for dim in dims.dims if dim.size == 8}
    assert frozen.startswith("buffer norm.running_")
    assert dims.notes == ()
