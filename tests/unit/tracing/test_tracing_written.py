"""A forward that writes into its weights is refused: every run of the graph would do it again."""

import pytest
import torch
from torch import Tensor, nn

from gacfx.errors import CaptureError
from gacfx.tracing.export import export_model


class Divides(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.register_buffer("seen", torch.zeros(6))
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "weight":
            self.linear.weight.div_(2)
        elif self.what == "view":
            self.linear.weight[:2].transpose(0, 1).mul_(2)
        elif self.what == "own":
            x = x.clone().div_(2)
        made: Tensor = self.linear(x)
        return made


@pytest.mark.parametrize("what", ["weight", "view"])
def test_a_weight_that_is_written(what: str) -> None:
    model = Divides(what).eval().requires_grad_(False)
    with pytest.raises(CaptureError, match=r"Divides: its forward writes into linear\.weight"):
        export_model(model, {"x": torch.ones(3, 6)})


@pytest.mark.parametrize("what", ["own", "nothing"])
def test_what_is_not_of_the_model_may_be_written(what: str) -> None:
    model, x = Divides(what).eval(), torch.ones(3, 6)
    assert torch.equal(export_model(model, {"x": x})(x=x), model(x))
