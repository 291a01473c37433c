"""NaN and infinity are found in every dtype, 8-bit floats too."""

import pytest
import torch
from torch import nn

from gacfx.calibration.targets import check_finite
from gacfx.core.finite import not_finite
from gacfx.errors import CalibrationError

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)


def pair(value: float, dtype: torch.dtype) -> nn.Sequential:
    """Two layers without biases; the second one holds the value once."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    values = torch.tensor([[1.0, 2.0], [3.0, value]]).to(dtype)
    model[1].weight = nn.Parameter(values, requires_grad=False)
    return model


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_weight_that_is_no_number_is_named(dtype: torch.dtype) -> None:
    assert not_finite(pair(1.0, dtype)) is None
    check_finite(pair(1.0, dtype))
    assert not_finite(pair(float("nan"), dtype)) == "1.weight"
    with pytest.raises(CalibrationError, match=r"1: NaN or infinite values in 1\.weight"):
        check_finite(pair(float("nan"), dtype))


def test_integers_and_weights_without_values_are_passed_over() -> None:
    model = pair(1.0, torch.float32)
    model[0].weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    model[1].to("meta")
    assert not_finite(model) is None
